"""Label-free signals of a decoder: its projections on the data, its cosines with itself and with
a larger one."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import betainc, betaln
from torch import Tensor
from torch.nn.functional import normalize

from theory.checks import check, check_finite, check_size


@dataclass(frozen=True)
class Signal:
    """A number read off a decoder without the truth, and what isotropic latents get.

    value: see the function that returned it.   null: its value for independent isotropic latents of
    the same number and d_in.
    """

    value: float
    null: float


def decoder_projection(
    x: Float[Tensor, "n_samples d_in"],
    W_dec: Float[Tensor, "n_latents d_in"],
    b_dec: Float[Tensor, " d_in"] | None = None,
    *,
    n: int,
) -> Signal:
    """Returns the n-th decoder projection: low where latents do not share features.

    s_n = entry n * n_samples (from 0, in falling order) of all (x - b_dec) . w_j / |w_j|, samples
    and latents together: what is left on latents that should be silent. A latent that mixes
    features also projects where its own one is silent, and raises s_n for n above the true l0.

    Null: isotropic latents, in the limit of many: the q at which the mean over samples of
    Pr(|x - b_dec| c > q) is n / n_latents, c the cosine of an isotropic direction.

    Args:
        x: [n_samples, d_in].   W_dec: [n_latents, d_in]; dead latents (zero rows) are set aside
            first.   b_dec: [d_in].
        n: 1 <= n < live latents; above the l0s that are compared.
    Returns: unit of x. It may be negative.
    Raises: ValueError: shapes, NaN, n out of range, d_in = 1.
    Source: Chanin and Garriga-Alonso 2025, arXiv 2508.16560 (which takes W_dec as it is, with rows
        of norm 1 or nearly).
    Example:
        >>> decoder_projection(torch.eye(3), torch.eye(3), n=1).value
        0.0
    """
    where = "decoder_projection"
    check_finite(where, x=x)
    rows = _live_rows(where, W_dec)
    y = x.detach().double()
    fits = x.ndim == 2 and len(x) > 0 and x.shape[1] == rows.shape[1]
    fits = fits and (b_dec is None or b_dec.shape == x.shape[1:])
    shapes = {"x": tuple(x.shape), "W_dec": tuple(W_dec.shape)}
    check(fits, where, "x [n_samples, d_in], W_dec [n_latents, d_in], b_dec [d_in]", **shapes)
    if b_dec is not None:
        check_finite(where, b_dec=b_dec)
        y = y - b_dec.detach().double()
    check(1 <= n < len(rows), where, f"1 <= n < {len(rows)} (live latents)", n=n)
    projections = (y @ rows.T).flatten()
    nth = projections.kthvalue(len(projections) - n * len(y)).values  # from below, from 1
    return Signal(float(nth), _null_quantile(y, n / len(rows)))


def pairwise_cosine(W_dec: Float[Tensor, "n_latents d_in"]) -> Signal:
    """Returns the mean |cosine| of two latents: low where latents do not share features.

    Mean over pairs i < j of |w_i . w_j| / (|w_i| |w_j|). Low means right only if the features
    themselves are nearly orthogonal: the true dictionary gets its own value, which the function
    cannot know.

    Null: isotropic latents: Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2)), about sqrt(2 / (pi d_in)).

    Args: W_dec: [n_latents, d_in]; dead latents (zero rows) are set aside; two are needed.
    Raises: ValueError: shapes, NaN, fewer than two live latents, d_in = 1.
    Source: Chanin and Garriga-Alonso 2025, arXiv 2508.16560.
    Example:
        >>> pairwise_cosine(torch.eye(3)).value
        0.0
    """
    rows = _live_rows("pairwise_cosine", W_dec)
    n, d_in = rows.shape
    check(n >= 2, "pairwise_cosine", "two live latents or more", n_live=n)
    total = float((rows @ rows.T).abs().sum() - rows.square().sum())
    half = (d_in - 1) / 2
    return Signal(total / (n * (n - 1)), math.exp(betaln(1, half) - betaln(0.5, half)))


def larger_agreement(
    W_dec: Float[Tensor, "n_latents d_in"], larger: Float[Tensor, "n_larger d_in"]
) -> Signal:
    """Returns the mean over latents of the largest cosine with a latent of a larger SAE (MMCS).

    (1/n) sum_i max_j w_i . v_j / (|w_i| |v_j|). Latents that both SAEs found are close to 1.
    Several latents may have one nearest: `stability` matches one to one instead.

    Null: isotropic latents: E max of n_larger cosines = 1 - integral of F(t)^n_larger over [-1, 1],
    F the distribution of one. It grows with n_larger.

    Args: W_dec, larger: of one d_in; dead latents (zero rows) are set aside in both.
    Raises: ValueError: shapes, NaN, no live latent, d_in = 1.
    Source: Sharkey, Braun and Millidge 2022, Taking features out of superposition.
    Example:
        >>> larger_agreement(torch.eye(3)[:2], torch.eye(3)).value
        1.0
    """
    where = "larger_agreement"
    rows, others = _live_rows(where, W_dec), _live_rows(where, larger)
    same = rows.shape[1] == others.shape[1]
    shapes = {"W_dec": tuple(W_dec.shape), "larger": tuple(larger.shape)}
    check(same, where, "two decoders of one d_in", **shapes)
    value = float((rows @ others.T).amax(1).clamp(max=1).mean())
    return Signal(value, expected_best_cosine(len(others), rows.shape[1]))


def expected_best_cosine(n: int, d_in: int) -> float:
    """Returns E max_j u . v_j for n independent isotropic v_j and a fixed unit u, exactly.

    Args: n >= 1.   d_in >= 2.   `expected_best_cosine_bound` bounds it for |cosine|.
    """
    check_size("expected_best_cosine", n=n)
    check(d_in >= 2, "expected_best_cosine", "d_in >= 2", d_in=d_in)
    return 1 - quad(lambda t: _cosine_below(t, d_in) ** n, -1, 1, limit=200)[0]


def _cosine_below(t: float, d_in: int) -> float:
    """Returns Pr(u . v <= t) for isotropic v: (1 + u . v) / 2 has a Beta((d-1)/2, (d-1)/2) law."""
    half = (d_in - 1) / 2
    return float(betainc(half, half, min(1.0, max(0.0, (1 + t) / 2))))


def _null_quantile(y: Float[Tensor, "n_samples d_in"], share: float) -> float:
    """Returns the q that a share of the projections on isotropic directions exceeds."""
    lengths = torch.linalg.vector_norm(y, dim=1).cpu().numpy()
    lengths, d_in, largest = lengths[lengths > 0], y.shape[1], float(lengths.max())
    half, n_zero = (d_in - 1) / 2, len(y) - len(lengths)
    if largest == 0:
        return 0.0

    def excess(q: float) -> float:
        below = betainc(half, half, ((1 + q / lengths) / 2).clip(0, 1)).sum() + n_zero * (q >= 0)
        return 1 - below / len(y) - share

    root: Any = brentq(excess, -largest * (1 + 1e-9), largest, xtol=1e-12 * largest)
    return float(root)


def _live_rows(where: str, W_dec: Tensor) -> Float[Tensor, "n_live d_in"]:
    check_finite(where, W_dec=W_dec)
    check(W_dec.ndim == 2, where, "a decoder [n_latents, d_in]", shape=tuple(W_dec.shape))
    check(W_dec.shape[1] >= 2, where, "d_in >= 2", d_in=W_dec.shape[1])
    units = normalize(W_dec.detach().double(), dim=1, eps=1e-300)
    live = units[(units != 0).any(1)]
    check(len(live) > 0, where, "a live latent", "leave out decoders that are dead", n_live=0)
    return live
