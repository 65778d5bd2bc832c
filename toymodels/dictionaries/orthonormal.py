"""Orthonormal directions in a random orientation."""

from typing import Any

import torch

from toymodels.checks import check, check_generator, check_size
from toymodels.dictionary import Dictionary


def orthonormal(
    n_features: int,
    d_in: int,
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Dictionary:
    """Returns `n_features` orthonormal rows in R^d_in, uniformly (Haar) oriented.

    Args:
        n_features: from 1 to d_in.
    """
    check_size("orthonormal", n_features=n_features, d_in=d_in)
    check_generator("orthonormal", generator)
    check(
        1 <= n_features <= d_in,
        "orthonormal",
        f"1 <= n_features <= {d_in} (d_in)",
        n_features=n_features,
    )
    normal = torch.randn(
        d_in, n_features, dtype=torch.float64, device=generator.device, generator=generator
    )
    q, r = torch.linalg.qr(normal)
    # The signs of R's diagonal make the law of Q exactly Haar (Mezzadri 2007, math-ph/0609050).
    return Dictionary((q * r.diagonal().sgn()).T.contiguous().to(dtype))


def strategy() -> Any:
    """Returns a Hypothesis strategy of orthonormal dictionaries in float64."""
    from hypothesis import strategies as st

    from toymodels.strategies import generators

    @st.composite
    def build(draw: Any) -> Dictionary:
        d_in = draw(st.integers(1, 12))
        n_features = draw(st.integers(1, d_in))
        generator = draw(generators("dictionary"))
        return orthonormal(n_features, d_in, generator=generator, dtype=torch.float64)

    return build()
