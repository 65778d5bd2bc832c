"""Label-free signals against loops and closed forms, their nulls, and what they do not say; the
sums of fig_fragility and fig_unsupervised_choice."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from figures.objective_runs import first_order, first_order_null, regret
from theory import isotropic_rows, recovery
from theory.projection import (
    decoder_projection,
    expected_best_cosine,
    larger_agreement,
    pairwise_cosine,
)
from toymodels import stream

seeds = st.integers(0, 2**32 - 1)


def rows_of(*shape, seed, name="rows"):
    return isotropic_rows(*shape, generator=stream(seed, name), dtype=torch.float64)


def samples(n, d, seed):
    return torch.randn(n, d, generator=stream(seed, "samples"), dtype=torch.float64)


def unit(w):
    return [float(v) / math.sqrt(sum(float(u) ** 2 for u in w)) for v in w]


@given(st.integers(2, 6), st.integers(2, 4), st.integers(1, 5), st.booleans(), seeds)
def test_equal_to_loops(n_latents, d, n_samples, centred, seed):
    W, V = rows_of(n_latents, d, seed=seed), rows_of(n_latents + 1, d, seed=seed, name="larger")
    x, b = samples(n_samples, d, seed), samples(1, d, seed)[0] if centred else None
    units, others = [unit(w) for w in W], [unit(v) for v in V]
    dots = sorted(
        (
            sum(u * (float(t[i]) - (float(b[i]) if b is not None else 0)) for i, u in enumerate(w))
            for w in units
            for t in x
        ),
        reverse=True,
    )
    for n in range(1, n_latents):
        found = decoder_projection(x, 3 * W, b, n=n)
        assert found.value == pytest.approx(dots[n * n_samples], abs=1e-12)
    cosine = [[sum(map(math.prod, zip(u, v, strict=True))) for v in others] for u in units]
    nearest = sum(map(max, cosine)) / n_latents
    assert larger_agreement(2 * W, V).value == pytest.approx(nearest, abs=1e-12)
    pairs = [abs(float(W[i] @ W[j])) for i, j in itertools.combinations(range(n_latents), 2)]
    assert pairwise_cosine(5 * W).value == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


@given(st.integers(3, 6), seeds)
def test_invariances(d, seed):
    W, V, x = rows_of(5, d, seed=seed), rows_of(7, d, seed=seed, name="V"), samples(9, d, seed)
    order, turn = torch.tensor([3, 1, 4, 0, 2]), torch.linalg.qr(samples(d, d, seed)).Q
    dead = torch.cat([W[order] @ turn, torch.zeros(2, d, dtype=torch.float64)])
    pairs = [
        (decoder_projection(x, W, n=2), decoder_projection(x @ turn, dead, n=2)),
        (pairwise_cosine(W), pairwise_cosine(dead)),
        (larger_agreement(W, V), larger_agreement(dead, V.flip(0) @ turn)),
    ]
    for before, after in pairs:
        assert after.value == pytest.approx(before.value, abs=1e-9)
        assert after.null == pytest.approx(before.null, abs=1e-9)


@given(st.integers(1, 3), seeds)
def test_mixed_latents_project_where_the_true_ones_are_silent(l0, seed):
    """Orthonormal features, exactly l0 active: past rank l0 the true dictionary projects to 0,
    and latents that mix two features with positive weights project on both's samples."""
    n_features = 8
    order = torch.rand(64, n_features, generator=stream(seed, "supports")).argsort(1)[:, :l0]
    codes = torch.zeros(64, n_features, dtype=torch.float64).scatter(1, order, 1.0)
    features = torch.eye(n_features, dtype=torch.float64)
    true = decoder_projection(codes, features, n=l0)
    mixed = decoder_projection(codes, features + features.roll(1, 0), n=l0)
    assert true.value == 0
    assert mixed.value > 0
    assert decoder_projection(codes, features, n=l0 - 1 or 1).value == (1.0 if l0 > 1 else 0.0)


def test_low_pairwise_cosine_is_not_right():
    """Any orthonormal basis has 0; and random features have what unrelated latents have."""
    features, wrong = torch.eye(16, dtype=torch.float64), torch.linalg.qr(samples(16, 16, 0)).Q
    assert pairwise_cosine(wrong).value == pytest.approx(0, abs=1e-12)
    assert not recovery(features, wrong).recovered.any()


