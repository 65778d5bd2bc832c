"""Directions at equal angles in the plane."""

import math
from typing import Any

import torch

from toymodels.checks import check_size
from toymodels.dictionary import Dictionary


def polygon(n_features: int, *, dtype: torch.dtype = torch.float32) -> Dictionary:
    """Returns the corners of a regular polygon: row i is (cos, sin) of 2 pi i / n_features.

    Tight for n_features >= 3 (frame bounds n / 2); antipodal for even n_features.

    Args:
        n_features: >= 1.
    """
    check_size("polygon", n_features=n_features)
    angle = torch.arange(n_features, dtype=torch.float64) * (2 * math.pi / n_features)
    return Dictionary(torch.stack([angle.cos(), angle.sin()], dim=1).to(dtype))


def strategy() -> Any:
    """Returns a Hypothesis strategy of polygons in float64."""
    from hypothesis import strategies as st

    return st.builds(lambda n: polygon(n, dtype=torch.float64), st.integers(1, 24))
