"""The exact loss of the toy model of superposition when one uniform feature is active at a time."""

import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor

from theory.checks import check, check_finite
from theory.newton import flatten, gradient_of, hessian_of, newton, unflatten

# A Hessian is refused where a second derivative jumps within this distance in (W_i . W_j, b_j).
SMOOTH_MARGIN = 1e-6
DEAD_NORM = 1e-9  # of a column that is 0 up to the rounding of Newton's steps
ZERO_EIGENVALUE = 1e-7  # relative to the largest of a Hessian


def potential(
    W: Float[Tensor, "*points n_hidden n_features"], b: Float[Tensor, "*points n_features"]
) -> Float[Tensor, "*points"]:
    """Returns L = E|x - relu(W^T W x + b)|^2 for x = z e_i, i uniform on 1..c, z on [0, 1].

    With a_ij = W_i . W_j (columns) and N_i = a_ii,
    L = 1/c sum_i [1/3 - 2 M(N_i, b_i) + O(N_i, b_i) + sum over j != i of O(a_ij, b_j)],
    O(a, b) = E(az + b)_+^2 and M(N, b) = E z (Nz + b)_+, each a rational function of its arguments
    on each of a few regions, evaluated without cancellation. Differentiable but at a dead column of
    bias 0, twice differentiable where `nonsmooth_distance` is positive.

    Args:
        W: column i is the direction of feature i; float64 for derivatives. Any number of points at
            once, in leading dimensions.
        b: the output biases.
    Returns: in [0, 1/3] at minima; 1/3 at W = 0, b <= 0, where nothing is learned.
    Raises: ValueError: shapes, NaN.
    Source: Chen, Lau, Mendel, Wei, Murfet 2023, arXiv 2310.06301, whose potential is 3 c L.
    """
    check_finite("potential", W=W, b=b)
    fits = W.ndim >= 2 and 0 not in W.shape[-2:] and b.shape == W.shape[:-2] + W.shape[-1:]
    rule = "W [..., n_hidden, n_features] and b [..., n_features]"
    check(fits, "potential", rule, W_shape=tuple(W.shape), b_shape=tuple(b.shape))
    return _potential(W, b)


def potential_gradient(
    W: Float[Tensor, "n_hidden n_features"], b: Float[Tensor, " n_features"]
) -> Float[Tensor, " n_params"]:
    """Returns dL/d(W, b), W row by row and then b, n_params = (n_hidden + 1) n_features.

    Raises:
        ValueError: those of `potential`; a dead column of bias exactly 0, where the slope in the
            bias is 0 downwards but -1 / c or so upwards.
    """
    where = "potential_gradient"
    _check(where, W, b)
    corners = ((W.norm(dim=0) < DEAD_NORM) & (b.abs() < DEAD_NORM)).nonzero()[:5, 0].tolist()
    todo = "give these columns a bias other than 0"
    check(not corners, where, "no dead column of bias 0, a corner of L", todo, columns=corners)
    return gradient_of(_potential, W, b)


def potential_hessian(
    W: Float[Tensor, "n_hidden n_features"], b: Float[Tensor, " n_features"]
) -> Float[Tensor, "n_params n_params"]:
    """Returns the Hessian of L, parameters ordered as in `potential_gradient`.

    Raises:
        ValueError: a point where L is not twice differentiable, where one-sided second
            derivatives differ and a rank would mean nothing; see `nonsmooth_distance`.
    """
    _check("potential_hessian", W, b)
    distance = nonsmooth_distance(W, b)
    rule = f"a point where L is C^2, at least {SMOOTH_MARGIN} from a jump of second derivatives"
    todo = "columns orthogonal to a column of bias 0, dead ones among them, have no Hessian"
    where = "potential_hessian"
    check(distance > SMOOTH_MARGIN, where, rule, todo, nonsmooth_distance=distance)
    return hessian_of(_potential, W, b)


def nonsmooth_distance(
    W: Float[Tensor, "n_hidden n_features"], b: Float[Tensor, " n_features"]
) -> float:
    """Returns how far (a_ij, b_j) is from where a second derivative of L jumps, in the max norm.

    O is not C^2 at a = b = 0 only: d^2 O / da^2 is 2/3 for a > 0 = b, 0 for a < 0 = b, and grows
    without bound in between. M is not C^2 at N = -b >= 0, where a feature's own output just fails
    to fire at z = 1: d^2 M / dN^2 jumps by 1 / N. Elsewhere L is C^2.

    Returns: >= 0; 0 at k-gons of bias 0 with dead columns or right angles.
    """
    _check("nonsmooth_distance", W, b)
    gram = (W.T @ W).detach()
    pairs = torch.maximum(gram.abs(), b.detach().abs())  # [i, j]: a_ij beside b_j
    own = gram.diagonal()
    # At b > 0 the nearest point of the line N = -b, N >= 0 is (0, 0), as for the pairs.
    kink = torch.where(b < 0, (own + b).abs() / 2, torch.inf)
    return float(torch.minimum(pairs.min(), kink.min()))


