"""Recovery is 1 on a planted dictionary, chance on random latents, and has its invariances."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import betaincc

from theory import (
    expected_best_cosine_bound,
    isotropic_rows,
    match,
    recovery,
    recovery_chance,
    recovery_chance_bound,
    recovery_radius,
)
from toymodels import stream

ALPHA = 1e-10
seeds = st.integers(0, 2**32 - 1)
small_matrices = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4)).flatmap(
    lambda sizes: st.tuples(
        _integer_rows(sizes[0], sizes[2], zero_rows=False),
        _integer_rows(sizes[1], sizes[2], zero_rows=True),
    )
)


def _integer_rows(n, d, *, zero_rows):
    row = st.lists(st.integers(-3, 3), min_size=d, max_size=d)
    row = row if zero_rows else row.filter(any)
    rows = st.lists(row, min_size=n, max_size=n)
    return rows.map(lambda r: torch.tensor(r, dtype=torch.float64))


def _rows(n, d, seed, name):
    return isotropic_rows(n, d, generator=stream(seed, name), dtype=torch.float64)


def _naive_score(dictionary, W_dec, signed):
    """The definition by loops: try every injective map from features to latents or to nothing."""
    n, m = len(dictionary), len(W_dec)
    cosine = [[0.0] * (m + n) for _ in range(n)]  # n extra columns: "nothing", worth 0
    for i, j in itertools.product(range(n), range(m)):
        norms = dictionary[i].norm().item() * W_dec[j].norm().item()
        value = (dictionary[i] @ W_dec[j]).item() / norms if norms else 0.0
        cosine[i][j] = max(0.0, value) if signed else abs(value)
    options = itertools.permutations(range(m + n), n)
    return max(sum(cosine[i][j] for i, j in enumerate(chosen)) for chosen in options) / n


@given(small_matrices, st.booleans())
def test_score_equals_naive_search(matrices, signed):
    dictionary, W_dec = matrices[0][:3], matrices[1][:4]  # 7 columns, 3 rows: 210 maps
    found = recovery(dictionary, W_dec, signed=signed)
    assert abs(found.score - _naive_score(dictionary, W_dec, signed)) < 1e-12
    for i, j in enumerate(found.matching.tolist()):
        cosine = torch.cosine_similarity(dictionary[i], W_dec[j], dim=0).item() if j >= 0 else 0.0
        assert abs((cosine if signed else abs(cosine)) - found.cosines[i].item()) < 1e-12
    used = found.matching[found.matching >= 0]
    assert len(used) == len(used.unique())


def _ray(dictionary, W_dec):
    return recovery(dictionary, W_dec, signed=True).score


def _line(dictionary, W_dec):
    return recovery(dictionary, W_dec, signed=False).score


def _unclipped_ray(dictionary, W_dec):
    cosines = torch.nn.functional.normalize(dictionary) @ torch.nn.functional.normalize(W_dec).T
    matching = match(cosines)
    return cosines[torch.arange(len(matching)), matching][matching >= 0].sum().item() / len(
        matching
    )


def _row_maxima(dictionary, W_dec):
    return (torch.nn.functional.normalize(dictionary) @ W_dec.T).clamp(min=0).amax(1).mean().item()


def assert_invariant(score, dictionary, W_dec, extra, seed):
    """Permutation, positive scale, joint rotation, and no loss from adding latents."""
    generator = stream(seed, "transform")
    base, n_latents, d_in = score(dictionary, W_dec), *W_dec.shape
    shuffled = W_dec[torch.randperm(n_latents, generator=generator)]
    scales = torch.rand(n_latents, 1, generator=generator, dtype=torch.float64) * 9 + 0.1
    gaussian = torch.randn(d_in, d_in, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(gaussian).Q
    assert abs(score(dictionary, shuffled) - base) < 1e-9
    assert abs(score(dictionary, scales * W_dec) - base) < 1e-9
    assert abs(score(dictionary @ rotation, W_dec @ rotation) - base) < 1e-9
    assert score(dictionary, torch.cat([W_dec, extra])) > base - 1e-9


@given(small_matrices, seeds, st.booleans())
def test_invariances(matrices, seed, signed):
    dictionary, W_dec = matrices
    assert_invariant(_ray if signed else _line, dictionary, W_dec, -dictionary, seed)


@pytest.mark.parametrize("broken", [_unclipped_ray, _row_maxima])
def test_broken_scores_are_not_invariant(broken):
    """Unclipped: adding -d_2 to {d_1} lowers the score. Without unit latents: scale matters."""
    eye = torch.eye(2, dtype=torch.float64)
    with pytest.raises(AssertionError):
        assert_invariant(broken, eye, eye[:1], -eye[1:], 0)


@given(st.integers(1, 8), st.integers(1, 6), seeds)
def test_line_ignores_signs_and_ray_does_not(n, d, seed):
    dictionary = _rows(n, d, seed, "dictionary")
    flips = torch.where(torch.rand(n, 1, generator=stream(seed, "flips")) < 0.5, -1.0, 1.0)
    latents = flips.double() * dictionary
    assert recovery(dictionary, latents, signed=False).score == pytest.approx(1, abs=1e-12)
    assert recovery(dictionary, dictionary).score == pytest.approx(1, abs=1e-12)
    assert recovery(dictionary[:1], -dictionary[:1]).score == 0
    assert _ray(dictionary, latents) <= _line(dictionary, latents) + 1e-12


def test_planted_and_dead_latents():
    dictionary = _rows(20, 8, 0, "dictionary")
    order = torch.randperm(20, generator=stream(0, "order"))
    latents = torch.cat([torch.zeros(5, 8, dtype=torch.float64), 3 * dictionary[order]])
    found = recovery(dictionary, latents)
    assert found.score == pytest.approx(1, abs=1e-12)
    assert found.recovered.all()
    assert (found.matching - 5)[order].tolist() == list(range(20))
    few = recovery(dictionary, latents[:15])  # 10 live latents for 20 features
    assert few.recovered.sum() == 10
    dead = recovery(dictionary, torch.zeros(30, 8, dtype=torch.float64))
    assert (dead.score, dead.matching.unique().tolist()) == (0.0, [-1])


def assert_at_chance(n, m, d, signed, seed, chance):
    """Mean score of 16 fresh worlds against a mean of 16: each within McDiarmid's radius / 4.

    n = 64: radius .105 in all at alpha 1e-10; a chance level off by .21 is always caught.
    """
    draws = range(16)
    worlds = [(_rows(n, d, seed, f"D{i}"), _rows(m, d, seed, f"W{i}")) for i in draws]
    mean = sum(recovery(D, W, signed=signed).score for D, W in worlds) / len(worlds)
    radius = recovery_radius(16 * n, ALPHA / 2)
    assert abs(mean - chance) < 2 * radius
    assert mean < recovery_chance_bound(n, m, d, signed=signed) + radius


@given(st.integers(48, 96), st.integers(2, 20), st.booleans(), seeds)
def test_random_latents_score_at_chance(m, d, signed, seed):
    assert_at_chance(64, m, d, signed, seed, recovery_chance(64, m, d, signed=signed))


def test_chance_ignored_is_refuted():
    with pytest.raises(AssertionError):
        assert_at_chance(64, 64, 16, True, 0, chance=0.0)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.booleans(), seeds)
def test_chance_bound_holds_for_any_fixed_latents(n, m, d, signed, seed):
    """Latents fixed, here pairs of duplicates; features isotropic. Radius .85 / sqrt(n)."""
    W_dec = _rows(m, d, seed, "W")[torch.arange(m) // 2]
    scores = [recovery(_rows(n, d, seed, f"D{i}"), W_dec, signed=signed).score for i in range(16)]
    bound = recovery_chance_bound(n, m, d, signed=signed)
    assert sum(scores) / 16 <= bound + recovery_radius(16 * n, ALPHA)


@pytest.mark.parametrize(("d", "m"), [(2, 1), (3, 4), (16, 64), (64, 128), (64, 0.5), (500, 9000)])
def test_chance_bound_equals_its_integral(d, m):
    def integrand(t):
        return min(1.0, m * betaincc(0.5, (d - 1) / 2, t * t))

    pieces = [quad(integrand, i / 50, (i + 1) / 50)[0] for i in range(50)]
    assert abs(expected_best_cosine_bound(d, m) - sum(pieces)) < 1e-9
    assert sum(pieces) <= math.sqrt(2 * math.log(2 * m + 1) / d)


def test_published_values_and_few_latents():
    assert abs(recovery_chance_bound(32, 64, 16, signed=False) - 0.63) < 0.005
    assert abs(recovery_chance(32, 64, 16, signed=False) - 0.60) < 0.005
    assert abs(recovery_chance_bound(256, 256, 64) - 0.362) < 0.0005
    # One latent for 10 features is worth at most a tenth of the best of ten cosines.
    assert recovery_chance_bound(10, 1, 8) == expected_best_cosine_bound(8, 5.0) / 10


def test_significance_needs_more_than_chance():
    dictionary = _rows(128, 32, 0, "dictionary")
    assert recovery(dictionary, dictionary).exceeds_chance(ALPHA)
    assert not recovery(dictionary, _rows(256, 32, 0, "W")).exceeds_chance(ALPHA)
    assert not recovery(dictionary[:4], dictionary[:4]).exceeds_chance(
        ALPHA
    )  # 4 features: no power


def test_recovered_bound_holds_in_the_plane():
    """d_in = 2, one latent: |angle| < acos(.9) has probability 2 acos(.9) / (2 pi), exactly."""
    found = recovery(_rows(5, 2, 0, "D"), _rows(1, 2, 0, "W"))
    assert found.recovered_bound == pytest.approx(min(1, 5 * math.acos(0.9) / math.pi) / 5)


def test_no_global_randomness_and_unaffordable_chance():
    before = torch.get_rng_state()
    recovery_chance.cache_clear()
    found = recovery(_rows(3, 2, 0, "D").float(), _rows(4, 2, 0, "W").float())
    assert torch.equal(torch.get_rng_state(), before)
    assert found.chance == recovery(_rows(3, 2, 1, "D"), _rows(4, 2, 1, "W")).chance
    assert found.note == ""
    with pytest.raises(ValueError, match="recovery_chance: expected at most 4000000 pairs"):
        recovery_chance(5000, 1000, 4)
    large = recovery(torch.eye(2, 2), torch.eye(2, 2).repeat(2_000_001, 1))
    assert math.isnan(large.chance)
    assert "no chance" in large.note


@pytest.mark.parametrize(
    ("dictionary", "W_dec", "message"),
    [
        (torch.eye(3), torch.eye(4), r"got dictionary=\(3, 3\), W_dec=\(4, 4\)"),
        (torch.eye(3), torch.full((2, 3), math.nan), "expected finite numbers in W_dec"),
        (torch.zeros(2, 3), torch.eye(3), r"non-zero rows.*zero_rows=\[0, 1\]"),
        (torch.eye(3), torch.zeros(0, 3), r"W_dec=\(0, 3\)"),
    ],
)
def test_bad_input(unchecked, dictionary, W_dec, message):
    with pytest.raises(ValueError, match=message):
        recovery(dictionary, W_dec)
