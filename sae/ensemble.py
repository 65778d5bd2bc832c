"""All members of a run, each with its engine, on their way through the same batches."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sae.ahead import Ahead, single_threaded
from sae.base import SAE
from sae.batches import Batches, Drawn
from sae.checkpoint import Checkpoint, checkpointing, next_checkpoint
from sae.config import TrainConfig
from sae.describe import NUMERICS_VERSION, describe
from sae.engines.choice import choose
from sae.engines.engine import StepFailed
from sae.evaluation import HeldOut
from sae.geometric_median import geometric_median
from sae.history import Row, TrainResult, history
from sae.member import Member

WORTH_KEEPING = 1.0  # seconds of training that are worth the writing of its last state


class Ensemble:
    """All members, each with its engine, on their way through the same batches."""

    def __init__(
        self,
        saes: Sequence[SAE],
        batches: Batches,
        config: TrainConfig,
        *,
        lrs: Sequence[float],
        targets: Sequence[int | float | None],
        engine: str,
    ) -> None:
        self.saes, self.batches, self.config = saes, batches, config
        kinds = choose(engine, saes, config)
        self.members: list[Member] = [
            kind.member(i, sae, config, lr=lr, target_l0=target, generator=batches.generator)
            for i, (kind, sae, lr, target) in enumerate(zip(kinds, saes, lrs, targets, strict=True))
        ]
        self.engines = [
            kind([m for m, own in zip(self.members, kinds, strict=True) if own is kind])
            for kind in dict.fromkeys(kinds)
        ]
        last = config.n_records - 1
        self.record_at = sorted({round(i * (config.n_steps - 1) / last) for i in range(last + 1)})
        self.step = 0
        self.records: list[tuple[int, list[Row]]] = []

    def to_the_end(self, held_out: HeldOut | None) -> None:
        """Takes all steps, or those that are left if the run was interrupted before.

        In a context of checkpoints (`checkpoints_in`) it goes on where the last one was made, with
        the same bits as without a break, if `sample` depends on nothing but the generator.

        Raises:
            NotFinite: the members are as they were before the step that it names.
        """
        # The identity hashes all weights: only where it is asked for.
        checkpoint = next_checkpoint(self._identity()) if checkpointing() else None
        start = time.monotonic()
        if checkpoint is not None and (found := checkpoint.read()) is not None:
            self._restore(*found)
        with self._threads() as threads:
            for engine in self.engines:
                engine.threads = threads
            ahead = Ahead(self.batches, self._n_together, self._prepare, threads)
            try:
                self._take_steps(ahead, held_out, checkpoint)
            finally:
                ahead.close()
        if checkpoint is not None and time.monotonic() - start > WORTH_KEEPING:
            checkpoint.write(*self._state(self.batches.state()))

    def _take_steps(
        self, ahead: Ahead, held_out: HeldOut | None, checkpoint: Checkpoint | None
    ) -> None:
        n_steps = self.config.n_steps
        with tqdm(
            total=n_steps, initial=self.step, disable=None, delay=2, leave=False, unit="step"
        ) as bar:
            # A run that stopped early may go on from its last state, where nothing is left to do.
            while self.step < n_steps and not self._stopped():
                now = self.step in self.record_at
                chunk = ahead.take(self.step)
                if self.step == 0:
                    self._centre(chunk.drawn[0])
                rows = [Row({}, {}) for _ in self.members]
                if now and held_out is not None:
                    for member in self.members:
                        if not member.stopped:
                            rows[member.i].held_out.update(member.evaluate(held_out))
                over = self._stopped()
                taken = {} if over else self._advance(chunk.drawn, record=now)
                if now:
                    for i, row in taken.items():
                        rows[i].batch.update(row)
                    self.records.append((self.step * self.config.batch_size, rows))
                if over:
                    break
                self.step += len(chunk.drawn)
                bar.update(len(chunk.drawn))
                if chunk.error is not None:
                    raise chunk.error
                if checkpoint is not None and checkpoint.due():
                    checkpoint.write(*self._state(chunk.after))

    def _stopped(self) -> bool:
        return all(member.stopped for member in self.members)

    def _threads(self) -> AbstractContextManager[ThreadPoolExecutor | None]:
        """Returns as many as torch uses, for engines that take members and batches one each."""
        shared = all(engine.draws_ahead for engine in self.engines)
        n_threads = torch.get_num_threads()
        return single_threaded(n_threads) if shared and n_threads > 1 else nullcontext()

    def _prepare(self, drawn: list[Drawn]) -> None:
        for engine in self.engines:
            engine.prepare(drawn)

    def _n_together(self, step: int) -> int:
        """Returns how many steps are taken together from this one on: none past a record."""
        end = self.config.n_steps
        stop = next((s for s in self.record_at if s > step), end)
        return min(stop - step, *(engine.steps_at_once for engine in self.engines))

    def _identity(self) -> object:
        """What determines the run, but for `sample`, as a tree of JSON values."""
        saes = [
            [
                type(sae).__name__,
                {name: describe(value, name) for name, value in sae.settings().items()},
                {name: describe(value, name) for name, value in sae.state_dict().items()},
            ]
            for sae in self.saes
        ]
        return {
            "saes": saes,
            "config": describe(self.config),
            "generator": describe(self.batches.generator.get_state()),
            "engines": [engine.name for engine in self.engines],
            "numerics_version": NUMERICS_VERSION,
            "torch": str(torch.__version__),
        }

    def _state(self, batches: tuple[Tensor, int]) -> tuple[dict[str, Tensor], object]:
        """Returns all that the rest of the run depends on: tensors, and a tree of JSON values.

        Args:
            batches: their state.
        """
        tensors = {
            f"{member.i}/{name}": value
            for member in self.members
            for name, value in member.tensors().items()
        }
        records = [
            [samples, [[row.batch, row.held_out] for row in rows]] for samples, rows in self.records
        ]
        numbers = [member.numbers() for member in self.members]
        generator, n_taken = batches
        record = {"step": self.step, "records": records, "members": numbers, "n_taken": n_taken}
        return tensors | {"generator": generator}, record

    def _restore(self, tensors: dict[str, Tensor], record: Any) -> None:
        for member, numbers in zip(self.members, record["members"], strict=True):
            start = f"{member.i}/"
            own = {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}
            member.restore(own, numbers)
        self.step = record["step"]
        self.records = [
            (samples, [Row(batch, held_out) for batch, held_out in rows])
            for samples, rows in record["records"]
        ]
        self.batches.restore(tensors["generator"], record["n_taken"])

    @torch.no_grad()
    def _centre(self, batch: Drawn) -> None:
        """Starts each decoder bias at the geometric median of the first batch."""
        medians: dict[torch.dtype, Tensor] = {}
        for member in self.members:
            dtype = member.sae.W_dec.dtype
            if member.sae.bias and dtype not in medians:
                medians[dtype] = geometric_median(batch.to(dtype))
            if member.sae.bias:
                member.sae.b_dec.copy_(medians[dtype])

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