def refine(
    W: Float[Tensor, "n_hidden n_features"], b: Float[Tensor, " n_features"], *, n_steps: int = 50
) -> tuple[Float[Tensor, "n_hidden n_features"], Float[Tensor, " n_features"]]:
    """Returns the critical point of L to which Newton's method leads from nearby; see `newton`.

    Eigenvalues of the Hessian count as null up to 1e-7 of the largest, as in `phase`. A critical
    point where L is not C^2 is returned as it came.

    Raises:
        ValueError: no critical point within n_steps (says the gradient's norm), or a step onto a
            point where L is not C^2.
    """
    return newton(
        potential_gradient,
        potential_hessian,
        W,
        b,
        rtol=ZERO_EIGENVALUE,
        n_steps=n_steps,
        where="refine",
        todo="start closer, from the end of a descent",
    )


def descend(
    W: Float[Tensor, "n_hidden n_features"], b: Float[Tensor, " n_features"]
) -> tuple[Float[Tensor, "n_hidden n_features"], Float[Tensor, " n_features"]]:
    """Returns the end (W, b) of a descent of L from there (BFGS), with silent columns set to 0.

    A column on which L does not depend is silent: its output never fires, and it moves no other.
    It is returned as W_i = 0, b_i = -1. Near a minimum, but no critical point to rounding yet:
    see `refine`.
    """
    _check("descend", W, b)
    c = W.shape[1]

    def value_and_slope(w):
        at = torch.from_numpy(w).requires_grad_()
        value = _potential(*unflatten(at, c))
        value.backward()
        return float(value.detach()), at.grad.numpy()  # type: ignore[union-attr]

    start = flatten(W.detach().double(), b.detach().double()).numpy()
    options = {"gtol": 1e-9, "maxiter": 2000}
    end = torch.from_numpy(minimize(value_and_slope, start, jac=True, options=options).x)
    W, b = unflatten(end, c)
    for i in range(c):
        silent_W, silent_b = W.clone(), b.clone()
        silent_W[:, i], silent_b[i] = 0.0, -1.0
        if abs(float(_potential(silent_W, silent_b) - _potential(W, b))) < 1e-13:
            W, b = silent_W, silent_b
    return W, b


def _potential(W: Tensor, b: Tensor) -> Tensor:
    gram = W.mT @ W
    own = gram.diagonal(dim1=-2, dim2=-1)
    outputs = mean_square(gram, b.unsqueeze(-2).expand_as(gram)).sum((-2, -1))
    return 1 / 3 + (outputs - 2 * mean_product(own, b).sum(-1)) / b.shape[-1]


def mean_square(a: Tensor, b: Tensor) -> Tensor:
    """Returns O(a, b) = E (az + b)_+^2 = ((a + b)_+^3 - b_+^3) / (3a), z uniform on [0, 1].

    Where az + b >= 0 throughout, the quotient is a^2/3 + ab + b^2: no division, and the right
    second derivative at a = 0, where dead columns are. Denominators are made safe where unused,
    so that no derivative is NaN.
    """
    always = (b > 0) & (a + b > 0)
    rising, falling = (b <= 0) & (a + b > 0), (b > 0) & (a + b <= 0)
    up, down = a.where(rising, 1.0), a.where(falling, -1.0)
    return (
        torch.where(always, a * a / 3 + a * b + b * b, 0.0)
        + torch.where(rising, (up + b) ** 3 / (3 * up), 0.0)
        - torch.where(falling, b**3 / (3 * down), 0.0)
    )


def mean_product(N: Tensor, b: Tensor) -> Tensor:
    """Returns M(N, b) = E z (Nz + b)_+ for N >= 0: from z = -b / N on, where b <= 0 < N + b.

    There N (1 - z^3) / 3 + b (1 - z^2) / 2 = (N + b)^2 (2N - b) / (6 N^2).
    """
    rising = (b <= 0) & (N + b > 0)
    safe = N.where(rising, 1.0)
    return torch.where(b > 0, N / 3 + b / 2, 0.0) + torch.where(
        rising, (safe + b) ** 2 * (2 * safe - b) / (6 * safe**2), 0.0
    )


def _check(where: str, W: Tensor, b: Tensor) -> None:
    check_finite(where, W=W, b=b)
    fits = W.ndim == 2 and 0 not in W.shape and tuple(b.shape) == tuple(W.shape[1:])
    rule = "W [n_hidden, n_features] and b [n_features]"
    check(fits, where, rule, W_shape=tuple(W.shape), b_shape=tuple(b.shape))
