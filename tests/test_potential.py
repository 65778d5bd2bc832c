"""The exact potential against quadrature and a table; its phases against the published ones."""

import dataclasses
import importlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.phases import free_energy, phase, polygon_phase, search_phases, transition_size
from theory.potential import (
    descend,
    nonsmooth_distance,
    potential,
    potential_gradient,
    potential_hessian,
    refine,
)
from toymodels import stream

MODULE = importlib.import_module("theory.potential")  # `theory.potential` is the function

seeds = st.integers(0, 2**32 - 1)
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(4)  # exact up to degree 7


@st.composite
def weights(draw):
    """Random weights; some columns, products and biases exactly 0."""
    m, c = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    generator = stream(draw(seeds), "weights")
    W = torch.randn(m, c, generator=generator, dtype=torch.float64)
    b = torch.randn(c, generator=generator, dtype=torch.float64) / 2
    keep_W, keep_b = torch.rand(m, c, generator=generator), torch.rand(c, generator=generator)
    zeros = draw(st.sampled_from([0.0, 0.3, 0.7]))
    return W * (keep_W >= zeros), b * (keep_b >= zeros)


def smooth_weights(seed):
    generator = stream(seed, "smooth")
    W = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    return W, torch.randn(4, generator=generator, dtype=torch.float64) / 2


def by_quadrature(W, b):
    """E|x - relu(W^T W x + b)|^2, Gauss and Legendre on either side of each output's kink."""
    gram, b = (W.T @ W).numpy(), b.numpy()
    c, total = len(b), 0.0
    for i in range(c):
        for j in range(c):
            kink = np.clip(-b[j] / gram[i, j], 0, 1) if gram[i, j] != 0 else 0.0
            for low, high in ((0.0, kink), (kink, 1.0)):
                z = low + (high - low) * (NODES + 1) / 2
                error = (i == j) * z - np.maximum(gram[i, j] * z + b[j], 0)
                total += (high - low) / 2 * (NODE_WEIGHTS * error**2).sum()
    return total / c


def by_cases(W, b):
    """H / (3 c) of Lemma 3.1 of Chen et al., with the cases of b written out."""
    gram, b, total = (W.T @ W).tolist(), b.tolist(), 0.0
    for i, own in enumerate(b):
        others = [gram[i][j] for j in range(len(b)) if j != i]
        N = gram[i][i]
        nu = (1 - N) ** 2 - 3 * (1 - N) * own + 3 * own**2
        if own <= 0:
            total += sum((a + own) ** 3 / a for a in others if a > 0 and a >= -own)
            total += own**3 / N**2 + own**3 / N + nu if N > 0 and -N <= own else 1
        else:
            for a in others:
                total += -(own**3) / a if a < -own else a**2 + 3 * a * own + 3 * own**2
            total += nu
    return total / (3 * len(b))


@given(weights())
def test_the_potential_equals_quadrature(at):
    assert float(potential(*at)) == pytest.approx(by_quadrature(*at), abs=1e-9)


@given(weights())
def test_the_potential_equals_the_published_form(at):
    assert float(potential(*at)) == pytest.approx(by_cases(*at), rel=1e-9, abs=1e-9)


@given(weights())
def test_many_points_at_once_are_each_alone(at):
    W, b = at
    stacked = potential(torch.stack([W, 2 * W, -W])[:, None], torch.stack([b, b / 2, b])[:, None])
    alone = [potential(W, b), potential(2 * W, b / 2), potential(-W, b)]
    assert stacked.shape == (3, 1)
    assert stacked[:, 0].tolist() == pytest.approx([float(x) for x in alone], rel=1e-12)


@given(weights(), seeds)
def test_rotations_and_permutations_change_nothing(at, seed):
    W, b = at
    generator = stream(seed, "symmetry")
    Q = torch.linalg.qr(torch.randn(len(W), len(W), generator=generator, dtype=torch.float64)).Q
    order = torch.randperm(len(b), generator=generator)
    moved = potential((Q @ W)[:, order], b[order])
    assert float(moved) == pytest.approx(float(potential(W, b)), rel=1e-9)


def differences(f, w, h):
    """Central differences of f along each parameter, [n_params, ...]."""
    steps = h * torch.eye(len(w), dtype=torch.float64)
    return torch.stack([(f(w + s) - f(w - s)) / (2 * h) for s in steps])


