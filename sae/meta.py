"""Meta-SAEs: SAEs whose data are the decoder rows of another."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.base import SAE
from sae.checks import check, check_finite, check_generator, check_size
from sae.config import TrainConfig
from sae.meta_weights import checked_row_weights
from sae.train import TrainResult, train


def train_meta(
    rows: Float[Tensor, "n_rows d_in"],
    saes: SAE | Sequence[SAE],
    config: TrainConfig,
    *,
    weights: Float[Tensor, " n_rows"] | None,
    generator: torch.Generator,
) -> TrainResult:
    """Returns trained copies of `saes` on rows drawn with replacement in proportion to `weights`.

    The expected loss of a step is sum_i w_i loss(row_i) / sum_i w_i. The weights decide what a
    meta-SAE may throw away: uniform ones protect a row however seldom its latent fires, firing
    probabilities or energies E[a_i^2] make rare rows cheap.

    Args:
        rows: [n_rows, d_in], decoder rows of an SAE or a ground-truth dictionary.
        saes, config: see `train`.
        weights: [n_rows], >= 0 with a positive sum, in any unit; None is uniform.
        generator: draws the rows of each batch.
    Raises:
        ValueError: rows or weights with NaN, negative or all-zero weights, shapes that do not
            fit, and what `train` raises.
    Source: uniform weights: Leask et al. 2025, arXiv 2502.04878.
    """
    check_finite("train_meta", rows=rows)
    shape = tuple(rows.shape)
    check(len(shape) == 2 and shape[0] >= 1, "train_meta", "rows [n_rows, d_in]", rows_shape=shape)
    if weights is None:
        weights = torch.ones(len(rows))
    weights = checked_row_weights("train_meta", weights, len(rows))
    ends = weights.to(device=rows.device, dtype=torch.float64).cumsum(0)
    last = int(weights.nonzero()[-1])

    def draw(n: int, *, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(n, dtype=torch.float64, device=rows.device, generator=generator)
        picked = torch.searchsorted(ends, uniform * ends[-1], right=True)
        return rows[picked.clamp(max=last)]

    return train(saes, draw, config, generator=generator)


def split_rows(
    n_rows: int, share: float = 0.8, *, generator: torch.Generator
) -> tuple[Int[Tensor, " n_fitted"], Int[Tensor, " n_held_out"]]:
    """Returns the indices of the rows to train a meta-SAE on and of those to measure it on.

    In sample a meta-SAE may learn rows by heart; what it explains of rows that it never saw is
    evidence of shared parts.

    Args:
        n_rows: >= 2.
        share: of the rows to train on, in (0, 1); rounded, and at least one row on each side.
        generator: draws which; its device is that of the indices.
    """
    where = "split_rows"
    check_size(where, n_rows=n_rows)
    check(n_rows >= 2, where, "n_rows >= 2", n_rows=n_rows)
    check(0 < share < 1, where, "0 < share < 1", share=share)
    check_generator(where, generator)
    order = torch.randperm(n_rows, device=generator.device, generator=generator)
    n_fitted = min(max(round(share * n_rows), 1), n_rows - 1)
    return order[:n_fitted], order[n_fitted:]
