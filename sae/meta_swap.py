"""The bars beside a meta-SAE: its decoder replaced by other directions, its encoder then tuned."""

import copy
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from sae.base import SAE
from sae.checks import check, check_finite
from sae.config import TrainConfig
from sae.meta import train_meta

AnySAE = TypeVar("AnySAE", bound=SAE)


def nearest_rows(
    directions: Float[Tensor, "n d_in"], rows: Float[Tensor, "n_rows d_in"]
) -> Float[Tensor, "n d_in"]:
    """Returns for each direction the row with the largest cosine to it, as a unit vector.

    Rows may be taken more than once. Chance: the nearest of many rows is near to any direction
    in low dimension; see `copy_baseline` and `recovery` for what that alone gives.

    Args: both non-zero, of one width.
    """
    shapes = tuple(directions.shape), tuple(rows.shape)
    fits = directions.ndim == rows.ndim == 2 and shapes[0][1] == shapes[1][1] and shapes[1][0] > 0
    check(fits, "nearest_rows", "rows of one width", directions=shapes[0], rows=shapes[1])
    check_finite("nearest_rows", directions=directions, rows=rows)
    unit = normalize(rows.detach(), dim=1)
    return unit[(normalize(directions.detach(), dim=1) @ unit.T).argmax(1)]


@torch.no_grad()
def with_decoder(sae: AnySAE, W_dec: Float[Tensor, "n_latents d_in"]) -> AnySAE:
    """Returns a copy of `sae` that codes as before and decodes with other rows.

    For rows at random, independent of the code, the expected share explained is minus the energy
    of the code, -E|z|^2 / E|x|^2 (without a decoder bias), whatever the SAE's own data hold: the
    more it explains, the lower this bar. It says nothing about structure.

    Args:
        sae: with a decoder of its own (not tied); not changed.
        W_dec: [n_latents, d_in].
    """
    shape = tuple(W_dec.shape)
    rule = f"W_dec of shape ({sae.n_latents}, {sae.d_in})"
    check(shape == (sae.n_latents, sae.d_in), "with_decoder", rule, W_dec_shape=shape)
    check_finite("with_decoder", W_dec=W_dec)
    untied = "W_enc" in dict(sae.named_parameters())
    check(untied, "with_decoder", "an SAE whose encoder is its own", sae=type(sae).__name__)
    swapped = copy.deepcopy(sae)
    swapped.W_dec.copy_(W_dec)
    return swapped


def tune_encoder(
    rows: Float[Tensor, "n_rows d_in"],
    sae: AnySAE,
    config: TrainConfig,
    *,
    weights: Float[Tensor, " n_rows"] | None,
    generator: torch.Generator,
) -> AnySAE:
    """Returns a copy of `sae` whose encoder and decoder bias are trained on, W_dec as it is.

    Args: rows, config, weights, generator: see `train_meta`.   sae: of unit decoder rows.
    """
    frozen = copy.deepcopy(sae)
    frozen.W_dec.requires_grad_(False)
    tuned = train_meta(rows, frozen, config, weights=weights, generator=generator).sae
    with torch.no_grad():
        tuned.W_dec.copy_(sae.W_dec)  # normalising at each step may have moved the last bit
    tuned.W_dec.requires_grad_(sae.W_dec.requires_grad)
    return cast(AnySAE, tuned)
