"""Meta-SAEs: the weights decide which rows are kept."""

import importlib
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import bits, same_bits

from sae import TopK, TrainConfig, published_meta_sae, train, train_meta, train_tower
from toymodels import orthonormal, stream
from toymodels import strategies as tms
from toymodels.laws import assert_binomial

N_WORLDS = 4
WEIGHTS = torch.tensor([1.0, 1.0] + [0.02] * 6)
CONFIG = TrainConfig(300, 32, lr=2e-2, dead_after=100, n_records=2)


def weights_dropped(rows, saes, config, *, weights, generator):
    """The broken twin: a meta-SAE trained without its weights."""
    return train_meta(rows, saes, config, weights=None, generator=generator)


@cache
def weighted_fve(train, world, weighted):
    """1 - sum_i w_i |d_i - d_hat_i|^2 / sum_i w_i |d_i|^2; 4 meta-latents, 8 orthonormal rows."""
    rows = orthonormal(8, 8, generator=stream(world, "dictionary")).vectors
    meta_sae = TopK(8, 4, 2, bias=False, generator=stream(world, "init"))
    weights = WEIGHTS if weighted else None
    generator = stream(world, "train")
    trained = train(rows, meta_sae, CONFIG, weights=weights, generator=generator).sae
    error = (rows - trained(rows).x_hat.detach()).square().sum(1)
    return float(1 - (WEIGHTS @ error) / WEIGHTS.sum())


def assert_weights_help(train):
    """Four meta-latents can hold four of the eight rows: 0.962 with the two heavy ones among them.

    Unweighted, the rows are exchangeable, so the weighted FVE is 0.5 in expectation, whatever is
    learned. The margin is about half of the expected difference.
    """
    worlds = range(N_WORLDS)
    gain = sum(weighted_fve(train, w, True) - weighted_fve(train, w, False) for w in worlds)
    assert gain / N_WORLDS >= 0.25


def test_weights_raise_the_weighted_fve():
    assert_weights_help(train_meta)


def test_dropped_weights_are_caught():
    with pytest.raises(AssertionError):
        assert_weights_help(weights_dropped)


def drawer(monkeypatch, rows, weights):
    """Returns the sampler that train_meta hands to train."""
    taken = []
    module = importlib.import_module("sae.meta")
    original = module.train

    def spy(saes, draw, config, *, generator):
        taken.append(draw)
        return original(saes, draw, config, generator=generator)

    monkeypatch.setattr(module, "train", spy)
    meta_sae = TopK(rows.shape[1], 2, 1, generator=stream(0, "init"))
    config = TrainConfig(1, 1)
    train_meta(rows, meta_sae, config, weights=weights, generator=stream(0, "train"))
    monkeypatch.undo()
    return taken[0]


@given(
    weights=st.lists(st.sampled_from([0.0, 1e-6, 0.5, 1.0, 7.0]), min_size=1, max_size=6).filter(
        any
    ),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    generator=tms.generators(),
)
def test_rows_are_drawn_in_proportion_to_their_weights(weights, dtype, generator):
    n, w = 20_000, torch.tensor(weights, dtype=dtype)
    rows = torch.arange(len(w), dtype=torch.float32)[:, None]
    with pytest.MonkeyPatch.context() as monkeypatch:
        x = drawer(monkeypatch, rows, w)(n, generator=generator)
    counts = torch.bincount(x[:, 0].long(), minlength=len(w))
    assert_binomial(counts, n, (w.double() / w.double().sum()))


def test_no_weights_are_equal_weights():
    rows = orthonormal(5, 6, generator=stream(0, "dictionary")).vectors
    config = TrainConfig(5, 8)
    runs = []
    for weights in (None, torch.ones(5), 4 * torch.ones(5, dtype=torch.float64), WEIGHTS[:5]):
        meta_sae = TopK(6, 4, 2, generator=stream(0, "init"))
        generator = stream(0, "train")
        sae = train_meta(rows, meta_sae, config, weights=weights, generator=generator).sae
        runs.append(torch.cat([p.detach().flatten() for p in sae.parameters()]))
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])
    assert not torch.equal(runs[0], runs[3])


SHORT = TrainConfig(6, 16, n_records=2)


def g():
    return stream(0, "train")


def rows_of_an_sae(n, *, generator):
    return torch.randn(n, 6, generator=generator)


@pytest.mark.parametrize("make", [TopK, published_meta_sae])
def test_the_rows_of_a_trained_sae_can_be_passed_as_they_are(make):
    """With weights that have a gradient too; the arguments get none, and the bits are the same."""
    a = train(TopK(6, 9, 2, generator=stream(0, "a")), rows_of_an_sae, SHORT, generator=g()).sae
    weights = torch.linspace(0, 1, 9).requires_grad_()

    def trained(rows, weights):
        levels = [make(6, m, 2, generator=stream(m, "init")) for m in (5, 3)]
        own = {"weights": weights, "weighting": "energy"}
        return [
            train_meta(rows, levels[0], SHORT, weights=weights, generator=g()).sae,
            *train_tower(rows, levels, SHORT, **own, generator=g()),
        ]

    plain = trained(a.W_dec.detach(), weights.detach())
    for first, second in zip(plain, trained(a.W_dec, weights), strict=True):
        assert same_bits(bits(first), bits(second))
    assert all(p.grad is None for p in (*a.parameters(), weights))
