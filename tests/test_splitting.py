"""Splitting: planted divisions, copies and noise, and the permutation null by enumeration."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory import dkw_radius, splitting
from toymodels import stream

ALPHA = 1e-10
seeds = st.integers(0, 2**32 - 1)


def firings(n, rate, seed, name="fires"):
    return torch.rand(n, generator=stream(seed, name)) < rate


def measured(codes, latents, seed=0, **options):
    generator = stream(seed, "permutations")
    return splitting(codes.double(), latents.double(), generator=generator, **options)


def cycle(n, n_parts):
    """Masks of n samples that take turns."""
    return torch.arange(n)[:, None] % n_parts == torch.arange(n_parts)


@pytest.mark.parametrize("n_parts", [1, 2, 3, 5])
def test_a_feature_divided_evenly(n_parts):
    fires = torch.ones(60, 1)
    found = measured(fires, cycle(60, n_parts))
    assert found.score == pytest.approx(1 - 1 / n_parts)
    assert found.null == pytest.approx(1 - (1 - 1 / n_parts) ** n_parts - 1 / n_parts)
    assert found.p_value == (1 if n_parts == 1 else 1 / 200)
    assert found.n_parts.item() == n_parts
    assert found.p_values.item() == found.p_value  # one feature


def test_copies_and_noise_are_no_division():
    fires = torch.ones(400, 1)
    one = firings(400, 0.5, 0)
    copies = measured(fires, torch.stack([one, one], 1))
    assert copies.score == 0 < copies.null
    assert copies.p_value == 1
    # Two latents that miss half of the firings independently add to each other, as the null does.
    noisy = measured(fires, torch.stack([one, firings(400, 0.5, 1)], 1))
    assert noisy.score > 0.15
    assert abs(noisy.score - noisy.null) < 0.06
    assert noisy.p_value > 0.01


def test_only_latents_of_the_feature_count():
    fires = torch.stack([cycle(120, 4)[:, 0], cycle(120, 4)[:, 1]], 1)
    halves = fires[:, :1] & cycle(120, 8)[:, [0, 4]]
    elsewhere = ~fires.any(1, keepdim=True)
    found = measured(fires, torch.cat([halves, elsewhere], 1))
    assert found.n_parts.tolist() == [2, 0]
    assert found.scores[0] == pytest.approx(0.5)
    assert math.isnan(found.scores[1])
    assert (found.score, found.p_values[1]) == (pytest.approx(0.5), 1)
    # A latent that fires one time in five without the feature belongs at precision .8, not .9.
    loose = halves.clone()
    loose[torch.tensor([1, 2, 3]), 0] = True  # 15 firings with the feature, 3 without: .83
    assert measured(fires, loose).n_parts.tolist() == [1, 0]
    assert measured(fires, loose, precision=0.8).n_parts.tolist() == [2, 0]


@given(st.integers(1, 5), st.integers(1, 3), seeds)
def test_null_equals_enumeration(n, n_parts, seed):
    """Every choice of the firings each latent has, all equally likely."""
    parts = torch.rand(n, n_parts, generator=stream(seed, "parts")) < 0.5
    parts[0] = True  # every latent fires
    found = measured(torch.ones(n, 1), parts)
    counts = parts.sum(0).tolist()
    choices = [list(itertools.combinations(range(n), c)) for c in counts]
    covers = [len(set().union(*choice)) / n for choice in itertools.product(*choices)]
    assert found.null == pytest.approx(sum(covers) / len(covers) - max(counts) / n)
    assert found.coverage.item() == pytest.approx(parts.any(1).double().mean().item())


def null_p_values(precision_of_truth):
    """300 worlds of 12 firings, three latents that fire at random; p-values of the mean score."""
    p_values = []
    for seed in range(300):
        parts = torch.rand(12, 3, generator=stream(seed, "parts")) < 0.5
        parts = torch.where(parts.any(0), parts, True)
        if precision_of_truth:  # latents that avoid each other
            parts = parts & (torch.arange(12)[:, None] % 3 == torch.arange(3))
            parts[:3] = torch.eye(3) > 0
        p_values.append(measured(torch.ones(12, 1), parts, seed=seed).p_value)
    return torch.tensor(p_values)


def test_p_values_are_super_uniform_and_see_divisions():
    """DKW at 1e-10, 300 worlds: radius .2."""
    p_values, radius = null_p_values(False), dkw_radius(300, ALPHA)
    for u in p_values.unique().tolist():
        assert (p_values <= u).double().mean() <= u + radius
    assert (p_values <= 0.1).any()
    assert (null_p_values(True) <= 0.1).double().mean() > 0.1 + radius


def test_nothing_fires_or_no_latent():
    for codes, latents in ((0, 1), (1, 0)):
        found = measured(codes * torch.ones(4, 2), latents * torch.ones(4, 3))
        assert math.isnan(found.score)
        assert (found.p_value, found.n_parts.sum()) == (1, 0)
    assert measured(torch.ones(4, 2), torch.ones(4, 0)).n_parts.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("codes", "latents", "precision", "message"),
    [
        (torch.ones(3, 2), torch.ones(4, 2), 0.9, r"codes=\(3, 2\), latents=\(4, 2\)"),
        (torch.ones(0, 2), torch.ones(0, 2), 0.9, r"codes=\(0, 2\)"),
        (torch.ones(3, 0), torch.ones(3, 2), 0.9, r"codes=\(3, 0\)"),
        (torch.ones(3, 2) * math.nan, torch.ones(3, 2), 0.9, "finite numbers in codes"),
        (torch.ones(3, 2), torch.ones(3, 2), 0.0, "0 < precision <= 1"),
    ],
)
def test_bad_input(unchecked, codes, latents, precision, message):
    with pytest.raises(ValueError, match=message):
        splitting(codes, latents, precision=precision, generator=stream(0, "p"))
