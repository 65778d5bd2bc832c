"""Fragility against full enumeration and finite differences; rotation and its null."""

import importlib
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory import eigenspace_rotation, fragility, isotropic_rows, projector_change
from theory.claims import g2
from toymodels import hadamard_union, polygon, stream

# The module, beside the function of the same name.
module = importlib.import_module("theory.fragility")
seeds = st.integers(0, 2**32 - 1)


def rows_of(*shape, seed, name="rows"):
    return isotropic_rows(*shape, generator=stream(seed, name), dtype=torch.float64)


def energies_of(n, seed):
    return torch.rand(n, generator=stream(seed, "energies"), dtype=torch.float64) + 0.05


def projector(dictionary, e, r):
    vectors = torch.linalg.eigh((dictionary.T * e) @ dictionary).eigenvectors.flip(1)[:, :r]
    return vectors @ vectors.T


@given(st.integers(1, 5), st.integers(2, 4), st.integers(1, 3), seeds)
def test_derivative_and_maximum(n, d, r, seed):
    """Central differences, whose error is at most (step |dS| / gap)^2 |dP| up to a factor of 4."""
    dictionary, e, r = rows_of(n, d, seed=seed), energies_of(n, seed), min(r, d - 1)
    found = fragility(dictionary, e, r)
    if found.gap < 1e-2:
        return
    largest = 0.0
    for signs in itertools.product([1.0, -1.0], repeat=n):
        xi = torch.tensor(signs, dtype=torch.float64)
        change = projector_change(dictionary, e, r, xi)
        step = 1e-4 * found.gap
        up, down = (projector(dictionary, e * (1 + t * xi), r) for t in (step, -step))
        error = torch.linalg.norm((up - down) / (2 * step) - change)
        size = float(e.sum())
        assert error < 4e-8 * size**3 / found.gap + 1e-15 / (step * found.gap) * size + 1e-9
        largest = max(largest, torch.linalg.norm(change).item())
    assert found.exact
    assert found.lower == found.upper == pytest.approx(largest, abs=1e-12)
    attained = torch.linalg.norm(projector_change(dictionary, e, r, found.signs)).item()
    assert attained == pytest.approx(largest, abs=1e-12)


@given(st.integers(2, 10), st.integers(2, 6), st.integers(1, 3), seeds)
def test_bounds_enclose_the_exact_maximum(n, d, r, seed):
    dictionary, e, r = rows_of(n, d, seed=seed), energies_of(n, seed), min(r, d - 1)
    exact = fragility(dictionary, e, r)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "EXACT_UP_TO", 0)
        bounds = fragility(dictionary, e, r)
    assert not bounds.exact
    if exact.gap == 0:  # fewer features than r: there is no derivative
        assert exact.lower == bounds.lower == bounds.upper == math.inf
        return
    assert 0.5 * exact.lower <= bounds.lower <= exact.lower * (1 + 1e-9)
    assert exact.upper <= bounds.upper * (1 + 1e-9)
    attained = torch.linalg.norm(projector_change(dictionary, e, r, bounds.signs)).item()
    assert attained == pytest.approx(bounds.lower, rel=1e-9)
    # A local maximum: no single flip is better, and random vertices are not above the certificate.
    for i in range(n):
        flipped = bounds.signs.clone()
        flipped[i] = -flipped[i]
        other = torch.linalg.norm(projector_change(dictionary, e, r, flipped)).item()
        assert other <= bounds.lower * (1 + 1e-6) + 1e-9


@given(st.integers(2, 30), seeds)
def test_climbing_ends_where_no_flip_leads_higher(n, seed):
    factor = rows_of(n, 4, seed=seed)
    form = factor @ factor.T
    start = 1.0 - 2 * (torch.rand(n, generator=stream(seed, "start")) < 0.5).double()
    value, signs = module._climb(form, start)
    assert value == pytest.approx(float(signs @ form @ signs))
    assert value >= float(start @ form @ start) - 1e-9
    for i in range(n):
        flipped = signs.clone()
        flipped[i] = -flipped[i]
        assert float(flipped @ form @ flipped) <= value + 1e-6


def test_many_features_have_tight_enough_bounds():
    dictionary, e = rows_of(48, 8, seed=0), energies_of(48, 0)
    found = fragility(dictionary, e, 3)
    assert not found.exact
    assert found.lower <= found.upper <= math.pi / 2 * found.lower
    assert found.null > 0


