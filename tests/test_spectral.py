"""Spectral bounds: attained by unrestricted codes, refuted in their broken forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from weighted_rows import best_affine, rows_of, seeds, sizes, weights_of

from theory import (
    coherence_fve_bound,
    compressible_coherence,
    fve,
    spectral_fve_bound,
    spectral_loss_bound,
)


def assert_bound_is_attained(bound, rows, m, weights, bias):
    """The unrestricted optimum meets the bound exactly; void only where it explains everything."""
    best = fve(rows, best_affine(rows, m, weights, bias), weights=weights)
    value = bound(rows, m, weights, bias)
    assert abs(best - value) < 1e-9


def _spectral(rows, m, weights, bias):
    return spectral_fve_bound(rows, m, weights=weights, bias=bias).fve


@given(sizes, seeds, st.booleans())
def test_spectral_bound_is_the_unrestricted_optimum(shape, seed, bias):
    n, d, m = shape
    rows, weights = rows_of(n, d, seed), weights_of(n, seed)
    assert_bound_is_attained(_spectral, rows, m, weights, bias)
    rank = min(d, n - 1 - bias)  # one row has weight 0
    assert spectral_fve_bound(rows, m, weights=weights, bias=bias).void == (m >= rank)


@pytest.mark.parametrize(
    "broken",
    [
        lambda rows, m, weights, bias: min(1, m / len(rows)),
        lambda rows, m, weights, bias: _spectral(rows, m, None, bias),
        lambda rows, m, weights, bias: _spectral(rows, m, weights, False),
    ],
    ids=["m/n for every dictionary", "weights ignored", "bias ignored"],
)
def test_broken_spectral_bounds_are_refuted(broken):
    with pytest.raises(AssertionError):
        assert_bound_is_attained(broken, rows_of(9, 6, 0), 3, weights_of(9, 0), True)


@given(sizes, seeds, st.booleans())
def test_spectral_bound_holds_for_any_atoms(shape, seed, bias):
    """Random atoms and bias, best codes: never above. Adding latents never lowers the bound."""
    n, d, m = shape
    rows, weights = rows_of(n, d, seed), weights_of(n, seed)
    atoms = rows_of(m, d, seed, "atoms")
    centre = rows_of(1, d, seed, "bias") * bias
    reconstruction = centre + (rows - centre) @ torch.linalg.pinv(atoms) @ atoms
    assert fve(rows, reconstruction, weights=weights) <= _spectral(rows, m, weights, bias) + 1e-9
    assert _spectral(rows, m, weights, bias) <= _spectral(rows, m + 1, weights, bias) + 1e-9
    assert _spectral(rows, m, weights, True) <= _spectral(rows, m + 1, weights, False) + 1e-9


def test_orthonormal_spectral_values():
    eye = torch.eye(64, dtype=torch.float64)
    assert spectral_fve_bound(eye, 16, bias=False).fve == pytest.approx(0.25, abs=1e-12)
    assert spectral_fve_bound(eye, 16, bias=True).fve == pytest.approx(17 / 64, abs=1e-12)
    assert spectral_loss_bound(torch.diag(torch.tensor([4.0, 1.0, 2.0])), 1) == pytest.approx(3)
    assert spectral_loss_bound(torch.eye(3), 3) == 0


@given(st.integers(2, 12), st.integers(1, 8), st.integers(0, 12), seeds)
def test_closed_form_is_above_the_spectrum(n, d, m, seed):
    rows = rows_of(n, d, seed)
    gram = rows @ rows.T
    rms = ((gram.square().sum() - n) / (n * (n - 1))).clamp(min=0, max=1).sqrt().item()
    for rank in (min(n, d), n):
        bound = coherence_fve_bound(n, rank, rms, m)
        assert spectral_fve_bound(rows, m, bias=False).fve <= bound + 1e-9 or m >= min(n, d)
    coherence = (gram - torch.eye(n)).abs().max().item()
    assert coherence >= compressible_coherence(n, d) - 1e-12  # rank <= d


def test_closed_form_is_exact_for_tight_rows():
    """[I, H/2] in d = 4 is tight with n = 8: m/d. Orthonormal rows: m/n. Simplex: equality."""
    hadamard = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    rows = torch.cat([torch.eye(4), hadamard]).double()
    rms = math.sqrt(2 * 16 * 0.25 / (8 * 7))
    assert coherence_fve_bound(8, 4, rms, 1) == pytest.approx(1 / 4, abs=1e-9)
    assert spectral_fve_bound(rows, 1, bias=False).fve == pytest.approx(1 / 4, abs=1e-12)
    assert coherence_fve_bound(8, 8, 0.0, 2) == 1 / 4
    simplex = torch.eye(5, dtype=torch.float64) - 0.2
    cosines = torch.nn.functional.normalize(simplex) @ torch.nn.functional.normalize(simplex).T
    assert compressible_coherence(5, 4) == pytest.approx(cosines[0, 1].abs().item(), abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spectral_loss_bound(torch.ones(2, 3), 1), "a square matrix"),
        (lambda: spectral_loss_bound(torch.tensor([[1.0, 2], [0, 1]]), 1), "symmetric"),
        (lambda: spectral_loss_bound(-torch.eye(2), 1), "semi-definite"),
        (lambda: coherence_fve_bound(4, 5, 0.1, 2), "rank=5"),
    ],
)
def test_bad_input(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()
