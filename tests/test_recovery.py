"""Recovery is 1 on a planted dictionary, equals naive search, and has its invariances."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory import isotropic_rows, match, recovery
from toymodels import stream

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
    scales = 10 ** (torch.rand(n_latents, 1, generator=generator, dtype=torch.float64) * 12 - 6)
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
