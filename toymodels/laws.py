"""The laws every toy distribution obeys, as plain functions: run them on your own class too.

    @pytest.mark.parametrize("law", DISTRIBUTION_LAWS, ids=lambda law: law.__name__)
    @given(data=st.data())
    def test_my_distribution(law, data):
        law(data.draw(Mine.strategy()), data.draw(tms.generators()))

A law takes an instance and a fresh generator and raises AssertionError where the instance breaks
it. Statistical laws compare samples with the declared truth; a correct distribution fails one with
probability at most ALPHA per call. They draw `n_samples(dist)` samples: 200,000 / l0, but at least
20,000 (an l0 of 10 or more) and at most a million (an l0 of 0.2 or less). Smallest relative errors
of a firing probability that are caught with probability 99 %, among eight features:

    firing probability     0.5      0.1      0.01     0.1     0.01    0.001
    samples              20,000   20,000   20,000    10^6     10^6     10^6
    error                  7 %     20 %     75 %      3 %    9.3 %     31 %

A feature that is rarer still is seen through the law given it: `conditional_law_is_exact`.
"""

from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from toymodels.codes import Codes
from toymodels.distribution import ToyDistribution
from toymodels.magnitudes import Uniform

N_SAMPLES, MOST_SAMPLES, N_EVENTS = 20_000, 1_000_000, 200_000
ALPHA = 1e-10


def n_samples(dist: ToyDistribution) -> int:
    """Returns how many samples a statistical law draws: as many as hold N_EVENTS events, within
    N_SAMPLES and MOST_SAMPLES.
    """
    return int(min(MOST_SAMPLES, max(N_SAMPLES, N_EVENTS / max(dist.expected_l0(), 1e-9))))


def samples_are_well_formed(dist: ToyDistribution, generator: torch.Generator) -> None:
    """n rows, n_features columns, float32 finite values, >= 0 unless signed, right device."""
    codes = dist.sample(37, generator=generator)
    assert len(codes) == 37
    assert codes.n_features == dist.n_features == codes.dense().shape[1]
    assert codes.values.dtype == torch.float32
    assert codes.values.device.type == generator.device.type
    assert dist.signed or bool((codes.values >= 0).all())
    assert bool((codes.values.abs() <= dist.largest_codes()[codes.indices] * (1 + 1e-6)).all())
    example = type(dist).example()
    assert isinstance(example, type(dist))
    assert example.n_features <= 64
    assert torch.equal(codes.support().sum(1), codes.l0())
    assert dist.sample(1, generator=generator).dense().shape == (1, dist.n_features)


def same_state_gives_same_sample(dist: ToyDistribution, generator: torch.Generator) -> None:
    """The sample is a function of the generator's state and of nothing else."""
    state = generator.get_state()
    first = dist.sample(50, generator=generator)
    generator.set_state(state)
    assert_same(first, dist.sample(50, generator=generator))


def streams_differ(dist: ToyDistribution, generator: torch.Generator) -> None:
    """Successive samples differ, where their marginals say that they must (to 1e-10)."""
    first = dist.sample(1000, generator=generator)
    second = dist.sample(1000, generator=generator)
    p = dist.firing_probs()
    # Two samples of feature i agree with probability (1 - 2 p q)^n <= exp(-2 n p q).
    if float((1000 * p * (1 - p)).max()) > 12:
        assert not torch.equal(first.support(), second.support())


def global_randomness_is_untouched(dist: ToyDistribution, generator: torch.Generator) -> None:
    """Neither torch's nor numpy's global generator is used."""
    before = _global_states()
    dist.sample(50, generator=generator)
    assert all(np.array_equal(a, b) for a, b in zip(before, _global_states(), strict=True))


def declared_moments_agree(dist: ToyDistribution, generator: torch.Generator) -> None:
    """The declared moments fit one another: shapes, diagonal, symmetry, Cauchy-Schwarz."""
    n = dist.n_features
    p, m, e, c = dist.firing_probs(), dist.mean_codes(), dist.code_energies(), dist.code_moment()
    assert p.shape == m.shape == e.shape == (n,)
    together = dist.cofiring_probs()
    assert c.shape == together.shape == (n, n)
    assert {t.dtype for t in (p, m, e, c, together)} == {torch.float64}
    assert torch.allclose(together.diagonal(), p, rtol=1e-12, atol=1e-12)
    assert torch.allclose(together, together.T, rtol=1e-12, atol=1e-12)
    assert bool(((p >= 0) & (p <= 1)).all())
    scale = float(e.max()) + 1e-300
    assert torch.allclose(c.diagonal(), e, rtol=1e-12, atol=1e-12 * scale)
    assert torch.allclose(c, c.T, rtol=1e-12, atol=1e-12 * scale)
    assert bool((m**2 <= p * e * (1 + 1e-9)).all())  # E[b 1]^2 <= E[b^2] P(fires)
    assert float(torch.linalg.eigvalsh(dist.code_covariance())[0]) >= -1e-9 * scale
    v = torch.randn(n, 2, dtype=torch.float64, generator=generator)
    assert torch.allclose(dist.code_moment_matvec(v), c @ v, rtol=1e-9, atol=1e-9 * scale)
    first = dist.code_moment_matvec(v[:, 0])
    assert torch.allclose(first, c @ v[:, 0], rtol=1e-9, atol=1e-9 * scale)
    assert abs(dist.expected_l0() - float(p.sum())) <= 1e-9 * n


def firing_probs_are_exact(dist: ToyDistribution, generator: torch.Generator) -> None:
    """Counts over batches of several sizes are binomial with the declared probabilities."""
    n = n_samples(dist)
    counts = sum(dist.sample(size, generator=generator).counts() for size in (1, 7, 992, n - 1000))
    assert isinstance(counts, Tensor)
    assert_binomial(counts, n, dist.firing_probs())


