"""Atoms of given rows: a sparse non-negative factorisation by many restarts at once."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from sae.checks import check, check_generator, check_size
from sae.direct.least_squares import least_squares_rows
from sae.direct.pursuit import check_solvable, pursue

N_RESTARTS = 16
WIDTH = 1.5  # of the restarts before pruning, over n_meta
OUTLIER = 0.15  # squared residual from which a unit row counts as not composed
_WELL_FITTED, _LIGHT = 0.1, 0.02
_FREE_STEPS, _TRIMMED_STEPS, _LAST = 100, 40, 5
_EXPLAINED = 1e-4  # unit rows: tolerance of the pursuit


@dataclass(frozen=True, eq=False)
class MetaDictionary:
    """Atoms and mixtures of rows: rows are about mixing @ atoms.

    Args:
        atoms: [n_meta, d_in], unit rows.
        mixing: [n_rows, n_meta], >= 0, at most k_meta non-zeros in a row, by pursuit.
        loss: mean over the rows of min(|row - mixing @ atoms|^2, 0.15), in sample; not evidence of
            composition: structureless rows reach a low one too (`held_out_meta_fve`).
        losses: [n_restarts], of all restarts; the least is `loss`.
    """

    atoms: Float[Tensor, "n_meta d_in"]
    mixing: Float[Tensor, "n_rows n_meta"]
    loss: float
    losses: Float[Tensor, " n_restarts"]


def meta_dictionary(
    rows: Float[Tensor, "n_rows d_in"],
    n_meta: int,
    k_meta: int,
    *,
    generator: torch.Generator,
    n_restarts: int = N_RESTARTS,
    width: int | float = WIDTH,
) -> MetaDictionary:
    """Returns the best of `n_restarts` factorisations rows = mixing @ atoms, mixing >= 0 sparse.

    Each restart begins with width * n_meta random directions and takes 100 alternating steps:
    mixtures by non-negative pursuit, atoms by least squares, an atom in fewer than two rows
    replaced by a residual. It keeps the n_meta atoms that most well-fitted rows use (squared
    residual below 0.1) and takes 40 steps in which rows with a residual above 0.15 weigh 0.02.
    All restarts run as one batch; the least trimmed loss wins. All rows weigh the same: weights
    would leave few rows to find supports with.

    On the rows of a true dictionary this is the oracle: atoms that it misses there are the solver's
    failure, atoms that it finds there and misses in an SAE's rows are the SAE's. Satisfies S3
    (mixing >= 0, k_meta-sparse) approximately: the rows are the data, not the product.

    Args:
        rows: [n_rows, d_in], float32 or float64, non-zero, of any norms; only their directions
            count.
        n_meta: too many costs little, too few cannot succeed.
        k_meta: 1 <= k_meta <= n_meta.
        generator: draws the first atoms.
        n_restarts: >= 1; mixtures of four and more need 64 at width 2.
        width: >= 1; 1 prunes nothing.
    Raises: ValueError: sizes out of range, NaN, zero rows.
    """
    where = "meta_dictionary"
    rows = checked_rows(where, rows, n_meta, k_meta, generator)
    check_size(where, n_restarts=n_restarts)
    check(1 <= width < float("inf"), where, "a finite width >= 1", width=width)
    shape = (n_restarts, int(width * n_meta), rows.shape[1])
    start = torch.randn(shape, dtype=rows.dtype, device=rows.device, generator=generator)
    many = rows.expand(n_restarts, -1, -1)
    atoms = _alternate(many, normalize(start, dim=2), k_meta, _FREE_STEPS, trimmed=False)
    if atoms.shape[1] > n_meta:
        atoms = _most_used(many, atoms, n_meta, k_meta)
    return _best(many, _alternate(many, atoms, k_meta, _TRIMMED_STEPS, trimmed=True), k_meta)


def improve_meta(
    rows: Float[Tensor, "n_rows d_in"], atoms: Float[Tensor, "n_meta d_in"], k_meta: int
) -> MetaDictionary:
    """Returns the factorisation of unit rows that 40 trimmed steps reach from given atoms."""
    found = _alternate(rows[None], atoms[None], k_meta, _TRIMMED_STEPS, trimmed=True)
    return _best(rows[None], found, k_meta)


def mixtures(
    rows: Float[Tensor, "n_rows d_in"], atoms: Float[Tensor, "n_meta d_in"], k_meta: int
) -> Float[Tensor, "n_rows n_meta"]:
    """Returns the non-negative k_meta-sparse mixtures of unit rows in unit atoms, by pursuit."""
    return pursue(rows[None], atoms[None], k_meta, _EXPLAINED)[0]


def checked_rows(
    where: str, rows: Tensor, n_meta: int, k_meta: int, generator: torch.Generator
) -> Float[Tensor, "n_rows d_in"]:
    """Returns the rows made unit. Raises ValueError where they, or the sizes, do not fit."""
    check_solvable(where, rows=rows)
    shape = tuple(rows.shape)
    check(rows.ndim == 2 and rows.numel() > 0, where, "rows [n_rows, d_in]", rows_shape=shape)
    check_size(where, n_meta=n_meta, k_meta=k_meta)
    check(k_meta <= n_meta, where, f"k_meta <= {n_meta} (n_meta)", k_meta=k_meta)
    zero = (rows == 0).all(1).nonzero().flatten()[:5].tolist()
    check(not zero, where, "rows with a direction", "remove these rows", zero_rows=zero)
    check_generator(where, generator, rows.device)
    return normalize(rows.detach(), dim=1)


def _alternate(
    rows: Float[Tensor, "runs n d_in"],
    atoms: Float[Tensor, "runs m d_in"],
    k: int,
    n_steps: int,
    *,
    trimmed: bool,
) -> Float[Tensor, "runs m d_in"]:
    for step in range(n_steps):
        codes = pursue(rows, atoms, k, _EXPLAINED)
        residual = rows - codes @ atoms
        error = residual.square().sum(2)
        weights = torch.where(error > OUTLIER, _LIGHT, 1.0) if trimmed else torch.ones_like(error)
        atoms = least_squares_rows(rows, codes, atoms, weights)
        if step < n_steps - _LAST:
            # An atom of one row is a copy of it. Idle atom number i takes the i-th worst row.
            idle = (codes > 0).sum(1) < 2
            number = (idle.cumsum(1) - 1).clamp(min=0, max=rows.shape[1] - 1)
            worst = error.argsort(dim=1, descending=True, stable=True).gather(1, number)
            fresh = residual.gather(1, worst[..., None].expand_as(atoms))
            atoms = torch.where(idle[..., None], normalize(fresh, dim=2), atoms)
    return atoms


def _most_used(rows: Tensor, atoms: Tensor, n_meta: int, k: int) -> Float[Tensor, "runs m d_in"]:
    codes = pursue(rows, atoms, k, _EXPLAINED)
    well = (rows - codes @ atoms).square().sum(2) < _WELL_FITTED
    n_uses = ((codes > 0) & well[..., None]).sum(1)
    kept = n_uses.argsort(dim=1, descending=True, stable=True)[:, :n_meta]
    return atoms.gather(1, kept[..., None].expand(-1, -1, atoms.shape[2]))


def _best(rows: Tensor, atoms: Tensor, k: int) -> MetaDictionary:
    codes = pursue(rows, atoms, k, _EXPLAINED)
    losses = (rows - codes @ atoms).square().sum(2).clamp(max=OUTLIER).mean(1)
    best = int(losses.argmin())
    return MetaDictionary(atoms[best], codes[best], float(losses[best]), losses)
