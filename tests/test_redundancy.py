"""Redundancy by loops, exact p-values of nearest twins, and shared features."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from theory import dkw_radius, isotropic_rows, redundancy, shared_features
from toymodels import stream

ALPHA = 1e-10
N = 600
seeds = st.integers(0, 2**32 - 1)


def rows_of(*shape, seed, name="rows"):
    return isotropic_rows(*shape, generator=stream(seed, name), dtype=torch.float64)


@given(st.integers(2, 7), st.integers(1, 4), st.floats(0.1, 1), st.booleans(), seeds)
def test_equals_loops(m, d, threshold, signed, seed):
    rows = rows_of(m, d, seed=seed)
    found = redundancy(5 * rows, threshold=threshold, signed=signed)
    n_twins = 0
    for j in range(m):
        cosines = [float(rows[i] @ rows[j]) for i in range(m) if i != j]
        nearest = max(cosines if signed else map(abs, cosines))
        assert abs(nearest - found.cosines[j].item()) < 1e-12
        n_twins += nearest >= threshold - 1e-12
    assert found.score == pytest.approx(n_twins / m)
    assert found.coherence == pytest.approx(found.cosines.max().item())


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("m", "d"), [(2, 2), (9, 4), (40, 12)])
def test_each_p_value_is_uniform_and_the_null_exact(m, d, signed):
    """600 worlds, DKW at 1e-10 (radius .14); the null is a mean of events, same radius."""
    found = [redundancy(w, threshold=0.5, signed=signed) for w in rows_of(N, m, d, seed=m)]
    p = torch.stack([f.p_values[0] for f in found]).sort().values
    ranks = torch.arange(1, N + 1) / N
    radius = dkw_radius(N, ALPHA)
    assert (ranks - p).abs().max() < radius
    assert abs(sum(f.score for f in found) / N - found[0].null) < radius
    # Over pairs: super-uniform, and not by a factor of more than two near 0.
    over_pairs = torch.tensor([f.coherence_p_value for f in found])
    for u in (0.05, 0.2, 0.5):
        assert (over_pairs <= u).double().mean() <= u + radius
    broken = torch.stack([f.p_values.min() for f in found])  # the smallest, uncorrected
    if m > 2:
        assert (broken <= 0.2).double().mean() > 0.2 + radius


def test_planted_duplicates():
    eye = torch.eye(6, dtype=torch.float64)
    found = redundancy(torch.cat([eye, 3 * eye[:2]]))
    assert found.score == pytest.approx(4 / 8)
    assert found.duplicated.tolist() == [True, True] + [False] * 4 + [True, True]
    assert found.null < 0.1
    assert found.coherence_p_value < 1e-6
    assert redundancy(eye).score == 0
    assert redundancy(eye[[0] * 5]).score == 1
    opposite = torch.cat([eye, -eye])
    assert redundancy(opposite).score == 0
    assert redundancy(opposite, signed=False).score == 1
    assert redundancy(torch.cat([eye, eye]), threshold=1.0).score == 1


def test_limits():
    for rows in (torch.zeros(0, 3), torch.zeros(4, 3), torch.eye(3)[:1]):
        found = redundancy(rows)
        assert (found.score, found.null, found.coherence_p_value) == (0, 0, 1)
        assert shared_features(torch.eye(3), rows).score == 0
    dead = redundancy(torch.cat([torch.eye(3), torch.zeros(2, 3)]))
    assert (dead.n_live, dead.score) == (3, 0)
    assert dead.p_values[3:].tolist() == [1, 1]
    assert dead.null == redundancy(torch.eye(3)).null
    line = redundancy(torch.ones(2, 1))
    assert (line.score, line.null) == (1, 0.5)
    assert redundancy(torch.ones(2, 1), signed=False).null == 1


def test_shared_features_count_latents_within_the_threshold():
    eye = torch.eye(3, dtype=torch.float64)
    side = torch.tensor([[0.9, 0.19**0.5, 0], [0.9, -(0.19**0.5), 0]], dtype=torch.float64)
    found = shared_features(eye, torch.cat([side, eye[1:]]))
    assert found.n_latents.tolist() == [2, 1, 1]
    assert found.score == pytest.approx(1 / 3)
    # The two latents of the first feature are no duplicates of each other.
    assert redundancy(side).coherence == pytest.approx(0.62)
    assert redundancy(side).score == 0


@pytest.mark.parametrize(("m", "d", "threshold"), [(3, 2, 0.5), (30, 6, 0.6)])
def test_shared_null_is_binomial(m, d, threshold):
    """600 sets of latents against one fixed feature: exact binomial test at 1e-10."""
    axis = torch.eye(d, dtype=torch.float64)[:1]
    sets = rows_of(N, m, d, seed=d)
    null = shared_features(axis, sets[0], threshold=threshold).null
    count = sum(shared_features(axis, w, threshold=threshold).score for w in sets)
    low, high = binom.ppf([ALPHA / 2, 1 - ALPHA / 2], N, null)
    assert low <= count <= high
    assert not low <= N * null / 2 <= high  # half the null would be caught


EYE = torch.eye(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: redundancy(EYE[0]), r"W_dec \[n_latents, d_in\], got W_dec=\(3,\)"),
        (lambda: redundancy(EYE * math.nan), "finite numbers in W_dec"),
        (lambda: redundancy(EYE, threshold=0.0), "0 < threshold <= 1"),
        (lambda: shared_features(EYE, EYE, threshold=1.5), "0 < threshold <= 1"),
        (lambda: shared_features(EYE[:0], EYE), r"dictionary=\(0, 3\)"),
        (lambda: shared_features(0 * EYE, EYE), r"zero_rows=\[0, 1, 2\]"),
        (lambda: shared_features(EYE[:, :2], EYE), r"W_dec=\(3, 3\)"),
    ],
)
def test_bad_input(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()
