"""Training of one SAE, or of many on the same data."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from sae.base import SAE
from sae.batches import Batches
from sae.checks import check, check_finite, check_generator
from sae.config import TrainConfig
from sae.ensemble import Ensemble
from sae.evaluation import HeldOut, Sampler, World
from sae.history import History, TrainingStopped, TrainResult
from sae.member import COEFFICIENTS, NotFinite, coefficient_name

__all__ = ["History", "Sampler", "TrainResult", "TrainingStopped", "World", "train"]


def train(
    saes: SAE | Sequence[SAE],
    sample: World | Sampler,
    config: TrainConfig,
    *,
    generator: torch.Generator,
    held_out: HeldOut | None = None,
    engine: str = "auto",
) -> TrainResult:
    """Returns trained copies of one SAE or of an ensemble; the arguments are not changed.

    Every member sees the same batches, and member i ends as if it had been trained alone from the
    same generator state (on a CPU bit for bit, unless engine="stacked" is asked for). b_dec starts
    at the geometric median of the first batch; after each step the rows of W_dec have norm 1, and
    their gradient has no part along them. Long runs show their progress if stderr is a terminal.

    Args:
        saes: one SAE, or several of any architecture, settings, width and dtype for the same
            d_in; learning rates and l0 targets may differ by `config`.
        sample: a ToyModel, or a callable (n, *, generator) -> x [n, d_in], which is converted to
            each member's dtype. Where torch has several threads, another one than the caller's may
            draw, one batch at a time, before the steps that come first are taken.
        config: see `TrainConfig`.
        generator: draws the batches, and nothing else.
        held_out: samples on which each record evaluates the members; None for no evaluation.
        engine: a name in `engines()`, or "auto" for the fastest that can train each member. Each
            takes the same steps on the same batches, up to rounding.
    Raises:
        ValueError: members that hold NaN or infinity, or do not fit the data, the engine or what
            the config asks for.
        TrainingStopped: a batch, a loss or weights with NaN or infinity; a ValueError that holds
            the last good weights.
    """
    rule, todo = "a TrainConfig", "pass TrainConfig(n_steps, batch_size)"
    check(isinstance(config, TrainConfig), "train", rule, todo, config=config)
    originals = tuple(saes) if isinstance(saes, Iterable) else (saes,)
    _check_members(originals, config)
    check_generator("train", generator, originals[0].W_dec.device)
    for i, sae in enumerate(originals):
        check_finite("train", **{f"member_{i}.{name}": v for name, v in sae.state_dict().items()})
    _check_held_out(held_out, config, generator)
    n = len(originals)
    batches = Batches(sample, config.batch_size, originals[0], generator=generator)
    lrs, targets = (_one_each(name, getattr(config, name), n) for name in ("lr", "target_l0"))
    run = Ensemble(originals, batches, config, lrs=lrs, targets=targets, engine=engine)
    try:
        run.to_the_end(held_out)
    except NotFinite as error:
        raise TrainingStopped(str(error), run.result()) from None
    return run.result()


def _check_members(saes: tuple[SAE, ...], config: TrainConfig) -> None:
    check(len(saes) >= 1, "train", "at least one SAE", n_members=0)
    first = saes[0]
    for i, sae in enumerate(saes):
        got, todo = {f"member_{i}": type(sae).__name__}, "call train(saes, sample, config)"
        check(isinstance(sae, SAE), "train", "an SAE, or several of them", todo, **got)
        kind, want = (sae.d_in, str(sae.W_dec.device)), (first.d_in, str(first.W_dec.device))
        rule = f"members of one d_in and device, as member 0: {want}"
        todo = "train the others in a call of their own"
        check(kind == want, "train", rule, todo, **{f"member_{i}": kind})
        name = coefficient_name(sae)
        rule = f"SAEs with a sparsity coefficient ({' or '.join(COEFFICIENTS)})"
        if config.sparsity_warmup > 0:
            check(name != "", "train", f"{rule} for sparsity_warmup", **got)
        if _one_each("target_l0", config.target_l0, len(saes))[i] is not None:
            check(
                name != "" and getattr(sae, name) > 0, "train", f"{rule} > 0 for target_l0", **got
            )
        if config.k_annealing > 0:
            check(hasattr(sae, "k"), "train", "SAEs with a k for k_annealing", **got)


def _one_each(name: str, values: Any, n: int) -> tuple[Any, ...]:
    if not isinstance(values, tuple):
        return (values,) * n
    what = {"lr": "learning rate"}.get(name, name)
    rule = f"one {what}, or one for each of the {n} SAEs"
    check(len(values) == n, "train", rule, **{name: values})
    return values


def _check_held_out(
    held_out: HeldOut | None, config: TrainConfig, generator: torch.Generator
) -> None:
    if held_out is None:
        never = config.stop_after == torch.inf
        check(never, "train", "held_out samples for stop_after", stop_after=config.stop_after)
        return
    rule, todo = "a HeldOut", "pass HeldOut(sample, n, generator)"
    check(isinstance(held_out, HeldOut), "train", rule, todo, held_out=type(held_out).__name__)
    other = held_out.generator
    same = other is generator or torch.equal(other.get_state(), generator.get_state())
    rule = "held_out samples from a stream of their own"
    todo = 'give held_out another one, such as stream(seed, "eval")'
    check(not same, "train", rule, todo, **{"held_out.generator": "that of the batches"})
