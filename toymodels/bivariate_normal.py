"""Two correlated normal variables: P(both exceed their thresholds), and the correlation for it."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check

CHUNK = 8192  # entries at a time: what fits a processor's cache is six times as fast
N_STEPS = 100  # of the inversion: bisection alone reaches float64 in 55
ENOUGH = 1e-14  # relative error of P, or absolute one of the angle, at which it stops


def thresholds(probs: Tensor) -> Tensor:
    """Returns t with P(Z > t) = prob for a standard normal Z; inf at 0 and -inf at 1."""
    return -torch.special.ndtri(probs.to(torch.float64))


def joint_bounds(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Returns max(0, p + q - 1), rounded once, and min(p, q): the range of P(both) (Frechet)."""
    most = torch.minimum(p, q)
    return (most + (torch.maximum(p, q) - 1)).clamp(min=0), most


def joint_prob(
    first_prob: Float[Tensor, "*#shape"],
    second_prob: Float[Tensor, "*#shape"],
    correlation: Float[Tensor, "*#shape"],
) -> Float[Tensor, "..."]:
    """Returns P(Z1 > h and Z2 > k) for standard normals with this correlation r, float64.

    The thresholds are given as probabilities p = P(Z1 > h) and q = P(Z2 > k). P grows by the
    density at (h, k) as r grows (Plackett), so that with r = cos psi and

        f(psi; h, k) = exp(-(h - k)^2 / (2 sin^2 psi) - h k / (1 + cos psi)) / (2 pi),

        r >= 0:  P = p q + integral of f(.; h, k) from acos r to pi / 2
        r <= 0:  P = max(0, p + q - 1) + integral of f(.; h, -k) from 0 to acos |r|

    where every term is >= 0: nothing cancels, and small probabilities keep their digits (relative
    error below 1e-10 down to P = 1e-40). The integrals are taken by the tanh-sinh rule, whose nodes
    crowd at both ends, where f is steep.

    Args:
        first_prob, second_prob: p and q, in [0, 1].
        correlation: r, in [-1, 1]; at 0 P is p q, at 1 min(p, q), at -1 max(0, p + q - 1).
    Source: Plackett 1954, A reduction formula for normal multivariate integrals; Drezner and
        Wesolowsky 1990, On the computation of the bivariate normal integral.
    """
    p, q, r = torch.broadcast_tensors(*(x.double() for x in (first_prob, second_prob, correlation)))
    r = r.clamp(-1, 1)  # rounding
    least, most = joint_bounds(p, q)
    result = torch.where(r == 1, most, torch.where(r == -1, least, p * q))
    inside = (r != 0) & (r.abs() < 1) & (p > 0) & (p < 1) & (q > 0) & (q < 1)
    if bool(inside.any()):
        p, q, r, least, most = (x[inside] for x in (p, q, r, least, most))
        positive = r > 0
        h, k = thresholds(p), thresholds(q) * r.sign()
        end = torch.atan2(((1 - r) * (1 + r)).sqrt(), r.abs())
        low = torch.where(positive, end, 0.0)
        high = torch.where(positive, math.pi / 2, end)
        joint = torch.where(positive, p * q, least) + _integral(h, k, low, high)
        result[inside] = torch.minimum(torch.maximum(joint, least), most)
    return result


