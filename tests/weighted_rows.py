"""Random weighted rows and their best low-rank reconstruction, for tests of meta-SAEs."""

import torch
from hypothesis import strategies as st

from theory import isotropic_rows
from toymodels import stream

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(2, 12), st.integers(1, 8), st.integers(1, 12))


def rows_of(n, d, seed, name="rows"):
    return isotropic_rows(n, d, generator=stream(seed, name), dtype=torch.float64)


def weights_of(n, seed):
    """Log-uniform over six decades, the first row of weight 0."""
    weights = 10 ** (6 * torch.rand(n, generator=stream(seed, "weights"), dtype=torch.float64))
    weights[0] = 0
    return weights


def best_affine(rows, m, weights, bias):
    """The best rank-m reconstruction about the mean (or 0), by projecting on top eigenvectors."""
    centre = (weights / weights.sum()) @ rows if bias else torch.zeros_like(rows[0])
    centred = rows - centre
    basis = torch.linalg.eigh(centred.T @ (weights[:, None] * centred)).eigenvectors.flip(1)[:, :m]
    return centre + centred @ basis @ basis.T
