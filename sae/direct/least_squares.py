"""The rows that explain targets best with given codes."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

_RIDGE = 1e-4  # of the mean energy of a used row


def least_squares_rows(
    targets: Float[Tensor, "runs n d_in"],
    codes: Float[Tensor, "runs n m"],
    rows: Float[Tensor, "runs m d_in"],
    weights: Float[Tensor, "runs n"] | None = None,
) -> Float[Tensor, "runs m d_in"]:
    """Returns the minimiser D of sum_i w_i |t_i - z_i D|^2 + ridge |D - rows|^2, rows made unit.

    The ridge is small and only decides what the targets leave open: a row that no code uses stays
    as it is, and so does a direction in which two rows cannot be told apart.

    Args:
        targets, codes: [runs, n, .], fixed.   rows: [runs, m, d_in], unit, where D comes from.
        weights: [runs, n], >= 0; None is uniform.
    """
    weighted = codes if weights is None else codes * weights[..., None]
    gram = weighted.mT @ codes
    energy = gram.diagonal(dim1=1, dim2=2)
    n_used = (energy > 0).sum(1).clamp(min=1)
    ridge = (_RIDGE * energy.sum(1) / n_used)[:, None]
    ridge = torch.where(energy > 0, ridge, 1.0)
    best = torch.linalg.solve(
        gram + torch.diag_embed(ridge), weighted.mT @ targets + ridge[..., None] * rows
    )
    return normalize(best, dim=2)
