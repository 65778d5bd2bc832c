"""One level of a correlated forest: which children fire below the features that fired above."""

from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from toymodels.bivariate_normal import joint_prob
from toymodels.events import uniforms
from toymodels.forest_level import Level
from toymodels.gaussian_firing import BLOCK, GaussianFiring


class Innovations:
    """Units that fire given their parent: a free child, or a whole group of exclusive siblings.

    Args:
        level: the children; exclusive siblings fire as one unit, of the sum of their probabilities.
        loadings: [n_children, rank], in the order of the level; a group has those of its first.
    """

    def __init__(self, level: Level, loadings: Float[Tensor, "n_children rank"]) -> None:
        self.level, self.parents, self.probs = level, level.parents, level.probs
        grouped = level.count[level.parents] > 0
        n_above = len(level.count)
        begins = torch.ones_like(grouped)
        begins[1:] = ~grouped[1:] | (level.parents.diff() > 0)
        self.unit = begins.cumsum(0) - 1  # of each child
        self.first = begins.nonzero()[:, 0]  # child of each unit
        self.grouped = grouped[self.first]
        sums = torch.zeros(len(self.first), dtype=torch.float64, device=level.probs.device)
        sums = sums.index_add_(0, self.unit, level.probs).clamp(max=1)  # above only by rounding
        self.firing = GaussianFiring(sums, loadings[self.first])
        # The units of each feature above are count[q] from start[q] on.
        self.count = level.parents[self.first].bincount(minlength=n_above)
        self.start = self.count.cumsum(0) - self.count

    def draw(
        self,
        factor: Float[Tensor, "n rank"],
        rows: Int[Tensor, " n_above"],
        above: Int[Tensor, " n_above"],
        *,
        generator: torch.Generator,
    ) -> tuple[Int[Tensor, " n_events"], Int[Tensor, " n_events"]]:
        """Returns (events, children): child children[e] fired with the event events[e] above.

        Args:
            factor: u of this level, for each sample.
            rows: sample of each event above.
            above: place, in the level above, of the feature of that event; one that is alone there
                fires in every sample: it is what is above the roots.
        """
        if len(self.count) == 1 and len(rows) == len(factor):
            events, units = self.firing.draw(factor, generator=generator)
            events = rows.argsort()[events]
        else:
            events, units = self._draw_below(factor, rows, above, generator)
        children = self.first[units]
        groups = self.grouped[units].nonzero()[:, 0]
        parents = self.parents[children[groups]]
        marks = uniforms(len(groups), generator=generator) * self.level.totals[parents]
        children[groups] = self.level.pick(parents, marks)
        return events, children

    def _draw_below(
        self, factor: Tensor, rows: Tensor, above: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Returns the (events, units) that fire, looking at every unit below an event above."""
        ends = self.count[above].cumsum(0)
        n_cells = int(ends[-1])
        # Blocks of events above with about BLOCK units below them.
        cuts = ends.new_tensor(range(BLOCK, n_cells, BLOCK))
        bounds = [0, *torch.searchsorted(ends, cuts).unique().tolist(), len(rows)]
        found_events, found_units = [], []
        for low, high in pairwise(bounds):
            count = self.count[above[low:high]]
            event = torch.arange(low, high, device=rows.device).repeat_interleave(count)
            offset = torch.arange(len(event), device=rows.device)
            offset -= (count.cumsum(0) - count).repeat_interleave(count)
            unit = self.start.index_select(0, above.index_select(0, event)) + offset
            samples = rows.index_select(0, event)
            fired = self.firing.fires(factor, samples, unit, generator=generator).nonzero()[:, 0]
            found_events.append(event.index_select(0, fired))
            found_units.append(unit.index_select(0, fired))
        return torch.cat(found_events), torch.cat(found_units)

    def given_other(
        self, first: Int[Tensor, " rows"], second: Int[Tensor, " columns"]
    ) -> Float[Tensor, "rows columns"]:
        """Returns P(second fires | first fires and both parents fire), for children not the same.

        0 for exclusive siblings, else P(the second unit fires | the first does) times the share of
        the second child in its unit. (Not by way of R R', which underflows for R below 1e-154.)
        """
        # Each pair of units is computed once, though many features lie below it.
        ones, row = self.unit[first].unique(return_inverse=True)
        others, column = self.unit[second].unique(return_inverse=True)
        p, q = self.firing.probs[ones, None], self.firing.probs[others]
        latent = self.firing.loadings[ones] @ self.firing.loadings[others].T
        follows = torch.where(p > 0, joint_prob(p, q, latent) / p, q)
        follows = torch.where(ones[:, None] == others, 0.0, follows)
        whole = q[column]
        share = torch.where(whole > 0, self.probs[second] / whole, 0.0)
        return follows[row][:, column] * share
