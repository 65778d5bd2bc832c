"""One of several patterns in each of many independent blocks, drawn at the cost of what fires."""

import torch
from jaxtyping import Int
from torch import Tensor

from toymodels.events import IndependentFiring, uniforms


class PatternDraw:
    """Draws the blocks in which something fires, as events, and then one pattern of each.

    Args:
        probs, blocks: probability and block of each pattern.
        offsets, features: pattern k holds features[offsets[k]] .. features[offsets[k + 1] - 1].
    """

    def __init__(self, probs: Tensor, blocks: Tensor, offsets: Tensor, features: Tensor) -> None:
        self.order = blocks.argsort(stable=True)  # the patterns block by block
        count = blocks.bincount()
        self.first = count.cumsum(0) - count
        self.last = self.first + count - 1
        self.n_steps = int(count.max()).bit_length() if len(count) else 0
        # Pattern k occurs if a uniform falls before ends[k]; each block counts anew, from 0.
        ends: list[float] = []
        previous = -1
        for block, prob in zip(
            blocks[self.order].tolist(), probs[self.order].tolist(), strict=True
        ):
            ends.append(prob + (ends[-1] if block == previous else 0.0))
            previous = block
        self.ends = torch.tensor(ends, dtype=torch.float64, device=probs.device)
        some = torch.zeros(len(count), dtype=torch.float64, device=probs.device)
        some[count > 0] = self.ends[self.last[count > 0]]
        self.some = IndependentFiring(some.clamp(max=1))  # P(the block is not silent)
        self.start, self.size = offsets[:-1], offsets.diff()
        self.features = features

    def __call__(
        self, n: int, *, generator: torch.Generator
    ) -> tuple[Int[Tensor, " n_events"], Int[Tensor, " n_events"]]:
        """Returns the (rows, features) of the events of `n` samples."""
        rows, blocks = self.some.draw(n, generator=generator)
        low, high = self.first[blocks], self.last[blocks]
        uniform = uniforms(len(rows), generator=generator) * self.ends[high]
        for _ in range(self.n_steps):  # the first pattern with ends > uniform
            middle = (low + high) // 2
            beyond = (low < high) & (self.ends[middle] <= uniform)
            low, high = torch.where(beyond, middle + 1, low), torch.where(beyond, high, middle)
        pattern = self.order[low]
        size = self.size[pattern]
        place = torch.arange(int(size.sum()), device=rows.device)
        place += (self.start[pattern] - (size.cumsum(0) - size)).repeat_interleave(size)
        return rows.repeat_interleave(size), self.features[place]
