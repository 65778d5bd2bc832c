"""The Gaussian copula: the bivariate normal, its inverse, exact samples, and what it refuses."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from searching import search

from toymodels import Constant, Independent, stream
from toymodels import gaussian_firing as firing_module
from toymodels import laws as toy_laws
from toymodels import strategies as tms
from toymodels.bivariate_normal import joint_prob, latent_correlation, thresholds
from toymodels.distributions.gaussian_copula import GaussianCopula
from toymodels.events import Events
from toymodels.gaussian_firing import GaussianFiring
from toymodels.laws import assert_binomial
from toymodels.loadings import loadings_strategy


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


# The bivariate normal -----------------------------------------------------------------------------


def joint_by_conditioning(p, q, r):
    """P(Z1 > h, Z2 > k) as the integral of phi(x) Phi((r x - k) / s) over x > h, 30 digits."""
    with mpmath.workdps(30):
        h, k = (mpmath.sqrt(2) * mpmath.erfinv(1 - 2 * mpmath.mpf(x)) for x in (p, q))
        r = mpmath.mpf(r)
        s = mpmath.sqrt((1 - r) * (1 + r))
        step = k / r if r else h  # where Phi rises, over a width of s / r
        ends = {h + d for d in (0, 0.25, 0.5, 1, 2, 4, 8, 16, 40)}
        ends |= {step + d * s / abs(r or 1) for d in (-10, -3, -1, 0, 1, 3, 10)}
        inside = sorted(x for x in ends if h <= x <= h + 40)
        return mpmath.quad(lambda x: mpmath.npdf(x) * mpmath.ncdf((r * x - k) / s), inside)


CORRELATIONS = [0.3, -0.3, 0.95, -0.95, 1e-4, 1 - 1e-4, 1 - 1e-8, -1 + 1e-4]
PROBS = [(0.3, 0.3), (0.9, 0.2), (1e-7, 1e-7), (1e-7, 0.02), (1e-4, 1.001e-4), (0.999, 1e-3)]
PROBS += [(0.875, 0.0546875)]
OPPOSITE = (1e-6, 1 - 1.001e-6)  # here P(both) says little of r


@pytest.mark.parametrize("r", CORRELATIONS)
@pytest.mark.parametrize(("p", "q"), [*PROBS, OPPOSITE])
def test_the_joint_probability_keeps_its_digits(p, q, r):
    """Relative error 1e-10, also where P(both) is 1e-40; below that, absolute error 1e-50."""
    exact = float(joint_by_conditioning(p, q, r))
    found = float(joint_prob(f64(p), f64(q), f64(r)))
    assert found == pytest.approx(exact, rel=1e-10, abs=1e-50)


@given(st.floats(-1, 1))
def test_at_one_half_the_joint_probability_is_an_angle(r):
    """P(Z1 > 0, Z2 > 0) = 1/4 + asin(r) / (2 pi) (Sheppard)."""
    found = float(joint_prob(f64(0.5), f64(0.5), f64(r)))
    assert found == pytest.approx(0.25 + math.asin(r) / (2 * math.pi), abs=1e-14)


@given(st.floats(1, 15), st.floats(-1, 1), st.floats(0, 6), st.sampled_from([-1e-300, 1e-300]))
def test_almost_independent_features_fire_together_by_the_product(digits, side, nearness, r):
    """p = 10^-digits and q near 1 - p, where the integrand is a layer as narrow as one likes."""
    p = 10**-digits
    q = 1 - p * (1 + side * 10**-nearness / 2)
    found = float(joint_prob(f64(p), f64(q), f64(r)))
    assert found == pytest.approx(p * q, rel=1e-10)


@given(tms.probs(), tms.probs(), st.floats(-1, 1), st.floats(-1, 1))
def test_the_joint_probability_rises_between_its_bounds(p, q, r, other):
    grid = f64([-1.0, min(r, other), max(r, other), 1.0])
    joint = joint_prob(f64(p), f64(q), grid).tolist()
    assert joint[0] == max(0, math.fsum((p, q, -1)))
    assert joint[3] == min(p, q)
    for low, high in itertools.pairwise(joint):
        assert low <= high * (1 + 1e-10) + 1e-50  # the accuracy that is asserted above
    assert float(joint_prob(f64(p), f64(q), f64(0.0))) == p * q


@given(tms.probs(), tms.probs(), st.floats(-1, 1))
def test_the_latent_correlation_inverts_the_joint_probability(p, q, r):
    both = joint_prob(f64(p), f64(q), f64(r))
    found = latent_correlation(f64(p), f64(q), both)
    assert -1 <= float(found) <= 1
    again = float(joint_prob(f64(p), f64(q), found))
    # Its own error where P is small: asin r is found to 1e-14, and log P is steep there.
    assert again == pytest.approx(float(both), rel=1e-9, abs=1e-40)


@pytest.mark.parametrize(("p", "q"), PROBS)
@pytest.mark.parametrize("r", [0.3, -0.1, 0.6])
def test_the_inverse_finds_the_correlation_itself(p, q, r):
    if p + q >= 1:
        pytest.skip("P(both) is within rounding of its bound")
    assert float(latent_correlation(f64(p), f64(q), joint_prob(f64(p), f64(q), f64(r)))) == (
        pytest.approx(r, abs=1e-9)
    )


def test_a_float32_threshold_is_noticed():
    """P(Z > t) is p to 13 digits at p = 1e-7, where a float32 threshold is off in the sixth."""
    p = f64([1e-7, 1e-5, 0.02, 0.5, 0.999])
    for t, off in ((thresholds(p), False), (thresholds(p.float()).float().double(), True)):
        error = torch.from_numpy(stats.norm.sf(t.numpy())) / p - 1
        assert (float(error.abs().max()) > 1e-8) == off
        assert (float(error.abs().max()) > 1e-13) == off


# The law ------------------------------------------------------------------------------------------

P = [0.3, 0.02, 1e-4, 1e-7, 0.8]
F = [[0.6, 0.3], [0.8, -0.6], [-0.5, 0.2], [0.7, 0.7], [0.1, -0.9]]


def test_cofiring_is_the_bivariate_normal():
    copula = GaussianCopula(f64(P), f64(F), Constant(2.0))
    exact = [
        [
            p if i == j else float(joint_by_conditioning(p, q, float(f64(F[i]) @ f64(F[j]))))
            for j, q in enumerate(P)
        ]
        for i, p in enumerate(P)
    ]
    torch.testing.assert_close(copula.cofiring_probs(), f64(exact), rtol=1e-10, atol=1e-40)
    torch.testing.assert_close(copula.code_moment(), 4 * f64(exact), rtol=1e-10, atol=1e-40)


def test_without_loadings_features_are_independent():
    copula = GaussianCopula(f64(P), torch.zeros(5, 1))
    expected = Independent(5, f64(P)).code_moment()
    torch.testing.assert_close(copula.code_moment(), expected, rtol=1e-14, atol=0)
    phi = copula.binary_correlation()
    torch.testing.assert_close(phi, torch.eye(5).double(), rtol=0, atol=1e-14)


def test_a_large_matrix_is_taken_in_blocks(monkeypatch):
    from toymodels import blockwise

    copula = GaussianCopula.low_rank(70, 0.1, 3, 0.25, generator=stream(1, "loadings"))
    v = torch.randn(70, 2, dtype=torch.float64, generator=stream(0, "v"))
    whole = copula.code_moment_matvec(v)
    monkeypatch.setattr(blockwise, "BLOCK", 1000)
    torch.testing.assert_close(copula.code_moment_matvec(v), whole, rtol=1e-12, atol=1e-14)


@given(st.integers(2, 5).flatmap(loadings_strategy), st.floats(0.01, 0.9))
def test_binary_correlations_are_reached(loadings, p):
    """Those that some copula has are found again; so are its latent ones.

    Norms of at most 0.9: at 1 the matrix is singular, and rounding may make it infeasible.
    """
    copula = GaussianCopula(p, 0.9 * loadings)
    phi = copula.binary_correlation()
    again = GaussianCopula.from_binary(p, phi)
    torch.testing.assert_close(again.binary_correlation(), phi, rtol=0, atol=1e-6)
    rho = copula.latent_correlation()
    from_latent = GaussianCopula.from_latent(p, rho)
    torch.testing.assert_close(from_latent.latent_correlation(), rho, rtol=0, atol=1e-7)


def test_unequal_probabilities_and_a_constant_feature():
    p = f64([0.3, 0.02, 0.0, 1.0])
    phi = torch.eye(4).double()
    phi[0, 1] = phi[1, 0] = 0.2
    found = GaussianCopula.from_binary(p, phi).binary_correlation()
    assert float(found[0, 1]) == pytest.approx(0.2, abs=1e-10)
    assert bool(found[2:].isnan().all())


# Samples ------------------------------------------------------------------------------------------


def support_probs(p, loading, n_nodes=200):
    """P(each of the 2^n supports) at rank 1: the product law given u, over Gauss-Hermite nodes."""
    u, weights = np.polynomial.hermite_e.hermegauss(n_nodes)
    weights = weights / weights.sum()
    spread = np.sqrt(1 - np.square(loading))
    q = stats.norm.cdf((np.outer(u, loading) - stats.norm.isf(p)) / spread)
    supports = np.array(list(itertools.product([False, True], repeat=len(p))))
    each = np.where(supports[:, None], q, 1 - q).prod(2) @ weights
    return supports, each


def test_every_support_has_its_probability():
    """All 32 supports of five features: also how three and more fire together."""
    p, loading = [0.3, 0.15, 0.02, 0.6, 0.05], [0.7, -0.5, 0.8, 0.3, -0.8]
    n = 200_000
    codes = GaussianCopula(f64(p), f64(loading)[:, None]).sample(n, generator=stream(0, "test"))
    supports, probs = support_probs(p, loading)
    place = codes.support().long() @ torch.tensor([16, 8, 4, 2, 1])
    assert probs.sum() == pytest.approx(1, abs=1e-12)
    assert supports[1].tolist() == [False] * 4 + [True]
    assert_binomial(place.bincount(minlength=32), n, torch.from_numpy(probs))


def rare_units():
    """Probabilities 1e-7 to 0.9 and loadings whose factor of 3.5 makes even the rarest likely."""
    p = f64([1e-7, 1e-7, 1e-5, 1e-3, 0.02, 0.4, 0.9, 1e-7])
    norm = f64([0.95, 0.6, 0.8, 0.5, 0.99, 0.1, 0.7, 0.0])
    return p, norm[:, None]


@pytest.mark.parametrize("shared", [-3.5, 0.0, 3.5])
@pytest.mark.parametrize("path", ["draw", "fires"])
def test_given_the_factor_each_fires_with_its_own_probability(shared, path):
    """P = Phi((F u - t) / s), from 1e-60 to 1, by either way of drawing; 400,000 samples."""
    n, (p, loadings) = 400_000, rare_units()
    firing, generator = GaussianFiring(p, loadings), stream(0, "test")
    factor = torch.full((n, 1), shared, dtype=torch.float64)
    if path == "draw":
        rows, units = firing.draw(factor, generator=generator)
        assert len((rows * 8 + units).unique()) == len(rows)
        counts = units.bincount(minlength=8)
    else:
        units = torch.arange(8).repeat(n)
        rows = torch.arange(n).repeat_interleave(8)
        counts = units[firing.fires(factor, rows, units, generator=generator)].bincount(minlength=8)
    f = loadings[:, 0].numpy()
    z = (f * shared - stats.norm.isf(p.numpy())) / np.sqrt(1 - f**2)
    assert_binomial(counts, n, torch.from_numpy(stats.norm.cdf(z)))


@pytest.mark.parametrize("spread", [0.0, 1e-12])
def test_decisions_close_to_the_threshold_are_taken_in_float64(spread):
    """Units whose F . u is 1e-9 above or below the threshold, which decides where s is far smaller.

    The same product in float32 gets some of them wrong.
    """
    g = stream(0, "close")
    n_units, rank = 400, 5
    loadings = torch.nn.functional.normalize(
        torch.randn(n_units, rank, dtype=torch.float64, generator=g), dim=1
    )
    u = torch.randn(1, rank, dtype=torch.float64, generator=g)
    shared = loadings @ u[0]
    signs = torch.where(torch.arange(n_units) % 2 == 0, 1.0, -1.0).double()
    threshold = shared - 1e-9 * signs
    firing = GaussianFiring(torch.special.ndtr(-threshold), loadings)
    firing.threshold = threshold
    for tensor in (firing.spread, *(group.spread for group in firing.groups)):
        tensor.fill_(spread)
    _, units = firing.draw(u, generator=g)
    assert sorted(units.tolist()) == (signs > 0).nonzero()[:, 0].tolist()
    assert not torch.equal((loadings.float() @ u[0].float()) > threshold.float(), signs > 0)


@pytest.mark.parametrize("feature", range(5))
def test_what_fires_with_a_rare_feature(feature):
    """`sample_given` at probabilities down to 1e-7: P(j | i) = P(both) / p_i, exactly binomial."""
    n, copula = 100_000, GaussianCopula(f64(P), f64(F))
    codes = copula.sample_given(n, feature, generator=stream(0, "test"))
    wanted = copula.cofiring_probs()[feature] / P[feature]
    assert float(wanted.max()) == 1
    assert float(wanted.sort().values[-2]) > 0.1  # they do fire together
    assert_binomial(codes.counts(), n, wanted)


def test_pairs_given_a_rare_feature():
    """Given z_i > t_i the others are no product law: three at a time, against quadrature."""
    p, loading = [1e-7, 0.1, 0.05, 0.3], [0.7, -0.5, 0.8, 0.3]
    n = 100_000
    copula = GaussianCopula(f64(p), f64(loading)[:, None])
    support = copula.sample_given(n, 0, generator=stream(0, "test")).support().double()
    supports, probs = support_probs(p, loading, n_nodes=250)
    fired = supports.astype(float)
    wanted = np.einsum("si,sj,s->ij", fired, fired, probs * fired[:, 0]) / 1e-7
    assert wanted[0, 0] == pytest.approx(1, abs=1e-6)
    assert_binomial((support.T @ support).flatten(), n, torch.from_numpy(wanted).flatten())


@pytest.mark.parametrize("law", [toy_laws.firing_probs_are_exact, toy_laws.cofiring_is_exact])
def test_blocks_do_not_matter(monkeypatch, law):
    monkeypatch.setattr(firing_module, "BLOCK", 2048)
    law(GaussianCopula.example(), stream(0, "test"))


@pytest.mark.slow
def test_ten_million_samples_of_a_rare_world():
    """Exact binomial test for each of 400 features of probability 1e-7 to 1e-2."""
    n, batch = 10_000_000, 100_000
    p = torch.logspace(-7, -2, 400, dtype=torch.float64)
    copula = GaussianCopula.low_rank(400, p, 2, 0.2, generator=stream(0, "loadings"))
    generator = stream(0, "test")
    counts = sum(copula.sample(batch, generator=generator).counts() for _ in range(n // batch))
    assert isinstance(counts, torch.Tensor)
    assert int(counts[:80].sum()) > 0
    assert_binomial(counts, n, p)


def test_random_numbers_follow_the_events(monkeypatch):
    """20,000 features with 20 active: fewer than 50 uniforms for each event, not 1,000."""
    n = 20_000
    copula = GaussianCopula.low_rank(n, 20 / n, 4, 0.2, generator=stream(0, "loadings"))
    drawn, rand = [], torch.rand

    def counting(*args, **kwargs):
        result = rand(*args, **kwargs)
        drawn.append(result.numel())
        return result

    copula.sample(1, generator=stream(0, "test"))
    monkeypatch.setattr(torch, "rand", counting)
    codes = copula.sample(200, generator=stream(0, "test"))
    assert sum(drawn) < 50 * len(codes.indices)


# Refusals -----------------------------------------------------------------------------------------


def equal(rho, n=3):
    return torch.full((n, n), rho, dtype=torch.float64).fill_diagonal_(1.0)


REFUSED = [
    (lambda: GaussianCopula(0.1, f64([0.5])), r"\(n_features\), rank\), rank >= 1, got .*\(1,\)"),
    (lambda: GaussianCopula(1.5, f64([[0.5]])), r"in \[0, 1\], got firing_prob=1.5"),
    (lambda: GaussianCopula(0.1, f64([[0.5, torch.nan]])), r"finite numbers in loadings"),
    (
        lambda: GaussianCopula(0.1, f64([[3.0, 4.0]])),
        "rows of loadings of norm <= 1, got longest=5.0; multiply them by 0.2 or less",
    ),
    (
        lambda: GaussianCopula.low_rank(5, 0.1, 2, 3.0, generator=stream(0, "test")),
        r"a scale of at most 1\.[0-9]+, where the longest row .* has norm 1, got scale=3.0",
    ),
    (lambda: GaussianCopula.low_rank(5, 0.1, 0, 0.1, generator=stream(0, "x")), "rank >= 1"),
    (
        lambda: GaussianCopula.from_latent(0.1, equal(-0.8)),
        r"positive semi-definite .* least_eigenvalue=-0\.6.*; multiply its off-diagonal .* 0\.625 ",
    ),
    (lambda: GaussianCopula.from_latent(0.1, f64([[1, 0.1], [0.2, 1]])), "a symmetric matrix"),
    (lambda: GaussianCopula.from_latent(0.1, f64([[0.9]])), r"ones on the diagonal .*\[0, 0\]=0.9"),
    (lambda: GaussianCopula.from_latent(0.1, f64([[1, 2], [2, 1]])), r"\[-1, 1\], got .*=2.0"),
    (lambda: GaussianCopula.from_latent(0.1, f64([[1, 2]])), r"a square matrix .*=\(1, 2\)"),
    (
        lambda: GaussianCopula.from_binary(0.1, equal(-0.2)),
        r"-0\.1111\d* <= correlation\[0, 1\] <= (1\.0|0\.9\d*) .*0\.1 and 0\.1 allow\), "
        r"got correlation=-0\.2",
    ),
    (lambda: GaussianCopula.from_binary(f64([0.5, 0.1]), equal(0.4, 2)), r"<= 0\.3333[0-9]* \("),
    (lambda: GaussianCopula.from_binary(f64([0.5, 1.0]), equal(0.1, 2)), r"<= 0\.0 \(what"),
    # At p = 1/2, phi = 2 asin(rho) / pi: three equal correlations need rho >= -1/2, phi >= -1/3.
    (
        lambda: GaussianCopula.from_binary(0.5, equal(-0.5)),
        r"multiply those off the diagonal by 0\.66666\d or less",
    ),
    (
        lambda: GaussianCopula(0.1, f64([[0.5]])).sample_given(2, 1, generator=stream(0, "x")),
        r"a feature in \[0, 1\), got feature=1",
    ),
    (
        lambda: GaussianCopula(0.0, f64([[0.5]])).sample_given(2, 0, generator=stream(0, "x")),
        "a feature that can fire, got feature=0, firing_prob=0.0",
    ),
    (lambda: latent_correlation(f64(0.1), f64(0.2), f64(0.15)), r"0\.0 <= both_prob <= 0\.1 "),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_cannot_be_is_refused(unchecked, make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_bounds_of_the_refusals_are_feasible():
    assert GaussianCopula(0.1, f64([[3.0, 4.0]]) * 0.2).n_features == 1
    assert GaussianCopula.from_latent(0.1, equal(-0.8 * 0.625)).loadings.shape == (3, 2)
    assert GaussianCopula.from_binary(0.5, equal(-0.5 * 0.66666)).n_features == 3
    pair = GaussianCopula.from_binary(f64([0.5, 0.1]), equal(1 / 3, 2))
    assert float(pair.cofiring_probs()[0, 1]) == pytest.approx(0.1, abs=1e-12)
    apart = GaussianCopula.from_binary(0.1, equal(-1 / 9, 2))
    assert float(apart.cofiring_probs()[0, 1]) == pytest.approx(0, abs=1e-12)


# Broken twins -------------------------------------------------------------------------------------


class LatentTakenForBinary(GaussianCopula):
    """Declares that the firing has the latent correlation."""

    def _cofiring_times(self, v):
        p = self.firing_probs()
        deviation = (p * (1 - p)).sqrt()
        both = self.latent_correlation() * torch.outer(deviation, deviation) + torch.outer(p, p)
        return both @ v


class _Changed(GaussianCopula):
    def _firing_on(self, device):
        firing = GaussianFiring(self.firing_probs(), self.loadings.double())
        self.change(firing)
        return firing


class NoCompensation(_Changed):
    """z = F u + eps: of variance above 1, so that all fire too often."""

    def change(self, firing):
        firing.spread = torch.ones_like(firing.spread)
        for group in firing.groups:
            group.spread.fill_(1.0)


class NothingAboveItsCap(_Changed):
    """Never looks at cells whose shared part alone makes firing likely."""

    def change(self, firing):
        for group in firing.groups:
            group.excess.sub_(group.minus_cap + 100)  # the same limits,
            group.minus_cap.fill_(-100.0)  # from a cap that is never reached


class SignsLost(_Changed):
    """Correlates all features positively."""

    def change(self, firing):
        for group in firing.groups:
            group.columns.abs_()


class OneFactorForAllSamples(GaussianCopula):
    def _sample(self, n, *, generator):
        firing = self._firing_on(generator.device)
        factor = firing.factor(1, generator=generator).repeat(n, 1)
        rows, features = firing.draw(factor, generator=generator)
        values = self.magnitude.sample(len(rows), generator=generator)
        return Events(rows, features, values)


@pytest.mark.parametrize(
    ("law", "twin"),
    [
        (toy_laws.cofiring_is_exact, LatentTakenForBinary),
        (toy_laws.firing_probs_are_exact, NoCompensation),
        (toy_laws.firing_probs_are_exact, NothingAboveItsCap),
        (toy_laws.cofiring_is_exact, SignsLost),
        (toy_laws.firing_probs_are_exact, OneFactorForAllSamples),
    ],
    ids=lambda value: value.__name__,
)
def test_a_broken_copula_is_caught(law, twin):
    with pytest.raises(AssertionError):
        search(twin, law, tms.generators())
