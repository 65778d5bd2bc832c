"""Shared by claims about nested dropout: one-sparse worlds, whose minimisers can be enumerated."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st

from toymodels import Dictionary
from toymodels import strategies as tms

MAX_FEATURES = 4  # 15 partitions
_TIE = 1e-12  # nested losses this close, relative to the total energy, are equal


@dataclass(frozen=True)
class Nested:
    """At most one feature fires per sample; nested dropout keeps the first l latents with p_l.

    rows: distinct features with non-negative cosines, so that the best codes are non-negative.
    energies: e_i = p_i E b_i^2.   prefix_probs: p_1, ..., p_m, positive, one per latent.
    seed: of competitors.
    """

    rows: Dictionary
    energies: tuple[float, ...]
    prefix_probs: tuple[float, ...]
    seed: int

    @property
    def n_latents(self) -> int:
        return len(self.prefix_probs)

    def survival(self) -> list[float]:
        """Returns the probability that latent j is kept, sum of p_l over l >= j."""
        return [math.fsum(self.prefix_probs[j:]) for j in range(self.n_latents)]


@dataclass(frozen=True)
class Solution:
    """The best latents for one assignment of features: the energies they keep, and two losses."""

    kept: tuple[float, ...]
    nested: float
    full: float


def partitions(n: int, most: int) -> Iterator[list[list[int]]]:
    """Yields every partition of range(n) into at most `most` clusters."""
    if n == 0:
        yield []
        return
    for smaller in partitions(n - 1, most):
        for i, cluster in enumerate(smaller):
            yield [*smaller[:i], [*cluster, n - 1], *smaller[i + 1 :]]
        if len(smaller) < most:
            yield [*smaller, [n - 1]]


def solutions(world: Nested) -> list[Solution]:
    """Returns the least losses of every assignment of features to latents.

    A latent that codes the features c keeps at most lambda_max(H_c), H_ij = sqrt(e_i e_j) G_ij,
    whatever the sample's magnitude; whatever codes it is lost with the prefixes that lack it, so
    the nested loss is sum e - sum_j P(l >= j) kept_j, least with the kept energies descending.
    """
    roots = torch.tensor(world.energies, dtype=torch.float64).sqrt()
    scatter = torch.outer(roots, roots) * world.rows.gram()
    survival, total = world.survival(), math.fsum(world.energies)
    found = []
    for clusters in partitions(len(roots), world.n_latents):
        tops = (float(torch.linalg.eigvalsh(scatter[c][:, c])[-1]) for c in clusters)
        kept = tuple(sorted(tops, reverse=True))
        nested = total - math.fsum(s * e for s, e in zip(survival, kept, strict=False))
        found.append(Solution(kept, nested, total - math.fsum(kept)))
    return found


def minimisers(world: Nested) -> list[Solution]:
    """Returns the assignments of least nested loss."""
    every = solutions(world)
    least = min(s.nested for s in every) + _TIE * math.fsum(world.energies)
    return [s for s in every if s.nested <= least]


@st.composite
def worlds(
    draw: Any,
    *,
    share: float = 0.0,
    narrower: bool = False,
    uniform: bool = False,
) -> Nested:
    """One-sparse worlds of 2 to 4 distinct features, as many latents, any prefix probabilities.

    share: the full prefix has at least this multiple of the coherence as its probability.
    narrower: two latents for three or four features, and just that probability.
    uniform: equal prefix probabilities.
    """
    entries = st.tuples(*[st.integers(0, 4)] * draw(st.integers(2, 4))).filter(any)
    fewest = 3 if narrower else 2
    drawn = draw(st.lists(entries, min_size=fewest, max_size=MAX_FEATURES, unique_by=_direction))
    n = len(drawn)
    rows = Dictionary.normalise(torch.tensor(drawn, dtype=torch.float64))
    energy = st.sampled_from([1.0, 2.0, 3.0]) | st.floats(-3, 1).map(lambda t: 10.0**t)
    energies = tuple(draw(st.lists(energy, min_size=n, max_size=n)))
    m = 2 if narrower else n
    if uniform:
        probs = (1 / m,) * m
    else:
        raw = draw(st.lists(st.integers(1, 9), min_size=m - 1, max_size=m - 1))
        least = min(0.99, share * rows.coherence() + 1e-3)
        last = least if narrower else draw(st.floats(least, 1 - 1e-3))
        probs = (*((1 - last) * r / sum(raw) for r in raw), last)
    return Nested(rows, energies, probs, draw(tms.seeds()))


def _direction(entries: tuple[int, ...]) -> tuple[int, ...]:
    divisor = math.gcd(*entries)
    return tuple(entry // divisor for entry in entries)
