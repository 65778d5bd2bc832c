"""Certificates: never wrong by full search, sharp where they say so, and monotone."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory.certificates import (
    certified_k,
    omp_certificate,
    one_shot_certificate,
    recoverable_bound,
    sample_certificate,
    support_certificate,
)
from theory.isotropic import isotropic_rows
from theory.sparse_coding import omp
from theory.statistics import hoeffding_radius, samples_to_see_all
from toymodels import Dictionary, hadamard_union, orthonormal, simplex, stream

seeds = st.integers(0, 2**32 - 1)


def _support(code):
    return set(code.nonzero()[:, -1].tolist())


def _simplex(n):
    return simplex(n, dtype=torch.float64)


@pytest.mark.parametrize(
    "dictionary",
    [hadamard_union(16, dtype=torch.float64), _simplex(9), _simplex(4)],
    ids=["hadamard", "simplex-9", "simplex-4"],
)
def test_certified_supports_are_found_whatever_the_code(dictionary):
    """Every support of the largest certified size, signed magnitudes over two decades."""
    k = int(certified_k(dictionary.coherence()))
    assert omp_certificate(dictionary.coherence(), k).certified
    assert not omp_certificate(dictionary.coherence(), k + 1).certified
    supports = list(itertools.combinations(range(dictionary.n_features), k))[:500]
    generator = stream(0, "codes")
    sizes = 10 ** (2 * torch.rand(len(supports), k, generator=generator, dtype=torch.float64))
    sizes = sizes * (torch.randint(0, 2, sizes.shape, generator=generator) * 2 - 1)
    codes = torch.zeros(len(supports), dictionary.n_features, dtype=torch.float64)
    codes.scatter_(1, torch.tensor(supports), sizes)
    found = omp(codes @ dictionary.vectors, dictionary.vectors, k)
    assert float((found - codes).abs().max()) < 1e-9


def test_one_size_too_large_fails_somewhere():
    """In the simplex of n corners, k beyond the certificate: the other corners win."""
    for n in (4, 6, 8):  # n even: 2k - 1 = n - 1 is the next k
        rows = _simplex(n)
        k = int(certified_k(rows.coherence())) + 1
        code = torch.zeros(1, n, dtype=torch.float64)
        code[0, :k] = 1.0
        pre_acts = (code @ rows.vectors @ rows.vectors.T)[0].abs()
        assert float(pre_acts[k:].max()) >= float(pre_acts[:k].max()) - 1e-12
        assert not omp_certificate(rows.coherence(), k).certified


def test_margins_are_the_stated_formulas():
    assert omp_certificate(0.2, 2).margin == pytest.approx(0.4)
    assert omp_certificate(0.2, 2, noise_to_signal=0.2).margin == pytest.approx(0)
    assert omp_certificate(0.0, 5, noise_to_signal=0.6).margin == pytest.approx(-0.2)
    assert omp_certificate(1.0, 1).margin == 0
    assert not omp_certificate(1.0, 1).certified


@given(st.floats(0, 1))
def test_certified_k_is_the_largest(mu):
    k = certified_k(mu)
    assert (k == math.inf) == (mu < 1e-12)
    if k < 10**6:
        assert k == 0 or omp_certificate(mu, k).certified
        assert not omp_certificate(mu, k + 1).certified
    assert certified_k(0.2) == 2  # 3 would need mu < .2, strictly
    assert certified_k(1.0) == 0


@given(st.integers(2, 5), st.integers(2, 4), seeds)
def test_support_certificate_decides_the_first_step(n, d, seed):
    """Positive: OMP finds every code on the support. Else some code on it misleads OMP at once.

    That code is D_S y = the signs of G_SS^-1 G_Sj: all true correlations 1, that of j larger.
    """
    rows = isotropic_rows(n, d, generator=stream(seed, "rows"), dtype=torch.float64)
    for k in range(1, min(n - 1, d) + 1):
        active = list(range(k))
        margin = support_certificate(3 * rows, active).margin
        weights = torch.linalg.pinv(rows[:k]).T @ rows[k:].T
        assert margin == pytest.approx(1 - float(weights.abs().sum(0).max()))
        mu = Dictionary(rows).coherence()
        if (2 * k - 1) * mu < 1:
            assert margin >= (1 - (2 * k - 1) * mu) / (1 - (k - 1) * mu) - 1e-9
        if margin > 1e-6:
            generator = stream(seed, "codes")
            codes = torch.zeros(20, n, dtype=torch.float64)
            codes[:, :k] = torch.randn(20, k, generator=generator, dtype=torch.float64)
            found = omp(codes @ rows, rows, k)
            assert float((found - codes).abs().max()) < 1e-6
        elif margin < -1e-6:
            worst = int(weights.abs().sum(0).argmax())
            y = torch.linalg.pinv(rows[:k]) @ weights[:, worst].sign()
            correlations = (rows @ y).abs()
            assert float(correlations[:k].max()) == pytest.approx(1)
            assert float(correlations[k + worst]) == pytest.approx(1 - margin)


def test_one_shot_certificate_is_sharp():
    """Active features at cosine -mu to each other, an inactive one at mu to all: both ends met."""
    for k, mu in ((2, 0.3), (3, 0.2), (4, 0.1)):
        gram = torch.full((k + 1, k + 1), -mu, dtype=torch.float64)
        gram[k], gram[:, k] = mu, mu
        rows = torch.linalg.cholesky(gram.fill_diagonal_(1.0))
        a = torch.linspace(2, 1, k, dtype=torch.float64)
        certificate = one_shot_certificate(a, mu)
        pre_acts = rows @ (a @ rows[:k])
        assert float(pre_acts[:k].min()) == pytest.approx(certificate.lower)
        assert float(pre_acts[k]) == pytest.approx(certificate.upper)
        assert certificate.margin == pytest.approx(certificate.lower - certificate.upper)
        # With -mu in place of mu anywhere the ends would not be met:
        assert abs(certificate.lower - certificate.upper) > 0.01


@given(st.integers(1, 8), st.floats(0, 0.99), st.floats(0.1, 10))
def test_equal_magnitudes_need_what_omp_needs(k, mu, size):
    margin = one_shot_certificate(torch.full((k,), size), mu).margin
    assert margin == pytest.approx(omp_certificate(mu, k).margin, abs=1e-6)


@given(st.integers(1, 4), seeds, st.floats(0, 0.2))
def test_certified_one_shot_codes_are_found_by_topk_and_by_threshold(k, seed, noise):
    rows, generator = hadamard_union(64, dtype=torch.float64).vectors, stream(seed, "code")
    a = 1 + 0.5 * torch.rand(k, generator=generator, dtype=torch.float64)
    active = torch.randperm(len(rows), generator=generator)[:k]
    u = isotropic_rows(1, 64, generator=generator, dtype=torch.float64)[0]
    certificate = one_shot_certificate(a, 0.125, noise=noise)
    pre_acts = rows @ (a @ rows[active] + noise * u)
    assert float((pre_acts[active] - a).abs().max()) <= certificate.error + 1e-12
    if certificate.certified:
        assert set(pre_acts.topk(k).indices.tolist()) == set(active.tolist())
        threshold = (certificate.lower + certificate.upper) / 2
        assert _support(pre_acts > threshold) == set(active.tolist())


def test_amortisation_witness():
    """OMP is certified and right where the one-shot encoder is not, and is wrong."""
    mu, rho = 0.3, 0.29
    rows = torch.eye(3, dtype=torch.float64)
    rows[2, 0], rows[2, 2] = mu, math.sqrt(1 - mu**2)
    code = torch.tensor([[1.0, rho, 0.0]], dtype=torch.float64)
    assert omp_certificate(mu, 2).certified
    assert not one_shot_certificate(code[0, :2], mu).certified
    assert _support(omp(code @ rows, rows, 2)) == {0, 1}
    assert set((code @ rows @ rows.T)[0].topk(2).indices.tolist()) == {0, 2}


@given(
    st.lists(st.floats(1e-3, 1), min_size=1, max_size=5),
    st.sampled_from([0.5, 0.1, 1e-4]),
    st.integers(1, 8),
)
def test_sample_certificate_needs_no_more_than_it_says(probs, delta, times):
    p = torch.tensor(probs, dtype=torch.float64)
    needed = sample_certificate(p, 0, delta, times=times).needed

    def failure(n):
        terms = ((q, j) for q in probs for j in range(times))
        return math.fsum(math.comb(n, j) * q**j * (1 - q) ** (n - j) for q, j in terms)

    assert failure(needed) <= delta * (1 + 1e-9)
    assert needed == times or min(1, failure(needed - 1)) > delta * (1 - 1e-9)
    assert needed <= max(times, samples_to_see_all(min(probs), len(probs), delta, times=times))
    at, below = (sample_certificate(p, n, delta, times=times) for n in (needed, needed - 1))
    assert at.certified
    assert not below.certified
    assert at.failure_prob == pytest.approx(min(1, failure(needed)))


def test_sample_certificate_holds_in_simulation():
    """10,000 worlds at delta = .1: the failures exceed .1 by .034 with probability 1e-10 at most
    (Hoeffding); a true rate of .17 would be caught as surely."""
    p = torch.tensor([0.3, 0.05, 0.05], dtype=torch.float64)
    n = sample_certificate(p, 0, 0.1).needed
    draws = torch.rand(10_000, n, 3, generator=stream(0, "x"), dtype=torch.float64) < p
    failed = float((~draws.any(1)).any(1).double().mean())
    radius = hoeffding_radius(10_000, 1.0, 1e-10)
    assert failed <= 0.1 + radius
    short = float((~draws[:, : n // 2].any(1)).any(1).double().mean())
    assert short > 0.1 + radius  # half the samples would not do


def test_recoverable_bound_is_attained_by_evenly_spread_guesses():
    """In the plane m lines at equal angles cover every direction once: the bound is exact.

    20,000 isotropic features, none seen: Hoeffding radius .025 at 1e-10."""
    m, n = 3, 20_000
    angle = math.pi / 20
    features = isotropic_rows(n, 2, generator=stream(0, "features"), dtype=torch.float64)
    turns = torch.arange(m, dtype=torch.float64) * math.pi / m
    guesses = torch.stack([turns.cos(), turns.sin()], 1)
    for signed in (True, False):
        cosines = features @ guesses.T
        near = (cosines if signed else cosines.abs()).amax(1) >= math.cos(angle)
        probs = torch.full((n,), 0.5, dtype=torch.float64)
        bound = recoverable_bound(probs, 0, m, 2, cosine=math.cos(angle), signed=signed)
        exact = n * m * 2 * angle / (2 * math.pi if signed else math.pi)
        assert bound == pytest.approx(exact)
        assert abs(float(near.double().mean()) - bound / n) < hoeffding_radius(n, 1.0, 1e-10)
        seen = recoverable_bound(probs, 3, m, 2, cosine=math.cos(angle), signed=signed)
        assert seen == pytest.approx(n - (n - bound) / 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: omp_certificate(1.1, 2), "0 <= coherence <= 1"),
        (lambda: omp_certificate(math.nan, 2), "0 <= coherence <= 1"),
        (lambda: omp_certificate(0.1, 0), "an integer k >= 1"),
        (lambda: omp_certificate(0.1, 1, noise_to_signal=-1.0), "0 <= noise_to_signal"),
        (lambda: support_certificate(torch.zeros(2, 2), [0]), "non-zero rows"),
        (lambda: support_certificate(torch.eye(2), [2]), "distinct indices"),
        (lambda: support_certificate(torch.eye(2), []), "distinct indices"),
        (lambda: support_certificate(torch.ones(2, 2), [0, 1]), "independent active rows"),
        (lambda: support_certificate(torch.eye(2) * math.nan, [0]), "finite numbers in rows"),
        (lambda: one_shot_certificate(torch.zeros(2), 0.1), "magnitudes > 0"),
        (lambda: one_shot_certificate(torch.ones(0), 0.1), "magnitudes .k., k >= 1"),
        (lambda: one_shot_certificate(torch.ones(2), 0.1, noise=-1.0), "0 <= noise"),
        (lambda: certified_k(-0.1), "0 <= coherence <= 1"),
        (lambda: sample_certificate(torch.zeros(2), 5, 0.1), r"firing_probs in \(0, 1\]"),
        (lambda: sample_certificate(torch.ones(2), 5, 1.0), "0 < delta < 1"),
        (lambda: sample_certificate(torch.ones(2), -1, 0.1), "n_samples >= 0"),
        (lambda: sample_certificate(torch.ones(2), 5, 0.1, times=0), "an integer times >= 1"),
        (lambda: recoverable_bound(torch.ones(2), 5, 0, 2, cosine=0.9), "an integer n_latents"),
        (lambda: recoverable_bound(torch.ones(2), 5, 1, 2, cosine=0.0), "0 < cosine <= 1"),
    ],
)
def test_bad_input_is_one_clear_error(call, message, unchecked):
    with pytest.raises(ValueError, match=f": expected {message}") as error:
        call()
    assert "\n" not in str(error.value)


def test_all_features_active_needs_no_certificate():
    rows = orthonormal(3, 4, generator=stream(0, "rows"), dtype=torch.float64).vectors
    assert support_certificate(rows, [0, 1, 2]).margin == 1.0
