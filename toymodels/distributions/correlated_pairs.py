"""Pairs of features with any feasible joint law."""

import math
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

_ROUNDING = 1e-12  # by how much a request may overshoot its bounds: 0.9 + 0.4 - 1 > 0.3
_MAGNITUDE = Uniform()


@dataclass(frozen=True, eq=False)
class CorrelatedPairs(OneMagnitude):
    """Features 2i and 2i + 1 fire with probabilities p and q, and together with probability r.

    Pairs are independent of one another. m = (p, q) E[b] and e = (p, q) E[b^2], repeated;
    C_ij = r E[b]^2 for partners and m_i m_j for strangers. The first alone, the second alone and
    neither fire with probabilities p - r, q - r and 1 - p - q + r, all >= 0 where
    max(0, p + q - 1) <= r <= min(p, q). Independent at r = p q; at the upper bound the rarer fires
    only with the commoner; at r = 0 they exclude one another; r = p P(second | first) requests a
    conditional probability.

    Args:
        n_pairs: >= 1.
        first_prob, second_prob: p and q, in [0, 1].
        joint_prob: r, from max(0, p + q - 1) to min(p, q).
        magnitude: law of b, drawn independently for each of the two.
    Example:
        >>> CorrelatedPairs(1, 0.5, 0.5, joint_prob=0.0).correlation()
        -1.0
    """

    n_pairs: int
    first_prob: float
    second_prob: float
    joint_prob: float
    magnitude: Magnitude = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        where = "CorrelatedPairs"
        check_size(where, n_pairs=self.n_pairs)
        p, q, r = self.first_prob, self.second_prob, self.joint_prob
        check(0 <= p <= 1, where, "0 <= first_prob <= 1", first_prob=p)
        check(0 <= q <= 1, where, "0 <= second_prob <= 1", second_prob=q)
        low, high = _joint_range(p, q)
        check(
            0 <= r and low - _ROUNDING <= r <= high * (1 + _ROUNDING),
            where,
            f"{low!r} <= joint_prob <= {high!r} (from max(0, p + q - 1) to min(p, q))",
            joint_prob=r,
            first_prob=p,
            second_prob=q,
        )

    @classmethod
    def from_correlation(
        cls,
        n_pairs: int,
        first_prob: float,
        second_prob: float,
        correlation: float,
        magnitude: Magnitude = _MAGNITUDE,
    ) -> "CorrelatedPairs":
        """Returns pairs whose firing, as 0 or 1, has Pearson correlation phi = `correlation`.

        r = p q + phi sqrt(p (1-p) q (1-q)). Rare features cannot be strongly anti-correlated: at
        p = q the range is from -p / (1-p) (p <= 1/2) to 1, and 1 is feasible only at p = q.

        Args:
            n_pairs, first_prob, second_prob, magnitude: those of the class.
            correlation: phi, in the range that p and q allow; the error states it.
        Raises:
            ValueError: a phi outside it; p or q not strictly between 0 and 1.
        """
        where = "CorrelatedPairs.from_correlation"
        p, q, phi = first_prob, second_prob, correlation
        inside = "strictly between 0 and 1 (else there is no correlation)"
        check(0 < p < 1, where, f"first_prob {inside}", first_prob=p)
        check(0 < q < 1, where, f"second_prob {inside}", second_prob=q)
        deviation = _deviation(p, q)
        joint = p * q + phi * deviation
        least, most = _joint_range(p, q)
        check(
            least - _ROUNDING * p * q <= joint <= most * (1 + _ROUNDING),
            where,
            f"{(least - p * q) / deviation!r} <= correlation <= {(most - p * q) / deviation!r} "
            "(what these probabilities allow)",
            correlation=phi,
            first_prob=p,
            second_prob=q,
        )
        return cls(n_pairs, p, q, min(max(joint, least), most), magnitude)

    def correlation(self) -> float:
        """Returns the correlation phi of partners' firing, in [-1, 1]; NaN if one is constant."""
        p, q = self.first_prob, self.second_prob
        deviation = _deviation(p, q)
        return (self.joint_prob - p * q) / deviation if deviation > 0 else math.nan

    @property
    def n_features(self) -> int:
        return 2 * self.n_pairs

    def firing_probs(self) -> Float[Tensor, " n_features"]:
        pair = torch.tensor([self.first_prob, self.second_prob], dtype=torch.float64)
        return pair.repeat(self.n_pairs)

    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        p, r = self.first_prob, self.joint_prob
        either = p + max(0.0, self.second_prob - r)
        cells = bernoulli_indices(n * self.n_pairs, either, generator=generator)
        uniform = uniforms(len(cells), generator=generator)
        # Of [0, either): both below r, only the first from there to p, only the second above.
        mark = uniform * either
        first, second = cells[mark < p], cells[(mark < r) | (mark >= p)]
        found = torch.cat([2 * first, 2 * second + 1])  # row * n_features + feature
        values = self.magnitude.sample(len(found), generator=generator)
        return Events(found // self.n_features, found % self.n_features, values)

    def _cofiring_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        p = self.firing_probs()[:, None]
        own = (p * v).reshape(self.n_pairs, 2, -1).sum(1)
        strangers = (own.sum(0) - own).repeat_interleave(2, 0)
        partner = v.reshape(self.n_pairs, 2, -1).flip(1).reshape(v.shape)
        return p * (v + strangers) + self.joint_prob * partner

    def _given(self, feature: int) -> Blocks:
        n = self.n_features
        features = torch.arange(n)
        both = torch.arange(self.n_pairs).repeat_interleave(2)  # pattern i: the pair i fires
        alone = self.n_pairs + features
        rows, ones = torch.cat([both, alone]), torch.ones(2 * n, dtype=torch.float64)
        patterns = Codes.from_events(
            rows, features.repeat(2), ones, n_rows=self.n_pairs + n, n_features=n
        )
        p, q, r = self.first_prob, self.second_prob, min(self.joint_prob, self.first_prob)
        lone = torch.tensor([p - r, max(0.0, q - r)], dtype=torch.float64).repeat(self.n_pairs)
        prob = torch.cat([torch.full_like(lone[::2], r), lone])
        return Blocks(features // 2, patterns, prob, self.magnitude)._given(feature)

    @classmethod
    def example(cls) -> Any:
        return cls(12, 0.15, 0.1, 0.08)

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from toymodels.strategies import magnitudes, probs

        def build(n: int, law: tuple[float, float, float], magnitude: Magnitude) -> Any:
            p, q, share = law
            low, high = _joint_range(p, q)
            return cls(n, p, q, low + share * (high - low), magnitude)

        # At the bounds common features are clearly correlated: |r - p q| >= 1/16.
        common, bound = st.floats(0.25, 0.75), st.sampled_from([1.0, 0.0])
        laws = st.tuples(probs(), probs(), probs()) | st.tuples(common, common, bound)
        return st.builds(build, st.integers(1, 4), laws, magnitudes())


def _deviation(p: float, q: float) -> float:
    """Returns the product of the standard deviations of two indicators."""
    return math.sqrt(p * (1 - p)) * math.sqrt(q * (1 - q))


def _joint_range(p: float, q: float) -> tuple[float, float]:
    """Returns the least and the largest P(both), Frechet's bounds, each rounded once."""
    return max(0.0, math.fsum((p, q, -1.0))), min(p, q)
