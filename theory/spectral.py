"""Spectral bounds: what no code of a given width can explain, whoever trained it and however."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from theory.checks import check, check_finite, check_size, check_tensor


@dataclass(frozen=True)
class SpectralBound:
    """An upper bound on an FVE; `void` (and 1) where the width reaches the rank: do not draw it."""

    fve: float
    void: bool


def spectral_fve_bound(
    rows: Float[Tensor, "n_rows d_in"],
    n_latents: int,
    *,
    weights: Float[Tensor, " n_rows"] | None = None,
    bias: bool,
) -> SpectralBound:
    """Returns the most that any n_latents atoms, any code and any sparsity can explain of the rows.

    FVE = 1 - sum_i w_i |d_i - d_hat_i|^2 / sum_i w_i |d_i|^2 (uncentred).
    No bias:  FVE <= sum_{j <= m} lambda_j(M) / tr M,            M = sum_i w_i d_i d_i^T.
    Bias:     FVE <= 1 - sum_{j > m} lambda_j(M_c) / tr M,       M_c = the same about the w-mean,
              because with a free bias the loss is at least what m directions leave of M_c.
    Both are attained by unrestricted codes (Ky Fan); a sparse or one-shot code does worse. For
    orthonormal rows of equal weights: m/n without bias, at most (m+1)/n with. For trained *and*
    held-out rows.

    Null: none is needed, this is a certificate; a violation is a bug in the FVE.

    Args:
        rows: [n_rows, d_in], not all zero.   n_latents: m >= 0 atoms (m = 0: only the bias).
        weights: [n_rows], >= 0, not all 0; None is uniform.
        bias: whether the decoder has one.
    Returns: fraction in [0, 1]; 1 and void if n_latents >= the rank of M (or M_c).
    Source: eq:spectral-null. Example: spectral_fve_bound(torch.eye(4), 1, bias=False).fve == 0.25.
    """
    where = "spectral_fve_bound"
    w = checked_weights(where, rows, weights)
    check_size(where, 0, n_latents=n_latents)
    rows = rows.detach().double()
    total = (w * rows.square().sum(1)).sum()
    check(bool(total > 0), where, "rows with positive weighted energy", energy=total.item())
    if bias:
        rows = rows - (w / w.sum()) @ rows
    # Squared singular values of diag(sqrt w) D: no Gram matrix, so small eigenvalues stay accurate.
    spectrum = torch.linalg.svdvals(w.sqrt()[:, None] * rows).square()
    tail = spectrum[n_latents:].sum() / total
    rounding = max(rows.shape) * torch.finfo(torch.float64).eps
    if bool(tail <= rounding):
        return SpectralBound(1.0, void=True)
    return SpectralBound(min(1.0, max(0.0, 1 - tail.item())), void=False)


def spectral_loss_bound(covariance: Float[Tensor, "d_in d_in"], n_latents: int) -> float:
    """Returns sum_{j > n_latents} lambda_j: the least mean squared error of n_latents latents.

    E|x - x_hat|^2 >= sum_{j > m} lambda_j(Cov x) for every encoder and every affine decoder.
    Without decoder bias pass the second moment E[x x^T] instead (a larger bound). Exact for the
    declared covariance, and per batch for the batch's own covariance (divided by n, not n - 1).

    Args: covariance: [d_in, d_in], symmetric positive semi-definite, unit of x squared.
    Returns: unit of x squared, summed over coordinates; 0 (void) once n_latents >= rank.
    Source: eq:discard.
    """
    where = "spectral_loss_bound"
    check_finite(where, covariance=covariance)
    square = covariance.ndim == 2 and covariance.shape[0] == covariance.shape[1]
    check(square, where, "a square matrix", shape=tuple(covariance.shape))
    check_size(where, 0, n_latents=n_latents)
    matrix = covariance.detach().double()
    scale = matrix.abs().max().item()
    gap = (matrix - matrix.T).abs().max().item()
    check(gap <= 1e-5 * scale, where, "a symmetric matrix", largest_asymmetry=gap)
    spectrum = torch.linalg.eigvalsh((matrix + matrix.T) / 2)  # ascending
    lowest = spectrum[0].item()
    check(lowest >= -1e-5 * scale, where, "a positive semi-definite matrix", eigenvalue=lowest)
    kept = max(len(spectrum) - n_latents, 0)
    return spectrum[:kept].clamp(min=0).sum().item()


def coherence_fve_bound(
    n_rows: int, rank: int, rms_coherence: float | int, n_latents: int
) -> float:
    """Returns the closed-form bias-free, uniformly weighted bound on the FVE of unit rows.

    m/r + sqrt( (m/r) (1 - m/r) (r F / n^2 - 1) ),   F = n + n (n-1) mu_rms^2 = |Gram|_F^2,
    mu_rms^2 the mean squared off-diagonal Gram entry, r the rank (r = n is always allowed and gives
    m/n + mu_rms sqrt((m/n)(1 - m/n)(n - 1))). At least `spectral_fve_bound`; equal for orthonormal
    (m/n) and tight (m/r) rows.

    Returns: fraction in [0, 1]; 1 (void) once m >= r.
    Source: eq:spectral-null.
    """
    where = "coherence_fve_bound"
    check(1 <= rank <= n_rows, where, f"1 <= rank <= {n_rows} (n_rows)", rank=rank)
    check(0 <= rms_coherence <= 1, where, "0 <= rms_coherence <= 1", rms_coherence=rms_coherence)
    check_size(where, 0, n_latents=n_latents)
    if n_latents >= rank:
        return 1.0
    share = n_latents / rank
    frobenius = n_rows + n_rows * (n_rows - 1) * rms_coherence**2
    # r F >= n^2 for rows of rank r; below 0 is rounding (or an rms_coherence no rank-r rows have).
    spread = max(0.0, rank * frobenius / n_rows**2 - 1)
    return min(1.0, share + math.sqrt(share * (1 - share) * spread))


def compressible_coherence(n_rows: int, n_latents: int) -> float:
    """Returns sqrt((n - m) / (m (n - 1))), the least coherence of n unit rows of rank at most m.

    Exactly reconstructing n rows from m < n atoms without bias, at whatever sparsity, forces a
    coherence (largest |cosine|) of at least this: the Welch bound in m dimensions.

    Returns: cosine in [0, 1]; 0 (void) for m >= n.
    Source: eq:spectral-null.
    """
    check(n_rows >= 1 and n_latents >= 1, "compressible_coherence", "counts >= 1", m=n_latents)
    if n_latents >= n_rows:
        return 0.0
    return math.sqrt((n_rows - n_latents) / (n_latents * (n_rows - 1)))


def checked_weights(
    where: str, rows: Float[Tensor, "n_rows d_in"], weights: Float[Tensor, " n_rows"] | None
) -> Float[Tensor, " n_rows"]:
    """Returns the weights in float64 (ones for None) after checking rows and weights."""
    check_tensor(where, rows=rows)
    shape = tuple(rows.shape)
    check(rows.ndim == 2 and 0 not in shape, where, "rows [n_rows, d_in]", rows=shape)
    check_finite(where, rows=rows)
    if weights is None:
        return torch.ones(len(rows), dtype=torch.float64, device=rows.device)
    rule = f"weights of shape {(len(rows),)}, one per row"
    check(weights.shape == (len(rows),), where, rule, weights=tuple(weights.shape))
    check_finite(where, weights=weights)
    lowest, total = weights.min().item(), weights.sum().item()
    check(lowest >= 0 and total > 0, where, "weights >= 0, not all 0", minimum=lowest, sum=total)
    return weights.detach().double()
