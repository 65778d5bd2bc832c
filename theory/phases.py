"""Phases of the toy model of superposition: critical points, their ranks and free energies."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from scipy.optimize import brentq, minimize
from torch import Tensor

from theory.checks import check, check_size
from theory.potential import (
    DEAD_NORM,
    GRADIENT_TOLERANCE,
    SMOOTH_MARGIN,
    ZERO_EIGENVALUE,
    descend,
    nonsmooth_distance,
    potential,
    potential_gradient,
    potential_hessian,
    refine,
)


@dataclass(frozen=True, eq=False)
class Phase:
    """A critical point of the potential with what a Bayesian posterior needs to know of it.

    W, b: [n_hidden, n_features], [n_features].
    loss: L there.
    squared_norm: |W|^2 + |b|^2 where a standard normal prior likes it best: without the biases of
        dead columns that are negative, on which L does not depend: the phase reaches up to 0.
    smooth: whether L is C^2 there. If not, rank is -1 and there is no learning coefficient.
    rank: rank of the Hessian, modulo nothing: symmetries count as null directions.
    n_negative: negative eigenvalues of the Hessian: 0 at minima, > 0 at saddles.
    n_flat: dimensions along which L is constant for a known reason: rotations of the hidden
        space, and dead columns that do not fire.
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
    silent = _silent(W, b)
    squared_norm = float(W.square().sum() + b[~silent].square().sum())
    loss, smooth = float(potential(W, b)), nonsmooth_distance(W, b) > SMOOTH_MARGIN
    if not smooth:
        return Phase(W, b, loss, squared_norm, False, -1, -1, _n_flat(W, b))
    values = torch.linalg.eigvalsh(potential_hessian(W, b))
    size = ZERO_EIGENVALUE * float(values.abs().max())
    rank, n_negative = int((values.abs() > size).sum()), int((values < -size).sum())
    return Phase(W, b, loss, squared_norm, True, rank, n_negative, _n_flat(W, b))


def _n_flat(W: Tensor, b: Tensor) -> int:
    """Returns the dimension of the known set of points with the same loss.

    Rotations: r (r - 1) / 2 + r (n_hidden - r) for W of rank r. A silent column (W_i = 0, b_i < 0)
    adds its bias; its weights too if no other output sees them: all other biases are negative.
    """
    m, r = W.shape[0], int(torch.linalg.matrix_rank(W))
    n_silent = int(_silent(W, b).sum())
    unseen = bool((b < 0).all())
    return r * (r - 1) // 2 + r * (m - r) + n_silent * (1 + m * unseen)


def _silent(W: Tensor, b: Tensor) -> Tensor:
    return (W.norm(dim=0) < DEAD_NORM) & (b < 0)


def polygon_phase(n_features: int, n_vertices: int, *, n_raised: int = 0) -> Phase:
    """Returns the critical point with a regular polygon in two hidden dimensions.

    n_vertices columns of one length and bias are the polygon; the others are dead, W_i = 0:
    n_raised of them answer with their best constant, b_i = 1 / (2 c), and save 1 / (4 c^2) each,
    the rest have a negative bias and stay silent. Up to four vertices no two columns have a
    positive product, and length 1 and bias 0 lose nothing on them; beyond, length and bias are
    found by search and refined by Newton's method on all parameters.

    Args:
        n_features: c, the number of columns.
        n_vertices: k, from 2 to c.
        n_raised: from 0 to c - k: the number of plus signs of the phase's usual name.
    Source: Chen, Lau, Mendel, Wei, Murfet 2023, arXiv 2310.06301.
    """
    where, c, k = "polygon_phase", n_features, n_vertices
    check(2 <= k <= c, where, f"2 <= n_vertices <= {c} (n_features)", n_vertices=k)
    check(0 <= n_raised <= c - k, where, f"0 <= n_raised <= {c - k}", n_raised=n_raised)
    angle = torch.arange(k, dtype=torch.float64) * (2 * math.pi / k)
    unit = torch.zeros(2, c, dtype=torch.float64)
    unit[:, :k] = torch.stack([angle.cos(), angle.sin()])
    dead = torch.tensor([1 / (2 * c)] * n_raised + [-1.0] * (c - k - n_raised), dtype=torch.float64)

    def point(length: float, bias: float) -> tuple[Tensor, Tensor]:
        return length * unit, torch.cat([torch.full((k,), bias, dtype=torch.float64), dead])

    if k <= 4:
        return phase(*point(1.0, 0.0))
    lengths, shares = torch.linspace(1.0, 2.5, 11).tolist(), torch.linspace(0.1, 0.8, 8).tolist()
    grid = [(x, -share * x * x) for x in lengths for share in shares]

    def loss(at: Any) -> float:
        return float(potential(*point(*at)))

    best = minimize(loss, min(grid, key=loss), method="Nelder-Mead", options={"xatol": 1e-5}).x
    return phase(*refine(*point(*best)))


