"""Training of one SAE, or of many on the same data: the eager engine."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sae.base import SAE, Loss
from sae.checks import check, check_generator
from sae.config import TrainConfig
from sae.evaluation import HeldOut, Sampler, World, drawer
from sae.history import History, Row, TrainingStopped, TrainResult, history
from sae.member import COEFFICIENTS, Member, NotFinite, coefficient_name, not_finite

__all__ = ["History", "Sampler", "TrainResult", "TrainingStopped", "World", "train"]


def train(
    saes: SAE | Sequence[SAE],
    sample: World | Sampler,
    config: TrainConfig,
    *,
    generator: torch.Generator,
    held_out: HeldOut | None = None,
) -> TrainResult:
    """Returns trained copies of one SAE or of an ensemble; the arguments are not changed.

    Every member sees the same batches, and member i ends exactly (on the CPU, bit for bit) as if
    it had been trained alone from the same generator state. b_dec starts at the geometric median
    of the first batch; after each step the rows of W_dec have norm 1, and their gradient has no
    part along them. Long runs show their progress if stderr is a terminal.

    Args:
        saes: one SAE, or several of any architecture, settings, width and dtype for the same
            d_in; learning rates and l0 targets may differ by `config`.
        sample: a ToyModel, or a callable (n, *, generator) -> x [n, d_in], which is converted to
            each member's dtype.
        config: see `TrainConfig`.
        generator: draws the batches, and nothing else.
        held_out: samples on which each record evaluates the members; None for no evaluation.
    Raises:
        ValueError: members that do not fit the data or what the config asks for.
        TrainingStopped: a batch, a loss or weights with NaN or infinity; a ValueError that holds
            the last good weights.
    """
    originals = (saes,) if isinstance(saes, SAE) else tuple(saes)
    _check_members(originals, config)
    check_generator("train", generator, originals[0].W_dec.device)
    _check_held_out(held_out, config, generator)
    draw = drawer("train", sample)
    n = len(originals)
    rates, targets = _one_each("lr", config.lr, n), _one_each("target_l0", config.target_l0, n)
    members = [
        Member(i, sae, config, lr=rates[i], target_l0=targets[i], generator=generator)
        for i, sae in enumerate(originals)
    ]
    record_at = {
        round(i * (config.n_steps - 1) / max(1, config.n_records - 1))
        for i in range(config.n_records)
    }
    records: list[tuple[int, list[Row]]] = []
    try:
        for step in tqdm(range(config.n_steps), disable=None, delay=2, leave=False, unit="step"):
            x = draw(config.batch_size, generator=generator)[0]
            _check_batch(x, originals[0], config.batch_size, step)
            batches = {m.sae.W_dec.dtype: x.to(m.sae.W_dec.dtype) for m in members}
            if step == 0:
                for member in members:
                    member.centre_on(batches[member.sae.W_dec.dtype])
            live, rows = [m for m in members if not m.stopped], [Row({}, {}) for _ in members]
            if held_out is not None and step in record_at:
                for member in live:
                    rows[member.i].held_out.update(member.evaluate(held_out))
                live = [member for member in live if not member.stopped]
            losses = _step(live, batches)
            if step in record_at:
                for member, loss in zip(live, losses, strict=True):
                    row = member.record(batches[member.sae.W_dec.dtype], loss)
                    rows[member.i].batch.update(row)
                records.append((step * config.batch_size, rows))
            if not live:
                break
    except NotFinite as error:
        raise TrainingStopped(str(error), _result(members, records)) from None
    return _result(members, records)


def _step(members: list[Member], batches: dict[torch.dtype, Tensor]) -> list[Loss]:
    """Takes a step with all members, or with none of them if one fails."""
    try:
        losses = [member.step(batches[member.sae.W_dec.dtype]) for member in members]
    except NotFinite:
        for member in members:
            member.undo()
        raise
    for member, loss in zip(members, losses, strict=True):
        member.keep(loss)
    return losses


def _result(members: list[Member], records: list[tuple[int, list[Row]]]) -> TrainResult:
    trained = [member.n_steps * member.config.batch_size for member in members]
    coefficients = tuple(member.coefficient for member in members)
    saes = tuple(member.result() for member in members)
    return TrainResult(saes, history(records, trained), coefficients)


def _check_members(saes: tuple[SAE, ...], config: TrainConfig) -> None:
    check(len(saes) >= 1, "train", "at least one SAE", n_members=0)
    first = saes[0]
    for i, sae in enumerate(saes):
        kind, want = (sae.d_in, str(sae.W_dec.device)), (first.d_in, str(first.W_dec.device))
        rule = f"members of one d_in and device, as member 0: {want}"
        todo = "train the others in a call of their own"
        check(kind == want, "train", rule, todo, **{f"member_{i}": kind})
        name, got = coefficient_name(sae), {f"member_{i}": type(sae).__name__}
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
    other = held_out.generator
    same = other is generator or torch.equal(other.get_state(), generator.get_state())
    rule = "held_out samples from a stream of their own"
    todo = 'give held_out another one, such as stream(seed, "eval")'
    check(not same, "train", rule, todo, **{"held_out.generator": "that of the batches"})


def _check_batch(x: Tensor, sae: SAE, batch_size: int, step: int) -> None:
    want, device = (batch_size, sae.d_in), sae.W_dec.device
    check(tuple(x.shape) == want, "train", f"batches of shape {want}", x_shape=tuple(x.shape))
    check(x.is_floating_point(), "train", "data of floating point", x_dtype=x.dtype)
    check(x.device == device, "train", f"data on {device}", x_device=str(x.device))
    if not bool(torch.isfinite(x.sum())):  # one pass; the sum itself may also overflow
        finite = torch.isfinite(x)
        if not bool(finite.all()):
            first = tuple((~finite).nonzero()[0].tolist())
            got = {"step": step, f"x{list(first)}": x[first].item()}
            todo = "remove or replace these entries first"
            raise not_finite("finite numbers in x", todo, **got)
