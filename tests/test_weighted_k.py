"""k features drawn in turn by weight: exact by enumeration, and as sampled."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from searching import search

from toymodels import Constant, ExactlyK, Exclusive, Independent, stream
from toymodels import laws as toy_laws
from toymodels import strategies as tms
from toymodels.distributions.weighted_k import WeightedK
from toymodels.events import Events
from toymodels.laws import assert_binomial


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def by_enumeration(weights, k):
    """P(i and j fire), from the probability of each order in which k features can be drawn."""
    n = len(weights)
    together = torch.zeros(n, n, dtype=torch.float64)
    for order in permutations(range(n), k):
        prob = 1.0
        for place, i in enumerate(order):
            left = [weights[j] for j in range(n) if j not in order[:place]]
            prob *= weights[i] / math.fsum(left)
        fired = torch.zeros(n, dtype=torch.float64)
        fired[list(order)] = 1.0
        together += prob * torch.outer(fired, fired)
    return together


weight = st.one_of(st.just(1.0), st.floats(0.1, 10), st.floats(-7, 0).map(lambda x: 10.0**x))


@given(data=st.data(), weights=st.lists(weight, min_size=1, max_size=6))
def test_pairs_agree_with_enumeration(data, weights):
    k = data.draw(st.integers(1, len(weights)))
    dist = WeightedK(f64(weights), k)
    wanted = by_enumeration(weights, k)
    # Relative, so that a pair of probability 1e-14 is right too.
    assert torch.allclose(dist.cofiring_probs(), wanted, rtol=1e-10, atol=0.0)
    assert torch.allclose(dist.firing_probs(), wanted.diagonal(), rtol=1e-10, atol=0.0)


@given(n=st.integers(2, 60), power=st.floats(0, 3), share=st.floats(0, 1))
def test_exactly_k_fire_at_any_size(n, power, share):
    k = 1 + round(share * (n - 1))
    dist = WeightedK(torch.arange(1, n + 1, dtype=torch.float64) ** -power, k)
    p = dist.firing_probs()
    assert float(p.sum()) == pytest.approx(k, rel=1e-10)
    assert dist.expected_l0() == k
    assert bool((p.diff() <= 1e-12).all())  # a heavier feature fires at least as often


def test_pairs_add_up_at_sixty_features():
    dist = WeightedK(torch.arange(1, 61, dtype=torch.float64) ** -1.2, 5)
    p, together = dist.firing_probs(), dist.cofiring_probs()
    # Given that i fires, four others do; no other check reaches this size.
    assert torch.allclose(together.sum(1), 5 * p, rtol=1e-11, atol=0.0)


def test_equal_weights_are_exactly_k_and_one_draw_is_exclusive():
    equal = WeightedK(torch.full((7,), 3.0), 3, Constant(2.0))
    other = ExactlyK(7, 3, Constant(2.0))
    assert torch.allclose(equal.code_moment(), other.code_moment(), rtol=1e-12)
    one = WeightedK(f64([1.0, 2.0, 5.0]), 1)
    single = Exclusive(3, f64([0.125, 0.25, 0.625]))
    assert torch.allclose(one.cofiring_probs(), single.cofiring_probs(), atol=1e-14)
    assert torch.equal(WeightedK(f64([1.0, 9.0]), 2).cofiring_probs(), torch.ones(2, 2).double())


def test_only_ratios_of_weights_matter():
    weights = f64([1.0, 0.3, 1e-5, 4.0])
    small = WeightedK(weights * 1e-200, 2).cofiring_probs()
    assert torch.allclose(WeightedK(weights, 2).cofiring_probs(), small, rtol=1e-12, atol=0.0)


def test_every_sample_has_k_and_supports_have_their_probability():
    """False alarm 1e-10 over the 10 supports; 200,000 samples: an error of 5 % in P = 0.1 shows."""
    weights, n = [5.0, 2.0, 1.0, 1.0, 0.2], 200_000
    codes = WeightedK(f64(weights), 2).sample(n, generator=stream(0, "test"))
    assert bool((codes.l0() == 2).all())
    pair = codes.indices.reshape(-1, 2)
    counts = torch.bincount(pair[:, 0] * 5 + pair[:, 1], minlength=25)
    wanted = by_enumeration(weights, 2).triu(1).flatten()
    assert_binomial(counts[wanted > 0], n, wanted[wanted > 0])


class Proportional(WeightedK):
    """A common mistake: inclusion probabilities k w / sum(w)."""

    @property
    def _singles(self):
        return (self.k * self._rates / self._rates.sum()).clamp(max=1)


class WithReplacement(WeightedK):
    """Draws k times and counts a feature drawn twice once."""

    def _sample(self, n, *, generator):
        drawn = torch.multinomial(self._rates.expand(n, -1), self.k, True, generator=generator)
        fires = torch.zeros(n, self.n_features).scatter_(1, drawn, 1.0)
        rows, features = fires.nonzero(as_tuple=True)
        values = self.magnitude.sample(len(rows), generator=generator)
        return Events(rows, features, values)


class IndependentPairs(WeightedK):
    """The right marginals, as though features did not compete."""

    def _cofiring_times(self, v):
        return Independent(self.n_features, self.firing_probs())._cofiring_times(v)


@pytest.mark.parametrize(
    ("twin", "law"),
    [
        (Proportional, toy_laws.firing_probs_are_exact),
        (WithReplacement, toy_laws.firing_probs_are_exact),
        (IndependentPairs, toy_laws.cofiring_is_exact),
    ],
)
def test_laws_catch_broken_twins(twin, law):
    with pytest.raises(AssertionError):
        search(twin, law, tms.generators())


@pytest.mark.parametrize(
    ("weights", "k", "message"),
    [
        ([1.0, 0.0], 1, r"WeightedK: expected finite weights > 0, got weights=\[0.0\]"),
        ([1.0, math.nan], 1, "finite weights > 0"),
        ([1.0, math.inf], 1, "finite weights > 0"),
        ([1.0, 2.0], 3, r"expected 1 <= k <= 2 \(n_features\), got k=3"),
        ([1.0, 2.0], 0, "an integer k >= 1"),
        ([], 1, "one weight a feature"),
    ],
)
def test_refusals(weights, k, message):
    with pytest.raises(ValueError, match=message):
        WeightedK(f64(weights), k)
