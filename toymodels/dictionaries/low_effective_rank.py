"""Random directions squashed along a spectrum, so that few dimensions hold most of them."""

from typing import Any

import torch

from toymodels.checks import check
from toymodels.dictionaries.random_unit import random_unit
from toymodels.dictionary import Dictionary


def low_effective_rank(
    n_features: int,
    d_in: int,
    decay: float,
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Dictionary:
    """Returns random unit rows u, squashed to normalise(u_1 s_1, ..., u_d s_d), s_j = j^-decay.

    Axis 1 holds the most and axis d_in the least. decay = 0 is `random_unit`, row for row; as
    decay grows, all rows approach +- axis 1. The squashed Gaussian, before its rows are normalised,
    has covariance diag(s^2), of effective rank (sum s^2)^2 / sum s^4. Normalising its rows
    evens the axes out a little: in the plane, E[u_1^2] is s_1 / (s_1 + s_2) instead of
    s_1^2 / (s_1^2 + s_2^2). By symmetry E[u u^T] is diagonal, so that two rows have
    E[cosine^2] = sum_j E[u_j^2]^2: 1 / d_in at decay = 0, rising to 1.

    Args:
        n_features, d_in: >= 1.
        decay: finite, >= 0.
    """
    ok = 0 <= decay < float("inf")
    check(ok, "low_effective_rank", "a finite decay >= 0", decay=decay)
    even = random_unit(n_features, d_in, generator=generator, dtype=torch.float64).vectors
    axes = torch.arange(1, d_in + 1, dtype=torch.float64, device=even.device)
    return Dictionary(Dictionary.normalise(even * axes**-decay).vectors.to(dtype))


def strategy() -> Any:
    """Returns a Hypothesis strategy of squashed random dictionaries in float64."""
    from hypothesis import strategies as st

    from toymodels.strategies import generators

    return st.builds(
        lambda n, d, decay, generator: low_effective_rank(
            n, d, decay, generator=generator, dtype=torch.float64
        ),
        st.integers(1, 8),
        st.integers(1, 8),
        st.sampled_from([1.0, 0.0]) | st.floats(0, 4),
        generators("dictionary"),
    )
