"""Hedging: closed forms, its null by simulation and exactly, invariances, bad input."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory.hedging import hedging
from theory.isotropic import isotropic_rows
from theory.statistics import dkw_radius
from toymodels import orthonormal, stream

seeds = st.integers(0, 2**32 - 1)
EYE = torch.eye(3, dtype=torch.float64)


def _pair(rho):
    """Two features of equal variance and correlation rho, and one of its own."""
    moment = EYE.clone()
    moment[0, 1] = moment[1, 0] = rho
    return moment


@pytest.mark.parametrize("rho", [-0.8, -0.3, 0.2, 0.9])
def test_degrees_of_known_latents(rho):
    moment, zero = _pair(rho), torch.tensor([0, -1, -1])
    full = EYE[:1] + rho * EYE[1:2]
    half = EYE[:1] + rho / 2 * EYE[1:2]
    away = EYE[:1] - rho * EYE[1:2]
    aside = EYE[:1] + 0.7 * EYE[2:]
    for row, degree in ((EYE[:1], 0), (full, 1), (half, 0.5), (away, -1), (aside, 0)):
        found = hedging(EYE, 3 * row, zero, moment)
        assert float(found.degrees[0]) == pytest.approx(degree)
        assert found.score == pytest.approx(degree)
    # The one latent that serves both best is the top eigenvector: beyond the full hedge.
    top = torch.linalg.eigh(moment[:2, :2]).eigenvectors[:, -1]
    both = torch.cat([top * top[0].sign(), torch.zeros(1).double()])[None]
    found = hedging(EYE, both, zero, moment)
    assert float(found.degrees[0]) == pytest.approx(1 / abs(rho))
    assert math.copysign(1, float(both[0, 1])) == math.copysign(1, rho)
    assert float(found.mixing[0]) == pytest.approx(1)
    # Were the sign of the correlation forgotten, the degree would change sign with it.
    wrong = hedging(EYE, both, zero, _pair(-rho))
    assert float(wrong.degrees[0]) == pytest.approx(-1 / abs(rho))


@given(st.integers(2, 4), st.integers(2, 5), seeds)
def test_degree_is_a_regression_in_any_dictionary(n, d, seed):
    """Against the definition: least squares of one error on the other, by lstsq."""
    generator = stream(seed, "world")
    features = isotropic_rows(n, d, generator=generator, dtype=torch.float64)
    factor = torch.randn(n, n, generator=generator, dtype=torch.float64)
    moment = factor @ factor.T
    rows = features + 0.3 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    found = hedging(features, rows, torch.arange(n), moment)
    for i in range(n):
        feature, row = features[i], rows[i]
        hedge = sum(moment[i, j] / moment[i, i] * features[j] for j in range(n))
        if row @ feature <= 0 or hedge @ feature <= 0:
            assert math.isnan(found.degrees[i])
            continue
        mine = row / (row @ feature) - feature
        full = hedge / (hedge @ feature) - feature
        slope = torch.linalg.lstsq(full[:, None], mine[:, None]).solution
        assert float(found.degrees[i]) == pytest.approx(float(slope), rel=1e-6, abs=1e-9)
        angle = torch.linalg.vector_norm(mine)
        assert float(found.mixing[i]) == pytest.approx(float(angle))


def test_the_planted_hedge_is_the_least_squares_decoder():
    """Degree 1 is what a decoder of one latent that reads a_i gets from data, by regression."""
    generator = stream(0, "codes")
    codes = torch.rand(500, 3, generator=generator, dtype=torch.float64)
    codes[:, 1] += 0.7 * codes[:, 0]
    features = orthonormal(3, 5, generator=generator, dtype=torch.float64).vectors
    x, a = codes @ features, codes[:, 0]
    centred = a - a.mean()
    row = (centred @ (x - x.mean(0)) / (centred @ centred))[None]
    matching = torch.tensor([0, -1, -1])
    found = hedging(features, row, matching, torch.cov(codes.T))
    assert float(found.degrees[0]) == pytest.approx(1)
    # Without a bias the regression is through the origin, and the second moment belongs to it.
    raw = (a @ x / (a @ a))[None]
    second = codes.T @ codes / len(codes)
    assert float(hedging(features, raw, matching, second).degrees[0]) == pytest.approx(1)
    assert abs(float(hedging(features, raw, matching, torch.cov(codes.T)).degrees[0]) - 1) > 0.1


@pytest.mark.parametrize("d", [2, 3, 8])
def test_null_p_values_are_uniform_and_spread_is_exact(d):
    """2,000 isotropic errors: DKW radius .077 at 1e-10; a shift of .154 is caught as surely."""
    n = 2000
    generator = stream(0, "errors")
    features = torch.eye(d, dtype=torch.float64)[:2]
    errors = isotropic_rows(n, d - 1, generator=generator, dtype=torch.float64)
    rows = torch.cat([torch.ones(n, 1, dtype=torch.float64), 0.6 * errors], 1)
    moment = _pair(0.5)[:2, :2]
    matching = torch.tensor([0, -1])
    found = [hedging(features, row[None], matching, moment) for row in rows]
    degrees = torch.stack([f.degrees[0] for f in found])
    std = float(found[0].null_stds[0])
    assert std == pytest.approx(0.6 / (0.5 * math.sqrt(d - 1)))
    p = torch.stack([f.p_values[0] for f in found]).sort().values
    radius = dkw_radius(len(p), 1e-10)
    steps = torch.arange(1, len(p) + 1) / len(p)
    if d > 2:
        assert float((p - steps).abs().max()) < radius
        halved = (p / 2).sort().values  # a twin that forgets one of the two sides
        assert float((halved - steps).abs().max()) > radius
    else:  # one direction to err in: only two values
        assert set(p.tolist()) == {0.5, 1.0}
    # The squared degree lies in [0, (.6/.5)^2]: its mean within Hoeffding's radius of the variance.
    spread = (0.6 / 0.5) ** 2 * math.sqrt(math.log(2e10) / (2 * len(p)))
    assert abs(float(degrees.square().mean()) - std**2) <= spread


@given(seeds, st.permutations(range(3)))
def test_labels_scales_and_rotations_do_not_matter(seed, order):
    generator = stream(seed, "world")
    features = isotropic_rows(3, 4, generator=generator, dtype=torch.float64)
    rows = features + 0.2 * torch.randn(3, 4, generator=generator, dtype=torch.float64)
    rotation = orthonormal(4, 4, generator=generator, dtype=torch.float64).vectors
    scales = 0.1 + torch.rand(3, 1, generator=generator, dtype=torch.float64)
    moment, matching = _pair(0.4) + 0.1, torch.arange(3)
    base = hedging(features, rows, matching, moment)
    place = torch.tensor(order).argsort()
    moved = hedging(features @ rotation, (scales * rows @ rotation)[list(order)], place, moment)
    for name in ("degrees", "null_stds", "p_values", "mixing"):
        found, expected = getattr(moved, name), getattr(base, name)
        assert torch.allclose(found, expected, equal_nan=True, atol=1e-7)
    assert torch.allclose(hedging(features, rows, matching, 7 * moment).degrees, base.degrees,
                          equal_nan=True)  # fmt: skip


def test_nothing_to_hedge_towards():
    found = hedging(EYE, EYE + 0.1, torch.tensor([0, 1, -1]), EYE)
    assert found.degrees.isnan().all()
    assert math.isnan(found.score)
    assert (found.mixing[:2] > 0).all()
    assert math.isnan(found.mixing[2])
    opposite = hedging(EYE, -EYE, torch.arange(3), _pair(0.5))
    assert opposite.mixing.isnan().all()
    silent = hedging(EYE, EYE, torch.arange(3), torch.diag(torch.tensor([0.0, 1, 1])).double())
    assert silent.degrees.isnan().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: [d[0][:, :2], *d[1:]], "dictionary .n, d_in."),
        (lambda d: [*d[:3], d[3][:2]], "dictionary .n, d_in."),
        (lambda d: [*d[:3], d[3] * torch.nan], "finite numbers in moment"),
        (lambda d: [2 * d[0], *d[1:]], "unit rows in dictionary"),
        (lambda d: [*d[:2], d[2] + 1, d[3]], r"matching in \[-1, 3\)"),
    ],
)
def test_bad_input_is_one_clear_error(change, message, unchecked):
    with pytest.raises(ValueError, match=f"hedging: expected .*{message}") as error:
        hedging(*change([EYE, EYE, torch.arange(3), EYE]))
    assert "\n" not in str(error.value)
