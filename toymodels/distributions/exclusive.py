"""Mutually exclusive features: at most one fires."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check, check_size
from toymodels.distribution import OneMagnitude
from toymodels.events import Events, bernoulli_indices, uniforms
from toymodels.magnitudes import Magnitude, Uniform
from toymodels.product_law import per_feature_probs


@dataclass(frozen=True, eq=False)
class Exclusive(OneMagnitude):
    """At most one feature fires per sample: feature i with probability p_i, none with 1 - sum p.

    m_i = p_i E[b], e_i = p_i E[b^2], C = diag(e).

    Args:
        n_features: >= 1.
        firing_prob: one probability for all features, or [n_features] of them; their sum <= 1.
        magnitude: law of the strength of the firing feature.
    """

    n_features: int
    firing_prob: float | Tensor
    magnitude: Magnitude = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        check_size("Exclusive", n_features=self.n_features)
        total = float(self.firing_probs().sum())
        check(
            total <= 1 + 1e-6,  # probabilities rounded to float32 may sum to a little more
            "Exclusive",
            "probabilities that sum to at most 1 (features exclude one another)",
            sum_of_firing_probs=total,
        )

    def firing_probs(self) -> Float[Tensor, " n_features"]:
        return per_feature_probs("Exclusive", self.firing_prob, self.n_features)

    @cached_property
    def _intervals(self) -> tuple[Float[Tensor, " n_features"], float, int]:
        """The upper ends of the intervals of [0, sum p), their sum, and the last non-empty one."""
        ends = self.firing_probs().cumsum(0)
        possible = self.firing_probs().nonzero()
        return ends, float(ends[-1]), int(possible[-1]) if len(possible) else 0

    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        ends, total, last = self._intervals
        rows = bernoulli_indices(n, total, generator=generator)
        uniform = uniforms(len(rows), generator=generator)
        # Inverse of the cumulative law; a feature of probability 0 has an empty interval.
        features = torch.searchsorted(ends.to(uniform.device), uniform * total, right=True)
        features = features.clamp(max=last)
        return Events(rows, features, self.magnitude.sample(len(rows), generator=generator))

    def _cofiring_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        return self.firing_probs()[:, None] * v

    def _given(self, feature: int) -> "Exclusive":
        probs = torch.zeros(self.n_features, dtype=torch.float64)
        probs[feature] = 1.0
        return Exclusive(self.n_features, probs, self.magnitude)

    @classmethod
    def example(cls) -> Any:
        return cls(24, torch.linspace(0.08, 0.002, 24))

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from toymodels.strategies import magnitudes, probs

        @st.composite
        def build(draw: Any) -> Exclusive:
            shares = draw(st.lists(st.integers(0, 5), min_size=1, max_size=8))
            total = draw(probs())
            weights = torch.tensor(shares, dtype=torch.float64)
            prob = total * weights / max(1.0, float(weights.sum()))
            return cls(len(shares), prob, draw(magnitudes()))

        return build()
