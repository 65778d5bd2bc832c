"""B5: rows in general position are not exactly compressible."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Bool, Float
from torch import Tensor

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from theory.isotropic import isotropic_rows
from theory.sparse_coding import best_support
from toymodels import strategies as tms
from toymodels import stream


@dataclass(frozen=True)
class Factors:
    """n rows that k of m atoms in R^d compose exactly, with random supports and weights."""

    n: int
    d: int
    m: int
    k: int
    seed: int

    def atom_rows(self) -> Float[Tensor, "m d"]:
        generator = stream(self.seed, "atoms")
        return isotropic_rows(self.m, self.d, generator=generator, dtype=torch.float64)

    def support(self) -> Bool[Tensor, "n m"]:
        keys = torch.rand(self.n, self.m, generator=stream(self.seed, "supports"))
        return torch.zeros_like(keys, dtype=torch.bool).scatter(1, keys.topk(self.k).indices, True)

    def codes(self) -> Float[Tensor, "n m"]:
        """Returns weights in +-[.5, 1.5] on the support."""
        generator = stream(self.seed, "weights")
        sizes = torch.rand(self.n, self.m, generator=generator, dtype=torch.float64) + 0.5
        signs = torch.randint(0, 2, (self.n, self.m), generator=generator) * 2 - 1
        return sizes * signs * self.support()

    def jacobian_rank(self) -> float:
        """Returns the rank of the derivative of (atoms, weights) -> rows, supports held fixed."""
        atoms, codes = self.atom_rows(), self.codes()
        identity = torch.eye(self.d, dtype=atoms.dtype)
        by_atom = torch.einsum("ij,ab->iajb", codes, identity).reshape(self.n * self.d, -1)
        rows, members = self.support().nonzero(as_tuple=True)
        by_weight = torch.zeros(self.n, self.d, len(rows), dtype=atoms.dtype)
        by_weight[rows, :, torch.arange(len(rows))] = atoms[members]
        jacobian = torch.cat([by_atom, by_weight.reshape(self.n * self.d, -1)], 1)
        return float(torch.linalg.matrix_rank(jacobian, rtol=1e-10))

    def freedoms(self) -> float:
        """Returns m d + n k, the numbers that the factors hold."""
        return float(self.m * self.d + self.n * self.k)

    def exchanges(self) -> int:
        """Returns the pairs (j, l), j = l too, in which every row that uses atom j also uses l.

        Adding a multiple of atom l to atom j can then be undone in the weights of those rows.
        """
        uses = self.support()
        return int((uses[:, :, None] <= uses[:, None, :]).all(0).sum())


@st.composite
def factors(draw: Any) -> Factors:
    """Up to 7 rows of up to 4 dimensions, any number of atoms and any k."""
    m = draw(st.integers(1, 5))
    return Factors(
        n=draw(st.integers(1, 7)),
        d=draw(st.integers(1, 4)),
        m=m,
        k=draw(st.integers(1, m)),
        seed=draw(tms.seeds()),
    )


def compare(instance: Factors) -> Comparisons:
    n, d, m = instance.n, instance.d, instance.m
    rank, freedoms = instance.jacobian_rank(), instance.freedoms()
    scale = freedoms
    composed = instance.codes() @ instance.atom_rows()
    best = best_support(composed, instance.atom_rows(), instance.k).r_squared
    results = [
        equal("R_k^2 of the composed rows", float(best.min()), 1.0),
        at_most("rank, against m d + n k - m", rank, freedoms - m, scale=scale),
    ]
    if m <= d:  # isotropic atoms are independent
        free = freedoms - instance.exchanges()
        results.append(at_most("rank, against m d + n k - exchanges", rank, free, scale=scale))
    generic = isotropic_rows(n, d, generator=stream(instance.seed, "rows"), dtype=torch.float64)
    if instance.k == m < min(n, d):
        # Then m d + n k - m^2 < n d, and compressible means of rank at most m. An isotropic matrix
        # has a singular value below this with probability of order 1e-10.
        smallest = float(torch.linalg.svdvals(generic)[-1])
        label = "0, against the least singular value of isotropic rows"
        results.append(at_most(label, 1e-10, smallest, radius=0.0))
    return tuple(results)


def composed_rows_count(instance: Factors) -> Comparisons:
    if instance.freedoms() >= instance.n * instance.d:
        return VOID
    composed = instance.codes() @ instance.atom_rows()
    best = best_support(composed, instance.atom_rows(), instance.k).r_squared
    return (at_most("R_k^2 of some row", float(best.min()), 1 - 1e-6),)


def supports_are_free(instance: Factors) -> Comparisons:
    bound = float(instance.m * instance.d)
    return (at_most("rank, against m d alone", instance.jacobian_rank(), bound, scale=bound),)


def count_is_the_rank(instance: Factors) -> Comparisons:
    count = min(float(instance.n * instance.d), instance.freedoms() - instance.m)
    rank = instance.jacobian_rank()
    return (equal("rank, against min{n d, m d + n k - m}", rank, count, scale=count),)


CLAIM = Claim(
    key="B5",
    statement="Rows in general position are not exactly compressible\n"
    "For fixed supports the map from m atoms in R^d and n k weights to n rows has a Jacobian of "
    "rank at most m d + n k - m (rescaling an atom is undone by its weights), and for m "
    "independent atoms at most m d + n k - #{(j, l): all rows that use j use l}, m^2 for k = m. "
    "Where that is below n d for all supports, exactly (m, k)-compressible dictionaries have "
    "measure 0.",
    source="new; Sard 1942",
    proof="Each exchange of atoms is a null direction of the Jacobian; finitely many supports, and "
    "a smooth map has a null image where its rank is below the dimension everywhere; dependent "
    "atoms, m <= d, leave rows of rank below m, a null set too",
    status="proved",
    kind="exact",
    paper_label="eq:generic",
    strategy=factors,
    compare=compare,
    mutants=(
        Mutant(
            "no-exception",
            "With m d + n k < n d no dictionary at all is exactly compressible",
            composed_rows_count,
        ),
        Mutant("supports-are-free", "The weights add no freedom: rank <= m d", supports_are_free),
        Mutant(
            "count-is-the-rank",
            "The rank is min{n d, m d + n k - m}: counting numbers is enough to compress",
            count_is_the_rank,
        ),
    ),
)
