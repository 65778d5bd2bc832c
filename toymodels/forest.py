"""The common part of laws on a forest, in which a child fires only if its parent fires."""

from collections.abc import Callable, Iterator
from functools import cached_property
from numbers import Integral

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from toymodels.checks import check, check_size
from toymodels.distribution import ToyDistribution
from toymodels.events import Events
from toymodels.forest_level import Level
from toymodels.magnitudes import Magnitude
from toymodels.product_law import per_feature_probs

TOLERANCE = 1e-6  # probabilities rounded to float32 may sum to a little more than they should


class ForestLaw(ToyDistribution):
    """A law in which feature i fires with probability p_i, and only if its parent q fires.

    Given that q fires, i does with probability r_i = p_i / p_q (p_i for a root); at most one child
    of q fires if q is exclusive. A feature that fires has strength b, or coupled b times the
    strength of its parent. With h_i the number of features from the root down to i: m_i = p_i E[b]
    and e_i = p_i E[b^2]; coupled, p_i E[b]^h_i and p_i E[b^2]^h_i.

    A law of this kind is a frozen dataclass with the fields below. It draws children by `_descend`
    and writes what depends on who fires together.
    """

    parents: tuple[int, ...]
    firing_prob: float | Tensor
    exclusive: bool | tuple[bool, ...]
    exclusive_roots: bool
    coupled: bool
    magnitude: Magnitude

    def __post_init__(self) -> None:
        where = type(self).__name__
        check_size(where, number_of_parents=len(self.parents))
        for i, parent in enumerate(self.parents):
            if not comes_before(parent, i):
                rule = f"-1 (a root) or a feature before {i} as the parent of feature {i}"
                check(False, where, rule, "list parents before children", parent=parent)
        if not isinstance(self.exclusive, bool):
            check(
                len(self.exclusive) == self.n_features,
                where,
                f"exclusive one bool, or one for each of the {self.n_features} features",
                exclusive_length=len(self.exclusive),
            )
        p, above = self.firing_probs(), self._extended_probs()[self._parents]
        if bool((p > above).any()):
            i = int((p > above).nonzero()[0])
            parent, bound = self.parents[i], above[i].item()
            rule = f"0 <= firing_prob[{i}] <= {bound:.9g}, the firing_prob of its parent {parent}"
            todo = "a child fires only if its parent does"
            check(False, where, rule, todo, **{f"firing_prob[{i}]": p[i].item()})
        total = torch.zeros(self.n_features + 1, dtype=torch.float64)
        total = total.index_add_(0, self._parents, self._conditional)
        excess = self._excludes & (total > 1 + TOLERANCE)
        if bool(excess.any()):
            q = int(excess.nonzero()[0])
            bound, share = self._extended_probs()[q].item(), total[q].item()
            whose = f"the children of feature {q}" if q < self.n_features else "the roots"
            rule = f"firing probabilities of {whose} that sum to at most {bound:.9g}"
            todo = f"they exclude one another: divide each by {share:.9g} or more"
            check(False, where, rule, todo, sum_of_firing_probs=share * bound)

    @property
    def n_features(self) -> int:
        return len(self.parents)

    def largest_codes(self) -> Float[Tensor, " n_features"]:
        return self._strength(self.magnitude.largest())

    def firing_probs(self) -> Float[Tensor, " n_features"]:
        return per_feature_probs(type(self).__name__, self.firing_prob, self.n_features)

    def mean_codes(self) -> Float[Tensor, " n_features"]:
        return self.firing_probs() * self._strength(self.magnitude.mean())

    def code_energies(self) -> Float[Tensor, " n_features"]:
        return self.firing_probs() * self._strength(self.magnitude.second_moment())

    def _strength(self, moment: float) -> Float[Tensor, " n_features"]:
        heights = self._depths + 1 if self.coupled else torch.ones_like(self._depths)
        return torch.tensor(moment, dtype=torch.float64) ** heights

    # The roots are the children of one more feature, number n_features, that always fires.

    @cached_property
    def _parents(self) -> Int[Tensor, " n_features"]:
        parents = torch.tensor(self.parents)
        return torch.where(parents < 0, self.n_features, parents)

    def _extended_probs(self) -> Float[Tensor, " n_features_and_top"]:
        return torch.cat([self.firing_probs(), torch.ones(1, dtype=torch.float64)])

    @cached_property
    def _conditional(self) -> Float[Tensor, " n_features"]:
        """r_i, and 0 below a parent that never fires."""
        above = self._extended_probs()[self._parents]
        return torch.where(above > 0, self.firing_probs() / above, 0.0)

    @cached_property
    def _excludes(self) -> Bool[Tensor, " n_features_and_top"]:
        below = torch.tensor(self.exclusive).expand(self.n_features)
        return torch.cat([below, torch.tensor([self.exclusive_roots])])

    @cached_property
    def _depths(self) -> Int[Tensor, " n_features"]:
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return torch.tensor(depths)

    @cached_property
    def _by_level(self) -> tuple[Int[Tensor, " size"], ...]:
        """The features of each level, in increasing order."""
        order = self._depths.argsort(stable=True)
        return order.split(self._depths.bincount().tolist())

    @cached_property
    def _levels(self) -> dict[str, tuple[Level, ...]]:
        return {}

    def _levels_on(self, device: torch.device) -> tuple[Level, ...]:
        if str(device) not in self._levels:
            self._levels[str(device)] = tuple(self._make_levels(device))
        return self._levels[str(device)]

    def _make_levels(self, device: torch.device) -> Iterator[Level]:
        place = torch.zeros(self.n_features + 1, dtype=torch.int64)  # of a feature in its level
        above = torch.tensor([self.n_features])
        for level in self._by_level:
            # Siblings side by side, in the order of their parents above.
            features = level[place[self._parents[level]].argsort(stable=True)]
            place[features] = torch.arange(len(features))
            yield Level(
                features.to(device),
                place[self._parents[features]].to(device),
                self._conditional[features].to(device),
                self._excludes[above].to(device),
            )
            above = features

    def _descend(
        self,
        n: int,
        draw: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]],
        *,
        generator: torch.Generator,
    ) -> Events:
        """Returns the events of `n` samples, drawn level by level from the roots.

        Args:
            draw: draw(depth, rows, above) returns (events, children): children[e], a place in the
                level of this depth, fired with the event events[e] above, that of the feature at
                place above[e] in sample rows[e]. Above the roots, one feature fires in each sample.
        """
        device = generator.device
        rows = torch.arange(n, device=device)
        places = torch.zeros(n, dtype=torch.int64, device=device)
        strengths = torch.ones(n, dtype=torch.float64, device=device)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for depth, level in enumerate(self._levels_on(device)):
            events, places = draw(depth, rows, places)
            values = self.magnitude.sample(len(events), generator=generator).to(torch.float64)
            strengths = values * strengths[events] if self.coupled else values
            rows = rows.index_select(0, events)
            found.append((rows, level.features.index_select(0, places), strengths))
            if len(rows) == 0:
                break
        all_rows, features, values = (torch.cat(part) for part in zip(*found, strict=True))
        return Events(all_rows, features, values.to(torch.float32))


def comes_before(parent: object, i: int) -> bool:
    """Returns whether `parent` may be the parent of feature i: -1 or a feature before it."""
    return isinstance(parent, Integral) and -1 <= int(parent) < i
