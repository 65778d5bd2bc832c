"""The published toy worlds: their numbers by hand, against what they declare and what they draw."""

import inspect
import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm

from toymodels import orthonormal, presets, stream
from toymodels.laws import (
    assert_binomial,
    cofiring_is_exact,
    declared_moments_agree,
    moments_are_exact,
)


def g(name="dictionary"):
    return stream(0, name)


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


ATOMS = orthonormal(12, 16, generator=g("atoms"))


@cache
def benchmark():
    return presets.benchmark_16k(generator=g())


SMALL = {
    "anders": lambda: presets.anders(),
    "anders, lone": lambda: presets.anders(4, 0.75),
    "anders, correlated": lambda: presets.anders(8, 0.25, 0.7),
    "independent": lambda: presets.absorption("independent", generator=g()),
    "hierarchical": lambda: presets.absorption(generator=g()),
    "magnitudes": lambda: presets.absorption("magnitudes", generator=g()),
    "cooccurrence": lambda: presets.absorption("cooccurrence", generator=g()),
    "batch_topk": lambda: presets.absorption("batch_topk", generator=g()),
    "hedging, independent": lambda: presets.hedging("independent", generator=g()),
    "hedging, hierarchical": lambda: presets.hedging(generator=g()),
    "hedging, positive": lambda: presets.hedging("positive", generator=g()),
    "hedging, negative": lambda: presets.hedging("negative", generator=g()),
    "balance": lambda: presets.hedging_balance(generator=g()),
    "unbalanced": lambda: presets.hedging_balance((0.02, 0.15, 0.5), generator=g()),
    "sparse but wrong": lambda: presets.sparse_but_wrong(generator=g()),
    "sparse but wrong, negative": lambda: presets.sparse_but_wrong(-0.4, generator=g()),
    "sparse but wrong, large": lambda: presets.sparse_but_wrong_large(generator=g()),
    "tree": lambda: presets.nabeshima_tree(generator=g()),
    "ordered, small": lambda: presets.ordered_sae(30, 20, generator=g()),
    "composed": lambda: presets.composed_world(ATOMS, 30, noise_std=0.0, generator=g()).model,
}
LARGE = {
    "sharkey": lambda: presets.sharkey(generator=g()),
    "sharkey, correlated": lambda: presets.sharkey(True, generator=g()),
    "ordered": lambda: presets.ordered_sae(generator=g()),
    "benchmark": lambda: benchmark(),
}
WORLDS = SMALL | LARGE

# name: features, dimensions, expected l0 by hand, mean strength
BY_HAND = {
    "sharkey": (512, 256, 5 / 512 * (1 - 0.99**512) / 0.01, 0.5),
    "sharkey, correlated": (512, 256, 5.0, 0.5),
    "anders": (4, 2, 2.0, 0.5),
    "anders, lone": (8, 4, 1.25, 0.5),
    "anders, correlated": (16, 8, 1.75, 0.5),
    "independent": (4, 50, 0.4, 1.0),
    "hierarchical": (4, 50, 0.4, 1.0),
    "magnitudes": (4, 50, 0.4, 1.0),
    "cooccurrence": (4, 50, 0.4, 1.0),
    "batch_topk": (12, 50, 0.4 + 0.4 * 0.6 + 10 * 0.15, 1.0),
    "hedging, independent": (2, 50, 0.45, 1.0),
    "hedging, hierarchical": (2, 50, 0.30, 1.0),
    "hedging, positive": (2, 50, 0.375, 1.0),
    "hedging, negative": (2, 50, 0.425, 1.0),
    "balance": (4, 50, 0.25 * 1.45, 1.0),
    "unbalanced": (4, 50, 0.25 * 1.67, 1.0),
    "sparse but wrong": (5, 20, 2.0, 1.0),
    "sparse but wrong, negative": (5, 20, 2.0, 1.0),
    "sparse but wrong, large": (50, 100, 0.345 * 24.5 + 50 * 0.05, 1.0),
    "tree": (20, 20, 3 * 0.15 * (1 + 3 * 0.2) + 8 * 0.05, None),
    "ordered, small": (30, 20, 5.0, math.sqrt(2 / math.pi)),
    "ordered": (100, 80, 5.0, math.sqrt(2 / math.pi)),
    "composed": (30, 16, 1.5, 1.0),
    # From the compensated probabilities of sae-lens 6.54.12, gated by a script of its own.
    "benchmark": (16_384, 768, 34.4953, None),
}


