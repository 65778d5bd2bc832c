"""Atomicity: against loops over supports, its floor and its null, invariances, bad input."""

import importlib
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory.atomicity import atomicity, atomicity_floor
from theory.isotropic import isotropic_fve_bound, isotropic_rows
from theory.statistics import hoeffding_radius
from toymodels import Dictionary, orthonormal, simplex, stream
from toymodels import strategies as tms

seeds = st.integers(0, 2**32 - 1)


def _isotropic(n, d, seed):
    return isotropic_rows(n, d, generator=stream(seed, "rows"), dtype=torch.float64)


def _loop(rows, k):
    """Each row's squared distance from the span of its best k others, by least squares."""
    unit = (rows / rows.norm(dim=1, keepdim=True)).numpy()
    residuals = []
    for i, row in enumerate(unit):
        best = 1.0
        for chosen in itertools.combinations([j for j in range(len(unit)) if j != i], k):
            basis = unit[list(chosen)].T
            left = row - basis @ np.linalg.lstsq(basis, row, rcond=1e-10)[0]
            best = min(best, float(left @ left))
        residuals.append(best)
    return torch.tensor(residuals, dtype=torch.float64)


@given(st.integers(2, 6), st.integers(1, 4), seeds, st.data())
def test_exact_values_equal_a_loop_over_supports(n, d, seed, data):
    k = data.draw(st.integers(1, n - 1))
    rows = torch.randint(-2, 3, (n, d), generator=stream(seed, "rows")).double()
    rows[rows.norm(dim=1) == 0] = 1.0  # duplicates stay, zero rows do not
    found = atomicity(rows, k)
    assert found.exact
    assert torch.allclose(found.residuals, _loop(rows, k), atol=1e-9)


@given(tms.dictionaries(), st.integers(1, 4))
def test_certificate_below_value_below_greedy(dictionary, k):
    rows = dictionary.vectors[:9]
    k = min(k, len(rows) - 1)
    if k < 1:
        return
    found = atomicity(rows, k)
    assert bool((found.certificate <= found.residuals + 1e-9).all())
    assert bool((found.residuals <= found.greedy + 1e-9).all())
    floor = atomicity_floor(Dictionary(rows).coherence(), k)
    assert bool((found.certificate >= floor - 1e-9).all())


def test_greedy_is_not_the_value_and_the_value_not_the_certificate():
    """A row that OMP codes in two rows, though two others of them do it exactly."""
    rows = torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 1, 0], [1, 0.9, 0.3]], dtype=torch.float64)
    found = atomicity(rows, 2)
    assert float(found.residuals[0]) == pytest.approx(0, abs=1e-12)
    assert float(found.greedy[0]) > 1e-3
    assert float(found.certificate[0]) == 0


def test_beyond_full_search_the_greedy_bound_stands_in(monkeypatch):
    rows = _isotropic(8, 4, 0)
    exact = atomicity(rows, 3)
    # By its name the package gives the function, not the file.
    monkeypatch.setattr(importlib.import_module("theory.atomicity"), "MAX_SUPPORTS", 10)
    found = atomicity(rows, 3)
    assert not found.exact
    assert torch.equal(found.residuals, found.greedy)
    assert float((found.residuals - exact.residuals).max()) > 1e-3


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("mu", [0.05, 0.15])
def test_floor_is_attained(k, mu):
    """One row at cosine mu to k others, which have -mu to each other; then k mu^2 / (1-(k-1)mu)."""
    gram = torch.full((k + 1, k + 1), -mu, dtype=torch.float64)
    gram[0], gram[:, 0] = mu, mu
    rows = torch.linalg.cholesky(gram.fill_diagonal_(1.0))
    assert float(atomicity(rows, k).residuals[0]) == pytest.approx(atomicity_floor(mu, k))
    assert k == 1 or atomicity_floor(mu, k) < 1 - k * mu**2  # the twin without the denominator


def test_floor_at_the_ends():
    assert atomicity_floor(0.0, 7) == 1.0
    assert atomicity_floor(0.7, 0) == 1.0
    assert atomicity_floor(1.0, 1) == 0.0
    assert atomicity_floor(0.6, 3) == 0.0


