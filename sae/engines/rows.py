"""The engine for CPUs: whole steps compiled by numba, one member after another on each thread."""

import importlib.util
import threading
from collections.abc import Sequence
from typing import Any

import torch

from sae.base import SAE
from sae.batches import Drawn
from sae.config import TrainConfig
from sae.engines.engine import Engine, step_failed
from sae.engines.rules import refusal


class Rows(Engine):
    """Several steps of a member at a time, so that its weights stay in the cache.

    Steps are compiled loops over samples and latents that touch selected latents only. Where the
    data are linear in sparse codes, pre-activations are sums of a few rows of vectors @ W_enc if
    that is less work. Each member is trained by one of the threads.
    """

    name = "rows"
    steps_at_once = 16
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
            self._data(batches, dtype)

    def _data(self, batches: Sequence[Drawn], dtype: torch.dtype) -> Any:
        from sae.engines.rows_data import data_of

        known, key = batches[0].prepared, (dtype, len(batches))
        if key not in known:
            known[key] = data_of(batches, dtype)
        return known[key]

    def advance(self, batches: Sequence[Drawn], *, record: bool) -> dict[int, dict[str, float]]:
        self.begun = [member for member in self.members if not member.stopped]
        jobs = [(member, self._data(batches, member.dtype)) for member in self.begun]
        if self.threads and len(jobs) > 1:
            taken = list(self.threads.map(self._train, *zip(*jobs, strict=True)))
        else:
            taken = [self._train(*job) for job in jobs]
        failed = [
            (after, what, total, member)
            for (after, what, total), member in zip(taken, self.begun, strict=True)
            if what
        ]
        if failed:
            after, what, total, member = min(failed, key=lambda found: found[0])
            step = member.n_steps + after
            raise step_failed(what, total, step=step, member=member.i, after=after)
        if not record:
            return {}
        return {m.i: m.recorded(batches[0]) for m in self.begun}

    def undo(self) -> None:
        for member in self.begun:
            member.undo()

    def _train(self, member: Any, data: Any) -> tuple[int, str, float]:
        member.keep()
        outcome = member.take(data, self._own.__dict__)
        _, what, _ = outcome
        if not what:
            member.settle(len(data.x))
        return outcome
