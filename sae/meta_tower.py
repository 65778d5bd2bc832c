"""Towers: meta-SAEs on the decoders of meta-SAEs."""

from collections.abc import Sequence, Sized

import torch
from jaxtyping import Float
from torch import Tensor

from sae.base import SAE
from sae.checks import check
from sae.config import TrainConfig
from sae.meta import train_meta
from sae.meta_weights import row_weights


def train_tower(
    rows: Float[Tensor, "n_rows d_in"],
    levels: Sequence[SAE],
    config: TrainConfig,
    *,
    weights: Float[Tensor, " n_rows"] | None,
    weighting: str = "uniform",
    generator: torch.Generator,
) -> tuple[SAE, ...]:
    """Returns the trained levels: the first on `rows`, each other on the decoder of the one below.

    Args:
        rows, weights: of the first level; see `train_meta`.
        levels: untrained, at least one, of any architecture; usually ever narrower.
        config: see `train`; the same at each level.
        weighting: what a meta-latent's row weighs at the next level, from its codes of the rows
            below, which count by their own weights: see `row_weights`. By frequency or energy a
            dead meta-latent is not passed on.
        generator: draws the rows of each batch, level after level.
    Raises: ValueError: no level, and what `train_meta` and `row_weights` raise.
    """
    _check_several("train_tower", levels)
    check(len(levels) >= 1, "train_tower", "at least one level", n_levels=len(levels))
    trained: list[SAE] = []
    for level in levels:
        sae = train_meta(rows, level, config, weights=weights, generator=generator).sae
        trained.append(sae)
        weights = row_weights(sae.encode(rows), weighting, sample_weights=weights)
        rows = sae.W_dec.detach()
    return tuple(trained)


@torch.no_grad()
def through_tower(
    rows: Float[Tensor, "n_rows d_in"], levels: Sequence[SAE]
) -> Float[Tensor, "n_rows d_in"]:
    """Returns the rows rebuilt from the last level only: each level decodes by the decoder that
    the levels above it rebuild. The rows themselves for no levels.

    Errors add up: what a level loses, no later one brings back.

    Args:
        rows: [n_rows, d_in].   levels: trained, from the rows up.
    """
    _check_several("through_tower", levels)
    if not levels:
        return rows
    first, rest = levels[0], levels[1:]
    decoder = through_tower(first.W_dec.detach(), rest)
    return first.encode(rows) @ decoder + first.b_dec


def _check_several(where: str, levels: Sequence[SAE]) -> None:
    rule, kind = "a sequence of levels", type(levels).__name__
    check(isinstance(levels, Sized), where, rule, "of one level pass (level,)", levels=kind)
