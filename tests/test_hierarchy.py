"""The hierarchy: its moments by enumeration, its samples, its cost, and what it refuses."""

import itertools

import pytest
import torch
from searching import search

from toymodels import Exclusive, Independent, stream
from toymodels import laws as toy_laws
from toymodels import strategies as tms
from toymodels.distributions.hierarchy import Hierarchy
from toymodels.laws import assert_binomial
from toymodels.magnitudes import Constant, Exponential, Uniform

B = Exponential(0.7)  # mean 0.7, second moment 0.98
SHARES = [0.1, 0.2, 0.3, 0.35, 0.15, 0.4, 0.2, 0.13]
# Numbered so that neither levels nor siblings are in one run: 0 and 1 are roots, 2 and 5 are below
# 1, 3 is below 0, 4 is below 2, 6 is below 3 and 7 is below 2.
TANGLED = (-1, -1, 1, 0, 2, 1, 3, 2)


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def excludes(dist, q):
    if q < 0:
        return dist.exclusive_roots
    return dist.exclusive[q] if isinstance(dist.exclusive, tuple) else dist.exclusive


def support_prob(dist, shares, support):
    """P(exactly these features fire), feature by feature from P(child | parent) = shares."""
    prob = 1.0
    for q in range(-1, len(shares)):
        children = [i for i, parent in enumerate(dist.parents) if parent == q]
        fired = [i for i in children if support[i]]
        if q >= 0 and not support[q]:
            prob *= not fired
        elif excludes(dist, q):
            some = shares[fired[0]] if fired else 1 - sum(shares[i] for i in children)
            prob *= some * (len(fired) <= 1)
        else:
            for i in children:
                prob *= shares[i] if support[i] else 1 - shares[i]
    return prob


def path(parents, i):
    """The features from i up to its root, i first."""
    return [] if i < 0 else [i, *path(parents, parents[i])]


def strength_product(dist, i, j):
    """E[a_i a_j | both fire]: each factor b once or twice."""
    own = [set(path(dist.parents, k)) if dist.coupled else {k} for k in (i, j)]
    mean, second = dist.magnitude.mean(), dist.magnitude.second_moment()
    return second ** len(own[0] & own[1]) * mean ** len(own[0] ^ own[1])


def assert_moments_enumerate(dist, shares):
    n = len(shares)
    both = torch.zeros(n, n, dtype=torch.float64)
    for support in itertools.product([False, True], repeat=n):
        fired = f64(support)
        both += support_prob(dist, shares, support) * torch.outer(fired, fired)
    strengths = f64([[strength_product(dist, i, j) for j in range(n)] for i in range(n)])
    heights = [len(path(dist.parents, i)) if dist.coupled else 1 for i in range(n)]
    means = f64([dist.magnitude.mean() ** height for height in heights])
    close = {"rtol": 1e-12, "atol": 1e-14}
    torch.testing.assert_close(dist.firing_probs(), both.diagonal(), **close)
    torch.testing.assert_close(dist.mean_codes(), both.diagonal() * means, **close)
    torch.testing.assert_close(dist.code_energies(), (both * strengths).diagonal(), **close)
    torch.testing.assert_close(dist.code_moment(), both * strengths, **close)


@pytest.mark.parametrize("coupled", [False, True])
def test_moments_of_every_forest_of_at_most_four_features(coupled):
    for n in range(1, 5):
        for parents in itertools.product(*[range(-1, i) for i in range(n)]):
            inner = [i for i in range(n) if i in parents]  # whose exclusion matters
            for answers in itertools.product([False, True], repeat=len(inner) + 1):
                exclusive = tuple(i in inner and answers[inner.index(i)] for i in range(n))
                dist = Hierarchy.from_conditional(
                    parents,
                    f64(SHARES[:n]),
                    exclusive=exclusive,
                    exclusive_roots=answers[-1],
                    coupled=coupled,
                    magnitude=B,
                )
                assert_moments_enumerate(dist, SHARES[:n])


def tangled(exclusive, coupled=False, magnitude=B):
    return Hierarchy.from_conditional(
        TANGLED,
        f64(SHARES),
        exclusive=tuple(i in exclusive for i in range(8)),
        coupled=coupled,
        magnitude=magnitude,
    )


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("exclusive", [(), (1,), (1, 2)], ids=str)
def test_moments_of_a_tangled_forest(exclusive, coupled):
    assert_moments_enumerate(tangled(exclusive, coupled), SHARES)


