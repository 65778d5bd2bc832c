"""The engine for CPUs: whole steps compiled by numba, one member after another on each thread."""

import importlib.util
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sae.base import SAE
from sae.batches import Drawn
from sae.config import TrainConfig
from sae.engines.engine import Engine, step_failed
from sae.engines.rules import refusal

STRETCH = 16  # steps of a member at a time: then its weights have to come into the cache once
Outcome = tuple[int, str, float]  # steps taken, what was not finite then ("": nothing), its value


class Rows(Engine):
    """Several steps of a member at a time, so that its weights stay in the cache.

    Steps are compiled loops over samples and latents that touch selected latents only. Where the
    data are linear in sparse codes, pre-activations are sums of a few rows of vectors @ W_enc if
    that is less work. Each member is trained by one of the threads.
    """

    name = "rows"
    steps_at_once = 32
    draws_ahead = True

    def __init__(self, members: Sequence[Any]) -> None:
        super().__init__(members)
        self._own = threading.local()
        self.begun: list[Any] = []

    @classmethod
    def refusal(cls, sae: SAE, config: TrainConfig) -> str:
        if importlib.util.find_spec("numba") is None:
            return "install numba"
        return refusal(sae, config)

    @classmethod
    def member(cls, i: int, sae: SAE, config: TrainConfig, **options: Any) -> Any:
        from sae.engines.rows_member import RowsMember

        return RowsMember(i, sae, config, **options)

    def prepare(self, batches: Sequence[Drawn]) -> None:
        for dtype in {member.dtype for member in self.members}:
            for stretch in _stretches(batches):
                self._data(stretch, dtype)

    def _data(self, batches: Sequence[Drawn], dtype: torch.dtype) -> Any:
        from sae.engines.rows_data import data_of

        known, key = batches[0].prepared, (dtype, len(batches))
        if key not in known:
            known[key] = data_of(batches, dtype)
        return known[key]

    def advance(self, batches: Sequence[Drawn], *, record: bool) -> dict[int, dict[str, float]]:
        self.begun = [member for member in self.members if not member.stopped]
        starts = [member.n_steps for member in self.begun]
        outcomes = self._train_all(_stretches(batches))
        failed = [
            (after, what, total, start + after, member.i)
            for (after, what, total), start, member in zip(
                outcomes, starts, self.begun, strict=True
            )
            if what
        ]
        if failed:
            after, what, total, step, i = min(failed)
            raise step_failed(what, total, step=step, member=i, after=after)
        if not record:
            return {}
        return {m.i: m.recorded(batches[0]) for m in self.begun}

    def undo(self) -> None:
        for member in self.begun:
            member.undo()

    def _train_all(self, stretches: list[Sequence[Drawn]]) -> list[Outcome]:
        """Trains every member through one stretch after another.

        No thread waits between two stretches, as long as there is a member to go on with.
        """
        waiting: list[Callable[[], Outcome]] = [lambda: (0, "", 0.0)] * len(self.begun)
        for stretch in stretches:
            data = [self._data(stretch, member.dtype) for member in self.begun]
            jobs = zip(self.begun, data, waiting, strict=True)
            if self.threads and len(self.begun) > 1:
                # They are taken up in this order: what a job waits for was begun before it.
                waiting = [self.threads.submit(self._train, *job).result for job in jobs]
            else:
                done = [self._train(*job) for job in jobs]
                waiting = [lambda outcome=outcome: outcome for outcome in done]
        return [outcome() for outcome in waiting]

    def _train(self, member: Any, data: Any, so_far: Callable[[], Outcome]) -> Outcome:
        """Takes a step of a member for each batch, after those before."""
        before, failed, value = so_far()
        if failed:
            return before, failed, value
        member.begin()
        if not before:
            member.keep()
        taken, failed, value = member.take(data, self._own.__dict__)
        if not failed:
            member.settle(taken)
        return before + taken, failed, value


def _stretches(batches: Sequence[Drawn]) -> list[Sequence[Drawn]]:
    return [batches[i : i + STRETCH] for i in range(0, len(batches), STRETCH)]
