"""One level of a forest: draws which children fire below the features that fired above."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from toymodels.events import bernoulli_indices, uniforms


@dataclass(frozen=True, eq=False)
class _Group:
    """Independent children whose conditional probabilities have the same binary exponent."""

    first: Int[Tensor, " n_above"]  # of each feature above: its children here begin at first[q],
    count: Int[Tensor, " n_above"]  # and are count[q] entries of
    children: Int[Tensor, " size"]
    highest: float


class Level:
    """Draws the children of the features that fired in the level above.

    Args:
        features: features of this level, siblings side by side.
        parents: place of each one's parent in the level above, in increasing order.
        probs: r, their conditional probabilities.
        excludes: whether each feature of the level above has children that exclude one another.
    """

    def __init__(self, features: Tensor, parents: Tensor, probs: Tensor, excludes: Tensor) -> None:
        n_above = len(excludes)
        self.features, self.parents, self.probs = features, parents, probs
        free = ~excludes[parents] & (probs > 0)
        exponents = torch.frexp(probs).exponent
        self.groups = []
        for exponent in exponents[free].unique().tolist():
            children = (free & (exponents == exponent)).nonzero()[:, 0]
            count = parents[children].bincount(minlength=n_above)
            first = count.cumsum(0) - count
            self.groups.append(_Group(first, count, children, float(probs[children].max())))
        # Among exclusive siblings, child k fires if a uniform falls in its interval before ends[k].
        self.count = torch.where(excludes, parents.bincount(minlength=n_above), 0)
        self.first = parents.bincount(minlength=n_above).cumsum(0) - self.count
        self.n_steps = int(self.count.max()).bit_length()
        sums: list[float] = []
        previous = -1
        for parent, prob in zip(parents.tolist(), probs.tolist(), strict=True):
            sums.append(prob + (sums[-1] if parent == previous else 0.0))
            previous = parent
        self.ends = torch.tensor(sums, dtype=torch.float64, device=features.device)
        last = (self.first + self.count - 1).clamp(min=0, max=len(sums) - 1)
        self.totals = self.ends[last]  # meaningful where the children exclude one another

    def draw(
        self, above: Int[Tensor, " n_above"], *, generator: torch.Generator
    ) -> tuple[Int[Tensor, " n_events"], Int[Tensor, " n_events"]]:
        """Returns (events, children): child children[e] fired with the event events[e] above.

        Independent children are drawn over all cells event x child of one group at its highest
        probability and then thinned, as in `IndependentFiring`; of exclusive ones, at most one by
        bisection of their cumulative probabilities.

        Args:
            above: place, in the level above, of each feature that fired.
        """
        events, children = [], []
        for group in self.groups:
            count = group.count.index_select(0, above)
            ends = count.cumsum(0)
            cells = bernoulli_indices(int(ends[-1]), group.highest, generator=generator)
            event = torch.searchsorted(ends, cells, right=True)
            offset = cells - (ends - count).index_select(0, event)
            first = group.first.index_select(0, above.index_select(0, event))
            child = group.children.index_select(0, first + offset)
            uniform = uniforms(len(cells), generator=generator)
            kept = uniform * group.highest < self.probs.index_select(0, child)
            keep = kept.nonzero()[:, 0]
            events.append(event.index_select(0, keep))
            children.append(child.index_select(0, keep))
        if self.n_steps:
            event = (self.count[above] > 0).nonzero()[:, 0]
            parents = above[event]
            total = self.totals[parents].clamp(min=1)  # above 1 only by rounding
            child = self.pick(parents, uniforms(len(event), generator=generator) * total)
            fired = child < self.first[parents] + self.count[parents]
            events.append(event[fired])
            children.append(child[fired])
        none = above.new_empty(0)
        return torch.cat([none, *events]), torch.cat([none, *children])

    def pick(self, parents: Int[Tensor, " n"], marks: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Returns, of each parent's exclusive children, the first whose `ends` exceeds the mark.

        One past its last child where none does, so where the mark is `totals[parent]` or more.

        Args:
            parents: places in the level above of features with exclusive children.
        """
        low = self.first.index_select(0, parents)
        high = low + self.count.index_select(0, parents)
        for _ in range(self.n_steps):
            middle = (low + high) >> 1
            end = self.ends.index_select(0, middle.clamp(max=len(self.ends) - 1))
            beyond = (low < high) & (end <= marks)
            low, high = torch.where(beyond, middle + 1, low), torch.where(beyond, high, middle)
        return low
