"""FVE, its surrogate null and its copy lower end, with broken twins."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from weighted_rows import best_affine, rows_of, seeds, sizes, weights_of

from theory import (
    compressibility,
    copy_baseline,
    dkw_radius,
    effective_n_rows,
    fve,
    held_out_radius,
    isotropic_fve_bound,
    isotropic_rows,
    isotropic_surrogates,
    omp,
    spectral_fve_bound,
    surrogate_p_value,
)
from toymodels import stream

ALPHA = 1e-10


def _naive_fve(rows, reconstruction, weights):
    loss = sum(
        w * (r - q).norm() ** 2 for w, r, q in zip(weights, rows, reconstruction, strict=True)
    )
    return 1 - (loss / sum(w * r.norm() ** 2 for w, r in zip(weights, rows, strict=True))).item()


def _centred_fve(rows, reconstruction, weights):
    centred = rows - (weights / weights.sum()) @ rows
    loss = (weights * (rows - reconstruction).square().sum(1)).sum()
    return 1 - (loss / (weights * centred.square().sum(1)).sum()).item()


def assert_is_uncentred_fve(function, rows, reconstruction, weights):
    assert (
        abs(function(rows, reconstruction, weights) - _naive_fve(rows, reconstruction, weights))
        < 1e-9
    )


@given(sizes, seeds)
def test_fve_equals_its_definition(shape, seed):
    n, d, _ = shape
    rows, other, weights = (
        3 * rows_of(n, d, seed),
        rows_of(n, d, seed, "other"),
        weights_of(n, seed),
    )
    assert_is_uncentred_fve(lambda r, q, w: fve(r, q, weights=w), rows, other, weights)
    assert fve(rows, rows, weights=weights) == 1
    assert fve(rows, 0 * rows) == 0
    assert fve(rows, other) == pytest.approx(fve(rows, other, weights=torch.full((n,), 7.0)))


def test_centred_fve_is_refuted():
    rows = rows_of(5, 3, 0) + 1
    with pytest.raises(AssertionError):
        assert_is_uncentred_fve(_centred_fve, rows, 0 * rows, torch.ones(5).double())


def _spectral(rows, m, weights, bias):
    return spectral_fve_bound(rows, m, weights=weights, bias=bias).fve


@given(sizes, st.integers(1, 3), seeds)
def test_copy_baseline_is_between_the_trivial_end_and_the_spectrum(shape, k, seed):
    n, d, m = shape
    rows, weights = rows_of(n, d, seed), weights_of(n, seed)
    k = min(k, m)
    top = (weights.sort(descending=True).values[:m].sum() / weights.sum()).item()
    value = copy_baseline(rows, m, k, weights=weights)
    signed = copy_baseline(rows, m, k, weights=weights, nonnegative=False)
    assert top - 1e-9 <= value <= _spectral(rows, m, weights, False) + 1e-9
    assert signed <= _spectral(rows, m, weights, False) + 1e-9
    assert m < n or value == 1


def test_copy_baseline_values():
    """Orthonormal: exactly m/n. Duplicates: m distinct rows explain all. Composites: coded."""
    eye = torch.eye(8, dtype=torch.float64)
    assert copy_baseline(eye, 3, 2) == pytest.approx(3 / 8, abs=1e-12)
    assert copy_baseline(eye.repeat_interleave(2, 0), 8, 1) == pytest.approx(1, abs=1e-12)
    # One-sparse codes: the heavy mixture is worth a copy although it lies in the others' span.
    mixed = torch.cat([eye[:2], eye[:1] / 2**0.5 + eye[1:2] / 2**0.5, eye[2:3]])
    weights = torch.tensor([1, 1, 0.9, 0.1]).double()
    assert copy_baseline(mixed, 3, 1, weights=weights) == pytest.approx(1 - 0.1 / 3)
    composed = torch.cat([2 * eye, eye[:4] + eye[4:], eye[:4] - eye[4:]])
    assert copy_baseline(composed, 8, 2, nonnegative=False) == pytest.approx(1, abs=1e-12)
    assert copy_baseline(composed, 8, 2) == pytest.approx(1 - 4 / 48, abs=1e-12)


@given(st.integers(2, 8), st.integers(1, 4), seeds)
def test_signed_copy_baseline_reaches_its_greedy_floor(d, k, seed):
    """m/n + (1 - m/n)(1 - (1 - A/m)^k); the copied rows, an orthonormal basis, have A = 1."""
    basis = torch.linalg.qr(rows_of(d, d, seed, "basis")).Q
    rows = torch.cat([basis, rows_of(2 * d, d, seed) * (1 - 1e-6)])
    k = min(k, d)
    floor = 1 / 3 + (2 / 3) * (1 - (1 - 1 / d) ** k)
    assert copy_baseline(rows, d, k, nonnegative=False) >= floor - 1e-5


def _pca_fve(rows):
    """A recipe: the best bias-free 2-atom reconstruction, in sample. Batched over worlds."""
    spectrum = torch.linalg.svdvals(rows).square()
    return spectrum[..., :2].sum(-1) / spectrum.sum(-1)


def assert_super_uniform(p_values):
    """Pr(p <= u) <= u at every attainable u: DKW at 1e-10, N = 2,000, radius .077."""
    p_values = torch.tensor(p_values, dtype=torch.float64)
    for u in p_values.unique():
        for level in (u.item(), u.item() - 1e-9):
            assert (p_values <= level).double().mean() <= level + dkw_radius(2000, ALPHA)


def test_p_values_are_super_uniform_and_broken_ones_are_not():
    """Real rows are isotropic too: 2,000 worlds of 6 rows in 4 dimensions, 8 surrogates each."""
    worlds = isotropic_rows(2000, 9, 6, 4, generator=stream(0, "worlds"), dtype=torch.float64)
    values = _pca_fve(worlds)
    scores, nulls = values[:, 0].tolist(), values[:, 1:]
    assert_super_uniform([surrogate_p_value(s, n) for s, n in zip(scores, nulls, strict=True)])
    without_one = ((nulls >= values[:, :1]).sum(1) / 8).tolist()
    with pytest.raises(AssertionError):
        assert_super_uniform(without_one)
    # Surrogates fitted by a weaker recipe: every real set looks compressible.
    weaker_recipe = [surrogate_p_value(s, 0.9 * n) for s, n in zip(scores, nulls, strict=True)]
    with pytest.raises(AssertionError):
        assert_super_uniform(weaker_recipe)


def _report(rows, seed, **changes):
    surrogates = isotropic_surrogates(*rows.shape, 19, generator=stream(seed, "null"))
    nulls = _pca_fve(surrogates.double())
    reconstruction = best_affine(rows, 2, torch.ones(len(rows)).double(), False)
    options = {"n_latents": 2, "k": 2, "bias": False, "null_fves": nulls} | changes
    return compressibility(rows, reconstruction, **options)


def test_report_on_planted_and_structureless_rows():
    """Rows in a plane: FVE 1, p at its minimum. Structureless rows: nothing beyond the null."""
    planted = _report(rows_of(40, 2, 0) @ rows_of(2, 16, 0, "plane"), 0)
    assert planted.fve == pytest.approx(1, abs=1e-12)
    assert planted.excess == pytest.approx(1 - planted.null)
    assert planted.p_value == 1 / 20
    assert planted.spectral_bound.void
    random = _report(rows_of(40, 16, 1), 1)
    assert abs(random.excess) < planted.excess / 5
    assert random.copy_baseline < random.fve <= random.spectral_bound.fve + 1e-12
    # The null is far from 0: in sample 2 of 16 directions hold a quarter of random rows' energy.
    assert random.null > 2 / 16 + 0.05


@given(st.integers(1, 30), st.floats(1e-300, 1e300), seeds)
def test_effective_rows(n, scale, seed):
    assert effective_n_rows(torch.full((n,), scale, dtype=torch.float64)) == pytest.approx(n)
    weights = torch.rand(n, generator=stream(seed, "weights"), dtype=torch.float64) + 1e-3
    naive = sum(weights.tolist()) ** 2 / sum(w * w for w in weights.tolist())
    assert effective_n_rows(weights) == pytest.approx(naive)
    assert effective_n_rows(torch.eye(n)[0]) == 1


def test_held_out_rejection():
    """Isotropic rows are not rejected, composites are; 1 % of the rows with all weight are few."""
    atoms = rows_of(20, 64, 0, "atoms")
    nu = isotropic_fve_bound(64, 20, 2)
    weights = torch.ones(500, dtype=torch.float64)
    radius = held_out_radius(effective_n_rows(weights), ALPHA)
    for rows, rejected in ((rows_of(500, 64, 0), False), (atoms.repeat(25, 1) + atoms[0], True)):
        explained = fve(rows, omp(rows, atoms, 2) @ atoms)
        assert (explained - nu > radius) == rejected
    weights[5:] = 0
    assert held_out_radius(effective_n_rows(weights), ALPHA) == pytest.approx(10 * radius)


ROWS = torch.eye(3)
NULLS = torch.linspace(0, 1, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"null_fves": NULLS[:7]}, "expected >= 8 nulls, got n=7; refit the same recipe"),
        ({"null_fves": NULLS * math.nan}, "null_fves"),
        ({"weights": torch.tensor([1.0, -1.0, 1.0])}, "weights >= 0, not all 0, got minimum=-1"),
        ({"weights": torch.zeros(3)}, "sum=0"),
        ({"weights": torch.ones(2)}, r"weights of shape \(3,\).*got weights=\(2,\)"),
        ({"weights": torch.tensor([1.0, math.inf, 1.0])}, r"weights\[1\]=inf"),
        ({"k": 3, "n_latents": 2}, r"1 <= k <= 2 \(n_latents\), got k=3"),
        ({"rows": ROWS * math.nan}, "finite numbers in rows"),
        ({"rows": 0 * ROWS}, "positive weighted energy"),
        ({"reconstruction": torch.eye(2)}, r"rows=\(3, 3\), reconstruction=\(2, 2\)"),
    ],
)
def test_bad_input(unchecked, changes, message):
    options = {"rows": ROWS, "reconstruction": ROWS, "n_latents": 2, "k": 1, "bias": False}
    options |= {"null_fves": NULLS} | changes
    with pytest.raises(ValueError, match=message):
        compressibility(options.pop("rows"), options.pop("reconstruction"), **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: isotropic_surrogates(4, 3, 7, generator=stream(0, "x")), "n_surrogates >= 8"),
        (lambda: held_out_radius(0, 0.1), "n_effective"),
    ],
)
def test_bad_input_elsewhere(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()
