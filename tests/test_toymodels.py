"""Streams, codes, rare events, magnitudes, dictionaries and worlds against naive twins."""

import itertools
import math
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from toymodels import (
    AbsNormal,
    AbsStudentT,
    Codes,
    Constant,
    Dictionary,
    Exclusive,
    Exponential,
    Independent,
    LogNormal,
    RareProperty,
    RareRegime,
    RectifiedNormal,
    ToyModel,
    Uniform,
    Zipf,
    hadamard_union,
    orthonormal,
    polygon,
    random_unit,
    stream,
)
from toymodels import strategies as tms
from toymodels.events import IndependentFiring, bernoulli_indices
from toymodels.laws import ALPHA, assert_binomial

ROOT = Path(__file__).parent.parent


# Streams ------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**80), name=st.sampled_from(["train", "eval", "é 1"]))
def test_a_stream_is_reproducible_and_depends_on_seed_and_name(seed, name):
    draws = torch.rand(4, generator=stream(seed, name))
    assert torch.equal(draws, torch.rand(4, generator=stream(seed, name)))
    for other in (
        stream(seed + 1, name),
        stream(seed + 2**32, name),
        stream(seed + 2**64, name),
        stream(seed, name + "0"),
        stream(int(f"1{seed}"), name),
    ):
        assert not torch.equal(draws, torch.rand(4, generator=other))


def test_a_streams_state_has_more_than_the_32_bits_of_manual_seed():
    # The trap avoided: on the CPU, seeds equal modulo 2^32 give the same stream.
    trap = [torch.Generator().manual_seed(s).get_state()[24:] for s in (5, 5 + 2**32)]
    assert torch.equal(*trap)

    def words(generator):
        return generator.get_state().numpy()[24 : 24 + 8 * 624].view(np.uint64)

    def share_of_seeded_words(state):
        """How many words follow from the one before, as when 32 bits seed the whole state."""
        step = (1812433253 * (state[:-1] ^ (state[:-1] >> np.uint64(30)))) % 2**32
        follow = (step + np.arange(1, 624, dtype=np.uint64)) % 2**32 == state[1:]
        return follow.mean()

    assert share_of_seeded_words(words(torch.Generator().manual_seed(7))) == 1
    states = [words(stream(seed, "train")) for seed in range(200)]
    assert max(share_of_seeded_words(state) for state in states) < 0.01
    assert all(int(state.max()) < 2**32 for state in states)
    # Independent 32-bit words differ in half of their bits: Hoeffding over all pairs of 200.
    bits = np.stack([np.unpackbits(s.astype(np.uint32).view(np.uint8)) for s in states])
    signs = 2.0 * bits - 1
    overlap = np.abs(np.triu(signs @ signs.T, 1)).max() / signs.shape[1]
    assert overlap < math.sqrt(2 * math.log(2 * 200**2 / ALPHA) / signs.shape[1])


def test_streams_are_uniform_and_uncorrelated_over_seeds():
    first = torch.stack([torch.rand(2, generator=stream(s, "a")) for s in range(2000)]).numpy()
    other = torch.stack([torch.rand(2, generator=stream(s, "b")) for s in range(2000)]).numpy()
    radius = math.sqrt(math.log(2 / ALPHA) / (2 * 2000))  # DKW, at probability ALPHA
    assert stats.kstest(first[:, 0], "uniform").statistic < radius
    for a, b in (
        (first[:, 0], first[:, 1]),
        (first[:, 0], other[:, 0]),
        (first[:-1, 0], first[1:, 0]),
    ):
        product = (2 * a - 1) * (2 * b - 1)  # in [-1, 1], mean 0 if independent: Hoeffding
        assert abs(product.mean()) < math.sqrt(2 * math.log(2 / ALPHA) / len(product))


# Codes --------------------------------------------------------------------------------------------


