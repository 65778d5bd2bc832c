"""Independent groups of mutually exclusive features."""

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
class ExclusiveGroups(OneMagnitude):
    """In each group at most one feature fires: with probability q one of its g, uniformly.

    Group i holds the features i g .. (i + 1) g - 1; groups are independent. P(i fires) = q / g,
    m_i = q/g E[b], e_i = q/g E[b^2], C_ij = 0 within a group (i != j) and m_i m_j across.

    Args:
        n_groups: >= 1.
        group_size: g, >= 1; with 1 the features are independent.
        active_prob: q, in [0, 1]: 1 leaves no group silent, 0 leaves all.
        magnitude: law of b, the strength of a firing feature.
    """

    n_groups: int
    group_size: int
    active_prob: float
    magnitude: Magnitude = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        where = "ExclusiveGroups"
        check_size(where, n_groups=self.n_groups, group_size=self.group_size)
        q = self.active_prob
        check(0 <= q <= 1, where, "0 <= active_prob <= 1", active_prob=q)

    @property
    def n_features(self) -> int:
        return self.n_groups * self.group_size

    def firing_probs(self) -> Float[Tensor, " n_features"]:
        prob = self.active_prob / self.group_size
        return torch.full((self.n_features,), prob, dtype=torch.float64)

    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        active = bernoulli_indices(n * self.n_groups, self.active_prob, generator=generator)
        rows, groups = active // self.n_groups, active % self.n_groups
        uniform = uniforms(len(active), generator=generator)
        features = groups * self.group_size + (uniform * self.group_size).long()
        return Events(rows, features, self.magnitude.sample(len(rows), generator=generator))

    def _cofiring_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        p = self.active_prob / self.group_size
        own = v.reshape(self.n_groups, self.group_size, -1).sum(1)
        others = (own.sum(0) - own).repeat_interleave(self.group_size, 0)
        return p * v + p**2 * others

    def _given(self, feature: int) -> Blocks:
        n = self.n_features
        features, ones = torch.arange(n), torch.ones(n, dtype=torch.float64)
        alone = Codes(torch.arange(n + 1), features, ones, n)  # pattern i: feature i fires
        prob = self.active_prob / self.group_size
        return Blocks(features // self.group_size, alone, prob, self.magnitude)._given(feature)

    @classmethod
    def example(cls) -> Any:
        return cls(4, 6, 0.6)

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from toymodels.strategies import magnitudes, probs

        sizes = st.integers(1, 4).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, 8 // n)))
        return st.builds(
            lambda size, prob, magnitude: cls(size[0], size[1], prob, magnitude),
            sizes,
            probs(),
            magnitudes(),
        )