def latent_correlation(
    first_prob: Float[Tensor, "*#shape"],
    second_prob: Float[Tensor, "*#shape"],
    both_prob: Float[Tensor, "*#shape"],
) -> Float[Tensor, "..."]:
    """Returns r with `joint_prob(first_prob, second_prob, r)` = both_prob, in [-1, 1], float64.

    Newton's method on log P in the angle asin r, with bisection where it leaves its bracket. Where
    p or q is 0 or 1 every r does, and 0 is returned.

    Args:
        first_prob, second_prob: p and q, in [0, 1].
        both_prob: from max(0, p + q - 1), where r is -1, to min(p, q), where r is 1.
    Raises:
        ValueError: a both_prob beyond these bounds by more than a relative 1e-12.
    """
    p, q, both = torch.broadcast_tensors(
        *(x.double() for x in (first_prob, second_prob, both_prob))
    )
    least, most = joint_bounds(p, q)
    wrong = ~((both >= least - 1e-12 * p * q) & (both <= most * (1 + 1e-12)))
    if bool(wrong.any()):
        low, high, got = (x[wrong][0].item() for x in (least, most, both))
        rule = f"{low!r} <= both_prob <= {high!r} (from max(0, p + q - 1) to min(p, q))"
        check(False, "latent_correlation", rule, both_prob=got)
    result = (both >= most).double() - ((both <= least) & (both < most)).double()
    result[(least >= most) | (p * (1 - p) * q * (1 - q) == 0)] = 0.0
    inside = (both > least) & (both < most) & (both != p * q)
    if bool(inside.any()):
        result[inside] = _solve(p[inside], q[inside], both[inside])
    return result


def _solve(p: Tensor, q: Tensor, both: Tensor) -> Tensor:
    h, k = thresholds(p), thresholds(q)
    low = (both <= p * q).double() * (-math.pi / 2)
    high = low + math.pi / 2
    angle = (low + high) / 2
    left = torch.arange(len(p))  # those not yet found
    for _ in range(N_STEPS):
        x, wanted = angle[left], both[left]
        found = joint_prob(p[left], q[left], x.sin())
        below = found < wanted
        low[left], high[left] = low[left].where(~below, x), high[left].where(below, x)
        slope = _density(h[left], k[left] * torch.where(x < 0, -1.0, 1.0), math.pi / 2 - x.abs())
        newton = x - (found.log() - wanted.log()) * found / slope
        kept = (newton >= low[left]) & (newton <= high[left])  # false too where the slope is 0
        angle[left] = torch.where(kept, newton, (low[left] + high[left]) / 2)
        missed = (found - wanted).abs() > ENOUGH * wanted
        left = left[missed & ((angle[left] - x).abs() > ENOUGH)]
        if len(left) == 0:
            break
    return angle.sin()


def _density(h: Tensor, k: Tensor, psi: Tensor) -> Tensor:
    """Returns f(psi; h, k)."""
    exponent = ((h - k) / psi.sin()).square() / 2 + h * k / (1 + psi.cos())
    return torch.exp(-exponent) / (2 * math.pi)


def _tanh_sinh(step: float = 1 / 40, reach: float = 3.25) -> tuple[list[float], list[float]]:
    """Returns nodes in (0, 1), exact to their last digit near 0, and their weights.

    Where r < 0 and p + q is near 1, f rises from 0 to its value within psi of order |h + k|. The
    step is set by that: 1/32 leaves a relative error of 8e-11 there, 1/16 one of 2e-7.
    """
    nodes, weights = [], []
    for i in range(-round(reach / step), round(reach / step) + 1):
        t = i * step
        node = 1 / (1 + math.exp(-math.pi * math.sinh(t)))
        other = 1 / (1 + math.exp(math.pi * math.sinh(t)))  # 1 - node
        nodes.append(node)
        weights.append(step * math.pi * math.cosh(t) * node * other)
    return nodes, weights


_NODES, _WEIGHTS = _tanh_sinh()


def _integral(h: Tensor, k: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Returns the integral of f(.; h, k) from `low` to `high`, all [n]."""
    total = torch.zeros_like(h)
    for part in torch.arange(len(h)).split(CHUNK):
        where = slice(int(part[0]), int(part[-1]) + 1)
        a, b, c, width = h[where], k[where], low[where], (high - low)[where]
        for node, weight in zip(_NODES, _WEIGHTS, strict=True):
            total[where] += weight * width * _density(a, b, c + node * width)
    return total
