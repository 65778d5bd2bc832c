"""Fixed-size, paired, grouped and two-set worlds against a listing of all their outcomes."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from searching import search

from toymodels import Constant, Uniform, laws, stream
from toymodels import strategies as tms
from toymodels.distributions.correlated_pairs import CorrelatedPairs
from toymodels.distributions.exactly_k import ExactlyK
from toymodels.distributions.exclusive_groups import ExclusiveGroups
from toymodels.distributions.two_sets import TwoSets
from toymodels.events import Events

# All outcomes: pairs (probability, set of features that fire) ---------------------------------


def product(parts):
    """Outcomes of independent parts of the world, each a list of outcomes."""
    for combination in itertools.product(*parts):
        prob = math.prod(p for p, _ in combination)
        yield prob, frozenset().union(*(fired for _, fired in combination))


def exactly_k(dist):
    subsets = list(itertools.combinations(range(dist.n_features), dist.k))
    return [(1 / len(subsets), frozenset(subset)) for subset in subsets]


def correlated_pairs(dist):
    p, q, r = dist.first_prob, dist.second_prob, dist.joint_prob
    return product(
        [
            [(r, {i, i + 1}), (p - r, {i}), (q - r, {i + 1}), (1 - p - q + r, set())]
            for i in range(0, 2 * dist.n_pairs, 2)
        ]
    )


def exclusive_groups(dist):
    size, q = dist.group_size, dist.active_prob
    return product(
        [
            [(1 - q, set())] + [(q / size, {size * group + i}) for i in range(size)]
            for group in range(dist.n_groups)
        ]
    )


def two_sets(dist):
    n, m, h = dist.n_first, dist.n_second, dist.one_hot_prob
    for i, j in itertools.product(range(n), range(n, n + m)):
        yield (1 - h) / (n * m), frozenset({i, j})
    for i in range(n + m):
        yield h / (n + m), frozenset({i})


OUTCOMES = {
    ExactlyK: exactly_k,
    CorrelatedPairs: correlated_pairs,
    ExclusiveGroups: exclusive_groups,
    TwoSets: two_sets,
}
by_class = pytest.mark.parametrize("cls", OUTCOMES, ids=lambda cls: cls.__name__)


@by_class
def test_declared_moments_are_those_of_the_listed_outcomes(cls):
    @given(cls.strategy())
    def each(dist):
        n, law = dist.n_features, dist.magnitude
        prob = torch.zeros(n, dtype=torch.float64)
        moment = torch.zeros(n, n, dtype=torch.float64)
        l0 = total = 0.0
        for p, fired in OUTCOMES[cls](dist):
            total, l0 = total + p, l0 + p * len(fired)
            for i, j in itertools.product(fired, repeat=2):
                prob[i] += p * (i == j)
                moment[i, j] += p * (law.second_moment() if i == j else law.mean() ** 2)
        exact = {"rtol": 1e-12, "atol": 1e-15}  # rounding of at most 256 outcomes
        assert total == pytest.approx(1, rel=1e-12)
        assert dist.expected_l0() == pytest.approx(l0, rel=1e-12, abs=1e-15)
        assert torch.allclose(dist.firing_probs(), prob, **exact)
        assert torch.allclose(dist.mean_codes(), prob * law.mean(), **exact)
        assert torch.allclose(dist.code_energies(), moment.diagonal(), **exact)
        assert torch.allclose(
            dist.code_moment(), moment, rtol=1e-12, atol=1e-15 * (1 + moment.max())
        )

    each()


@by_class
def test_whole_samples_have_the_listed_probabilities(cls):
    """Not only pairs: each set of features fires together as often as listed (exact binomial)."""

    @settings(max_examples=20)  # each draws 20,000 samples
    @given(cls.strategy(), tms.generators())
    def each(dist, generator):
        weights = 2 ** torch.arange(dist.n_features)
        n = laws.N_SAMPLES
        support = dist.sample(n, generator=generator).support().long()
        counts = torch.bincount(support @ weights, minlength=2**dist.n_features)
        probs = torch.zeros(2**dist.n_features, dtype=torch.float64)
        for p, fired in OUTCOMES[cls](dist):
            probs[sum(2**i for i in fired)] += p
        laws.assert_binomial(counts, n, probs.clamp(0, 1))

    each()


@pytest.mark.parametrize("cls", [CorrelatedPairs, ExclusiveGroups, TwoSets])
def test_conditional_laws_are_those_of_the_outcomes_that_are_left(cls):
    """Given one feature, and given one more that may fire with it."""

    @given(cls.strategy(), st.data())
    def each(dist, data):
        n, chosen = dist.n_features, []
        law = dist
        for _ in range(2):
            # Products of rarer ones are rounded at the least float64, and ratios with them.
            possible = (law.firing_probs() > 1e-30).nonzero()[:, 0].tolist()
            if possible:
                chosen.append(data.draw(st.sampled_from(possible)))
                law = dist.given(*chosen)
        wanted = torch.zeros(n, n, dtype=torch.float64)
        left = 0.0
        for p, fired in OUTCOMES[cls](dist):
            if fired.issuperset(chosen):
                left += p
                for i, j in itertools.product(fired, repeat=2):
                    wanted[i, j] += p
        torch.testing.assert_close(law.cofiring_probs(), wanted / left, rtol=1e-9, atol=1e-12)

    each()


# Special cases --------------------------------------------------------------------------------


@given(st.integers(1, 40), st.data(), tms.generators())
def test_exactly_k_features_fire(n_features, data, generator):
    k = data.draw(st.integers(1, n_features))
    assert set(ExactlyK(n_features, k).sample(50, generator=generator).l0().tolist()) == {k}


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0, 1))
def test_a_binary_correlation_is_what_was_asked_for(p, q, share):
    """phi from its definition, cov / (std std) of the two indicators; both ends are feasible."""
    std = math.sqrt(p * (1 - p)) * math.sqrt(q * (1 - q))
    low, high = (max(0.0, p + q - 1) - p * q) / std, (min(p, q) - p * q) / std
    phi = low + share * (high - low)
    dist = CorrelatedPairs.from_correlation(2, p, q, phi, Constant(1.0))
    covariance = float(dist.code_covariance()[2, 3])
    assert covariance / std == pytest.approx(phi, abs=1e-12)
    assert dist.correlation() == pytest.approx(phi, abs=1e-12)
    for beyond in (low - 1e-6, high + 1e-6):
        with pytest.raises(ValueError, match=r"what these probabilities allow"):
            CorrelatedPairs.from_correlation(2, p, q, beyond)


def test_rare_features_cannot_be_strongly_anticorrelated():
    """At p = q = 1e-7 the least phi is -p / (1 - p), and no tolerance hides a tenfold of it."""
    p = 1e-7
    dist = CorrelatedPairs.from_correlation(1, p, p, -p / (1 - p))
    assert dist.joint_prob == pytest.approx(0, abs=1e-12 * p * p)
    with pytest.raises(ValueError, match=r"expected -1\.0000001\d*e-07 <= correlation <= "):
        CorrelatedPairs.from_correlation(1, p, p, -1.001e-7)


def test_the_ends_of_the_correlation():
    generator = stream(0, "pairs")
    twins = CorrelatedPairs.from_correlation(1, 0.3, 0.3, 1.0)
    support = twins.sample(1000, generator=generator).support()
    assert torch.equal(support[:, 0], support[:, 1])
    assert 0 < int(support.sum()) < 2000
    rivals = CorrelatedPairs.from_correlation(1, 0.5, 0.5, -1.0)
    support = rivals.sample(1000, generator=generator).support()
    assert torch.equal(support[:, 0], ~support[:, 1])
    given_first = CorrelatedPairs(1, 0.4, 0.1, joint_prob=0.1)  # the second only with the first
    support = given_first.sample(1000, generator=generator).support()
    assert not bool((support[:, 1] & ~support[:, 0]).any())
    assert bool(support[:, 1].any())


@given(tms.probs(), tms.probs())
def test_bounds_that_the_error_states_are_accepted(p, q):
    least = float(max(Fraction(0), Fraction(p) + Fraction(q) - 1))
    for joint in (least, min(p, q), p * q):
        dist = CorrelatedPairs(1, p, q, joint)
        assert math.isnan(dist.correlation()) or abs(dist.correlation()) <= 1 + 1e-6


def test_rounded_requests_are_accepted():
    for p, q, joint in [(0.9, 0.4, 0.3), (0.1 + 0.2, 0.3, 0.1 + 0.2), (0.7, 0.6, 0.3)]:
        assert CorrelatedPairs(1, p, q, joint).joint_prob == joint


def test_the_cost_of_a_batch_is_its_number_of_events(monkeypatch):
    """A dense draw would be 10^9 uniforms for each of the first four worlds."""
    drawn = []
    original = torch.rand

    def counted(*args, **kwargs):
        result = original(*args, **kwargs)
        drawn.append(result.numel())
        return result

    monkeypatch.setattr(torch, "rand", counted)
    n_features = 1_000_000
    for dist, n in [
        (ExactlyK(n_features, 34), 1024),
        (CorrelatedPairs(n_features // 2, 2e-5, 4e-5, 1e-5), 1024),
        (ExclusiveGroups(100, n_features // 100, 0.3), 1024),
        (TwoSets(n_features // 2, n_features // 2, 0.5), 1024),
        (ExactlyK(1000, 500), 50),
        (ExactlyK(1000, 990), 50),
    ]:
        drawn.clear()
        events = int(dist.sample(n, generator=stream(0, "cost")).l0().sum())
        # Per event at most: a gap, a choice (two if k is half of the features), a magnitude; and
        # 5 % and a constant for what bernoulli_indices draws in reserve.
        assert events < sum(drawn) < 3 * 1.05 * events + 1000, dist


def test_one_magnitude_law_enters_all_moments():
    """A non-constant law separates E[b]^2 from E[b^2]: 1 and 13/12 on [0.5, 1.5]."""
    c = TwoSets(1, 1, 0.5, Uniform(0.5, 1.5)).code_moment()
    wanted = torch.tensor([[0.75 * 13 / 12, 0.5], [0.5, 0.75 * 13 / 12]], dtype=torch.float64)
    assert torch.allclose(c, wanted, rtol=1e-12)


# Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExactlyK(0, 1), "ExactlyK: expected an integer n_features >= 1, got n_features=0"),
        (lambda: ExactlyK(5, 0), "ExactlyK: expected an integer k >= 1, got k=0"),
        (lambda: ExactlyK(5, 6), "ExactlyK: expected 1 <= k <= 5 (n_features), got k=6"),
        (lambda: CorrelatedPairs(0, 0.5, 0.5, 0.5), "an integer n_pairs >= 1, got n_pairs=0"),
        (lambda: CorrelatedPairs(1, 1.5, 0.5, 0.5), "0 <= first_prob <= 1, got first_prob=1.5"),
        (lambda: CorrelatedPairs(1, 0.5, -0.5, 0.5), "0 <= second_prob <= 1, got second_prob=-0.5"),
        (
            lambda: CorrelatedPairs(1, 0.25, 0.5, 0.375),
            "CorrelatedPairs: expected 0.0 <= joint_prob <= 0.25 (from max(0, p + q - 1) to "
            "min(p, q)), got joint_prob=0.375, first_prob=0.25, second_prob=0.5",
        ),
        (lambda: CorrelatedPairs(1, 0.75, 0.5, 0.125), "expected 0.25 <= joint_prob <= 0.5"),
        (lambda: CorrelatedPairs(1, 0.5, 0.5, math.nan), "expected 0.0 <= joint_prob <= 0.5"),
        (lambda: CorrelatedPairs(1, 0.5, 0.5, -1e-13), "expected 0.0 <= joint_prob <= 0.5"),
        (
            lambda: CorrelatedPairs.from_correlation(1, 0.2, 0.2, -0.5),
            "CorrelatedPairs.from_correlation: expected -0.25",
        ),
        (
            lambda: CorrelatedPairs.from_correlation(1, 0.5, 0.5, 1.5),
            "expected -1.0 <= correlation <= 1.0 (what these probabilities allow), "
            "got correlation=1.5, first_prob=0.5, second_prob=0.5",
        ),
        (
            lambda: CorrelatedPairs.from_correlation(1, 0.5, 1.0, 0.0),
            "expected second_prob strictly between 0 and 1 (else there is no correlation), "
            "got second_prob=1.0",
        ),
        (lambda: CorrelatedPairs.from_correlation(1, 0.0, 0.5, 0.0), "got first_prob=0.0"),
        (lambda: ExclusiveGroups(0, 2, 0.5), "an integer n_groups >= 1, got n_groups=0"),
        (lambda: ExclusiveGroups(2, 0, 0.5), "an integer group_size >= 1, got group_size=0"),
        (
            lambda: ExclusiveGroups(2, 3, 1.25),
            "ExclusiveGroups: expected 0 <= active_prob <= 1, got active_prob=1.25",
        ),
        (lambda: ExclusiveGroups(2, 3, math.nan), "0 <= active_prob <= 1, got active_prob=nan"),
        (lambda: TwoSets(0, 2, 0.5), "an integer n_first >= 1, got n_first=0"),
        (lambda: TwoSets(2, 0, 0.5), "an integer n_second >= 1, got n_second=0"),
        (lambda: TwoSets(2, 3, -0.25), "TwoSets: expected 0 <= one_hot_prob <= 1, got one_hot_"),
    ],
)
def test_infeasible_parameters_are_refused_with_their_range(make, message):
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the whole message is compared below
        make()
    assert message in str(refused.value)


# Broken twins -------------------------------------------------------------------------------------


class ConsecutiveK(ExactlyK):
    """k consecutive features from a random one on, round a circle: right marginals only."""

    def _sample(self, n, *, generator):
        first = torch.randint(self.n_features, (n, 1), generator=generator)
        features = ((first + torch.arange(self.k)) % self.n_features).flatten()
        rows = torch.arange(n).repeat_interleave(self.k)
        return Events(rows, features, self.magnitude.sample(len(rows), generator=generator))


class DrawnWithReplacement(ExactlyK):
    """What is drawn twice fires once, and nothing takes its place."""

    def _sample(self, n, *, generator):
        draws = torch.randint(self.n_features, (n, self.k), generator=generator)
        cells = (torch.arange(n)[:, None] * self.n_features + draws).unique()
        values = self.magnitude.sample(len(cells), generator=generator)
        return Events(cells // self.n_features, cells % self.n_features, values)


class IndependentPartners(CorrelatedPairs):
    """Fires the two at the declared rates, independently."""

    def _sample(self, n, *, generator):
        p, q = self.first_prob, self.second_prob
        alike = CorrelatedPairs(self.n_pairs, p, q, p * q, self.magnitude)
        return alike._sample(n, generator=generator)


class SwappedPartners(CorrelatedPairs):
    """The first fires at the rate of the second, and the reverse."""

    def _sample(self, n, *, generator):
        events = super()._sample(n, generator=generator)
        return Events(events.rows, events.features ^ 1, events.values)


class GroupsInStep(ExclusiveGroups):
    """All active groups of a sample fire the same member."""

    def _sample(self, n, *, generator):
        events = super()._sample(n, generator=generator)
        member = torch.randint(self.group_size, (n,), generator=generator)[events.rows]
        features = events.features // self.group_size * self.group_size + member
        return Events(events.rows, features, events.values)


class FairCoinForTheSet(TwoSets):
    """A lone feature's set is tossed first, then one of its features."""

    def _sample(self, n, *, generator):
        events = super()._sample(n, generator=generator)
        alone = (torch.bincount(events.rows, minlength=n) == 1)[events.rows]
        coin = torch.randint(2, alone.shape, generator=generator)
        size = torch.tensor([self.n_first, self.n_second])[coin]
        lone = coin * self.n_first + (torch.rand(len(coin), generator=generator) * size).long()
        return Events(events.rows, torch.where(alone, lone, events.features), events.values)


class LoneOnTop(TwoSets):
    """Declares the co-firing of a world in which every sample is a combination."""

    def _cofiring_times(self, v):
        always = TwoSets(self.n_first, self.n_second, 0.0)
        excess = always.firing_probs() - self.firing_probs()
        return always._cofiring_times(v) - excess[:, None] * v


TWINS = [
    (laws.cofiring_is_exact, ConsecutiveK),
    (laws.firing_probs_are_exact, DrawnWithReplacement),
    (laws.cofiring_is_exact, IndependentPartners),
    (laws.firing_probs_are_exact, SwappedPartners),
    (laws.cofiring_is_exact, GroupsInStep),
    (laws.firing_probs_are_exact, FairCoinForTheSet),
    (laws.cofiring_is_exact, LoneOnTop),
]


@pytest.mark.parametrize(("law", "twin"), TWINS, ids=lambda v: v.__name__)
def test_a_broken_twin_is_caught(law, twin):
    with pytest.raises(AssertionError):
        search(twin, law, tms.generators())


@pytest.mark.parametrize(("law", "twin"), TWINS, ids=lambda v: v.__name__)
def test_the_twins_original_passes(law, twin):
    search(twin.__base__, law, tms.generators())
