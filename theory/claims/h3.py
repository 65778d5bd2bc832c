"""H3: does a meta-SAE that explains more than half of the rows show that they are not atomic?"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import Claim, Comparisons, Mutant, at_most
from theory.compressibility import copy_baseline
from theory.isotropic import isotropic_rows
from toymodels import strategies as tms
from toymodels import stream

HALF = 0.5


@dataclass(frozen=True)
class Features:
    """Decoder rows that are the true features, one latent each, and a meta-SAE of few atoms.

    dims: 0 for orthonormal features, else that of the space in which they are drawn isotropically,
        independently of one another.   energies: weights of the rows.   k: atoms per row.
    """

    dims: int
    energies: tuple[float, ...]
    n_latents: int
    k: int
    seed: int

    def rows(self) -> Float[Tensor, "n dims"]:
        n = len(self.energies)
        if self.dims == 0:
            return torch.eye(n, dtype=torch.float64)
        generator = stream(self.seed, "features")
        return isotropic_rows(n, self.dims, generator=generator, dtype=torch.float64)


@st.composite
def features(draw: Any, *, weighted: bool = True, isotropic: bool = True) -> Features:
    """Up to 24 features and at most a quarter as many atoms, so that uniform copies explain 1/4."""
    m = draw(st.integers(1, 4))
    n = draw(st.integers(4 * m, 24))
    dims = draw(st.integers(0, 12)) if isotropic else 0
    energy = st.just(1.0) | st.floats(-3, 1).map(lambda t: 10.0**t)
    drawn = draw(st.lists(energy, min_size=n, max_size=n)) if weighted else [1.0] * n
    return Features(dims, tuple(drawn), m, draw(st.integers(1, m)), draw(tms.seeds()))


def compare(instance: Features) -> Comparisons:
    w = torch.tensor(instance.energies, dtype=torch.float64)
    found = copy_baseline(instance.rows(), instance.n_latents, instance.k, weights=w)
    return (at_most("FVE of a meta-SAE, against 1/2", found, HALF),)


CLAIM = Claim(
    key="H3",
    statement="A meta-SAE that explains half of the rows shows that they are not atomic\n"
    "So it would explain at most half of rows that are the true features, unrelated to one "
    "another, with at most a quarter as many atoms as rows. Refuted by a space of few dimensions, "
    "and by rows that are weighted by unequal energies even if they are orthonormal.",
    source="Bussmann et al. 2024; Leask et al. 2025, arXiv 2502.04878",
    proof="One atom among rows on a line explains them all, one copied row of most of the energy "
    "most of it; any rows in R^d give k/d",
    status="refuted",
    kind="exact",
    paper_label="eq:half-explained",
    strategy=features,
    compare=compare,
    mutants=(
        Mutant(
            "uniform-weights",
            "It does if all rows weigh the same",
            compare,
            partial(features, weighted=False),
        ),
        Mutant(
            "orthonormal-rows",
            "It does if the rows are orthonormal or their weights are free",
            compare,
            partial(features, isotropic=False),
        ),
    ),
)
