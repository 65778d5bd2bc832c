"""The engine for CPUs: whole steps compiled by numba, one member after another on each thread."""

import importlib.util
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from sae.ahead import single_threaded
from sae.base import SAE
from sae.batches import Drawn
from sae.config import TrainConfig
from sae.engines.engine import Engine, step_failed
from sae.engines.rules import refusal


class Rows(Engine):
    """Several steps of a member at a time, so that its weights stay in the cache.

    Steps are compiled loops over samples and latents that touch selected latents only. Where the
    data are linear in sparse codes, pre-activations are sums of a few rows of vectors @ W_enc if
    that is less work. Members share torch's number of threads; each is trained by one of them.
    """

    name = "rows"
    steps_at_once = 16
    draws_ahead = True

    def __init__(self, members: Sequence[Any]) -> None:
        super().__init__(members)
        self._threads: ThreadPoolExecutor | None = None
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

    def advance(self, batches: Sequence[Drawn], *, record: bool) -> dict[int, dict[str, float]]:
        from sae.engines.rows_data import data_of

        self.begun = [member for member in self.members if not member.stopped]
        data = {}
        for member in self.begun:
            if member.dtype not in data:
                data[member.dtype] = data_of(batches, member.dtype)
        jobs = [(member, data[member.dtype]) for member in self.begun]
        n_threads = min(len(jobs), torch.get_num_threads())
        if n_threads > 1:
            if self._threads is None:
                self._threads = single_threaded(n_threads)
            taken = list(self._threads.map(self._train, *zip(*jobs, strict=True)))
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
