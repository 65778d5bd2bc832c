"""H2-condition: orthonormal rows are the least compressible at any weights."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import Claim, Comparisons, Mutant, at_most, equal
from theory.compressibility import copy_baseline
from theory.spectral import spectral_fve_bound
from toymodels import Dictionary
from toymodels import strategies as tms


@dataclass(frozen=True)
class Twins:
    """Any n unit rows, and n orthonormal ones of the same weights; m < n atoms, k a row."""

    rows: Dictionary
    row_weights: tuple[float, ...]
    n_latents: int
    k: int

    def weights(self) -> Float[Tensor, " n"]:
        return torch.tensor(self.row_weights, dtype=torch.float64)

    def orthonormal(self) -> Float[Tensor, "n n"]:
        return torch.eye(self.rows.n_features, dtype=torch.float64)

    def heaviest(self) -> float:
        """Returns the share of the weights that the m largest hold."""
        w = self.weights().sort(descending=True).values
        return float(w[: self.n_latents].sum() / w.sum())


@st.composite
def twins(draw: Any) -> Twins:
    """Rows of every family, weights with ties, zeros and Zipf tails."""
    rows = draw(tms.dictionaries().filter(lambda found: found.n_features > 1))
    n = rows.n_features
    integers = st.lists(st.integers(0, 9), min_size=n, max_size=n).filter(any)
    zipf = st.floats(0, 3).map(lambda power: [float(i) ** -power for i in range(1, n + 1)])
    weights = draw(st.just([1.0] * n) | integers | zipf)
    m = draw(st.integers(1, n - 1))
    return Twins(rows, tuple(map(float, weights)), m, draw(st.integers(1, m)))


def compare(instance: Twins) -> Comparisons:
    w, m, k, best = instance.weights(), instance.n_latents, instance.k, instance.heaviest()
    eye, rows = instance.orthonormal(), instance.rows.vectors
    no_bias = spectral_fve_bound(eye, m, weights=w, bias=False).fve
    with_bias = spectral_fve_bound(eye, m, weights=w, bias=True).fve
    uniform, n = spectral_fve_bound(eye, m, bias=True).fve, len(rows)
    return (
        equal("most that orthonormal rows allow", no_bias, best),
        equal("reached by copying", copy_baseline(eye, m, k, weights=w), best),
        at_most("orthonormal, against these rows copied", best,
                copy_baseline(rows, m, k, weights=w)),
        at_most("orthonormal, against these rows at best", best,
                spectral_fve_bound(rows, m, weights=w, bias=False).fve),
        at_most("with a bias, against one more atom", with_bias,
                min(1.0, spectral_fve_bound(eye, m + 1, weights=w, bias=False).fve)),
        equal("uniform with a bias: (m+1)/n", uniform, (m + 1) / n),
    )  # fmt: skip


def superposed(instance: Twins) -> Comparisons:
    found = copy_baseline(instance.rows.vectors, instance.n_latents, instance.k)
    share = instance.n_latents / instance.rows.n_features
    return (at_most("FVE of these rows, against m/n", found, share),)


def bias_is_free(instance: Twins) -> Comparisons:
    w, m = instance.weights(), instance.n_latents
    found = spectral_fve_bound(instance.orthonormal(), m, weights=w, bias=True).fve
    return (at_most("FVE with a bias, against the m heaviest", found, instance.heaviest()),)


CLAIM = Claim(
    key="H2-condition",
    statement="Orthonormal rows are the least compressible\n"
    "With weights w and m < n atoms the best meta-SAE without bias explains of n orthonormal rows "
    "exactly sum_{i<=m} w_(i) / sum w, at every k, and of any n unit rows at least as much: the "
    "best one's excess over a null of the same sizes and weights is never positive. With a bias it "
    "gains at most one atom; uniform weights give m/n without and (m+1)/n with one.",
    source="new",
    proof="Ky Fan for the orthonormal rows, whose weighted Gram matrix is diag(w); copying the m "
    "heaviest rows for any others; centring removes one direction",
    status="proved",
    kind="exact",
    paper_label="eq:least-compressible",
    strategy=twins,
    compare=compare,
    mutants=(
        Mutant("superposed", "Any unit rows leave m/n at most at uniform weights", superposed),
        Mutant("bias-is-free", "A decoder bias gains nothing", bias_is_free),
    ),
)
