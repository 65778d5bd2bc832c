"""What claims about sparse codes have in common: a few active features of some dictionary."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from toymodels import Dictionary, simplex
from toymodels import strategies as tms


@dataclass(frozen=True)
class SparseCode:
    """x = sum of the active features times their magnitudes, which are positive and descending."""

    rows: Dictionary
    active: tuple[int, ...]
    magnitudes: tuple[float, ...]

    @property
    def k(self) -> int:
        return len(self.active)

    def code(self) -> Float[Tensor, "1 n_features"]:
        code = torch.zeros(1, self.rows.n_features, dtype=torch.float64)
        code[0, list(self.active)] = torch.tensor(self.magnitudes, dtype=torch.float64)
        return code

    def x(self) -> Float[Tensor, "1 d_in"]:
        return self.code() @ self.rows.vectors

    def energy(self) -> float:
        """Returns |a|^2, the scale of every error."""
        return math.fsum(a * a for a in self.magnitudes)

    def inactive(self) -> list[int]:
        return [j for j in range(self.rows.n_features) if j not in self.active]


@st.composite
def signed_grams(draw: Any, max_features: int = 6) -> Dictionary:
    """Up to 6 directions whose cosines are -c, 0 or c: the worst cases of coherence bounds.

    With c below 1 / (n - 1) any signs are possible; beyond, those of features that one flip of
    signs turns into an equiangular set, for which any c < 1 is.
    """
    n = draw(st.integers(1, max_features))
    if draw(st.booleans()):
        flips = torch.tensor(draw(st.lists(st.sampled_from([1.0, -1.0]), min_size=n, max_size=n)))
        signs = torch.outer(flips, flips).double()
        c = draw(st.floats(0, 0.95))
    else:
        pairs = n * (n - 1) // 2
        entries = draw(st.lists(st.sampled_from([1.0, -1.0, 0.0]), min_size=pairs, max_size=pairs))
        signs = torch.zeros(n, n, dtype=torch.float64)
        signs[tuple(torch.triu_indices(n, n, 1))] = torch.tensor(entries, dtype=torch.float64)
        signs = signs + signs.T
        c = draw(st.floats(0, 0.98)) / max(1, n - 1)
    gram = (c * signs).fill_diagonal_(1.0)
    values, vectors = torch.linalg.eigh(gram)
    return Dictionary.normalise(vectors * values.clamp(min=0).sqrt())


def simplices(most: int = 9) -> st.SearchStrategy[Dictionary]:
    return st.integers(3, most).map(lambda n: simplex(n, dtype=torch.float64))


def any_rows() -> st.SearchStrategy[Dictionary]:
    """Every family of dictionaries, worst cases of coherence, and large simplices."""
    return st.one_of(tms.dictionaries(), signed_grams(), simplices(17))


def magnitudes(k: int) -> st.SearchStrategy[tuple[float, ...]]:
    """k positive magnitudes, descending: equal, or over a few orders of magnitude."""
    one = st.sampled_from([1.0, 2.0, 0.5]) | st.floats(-4, 2).map(lambda t: math.exp(t))
    several = st.lists(one, min_size=k, max_size=k).map(lambda a: tuple(sorted(a, reverse=True)))
    return st.just((1.0,) * k) | several


@st.composite
def sparse_codes(
    draw: Any,
    rows: Callable[[], st.SearchStrategy[Dictionary]] = any_rows,
    most: Callable[[float], float | int] = lambda coherence: 8,
) -> SparseCode:
    """Codes of at most 8 and at most most(coherence) features, any of them active.

    A dictionary for which most(coherence) < 1 gets codes of one feature.
    """
    dictionary = draw(rows())
    limit = most(dictionary.coherence())
    k = draw(st.integers(1, max(1, int(min(8, dictionary.n_features, limit)))))
    order = draw(st.permutations(range(dictionary.n_features)))
    return SparseCode(dictionary, tuple(order[:k]), draw(magnitudes(k)))


@st.composite
def two_of_three(draw: Any) -> SparseCode:
    """Two active features of unequal magnitude, and a third that resembles the larger one."""
    cosine, smaller = draw(st.floats(0.01, 0.33)), draw(st.floats(0.01, 1))
    rows = torch.eye(3, dtype=torch.float64)
    rows[2, 0], rows[2, 2] = cosine, (1 - cosine**2) ** 0.5
    return SparseCode(Dictionary(rows), (0, 1), (1.0, smaller))
