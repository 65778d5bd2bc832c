"""Batches of a run that are drawn while it trains on those before."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae.batches import Batches, Drawn
from sae.member import NotFinite


class Chunk(NamedTuple):
    """Batches that are trained on together.

    Args:
        drawn: at least one.
        error: of the batch after them if that one is not finite, else None.
        after: `Batches.state` once they are drawn.
    """

    drawn: list[Drawn]
    error: NotFinite | None
    after: tuple[Tensor, int]


class Ahead:
    """The batches of a run in chunks; the next one is drawn in another thread if that is asked for.

    Nothing but the time depends on that if batches follow from their generator: after `close` it
    is where it would be if no batch had been drawn before it was needed.

    Args:
        size: says how many batches the chunk has that starts at a step; 0 at the end.
        threaded: whether to draw ahead.
    """

    def __init__(self, batches: Batches, size: Callable[[int], int], *, threaded: bool) -> None:
        self._batches, self._size = batches, size
        self._thread = single_threaded(1) if threaded else None
        self._next: Future[Chunk] | None = None
        self._after: tuple[Tensor, int] | None = None
        self._grad = torch.is_grad_enabled()  # of the thread that trains

    def take(self, step: int) -> Chunk:
        """Returns the chunk that starts at `step`; steps follow one another.

        Raises:
            ValueError, NotFinite: as `Batches.take` does.
        """
        pending, self._next = self._next, None
        chunk = pending.result() if pending else self._draw(step)
        following = step + len(chunk.drawn)
        if self._thread and chunk.error is None and self._size(following):
            self._next = self._thread.submit(self._draw, following)
        self._after = chunk.after
        return chunk

    def close(self) -> None:
        """Ends the drawing, and puts the generator after the last chunk that was taken."""
        if self._thread:
            self._thread.shutdown()
            if self._next and self._after:
                self._batches.restore(*self._after)

    def _draw(self, step: int) -> Chunk:
        with torch.set_grad_enabled(self._grad):
            drawn, error = self._batches.take(step, self._size(step))
            if self._thread:
                for batch in drawn:
                    _ = batch.x  # decoded here rather than where it is used
        return Chunk(drawn, error, self._batches.state())


def single_threaded(n: int) -> ThreadPoolExecutor:
    """Returns n threads, in each of which torch uses one thread."""
    return ThreadPoolExecutor(n, initializer=_use_one_thread)


def _use_one_thread() -> Any:
    # OpenMP keeps this number for each thread, so that of the others stays as it is.
    torch.set_num_threads(1)
