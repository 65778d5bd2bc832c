"""Effective rank, sensitivities and visibility against eigenvalues, differences and crossings."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory import common_features_bound, effective_rank, isotropic_rows, visibility_shifts
from toymodels import stream

seeds = st.integers(0, 2**32 - 1)


def rows_of(*shape, seed, name="rows"):
    return isotropic_rows(*shape, generator=stream(seed, name), dtype=torch.float64)


def energies_of(n, seed):
    return torch.rand(n, generator=stream(seed, "energies"), dtype=torch.float64) + 0.05


def measured(dictionary, energies, n_samples=7.0, prior_precision=2.0):
    return effective_rank(
        dictionary, energies, n_samples=n_samples, prior_precision=prior_precision
    )


@given(st.integers(1, 8), st.integers(1, 6), seeds)
def test_counts_equal_their_definitions(n, d, seed):
    dictionary, e = rows_of(n, d, seed=seed), energies_of(n, seed)
    found = measured(dictionary, e)
    values = torch.linalg.eigvalsh((dictionary.T * e) @ dictionary).clamp(min=0)
    p = values / values.sum()
    assert found.rank == min(n, d)
    assert found.bayes == pytest.approx(float((7 * values / (7 * values + 2)).sum()))
    entropy = -sum(x * math.log(x) for x in p.tolist() if x > 0)
    assert found.entropy == pytest.approx(math.exp(entropy))
    assert found.participation == pytest.approx(float(1 / p.square().sum()))
    assert found.participation <= found.entropy + 1e-9 <= found.rank + 2e-9
    assert found.learning_coefficient(3) == pytest.approx(1.5 * found.bayes)


@given(st.integers(1, 6), st.integers(1, 5), seeds)
def test_sensitivities_are_derivatives(n, d, seed):
    """Central differences of step 1e-5: error 1e-10 and rounding 1e-11."""
    dictionary, e = rows_of(n, d, seed=seed), energies_of(n, seed)
    slopes = []
    for i in range(n):
        factors = torch.ones(n, dtype=torch.float64)
        factors[i] = math.exp(1e-5)
        up, down = (measured(dictionary, x).bayes for x in (e * factors, e / factors))
        slopes.append((up - down) / 2e-5)
    assert measured(dictionary, e).sensitivities.tolist() == pytest.approx(slopes, abs=1e-8)


def test_known_values():
    eye = torch.eye(4, dtype=torch.float64)
    found = measured(eye, torch.ones(4), n_samples=1, prior_precision=1)
    assert (found.rank, found.bayes) == (4, pytest.approx(2))
    assert (found.entropy, found.participation) == pytest.approx((4, 4))
    assert found.sensitivities.tolist() == pytest.approx([0.25] * 4)  # x = 1, where it is largest
    # Copies of a feature, duplicates and zero rows: the rank is blind to their number.
    split = torch.cat([eye, eye, 0 * eye])
    copies = measured(split, torch.cat([torch.full((8,), 0.5), torch.ones(4)]), 1, 1)
    assert (copies.rank, copies.bayes) == (4, pytest.approx(2))
    assert copies.sensitivities.tolist() == pytest.approx([0.125] * 8 + [0] * 4)
    # An uneven spectrum has a lower effective rank than structureless directions.
    narrow = measured(eye[:1].repeat(6, 1), torch.ones(6))
    assert (narrow.rank, narrow.entropy) == (1, pytest.approx(1))
    assert narrow.null_entropy > 2.5
    assert measured(2 * eye, torch.ones(4)).bayes == pytest.approx(
        measured(eye, torch.full((4,), 4.0)).bayes
    )
    assert measured(eye, torch.ones(4), 1e30, 1e-3).bayes == pytest.approx(4)


@pytest.mark.parametrize(("n", "d"), [(3, 5), (12, 5), (40, 16)])
def test_null_is_that_of_isotropic_directions(n, d):
    """The null is a mean of 16 draws, exchangeable with the means of 1,000 fresh batches of 16.

    It must not lie outside all of them: false alarm 2 / 1,001 for each comparison, seeds fixed;
    a shift by eight of their standard deviations (of 3 to 6 % of the count) is always caught.
    """
    e = energies_of(n, 0)
    found = measured(rows_of(n, d, seed=0), e)
    fresh = rows_of(1000, 16, n, d, seed=1)
    spectra = torch.linalg.svdvals(e.sqrt()[:, None] * fresh).square()
    p = spectra / spectra.sum(-1, keepdim=True)
    for null, draws in (
        (found.null_participation, 1 / p.square().sum(-1)),
        (found.null_entropy, torch.special.entr(p).sum(-1).exp()),
        (found.null_bayes, (3.5 * spectra / (3.5 * spectra + 1)).sum(-1)),
    ):
        means = draws.mean(1)
        assert means.min() <= null <= means.max()


@given(st.integers(1, 6), st.integers(1, 5), st.floats(0.1, 3), seeds)
def test_an_eigenvalue_passes_where_the_factor_says(n, d, threshold, seed):
    dictionary, e = rows_of(n, d, seed=seed), energies_of(n, seed)

    def visible(i, factor):
        changed = e.clone()
        changed[i] *= factor
        values = torch.linalg.eigvalsh((dictionary.T * changed) @ dictionary)
        return int((values > threshold).sum())

    for i, kappa in enumerate(visibility_shifts(dictionary, e, threshold).tolist()):
        if kappa > 1e4:
            assert visible(i, 1e4 * 0.99) == visible(i, 0)
        else:
            assert visible(i, kappa * (1 + 1e-6) + 1e-9) - visible(i, kappa * (1 - 1e-6)) == 1
            assert visible(i, 1e3 * kappa + 1) - visible(i, 0) == 1


def test_orthonormal_shifts():
    eye, e = torch.eye(4, dtype=torch.float64), torch.tensor([4.0, 3, 2, 0])
    assert visibility_shifts(eye, e, 2.5)[:3].tolist() == pytest.approx([0.625, 2.5 / 3, 1.25])
    assert visibility_shifts(eye, e, 2.5)[3] == math.inf  # no factor makes 0 visible
    # At the r-th energy itself: kappa_i = e_(r) / e_i.
    assert visibility_shifts(eye, e, 3.0)[:3].tolist() == pytest.approx([0.75, 1, 1.5])
    # Two copies in one direction: one is enough to keep the direction visible.
    twice = visibility_shifts(eye[[0, 0, 1]], torch.tensor([2.0, 2, 0.5]), 1.0)
    assert twice.tolist() == [math.inf, math.inf, pytest.approx(2)]


def test_common_features_bound():
    assert common_features_bound(3, 0.0, 1.0, 0.0) == 3
    assert common_features_bound(3, 4.0, 2.0, 0.0) == 5
    assert common_features_bound(4, 0, 1, 0.25) == 8
    assert common_features_bound(4, 0, 1, 0.5) == math.inf


EYE = torch.eye(3)
ONES = torch.ones(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measured(EYE, torch.ones(2)), r"shape \(3,\).*weights=\(2,\)"),
        (lambda: measured(EYE, -ONES), "weights >= 0"),
        (lambda: measured(0 * EYE, ONES), "a direction with energy"),
        (lambda: measured(EYE * math.nan, ONES), "finite numbers in rows"),
        (lambda: measured(EYE, ONES, 0.0), "n_samples > 0.*n_samples=0.0"),
        (lambda: measured(EYE, ONES, 1, -1), "prior_precision=-1"),
        (lambda: measured(EYE, ONES).learning_coefficient(0), "n_outputs >= 1"),
        (lambda: visibility_shifts(EYE, ONES, 0.0), "a finite threshold > 0"),
        (lambda: common_features_bound(0, 0, 1, 0), "rank >= 1"),
        (lambda: common_features_bound(1, -1, 1, 0), "tail >= 0"),
        (lambda: common_features_bound(1, 0, 1, 2), "0 <= rms_coherence <= 1"),
    ],
)
def test_bad_input(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()
