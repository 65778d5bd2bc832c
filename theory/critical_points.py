"""Critical points of the exact potential: their loss, the rank of their Hessian, what is flat."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from theory.checks import check
from theory.newton import GRADIENT_TOLERANCE
from theory.potential import (
    DEAD_NORM,
    SMOOTH_MARGIN,
    ZERO_EIGENVALUE,
    nonsmooth_distance,
    potential,
    potential_gradient,
    potential_hessian,
)


@dataclass(frozen=True, eq=False)
class Phase:
    """A critical point of the potential with what a Bayesian posterior needs to know of it.

    W, b: [n_hidden, n_features], [n_features].
    loss: L there.
    squared_norm: |W|^2 + |b|^2 where a standard normal prior likes it best: L does not depend on
        the bias of an output that never fires, which counts with the least size that silences it,
        0 for a dead column.
    smooth: whether L is C^2 there. If not, rank is -1 and there is no learning coefficient.
    rank: rank of the Hessian, modulo nothing: symmetries count as null directions.
    n_negative: negative eigenvalues of the Hessian: 0 at minima, > 0 at saddles.
    n_flat: dimensions along which L is constant for a known reason: rotations of the hidden
        space, biases of outputs that never fire, and weights of dead ones that nobody sees.
    """

    W: Float[Tensor, "n_hidden n_features"]
    b: Float[Tensor, " n_features"]
    loss: float
    squared_norm: float
    smooth: bool
    rank: int
    n_negative: int
    n_flat: int

    def learning_coefficient(self) -> float:
        """Returns lambda = rank / 2, exact where every null direction of the Hessian is flat.

        Raises:
            ValueError: L is not C^2 there, the point is a saddle, or a null direction is not
                explained by rotations and dead columns, where lambda may be larger.
        """
        where, n = "learning_coefficient", self.W.numel() + len(self.b)
        todo = "estimate it by sampling"
        rule = "a point where the potential is C^2"
        check(self.smooth, where, rule, todo, nonsmooth_distance=nonsmooth_distance(self.W, self.b))
        check(self.n_negative == 0, where, "a minimum", n_negative=self.n_negative)
        rule = f"rank + n_flat = {n} (all parameters)"
        check(self.rank + self.n_flat == n, where, rule, todo, rank=self.rank, n_flat=self.n_flat)
        return self.rank / 2


def phase(W: Float[Tensor, "n_hidden n_features"], b: Float[Tensor, " n_features"]) -> Phase:
    """Returns what the potential looks like around a critical point (W, b), float64.

    The Hessian's rank counts eigenvalues beyond 1e-7 of the largest.

    Raises:
        ValueError: a point that is not critical (says its gradient norm), or a dead column of
            bias 0, a corner of L.
    """
    slope = float(potential_gradient(W, b).norm())
    rule = f"a critical point, |gradient| <= {GRADIENT_TOLERANCE}"
    check(slope <= GRADIENT_TOLERANCE, "phase", rule, "use refine first", gradient_norm=slope)
    needed = -(W.T @ W).amax(0).clamp(min=0)  # an output of a bias below that never fires
    squared_norm = float(W.square().sum() + torch.where(b < needed, needed, b).square().sum())
    loss, smooth = float(potential(W, b)), nonsmooth_distance(W, b) > SMOOTH_MARGIN
    if not smooth:
        return Phase(W, b, loss, squared_norm, False, -1, -1, _n_flat(W, b))
    values = torch.linalg.eigvalsh(potential_hessian(W, b))
    size = ZERO_EIGENVALUE * float(values.abs().max())
    rank, n_negative = int((values.abs() > size).sum()), int((values < -size).sum())
    return Phase(W, b, loss, squared_norm, True, rank, n_negative, _n_flat(W, b))


def _n_flat(W: Tensor, b: Tensor) -> int:
    """Returns the dimension of the known set of points with the same loss.

    Rotations: r (r - 1) / 2 + r (n_hidden - r) for W of rank r. An output that never fires adds its
    bias; a dead column's also its weights if no other output sees them: all biases are negative.
    """
    m, r = W.shape[0], int(torch.linalg.matrix_rank(W))
    silent = (b < 0) & ((W.T @ W).amax(0) + b < 0)
    dead = W.norm(dim=0) < DEAD_NORM
    unseen = bool((b < 0).all())
    n_dead = int((silent & dead).sum()) * unseen
    return r * (r - 1) // 2 + r * (m - r) + int(silent.sum()) + m * n_dead
