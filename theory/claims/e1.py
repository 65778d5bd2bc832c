"""E1: when the latents nearest to an atom must be those that contain it."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Bool, Float
from torch import Tensor

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from theory.isotropic import isotropic_rows
from theory.retrieval import direction_errors, retrieval, retrieval_bound
from toymodels import Dictionary, equiangular, stream
from toymodels import strategies as tms


@dataclass(frozen=True)
class Library:
    """Features that mix atoms with small integer weights, and estimates of both with errors."""

    atoms: Dictionary
    mixtures: tuple[tuple[int, ...], ...]
    error: float
    seed: int

    def weights(self) -> Float[Tensor, "n m"]:
        """Returns the mixtures as rows of norm 1."""
        rows = torch.tensor(self.mixtures, dtype=torch.float64)
        return torch.nn.functional.normalize(rows, dim=1)

    def members(self) -> Bool[Tensor, "n m"]:
        return self.weights() > 0

    def rows(self) -> Float[Tensor, "n d_in"]:
        return self.weights() @ self.atoms.vectors

    def perturbed(self, rows: Float[Tensor, "n d_in"], name: str) -> Float[Tensor, "n d_in"]:
        noise = isotropic_rows(*rows.shape, generator=stream(self.seed, name), dtype=rows.dtype)
        return rows + self.error * noise


def libraries() -> st.SearchStrategy[Library]:
    """Atoms of every family and nearly orthogonal ones; one to six mixtures of up to three."""
    nearly = st.builds(_nearly_orthogonal, st.integers(2, 8), st.floats(-0.1, 0.1))
    return _libraries(st.one_of(tms.dictionaries(), nearly))


def _nearly_orthogonal(n: int, cosine: float) -> Dictionary:
    return equiangular(n, cosine, dtype=torch.float64)


@st.composite
def _libraries(draw: Any, dictionaries: st.SearchStrategy[Dictionary]) -> Library:
    atoms = draw(dictionaries)
    m = atoms.n_features
    mixtures = []
    for _ in range(draw(st.integers(1, 6))):
        members = draw(st.sets(st.integers(0, m - 1), min_size=1, max_size=min(3, m)))
        weights = {j: draw(st.integers(1, 2)) for j in sorted(members)}
        mixtures.append(tuple(weights.get(j, 0) for j in range(m)))
    error = st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.9])
    return Library(atoms, tuple(mixtures), draw(error), draw(tms.seeds()))


def _nonzero(rows: Float[Tensor, "n d_in"]) -> bool:
    """Returns whether no mixture cancels, as those of opposite atoms do."""
    return float(torch.linalg.vector_norm(rows, dim=1).min()) > 1e-6


def compare(instance: Library) -> Comparisons:
    atoms, rows, weights = instance.atoms.vectors, instance.rows(), instance.weights()
    if not _nonzero(rows):
        return VOID
    members = instance.members()
    per_row, least = int(members.sum(1).max()), float(weights[members].min())
    bound = retrieval_bound(instance.atoms.coherence(), per_row, least)
    cosines = torch.nn.functional.normalize(rows, dim=1) @ atoms.T
    inside = float(cosines[members].min())
    results = [at_most("least cosine with a member, from below", bound.contained, inside)]
    if not bool(members.all()):
        outside = float(cosines[~members].abs().max())
        results.append(at_most("largest cosine with another", outside, bound.other))
    if instance.atoms.coherence() < 1e-12 and len(set(weights[members].tolist())) == 1:
        best = float(cosines.max())
        results.append(equal("equal weights: best cosine", best, 1 / math.sqrt(per_row)))
    exact = retrieval(
        atoms, rows, members, atom_errors=0 * atoms[:, 0], row_errors=0 * rows[:, 0]
    ).gaps
    near_atoms, near_rows = instance.perturbed(atoms, "atoms"), instance.perturbed(rows, "rows")
    estimated = retrieval(
        near_atoms,
        near_rows,
        members,
        atom_errors=direction_errors(near_atoms, atoms),
        row_errors=direction_errors(near_rows, rows),
    )
    finite = estimated.gaps < math.inf
    if bool(finite.any()):
        worst = float((estimated.margins - exact)[finite].max())
        results.append(at_most("margin of the estimates, against the true gap", worst, 0.0))
    if bound.certified:
        promised = max(0.0, bound.margin - float(exact.min()))
        results.append(at_most("certified gap, against the true one", promised, 0.0))
    return tuple(results)


def any_coherence(instance: Library) -> Comparisons:
    rows = instance.rows()
    if not _nonzero(rows):
        return VOID
    atoms, none = instance.atoms.vectors, torch.zeros(len(rows), dtype=rows.dtype)
    found = retrieval(atoms, rows, instance.members(), atom_errors=0 * atoms[:, 0], row_errors=none)
    return (at_most("0, against the gap at any coherence", 0.0, float(found.gaps.min())),)


def errors_do_not_matter(instance: Library) -> Comparisons:
    atoms, rows = instance.atoms.vectors, instance.rows()
    if instance.atoms.coherence() > 1e-12:
        return VOID
    none = {"atom_errors": 0 * atoms[:, 0], "row_errors": 0 * rows[:, 0]}
    near_atoms, near_rows = instance.perturbed(atoms, "atoms"), instance.perturbed(rows, "rows")
    found = retrieval(near_atoms, near_rows, instance.members(), **none)
    return (at_most("0, against the gap of estimates", 0.0, float(found.gaps.min())),)


def success_is_one(instance: Library) -> Comparisons:
    rows = instance.rows()
    if instance.atoms.coherence() > 1e-12 or int(instance.members().sum(1).min()) < 2:
        return VOID
    cosines = torch.nn.functional.normalize(rows, dim=1) @ instance.atoms.vectors.T
    return (at_most("9/10, against the best cosine", 0.9, float(cosines.max())),)


CLAIM = Claim(
    key="E1",
    statement="When the rows nearest to an atom contain it\n"
    "For features that mix at most k of the unit atoms, weights >= m in rows of norm 1, and "
    "atoms of coherence mu with (k-1) mu < 1: cosines with members are at least "
    "((1+mu) m - mu sqrt k)/sqrt(1 + (k-1) mu), where that is positive, and with others at most "
    "mu sqrt k/sqrt(1 - (k-1) mu) in size. For unit vectors known up to errors eps (chords), an "
    "order of cosines with an atom is certain where the gap exceeds eps_i + eps_l + 2 eps_atom. "
    "Equal weights on orthonormal atoms give 1/sqrt k.",
    source="new",
    proof="Crosstalk is at most mu |M_i|_1 <= mu sqrt k; |M_i B|^2 in 1 +- (k-1) mu (Gershgorin); "
    "Cauchy-Schwarz for the errors",
    status="proved",
    kind="exact",
    paper_label="eq:retrieval",
    strategy=libraries,
    compare=compare,
    mutants=(
        Mutant(
            "any-coherence",
            "Rows with the atom are nearest at any coherence",
            any_coherence,
        ),
        Mutant(
            "errors-do-not-matter",
            "Estimates of orthonormal atoms and rows keep the order, whatever their errors",
            errors_do_not_matter,
        ),
        Mutant(
            "success-is-one",
            "The nearest row has a cosine near 1 if it contains the atom",
            success_is_one,
        ),
    ),
)