@settings(max_examples=20)
@given(seeds)
def test_derivatives_are_differences(seed):
    """Third derivatives of order 10 and rounding of 1e-16 / h: 1e-9 for slopes of step 1e-5.

    Second derivatives are compared 1e-3 away from jumps, where third ones grow like 1 / distance.
    """
    W, b = smooth_weights(seed)
    w = MODULE.flatten(W, b)

    def split(w):
        return w[:8].view(2, 4), w[8:]

    slopes = differences(lambda w: potential(*split(w)), w, 1e-5)
    assert torch.allclose(potential_gradient(W, b), slopes, rtol=1e-6, atol=1e-7)
    if nonsmooth_distance(W, b) > 1e-3:
        rows = differences(lambda w: potential_gradient(*split(w)), w, 1e-6)
        assert torch.allclose(potential_hessian(W, b), rows, rtol=1e-3, atol=1e-3)


def test_second_derivatives_jump_where_the_distance_is_0():
    """Along a_12 at b_2 = 0, and along N at b = -N: one-sided second differences differ."""

    def second(f, h):
        return (f(2 * h) - 2 * f(h) + f(0.0)) / h**2

    def turned(angle):
        W = torch.tensor([[1.0, math.sin(angle)], [0.0, math.cos(angle)]], dtype=torch.float64)
        return float(potential(W, torch.zeros(2, dtype=torch.float64)))

    def stretched(more):
        W = torch.tensor([[math.sqrt(0.5 + more)]], dtype=torch.float64)
        return float(potential(W, torch.tensor([-0.5], dtype=torch.float64)))

    # L holds a^2 / 3 for each of the two outputs over c = 2, and -2 M with a jump of 1 / N = 2;
    # the error of the differences is of the order of the step.
    assert second(turned, 1e-3) - second(turned, -1e-3) == pytest.approx(2 / 3, abs=0.01)
    assert second(stretched, 1e-3) - second(stretched, -1e-3) == pytest.approx(-4, abs=0.05)


TABLE = [  # features, vertices, raised; the loss to five digits, rank and learning coefficient
    (6, 4, 0, 0.11111, None, None),
    (6, 4, 1, 0.10417, None, None),
    (6, 4, 2, 0.09722, None, None),
    (6, 5, 0, 0.06874, 14, 7),
    (6, 5, 1, 0.06180, 17, 8.5),
    (6, 6, 0, 0.04819, 17, 8.5),
    (5, 4, 0, 0.06667, None, None),
    (5, 4, 1, 0.05667, None, None),
    (5, 5, 0, 0.01583, 14, 7),
]


@pytest.mark.parametrize(("c", "k", "n_raised", "loss", "rank", "coefficient"), TABLE)
def test_the_table_of_phases(c, k, n_raised, loss, rank, coefficient):
    found = polygon_phase(c, k, n_raised=n_raised)
    assert round(found.loss, 5) == loss
    assert found.smooth == (rank is not None)
    if rank is None:
        with pytest.raises(ValueError, match=r"C\^2, got nonsmooth_distance=0"):
            found.learning_coefficient()
    else:
        assert (found.rank, found.n_negative) == (rank, 0)
        assert found.learning_coefficient() == coefficient


@pytest.mark.parametrize(
    ("k", "length", "bias", "h"),
    [(4, 1, 0, 0), (5, 1.17046, -0.28230, 0.23738), (6, 1.32053, -0.61814, 0.86746)],
)
@pytest.mark.parametrize("n_dead", [0, 3])
def test_polygons_have_the_published_length_and_bias(k, length, bias, h, n_dead):
    c = k + n_dead
    found = polygon_phase(c, k)
    assert [round(x, 5) for x in found.W[:, :k].norm(dim=0).tolist()] == [length] * k
    assert [round(x, 5) for x in found.b[:k].tolist()] == [bias] * k
    assert round(3 * c * found.loss - c + k, 5) == h


