"""Exactly k features fire, a uniformly random k of them."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from toymodels.checks import check, check_size
from toymodels.distribution import OneMagnitude
from toymodels.events import Events, uniforms
from toymodels.magnitudes import Magnitude, Uniform


@dataclass(frozen=True, eq=False)
class ExactlyK(OneMagnitude):
    """In every sample exactly k features fire; all subsets of size k are equally likely.

    Of the binom(n, k) subsets, binom(n-1, k-1) hold a given feature and binom(n-2, k-2) a given
    pair, so P(i fires) = k / n and P(i and j fire) = k (k-1) / (n (n-1)), less than (k/n)^2 unless
    k = n: features compete for k places. Hence m_i = k/n E[b], e_i = k/n E[b^2] and
    C_ij = k (k-1) / (n (n-1)) E[b]^2 for i != j.

    Args:
        n_features: n, >= 1.
        k: from 1 (one-hot) to n_features (all fire).
        magnitude: law of b, drawn independently for each of the k.
    Example:
        >>> ExactlyK(6, 2).expected_l0()
        2.0
    """

    n_features: int
    k: int
    magnitude: Magnitude = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        check_size("ExactlyK", n_features=self.n_features, k=self.k)
        n = self.n_features
        check(self.k <= n, "ExactlyK", f"1 <= k <= {n} (n_features)", k=self.k)

    def expected_l0(self) -> float:
        return float(self.k)

    def firing_probs(self) -> Float[Tensor, " n_features"]:
        return torch.full((self.n_features,), self.k / self.n_features, dtype=torch.float64)

    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        # Above n_features / 2 the silent ones are drawn: the mask is then at most twice the events.
        if 2 * self.k <= self.n_features:
            cells = _subsets(n, self.n_features, self.k, generator)
        else:
            fires = torch.ones(n * self.n_features, dtype=torch.bool, device=generator.device)
            fires[_subsets(n, self.n_features, self.n_features - self.k, generator)] = False
            cells = fires.nonzero()[:, 0]
        rows, features = cells // self.n_features, cells % self.n_features
        return Events(rows, features, self.magnitude.sample(len(rows), generator=generator))

    def _cofiring_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        n = self.n_features
        both = self.k * (self.k - 1) / max(1, n * (n - 1))  # a lone feature has no partner
        return (self.firing_probs()[:, None] - both) * v + both * v.sum(0)

    @classmethod
    def example(cls) -> Any:
        return cls(24, 4)

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from toymodels.strategies import magnitudes

        sizes = st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))
        return st.builds(lambda size, law: cls(size[0], size[1], law), sizes, magnitudes())


def _subsets(
    n_rows: int, n_features: int, k: int, generator: torch.Generator
) -> Int[Tensor, " n_rows_times_k"]:
    """Returns the cells row * n_features + feature of a uniform k-subset per row, sorted.

    Draws with replacement, and draws anew what came twice until each row has k. No feature is
    treated unlike another, so all k-subsets are equally likely. With k <= n_features / 2 a draw
    is wasted with probability below 1/2: fewer than 2 k draws per row on average, in about
    log2(n_rows k) rounds at most.
    """
    device = generator.device
    cells = torch.empty(0, dtype=torch.int64, device=device)
    missing = torch.arange(n_rows, device=device).repeat_interleave(k)  # one entry per draw
    while len(missing):
        uniform = uniforms(len(missing), generator=generator)
        drawn = missing * n_features + (uniform * n_features).long()
        cells = torch.cat([cells, drawn]).unique()
        found = torch.bincount(cells // n_features, minlength=n_rows)
        missing = torch.arange(n_rows, device=device).repeat_interleave(k - found)
    return cells
