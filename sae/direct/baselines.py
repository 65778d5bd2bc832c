"""What tells a failed solver from rows that hold no atoms: nearest rows, held-out rows."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae.checks import check
from sae.direct.meta_dictionary import (
    N_RESTARTS,
    checked_rows,
    meta_dictionary,
    mixtures,
)
from sae.meta_swap import unit_rows

SHARE = 0.8  # of the rows that `held_out_meta_fve` fits on


def nearest_composite(
    atoms: Float[Tensor, "n_atoms d_in"], rows: Float[Tensor, "n_rows d_in"]
) -> Float[Tensor, " n_atoms"]:
    """Returns each atom's largest cosine with a row: what copying the rows as atoms would reach.

    What a meta-SAE must beat to have learned anything. An upper bound on any one-to-one matching
    of rows to atoms. About 1 / sqrt(k') where the nearest feature mixes k' orthonormal atoms
    equally; not 0, and far above what isotropic rows reach.

    Args: both non-zero; only directions count.
    Returns: cosines in [-1, 1], signed: a row that points away from an atom does not hold it; in
        the wider of the two dtypes.
    Raises: ValueError: widths that differ, NaN, integers, zero rows.
    """
    unit_atoms, unit = unit_rows("nearest_composite", atoms=atoms, rows=rows)
    return (unit_atoms @ unit.T).amax(1)


def held_out_meta_fve(
    rows: Float[Tensor, "n_rows d_in"],
    n_meta: int,
    k_meta: int,
    *,
    generator: torch.Generator,
    n_restarts: int = N_RESTARTS,
) -> float:
    """Returns the FVE, on a random fifth of the rows, of the atoms fitted to the other rows.

    1 - mean |row - mixing @ atoms|^2 over the held-out unit rows, codes by pursuit. Needs no ground
    truth. Near 1 if the rows are mixtures of n_meta shared atoms, whatever the SAE's error, and
    restarts are many. Rows of a product are such mixtures by construction: ask of its `free_rows`.

    Null: structureless rows are coded by atoms that know nothing of them, at the level of the best
    k_meta of n_meta random directions: small and growing with k_meta / d_in. The same number in
    sample is no evidence: there structureless rows come close to true mixtures.

    Args: rows: at least 5.   The others: see `meta_dictionary`.
    Returns: fraction in [0, 1].
    """
    where = "held_out_meta_fve"
    unit = checked_rows(where, rows, n_meta, k_meta, generator)
    check(len(unit) >= 5, where, "at least 5 rows", n_rows=len(unit))
    order = torch.randperm(len(unit), device=unit.device, generator=generator)
    n_fitted = int(SHARE * len(unit))
    fitted, left = unit[order[:n_fitted]], unit[order[n_fitted:]]
    atoms = meta_dictionary(
        fitted, n_meta, k_meta, generator=generator, n_restarts=n_restarts
    ).atoms
    error = left - mixtures(left, atoms, k_meta) @ atoms
    return 1 - float(error.square().sum(1).mean())
