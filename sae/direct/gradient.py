"""The product dictionary trained by gradients, encoder and all: a control that fails."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from sae.architectures.batch_topk import keep_largest_of_batch
from sae.architectures.topk import keep_largest
from sae.base import squared_error
from sae.checks import check, check_finite, check_generator, check_size
from sae.config import TrainConfig
from sae.direct.extended import check_config, one_lr
from sae.direct.object_rows import TOLERANCE, check_samples, rms_norm
from sae.direct.product import ProductDictionary, Round, as_product, data_fve

GRADIENT = TrainConfig(2000, 512, lr=3e-3, decay=0.4, k_annealing=0.5)


def gradient_product(
    x: Float[Tensor, "n_samples d_in"],
    *,
    held_out: Float[Tensor, "n_held d_in"],
    n_latents: int,
    n_meta: int,
    k: int,
    k_meta: int,
    generator: torch.Generator,
    config: TrainConfig = GRADIENT,
) -> ProductDictionary:
    """Returns a product dictionary trained from scratch by Adam on E|x - z D|^2.

    D = normalise(M @ atoms), M the k_meta largest entries of each row of a free matrix, then ReLU;
    k_meta falls linearly from n_meta during the first config.k_annealing of the steps. z is the
    ReLU of the k * batch largest of a batch's pre-activations x @ W_enc + b_enc. Atoms stay unit.
    Satisfies what `product_dictionary` does, S1 worse.

    On worlds of pairs and triples it finds next to none of the atoms; descending from a good
    result (`descend`) does not improve it. Use `product_dictionary`.

    Args:
        k: mean latents of a sample in training; codes of the result use k at most.
        config: its n_steps, batch_size, lr, betas, eps, warmup, decay, k_annealing and
            max_grad_norm count.
        The others: see `product_dictionary`.
    Raises: ValueError: sizes out of range, NaN, held_out that does not fit.
    """
    where = "gradient_product"
    check_samples(where, x, TOLERANCE, generator)
    check_size(where, n_latents=n_latents, n_meta=n_meta, k=k, k_meta=k_meta)
    check(k_meta <= n_meta, where, f"k_meta <= {n_meta} (n_meta)", k_meta=k_meta)
    check(k <= n_latents, where, f"k <= {n_latents} (n_latents)", k=k)
    device = x.device
    normal = torch.randn(n_meta, x.shape[1], dtype=x.dtype, device=device, generator=generator)
    atoms = normalize(normal, dim=1)
    mixing = torch.rand(n_latents, n_meta, dtype=x.dtype, device=device, generator=generator)
    floor, rows = TOLERANCE * rms_norm(x), normalize(mixing @ atoms, dim=1)
    drawn = ProductDictionary(mixing, atoms, rows, k, k_meta, floor, 0.0, ())
    return descend(x, drawn, held_out=held_out, config=config, generator=generator)


def descend(
    x: Float[Tensor, "n_samples d_in"],
    start: ProductDictionary,
    *,
    held_out: Float[Tensor, "n_held d_in"],
    generator: torch.Generator,
    config: TrainConfig = GRADIENT,
) -> ProductDictionary:
    """Returns `start` after gradient steps on its atoms, its mixing and an encoder of its own.

    As `gradient_product`, from given atoms and mixing; the encoder starts at the rows. Give a
    config with k_annealing=0 to keep the supports that `start` has. Satisfies what
    `gradient_product` does. All is in the dtype of `start`.
    """
    where = "descend"
    check_finite(where, x=x, held_out=held_out)
    check_config(where, config=config)
    lr = one_lr(where, config)
    shape, rule = tuple(held_out.shape), f"held_out of shape [n_held, {x.shape[1]}]"
    fits = held_out.ndim == 2 and shape[0] > 0 and shape[1] == x.shape[1]
    check(fits, where, rule, held_out_shape=shape)
    check_generator(where, generator, x.device)
    x = x.to(start.atoms.dtype)
    n_meta, k_meta = len(start.atoms), start.k_meta
    atoms, mixing = nn.Parameter(start.atoms.clone()), nn.Parameter(start.mixing.clone())
    W_enc = nn.Parameter(normalize(start.rows, dim=1).T.contiguous())
    b_enc = nn.Parameter(x.new_zeros(len(start.mixing)))
    parameters = [atoms, mixing, W_enc, b_enc]
    optimizer = torch.optim.Adam(parameters, lr=1.0, betas=config.betas, eps=config.eps)
    for step in range(config.n_steps):
        size = (config.batch_size,)
        batch = x[torch.randint(len(x), size, device=x.device, generator=generator)]
        kept = keep_largest(mixing, int(config.k_at(step, k_meta, n_meta)))
        rows = normalize(kept @ normalize(atoms, dim=1), dim=1)
        latents = keep_largest_of_batch(batch @ W_enc + b_enc, start.k * len(batch))
        optimizer.zero_grad(set_to_none=True)
        squared_error(batch, latents @ rows).backward()
        nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.param_groups[0]["lr"] = lr * config.lr_scale(step)
        optimizer.step()
    with torch.no_grad():
        unit = normalize(atoms, dim=1)
        product = as_product(keep_largest(mixing, k_meta), unit)
        rows = product @ unit
        fve = data_fve(held_out, rows, start.k, start.floor)
    return ProductDictionary(
        product, unit, rows, start.k, k_meta, start.floor, fve, (Round(0.0, fve),)
    )
