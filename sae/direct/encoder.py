"""An encoder for a dictionary that is kept as it is."""

from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from sae.base import SAE
from sae.checks import check, check_finite
from sae.config import TrainConfig
from sae.train import train

ENCODER = TrainConfig(1500, 512, lr=3e-3, decay=0.4, n_records=2)

_OFF = 1e-2  # rounding entries to bfloat16 moves a norm by less

AnySAE = TypeVar("AnySAE", bound=SAE)


def fit_encoder(
    sae: AnySAE,
    rows: Float[Tensor, "n_latents d_in"],
    x: Float[Tensor, "n d_in"],
    config: TrainConfig = ENCODER,
    *,
    generator: torch.Generator,
) -> AnySAE:
    """Returns a copy of `sae` whose W_dec is `rows`, bit for bit, with all else trained on x.

    W_enc starts as the rows transposed; all is in x's dtype. S3 to S5 are those of the rows, which
    stay; one shot has less of S1 than codes by pursuit, and S2 as far as `sae` presses for it.

    Args:
        sae: of the rows' sizes; not changed.
        rows: [n_latents, d_in], unit (to 1e-2) or 0.
        x: [n, d_in], drawn from with replacement.
        config: see `train`.   generator: draws the batches.
    Raises: ValueError: shapes that do not fit, rows of other norms, NaN, and what `train` raises.
    """
    where = "fit_encoder"
    check_finite(where, rows=rows, x=x)
    shape = tuple(rows.shape)
    check(shape == (sae.n_latents, sae.d_in), where, "rows of the SAE's shape", rows_shape=shape)
    rule = f"x of shape (n, {sae.d_in})"
    check(
        x.ndim == 2 and x.shape[1:] == rows.shape[1:] and len(x) > 0,
        where,
        rule,
        x_shape=tuple(x.shape),
    )
    real, todo = x.is_floating_point(), "pass x.float()"
    check(real, where, "x of real numbers", todo, x_dtype=x.dtype)
    norms = rows.detach().double().norm(dim=1)
    off = norms[(norms > 0) & ((norms - 1).abs() > _OFF)][:5].tolist()
    check(not off, where, "rows of norm 1 or 0", "normalise them", norms=off)
    start = type(sae)(**sae.settings(), generator=torch.Generator(device=rows.device)).to(x.dtype)
    with torch.no_grad():
        start.W_dec.copy_(rows)
        start.W_enc.copy_(rows.T)
    start.W_dec.requires_grad_(False)

    def draw(n: int, *, generator: torch.Generator) -> Tensor:
        return x[torch.randint(len(x), (n,), device=x.device, generator=generator)]

    trained = train(start, draw, config, generator=generator).sae
    with torch.no_grad():
        trained.W_dec.copy_(rows)  # normalising at each step may have moved the last bit
    trained.W_dec.requires_grad_(True)
    return cast(AnySAE, trained)
