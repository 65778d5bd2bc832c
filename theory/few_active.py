"""Laws of one or two active features with uniform magnitudes, and how far one is from another."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from theory.checks import check, check_finite

_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class FewActive:
    """The law of x = z e_i, or x = z e_i + z' e_j: magnitudes independent and uniform on [0, 1].

    Args:
        singles: [n_features], probability that feature i is active alone.
        pairs: [n_features, n_features], symmetric, 0 on the diagonal: entry ij is half the
            probability that i and j are active together. All entries of both sum to 1.
    """

    singles: Float[Tensor, " n_features"]
    pairs: Float[Tensor, "n_features n_features"]

    def __post_init__(self) -> None:
        q, pairs = self.singles, self.pairs
        where, shapes = "FewActive", {"singles": tuple(q.shape), "pairs": tuple(pairs.shape)}
        fits = q.ndim == 1 and len(q) > 0 and pairs.shape == (len(q), len(q))
        check(fits, where, "[n_features] and [n_features, n_features]", **shapes)
        check_finite(where, singles=q, pairs=pairs)
        least = min(float(q.min()), float(pairs.min()))
        check(least >= 0, where, "probabilities >= 0", smallest=least)
        symmetric = bool((pairs == pairs.T).all() and (pairs.diagonal() == 0).all())
        check(symmetric, where, "symmetric pairs, 0 on the diagonal", symmetric=symmetric)
        total = float(q.sum() + pairs.sum())
        check(abs(total - 1) < _ROUNDING, where, "probabilities that sum to 1", total=total)

    def with_pairs(
        self, share: float, pairs: Float[Tensor, "n_features n_features"]
    ) -> "FewActive":
        """Returns (1 - share) P + share P', P' the law of pairs alone, which sum to 1."""
        check(0 <= share <= 1, "with_pairs", "0 <= share <= 1", share=share)
        rest = 1 - share
        return FewActive(rest * self.singles, rest * self.pairs + share * pairs)


@dataclass(frozen=True)
class LawDistance:
    """kl: KL(after || before) in nats, infinite where the support grew.   reverse_kl: the other
    way round, infinite where it shrank.   tv: total variation distance, in [0, 1]."""

    kl: float
    reverse_kl: float
    tv: float


def law_distance(before: FewActive, after: FewActive) -> LawDistance:
    """Returns how far one law is from another, exactly: they differ in which features are active.

    A share s of pairs beside single features alone: infinity, -ln(1 - s) and s.
    """
    p, q = (torch.cat([law.singles, law.pairs.flatten()]).double() for law in (before, after))
    sizes = len(before.singles), len(after.singles)
    check(sizes[0] == sizes[1], "law_distance", "two laws of as many features", n_features=sizes)
    return LawDistance(kl(q, p), kl(p, q), float((p - q).abs().sum()) / 2)


def kl(q: Float[Tensor, " n"], p: Float[Tensor, " n"]) -> float:
    """Returns KL(q || p) of two lists of probabilities, in nats; inf where q holds what p lacks."""
    terms = torch.where(q > 0, q * (q / p.clamp(min=1e-300)).log(), 0.0)
    return math.inf if bool(((q > 0) & (p == 0)).any()) else max(0.0, float(terms.sum()))
