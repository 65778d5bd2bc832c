"""The published recipe of a meta-SAE, as a preset."""

import torch

from sae.architectures.batch_topk import BatchTopK
from sae.config import TrainConfig


def published_meta_sae(
    d_in: int,
    n_latents: int,
    k: int | float = 4,
    *,
    encoder_bias: bool = False,
    generator: torch.Generator,
) -> BatchTopK:
    """Returns a fresh BatchTopK meta-SAE with k = 4, unit decoder rows, W_enc their transpose,
    a decoder bias, no encoder bias, and 1/16 for the revival of dead meta-latents.

    Differs from the publication in the number of revived meta-latents (d_in / 2 for 512) and in
    the threshold after training, which is measured instead of set.

    Args:
        d_in, n_latents, k, generator: see `BatchTopK`; published: 768, 2,304, 4.
        encoder_bias: True trains one, which a faster engine asks for; on planted compositions
            the share explained changes by about .01.
    Source: Leask et al. 2025, arXiv 2502.04878.
    """
    sae = BatchTopK(d_in, n_latents, k, aux_coefficient=1 / 16, generator=generator)
    sae.b_enc.requires_grad_(encoder_bias)
    return sae


def published_config(n_steps: int = 2000, batch_size: int = 16_384) -> TrainConfig:
    """Returns the published optimisation: Adam (0.9, 0.99) at a constant 1e-3, meta-latents dead
    after 100 batches. Fewer rows than 49,152 need smaller batches.

    Source: Leask et al. 2025, arXiv 2502.04878.
    """
    return TrainConfig(
        n_steps,
        batch_size,
        lr=1e-3,
        betas=(0.9, 0.99),
        warmup=0.0,
        decay=0.0,
        dead_after=100 * batch_size,
        n_records=2 if n_steps < 20 else 20,
    )
