"""Phases of the toy model of superposition: polygons, what descents find, and free energies."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from scipy.optimize import brentq, minimize
from torch import Tensor

from theory.checks import check, check_generator, check_size
from theory.critical_points import Phase, phase
from theory.potential import descend, potential, refine


def polygon_phase(n_features: int, n_vertices: int, *, n_raised: int = 0) -> Phase:
    """Returns the critical point with a regular polygon in two hidden dimensions.

    n_vertices columns of one length and bias are the polygon, `polygon_point`; the others are dead,
    W_i = 0: n_raised of them answer with their best constant, b_i = 1 / (2 c), and save
    1 / (4 c^2) each, the rest have a negative bias and stay silent.

    Args:
        n_features: c, the number of columns.
        n_vertices: k, from 2 to c.
        n_raised: from 0 to c - k: the number of plus signs of the phase's usual name.
    Source: Chen, Lau, Mendel, Wei, Murfet 2023, arXiv 2310.06301; eq:polygon-phases.
    """
    where, c, k = "polygon_phase", n_features, n_vertices
    check(2 <= k <= c, where, f"2 <= n_vertices <= {c} (n_features)", n_vertices=k)
    check(0 <= n_raised <= c - k, where, f"0 <= n_raised <= {c - k}", n_raised=n_raised)
    length, bias = polygon_point(k)
    W = torch.cat([length * _vertices(k), torch.zeros(2, c - k, dtype=torch.float64)], dim=1)
    biases = [bias] * k + [1 / (2 * c)] * n_raised + [-1.0] * (c - k - n_raised)
    return phase(W, torch.tensor(biases, dtype=torch.float64))


@functools.cache
def polygon_point(n_vertices: int) -> tuple[float, float]:
    """Returns length and bias of the columns of a regular polygon that is critical on its own.

    Dead columns change neither: see eq:polygon-phases. Up to four vertices no two columns have a
    positive product, and length 1 and bias 0 lose nothing on them; beyond, both are found by
    search and refined by Newton's method on all parameters.

    Args:
        n_vertices: k >= 2. A minimum of the loss up to nine; larger ones are saddles.
    """
    k = n_vertices
    check(k >= 2, "polygon_point", "n_vertices >= 2", n_vertices=k)
    if k <= 4:
        return 1.0, 0.0
    unit = _vertices(k)

    def point(length: float, bias: float) -> tuple[Tensor, Tensor]:
        return length * unit, torch.full((k,), bias, dtype=torch.float64)

    def loss(at: Any) -> float:
        return float(potential(*point(*at)))

    lengths, shares = torch.linspace(1.0, 2.5, 11).tolist(), torch.linspace(0.1, 0.8, 8).tolist()
    grid = [(x, -share * x * x) for x in lengths for share in shares]
    best = minimize(loss, min(grid, key=loss), method="Nelder-Mead", options={"xatol": 1e-5}).x
    W, b = refine(*point(*best))
    return float(W.norm(dim=0).mean()), float(b.mean())


def _vertices(k: int) -> Float[Tensor, "2 k"]:
    angle = torch.arange(k, dtype=torch.float64) * (2 * math.pi / k)
    return torch.stack([angle.cos(), angle.sin()])


@dataclass(frozen=True)
class Search:
    """The minima that descents found.

    phases: told apart by their loss, to 1e-8; in increasing order of it.
    counts: how many descents ended in each.
    unresolved: losses, in increasing order, of the other descents: they ended where L is not C^2,
        as polygons of bias 0 do, or where Newton's method failed.
    """

    phases: tuple[Phase, ...]
    counts: tuple[int, ...]
    unresolved: tuple[float, ...]

    @property
    def n_unresolved(self) -> int:
        return len(self.unresolved)


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
    check_generator(where, generator, torch.device("cpu"))
    found: list[list[Phase]] = []
    unresolved: list[float] = []
    for _ in range(n_starts):
        W = torch.randn(n_hidden, n_features, dtype=torch.float64, generator=generator)
        b = 0.1 * torch.randn(n_features, dtype=torch.float64, generator=generator)
        low = descend(W / n_hidden**0.5, b)
        try:
            end = phase(*refine(*low))
        except ValueError:  # of refine: not C^2, or no convergence
            unresolved.append(float(potential(*low)))
            continue
        same = [group for group in found if abs(group[0].loss - end.loss) < 1e-8]
        if same:
            same[0].append(end)
        else:
            found.append([end])
    found.sort(key=lambda group: group[0].loss)
    counts = tuple(len(group) for group in found)
    return Search(tuple(group[0] for group in found), counts, tuple(sorted(unresolved)))


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
