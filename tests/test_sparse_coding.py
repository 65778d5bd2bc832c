"""Sparse codes: greedy against exhaustive search, non-negative refits, degenerate atoms."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory import best_support, isotropic_rows, omp, r_squared
from theory.nonnegative import nonnegative_least_squares as nnls
from toymodels import stream

seeds = st.integers(0, 2**32 - 1)
problems = st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 5), seeds)


def _problem(n, m, d, seed):
    """Small integer targets and atoms: duplicates, dependent and zero rows are all common."""
    generator = stream(seed, "problem")
    shapes = ((n, d), (m, d))
    return tuple(torch.randint(-2, 3, s, generator=generator).double() for s in shapes)


def _random(n, m, d, seed):
    generator = stream(seed, "random")
    targets = isotropic_rows(n, d, generator=generator, dtype=torch.float64)
    return targets, isotropic_rows(m, d, generator=generator, dtype=torch.float64)


def _naive_omp(target, atoms, k, nonnegative):
    """One target, by loops; valid where no ties and no removals occur."""
    chosen, residual, solution = [], target.copy(), np.zeros(0)
    for _ in range(k):
        cosines = atoms @ residual / np.linalg.norm(atoms, axis=1)
        cosines = cosines if nonnegative else np.abs(cosines)
        cosines[chosen] = -np.inf
        if np.linalg.norm(residual) < 1e-9 or cosines.max() < 1e-6 * np.linalg.norm(residual):
            break
        chosen.append(int(cosines.argmax()))
        basis = atoms[chosen].T
        solution = np.linalg.lstsq(basis, target)[0]
        if nonnegative:
            solution, _ = nnls(basis, target)
            chosen = [j for j, c in zip(chosen, solution, strict=True) if c > 0]
            solution = solution[solution > 0]
        residual = target - atoms[chosen].T @ solution
    code = np.zeros(len(atoms))
    code[chosen] = solution
    return code


@given(st.integers(1, 5), st.integers(1, 12), st.integers(1, 8), seeds, st.booleans(), st.data())
def test_omp_equals_its_loop(n, m, d, seed, nonnegative, data):
    targets, atoms = _random(n, m, d, seed)
    k = data.draw(st.integers(1, min(m, d)))
    codes = omp(targets, atoms * 3, k, nonnegative=nonnegative)
    expected = [_naive_omp(t, 3 * atoms.numpy(), k, nonnegative) for t in targets.numpy()]
    assert (codes - torch.from_numpy(np.stack(expected))).abs().max() < 1e-7


@given(problems, st.booleans(), st.data())
def test_omp_on_degenerate_problems(sizes, nonnegative, data):
    """Sparse, feasible, optimal on its own support, and never better than the exhaustive search."""
    targets, atoms = _problem(*sizes)
    k = data.draw(st.integers(1, len(atoms)))
    codes = omp(targets, atoms, k, nonnegative=nonnegative)
    residual = targets - codes @ atoms
    used = codes != 0
    assert used.sum(1).max() <= k
    assert (codes[:, atoms.norm(dim=1) == 0] == 0).all()
    assert ((residual @ atoms.T) * used).abs().max() < 1e-8
    if nonnegative:
        assert codes.min() >= 0
    live = targets.norm(dim=1) > 0
    assert (codes[~live] == 0).all()
    if live.any():
        best = best_support(targets[live], atoms, k).r_squared
        assert (r_squared(targets[live], (codes @ atoms)[live]) <= best + 1e-9).all()


@given(problems, st.data())
def test_best_support_equals_naive_search(sizes, data):
    targets, atoms = _problem(*sizes)
    targets = targets + 0.5  # no integer row becomes zero
    k = data.draw(st.integers(1, len(atoms)))
    found = best_support(targets, atoms, k)
    for i, u in enumerate(targets):
        values = {}
        for support in itertools.combinations(range(len(atoms)), k):
            basis = atoms[list(support)]
            projected = u @ torch.linalg.pinv(basis, rtol=1e-10) @ basis
            values[support] = (projected @ projected / (u @ u)).item()
        assert abs(max(values.values()) - found.r_squared[i].item()) < 1e-9
        assert abs(values[tuple(found.support[i].tolist())] - found.r_squared[i].item()) < 1e-9


def test_best_support_among_more_supports_than_one_block():
    """C(14, 3) = 364 supports are searched in two blocks; the planted ones lie in either."""
    _, atoms = _random(1, 14, 6, 0)
    planted = torch.tensor([[0, 1, 2], [3, 7, 9], [11, 12, 13]])
    found = best_support(atoms[planted].sum(1), atoms, 3)
    assert found.support.tolist() == planted.tolist()
    assert found.r_squared.min() > 1 - 1e-12


def test_duplicate_atoms_span_one_direction():
    """Three copies of e_1 explain a third of (1, 1, 1), whatever k."""
    atoms, target = torch.eye(3)[[0, 0, 0]], torch.ones(1, 3)
    for k in (1, 2, 3):
        assert best_support(target, atoms, k).r_squared.item() == pytest.approx(1 / 3, abs=1e-6)
        assert (omp(target, atoms, k) != 0).sum() == 1


def test_planted_codes_are_recovered():
    """[I, H/8] in 64 dimensions has coherence 1/8 < 1/(2k - 1) for k = 4, where omp is exact."""
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(6):
        hadamard = torch.cat(
            [torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)]
        )
    atoms = torch.cat([torch.eye(64, dtype=torch.float64), hadamard / 8])
    generator = stream(0, "codes")
    support = torch.rand(200, 128, generator=generator).argsort(1)[:, :4]
    values = torch.rand(200, 4, generator=generator, dtype=torch.float64) + 0.1
    codes = torch.zeros(200, 128, dtype=torch.float64).scatter_(1, support, values)
    for k, nonnegative in itertools.product((4, 6), (False, True)):
        found = omp(codes @ atoms, atoms, k, nonnegative=nonnegative)
        assert (found - codes).abs().max() < 1e-10  # k = 6: targets already explained stop early
    assert (omp((codes @ atoms).float(), atoms.float(), 4) - codes).abs().max() < 1e-6
    # One step less cannot explain four atoms: the smallest is at least .1 of the norm's 4.4.
    assert r_squared(codes @ atoms, omp(codes @ atoms, atoms, 3) @ atoms).max() < 1 - 1e-4


def test_nonnegative_codes_by_hand():
    """Target (1, .3): (1, 0) is picked first and (1, .9) joins it; signed and non-negative agree.

    Target (1, -.1): (1, .9) would need a negative coefficient and is never added.
    """
    atoms = torch.tensor([[1.0, 0.9], [1.0, 0.0]], dtype=torch.float64)
    targets = torch.tensor([[1.0, 0.3], [1.0, -0.1]], dtype=torch.float64)
    codes = omp(targets, atoms, 2, nonnegative=True)
    assert torch.allclose(codes, torch.tensor([[1 / 3, 2 / 3], [0, 1.0]], dtype=torch.float64))
    signed = omp(targets, atoms, 2)
    assert (signed @ atoms - targets).abs().max() < 1e-12
    assert signed[1, 0] < 0


def test_nonnegative_refit_reaches_the_nnls_optimum():
    """With no limit on k the active-set method ends at the optimum, removing atoms on the way."""
    targets, atoms = _random(500, 12, 6, 0)
    codes = omp(targets, atoms, 12, nonnegative=True)
    distances = (targets - codes @ atoms).norm(dim=1)
    optima = torch.from_numpy(np.array([nnls(atoms.T.numpy(), t)[1] for t in targets.numpy()]))
    assert (distances - optima).abs().max() < 1e-8
    # Clipping a signed code instead of removing atoms is not good enough.
    clipped = omp(targets, atoms, 6).clamp(min=0)
    assert ((targets - clipped @ atoms).norm(dim=1) > optima + 0.1).any()


@pytest.mark.parametrize(("m", "d"), [(12, 6), (30, 12)])
def test_more_atoms_never_explain_less(m, d):
    """The walk to the boundary makes each non-negative step an improvement, removals included."""
    targets, atoms = _random(500, m, d, 0)
    codes = [omp(targets, atoms, k, nonnegative=True) for k in range(1, 13)]
    explained = torch.stack([r_squared(targets, c @ atoms) for c in codes])
    assert explained.diff(dim=0).min() > -1e-12


def test_nearly_equal_atoms_stay_accurate():
    """Atoms at angle 1e-4: a Gram matrix of condition 1e8, solved to 1e-10 after refinement."""
    atoms = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1e-4, 0.0]], dtype=torch.float64)
    target = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
    codes = omp(target, atoms, 2)
    assert (codes @ atoms - target).abs().max() < 1e-10
    assert (codes != 0).all()


def test_float32_and_r_squared_extremes():
    targets, atoms = _random(5, 9, 4, 0)
    assert omp(targets.float(), atoms.float(), 2).dtype == torch.float32
    assert r_squared(targets, targets).tolist() == [1] * 5
    assert r_squared(targets, torch.zeros_like(targets)).tolist() == [0] * 5
    assert r_squared(targets, 3 * targets).sum().item() == pytest.approx(-15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: omp(torch.ones(2, 3), torch.eye(3), 4), r"omp: expected 1 <= k <= 3.*got k=4"),
        (lambda: omp(torch.ones(2, 3), torch.eye(3), 0), "got k=0"),
        (lambda: omp(torch.ones(2, 3), torch.eye(4), 1), r"targets=\(2, 3\), atoms=\(4, 4\)"),
        (lambda: omp(torch.ones(2, 3) / 0, torch.eye(3), 1), r"targets\[0, 0\]=inf"),
        (lambda: best_support(torch.ones(1, 30), torch.eye(30), 4), "n_supports=27405; use omp"),
        (lambda: best_support(torch.zeros(1, 3), torch.eye(3), 1), "non-zero targets"),
        (lambda: r_squared(torch.zeros(1, 3), torch.ones(1, 3)), "non-zero targets"),
        (lambda: r_squared(torch.ones(1, 3), torch.ones(2, 3)), "equal shapes"),
        (lambda: omp(torch.ones(1, 2), torch.tensor([[math.nan, 0.0]]), 1), r"atoms\[0, 0\]=nan"),
    ],
)
def test_bad_input(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()
