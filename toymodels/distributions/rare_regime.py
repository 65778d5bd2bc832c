"""A rare regime: some samples draw from a disjoint set of rare features."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check, check_size
from toymodels.distribution import OneMagnitude
from toymodels.distributions.independent import Independent
from toymodels.events import Events, IndependentFiring, bernoulli_indices
from toymodels.magnitudes import Magnitude, Uniform


@dataclass(frozen=True, eq=False)
class RareRegime(OneMagnitude):
    """With probability pi a sample draws from the rare features, otherwise from the common ones.

    Within its regime each feature fires independently with probability p. Features of one regime
    are positively correlated with one another and never fire with those of the other. With
    s = 1 - pi (common, features 0 .. n_common - 1) or pi (rare, the rest):
    P(i fires) = s p, m_i = s p E[b], e_i = s p E[b^2], C_ij = s (p E[b])^2 within a regime
    (i != j) and 0 across.

    Args:
        n_common, n_rare: numbers of features, >= 1 each.
        regime_prob: pi, probability that a sample is in the rare regime, in [0, 1].
        firing_prob: p, probability that a feature fires given its regime, in [0, 1].
        magnitude: law of the strength of a firing feature.
    """

    n_common: int
    n_rare: int
    regime_prob: float
    firing_prob: float
    magnitude: Magnitude = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        where = "RareRegime"
        check_size(where, n_common=self.n_common, n_rare=self.n_rare)
        pi, p = self.regime_prob, self.firing_prob
        check(0 <= pi <= 1, where, "0 <= regime_prob <= 1", regime_prob=pi)
        check(0 <= p <= 1, where, "0 <= firing_prob <= 1", firing_prob=p)

    @property
    def n_features(self) -> int:
        return self.n_common + self.n_rare

    @cached_property
    def _within(self) -> tuple[IndependentFiring, IndependentFiring]:
        common, rare = (
            torch.full((size,), self.firing_prob, dtype=torch.float64)
            for size in (self.n_common, self.n_rare)
        )
        return IndependentFiring(common), IndependentFiring(rare)

    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        rare_rows = bernoulli_indices(n, self.regime_prob, generator=generator)
        is_common = torch.ones(n, dtype=torch.bool, device=generator.device)
        is_common[rare_rows] = False
        common_rows = is_common.nonzero()[:, 0]
        common, rare = self._within
        row_c, feature_c = common.draw(len(common_rows), generator=generator)
        row_r, feature_r = rare.draw(len(rare_rows), generator=generator)
        rows = torch.cat([common_rows[row_c], rare_rows[row_r]])
        features = torch.cat([feature_c, self.n_common + feature_r])
        return Events(rows, features, self.magnitude.sample(len(rows), generator=generator))

    def _shares(self) -> Float[Tensor, " n_features"]:
        common = torch.full((self.n_common,), 1 - self.regime_prob, dtype=torch.float64)
        rare = torch.full((self.n_rare,), self.regime_prob, dtype=torch.float64)
        return torch.cat([common, rare])

    def firing_probs(self) -> Float[Tensor, " n_features"]:
        return self._shares() * self.firing_prob

    def _cofiring_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        p = self.firing_prob  # given the regime
        common, rare = v[: self.n_common], v[self.n_common :]
        blocks = [
            ((p - p**2) * part + p**2 * part.sum(0)) * share
            for part, share in ((common, 1 - self.regime_prob), (rare, self.regime_prob))
        ]
        return torch.cat(blocks)

    def _given(self, feature: int) -> Independent:
        """The regime is then known, so that the features of that regime fire independently."""
        first = feature < self.n_common
        probs = torch.zeros(self.n_features, dtype=torch.float64)
        probs[slice(self.n_common) if first else slice(self.n_common, None)] = self.firing_prob
        probs[feature] = 1.0
        return Independent(self.n_features, probs, self.magnitude)

    @classmethod
    def example(cls) -> Any:
        return cls(16, 8, 0.1, 0.2)

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from toymodels.strategies import magnitudes, probs

        sizes = st.integers(1, 4)
        return st.builds(cls, sizes, sizes, probs(), probs(), magnitudes())