@given(codes=tms.codes(), d_in=st.integers(1, 4))
def test_codes_agree_with_loops(codes, d_in):
    n_rows, n_features = len(codes), codes.n_features
    vectors = torch.arange(n_features * d_in, dtype=torch.float64).reshape(n_features, d_in) - 3
    dense = [[0.0] * n_features for _ in range(n_rows)]
    fired = [[False] * n_features for _ in range(n_rows)]
    decoded = [[0.0] * d_in for _ in range(n_rows)]
    for b in range(n_rows):
        for e in range(int(codes.offsets[b]), int(codes.offsets[b + 1])):
            i, value = int(codes.indices[e]), float(codes.values[e])
            dense[b][i], fired[b][i] = value, True
            for j in range(d_in):
                decoded[b][j] += value * float(vectors[i, j])
    assert codes.dense().tolist() == dense
    assert codes.support().tolist() == fired
    assert codes.l0().tolist() == [sum(row) for row in fired]
    assert codes.counts().tolist() == [sum(column) for column in zip(*fired, strict=True)]
    assert codes.decode(vectors).tolist() == decoded
    again = Codes.from_dense(codes.dense())
    assert torch.equal(again.dense(), codes.dense())
    assert torch.equal(again.offsets, codes.offsets)


@given(codes=tms.codes(), data=st.data())
def test_events_may_come_in_any_order(codes, data):
    rows = codes.rows()
    order = torch.tensor(data.draw(st.permutations(range(len(rows)))), dtype=torch.int64)
    again = Codes.from_events(
        rows[order],
        codes.indices[order],
        codes.values[order],
        n_rows=len(codes),
        n_features=codes.n_features,
    )
    assert torch.equal(again.dense(), codes.dense())


def test_an_event_of_strength_zero_is_in_the_support():
    rows, features = torch.tensor([1, 0]), torch.tensor([2, 0])
    codes = Codes.from_events(rows, features, torch.tensor([0.0, 5.0]), n_rows=3, n_features=3)
    assert codes.support().tolist() == [[True, False, False], [False, False, True], [False] * 3]
    assert codes.l0().tolist() == [1, 1, 0]
    assert codes.counts().tolist() == [1, 0, 1]
    assert Codes.from_dense(codes.dense()).l0().tolist() == [1, 0, 0]  # dense codes cannot tell


# Rare events --------------------------------------------------------------------------------------


def rate_test(counts: int, n: int, p: float) -> bool:
    """Whether `counts` of `n` fits probability p by the exact binomial test at ALPHA."""
    return stats.binomtest(counts, n, p).pvalue > ALPHA


def test_rare_events_are_exact_where_float32_uniforms_are_not():
    n, p = 10**11, 1e-7  # 10,000 events expected: an error of 7 % is caught
    found = bernoulli_indices(n, p, generator=stream(0, "rare"))
    assert bool((found.diff() > 0).all())
    assert int(found[0]) >= 0
    assert int(found[-1]) < n
    assert rate_test(len(found), n, p)
    # The twin: a float32 uniform is a multiple of 2^-24, so that it is below p with probability
    # ceil(p 2^24) / 2^24 = 2^-23, 19 % above p.
    twin = math.ceil(p * 2**24) / 2**24
    assert twin == pytest.approx(1.19e-7, rel=0.01)
    assert float(torch.rand(100_000, generator=stream(0, "grid")).mul(2**24).frac().max()) == 0
    assert not rate_test(len(bernoulli_indices(n, twin, generator=stream(0, "twin"))), n, p)


@pytest.mark.parametrize("p", [1e-4, 0.02, 0.5, 0.9])
def test_gaps_between_events_are_geometric(p):
    found = bernoulli_indices(int(20_000 / p), p, generator=stream(1, f"gaps {p}")).numpy()
    gaps = np.diff(found) - 1
    radius = math.sqrt(math.log(2 / ALPHA) / (2 * len(gaps)))
    points = np.unique(gaps)
    empirical = np.searchsorted(np.sort(gaps), points, side="right") / len(gaps)
    error = np.abs(empirical - stats.geom(p, loc=-1).cdf(points)).max()
    assert error < radius
    wrong = np.abs(empirical - stats.geom(min(1, 1.1 * p), loc=-1).cdf(points)).max()
    assert wrong > radius  # the same bound catches 10 %


@given(n=st.integers(0, 30), generator=tms.generators())
def test_certain_and_impossible_events(n, generator):
    assert bernoulli_indices(n, 1.0, generator=generator).tolist() == list(range(n))
    assert bernoulli_indices(n, 0.0, generator=generator).tolist() == []
    assert set(bernoulli_indices(n, 1 - 1e-16, generator=generator).tolist()) <= set(range(n))
    assert bernoulli_indices(n, 5e-324, generator=generator).tolist() == []


