"""Independent directions, uniform on the sphere."""

from typing import Any

import torch

from toymodels.checks import check_generator, check_size
from toymodels.dictionary import Dictionary


def random_unit(
    n_features: int,
    d_in: int,
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Dictionary:
    """Returns `n_features` independent directions, uniform on the unit sphere of R^d_in.

    The cosine of two of them has mean 0 and variance 1 / d_in.

    Args:
        n_features, d_in: >= 1.
    """
    check_size("random_unit", n_features=n_features, d_in=d_in)
    check_generator("random_unit", generator)
    device = generator.device
    normal = torch.randn(n_features, d_in, dtype=torch.float64, device=device, generator=generator)
    return Dictionary(torch.nn.functional.normalize(normal, dim=1).to(dtype))


def strategy() -> Any:
    """Returns a Hypothesis strategy of random unit dictionaries in float64."""
    from hypothesis import strategies as st

    from toymodels.strategies import generators

    return st.builds(
        lambda n, d, generator: random_unit(n, d, generator=generator, dtype=torch.float64),
        st.integers(1, 24),
        st.integers(1, 12),
        generators("dictionary"),
    )
