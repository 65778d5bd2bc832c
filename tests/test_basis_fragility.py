"""Minima under changed laws: the loss against naive quadrature, ranks, responses and switches."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import entropy

from theory.basis_fragility import (
    critical_point,
    curvature,
    gradient_and_hessian,
    loss,
    movement,
    response,
    single_losses,
)
from theory.few_active import FewActive, law_distance
from theory.phase_switch import nearest_switch
from theory.phases import polygon_phase
from theory.potential import potential, potential_hessian
from toymodels import Exclusive, Independent, stream, that_never_occurred

seeds = st.integers(0, 2**32 - 1)
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(200)
NODES, NODE_WEIGHTS = (NODES + 1) / 2, NODE_WEIGHTS / 2
C = 6
FIVE, SIX = polygon_phase(C, 5), polygon_phase(C, 6)


def law_of(seed, c, share):
    """Singles and, for a share of the inputs, some of the pairs."""
    generator = stream(seed, "law")
    singles = torch.rand(c, generator=generator, dtype=torch.float64) + 0.1
    singles = FewActive(singles / singles.sum(), torch.zeros(c, c, dtype=torch.float64))
    pairs = torch.rand(c, c, generator=generator, dtype=torch.float64)
    pairs = (pairs * (pairs > 0.4)).triu(1)
    pairs[0, -1] += 0.1
    return singles.with_pairs(share, (pairs + pairs.T) / (2 * pairs.sum()))


def even(share=0.0, pairs=None):
    singles = torch.full((C,), 1 / C, dtype=torch.float64)
    base = FewActive(singles, singles.new_zeros(C, C))
    pairs = 1 - torch.eye(C, dtype=torch.float64) if pairs is None else pairs
    return base.with_pairs(share, pairs / pairs.sum())


def pair(i, j):
    pairs = torch.zeros(C, C, dtype=torch.float64)
    pairs[i, j] = pairs[j, i] = 1.0
    return pairs


def weights(seed, m, c):
    generator = stream(seed, "weights")
    W = torch.randn(m, c, generator=generator, dtype=torch.float64)
    return W, torch.randn(c, generator=generator, dtype=torch.float64) / 2


def by_quadrature(W, b, law):
    """Each input by itself, on 200 magnitudes: kinks cost up to 1 / 200^2 = 2.5e-5 each."""
    W, b, total = W.numpy(), b.numpy(), 0.0
    for i, q in enumerate(law.singles.tolist()):
        for z, p in zip(NODES, NODE_WEIGHTS, strict=True):
            x = z * np.eye(len(b))[i]
            total += q * p * ((x - np.maximum(W.T @ (W @ x) + b, 0)) ** 2).sum()
    for i, j in law.pairs.nonzero().tolist():
        x = np.zeros((len(NODES), len(NODES), len(b)))
        x[..., i], x[..., j] = NODES[:, None], NODES
        error = ((x - np.maximum(x @ W.T @ W + b, 0)) ** 2).sum(-1)
        total += float(law.pairs[i, j]) * NODE_WEIGHTS @ error @ NODE_WEIGHTS
    return total


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_loss_equals_quadrature(seed, share):
    W, b = weights(seed, 2, 4)
    law = law_of(seed, 4, share)
    assert float(loss(W, b, law)) == pytest.approx(by_quadrature(W, b, law), abs=1e-4)


@given(seeds, st.integers(1, 3), st.integers(1, 5))
def test_even_singles_are_the_potential(seed, m, c):
    W, b = weights(seed, m, c)
    singles = torch.full((c,), 1 / c, dtype=torch.float64)
    law = FewActive(singles, singles.new_zeros(c, c))
    assert float(loss(W, b, law)) == pytest.approx(float(potential(W, b)), rel=1e-9)
    assert float(single_losses(W, b).mean()) == pytest.approx(float(potential(W, b)), rel=1e-9)


def test_the_hessian_is_the_potentials():
    hessian = gradient_and_hessian(FIVE.W, FIVE.b, even())[1]
    assert torch.allclose(hessian, potential_hessian(FIVE.W, FIVE.b), atol=1e-12)


@given(seeds)
def test_derivatives_are_differences(seed):
    """Pairs are functions of weights with bounded second derivatives: h = 1e-6 leaves 1e-5."""
    W, b = weights(seed, 2, 3)
    law, step = law_of(seed, 3, 0.5), 1e-6
    slope = gradient_and_hessian(W, b, law)[0]
    direction = torch.randn(9, generator=stream(seed, "direction"), dtype=torch.float64)

    def at(t):
        moved = t * direction
        return float(loss(W + moved[:6].view(2, 3), b + moved[6:], law))

    assert (at(step) - at(-step)) / (2 * step) == pytest.approx(float(slope @ direction), abs=1e-4)


@settings(max_examples=min(10, settings().max_examples))
@given(seeds, st.sampled_from([1e-6, 1e-3, 0.05]))
def test_reweighting_keeps_the_rank_and_pairs_do_not(seed, size):
    xi = 2 * torch.rand(C, generator=stream(seed, "shift"), dtype=torch.float64) - 1
    xi = xi - xi.mean()
    law = FewActive(even().singles * (1 + 4 * size * xi), even().pairs)
    for start, rank in ((FIVE, 14), (SIX, 17)):
        found = curvature(*critical_point(start.W, start.b, law), law)
        assert (found.rank, found.n_negative) == (rank, 0)


@pytest.mark.parametrize("share", [1e-7, 1e-4, 1e-2])
@pytest.mark.parametrize("pairs", [None, pair(0, 5), pair(2, 5)])
def test_any_share_of_pairs_with_the_left_out_feature_curves_its_column(share, pairs):
    law = even(share, pairs)
    found = curvature(*critical_point(FIVE.W, FIVE.b, law), law)
    assert (found.rank, found.n_negative) == (16, 0)


@pytest.mark.parametrize("share", [1e-4, 1e-2])
def test_pairs_of_features_in_use_do_not(share):
    """The negative control: without the left-out feature its column is as free as before."""
    law = even(share, pair(0, 1))
    assert curvature(*critical_point(FIVE.W, FIVE.b, law), law).rank == 14


@pytest.mark.parametrize("far", [even(1.0), even(1.0, pair(0, 1)), law_of(3, C, 0.0)])
@pytest.mark.parametrize("start", [FIVE, SIX])
def test_minimisers_answer_as_the_implicit_function_theorem_says(start, far):
    """The error is of second order in eps = 1e-4 of a response of order 1 to 10."""
    eps = 1e-4
    found = response(start.W, start.b, even(), far)
    assert found.blocked < 1e-9
    law = FewActive(
        (1 - eps) * even().singles + eps * far.singles, (1 - eps) * even().pairs + eps * far.pairs
    )
    W, b = critical_point(start.W, start.b, law)
    step = torch.cat([(W - start.W).flatten(), b - start.b]) / eps
    assert float((step - found.step).norm() / found.step.norm()) < 1e-2
    assert movement(start.W, start.b, W, b) == pytest.approx(eps * float(step.norm()), rel=1e-2)


def test_one_new_pair_is_blocked_and_jumps():
    assert response(FIVE.W, FIVE.b, even(), even(1.0, pair(0, 5))).blocked > 0.1
    jumps = []
    for share in (1e-7, 1e-5, 1e-3):
        W, b = critical_point(FIVE.W, FIVE.b, even(share, pair(0, 5)))
        jumps.append(movement(FIVE.W, FIVE.b, W, b))
        assert curvature(W, b, even(share, pair(0, 5))).n_negative == 0
    assert jumps[0] == pytest.approx(jumps[1], rel=1e-2) == pytest.approx(jumps[2], rel=1e-2)
    assert jumps[0] > 0.05


@given(seeds)
def test_rotations_are_no_movement(seed):
    turn = torch.linalg.qr(torch.randn(2, 2, generator=stream(seed, "turn"), dtype=torch.float64)).Q
    assert movement(SIX.W, SIX.b, turn @ SIX.W, SIX.b) < 1e-6
    assert movement(SIX.W, SIX.b, 2 * turn @ SIX.W, SIX.b) == pytest.approx(float(SIX.W.norm()))
    lower = FIVE.b - 0.5 * (torch.arange(C) == 5)
    assert movement(FIVE.W, FIVE.b, FIVE.W, lower) < 1e-6  # the bias of a dead column is free


@given(seeds, st.floats(0.01, 0.9))
def test_distances_are_those_of_the_worlds(seed, share):
    p, q = law_of(seed, 5, 0.0), law_of(seed // 2, 5, 0.5)
    found = law_distance(law_of(seed, 5, 0.5), q)
    before, after = (
        torch.cat([law.singles, law.pairs.flatten()]).numpy() for law in (law_of(seed, 5, 0.5), q)
    )
    told = (entropy(after, before), entropy(before, after), np.abs(after - before).sum() / 2)
    assert (found.kl, found.reverse_kl, found.tv) == pytest.approx(told, abs=1e-9)
    world, both = Exclusive(5, p.singles), Independent(5, torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]))
    shift = that_never_occurred(world, both, share)
    grown = law_distance(p, law_of(seed, 5, share))
    assert grown.kl == shift.kl == math.inf
    assert (grown.reverse_kl, grown.tv) == pytest.approx((shift.reverse_kl, shift.tv), abs=1e-9)


@given(seeds, st.integers(2, 6), st.floats(0.05, 0.95))
def test_the_nearest_switch_is_nearest(seed, n, place):
    """No other law that makes the phases equal is nearer: neither random ones nor extreme ones."""
    generator = stream(seed, "switch")
    p = torch.rand(n, generator=generator, dtype=torch.float64) + 0.05
    p, gains = p / p.sum(), torch.randn(n, generator=generator, dtype=torch.float64)
    if float(gains.max() - gains.min()) < 0.1:
        return
    needed = float(gains.min() + place * (gains.max() - gains.min()))
    found = nearest_switch(p, gains, needed)
    assert float(found.probs @ gains) == pytest.approx(needed, abs=1e-9)
    assert float(found.probs.sum()) == pytest.approx(1)
    assert found.least_tv <= found.distance.tv + 1e-9
    for _ in range(20):
        q = torch.rand(n, generator=generator, dtype=torch.float64) ** 3 + 1e-3
        q = q / q.sum()
        value = float(q @ gains)
        end = torch.zeros(n, dtype=torch.float64)
        end[gains.argmax() if value < needed else gains.argmin()] = 1.0
        t = (needed - value) / (float(end @ gains) - value)
        q = (1 - t) * q + t * end
        kl = float(torch.where(q > 0, q * (q.clamp(min=1e-300) / p).log(), 0.0).sum())
        assert kl >= found.distance.kl - 1e-9
        assert float((q - p).abs().sum()) / 2 >= found.least_tv - 1e-9


@given(seeds, st.integers(2, 5))
def test_the_least_total_variation_is_the_linear_programs(seed, n):
    generator = stream(seed, "program")
    p = torch.rand(n, generator=generator, dtype=torch.float64) + 0.05
    p, gains = p / p.sum(), torch.randn(n, generator=generator, dtype=torch.float64)
    needed = float((gains.min() + gains.max()) / 2)
    if float(gains.max() - gains.min()) < 0.1:
        return
    # q = p + up - down; the sum of up is the total variation.
    rows = np.array([[*gains, *-gains], [*np.ones(n), *-np.ones(n)]])
    sides = [needed - float(p @ gains), 0.0]
    bounds = [(0, None)] * n + [(0, float(x)) for x in p]
    best = linprog([1.0] * n + [0.0] * n, A_eq=rows, b_eq=sides, bounds=bounds)
    assert nearest_switch(p, gains, needed).least_tv == pytest.approx(best.fun, abs=1e-7)


def test_five_and_six_switch_where_their_losses_say():
    """Two gains only: the nearest law changes the share of the feature left out, nothing else."""
    gains = single_losses(FIVE.W, FIVE.b) - single_losses(SIX.W, SIX.b)
    found = nearest_switch(even().singles, gains, 0.0)
    share = float(-gains[0] / (gains[5] - gains[0]))
    rest = (1 - share) / 5
    assert found.probs.tolist() == pytest.approx([rest] * 5 + [share], abs=1e-9)
    assert found.least_tv == pytest.approx(1 / 6 - share, abs=1e-9)
    law = FewActive(found.probs, even().pairs)
    assert float(loss(FIVE.W, FIVE.b, law)) == pytest.approx(float(loss(SIX.W, SIX.b, law)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: replace(even(), singles=even().singles * 2), "probabilities that sum to 1, got"),
        (lambda: replace(even(), singles=-even().singles), "probabilities >= 0, got smallest=-0"),
        (lambda: replace(even(), pairs=even().pairs + pair(0, 1).triu()), "symmetric pairs"),
        (lambda: even(1.5), "with_pairs: expected 0 <= share <= 1, got share=1.5"),
        (lambda: law_distance(even(), law_of(0, 5, 0.1)), r"as many features, got .*\(6, 5\)"),
        (lambda: nearest_switch(torch.ones(2) / 2, torch.zeros(2), 1.0), "no reweighting makes"),
        (
            lambda: critical_point(3 * SIX.W, SIX.b + 1, even(), n_steps=1),
            r"critical_point: .*convergence.* within 1 steps, got gradient_norm=.*smaller steps",
        ),
    ],
)
def test_bad_input_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
