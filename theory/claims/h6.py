"""H6: what absorption saves, and where it stays exact."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import Claim, Comparisons, Mutant, at_most, equal

EPSILON = 1e-12  # a pre-activation this small is 0 up to rounding


@dataclass(frozen=True)
class Family:
    """A parent and a child at a given cosine, and a share delta of the parent that is absorbed.

    outcomes: (weight, a, b), the magnitudes of parent and child, >= 0, and how often they occur.
    """

    cosine: float
    delta: float
    outcomes: tuple[tuple[int, float, float], ...]

    def probs(self) -> Float[Tensor, " outcomes"]:
        weights = torch.tensor([float(o[0]) for o in self.outcomes], dtype=torch.float64)
        return weights / weights.sum()

    def codes(self) -> Float[Tensor, "outcomes 2"]:
        return torch.tensor([o[1:] for o in self.outcomes], dtype=torch.float64)

    def rows(self) -> Float[Tensor, "2 2"]:
        c = self.cosine
        return torch.tensor([[1.0, 0.0], [c, math.sqrt(1 - c * c)]], dtype=torch.float64)

    def row_norm(self) -> float:
        """Returns the norm of the child's decoder row, d_2 + delta d_1."""
        return math.sqrt(1 + 2 * self.delta * self.cosine + self.delta**2)

    def mean(self, values: Tensor) -> float:
        return float(self.probs() @ values)

    @property
    def scale(self) -> float:
        return max(float(self.codes().square().max()), 1e-6)


@dataclass(frozen=True)
class Costs:
    """What an SAE costs on average: squared error, L1 (rows as they are, or unit) and L0."""

    error: float
    l1: float
    l1_unit: float
    l0: float


def costs(family: Family, delta: float) -> Costs:
    """Returns the costs of the absorbing SAE: encoders g_1 - delta g_2 and g_2, rows d_1 and
    d_2 + delta d_1, where <g_i, d_j> = 1 for i = j and 0 otherwise; delta = 0 is the truth."""
    rows = family.rows()
    readers = torch.linalg.inv(rows.T)
    mix = torch.tensor([[1.0, -delta], [0.0, 1.0]], dtype=torch.float64)
    encoder = (mix @ readers).T
    decoder = torch.linalg.inv(mix).T @ rows
    x = family.codes() @ rows
    latents = (x @ encoder).relu()
    error = (x - latents @ decoder).square().sum(1)
    norms = torch.linalg.vector_norm(decoder, dim=1)
    active = (latents > EPSILON * (1 + latents.max())).double().sum(1)
    means = (error, latents.sum(1), latents @ norms, active)
    return Costs(*(family.mean(value) for value in means))


@st.composite
def families(draw: Any, *, alone: bool = True, unit: bool = False) -> Family:
    """Laws of up to 5 outcomes at any cosine.

    alone: the child may fire without the parent.   unit: all magnitudes are 1.
    """
    magnitude = st.just(1.0) if unit else st.sampled_from([1.0, 2.0, 0.5]) | st.floats(0.05, 3)
    silent = st.just(0.0)
    both = st.tuples(st.integers(1, 9), magnitude, magnitude)
    parent = st.tuples(st.integers(1, 9), magnitude, silent)
    child = st.tuples(st.integers(1, 9), silent, magnitude)
    others = st.one_of([parent, child, both] if alone else [parent, both])
    outcomes = (draw(both), *draw(st.lists(others, max_size=4)))
    delta = draw(st.sampled_from([1.0, 0.5]) | st.floats(0.01, 1))
    return Family(draw(st.sampled_from([0.0, 0.5]) | st.floats(-0.9, 0.9)), delta, outcomes)


