"""The hierarchy with correlation: moments by loops and quadrature, samples, and what it refuses."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from scipy import integrate, stats
from test_hierarchy import SHARES, TANGLED, count_marginals, excludes, forest, path

from toymodels import Hierarchy, innovations, stream
from toymodels import laws as toy_laws
from toymodels.bivariate_normal import joint_prob
from toymodels.distributions.correlated_hierarchy import CorrelatedHierarchy
from toymodels.distributions.gaussian_copula import GaussianCopula
from toymodels.events import Events
from toymodels.innovations import Innovations
from toymodels.laws import assert_binomial
from toymodels.magnitudes import Exponential, Uniform

B = Exponential(0.7)  # mean 0.7, second moment 0.98
LOADINGS = [0.7, -0.5, 0.8, 0.6, -0.7, 0.4, 0.9, 0.5]


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def tangled(exclusive, **options):
    hierarchy = Hierarchy.from_conditional(
        TANGLED, f64(SHARES), exclusive=tuple(i in exclusive for i in range(8)), **options
    )
    return CorrelatedHierarchy.of(hierarchy, f64(LOADINGS)[:, None])


def siblings(dist, i):
    """The exclusive siblings of i with i, in order; [i] if it excludes none."""
    if not excludes(dist, dist.parents[i]):
        return [i]
    return [j for j, parent in enumerate(dist.parents) if parent == dist.parents[i]]


def both_exceed(p, q, r):
    """P(Z1 > h, Z2 > k) by integrating over Z1: independent of `joint_prob`."""
    h, k = stats.norm.isf([p, q])

    def density(x):
        return stats.norm.pdf(x) * stats.norm.cdf((r * x - k) / math.sqrt(1 - r * r))

    return integrate.quad(density, h, 12, epsabs=1e-13, epsrel=1e-12, limit=200)[0]


def expected_moments(dist, shares):
    """P(i and j fire) and E[a_i a_j], pair by pair from the paths to i and j."""
    n, mean, second = dist.n_features, dist.magnitude.mean(), dist.magnitude.second_moment()
    together, moment = np.zeros((n, n)), np.zeros((n, n))
    for i, j in itertools.product(range(n), repeat=2):
        up, vp = path(dist.parents, i)[::-1], path(dist.parents, j)[::-1]
        prob, common = 1.0, 0
        for a, b in itertools.zip_longest(up, vp):
            if a is None or b is None:
                prob *= shares[a if b is None else b]
            elif a == b:
                prob *= shares[a]
                common += 1
            elif b in siblings(dist, a):
                prob = 0.0
            else:
                groups = siblings(dist, a), siblings(dist, b)
                totals = [sum(shares[k] for k in group) for group in groups]
                latent = float(dist.loadings[groups[0][0]] @ dist.loadings[groups[1][0]])
                chosen = shares[a] * shares[b] / (totals[0] * totals[1])
                prob *= both_exceed(*totals, latent) * chosen
        together[i, j] = prob
        if dist.coupled:
            moment[i, j] = prob * mean ** (len(up) + len(vp) - 2 * common) * second**common
        else:
            moment[i, j] = prob * (second if i == j else mean**2)
    return torch.from_numpy(together), torch.from_numpy(moment)


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("exclusive", [(), (1,), (1, 2)], ids=str)
def test_moments_follow_the_paths(exclusive, coupled):
    dist = tangled(exclusive, coupled=coupled, magnitude=B)
    together, moment = expected_moments(dist, SHARES)
    torch.testing.assert_close(dist.cofiring_probs(), together, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(dist.code_moment(), moment, rtol=1e-10, atol=1e-14)
    plain = Hierarchy(dist.parents, dist.firing_prob, dist.exclusive, magnitude=B)
    difference = (dist.cofiring_probs() - plain.cofiring_probs()).abs()
    assert float(difference.max()) > 0.01  # there is correlation to speak of


@given(Hierarchy.strategy())
def test_without_loadings_it_is_the_hierarchy(hierarchy):
    dist = CorrelatedHierarchy.of(hierarchy, torch.zeros(hierarchy.n_features, 2))
    close = {"rtol": 1e-9, "atol": 1e-14 * float(hierarchy.code_energies().max())}
    torch.testing.assert_close(dist.code_moment(), hierarchy.code_moment(), **close)
    torch.testing.assert_close(
        dist.cofiring_probs(), hierarchy.cofiring_probs(), rtol=1e-9, atol=1e-14
    )


@given(GaussianCopula.strategy())
def test_roots_alone_are_a_copula(copula):
    dist = CorrelatedHierarchy(
        (-1,) * copula.n_features, copula.firing_prob, copula.loadings, magnitude=copula.magnitude
    )
    close = {"rtol": 1e-9, "atol": 1e-14 * float(copula.code_energies().max())}
    torch.testing.assert_close(dist.code_moment(), copula.code_moment(), **close)


# Samples ------------------------------------------------------------------------------------------


def support_prob(dist, shares, support, n_nodes=100):
    """P(exactly these features fire) at rank 1: a product over levels of integrals over u."""
    u, weights = np.polynomial.hermite_e.hermegauss(n_nodes)
    weights = weights / weights.sum()
    depths = [len(path(dist.parents, i)) for i in range(len(shares))]
    prob = 1.0
    for level in range(1, max(depths) + 1):
        given_u, seen = np.ones(n_nodes), set()
        for i in (i for i, depth in enumerate(depths) if depth == level):
            group, parent = siblings(dist, i), dist.parents[i]
            fired = [k for k in group if support[k]]
            if group[0] in seen:
                continue
            seen.add(group[0])
            if parent >= 0 and not support[parent]:
                given_u *= not fired
                continue
            total, f = sum(shares[k] for k in group), float(dist.loadings[group[0]])
            q = stats.norm.cdf((f * u - stats.norm.isf(total)) / math.sqrt(1 - f * f))
            given_u *= q * shares[fired[0]] / total * (len(fired) == 1) if fired else 1 - q
        prob *= weights @ given_u
    return prob


@pytest.mark.parametrize("exclusive", [(), (1,), (1, 2)], ids=str)
def test_every_support_has_its_probability(exclusive):
    """All 256 supports of the tangled forest, 200,000 samples."""
    n, dist = 200_000, tangled(exclusive)
    support = dist.sample(n, generator=stream(0, "test")).support()
    counts = (support.long() @ (2 ** torch.arange(8))).bincount(minlength=256)
    supports = [[bool(code >> i & 1) for i in range(8)] for code in range(256)]
    probs = f64([support_prob(dist, SHARES, support) for support in supports])
    assert float(probs.sum()) == pytest.approx(1, abs=1e-10)
    assert_binomial(counts, n, probs)


def correlated_forest():
    hierarchy = forest(300, 0)
    return CorrelatedHierarchy.low_rank(hierarchy, 3, 0.2, generator=stream(0, "loadings"))


@pytest.mark.parametrize(
    "n", [200_000, pytest.param(10_000_000, marks=pytest.mark.slow)], ids=["2e5", "1e7"]
)
def test_marginals_are_as_requested(n):
    """As for `Hierarchy`: exact binomial test at 1e-10 over 300 features from 0.45 to below 1e-3.

    Also that no child fires without its parent, and of exclusive siblings at most one.
    """
    dist = correlated_forest()
    assert float(dist.firing_probs().min()) < 1e-3
    assert_binomial(count_marginals(dist, n), n, dist.firing_probs())


def rare_world():
    """Two trees down to probability 1e-7, exclusive below the first root, free below the second."""
    parents = (-1, -1, 0, 0, 1, 1, 2, 2, 4, 4, 6, 8)
    shares = [0.02, 0.3, 0.01, 0.2, 0.05, 0.3, 0.001, 0.3, 0.01, 0.4, 0.5, 0.2]
    exclusive = tuple(i in (0, 2) for i in range(12))
    hierarchy = Hierarchy.from_conditional(parents, f64(shares), exclusive=exclusive)
    return CorrelatedHierarchy.low_rank(hierarchy, 2, 0.3, generator=stream(3, "loadings"))


@pytest.mark.parametrize("feature", [10, 11, 7, 0])
def test_what_fires_with_a_rare_feature(feature):
    """`sample_given` at probabilities down to 1e-7: P(both) / p_i, exactly binomial."""
    n, dist = 100_000, rare_world()
    assert float(dist.firing_probs().min()) == pytest.approx(1e-7)
    codes = dist.sample_given(n, feature, generator=stream(0, "test"))
    wanted = dist.cofiring_probs()[feature] / dist.firing_probs()[feature]
    assert_binomial(codes.counts(), n, wanted)


@pytest.mark.slow
def test_ten_million_samples_of_a_rare_world():
    n, batch, dist = 10_000_000, 100_000, rare_world()
    generator = stream(0, "test")
    counts = sum(dist.sample(batch, generator=generator).counts() for _ in range(n // batch))
    assert isinstance(counts, torch.Tensor)
    assert_binomial(counts, n, dist.firing_probs())


@pytest.mark.parametrize("law", [toy_laws.firing_probs_are_exact, toy_laws.cofiring_is_exact])
def test_blocks_do_not_matter(monkeypatch, law):
    monkeypatch.setattr(innovations, "BLOCK", 512)
    law(tangled((1,), magnitude=Uniform()), stream(0, "test"))


# Refusals -----------------------------------------------------------------------------------------

REFUSED = [
    (
        lambda: CorrelatedHierarchy((-1, 0), f64([0.1, 0.2]), torch.zeros(2, 1)),
        r"0 <= firing_prob\[1\] <= 0.1, the firing_prob of its parent 0, got firing_prob\[1\]=0.2",
    ),
    (
        lambda: CorrelatedHierarchy((-1, 0, 0), f64([0.4, 0.3, 0.2]), torch.zeros(3, 1), True),
        r"the children of feature 0 that sum to at most 0.4, .*: divide each by 1.25 or more",
    ),
    (
        lambda: CorrelatedHierarchy((-1, 0), 0.1, torch.zeros(3, 1)),
        r"loadings of shape \(2 \(n_features\), rank\), rank >= 1, got loadings_shape=\(3, 1\)",
    ),
    (
        lambda: CorrelatedHierarchy((-1, 0), 0.1, f64([[0.0], [2.0]])),
        r"norm <= 1, got longest=2.0; multiply them by 0.5 or less",
    ),
    (
        lambda: CorrelatedHierarchy.low_rank(
            Hierarchy((-1,), 0.1), 3, 100.0, generator=stream(0, "x")
        ),
        r"a scale of at most .*, got scale=100.0",
    ),
    (
        lambda: tangled(()).sample_given(2, 8, generator=stream(0, "x")),
        r"a feature in \[0, 8\), got feature=8",
    ),
    (
        lambda: CorrelatedHierarchy((-1,), 0.0, f64([[0.5]])).sample_given(
            2, 0, generator=stream(0, "x")
        ),
        "a feature that can fire, got feature=0",
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_cannot_be_is_refused(unchecked, make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert str(caught.value).startswith("CorrelatedHierarchy")


# Broken twins -------------------------------------------------------------------------------------


class OneFactorForAllLevels(CorrelatedHierarchy):
    """A path's innovations are correlated, so that its probabilities do not multiply."""

    def _sample(self, n, *, generator):
        levels = self._innovations_on(generator.device)
        factor = levels[0].firing.factor(n, generator=generator)
        return self._descend(
            n,
            lambda depth, rows, above: levels[depth].draw(factor, rows, above, generator=generator),
            generator=generator,
        )


