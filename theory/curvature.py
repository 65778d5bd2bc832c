"""Gradients and Hessians of a loss that takes many points at once."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from theory.checks import check, check_finite, check_tensor

Loss = Callable[[Tensor], Tensor]
MAX_WEIGHTS = 5000  # its Hessian is 200 MB in float64
ROWS_AT_ONCE = 256
POWER_STEPS = 50


def checked_point(where: str, loss: Loss, w: Tensor) -> Float[Tensor, ""]:
    """Returns loss(w), after checking that `loss` maps [n, n_weights] to [n] differentiably."""
    check_finite(where, weights=w)
    fits = w.ndim == 1 and 1 <= len(w) <= MAX_WEIGHTS and w.is_floating_point()
    rule = f"a vector of 1 to {MAX_WEIGHTS} real weights"
    check(fits, where, rule, shape=tuple(w.shape), dtype=w.dtype)
    # Two rows: a loss averaged over its points, or one point's loss, shows in the shape.
    points = w.detach().repeat(2, 1).requires_grad_()
    rule, todo = "a loss from [n, n_weights] to [n]", "wrap a loss of one vector in torch.func.vmap"
    try:
        values = loss(points)
    except (IndexError, RuntimeError) as error:
        check(False, where, rule, todo, raised=error)
        raise
    check_tensor(where, loss=values)
    shape = tuple(values.shape)
    check(shape == (2,), where, rule, todo, shape_for_2_points=shape)
    check(values.requires_grad, where, "a differentiable loss", differentiable=False)
    check_finite(where, loss=values)
    return values[0].detach()


def gradients(
    loss: Loss, points: Float[Tensor, "n n_weights"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n n_weights"]]:
    """Returns the losses of the points and their gradients, in one backward pass."""
    points = points.detach().requires_grad_()
    values = loss(points)
    (slopes,) = torch.autograd.grad(values.sum(), points)
    return values.detach(), slopes


def hessian(loss: Loss, w: Float[Tensor, " n_weights"]) -> Float[Tensor, "n_weights n_weights"]:
    """Returns the symmetric Hessian of the loss at w, by automatic differentiation.

    Args:
        loss: maps [n, n_weights] to [n], row by row.
        w: [n_weights], at most 5,000.
    Raises: ValueError: shapes, NaN, a loss without gradient.
    """
    checked_point("hessian", loss, w)
    eye = torch.eye(len(w), dtype=w.dtype, device=w.device)
    rows = [
        _hessian_times(loss, w.expand(len(block), -1), block) for block in eye.split(ROWS_AT_ONCE)
    ]
    full = torch.cat(rows)
    return (full + full.T) / 2


def top_curvature(
    loss: Loss, points: Float[Tensor, "n n_weights"], *, generator: torch.Generator
) -> float:
    """Returns the largest |eigenvalue| of the Hessian over all points, by 50 power steps at once.

    A lower bound that is exact to a few per cent; at a point of almost equal eigenvalues it is
    some average of them.
    """
    options = {"dtype": points.dtype, "device": points.device}
    v = torch.randn(points.shape, generator=generator, **options)
    size = torch.zeros(len(points), **options)
    for _ in range(POWER_STEPS):
        v = v / torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp(min=1e-30)
        v = _hessian_times(loss, points, v)
        size = torch.linalg.vector_norm(v, dim=1)
    return float(size.max())


def _hessian_times(
    loss: Loss, points: Float[Tensor, "n n_weights"], v: Float[Tensor, "n n_weights"]
) -> Float[Tensor, "n n_weights"]:
    points = points.detach().clone().requires_grad_()
    (slopes,) = torch.autograd.grad(loss(points).sum(), points, create_graph=True)
    if not slopes.requires_grad:  # a loss that is linear in the weights
        return torch.zeros_like(v)
    (product,) = torch.autograd.grad((slopes * v).sum(), points)
    return product
