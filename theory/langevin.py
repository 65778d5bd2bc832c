"""Localised Langevin dynamics (SGLD with the full loss): many chains around one point."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from theory.curvature import Loss, gradients


def langevin(
    loss: Loss,
    centre: Float[Tensor, " n_weights"],
    *,
    n_beta: float | int,
    step_size: float,
    localisation: float | int,
    n_draws: int,
    n_burn_in: int,
    n_chains: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "n_chains n_draws"], Float[Tensor, "n_chains n_weights"]]:
    """Returns the losses along the chains after burn-in, and where the chains end.

    w <- w - (eps/2)(n beta grad L(w) + gamma (w - w*)) + sqrt(eps) N(0, I) from w* on. Losses are
    of the points before each step. Nothing is checked: `learning_coefficient` does, and a chain
    that diverges shows as NaN or infinity.

    Args: as for `learning_coefficient`.
    Returns: losses, [n_chains, n_draws], and points, [n_chains, n_weights], of the dtype of w*.
    """
    w_star = centre.detach()
    options = {"dtype": w_star.dtype, "device": w_star.device}
    w = w_star.repeat(n_chains, 1)
    losses = torch.empty(n_draws, n_chains, **options)
    for step in range(n_burn_in + n_draws):
        values, slopes = gradients(loss, w)
        if step >= n_burn_in:
            losses[step - n_burn_in] = values
        pull = n_beta * slopes + localisation * (w - w_star)
        noise = torch.randn(w.shape, generator=generator, **options)
        w = w - step_size / 2 * pull + math.sqrt(step_size) * noise
    return losses.T.contiguous(), w
