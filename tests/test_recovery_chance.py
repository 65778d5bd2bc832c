"""Recovery of random latents: the chance level, its proved bound, and what refutes chance."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import betaincc

from theory import (
    expected_best_cosine_bound,
    isotropic_rows,
    recovery,
    recovery_chance,
    recovery_chance_bound,
    recovery_radius,
)
from toymodels import stream

ALPHA = 1e-10
seeds = st.integers(0, 2**32 - 1)


def _rows(n, d, seed, name):
    return isotropic_rows(n, d, generator=stream(seed, name), dtype=torch.float64)


def assert_at_chance(n, m, d, signed, seed, chance):
    """Mean score of 16 fresh worlds against a mean of 16: each within McDiarmid's radius / 4.

    n = 64: radius .105 in all at alpha 1e-10; a chance level off by .21 is always caught.
    """
    draws = range(16)
    worlds = [(_rows(n, d, seed, f"D{i}"), _rows(m, d, seed, f"W{i}")) for i in draws]
    mean = sum(recovery(D, W, signed=signed).score for D, W in worlds) / len(worlds)
    radius = recovery_radius(16 * n, ALPHA / 2)
    assert abs(mean - chance) < 2 * radius
    assert mean < recovery_chance_bound(n, m, d, signed=signed) + radius


@given(st.integers(48, 96), st.integers(2, 20), st.booleans(), seeds)
def test_random_latents_score_at_chance(m, d, signed, seed):
    assert_at_chance(64, m, d, signed, seed, recovery_chance(64, m, d, signed=signed))


def test_chance_ignored_is_refuted():
    with pytest.raises(AssertionError):
        assert_at_chance(64, 64, 16, True, 0, chance=0.0)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.booleans(), seeds)
def test_chance_bound_holds_for_any_fixed_latents(n, m, d, signed, seed):
    """Latents fixed, here pairs of duplicates; features isotropic. Radius .85 / sqrt(n)."""
    W_dec = _rows(m, d, seed, "W")[torch.arange(m) // 2]
    scores = [recovery(_rows(n, d, seed, f"D{i}"), W_dec, signed=signed).score for i in range(16)]
    bound = recovery_chance_bound(n, m, d, signed=signed)
    assert sum(scores) / 16 <= bound + recovery_radius(16 * n, ALPHA)


@pytest.mark.parametrize(("d", "m"), [(2, 1), (3, 4), (16, 64), (64, 128), (64, 0.5), (500, 9000)])
def test_chance_bound_equals_its_integral(d, m):
    def tail(t):
        return m * betaincc(0.5, (d - 1) / 2, t * t)

    kink = brentq(lambda t: tail(t) - 1, 0, 1, xtol=1e-14) if m > 1 else 0.0
    edges = torch.linspace(kink, 1, 51, dtype=torch.float64).tolist()
    integral = kink + sum(quad(tail, *piece)[0] for piece in itertools.pairwise(edges))
    assert abs(expected_best_cosine_bound(d, m) - integral) < 1e-9
    assert integral <= math.sqrt(2 * math.log(2 * m + 1) / d)


def test_published_values_and_few_latents():
    assert abs(recovery_chance_bound(32, 64, 16, signed=False) - 0.63) < 0.005
    assert abs(recovery_chance(32, 64, 16, signed=False) - 0.60) < 0.005
    assert abs(recovery_chance_bound(256, 256, 64) - 0.362) < 0.0005
    # One latent for 10 features is worth at most a tenth of the best of ten cosines.
    tenth = expected_best_cosine_bound(8, 5.0) / 10
    assert recovery_chance_bound(10, 1, 8) == pytest.approx(tenth, rel=1e-12)


def test_significance_needs_more_than_chance():
    dictionary = _rows(128, 32, 0, "dictionary")
    assert recovery(dictionary, dictionary).exceeds_chance(ALPHA)
    assert not recovery(dictionary, _rows(256, 32, 0, "W")).exceeds_chance(ALPHA)
    assert not recovery(dictionary[:4], dictionary[:4]).exceeds_chance(
        ALPHA
    )  # 4 features: no power


def test_recovered_bound_holds_in_the_plane():
    """d_in = 2, one latent: |angle| < acos(.9) has probability 2 acos(.9) / (2 pi), exactly."""
    found = recovery(_rows(5, 2, 0, "D"), _rows(1, 2, 0, "W"))
    assert found.recovered_bound == pytest.approx(min(1, 5 * math.acos(0.9) / math.pi) / 5)


def test_no_global_randomness_and_unaffordable_chance():
    before = torch.get_rng_state()
    recovery_chance.cache_clear()
    found = recovery(_rows(3, 2, 0, "D").float(), _rows(4, 2, 0, "W").float())
    assert torch.equal(torch.get_rng_state(), before)
    assert found.chance == recovery(_rows(3, 2, 1, "D"), _rows(4, 2, 1, "W")).chance
    assert found.note == ""
    with pytest.raises(ValueError, match="recovery_chance: expected at most 4000000 pairs"):
        recovery_chance(5000, 1000, 4)
    large = recovery(torch.eye(2, 2), torch.eye(2, 2).repeat(2_000_001, 1))
    assert math.isnan(large.chance)
    assert "no chance" in large.note
