"""A meta-SAE directly: object rows, atoms and joint polish by alternating exact steps."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae.checks import check, check_finite, check_size, check_tensor
from sae.direct.joint import polish
from sae.direct.meta_dictionary import checked_rows, improve_meta, meta_dictionary
from sae.direct.object_rows import TOLERANCE, check_samples, object_rows, rms_norm
from sae.direct.product import ProductDictionary, Round, as_product, data_fve


def product_dictionary(
    x: Float[Tensor, "n_samples d_in"],
    *,
    held_out: Float[Tensor, "n_held d_in"],
    n_latents: int,
    n_meta: int,
    k: int,
    k_meta: int,
    generator: torch.Generator,
    n_starts: int = 2,
    n_rounds: int = 2,
    tolerance: float = TOLERANCE,
) -> ProductDictionary:
    """Returns latents that are sparse non-negative mixtures of atoms, without gradients.

    1. `object_rows` from `n_starts` growths; the one that explains the held-out samples best stays.
    2. `product_from_rows`: atoms of the rows by many restarts, and joint polish, `n_rounds` times.
    An encoder comes last, by `.sae()`, with the dictionary frozen.

    What it can find: atoms that several latents share (each in two at least). It fails where the
    object rows do: where many latents fire on a sample, under steep frequencies with few samples,
    or where n_latents, n_meta or k_meta are too small. `held_out_meta_fve` of `free_rows` shows it
    without a ground truth. Satisfies S1 to S3 and S5, S4 only if checked: see `ProductDictionary`.

    Args:
        x: [n_samples, d_in], float32 or float64.
        held_out: [n_held, d_in], other samples, to choose by; taken in x's dtype.
        n_latents, n_meta: widths; too large costs less than too small.
        k: most latents of a sample.   k_meta: most atoms of a latent.
        generator: draws all that is drawn.
        n_starts: >= 1.   n_rounds: >= 1; steep frequencies or few samples want 5.
        tolerance: see `object_rows`.
    Raises: ValueError: as `object_rows` and `meta_dictionary`, held_out that does not fit.
    """
    where = "product_dictionary"
    check_size(where, n_latents=n_latents, n_meta=n_meta, k=k, k_meta=k_meta, n_starts=n_starts)
    _check_data(where, x, held_out, tolerance, generator)
    check(k_meta <= n_meta, where, f"k_meta <= {n_meta} (n_meta)", k_meta=k_meta)
    floor = tolerance * rms_norm(x)
    options = {"generator": generator, "tolerance": tolerance}
    starts = [object_rows(x, n_latents, k, **options) for _ in range(n_starts)]
    rows = max(starts, key=lambda start: data_fve(held_out, start, k, floor))
    return product_from_rows(
        x, rows, held_out=held_out, n_meta=n_meta, k=k, k_meta=k_meta, n_rounds=n_rounds, **options
    )


def product_from_rows(
    x: Float[Tensor, "n_samples d_in"],
    rows: Float[Tensor, "n_latents d_in"],
    *,
    held_out: Float[Tensor, "n_held d_in"],
    n_meta: int,
    k: int,
    k_meta: int,
    generator: torch.Generator,
    n_rounds: int = 2,
    tolerance: float = TOLERANCE,
) -> ProductDictionary:
    """Returns the product dictionary that begins at given rows, such as those of `refine_rows`.

    A round: `meta_dictionary` of the free rows with fresh restarts and, after the first round, from
    the atoms found before, the lower trimmed loss winning; then `polish`. Of the rounds the one
    that explains the held-out samples best is returned. Satisfies what `product_dictionary` does.

    Args: rows: [n_latents, d_in], non-zero, any norms.   The others: see `product_dictionary`.
    """
    where = "product_from_rows"
    check_size(where, k=k, n_rounds=n_rounds)
    _check_data(where, x, held_out, tolerance, generator)
    check_tensor(where, rows=rows)
    rule = f"rows of width {x.shape[1]}"
    check(rows.shape[-1:] == x.shape[1:], where, rule, rows_shape=tuple(rows.shape))
    free = checked_rows(where, rows.to(x.dtype), n_meta, k_meta, generator)
    check(k <= len(free), where, f"k <= {len(free)} (rows)", k=k)
    floor = tolerance * rms_norm(x)
    found, results, history = None, [], []
    for _ in range(n_rounds):
        fresh = meta_dictionary(free, n_meta, k_meta, generator=generator)
        warm = improve_meta(free, found.atoms, k_meta) if found else fresh
        best = min(fresh, warm, key=lambda meta: meta.loss)
        found = polish(x, free, best.atoms, k, k_meta, floor)
        free, mixing = found.free_rows, as_product(found.mixing, found.atoms)
        fve = data_fve(held_out, mixing @ found.atoms, k, floor)
        history.append(Round(best.loss, fve))
        results.append((fve, mixing, found))
    fve, mixing, found = max(results, key=lambda result: result[0])
    return ProductDictionary(
        mixing, found.atoms, found.free_rows, k, k_meta, floor, fve, tuple(history)
    )


def _check_data(
    where: str, x: Tensor, held_out: Tensor, tolerance: float, generator: torch.Generator
) -> None:
    check_samples(where, x, tolerance, generator)
    check_finite(where, held_out=held_out)
    shape, rule = tuple(held_out.shape), f"held_out of shape [n_held, {x.shape[1]}]"
    fits = held_out.ndim == 2 and shape[0] > 0 and shape[1] == x.shape[1]
    check(fits, where, rule, held_out_shape=shape)
    check(bool((held_out != 0).any()), where, "held_out that is not 0 everywhere", largest=0.0)
