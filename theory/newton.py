"""Newton's method to the critical points of an exact loss of weights W and biases b."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from theory.checks import check, check_finite

GRADIENT_TOLERANCE = 1e-8  # of a critical point; Newton's method ends near 1e-15
_AT_REST = 1e-13  # norm of a gradient that is rounding: no step follows it


def newton(
    gradient: Callable[[Tensor, Tensor], Tensor],
    hessian: Callable[[Tensor, Tensor], Tensor],
    W: Float[Tensor, "n_hidden n_features"],
    b: Float[Tensor, " n_features"],
    *,
    rtol: float,
    n_steps: int,
    where: str,
    todo: str,
) -> tuple[Float[Tensor, "n_hidden n_features"], Float[Tensor, " n_features"]]:
    """Returns the critical point (W, b), float64, to which Newton's method leads from nearby.

    Steps are -H^+ g: null directions of the Hessian are left alone. Saddles are found as well as
    minima.

    Args:
        gradient, hessian: g, [n_params], and H, [n_params, n_params], at (W, b), parameters as in
            `flatten`. H is asked for only where a step follows, so that a critical point without
            second derivatives is returned as it came.
        rtol: eigenvalues of H up to rtol times the largest count as null, in (0, 1).
        n_steps: at most so many steps.
        where, todo: who asks, and what to do if there is no convergence, for the error.
    Raises:
        ValueError: |g| > 1e-8 at the end (says it); what `gradient` and `hessian` raise.
    """
    check_finite(where, W=W, b=b)
    W, b = W.detach().double(), b.detach().double()
    for _ in range(n_steps):
        slope = gradient(W, b)
        if float(slope.norm()) < _AT_REST:
            return W, b
        step = torch.linalg.pinv(hessian(W, b), rtol=rtol, hermitian=True) @ slope
        step_W, step_b = unflatten(step, len(b))
        W, b = W - step_W, b - step_b
    # Of the point that is returned: the one before the last step proves nothing about it.
    size = float(gradient(W, b).norm())
    rule = f"convergence to a critical point within {n_steps} steps"
    check(size <= GRADIENT_TOLERANCE, where, rule, todo, gradient_norm=size)
    return W, b


def gradient_of(
    loss: Callable[[Tensor, Tensor], Tensor],
    W: Float[Tensor, "n_hidden n_features"],
    b: Float[Tensor, " n_features"],
) -> Float[Tensor, " n_params"]:
    """Returns the gradient of loss(W, b), a scalar, in W row by row and then b."""
    at = flatten(W, b).detach().requires_grad_()
    return torch.autograd.grad(loss(*unflatten(at, len(b))), at)[0]


def hessian_of(
    loss: Callable[[Tensor, Tensor], Tensor],
    W: Float[Tensor, "n_hidden n_features"],
    b: Float[Tensor, " n_features"],
) -> Float[Tensor, "n_params n_params"]:
    """Returns the symmetric Hessian of loss(W, b), parameters ordered as in `gradient_of`."""
    at = flatten(W, b).detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(*unflatten(at, len(b))), at, create_graph=True)
    eye = torch.eye(len(at), dtype=at.dtype, device=at.device)
    (rows,) = torch.autograd.grad(slope, at, eye, is_grads_batched=True)
    return (rows + rows.T) / 2


def flatten(
    W: Float[Tensor, "n_hidden n_features"], b: Float[Tensor, " n_features"]
) -> Float[Tensor, " n_params"]:
    """Returns the parameters as one vector: W row by row, then b."""
    return torch.cat([W.reshape(-1), b])


def unflatten(
    w: Float[Tensor, " n_params"], n_features: int
) -> tuple[Float[Tensor, "n_hidden n_features"], Float[Tensor, " n_features"]]:
    """Returns W and b as views of w = flatten(W, b)."""
    rows = w.view(-1, n_features)
    return rows[:-1], rows[-1]
