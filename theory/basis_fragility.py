"""Fragility of a minimum in weight space: its rank and place when the inputs' law changes.

For toy models of superposition x' = relu(W^T W x + b) on inputs of one or two active features.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from theory.few_active import FewActive
from theory.newton import gradient_of, hessian_of, newton
from theory.potential import DEAD_NORM, mean_product, mean_square

N_NODES = 32  # of the rule for the second magnitude
ZERO_EIGENVALUE = 1e-10  # relative to the largest: curvature in the share of pairs, down to 1e-8
_NODES, _NODE_WEIGHTS = (torch.from_numpy(a) / 2 for a in np.polynomial.legendre.leggauss(N_NODES))


def single_losses(
    W: Float[Tensor, "n_hidden n_features"], b: Float[Tensor, " n_features"]
) -> Float[Tensor, " n_features"]:
    """Returns E|x - x'|^2 given that feature i alone is active, in closed form.

    1/3 - 2 M(|W_i|^2, b_i) + sum_j O(W_i . W_j, b_j), with M and O as in `potential`, whose value
    is their mean.
    """
    gram = W.T @ W
    outputs = mean_square(gram, b.expand_as(gram)).sum(1)
    return 1 / 3 + outputs - 2 * mean_product(gram.diagonal(), b)


def loss(
    W: Float[Tensor, "n_hidden n_features"], b: Float[Tensor, " n_features"], law: FewActive
) -> Float[Tensor, ""]:
    """Returns L = E|x - relu(W^T W x + b)|^2 under the law.

    sum_i q_i times `single_losses`; of pairs, exact in one magnitude, which sees the other as a
    bias, and by 32 Gauss-Legendre nodes in the other. The rule is a law of its own, so that ranks
    are exact for it; values are right to 3e-6 for weights of order 1 (against 1,000 nodes).
    """
    total = (law.singles * single_losses(W, b)).sum()
    first, second = (law.pairs > 0).nonzero().T
    if len(first) == 0:
        return total
    gram = W.T @ W
    z = (_NODES + 0.5)[:, None, None]
    bias = b + z * gram[second]
    outputs = mean_square(gram[first].expand_as(bias), bias).sum(2)
    own = bias.gather(2, first.expand(N_NODES, -1)[..., None])[..., 0]
    # Both orders of a pair are in the sum, and each knows the product of its first feature only.
    products = mean_product(gram[first, first].expand_as(own), own)
    of_pairs = 2 / 3 + _NODE_WEIGHTS @ (outputs - 4 * products)
    return total + (law.pairs[first, second] * of_pairs).sum()


def gradient_and_hessian(
    W: Float[Tensor, "n_hidden n_features"], b: Float[Tensor, " n_features"], law: FewActive
) -> tuple[Float[Tensor, " n_params"], Float[Tensor, "n_params n_params"]]:
    """Returns the first two derivatives of the loss, in W row by row and then b.

    At points where L is C^2: no dead column of bias 0, none orthogonal to another of bias 0.
    """
    of_law, W, b = partial(loss, law=law), W.double(), b.double()
    return gradient_of(of_law, W, b), hessian_of(of_law, W, b)


def critical_point(
    W: Float[Tensor, "n_hidden n_features"],
    b: Float[Tensor, " n_features"],
    law: FewActive,
    *,
    n_steps: int = 50,
) -> tuple[Float[Tensor, "n_hidden n_features"], Float[Tensor, " n_features"]]:
    """Returns the critical point of the loss to which `newton` leads from nearby.

    Its steps leave alone what the loss does not determine: up to 1e-10 of the largest curvature,
    as in `curvature`. Raises: ValueError: no convergence within n_steps.
    """
    of_law = partial(loss, law=law)
    return newton(
        partial(gradient_of, of_law),
        partial(hessian_of, of_law),
        W,
        b,
        rtol=ZERO_EIGENVALUE,
        n_steps=n_steps,
        where="critical_point",
        todo="change the law in smaller steps",
    )


@dataclass(frozen=True)
class Curvature:
    """rank: eigenvalues of the Hessian beyond 1e-10 of the largest, those of symmetries not among
    them.   n_negative: of these, 0 at minima."""

    rank: int
    n_negative: int


def curvature(
    W: Float[Tensor, "n_hidden n_features"], b: Float[Tensor, " n_features"], law: FewActive
) -> Curvature:
    """Returns the rank of the Hessian of the loss, at a critical point.

    A share s of new inputs curves what they determine by about s: its eigenvalues count down to a
    share of about 1e-8.
    """
    values = torch.linalg.eigvalsh(gradient_and_hessian(W, b, law)[1])
    size = ZERO_EIGENVALUE * float(values.abs().max())
    return Curvature(int((values.abs() > size).sum()), int((values < -size).sum()))


@dataclass(frozen=True)
class Response:
    """step: [n_params], dw / d epsilon of the minimiser, at right angles to the Hessian's kernel.
    blocked: share of the slope's norm in that kernel, in [0, 1]. Above 0 there is no first-order
    response: the change decides what the old law left open, and the minimiser jumps."""

    step: Float[Tensor, " n_params"]
    blocked: float


def response(
    W: Float[Tensor, "n_hidden n_features"],
    b: Float[Tensor, " n_features"],
    before: FewActive,
    after: FewActive,
) -> Response:
    """Returns how fast a minimiser (W, b) moves as the law becomes (1 - eps) before + eps after.

    dw / d eps = -H^+ d(grad L)/d eps, by the implicit function theorem; as the gradient at the
    minimiser is 0 under `before`, its change is the gradient under `after`.
    """
    _, hessian = gradient_and_hessian(W, b, before)
    slope, _ = gradient_and_hessian(W, b, after)
    values, vectors = torch.linalg.eigh(hessian)
    curved = values.abs() > ZERO_EIGENVALUE * values.abs().max()
    along = vectors.T @ slope
    open_part, size = float(along[~curved].norm()), float(slope.norm())
    step = vectors[:, curved] @ (along[curved] / values[curved])
    return Response(-step, open_part / size if size > 0 else 0.0)


def movement(
    W: Float[Tensor, "n_hidden n_features"],
    b: Float[Tensor, " n_features"],
    new_W: Float[Tensor, "n_hidden n_features"],
    new_b: Float[Tensor, " n_features"],
) -> float:
    """Returns the distance of two minimisers modulo what no law determines.

    sqrt(min over orthogonal R of |R W - W'|^2 + |b - b'|^2), without the biases of columns that are
    dead and silent at both.
    """
    singular = torch.linalg.svdvals(new_W @ W.T).sum()
    apart = W.square().sum() + new_W.square().sum() - 2 * singular
    dead = (torch.maximum(W.norm(dim=0), new_W.norm(dim=0)) < DEAD_NORM) & (b < 0) & (new_b < 0)
    return math.sqrt(max(0.0, float(apart + (b - new_b)[~dead].square().sum())))
