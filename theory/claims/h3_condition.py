"""H3-condition: the excess over refits of the same sizes is what a meta-SAE's FVE can say."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import Claim, Comparisons, Mutant, at_most, equal
from theory.compressibility import (
    MIN_SURROGATES,
    copy_baseline,
    fve,
    isotropic_surrogates,
    surrogate_p_value,
)
from theory.sparse_coding import omp
from toymodels import strategies as tms
from toymodels import stream

N_SETS = MIN_SURROGATES + 1  # each of them once the rows, the others its surrogates


@dataclass(frozen=True)
class Refits:
    """Structureless sets of n rows in R^dims, each compressed by the same recipe: m atoms, k."""

    n_rows: int
    dims: int
    n_latents: int
    k: int
    seed: int

    def sets(self) -> Float[Tensor, "sets n dims"]:
        generator = stream(self.seed, "surrogates")
        shape = (self.n_rows, self.dims, N_SETS)
        return isotropic_surrogates(*shape, generator=generator, dtype=torch.float64)

    def scores(self) -> Float[Tensor, " sets"]:
        """Returns the FVE of each set under the recipe: copied rows and sparse codes."""
        found = [copy_baseline(rows, self.n_latents, self.k) for rows in self.sets()]
        return torch.tensor(found, dtype=torch.float64)


@st.composite
def refits(draw: Any) -> Refits:
    """Up to 8 rows in up to 6 dimensions, every smaller width."""
    n = draw(st.integers(2, 8))
    m = draw(st.integers(1, n - 1))
    dims, k = draw(st.integers(1, 6)), draw(st.integers(1, min(m, 3)))
    return Refits(n, dims, m, k, draw(tms.seeds()))


def leave_one_out(scores: Float[Tensor, " sets"]) -> list[tuple[float, Float[Tensor, " others"]]]:
    """Returns each score with the scores of the other sets."""
    every = torch.arange(len(scores))
    return [(float(scores[i]), scores[every != i]) for i in range(len(scores))]


def share(p_values: list[float], alpha: float) -> float:
    """Returns the share of the p-values that are at most alpha."""
    return sum(p <= alpha + 1e-12 for p in p_values) / len(p_values)


def compare(instance: Refits) -> Comparisons:
    scores, dims = instance.scores(), instance.dims
    apart = leave_one_out(scores)
    p_values = [surrogate_p_value(score, others) for score, others in apart]
    # The share rises at the p-values themselves, so they are the levels that are hardest.
    worst = max(share(p_values, alpha) - alpha for alpha in p_values)
    excess = sum(score - others.mean().item() for score, others in apart)
    rows = instance.sets()[0]
    axes = torch.eye(dims, dtype=torch.float64)
    k = min(instance.k, dims)
    coded = omp(rows, torch.cat([axes, -axes]), k, nonnegative=True)
    reached = fve(rows, coded @ torch.cat([axes, -axes]))
    return (
        at_most("share of structureless sets with p <= alpha, less alpha", worst, 0.0),
        equal("mean excess of structureless sets", excess / N_SETS, 0.0),
        at_most("k/d, against 2 d fixed atoms", k / dims, reached),
    )


def half_has_a_level(instance: Refits) -> Comparisons:
    above = float((instance.scores() > 0.5).double().mean())
    label = "share of structureless sets explained by half, against 1/9"
    return (at_most(label, above, 1 / N_SETS),)


def nulls_alone(instance: Refits) -> Comparisons:
    p_values = [
        float((others >= score).double().mean())
        for score, others in leave_one_out(instance.scores())
    ]
    return (at_most("share of structureless sets with p = 0", share(p_values, 0.0), 0.0),)


def any_excess(instance: Refits) -> Comparisons:
    apart = leave_one_out(instance.scores())
    above = sum(score > others.mean().item() for score, others in apart) / N_SETS
    return (at_most("share of structureless sets with an excess, against 1/9", above, 1 / N_SETS),)


CLAIM = Claim(
    key="H3-condition",
    statement="What the FVE of a meta-SAE says about atoms\n"
    "Among S + 1 structureless sets of rows, compressed by one recipe, the share with "
    "p = (1 + #{null >= FVE}) / (1 + S) <= alpha is at most alpha whatever the sizes, and their "
    "mean excess over the others is 0: so the p-value of exchangeable rows is valid. The FVE "
    "alone says nothing: 2 d fixed atoms and k non-negative codes explain k/d of any rows in R^d.",
    source="new",
    proof="p <= alpha for the j largest scores only, j <= alpha (S + 1), and under exchangeability "
    "each place is equally likely; the k largest of d squared coordinates hold k/d of their sum",
    status="proved",
    kind="exact",
    paper_label="eq:refitted-null",
    strategy=refits,
    compare=compare,
    mutants=(
        Mutant(
            "half-has-a-level",
            "At most 1/9 of structureless sets are explained by more than half",
            half_has_a_level,
        ),
        Mutant("nulls-alone", "The share of nulls above the FVE is a valid p-value", nulls_alone),
        Mutant("any-excess", "An excess above 0 occurs at most once in nine", any_excess),
    ),
)