@pytest.mark.parametrize("name", WORLDS)
def test_sizes_l0_and_strengths_are_those_computed_by_hand(name):
    world = WORLDS[name]()
    n_features, d_in, l0, strength = BY_HAND[name]
    dist = world.distribution
    assert (dist.n_features, world.d_in) == (n_features, d_in)
    assert dist.expected_l0() == pytest.approx(l0, rel=2e-6)
    assert world.noise_std == 0
    if strength is not None:  # N(1, 0.1) cut at 0 has mean 1.00011
        assert torch.allclose(dist.mean_codes() / dist.firing_probs(), f64(strength), rtol=2e-4)


@pytest.mark.parametrize("name", WORLDS)
def test_samples_fire_as_declared(name):
    """False alarm 1e-10 over the features; n = 40,000: 13 % at p = 0.05 is caught in 99 of 100."""
    world, n = WORLDS[name](), 40_000
    generator = g("eval")
    counts = sum(world.distribution.sample(n // 8, generator=generator).counts() for _ in range(8))
    assert_binomial(counts, n, world.distribution.firing_probs())
    batch = world.sample(3, generator=generator)
    bias = 0.0 if world.bias is None else world.bias
    x = batch.codes.dense() @ world.dictionary.vectors + bias
    assert torch.allclose(batch.x, x, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_small_worlds_obey_the_laws_of_distributions(name):
    dist = SMALL[name]().distribution
    declared_moments_agree(dist, g("test"))
    cofiring_is_exact(dist, g("test"))
    moments_are_exact(dist, g("test"))


@pytest.mark.parametrize(
    ("name", "pairs"),
    {
        "independent": {(0, 1): 0.25 * 0.05},
        "hierarchical": {(0, 1): 0.05, (0, 2): 0.0125, (1, 2): 0.0025},
        "magnitudes": {(0, 1): 0.05, (0, 3): 0.0125},
        "cooccurrence": {(0, 1): 0.95 * 0.05, (1, 2): 0.0025, (2, 3): 0.0025},
        "batch_topk": {(0, 1): 0.24, (0, 2): 0.06, (10, 11): 0.0225},
        "hedging, independent": {(0, 1): 0.05, (1, 1): 0.2},
        "hedging, hierarchical": {(0, 1): 0.05, (1, 1): 0.05},
        "hedging, positive": {(0, 1): 0.05, (1, 1): 0.25 * 0.2 + 0.75 * 0.1},
        "hedging, negative": {(0, 1): 0.025, (1, 1): 0.25 * 0.1 + 0.75 * 0.2},
        "balance": {(0, 1): 0.0375, (1, 2): 0.25 * 0.15**2},
        "unbalanced": {(0, 3): 0.125, (1, 2): 0.25 * 0.02 * 0.15},
        "tree": {(0, 1): 0.03, (1, 2): 0.0, (0, 5): 0.15 * 0.03, (4, 12): 0.0075, (19, 19): 0.05},
        "anders, lone": {(0, 4): 0.25 / 16, (0, 1): 0.0, (5, 6): 0.0},
    }.items(),
)
def test_who_fires_together(name, pairs):
    together = SMALL[name]().distribution.cofiring_probs()
    for (i, j), prob in pairs.items():
        assert together[i, j].item() == pytest.approx(prob, abs=1e-12), (i, j)


@pytest.mark.parametrize(
    ("variant", "phi"),
    [("independent", 0.0), ("hierarchical", 0.397), ("positive", 0.131), ("negative", -0.114)],
)
def test_hedging_has_the_correlation_of_its_table(variant, phi):
    law = presets.hedging(variant, generator=g()).distribution
    assert law.correlation() == pytest.approx(phi, abs=5e-4)
    assert f"{phi:.3f}".replace("0.", ".") in presets.hedging.__doc__ or phi == 0


def test_sharkey_is_five_times_sparser_than_described():
    p = presets.sharkey(generator=g()).distribution.firing_probs()
    assert float(p.sum()) == pytest.approx(0.971, abs=5e-4)
    assert p[-1].item() == pytest.approx(5.7e-5, abs=5e-7)
    assert torch.allclose(p[1:] / p[:-1], f64(0.99), rtol=1e-12)
    law = presets.sharkey(True, generator=g()).distribution
    assert law.firing_probs()[0].item() == pytest.approx(0.0503, abs=5e-5)
    assert law.firing_probs()[-1].item() == pytest.approx(3.0e-4, abs=5e-6)
    latent = law.latent_correlation()[~torch.eye(512, dtype=torch.bool)]
    assert float(latent.mean()) == pytest.approx(0.052, abs=0.002)
    assert float(latent.min()) > 0
    # A common cause makes small and large supports more likely.
    l0 = law.sample(20_000, generator=g("eval")).l0().double()
    assert float(l0.var()) > 1.5 * 5


def test_anders_has_opposite_features_in_each_set_and_orthogonal_sets():
    gram = presets.anders(4).dictionary.gram()
    one, none = torch.eye(2), torch.zeros(4, 4)
    one_set = torch.cat([torch.cat([one, -one], 1), torch.cat([-one, one], 1)])
    wanted = torch.cat([torch.cat([one_set, none], 1), torch.cat([none, one_set], 1)])
    assert torch.equal(gram, wanted)


def test_anders_reaches_the_correlation_of_strengths_asked_for():
    law = presets.anders(2, 0.0, 0.7).distribution
    mean, energy = law.mean_codes()[0] * 2, law.code_energies()[0] * 2
    joint = law.code_moment()[0, 2] * 4
    assert float((joint - mean**2) / (energy - mean**2)) == pytest.approx(0.7, rel=1e-9)
    both = law.sample(100_000, generator=g("eval")).values.reshape(-1, 2).double().log()
    # log g is normal and -log b exponential, so that their variances are known: of heavy tails
    # only the logarithm is compared. Standard error of this correlation below 0.003.
    spread = math.log(1 + 0.7 / 12 / (0.25 - 0.7 / 3))
    assert float(torch.corrcoef(both.T)[0, 1]) == pytest.approx(spread / (spread + 1), abs=0.02)


@pytest.mark.parametrize(("rho", "phi"), [(0.4, 0.259), (-0.4, -0.251), (0.5, 0.330)])
def test_small_sparse_but_wrong_has_the_latent_correlation_stated(rho, phi):
    law = presets.sparse_but_wrong(rho, generator=g()).distribution
    threshold = norm.isf(0.4)
    both = multivariate_normal(mean=[0, 0], cov=[[1, rho], [rho, 1]]).cdf([-threshold] * 2)
    binary = law.binary_correlation()
    assert binary[0, 1].item() == pytest.approx((both - 0.16) / 0.24, abs=1e-6)
    assert binary[0, 4].item() == pytest.approx(phi, abs=5e-4)
    assert torch.allclose(binary[1:, 1:], torch.eye(4, dtype=torch.float64), atol=1e-9)


def test_large_sparse_but_wrong_loses_its_correlations_to_clipping():
    for seed in range(3):
        world = presets.sparse_but_wrong_large(generator=stream(seed, "dictionary"))
        law = world.distribution
        pairs = torch.triu_indices(50, 50, 1)
        latent = law.latent_correlation()[pairs[0], pairs[1]].abs().sort(descending=True).values
        firing = law.binary_correlation()[pairs[0], pairs[1]].abs()
        # 858 of the 1,225 pairs are asked for .3 to .9, by .6 on average.
        assert 0.17 < float(latent[:858].mean()) < 0.20
        assert 0.03 < float((latent >= 0.3).sum()) / 858 < 0.10
        assert float(latent[0]) < 0.5
        assert 0.06 < float(firing.mean()) < 0.07
        assert float(law.firing_probs()[0]) == pytest.approx(0.345 * 49 / 50 + 0.05)
        assert float(law.firing_probs()[49]) == pytest.approx(0.05)


def test_the_tree_has_slightly_unequal_norms_and_the_published_shape():
    world = presets.nabeshima_tree(generator=g())
    scales = world.distribution.mean_codes() / world.distribution.firing_probs()
    assert 0.02 < float(scales.std()) < 0.09  # of .05, 20 draws: outside once in 10,000 seeds
    assert float(world.dictionary.coherence()) < 1e-6
    p = [0.15, 0.03, 0.03, 0.03] * 3 + [0.05] * 8
    assert torch.allclose(world.distribution.firing_probs(), f64(p), rtol=1e-12)


def test_ordered_sae_is_flatter_than_zipf():
    p = presets.ordered_sae(generator=g()).distribution.firing_probs()
    weights = np.arange(1, 101) ** -1.2
    assert p[0].item() == pytest.approx(0.834, abs=5e-4)
    assert p[-1].item() == pytest.approx(0.0070, abs=5e-5)
    assert float(p[0] / p[-1]) == pytest.approx(119, abs=0.5)
    assert weights[0] / weights[-1] == pytest.approx(251, abs=0.5)
    assert 5 * weights[0] / weights.sum() == pytest.approx(1.388, abs=5e-4)
    assert 5 * weights[-1] / weights.sum() == pytest.approx(0.0055, abs=5e-5)


def test_the_composed_world_is_made_of_pairs_and_triples_of_its_atoms():
    made = presets.composed_world(ATOMS, 30, generator=g())
    assert made.model.noise_std == 0.05
    assert (made.mixing > 0).sum(1).tolist() == [2] * 15 + [3] * 15
    for row, weights in zip(made.model.dictionary.vectors, made.mixing, strict=True):
        total = sum(float(w) * a for w, a in zip(weights, ATOMS.vectors, strict=True))
        assert torch.allclose(row, total / total.norm(), atol=1e-6)
    p = made.model.distribution.firing_probs().tolist()
    powers = [i**-0.8 for i in range(1, 31)]
    wanted = [1.5 * power / sum(powers) for power in powers]
    assert sorted(p, reverse=True) == pytest.approx(wanted, rel=1e-12)
    assert p != sorted(p, reverse=True)  # how often a feature fires has nothing to do with its size
    flat = presets.composed_world(ATOMS, 30, l0=20.0, exponent=0.0, generator=g())
    assert flat.model.distribution.firing_probs().tolist() == [0.5] * 30
    assert torch.equal(flat.mixing, made.mixing)


def requested():
    """Zipf's law of the benchmark, before anything is compensated or silenced."""
    low, high, n = 5e-4, 0.4, 16_384
    zipf = [rank**-0.5 for rank in range(1, n + 1)]
    return [low + (high - low) * (z - zipf[-1]) / (zipf[0] - zipf[-1]) for z in zipf]


def first_tree():
    """Parent of each feature of the tree of feature 0, in the benchmark's numbering."""
    parents = {0: -1}
    level, start = [0], 128
    for size in (512, 2048, 8192):
        children = []
        for q in level:
            first = start + 4 * (q - (start - size // 4))
            parents |= dict.fromkeys(range(first, first + 4), q)
            children += range(first, first + 4)
        level, start = children, start + size
    return parents


def test_benchmark_requests_more_than_any_hierarchy_can_have():
    b = f64(requested())
    assert float(b.sum()) == pytest.approx(59.14, abs=5e-3)
    children = b[128:10_880].reshape(-1, 4).sum(1)
    too_many = children > b[:2_688]
    assert int(too_many[:128].sum()) == 116
    assert bool(too_many[128:640].all())
    p = presets.benchmark_marginals()
    assert float(p.sum()) == pytest.approx(34.4953, abs=5e-5)
    assert float(p[:4096].sum()) == pytest.approx(25.17, abs=5e-3)
    assert torch.allclose(p[:128], b[:128], rtol=1e-12)
    assert torch.allclose(p[10_880:], b[10_880:], rtol=1e-12)


def test_benchmark_marginals_are_those_of_the_published_process():
    """That process, simulated on one tree: every feature drawn, then gated, then one sibling kept.

    200,000 samples, false alarm 1e-10 over 85 features; the compensation, if it worked, would
    differ from this by 38 % at the first level and by a factor of 2.5 at the second.
    """
    b, parents, n = requested(), first_tree(), 200_000
    assert len(parents) == 85
    assert max(parents) == 2_688 + 63
    generator = g("eval")
    fires = {}
    for q in (-1, *(i for i in parents if any(parents[j] == i for j in parents))):
        group = [i for i in parents if parents[i] == q]
        drawn = []
        for i in group:
            others = sum(b[j] for j in group if j != i)
            compensated = b[i] if q < 0 else b[i] / b[q] * (1 + others / b[q])
            drawn.append(torch.rand(n, dtype=torch.float64, generator=generator) < compensated)
        gate = torch.ones(n, dtype=torch.bool) if q < 0 else fires[q]
        score = torch.rand(n, len(group), generator=generator)
        score = score.masked_fill(~torch.stack(drawn, 1), -1.0)
        best = score.argmax(1)
        for place, i in enumerate(group):
            fires[i] = gate & drawn[place] & (best == place)
    order = sorted(parents)
    counts = torch.stack([fires[i].sum() for i in order])
    assert_binomial(counts, n, presets.benchmark_marginals()[order])


def test_benchmark_world_has_the_published_shape():
    world = benchmark()
    law = world.distribution
    assert torch.equal(law.firing_probs(), presets.benchmark_marginals())
    codes = law.sample(4_000, generator=g("eval"))
    support, parents = codes.support(), first_tree()
    for i, q in parents.items():
        if q >= 0:
            assert not bool((support[:, i] & ~support[:, q]).any())
    # The copula spreads the l0: variance 138, and 112 without it; standard error 2 of 20,000.
    assert float(law.sample(20_000, generator=g("eval")).l0().double().var()) > 124
    children = support[:, 128:10_880].reshape(len(codes), -1, 4).sum(2)
    assert int(children.max()) == 1
    rms = (law.code_energies() / law.firing_probs()).sqrt()
    assert rms[0].item() == pytest.approx(5.0 * math.sqrt(1 + 0.5 / 4.5**2), rel=1e-4)
    assert rms[-1].item() == pytest.approx(4.0 * math.sqrt(1 + 0.5 / 4.5**2), rel=1e-4)
    assert float(world.bias.norm()) == pytest.approx(0.5, rel=1e-5)
    vectors = world.dictionary.vectors
    cosines = (vectors[:500] @ vectors.T).abs()
    cosines[torch.arange(500), torch.arange(500)] = 0
    assert float(cosines.max(1).values.mean()) == pytest.approx(0.148, abs=0.002)


def public_presets():
    return {
        name: make
        for name, make in vars(presets).items()
        if inspect.isfunction(make)
        and make.__module__ == presets.__name__
        and not name.startswith("_")
        and make.__name__ != "benchmark_marginals"
    }


def test_every_preset_is_tested_and_names_its_source():
    worlds = inspect.getsource(benchmark) + "".join(inspect.getsource(w) for w in WORLDS.values())
    tested = {name for name in public_presets() if f"presets.{name}(" in worlds}
    assert tested == set(public_presets())
    for name, make in public_presets().items():
        source = make.__doc__.partition("Source:")[2]
        assert any(str(year) in source for year in range(2022, 2027)), name
        assert "s published" in make.__doc__, name


def test_worlds_are_functions_of_their_generator():
    for name, make in SMALL.items():
        first, again = make(), make()
        assert torch.equal(first.dictionary.vectors, again.dictionary.vectors), name
        assert torch.equal(first.distribution.mean_codes(), again.distribution.mean_codes()), name
    other = presets.nabeshima_tree(generator=stream(1, "dictionary"))
    assert not torch.equal(other.dictionary.vectors, SMALL["tree"]().dictionary.vectors)


def composed_of(n_features, **options):
    return lambda: presets.composed_world(ATOMS, n_features, **options, generator=g())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: presets.anders(3), "anders: expected an even set_size, got set_size=3"),
        (lambda: presets.anders(0), "an integer set_size >= 1"),
        (lambda: presets.anders(2, 1.5), "0 <= one_hot_prob <= 1"),
        (lambda: presets.anders(2, 0.0, 0.75), r"0 <= correlation < 0.75"),
        (lambda: presets.absorption("tied", generator=g()), "variant one of .*'batch_topk'"),
        (lambda: presets.hedging("tied", generator=g()), "variant one of .*'negative'"),
        (lambda: presets.hedging_balance((), generator=g()), "1 to 49 children"),
        (lambda: presets.hedging_balance((1.2,), generator=g()), r"probabilities in \[0, 1\]"),
        (lambda: presets.sparse_but_wrong(0.6, generator=g()), "-0.5 <= correlation <= 0.5"),
        (lambda: presets.ordered_sae(4, 3, 5, generator=g()), "1 <= k <= 4"),
        (lambda: presets.ordered_sae(0, 3, 5, generator=g()), "an integer n_features >= 1"),
        (composed_of(31), r"a multiple of 2 \(sizes\), got n_features=31"),
        (composed_of(30, sizes=()), r"a multiple of 0 \(sizes\)"),
        (composed_of(30, l0=0.0), "a finite l0 > 0"),
        (composed_of(30, exponent=-1.0), "a finite exponent >= 0"),
        (lambda: presets.benchmark_16k(0, generator=g()), "an integer d_in >= 1"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
