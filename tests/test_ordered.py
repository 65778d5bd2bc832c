"""The ordered SAE: its loss is the expectation over prefixes; training puts latents in order."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from scipy import stats

from sae import MatryoshkaBatchTopK, TopK, TrainConfig, train
from sae import strategies as saes
from sae.architectures.ordered import OrderedTopK
from sae.laws import in_general_position
from theory import recovery
from toymodels import presets, stream


def g(name="init"):
    return stream(0, name)


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=g("x"))


@torch.no_grad()
def naive_loss(sae, x):
    """Prefix by prefix: the code is cut off, and what is left is decoded."""
    latents, total = sae.encode(x), 0.0
    for m, prob in enumerate(sae.prefix_probs, start=1):
        cut = latents.clone()
        cut[:, m:] = 0
        total += prob * float((x - sae.decode(cut)).square().sum(1).mean())
    return total


@given(sae=OrderedTopK.strategy(), generator=saes.generators())
def test_the_loss_is_the_expectation_over_prefixes(sae, generator):
    sae, x = in_general_position(sae, generator), normal(7, sae.d_in)
    assert sae.loss(x).total.item() == pytest.approx(naive_loss(sae, x), rel=1e-9)


@given(base=TopK.strategy(), generator=saes.generators())
def test_all_probability_on_the_whole_code_is_topk(base, generator):
    base = in_general_position(base, generator)
    probs = (0.0,) * (base.n_latents - 1) + (1.0,)
    ordered = OrderedTopK(**base.settings(), prefix_probs=probs, generator=generator).double()
    ordered.load_state_dict(base.state_dict())
    assert not ordered.ordered
    x, half = normal(9, base.d_in), torch.arange(base.n_latents) % 2 == 0
    for dead in (None, half):
        one, other = ordered.loss(x, dead).total, base.loss(x, dead).total
        assert torch.equal(one, other)
        found, wanted = (
            torch.autograd.grad(loss, [p for p in sae.parameters() if p.requires_grad])
            for loss, sae in ((one, ordered), (other, base))
        )
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_groups_are_a_matryoshka_sae_whose_errors_are_averaged():
    """With k = n_latents no selection tells the two apart."""
    nested = in_general_position(MatryoshkaBatchTopK(5, 6, 6, (2, 3, 6), generator=g()), g("w"))
    probs = (0.0, 1 / 3, 1 / 3, 0.0, 0.0, 1 / 3)
    ordered = OrderedTopK(5, 6, 6, probs, generator=g()).double()
    ordered.load_state_dict(nested.state_dict(), strict=False)
    x = normal(40, 5)
    wanted = nested.loss(x).total / 3
    assert ordered.loss(x).total.item() == pytest.approx(wanted.item(), rel=1e-12)


@pytest.mark.parametrize("cosine", [0.0, 0.3, 0.9])
def test_one_latent_each_costs_p_1_and_merging_costs_one_less_the_cosine(cosine):
    """Two unit features, each alone in half of the samples, so that either cost is halved."""
    rows = torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]], dtype=torch.float64)
    each = OrderedTopK(2, 2, 1, (0.4, 0.6), bias=False, generator=g()).double()
    with torch.no_grad():
        each.W_dec.copy_(rows)
        each.W_enc.copy_(rows.T)
    merged = copy.deepcopy(each)
    with torch.no_grad():
        merged.W_dec[0] = rows.sum(0) / rows.sum(0).norm()
        merged.W_enc.copy_(torch.stack([merged.W_dec[0], 0 * rows[1]], dim=1))
    assert each.loss(rows).total.item() == pytest.approx(0.4 / 2, abs=1e-12)
    assert merged.loss(rows).total.item() == pytest.approx((1 - cosine) / 2, abs=1e-12)


def test_training_orders_latents_by_frequency_unless_all_prefixes_are_whole():
    """32 features in Zipf's law, two SAEs each. Were the latents in random order, the mean of two
    Spearman correlations would have the standard deviation 1 / sqrt(2 * 31) and be above 3.1 of
    them once in 1,000; the broken twin stays below."""
    world = presets.ordered_sae(32, 24, 3, generator=g("dictionary"))
    laws = ((1 / 32,) * 32, (0.0,) * 31 + (1.0,))
    fresh = [
        OrderedTopK(24, 32, 3, law, bias=False, generator=g(f"init {i}"))
        for law in laws
        for i in range(2)
    ]
    config = TrainConfig(120, 64, lr=3e-2, n_records=2)
    trained = train(fresh, world, config, generator=g("train")).saes
    orders = []
    for sae in trained:
        found = recovery(world.dictionary.vectors, sae.W_dec.detach()).matching.numpy()
        features = np.flatnonzero(found >= 0)
        orders.append(np.asarray(stats.spearmanr(features, found[features]))[0])
    assert sum(orders[:2]) / 2 > 3.1 / math.sqrt(62)
    assert abs(sum(orders[2:]) / 2) < 3.1 / math.sqrt(62)


BAD = [
    ((0.5, 0.5), "OrderedTopK: expected 4 prefix_probs", "n_prefix_probs=2"),
    ((0.5, 0.5, -0.5, 0.5), "prefix_probs >= 0", "[-0.5]"),
    ((0.5, float("nan"), 0.0, 0.5), "prefix_probs >= 0", "[nan]"),
    ((0.5, 0.5, 0.5, 0.5), "of sum 1", "sum=2.0"),
    ((0.5, 0.5, 0.0, 0.0), "never trained", "last=0.0"),
]


@pytest.mark.parametrize(("probs", "rule", "got"), BAD)
def test_bad_prefix_probs_raise_one_clear_error(probs, rule, got):
    with pytest.raises(ValueError, match="expected") as caught:
        OrderedTopK(2, 4, 1, probs, generator=g())
    assert rule in str(caught.value)
    assert got in str(caught.value)
