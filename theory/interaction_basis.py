"""The local interaction basis: the directions of a layer by which it moves what comes after."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from theory.checks import check, check_finite


@dataclass(frozen=True)
class InteractionBasis:
    """Coordinates c = to_basis (x - mean) of a layer, in order of interaction strength.

    In them the covariance is diag(strengths^2) and the mean of J^T J, J the Jacobian of what comes
    after, is the identity. The strengths do not depend on the basis in which x was given, but for
    those that the tolerance drops in one and keeps in the other.

    strengths: [n_kept], > 0, descending, in units of the outputs.
    to_basis: [n_kept, d_in].   from_basis: [d_in, n_kept]: columns are directions of x;
        to_basis from_basis = I.
    mean: [d_in], of the activations.
    n_silent: directions in which the activations do not vary.
    n_inert: directions in which they vary, to no effect on the outputs.
        n_kept + n_silent + n_inert = d_in.
    """

    strengths: Float[Tensor, " n_kept"]
    to_basis: Float[Tensor, "n_kept d_in"]
    from_basis: Float[Tensor, "d_in n_kept"]
    mean: Float[Tensor, " d_in"]
    n_silent: int
    n_inert: int


def interaction_basis(
    activations: Float[Tensor, "n_samples d_in"],
    jacobians: Float[Tensor, "n_samples n_outputs d_in"],
    *,
    tolerance: float = 1e-9,
) -> InteractionBasis:
    """Returns the local interaction basis of one layer.

    Drop the directions without variance and whiten the rest, x - mean = U D^(1/2) y; drop those
    without effect and rotate to the eigenvectors V of mean (J U D^(1/2))^T (J U D^(1/2)) =
    V diag(s^2) V^T; scale: c = diag(s) V^T D^(-1/2) U^T (x - mean).

    Null: the strengths of shuffled pairs (x, J) are the same: the basis knows only the two second
    moments. Compare n_kept with d_in.

    Args:
        activations: [n_samples, d_in].
        jacobians: [n_samples, n_outputs, d_in], d outputs / d x at the same samples.
        tolerance: in (0, 1), relative to the largest eigenvalue of each of the two matrices: what
            counts as no variance, and as no effect.
    Raises: ValueError: shapes, NaN, activations that do not vary, or to no effect at all.
    Source: Bushnaq et al. 2024 (arXiv 2405.10928). Here the Jacobian is to outputs as they come:
        pass outputs in their own interaction basis to go layer by layer.
    """
    where = "interaction_basis"
    check_finite(where, activations=activations, jacobians=jacobians)
    shapes = {"activations": tuple(activations.shape), "jacobians": tuple(jacobians.shape)}
    fits = activations.ndim == 2 and jacobians.ndim == 3 and 0 not in jacobians.shape
    fits = fits and jacobians.shape[::2] == activations.shape
    check(fits, where, "[n_samples, d_in] and [n_samples, n_outputs, d_in]", **shapes)
    check(0 < tolerance < 1, where, "0 < tolerance < 1", tolerance=tolerance)
    x, jacobian = activations.detach().double(), jacobians.detach().double()
    mean = x.mean(0)
    # Singular values of the data, not eigenvalues of a product: half the digits would be lost.
    _, spread, directions = torch.linalg.svd((x - mean) / math.sqrt(len(x)), full_matrices=False)
    varied = spread > math.sqrt(tolerance) * spread[0]
    check(float(spread[0]) > 0, where, "activations that vary", largest=float(spread[0]))
    spread, directions = spread[varied], directions[varied]
    whitened = jacobian.flatten(0, 1) @ (directions.T * spread) / math.sqrt(len(x))
    _, strengths, rotation = torch.linalg.svd(whitened, full_matrices=False)
    effect = float(strengths[0])
    check(effect > 0, where, "activations with an effect on the outputs", largest=effect)
    kept = strengths > math.sqrt(tolerance) * effect
    strengths, rotation = strengths[kept], rotation[kept]
    return InteractionBasis(
        strengths=strengths,
        to_basis=(strengths[:, None] * rotation / spread) @ directions,
        from_basis=(directions.T * spread) @ (rotation.T / strengths),
        mean=mean,
        n_silent=x.shape[1] - len(spread),
        n_inert=len(spread) - len(strengths),
    )
