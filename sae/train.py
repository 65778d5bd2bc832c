"""Training of one SAE, or of many on the same data."""

from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from sae.base import SAE
from sae.batches import Batches, Drawn
from sae.checks import check, check_generator
from sae.config import TrainConfig
from sae.engines.choice import choose
from sae.engines.engine import StepFailed
from sae.evaluation import HeldOut, Sampler, World
from sae.history import History, Row, TrainingStopped, TrainResult, history
from sae.member import COEFFICIENTS, Member, NotFinite, coefficient_name

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
        engine: a name in `engines()`, or "auto" for the fastest that can train each member. Each
            takes the same steps on the same batches, up to rounding.
    Raises:
        ValueError: members that do not fit the data, the engine or what the config asks for.
        TrainingStopped: a batch, a loss or weights with NaN or infinity; a ValueError that holds
            the last good weights.
    """
    originals = (saes,) if isinstance(saes, SAE) else tuple(saes)
    _check_members(originals, config)
    check_generator("train", generator, originals[0].W_dec.device)
    _check_held_out(held_out, config, generator)
    batches = Batches(sample, config.batch_size, originals[0], generator=generator)
    run = _Run(originals, batches, config, engine)
    try:
        run.to_the_end(held_out)
    except NotFinite as error:
        raise TrainingStopped(str(error), run.result()) from None
    return run.result()


class _Run:
    """All members, each with its engine, on their way through the same batches."""

    def __init__(
        self, saes: Sequence[SAE], batches: Batches, config: TrainConfig, engine: str
    ) -> None:
        n, self.batches, self.config = len(saes), batches, config
        rates = _one_each("lr", config.lr, n)
        targets = _one_each("target_l0", config.target_l0, n)
        kinds = choose(engine, saes, config)
        self.members: list[Member] = [
            kind.member(i, sae, config, lr=lr, target_l0=target, generator=batches.generator)
            for i, (kind, sae, lr, target) in enumerate(
                zip(kinds, saes, rates, targets, strict=True)
            )
        ]
        self.engines = [
            kind([m for m, own in zip(self.members, kinds, strict=True) if own is kind])
            for kind in dict.fromkeys(kinds)
        ]
        self.step = 0
        self.records: list[tuple[int, list[Row]]] = []

    def to_the_end(self, held_out: HeldOut | None) -> None:
        """Takes all steps that are left.

        Raises:
            NotFinite: the members are as they were before the step that it names.
        """
        n_steps, last = self.config.n_steps, self.config.n_records - 1
        record_at = sorted({round(i * (n_steps - 1) / last) for i in range(last + 1)})
        at_once = min(engine.steps_at_once for engine in self.engines)
        with tqdm(
            total=n_steps, initial=self.step, disable=None, delay=2, leave=False, unit="step"
        ) as bar:
            while self.step < n_steps:
                now = self.step in record_at
                stop = next((s for s in record_at if s > self.step), n_steps)
                drawn, error = self._draw(min(stop - self.step, at_once))
                rows = [Row({}, {}) for _ in self.members]
                if now and held_out is not None:
                    for member in self.members:
                        if not member.stopped:
                            rows[member.i].held_out.update(member.evaluate(held_out))
                over = all(member.stopped for member in self.members)
                taken = {} if over else self._advance(drawn, record=now)
                if now:
                    for i, row in taken.items():
                        rows[i].batch.update(row)
                    self.records.append((self.step * self.config.batch_size, rows))
                if over:
                    break
                self.step += len(drawn)
                bar.update(len(drawn))
                if error is not None:
                    raise error

    def _draw(self, n: int) -> tuple[list[Drawn], NotFinite | None]:
        """Returns the next n batches, or those before one that is not finite, and its error."""
        drawn: list[Drawn] = []
        error: NotFinite | None = None
        try:
            for i in range(n):
                drawn.append(self.batches.draw(self.step + i))
        except NotFinite as found:
            if not drawn:
                raise
            error = found
        if self.step == 0:
            for member in self.members:
                member.centre_on(drawn[0].to(member.sae.W_dec.dtype))
        return drawn, error

    def _advance(self, drawn: list[Drawn], *, record: bool) -> dict[int, dict[str, float]]:
        """Takes these steps with all members; if one fails, the steps before it."""
        rows: dict[int, dict[str, float]] = {}
        failed: StepFailed | None = None
        for engine in self.engines:
            try:
                rows |= engine.advance(drawn, record=record)
            except StepFailed as error:
                failed = error if failed is None or error.after < failed.after else failed
        if failed is None:
            return rows
        for engine in self.engines:
            engine.undo()
            if failed.after:
                engine.advance(drawn[: failed.after], record=False)
        raise failed

    def result(self) -> TrainResult:
        trained = [member.n_steps * self.config.batch_size for member in self.members]
        coefficients = tuple(member.coefficient for member in self.members)
        saes = tuple(member.result() for member in self.members)
        return TrainResult(saes, history(self.records, trained), coefficients)


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
