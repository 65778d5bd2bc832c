"""Descent by hand-written gradients against autograd; labels and plateaus on made-up runs."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.phase_dynamics import Plateau, plateaus, polygon_labels, sgd_paths
from theory.phases import polygon_phase
from theory.potential import potential
from toymodels import ExactlyK, Uniform, stream

seeds = st.integers(0, 2**32 - 1)


@st.composite
def starts(draw):
    """Samples x, weights and biases of a few runs, and a seed."""
    runs, n, c, m = (draw(st.integers(1, high)) for high in (3, 6, 4, 3))
    seed = draw(seeds)
    generator = stream(seed, "start")
    shapes = ((runs, n, c), (runs, m, c), (runs, c))
    x, W, b = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return x.abs(), W, b / 2, seed


def by_autograd(x, W, b, lr):
    """One step of gradient descent on all samples of one run."""
    W, b = W.clone().requires_grad_(), b.clone().requires_grad_()
    (x - (x @ W.T @ W + b).relu()).square().sum(1).mean().backward()
    return W.detach() - lr * W.grad, b.detach() - lr * b.grad


@given(starts(), st.floats(1e-3, 0.3))
def test_steps_are_those_of_autograd(start, lr):
    x, W, b, seed = start
    options = {"lr": lr, "batch_size": x.shape[1], "n_epochs": 2, "record_every": 1}
    paths = sgd_paths(x, W, b, **options, generator=stream(seed, "order"))
    assert paths.epochs.tolist() == [0, 1, 2]
    for i in range(len(x)):
        there = (W[i], b[i])
        for epoch in (1, 2):
            there = by_autograd(x[i], *there, lr)
            assert torch.allclose(paths.W[epoch, i], there[0], rtol=1e-9, atol=1e-9)
            assert torch.allclose(paths.b[epoch, i], there[1], rtol=1e-9, atol=1e-9)


@given(starts())
def test_an_epoch_uses_every_sample_once_in_some_order(start):
    x, W, b, seed = start
    x = x[:, :3]
    options = {"lr": 0.1, "batch_size": 1, "n_epochs": 1, "record_every": 1}
    paths = sgd_paths(x, W, b, **options, generator=stream(seed, "order"))
    for i in range(len(x)):
        ends = []
        for order in itertools.permutations(range(x.shape[1])):
            there = (W[i], b[i])
            for sample in order:
                there = by_autograd(x[i, [sample]], *there, 0.1)
            ends.append(there)
        size = 1 + float(paths.W[1, i].abs().max())
        gaps = [max_gap(end, (paths.W[1, i], paths.b[1, i])) for end in ends]
        assert min(gaps) <= 1e-9 * size


def max_gap(here, there):
    return max(float((a - b).abs().max()) for a, b in zip(here, there, strict=True))


def test_orders_differ_between_epochs_and_runs():
    """Two samples of two features: which came first shows in the end. Ten equal orders of each of
    4 runs have probability 2^-36 or so; 40 equal ones less."""
    x = torch.eye(2, dtype=torch.float64).expand(4, 2, 2)
    W, b = torch.full((4, 1, 2), 0.7, dtype=torch.float64), torch.zeros(4, 2, dtype=torch.float64)
    options = {"lr": 0.2, "batch_size": 1, "n_epochs": 1, "record_every": 1}
    generator = stream(0, "order")
    ends = torch.cat([sgd_paths(x, W, b, **options, generator=generator).W[1] for _ in range(10)])
    assert len(ends[:, 0, 0].round(decimals=9).unique()) == 2


def test_a_run_does_not_depend_on_its_neighbours():
    generator = stream(0, "start")
    x = torch.rand(3, 8, 4, generator=generator, dtype=torch.float64)
    W, b = x[:, :2].clone(), x[:, 2].clone() - 0.5
    options = {"lr": 0.1, "batch_size": 8, "n_epochs": 5, "record_every": 5}
    together = sgd_paths(x, W, b, **options, generator=stream(0, "order"))
    alone = sgd_paths(x[1:2], W[1:2], b[1:2], **options, generator=stream(0, "order"))
    assert torch.allclose(together.W[:, 1], alone.W[:, 0], rtol=1e-12)
    assert not torch.allclose(together.W[-1, 0], together.W[-1, 1])


def test_descent_stays_around_a_minimum_of_the_potential():
    """The samples' own minimum is off by about 1 / sqrt(n), and its loss by 1 / n, times 18 / 2.

    Residuals of a sample are of order 0.1 here, so that this is far below 1e-3; the next polygon
    is 0.007 away (eq:polygon-phases).
    """
    law, there = ExactlyK(6, 1, Uniform(0.0, 1.0)), polygon_phase(6, 5, n_raised=1)
    x = torch.stack([law.sample(2000, generator=stream(i, "data")).dense() for i in range(2)])
    noise = 0.05 * torch.randn(2, 2, 6, generator=stream(0, "noise"), dtype=torch.float64)
    options = {"lr": 0.05, "batch_size": 50, "n_epochs": 60, "record_every": 60}
    start = (there.W + noise, there.b.expand(2, 6))
    before = potential(*start)
    paths = sgd_paths(x.double(), *start, **options, generator=stream(0, "order"))
    after = potential(paths.W[-1], paths.b[-1])
    assert bool((before > there.loss + 1e-3).all())
    assert bool((after - there.loss < 1e-3).all())
    assert bool((after >= there.loss).all())


@pytest.mark.parametrize(("k", "r"), [(3, 0), (4, 2), (5, 0), (5, 1), (6, 0)])
def test_labels_of_polygons(k, r):
    there = polygon_phase(6, k, n_raised=r)
    noise = 0.05 * torch.randn(4, 2, 6, generator=stream(k, "noise"), dtype=torch.float64)
    vertices, raised = polygon_labels(there.W + noise, there.b.expand(4, 6))
    assert vertices.tolist() == [k] * 4
    assert raised.tolist() == [r] * 4


def labelled(losses, vertices, raised):
    return torch.tensor(losses, dtype=torch.float64), torch.tensor(vertices), torch.tensor(raised)


def test_plateaus_of_a_made_up_run():
    losses = [3.0, 2.0, 2.0, 2.0, 1.5, 1.01, 1.0, 0.99, 0.98, 0.97]
    run = labelled(losses, [4] * 5 + [5] * 5, [0] * 10)
    found = plateaus(*run, n_window=3, tolerance=0.021)
    assert found == [Plateau(1, 3, 4, 0, 2.0), Plateau(5, 9, 5, 0, 0.99)]
    assert plateaus(*run, n_window=4, tolerance=0.021) == []
    falling = labelled([1 - 0.1 * t for t in range(8)], [5] * 8, [0] * 8)
    assert plateaus(*falling, n_window=3, tolerance=0.19) == []


def test_a_change_of_label_ends_a_plateau():
    still = labelled([1.0] * 8, [5] * 8, [0, 0, 0, 1, 1, 1, 1, 1])
    found = plateaus(*still, n_window=3, tolerance=0.0)
    assert found == [Plateau(0, 2, 5, 0, 1.0), Plateau(3, 7, 5, 1, 1.0)]


@settings(max_examples=20)
@given(st.lists(st.sampled_from([0.0, 0.1, 1.0]), min_size=3, max_size=12), st.integers(2, 4))
def test_plateaus_are_the_unions_of_still_windows(losses, n_window):
    n = len(losses)
    found = plateaus(*labelled(losses, [5] * n, [0] * n), n_window=n_window, tolerance=0.5)
    inside = {t for p in found for t in range(p.first, p.last + 1)}
    windows = [range(s, s + n_window) for s in range(n - n_window + 1)]
    still = [w for w in windows if max(losses[t] for t in w) - min(losses[t] for t in w) <= 0.5]
    assert inside == {t for w in still for t in w}


def test_bad_input_says_what_is_wrong():
    x, W, b = torch.rand(2, 5, 4), torch.rand(2, 2, 4), torch.rand(2, 4)
    options = {"lr": 0.1, "batch_size": 5, "n_epochs": 1, "record_every": 1}
    generator = stream(0, "order")
    with pytest.raises(ValueError, match=r"batch_size <= 5 \(n_samples\), got batch_size=6"):
        sgd_paths(x, W, b, **options | {"batch_size": 6}, generator=generator)
    with pytest.raises(ValueError, match="lr > 0, got lr=0"):
        sgd_paths(x, W, b, **options | {"lr": 0.0}, generator=generator)
    with pytest.raises(ValueError, match="integer record_every >= 1"):
        sgd_paths(x, W, b, **options | {"record_every": 0}, generator=generator)
    with pytest.raises(ValueError, match=r"finite numbers in x"):
        sgd_paths(x / 0, W, b, **options, generator=generator)
    losses = torch.zeros(3), torch.zeros(3).long(), torch.zeros(3).long()
    with pytest.raises(ValueError, match="n_window >= 2, got n_window=1"):
        plateaus(*losses, n_window=1, tolerance=0.1)
    with pytest.raises(ValueError, match="tolerance >= 0"):
        plateaus(*losses, n_window=2, tolerance=-0.1)