def test_planted_composites_and_atoms():
    atoms = orthonormal(6, 8, generator=stream(0, "atoms"), dtype=torch.float64).vectors
    composites = torch.stack([atoms[0] + 2 * atoms[1], atoms[2] - atoms[3]])
    found = atomicity(torch.cat([atoms, composites]), 2)
    # A composite and all but one of its atoms compose the last one: only the other two are atoms.
    assert torch.allclose(found.residuals[[4, 5]], torch.ones(2).double())
    assert float(found.residuals[[0, 1, 2, 3, 6, 7]].max()) < 1e-12
    assert float(atomicity(atoms, 3).certificate.min()) == 1.0


def test_limits():
    assert float(atomicity(_isotropic(6, 3, 0), 3).residuals.max()) < 1e-9  # k >= d_in
    twice = torch.cat([_isotropic(3, 5, 0), -_isotropic(3, 5, 0)])
    assert float(atomicity(twice, 1).residuals.max()) < 1e-9  # opposite rows are copies
    corners = simplex(5, dtype=torch.float64).vectors
    assert torch.allclose(atomicity(corners, 1).residuals, torch.full((5,), 1 - 1 / 16).double())
    assert float(atomicity(corners, 4).residuals.max()) < 1e-9


@pytest.mark.parametrize(("d", "n", "k"), [(4, 5, 1), (6, 9, 2), (12, 10, 3)])
def test_isotropic_rows_score_at_least_the_null(d, n, k):
    """One row of each of 600 dictionaries: Hoeffding radius .14 at 1e-10; what the bound is worth
    is printed by the second assertion: it is no further from the level than .2."""
    draws = isotropic_rows(600, n, d, generator=stream(0, "null"), dtype=torch.float64)
    values = [float(1 - _r2(rows[0], rows[1:], k)) for rows in draws]
    null = atomicity(draws[0], k).null
    mean, radius = sum(values) / 600, hoeffding_radius(600, 1.0, 1e-10)
    assert null == 1 - isotropic_fve_bound(d, n - 1, k)
    assert mean >= null - radius
    assert mean <= null + 0.2 + radius
    assert mean < 1 - k / d + radius  # and every k rows explain their share of any direction


def _r2(row, others, k):
    best = 0.0
    for chosen in itertools.combinations(range(len(others)), k):
        q = torch.linalg.qr(others[list(chosen)].T).Q
        best = max(best, float((q.T @ row).square().sum()))
    return best


@given(seeds, st.permutations(range(5)))
def test_signs_scales_order_and_rotations_do_not_matter(seed, order):
    rows = _isotropic(5, 4, seed)
    generator = stream(seed, "transformation")
    scales = 10 ** torch.randn(5, 1, generator=generator, dtype=torch.float64)
    signs = torch.randint(0, 2, (5, 1), generator=generator) * 2 - 1
    rotation = orthonormal(4, 4, generator=generator, dtype=torch.float64).vectors
    base, moved = atomicity(rows, 2), atomicity((signs * scales * rows @ rotation)[order], 2)
    for name in ("residuals", "certificate", "greedy"):
        assert torch.allclose(getattr(moved, name), getattr(base, name)[order])


@pytest.mark.parametrize(
    ("rows", "k", "message"),
    [
        (torch.zeros(3, 2), 1, "non-zero rows"),
        (torch.eye(3) * math.nan, 1, "finite numbers in rows"),
        (torch.eye(3), 3, r"1 <= k <= 2 \(n_rows - 1\)"),
        (torch.eye(3), 0, r"1 <= k <= 2 \(n_rows - 1\)"),
        (torch.eye(1), 1, r"1 <= k <= 0"),
        (torch.ones(3), 1, r"rows .n, d_in."),
        (torch.ones(0, 3), 1, r"rows .n, d_in."),
    ],
)
def test_bad_input_is_one_clear_error(rows, k, message, unchecked):
    with pytest.raises(ValueError, match=f"atomicity: expected {message}") as error:
        atomicity(rows, k)
    assert "\n" not in str(error.value)