def test_without_the_square_of_small_products_ranks_are_wrong(monkeypatch):
    """A mean square expanded to first order at a = 0 has the right value and slope there."""
    W, b = polygon_phase(6, 5, n_raised=1).W, polygon_phase(6, 5, n_raised=1).b
    right = MODULE.mean_square

    def first_order(a, b):
        return right(a, b) - torch.where((a.abs() < 1e-6) & (b > 0), a * a / 3, 0.0)

    assert phase(W, b).rank == 17
    before = float(potential(W, b))
    monkeypatch.setattr(MODULE, "mean_square", first_order)
    assert float(potential(W, b)) == pytest.approx(before, abs=1e-12)
    assert phase(W, b).n_negative + abs(phase(W, b).rank - 17) > 0
    other = torch.full((2, 6), 1e-4, dtype=torch.float64)
    monkeypatch.setattr(
        MODULE,
        "mean_square",
        lambda a, b: right(a, b) - torch.where(b > 0, a * a / 3, 0.0),
    )
    b = torch.full((6,), 0.5, dtype=torch.float64)
    assert abs(float(potential(W + other, b)) - by_quadrature(W + other, b)) > 1e-3


def test_the_published_transition_needs_the_prior_and_the_whole_loss():
    five, six = polygon_phase(6, 5), polygon_phase(6, 6)
    n = transition_size(five, six)
    assert round(n) == 601

    def energy(p, n, factor=1.0, prior=True):
        size = p.squared_norm if prior else 0.0
        return free_energy(n, factor * p.loss, p.learning_coefficient(), size)

    assert energy(five, n) == pytest.approx(energy(six, n), abs=1e-9)
    assert energy(five, 600.0) < energy(six, 600.0)
    assert energy(five, 602.0) > energy(six, 602.0)
    # Broken twins: no prior (445) and a halved loss miss the published size by over a quarter.
    without = transition_size(five, six, prior=False)
    assert round(without) == 445
    assert energy(five, without, prior=False) == pytest.approx(energy(six, without, prior=False))
    halved = [dataclasses.replace(p, loss=p.loss / 2) for p in (five, six)]
    assert abs(transition_size(*halved) / 601 - 1) > 0.25


def test_free_energy_has_its_three_terms():
    assert free_energy(100.0, 0.25, 3.0, 4.0) == 100 * 0.25 + 3 * math.log(100) + 2
    assert free_energy(100.0, 0.25, 3.0) == 100 * 0.25 + 3 * math.log(100)


def test_a_phase_that_is_better_everywhere_has_no_transition():
    five, six = polygon_phase(6, 5), polygon_phase(6, 6)
    simpler = dataclasses.replace(six, rank=10, n_flat=8, squared_norm=1.0)
    assert transition_size(five, simpler) == 1.0


def test_a_raised_and_a_silent_column_part_and_the_silent_bias_stays_flat():
    """The pentagon with both is a saddle; below it the silent output still never fires."""
    saddle = polygon_phase(7, 5, n_raised=1)
    assert (saddle.rank, saddle.n_negative, saddle.n_flat) == (19, 2, 2)
    with pytest.raises(ValueError, match="a minimum, got n_negative=2"):
        saddle.learning_coefficient()
    W = saddle.W.clone()
    W[:, 5:] = torch.tensor([[0.02, -0.1], [0.0, 0.0]], dtype=torch.float64)
    below = phase(*refine(*descend(W, saddle.b.clamp(min=-0.5))))
    assert below.loss < saddle.loss - 1e-5
    assert (below.rank, below.n_negative, below.n_flat) == (19, 0, 2)
    assert below.learning_coefficient() == 9.5
    # A prior likes the silent bias best where it just silences: that changes the loss nowhere.
    i = int(below.b.argmin())
    needed = float((below.W.T @ below.W)[:, i].max().clamp(min=0))
    b = below.b.clone()
    b[i] = -needed
    assert float(potential(below.W, b)) == pytest.approx(below.loss, abs=1e-12)
    norm = float(below.W.square().sum() + b.square().sum())
    assert below.squared_norm == pytest.approx(norm, rel=1e-12)
    b[i] = -0.8 * needed
    assert float(potential(below.W, b)) > below.loss + 1e-9


def test_search_keeps_the_losses_of_what_is_not_smooth():
    found = search_phases(5, 2, 6, generator=stream(0, "search"))
    assert len(found.unresolved) == found.n_unresolved == 6 - sum(found.counts) > 0
    squares = [polygon_phase(5, 4, n_raised=r).loss for r in (1, 0)]
    for loss in found.unresolved:
        assert min(abs(loss - square) for square in squares) < 1e-8


