"""Rotation: how far the leading eigenspace of one second moment is from that of another."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from theory.checks import check, check_finite


@dataclass(frozen=True)
class Rotation:
    """How far one eigenspace is from another of the same dimension r.

    score: mean squared sine of the r principal angles, in [0, 1]: 0 the same, 1 orthogonal.
    null: its mean for a random subspace, 1 - r / d_in; exact.
    frobenius: |P - P'|_F = sqrt(2 r score) of the projectors.
    """

    score: float
    null: float
    frobenius: float


def eigenspace_rotation(
    before: Float[Tensor, "d_in d_in"], after: Float[Tensor, "d_in d_in"], r: int
) -> Rotation:
    """Returns how far the top-r eigenspace of one second moment is from that of another.

    score = 1 - tr(P P') / r = |P - P'|_F^2 / (2 r). Null: P' independent of P and isotropic.
    Where an eigenvalue gap after the r-th is 0 the space is not determined, nor is the score.

    Args: before, after: [d_in, d_in], symmetric.   r: in [1, d_in]; 0 at r = d_in.
    Raises: ValueError: shapes, NaN, r out of range.
    Source: eq:weight-basis.
    """
    where = "eigenspace_rotation"
    check_finite(where, before=before, after=after)
    square = before.ndim == 2 and before.shape[0] == before.shape[1] and before.shape == after.shape
    shapes = {"before": tuple(before.shape), "after": tuple(after.shape)}
    check(square, where, "two square matrices of one size", **shapes)
    d_in = len(before)
    check(1 <= r <= d_in, where, f"1 <= r <= {d_in} (d_in)", r=r)
    first, second = (
        torch.linalg.eigh(m.detach().double()).eigenvectors.flip(1) for m in (before, after)
    )
    # Sines, not 1 - cosines: small rotations keep their relative precision.
    score = float((second[:, r:].T @ first[:, :r]).square().sum()) / r
    return Rotation(score, 1 - r / d_in, math.sqrt(2 * r * score))