class TwoInnovations(CorrelatedHierarchy):
    """Exclusive siblings have an innovation each, and the first of those that fire is kept."""

    def _sample(self, n, *, generator):
        free = CorrelatedHierarchy(
            self.parents, self.firing_prob, self.loadings, magnitude=self.magnitude
        )
        support = free.sample(n, generator=generator).support()
        for i in range(self.n_features):
            if self.parents[i] >= 0:
                support[:, i] &= support[:, self.parents[i]]
            for k in siblings(self, i):
                if k < i:
                    support[:, i] &= ~support[:, k]
        rows, features = support.nonzero(as_tuple=True)
        values = self.magnitude.sample(len(rows), generator=generator)
        return Events(rows, features, values)


class SiblingLoadings(CorrelatedHierarchy):
    """Declares that each exclusive sibling has its own loadings."""

    def _innovations_on(self, device):
        levels = super()._innovations_on(device)
        if device.type == "cpu" and self.declares:
            return tuple(_Own(level, self.loadings.double()) for level in levels)
        return levels

    declares = False

    def _cofiring_times(self, v):
        other = dataclasses.replace(self)
        object.__setattr__(other, "declares", True)
        return CorrelatedHierarchy._cofiring_times(other, v)


class _Own(Innovations):
    def __init__(self, innovations, loadings):
        super().__init__(innovations.level, loadings[innovations.level.features])
        self.own = loadings[innovations.level.features]

    def given_other(self, first, second):
        p, unit = self.firing.probs, self.unit
        latent = self.own[first] @ self.own[second].T
        both = joint_prob(p[unit[first]][:, None], p[unit[second]], latent)
        product = p[unit[first]][:, None] * p[unit[second]]
        ratio = torch.where(product > 0, both / product, 1.0)
        ratio = torch.where(unit[first][:, None] == unit[second], 0.0, ratio)
        return ratio * self.probs[second]


