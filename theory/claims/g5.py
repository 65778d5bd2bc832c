"""G5: losses and Hessian ranks of polygons in the toy model of superposition."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from theory.critical_points import Phase, phase
from theory.phases import polygon_phase, polygon_point
from theory.potential import nonsmooth_distance, potential, potential_gradient, potential_hessian
from toymodels import strategies as tms
from toymodels import stream


@dataclass(frozen=True)
class Polygon:
    """A regular polygon among dead columns, turned, and in an order, that the seed decides.

    n_raised: dead columns that answer with their best constant.
    n_silent: dead columns of negative biases, which the seed decides too.
    """

    n_vertices: int
    n_raised: int
    n_silent: int
    seed: int

    @property
    def n_features(self) -> int:
        return self.n_vertices + self.n_raised + self.n_silent

    def point(self) -> tuple[Float[Tensor, "2 n_features"], Float[Tensor, " n_features"]]:
        """Returns (W, b)."""
        c, generator = self.n_features, stream(self.seed, "placing")
        found = polygon_phase(c, self.n_vertices, n_raised=self.n_raised)
        draws = torch.rand(c, generator=generator, dtype=torch.float64)
        b = found.b.clone()
        b[c - self.n_silent :] = -0.05 - draws[c - self.n_silent :]
        turn = 2 * math.pi * float(draws[0])
        cos, sin = math.cos(turn), math.sin(turn)
        turned = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64) @ found.W
        order = torch.randperm(c, generator=generator)
        return turned[:, order], b[order]

    def loss(self, bonus: float | None = None) -> float:
        """Returns (h_k + c - k) / (3c) - n_raised * bonus, by default of 1 / (4 c^2)."""
        c, k = self.n_features, self.n_vertices
        bonus = 1 / (4 * c * c) if bonus is None else bonus
        return (h(k) + c - k) / (3 * c) - self.n_raised * bonus

    def rank(self) -> int:
        """Returns the rank that the count promises, for five vertices and more."""
        alone = 3 * self.n_vertices - 1  # all parameters of the polygon but its rotation
        if self.n_raised == 0:
            return alone
        return alone + 3 * self.n_raised + 2 * (self.n_silent > 0)

    def n_negative(self) -> int:
        return 2 * (self.n_raised > 0 and self.n_silent > 0)


def polygons(least: int = 4) -> Any:
    few = st.integers(0, 2)
    return st.builds(Polygon, st.integers(least, 9), few, few, tms.seeds())


def h(n_vertices: int) -> float:
    """Returns 3c times what the polygon's outputs lose on its inputs, by the cases of bias <= 0."""
    k, (length, b) = n_vertices, polygon_point(n_vertices)
    N = length**2
    own = (1 - N) ** 2 - 3 * (1 - N) * b + 3 * b * b + b**3 / N**2 + b**3 / N
    products = [N * math.cos(2 * math.pi * j / k) for j in range(1, k)]
    return k * (own + sum((a + b) ** 3 / a for a in products if a > -b + 1e-12))


@functools.cache
def stiffness(n_vertices: int) -> tuple[float, float]:
    """Returns s_k and alpha_k of the proof: what moving the sum of the polygon's columns costs.

    s_k: least of the quadratic part of c L over changes of the polygon whose columns' changes sum
    to a unit vector; alpha_k = k N / 6 - 2/3: what a raised column's weights cost.
    """
    k = n_vertices
    alone = polygon_phase(k, k)
    half = k * potential_hessian(alone.W, alone.b) / 2
    total = torch.zeros(2, 3 * k, dtype=torch.float64)
    total[0, :k] = total[1, k : 2 * k] = 1
    compliance = total @ torch.linalg.pinv(half, rtol=1e-7, hermitian=True) @ total.T
    least = 1 / float(torch.linalg.eigvalsh(compliance).max())
    return least, k * polygon_point(k)[0] ** 2 / 6 - 2 / 3


