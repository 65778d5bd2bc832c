"""A run as something to be done somewhere: its job, and the answer that comes back."""

import importlib
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal

from sae.durable import DiskError
from sae.store import Store


@dataclass(frozen=True)
class Answer:
    """How a run fared.

    Args:
        where: "stored" before, "computed", "failed", or "refused" by the disk.
        cause: of a failure, in one line.
        details: the traceback, if there is one.
    """

    where: Literal["stored", "computed", "failed", "refused"]
    cause: str = ""
    details: str = ""


Answers = Generator[tuple[str, Answer], None, None]  # of an executor: keys of runs as they end


@dataclass(frozen=True)
class Job:
    """What a worker needs to know besides the configuration; plain values only."""

    module: str
    function: str
    root: str
    checkpoint_every: int | float
    device_type: str
    engine: str

    def function_itself(self) -> Callable[[Any], Any]:
        """Returns the function of that name, imported."""
        return getattr(importlib.import_module(self.module), self.function)

    def do(self, run: Callable[[Any], Any], config: object) -> Answer:
        """Computes and stores a run, unless it is stored, and returns how that went."""
        where = "stored"

        def compute() -> Any:
            nonlocal where
            where = "computed"
            return run(config)

        store = Store(self.root, checkpoint_every=self.checkpoint_every)
        name, kind = f"{self.module}.{self.function}", self.device_type
        try:
            store.get_or_run(name, config, compute, device_type=kind, engine=self.engine)
        except DiskError as error:
            return Answer("refused", str(error))
        except Exception as error:
            return Answer("failed", one_line(error), traceback.format_exc())
        return Answer(where)


def one_line(error: BaseException) -> str:
    """Returns the type of an error and the first line of its message."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": ")
