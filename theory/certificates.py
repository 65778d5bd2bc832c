"""Certificates: what coherence guarantees to OMP and to a one-shot encoder, and samples to anyone.

A certificate is sufficient, not necessary. It needs no null: it says "certified", or by how much
not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.special import betaincc
from scipy.stats import binom
from torch import Tensor

from theory.checks import check, check_finite, check_size
from theory.statistics import expected_unseen


@dataclass(frozen=True)
class Certificate:
    """margin: dimensionless; > 0 is certified, else -margin is what is missing."""

    margin: float

    @property
    def certified(self) -> bool:
        return self.margin > 0


def omp_certificate(coherence: float, k: int, *, noise_to_signal: float | int = 0.0) -> Certificate:
    """Returns whether OMP must find the support of every k-sparse code of unit features.

    margin = 1 - (2k - 1) mu - 2 eta / a_min. Positive without noise: every code of at most k
    features is the only one as sparse of its x, and OMP finds its support in k steps, whatever
    the magnitudes and signs. With |noise| <= eta OMP does so if it stops at a residual of eta or
    less. k = 1 without noise needs mu < 1, only that no feature is another's multiple.

    Args:
        coherence: mu, in [0, 1].   k: >= 1.
        noise_to_signal: eta / a_min >= 0, a_min the least magnitude of an active feature.
    Source: eq:omp-certificate. Donoho & Elad 2003, Tropp 2004; noise: Cai & Wang 2011.
    """
    where = "omp_certificate"
    _check_coherence(where, coherence)
    check_size(where, k=k)
    fits = 0 <= noise_to_signal < math.inf
    check(fits, where, "0 <= noise_to_signal < inf", noise_to_signal=noise_to_signal)
    return Certificate(1 - (2 * k - 1) * coherence - 2 * noise_to_signal)


def support_certificate(
    dictionary: Float[Tensor, "n_features d_in"], active: Sequence[int]
) -> Certificate:
    """Returns Tropp's exact recovery condition of one support, sharper than coherence.

    margin = 1 - max over j not in S of |G_SS^-1 G_Sj|_1. Positive: OMP finds S for every code on S,
    whatever its magnitudes and signs. Negative: it fails for some; at 0 ties decide. 1 if S holds
    all features.

    Args: dictionary: rows, only their directions count.   active: S, >= 1 distinct indices.
    Raises: ValueError: shapes, NaN, zero rows; an S whose rows are dependent.
    Source: eq:support-certificate. Tropp 2004.
    """
    where = "support_certificate"
    unit = _unit_rows(where, dictionary)
    inside = sorted(set(active))
    fits = len(inside) == len(active) > 0 and 0 <= inside[0] and inside[-1] < len(unit)
    check(fits, where, f"distinct indices in [0, {len(unit)})", active=list(active))
    rows = unit[inside]
    rank = int(torch.linalg.matrix_rank(rows, rtol=1e-9))
    check(rank == len(rows), where, "independent active rows", rank=rank, n_active=len(rows))
    outside = [j for j in range(len(unit)) if j not in inside]
    if not outside:
        return Certificate(1.0)
    weights = torch.linalg.pinv(rows).T @ unit[outside].T
    return Certificate(1 - float(weights.abs().sum(0).max()))


@dataclass(frozen=True)
class OneShotCertificate(Certificate):
    """What a tied one-shot encoder h = D x is guaranteed to do on one code.

    margin: (lower - upper) / least active magnitude.
    upper: no inactive feature's h exceeds it.   lower: no active one's is below it; any threshold
        strictly between the two selects exactly the support, if there is one.
    error: bound on |h_i - a_i| over the active features.
    """

    lower: float
    upper: float
    error: float


def one_shot_certificate(
    magnitudes: Float[Tensor, " k"], coherence: float, *, noise: float | int = 0.0
) -> OneShotCertificate:
    """Returns whether TopK(k) on h = D x, or a threshold, must select the support of one code.

    lower = (1 + mu) a_min - mu |a|_1 - tau, upper = mu |a|_1 + tau = error. With k equal magnitudes
    and no noise lower > upper is mu < 1 / (2k - 1), as for OMP; a larger dynamic range asks for
    more, which is the price of encoding in one shot.

    Args:
        magnitudes: [k], a > 0 of the active features.   coherence: mu, in [0, 1].
        noise: tau >= max_i |<d_i, noise>|, in the units of a.
    Source: eq:one-shot.
    """
    where = "one_shot_certificate"
    _check_coherence(where, coherence)
    check_finite(where, magnitudes=magnitudes)
    fits = magnitudes.ndim == 1 and len(magnitudes) > 0
    check(fits, where, "magnitudes [k], k >= 1", shape=tuple(magnitudes.shape))
    a = magnitudes.detach().double()
    least, total = float(a.min()), float(a.sum())
    check(least > 0, where, "magnitudes > 0", least=least)
    check(0 <= noise < math.inf, where, "0 <= noise < inf", noise=noise)
    error = coherence * total + noise
    lower = (1 + coherence) * least - error
    return OneShotCertificate((lower - error) / least, lower=lower, upper=error, error=error)


def certified_k(coherence: float) -> float | int:
    """Returns the largest k that `omp_certificate` certifies: k < (1 + 1/mu) / 2.

    Count; infinity below mu = 1e-12, which is rounding; 0 at mu = 1 (two features of one line
    cannot be told apart).
    """
    _check_coherence("certified_k", coherence)
    if coherence < 1e-12:
        return math.inf
    most = math.ceil((1 + 1 / coherence) / 2)  # or, by rounding, one off
    return next(k for k in range(most + 1, -1, -1) if (2 * k - 1) * coherence < 1)


@dataclass(frozen=True)
class SampleCertificate(Certificate):
    """Whether the samples show every feature.

    margin: (n_samples + 1 - needed) / needed, > 0 from `needed` samples on.
    failure_prob: union bound on the chance that some feature fires fewer than `times` times.
    needed: the least number of samples at which that bound is at most delta.
    """

    failure_prob: float
    needed: int


def sample_certificate(
    firing_probs: Float[Tensor, " n_features"], n_samples: int, delta: float, *, times: int = 1
) -> SampleCertificate:
    """Returns whether n_samples show every feature `times` times with probability >= 1 - delta.

    failure_prob = min{1, sum_i Pr[Binomial(N, p_i) < times]}: exact tails and a union bound,
    valid for any dependence between features (not between samples). `samples_to_see_all` is the
    closed form, which is never smaller than `needed`.

    Args:
        firing_probs: [n_features], in (0, 1].   n_samples: N >= 0.   delta: in (0, 1).
    Source: eq:coupon.
    """
    where = "sample_certificate"
    check_finite(where, firing_probs=firing_probs)
    fits = firing_probs.ndim == 1 and len(firing_probs) > 0
    check(fits, where, "firing_probs [n_features]", shape=tuple(firing_probs.shape))
    p = firing_probs.detach().double().cpu().numpy()
    least, largest = float(p.min()), float(p.max())
    fits = 0 < least and largest <= 1
    check(fits, where, "firing_probs in (0, 1]", least=least, largest=largest)
    check(n_samples >= 0, where, "n_samples >= 0", n_samples=n_samples)
    check(0 < delta < 1, where, "0 < delta < 1", delta=delta)
    check_size(where, times=times)

    def failure(n: int) -> float:
        return min(1.0, float(binom.cdf(times - 1, n, p).sum()))

    low, high = 0, times
    while failure(high) > delta:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if failure(middle) <= delta else (middle, high)
    return SampleCertificate((n_samples + 1 - high) / high, failure(n_samples), high)


def recoverable_bound(
    firing_probs: Float[Tensor, " n_features"],
    n_samples: int,
    n_latents: int,
    d_in: int,
    *,
    cosine: float,
    signed: bool = True,
) -> float:
    """Returns how many features any learner recovers on average, at most.

    n - (1 - q) sum_i (1 - p_i)^N, q = min{1, c m Pr[Beta(1/2, (d-1)/2) >= cosine^2]} with c = 1/2
    for rays (signed) and 1 for lines. For isotropic, independent features a learner of m latents
    can only guess the directions that never fired in its N samples. Number of features.

    Args: cosine: from which a feature counts as recovered, in (0, 1].
    Source: eq:no-free-recovery.
    """
    where = "recoverable_bound"
    check_size(where, n_latents=n_latents, d_in=d_in)
    check(0 < cosine <= 1, where, "0 < cosine <= 1", cosine=cosine)
    tail = float(betaincc(0.5, (d_in - 1) / 2, cosine**2)) if d_in > 1 else 1.0
    guessed = min(1.0, (0.5 if signed else 1.0) * n_latents * tail)
    return len(firing_probs) - (1 - guessed) * expected_unseen(firing_probs, n_samples)


def _check_coherence(where: str, coherence: float) -> None:
    rounded = 0 <= coherence <= 1 + 1e-9  # that of two equal rows may come out above 1
    check(rounded, where, "0 <= coherence <= 1", coherence=coherence)


def _unit_rows(where: str, rows: Tensor) -> Float[Tensor, "n d_in"]:
    check_finite(where, rows=rows)
    check(rows.ndim == 2 and 0 not in rows.shape, where, "rows [n, d_in]", shape=tuple(rows.shape))
    norms = torch.linalg.vector_norm(rows.detach().double(), dim=1, keepdim=True)
    zero = (norms[:, 0] == 0).nonzero()[:5, 0].tolist()
    check(not zero, where, "non-zero rows", zero_rows=zero)
    return rows.detach().double() / norms
