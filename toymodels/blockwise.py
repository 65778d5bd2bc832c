"""Products with a symmetric matrix that is never formed whole."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 2**22  # entries at a time: 32 MB


def symmetric_times(
    v: Float[Tensor, "n columns"], block: Callable[[int, int], Float[Tensor, "size rest"]]
) -> Float[Tensor, "n columns"]:
    """Returns A @ v for a symmetric A, each entry of whose upper half is asked for once.

    Args:
        v: [n, columns].
        block: block(start, stop) returns A[start:stop, start:]; it holds about 4 million entries.
    """
    n = len(v)
    product = torch.zeros_like(v)
    step = max(1, BLOCK // n)
    for start in range(0, n, step):
        stop = min(n, start + step)
        rows = block(start, stop)
        product[start:stop] += rows @ v[start:]
        product[stop:] += rows[:, stop - start :].T @ v[start:stop]
    return product
