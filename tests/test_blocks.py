"""Blocks and graphs against all of their supports, each from the definition by loops."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from searching import search

from toymodels import (
    Codes,
    CorrelatedPairs,
    Exclusive,
    ExclusiveGroups,
    Exponential,
    Hierarchy,
    Independent,
    TwoSets,
    laws,
    stream,
)
from toymodels import strategies as tms
from toymodels.distributions.blocks import Blocks
from toymodels.distributions.dag import Dag
from toymodels.events import Events, IndependentFiring

EXACT = {"rtol": 1e-12, "atol": 1e-14}  # rounding of sums of at most 512 probabilities
B = Exponential(0.7)


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def per_entry(values, n):
    return torch.as_tensor(values).double().expand(n).tolist()


# Every support ------------------------------------------------------------------------------------


def blocks_support_prob(dist, fired):
    """One factor for each block: the probability of just what fires in it, or what is left."""
    block_of = dist.block_of.tolist()
    patterns = [set(row.nonzero()[:, 0].tolist()) for row in dist.patterns.support()]
    w = per_entry(dist.pattern_prob, len(patterns))
    prob = 1.0
    for block in set(block_of):
        mine = [k for k, pattern in enumerate(patterns) if block_of[min(pattern)] == block]
        here = {i for i in fired if block_of[i] == block}
        if here:
            prob *= sum(w[k] for k in mine if patterns[k] == here)
        else:
            prob *= max(0.0, 1 - math.fsum(w[k] for k in mine))
    return prob


def dag_support_prob(dist, fired):
    """The features one after another, each at the probability that those before it leave it."""
    n = dist.n_features
    r, leak = per_entry(dist.conditional_prob, n), per_entry(dist.leak_prob, n)
    prob = 1.0
    for i in range(n):
        gate = dist.gate if isinstance(dist.gate, str) else dist.gate[i]
        above = [q in fired for q in dist.parents[i]]
        is_open = not above or {"all": all(above), "any": any(above)}[gate]
        f = r[i] if is_open else leak[i]
        prob *= f if i in fired else 1 - f
    return prob


SUPPORT_PROB = {Blocks: blocks_support_prob, Dag: dag_support_prob}
by_class = pytest.mark.parametrize("cls", SUPPORT_PROB, ids=lambda cls: cls.__name__)


def all_supports(dist):
    """(supports [2^n, n], their probabilities); row s has the binary digits of s."""
    n = dist.n_features
    supports = [[s >> i & 1 for i in range(n)] for s in range(2**n)]
    sets = [{i for i in range(n) if support[i]} for support in supports]
    return f64(supports), f64([SUPPORT_PROB[type(dist)](dist, fired) for fired in sets])


@by_class
def test_moments_and_entropy_are_those_of_all_supports(cls):
    @given(cls.strategy())
    def each(dist):
        supports, probs = all_supports(dist)
        both = supports.T @ (probs[:, None] * supports)
        mean, second = dist.magnitude.mean(), dist.magnitude.second_moment()
        moment = both * mean**2 + torch.diag(both.diagonal() * (second - mean**2))
        assert float(probs.sum()) == pytest.approx(1, abs=1e-12)
        torch.testing.assert_close(dist.firing_probs(), both.diagonal(), **EXACT)
        torch.testing.assert_close(dist.cofiring_probs(), both, **EXACT)
        torch.testing.assert_close(dist.code_moment(), moment, rtol=1e-12, atol=1e-14 * second)
        bits = -sum(p * math.log2(p) for p in probs.tolist() if p > 0)
        assert dist.support_entropy() == pytest.approx(bits, rel=1e-9, abs=1e-12)

    each()


@by_class
def test_conditional_laws_are_those_of_the_supports_that_are_left(cls):
    """Given one feature, and given two of them, in blocks of their own or in one."""

    @given(cls.strategy(), st.data())
    def each(dist, data):
        possible = (dist.firing_probs() > 0).nonzero()[:, 0].tolist()
        if not possible:
            return
        chosen = [data.draw(st.sampled_from(possible))]
        also = (dist.given(*chosen).firing_probs() > 0).nonzero()[:, 0].tolist()
        chosen += data.draw(st.lists(st.sampled_from(also), max_size=1))
        supports, probs = all_supports(dist)
        left = torch.where((supports[:, chosen] > 0).all(1), probs, 0.0)
        wanted = supports.T @ (left[:, None] * supports) / left.sum()
        found = dist.given(*chosen).cofiring_probs()
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)

    each()


@by_class
def test_whole_samples_have_the_probabilities_of_their_supports(cls):
    """Not only pairs: each set of features fires together as often as it should."""

    @settings(max_examples=20)  # each draws 20,000 samples
    @given(cls.strategy(), tms.generators())
    def each(dist, generator):
        supports, probs = all_supports(dist)
        n = laws.N_SAMPLES
        fired = dist.sample(n, generator=generator).support().long()
        counts = (fired @ 2 ** torch.arange(dist.n_features)).bincount(minlength=len(supports))
        laws.assert_binomial(counts, n, probs)

    each()


# What they are in special cases -------------------------------------------------------------------


def assert_one_law(dist, known):
    torch.testing.assert_close(dist.firing_probs(), known.firing_probs(), **EXACT)
    torch.testing.assert_close(dist.code_moment(), known.code_moment(), **EXACT)
    for i in known.firing_probs().nonzero()[:, 0].tolist():
        found, wanted = dist.given(i).cofiring_probs(), known.given(i).cofiring_probs()
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@given(Hierarchy.strategy(), st.sampled_from(["all", "any"]))
def test_a_graph_of_single_parents_is_a_hierarchy(tree, gate):
    free = Hierarchy(tree.parents, tree.firing_probs(), magnitude=B)
    parents = tuple((q,) if q >= 0 else () for q in tree.parents)
    dag = Dag.from_marginals(parents, tree.firing_probs(), gate=gate, magnitude=B)
    torch.testing.assert_close(dag.conditional_prob, free._conditional, rtol=1e-12, atol=0)
    assert_one_law(dag, free)


@given(st.lists(tms.probs().filter(lambda p: p == 0 or p > 1e-30), min_size=1, max_size=6))
def test_features_alone_are_independent_or_exclusive(p):
    n = len(p)
    probs = f64(p)
    independent = Independent(n, probs, B)
    assert_one_law(Dag(((),) * n, probs, magnitude=B), independent)
    assert_one_law(Blocks.from_laws(*({(i,): p[i]} for i in range(n)), magnitude=B), independent)
    shares = probs / max(1.0, sum(p))
    law = {(i,): share for i, share in enumerate(shares.tolist())}
    assert_one_law(Blocks.from_laws(law, magnitude=B), Exclusive(n, shares, B))


def test_gates_by_hand():
    """Two roots at 0.5 and 0.2: both fire with probability 0.1, at least one with 0.6."""
    for gate, opened in (("all", 0.1), ("any", 0.6)):
        dag = Dag(((), (), (0, 1)), f64([0.5, 0.2, 0.5]), gate, 0.25)
        wanted = opened * 0.5 + (1 - opened) * 0.25
        assert dag.firing_probs()[2].item() == pytest.approx(wanted, rel=1e-12)
    mixed = Dag(((), (), (0, 1), (0, 1)), f64([0.5, 0.2, 1, 1]), ("all", "all", "all", "any"))
    torch.testing.assert_close(mixed.firing_probs(), f64([0.5, 0.2, 0.1, 0.6]), **EXACT)


def test_the_entropy_by_hand():
    assert Blocks.from_laws({(0,): 0.5}, {(1,): 1.0}).support_entropy() == 1.0
    quarters = {(0,): 0.25, (1,): 0.25, (0, 1): 0.25, (): 0.25}
    assert Blocks.from_laws(quarters).support_entropy() == 2.0
    p = 1e-17  # 1 - p is 1 in float64
    rare = Blocks.from_laws({(0,): p}).support_entropy()
    assert rare == pytest.approx((p * math.log(1 / p) + p) / math.log(2), rel=1e-12)


def test_probabilities_rounded_up_are_divided_by_their_sum():
    dist = Blocks.from_laws({(0,): 0.5, (1,): 0.5 + 8e-7})
    assert dist.firing_probs().sum().item() == pytest.approx(1, abs=1e-15)
    assert dist.firing_probs()[0].item() == pytest.approx(0.5 / (1 + 8e-7), rel=1e-12)


# Marginals as requested ---------------------------------------------------------------------------


def check_marginals(cls, phases=tuple(Phase)):
    """Those of any graph are met; for its last feature so are all in its range, and no others."""

    @settings(phases=phases, report_multiple_bugs=False)
    @given(Dag.strategy(), st.floats(0, 1))
    def each(dag, share):
        *before, last = range(dag.n_features)
        supports, probs = all_supports(dag)
        options = {"gate": dag.gate, "leak_prob": dag.leak_prob}
        p = (probs @ supports).clamp(max=1)  # above only by rounding
        same = cls.from_marginals(dag.parents, p, **options)
        torch.testing.assert_close(same.firing_probs(), p, **EXACT)

        always = replace(dag, conditional_prob=f64([*dag.conditional_prob[before], 1.0]))
        never = replace(dag, conditional_prob=f64([*dag.conditional_prob[before], 0.0]))
        high, low = (all_supports(d)[1] @ supports[:, last] for d in (always, never))
        p[last] = min(1.0, float(low + share * (high - low)))
        dist = cls.from_marginals(dag.parents, p, **options)
        torch.testing.assert_close(dist.firing_probs(), p, **EXACT)
        for beyond in (low - 1e-6, high + 1e-6):
            p[last] = beyond
            if 0 <= beyond <= 1:
                with pytest.raises(ValueError, match=r"what its gate allows.*its gate is open"):
                    cls.from_marginals(dag.parents, p, **options)

    each()


class MarginalsUnconditioned(Dag):
    """Takes the marginals for the conditional probabilities."""

    @classmethod
    def from_marginals(cls, parents, firing_prob, **options):
        return Dag(parents, firing_prob, **options)


class ClosedGateForgotten(Dag):
    """r = p / P(gate open), also where the closed gate leaks."""

    @classmethod
    def from_marginals(cls, parents, firing_prob, *, gate, leak_prob):
        tight = Dag.from_marginals(parents, firing_prob, gate=gate)
        return replace(tight, leak_prob=leak_prob)


def test_marginals_are_those_requested():
    check_marginals(Dag)


@pytest.mark.parametrize("twin", [MarginalsUnconditioned, ClosedGateForgotten])
def test_wrong_marginals_are_noticed(twin):
    with pytest.raises((AssertionError, ValueError, pytest.fail.Exception)):
        check_marginals(twin, phases=[Phase.generate])  # without shrinking


def test_the_bounds_of_a_marginal_are_stated():
    parents = ((), (), (0, 1))
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the whole message is compared below
        Dag.from_marginals(parents, f64([0.5, 0.25, 0.25]))
    assert str(refused.value) == (
        "Dag.from_marginals: expected 0.0 <= firing_prob[2] <= 0.125 (what its gate allows), "
        "got firing_prob[2]=0.25; its gate is open with probability 0.125"
    )
    assert Dag.from_marginals(parents, f64([0.5, 0.25, 0.125])).conditional_prob[2] == 1
    rounded = Dag.from_marginals(((), (0,)), f64([0.3, 0.1 + 0.2]))  # 0.30000000000000004
    assert rounded.conditional_prob[1] == 1
    rare = Dag.from_marginals(((), (0,)), f64([6e-5, 6e-5 + 5e-16]))  # sums of about 1 are rounded
    assert rare.conditional_prob[1] == 1


# Cost and rarity ----------------------------------------------------------------------------------


def test_the_cost_of_a_batch_is_its_number_of_events(monkeypatch):
    """A dense draw would be 10^9 uniforms for each of the first three worlds."""
    drawn = []
    original = torch.rand

    def counted(*args, **kwargs):
        result = original(*args, **kwargs)
        drawn.append(result.numel())
        return result

    parts = 20_000
    parents = tuple(above for i in range(0, 3 * parts, 3) for above in ((), (i,), (i, i + 1)))
    worlds = [
        CorrelatedPairs(500_000, 2e-5, 4e-5, 1e-5).given(7),
        ExclusiveGroups(100, 10_000, 0.3).given(7),
        TwoSets(500_000, 500_000, 0.5).given(7),
        Dag(parents, f64([1e-3, 0.5, 0.5]).repeat(parts)),
    ]
    monkeypatch.setattr(torch, "rand", counted)
    for dist in worlds:
        drawn.clear()
        events = int(dist.sample(1024, generator=stream(0, "cost")).l0().sum())
        # Per block that is not silent a gap, whether it is kept (all have one probability here),
        # and a pattern; per event a magnitude; 5 % and a constant for gaps drawn in reserve.
        assert events < sum(drawn) < 4 * 1.05 * events + 1000, dist.n_features


def test_rare_blocks_fire_at_their_rate():
    """At 1e-7: 3,000 events among 3e10 trials. A float32 uniform below 1e-7 is 19 % too frequent,
    an error of ten standard deviations."""
    n, n_blocks = 60_000, 500_000
    features = torch.arange(2 * n_blocks)
    alone = Codes(torch.arange(2 * n_blocks + 1), features, torch.ones(2 * n_blocks), 2 * n_blocks)
    prob = f64([0.25e-7, 0.75e-7]).repeat(n_blocks)
    codes = Blocks(features // 2, alone, prob).sample(n, generator=stream(0, "rare"))
    second = int((codes.indices % 2).sum())
    counts = torch.tensor([len(codes.indices) - second, second, len(codes.indices)])
    for count, p in zip(counts, (0.25e-7, 0.75e-7, 1e-7), strict=True):
        laws.assert_binomial(count[None], n * n_blocks, f64([p]))


# Refusals -----------------------------------------------------------------------------------------


def dense(*rows):
    return Codes.from_dense(f64(rows))


EMPTY = Codes(torch.tensor([0, 1, 1]), torch.tensor([0]), torch.ones(1), 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Blocks.from_laws({(0,): 0.5, (0, 1): 0.75}),
            "Blocks: expected probabilities of the patterns of block 0 that sum to at most 1, got "
            "sum_of_pattern_probs=1.25; one pattern occurs at a time: divide each by 1.25 or more",
        ),
        (lambda: Blocks.from_laws({(0,): -0.5}), "probabilities in [0, 1], got pattern_prob=-0.5"),
        (lambda: Blocks.from_laws({(0,): math.nan}), "in [0, 1], got pattern_prob=nan"),
        (
            lambda: Blocks.from_laws({(0, 1): 0.5, (1, 0): 0.25}),
            "Blocks: expected each pattern once, got features=[0, 1], patterns=[0, 1]",
        ),
        (
            lambda: Blocks.from_laws({(0,): 0.5}, {(1, 0): 0.5}),
            "Blocks.from_laws: expected a feature in one law only, got feature=0, laws=(0, 1)",
        ),
        (
            lambda: Blocks.from_laws({(0,): 0.5}, {(2,): 0.5}),
            "expected laws that together name the features 0, 1, 2, ..., got n_named=2, "
            "missing=[1]; name a feature that never fires with probability 0",
        ),
        (lambda: Blocks.from_laws({(-1,): 0.5}), "got n_named=1, missing=[0]"),
        (lambda: Blocks.from_laws(), "got n_named=0, missing=[]"),
        (
            lambda: Blocks.from_laws({(0, 0): 0.5}),
            "a feature once in a pattern, got pattern=(0, 0)",
        ),
        (
            lambda: Blocks.from_laws({(0,): 0.5, (): 0.25}),
            "expected a law that gives the empty pattern () to sum to 1, got law=0, "
            "sum_of_pattern_probs=0.75; or leave () out: it has the rest of the probability",
        ),
        (
            lambda: Blocks(torch.tensor([0, 1]), dense([1, 1]), 0.5),
            "Blocks: expected patterns within one block, got features=[0, 1], blocks=[0, 1]; make "
            "these blocks one: features of different blocks fire independently",
        ),
        (
            lambda: Blocks(torch.tensor([0, 0]), EMPTY, 0.5),
            "expected patterns of at least one feature, got pattern=[1]; leave the empty pattern",
        ),
        (
            lambda: Blocks(torch.tensor([0, 2]), dense([1, 0]), 0.5),
            "expected blocks in [0, 2) (n_features), got block_of=[2]",
        ),
        (lambda: Blocks(torch.tensor([0]), dense([1, 0]), 0.5), "patterns of 1 features, got n_"),
        (
            lambda: Blocks(torch.tensor([0]), dense([1]), f64([0.5, 0.5])),
            "a number, or one for each of the 1 patterns, got pattern_prob_shape=(2,)",
        ),
        (
            lambda: Dag(((), (1,)), 0.5),
            "Dag: expected features before 1 as parents of feature 1, got parents=(1,); list "
            "parents before children",
        ),
        (
            lambda: Dag(((-1,),), 0.5),
            "features before 0 as parents of feature 0, got parents=(-1,)",
        ),
        (lambda: Dag(((), (0, 0)), 0.5), "each parent of feature 1 once, got parents=(0, 0)"),
        (lambda: Dag((), 0.5), "an integer number_of_features >= 1, got number_of_features=0"),
        (lambda: Dag(((),), 0.5, "xor"), 'Dag: expected gates "all" or "any", got gate=\'xor\''),
        (lambda: Dag(((), ()), 0.5, ("all",)), "expected one gate, or 2, got n_gates=1"),
        (
            lambda: Dag(((),), 1.5),
            "Dag: expected probabilities in [0, 1], got conditional_prob=1.5",
        ),
        (lambda: Dag(((),), 0.5, "all", -1.0), "probabilities in [0, 1], got leak_prob=-1.0"),
        (
            lambda: Dag(((), (), *((i,) for i in range(1, 17))), 0.5),
            "Dag: expected at most 16 features connected by parents, as all supports are listed, "
            "got n_connected=17, first_of_them=1; cut the graph into smaller parts, or use "
            "Hierarchy where each has one parent",
        ),
    ],
)
def test_infeasible_parameters_are_refused_with_their_range(make, message):
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the whole message is compared below
        make()
    assert message in str(refused.value)


def test_the_largest_connected_part_is_accepted():
    """All 2^16 supports of a part in which each feature leaks."""
    dag = Dag(((), *((i,) for i in range(15))), 0.5, leak_prob=0.25)
    p = [0.5]
    for _ in range(15):
        p.append(0.5 * p[-1] + 0.25 * (1 - p[-1]))
    torch.testing.assert_close(dag.firing_probs(), f64(p), rtol=1e-11, atol=0)


# Broken twins -------------------------------------------------------------------------------------


class AllReadAsAny(Dag):
    """Opens every gate at the first parent that fires."""

    def _sample(self, n, *, generator):
        options = (self.leak_prob, self.magnitude)
        wrong = Dag(self.parents, self.conditional_prob, "any", *options)
        return wrong._sample(n, generator=generator)


class Tight(Dag):
    """Never fires behind a closed gate."""

    def _sample(self, n, *, generator):
        wrong = Dag(self.parents, self.conditional_prob, self.gate, 0.0, self.magnitude)
        return wrong._sample(n, generator=generator)


class OpenedByForce(Dag):
    """Given a feature, its own gate is ignored: its parents are what they were."""

    def _given(self, feature):
        r, leak = (f64(per_entry(v, self.n_features)) for v in (self.conditional_prob, 0.0))
        r[feature] = leak[feature] = 1.0
        return Dag(self.parents, r, self.gate, leak, self.magnitude)


class DrawnTwice(Blocks):
    """Each block shows two of its patterns at once."""

    def _sample(self, n, *, generator):
        pair = Blocks._sample(self, n, generator=generator), super()._sample(n, generator=generator)
        cells = torch.cat([e.rows * self.n_features + e.features for e in pair]).unique()
        values = self.magnitude.sample(len(cells), generator=generator)
        return Events(cells // self.n_features, cells % self.n_features, values)


class NeverSilent(Blocks):
    """Draws among the patterns that are listed, as if the empty one were not there."""

    def _sample(self, n, *, generator):
        w, sums = self._requested
        share = w / sums.clamp(min=1e-300)[self._block_of_pattern]
        wrong = Blocks(self.block_of, self.patterns, share, self.magnitude)
        return wrong._sample(n, generator=generator)


class EachOnItsOwn(Blocks):
    """Right marginals, no patterns."""

    def _sample(self, n, *, generator):
        rows, features = IndependentFiring(self.firing_probs()).draw(n, generator=generator)
        return Events(rows, features, self.magnitude.sample(len(rows), generator=generator))


class OneBlock(Blocks):
    """Declares that features of different blocks never fire together."""

    def _cofiring_times(self, v):
        p = self.firing_probs()[:, None]
        strangers = self.block_of[:, None] != self.block_of
        return super()._cofiring_times(v) - p * (strangers.double() @ (p * v))


class GivenAlone(Blocks):
    """Given a feature, nothing else of its block fires."""

    def _given(self, feature):
        dist = super()._given(feature)
        alone = dist.firing_probs() * (self.block_of != self.block_of[feature])
        alone[feature] = 1.0
        return Independent(self.n_features, alone, self.magnitude)


TWINS = [
    (laws.firing_probs_are_exact, AllReadAsAny),
    (laws.firing_probs_are_exact, Tight),
    (laws.conditional_law_is_exact, OpenedByForce),
    (laws.firing_probs_are_exact, DrawnTwice),
    (laws.firing_probs_are_exact, NeverSilent),
    (laws.cofiring_is_exact, EachOnItsOwn),
    (laws.cofiring_is_exact, OneBlock),
    (laws.conditional_law_is_exact, GivenAlone),
]


@pytest.mark.parametrize(("law", "twin"), TWINS, ids=lambda v: v.__name__)
def test_a_broken_twin_is_caught(law, twin):
    with pytest.raises(AssertionError):
        search(twin, law, tms.generators())