def forest(n, seed, **options):
    """A random forest of n features in a random order of depths, siblings exclusive or not."""
    generator = stream(seed, "forest")
    uniform = torch.rand(3, n, dtype=torch.float64, generator=generator)
    # Parents are recent, so that the forest is deep; one feature in eight is a root.
    back = 1 + (uniform[0] * 12).long()
    parents = [
        i - int(b) if u > 1 / 8 else -1
        for i, (b, u) in enumerate(zip(back, uniform[1], strict=True))
    ]
    parents = tuple(max(-1, parent) for parent in parents)
    n_siblings = torch.tensor([parents.count(parent) for parent in parents])
    roots = torch.tensor(parents) < 0
    shares = torch.where(roots, 0.05 + 0.4 * uniform[2], (0.3 + 0.7 * uniform[2]) / n_siblings)
    exclusive = tuple(bool(i % 3) for i in range(n))
    return Hierarchy.from_conditional(parents, shares, exclusive=exclusive, **options)


@pytest.mark.parametrize("coupled", [False, True])
def test_the_code_moment_follows_the_lowest_common_ancestor(coupled):
    """The formulas of the class, pair by pair, on 120 features up to a dozen levels deep."""
    dist = forest(120, 0, coupled=coupled, magnitude=B)
    p, m, e = (t.tolist() for t in (dist.firing_probs(), dist.mean_codes(), dist.code_energies()))
    paths = [path(dist.parents, i) for i in range(120)]
    assert max(map(len, paths)) >= 8
    expected = torch.zeros(120, 120, dtype=torch.float64)
    kinds = set()
    for i, j in itertools.product(range(120), repeat=2):
        common = next((k for k in paths[i] if k in paths[j]), None)
        if i == j:
            kind, value = "self", e[i]
        elif common is None:
            kind, value = "strangers", m[i] * m[j]
        elif common in (i, j):
            low = i + j - common
            kind, value = "line", e[common] * m[low] / m[common] if coupled else m[low] * B.mean()
        elif excludes(dist, common):
            kind, value = "exclusive", 0.0
        else:
            scale = e[common] / m[common] ** 2 if coupled else 1 / p[common]
            kind, value = "branches", m[i] * m[j] * scale
        kinds.add(kind)
        expected[i, j] = value
    assert len(kinds) == 5
    torch.testing.assert_close(dist.code_moment(), expected, rtol=1e-12, atol=1e-15)


def test_roots_alone_are_independent_or_exclusive():
    p, parents = f64([0.4, 0.2, 0.0, 0.3]), (-1,) * 4
    for dist, known in (
        (Hierarchy(parents, p, magnitude=B), Independent(4, p, B)),
        (Hierarchy(parents, p, exclusive_roots=True, magnitude=B), Exclusive(4, p, B)),
    ):
        torch.testing.assert_close(dist.code_moment(), known.code_moment(), rtol=1e-14, atol=0)


def test_a_regular_forest_is_what_it_says():
    dist = Hierarchy.regular(2, 3, 2, 0.4, 0.25)
    assert dist.parents == (-1, -1, *[0] * 3, *[1] * 3, *[q for q in range(2, 8) for _ in range(3)])
    assert dist.firing_probs().tolist() == [0.4] * 2 + [0.1] * 6 + [0.025] * 18
    assert dist.expected_l0() == pytest.approx(2 * 0.4 * (1 + 0.75 + 0.75**2), rel=1e-12)
    assert dist.code_moment()[2, 3] == 0
    free = Hierarchy.regular(2, 3, 2, 0.4, 0.25, exclusive=False, magnitude=B)
    assert float(free.code_moment()[2, 3]) == pytest.approx(0.4 * (0.25 * 0.7) ** 2, rel=1e-12)
    flat = Hierarchy.regular(3, 5, 0, 0.4, 0.9)
    assert flat.parents == (-1, -1, -1)


# Samples ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclusive", [(), (1,), (1, 2)], ids=str)
def test_every_support_has_its_probability(exclusive):
    """All 256 supports of the tangled forest, 200,000 samples: none without its parent."""
    n = 200_000
    dist = tangled(exclusive)
    support = dist.sample(n, generator=stream(0, "test")).support()
    counts = (support.long() @ (2 ** torch.arange(8))).bincount(minlength=256)
    supports = [[bool(code >> i & 1) for i in range(8)] for code in range(256)]
    probs = f64([support_prob(dist, SHARES, support) for support in supports])
    assert float(probs.sum()) == pytest.approx(1, abs=1e-12)
    assert_binomial(counts, n, probs)


