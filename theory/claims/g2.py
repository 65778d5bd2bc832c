"""G2: the weight basis belongs to the firing law."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from theory.fragility import fragility, projector_change
from theory.rotation import eigenspace_rotation
from toymodels import Dictionary, orthonormal, polygon, simplex
from toymodels import strategies as tms

LEAST_GAP = 1e-3  # relative to the largest eigenvalue: below it rounding decides the eigenspace
LEAST_SHIFT_GAP = 1e-2  # of a tight frame's change, relative to the largest eigenvalue of Sigma
MAX_FEATURES = 12


@dataclass(frozen=True)
class Shifted:
    """Features whose energies e_i become e_i (1 + step * changes_i)."""

    dictionary: Dictionary
    energies: tuple[float, ...]
    changes: tuple[float, ...]
    step: float
    r: int

    def e(self) -> Float[Tensor, " n_features"]:
        return torch.tensor(self.energies, dtype=torch.float64)

    def xi(self) -> Float[Tensor, " n_features"]:
        return torch.tensor(self.changes, dtype=torch.float64)

    def moment(self, step: float) -> Float[Tensor, "d_in d_in"]:
        d = self.dictionary.vectors
        return (d.T * (self.e() * (1 + step * self.xi()))) @ d

    def change(self) -> Float[Tensor, "d_in d_in"]:
        """Returns D^T diag(e xi) D."""
        d = self.dictionary.vectors
        return (d.T * (self.e() * self.xi())) @ d

    def tight(self) -> bool:
        """Whether Sigma is a multiple of the identity."""
        low, high = self.dictionary.frame_bounds()
        return len(set(self.energies)) == 1 and high - low < 1e-12 * high


def shifts() -> st.SearchStrategy[Shifted]:
    """Any dictionary with any energies, or a tight frame of equal energies."""
    return st.one_of(_shifts(tms.dictionaries(), same=False), tight_shifts())


def tight_shifts() -> st.SearchStrategy[Shifted]:
    """Tight frames of equal energies: Sigma is proportional to I."""
    pairs = st.builds(lambda a, b: Dictionary(torch.cat([a, b])), bases_of(3), bases_of(3))
    bases = st.integers(2, 6).flatmap(bases_of).map(Dictionary)
    simplices = st.integers(3, 7).map(lambda n: simplex(n, dtype=torch.float64))
    return _shifts(st.one_of(bases, pairs, polygons(), simplices), same=True)


def planar_shifts() -> st.SearchStrategy[Shifted]:
    """Polygons of any energies."""
    return _shifts(polygons(), same=False)


@st.composite
def _shifts(draw: Any, dictionaries: st.SearchStrategy[Dictionary], *, same: bool) -> Shifted:
    dictionary = Dictionary(draw(dictionaries).vectors[:MAX_FEATURES])
    n = dictionary.n_features
    energy = st.sampled_from([1.0, 0.1]) | st.floats(0.1, 4)
    energies = [draw(energy)] * n if same else draw(st.lists(energy, min_size=n, max_size=n))
    changes = st.lists(st.sampled_from([1.0, -1.0, 0.0, 0.5]), min_size=n, max_size=n)
    return Shifted(
        dictionary,
        tuple(energies),
        tuple(draw(changes)),
        step=draw(st.sampled_from([0.5, 1e-2, 1e-4])),
        r=draw(st.integers(1, max(1, dictionary.d_in - 1))),
    )


def polygons() -> st.SearchStrategy[Dictionary]:
    return st.integers(3, 9).map(lambda n: polygon(n, dtype=torch.float64))


def bases_of(d_in: int) -> st.SearchStrategy[Float[Tensor, "d_in d_in"]]:
    return tms.generators("basis").map(
        lambda g: orthonormal(d_in, d_in, generator=g, dtype=torch.float64).vectors
    )


def gap_after(
    matrix: Float[Tensor, "d_in d_in"], r: int, moment: Float[Tensor, "d_in d_in"]
) -> float:
    """Returns lambda_r - lambda_(r+1) of `matrix`, relative to the largest eigenvalue of `moment`.

    Not of the matrix itself: changes that cancel leave rounding alone, whose own gap is large.
    """
    values = torch.linalg.eigvalsh(matrix).flip(0)
    return float(values[r - 1] - values[r]) / float(torch.linalg.eigvalsh(moment)[-1])


def _gap(instance: Shifted) -> float:
    moment = instance.moment(0.0)
    return gap_after(moment, instance.r, moment)


def _shift_gaps(instance: Shifted) -> tuple[float, float]:
    """Returns the gaps after the top r and after the bottom r eigenvalues of the change."""
    change, moment = instance.change(), instance.moment(0.0)
    return gap_after(change, instance.r, moment), gap_after(-change, instance.r, moment)


def distance(a: Float[Tensor, "d d"], b: Float[Tensor, "d d"], r: int) -> float:
    """Returns |P - P'|_F of the top-r eigenspaces."""
    return eigenspace_rotation(a, b, r).frobenius


