"""A rare property: an attribute that attaches to a common carrier with small probability."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check, check_size
from toymodels.distribution import ToyDistribution
from toymodels.events import Events, IndependentFiring, bernoulli_indices
from toymodels.magnitudes import Magnitude, Uniform


@dataclass(frozen=True, eq=False)
class RareProperty(ToyDistribution):
    """Carriers fire independently; a carrier's property fires only with it, and seldom.

    Features 0 .. n_carriers - 1 are the carriers, feature n_carriers + i is the property of
    carrier i. Magnitudes are drawn independently for carrier and property.
    P(carrier) = p, P(property) = p q, E[a_carrier a_property] = p q E[b] E[b'] for its own carrier
    and p^2 q E[b] E[b'] for another.

    Args:
        n_carriers: >= 1.
        carrier_prob: p, in [0, 1].
        property_prob: q, probability of the property given its carrier, in [0, 1].
        magnitude: law of b, the strength of a carrier.
        property_magnitude: law of b', the strength of a property.
    """

    n_carriers: int
    carrier_prob: float
    property_prob: float
    magnitude: Magnitude = field(default_factory=Uniform)
    property_magnitude: Magnitude = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        where = "RareProperty"
        check_size(where, n_carriers=self.n_carriers)
        p, q = self.carrier_prob, self.property_prob
        check(0 <= p <= 1, where, "0 <= carrier_prob <= 1", carrier_prob=p)
        check(0 <= q <= 1, where, "0 <= property_prob <= 1", property_prob=q)

    @property
    def n_features(self) -> int:
        return 2 * self.n_carriers

    @cached_property
    def _carriers(self) -> IndependentFiring:
        probs = torch.full((self.n_carriers,), self.carrier_prob, dtype=torch.float64)
        return IndependentFiring(probs)

    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        rows, carriers = self._carriers.draw(n, generator=generator)
        chosen = bernoulli_indices(len(rows), self.property_prob, generator=generator)
        values = self.magnitude.sample(len(rows), generator=generator)
        extra = self.property_magnitude.sample(len(chosen), generator=generator)
        return Events(
            torch.cat([rows, rows[chosen]]),
            torch.cat([carriers, self.n_carriers + carriers[chosen]]),
            torch.cat([values, extra]),
        )

    def _per_feature(self, carrier: float, attribute: float) -> Float[Tensor, " n_features"]:
        values = torch.tensor([carrier, attribute], dtype=torch.float64)
        return values.repeat_interleave(self.n_carriers)

    def firing_probs(self) -> Float[Tensor, " n_features"]:
        return self._per_feature(self.carrier_prob, self.carrier_prob * self.property_prob)

    def mean_codes(self) -> Float[Tensor, " n_features"]:
        means = self._per_feature(self.magnitude.mean(), self.property_magnitude.mean())
        return self.firing_probs() * means

    def code_energies(self) -> Float[Tensor, " n_features"]:
        law, extra = self.magnitude, self.property_magnitude
        return self.firing_probs() * self._per_feature(law.second_moment(), extra.second_moment())

    def _moment_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        mean = self.mean_codes()
        n = self.n_carriers
        product = torch.outer(mean, mean @ v) + (self.code_energies() - mean**2)[:, None] * v
        # Beyond independence only a carrier and its own property are correlated.
        own = self.carrier_prob * self.property_prob
        own = own * self.magnitude.mean() * self.property_magnitude.mean()
        extra = own - float(mean[0] * mean[n])
        return product + extra * torch.cat([v[n:], v[:n]])

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from toymodels.strategies import magnitudes, probs

        return st.builds(cls, st.integers(1, 4), probs(), probs(), magnitudes(), magnitudes())
