"""Directions in opposite pairs."""

from typing import Any

import torch

from toymodels.dictionary import Dictionary


def antipodal(half: Dictionary) -> Dictionary:
    """Returns the rows of `half` and then their opposites: row n + i is minus row i of n.

    Gram [[G, -G], [-G, G]] for the Gram G of `half`; coherence 1; frame bounds twice those of
    `half`.

    Args:
        half: n directions, whose dtype the result has. Should two of them be opposite, rows of
            the result coincide.
    """
    return Dictionary(torch.cat([half.vectors, -half.vectors]))


def strategy() -> Any:
    """Returns a Hypothesis strategy of antipodal orthonormal and random directions, float64."""
    from hypothesis import strategies as st

    from toymodels.dictionaries.orthonormal import orthonormal
    from toymodels.dictionaries.random_unit import random_unit
    from toymodels.strategies import generators

    @st.composite
    def build(draw: Any) -> Dictionary:
        n_features = draw(st.integers(2, 4))  # of one direction it is `simplex(2)`
        spread = draw(st.booleans())
        d_in = draw(st.integers(2 if spread else n_features, 4))
        make = random_unit if spread else orthonormal
        generator = draw(generators("dictionary"))
        half = make(n_features, d_in, generator=generator, dtype=torch.float64)
        return antipodal(half)

    return build()
