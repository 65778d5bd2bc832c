"""Bipolar features: directions that are used with both signs."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.distribution import ToyDistribution
from toymodels.events import Events, uniforms
from toymodels.product_law import per_feature_probs
from toymodels.wrapper import Wrapper


@dataclass(frozen=True, eq=False)
class Signed(Wrapper):
    """The codes sigma_i a_i, where sigma_i is +1 with probability q_i, else -1, independently.

    With d_i = E[sigma_i] = 2 q_i - 1: means d_i m_i, energies e_i, and the code moment of i != j
    d_i d_j C_ij. Firing is that of the other law. A ray has q_i = 1; a feature as often negative
    as positive (q_i = 1/2) has mean 0 and is uncorrelated with every other.

    Args:
        base: the law of a.
        positive_prob: q, one for all features or [n_features], in [0, 1].
    Example:
        >>> Signed(Independent(1, 1.0, Constant(2.0)), 0.75).mean_codes().item()
        1.0
    """

    base: ToyDistribution
    positive_prob: float | Tensor = 0.5

    def __post_init__(self) -> None:
        self._positive_probs()

    def _positive_probs(self) -> Float[Tensor, " n_features"]:
        return per_feature_probs("Signed", self.positive_prob, self.n_features, "positive_prob")

    def _mean_signs(self) -> Float[Tensor, " n_features"]:
        return 2 * self._positive_probs() - 1

    @property
    def signed(self) -> bool:
        return True

    def _change(self, events: Events, *, generator: torch.Generator) -> Events:
        uniform = uniforms(len(events.rows), generator=generator)
        positive = uniform < self._positive_probs().to(uniform.device)[events.features]
        values = torch.where(positive, events.values, -events.values)
        return Events(events.rows, events.features, values)

    def mean_codes(self) -> Float[Tensor, " n_features"]:
        return self._mean_signs() * self.base.mean_codes()

    def code_energies(self) -> Float[Tensor, " n_features"]:
        return self.base.code_energies()

    def largest_codes(self) -> Float[Tensor, " n_features"]:
        return self.base.largest_codes()

    def _moment_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        signs = self._mean_signs()[:, None]
        own = (1 - signs**2) * self.code_energies()[:, None]  # a sign times itself is 1
        return signs * self.base._moment_times(signs * v) + own * v

    @classmethod
    def example(cls) -> Any:
        from toymodels.distributions.independent import Independent

        return cls(Independent(24, 0.15))

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from toymodels.strategies import probs, simple_distributions

        @st.composite
        def build(draw: Any) -> Signed:
            base = draw(simple_distributions())
            n = base.n_features
            each = st.lists(st.floats(0, 1), min_size=n, max_size=n).map(
                lambda values: torch.tensor(values, dtype=torch.float64)
            )
            return cls(base, draw(probs() | each))

        return build()
