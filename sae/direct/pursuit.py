"""Non-negative sparse codes of many targets in many dictionaries at once."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.checks import check, check_finite

_SOLVABLE = (torch.float32, torch.float64)
_RIDGE = 1e-6  # relative to unit rows; keeps equal rows from making a Gram matrix singular


def nonnegative_omp(
    targets: Float[Tensor, "*runs n d_in"],
    rows: Float[Tensor, "*runs m d_in"],
    k: int,
    *,
    tolerance: float = 1e-4,
) -> Float[Tensor, "*runs n m"]:
    """Returns codes >= 0 with at most k non-zeros a target, by orthogonal matching pursuit.

    k times: the row with the largest inner product with the residual joins, if that is above
    `tolerance`; then all that joined are refitted by least squares. While a refitted coefficient
    is <= 0 the least of them leaves for good, so a code may hold fewer than k rows. Leading
    dimensions are independent problems, solved side by side.

    Args:
        targets: [*runs, n, d_in], [n, d_in] for one problem; float32 or float64.
        rows: [*runs, m, d_in], unit rows, taken in the targets' dtype; a zero row is never chosen.
        k: 1 <= k <= m.
        tolerance: >= 0, in the unit of the targets: what is left unexplained along any one row.
            Above the noise's largest inner product with the rows, noise is not coded.
    Returns:
        codes: targets are about codes @ rows; 0 for a target below the tolerance.
    Raises:
        ValueError: shapes or dtypes that do not fit, NaN, k or tolerance out of range.
    Source: Pati et al. 1993; with coefficients >= 0 Bruckstein, Elad & Zibulevsky 2008. Differs
        from an exact non-negative refit in that a row that left does not come back.
    """
    where = "nonnegative_omp"
    check_solvable(where, targets=targets)
    check_finite(where, rows=rows)
    shapes = tuple(targets.shape), tuple(rows.shape)
    fits = targets.ndim == rows.ndim >= 2 and shapes[0][:-2] == shapes[1][:-2]
    fits = fits and shapes[0][-1] == shapes[1][-1]
    rule = "targets [*runs, n, d_in] and rows [*runs, m, d_in]"
    check(fits, where, rule, targets=shapes[0], rows=shapes[1])
    check(1 <= k <= shapes[1][-2], where, f"1 <= k <= {shapes[1][-2]} (rows)", k=k)
    check(0 <= tolerance < float("inf"), where, "a finite tolerance >= 0", tolerance=tolerance)
    flat = targets.reshape(-1, *shapes[0][-2:]), rows.to(targets.dtype).reshape(-1, *shapes[1][-2:])
    return pursue(*flat, k, tolerance).reshape(*shapes[0][:-1], shapes[1][-2])


def check_solvable(where: str, **tensors: Any) -> None:
    """Raises what `check_finite` does, and ValueError for a dtype in which torch cannot solve."""
    check_finite(where, **tensors)
    for name, tensor in tensors.items():
        rule, todo = f"{name} of float32 or float64", f"pass {name}.float()"
        check(tensor.dtype in _SOLVABLE, where, rule, todo, **{f"{name}_dtype": tensor.dtype})


def pursue(
    targets: Float[Tensor, "runs n d_in"],
    rows: Float[Tensor, "runs m d_in"],
    k: int,
    tolerance: float,
) -> Float[Tensor, "runs n m"]:
    """Returns what `nonnegative_omp` does, unchecked."""
    gram = rows @ rows.mT
    codes = targets.new_zeros(*targets.shape[:2], rows.shape[1])
    left = targets @ rows.mT
    going = torch.arange(targets.shape[1], device=targets.device)
    support = torch.zeros(*targets.shape[:2], 0, dtype=torch.int64, device=targets.device)
    joined = support.bool()
    products = left
    for _ in range(k):
        best, pick = left.max(-1)
        more = best > tolerance
        kept = more.any(0)  # a target goes on while it does so in any of the runs
        if not bool(kept.any()):
            break
        if not bool(kept.all()):
            going, more, pick = going[kept], more[:, kept], pick[:, kept]
            targets = targets[:, kept]
            support, joined, products = support[:, kept], joined[:, kept], products[:, kept]
        support = torch.cat([support, pick[..., None]], dim=2)
        joined = torch.cat([joined, more[..., None]], dim=2)
        values, joined = _refit(gram, products, support, joined)
        own = torch.zeros_like(products).scatter_add_(2, support, values)
        codes[:, going] = own
        left = (targets - own @ rows) @ rows.mT
        # What left is not tried again: its coefficient would fall to 0 again.
        left = left.scatter(2, support, -torch.inf)
    return codes


def _refit(
    gram: Float[Tensor, "runs m m"],
    products: Float[Tensor, "runs n m"],
    support: Int[Tensor, "runs n j"],
    joined: Bool[Tensor, "runs n j"],
) -> tuple[Float[Tensor, "runs n j"], Bool[Tensor, "runs n j"]]:
    """Returns least-squares coefficients > 0 on the slots that stay, and which these are."""
    runs, n, j = support.shape
    if j == 1:
        return products.gather(2, support) * joined, joined
    run = torch.arange(runs, device=support.device)[:, None, None]
    small = gram[run[..., None], support[..., :, None], support[..., None, :]].reshape(-1, j, j)
    wanted = products.gather(2, support).reshape(-1, j)
    stays = joined.reshape(-1, j)
    values = _solve(small, wanted, stays)
    while True:
        negative = stays & (values <= 0)
        bad = negative.any(1).nonzero()[:, 0]
        if len(bad) == 0:
            return values.reshape(runs, n, j), stays.reshape(runs, n, j)
        worst = torch.where(negative, values, torch.inf)[bad].argmin(1)
        stays = stays.index_put((bad, worst), torch.zeros_like(worst, dtype=torch.bool))
        values[bad] = _solve(small[bad], wanted[bad], stays[bad])


def _solve(
    gram: Float[Tensor, "n j j"], wanted: Float[Tensor, "n j"], stays: Bool[Tensor, "n j"]
) -> Float[Tensor, "n j"]:
    """Returns the solutions of gram v = wanted on the slots that stay, 0 on the others."""
    both = stays[:, :, None] & stays[:, None, :]
    identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    gram = torch.where(both, gram, 0) + identity * torch.where(stays, _RIDGE, 1.0)[:, None, :]
    return torch.linalg.solve(gram, wanted * stays)
