"""Resampling: dead latents start anew where the reconstruction is worst."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.base import SAE


@torch.no_grad()
def resample_(
    sae: SAE,
    optimizer: torch.optim.Optimizer,
    dead: Bool[Tensor, " n_latents"],
    residual: Float[Tensor, "batch d_in"],
    norm: float,
    *,
    generator: torch.Generator,
) -> Bool[Tensor, " n_latents"]:
    """Points dead latents along residuals in place, and returns which ones.

    Each gets a sample of its own, drawn without replacement with probability proportional to
    |residual|^2. Its row of W_dec becomes the residual's direction; its column of W_enc, unless
    tied, the same times `norm` times the mean norm of the living latents' columns (1 if none
    lives); the rest of it (biases, thresholds) what it is in a fresh SAE. Adam's moments of these
    entries become 0. If fewer samples have an error than latents are dead, the last latents wait.

    Args:
        dead: which latents to resample.
        residual: [batch, d_in], x - x_hat.
        norm: > 0.
        generator: a CPU generator.
    Source: Bricken et al. 2023, Towards Monosemanticity, which points latents at the samples
        themselves, drawn in proportion to the square of their loss.
    """
    energies = residual.double().square().sum(1)
    n_drawn = min(int(dead.sum()), int((energies > 0).sum()))
    chosen = dead & (dead.cumsum(0) <= n_drawn)
    if n_drawn == 0:
        return chosen
    picked = torch.multinomial(energies.cpu(), n_drawn, generator=generator)
    rows = torch.nn.functional.normalize(residual[picked.to(residual.device)], dim=1)
    norms = sae.W_enc.norm(dim=0)
    mean_norm = norms[~dead].mean() if bool((~dead).any()) else norms.new_ones(())
    fresh = dict(_fresh(sae).named_parameters())
    for name, parameter in sae.named_parameters():
        if name == "W_dec":
            parameter[chosen] = rows
        elif name == "W_enc":
            parameter[:, chosen] = norm * mean_norm * rows.T
        elif name == "b_dec" or not parameter.requires_grad:
            continue
        else:
            parameter[chosen] = fresh[name].to(parameter)[chosen]
        for moment in optimizer.state[parameter].values():
            if moment.ndim:  # Adam's count of steps is shared by all entries and stays
                moment[(slice(None), chosen) if name == "W_enc" else chosen] = 0
    return chosen


def _fresh(sae: SAE) -> SAE:
    # Only what does not depend on the generator is read: biases and thresholds.
    cls: Any = type(sae)
    return cls(**sae.settings(), generator=torch.Generator())
