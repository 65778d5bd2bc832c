"""Nearest neighbours and their exact p-values, against sorting, simulation and broken twins."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import comb

from theory.isotropic import isotropic_rows
from theory.nearest import nearest, neighbour_p_values
from theory.statistics import dkw_radius
from toymodels import stream

ALPHA = 1e-10
N = 2000
seeds = st.integers(0, 2**32 - 1)


def rows_of(*shape, seed, name="rows"):
    return isotropic_rows(*shape, generator=stream(seed, name), dtype=torch.float64)


def density_tail(c, d, signed):
    """Pr[cos >= c] by integrating the density of one coordinate, (1 - t^2)^((d - 3)/2)."""
    total = quad(lambda a: math.sin(a) ** (d - 2), 0, math.pi)[0]
    ray = quad(lambda a: math.sin(a) ** (d - 2), 0, math.acos(c))[0] / total
    if signed:
        return ray
    return 2 * min(ray, quad(lambda a: math.sin(a) ** (d - 2), 0, math.acos(abs(c)))[0] / total)


def at_least(j, n, q):
    return sum(comb(n, i) * q**i * (1 - q) ** (n - i) for i in range(j, n + 1))


@given(st.integers(2, 8), st.integers(1, 7), st.booleans(), seeds)
def test_neighbours_equal_sorting_and_counting(d, n_rows, signed, seed):
    direction = rows_of(1, d, seed=seed, name="direction")[0]
    rows = 3 * rows_of(n_rows, d, seed=seed)
    found = nearest(direction, rows, n=3, signed=signed)
    cosines = [float(direction @ row / row.norm()) for row in rows]
    order = sorted(range(n_rows), key=lambda i: -(cosines[i] if signed else abs(cosines[i])))[:3]
    assert found.rows.tolist() == order
    assert found.cosines.tolist() == pytest.approx([cosines[i] for i in order], abs=1e-12)
    assert found.n_candidates == n_rows
    for j, (i, p) in enumerate(zip(order, found.p_values.tolist(), strict=True), start=1):
        q = density_tail(cosines[i], d, signed)
        assert p == pytest.approx(at_least(j, n_rows, q), abs=1e-7)


def deviation(p_values):
    """The largest distance between the empirical distribution and the uniform one."""
    ordered = p_values.sort().values
    ranks = torch.arange(len(ordered) + 1, dtype=ordered.dtype) / len(ordered)
    return max((ranks[1:] - ordered).max().item(), (ordered - ranks[:-1]).max().item())


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("n_rows", "d"), [(1, 2), (7, 3), (40, 16)])
def test_each_p_value_is_uniform(n_rows, d, signed):
    """DKW at 1e-10, 2,000 worlds, radius .077: a deviation of .154 is always caught."""
    cosines = rows_of(N, n_rows, d, seed=n_rows)[:, :, 0]
    near = (cosines if signed else cosines.abs()).topk(min(3, n_rows), dim=1).values
    for column in neighbour_p_values(near, n_rows, d, signed=signed).T:
        assert deviation(column) <= dkw_radius(N, ALPHA)


@pytest.mark.parametrize(
    "broken",
    [
        lambda near: neighbour_p_values(near, 1, 3),  # one candidate instead of seven
        lambda near: neighbour_p_values(near, 7, 3, signed=False),  # lines instead of rays
        lambda near: neighbour_p_values(near, 7, 6),  # another dimension
        lambda near: neighbour_p_values(near, 7, 3) / 2,
    ],
)
def test_broken_p_values_are_not_uniform(broken):
    near = rows_of(N, 7, 3, seed=7)[:, :, :1].amax(1)
    assert deviation(broken(near)[:, 0]) > dkw_radius(N, ALPHA)


def test_p_values_stay_uniform_where_copies_are_set_aside():
    """600 worlds of up to five rows below cosine .5, DKW at 1e-10: radius .141.

    The twin is not told that the nearer ones were removed.
    """
    told, untold = [], []
    axis = torch.eye(4, dtype=torch.float64)[0]
    for rows in rows_of(700, 5, 4, seed=3):
        if bool((rows[:, 0].abs() >= 0.5).all()):
            continue
        found = nearest(axis, rows, n=1, signed=False, copies_above=0.5)
        assert found.n_candidates + len(found.copies) == 5
        assert bool((rows[found.copies, 0].abs() >= 0.5).all())
        near, left = found.cosines.abs(), found.n_candidates
        told.append(found.p_values)
        untold.append(neighbour_p_values(near, left, 4, signed=False))
    radius = dkw_radius(600, ALPHA)
    assert deviation(torch.cat(told)[:600]) <= radius < deviation(torch.cat(untold)[:600])


def test_one_dimension_is_super_uniform():
    near = rows_of(N, 3, 1, seed=0)[:, :, 0].amax(1, keepdim=True)
    p = neighbour_p_values(near, 3, 1)[:, 0]
    assert sorted(set(p.tolist())) == pytest.approx([1 - 1 / 8, 1.0])
    assert bool((neighbour_p_values(near.abs(), 3, 1, signed=False) == 1).all())


def test_signs_exclusions_and_copies():
    rows = torch.tensor([[1.0, 0.0, 0.0], [-0.8, 0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 2.0]])
    axis = rows[0]
    assert nearest(axis, rows, n=2).rows.tolist() == [0, 2]
    lines = nearest(axis, rows, n=3, signed=False)
    assert lines.rows.tolist() == [0, 1, 2]
    assert lines.cosines.tolist() == pytest.approx([1, -0.8, 0.6])
    alone = nearest(axis, rows, n=1, exclude=[0])
    assert (alone.rows.tolist(), alone.n_candidates) == ([2], 3)
    away = nearest(axis, rows, n=1, signed=False, copies_above=0.7)
    assert (away.rows.tolist(), away.copies.tolist()) == ([2], [0, 1])
    assert nearest(rows[1], 7 * rows, copies_above=1.0).copies.tolist() == [1]
    assert nearest(axis, rows, n=9).rows.tolist() == [0, 2, 3, 1]
    # An equal mixture of four orthonormal atoms is the nearest row of each, at cosine 1/2.
    atoms = torch.eye(64, dtype=torch.float64)
    library = torch.cat([atoms[:4].sum(0, keepdim=True), atoms[8:] - atoms[:1]])
    found = nearest(atoms[0], library, n=1)
    assert (found.rows.tolist(), found.cosines.tolist()) == ([0], [0.5])
    assert found.p_values.item() < 0.01


@given(seeds)
def test_scale_order_and_rotation_do_not_matter(seed):
    direction, rows = rows_of(1, 5, seed=seed, name="u")[0], rows_of(6, 5, seed=seed)
    base = nearest(direction, rows, n=6)
    order = torch.randperm(6, generator=stream(seed, "order"))
    turn = torch.linalg.qr(rows_of(5, 5, seed=seed, name="turn")).Q
    other = nearest(1e3 * direction @ turn, 1e-3 * rows[order] @ turn, n=6)
    assert order[other.rows].tolist() == base.rows.tolist()
    assert torch.allclose(other.p_values, base.p_values, atol=1e-9)


def test_far_tail_is_accurate():
    """In d = 3 a ray has q = (1 - c)/2 exactly, and N q is the limit of p."""
    for gap in (1e-3, 1e-6, 1e-9):
        c = torch.tensor([1 - gap], dtype=torch.float64)
        assert neighbour_p_values(c, 10, 3).item() == pytest.approx(5 * gap, rel=5e-3)


EYE = torch.eye(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nearest(EYE[0], EYE[:, :2]), r"rows \[n_rows, d_in\].*rows=\(3, 2\)"),
        (lambda: nearest(EYE, EYE), r"direction=\(3, 3\)"),
        (lambda: nearest(EYE[0], EYE[:0]), r"rows=\(0, 3\)"),
        (lambda: nearest(0 * EYE[0], EYE), "a non-zero direction"),
        (lambda: nearest(EYE[0], EYE * torch.tensor([[1.0], [0.0], [1.0]])), r"zero_rows=\[1\]"),
        (lambda: nearest(EYE[0] * math.inf, EYE), "finite numbers in direction"),
        (lambda: nearest(EYE[0], EYE, n=0), "n >= 1"),
        (lambda: nearest(EYE[0], EYE, exclude=[3]), r"\[0, 3\) in exclude, got outside=\[3\]"),
        (lambda: nearest(EYE[0], EYE, exclude=[0, 1, 2]), "a row that is not excluded"),
        (lambda: nearest(EYE[0], EYE[:1], copies_above=0.9), "a row that is not a copy"),
        (lambda: nearest(EYE[0], EYE, copies_above=0.0), "copies_above in"),
        (lambda: neighbour_p_values(torch.tensor([0.5, 0.4]), 1, 3), "at most 1"),
        (lambda: neighbour_p_values(torch.tensor([0.5]), 1, 0), "d_in >= 1"),
    ],
)
def test_bad_input(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_excluded_dead_rows_are_no_error():
    rows = EYE * torch.tensor([[1.0], [0.0], [1.0]])
    assert nearest(EYE[0], rows, n=1, exclude=[1]).rows.tolist() == [0]
