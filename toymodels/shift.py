"""Shifted worlds: the same features under a law that is a known distance away."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check
from toymodels.distribution import ToyDistribution
from toymodels.distributions.exclusive import Exclusive
from toymodels.distributions.independent import Independent
from toymodels.distributions.mixture import Mixture
from toymodels.product_law import ProductLaw, per_feature_probs

ROUNDING = 1e-12  # of a sum of probabilities
MOST_ENUMERATED = 20  # changed features up to which the total variation of a product is summed


@dataclass(frozen=True, eq=False)
class Shift:
    """A law near another, and how near it is. Both describe codes, hence also the activations of
    two worlds of one dictionary, bias and noise, for which the distances are upper bounds.

    Args:
        distribution: the new law Q, near the old law P.
        kl: KL(Q || P) in nats; inf where Q holds what P never does.
        reverse_kl: KL(P || Q) in nats.
        tv: total variation distance, the largest difference of the probabilities of any event, in
            [0, 1]; NaN where it is not computable.
    """

    distribution: ToyDistribution
    kl: float
    reverse_kl: float
    tv: float


def more_often(base: ToyDistribution, features: tuple[int, ...], share: float) -> Shift:
    """Returns the law in which a share of the samples is drawn given that `features` all fire.

    Q = (1 - s) P + s P(. | E), for the event E that all of them fire, of probability p. Then
    Q(E) = q = (1 - s) p + s, and nothing else changes: P and Q agree given E and given its
    complement. So KL(Q || P) = q log(q / p) + (1 - q) log((1 - q) / (1 - p)), the least of any law
    with Q(E) = q, and the total variation is s (1 - p).

    Args:
        features: one (it gets more frequent) or several (they co-occur more often); they must be
            able to fire together.
        share: s, in [0, 1]; 0 changes nothing, 1 leaves only samples in which they fire.
    Raises:
        ValueError: features that never fire together; `that_never_occurred` makes them.
        NotImplementedError: the base has no closed form of the law given a feature.
    """
    _check_share("more_often", share)
    p, law = 1.0, base
    for feature in features:
        new = law.given(feature)
        p *= law.firing_probs()[feature].item()
        law = new
    q = (1 - share) * p + share
    tv = share * (1 - p)
    return Shift(Mixture((base, law), (1 - share, share)), _kl(q, p), _kl(p, q), tv)


def that_never_occurred(base: ToyDistribution, pattern: ToyDistribution, share: float) -> Shift:
    """Returns the law in which a share of the samples comes from a law disjoint from the base.

    Q = (1 - s) P + s P'. Where what fires under P' never does under P, KL(Q || P) = inf for s > 0,
    KL(P || Q) = -log(1 - s), and the total variation is s: the support of the world has grown.

    Args:
        pattern: P'; some features that always fire under it must never fire together under P
            (or, one alone, never fire).
        share: s, in [0, 1].
    Raises:
        ValueError: a pattern that the base may produce.
    """
    _check_share("that_never_occurred", share)
    always = (pattern.firing_probs() == 1).nonzero()[:, 0]
    never = (base.cofiring_probs()[always][:, always] <= 0).any() if len(always) else False
    check(
        bool(never),
        "that_never_occurred",
        "a pattern with features, always on, that never fire together under the base",
        "use more_often for patterns that do occur",
        always_on=always.tolist(),
    )
    reverse = -math.log1p(-share) if share < 1 else math.inf
    law = Mixture((base, pattern), (1 - share, share))
    return Shift(law, math.inf if share > 0 else 0.0, reverse, share)


def reweighted(base: ToyDistribution, firing_prob: float | Tensor) -> Shift:
    """Returns the law of the same family with other firing probabilities.

    Independent features: KL(Q || P) is the sum over features of q_i log(q_i / p_i) + (1 - q_i)
    log((1 - q_i) / (1 - p_i)); the total variation is summed over the 2^n patterns of the features
    that change, NaN where more than 20 do (then tv <= sqrt(kl / 2)). Exclusive features: the KL
    and half the absolute difference of the probabilities of each feature and of none.

    Args:
        base: `Independent`, `Zipf`, another product law, or `Exclusive`.
        firing_prob: q, one for all features or [n_features].
    Raises:
        NotImplementedError: another family; build the second law yourself.
    """
    p = base.firing_probs()
    q = per_feature_probs("reweighted", firing_prob, base.n_features)
    if isinstance(base, ProductLaw):
        law: ToyDistribution = Independent(base.n_features, q, base.magnitude)
        changed = q != p
        kl, reverse = (
            sum(map(_kl, *pair)) for pair in ((q.tolist(), p.tolist()), (p.tolist(), q.tolist()))
        )
        few = int(changed.sum()) <= MOST_ENUMERATED
        return Shift(law, kl, reverse, _product_tv(p[changed], q[changed]) if few else math.nan)
    if isinstance(base, Exclusive):
        law = Exclusive(base.n_features, q, base.magnitude)
        with_none = [torch.cat([probs, _remainder(probs)]) for probs in (q, p)]
        forward = _categorical_kl(with_none[0], with_none[1])
        backward = _categorical_kl(with_none[1], with_none[0])
        tv = float((with_none[0] - with_none[1]).abs().sum()) / 2
        return Shift(law, forward, backward, tv)
    raise NotImplementedError(
        f"reweighted: {type(base).__name__} is neither a product law nor Exclusive; "
        "use more_often, or build the second law and measure it yourself"
    )


def _check_share(where: str, share: float) -> None:
    check(0 <= share <= 1, where, "0 <= share <= 1", share=share)


def _remainder(probs: Float[Tensor, " n"]) -> Float[Tensor, " 1"]:
    """Returns the probability of none, 0 if it is of the size of rounding."""
    left = 1 - probs.sum(0, keepdim=True)
    return left.where(left > ROUNDING, 0.0)


def _kl(q: float, p: float) -> float:
    """Returns the divergence of a coin of probability q from one of probability p, in nats."""
    first = _term(q, p)
    return first + _term(1 - q, 1 - p)


def _term(q: float, p: float) -> float:
    if q <= 0:
        return 0.0
    return q * math.log(q / p) if p > 0 else math.inf


def _categorical_kl(q: Float[Tensor, " n"], p: Float[Tensor, " n"]) -> float:
    return sum(map(_term, q.tolist(), p.tolist()))


def _product_tv(p: Float[Tensor, " n"], q: Float[Tensor, " n"]) -> float:
    """Returns half the sum, over all patterns of independent features, of |Q - P|."""
    patterns = [torch.ones(1, dtype=torch.float64) for _ in range(2)]
    for probs in zip(p, q, strict=True):
        patterns = [
            torch.cat([(1 - prob) * so_far, prob * so_far])
            for prob, so_far in zip(probs, patterns, strict=True)
        ]
    return float((patterns[1] - patterns[0]).abs().sum()) / 2
