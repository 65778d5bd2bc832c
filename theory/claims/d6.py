"""D6: sharing atoms makes a dictionary short and its rows coherent."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from theory.isotropic import isotropic_rows
from toymodels import orthonormal, stream
from toymodels import strategies as tms

CERTIFIED = 64  # sparsities up to here are looked through


@dataclass(frozen=True)
class Composites:
    """Distinct sets of n_atoms atoms, all of one size: each is an equal mixture of its members."""

    sets: tuple[tuple[int, ...], ...]
    n_atoms: int
    seed: int

    def size(self) -> int:
        return len(self.sets[0])

    def mixing(self) -> Float[Tensor, "n m"]:
        """Returns 1/sqrt(k') on the members of each set."""
        rows = torch.zeros(len(self.sets), self.n_atoms, dtype=torch.float64)
        for row, members in zip(rows, self.sets, strict=True):
            row[list(members)] = 1 / math.sqrt(self.size())
        return rows

    def rows(self) -> Float[Tensor, "n m"]:
        """Returns the composites of orthonormal atoms, in a random rotation."""
        m, generator = self.n_atoms, stream(self.seed, "atoms")
        return self.mixing() @ orthonormal(m, m, generator=generator, dtype=torch.float64).vectors

    def overlap(self) -> int:
        """Returns the most atoms that two composites share."""
        pairs = itertools.combinations(self.sets, 2)
        return max((len(set(a) & set(b)) for a, b in pairs), default=0)


@st.composite
def composites(draw: Any) -> Composites:
    """Two to twelve composites of one to four of up to eight atoms."""
    m = draw(st.integers(2, 8))
    size = draw(st.integers(1, min(4, m - 1)))
    every = st.sampled_from(list(itertools.combinations(range(m), size)))
    n = min(12, math.comb(m, size))
    sets = draw(st.lists(every, min_size=2, max_size=n, unique=True))
    return Composites(tuple(sets), m, draw(tms.seeds()))


def coherence(rows: Float[Tensor, "n d"]) -> float:
    return float((rows @ rows.T).fill_diagonal_(0).abs().max())


def sparsest_without_certificate(mu: float) -> float:
    """Returns the least k with (2 k - 1) mu >= 1: from it on coherence certifies nothing."""
    ks = (float(k) for k in range(1, CERTIFIED) if (2 * k - 1) * mu >= 1 - 1e-9)
    return next(ks, float(CERTIFIED))


def compare(instance: Composites) -> Comparisons:
    n, m, size = len(instance.sets), instance.n_atoms, instance.size()
    common, mu = instance.overlap(), coherence(instance.rows())
    uses = n * size / m
    results = [
        equal("coherence, against overlap over size", mu, common / size),
        # Double counting: sum over atoms of their pairs of users.
        at_most("mean overlap, against the largest", (uses - 1) / (n - 1), mu),
    ]
    if n * size > m:
        results.append(at_most("fewer atoms than places force 1/size", 1 / size, mu))
    if common:
        refused = sparsest_without_certificate(mu)
        least = (1 + size / common) / 2
        results.append(
            at_most("(1 + size over overlap)/2, against the first k refused", least, refused)
        )
        certified = (2 * (refused - 1) - 1) * mu
        results.append(at_most("(2 k - 1) mu of the k before it", certified, 1.0))
    return tuple(results)


def sharing_is_free(instance: Composites) -> Comparisons:
    if len(instance.sets) > instance.n_atoms:
        return VOID
    mu = coherence(instance.rows())
    return (at_most("coherence of n <= m composites, against 0", mu, 0.0),)


def any_weights(instance: Composites) -> Comparisons:
    weights = torch.arange(1, instance.n_atoms + 1, dtype=torch.float64)
    mixing = instance.mixing() * weights
    mu = coherence(torch.nn.functional.normalize(mixing, dim=1))
    return (equal("coherence with unequal weights", mu, instance.overlap() / instance.size()),)


def any_atoms(instance: Composites) -> Comparisons:
    m, generator = instance.n_atoms, stream(instance.seed, "oblique atoms")
    atoms = isotropic_rows(m, m, generator=generator, dtype=torch.float64)
    mu = coherence(torch.nn.functional.normalize(instance.mixing() @ atoms, dim=1))
    return (equal("coherence over any atoms", mu, instance.overlap() / instance.size()),)


CLAIM = Claim(
    key="D6",
    statement="Sharing atoms saves atoms and costs certificates\n"
    "Equal mixtures of k' orthonormal atoms that share s of them have cosine s/k'. n of them over "
    "m atoms have coherence at least (n k'/m - 1)/(n - 1), and at least 1/k' as soon as "
    "n k' > m. Coherence then certifies codes of k composites, (2k - 1) mu < 1, for "
    "k < (1 + k'/s)/2 only.",
    source="new; coherence: Tropp 2004; counting: Johnson 1962",
    proof="Overlap of supports; the users of an atom form pairs, and the atoms' pairs add up to "
    "m C(n k'/m, 2) at least",
    status="proved",
    kind="exact",
    paper_label="eq:overlap",
    strategy=composites,
    compare=compare,
    mutants=(
        Mutant(
            "sharing-is-free",
            "n <= m composites need not overlap",
            sharing_is_free,
        ),
        Mutant("any-weights", "The cosine is s/k' for any weights", any_weights),
        Mutant("any-atoms", "The cosine is s/k' for any atoms", any_atoms),
    ),
)
