"""What an engine is: it trains some members of a run on batches that it is given."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import torch

from sae.base import SAE
from sae.batches import Drawn
from sae.config import TrainConfig
from sae.member import Member, NotFinite, not_finite


class Engine(ABC):
    """Trains members of one run.

    What becomes of a member never depends on the others, so that member i of an ensemble ends as if
    it had been trained alone: bit for bit with the engines that are chosen by themselves on a CPU.

    Args:
        members: in the order of the run.
    """

    name: ClassVar[str]
    steps_at_once: ClassVar[int] = 1  # most batches that `advance` is given
    draws_ahead: ClassVar[bool] = False  # while it trains there is time to draw the next ones

    def __init__(self, members: Sequence[Any]) -> None:
        self.members = list(members)
        self.threads: ThreadPoolExecutor | None = None  # to train on; this one alone if None

    @classmethod
    @abstractmethod
    def refusal(cls, sae: SAE, config: TrainConfig) -> str:
        """Returns why this engine cannot train `sae` so, or "" if it can.

        It may depend on nothing else, above all not on the other members.
        """

    @classmethod
    def automatic(cls, sae: SAE) -> bool:
        """Returns whether to take it where no engine is asked for."""
        return True

    @classmethod
    @abstractmethod
    def member(
        cls,
        i: int,
        sae: SAE,
        config: TrainConfig,
        *,
        lr: float,
        target_l0: int | float | None,
        generator: torch.Generator,
    ) -> Member:
        """Returns member `i` of the run; for the arguments see `Member`."""

    def prepare(self, batches: Sequence[Drawn]) -> None:
        """Does in advance what `advance` needs of these batches; called by other threads, and only
        if the engine draws ahead."""
        raise NotImplementedError

    @abstractmethod
    def advance(self, batches: Sequence[Drawn], *, record: bool) -> dict[int, dict[str, float]]:
        """Takes a step for each batch with each member that has not stopped.

        Args:
            record: whether to record the first batch.
        Returns:
            If asked for, by member, `Member.record` of the first batch, of the loss before its
            step; else empty.
        Raises:
            StepFailed: a loss or weights are no longer finite; nothing is promised then about the
                members but that `undo` works.
        """

    @abstractmethod
    def undo(self) -> None:
        """Takes the members back before the last `advance`, in all that a result shows."""


class StepFailed(NotFinite):
    """A step that cannot be taken.

    Args:
        after: how many steps of this `advance` all members have taken, or would take, before it.
    """

    def __init__(self, message: str, after: int) -> None:
        super().__init__(message)
        self.after = after


def step_failed(what: str, value: float, *, step: int, member: int, after: int) -> StepFailed:
    """Returns the error of a step in which `what` has become `value`; for `after` see there."""
    todo = "lower the learning rate, or look for huge values in the data"
    got = {"step": step, "member": member, "total": value}
    return StepFailed(str(not_finite(f"a finite {what}", todo, **got)), after)
