"""Which rows of an over-complete dictionary to keep."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def kept_rows(
    energies: Float[Tensor, " n"], rows: Float[Tensor, "n d_in"], n_dropped: int
) -> Bool[Tensor, " n"]:
    """Returns all but the n_dropped rows of least worth: energy times squared distance.

    The distance is that to the best non-negative fit by two other rows: 0 for a copy and for a
    merger of two. The nearest other row of one that goes is safe, so that of equal rows one stays,
    unless too few rows are left that are not.

    Args:
        energies: [n], >= 0, of the codes of each row.   rows: [n, d_in], unit.
        n_dropped: 0 <= n_dropped <= n.
    """
    cosines = (rows @ rows.T).fill_diagonal_(-1.0)
    value, nearest = cosines.max(1)
    value = value.clamp(min=0)
    rest = rows - value[:, None] * rows[nearest]
    # Least squares on the nearest and a second row b removes (rest b)^2 / (1 - cos^2(nearest, b)).
    own = 1 - cosines[nearest].square()
    gain = (rest @ rows.T).clamp(min=0).fill_diagonal_(0.0).square() / own.clamp(min=1e-3)
    gain = gain.scatter(1, nearest[:, None], 0.0)
    worth = energies * (1 - value.square() - gain.amax(1)).clamp(min=0)
    order, near = worth.argsort(stable=True).tolist(), nearest.tolist()
    gone: set[int] = set()
    for careful in (True, False):
        for i in order:
            safe = careful and any(near[j] == i for j in gone)
            if len(gone) < n_dropped and i not in gone and not safe:
                gone.add(i)
    kept = torch.ones_like(value, dtype=torch.bool)
    kept[sorted(gone)] = False
    return kept
