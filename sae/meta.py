"""Meta-SAEs: SAEs whose data are the decoder rows of another."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sae.base import SAE
from sae.checks import check, check_finite
from sae.config import TrainConfig
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
    check(
        rows.ndim == 2 and len(rows) >= 1,
        "train_meta",
        "rows [n_rows, d_in]",
        rows_shape=tuple(rows.shape),
    )
    check_finite("train_meta", rows=rows)
    if weights is None:
        weights = torch.ones(len(rows))
    shape = tuple(weights.shape)
    check(
        shape == (len(rows),), "train_meta", f"{len(rows)} weights, one a row", weights_shape=shape
    )
    check_finite("train_meta", weights=weights)
    lowest, total = float(weights.min()), float(weights.sum())
    rule = "weights >= 0 with a positive sum"
    check(lowest >= 0 and total > 0, "train_meta", rule, smallest=lowest, sum=total)
    ends = weights.to(device=rows.device, dtype=torch.float64).cumsum(0)
    last = int(weights.nonzero()[-1])

    def draw(n: int, *, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(n, dtype=torch.float64, device=rows.device, generator=generator)
        picked = torch.searchsorted(ends, uniform * ends[-1], right=True)
        return rows[picked.clamp(max=last)]

    return train(saes, draw, config, generator=generator)
