"""The six diagonals of the icosahedron."""

from typing import Any

import torch

from toymodels.dictionary import Dictionary


def icosahedral(*, dtype: torch.dtype = torch.float32) -> Dictionary:
    """Returns the 6 lines through opposite corners of the icosahedron, in R^3.

    The rows are (0, 1, +-phi) / sqrt(1 + phi^2) and their cyclic shifts, phi = (1 + sqrt 5) / 2.
    As phi^2 = phi + 1, every cosine is +-phi / (phi + 2) = +-1 / sqrt 5: coherence 1 / sqrt 5,
    which is the Welch bound; tight, with frame bounds 2. No more lines are equiangular in R^3:
    their number is at most d (d + 1) / 2 (Gerzon, in Lemmens and Seidel 1973).
    """
    phi = (1 + 5**0.5) / 2
    pair = torch.tensor([[0.0, 1.0, phi], [0.0, 1.0, -phi]], dtype=torch.float64)
    rows = torch.cat([pair.roll(shift, dims=1) for shift in range(3)])
    return Dictionary((rows / (1 + phi**2) ** 0.5).to(dtype))


def strategy() -> Any:
    """Returns a Hypothesis strategy of the six lines, each pointing either way, in float64.

    The signs also make an example long, so that searches shrink past it to smaller dictionaries.
    """
    from hypothesis import strategies as st

    lines = icosahedral(dtype=torch.float64).vectors
    signs = st.lists(st.sampled_from([1.0, -1.0]), min_size=6, max_size=6)
    return signs.map(lambda s: Dictionary(torch.tensor(s, dtype=torch.float64)[:, None] * lines))
