"""B6: what copying some rows already explains."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import Claim, Comparisons, Mutant, at_most, equal
from theory.compressibility import copy_baseline, fve
from theory.isotropic import isotropic_rows
from theory.sparse_coding import best_support, omp
from theory.spectral import spectral_fve_bound
from toymodels import Dictionary, stream
from toymodels import strategies as tms


@dataclass(frozen=True)
class Copying:
    """Rows, of which the first n_copied become the atoms; k atoms for each of the others."""

    dictionary: Dictionary
    n_copied: int
    k: int
    seed: int

    def rows(self) -> Float[Tensor, "n d_in"]:
        return self.dictionary.vectors

    def atoms(self) -> Float[Tensor, "m d_in"]:
        return self.rows()[: self.n_copied]

    def floor(self, frame_bound: float) -> float:
        """Returns m/n + (1 - m/n) (1 - (1 - A/m)^k) for the given A."""
        share = self.n_copied / len(self.rows())
        greedy = 1 - (1 - min(1.0, frame_bound / self.n_copied)) ** self.k
        return share + (1 - share) * greedy


def copyings() -> st.SearchStrategy[Copying]:
    """Every family; from one row to all of them are copied."""
    return _copyings(tms.dictionaries())


@st.composite
def _copyings(draw: Any, dictionaries: st.SearchStrategy[Dictionary]) -> Copying:
    dictionary = draw(dictionaries)
    n_copied = draw(st.integers(1, dictionary.n_features))
    k = draw(st.integers(1, min(3, n_copied)))
    return Copying(dictionary, n_copied, k, draw(tms.seeds()))


def lower_frame_bound(rows: Float[Tensor, "n d_in"]) -> float:
    """Returns the least eigenvalue of D^T D, 0 for fewer rows than dimensions."""
    return max(0.0, float(torch.linalg.eigvalsh(rows.T @ rows)[0]))


def compare(instance: Copying) -> Comparisons:
    rows, atoms, k = instance.rows(), instance.atoms(), instance.k
    n, m = len(rows), len(atoms)
    others = rows[m:]
    exact = best_support(others, atoms, k).r_squared if len(others) else rows.new_zeros(0)
    reached = (m + float(exact.sum())) / n
    support = best_support(rows, atoms, k).support
    code = torch.zeros(n, m, dtype=rows.dtype)
    for i, chosen in enumerate(support):
        code[i, chosen] = torch.linalg.lstsq(atoms[chosen].T, rows[i], driver="gelsd").solution
    built = fve(rows, code @ atoms)
    greedy = fve(rows, omp(rows, atoms, k) @ atoms)
    floor = instance.floor(lower_frame_bound(atoms))
    bound = spectral_fve_bound(rows, m, bias=False)
    longer = torch.cat([2 * atoms, others])  # copy_baseline prefers the longest rows
    baseline = copy_baseline(longer, m, k, nonnegative=False)
    results = [
        equal("FVE of the copies and the best k of them", built, reached),
        at_most("greedy codes, against the best", greedy, reached),
        at_most("floor, against greedy codes", floor, greedy),
        at_most(
            "greedy codes of longer copies, against the copy baseline",
            fve(longer, omp(longer, atoms, k) @ atoms),
            baseline,
        ),
        at_most("m/n, against the floor", m / n, floor),
        at_most("best codes, against the spectral bound", reached, bound.fve),
        at_most(
            "copy baseline, against the spectral bound",
            baseline,
            spectral_fve_bound(longer, m, bias=False).fve,
        ),
    ]
    positive = copy_baseline(rows, m, k, nonnegative=True)
    results.append(at_most("m/n, against the baseline of codes >= 0", m / n, positive))
    results.append(at_most("codes >= 0, against the spectral bound", positive, bound.fve))
    return tuple(results)


def frame_bound_of_all_rows(instance: Copying) -> Comparisons:
    rows, atoms = instance.rows(), instance.atoms()
    share = len(atoms) / len(rows)
    floor = instance.floor(share * lower_frame_bound(rows))
    greedy = fve(rows, omp(rows, atoms, instance.k) @ atoms)
    return (at_most("floor with A of all rows, scaled to m", floor, greedy),)


def k_over_d(instance: Copying) -> Comparisons:
    rows, atoms, k = instance.rows(), instance.atoms(), instance.k
    share, d = len(atoms) / len(rows), rows.shape[1]
    floor = share + (1 - share) * min(1.0, k / d)
    greedy = fve(rows, omp(rows, atoms, k) @ atoms)
    return (at_most("m/n + (1 - m/n) k/d", floor, greedy),)


def held_out(instance: Copying) -> Comparisons:
    rows, atoms, k = instance.rows(), instance.atoms(), instance.k
    generator = stream(instance.seed, "held out")
    fresh = isotropic_rows(*rows.shape, generator=generator, dtype=rows.dtype)
    explained = fve(fresh, omp(fresh, atoms, k) @ atoms)
    return (at_most("m/n, of fresh rows", len(atoms) / len(rows), explained),)


CLAIM = Claim(
    key="B6",
    statement="Copying rows is a floor for every in-sample FVE\n"
    "For any n unit rows, m of them as atoms and k-sparse codes, some meta-SAE reaches "
    "m/n + (1/n) sum over the others of R_k^2 >= m/n + (1 - m/n)(1 - (1 - A/m)^k), with A the "
    "lower frame bound of the copied rows; greedy codes reach the floor too. Nothing exceeds the "
    "spectral bound.",
    source="new; the greedy rate: Davis, Mallat & Avellaneda 1997",
    proof="Copied rows code themselves; each greedy step removes at least A/m of the rest",
    status="proved",
    kind="exact",
    paper_label="eq:copy-baseline",
    strategy=copyings,
    compare=compare,
    mutants=(
        Mutant(
            "frame-bound-of-all-rows",
            "The floor holds with the frame bound of all rows in proportion m/n",
            frame_bound_of_all_rows,
        ),
        Mutant("k-over-d", "Copying explains at least k/d of each other row", k_over_d),
        Mutant("held-out", "The floor m/n holds for rows that cannot be copied", held_out),
    ),
)
