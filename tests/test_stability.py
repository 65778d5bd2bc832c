"""Stability against brute force over matchings, its chance level, and its limits."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory import isotropic_rows, recovery, stability
from toymodels import stream

seeds = st.integers(0, 2**32 - 1)


def rows_of(*shape, seed, name="rows"):
    return isotropic_rows(*shape, generator=stream(seed, name), dtype=torch.float64)


def naive(a, b, signed):
    """Best total over all injective maps of the smaller into the larger, over the larger's size."""
    small, large = sorted((a, b), key=len)
    near = small @ large.T
    near = near.clamp(min=0) if signed else near.abs()
    maps = itertools.permutations(range(len(large)), len(small))
    return max(sum(float(near[i, j]) for i, j in enumerate(m)) for m in maps) / len(large)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=3), st.integers(1, 4), st.booleans(), seeds)
def test_equals_brute_force(sizes, d, signed, seed):
    decoders = [rows_of(n, d, seed=seed, name=f"W{i}") for i, n in enumerate(sizes)]
    found = stability([2 * w for w in decoders], signed=signed)
    pairs = list(itertools.combinations(range(len(sizes)), 2))
    for a, b in pairs:
        expected = naive(decoders[a], decoders[b], signed)
        assert abs(found.pairwise[a, b] - expected) < 1e-12
        assert found.pairwise[a, b] == found.pairwise[b, a]
    assert found.score == pytest.approx(
        sum(found.pairwise[a, b].item() for a, b in pairs) / len(pairs)
    )
    cosines = [
        float(decoders[a][j] @ decoders[b][j])
        for a, b in pairs
        for j in range(min(sizes[a], sizes[b]))
    ]
    kept = [max(0.0, c) if signed else abs(c) for c in cosines]
    assert found.by_index == pytest.approx(sum(kept) / len(kept), abs=1e-12)


def test_planted_reordered_and_unrelated():
    rows = rows_of(64, 32, seed=0)
    order = torch.randperm(64, generator=stream(0, "order"))
    same = stability([rows, 3 * rows[order], rows])
    assert same.score == pytest.approx(1)
    assert same.by_index < 0.6  # two of three pairs are out of order
    assert same.exceeds_chance(1e-10)
    assert stability([rows, 2 * rows]).by_index == pytest.approx(1)
    assert stability([rows, -rows], signed=False).score == pytest.approx(1)
    assert stability([rows, -rows]).score < 0.7
    unrelated = stability([rows, rows_of(64, 32, seed=1)])
    assert abs(unrelated.score - unrelated.chance) < 0.1
    assert not unrelated.exceeds_chance(1e-2)
    # Half of the latents shared: half of the rest is chance.
    half = stability([rows, torch.cat([rows[:32], rows_of(32, 32, seed=2)])])
    assert unrelated.score + 0.2 < half.score < 0.9


def test_chance_is_that_of_recovery_and_influence_that_of_mcdiarmid():
    decoders = [rows_of(n, 6, seed=n) for n in (5, 9, 9)]
    found = stability(decoders)
    pairs = [(9, 5), (9, 5), (9, 9)]
    chances = [recovery(rows_of(n, 6, seed=0), rows_of(m, 6, seed=1)) for n, m in pairs]
    assert found.chance == pytest.approx(sum(c.chance for c in chances) / 3)
    assert found.chance_bound == pytest.approx(sum(c.chance_bound for c in chances) / 3)
    # Each latent of any decoder is in two pairs, each divided by 9 latents and by 3 pairs.
    assert found.influence == pytest.approx(23 * (2 / 9 / 3) ** 2)
    equal = stability([rows_of(7, 6, seed=i) for i in range(4)])
    assert equal.influence == pytest.approx(4 / (4 * 7))


@given(st.integers(0, 4), seeds)
def test_no_latent_has_more_influence(i, seed):
    decoders = [rows_of(5, 3, seed=seed, name=f"W{s}") for s in range(3)]
    other = [w.clone() for w in decoders]
    other[1][i] = -decoders[1][i]
    change = abs(stability(decoders).score - stability(other).score)
    assert change <= 2 / 5 / 3 + 1e-12


def test_dead_latents_and_one_dimension():
    rows = rows_of(6, 4, seed=0)
    dead = torch.zeros(3, 4, dtype=torch.float64)
    found = stability([torch.cat([dead, rows]), torch.cat([rows, dead])])
    assert found.score == pytest.approx(1)
    assert found.chance == stability([rows, rows]).chance
    assert math.isnan(stability([torch.cat([dead, rows[:1]]), rows[:3]]).by_index)
    line = stability([torch.ones(1, 1), -torch.ones(1, 1)])
    assert (line.score, line.by_index, line.by_index_chance) == (0, 0, 0.5)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("d", [2, 3, 16])
def test_by_index_chance_is_a_mean_of_cosines(d, signed):
    """20,000 pairs of latents, Hoeffding at 1e-10: radius .024."""
    first, second = rows_of(2, 20_000, d, seed=d)
    cosines = (first * second).sum(1)
    mean = (cosines.clamp(min=0) if signed else cosines.abs()).mean().item()
    chance = stability([first[:2], second[:2]], signed=signed).by_index_chance
    assert abs(mean - chance) < math.sqrt(math.log(2e10) / 40_000)


EYE = torch.eye(3)


@pytest.mark.parametrize(
    ("decoders", "message"),
    [
        ([EYE], "two decoders or more, got n_decoders=1"),
        ([EYE, EYE[:, :2]], r"shapes=\[\(3, 3\), \(3, 2\)\]"),
        ([EYE, 0 * EYE], r"a live latent in each decoder, got n_live=\[3, 0\]"),
        ([EYE, EYE[:0]], r"n_live=\[3, 0\]"),
        ([EYE, EYE * math.nan], "finite numbers in decoder_1"),
    ],
)
def test_bad_input(unchecked, decoders, message):
    with pytest.raises(ValueError, match=message):
        stability(decoders)


def test_bad_level(unchecked):
    with pytest.raises(ValueError, match="0 < alpha < 1"):
        stability([EYE, EYE]).exceeds_chance(0.0)
