"""The spectrum-matched null: what it matches, what it sees, and what it must not see."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from theory import (
    fve,
    isotropic_rows,
    isotropic_surrogates,
    omp,
    spectrum_null,
    spectrum_surrogates,
)
from toymodels import stream

seeds = st.integers(0, 2**32 - 1)


def rows_of(*shape, seed, name="rows"):
    return isotropic_rows(*shape, generator=stream(seed, name), dtype=torch.float64)


def uneven(n, d, seed):
    """Unit rows whose directions are far from isotropic."""
    return torch.nn.functional.normalize(rows_of(n, d, seed=seed) / torch.arange(1, d + 1), dim=1)


def principal(rows):
    """A recipe that sees nothing but the spectrum: two principal directions."""
    spectrum = torch.linalg.svdvals(rows).square()
    return float(spectrum[:2].sum() / spectrum.sum())


@given(st.integers(3, 12), st.integers(2, 5), seeds)
@example(3, 2, 71)  # 200 rounds leave 2 %
def test_lengths_and_second_moment_are_matched(n, d, seed):
    """Lengths exactly. Moments to 1 %: projections between the two sets may converge slowly."""
    lengths = torch.rand(n, 1, generator=stream(seed, "lengths"), dtype=torch.float64) + 0.5
    rows = lengths * uneven(n, d, seed)
    drawn = spectrum_surrogates(rows, 8, generator=stream(seed, "null"))
    assert torch.allclose(drawn.norm(dim=2), lengths.T.expand(8, n), rtol=1e-9)
    moment = rows.T @ rows
    assert (drawn.mT @ drawn - moment).norm(dim=(1, 2)).max() < 0.01 * moment.norm()
    assert (drawn - drawn[0]).abs().max() > 1e-3  # and random otherwise


@pytest.mark.parametrize(("n", "d"), [(24, 6), (40, 8)])
def test_a_spectral_recipe_scores_its_null(n, d):
    rows = uneven(n, d, 0)
    found = spectrum_null(rows, principal, generator=stream(0, "null"))
    assert found.score == pytest.approx(found.null, abs=1e-3)
    assert found.p_value == 1
    isotropic = [principal(s) for s in isotropic_surrogates(n, d, 19, generator=stream(0, "i"))]
    assert found.score > max(isotropic) + 0.05  # which isotropic rows would call an excess
    flat = spectrum_surrogates(rows, 8, generator=stream(0, "null"))
    assert abs(principal(flat[0]) - principal(rows)) < 1e-3


def sparse(rows):
    """A recipe that sees composition: copy the first eight rows, code all with two of them."""
    return fve(rows, omp(rows, rows[:8], 2) @ rows[:8])


def test_composition_is_seen_and_spectrum_is_not():
    atoms = torch.nn.functional.normalize(rows_of(8, 16, seed=0) / torch.arange(1, 17), dim=1)
    pairs = [atoms[i] + atoms[j] for i in range(8) for j in range(i)]
    composed = torch.nn.functional.normalize(torch.cat([atoms, torch.stack(pairs)]), dim=1)
    found = spectrum_null(composed, sparse, generator=stream(0, "null"))
    assert (found.score, found.p_value) == (pytest.approx(0.99, abs=0.01), 1 / 20)
    assert found.excess > 0.05
    plain = uneven(36, 16, 1)
    unstructured = spectrum_null(plain, sparse, generator=stream(0, "null"))
    assert unstructured.p_value > 1 / 20
    assert abs(unstructured.excess) < found.excess


def test_rank_zero_rows_and_orthonormal_rows():
    plane = rows_of(10, 2, seed=0) @ rows_of(2, 6, seed=1)
    plane[3] = 0
    drawn = spectrum_surrogates(plane, 8, generator=stream(0, "null"))
    assert all(int(torch.linalg.matrix_rank(s, rtol=1e-9)) == 2 for s in drawn)
    assert torch.linalg.matrix_rank(torch.cat([plane, drawn.flatten(0, 1)]), rtol=1e-9) == 2
    assert not drawn[:, 3].any()
    turned = spectrum_surrogates(torch.eye(4).double(), 8, generator=stream(0, "null"))
    assert torch.allclose(turned @ turned.mT, torch.eye(4).double().expand(8, 4, 4), atol=1e-4)
    twins = spectrum_surrogates(torch.eye(3)[[0, 0, 0]], 8, generator=stream(0, "null"))
    assert twins.dtype == torch.float32
    assert torch.allclose(twins.abs(), torch.eye(3)[[0, 0, 0]].expand(8, 3, 3), atol=1e-6)


def test_bad_recipe_and_input(unchecked):
    eye, g = torch.eye(3), stream(0, "null")
    with pytest.raises(ValueError, match="finite numbers in null_fves"):
        spectrum_null(eye, lambda rows: math.nan, generator=g)
    with pytest.raises(ValueError, match="n_surrogates >= 8, got got=7"):
        spectrum_null(eye, principal, n_surrogates=7, generator=g)
    for rows, message in (
        (0 * eye, "not all zero"),
        (eye * math.nan, "finite numbers in rows"),
        (eye[0], r"rows=\(3,\)"),
        (eye[:0], r"rows=\(0, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            spectrum_surrogates(rows, 8, generator=g)