@given(probs=st.lists(tms.probs(), min_size=1, max_size=6), generator=tms.generators())
def test_independent_firing_has_the_joint_law_of_dense_bernoullis(probs, generator):
    n, p = 4000, torch.tensor(probs, dtype=torch.float64)
    rows, features = IndependentFiring(p).draw(n, generator=generator)
    support = torch.zeros(n, len(p), dtype=torch.float64)
    support[rows, features] += 1.0
    assert len(rows) == int(support.sum())  # no event twice
    dense = (torch.rand(n, len(p), dtype=torch.float64, generator=generator) < p).double()
    for sample in (support, dense):  # the twin passes the same test
        joint = sample.T @ sample
        wanted = torch.outer(p, p).fill_diagonal_(0) + torch.diag(p)
        assert_binomial(joint.flatten(), n, wanted.flatten())


def count_draws(monkeypatch):
    """Counts the uniforms and normals drawn from now on."""
    drawn = {"n": 0}
    for name in ("rand", "randn"):
        original = getattr(torch, name)

        def counted(*args, original=original, **kwargs):
            result = original(*args, **kwargs)
            drawn["n"] += result.numel()
            return result

        monkeypatch.setattr(torch, name, counted)
    return drawn


def test_the_cost_of_a_batch_is_its_number_of_events(monkeypatch):
    n_features, n = 1_000_000, 1024
    law = Zipf(n_features, alpha=0.0, first_prob=34 / n_features)
    mixed = Zipf(n_features, alpha=1.0, first_prob=2.4)  # p from 1 down to 2.4e-6, 34 active
    for dist in (law, mixed):
        assert 30 < dist.expected_l0() < 40
        generator = stream(0, "cost")
        drawn = count_draws(monkeypatch)
        events = int(dist.sample(n, generator=generator).l0().sum())
        monkeypatch.undo()
        # A gap and a thinning for each of at most 2 candidates an event, and a magnitude; the 5 %
        # and the constant are for what bernoulli_indices draws in reserve. Dense: 10^9.
        assert events < drawn["n"] < 5 * 1.05 * events + 10_000


