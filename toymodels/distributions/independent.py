"""Independent features."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check_size
from toymodels.magnitudes import Magnitude, Uniform
from toymodels.product_law import ProductLaw, per_feature_probs


@dataclass(frozen=True, eq=False)
class Independent(ProductLaw):
    """Feature i fires with its own probability, independently of all others.

    Args:
        n_features: >= 1.
        firing_prob: one probability for all features, or [n_features] of them, each in [0, 1].
        magnitude: law of the strength of a firing feature.
    Example:
        >>> Independent(3, 0.1).expected_l0()
        0.30000000000000004
    """

    n_features: int
    firing_prob: float | Tensor
    magnitude: Magnitude = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        check_size("Independent", n_features=self.n_features)
        self.firing_probs()

    def firing_probs(self) -> Float[Tensor, " n_features"]:
        return per_feature_probs("Independent", self.firing_prob, self.n_features)

    @classmethod
    def example(cls) -> Any:
        return cls(24, 0.1)

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from toymodels.strategies import magnitudes, probs

        @st.composite
        def build(draw: Any) -> Independent:
            values = draw(st.lists(probs(), min_size=1, max_size=8))
            one = draw(st.booleans())
            prob = values[0] if one else torch.tensor(values, dtype=torch.float64)
            return cls(len(values), prob, draw(magnitudes()))

        return build()
