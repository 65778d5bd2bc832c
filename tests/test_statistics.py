"""Tests of the tests: radii against exact tails, false alarms, power, and sample sizes."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import binom

from theory import (
    bernstein_radius,
    binomial_p_values,
    dkw_radius,
    expected_unseen,
    hoeffding_radius,
    mcdiarmid_radius,
    rare_rate_samples,
    samples_to_see_all,
    smallest_caught_error,
)
from toymodels import stream

counts_n = st.integers(1, 400)
probs = st.floats(0.001, 0.999)
levels = st.sampled_from([0.3, 0.05, 1e-3, 1e-10])


def _exact_miss(n, p, radius):
    """Pr(|Bin(n, p)/n - p| >= radius), summed from the mass function; boundary counts included."""
    k = torch.arange(n + 1, dtype=torch.float64)
    outside = (k / n - p).abs() >= radius * (1 - 1e-12)
    return binom.pmf(k[outside].numpy(), n, p).sum()


def assert_radius_is_valid(radius, n, p, alpha):
    assert _exact_miss(n, p, radius(n, p, alpha)) <= alpha * (1 + 1e-9)


VALID = {
    "hoeffding": lambda n, p, alpha: hoeffding_radius(n, 1, alpha),
    "bernstein": lambda n, p, alpha: bernstein_radius(n, p * (1 - p), max(p, 1 - p), alpha),
    "mcdiarmid": lambda n, p, alpha: mcdiarmid_radius(n, alpha / 2, 1 / n),
    "dkw": lambda n, p, alpha: dkw_radius(n, alpha),
}
BROKEN = {
    "one-sided level": lambda n, p, alpha: math.sqrt(math.log(1 / alpha) / (2 * n)),
    "no range term": lambda n, p, alpha: bernstein_radius(n, p * (1 - p), 0, alpha),
    "no variance term": lambda n, p, alpha: bernstein_radius(n, 0, 1, alpha),
    "two standard errors": lambda n, p, alpha: 2 * math.sqrt(p * (1 - p) / n),
}


@pytest.mark.parametrize("radius", VALID.values(), ids=VALID)
@given(n=counts_n, p=probs, alpha=levels)
@example(n=1, p=0.5, alpha=0.607)
def test_radii_cover_exactly(radius, n, p, alpha):
    """Against the exact binomial tail: no sampling, no tolerance but rounding."""
    assert_radius_is_valid(radius, n, p, alpha)


@pytest.mark.parametrize("radius", BROKEN.values(), ids=BROKEN)
def test_broken_radii_do_not_cover(radius):
    """Each is refuted by a fair or a rare coin at some level."""
    instances = [(1, 0.5, 0.607), (400, 0.5, 1e-3), (100, 0.001, 1e-3), (100, 0.001, 1e-10)]
    instances += [(n, 0.5, 0.05) for n in range(1, 60)]

    def all_cover():
        for instance in instances:
            assert_radius_is_valid(radius, *instance)

    with pytest.raises(AssertionError):
        all_cover()


@given(st.integers(1, 60), st.floats(0, 1), levels)
def test_binomial_false_alarms_by_enumeration(n, p, alpha):
    """Sum over all counts of their probability where the test rejects: at most alpha."""
    counts = torch.arange(n + 1)
    rejected = binomial_p_values(counts, n, torch.full((n + 1,), p).double()) <= alpha
    unadjusted = binomial_p_values(counts[:1], n, torch.tensor([p]).double())
    mass = torch.from_numpy(binom.pmf(counts.numpy(), n, float(torch.tensor(p).double())))
    assert mass[rejected].sum() <= alpha
    direct = mass[mass <= mass[0] * (1 + 1e-7)].sum().clamp(max=1)
    assert abs(unadjusted.item() - direct.item()) < 1e-9


def test_bonferroni_multiplies_and_catches():
    counts = torch.tensor([40, 50])
    both = binomial_p_values(counts, 100, torch.tensor([0.5, 0.5]))
    alone = binomial_p_values(counts[:1], 100, torch.tensor([0.5]))
    assert both[0].item() == pytest.approx(2 * alone.item())
    assert both[1].item() == 1
    assert 0.05 < alone.item() < 0.06
    assert binomial_p_values(torch.tensor([10]), 100, torch.tensor([0.5])).item() < 1e-10
    assert binomial_p_values(torch.tensor([1, 0]), 5, torch.tensor([0.0, 0.0])).tolist() == [0, 1]


@given(st.integers(300, 3000), st.floats(0.1, 0.9), st.sampled_from([1e-2, 1e-6]))
def test_smallest_caught_error_is_the_smallest(n, p, alpha):
    """At that error the exact power reaches .99 on both sides; at 1 % less it fails on one."""
    error = smallest_caught_error(n, p, alpha)
    if math.isinf(error):  # at p = .9 the over-rate is at most 1 / .9: n hits may prove nothing
        assert binom.pmf(n, n, p) > alpha
        return
    counts = torch.arange(n + 1).numpy()
    mass = binom.pmf(counts, n, p)
    order = mass.argsort()
    rejected = order[mass[order].cumsum() <= alpha]

    def power(rate):
        return binom.pmf(rejected, n, min(1.0, max(0.0, rate))).sum()

    assert min(power(p * (1 + error)), power(p * (1 - error))) >= 0.99 - 1e-6
    less = 0.99 * error
    assert min(power(p * (1 + less)), power(p * (1 - less))) < 0.99


def test_power_known_cases():
    assert smallest_caught_error(6_600, 0.5, 1e-10) == pytest.approx(0.108, abs=0.001)
    assert smallest_caught_error(650_000, 0.01, 1e-10) == pytest.approx(0.111, abs=0.001)
    assert smallest_caught_error(2_000, 0.5, 1e-9) > 0.1  # a 10 % error at p = .5 is not caught
    assert smallest_caught_error(1_000, 0.01, 1e-10) == math.inf  # silence proves nothing here


@given(st.floats(1e-3, 1), st.floats(0.3, 1), st.sampled_from([0.05, 1e-3]))
def test_rare_rate_samples_suffice_exactly(p, error, alpha):
    n = rare_rate_samples(p, error, alpha)
    low, high = math.floor(n * p * (1 - error) + 1e-9), math.ceil(n * p * (1 + error) - 1e-9)
    assert binom.cdf(low, n, p) + binom.sf(high - 1, n, p) <= alpha
    # Necessary up to constants: a hundredth of it would miss more often than alpha.
    few = max(1, n // 100)
    low, high = math.floor(few * p * (1 - error)), math.ceil(few * p * (1 + error))
    assert p > 0.5 or binom.cdf(low, few, p) + binom.sf(high - 1, few, p) > alpha


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(0, 50))
def test_expected_unseen_equals_its_sum(p, n):
    expected = sum(math.prod([1 - q] * n) for q in p)
    assert abs(expected_unseen(torch.tensor(p, dtype=torch.float64), n) - expected) < 1e-9


def test_unseen_extremes_and_simulation():
    """Exact binomial test of the simulated count: 400 worlds of 50 features; catches 5 %."""
    assert expected_unseen(torch.tensor([0.0, 1.0]), 0) == 2
    assert expected_unseen(torch.tensor([0.0, 1.0]), 1) == 1
    rare = torch.tensor([1e-7], dtype=torch.float64)
    assert expected_unseen(rare, 10**7) == pytest.approx(math.exp(-1), rel=1e-6)
    fired = torch.rand(400, 30, 50, generator=stream(0, "fired"), dtype=torch.float64) < 0.02
    unseen = int((~fired.any(1)).sum())
    truth = torch.tensor([expected_unseen(torch.full((50,), 0.02).double(), 30) / 50]).double()
    assert binomial_p_values(torch.tensor([unseen]), 400 * 50, truth).item() > 1e-10
    assert smallest_caught_error(400 * 50, truth.item(), 1e-10) < 0.06


@given(st.floats(1e-6, 1), st.sampled_from([1, 7, 1000]), st.floats(1e-6, 0.5), st.integers(1, 20))
def test_samples_to_see_all_suffice_exactly(p, n_features, delta, times):
    n = samples_to_see_all(p, n_features, delta, times=times)
    assert n_features * binom.cdf(times - 1, n, p) <= delta * (1 + 1e-9)
    if times == 1 and p < 0.1:  # tight: with four fifths of it the union bound fails
        assert n_features * binom.cdf(0, int(0.8 * n), p) > delta


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hoeffding_radius(0, 1, 0.1), "hoeffding_radius: expected n > 0, got n=0"),
        (lambda: hoeffding_radius(5, -1, 0.1), "value_range=-1"),
        (lambda: bernstein_radius(5, math.nan, 1, 0.1), "variance=nan"),
        (lambda: mcdiarmid_radius(5, 1.5, 1), "level=1.5"),
        (lambda: dkw_radius(5, 0.0), "level=0.0"),
        (lambda: rare_rate_samples(0.0, 0.1, 0.1), "p=0.0"),
        (lambda: rare_rate_samples(0.1, 2.0, 0.1), "relative_error=2.0"),
        (lambda: expected_unseen(torch.tensor([1.5]), 3), "firing_probs in"),
        (lambda: expected_unseen(torch.tensor([0.5]), -3), "n_samples=-3"),
        (lambda: samples_to_see_all(0.0, 3, 0.1), "min_firing_prob"),
        (lambda: samples_to_see_all(0.1, 3, 0.1, times=0), "times=0"),
        (lambda: binomial_p_values(torch.tensor([7]), 5, torch.ones(1)), "0 <= counts"),
        (lambda: binomial_p_values(torch.tensor([1]), 5, torch.ones(2)), "one probability"),
        (lambda: binomial_p_values(torch.tensor([1]), 5, -torch.ones(1)), "probs in"),
        (lambda: smallest_caught_error(10, 1.0, 0.1), "0 < p < 1"),
        (lambda: smallest_caught_error(10, 0.5, 0.1, power=1.0), "power"),
    ],
)
def test_bad_input(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()