MEMORY = """
import re, torch
from toymodels import Dictionary, Independent, ToyModel, stream
vectors = torch.zeros(1_000_000, 8)
vectors[:, 0] = 1
world = ToyModel(Independent(1_000_000, 34e-6), Dictionary(vectors))
generator = stream(0, "memory")
ToyModel(Independent(9, 0.1), Dictionary(vectors[:9])).sample(9, generator=generator)
def kib(name):
    return int(re.search(name + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1])
before = kib("VmRSS")
codes = world.sample(1024, generator=generator).codes
# The peak counts from the start of the process, so the difference can only be too large.
print((kib("VmHWM") - before) * 1024, int(codes.l0().sum()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_million_features_fit_into_100_megabytes():
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True, check=True
    )
    n_bytes, n_events = map(int, done.stdout.split())
    assert n_events > 30_000
    assert 0 < n_bytes < 100e6


# Magnitudes ---------------------------------------------------------------------------------------


class Rectified:
    """max(0, X), or |X| if fold, of a frozen scipy law X; moments by quadrature."""

    def __init__(self, law, fold=False):
        self.law, self.fold, self.args = law, fold, (law.dist.name, *law.args)

    def cdf(self, x):
        return self.law.cdf(x) - (self.law.cdf(-x) if self.fold else 0)

    def _moment(self, power):
        def integrand(x):
            return x**power * (self.law.pdf(x) + (self.law.pdf(-x) if self.fold else 0))

        ends = (0, 1, 10, np.inf)
        parts = [integrate.quad(integrand, *ab, epsabs=0, epsrel=1e-12) for ab in pairwise(ends)]
        return sum(value for value, _ in parts)

    def mean(self):
        return self._moment(1)

    def var(self):
        return self._moment(2) - self._moment(1) ** 2


def largest_gap(sample, law):
    """sup |F_n - F|, also for laws with an atom, up to 1/n."""
    points, counts = np.unique(sample.double().numpy(), return_counts=True)
    return np.abs(counts.cumsum() / len(sample) - law.cdf(points)).max()


LAWS = [
    (Uniform(0.5, 1.5), stats.uniform(0.5, 1.0)),
    (Uniform(0.0, 3.0), stats.uniform(0.0, 3.0)),
    (AbsNormal(1.7), stats.halfnorm(scale=1.7)),
    (Exponential(0.4), stats.expon(scale=0.4)),
    (LogNormal(0.3, 0.8), stats.lognorm(s=0.8, scale=math.exp(0.3))),
    (RectifiedNormal(1.0, 0.5), Rectified(stats.norm(1.0, 0.5))),
    (RectifiedNormal(-0.2, 1.5), Rectified(stats.norm(-0.2, 1.5))),
    (AbsStudentT(3.0, 0.7), Rectified(stats.t(3.0, scale=0.7), fold=True)),
    (AbsStudentT(12.5), Rectified(stats.t(12.5), fold=True)),
]


@pytest.mark.parametrize(("magnitude", "law"), LAWS, ids=lambda v: getattr(v, "args", v))
def test_magnitudes_have_their_law_and_moments(magnitude, law):
    n = 200_000
    sample = magnitude.sample(n, generator=stream(2, "magnitude"))
    assert sample.dtype == torch.float32
    # Dvoretzky-Kiefer-Wolfowitz with Massart's constant: 0.8 % of probability at ALPHA; rounding
    # to float32 moves the cdf by less than 1e-6.
    radius = math.sqrt(math.log(2 / ALPHA) / (2 * n)) + 1e-6
    assert largest_gap(sample, law) < radius
    assert largest_gap(1.05 * sample, law) > radius
    assert magnitude.mean() == pytest.approx(law.mean(), rel=1e-9)
    assert magnitude.second_moment() == pytest.approx(law.var() + law.mean() ** 2, rel=1e-9)


def test_a_constant_magnitude_is_constant():
    law = Constant(2.5)
    assert law.sample(4, generator=stream(0, "c")).tolist() == [2.5] * 4
    assert (law.mean(), law.second_moment()) == (2.5, 6.25)


# Worlds -------------------------------------------------------------------------------------------


def product_support(probs):
    def prob(support):
        return math.prod(p if fires else 1 - p for p, fires in zip(probs, support, strict=True))

    return prob


def exclusive_support(support):
    return [0.4, 0.2, 0.1, 0.3][support.index(True)] if sum(support) == 1 else 0.0


def regime_support(support):
    common, rare = support[:2], support[2:]
    inside = product_support([0.6, 0.6])
    return 0.8 * (not any(rare)) * inside(common) + 0.2 * (not any(common)) * inside(rare)


def property_support(support):
    prob = 1.0
    for carrier, attribute in zip(support[:2], support[2:], strict=True):
        prob *= (0.3 * (0.25 if attribute else 0.75)) if carrier else 0.7 * (not attribute)
    return prob


B, C = Uniform(0.5, 2.0), Exponential(0.7)


def _f64(values):
    return torch.tensor(values, dtype=torch.float64)


ENUMERATED = [
    (
        Independent(4, _f64([0.1, 0.9, 0.5, 0.0]), B),
        product_support([0.1, 0.9, 0.5, 0.0]),
        [B] * 4,
    ),
    (Zipf(4, 1.0, 0.8, 0.25, 0.5, B), product_support([0.5, 0.4, 0.8 / 3, 0.25]), [B] * 4),
    (Exclusive(4, _f64([0.4, 0.2, 0.1, 0.3]), B), exclusive_support, [B] * 4),
    (RareRegime(2, 2, 0.2, 0.6, B), regime_support, [B] * 4),
    (RareProperty(2, 0.3, 0.25, B, C), property_support, [B, B, C, C]),
]


@pytest.mark.parametrize(
    ("dist", "support_prob", "laws"), ENUMERATED, ids=lambda v: type(v).__name__
)
def test_declared_moments_and_covariance_equal_enumeration(dist, support_prob, laws):
    """All supports with their probabilities; magnitudes independent of them and of one another."""
    dictionary = random_unit(4, 3, generator=stream(3, "dictionary"), dtype=torch.float64)
    bias, noise_std = _f64([1.0, -2.0, 0.5]), 0.3
    mean, moment = np.zeros(4), np.zeros((4, 4))
    total = 0.0
    for support in itertools.product([False, True], repeat=4):
        prob = support_prob(support)
        total += prob
        for i, j in itertools.product(range(4), repeat=2):
            if support[i] and support[j]:
                same = laws[i].second_moment() if i == j else laws[i].mean() * laws[j].mean()
                moment[i, j] += prob * same
        mean += prob * np.array([s * law.mean() for s, law in zip(support, laws, strict=True)])
    assert total == pytest.approx(1, abs=1e-12)
    assert dist.mean_codes().numpy() == pytest.approx(mean, abs=1e-12)
    assert dist.code_moment().numpy() == pytest.approx(moment, abs=1e-12)
    assert dist.code_energies().numpy() == pytest.approx(moment.diagonal(), abs=1e-12)

    vectors = dictionary.vectors.numpy()
    x_mean = mean @ vectors + bias.numpy()
    second = noise_std**2 * np.eye(3) + np.outer(x_mean, x_mean)
    for i, j in itertools.product(range(4), repeat=2):
        covariance = moment[i, j] - mean[i] * mean[j]
        second = second + covariance * np.outer(vectors[i], vectors[j])
    world = ToyModel(dist, dictionary, noise_std, bias)
    assert world.mean().numpy() == pytest.approx(x_mean, abs=1e-12)
    assert world.second_moment().numpy() == pytest.approx(second, abs=1e-12)
    assert world.covariance().numpy() == pytest.approx(second - np.outer(x_mean, x_mean), abs=1e-12)


@given(dist=tms.distributions(), d_in=st.integers(1, 4), generator=tms.generators())
def test_activations_are_codes_times_dictionary_plus_bias_plus_noise(dist, d_in, generator):
    dictionary = random_unit(dist.n_features, d_in, generator=generator, dtype=torch.float64)
    bias = torch.randn(d_in, generator=generator)
    state = generator.get_state()
    batch = ToyModel(dist, dictionary, bias=bias).sample(40, generator=generator)
    wanted = batch.codes.dense().double() @ dictionary.vectors + bias
    assert torch.allclose(batch.x, wanted, atol=1e-9 * (1 + float(wanted.abs().max())))
    generator.set_state(state)
    noisy = ToyModel(dist, dictionary, 0.1, bias).sample(40, generator=generator)
    assert torch.equal(noisy.codes.dense(), batch.codes.dense())  # noise is drawn after the codes
    noise = (noisy.x - batch.x) / 0.1
    # Sum of squares of 40 d_in standard normals, exact two-sided chi-squared test.
    tail = stats.chi2(noise.numel()).sf(float(noise.square().sum()))
    assert ALPHA < tail < 1 - ALPHA


def test_sampled_second_moment_is_the_declared_one():
    """Bernstein on each entry of x x^T: |x_i x_j| <= R for bounded codes without noise."""
    dictionary = random_unit(6, 3, generator=stream(4, "dictionary"), dtype=torch.float64)
    world = ToyModel(RareProperty(3, 0.3, 0.4), dictionary, bias=torch.tensor([0.2, 0.0, -0.1]))
    n = 200_000
    x = world.sample(n, generator=stream(4, "eval")).x
    top = (6 * 1.5 + 0.3) ** 2  # |x|^2 for magnitudes up to 1.5
    bound = top * float(world.second_moment().diagonal().sum())  # of E[(x_i x_j)^2]
    log_term = math.log(2 * 9 / ALPHA)
    radius = math.sqrt(2 * bound * log_term / n) + 2 * top * log_term / (3 * n)
    error = (x.T @ x / n - world.second_moment()).abs().max()
    assert error < radius < 0.5 * float(world.second_moment().diagonal().sum())


# Dictionaries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("d_in", [2, 4, 64])
def test_a_hadamard_union_is_tight_with_coherence_one_over_root_d(d_in):
    union = hadamard_union(d_in, dtype=torch.float64)
    assert union.vectors.shape == (2 * d_in, d_in)
    assert union.coherence() == pytest.approx(d_in**-0.5, abs=1e-15)
    assert union.frame_bounds() == pytest.approx((2, 2), abs=1e-12)
    cross = union.gram()[:d_in, d_in:].abs()
    assert bool((cross - d_in**-0.5).abs().max() < 1e-15)


@pytest.mark.parametrize("n", [3, 4, 7, 12])
def test_a_polygon_is_tight_with_equal_angles(n):
    corners = polygon(n, dtype=torch.float64)
    assert corners.frame_bounds() == pytest.approx((n / 2, n / 2), abs=1e-12)
    for i, j in itertools.product(range(n), repeat=2):
        cosine = math.cos(2 * math.pi * (i - j) / n)
        assert float(corners.gram()[i, j]) == pytest.approx(cosine, abs=1e-12)
    is_antipodal = float(corners.gram().min()) < -1 + 1e-12
    assert is_antipodal == (n % 2 == 0)


def test_orthonormal_rows_are_orthonormal_and_haar():
    rows = orthonormal(5, 8, generator=stream(5, "dictionary"), dtype=torch.float64)
    assert torch.allclose(rows.gram(), torch.eye(5, dtype=torch.float64), atol=1e-14)
    assert rows.frame_bounds() == pytest.approx((0, 1), abs=1e-12)
    # Haar: each entry is symmetric and (entry^2) is Beta(1/2, (d - 1)/2). QR without the correction
    # of signs fails the first: LAPACK's R has a diagonal of mostly one sign.
    generator = stream(5, "haar")
    entries = torch.stack(
        [
            orthonormal(2, 3, generator=generator, dtype=torch.float64).vectors[:, 0]
            for _ in range(3000)
        ]
    ).numpy()
    radius = math.sqrt(math.log(4 / ALPHA) / (2 * 3000))
    for entry in entries.T:  # in R^3 a coordinate of a uniform direction is uniform on [-1, 1]
        assert stats.kstest(entry, stats.uniform(-1, 2).cdf).statistic < radius


def test_random_unit_rows_are_uniform_on_the_sphere():
    rows = random_unit(5000, 3, generator=stream(6, "dictionary"), dtype=torch.float64)
    radius = math.sqrt(math.log(6 / ALPHA) / (2 * 5000))
    for coordinate in rows.vectors.T.numpy():  # Archimedes: uniform on [-1, 1]
        assert stats.kstest(coordinate, stats.uniform(-1, 2).cdf).statistic < radius
    # Cosines have mean 0, mean square 1/d. Pairs of disjoint rows are independent: Hoeffding.
    rows = random_unit(20_000, 16, generator=stream(6, "pairs"), dtype=torch.float64).vectors
    cosines = (rows[0::2] * rows[1::2]).sum(1)
    radius = math.sqrt(2 * math.log(2 / ALPHA) / 10_000)  # of a mean of numbers in [-1, 1]
    assert abs(float(cosines.mean())) < radius
    assert abs(float(cosines.square().mean()) - 1 / 16) < radius / 2


@given(dictionary=tms.dictionaries(), factor=st.floats(0.01, 100))
def test_normalise_ignores_lengths(dictionary, factor):
    scale = factor * torch.linspace(1, 2, dictionary.n_features, dtype=torch.float64)[:, None]
    again = Dictionary.normalise(dictionary.vectors * scale)
    assert torch.allclose(again.vectors, dictionary.vectors, atol=1e-12)


# Discovery ----------------------------------------------------------------------------------------

PAIR = '''
"""Two features that fire together."""

from dataclasses import dataclass

import torch

from toymodels.distribution import ToyDistribution
from toymodels.events import Events, bernoulli_indices
from toymodels.magnitudes import Constant, Magnitude


@dataclass(frozen=True, eq=False)
class Couplet(ToyDistribution):
    prob: float
    magnitude: Magnitude = Constant(1.0)
    n_features = 2

    def _sample(self, n, *, generator):
        rows = bernoulli_indices(n, self.prob, generator=generator).repeat(2)
        features = torch.tensor([0, 1]).repeat_interleave(len(rows) // 2)
        return Events(rows, features, self.magnitude.sample(len(rows), generator=generator))

    def firing_probs(self):
        return torch.full((2,), self.prob, dtype=torch.float64)

    def mean_codes(self):
        return self.firing_probs() * self.magnitude.mean()

    def code_energies(self):
        return self.firing_probs() * self.magnitude.second_moment()

    def _moment_times(self, v):
        off = self.prob * self.magnitude.mean() ** 2
        return self.code_energies()[:, None] * v + off * v.flip(0)

    @classmethod
    def example(cls):
        return cls(0.2)

    @classmethod
    def strategy(cls):
        from hypothesis import strategies as st

        return st.sampled_from([0.5, 0.1, 1.0]).map(cls)


class WrongCouplet(Couplet):
    def _moment_times(self, v):
        return 0.5 * super()._moment_times(v) + 0.5 * self.code_energies()[:, None] * v
'''

STAR = '''
"""Coordinate axes."""

import torch

from toymodels.dictionary import Dictionary


def star(d_in):
    return Dictionary(torch.eye(d_in, dtype=torch.float64))


def strategy():
    from hypothesis import strategies as st

    return st.integers(1, 4).map(star)
'''

DOUBLE = '''
"""Latents 2 relu."""

from sae.base import SAE, squared_error


class Double(SAE):
    def activate(self, pre_acts):
        return 2 * pre_acts.relu()

    def _terms(self, x, output, dead):
        return {"mse": squared_error(x, output.x_hat)}

    @classmethod
    def strategy(cls):
        from hypothesis import strategies as st

        from sae.strategies import generators, sizes

        return st.builds(lambda shape, g: cls(*shape, generator=g), sizes(), generators())


class WrongDouble(Double):
    def activate(self, pre_acts):
        return -super().activate(pre_acts)
'''

FEW_EXAMPLES = """
from hypothesis import settings
settings.register_profile("few", max_examples=3, derandomize=True, deadline=None)
settings.load_profile("few")
"""


def run_tests_on_copy(folder, package, new_files, test_file, select):
    """Runs a test file of ours on a copy of `package` with new files, in a fresh process."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / package, folder / package, ignore=ignore)
    for name, source in new_files.items():
        (folder / package / name).write_text(source)
    (folder / "tests").mkdir()
    (folder / "tests/conftest.py").write_text(FEW_EXAMPLES)
    shutil.copy(ROOT / "tests" / test_file, folder / "tests")
    flags = ["-p", "no:cacheprovider", "-v", "-rN", "--tb=no", "-k", select]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *flags, f"tests/{test_file}"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if "::" in line]
    passed = {line.split("::")[1].split()[0] for line in lines if " PASSED" in line}
    failed = {line.split("::")[1].split()[0] for line in lines if " FAILED" in line}
    assert passed, done.stdout + done.stderr
    return passed, failed


