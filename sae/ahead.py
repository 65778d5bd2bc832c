"""Batches of a run that are drawn while it trains on those before."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

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
    """The batches of a run in chunks; the next one is drawn in another thread if there is any.

    Nothing but the time depends on that if batches follow from their generator: after `close` it
    is where it would be if no batch had been drawn before it was needed.

    Args:
        size: says how many batches the chunk has that starts at a step; 0 at the end.
        prepare: is called with the batches of a chunk that is drawn ahead.
        threads: the next chunk is what they do first; None draws when a chunk is asked for.
    """

    def __init__(
        self,
        batches: Batches,
        size: Callable[[int], int],
        prepare: Callable[[list[Drawn]], None],
        threads: ThreadPoolExecutor | None,
    ) -> None:
        self._batches, self._size, self._prepare = batches, size, prepare
        self._threads = threads
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
        if self._threads and chunk.error is None and self._size(following):
            self._next = self._threads.submit(self._draw, following)
        self._after = chunk.after
        return chunk

    def close(self) -> None:
        """Ends the drawing, and puts the generator after the last chunk that was taken."""
        if self._next and self._after:
            wait([self._next])
            self._batches.restore(*self._after)

    def _draw(self, step: int) -> Chunk:
        # Nothing else is done while the first chunk is drawn: chunks begin with one batch and grow,
        # with threads or without, so that a run that stops early leaves the same generator.
        n = min(self._size(step), max(1, step))
        with torch.set_grad_enabled(self._grad):
            drawn, error = self._batches.take(step, n)
            if self._threads:
                self._prepare(drawn)
        return Chunk(drawn, error, self._batches.state())


def single_threaded(n: int) -> ThreadPoolExecutor:
    """Returns n threads, in each of which torch uses one thread."""
    return ThreadPoolExecutor(n, initializer=_use_one_thread)


def _use_one_thread() -> None:
    # OpenMP keeps this number for each thread, so that of the others stays as it is.
    torch.set_num_threads(1)
