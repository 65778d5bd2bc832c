"""What isotropic (structureless) directions score: held-out bounds and composition p-values."""

import math

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import betaincc, betainccinv, betaln, gammaln
from torch import Tensor

from theory.checks import check, check_finite, check_generator

_UNDERFLOW = 1e-290


def isotropic_rows(
    *shape: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*shape"]:
    """Returns unit vectors along the last axis, independent and uniform on the sphere.

    Args:
        shape: any shape whose last entry is d_in >= 1, e.g. (n_rows, d_in).
        generator: draws g; each row is g / |g|. Its device is the result's device.
    """
    check(len(shape) >= 1 and min(shape) >= 1, "isotropic_rows", "sizes >= 1", shape=shape)
    check_generator("isotropic_rows", generator)
    g = torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)
    return g / torch.linalg.vector_norm(g, dim=-1, keepdim=True)


def isotropic_fve_bound(d: int, m: int, k: int) -> float:
    """Returns nu(d, m, k), an upper bound on what k of m fixed atoms explain of a random direction.

    nu = int_0^1 min{1, C(m,k) Pr[Beta(k/2, (d-k)/2) >= t]} dt  >=  E R_k^2(u; B),

    for u uniform on the sphere in d dimensions, independent of the m atoms B, and
    R_k^2(u; B) = max over |S| <= k of |P_S u|^2: exact search, signed codes, held-out u. It is
    *not* the null of a fitted meta-SAE, whose codes are one-shot and non-negative and whose rows
    are often the ones it was fitted on; that null is `compressibility`'s `null_fves`.

    With t0 where the minimum switches, the integral is E of a truncated Beta variable,
    nu = t0 (1 - C tail(t0)) + C (k/d) Pr[Beta(k/2 + 1, (d-k)/2) >= t0]; this form is an upper bound
    of the integral at *every* t0, so rounding in t0 cannot make the bound invalid.

    Args:
        d: dimension, >= 1.  m: number of atoms, >= 1.  k: atoms per direction, 1 <= k <= m.
    Returns:
        fraction of squared norm in [k/d, 1]; exactly k/d for m = k < d, and 1 for k >= d. About .6
        at (32, 64, 3) and .35 at (64, 64, 3). Where L = ln C(m,k) > 660 the tail underflows and the
        looser (k + 2 sqrt(k L) + 2 L) / d is returned.
    Source: eq:isotropic-null. Example: isotropic_fve_bound(8, 2, 2) == 0.25.
    """
    _check_sizes("isotropic_fve_bound", d, m, k)
    if k >= d:
        return 1.0
    a, b = k / 2, (d - k) / 2
    log_count = _log_binomial(m, k)
    if log_count > 660:
        return min(1.0, (k + 2 * math.sqrt(k * log_count) + 2 * log_count) / d)
    t0 = float(betainccinv(a, b, math.exp(-log_count)))
    above = math.exp(min(log_count + _log_beta_tail(t0, a, b), 0.0))
    beyond = math.exp(min(log_count + _log_beta_tail(t0, a + 1, b), 700.0))
    return min(1.0, t0 * (1 - above) + (k / d) * beyond)


def isotropic_fve_floor(d: int, m: int, k: int, frame_bound: float | int) -> float:
    """Returns max{k/d, 1 - (1 - A/m)^k}, a lower bound on E R_k^2(u; B) for a random direction u.

    A = lambda_min(B^T B) of m *unit* atoms, the rows of B (`frame_bound`, 0 <= A <= m/d). The
    second term holds for every u, random or not (each greedy step removes at least A/m of the
    rest); the first needs rank B >= k. For a unit-norm tight frame A = m/d, so any direction is
    "composed" to within eps once k is about d ln(1/eps).

    Returns: fraction of squared norm in [0, 1].
    Source: eq:isotropic-null.
    """
    _check_sizes("isotropic_fve_floor", d, m, k)
    holds = 0 <= frame_bound <= m / d * (1 + 1e-9)
    check(
        holds,
        "isotropic_fve_floor",
        f"0 <= frame_bound <= m/d = {m / d:g}",
        frame_bound=frame_bound,
    )
    return max(min(1.0, k / d), 1 - (1 - min(1.0, frame_bound / m)) ** k)