def compare(instance: Shifted) -> Comparisons:
    r, d_in = instance.r, instance.dictionary.d_in
    if r >= d_in:
        return VOID
    if instance.tight():
        return compare_tight(instance)
    if _gap(instance) < LEAST_GAP:
        return VOID
    vectors, e, change = instance.dictionary.vectors, instance.e(), instance.change()
    projector = _projector(instance.moment(0.0), r)
    slope = projector_change(vectors, e, r, instance.xi())
    found = fragility(vectors, e, r)
    scale = float(e.sum()) / found.gap
    attained = torch.linalg.norm(projector_change(vectors, e, r, found.signs))
    commutes = slope @ instance.moment(0.0) - instance.moment(0.0) @ slope
    commutes = commutes + projector @ change - change @ projector
    stays = projector @ slope + slope @ projector - slope
    sines = float(torch.linalg.norm(slope))
    whole = float(torch.linalg.norm(change))
    return (
        equal("dP S + P dS = S dP + dS P", float(commutes.abs().max()), 0.0,
              scale=scale * float(e.sum())),
        equal("P dP + dP P = dP", float(stays.abs().max()), 0.0, scale=scale),
        at_most("|dP|, against |dS| / gap", sines, whole / found.gap, scale=scale),
        at_most("|dP|, against the fragility", sines, found.upper, scale=scale),
        equal("the fragility, against |dP| at its signs", float(attained), found.lower,
              scale=scale),
        at_most("fragility, from below and above", found.lower, found.upper, scale=scale),
    )  # fmt: skip


def compare_tight(instance: Shifted) -> Comparisons:
    r, change, step = instance.r, instance.change(), instance.step
    top, bottom = _shift_gaps(instance)
    if top < LEAST_SHIFT_GAP:
        return VOID
    # Rounding of Sigma turns the eigenspace by about itself over the gap of step * dS.
    scale = 1e-3 / (step * top)
    found = fragility(instance.dictionary.vectors, instance.e(), r)
    results = [
        equal("distance from the eigenspace of D^T diag(xi) D",
              distance(instance.moment(step), change, r), 0.0, scale=scale),
        equal("1 / fragility", 1 / found.lower, 0.0),
    ]  # fmt: skip
    if bottom >= LEAST_SHIFT_GAP:
        scale = 1e-3 / (step * bottom)
        apart = distance(instance.moment(-step), -change, r)
        results.append(equal("distance at -epsilon from the lowest", apart, 0.0, scale=scale))
    return tuple(results)


def _projector(matrix: Float[Tensor, "d d"], r: int) -> Float[Tensor, "d d"]:
    vectors = torch.linalg.eigh(matrix).eigenvectors.flip(1)[:, :r]
    return vectors @ vectors.T


def whatever_the_sign(instance: Shifted) -> Comparisons:
    r, change = instance.r, instance.change()
    if r >= instance.dictionary.d_in or not instance.tight():
        return VOID
    if min(_shift_gaps(instance)) < LEAST_SHIFT_GAP:
        return VOID
    less = instance.moment(-instance.step)
    return (at_most("distance of the eigenspace at -step", distance(less, change, r), 0.0),)


def in_proportion(instance: Shifted) -> Comparisons:
    """Two shifts of size `step`, one the other with its changes in reverse."""
    r = instance.r
    turned = Shifted(
        instance.dictionary, instance.energies, instance.changes[::-1], instance.step, r
    )
    if r >= instance.dictionary.d_in:
        return VOID
    if min(_shift_gaps(instance)[0], _shift_gaps(turned)[0]) < LEAST_SHIFT_GAP:
        return VOID
    shifts = instance.moment(instance.step) - turned.moment(instance.step)
    size = float(torch.linalg.norm(shifts) / torch.linalg.norm(instance.moment(0.0)))
    apart = distance(instance.moment(instance.step), turned.moment(instance.step), r)
    return (at_most("distance of two eigenspaces, against 10 |S - S'| / |S|", apart, 10 * size),)


def half_the_bound(instance: Shifted) -> Comparisons:
    r = instance.r
    if r >= instance.dictionary.d_in or _gap(instance) < LEAST_GAP:
        return VOID
    found = fragility(instance.dictionary.vectors, instance.e(), r)
    xi = found.signs
    slope = projector_change(instance.dictionary.vectors, instance.e(), r, xi)
    d = instance.dictionary.vectors
    whole = torch.linalg.norm((d.T * (instance.e() * xi)) @ d)
    measured = float(torch.linalg.norm(slope))
    return (at_most("|dP|, against |dS| / (2 gap)", measured, float(whole) / (2 * found.gap)),)


CLAIM = Claim(
    key="G2",
    statement="The weight basis is a property of the firing law\n"
    "Tight D with equal energies has Sigma proportional to I, and under e_i (1 + epsilon xi_i) the "
    "top-r eigenspace is that of D^T diag(xi) D for every epsilon > 0, however small, and the "
    "bottom one for epsilon < 0, where its gap determines them: the fragility is infinite. Where "
    "the gap after the r-th eigenvalue is positive, P_r has derivative sum_{a <= r < b} (u_b^T dS "
    "u_a) / (lambda_a - lambda_b) (u_a u_b^T + transpose), of Frobenius norm at most |dS|_F / gap, "
    "and the fragility, its largest norm over |xi| <= 1, is attained at a vertex of the cube.",
    source="new; perturbation of projections: Kato 1966, Davis & Kahan 1970 (textbook)",
    proof="Sigma + epsilon dS has the eigenvectors of dS; P P = P and P S = S P, differentiated, "
    "determine dP; |dS|_F^2 counts each off-diagonal block twice; a convex form is largest at a "
    "vertex",
    status="proved",
    kind="exact",
    paper_label="eq:fragility",
    strategy=shifts,
    compare=compare,
    mutants=(
        Mutant(
            "whatever-the-sign",
            "The top-r eigenspace of a tight frame is that of D^T diag(xi) D for epsilon < 0 too",
            whatever_the_sign,
            tight_shifts,
        ),
        Mutant(
            "in-proportion",
            "The eigenspace turns by no more than ten times the relative change of Sigma",
            in_proportion,
            tight_shifts,
        ),
        Mutant("half-the-bound", "|dP|_F <= |dS|_F / (2 gap)", half_the_bound, planar_shifts),
    ),
)