def test_closed_form_in_the_plane():
    """Two features at +-t: Sigma = 2 e diag(cos^2, sin^2), and xi = (1, -1) turns it fastest."""
    t, e = 0.4, 1.5
    rows = torch.tensor([[math.cos(t), math.sin(t)], [math.cos(t), -math.sin(t)]]).double()
    found = fragility(rows, torch.full((2,), e).double(), 1)
    expected = 2**0.5 * 2 * e * math.sin(t) * math.cos(t) / (2 * e * math.cos(2 * t))
    assert found.lower == pytest.approx(expected)
    assert found.gap == pytest.approx(2 * e * math.cos(2 * t))
    assert (found.signs[0] * found.signs[1]).item() == -1


def test_extremes():
    eye = torch.eye(4, dtype=torch.float64)
    e = torch.tensor([4.0, 3, 2, 1])
    assert fragility(eye, e, 2).upper == 0  # orthonormal features keep their eigenspaces
    assert fragility(eye, torch.ones(4), 2).lower == math.inf  # no gap: anything turns it
    tight = hadamard_union(4, dtype=torch.float64).vectors
    assert fragility(tight, torch.ones(8), 1).lower == math.inf
    many = torch.cat([tight, tight, tight])  # 24 features: the certificate is infinite as well
    assert fragility(many, torch.ones(24), 1).upper == math.inf
    for r in (0, 4):
        assert (fragility(eye, e, r).upper, fragility(eye, e, r).gap) == (0, math.inf)
    duplicates = fragility(eye[[0, 0, 1]], torch.tensor([1.0, 1, 1]), 1)
    assert (duplicates.upper, duplicates.gap) == (0, pytest.approx(1))


def test_rotation_of_known_angle_and_its_null():
    """1,000 random spaces, Hoeffding at 1e-10: radius .11."""
    t = 0.3
    turn = torch.eye(4, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[math.cos(t), math.sin(t)], [-math.sin(t), math.cos(t)]])
    first = torch.diag(torch.tensor([4.0, 1, 3, 0.5])).double()
    found = eigenspace_rotation(first, turn.T @ first @ turn, 2)
    assert found.score == pytest.approx(math.sin(t) ** 2 / 2)
    assert found.frobenius == pytest.approx(2**0.5 * math.sin(t))
    assert eigenspace_rotation(first, -first, 2).score == 1
    assert eigenspace_rotation(first, 7 * first, 2).score == pytest.approx(0, abs=1e-30)
    assert eigenspace_rotation(first, -first, 4).score == 0
    small = 1e-9  # 1 - cos^2 would round to 0
    turn[:2, :2] = torch.tensor([[1, small], [-small, 1]])
    assert eigenspace_rotation(first, turn.T @ first @ turn, 1).score == pytest.approx(small**2)
    draws = [eigenspace_rotation(first, (g := rows_of(5, 4, seed=s)).T @ g, 3) for s in range(1000)]
    mean = sum(f.score for f in draws) / 1000
    assert abs(mean - draws[0].null) < math.sqrt(math.log(2e10) / 2000)
    assert draws[0].null == 0.25


EYE = torch.eye(3)
ONES = torch.ones(3)


@pytest.mark.parametrize("changes", [(1.0, 1.0, -1.0, -1.0), (1.0, -1.0, 0.5, 0.5)])
def test_changes_that_cancel_have_no_eigenspace(changes):
    """Opposite rows: D^T diag(xi) D is rounding in the first case, its twin has a gap of 2."""
    instance = g2.Shifted(polygon(4, dtype=torch.float64), (1.0,) * 4, changes, step=0.5, r=1)
    assert instance.tight()
    assert bool(g2.compare(instance)) == (changes[1] != changes[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fragility(EYE, ONES, 4), r"0 <= r <= 3 \(d_in\), got r=4"),
        (lambda: fragility(EYE, 0 * ONES, 1), "not all 0"),
        (lambda: fragility(EYE * math.nan, ONES, 1), "finite numbers in rows"),
        (lambda: projector_change(EYE, ONES, 1, ONES), "a gap after the r-th eigenvalue"),
        (lambda: projector_change(EYE, ONES, 1, ONES * math.nan), "finite numbers in changes"),
        (lambda: eigenspace_rotation(EYE, EYE[:2], 1), r"after=\(2, 3\)"),
        (lambda: eigenspace_rotation(EYE, EYE, 0), r"1 <= r <= 3 \(d_in\), got r=0"),
        (lambda: eigenspace_rotation(EYE, EYE * math.inf, 1), "finite numbers in after"),
    ],
)
def test_bad_input(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()
