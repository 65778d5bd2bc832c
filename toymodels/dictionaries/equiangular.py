"""Directions that all have the same cosine with one another."""

from typing import Any

import torch

from toymodels.checks import check, check_size
from toymodels.dictionaries.simplex import simplex
from toymodels.dictionary import Dictionary

_LOWER_END = 1e-12  # 1 + (n - 1) cosine within this of 0 is the simplex


def equiangular(
    n_features: int, cosine: float, *, dtype: torch.dtype = torch.float32
) -> Dictionary:
    """Returns n rows in R^n of which every two have exactly the given cosine, sign included.

    The rows are those of the symmetric root of G = (1 - c) I + c 1 1^T, which is a I + b 1 1^T
    with a = sqrt(1 - c) and a + n b = sqrt(1 + (n - 1) c): the roots of G's eigenvalues, 1 - c
    (n - 1 times) and 1 + (n - 1) c (on the vector 1). These two are the frame bounds; coherence
    |c|. c = 0 is the standard basis. At c = -1 / (n - 1) the Gram has rank n - 1, and the rows are
    `simplex(n)`, in R^(n - 1).

    Args:
        n_features: n >= 1.
        cosine: c, -1 / (n - 1) <= c < 1 (c >= -1 where n = 1, which has no pairs).
    Raises:
        ValueError: a cosine outside this range, which no directions have or only equal ones.
    """
    check_size("equiangular", n_features=n_features)
    n = n_features
    low = -1 / max(1, n - 1)
    along_ones = 1 + (n - 1) * cosine
    check(
        along_ones >= -_LOWER_END and -1 <= cosine < 1,
        "equiangular",
        f"{low:.6g} <= cosine < 1 for {n} directions",
        cosine=cosine,
    )
    if n > 1 and along_ones <= _LOWER_END:
        return simplex(n, dtype=dtype)
    a = (1 - cosine) ** 0.5 if n > 1 else 0.0
    b = (along_ones**0.5 - a) / n
    rows = a * torch.eye(n, dtype=torch.float64) + b
    return Dictionary(rows.to(dtype))


def strategy() -> Any:
    """Returns a Hypothesis strategy of equiangular dictionaries in float64."""
    from hypothesis import strategies as st

    @st.composite
    def build(draw: Any) -> Dictionary:
        n_features = draw(st.integers(1, 8))
        low = -1 / max(1, n_features - 1)
        cosine = draw(st.sampled_from([0.0, 0.5, low]) | st.floats(low, 0.999))
        return equiangular(n_features, cosine, dtype=torch.float64)

    return build()
