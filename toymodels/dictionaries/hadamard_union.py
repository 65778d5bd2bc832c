"""The identity and a Hadamard basis: a tight frame of known coherence."""

from typing import Any

import torch
from scipy.linalg import hadamard

from toymodels.checks import check
from toymodels.dictionary import Dictionary


def hadamard_union(d_in: int, *, dtype: torch.dtype = torch.float32) -> Dictionary:
    """Returns the 2 d_in rows of [I, H / sqrt(d_in)], H Sylvester's Hadamard matrix.

    Tight (frame bounds 2, 2), coherence exactly 1 / sqrt(d_in): low and known, where random
    directions of the same sizes have about sqrt(2 ln(2 d_in^2) / d_in).

    Args:
        d_in: a power of 2.
    """
    is_power = d_in >= 1 and d_in & (d_in - 1) == 0
    check(is_power, "hadamard_union", "d_in a power of 2", d_in=d_in)
    basis = torch.from_numpy(hadamard(d_in).copy()).to(torch.float64) / d_in**0.5
    return Dictionary(torch.cat([torch.eye(d_in, dtype=torch.float64), basis]).to(dtype))


def strategy() -> Any:
    """Returns a Hypothesis strategy of Hadamard unions in float64."""
    from hypothesis import strategies as st

    return st.builds(
        lambda d: hadamard_union(d, dtype=torch.float64), st.sampled_from([1, 2, 4, 8, 16])
    )
