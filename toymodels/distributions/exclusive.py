"""Mutually exclusive features: at most one fires."""

from dataclasses import dataclass, field
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

    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        ends = self.firing_probs().to(generator.device).cumsum(0)
        total = float(ends[-1])
        rows = bernoulli_indices(n, total, generator=generator)
        uniform = uniforms(len(rows), generator=generator)
        # Inverse of the cumulative law; a feature of probability 0 has an empty interval.
        features = torch.searchsorted(ends, uniform * total, right=True)
        features = features.clamp(max=int(self.firing_probs().nonzero()[-1]) if total else 0)
        return Events(rows, features, self.magnitude.sample(len(rows), generator=generator))

    def _moment_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        return self.code_energies()[:, None] * v

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
