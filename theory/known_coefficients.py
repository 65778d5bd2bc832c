"""Losses whose learning coefficient is known, at finite n too: what a sampler is checked on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from theory.checks import check, check_size
from theory.curvature import Loss

LOG_RANGE = (-36.0, 6.0)  # e^-36 is below rounding; exp(-e^12 / 2) is 0
LOG_STEP = 0.05
COARSE_STEP = 0.1  # enough where the nearest pole is at pi / 4
ODDS_RANGE = 80.0


@dataclass(frozen=True, eq=False)
class KnownModel:
    """A loss with its learning coefficient lambda, its multiplicity m, and its finite-n mean.

    loss: maps [n, n_weights] to [n], 0 at w_star.   w_star: [n_weights], float64.
    coefficient: lambda, in units of parameters / 2.   multiplicity: m >= 1.
    localised_mean: (n_beta, gamma) -> mean of n beta L under exp(-n beta L - (gamma/2)|w - w*|^2),
        gamma > 0, without any sampling. It tends to lambda as n_beta grows, by about
        (m - 1) / ln(n_beta) from below where m > 1. NotImplementedError where no quadrature is
        known.
    """

    loss: Loss
    w_star: Float[Tensor, " n_weights"]
    coefficient: float
    multiplicity: int
    localised_mean: Callable[[float, float], float]


def regular_quadratic(curvatures: Sequence[float]) -> KnownModel:
    """Returns L = (1/2) sum_j h_j w_j^2: lambda is half the number of curved directions, m = 1.

    Its localised mean is (1/2) sum_j n beta h_j / (n beta h_j + gamma).

    Args: curvatures: h_j, >= 0; those that are 0 do not count.
    """
    h = torch.tensor(list(curvatures), dtype=torch.float64)
    fits = len(h) > 0 and bool((h >= 0).all()) and bool(h.isfinite().all())
    check(fits, "regular_quadratic", "finite curvatures >= 0", curvatures=list(curvatures))

    def localised_mean(n_beta: float | int, localisation: float | int) -> float:
        _check_positive("regular_quadratic", n_beta, localisation)
        return float((n_beta * h / (n_beta * h + localisation)).sum()) / 2

    zeros = torch.zeros_like(h)
    n_curved = int((h > 0).sum())
    return KnownModel(lambda w: w.square() @ h / 2, zeros, n_curved / 2, 1, localised_mean)


def normal_crossing(powers: Sequence[int]) -> KnownModel:
    """Returns L = prod_j w_j^(2 k_j) at 0: lambda = min_j 1 / (2 k_j), m = how many attain it.

    Its localised mean is a sum over a grid of ln |w_j|, where the integrand is analytic and dies
    out at both ends, so the trapezoid rule is exact to 1e-10 for n beta / gamma^sum(k) <= 1e12.

    Args: powers: k_j, integers from 1 to 3, for one or two weights.
    Source: Watanabe 2009, Algebraic Geometry and Statistical Learning Theory (textbook).
    """
    where = "normal_crossing"
    fits = 1 <= len(powers) <= 2 and all(k in (1, 2, 3) for k in powers)
    check(fits, where, "one or two powers, each 1, 2 or 3", powers=list(powers))
    k = torch.tensor(list(powers), dtype=torch.float64)

    def localised_mean(n_beta: float | int, localisation: float | int) -> float:
        _check_positive(where, n_beta, localisation)
        # With v_j = ln(w_j sqrt(gamma)) only this one number is left of the two.
        strength = math.log(n_beta) - float(k.sum()) * math.log(localisation)
        v = torch.arange(*LOG_RANGE, LOG_STEP, dtype=torch.float64)
        grids = torch.meshgrid(*[v] * len(k), indexing="ij")
        energy = torch.full_like(grids[0], strength)
        log_weight = torch.zeros_like(grids[0])
        for power, g in zip(k, grids, strict=True):
            energy = energy + 2 * power * g
            log_weight = log_weight + g - (2 * g).exp() / 2
        energy = energy.exp()
        weight = (log_weight - energy).exp()
        return float((torch.where(weight > 0, weight * energy, 0.0)).sum() / weight.sum())

    top = max(powers)
    return KnownModel(
        lambda w: (w ** (2 * k)).prod(1),
        torch.zeros(len(k), dtype=torch.float64),
        1 / (2 * top),
        list(powers).count(top),
        localised_mean,
    )


def reduced_rank(n_in: int, n_out: int, n_hidden: int, true_rank: int) -> KnownModel:
    """Returns L = (1/2)|B A - B* A*|_F^2, a linear network of white inputs, at a map of true_rank.

    w = (A [n_hidden, n_in], B [n_out, n_hidden]), flattened; A* and B* are 1 on the first true_rank
    entries of their diagonals and 0 elsewhere, which is a most degenerate of the minimisers.
    The localised mean is known for true_rank 0 with a size of at most 2: B is Gaussian given A, and
    what is left is an integral over the squared singular values of A.

    Args: sizes >= 1; 0 <= true_rank <= all of them.
    Source: Aoyagi & Watanabe 2005, Stochastic complexities of reduced rank regression.
    """
    where = "reduced_rank"
    check_size(where, n_in=n_in, n_out=n_out, n_hidden=n_hidden)
    sizes = sorted((n_in, n_out, n_hidden))
    rule = f"0 <= true_rank <= {sizes[0]} (the smallest size)"
    check(0 <= true_rank <= sizes[0], where, rule, true_rank=true_rank)
    a = torch.eye(n_hidden, n_in, dtype=torch.float64)
    b = torch.eye(n_out, n_hidden, dtype=torch.float64)
    a[true_rank:], b[:, true_rank:] = 0, 0
    target = b @ a

    def loss(w: Float[Tensor, "n n_weights"]) -> Float[Tensor, " n"]:
        first = w[:, : a.numel()].reshape(-1, *a.shape)
        second = w[:, a.numel() :].reshape(-1, *b.shape)
        return (second @ first - target).square().sum((1, 2)) / 2

    def localised_mean(n_beta: float | int, localisation: float | int) -> float:
        _check_positive(where, n_beta, localisation)
        if true_rank > 0 or sizes[0] > 2:
            raise NotImplementedError("localised mean: true_rank 0 and a size of at most 2 only")
        return _zero_map_mean(n_in, n_out, n_hidden, n_beta / localisation**2)

    coefficient, multiplicity = reduced_rank_coefficient(n_in, n_out, n_hidden, true_rank)
    w_star = torch.cat([a.flatten(), b.flatten()])
    return KnownModel(loss, w_star, coefficient, multiplicity, localised_mean)


def reduced_rank_coefficient(
    n_in: int, n_out: int, n_hidden: int, true_rank: int
) -> tuple[float, int]:
    """Returns lambda and m of reduced-rank regression, in the four cases of Aoyagi & Watanabe."""
    m, n, h, r = n_in, n_out, n_hidden, true_rank
    if n + r > m + h:
        return (h * m - h * r + n * r) / 2, 1
    if m + r > n + h:
        return (h * n - h * r + m * r) / 2, 1
    if h + r > m + n:
        return m * n / 2, 1
    odd = (m + n + h + r) % 2
    return (2 * (h + r) * (m + n) + 2 * m * n - (h + r) ** 2 - m**2 - n**2 + odd) / 8, 1 + odd


def _zero_map_mean(n_in: int, n_out: int, n_hidden: int, strength: float) -> float:
    """Returns the mean of s |B A|^2 / 2 under exp(-s |B A|^2 / 2 - |A|^2 / 2 - |B|^2 / 2).

    A [h, m] has p = min(h, m) non-zero squared singular values x_i, of the density of a Wishart
    matrix; each takes a factor (1 + s x_i)^(-n/2) and gives (n/2) s x_i / (1 + s x_i).
    """
    if min(n_in, n_hidden) > min(n_out, n_hidden):
        n_in, n_out = n_out, n_in  # transposing B A changes nothing
    p, q = sorted((n_in, n_hidden))
    v = torch.arange(*LOG_RANGE, COARSE_STEP, dtype=torch.float64)[:, None]
    x = (2 * v).exp()
    log_weight = q * v if p == 1 else 2 * q * v  # density and Jacobian in v, for p values x
    if p == 2:
        # The second value is t x, t = 1 / (1 + e^-u): the density's kink at t = 1 moves to u = inf.
        u = torch.arange(-ODDS_RANGE, ODDS_RANGE, COARSE_STEP, dtype=torch.float64)[None]
        log_t, log_rest = torch.nn.functional.logsigmoid(u), torch.nn.functional.logsigmoid(-u)
        log_weight = log_weight + (q - 1) / 2 * log_t + 2 * log_rest
        values = [x, x * log_t.exp()]
    else:
        values = [x]
    for value in values:
        log_weight = log_weight - value / 2 - n_out / 2 * torch.log1p(strength * value)
    weight = (log_weight - log_weight.max()).exp()
    shares = sum(strength * value / (1 + strength * value) for value in values)
    return n_out / 2 * float((weight * shares).sum() / weight.sum())


def _check_positive(where: str, n_beta: float | int, localisation: float | int) -> None:
    positive = 0 < n_beta < math.inf and 0 < localisation < math.inf
    rule = "finite n_beta > 0 and localisation > 0"
    check(positive, where, rule, n_beta=n_beta, localisation=localisation)
