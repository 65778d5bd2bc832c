"""Atomicity: how much of each row of a dictionary the others cannot compose."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from theory.checks import check, check_finite, check_size
from theory.isotropic import isotropic_fve_bound
from theory.sparse_coding import MAX_SUPPORTS, best_support, omp, r_squared


@dataclass(frozen=True)
class Atomicity:
    """What k of the other rows leave of each row: shares of its squared norm, in [0, 1].

    residuals: [n_rows], the exact value where `exact`, else `greedy`; 1 is an atom, 0 a composite.
    certificate: [n_rows], lower bound from cosines alone; 0 where it says nothing.
    greedy: [n_rows], upper bound from OMP.
    exact: whether every support was searched.
    null: lower bound on the mean residual of isotropic rows of these sizes. Structureless rows
        score at least this on average; a mean below it is evidence of composition.
    """

    residuals: Float[Tensor, " n_rows"]
    certificate: Float[Tensor, " n_rows"]
    greedy: Float[Tensor, " n_rows"]
    exact: bool
    null: float


def atomicity(rows: Float[Tensor, "n_rows d_in"], k: int) -> Atomicity:
    """Returns min over |S| <= k, i not in S of dist^2(d_i, span D_S) for each unit row d_i.

    The residual is 1 - R_k^2 in the other rows: signed codes, so a row and its opposite count as
    copies of each other. Searched exactly while there are at most 5,000 supports.
    certificate_i: with g the k largest |cosines| of row i with the others and mu the coherence of
    the others, 1 - |g|^2 / (1 - (k-1) mu) where (k-1) mu < 1, at least `atomicity_floor`.

    Null: isotropic rows. Each is independent of the others, so its expected residual is at least
    1 - nu(d_in, n_rows - 1, k). For k >= d_in both are 0: d_in generic rows compose everything.

    Args: rows: [n_rows, d_in], non-zero, only their directions count.   k: 1 <= k <= n_rows - 1.
    Raises: ValueError: shapes, NaN, zero rows, k out of range.
    Source: eq:atomicity.
    Example:
        >>> atomicity(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), 1).exact
        True
    """
    where = "atomicity"
    check_finite(where, rows=rows)
    check(rows.ndim == 2 and 0 not in rows.shape, where, "rows [n, d_in]", shape=tuple(rows.shape))
    norms = torch.linalg.vector_norm(rows.detach().double(), dim=1, keepdim=True)
    zero = (norms[:, 0] == 0).nonzero()[:5, 0].tolist()
    check(not zero, where, "non-zero rows", "remove dead rows first", zero_rows=zero)
    n, d_in = rows.shape
    check(1 <= k <= n - 1, where, f"1 <= k <= {n - 1} (n_rows - 1)", k=k)
    check_size(where, k=k)
    unit = rows.detach().double() / norms
    others = [torch.cat([unit[:i], unit[i + 1 :]]) for i in range(n)]
    exact = math.comb(n - 1, k) <= MAX_SUPPORTS
    greedy, residuals = torch.empty(2, n, dtype=torch.float64, device=rows.device)
    for i, atoms in enumerate(others):
        row = unit[i : i + 1]
        explained = r_squared(row, omp(row, atoms, k) @ atoms)
        greedy[i] = 1 - explained[0].clamp(0, 1)
        residuals[i] = 1 - best_support(row, atoms, k).r_squared[0] if exact else greedy[i]
    return Atomicity(
        residuals=torch.minimum(residuals, greedy),
        certificate=_certificates(unit, k),
        greedy=greedy,
        exact=exact,
        null=1 - isotropic_fve_bound(d_in, n - 1, k),
    )


def atomicity_floor(coherence: float, k: int) -> float:
    """Returns 1 - k mu^2 / (1 - (k-1) mu), a lower bound on what k other features leave of one.

    Share of squared norm in [0, 1]; 0, which says nothing, where (k-1) mu >= 1 or the bound is
    negative. k = 0 leaves everything. Attained by rows with cosine mu to the one and -mu to each
    other. Source: eq:atomicity.
    """
    rounded = 0 <= coherence <= 1 + 1e-9  # that of two equal rows may come out above 1
    check(rounded, "atomicity_floor", "0 <= coherence <= 1", coherence=coherence)
    check(k >= 0, "atomicity_floor", "k >= 0", k=k)
    spread = 1 - (k - 1) * coherence
    return max(0.0, 1 - k * coherence**2 / spread) if k and spread > 0 else float(k == 0)


def _certificates(unit: Float[Tensor, "n d_in"], k: int) -> Float[Tensor, " n"]:
    cosines = (unit @ unit.T).abs().fill_diagonal_(0.0)
    bounds = []
    for i, own in enumerate(cosines):
        rest = cosines.clone()
        rest[i], rest[:, i] = 0.0, 0.0
        spread = 1 - (k - 1) * float(rest.max())
        explained = float(own.topk(k).values.square().sum())
        bounds.append(max(0.0, 1 - explained / spread) if spread > 0 else 0.0)
    return unit.new_tensor(bounds)
