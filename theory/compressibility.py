"""How far a meta-SAE compresses a set of directions, against structureless directions."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from theory.checks import check, check_finite, check_tensor
from theory.isotropic import isotropic_rows
from theory.sparse_coding import omp
from theory.spectral import SpectralBound, checked_weights, spectral_fve_bound

MIN_SURROGATES = 8


@dataclass(frozen=True)
class Compressibility:
    """The fraction of the rows' energy a meta-SAE explains, its null, and the curve's two ends.

    fve: uncentred fraction of (weighted) energy explained; 1 is exact, 0 is the zero vector.
    null: mean FVE of the same recipe refitted on structureless rows.   excess: fve - null.
    p_value: (1 + #{null >= fve}) / (1 + n_surrogates), in [1 / (1 + n_surrogates), 1].
    spectral_bound: no meta-SAE of this width exceeds it (1 and void from the rank on).
    copy_baseline: what copying n_latents of these rows already reaches *in sample*.
    """

    fve: float
    null: float
    excess: float
    p_value: float
    spectral_bound: SpectralBound
    copy_baseline: float


def compressibility(
    rows: Float[Tensor, "n_rows d_in"],
    reconstruction: Float[Tensor, "n_rows d_in"],
    *,
    n_latents: int,
    k: int,
    bias: bool,
    weights: Float[Tensor, " n_rows"] | None = None,
    null_fves: Float[Tensor, " n_surrogates"],
) -> Compressibility:
    """Returns how compressible the rows are, beside what structureless rows of the same shape give.

    Null: the rows are isotropic and independent. Its level is the FVE of the *same recipe* (sizes,
    steps, weights, in-sample or held-out) refitted on `isotropic_surrogates`: it grows with
    n_latents / n_rows and k, shrinks with d_in, and in sample is far from 0 even for random rows.
    The caller makes `null_fves`, since only the caller knows the recipe; `isotropic_fve_bound` is
    no substitute. A large excess says "not isotropic", which is weaker than "composed of atoms":
    a low-rank spectrum suffices.

    Args:
        rows: [n_rows, d_in], the directions, e.g. W_dec or a dictionary.
        reconstruction: [n_rows, d_in], the meta-SAE's output on them.
        n_latents, k, bias: the meta-SAE's width, active latents per row, and decoder bias or not.
        weights: [n_rows], >= 0, not all 0; None is uniform.
        null_fves: [n_surrogates], at least 8, one per refit (computed by `fve`).
    Raises: ValueError: shapes, NaN, weights, fewer than 8 nulls, k outside 1..n_latents.
    Source: eq:compressibility. fve differs from 1 - fvu: it is not centred.
    """
    score = fve(rows, reconstruction, weights=weights)
    p_value = surrogate_p_value(score, null_fves)
    null = null_fves.double().mean().item()
    return Compressibility(
        fve=score,
        null=null,
        excess=score - null,
        p_value=p_value,
        spectral_bound=spectral_fve_bound(rows, n_latents, weights=weights, bias=bias),
        copy_baseline=copy_baseline(rows, n_latents, k, weights=weights),
    )


def fve(
    rows: Float[Tensor, "n_rows d_in"],
    reconstruction: Float[Tensor, "n_rows d_in"],
    *,
    weights: Float[Tensor, " n_rows"] | None = None,
) -> float:
    """Returns 1 - sum_i w_i |d_i - d_hat_i|^2 / sum_i w_i |d_i|^2, the uncentred FVE.

    Returns: fraction; 1 is exact, 0 is the zero vector, negative is worse than nothing.
        Its null is not 0: see `compressibility`.
    """
    w = checked_weights("fve", rows, weights)
    check_finite("fve", reconstruction=reconstruction)
    shapes = (tuple(rows.shape), tuple(reconstruction.shape))
    check(shapes[0] == shapes[1], "fve", "equal shapes", rows=shapes[0], reconstruction=shapes[1])
    rows, reconstruction = rows.detach().double(), reconstruction.detach().double()
    energy = (w * rows.square().sum(1)).sum().item()
    check(energy > 0, "fve", "rows with positive weighted energy", energy=energy)
    return 1 - (w * (rows - reconstruction).square().sum(1)).sum().item() / energy


def surrogate_p_value(score: float, null_fves: Float[Tensor, " n_surrogates"]) -> float:
    """Returns (1 + #{null >= score}) / (1 + S): one-sided, for large scores.

    Null: score and null FVEs are exchangeable (same recipe, same law); then
    Pr(p <= alpha) <= alpha exactly. The smallest possible value is 1 / (1 + S).
    """
    where = "surrogate_p_value"
    check_finite(where, null_fves=null_fves)
    n_surrogates = len(null_fves)
    todo = "refit the same recipe on more isotropic_surrogates"
    check(n_surrogates >= MIN_SURROGATES, where, f">= {MIN_SURROGATES} nulls", todo, n=n_surrogates)
    check(math.isfinite(score), where, "a finite score", score=score)
    return (1 + int((null_fves >= score).sum())) / (1 + n_surrogates)


def copy_baseline(
    rows: Float[Tensor, "n_rows d_in"],
    n_latents: int,
    k: int,
    *,
    weights: Float[Tensor, " n_rows"] | None = None,
    nonnegative: bool = True,
) -> float:
    """Returns an FVE reached in sample without learning anything: copy some rows, code the others.

    1 - sum_{i not in S} w_i |d_i|^2 (1 - R_k^2(d_i; D_S)) / sum_i w_i |d_i|^2, with |S| = n_latents
    and R_k^2 by `omp`. Every S gives a valid lower end of the curve sup over atoms and k-sparse
    codes of FVE; the better of two is returned: the rows of largest weighted energy, and those
    chosen greedily, each as far as possible from the span of those before (pivoted QR).

    In sample only: held-out rows cannot be copied.

    Args: nonnegative: codes >= 0, as those of a ReLU or top-k SAE; False is for signed codes.
    Returns:
        fraction in [0, 1]; exactly 1 for n_latents >= n_rows, where every row is its own latent.
    Source: eq:copy-baseline.
    """
    where = "copy_baseline"
    w = checked_weights(where, rows, weights)
    check(1 <= k <= n_latents, where, f"1 <= k <= {n_latents} (n_latents)", k=k)
    if n_latents >= len(rows):
        return 1.0
    rows = rows.detach().double()
    energy = w * rows.square().sum(1)
    largest = energy.argsort(descending=True, stable=True)[:n_latents]
    spread = _pivots(w.sqrt()[:, None] * rows, n_latents)
    scores = []
    for copied in (largest, spread):
        atoms = rows[copied]
        codes = omp(rows, atoms, k, nonnegative=nonnegative)  # a copied row codes itself exactly
        scores.append(fve(rows, codes @ atoms, weights=w))
    return max(scores)


def isotropic_surrogates(
    n_rows: int,
    d_in: int,
    n_surrogates: int,
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "n_surrogates n_rows d_in"]:
    """Returns n_surrogates (at least 8) sets of structureless rows: isotropic unit vectors."""
    enough = n_surrogates >= MIN_SURROGATES
    check(enough, "isotropic_surrogates", f"n_surrogates >= {MIN_SURROGATES}", got=n_surrogates)
    return isotropic_rows(n_surrogates, n_rows, d_in, generator=generator, dtype=dtype)


def effective_n_rows(weights: Float[Tensor, " n_rows"]) -> float:
    """Returns (sum w)^2 / sum w^2, the number of equally weighted rows with the same variance.

    Returns: rows, in [1, n_rows]; n_rows for equal weights, 1 if one row holds all the weight.
    """
    check_tensor("effective_n_rows", weights=weights)
    w = checked_weights("effective_n_rows", weights[:, None], weights)
    w = w / w.max()  # weights may be tiny: squaring first would underflow
    return (w.sum().square() / w.square().sum()).item()


def held_out_radius(n_effective: float | int, delta: float) -> float:
    """Returns sqrt(ln(1/delta) / (2 n_effective)): how far above nu refutes "isotropic".

    One-sided Hoeffding bound for a weighted mean of R_k^2 in [0, 1] over independent *held-out*
    unit rows: under the null Pr(mean R_k^2 > isotropic_fve_bound(d, m, k) + radius) <= delta.

    Args: n_effective: `effective_n_rows` of the held-out rows.   delta: level in (0, 1).
    """
    check(n_effective > 0, "held_out_radius", "n_effective > 0", n_effective=n_effective)
    check(0 < delta < 1, "held_out_radius", "0 < delta < 1", delta=delta)
    return math.sqrt(math.log(1 / delta) / (2 * n_effective))


def _pivots(rows: Float[Tensor, "n_rows d_in"], n_pivots: int) -> Tensor:
    """Returns row indices, each with the largest residual after projection on those before it."""
    residual = rows
    taken = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    pivots = []
    for _ in range(n_pivots):
        left = residual.square().sum(1).masked_fill(taken, -1.0)
        pivot = left.argmax()
        pivots.append(pivot)
        taken[pivot] = True
        norm = torch.linalg.vector_norm(residual[pivot])
        if norm > 0:
            direction = residual[pivot] / norm
            residual = residual - (residual @ direction)[:, None] * direction
    return torch.stack(pivots)
