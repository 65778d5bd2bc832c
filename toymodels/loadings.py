"""Loadings: how much each unit's latent normal variable depends on the shared factors."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check, check_finite, check_size

ROUNDING = 1e-9  # by how much a norm may exceed 1, and an eigenvalue fall below 0


def check_loadings(where: str, loadings: Tensor, n_units: int | None = None) -> None:
    """Raises ValueError unless loadings are [n_units, rank] with rows of norm at most 1."""
    shape = tuple(loadings.shape)
    fits = loadings.ndim == 2 and min(shape) >= 1 and n_units in (None, shape[0])
    rule = f"loadings of shape ({n_units or ''} (n_features), rank), rank >= 1".replace("( (", "((")
    check(fits, where, rule, loadings_shape=shape)
    check_finite(where, loadings=loadings)
    longest = float(loadings.double().norm(dim=1).max())
    todo = f"multiply them by {1 / max(longest, 1):.9g} or less: latent variables have variance 1"
    check(longest <= 1 + ROUNDING, where, "rows of loadings of norm <= 1", todo, longest=longest)


def random_loadings(
    where: str, n_units: int, rank: int, scale: float, *, generator: torch.Generator
) -> Float[Tensor, "n_units rank"]:
    """Returns independent normal loadings of standard deviation `scale`, float64."""
    check_size(where, n_features=n_units, rank=rank)
    check(0 <= scale < float("inf"), where, "a finite scale >= 0", scale=scale)
    loadings = torch.randn(
        n_units, rank, dtype=torch.float64, device=generator.device, generator=generator
    )
    longest = float(loadings.norm(dim=1).max())
    rule = f"a scale of at most {1 / longest:.9g}, where the longest row of this draw has norm 1"
    check(longest * scale <= 1, where, rule, scale=scale)
    return loadings * scale


def check_correlation(where: str, correlation: Tensor) -> None:
    """Raises ValueError unless this is a square symmetric matrix in [-1, 1] with unit diagonal."""
    shape = tuple(correlation.shape)
    square = correlation.ndim == 2 and shape[0] == shape[1] >= 1
    check(square, where, "a square matrix of correlations", correlation_shape=shape)
    check_finite(where, correlation=correlation)
    diagonal = torch.diag((correlation.diagonal() - 1).abs() > ROUNDING)
    for wrong, rule in (
        (diagonal, "ones on the diagonal of the correlations"),
        (correlation.abs() > 1 + ROUNDING, "correlations in [-1, 1]"),
        ((correlation - correlation.T).abs() > ROUNDING, "a symmetric matrix of correlations"),
    ):
        if bool(wrong.any()):
            i, j = wrong.nonzero()[0].tolist()
            check(False, where, rule, **{f"correlation[{i}, {j}]": correlation[i, j].item()})


def loadings_of_correlation(
    where: str, correlation: Float[Tensor, "n_units n_units"]
) -> Float[Tensor, "n_units rank"]:
    """Returns F with F F^T = correlation and rank as small as can be, float64.

    Raises:
        ValueError: a matrix that is no correlation matrix. With least eigenvalue -x of what is off
            the diagonal, 1/x is the largest factor that makes it one.
    """
    check_correlation(where, correlation)
    values, vectors = torch.linalg.eigh(correlation.double())
    least = values[0].item()
    if least < -ROUNDING:
        rule = "a positive semi-definite matrix of latent correlations"
        todo = f"multiply its off-diagonal entries by {1 / (1 - least):.9g} or less"
        check(False, where, rule, todo, least_eigenvalue=least)
    kept = values > ROUNDING
    return vectors[:, kept] * values[kept].sqrt()


def loadings_strategy(n_units: int) -> Any:
    """Returns a Hypothesis strategy of loadings of rank 1 to 3, both signs, norms from 0 to 1."""
    from hypothesis import strategies as st

    def build(rows: list[list[float]]) -> Tensor:
        loadings = torch.tensor(rows, dtype=torch.float64)
        return loadings / loadings.norm(dim=1, keepdim=True).clamp(min=1)

    entry = st.sampled_from([0.0, 1.0, -1.0]) | st.floats(-1, 1)
    return st.integers(1, 3).flatmap(
        lambda rank: st.lists(
            st.lists(entry, min_size=rank, max_size=rank), min_size=n_units, max_size=n_units
        ).map(build)
    )