class Uncorrelated(CorrelatedHierarchy):
    def _sample(self, n, *, generator):
        plain = Hierarchy(
            self.parents,
            self.firing_prob,
            self.exclusive,
            self.exclusive_roots,
            self.coupled,
            self.magnitude,
        )
        return plain._sample(n, generator=generator)


class MomentIgnoresCoupling(CorrelatedHierarchy):
    def _moment_times(self, v):
        mean = self._strength(self.magnitude.mean())[:, None]
        own = self.code_energies() - self.firing_probs() * mean[:, 0] ** 2
        return mean * self._cofiring_times(mean * v) + own[:, None] * v


def for_twins(cls):
    """Two trees, siblings exclusive and of unlike loadings, strengths coupled."""
    hierarchy = Hierarchy.regular(2, 2, 2, 0.5, 0.25, coupled=True)
    return cls.of(hierarchy, f64([0.9, 0.9, *[0.9, 0.2] * 6])[:, None])


@pytest.mark.parametrize(
    ("law", "twin"),
    [
        (toy_laws.firing_probs_are_exact, OneFactorForAllLevels),
        (toy_laws.firing_probs_are_exact, TwoInnovations),
        (toy_laws.cofiring_is_exact, SiblingLoadings),
        (toy_laws.cofiring_is_exact, Uncorrelated),
        (toy_laws.moments_are_exact, MomentIgnoresCoupling),
    ],
    ids=lambda value: value.__name__,
)
def test_a_broken_hierarchy_is_caught(law, twin):
    law(for_twins(CorrelatedHierarchy), stream(0, "test"))
    with pytest.raises(AssertionError):
        law(for_twins(twin), stream(0, "test"))
