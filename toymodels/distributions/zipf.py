"""Independent features whose firing probabilities follow a power law."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check, check_size
from toymodels.magnitudes import Magnitude, Uniform
from toymodels.product_law import ProductLaw


@dataclass(frozen=True, eq=False)
class Zipf(ProductLaw):
    """Independent features with p_i = clip(first_prob * i^-alpha, floor, ceiling), i = 1, 2, ...

    Args:
        n_features: >= 1.
        alpha: exponent >= 0; 0 makes all features equally frequent.
        first_prob: p_1 before clipping, > 0 (it may exceed 1 if the ceiling does not).
        floor, ceiling: 0 <= floor <= ceiling <= 1; they bound the rare tail and the head.
        magnitude: law of the strength of a firing feature.
    Example:
        >>> Zipf(4, alpha=1.0, first_prob=0.4, floor=0.15).firing_probs().tolist()
        [0.4, 0.2, 0.15, 0.15]
    """

    n_features: int
    alpha: float
    first_prob: float
    floor: float = 0.0
    ceiling: float = 1.0
    magnitude: Magnitude = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        check_size("Zipf", n_features=self.n_features)
        check(0 <= self.alpha < float("inf"), "Zipf", "a finite alpha >= 0", alpha=self.alpha)
        positive = 0 < self.first_prob < float("inf")
        check(positive, "Zipf", "a finite first_prob > 0", first_prob=self.first_prob)
        check(
            0 <= self.floor <= self.ceiling <= 1,
            "Zipf",
            "0 <= floor <= ceiling <= 1",
            floor=self.floor,
            ceiling=self.ceiling,
        )

    def firing_probs(self) -> Float[Tensor, " n_features"]:
        rank = torch.arange(1, self.n_features + 1, dtype=torch.float64)
        return (self.first_prob * rank**-self.alpha).clamp(self.floor, self.ceiling)

    @classmethod
    def example(cls) -> Any:
        return cls(24, 1.0, 0.5)

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from toymodels.strategies import magnitudes, probs

        return st.builds(
            lambda n, alpha, first, bounds, magnitude: cls(
                n, alpha, first, min(bounds), max(bounds), magnitude
            ),
            st.integers(1, 8),
            st.floats(0, 3),
            st.floats(0.01, 2),
            st.tuples(probs(), probs()),
            magnitudes(),
        )