def test_search_finds_the_phases_of_six_features():
    found = search_phases(6, 2, 12, generator=stream(0, "search"))
    assert [round(p.loss, 5) for p in found.phases] == [0.04819, 0.06180, 0.06874]
    assert [p.learning_coefficient() for p in found.phases] == [8.5, 8.5, 7]
    assert sum(found.counts) + found.n_unresolved == 12


def test_search_finds_the_square_antiprism_in_three_dimensions():
    best = search_phases(8, 3, 4, generator=stream(0, "search")).phases[0]
    cosines = torch.nn.functional.normalize(best.W, dim=0)
    row = (cosines.T @ cosines)[0].sort().values
    # Heights +-z; neighbours in the square at z^2, its diagonal at 2 z^2 - 1, across at 45 and 135
    # degrees: (1 - z^2) (+-sqrt(1/2)) - z^2.
    square = (float(row[2]) + 1) / 2
    across = [(1 - square) * x - square for x in (-math.sqrt(0.5), math.sqrt(0.5))]
    expected = [across[0]] * 2 + [2 * square - 1] + [across[1]] * 2 + [square] * 2 + [1.0]
    assert row.tolist() == pytest.approx(expected, abs=1e-9)
    assert best.learning_coefficient() == (3 * 8 + 8 - 3) / 2


@pytest.mark.parametrize("k", [5, 6, 7, 8])
def test_newton_comes_back_from_nearby(k):
    there = polygon_phase(k, k)
    noise = 1e-3 * torch.randn(3, k, generator=stream(k, "noise"), dtype=torch.float64)
    back = phase(*refine(there.W + noise[:2], there.b + noise[2]))
    assert back.loss == pytest.approx(there.loss, abs=1e-12)
    assert back.rank == there.rank


def test_descent_goes_down_and_names_silent_columns():
    W, b = polygon_phase(6, 5).W, polygon_phase(6, 5).b
    pushed = W.clone()
    pushed[:, 5] = 0.05  # on the plateau: nothing fires, nothing is moved
    end_W, end_b = descend(pushed + 0.0, b)
    assert end_W[:, 5].tolist() == [0, 0]
    assert float(end_b[5]) == -1
    assert float(potential(end_W, end_b)) <= float(potential(pushed, b)) + 1e-15


def test_bad_input_says_what_is_wrong(unchecked):
    five = polygon_phase(6, 5)
    W, b = five.W, five.b
    with pytest.raises(ValueError, match=r"critical point.*got gradient_norm=0\.\d+; use refine"):
        phase(W + 0.1, b)
    with pytest.raises(ValueError, match=r"refine: .*within 1 steps, got .*norm=.*start closer"):
        refine(W + 0.05, b, n_steps=1)
    square = polygon_phase(6, 4)
    with pytest.raises(ValueError, match=r"C\^2.*got nonsmooth_distance=0.0; columns orthogonal"):
        potential_hessian(square.W, square.b)
    corner = b.clone()
    corner[5] = 0.0
    with pytest.raises(ValueError, match=r"a corner of L, got columns=\[5\]"):
        phase(W, corner)
    with pytest.raises(ValueError, match="n_flat=9; estimate it by sampling"):
        dataclasses.replace(five, n_flat=9).learning_coefficient()
    with pytest.raises(ValueError, match="a minimum, got n_negative=2"):
        dataclasses.replace(five, n_negative=2).learning_coefficient()
    with pytest.raises(ValueError, match="expected W "):
        potential(W, b[:3])
    with pytest.raises(ValueError, match="finite numbers in b"):
        potential(W, b * math.nan)
    with pytest.raises(ValueError, match="n_vertices=7"):
        polygon_phase(6, 7)
    with pytest.raises(ValueError, match="0 <= n_raised <= 1"):
        polygon_phase(6, 5, n_raised=2)
    with pytest.raises(ValueError, match=r"accurate\.loss < simple\.loss"):
        transition_size(polygon_phase(6, 6), five)
    with pytest.raises(ValueError, match="n_samples > 1"):
        free_energy(1, 0.1, 1)
