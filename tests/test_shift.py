"""Shifted worlds: their laws, and their distances by enumeration of all patterns."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toymodels import (
    Constant,
    Dictionary,
    ExactlyK,
    Exclusive,
    Hierarchy,
    Independent,
    Mixture,
    RareProperty,
    ToyModel,
    more_often,
    orthonormal,
    reweighted,
    stream,
    that_never_occurred,
)
from toymodels.laws import assert_binomial

SHARES = st.floats(0, 1)
PROBS = st.floats(0.01, 0.99)


def pattern_probs(dist):
    """P(exactly these fire) of a law of few features, by inclusion and exclusion from `given`."""
    n = dist.n_features
    at_least = {}
    for size in range(n + 1):
        for features in itertools.combinations(range(n), size):
            p, law = 1.0, dist
            for feature in features:
                p_next = law.firing_probs()[feature].item()
                p *= p_next
                if p_next == 0:
                    break
                law = law.given(feature)
            at_least[frozenset(features)] = p
    everything = frozenset(range(n))
    return torch.tensor(
        [
            sum(
                (-1) ** len(extra) * at_least[chosen | frozenset(extra)]
                for size in range(n - len(chosen) + 1)
                for extra in itertools.combinations(sorted(everything - chosen), size)
            )
            for chosen in at_least
        ],
        dtype=torch.float64,
    )


def distances(q, p):
    """KL(q || p), KL(p || q) and total variation of two vectors of probabilities."""
    q, p = q.clamp(min=0), p.clamp(min=0)
    q, p = torch.where(q < 1e-12, 0.0, q), torch.where(p < 1e-12, 0.0, p)
    forward = torch.where(q > 0, q * (q / p).log(), 0.0).sum().item()
    backward = torch.where(p > 0, p * (p / q).log(), 0.0).sum().item()
    return forward, backward, (q - p).abs().sum().item() / 2


def assert_distances(shift, base):
    forward, backward, tv = distances(pattern_probs(shift.distribution), pattern_probs(base))
    assert shift.kl == pytest.approx(forward, abs=1e-8)
    assert shift.reverse_kl == pytest.approx(backward, abs=1e-8)
    assert shift.tv == pytest.approx(tv, abs=1e-8)


def small_laws():
    chain = Hierarchy((-1, 0, 0), torch.tensor([0.5, 0.25, 0.1]), exclusive=True)
    return st.one_of(
        st.lists(PROBS, min_size=2, max_size=3).map(
            lambda p: Independent(len(p), torch.tensor(p, dtype=torch.float64))
        ),
        st.builds(lambda p, q: RareProperty(2, p, q), PROBS, PROBS),
        st.just(chain),
    )


@given(small_laws(), st.integers(0, 1), st.floats(0.01, 0.9))
def test_one_feature_more_often(base, feature, share):
    """The stated distances are those of the patterns, and the feature is as frequent as stated."""
    shift = more_often(base, (feature,), share)
    assert_distances(shift, base)
    p = base.firing_probs()[feature].item()
    fires = shift.distribution.firing_probs()[feature].item()
    assert fires == pytest.approx((1 - share) * p + share)


@given(PROBS, PROBS, st.floats(0.01, 0.9))
def test_two_features_together(p, q, share):
    base = Independent(3, torch.tensor([p, q, 0.3], dtype=torch.float64))
    shift = more_often(base, (0, 1), share)
    assert_distances(shift, base)
    both = shift.distribution.cofiring_probs()[0, 1].item()
    assert both == pytest.approx((1 - share) * p * q + share)
    assert shift.distribution.cofiring_probs()[0, 2].item() == pytest.approx(
        0.3 * shift.distribution.firing_probs()[0].item()
    )


def test_it_is_the_nearest_law_in_which_the_feature_is_as_frequent():
    """Any other law with the same P(feature 0), here one that also moves feature 1, is farther."""
    base = Independent(2, torch.tensor([0.2, 0.4], dtype=torch.float64))
    shift = more_often(base, (0,), 0.25)
    q = shift.distribution.firing_probs()[0].item()
    for other in (0.3, 0.41, 0.6):
        farther = reweighted(base, torch.tensor([q, other], dtype=torch.float64))
        assert farther.kl > shift.kl + 1e-5
    nearest = reweighted(base, torch.tensor([q, 0.4], dtype=torch.float64))
    assert nearest.kl == pytest.approx(shift.kl)


def test_the_shifted_law_is_sampled():
    base = Independent(3, torch.tensor([1e-7, 0.2, 0.1], dtype=torch.float64))
    shift = more_often(base, (0, 1), 0.1)
    counts = shift.distribution.sample(20_000, generator=stream(0, "shift")).counts()
    assert_binomial(counts, 20_000, shift.distribution.firing_probs())
    assert counts[0] > 1000  # never, in the base


@given(st.lists(st.tuples(PROBS, PROBS), min_size=1, max_size=3))
def test_reweighted_product(pairs):
    p, q = (torch.tensor(probs, dtype=torch.float64) for probs in zip(*pairs, strict=True))
    base = Independent(len(p), p)
    assert_distances(reweighted(base, q), base)


@given(st.lists(st.tuples(PROBS, PROBS), min_size=1, max_size=3))
def test_reweighted_exclusive(pairs):
    p, q = (torch.tensor(probs, dtype=torch.float64) / 3 for probs in zip(*pairs, strict=True))
    base = Exclusive(len(p), p)
    assert_distances(reweighted(base, q), base)


def test_probabilities_that_sum_to_one_up_to_rounding_leave_none_no_chance():
    p, q = (torch.tensor(probs, dtype=torch.float64) for probs in ([0.7, 0.3], [0.1, 0.9]))
    base = Exclusive(2, p * (1 - 1e-16 * torch.tensor([3, 0])))
    shift = reweighted(base, q)
    assert shift.kl == pytest.approx(0.1 * math.log(1 / 7) + 0.9 * math.log(3))
    assert shift.reverse_kl == pytest.approx(0.7 * math.log(7) + 0.3 * math.log(1 / 3))
    for n in range(2, 40):  # sums that miss 1 by rounding, on either side
        laws = [torch.rand(n, generator=stream(n, name)).double() for name in ("p", "q")]
        p, q = (law / law.sum() for law in laws)
        assert reweighted(Exclusive(n, p), q).reverse_kl < math.inf


def test_many_changes_have_a_divergence_but_no_computed_total_variation():
    base = Independent(40, 0.1)
    shift = reweighted(base, 0.2)
    assert shift.kl == pytest.approx(40 * (0.2 * math.log(2) + 0.8 * math.log(0.8 / 0.9)))
    assert math.isnan(shift.tv)
    one = base.firing_probs().clone()
    one[3] = 0.3
    assert reweighted(base, one).tv == pytest.approx(0.2)


def test_support_growth():
    """Features 0 and 1 exclude one another, until a hundredth of the samples holds both."""
    base = Exclusive(3, 0.2)
    both = Independent(3, torch.tensor([1.0, 1.0, 0.0]), Constant(1.0))
    shift = that_never_occurred(base, both, 0.01)
    assert shift.kl == math.inf
    assert shift.reverse_kl == pytest.approx(-math.log(0.99))
    assert shift.tv == 0.01
    assert shift.distribution.cofiring_probs()[0, 1].item() == pytest.approx(0.01)
    new = Independent(3, torch.tensor([0.5, 0.5, 0.0]))
    grown = that_never_occurred(new, Independent(3, torch.tensor([0.0, 0.0, 1.0])), 0.5)
    assert grown.distribution.firing_probs().tolist() == [0.25, 0.25, 0.5]
    assert that_never_occurred(base, both, 0.0).kl == 0


def test_a_shift_by_nothing_is_at_distance_0():
    base = Independent(2, 0.3)
    for shift in (more_often(base, (0,), 0.0), reweighted(base, 0.3)):
        assert (shift.kl, shift.reverse_kl, shift.tv) == (0.0, 0.0, 0.0)


def test_a_world_is_shifted_and_keeps_its_directions():
    dictionary = orthonormal(2, 3, generator=stream(0, "dictionary"), dtype=torch.float64)
    world = ToyModel(Independent(2, 0.3), dictionary, noise_std=0.1, bias=torch.ones(3), scale=2.0)
    shift = more_often(world.distribution, (0,), 0.5)
    moved = world.shifted(shift)
    assert moved.dictionary is world.dictionary
    assert (moved.noise_std, moved.scale) == (0.1, 2.0)
    difference = 2 * (0.65 - 0.3) * dictionary.vectors[0]
    assert torch.allclose(moved.mean() - world.mean(), difference)


REFUSED = [
    (lambda: more_often(Independent(2, 0.1), (0,), 1.5), "expected 0 <= share <= 1, got share=1.5"),
    (lambda: more_often(Exclusive(2, 0.1), (0, 1), 0.5), "features that can fire together"),
    (lambda: more_often(Independent(2, 0.1), (2,), 0.5), "a feature in [0, 2), got feature=2"),
    (
        lambda: that_never_occurred(Independent(2, 0.1), Independent(2, 1.0), 0.1),
        "that_never_occurred: expected a pattern with features, always on, that never fire",
    ),
    (lambda: reweighted(Independent(2, 0.1), 1.5), "reweighted: expected probabilities in [0, 1]"),
    (
        lambda: Mixture((Independent(2, 0.1), Independent(3, 0.1)), (0.5, 0.5)),
        "Mixture: expected components of one number of features, got n_features=[2, 3]",
    ),
    (lambda: Mixture((Independent(2, 0.1),), (0.5,)), "Mixture: expected weights >= 0 that sum"),
    (lambda: Independent(2, 0.0).given(1), "Independent.given: expected features that can fire"),
    (lambda: Independent(2, 0.5).given(), "Independent.given: expected at least one feature"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_cannot_be_is_refused(make, message, unchecked):
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is compared below
        make()
    assert message in str(refused.value)


def test_other_families_say_what_to_do():
    with pytest.raises(NotImplementedError, match="use more_often"):
        reweighted(ExactlyK(3, 2), 0.5)


def test_a_normalised_world_has_the_energy_asked_for():
    dictionary = Dictionary(torch.eye(2, dtype=torch.float64))
    world = ToyModel(Independent(2, 0.5, Constant(3.0)), dictionary, bias=torch.ones(2).double())
    for target, scaled in ((2.0, world.normalised()), (7.0, world.normalised(7.0))):
        assert scaled.second_moment().trace().item() == pytest.approx(target)
        x = scaled.sample(200_000, generator=stream(0, "energy")).x
        # |x|^2 is at most 32/17 of its mean: Hoeffding's radius at 1e-10, n = 200,000 is .0145.
        assert float(x.square().sum(1).mean()) == pytest.approx(target, rel=0.0145)
    with pytest.raises(ValueError, match="a world that is not always 0"):
        ToyModel(Independent(2, 0.0), dictionary).normalised()


def test_a_rare_feature_fires_in_all_of_its_conditional_samples():
    dictionary = Dictionary(torch.eye(4, dtype=torch.float64))
    world = ToyModel(RareProperty(2, 1e-3, 1e-6), dictionary)
    batch = world.sample_given(1000, 3, generator=stream(0, "given"))
    assert batch.codes.counts()[1] == batch.codes.counts()[3] == 1000
    assert torch.equal(batch.x[:, 3] > 0, torch.ones(1000, dtype=torch.bool))
