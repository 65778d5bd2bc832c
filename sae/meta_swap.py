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
    Returns: in the wider of the two dtypes.
    Raises: ValueError: widths that differ, NaN, integers, zero rows.
    """
    wanted, unit = unit_rows("nearest_rows", directions=directions, rows=rows)
    return unit[(wanted @ unit.T).argmax(1)].detach()


def unit_rows(where: str, **both: Tensor) -> list[Tensor]:
    """Returns two matrices of one width with rows made unit, in the wider of their dtypes.

    Raises ValueError, by their names, for what has no directions to compare.
    """
    check_finite(where, **both)
    first, second = both.values()
    fits = first.ndim == second.ndim == 2 and first.shape[1] == second.shape[1] and len(second) > 0
    rule = f"{' and '.join(both)} of one width"
    check(fits, where, rule, **{name: tuple(value.shape) for name, value in both.items()})
    for name, value in both.items():
        rule, todo = f"{name} of real numbers", f"pass {name}.float()"
        check(value.is_floating_point(), where, rule, todo, **{f"{name}_dtype": value.dtype})
        zero = (value == 0).all(1).nonzero().flatten()[:5].tolist()
        rule, todo = f"{name} with a direction", "remove these rows"
        check(not zero, where, rule, todo, **{f"zero_{name}": zero})
    dtype = torch.promote_types(first.dtype, second.dtype)
    return [normalize(value.to(dtype), dim=1) for value in both.values()]


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
    check_finite("with_decoder", W_dec=W_dec)
    shape = tuple(W_dec.shape)
    rule = f"W_dec of shape ({sae.n_latents}, {sae.d_in})"
    check(shape == (sae.n_latents, sae.d_in), "with_decoder", rule, W_dec_shape=shape)
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
