"""A hierarchy with correlation: the copula acts on whether each feature fires given its parent."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.blockwise import symmetric_times
from toymodels.distributions.hierarchy import Hierarchy
from toymodels.events import Events
from toymodels.forest import ForestLaw
from toymodels.innovations import Innovations
from toymodels.loadings import check_loadings, loadings_strategy, random_loadings
from toymodels.magnitudes import Magnitude, Uniform


@dataclass(frozen=True, eq=False)
class CorrelatedHierarchy(ForestLaw):
    """A hierarchy in which features of different branches tend to fire together, or not to.

    As in `Hierarchy`, feature i fires with probability p_i, exactly as asked for, only if its
    parent q fires, and then with probability r_i = p_i / p_q. Whether it does is its innovation:
    that of a free child is z_i > t_i with P(z_i > t_i) = r_i and z_i = F_i . u_l + s_i eps_i, as in
    `GaussianCopula`. The factors u_l are drawn anew for each level l of the forest, so that the
    innovations on a path from a root are independent and probabilities multiply down: correlation
    lives between branches, and leaves the marginals alone. The children of an exclusive q have one
    innovation together, that any of them fires (probability R = sum of r_i), with the loadings of
    the first of them (the others' are not used); an independent uniform then picks child i with
    probability r_i / R. Of a free child, R = r_i.

    Given that the parents of a and b fire, two features of the same level l, both fire with
    probability Q(a, b) = r_a if a is b; 0 if they exclude one another; else
    Phi2(t_a, t_b; F_a . F_b) (r_a / R_a) (r_b / R_b), with the threshold, loadings and R of their
    innovations. Levels are independent; with a_l and b_l the features of level l on the paths to i
    and j, and L the deepest level that both paths reach,

        P(i and j fire) = p_i p_j prod_{l <= L} Q(a_l, b_l) / (r_{a_l} r_{b_l}).

    Strengths are those of `Hierarchy`: E[a_i a_j] is P times E[b]^2, or coupled times
    E[b]^(h_i + h_j - 2 c) E[b^2]^c, with c the number of features common to both paths.

    A sample costs rank multiply-adds for each root, and for each child of a feature that fires.
    Moments look at every pair of features, in blocks: a minute for 16,384.

    Extremes: F = 0 is `Hierarchy`; a forest of roots only is `GaussianCopula`.

    Args:
        parents, firing_prob: see `Hierarchy`.
        loadings: F, [n_features, rank], rows of norm <= 1.
        exclusive, exclusive_roots, coupled, magnitude: see `Hierarchy`.
    Raises:
        ValueError: as `Hierarchy`; a row of loadings longer than 1.
    """

    parents: tuple[int, ...]
    firing_prob: float | Tensor
    loadings: Tensor
    exclusive: bool | tuple[bool, ...] = False
    exclusive_roots: bool = False
    coupled: bool = False
    magnitude: Magnitude = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_loadings("CorrelatedHierarchy", self.loadings, self.n_features)

    @classmethod
    def of(cls, hierarchy: Hierarchy, loadings: Tensor) -> "CorrelatedHierarchy":
        """Returns the hierarchy with its marginals as they are and these loadings."""
        return cls(
            hierarchy.parents,
            hierarchy.firing_prob,
            loadings,
            hierarchy.exclusive,
            hierarchy.exclusive_roots,
            hierarchy.coupled,
            hierarchy.magnitude,
        )

    @classmethod
    def low_rank(
        cls, hierarchy: Hierarchy, rank: int, scale: float, *, generator: torch.Generator
    ) -> "CorrelatedHierarchy":
        """Returns the hierarchy with normal loadings of standard deviation `scale`.

        Args:
            rank: >= 1.
            scale: >= 0; a row has norm near scale sqrt(rank), which should stay well below 1.
        Raises:
            ValueError: loadings with a row longer than 1; the message says how to scale them.
        """
        where = "CorrelatedHierarchy.low_rank"
        n = hierarchy.n_features
        return cls.of(hierarchy, random_loadings(where, n, rank, scale, generator=generator))

    @cached_property
    def _innovations(self) -> dict[str, tuple[Innovations, ...]]:
        return {}

    def _innovations_on(self, device: torch.device) -> tuple[Innovations, ...]:
        if str(device) not in self._innovations:
            loadings = self.loadings.to(device, torch.float64)
            levels = self._levels_on(device)
            self._innovations[str(device)] = tuple(
                Innovations(level, loadings[level.features]) for level in levels
            )
        return self._innovations[str(device)]

    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        levels = self._innovations_on(generator.device)

        def draw(depth: int, rows: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
            factor = levels[depth].firing.factor(n, generator=generator)
            return levels[depth].draw(factor, rows, above, generator=generator)

        return self._descend(n, draw, generator=generator)

    def _sample_given(self, n: int, feature: int, *, generator: torch.Generator) -> Events:
        """As the base says: on each level of the feature's path the factor is drawn given that the
        path's innovation fires, then the rest given the factor. No sample is rejected."""
        levels = self._innovations_on(generator.device)
        path = [int(places[feature]) for places in self._ancestors]

        def draw(depth: int, rows: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
            level, child = levels[depth], path[depth]
            if child < 0:
                factor = level.firing.factor(n, generator=generator)
                return level.draw(factor, rows, above, generator=generator)
            unit = int(level.unit[child])
            factor = level.firing.factor_given(n, unit, generator=generator)
            events, children = level.draw(factor, rows, above, generator=generator)
            other = level.unit[children] != unit
            own = (above == level.parents[child]).nonzero()[:, 0]  # one in each sample
            return (
                torch.cat([events[other], own]),
                torch.cat([children[other], torch.full_like(own, child)]),
            )

        return self._descend(n, draw, generator=generator)

    @cached_property
    def _ancestors(self) -> list[Tensor]:
        """For each level, the place in it of each feature's ancestor (or itself); -1 above it."""
        found: list[Tensor] = []
        below = torch.full((self.n_features,), -1)  # their ancestors' parents, from below
        for level in reversed(self._levels_on(torch.device("cpu"))):
            places = below
            places[level.features] = torch.arange(len(level.features))
            found.append(places)
            below = torch.where(places < 0, -1, level.parents[places.clamp(min=0)])
        return found[::-1]

    def _cofiring_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        return symmetric_times(v, lambda start, stop: self._together(start, stop, 1.0))

    def _moment_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        mean, second = self.magnitude.mean(), self.magnitude.second_moment()
        if self.coupled:
            strength = self._strength(mean)[:, None]
            ratio = second / mean**2
            return strength * symmetric_times(
                strength * v, lambda start, stop: self._together(start, stop, ratio)
            )
        own = self.firing_probs()[:, None] * v
        return mean**2 * (self._cofiring_times(v) - own) + second * own

    def _together(self, start: int, stop: int, common: float) -> Tensor:
        """Returns P(i and j fire) common^(features in both paths), for i in [start, stop), j >= i.

        Written as p_i P(j | i), which does not underflow.
        """
        product = self.firing_probs()[start:stop, None].repeat(1, self.n_features - start)
        levels = self._innovations_on(torch.device("cpu"))
        for level, places in zip(levels, self._ancestors, strict=True):
            i, j = places[start:stop].clamp(min=0), places[start:].clamp(min=0)
            factor = level.given_other(i, j)
            factor = torch.where(i[:, None] == j, common, factor)
            factor = torch.where(places[start:stop, None] < 0, level.probs[j], factor)
            product *= torch.where(places[start:] < 0, 1.0, factor)
        return product

    @classmethod
    def example(cls) -> Any:
        hierarchy = Hierarchy.regular(3, branching=2, depth=2, root_prob=0.3, child_prob=0.45)
        shared = torch.linspace(0.9, 0.5, hierarchy.n_features, dtype=torch.float64)
        return cls.of(hierarchy, shared[:, None])

    @classmethod
    def strategy(cls) -> Any:
        def build(hierarchy: Hierarchy) -> Any:
            return loadings_strategy(hierarchy.n_features).map(lambda f: cls.of(hierarchy, f))

        return Hierarchy.strategy().flatmap(build)
