"""Nearest neighbours of a direction among the rows of a dictionary, with exact p-values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import betainc, betaincc
from torch import Tensor
from torch.nn.functional import normalize

from theory.checks import check, check_finite, check_size

_ROUNDING = 1e-12  # exact copies reach a cosine of 1


@dataclass(frozen=True)
class Neighbours:
    """The nearest rows, nearest first.

    rows: [n], their indices.   cosines: [n], with the sign they have, also for lines.
    p_values: [n]; the j-th is the chance that at least j of `n_candidates` isotropic rows are as
        near as the j-th neighbour. Each is exactly uniform under the null.
    n_candidates: the rows compared: all but those excluded by index and the copies.
    copies: [n_copies], indices of the rows set aside because they copy the direction.
    """

    rows: Int[Tensor, " n"]
    cosines: Float[Tensor, " n"]
    p_values: Float[Tensor, " n"]
    n_candidates: int
    copies: Int[Tensor, " n_copies"]


def nearest(
    direction: Float[Tensor, " d_in"],
    rows: Float[Tensor, "n_rows d_in"],
    *,
    n: int = 5,
    signed: bool = True,
    exclude: Sequence[int] = (),
    copies_above: float = math.inf,
) -> Neighbours:
    """Returns the n rows nearest to the direction, with p-values that need no simulation.

    Nearness is the cosine (signed: a row is a ray) or its absolute value (not signed: a line).
    With q(c) the chance that one isotropic candidate is as near as c, and N candidates, the j-th
    neighbour has p = Pr[Binomial(N, q(c_j)) >= j]; for j = 1 that is 1 - (1 - q)^N.
    Lines: q(c) = Pr[Beta(1/2, (d_in - 1)/2) >= c^2]. Rays: half of it for c >= 0.
    Where copies are set aside, candidates are known to be less near than `copies_above` = t, and
    q(c) is replaced by (q(c) - q(t)) / (1 - q(t)).

    Null: the candidates are independent isotropic directions (for one fixed direction). Each p is
    then exactly uniform (for d_in = 1, where cosines are +-1, only super-uniform). One p-value
    answers for all N candidates; over many directions correct again, and note that the j-th and
    the (j+1)-th are dependent. If atoms never fire alone, success looks modest: the best cosine of
    an atom with an equal mixture of k orthonormal ones is 1/sqrt(k), .58 for k = 3.

    Args:
        direction: [d_in], non-zero.   rows: [n_rows, d_in], non-zero where not excluded.
        n: neighbours wanted, >= 1; fewer come back if fewer candidates are left.
        exclude: indices of rows to leave out, such as the row that `direction` was made from.
        copies_above: cosine, in (0, 1], from which a row counts as a copy and is set aside;
            infinity sets none aside.
    Raises: ValueError: shapes, NaN, a zero direction or candidate, bad indices, no candidate left.
    Source: eq:neighbour-p.
    Example:
        >>> nearest(torch.eye(4)[0], torch.eye(4), n=1).rows.tolist()
        [0]
    """
    where = "nearest"
    _check_problem(where, direction, rows, exclude)
    check_size(where, n=n)
    threshold = copies_above == math.inf or 0 < copies_above <= 1
    check(threshold, where, "copies_above in (0, 1], or infinity", copies_above=copies_above)
    left = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    left[list(exclude)] = False
    candidates = left.nonzero()[:, 0]
    check(len(candidates) > 0, where, "a row that is not excluded", n_rows=len(rows))
    u = normalize(direction.detach().double(), dim=0, eps=1e-300)
    w = normalize(rows.detach()[candidates].double(), dim=1, eps=1e-300)
    zero = candidates[(w == 0).all(1)][:5].tolist()
    check(not zero, where, "non-zero rows", "exclude dead rows", zero_rows=zero)
    check(bool((u != 0).any()), where, "a non-zero direction", direction=0.0)
    cosines = (w @ u).clamp(-1, 1)
    near = cosines if signed else cosines.abs()
    copies = near >= copies_above - _ROUNDING
    n_candidates = int((~copies).sum())
    check(
        n_candidates > 0, where, "a row that is not a copy", "raise copies_above", n_copies=len(w)
    )
    found = near.masked_fill(copies, -math.inf).topk(min(n, n_candidates)).indices
    p_values = neighbour_p_values(
        near[found],
        n_candidates,
        rows.shape[1],
        signed=signed,
        below=copies_above,
    )
    return Neighbours(
        rows=candidates[found],
        cosines=cosines[found],
        p_values=p_values,
        n_candidates=n_candidates,
        copies=candidates[copies],
    )


def neighbour_p_values(
    cosines: Float[Tensor, "*directions n"],
    n_candidates: int,
    d_in: int,
    *,
    signed: bool = True,
    below: float = math.inf,
) -> Float[Tensor, "*directions n"]:
    """Returns p-values of the n largest of `n_candidates` cosines with isotropic directions.

    The j-th is Pr[Binomial(n_candidates, q) >= j], q the chance that one cosine is as large: see
    `nearest`. Under that null each is exactly uniform.

    Args:
        cosines: [..., n], largest first along the last axis (absolute values if not signed).
        n_candidates: >= n.   d_in: >= 1.   below: a cosine that all candidates stay below.
    Source: eq:neighbour-p.
    """
    where = "neighbour_p_values"
    check_finite(where, cosines=cosines)
    check_size(where, n_candidates=n_candidates, d_in=d_in)
    n = cosines.shape[-1]
    check(n <= n_candidates, where, f"at most {n_candidates} (n_candidates) neighbours", n=n)
    c = np.array(cosines.tolist())
    beyond = float(_tail(np.array([below]), d_in, signed)[0]) if below < math.inf else 0.0
    q = ((_tail(c, d_in, signed) - beyond) / (1 - beyond)).clip(0, 1)
    ranks = np.arange(1, n + 1)
    p_values = betainc(ranks, n_candidates - ranks + 1, q)
    return torch.tensor(p_values.tolist(), dtype=torch.float64, device=cosines.device)


def _tail(c: np.ndarray, d_in: int, signed: bool) -> np.ndarray:
    """Returns the chance that an isotropic direction has cosine (or its absolute value) >= c."""
    if d_in == 1:  # the cosine is -1 or 1, each with probability 1/2
        return np.where(c <= -1, 1.0, 0.5) if signed else np.ones_like(c)
    line = betaincc(0.5, (d_in - 1) / 2, np.minimum(1.0, c * c))
    return np.where(c >= 0, line / 2, 1 - line / 2) if signed else line


def _check_problem(where: str, direction: Tensor, rows: Tensor, exclude: Sequence[int]) -> None:
    check_finite(where, direction=direction, rows=rows)
    shapes = (tuple(direction.shape), tuple(rows.shape))
    fits = direction.ndim == 1 and rows.ndim == 2 and 0 not in rows.shape
    fits = fits and rows.shape[1] == len(direction)
    rule = "direction [d_in] and non-empty rows [n_rows, d_in]"
    check(fits, where, rule, direction=shapes[0], rows=shapes[1])
    outside = [i for i in exclude if not 0 <= i < len(rows)]
    check(not outside, where, f"indices in [0, {len(rows)}) in exclude", outside=outside)
