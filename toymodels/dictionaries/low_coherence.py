"""Directions optimised to be as far apart, as lines, as they can be."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check, check_size
from toymodels.dictionaries.orthonormal import orthonormal
from toymodels.dictionaries.random_unit import random_unit
from toymodels.dictionary import Dictionary


def welch_bound(n_features: int, d_in: int) -> float:
    """Returns a lower bound on the coherence of any n directions in R^d, 0 where n <= d.

    sqrt((n - d) / (d (n - 1))) <= max over i != j of |G_ij|: the sum of the squares of D D^T is at
    least n^2 / d, as its trace n is spread over at most d eigenvalues. Equality for tight frames
    of equiangular lines only, such as `simplex` and `icosahedral`; these need n <= d (d + 1) / 2.

    Args:
        n_features, d_in: >= 1.
    Source: Welch 1974, Lower bounds on the maximum cross correlation of signals.
    """
    check_size("welch_bound", n_features=n_features, d_in=d_in)
    if n_features <= d_in:
        return 0.0
    return ((n_features - d_in) / (d_in * (n_features - 1))) ** 0.5


def low_coherence(
    n_features: int,
    d_in: int,
    *,
    generator: torch.Generator,
    n_steps: int = 1000,
    coherence: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Dictionary:
    """Returns `n_features` directions in R^d_in whose largest |cosine| has been made small.

    Orthonormal where n_features <= d_in. Else gradient steps on sum over i != j of |G_ij|^p from
    `random_unit` directions, p rising from 4 to 10^4 (so that the largest |cosine| comes to decide)
    while the steps shrink; of all the directions passed through, start included, the least coherent
    are returned. Hence the coherence never exceeds that of `random_unit` with the same generator,
    and never falls below `welch_bound`; between them it is what the optimisation reached, a local
    optimum. With 1,000 steps (range over 5 seeds):

    | n, d    | Welch  | reached          | remark                                   |
    | ------- | ------ | ---------------- | ---------------------------------------- |
    | 5, 4    | 0.2500 | 0.2500           | the simplex                              |
    | 7, 2    | 0.6455 | 0.9010           | cos(pi / 7), the best in the plane       |
    | 6, 3    | 0.4472 | 0.4472           | the icosahedron                          |
    | 10, 5   | 0.3333 | 0.3333 to 0.3827 | Welch's bound, or a local optimum        |
    | 16, 6   | 0.3333 | 0.3333 to 0.3826 | likewise                                 |
    | 28, 7   | 0.3333 | 0.3333           | Welch's bound                            |
    | 64, 16  | 0.2182 | 0.2573 to 0.2587 | random directions: 0.77                  |
    | 96, 64  | 0.0726 | 0.0766 to 0.0769 | random directions: 0.47                  |
    | 256, 64 | 0.1085 | 0.1273 to 0.1274 | random directions: 0.47; about a second  |
    | 128, 8  | 0.3437 | 0.5747 to 0.5777 | n > d (d + 1) / 2: Welch is out of reach |

    Args:
        n_features, d_in: >= 1.
        n_steps: >= 0; each costs 2 n_features^2 d_in multiplications; 0 is `random_unit`.
        coherence: stop at the first directions whose largest |cosine| is at most this; by default
            go on to the end. Not below `welch_bound`, which no directions beat.
    Raises:
        ValueError: a coherence below Welch's bound, or one that n_steps did not reach; the message
            gives the bound, or what was reached.
    """
    where = "low_coherence"
    check_size(where, n_features=n_features, d_in=d_in)
    check(n_steps >= 0, where, "n_steps >= 0", n_steps=n_steps)
    if coherence is not None:
        bound = welch_bound(n_features, d_in)
        rule = f"coherence >= {bound:.6g}, Welch's bound for {n_features} directions in R^{d_in}"
        check(coherence >= bound * (1 - 1e-9), where, rule, coherence=coherence)
    if n_features <= d_in:
        return orthonormal(n_features, d_in, generator=generator, dtype=dtype)
    start = random_unit(n_features, d_in, generator=generator, dtype=torch.float64).vectors
    found = Dictionary(_decohere(start, n_steps, coherence or 0.0))
    if coherence is not None:
        reached = found.coherence()
        rule = f"coherence >= {reached:.6g}, what {n_steps} steps reached"
        todo = "take more steps, another generator, or fewer features"
        check(reached <= coherence + 1e-12, where, rule, todo, coherence=coherence)
    return Dictionary(found.vectors.to(dtype))


def _decohere(
    rows: Float[Tensor, "n_features d_in"], n_steps: int, target: float
) -> Float[Tensor, "n_features d_in"]:
    best, lowest = rows, float("inf")
    momentum = torch.zeros_like(rows)
    for step in range(n_steps + 1):
        gram = (rows @ rows.T).fill_diagonal_(0.0)
        coherence = float(gram.abs().max())
        if coherence < lowest:
            best, lowest = rows, coherence
            if lowest <= target:
                break
        done = step / max(1, n_steps)
        power = 4 * 2500.0**done
        weights = gram * (gram.abs() / coherence) ** (power - 2)  # gradient of |G|^p, in proportion
        uphill = weights @ rows
        uphill = uphill - (uphill * rows).sum(1, keepdim=True) * rows  # along the sphere
        uphill = uphill / uphill.norm(dim=1).max().clamp(min=1e-300)
        momentum = 0.9 * momentum + 0.1 * uphill
        rate = 0.3 * 1e-5**done
        rows = torch.nn.functional.normalize(rows - rate * momentum, dim=1)
    return best


def strategy() -> Any:
    """Returns a Hypothesis strategy of dictionaries optimised for a few steps, in float64."""
    from hypothesis import strategies as st

    from toymodels.strategies import generators

    return st.builds(
        lambda n, d, generator: low_coherence(
            n, d, generator=generator, n_steps=30, dtype=torch.float64
        ),
        st.integers(1, 8),
        st.integers(1, 6),
        generators("dictionary"),
    )
