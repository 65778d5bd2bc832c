"""Correlated magnitudes: everything that fires in a sample is louder or quieter together."""

from dataclasses import dataclass, field
from math import log, sqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check
from toymodels.distribution import OneMagnitude, ToyDistribution
from toymodels.events import Events
from toymodels.magnitudes import LogNormal, Magnitude
from toymodels.wrapper import Wrapper


@dataclass(frozen=True, eq=False)
class SharedGain(Wrapper):
    """The codes g a_i, where a is drawn from another law and g > 0 is drawn once for each sample.

    Means E[g] m_i, energies E[g^2] e_i, code moment E[g^2] C. Where strengths b of the other law
    are independent, those of two features that fire together get the correlation

        Var(g) E[b]^2 / (E[g^2] E[b^2] - E[g]^2 E[b]^2),

    0 if g is constant, 1 if b is.

    Args:
        base: the law of a.
        gain: law of g.
    """

    base: ToyDistribution
    gain: Magnitude = field(default_factory=LogNormal)

    @classmethod
    def from_correlation(cls, base: OneMagnitude, correlation: float) -> "SharedGain":
        """Returns the law in which strengths of features that co-fire have this correlation.

        The gain is lognormal with mean 1 and variance v = rho Var(b) / (E[b]^2 - rho E[b^2]).

        Args:
            base: a law whose strengths are independent.
            correlation: rho, from 0 to below E[b]^2 / E[b^2], which no gain reaches.
        """
        mean, second = base.magnitude.mean(), base.magnitude.second_moment()
        most, rho = mean**2 / second, correlation
        rule = f"0 <= correlation < {most:.6g}, which is E[b]^2 / E[b^2]"
        todo = "take a base with less variable magnitudes"
        check(0 <= rho < most, "SharedGain.from_correlation", rule, todo, correlation=rho)
        variance = rho * (second - mean**2) / (mean**2 - rho * second)
        return cls(base, LogNormal(-log(1 + variance) / 2, sqrt(log(1 + variance))))

    def _change(self, events: Events, *, generator: torch.Generator) -> Events:
        rows, place = events.rows.unique(return_inverse=True)  # no gain where nothing fires
        gains = self.gain.sample(len(rows), generator=generator)
        return Events(events.rows, events.features, gains[place] * events.values)

    def mean_codes(self) -> Float[Tensor, " n_features"]:
        return self.gain.mean() * self.base.mean_codes()

    def code_energies(self) -> Float[Tensor, " n_features"]:
        return self.gain.second_moment() * self.base.code_energies()

    def largest_codes(self) -> Float[Tensor, " n_features"]:
        return self.gain.largest() * self.base.largest_codes()

    def _moment_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        return self.gain.second_moment() * self.base._moment_times(v)

    @classmethod
    def example(cls) -> Any:
        from toymodels.distributions.independent import Independent

        return cls(Independent(24, 0.15))

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from toymodels.strategies import magnitudes, simple_distributions

        return st.builds(cls, simple_distributions(), magnitudes())