def cofiring_is_exact(dist: ToyDistribution, generator: torch.Generator) -> None:
    """Pairs fire together in binomial counts with the declared probabilities."""
    n = n_samples(dist)
    support = dist.sample(n, generator=generator).support().to(torch.float64)
    assert_binomial((support.T @ support).flatten(), n, dist.cofiring_probs().flatten())


def samples_are_independent(dist: ToyDistribution, generator: torch.Generator) -> None:
    """Feature i fires in both of two neighbouring samples with probability p_i^2."""
    n = n_samples(dist) // 2 * 2
    support = dist.sample(n, generator=generator).support()
    both = (support[0::2] & support[1::2]).sum(0)
    assert_binomial(both, n // 2, dist.firing_probs() ** 2)


def moments_are_exact(dist: ToyDistribution, generator: torch.Generator) -> None:
    """Mean, energy and code moment pass Bernstein's bound with bounded magnitudes.

    The i-th magnitude of the law, from 0, is replaced by one uniform on [i, i + 1], so that a
    magnitude attached to the wrong feature is caught too. With |a_i| <= R_i, a_i a_j has a second
    moment of at most R_i R_j E|a_i a_j|; E|a_i a_j| is the declared moment, or where signs cancel
    at most R_i R_j P(i and j fire).
    """
    bounded = dist.with_magnitudes([Uniform(float(i), i + 1.0) for i in range(4)])
    n = n_samples(dist)
    top = bounded.largest_codes()
    tops = torch.outer(top, top)
    mean, moment = bounded.mean_codes(), bounded.code_moment()
    size, sizes = mean, moment
    if bounded.signed:
        size, sizes = top * bounded.firing_probs(), tops * bounded.cofiring_probs()
    a = bounded.sample(n, generator=generator).dense().to(torch.float64)
    log_term = np.log(2 * (dist.n_features + 1) ** 2 / ALPHA)
    _assert_bernstein(a.mean(0), mean, top * size, top, log_term / n)
    _assert_bernstein(a.T @ a / n, moment, tops * sizes, tops, log_term / n)


def conditional_law_is_exact(dist: ToyDistribution, generator: torch.Generator) -> None:
    """Given one feature, the others fire with probability P(both) / P(feature), however rare it is.

    The feature is the rarest, or any other, of those the law can condition on; of a law that has to
    reject samples, one of probability 0.02 at least. Where the conditional law is declared, its own
    firing and co-firing are compared too.
    """
    probs = dist.firing_probs()
    candidates = (probs > 1e-100).nonzero()[:, 0]  # below, P(both) / P(feature) is all rounding
    declared: ToyDistribution | None = None
    if len(candidates) and torch.rand((), generator=generator) < 0.5:
        i = int(candidates[probs[candidates].argmin()])
    elif len(candidates):
        i = int(candidates[torch.randint(len(candidates), (), generator=generator)])
    else:
        return
    try:
        declared = dist.given(i)
    except NotImplementedError:
        if probs[i] < 0.02:
            return
    wanted = dist.cofiring_probs()[i] / probs[i]
    if declared is not None:
        assert torch.allclose(declared.firing_probs(), wanted, rtol=1e-9, atol=1e-12)
    codes = dist.sample_given(N_SAMPLES // 10, i, generator=generator)
    assert len(codes) == N_SAMPLES // 10
    assert int(codes.counts()[i]) == len(codes)
    assert_binomial(codes.counts(), len(codes), wanted)
    if declared is not None:
        support = codes.support().to(torch.float64)
        pairs = declared.cofiring_probs().flatten()
        assert_binomial((support.T @ support).flatten(), len(codes), pairs)


STATISTICAL_LAWS = (
    streams_differ,
    firing_probs_are_exact,
    cofiring_is_exact,
    samples_are_independent,
    moments_are_exact,
    conditional_law_is_exact,
)
DISTRIBUTION_LAWS = (
    samples_are_well_formed,
    same_state_gives_same_sample,
    global_randomness_is_untouched,
    declared_moments_agree,
    *STATISTICAL_LAWS,
)


def assert_same(first: Codes, second: Codes) -> None:
    """Asserts that two codes are equal bit for bit."""
    assert torch.equal(first.offsets, second.offsets)
    assert torch.equal(first.indices, second.indices)
    assert torch.equal(first.values, second.values)


def assert_binomial(counts: Tensor, n: int, probs: Tensor) -> None:
    """Asserts that each count is plausible as Binomial(n, p), at ALPHA over all of them.

    The two-sided p-value 2 min(P(X <= k), P(X >= k)) is exact; Bonferroni over the counts.
    """
    k, p = counts.cpu().numpy().astype(np.float64), probs.numpy().clip(0, 1)
    p_value = 2 * np.minimum(stats.binom.cdf(k, n, p), stats.binom.sf(k - 1, n, p))
    worst = int(p_value.argmin())
    assert p_value[worst] > ALPHA / len(k), (
        f"entry {worst}: {k[worst]:.0f} of {n} samples, declared probability {p[worst]:.6g}, "
        f"p-value {p_value[worst]:.2g}"
    )


def _global_states() -> list[np.ndarray]:
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - reads, never draws
    return [torch.random.get_rng_state().numpy(), numpy_state["state"]["key"].copy()]


def _assert_bernstein(
    found: Tensor, declared: Tensor, variance: Tensor, top: Tensor, log_term: float
) -> None:
    radius = (2 * variance * log_term).sqrt() + top * log_term / 3
    excess = ((found - declared).abs() - radius) / top
    worst = float(excess.max())
    assert worst <= 1e-6, f"a moment is {worst:.3g} of its largest value beyond Bernstein's radius"
