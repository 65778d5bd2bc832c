"""B4: what a merged parent explains of the latents it was split into."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from toymodels import equiangular


@dataclass(frozen=True)
class Split:
    """Children in R^n_children at one cosine, with energies; one parent that merges them all."""

    cosine: float
    energies: tuple[float, ...]

    def children(self) -> Float[Tensor, "s d_in"]:
        return equiangular(len(self.energies), self.cosine, dtype=torch.float64).vectors

    def parent(self) -> Float[Tensor, " d_in"]:
        """Returns the best 1-sparse atom: the top eigenvector of sum_i e_i d_i d_i^T."""
        rows = self.children()
        e = torch.tensor(self.energies, dtype=torch.float64)
        return torch.linalg.svd(e.sqrt()[:, None] * rows).Vh[0]

    def explained(self) -> Float[Tensor, " s"]:
        """Returns R_1^2 of each child."""
        return (self.children() @ self.parent()).square()


@st.composite
def splits(draw: Any, *, equal_energies: bool = False, negative: bool = False) -> Split:
    """One to six children; cosines up to .99, above 0 unless `negative`."""
    n = draw(st.integers(2 if negative else 1, 6))
    low, high = (-1 / (n - 1) + 0.01, -0.01) if negative else (0.01, 0.99)
    energy = st.floats(0.1, 4)
    same = equal_energies or draw(st.booleans())
    energies = [1.0] * n if same else draw(st.lists(energy, min_size=n, max_size=n))
    return Split(draw(st.floats(low, high)), tuple(energies))


def formula(instance: Split) -> float:
    """Returns rho + (1 - rho) / s."""
    rho = instance.cosine
    return rho + (1 - rho) / len(instance.energies)


def compare(instance: Split) -> Comparisons:
    rho, s = instance.cosine, len(instance.energies)
    explained = instance.explained()
    e = torch.tensor(instance.energies, dtype=torch.float64)
    share = float((e * explained).sum() / e.sum())
    largest = float(e.max() / e.sum())
    results = [
        at_most("share of energy explained, from above", share, rho + (1 - rho) * largest),
        at_most("share of energy explained, from below", formula(instance), share),
    ]
    if len(set(instance.energies)) == 1:
        low, high = float(explained.min()), float(explained.max())
        results.append(equal("least R_1^2 of a child", low, formula(instance)))
        results.append(equal("largest R_1^2 of a child", high, formula(instance)))
        novel = float((1 - explained).max())
        results.append(equal("novel part of a child", novel, (1 - rho) * (1 - 1 / s)))
    return tuple(results)


def any_energies(instance: Split) -> Comparisons:
    label = "least R_1^2 of a child, whatever the energies"
    return (equal(label, float(instance.explained().min()), formula(instance)),)


def negative_cosines(instance: Split) -> Comparisons:
    label = "least R_1^2 of a child, children that repel each other"
    return (equal(label, float(instance.explained().min()), formula(instance)),)


def novel_is_all_but_the_cosine(instance: Split) -> Comparisons:
    if len(instance.energies) == 1:
        return VOID
    return (equal("R_1^2 of a child", float(instance.explained().min()), instance.cosine),)


CLAIM = Claim(
    key="B4",
    statement="What a merged parent explains of each child\n"
    "If one latent is the best 1-sparse merger of s equiangular children of equal energy and "
    "cosine rho > 0, R_1^2 of each child is rho + (1 - rho)/s, and its novel part "
    "(1 - rho)(1 - 1/s). With unequal energies the share of energy explained lies between that and "
    "rho + (1 - rho) max e / sum e.",
    source="new",
    proof="H = (1 - rho) diag(e) + rho sqrt(e) sqrt(e)^T: sqrt(e) as a test vector gives "
    "rho sum e + (1 - rho) sum e^2 / sum e; Perron from above; for equal e both meet",
    status="proved",
    kind="exact",
    paper_label="eq:splitting",
    strategy=splits,
    compare=compare,
    mutants=(
        Mutant("any-energies", "The formula holds for unequal energies", any_energies),
        Mutant(
            "negative-cosines",
            "The formula holds for children with negative cosines",
            negative_cosines,
            lambda: splits(equal_energies=True, negative=True),
        ),
        Mutant(
            "novel-is-all-but-the-cosine",
            "R_1^2 of a child is rho, whatever the number of children",
            novel_is_all_but_the_cosine,
        ),
    ),
)
