"""D7: what a penalty on decodable rows charges atoms, composites and one composite among atoms."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import Claim, Comparisons, Mutant, at_most, equal
from theory.claims._meta import MetaProblem, fitted_fve, principal_fve
from theory.compressibility import copy_baseline, fve
from theory.isotropic import isotropic_rows
from theory.spectral import spectral_fve_bound
from toymodels import Dictionary, orthonormal, stream
from toymodels import strategies as tms


@dataclass(frozen=True)
class Penalty:
    """n rows, and the meta-SAE of m < n atoms, k a row, whose FVE is charged; size of a swap."""

    n: int
    m: int
    k: int
    size: int
    seed: int

    def atomic(self) -> Float[Tensor, "n n"]:
        """Returns n orthonormal rows."""
        generator = stream(self.seed, "features")
        return orthonormal(self.n, self.n, generator=generator, dtype=torch.float64).vectors

    def swapped(self) -> Float[Tensor, "n n"]:
        """Returns the same with the last row replaced by a mixture of the first `size`."""
        rows, generator = self.atomic(), stream(self.seed, "swap")
        weights = torch.rand(self.size, generator=generator, dtype=torch.float64) + 0.5
        mixture = weights @ rows[: self.size]
        return torch.cat([rows[:-1], mixture[None] / torch.linalg.vector_norm(mixture)])

    def codes(self) -> Float[Tensor, "n m"]:
        """Returns k weights in [.5, 1.5] for each row."""
        keys = torch.rand(self.n, self.m, generator=stream(self.seed, "codes"), dtype=torch.float64)
        return torch.where(keys >= keys.topk(self.k).values[:, -1:], keys + 0.5, 0.0)

    def charge(self, rows: Float[Tensor, "n d"], explained: Float[Tensor, "n d"]) -> float:
        """Returns sum_i FVE_i, what a penalty of coefficient 1 charges unit rows."""
        return len(rows) * fve(rows, explained)

    def problem(self) -> MetaProblem:
        dictionary = Dictionary(self.atomic())
        return MetaProblem(dictionary, (1.0,) * self.n, self.m, self.k, bias=False, seed=self.seed)


@st.composite
def penalties(draw: Any) -> Penalty:
    """Two to ten rows, all smaller widths, any sparsity."""
    n = draw(st.integers(2, 10))
    m = draw(st.integers(1, n - 1))
    return Penalty(
        n, m, draw(st.integers(1, m)), size=draw(st.integers(1, n - 1)), seed=draw(tms.seeds())
    )


def compare(instance: Penalty) -> Comparisons:
    n, m, rows, problem = instance.n, instance.m, instance.atomic(), instance.problem()
    fitted = n * fitted_fve(problem, instance.k, generator=stream(instance.seed, "fit"))
    atoms = isotropic_rows(m, n, generator=stream(instance.seed, "atoms"), dtype=torch.float64)
    explained = instance.codes() @ atoms
    norms = torch.linalg.vector_norm(explained, dim=1, keepdim=True)
    composites = Dictionary(explained / norms).vectors
    composed = instance.charge(composites, instance.codes() / norms @ atoms)
    with_bias = n * principal_fve(replace(problem, bias=True))
    swap = n * spectral_fve_bound(instance.swapped(), m, bias=False).fve
    limit = float(min(n, m + 1))
    return (
        at_most("charge of atoms, fitted, against m", fitted, float(m), scale=n),
        equal(
            "charge of atoms, m of them copied", n * copy_baseline(rows, m, 1), float(m), scale=n
        ),
        equal("charge of exact composites", composed, float(n), scale=n),
        equal("charge of one composite among atoms", swap, limit, scale=n),
        at_most("charge of atoms with a bias, against m + 1", with_bias, limit, scale=n),
    )


def atoms_pay_nothing(instance: Penalty) -> Comparisons:
    paid = instance.n * copy_baseline(instance.atomic(), instance.m, 1)
    return (at_most("charge of atoms, against 0", paid, 0.0, scale=instance.n),)


def bias_is_free(instance: Penalty) -> Comparisons:
    paid = instance.n * principal_fve(replace(instance.problem(), bias=True))
    m, n = float(instance.m), instance.n
    return (at_most("charge of atoms with a bias, against m", paid, m, scale=n),)


def each_swap_pays_the_margin(instance: Penalty) -> Comparisons:
    bound = spectral_fve_bound(instance.swapped(), instance.m, bias=False)
    more = instance.n * bound.fve - instance.m
    label = "n - m, against what one composite adds"
    return (at_most(label, float(instance.n - instance.m), more, scale=instance.n),)


CLAIM = Claim(
    key="D7",
    statement="What a decodability penalty charges\n"
    "A penalty beta sum_i FVE_i, with the best meta-SAE of m < n atoms and no bias, charges n "
    "orthonormal rows beta m and exact composites of at most k of m atoms each beta n: a margin "
    "beta (n - m), gone as m reaches n. It decides for atoms if and only if that exceeds what "
    "composites save in reconstruction and sparsity. With a bias atoms pay up to beta (m + 1). A "
    "single composite among atoms adds no more than beta.",
    source="new; penalty: Levinson 2026, arXiv 2604.03436",
    proof="A2 for orthonormal rows; an exact meta-SAE explains all of each composite; replacing an "
    "orthonormal row by a unit vector in the span of the others gives the spectrum 2, 1, ..., 1, 0",
    status="proved",
    kind="exact",
    paper_label="eq:penalty-margin",
    strategy=penalties,
    compare=compare,
    mutants=(
        Mutant("atoms-pay-nothing", "Atoms are not charged at all", atoms_pay_nothing),
        Mutant("bias-is-free", "Atoms pay beta m with a decoder bias too", bias_is_free),
        Mutant(
            "each-swap-pays-the-margin",
            "One composite among atoms is charged the whole margin",
            each_swap_pays_the_margin,
        ),
    ),
)