def test_new_distributions_and_dictionaries_need_one_file_each(tmp_path):
    """They get every law without another edit; the one with a planted mistake fails."""
    from toymodels.laws import DISTRIBUTION_LAWS

    files = {"distributions/pair.py": PAIR, "dictionaries/star.py": STAR}
    where = (tmp_path, "toymodels", files, "test_laws.py", "Couplet or (strategy and star)")
    passed, failed = run_tests_on_copy(*where)
    # At probability 1 the wrong moment is not even semi-definite, if that example is drawn.
    assert failed - {"test_law[WrongCouplet-declared_moments_agree]"} == {
        "test_law[WrongCouplet-cofiring_is_exact]",
        "test_law[WrongCouplet-moments_are_exact]",
        "test_law[WrongCouplet-conditional_law_is_exact]",
    }
    laws = {law.__name__ for law in DISTRIBUTION_LAWS}
    wanted = {f"test_law[{cls}-{law}]" for cls in ("Couplet", "WrongCouplet") for law in laws}
    assert passed == wanted - failed | {"test_each_dictionary_file_has_a_strategy[star]"}


def test_a_new_architecture_needs_one_file(tmp_path):
    from sae.laws import SAE_LAWS

    files = {"architectures/double.py": DOUBLE}
    passed, failed = run_tests_on_copy(tmp_path, "sae", files, "test_sae_laws.py", "Double")
    assert failed == {"test_law[WrongDouble-latents_are_non_negative]"}
    laws = {law.__name__ for law in SAE_LAWS}
    wanted = {f"test_law[{cls}-{law}]" for cls in ("Double", "WrongDouble") for law in laws}
    assert passed == wanted - failed


# CUDA ---------------------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_sampling_on_cuda_obeys_the_laws():
    from toymodels.laws import firing_probs_are_exact, same_state_gives_same_sample

    for dist, _, _ in ENUMERATED:
        for law in (firing_probs_are_exact, same_state_gives_same_sample):
            law(dist, stream(7, law.__name__, device="cuda"))
