"""Neurons in superposition: training against autograd and plain loops, measures by construction."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toymodels import Independent, Signed, Uniform, stream
from toymodels.superposition import initial_weights, train_superposition
from toymodels.superposition_neurons import (
    _gradients,
    carried,
    features_per_neuron,
    has_two_neurons,
    train_neurons,
)
from toymodels.superposition_training import draw_

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(*[st.integers(1, 3)] * 3, st.integers(1, 5), st.integers(1, 6))
UNIT = Uniform(0.0, 1.0)
LAWS = [Independent(4, 0.5, UNIT), Signed(Independent(4, 0.2, UNIT), 0.5)]


def randn(*shape, seed, name):
    return torch.randn(*shape, generator=stream(seed, name), dtype=torch.float64)


def loss_by_autograd(weights, b, x, scales):
    """The loss of each instance, one after the other, as it is written in the docstring."""
    W_in, W_out = weights[0], weights[-1] if len(weights) == 2 else weights[0].mT
    losses = []
    for i in range(len(W_in)):
        data = x[i * len(x) // len(W_in)].T
        out = ((data @ W_in[i].T).relu() @ W_out[i].T + b[i]).relu()
        losses.append(((data.abs() - out) ** 2 * scales[i]).sum())
    return torch.stack(losses)


@given(sizes, st.booleans(), st.booleans(), seeds)
def test_gradients_are_those_of_autograd(size, tied, signed, seed):
    n_laws, n_copies, m, n, n_batch = size
    weights = [randn(n_laws * n_copies, m, n, seed=seed, name="W").requires_grad_()]
    if not tied:
        weights.append(randn(n_laws * n_copies, n, m, seed=seed, name="out").requires_grad_())
    b = randn(n_laws * n_copies, n, seed=seed, name="b").requires_grad_()
    x = randn(n_laws, n, n_batch, seed=seed, name="x")
    x = x if signed else x.abs()
    scales = randn(n_laws * n_copies, n, seed=seed, name="scales").abs()
    expected = loss_by_autograd(weights, b, x, scales)
    expected.sum().backward()
    with torch.no_grad():
        grads, loss = _gradients(weights, b, x, scales)
    assert torch.allclose(loss, expected, rtol=1e-9, atol=1e-9)
    for found, parameter in zip(grads, [*weights, b], strict=True):
        assert torch.allclose(found, parameter.grad, rtol=1e-9, atol=1e-9)


def fresh(tied, seed=0):
    init = stream(seed, "init")
    weights = [initial_weights(4, 3, 4, generator=init).double()]
    return weights if tied else [*weights, initial_weights(4, 4, 3, generator=init).double()]


def small(tied, seed=0, **changes):
    settings = {"n_steps": 30, "batch_size": 16, "n_records": 3, **changes}
    return train_neurons(fresh(tied, seed), LAWS, generator=stream(seed, "train"), **settings)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_training_equals_a_loop_with_autograd(tied, decay):
    """The same draws, one instance at a time; to 1e-9 in float64."""
    importance = torch.tensor([1.0, 0.5, 2.0, 1.5], dtype=torch.float64)
    found = small(tied, importance=importance, decay=decay)
    weights = [W.requires_grad_() for W in fresh(tied)]
    b = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    x = torch.empty(30, 2, 4, 16, dtype=torch.float64)
    draw_(x, tuple(LAWS), stream(0, "train"))
    assert bool((x < 0).any())
    optimiser = torch.optim.AdamW([*weights, b], lr=1e-3)
    losses, ins = [], []
    for step, batch in enumerate(x):
        if decay and step > 15:  # the rate falls from 1e-3 in the last 15 steps, by 1/15 each
            optimiser.param_groups[0]["lr"] = 1e-3 * (30 - step) / 15
        loss = loss_by_autograd(weights, b, batch, (importance / 16).expand(4, 4))
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
        losses.append(loss.detach())
        ins.append(weights[0].detach().clone())
    assert torch.allclose(found.W_in, weights[0], rtol=1e-9)
    assert torch.allclose(found.W_out, weights[0].mT if tied else weights[1], rtol=1e-9)
    assert torch.allclose(found.b, b, rtol=1e-9)
    assert found.steps.tolist() == [10, 20, 30]
    assert torch.allclose(found.losses, torch.stack(losses).view(3, 10, 4).mean(1), rtol=1e-9)
    assert torch.allclose(found.W_in_records, torch.stack([ins[9], ins[19], ins[29]]), rtol=1e-9)
    assert torch.equal(found.W_out_records[-1], found.W_out)


def test_same_streams_same_bits():
    one, two, other = small(False), small(False), small(False, 1)
    assert torch.equal(one.W_in, two.W_in)
    assert torch.equal(one.W_out, two.W_out)
    assert not torch.allclose(one.W_in, other.W_in)
    assert one.law(1) is LAWS[0]
    assert one.law(2) is LAWS[1]


def test_a_falling_rate_comes_to_rest():
    """Rates of the last ten of 500 falling steps sum to .11 of the first, against 10 if steady.

    An entry moves by about its rate in a step of Adam; noisy gradients make it less, by a factor
    that both share, so that a tenth leaves room for chance.
    """
    W = initial_weights(4, 2, 4, generator=stream(0, "init"))
    moved = []
    for decay in (0.5, 0.0):
        found = train_superposition(
            W, LAWS[:1], n_steps=1000, batch_size=8, learning_rate=1e-2, decay=decay,
            n_records=100, generator=stream(0, "train"),
        )  # fmt: skip
        moved.append(float((found.W_records[-1] - found.W_records[-2]).abs().max()))
    assert moved[0] < 0.1 * moved[1]


def by_loops(W_in, W_out):
    m, n = W_in.shape
    found = torch.zeros(2, m, n, dtype=W_in.dtype)
    for j in range(n):
        for side, sign in enumerate((1.0, -1.0)):
            code = torch.zeros(n, dtype=W_in.dtype)
            code[j] = sign
            hidden = (W_in @ code).relu()
            for i in range(m):
                found[side, i, j] = hidden[i] * W_out[j, i]
    return found


@given(st.integers(1, 4), st.integers(1, 5), seeds, st.floats(0.1, 10))
def test_what_is_carried_is_what_comes_out(m, n, seed, scale):
    W_in = randn(m, n, seed=seed, name="in")
    W_out = randn(n, m, seed=seed, name="out")
    found = carried(W_in, W_out)
    assert torch.allclose(found, by_loops(W_in, W_out), rtol=1e-9, atol=1e-9)
    assert torch.allclose(carried(scale * W_in, W_out / scale), found, rtol=1e-9, atol=1e-12)
    assert torch.equal(carried(W_in.expand(2, m, n), W_out.expand(2, n, m))[1], found)
    tied = carried(W_in, W_in.T)
    assert torch.allclose(tied[0], W_in.relu() ** 2)
    assert bool((tied[1] <= 0).all())


def test_neurons_are_counted():
    """Neuron 0 carries one feature, 1 two, 2 none (inhibition), 3 too little of all, 4 nothing."""
    W = torch.tensor([
        [1.0, 0.0, 0.2], [0.0, 0.7, 0.7], [-1.0, 0.0, -1.0], [0.4, 0.4, 0.4], [0.0, 0.0, 0.0]
    ])  # fmt: skip
    assert features_per_neuron(W, W.T).tolist() == [1, 2, 0, 0, 0]
    assert features_per_neuron(W, W.T, least=0.1).tolist() == [1, 2, 0, 3, 0]
    assert features_per_neuron(torch.stack([W, -W]), torch.stack([W.T, -W.T])).tolist()[1] == [
        0, 0, 2, 0, 0
    ]  # fmt: skip
    # The broken twin counts weights, so that inhibition looks like two more features.
    assert (W.abs() >= 0.5).sum(1).tolist() == [1, 2, 2, 0, 0]


def test_the_null_of_the_count_is_that_of_normal_weights():
    """Pr(N(0, 1) >= 1/2) = .3085; 200,000 weights: off by .01 with odds of 1e-17 (Hoeffding)."""
    W = randn(20, 10_000, seed=0, name="null")
    share = float(features_per_neuron(W, W.T).double().mean()) / 10_000
    assert share == pytest.approx(0.3085375, abs=0.01)


def test_two_neurons_compute_an_absolute_value():
    """Feature 0 has a pair, 1 only its positive neuron, 2 and 3 share a negative one."""
    W_in = torch.zeros(6, 4, dtype=torch.float64)
    for neuron, feature, weight in [
        (0, 0, 2.0), (1, 0, -1.0), (2, 1, 1.0), (3, 2, 1.0), (4, 2, -1.0), (4, 3, -1.0), (5, 3, 1.0)
    ]:  # fmt: skip
        W_in[neuron, feature] = weight
    W_out = (W_in.abs() > 0).double().T
    W_out[0, 0] = 0.5
    assert has_two_neurons(W_in, W_out).tolist() == [True, False, False, False]
    assert features_per_neuron(W_in, W_out).tolist() == [1, 1, 1, 1, 2, 1]
    x = randn(50, 4, seed=0, name="x")
    found = ((x @ W_in.T).relu() @ W_out.T)[:, 0]
    assert torch.allclose(found, x[:, 0].abs())
    assert not has_two_neurons(W_in, W_in.T).any(), "tied weights never carry a negative code"
    # The broken twin asks for both signs, but not for neurons of its own: feature 2 would pass.
    both = (carried(W_in, W_out) >= 0.25).any(1).all(0)
    assert both.tolist() == [True, False, True, True]


def test_a_dense_autoencoder_gives_each_important_feature_a_neuron():
    """As many neurons as matter: at density 1, two features ten times as important as the rest.

    Two neurons can be exact on two features: the best of eight starts has one neuron for each.
    """
    importance = torch.tensor([1.0, 1.0, 0.1, 0.1])
    W = initial_weights(8, 2, 4, generator=stream(0, "init"))
    found = train_neurons(
        [W], [Independent(4, 1.0, UNIT)], importance=importance, n_steps=1500, batch_size=64,
        learning_rate=5e-3, decay=0.5, generator=stream(0, "train"),
    )  # fmt: skip
    best = int(found.losses[-1].argmin())
    assert features_per_neuron(found.W_in[best], found.W_out[best]).tolist() == [1, 1]
    norms = found.W_in[best].norm(dim=0)
    assert float((norms[:2] - 1).abs().max()) < 0.1
    assert float(norms[2:].max()) < 0.3


def test_four_neurons_compute_the_absolute_values_of_two_features():
    """Untied, |x| is exact with a pair of neurons for each: the loss goes to 0 and has_two says so.

    E |x|^2 = 1/6 for each at density 1/2, so 1 % of it is 0.0033 in all. Half of the starts may
    lack a neuron of one sign (a neuron's sign is a coin's): eight starts.
    """
    init = stream(0, "init")
    weights = [initial_weights(8, 4, 2, generator=init), initial_weights(8, 2, 4, generator=init)]
    found = train_neurons(
        weights, [Signed(Independent(2, 0.5, UNIT), 0.5)], n_steps=2500, batch_size=64,
        learning_rate=5e-3, decay=0.5, generator=stream(0, "train"),
    )  # fmt: skip
    best = int(found.losses[-1].argmin())
    assert float(found.losses[-1, best]) < 0.0033
    assert has_two_neurons(found.W_in[best], found.W_out[best]).tolist() == [True, True]
    x = Signed(Independent(2, 0.5, UNIT), 0.5).sample(200, generator=stream(0, "eval")).dense()
    assert float((found.output(x)[best] - x.abs()).square().sum(1).mean()) < 0.0033


def test_bad_input_says_what_is_wrong(unchecked):
    W, W_out = initial_weights(4, 2, 4, generator=stream(0, "init")), torch.ones(4, 4, 2)

    def train(weights=(W,), **settings):
        defaults = {"n_steps": 2, "n_records": 1, "batch_size": 8, **settings}
        laws = defaults.pop("laws", LAWS)
        return train_neurons(weights, laws, generator=stream(0, "t"), **defaults)

    cases = [
        ("n_weights=0", {"weights": ()}),
        ("n_weights=3", {"weights": (W, W_out, W)}),
        (r"W_out \(4, 4, 2\).*got W_out=\(4, 2, 4\)", {"weights": (W, W)}),
        (r"dtype=torch.float64", {"weights": (W, W_out.double())}),
        ("finite numbers in W_out", {"weights": (W, W_out * torch.nan)}),
        ("finite numbers in W,", {"weights": (W * torch.nan,)}),
        ("divides 4 instances, got n_laws=3", {"laws": [LAWS[0]] * 3}),
        ("importance > 0, got smallest_importance=0.0", {"importance": 0.0}),
        (r"0 <= decay <= 1, got decay=1\.5", {"decay": 1.5}),
        ("learning_rate > 0", {"learning_rate": 0.0}),
        (r"converges, got diverged_instances=\[0, 1", {"learning_rate": 1e30, "n_steps": 9}),
    ]
    for message, changes in cases:
        with pytest.raises(ValueError, match=message):
            train(**changes)
    with pytest.raises(ValueError, match=r"0 <= i < 4, got i=4"):
        train().law(4)
    with pytest.raises(ValueError, match=r"W_out=\(2, 3\)"):
        carried(torch.ones(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="finite numbers in W_in"):
        carried(torch.ones(2, 3) * torch.inf, torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"least=0\.0"):
        features_per_neuron(torch.ones(2, 3), torch.ones(3, 2), least=0.0)
