"""Exact and finite-sample tests: false-alarm rates and the smallest error each one catches."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from scipy.optimize import root_scalar
from scipy.stats import binom, binomtest
from torch import Tensor

from theory.checks import check, check_finite


def binomial_p_values(
    counts: Int[Tensor, " n_features"], n_samples: int, probs: Float[Tensor, " n_features"]
) -> Float[Tensor, " n_features"]:
    """Returns Bonferroni-adjusted exact p-values of "feature i fires with probability probs[i]".

    min{1, n_features * p_i}, p_i the two-sided exact binomial p-value (sum of the probabilities of
    all counts no likelier than the one seen). Reject where it is at most alpha: the chance of any
    false alarm among all features is at most alpha, whatever their dependence.

    Args:
        counts: [n_features], in how many samples each feature fired, 0 <= count <= n_samples.
        n_samples: independent samples, >= 1.   probs: [n_features], declared, in [0, 1].
    Returns: p-values in [0, 1], float64. `smallest_caught_error` gives the power.
    """
    where = "binomial_p_values"
    check_finite(where, probs=probs)
    shapes = (tuple(counts.shape), tuple(probs.shape))
    equal = shapes[0] == shapes[1]
    check(equal, where, "one probability per count", counts=shapes[0], probs=shapes[1])
    in_range = bool(((counts >= 0) & (counts <= n_samples)).all())
    check(n_samples >= 1 and in_range, where, "0 <= counts <= n_samples", n_samples=n_samples)
    check(bool(((probs >= 0) & (probs <= 1)).all()), where, "probs in [0, 1]", probs=probs.tolist())
    pairs = zip(counts.tolist(), probs.tolist(), strict=True)
    p_values = [binomtest(count, n_samples, p).pvalue for count, p in pairs]
    adjusted = torch.tensor(p_values, dtype=torch.float64, device=probs.device) * len(p_values)
    return adjusted.clamp(max=1)


def smallest_caught_error(n: int, p: float | int, alpha: float, *, power: float = 0.99) -> float:
    """Returns the relative error of a rate that the two-sided exact binomial test does not miss.

    The smallest e such that, at true rate p (1 + e) and at true rate p (1 - e), the test of rate p
    at level alpha rejects with probability >= `power`.

    Args:
        n: samples.  p: declared rate in (0, 1).  alpha: level of this one test (after Bonferroni).
    Returns:
        dimensionless; infinity where an error of one of the two signs is never caught: too rare
        to notice silence, (1 - p)^n > alpha, or too common for p (1 + e) <= 1 to be refuted.
    """
    where = "smallest_caught_error"
    check(n >= 1 and 0 < p < 1, where, "n >= 1 and 0 < p < 1", n=n, p=p)
    _check_level(where, alpha)
    check(0 < power < 1, where, "0 < power < 1", power=power)

    def rejects(count: int) -> bool:
        return bool(binomtest(count, n, p).pvalue <= alpha)

    mode = round(n * p)
    if not rejects(0) or not rejects(n):
        return math.inf
    below = _bisect_counts(rejects, 0, mode)  # the largest count rejected as too few
    above = _bisect_counts(rejects, n, mode)  # the smallest count rejected as too many
    high = root_scalar(lambda rate: binom.sf(above - 1, n, rate) - power, bracket=(p, 1.0))
    low = root_scalar(lambda rate: binom.cdf(below, n, rate) - power, bracket=(0.0, p))
    return max(high.root / p - 1, 1 - low.root / p)


def _bisect_counts(rejects: Callable[[int], bool], rejected: int, accepted: int) -> int:
    """Returns the rejected count nearest to `accepted`; p-values are monotone on each side."""
    while abs(rejected - accepted) > 1:
        middle = (rejected + accepted) // 2
        rejected, accepted = (middle, accepted) if rejects(middle) else (rejected, middle)
    return rejected


def hoeffding_radius(n: float | int, value_range: float | int, alpha: float) -> float:
    """Returns t = R sqrt(ln(2/alpha) / (2n)): two-sided, for a mean of n independent values.

    Pr(|mean - E mean| >= t) <= alpha if each value lies in an interval of length R (`value_range`).
    For a weighted mean put n = (sum w)^2 / sum w^2. Unit of t: that of the values.
    """
    _check_count("hoeffding_radius", n)
    check(value_range >= 0, "hoeffding_radius", "value_range >= 0", value_range=value_range)
    _check_level("hoeffding_radius", alpha)
    return value_range * math.sqrt(math.log(2 / alpha) / (2 * n))


def bernstein_radius(
    n: float | int, variance: float | int, value_range: float | int, alpha: float
) -> float:
    """Returns t = sqrt(2 V l / n) + R l / (3n), l = ln(2/alpha): two-sided, known variance.

    Pr(|mean - E mean| >= t) <= alpha for n independent values of variance at most V with
    |value - its mean| <= R. V and R must be *known* (from the declared law): with V estimated from
    the same sample the statement is false, and a noisier estimator would pass more easily.
    Unit of t: that of the values; V in their square.
    Source: Boucheron, Lugosi & Massart 2013, theorem 2.10 with c = R / 3.
    """
    _check_count("bernstein_radius", n)
    scales = min(variance, value_range) >= 0
    rule = "variance >= 0 and value_range >= 0"
    check(scales, "bernstein_radius", rule, variance=variance, value_range=value_range)
    _check_level("bernstein_radius", alpha)
    log_term = math.log(2 / alpha)
    return math.sqrt(2 * variance * log_term / n) + value_range * log_term / (3 * n)


def mcdiarmid_radius(n: float | int, alpha: float, bounded_difference: float | int) -> float:
    """Returns t = c sqrt(n ln(1/alpha) / 2): one-sided, for a function of n independent inputs.

    Pr(f - E f >= t) <= alpha if changing any one input moves f by at most c; the same for
    E f - f, so use alpha / 2 for both sides. A matching score averaged over n features has c = 1/n.
    Unit of t: that of f.
    """
    _check_count("mcdiarmid_radius", n)
    holds = bounded_difference >= 0
    rule = "bounded_difference >= 0"
    check(holds, "mcdiarmid_radius", rule, bounded_difference=bounded_difference)
    _check_level("mcdiarmid_radius", alpha)
    return bounded_difference * math.sqrt(n * math.log(1 / alpha) / 2)


def dkw_radius(n: float | int, alpha: float) -> float:
    """Returns t = sqrt(ln(2/alpha) / (2n)): two-sided, for a whole distribution function.

    Pr(sup |F_n - F| >= t) <= alpha, F_n the empirical distribution of n independent values
    (Dvoretzky-Kiefer-Wolfowitz with Massart's constant). p-values are super-uniform if
    F_n(u) <= u + t at every u. Unit of t: probability.
    """
    return hoeffding_radius(n, 1.0, alpha)


def rare_rate_samples(p: float | int, relative_error: float | int, alpha: float) -> int:
    """Returns n = ceil(3 ln(2/alpha) / (e^2 p)): samples that pin a rare rate to relative error e.

    Two-sided multiplicative Chernoff bound, 0 < e <= 1: Pr(|rate - p| >= e p) <= alpha at this n;
    1.8 million samples at p = .001, e = .2, alpha = 1e-10.
    """
    where = "rare_rate_samples"
    check(0 < p <= 1, where, "0 < p <= 1", p=p)
    check(0 < relative_error <= 1, where, "0 < relative_error <= 1", relative_error=relative_error)
    _check_level(where, alpha)
    return math.ceil(3 * math.log(2 / alpha) / (relative_error**2 * p))


def expected_unseen(firing_probs: Float[Tensor, " n_features"], n_samples: int) -> float:
    """Returns sum_i (1 - p_i)^N, the expected number of features that never fire in N samples.

    The samples must be independent; the features may depend on each other. Where directions are
    drawn independently of one another, no learner recovers an unseen feature better than chance.

    Returns: number of features in [0, n_features]; n_features at N = 0.
    Source: eq:unseen.
    """
    check_finite("expected_unseen", firing_probs=firing_probs)
    in_range = bool(((firing_probs >= 0) & (firing_probs <= 1)).all())
    check(in_range, "expected_unseen", "firing_probs in [0, 1]", firing_probs=firing_probs.tolist())
    check(n_samples >= 0, "expected_unseen", "n_samples >= 0", n_samples=n_samples)
    exponent = torch.full_like(firing_probs, n_samples, dtype=torch.float64)
    return torch.special.xlog1py(exponent, -firing_probs.double()).exp().sum().item()


def samples_to_see_all(
    min_firing_prob: float | int, n_features: int, delta: float, *, times: int = 1
) -> int:
    """Returns how many samples show every feature, with probability at least 1 - delta.

    Once: N = ln(n/delta) / p_min (union bound). r >= 2 times: N = 2 (r + ln(n/delta)) / p_min
    (Chernoff). Sufficient, not necessary; samples independent, features arbitrary.

    Args:
        min_firing_prob: the rarest feature's firing probability, in (0, 1].
        times: how often each feature must have fired, >= 1.
    Source: eq:coupon.
    """
    where = "samples_to_see_all"
    check(0 < min_firing_prob <= 1, where, "0 < min_firing_prob <= 1", got=min_firing_prob)
    check(n_features >= 1 and times >= 1, where, "counts >= 1", n_features=n_features, times=times)
    _check_level(where, delta)
    log_term = math.log(n_features / delta)
    return math.ceil((log_term if times == 1 else 2 * (times + log_term)) / min_firing_prob)


def _check_count(where: str, n: float | int) -> None:
    check(n > 0, where, "n > 0", n=n)


def _check_level(where: str, level: float) -> None:
    check(0 < level < 1, where, "a probability strictly between 0 and 1", level=level)
