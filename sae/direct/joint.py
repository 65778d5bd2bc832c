"""The joint polish: rows that explain the data and are mixtures of atoms."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from sae.direct.least_squares import least_squares_rows
from sae.direct.meta_dictionary import OUTLIER, mixtures
from sae.direct.object_rows import sparse_codes

N_STEPS = 8
_ATOM_STEPS = 4
_PER_FIRING = 0.02  # allowance for the noise of a row seen once, for each coordinate


@dataclass(frozen=True, eq=False)
class Polished:
    """free_rows: unit least-squares rows of the data.   atoms: unit.   mixing: of the free rows."""

    free_rows: Float[Tensor, "n_latents d_in"]
    atoms: Float[Tensor, "n_meta d_in"]
    mixing: Float[Tensor, "n_latents n_meta"]


def polish(
    x: Float[Tensor, "n_samples d_in"],
    rows: Float[Tensor, "n_latents d_in"],
    atoms: Float[Tensor, "n_meta d_in"],
    k: int,
    k_meta: int,
    floor: float,
) -> Polished:
    """Returns rows and atoms after 8 exact steps in turn on the data and on the rows.

    A step: codes of x by pursuit; free rows by least squares; 4 times mixtures of the free rows and
    atoms by least squares, row i weighted by the root of its n_i firings (full energy weights would
    leave the atoms to a few common rows); then each row becomes its mixture, unless its squared
    residual exceeds 0.15 + 0.02 d_in / (1 + n_i): such a row is wrong, or no mixture, and stays
    free, so that the wrong atoms cannot hold it in place.
    """
    for _ in range(N_STEPS):
        codes = sparse_codes(x, rows, k, floor)
        free = least_squares_rows(x[None], codes[None], rows[None])[0]
        n_firings = (codes > 0).sum(0)
        for _ in range(_ATOM_STEPS):
            mixing = mixtures(free, atoms, k_meta)
            weights = n_firings.to(x.dtype).sqrt()
            atoms = least_squares_rows(free[None], mixing[None], atoms[None], weights[None])[0]
        mixing = mixtures(free, atoms, k_meta)
        product = mixing @ atoms
        limit = OUTLIER + _PER_FIRING * x.shape[1] / (1 + n_firings)
        bad = (free - product).square().sum(1) > limit
        rows = torch.where(bad[:, None], free, normalize(product, dim=1))
    return Polished(free, atoms, mixing)
