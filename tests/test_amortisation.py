"""The amortisation gap: its parts, a witness in closed form, and its null."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory import amortisation, isotropic_rows
from theory.nonnegative import nonnegative_least_squares as nnls
from toymodels import stream

seeds = st.integers(0, 2**32 - 1)


def rows_of(*shape, seed, name="rows"):
    return isotropic_rows(*shape, generator=stream(seed, name), dtype=torch.float64)


def one_shot(x, rows, k, *, signed=False):
    h = x @ rows.T
    top = (h.abs() if signed else h).topk(k, 1).indices
    values = h.gather(1, top) if signed else h.gather(1, top).clamp(min=0)
    return torch.zeros_like(h).scatter(1, top, values)


def measured(x, latents, rows, b_dec=None, seed=0, **options):
    b_dec = torch.zeros_like(rows[0]) if b_dec is None else b_dec
    return amortisation(x, latents, rows, b_dec, generator=stream(seed, "null"), **options)


@given(st.integers(2, 5), st.integers(2, 5), st.booleans(), seeds)
def test_parts_against_full_search(m, d, nonnegative, seed):
    """fvu by its definition; refit by least squares; the search between best and refit."""
    rows, x = rows_of(m, d, seed=seed), 2 * rows_of(6, d, seed=seed, name="x")
    b_dec = rows_of(1, d, seed=seed, name="bias")[0]
    k = min(2, m)
    latents = one_shot(x - b_dec, rows, k, signed=not nonnegative)
    found = measured(x, latents, rows, b_dec, nonnegative=nonnegative)
    variance = (x - x.mean(0)).square().sum().item()
    as_is = (x - b_dec - latents @ rows).square().sum().item()
    refit = best = 0.0
    for y, z in zip((x - b_dec).numpy(), latents.numpy(), strict=True):
        size = int((z != 0).sum())
        own = tuple(np.flatnonzero(z))
        supports = list(itertools.combinations(range(m), size))
        errors = {s: _distance(y, rows.numpy()[list(s)], nonnegative) for s in supports}
        refit += errors[own]
        best += min(errors.values())
    assert found.fvu == pytest.approx(as_is / variance)
    assert found.refit_fvu == pytest.approx(refit / variance, abs=1e-9)
    assert best / variance - 1e-9 <= found.search_fvu <= found.refit_fvu
    assert min(found.magnitude_gap, found.selection_gap) >= 0
    assert found.gap == pytest.approx(found.magnitude_gap + found.selection_gap)


def _distance(y, atoms, nonnegative):
    if len(atoms) == 0:
        return np.square(y).sum()
    if nonnegative:
        return nnls(atoms.T, y)[1] ** 2
    return np.square(y - np.linalg.lstsq(atoms.T, y, rcond=None)[0] @ atoms).sum()


def test_witness():
    """d_1 _|_ d_2 _|_ d_3, <d_1, d_3> = .3: TopK(2) of d_1 + .2 d_2 takes d_3; OMP does not."""
    rows = torch.eye(3, dtype=torch.float64)
    rows[2, 0], rows[2, 2] = 0.3, 0.91**0.5
    x = (rows[:1] + 0.2 * rows[1:2]) * torch.tensor([[1.0], [2.0]])
    found = measured(x.double(), one_shot(x.double(), rows, 2), rows)
    energy, variance = 1.04 * 5, 1.04 * 0.5
    assert found.search_fvu == pytest.approx(0, abs=1e-12)
    assert found.refit_fvu == pytest.approx(0.04 * 5 / variance)
    assert found.selection_gap == pytest.approx(found.refit_fvu)
    assert found.gap > found.selection_gap  # the code also reads d_3 at .3 where it should at 0
    assert energy / variance > found.null_fvu > found.refit_fvu


def test_a_perfect_encoder_has_no_gap_and_a_shrunken_one_a_gap_of_magnitude():
    rows = torch.linalg.qr(torch.randn(8, 8, generator=stream(0, "q"), dtype=torch.float64)).Q
    codes = torch.rand(50, 8, generator=stream(0, "codes"), dtype=torch.float64)
    codes = codes * (codes > 0.7)
    perfect = measured(codes @ rows, codes, rows)
    assert (perfect.fvu, perfect.gap) == pytest.approx((0, 0), abs=1e-12)
    assert perfect.null_gap > 0.5
    shrunken = measured(codes @ rows, 0.5 * codes, rows)
    assert shrunken.selection_gap == pytest.approx(0, abs=1e-12)
    variance = (codes - codes.mean(0)).square().sum()
    assert shrunken.magnitude_gap == pytest.approx(float(0.25 * codes.square().sum() / variance))


def test_random_supports_meet_the_null():
    """An encoder that chooses at random: gap / null gap near 1, within the spread of 40 nulls."""
    rows, x = rows_of(24, 12, seed=0), rows_of(200, 12, seed=0, name="x")
    order = torch.rand(200, 24, generator=stream(0, "order")).argsort(1).argsort(1)
    latents = (order < 3).double()
    draws = [measured(x, latents, rows, seed=s) for s in range(10)]
    ratio = draws[0].selection_gap / (sum(f.null_gap for f in draws) / 10)
    spread = max(f.null_gap for f in draws) / min(f.null_gap for f in draws)
    assert spread < 1.1
    assert abs(ratio - 1) < 0.1  # 200 samples: a standard error of .01
    assert measured(x, one_shot(x, rows, 3), rows).selection_gap < 0.5 * draws[0].null_gap


@pytest.mark.parametrize("k", [0, 1, 3, 5])
def test_null_where_every_support_is_as_good(k):
    """Orthonormal latents, samples with equal parts along all five: k of them leave 5 - k parts."""
    rows = torch.linalg.qr(rows_of(5, 5, seed=0)).Q
    scales = torch.tensor([[1.0], [2], [3]], dtype=torch.float64)
    latents = (torch.arange(5) < k).double().expand(3, 5)
    x = scales * rows.sum(0)
    found = measured(x, latents, rows)
    variance = (x - x.mean(0)).square().sum().item()
    assert found.null_fvu == pytest.approx((5 - k) * 14 / variance, abs=1e-12)
    assert found.refit_fvu == pytest.approx((5 - k) * 14 / variance, abs=1e-12)


def test_extremes():
    rows, x = rows_of(4, 3, seed=0), rows_of(5, 3, seed=0, name="x")
    silent = measured(x, torch.zeros(5, 4, dtype=torch.float64), rows)
    assert silent.gap == silent.null_gap == 0
    dense = measured(x, torch.ones(5, 4, dtype=torch.float64), rows, nonnegative=False)
    assert dense.search_fvu == pytest.approx(0, abs=1e-12)  # four latents span three dimensions
    dead = measured(x, torch.ones(5, 4, dtype=torch.float64), 0 * rows)
    assert dead.gap == pytest.approx(0, abs=1e-12)


EYE = torch.eye(3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": EYE[:, :2]}, r"latents=\(3, 2\)"),
        ({"x": EYE[:2]}, r"x=\(2, 3\)"),
        ({"W_dec": EYE * math.nan}, "finite numbers in W_dec"),
        ({"x": torch.ones(3, 3)}, "x that varies between samples, got variance=0.0"),
        ({"latents": -EYE}, "latents >= 0, got least=-1.0; set nonnegative=False"),
        ({"b_dec": torch.zeros(2)}, r"b_dec=\(2,\)"),
    ],
)
def test_bad_input(unchecked, changes, message):
    given = {"x": EYE, "latents": EYE, "W_dec": EYE, "b_dec": torch.zeros(3)} | changes
    with pytest.raises(ValueError, match=message):
        amortisation(*given.values(), generator=stream(0, "null"))
