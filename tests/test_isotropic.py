"""Isotropic nulls: the held-out bound, the composition p-value, and their broken twins."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import betaincc, betaln, comb, gammaln

from theory import (
    best_support,
    composition_p_value,
    dkw_radius,
    hoeffding_radius,
    isotropic_fve_bound,
    isotropic_fve_floor,
    isotropic_rows,
)
from toymodels import stream

ALPHA = 1e-10
N = 2000
seeds = st.integers(0, 2**32 - 1)
SIZES = st.sampled_from([(4, 3, 1), (6, 9, 2), (12, 8, 2), (8, 12, 3), (5, 5, 5), (24, 6, 1)])


def _rows(n, d, seed, name):
    return isotropic_rows(n, d, generator=stream(seed, name), dtype=torch.float64)


def _held_out(d, m, k, seed, atoms=None):
    atoms = _rows(m, d, seed, "atoms") if atoms is None else atoms
    return best_support(_rows(N, d, seed, "held out"), atoms, k).r_squared


@pytest.mark.parametrize(
    ("d", "m", "k"), [(32, 64, 3), (64, 64, 3), (5, 7, 2), (9, 8, 8), (3, 50, 1), (200, 1000, 10)]
)
def test_bound_equals_its_integral(d, m, k):
    def tail(t):
        return comb(m, k) * betaincc(k / 2, (d - k) / 2, t)

    kink = brentq(lambda t: tail(t) - 1, 0, 1, xtol=1e-14) if m > k else 0.0
    edges = torch.linspace(kink, 1, 51, dtype=torch.float64).tolist()
    integral = kink + sum(quad(tail, *piece)[0] for piece in itertools.pairwise(edges))
    assert abs(isotropic_fve_bound(d, m, k) - integral) < 1e-9


def test_bound_values_and_extremes():
    assert abs(isotropic_fve_bound(32, 64, 3) - 0.6) < 0.02
    assert abs(isotropic_fve_bound(64, 64, 3) - 0.35) < 0.01
    assert isotropic_fve_bound(8, 2, 2) == pytest.approx(2 / 8, abs=1e-12)  # m = k: exact mean
    assert isotropic_fve_bound(3, 9, 3) == 1
    assert isotropic_fve_bound(2, 10**6, 1) <= 1
    # Beyond the floating-point range of C(m, k) the closed form continues the curve from above.
    inside, beyond = isotropic_fve_bound(20000, 40000, 90), isotropic_fve_bound(20000, 40000, 100)
    assert 100 / 20000 < inside < beyond < 0.13


@given(st.integers(2, 300), st.integers(1, 300), st.integers(1, 12))
def test_bound_is_between_floor_and_closed_form_and_monotone(d, m, k):
    k = min(k, m)
    value = isotropic_fve_bound(d, m, k)
    log_count = math.log(comb(m, k))
    closed = (k + 2 * math.sqrt(k * log_count) + 2 * log_count) / d
    assert isotropic_fve_floor(d, m, k, 0.0) - 1e-12 <= value <= min(1.0, closed) + 1e-9
    assert isotropic_fve_bound(d, m + 1, k) >= value - 1e-9
    assert isotropic_fve_bound(d + 1, m, k) <= value + 1e-9


def assert_bounds_held_out(upper, lower, d, m, k, seed, atoms=None):
    """Hoeffding at 1e-10: N = 2,000 held-out rows, radius .077."""
    mean = _held_out(d, m, k, seed, atoms).mean().item()
    radius = hoeffding_radius(N, 1, ALPHA)
    assert lower - radius <= mean <= upper + radius


@given(SIZES, seeds)
def test_bounds_hold_for_random_atoms(sizes, seed):
    d, m, k = sizes
    atoms = _rows(m, d, seed, "atoms")
    frame = torch.linalg.eigvalsh(atoms.T @ atoms)[0].clamp(min=0).item()
    upper, lower = isotropic_fve_bound(d, m, k), isotropic_fve_floor(d, m, k, frame)
    assert_bounds_held_out(upper, lower, d, m, k, seed)


def test_false_bounds_are_refuted():
    """k/d is not an upper bound when m > k; nu is not a lower bound when atoms are clustered."""
    nu = isotropic_fve_bound(8, 12, 3)
    with pytest.raises(AssertionError):
        assert_bounds_held_out(3 / 8, 0.0, 8, 12, 3, 0)
    clustered = _rows(3, 8, 0, "atoms").repeat(4, 1)
    with pytest.raises(AssertionError):
        assert_bounds_held_out(nu, nu, 8, 12, 3, 0, clustered)


def test_nu_is_no_bound_in_sample():
    """Rows among their own atoms are explained exactly: the held-out condition is needed."""
    atoms = _rows(12, 24, 0, "atoms")
    assert best_support(atoms, atoms, 1).r_squared.min() > 1 - 1e-12
    assert isotropic_fve_bound(24, 12, 1) < 0.3


@given(st.integers(2, 12), seeds)
def test_greedy_floor_holds_for_every_direction(d, seed):
    """Orthonormal atoms have A = 1 = m/d: every direction reaches 1 - (1 - 1/d)^k."""
    atoms = torch.linalg.qr(_rows(d, d, seed, "basis")).Q
    targets = torch.cat([_rows(20, d, seed, "targets"), atoms.sum(0, keepdim=True)])
    for k in (1, min(2, d)):
        floor = 1 - (1 - 1 / d) ** k
        assert best_support(targets, atoms, k).r_squared.min() >= floor - 1e-12
        assert isotropic_fve_floor(d, d, k, 1.0) >= floor - 1e-12


def assert_super_uniform(p_values):
    """F_N(u) <= u + .077 at every u (DKW at 1e-10, N = 2,000)."""
    ordered = p_values.sort().values
    empirical = torch.arange(1, len(ordered) + 1) / len(ordered)
    assert (empirical - ordered).max() <= dkw_radius(len(ordered), ALPHA)


@given(SIZES.filter(lambda sizes: sizes[2] < sizes[0]), seeds)
def test_composition_p_values_are_super_uniform(sizes, seed):
    d, m, k = sizes
    assert_super_uniform(composition_p_value(_held_out(d, m, k, seed), d, m, k))


def test_without_counting_supports_p_values_are_not_valid():
    def one_support(r_squared, d, m, k):
        return composition_p_value(r_squared, d, m, k) / comb(m, k)

    with pytest.raises(AssertionError):
        assert_super_uniform(one_support(_held_out(12, 8, 2, 0), 12, 8, 2))


def test_composition_p_value_positive_exact_and_far_tail():
    atoms = _rows(20, 64, 0, "atoms")
    composed = atoms[:10] + 0.5 * atoms[10:]
    found = composition_p_value(best_support(composed, atoms, 2).r_squared, 64, 20, 2)
    assert found.max() < ALPHA
    # One atom in d = 3: R_1^2 = cos^2, |cos| uniform on [0, 1], so P = 1 - |cos| exactly.
    cosines = torch.tensor([[0.0, 0.3], [0.9, 1.0]], dtype=torch.float64)
    assert torch.allclose(composition_p_value(cosines**2, 3, 1, 1), 1 - cosines)
    assert composition_p_value(torch.tensor([0.99]), 3, 5, 3).item() == 1


def test_composition_p_value_survives_underflow():
    """Beta(50, 950) tails below 1e-308 times C(10^5, 100), e^788: small, but not 0."""
    d, m, k, a, b = 2000, 10**5, 100, 50, 950
    log_count = gammaln(m + 1) - gammaln(k + 1) - gammaln(m - k + 1)
    t = torch.linspace(0.62, 0.7, 9, dtype=torch.float64)
    assert betaincc(a, b, t.numpy()).max() == 0
    lower = log_count + (a - 1) * t.log() + b * torch.log1p(-t) - math.log(b) - betaln(a, b)
    found = composition_p_value(t, d, m, k)
    assert (found >= lower.exp().clamp(max=1)).all()
    assert (found.diff() <= 0).all()
    assert lower[0] > 0 > lower[-1]


def test_isotropic_rows_are_unit_and_uniform():
    """In d = 3 each coordinate is uniform on [-1, 1]: DKW at 1e-10, N = 2,000, radius .077."""
    rows = _rows(N, 3, 0, "rows")
    assert torch.allclose(rows.norm(dim=1), torch.ones(N, dtype=torch.float64))
    for column in rows.T:
        ordered = (column.sort().values + 1) / 2
        empirical = torch.arange(1, N + 1) / N
        assert (empirical - ordered).abs().max() <= dkw_radius(N, ALPHA)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: isotropic_fve_bound(8, 3, 4), r"1 <= k <= 3 \(m\), got k=4"),
        (lambda: isotropic_fve_bound(0, 3, 1), "got d=0, m=3"),
        (lambda: isotropic_fve_floor(4, 8, 2, 3.0), r"m/d = 2, got frame_bound=3.0"),
        (lambda: composition_p_value(torch.tensor([1.2]), 8, 4, 2), "r_squared in"),
        (lambda: composition_p_value(torch.tensor([math.nan]), 8, 4, 2), "finite"),
        (lambda: isotropic_rows(0, 3, generator=stream(0, "x")), "sizes >= 1"),
    ],
)
def test_bad_input(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()
