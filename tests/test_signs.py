"""Signs: against loops, nulls by full enumeration, closed forms, and bad input."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory.nonnegative import nonnegative_least_squares as nnls
from theory.signs import refitted, sign_consistency, sign_necessity, sign_scores
from theory.statistics import hoeffding_radius
from toymodels import orthonormal, polygon, stream

seeds = st.integers(0, 2**32 - 1)


def _problem(n, m, d, seed):
    """Small integer activations, codes, decoder rows: zero and dependent rows are common."""
    generator = stream(seed, "problem")
    shapes = ((n, d), (n, m), (m, d), (d,))
    x, codes, rows, bias = (torch.randint(-2, 3, s, generator=generator).double() for s in shapes)
    x[0, 0] += 9  # never b_dec throughout
    return x, codes, rows, bias


def _consistency(x, codes, rows, bias, seed=0):
    return sign_consistency(x, codes, rows, bias, generator=stream(seed, "nulls"))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), seeds)
def test_necessity_equals_its_loop(n, m, d, seed):
    x, codes, rows, bias = _problem(n, m, d, seed)
    support = codes != 0
    excess = 0.0
    for row, mask in zip(x - bias, support, strict=True):
        if mask.any():
            basis = rows[mask].numpy().T
            signed = np.linalg.lstsq(basis, row.numpy(), rcond=1e-10)[0]
            left = float(np.square(row.numpy() - basis @ signed).sum())
            excess += nnls(basis, row.numpy())[1] ** 2 - left
    expected = excess / float((x - bias).square().sum())
    assert sign_necessity(x, support, rows, bias) == pytest.approx(expected, abs=1e-9)
    if (codes >= 0).all():
        exact = codes @ rows + bias
        if bool((exact != bias).any()):
            assert sign_necessity(exact, support, rows, bias) == pytest.approx(0, abs=1e-12)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("function", [sign_necessity, refitted])
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_codes_are_no_support(function, dtype):
    x, codes, rows, bias = _problem(3, 4, 4, 0)
    with pytest.raises(ValueError, match=f"booleans, got .*{dtype}.; pass codes != 0"):
        function(x, codes.to(dtype), rows, bias)
    with pytest.raises(ValueError, match="support to be a tensor"):
        function(x, codes.numpy() != 0, rows, bias)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(3, 5), seeds)
def test_refit_is_least_squares_and_zero_elsewhere(n, m, d, seed):
    x, codes, rows, bias = _problem(n, m, d, seed)
    coefs = refitted(x, codes != 0, rows, bias)
    assert bool((coefs[codes == 0] == 0).all())
    left = x - bias - coefs @ rows
    on_support = (left @ rows.T)[codes != 0]
    assert on_support.numel() == 0 or float(on_support.abs().max()) < 1e-9


@given(st.lists(st.lists(st.integers(-3, 3), min_size=3, max_size=3), min_size=1, max_size=5))
def test_scores_equal_their_loop_and_do_not_see_scale(codes):
    c = torch.tensor(codes, dtype=torch.float64)
    found = sign_scores(c)
    for j, column in enumerate(zip(*codes, strict=True)):
        energy = sum(v * v for v in column)
        if energy == 0:
            assert math.isnan(found[j])
            continue
        expected = sum(math.copysign(v * v, v) for v in column) / energy
        assert float(found[j]) == pytest.approx(expected)
    for scale in (1e-200, 1e200):
        assert torch.allclose(sign_scores(scale * c), found, equal_nan=True)
    assert torch.allclose(sign_scores(-c), -found, equal_nan=True)


@given(st.lists(st.floats(0.1, 5), min_size=1, max_size=7))
def test_score_null_is_that_of_coins(magnitudes):
    """All 2^n sign patterns; the spread of a single latent and of all latents together."""
    a = torch.tensor(magnitudes, dtype=torch.float64)[:, None]
    patterns = [torch.tensor(s)[:, None] for s in itertools.product((1, -1), repeat=len(a))]
    scores = torch.stack([sign_scores(a * s)[0] for s in patterns])
    assert float(scores.mean()) == pytest.approx(0, abs=1e-12)
    rows, zero = torch.eye(1).double(), torch.zeros(1).double()
    found = _consistency(a, a, rows, zero)
    assert found.score_null == 0
    spread = float(scores.square().mean().sqrt())
    assert found.score_null_std == pytest.approx(spread)
    flat = 1 / math.sqrt(len(a))  # the spread if all magnitudes counted alike
    assert float(a.max() - a.min()) < 1e-9 or abs(spread - flat) > 1e-12


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), seeds)
def test_gain_null_is_the_mean_over_all_permutations(n, m, d, seed):
    x, codes, rows, bias = _problem(n, m, d, seed)
    found = _consistency(x, codes, rows, bias)
    left = x - bias - codes.clamp(min=0) @ rows
    minus = codes.clamp(max=0) @ rows
    without = float(left.square().sum())
    if without == 0:
        assert math.isnan(found.gain_null)
        return
    orders = itertools.permutations(range(n))
    errors = [float((left - minus[list(order)]).square().sum()) for order in orders]
    assert found.gain_null == pytest.approx(1 - sum(errors) / len(errors) / without)
    assert found.gain == pytest.approx(1 - errors[0] / without)


def test_gain_null_without_the_means_is_noticed():
    """Negative parts that are the same in every sample: exchanging them changes nothing."""
    x = torch.tensor([[1.0, -1.0], [2.0, -1.0]]).double()
    found = _consistency(x, x, torch.eye(2).double(), torch.zeros(2).double())
    assert found.gain == found.gain_null == 1.0
    uncorrelated = 1 - (2 + 2) / 2  # |residual|^2 + |minus|^2 over |residual|^2
    assert uncorrelated == -1


@given(st.integers(2, 4), st.integers(1, 4), st.integers(1, 3), seeds)
def test_scaled_gain_is_the_best_over_gains(n, m, d, seed):
    x, codes, rows, bias = _problem(n, m, d, seed)
    y = x - bias
    found = _consistency(x, codes, rows, bias)

    def least(x_hat):
        power, product = float(x_hat.square().sum()), float((y * x_hat).sum())
        largest = float(y.norm()) / max(power, 1e-300) ** 0.5  # of the best gain, Cauchy-Schwarz
        gains = torch.linspace(-largest, largest, 24001, dtype=torch.float64)
        return float((y.square().sum() - 2 * gains * product + gains.square() * power).min())

    without, every = least(codes.clamp(min=0) @ rows), least(codes @ rows)
    if without > 1e-3 * float(y.square().sum()):
        assert found.scaled_gain == pytest.approx(1 - every / without, abs=1e-3)


def test_rays_and_lines_in_orthonormal_latents():
    """A planted share of negative energy is the necessity, and fixes the score."""
    generator = stream(0, "codes")
    codes = torch.rand(200, 6, generator=generator, dtype=torch.float64)
    codes[:, 3:] *= torch.randint(0, 2, (200, 3), generator=generator) * 2 - 1
    rows = orthonormal(6, 9, generator=generator, dtype=torch.float64).vectors
    bias = torch.ones(9, dtype=torch.float64)
    found = _consistency(codes @ rows + bias, codes, rows, bias)
    energy, negative = float(codes.square().sum()), float(codes.clamp(max=0).square().sum())
    assert found.necessity == pytest.approx(negative / energy)
    assert found.score == pytest.approx(1 - 2 * negative / energy)
    assert torch.allclose(found.scores[:3], torch.ones(3).double())
    assert (found.scores[3:].abs() < 0.4).all()
    assert found.gain == pytest.approx(1)
    rays = _consistency(codes.abs() @ rows + bias, codes.abs(), rows, bias)
    assert rays.necessity == pytest.approx(0, abs=1e-12)
    assert rays.score == pytest.approx(1)
    assert math.isnan(rays.gain)  # nothing left for negatives to add


def test_necessity_null_is_half_the_energy_of_orthonormal_lines():
    """32 latents of equal energy x 16 draws are 512 coins: false alarm 1e-10, radius .152; an
    error of .31 in the null is caught with the same certainty."""
    codes = torch.eye(32, dtype=torch.float64)
    rows = orthonormal(32, 32, generator=stream(0, "rows"), dtype=torch.float64).vectors
    found = _consistency(codes @ rows, codes, rows, torch.zeros(32).double())
    radius = hoeffding_radius(512, 1.0, 1e-10)
    assert abs(found.necessity_null - 0.5) < radius
    assert found.necessity == pytest.approx(0, abs=1e-12)
    assert 0.5 - found.necessity > radius  # the rays themselves would not pass for the null


def test_quarter_law_by_gain():
    """The same antipodal frame: negatives are worth everything, or nothing is left for them."""
    rows = polygon(6, dtype=torch.float64).vectors
    x = torch.randn(20, 2, generator=stream(0, "x"), dtype=torch.float64)
    codes, zero = x @ rows.T, torch.zeros(2).double()
    low = _consistency(x, codes, rows / 3, zero)
    assert low.gain == pytest.approx(1)
    high = _consistency(x, codes, rows * 2 / 3, zero)
    assert math.isnan(high.gain)
    # Both readings of the scaled gain agree: the positive part alone is exact at its own gain.
    assert math.isnan(low.scaled_gain)
    assert math.isnan(high.scaled_gain)
    # Half-way between the gains each part is off, and negatives hurt.
    between = _consistency(x, codes, rows * 0.6, zero)
    assert between.gain == pytest.approx(1 - 0.8**2 / 0.1**2)


@given(seeds, st.permutations(range(4)))
def test_labels_and_rotations_do_not_matter(seed, order):
    x, codes, rows, bias = _problem(3, 4, 3, seed)
    rotation = orthonormal(3, 3, generator=stream(seed, "rotation"), dtype=torch.float64).vectors
    base = _consistency(x, codes, rows, bias)
    turned = _consistency(x @ rotation, codes, rows @ rotation, bias @ rotation)
    relabelled = _consistency(x, codes[:, order], rows[order], bias)
    for other in (turned, relabelled):
        for name in ("gain", "gain_null", "scaled_gain", "necessity"):
            assert getattr(other, name) == pytest.approx(getattr(base, name), nan_ok=True, abs=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: [d[0][:, :2], *d[1:]], "expected x .batch, d_in."),
        (lambda d: [d[0][:0], d[1][:0], *d[2:]], "expected x .batch, d_in."),
        (lambda d: [*d[:1], d[1] * torch.nan, *d[2:]], "finite numbers in codes"),
        (lambda d: [d[3].expand(3, 3), *d[1:]], "an x that is not b_dec throughout"),
    ],
)
def test_bad_input_is_one_clear_error(change, message, unchecked):
    with pytest.raises(ValueError, match=f"sign_consistency: .*{message}") as error:
        _consistency(*change(_problem(3, 4, 3, 0)))
    assert "\n" not in str(error.value)


def test_code_of_zeros_has_no_score():
    x, codes, rows, bias = _problem(3, 4, 3, 0)
    found = _consistency(x, 0 * codes, rows, bias)
    assert math.isnan(found.score)
    assert (found.gain, found.necessity) == (0.0, 0.0)