def composition_p_value(
    r_squared: Float[Tensor, "*rows"], d: int, m: int, k: int
) -> Float[Tensor, "*rows"]:
    """Returns p-values for "this direction has nothing to do with these m atoms".

    P = min{1, C(m,k) Pr[Beta(k/2, (d-k)/2) >= R_k^2]}. Null: u isotropic in d dimensions and
    independent of the atoms; then Pr(P <= alpha) <= alpha (union bound over the supports:
    one-sided, conservative). Greedy or non-negative codes have a smaller R^2, hence a larger P,
    and stay valid. Over many directions and shared atoms correct with Bonferroni or
    Benjamini-Yekutieli. The null is false for two SAEs trained on the same data: remove copies
    (R_1^2 near 1) first.

    Args:
        r_squared: fraction of each direction explained by its best k atoms, in [0, 1]; any shape.
        d, m, k: dimension, number of atoms, atoms per direction (1 <= k <= m).
    Returns:
        p-values in [0, 1], same shape, dtype and device; all 1 where k >= d, because k generic
        atoms then explain everything.
    Raises:
        ValueError: r_squared outside [0, 1] by more than 1e-6 or not finite; sizes out of range.
    Source: eq:composition-p.
    """
    where = "composition_p_value"
    _check_sizes(where, d, m, k)
    check_finite(where, r_squared=r_squared)
    low, high = (r_squared.min().item(), r_squared.max().item()) if r_squared.numel() else (0, 0)
    check(
        low >= -1e-6 and high <= 1 + 1e-6, where, "r_squared in [0, 1]", minimum=low, maximum=high
    )
    if k >= d:
        return torch.ones_like(r_squared)
    log_tail = [_log_beta_tail(t, k / 2, (d - k) / 2) for t in r_squared.flatten().tolist()]
    log_p = np.minimum(0.0, _log_binomial(m, k) + np.array(log_tail))
    return r_squared.new_tensor(np.exp(log_p).tolist()).reshape(r_squared.shape)


def expected_best_cosine_bound(d: int, m: float | int) -> float:
    """Returns int_0^1 min{1, m Pr[Beta(1/2, (d-1)/2) >= t^2]} dt, for d >= 1 and real m > 0.

    It bounds E max_j |<u, w_j>| for u isotropic and any m fixed unit w_j; with m/2 in place of m it
    bounds E max_j max(0, <u, w_j>), because only half of each line's tail is on the ray.
    Evaluated as m E[T; T >= t0] with T^2 ~ Beta(1/2, (d-1)/2) and m Pr[T >= t0] = min(1, m).

    Returns: cosine in [0, 1], for m >= 1 at most sqrt(2 ln(2m) / d).
    Source: eq:recovery-chance.
    """
    check(d >= 1 and m > 0, "expected_best_cosine_bound", "d >= 1 and m > 0", d=d, m=m)
    if d == 1:
        return min(1.0, m)
    b = (d - 1) / 2
    t0_squared = float(betainccinv(0.5, b, min(1.0, 1 / m)))
    log_mean = float(betaln(1, b) - betaln(0.5, b))  # ln E T
    above = m * float(betaincc(0.5, b, t0_squared))
    beyond = m * math.exp(log_mean + b * math.log1p(-t0_squared)) if t0_squared < 1 else 0.0
    return min(1.0, math.sqrt(t0_squared) * (1 - above) + beyond)


def _log_beta_tail(t: float, a: float, b: float) -> float:
    """Returns ln Pr[Beta(a, b) >= t], or an upper bound of it where the tail underflows."""
    if t <= 0:
        return 0.0
    if t >= 1:
        return -math.inf
    tail = float(betaincc(a, b, t))
    if tail > _UNDERFLOW:
        return math.log(tail)
    # int_t^1 s^(a-1) (1-s)^(b-1) ds <= max(1, t^(a-1)) (1-t)^b / b: never anti-conservative.
    return b * math.log1p(-t) - math.log(b) - float(betaln(a, b)) + max(0.0, (a - 1) * math.log(t))


def _log_binomial(m: int, k: int) -> float:
    return float(gammaln(m + 1) - gammaln(k + 1) - gammaln(m - k + 1))


def _check_sizes(where: str, d: int, m: int, k: int) -> None:
    check(d >= 1 and m >= 1, where, "d >= 1 and m >= 1", d=d, m=m)
    check(1 <= k <= m, where, f"1 <= k <= {m} (m)", k=k)