@dataclass(frozen=True)
class Search:
    """The minima that descents found.

    phases: told apart by their loss, to 1e-8; in increasing order of it.
    counts: how many descents ended in each.
    n_unresolved: descents that ended where L is not C^2, as polygons of bias 0 do, or where
        Newton's method failed: not among the phases.
    """

    phases: tuple[Phase, ...]
    counts: tuple[int, ...]
    n_unresolved: int


def search_phases(
    n_features: int, n_hidden: int, n_starts: int, *, generator: torch.Generator
) -> Search:
    """Returns the minima of L found by descent and Newton's method from random starts.

    Starts have W normal with variance 1 / n_hidden, so that columns have length about 1, and
    b normal with standard deviation 0.1. Dead columns are found where descent leaves them.

    Args:
        n_features, n_hidden, n_starts: >= 1.
        generator: on the CPU.
    """
    where = "search_phases"
    check_size(where, n_features=n_features, n_hidden=n_hidden, n_starts=n_starts)
    found: list[list[Phase]] = []
    n_unresolved = 0
    for _ in range(n_starts):
        W = torch.randn(n_hidden, n_features, dtype=torch.float64, generator=generator)
        b = 0.1 * torch.randn(n_features, dtype=torch.float64, generator=generator)
        try:
            end = phase(*refine(*descend(W / n_hidden**0.5, b)))
        except ValueError:  # of refine: not C^2, or no convergence
            n_unresolved += 1
            continue
        same = [group for group in found if abs(group[0].loss - end.loss) < 1e-8]
        if same:
            same[0].append(end)
        else:
            found.append([end])
    found.sort(key=lambda group: group[0].loss)
    counts = tuple(len(group) for group in found)
    return Search(tuple(group[0] for group in found), counts, n_unresolved)


def free_energy(
    n_samples: float, loss: float, learning_coefficient: float, squared_norm: float = 0.0
) -> float:
    """Returns F_n = n L + lambda log n + |w|^2 / 2, in nats, up to what all phases share.

    Minus the log of a phase's share of the posterior exp(-n L) under a standard normal prior, to
    the order of log n, with the prior's density at the point; without the term (squared_norm 0)
    the prior is flat.

    Args:
        n_samples: n > 1. L is the mean of squared errors |x - x'|^2, not halved.
        learning_coefficient: lambda > 0.
        squared_norm: |w|^2 >= 0 of the phase.
    Source: Watanabe 2009, Algebraic Geometry and Statistical Learning Theory; Chen et al. 2023,
        arXiv 2310.06301.
    """
    where = "free_energy"
    check(n_samples > 1, where, "n_samples > 1", n_samples=n_samples)
    ok = learning_coefficient > 0
    check(ok, where, "learning_coefficient > 0", learning_coefficient=learning_coefficient)
    check(squared_norm >= 0, where, "squared_norm >= 0", squared_norm=squared_norm)
    return n_samples * loss + learning_coefficient * math.log(n_samples) + squared_norm / 2


def transition_size(simple: Phase, accurate: Phase, *, prior: bool = True) -> float:
    """Returns the sample size beyond which the posterior prefers `accurate` to `simple`.

    The largest n at which their free energies are equal. Real-valued; the first integer beyond is
    the first sample size of the new phase.

    Args:
        simple, accurate: with accurate.loss < simple.loss.
        prior: whether the standard normal prior's term |w|^2 / 2 counts.
    Returns: 1 if `accurate` is preferred at every n > 1.
    Raises: ValueError: losses the other way round; what `learning_coefficient` raises.
    """
    gain = simple.loss - accurate.loss
    rule = "accurate.loss < simple.loss"
    check(gain > 0, "transition_size", rule, simple=simple.loss, accurate=accurate.loss)
    rise = accurate.learning_coefficient() - simple.learning_coefficient()
    offset = (accurate.squared_norm - simple.squared_norm) / 2 if prior else 0.0

    def advantage(n: float) -> float:  # of `accurate`
        return gain * n - rise * math.log(n) - offset

    # Convex or rising: past its minimum at rise / gain there is one root, if that is below 0.
    low = max(1.0, rise / gain)
    if advantage(low) >= 0:
        return 1.0
    high = 2 * low
    while advantage(high) < 0:
        high *= 2
    return float(brentq(advantage, low, high))  # type: ignore[arg-type]  # no full_output
