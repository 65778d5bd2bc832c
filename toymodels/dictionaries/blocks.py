"""Groups of similar directions, orthogonal to all other groups."""

from typing import Any

import torch

from toymodels.checks import check, check_size
from toymodels.dictionaries.equiangular import equiangular
from toymodels.dictionary import Dictionary


def blocks(
    n_blocks: int, block_size: int, cosine: float, *, dtype: torch.dtype = torch.float32
) -> Dictionary:
    """Returns mutually orthogonal blocks of directions, with one cosine within each block.

    Row b * block_size + i is the i-th of block b; the Gram is block diagonal, with blocks
    (1 - c) I + c 1 1^T. Coherence |c|; frame bounds the smaller and the larger of 1 - c and
    1 + (block_size - 1) c. Each block is `equiangular`: d_in is n_blocks * block_size, or
    n_blocks * (block_size - 1) at the lower end of c, where both bounds are 1 - c. With
    block_size = 1 there are no pairs: the standard basis, whatever c.

    Args:
        n_blocks, block_size: >= 1.
        cosine: c, -1 / (block_size - 1) <= c < 1.
    Raises:
        ValueError: a cosine outside this range.
    """
    check_size("blocks", n_blocks=n_blocks, block_size=block_size)
    low = -1 / max(1, block_size - 1)
    check(
        low - 1e-12 <= cosine < 1,
        "blocks",
        f"{low:.6g} <= cosine < 1 for block_size {block_size}",
        cosine=cosine,
    )
    block = equiangular(block_size, max(low, cosine), dtype=dtype).vectors
    return Dictionary(torch.block_diag(*[block] * n_blocks))


def strategy() -> Any:
    """Returns a Hypothesis strategy of block dictionaries in float64."""
    from hypothesis import strategies as st

    @st.composite
    def build(draw: Any) -> Dictionary:
        block_size = draw(st.integers(1, 4))
        n_blocks = draw(st.integers(1, 8 // block_size))
        low = -1 / max(1, block_size - 1)
        cosine = draw(st.sampled_from([0.5, 0.0, low]) | st.floats(low, 0.999))
        return blocks(n_blocks, block_size, cosine, dtype=torch.float64)

    return build()