def count_marginals(dist, n, batch=20_000):
    """Returns how often each feature fired; asserts the structure of the first batches."""
    generator = stream(1, "test")
    counts = torch.zeros(dist.n_features, dtype=torch.int64)
    parents = torch.tensor(dist.parents)
    children = (parents >= 0).nonzero()[:, 0]
    belongs = torch.zeros(dist.n_features, dist.n_features)
    belongs[children, parents[children]] = 1
    exclusive = torch.tensor([excludes(dist, q) for q in range(dist.n_features)])
    for i in range(n // batch):
        codes = dist.sample(batch, generator=generator)
        counts += codes.counts()
        if i >= 10:
            continue
        support = codes.support()
        assert not bool((support[:, children] & ~support[:, parents[children]]).any())
        assert float((support.float() @ belongs)[:, exclusive].max()) == 1
    return counts


@pytest.mark.parametrize(
    "n", [200_000, pytest.param(10_000_000, marks=pytest.mark.slow)], ids=["2e5", "1e7"]
)
def test_marginals_are_as_requested(n):
    """Exact binomial test at 1e-10 over 300 features, of probability 0.45 down to below 1e-3.

    At 200,000 samples an error of 3.5 % in a probability of 0.3 or 17 % in one of 0.02 is caught
    with probability above 99 %.
    """
    dist = forest(300, 0)
    assert float(dist.firing_probs().min()) < 1e-3
    assert_binomial(count_marginals(dist, n), n, dist.firing_probs())


def test_coupled_strengths_multiply_down():
    dist = tangled((1,), coupled=True, magnitude=Constant(2.0))
    codes = dist.sample(2000, generator=stream(0, "test")).dense()
    heights = torch.tensor([len(path(TANGLED, i)) for i in range(8)])
    assert torch.equal(codes, (codes > 0) * 2.0**heights)
    uniform = tangled((1,), coupled=True, magnitude=Uniform(1.0, 1.5))
    codes = uniform.sample(20_000, generator=stream(0, "test")).dense()
    ratios = codes[:, 4] / codes[:, 2]
    ratios = ratios[codes[:, 4] > 0]
    assert len(ratios) > 100
    assert float(ratios.min()) >= 1 - 1e-6
    assert float(ratios.max()) <= 1.5 + 1e-6


def count_uniforms(monkeypatch, dist, n):
    """Returns how many uniforms a sample of n draws, and how many events it holds."""
    drawn, rand = [], torch.rand

    def counting(*args, **kwargs):
        result = rand(*args, **kwargs)
        drawn.append(result.numel())
        return result

    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", counting)
        codes = dist.sample(n, generator=stream(0, "test"))
    return sum(drawn), len(codes.indices)


@pytest.mark.parametrize("exclusive", [False, True])
def test_the_cost_follows_the_events(monkeypatch, exclusive):
    """At the same l0, 111 and 111,000 features draw as many uniforms: a few for each event.

    Per event: a gap, a thinning and a magnitude, or one choice for each exclusive parent; batches
    of gaps are cut generously, by five standard deviations. A dense draw would take 10^8.
    """
    per_event = []
    for n_roots in (1, 1000):
        dist = Hierarchy.regular(n_roots, 10, 2, 1 / n_roots, 0.1, exclusive=exclusive)
        drawn, events = count_uniforms(monkeypatch, dist, 1000)
        per_event.append(drawn / events)
    assert max(per_event) < 4
    assert per_event[1] < 1.5 * per_event[0]


# Refusals -----------------------------------------------------------------------------------------

REFUSED = [
    (lambda: Hierarchy((), 0.1), "number_of_parents >= 1, got number_of_parents=0"),
    (lambda: Hierarchy((-1, 1), 0.1), r"feature before 1 as the parent of feature 1, got parent=1"),
    (lambda: Hierarchy((-1, 0.0), 0.1), r"parent of feature 1, got parent=0.0"),
    (lambda: Hierarchy((-2,), 0.1), r"-1 \(a root\) .* got parent=-2; list parents before"),
    (lambda: Hierarchy((-1, 0), f64([0.1] * 3)), r"one value for each of the 2 features"),
    (lambda: Hierarchy((-1, 0), 1.5), r"probabilities in \[0, 1\], got firing_prob=1.5"),
    (
        lambda: Hierarchy((-1, 0, 1), f64([0.5, 0.25, 0.3])),
        r"0 <= firing_prob\[2\] <= 0.25, the firing_prob of its parent 1, got firing_prob\[2\]=0.3",
    ),
    (
        lambda: Hierarchy((-1, 0, 0), f64([0.5, 0.25, 0.375]), exclusive=(True, False, False)),
        r"the children of feature 0 that sum to at most 0.5, got sum_of_firing_probs=0.625; "
        r"they exclude one another: divide each by 1.25 or more",
    ),
    (
        lambda: Hierarchy((-1, -1), 0.75, exclusive_roots=True),
        r"the roots that sum to at most 1, got sum_of_firing_probs=1.5; .* divide each by 1.5 ",
    ),
    (
        lambda: Hierarchy((-1, 0), 0.1, exclusive=(True,)),
        r"one bool, or one for each of the 2 features, got exclusive_length=1",
    ),
    (lambda: Hierarchy.from_conditional((-1, 0), 1.1), r"in \[0, 1\], got firing_prob=1.1"),
    (
        lambda: Hierarchy.from_conditional((-1, 0, 0), 0.75, exclusive=True),
        r"children of feature 0 that sum to at most 0.75, got sum_of_firing_probs=1.125",
    ),
    (lambda: Hierarchy.from_conditional((-1, 7), 0.5), r"parent of feature 1, got parent=7"),
    (lambda: Hierarchy.regular(0, 2, 1, 0.1, 0.1), r"n_roots >= 1, got n_roots=0"),
    (lambda: Hierarchy.regular(1, 2, -1, 0.1, 0.1), r"depth >= 0, got depth=-1"),
    (lambda: Hierarchy.regular(1, 2, 1, 1.1, 0.1), r"0 <= root_prob <= 1, got root_prob=1.1"),
    (
        lambda: Hierarchy.regular(1, 4, 1, 0.1, 0.3),
        r"0 <= child_prob <= 0.25 = 1 / branching, got child_prob=0.3",
    ),
    (lambda: Hierarchy.regular(1, 4, 1, 0.1, 1.3, exclusive=False), r"0 <= child_prob <= 1, got"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_cannot_be_is_refused(unchecked, make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert str(caught.value).startswith("Hierarchy")


def test_the_bounds_of_the_refusals_are_feasible():
    """What a message calls feasible is accepted: equality, in float32 too."""
    assert Hierarchy((-1, 0), f64([0.25, 0.25])).code_moment().shape == (2, 2)
    assert Hierarchy.regular(1, 3, 2, 0.1, 1 / 3).n_features == 13
    tenths = torch.tensor([0.7, *[0.1] * 7])
    assert float(tenths[1:].double().sum()) > float(tenths[0])  # as rounded to float32
    assert Hierarchy((-1, *[0] * 7), tenths, exclusive=True).n_features == 8


# Broken twins -------------------------------------------------------------------------------------


class MarginalsAsConditionals(Hierarchy):
    """Draws children at their marginal probability, given their parent."""

    @property
    def _conditional(self):
        return self.firing_probs()


class SamplesIgnoreExclusion(Hierarchy):
    def _sample(self, n, *, generator):
        free = Hierarchy(self.parents, self.firing_prob, magnitude=self.magnitude)
        return free._sample(n, generator=generator)


class MomentIgnoresExclusion(Hierarchy):
    def _moment_times(self, v):
        free = Hierarchy(
            self.parents, self.firing_prob, coupled=self.coupled, magnitude=self.magnitude
        )
        return free._moment_times(v)


class MomentIgnoresCoupling(Hierarchy):
    """Right means and energies, but products as if strengths of a tree were independent."""

    def _moment_times(self, v):
        together = Hierarchy(
            self.parents,
            self.firing_prob,
            self.exclusive,
            self.exclusive_roots,
            magnitude=Constant(1.0),
        )
        mean = self._strength(self.magnitude.mean())[:, None]
        own = self.code_energies() - self.firing_probs() * mean[:, 0] ** 2
        return mean * together._moment_times(mean * v) + own[:, None] * v


class IndependentFeatures(Hierarchy):
    """Right marginals, no hierarchy."""

    def _sample(self, n, *, generator):
        return Independent(self.n_features, self.firing_prob, self.magnitude)._sample(
            n, generator=generator
        )


class OneBranchOnly(Hierarchy):
    """Declares that siblings never fire together, exclusive or not."""

    def _moment_times(self, v):
        exclusive = Hierarchy.__new__(Hierarchy)
        exclusive.__dict__.update(self.__dict__)
        exclusive.__dict__["_excludes"] = torch.ones(self.n_features + 1, dtype=torch.bool)
        return exclusive._moment_times(v)


@pytest.mark.parametrize(
    ("law", "twin"),
    [
        (toy_laws.firing_probs_are_exact, MarginalsAsConditionals),
        (toy_laws.cofiring_is_exact, SamplesIgnoreExclusion),
        (toy_laws.cofiring_is_exact, MomentIgnoresExclusion),
        (toy_laws.moments_are_exact, MomentIgnoresCoupling),
        (toy_laws.cofiring_is_exact, IndependentFeatures),
        (toy_laws.cofiring_is_exact, OneBranchOnly),
    ],
    ids=lambda value: value.__name__,
)
def test_a_broken_hierarchy_is_caught(law, twin):
    with pytest.raises(AssertionError):
        search(twin, law, tms.generators())
