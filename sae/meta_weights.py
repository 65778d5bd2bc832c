"""How much each row counts for a meta-SAE: equally, by how often its latent fires, or by energy."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae.checks import check, check_finite

WEIGHTINGS = ("uniform", "frequency", "energy")


def row_weights(
    latents: Float[Tensor, "n n_latents"],
    weighting: str,
    *,
    sample_weights: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, " n_latents"]:
    """Returns one weight for each latent's decoder row, float64, from its values on n samples.

    uniform: 1.   frequency: the share of samples on which z_j != 0.   energy: the mean of z_j^2,
    for unit rows the energy that the latent contributes to reconstructions. A latent that never
    fires weighs 1, 0 and 0. Where the law of the codes is known its exact firing probabilities
    and energies serve in their place.

    Args:
        latents: [n, n_latents], codes of an SAE; n >= 1.
        weighting: one of WEIGHTINGS.
        sample_weights: [n], >= 0 with a positive sum, how much each sample counts; None is
            equally.
    Raises: ValueError: another weighting, shapes that do not fit, NaN, weights that are negative
        or all 0.
    Source: by firing: asked by Shah in a comment on the post behind Leask et al. 2025, arXiv
        2502.04878.
    """
    where = "row_weights"
    check(weighting in WEIGHTINGS, where, f"a weighting among {WEIGHTINGS}", weighting=weighting)
    check_finite(where, latents=latents)
    shape = tuple(latents.shape)
    filled = latents.ndim == 2 and 0 not in shape
    check(filled, where, "latents [n, n_latents]", latents_shape=shape)
    latents = latents.detach().double()
    if sample_weights is None:
        sample_weights = torch.ones(len(latents), device=latents.device)
    w = checked_row_weights(where, sample_weights, len(latents)).to(latents.device)
    if weighting == "uniform":
        return torch.ones_like(latents[0])
    values = latents != 0 if weighting == "frequency" else latents.square()
    return (w / w.sum()) @ values.double()


def checked_row_weights(
    where: str, weights: Float[Tensor, " n"], n_rows: int
) -> Float[Tensor, " n"]:
    """Returns the weights in float64; raises ValueError unless they are n_rows numbers >= 0, not
    all 0."""
    check_finite(where, weights=weights)
    shape, weights = tuple(weights.shape), weights.detach().double()
    check(shape == (n_rows,), where, f"{n_rows} weights, one a row", weights_shape=shape)
    lowest, total = float(weights.min()), float(weights.sum())
    rule = "weights >= 0 with a positive sum"
    check(lowest >= 0 and total > 0, where, rule, smallest=lowest, sum=total)
    return weights
