"""What data determine of a toy model of superposition: its Gauss-Newton matrix and rotations."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from theory.checks import check, check_finite


def rotation_tangents(
    W: Float[Tensor, "n_hidden n_features"],
) -> Float[Tensor, "n_generators n_weights"]:
    """Returns the tangents (A W, 0) at (W, b) of all rotations of hidden space.

    A runs over the n_hidden (n_hidden - 1) / 2 elementary antisymmetric matrices; fewer of the
    tangents are independent where W has a lower rank.

    Args: W: [n_hidden, n_features]; column j is the direction of feature j.
    Returns: [n_generators, n_weights], weights ordered W row by row, then b; no rows for
        n_hidden = 1, which has no rotations.
    Raises: ValueError: shapes.
    """
    filled = W.ndim == 2 and 0 not in W.shape
    check(filled, "rotation_tangents", "W [n_hidden, n_features]", W=tuple(W.shape))
    W = W.detach().double()
    first, second = torch.triu_indices(len(W), len(W), 1, device=W.device)
    moved, each = W.new_zeros(len(first), *W.shape), torch.arange(len(first))
    moved[each, first], moved[each, second] = -W[second], W[first]
    return torch.cat([moved.flatten(1), W.new_zeros(len(first), W.shape[1])], dim=1)


def autoencoder_gauss_newton(
    W: Float[Tensor, "n_hidden n_features"],
    b: Float[Tensor, " n_features"],
    x: Float[Tensor, "batch n_features"],
    *,
    importance: Float[Tensor, " n_features"],
    largest_step: float = 1e-3,
) -> Float[Tensor, "n_weights n_weights"]:
    """Returns the Gauss-Newton matrix of L = mean over x of sum_j I_j (x_j - x'_j)^2.

    x' = relu(W^T W x + b), G = 2 sum_j I_j mean(J_j J_j^T), J_j = d x'_j / d(W, b), weights ordered
    as in `rotation_tangents`, along which G is 0. It is the Hessian without the second derivatives
    of x', and >= 0. Where x'_j > 0, J_j = T_j (x, 1) is linear in x: second moments suffice.

    Null: none is needed for an exact rank; compare it with the weights that no rotation moves.

    Args:
        W, b: a minimiser of L on these very samples.
        x: [batch, n_features], codes.   importance: [n_features], I > 0.
        largest_step: > 0, unit of the weights: the most that |dL/dw| may be over the largest
            eigenvalue of G, which is how far a minimum is along the best determined direction.
    Raises: ValueError: shapes, NaN, importance, not a minimiser (says the gradient's norm).
    Source: Elhage et al. 2022, arXiv 2209.10652, for the network.
    """
    where = "autoencoder_gauss_newton"
    check_finite(where, W=W, b=b, x=x, importance=importance)
    shapes = {"W": W.shape, "b": b.shape, "x": x.shape, "importance": importance.shape}
    fits = W.ndim == x.ndim == 2 and 0 not in (*W.shape, *x.shape)
    fits = fits and b.shape == importance.shape == W.shape[1:] == x.shape[1:]
    rule = "W [n_hidden, n_features], b and importance [n_features], x [batch, n_features]"
    check(fits, where, rule, **{name: tuple(shape) for name, shape in shapes.items()})
    least = float(importance.min())
    check(least > 0, where, "importance > 0", smallest_importance=least)
    finite = 0 < largest_step < math.inf
    check(finite, where, "a finite largest_step > 0", largest_step=largest_step)
    W, b, x, importance = (tensor.detach().double() for tensor in (W, b, x, importance))
    (m, c), inputs = W.shape, torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    outputs = x @ W.T @ W + b
    curvature, slope = W.new_zeros(m * c + c, m * c + c), W.new_zeros(m * c + c)
    for j in range(c):
        on = outputs[:, j] > 0
        # x'_j = w_j . W x + b_j: W[a, k] moves it by W[a, j] x_k and, for k = j, by (W x)_a too.
        linear = W.new_zeros(m + 1, c, c + 1)
        linear[:m, range(c), range(c)] = W[:, j, None]
        linear[:m, j, :c] += W
        linear[m, j, c] = 1
        linear = linear.flatten(0, 1)
        scale = 2 * importance[j] / len(x)
        curvature += scale * linear @ (inputs[on].T @ inputs[on]) @ linear.T
        slope += scale * linear @ (inputs[on].T @ (outputs - x)[on, j])
    size, norm = float(torch.linalg.matrix_norm(curvature, 2)), float(slope.norm())
    rule = f"a minimiser, |gradient| at most {largest_step} of the largest curvature"
    todo = "not a minimiser: train longer, or refine it on these samples"
    check(norm <= largest_step * size, where, rule, todo, gradient_norm=norm, curvature=size)
    return (curvature + curvature.T) / 2