def test_nulls_in_closed_form():
    # On the sphere in three dimensions a cosine is uniform: E max of n = (n - 1) / (n + 1).
    for n in (1, 2, 5, 40):
        assert expected_best_cosine(n, 3) == pytest.approx((n - 1) / (n + 1), abs=1e-9)
    # In the plane: E max(cos a, cos b) = 4 / pi^2, from E|cos a - cos b| = 8 / pi^2.
    assert expected_best_cosine(2, 2) == pytest.approx(4 / math.pi**2, abs=1e-9)
    assert pairwise_cosine(rows_of(4, 2, seed=0)).null == pytest.approx(2 / math.pi)
    assert pairwise_cosine(rows_of(4, 3, seed=0)).null == pytest.approx(1 / 2)
    # Samples of length 2 in three dimensions: the share above q is (1 - q / 2) / 2.
    x = 2 * rows_of(5, 3, seed=1)
    assert decoder_projection(x, rows_of(8, 3, seed=2), n=2).null == pytest.approx(1)
    assert decoder_projection(0 * x, rows_of(8, 3, seed=2), n=2).null == 0


@pytest.mark.parametrize("n", [100, 1000])
def test_isotropic_latents_are_at_the_null(n):
    """The share above the null quantile: Hoeffding over 4,000 latents at 1e-10, radius .055."""
    x, W = samples(50, 12, 3) * torch.linspace(0.1, 3, 50)[:, None], rows_of(4000, 12, seed=4)
    found = decoder_projection(x, W, n=n)
    radius = math.sqrt(math.log(2e10) / 8000)
    above = ((x @ W.T) > found.null).double().mean().item()
    assert abs(above - n / 4000) < radius
    # An error of a tenth of the unit of x in the null would be caught at the larger n.
    wrong = ((x @ W.T) > found.null - 0.5).double().mean().item()
    assert abs(wrong - n / 4000) > (radius if n == 1000 else 0)


EYE = torch.eye(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decoder_projection(EYE, EYE, n=3), r"1 <= n < 3 \(live latents\), got n=3"),
        (lambda: decoder_projection(EYE, EYE, n=0), "got n=0"),
        (lambda: decoder_projection(EYE * math.nan, EYE, n=1), "finite numbers in x"),
        (lambda: decoder_projection(EYE[:, :2], EYE, n=1), r"x=\(3, 2\)"),
        (lambda: decoder_projection(EYE, EYE, EYE[0] * math.inf, n=1), "finite numbers in b_dec"),
        (lambda: pairwise_cosine(0 * EYE), "a live latent, got n_live=0"),
        (lambda: pairwise_cosine(EYE[:1]), "two live latents or more, got n_live=1"),
        (lambda: pairwise_cosine(EYE[:, :1]), "d_in >= 2, got d_in=1"),
        (lambda: larger_agreement(EYE, EYE[:, :2]), r"larger=\(3, 2\)"),
        (lambda: expected_best_cosine(0, 3), "an integer n >= 1"),
    ],
)
def test_bad_input(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()


@given(st.tuples(st.integers(1, 3), st.integers(2, 3), st.integers(1, 2)), seeds)
def test_first_order_shares(shape, seed):
    """Against loops; additive values leave nothing to interactions."""
    values = samples(math.prod(shape), 1, seed).numpy().reshape(shape)
    found = first_order(values)
    total = sum((v - values.mean()) ** 2 for v in values.flat)
    for axis, n in enumerate(shape):
        levels = [np.take(values, i, axis) for i in range(n)]
        between = sum(level.size * (level.mean() - values.mean()) ** 2 for level in levels)
        assert found[axis] == pytest.approx(between / total, abs=1e-9)
    parts = [values[:, :1, :1], values[:1, :, :1], values[:1, :1]]
    assert first_order(parts[0] + parts[1] + parts[2]).sum() == pytest.approx(1)
    assert first_order(np.ones(shape)).tolist() == [0, 0, 0]


def test_null_of_first_order_shares_over_all_permutations():
    values = np.array([0.0, 1.0, 1.5, 4.0, -2.0, 0.3])
    found = [first_order(np.reshape(p, (3, 2))) for p in itertools.permutations(values)]
    assert np.mean(found, 0) == pytest.approx(first_order_null((3, 2)))


def test_regret():
    recovered, score = np.array([0.1, 0.9, 0.5, 0.7]), np.array([3.0, 1.0, 3.0, 2.0])
    assert regret(recovered, score) == pytest.approx(0.9 - 0.3)  # a tie of .1 and .5
    assert regret(recovered, recovered) == 0
    among = np.array([False, False, True, True])
    assert regret(recovered, score, among) == pytest.approx(0.7 - 0.5)
