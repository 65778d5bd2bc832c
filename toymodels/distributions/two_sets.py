"""Two sets of features: every sample combines one of each, or shows one feature alone."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check, check_size
from toymodels.codes import Codes
from toymodels.distribution import OneMagnitude
from toymodels.distributions.blocks import Blocks
from toymodels.events import Events, bernoulli_indices, uniforms
from toymodels.magnitudes import Magnitude, Uniform


@dataclass(frozen=True, eq=False)
class TwoSets(OneMagnitude):
    """One feature of each set fires; with probability h one feature of the union fires instead.

    Features 0 .. n_first - 1 are the first set, the rest the second. All choices are uniform and
    independent. With N = n_first + n_second, P(i fires) = (1 - h) / (size of its set) + h / N,
    m_i = P(i fires) E[b], e_i = P(i fires) E[b^2], C_ij = (1 - h) / (n_first n_second) E[b]^2
    across the sets and 0 within one (i != j). Expected l0: 2 - h, whatever the sizes.

    Args:
        n_first, n_second: sizes of the sets, >= 1 each.
        one_hot_prob: h, in [0, 1]: 0 shows only combinations, 1 only lone features.
        magnitude: law of b, drawn independently for each firing feature.
    Source: Anders, Neo, Hoelscher-Obermaier and Howard 2024, Sparse autoencoders find composed
        features in small toy models: TwoSets(n, n, h, Uniform(0, 1)), h up to 0.75. Sets of one
        size make "uniform over the union" and "a set by a fair coin, then one of it" the same;
        sets of different sizes do not, and here it is the former. `SharedGain` correlates the
        magnitudes; their option of a favoured combination is not covered.
    Example:
        >>> TwoSets(2, 3, 0.0).firing_probs().tolist()[1:3]
        [0.5, 0.3333333333333333]
    """

    n_first: int
    n_second: int
    one_hot_prob: float
    magnitude: Magnitude = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        check_size("TwoSets", n_first=self.n_first, n_second=self.n_second)
        h = self.one_hot_prob
        check(0 <= h <= 1, "TwoSets", "0 <= one_hot_prob <= 1", one_hot_prob=h)

    @property
    def n_features(self) -> int:
        return self.n_first + self.n_second

    def firing_probs(self) -> Float[Tensor, " n_features"]:
        sizes = torch.tensor([self.n_first, self.n_second])
        probs = (1 - self.one_hot_prob) / sizes.to(torch.float64)
        return (probs + self.one_hot_prob / self.n_features).repeat_interleave(sizes)

    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        device = generator.device
        alone = bernoulli_indices(n, self.one_hot_prob, generator=generator)
        combined = torch.ones(n, dtype=torch.bool, device=device)
        combined[alone] = False
        both = combined.nonzero()[:, 0]
        rows = torch.cat([both, both, alone])
        uniform = uniforms(len(rows), generator=generator)
        first, second, lone = uniform.split([len(both), len(both), len(alone)])
        features = torch.cat(
            [
                (first * self.n_first).long(),
                self.n_first + (second * self.n_second).long(),
                (lone * self.n_features).long(),
            ]
        )
        return Events(rows, features, self.magnitude.sample(len(rows), generator=generator))

    def _cofiring_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        both = (1 - self.one_hot_prob) / (self.n_first * self.n_second)
        first, second = v[: self.n_first].sum(0), v[self.n_first :].sum(0)
        other = torch.cat([second.expand(self.n_first, -1), first.expand(self.n_second, -1)])
        return self.firing_probs()[:, None] * v + both * other

    def _given(self, feature: int) -> Blocks:
        """It fires, and of the other set at most one feature; of its own set no other."""
        n = self.n_features
        features, ones = torch.arange(n), torch.ones(n, dtype=torch.float64)
        alone = Codes(torch.arange(n + 1), features, ones, n)  # pattern i: feature i fires
        second = features >= self.n_first
        both = (1 - self.one_hot_prob) / (self.n_first * self.n_second)
        share = both / self.firing_probs()[feature]
        prob = torch.where(second == second[feature], 0.0, share)
        prob[feature] = 1.0
        return Blocks(second.long(), alone, prob, self.magnitude)

    @classmethod
    def example(cls) -> Any:
        return cls(12, 12, 0.25, Uniform(0.0, 1.0))

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from toymodels.strategies import magnitudes, probs

        sizes = st.integers(1, 4)
        return st.builds(cls, sizes, sizes, probs(), magnitudes())