def compare(instance: Polygon) -> Comparisons:
    W, b = instance.point()
    results = [
        equal("loss, against the formula", float(potential(W, b)), instance.loss()),
        equal("norm of the gradient", float(potential_gradient(W, b).norm()), 0.0),
    ]
    if instance.n_vertices == 4:
        distance = nonsmooth_distance(W, b)
        return (*results, equal("four vertices: distance from a jump", distance, 0.0))
    found, (stiff, alpha) = phase(W, b), stiffness(instance.n_vertices)
    needed = 1 / (64 * instance.n_vertices * alpha)
    return (
        *results,
        equal("rank of the Hessian, against the count", float(found.rank), float(instance.rank())),
        equal("negative eigenvalues", float(found.n_negative), float(instance.n_negative())),
        at_most("what raised columns can soften, against the polygon's stiffness", needed, stiff),
    )


def measured(instance: Polygon) -> Phase:
    return phase(*instance.point())


def no_bonus(instance: Polygon) -> Comparisons:
    loss = float(potential(*instance.point()))
    return (equal("loss, against (h + c - k) / (3c)", loss, instance.loss(0.0)),)


def twice_the_bonus(instance: Polygon) -> Comparisons:
    loss = float(potential(*instance.point()))
    claimed = instance.loss(1 / (2 * instance.n_features**2))
    return (equal("loss, with 1 / (2 c^2) for each raised column", loss, claimed),)


def growing_h(instance: Polygon) -> Comparisons:
    c, k = instance.n_features, instance.n_vertices
    claimed = instance.loss() + (c / k - 1) * h(k) / (3 * c)
    return (equal("loss, with h_k c / k", float(potential(*instance.point())), claimed),)


def flat_dead_weights(instance: Polygon) -> Comparisons:
    claimed = 3 * instance.n_vertices - 1 + instance.n_raised
    return (
        equal(
            "rank, of dead columns only raised biases",
            float(measured(instance).rank),
            float(claimed),
        ),
    )


def rotation_counts(instance: Polygon) -> Comparisons:
    return (
        equal("rank, with the rotation", float(measured(instance).rank), instance.rank() + 1.0),
    )


def always_minimum(instance: Polygon) -> Comparisons:
    if instance.n_raised == 0:
        return VOID
    return (equal("negative eigenvalues", float(measured(instance).n_negative), 0.0),)


def smooth() -> Any:
    return polygons(5)


CLAIM = Claim(
    key="G5",
    statement="Losses and ranks of polygons with dead columns\n"
    "One uniform feature of c at a time, two hidden dimensions: k = 4 to 9 columns on a regular "
    "polygon, r dead ones of bias 1 / (2c), s of negative bias. The gradient is zero and L = "
    "(h_k + c - k) / (3c) - r / (4 c^2), h_k free of c. For k >= 5 the Hessian has rank 3k - 1 if "
    "r = 0, 3 (k + r) - 1 if s = 0, both without negative eigenvalues, and else 3 (k + r) + 1, two "
    "of them negative: a saddle. For k = 4 there is no Hessian.",
    source="losses and polygons: Chen et al. 2023, arXiv 2310.06301; ranks and saddles: new",
    proof="Dead columns see the polygon only through the sum of its columns, which is 0; the "
    "quadratic part of c L splits into the polygon's, a |u|^2 + (1/2c) u.(p + v) for the sums u, "
    "v, p of raised, silent and polygon changes, squares of raised biases and differences",
    status="proved",
    kind="exact",
    paper_label="eq:polygon-phases",
    strategy=polygons,
    compare=compare,
    mutants=(
        Mutant("no-bonus", "Raised dead columns save nothing", no_bonus),
        Mutant("twice-the-bonus", "Each raised dead column saves 1 / (2 c^2)", twice_the_bonus),
        Mutant("h-grows", "h_k grows like c", growing_h),
        Mutant(
            "flat-dead-weights", "The weights of dead columns are flat", flat_dead_weights, smooth
        ),
        Mutant("rotation-counts", "The rank counts the rotation", rotation_counts, smooth),
        Mutant("always-minimum", "Polygons with raised columns are minima", always_minimum, smooth),
    ),
)