def compare(family: Family) -> Comparisons:
    delta, scale = family.delta, family.scale
    a, b = family.codes().T
    truth, absorbed = costs(family, 0.0), costs(family, delta)
    overshoot = family.mean((delta * b - a).clamp(min=0).square())
    moved, child = family.mean(torch.minimum(a, delta * b)), family.mean(b)
    # A latent that is silent exactly where a = delta b is silent up to rounding only.
    emptied = family.mean(((a > 0) & (a <= delta * b + EPSILON * scale)).double())
    longer = (family.row_norm() - 1) * child
    results = [
        equal("error of the truth", truth.error, 0.0, scale=scale),
        equal("error E[(delta b - a)_+^2]", absorbed.error, overshoot, scale=scale),
        equal("L1 saved E min(a, delta b)", truth.l1 - absorbed.l1, moved, scale=scale),
        equal("the same with unit rows", truth.l1_unit - absorbed.l1_unit, moved - longer,
              scale=scale),
        equal("L0 saved Pr[0 < a <= delta b]", truth.l0 - absorbed.l0, emptied),
    ]  # fmt: skip
    if float((delta * b - a).max()) <= 0:
        least = (1 + delta - family.row_norm()) * child
        saved = truth.l1_unit - absorbed.l1_unit
        results.append(at_most("exact: least saving, against it", least, saved, scale=scale))
        results.append(at_most("exact: 0, against the least saving", 0.0, least, scale=scale))
    if all(o[1:] in ((1.0, 1.0), (1.0, 0.0)) for o in family.outcomes):
        p11 = family.mean(b)
        published = p11 * (2 - delta) + (1 - p11)
        results.append(equal("magnitudes 1: p11 (2 - delta) + p10", absorbed.l1, published))
    return tuple(results)


def exact(family: Family) -> Comparisons:
    """The absorbing SAE's error, whatever the law."""
    error = costs(family, family.delta).error
    return (at_most("error, against 0", error, 0.0, scale=family.scale),)


def saving(measure: Callable[[Costs], float], least: Callable[[Family], float]) -> Any:
    """Returns the comparison of what absorption saves of a cost with what it should at least."""

    def compare_saving(family: Family) -> Comparisons:
        saved = measure(costs(family, 0.0)) - measure(costs(family, family.delta))
        label = "claimed saving, against what is saved"
        return (at_most(label, least(family), saved, scale=family.scale),)

    return compare_saving


def _free_rows(family: Family) -> float:
    a, b = family.codes().T
    return family.mean(torch.minimum(a, family.delta * b))


def _a_hundredth(family: Family) -> float:
    both = (family.codes() > 0).all(1).double()
    return 0.01 * family.delta * family.mean(both)


CLAIM = Claim(
    key="H6",
    statement="Absorption saves L1 at exact reconstruction\n"
    "Parent a, child b; encoders g_1 - delta g_2 and g_2 (dual to the features), decoder rows d_1 "
    "and d_2 + delta d_1, 0 < delta <= 1. The error is E[(delta b - a)_+^2], the L1 saved "
    "E min(a, delta b), less (|d_2 + delta d_1| - 1) E b if the rows are scaled to unit norm, the "
    "L0 saved Pr[0 < a <= delta b]. So reconstruction is exact iff delta b <= a almost surely, "
    "which needs a child that never fires alone; then L1 falls for both kinds of rows and every "
    "cosine within (-1, 1). Magnitudes of 1: L1 is p11 (2 - delta) + p10.",
    source="Chanin et al. 2024, arXiv 2409.14507 (magnitudes 1, orthogonal, hierarchical)",
    proof="The parent's latent is (a - delta b)_+ = a - min(a, delta b), the child's b; the error "
    "lies along d_1; |d_2 + delta d_1| < 1 + delta below cosine 1",
    status="proved",
    kind="exact",
    paper_label="eq:absorption-saves",
    strategy=families,
    compare=compare,
    mutants=(
        Mutant(
            "child-alone",
            "With magnitudes of 1 it is exact if the child fires without the parent too",
            exact,
            partial(families, unit=True),
        ),
        Mutant(
            "any-magnitudes",
            "It is exact for every delta whatever the magnitudes of a hierarchy",
            exact,
            partial(families, alone=False),
        ),
        Mutant(
            "unit-rows-save-as-much",
            "Unit decoder rows save E min(a, delta b) too",
            saving(lambda c: c.l1_unit, _free_rows),
        ),
        Mutant(
            "unit-rows-always-save",
            "Unit decoder rows save L1 whatever the law",
            saving(lambda c: c.l1_unit, lambda family: 0.0),
        ),
        Mutant(
            "l0-for-every-delta",
            "L0 falls too for every delta under the published conditions",
            saving(lambda c: c.l0, _a_hundredth),
            partial(families, alone=False, unit=True),
        ),
    ),
)
