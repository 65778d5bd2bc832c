"""Completeness against full search, its null on isotropic features, and its limits."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory import completeness, isotropic_rows
from theory.nonnegative import nonnegative_least_squares as nnls
from toymodels import stream

seeds = st.integers(0, 2**32 - 1)


def rows_of(*shape, seed, name="rows"):
    return isotropic_rows(*shape, generator=stream(seed, name), dtype=torch.float64)


def naive(feature, latents, k, signed):
    """R_k^2 by full search over supports."""
    best = 0.0
    for support in itertools.combinations(range(len(latents)), min(k, len(latents))):
        atoms = latents[list(support)].T
        if signed:
            left = nnls(atoms, feature)[1] ** 2
        else:
            left = np.square(feature - atoms @ np.linalg.lstsq(atoms, feature, rcond=None)[0]).sum()
        best = max(best, 1 - left / np.square(feature).sum())
    return best


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.booleans(), seeds)
def test_one_latent_equals_search_and_more_are_bounded_by_it(n, m, d, signed, seed):
    dictionary, latents = rows_of(n, d, seed=seed, name="D"), rows_of(m, d, seed=seed)
    one = completeness(3 * dictionary, 0.1 * latents, signed=signed).r_squared
    two = completeness(dictionary, latents, k=2, signed=signed).r_squared
    for i, row in enumerate(dictionary.numpy()):
        assert abs(one[i] - naive(row, latents.numpy(), 1, signed)) < 1e-9
        assert one[i] - 1e-9 <= two[i] <= naive(row, latents.numpy(), 2, signed) + 1e-9


@given(st.integers(2, 12), st.integers(1, 6), st.integers(1, 12), seeds)
def test_null_is_that_of_isotropic_features(d, m, n, seed):
    """Features of 20 sets of 256, Hoeffding at 1e-10 for both: the level is off by < .27."""
    latents = rows_of(m, d, seed=seed)
    found = completeness(rows_of(n, d, seed=seed, name="D"), latents, signed=False)
    fresh = rows_of(20 * 256, d, seed=seed, name="fresh")
    level = (fresh @ latents.T).square().amax(1).mean().item()
    radius = math.sqrt(math.log(4e10) / 512) * (1 + 1 / math.sqrt(20))
    assert abs(found.null - level) < radius
    assert level < found.null_bound + math.sqrt(math.log(4e10) / (2 * 20 * 256))


def test_planted_composed_and_missing():
    eye = torch.eye(8, dtype=torch.float64)
    whole = completeness(eye, 5 * eye[torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])])
    assert (whole.score, whole.covered_share) == (pytest.approx(1), pytest.approx(1))
    assert whole.null < 0.5
    half = completeness(eye, eye[:4])
    assert (half.score, half.covered.tolist()) == (0.5, [True] * 4 + [False] * 4)
    # One latent between two features covers neither, but two latents make a diagonal feature.
    diagonal = (eye[:1] + eye[1:2]) / 2**0.5
    assert completeness(eye[:2], diagonal).r_squared.tolist() == pytest.approx([0.5, 0.5])
    assert completeness(diagonal, eye, k=1).score == pytest.approx(0.5)
    assert completeness(diagonal, eye, k=2).score == pytest.approx(1)
    # Energies: the missing features are rare. Rays: a latent the wrong way explains nothing.
    energies = torch.tensor([10.0, 10, 10, 10, 0, 0, 0, 0])
    assert completeness(eye, eye[:4], energies=energies).score == pytest.approx(1)
    assert completeness(eye, eye[:4], energies=energies).effective_n_features == pytest.approx(4)
    assert completeness(eye, -eye).score == 0
    assert completeness(eye, -eye, signed=False).score == pytest.approx(1)
    # A latent may serve two features, unlike in a matching.
    twins = torch.stack([eye[0], eye[0], eye[1]])
    assert completeness(twins, eye[:1]).score == pytest.approx(2 / 3)


def test_chance_is_not_refuted_and_truth_is():
    dictionary = rows_of(400, 32, seed=0)
    assert completeness(dictionary, dictionary).exceeds_null(1e-10)
    assert not completeness(dictionary, rows_of(400, 32, seed=1)).exceeds_null(1e-10)


def test_limits():
    eye = torch.eye(4, dtype=torch.float64)
    nothing = completeness(eye, eye[:0])
    assert (nothing.score, nothing.null, nothing.null_bound) == (0, 0, 0)
    dead = completeness(eye, 0 * eye, k=3)
    assert (dead.score, dead.null) == (0, pytest.approx(0, abs=1e-15))
    # k beyond the latents means all of them; d_in latents explain everything.
    assert completeness(rows_of(5, 4, seed=0), eye, k=9, signed=False).null == pytest.approx(1)
    repeated = completeness(eye, eye[[0, 0, 0]], k=2)  # rank-deficient: duplicates do not help
    assert repeated.score == pytest.approx(0.25)
    exact = completeness(eye, eye, tau=1.0)
    assert bool(exact.covered.all())


EYE = torch.eye(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: completeness(EYE, EYE[:, :2]), r"W_dec \[n_latents, 3\], got W_dec=\(3, 2\)"),
        (lambda: completeness(EYE[:0], EYE), r"rows=\(0, 3\)"),
        (lambda: completeness(0 * EYE, EYE), r"zero_rows=\[0, 1, 2\]"),
        (lambda: completeness(EYE, EYE * math.nan), "finite numbers in W_dec"),
        (lambda: completeness(EYE * math.nan, EYE), "finite numbers in rows"),
        (lambda: completeness(EYE, EYE, k=0), "an integer k >= 1, got k=0"),
        (lambda: completeness(EYE, EYE, tau=0.0), "0 < tau <= 1"),
        (lambda: completeness(EYE, EYE, energies=torch.zeros(3)), "not all 0"),
        (lambda: completeness(EYE, EYE, energies=-torch.ones(3)), "weights >= 0"),
        (lambda: completeness(EYE, EYE, energies=torch.ones(2)), r"shape \(3,\)"),
    ],
)
def test_bad_input(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()
