"""The laws every toy distribution obeys, as plain functions: run them on your own class too.

    @pytest.mark.parametrize("law", DISTRIBUTION_LAWS, ids=lambda law: law.__name__)
    @given(data=st.data())
    def test_my_distribution(law, data):
        law(data.draw(Mine.strategy()), data.draw(tms.generators()))

A law takes an instance and a fresh generator and raises AssertionError where the instance breaks
it. Statistical laws compare N_SAMPLES samples with the declared truth; a correct distribution fails
one with probability at most ALPHA per call. Smallest errors caught with probability 99 %, at
N = 20,000 and eight features: 7 % of a firing probability of 0.5, 20 % of one of 0.1, 75 % of one
of 0.01.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from toymodels.codes import Codes
from toymodels.distribution import ToyDistribution
from toymodels.magnitudes import Constant, Magnitude, Uniform

N_SAMPLES = 20_000
ALPHA = 1e-10


def samples_are_well_formed(dist: ToyDistribution, generator: torch.Generator) -> None:
    """n rows, n_features columns, float32 non-negative finite values, on the right device."""
    codes = dist.sample(37, generator=generator)
    assert len(codes) == 37
    assert codes.n_features == dist.n_features == codes.dense().shape[1]
    assert codes.values.dtype == torch.float32
    assert codes.values.device.type == generator.device.type
    assert bool((codes.values >= 0).all())
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
    assert c.shape == (n, n)
    assert {t.dtype for t in (p, m, e, c)} == {torch.float64}
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
    sizes = (1, 7, 992, N_SAMPLES - 1000)
    counts = sum(dist.sample(n, generator=generator).counts() for n in sizes)
    assert isinstance(counts, Tensor)
    assert_binomial(counts, N_SAMPLES, dist.firing_probs())


def cofiring_is_exact(dist: ToyDistribution, generator: torch.Generator) -> None:
    """With magnitudes 1 the code moment is P(i and j fire): binomial counts of every pair."""
    unit = with_magnitudes(dist, [Constant(1.0)])
    support = unit.sample(N_SAMPLES, generator=generator).support().to(torch.float64)
    assert_binomial((support.T @ support).flatten(), N_SAMPLES, unit.code_moment().flatten())


def samples_are_independent(dist: ToyDistribution, generator: torch.Generator) -> None:
    """Feature i fires in both of two neighbouring samples with probability p_i^2."""
    support = dist.sample(N_SAMPLES, generator=generator).support()
    both = (support[0::2] & support[1::2]).sum(0)
    assert_binomial(both, N_SAMPLES // 2, dist.firing_probs() ** 2)


def moments_are_exact(dist: ToyDistribution, generator: torch.Generator) -> None:
    """Mean, energy and code moment pass Bernstein's bound with bounded magnitudes.

    The i-th magnitude of the law, from 0, is replaced by one uniform on [i, i + 1], so that a
    magnitude attached to the wrong feature is caught too. a_i a_j lies in [0, R], hence its
    variance is at most R E[a_i a_j], which is declared.
    """
    fields = len(_magnitude_fields(dist))
    bounded = with_magnitudes(dist, [Uniform(float(i), i + 1.0) for i in range(fields)])
    a = bounded.sample(N_SAMPLES, generator=generator).dense().to(torch.float64)
    top = float(fields)
    log_term = np.log(2 * (dist.n_features + 1) ** 2 / ALPHA)
    _assert_bernstein(a.mean(0), bounded.mean_codes(), top, log_term)
    _assert_bernstein(a.T @ a / N_SAMPLES, bounded.code_moment(), top**2, log_term)


STATISTICAL_LAWS = (
    streams_differ,
    firing_probs_are_exact,
    cofiring_is_exact,
    samples_are_independent,
    moments_are_exact,
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


def with_magnitudes(dist: ToyDistribution, laws: list[Magnitude]) -> ToyDistribution:
    """Returns `dist` with its i-th magnitude replaced by laws[i], by the last of them beyond."""
    names = _magnitude_fields(dist)
    changed = {name: laws[min(i, len(laws) - 1)] for i, name in enumerate(names)}
    return dataclasses.replace(dist, **changed)  # type: ignore[type-var]


def _global_states() -> list[np.ndarray]:
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - reads, never draws
    return [torch.random.get_rng_state().numpy(), numpy_state["state"]["key"].copy()]


def _magnitude_fields(dist: ToyDistribution) -> list[str]:
    fields = dataclasses.fields(dist)  # type: ignore[arg-type]
    names = [f.name for f in fields if isinstance(getattr(dist, f.name), Magnitude)]
    assert names, f"{type(dist).__name__}: expected a field holding a Magnitude"
    return names


def _assert_bernstein(found: Tensor, declared: Tensor, top: float, log_term: float) -> None:
    variance = top * declared
    radius = (2 * variance * log_term / N_SAMPLES).sqrt() + top * log_term / (3 * N_SAMPLES)
    excess = float(((found - declared).abs() - radius).max())
    assert excess <= 1e-6 * top, f"a moment is {excess:.3g} beyond Bernstein's radius"
