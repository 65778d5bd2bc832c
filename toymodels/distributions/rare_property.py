"""A rare property: an attribute that attaches to a common carrier with small probability."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check_size
from toymodels.distribution import ToyDistribution
from toymodels.events import Events, IndependentFiring, bernoulli_indices, uniforms
from toymodels.magnitudes import Magnitude, Uniform
from toymodels.product_law import per_feature_probs


@dataclass(frozen=True, eq=False)
class RareProperty(ToyDistribution):
    """Carriers fire independently; a carrier's property fires only with it, and seldom.

    Features 0 .. n_carriers - 1 are the carriers, feature n_carriers + i is the property of
    carrier i. Magnitudes are drawn independently for carrier and property. P(carrier i) = p_i,
    P(property i) = p_i q_i; a carrier and its own property fire together with probability p_i q_i,
    all others independently, which also gives E[a_carrier a_property] = p_i q_i E[b] E[b'].

    Args:
        n_carriers: >= 1.
        carrier_prob: p, one for all or one for each carrier, in [0, 1].
        property_prob: q, probability of the property given its carrier, likewise.
        magnitude: law of b, the strength of a carrier.
        property_magnitude: law of b', the strength of a property.
    """

    n_carriers: int
    carrier_prob: float | Tensor
    property_prob: float | Tensor
    magnitude: Magnitude = field(default_factory=Uniform)
    property_magnitude: Magnitude = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        check_size("RareProperty", n_carriers=self.n_carriers)
        self.firing_probs()  # checks both probabilities

    @property
    def n_features(self) -> int:
        return 2 * self.n_carriers

    def _probs(self) -> tuple[Float[Tensor, " n_carriers"], Float[Tensor, " n_carriers"]]:
        n, where = self.n_carriers, "RareProperty"
        p = per_feature_probs(where, self.carrier_prob, n, "carrier_prob")
        return p, per_feature_probs(where, self.property_prob, n, "property_prob")

    @cached_property
    def _carriers(self) -> IndependentFiring:
        return IndependentFiring(self._probs()[0])

    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        rows, carriers = self._carriers.draw(n, generator=generator)
        q = self._probs()[1].to(rows.device)
        highest = float(q.max())
        chosen = bernoulli_indices(len(rows), highest, generator=generator)
        if isinstance(self.property_prob, Tensor) and self.property_prob.ndim:
            uniform = uniforms(len(chosen), generator=generator)
            chosen = chosen[uniform * highest < q[carriers[chosen]]]
        values = self.magnitude.sample(len(rows), generator=generator)
        extra = self.property_magnitude.sample(len(chosen), generator=generator)
        return Events(
            torch.cat([rows, rows[chosen]]),
            torch.cat([carriers, self.n_carriers + carriers[chosen]]),
            torch.cat([values, extra]),
        )

    def firing_probs(self) -> Float[Tensor, " n_features"]:
        p, q = self._probs()
        return torch.cat([p, p * q])

    def _per_feature(self, carrier: float, attribute: float) -> Float[Tensor, " n_features"]:
        values = torch.tensor([carrier, attribute], dtype=torch.float64)
        return values.repeat_interleave(self.n_carriers)

    def mean_codes(self) -> Float[Tensor, " n_features"]:
        means = self._per_feature(self.magnitude.mean(), self.property_magnitude.mean())
        return self.firing_probs() * means

    def code_energies(self) -> Float[Tensor, " n_features"]:
        law, extra = self.magnitude, self.property_magnitude
        return self.firing_probs() * self._per_feature(law.second_moment(), extra.second_moment())

    def largest_codes(self) -> Float[Tensor, " n_features"]:
        return self._per_feature(self.magnitude.largest(), self.property_magnitude.largest())

    def _moment_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        mean = self.mean_codes()
        n = self.n_carriers
        product = torch.outer(mean, mean @ v) + (self.code_energies() - mean**2)[:, None] * v
        # Beyond independence only a carrier and its own property are correlated.
        p, q = self._probs()
        together = p * q * self.magnitude.mean() * self.property_magnitude.mean()
        extra = (together - mean[:n] * mean[n:])[:, None]
        return product + torch.cat([extra * v[n:], extra * v[:n]])

    def _given(self, feature: int) -> "RareProperty":
        """The carrier fires; and so does its property, if that is the feature."""
        p, q = (probs.clone() for probs in self._probs())
        p[feature % self.n_carriers] = 1.0
        if feature >= self.n_carriers:
            q[feature - self.n_carriers] = 1.0
        return RareProperty(self.n_carriers, p, q, self.magnitude, self.property_magnitude)

    @classmethod
    def example(cls) -> Any:
        return cls(12, 0.2, 0.15)

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from toymodels.strategies import magnitudes, probs

        @st.composite
        def build(draw: Any) -> RareProperty:
            n = draw(st.integers(1, 4))
            each = st.lists(probs(), min_size=n, max_size=n).map(
                lambda values: torch.tensor(values, dtype=torch.float64)
            )
            p, q = (draw(probs() | each) for _ in range(2))
            return cls(n, p, q, draw(magnitudes()), draw(magnitudes()))

        return build()
