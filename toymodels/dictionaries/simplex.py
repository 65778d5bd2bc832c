"""The corners of a regular simplex: as far apart as directions can be."""

from typing import Any

import torch

from toymodels.checks import check, check_size
from toymodels.dictionary import Dictionary


def simplex(n_features: int, *, dtype: torch.dtype = torch.float32) -> Dictionary:
    """Returns the n corners of the regular simplex in R^(n - 1): every cosine is -1 / (n - 1).

    Row i is sqrt(n / (n - 1)) (h_1i, ..., h_(n-1)i), where h_k is the k-th Helmert contrast
    (1, ..., 1, -k, 0, ..., 0) / sqrt(k (k + 1)), with k ones. The h_k are an orthonormal basis of
    the complement of 1, hence D D^T = n / (n - 1) (I - 1 1^T / n), which has 1 on the diagonal and
    -1 / (n - 1) off it, and D^T D = n / (n - 1) I: tight, with coherence 1 / (n - 1), the Welch
    bound. The rows add up to 0.

    Args:
        n_features: n >= 2.
    """
    check_size("simplex", n_features=n_features)
    check(n_features >= 2, "simplex", "n_features >= 2", n_features=n_features)
    n = n_features
    k = torch.arange(1, n, dtype=torch.float64)[:, None]
    i = torch.arange(n, dtype=torch.float64)
    contrasts = ((i < k).double() - k * (i == k)) / (k * (k + 1)).sqrt()
    return Dictionary((contrasts.T * (n / (n - 1)) ** 0.5).to(dtype).contiguous())


def strategy() -> Any:
    """Returns a Hypothesis strategy of simplices in float64."""
    from hypothesis import strategies as st

    return st.builds(lambda n: simplex(n, dtype=torch.float64), st.integers(2, 8))
