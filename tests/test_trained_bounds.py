"""Lower bounds that hold for any SAE, on SAEs that were really trained, and on the very batch.

Each is compared with the empirical moments of that batch, so that no sampling error enters. Each
twin is a stronger, false bound, which the trained SAE beats.
"""

import pytest
import torch

from sae import JumpReLU, MatryoshkaBatchTopK, ReLU, TopK, TrainConfig, train, train_meta
from theory import fve, spectral_fve_bound, spectral_loss_bound
from toymodels import ExactlyK, Independent, ToyModel, Zipf, orthonormal, random_unit, stream

N, M, D = 24, 8, 16  # features, latents, dimensions
N_EVAL = 2000
ROUNDING = 1e-5  # of float32 sums, relative


def trained(saes, world, seed, steps=400):
    config = TrainConfig(steps, 256, lr=1e-2, decay=0.5)
    return train(saes, world, config, generator=stream(seed, "train")).saes


def losses(saes, x):
    with torch.no_grad():
        return [float((x - sae(x).x_hat).double().square().sum(1).mean()) for sae in saes]


def narrow(seed, d_in):
    init = stream(seed, "init")
    return [
        TopK(d_in, M, M, generator=init),
        TopK(d_in, M, 2, generator=init),
        ReLU(d_in, M, 1e-3, generator=init),
        JumpReLU(d_in, M, 1e-4, generator=init),
        MatryoshkaBatchTopK(d_in, M, k=4, prefixes=(2, M), generator=init),
    ]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("superposed", [False, True])
def test_the_loss_is_at_least_the_variance_of_the_smallest_axes(superposed, seed):
    """A1: m latents and a bias reconstruct within an affine space of m dimensions."""
    make, d_in = (random_unit, D) if superposed else (orthonormal, N)
    world = ToyModel(Zipf(N, 1.0, 0.5), make(N, d_in, generator=stream(seed, "dictionary")))
    x = world.sample(N_EVAL, generator=stream(seed, "eval")).x
    covariance = torch.cov(x.double().T, correction=0)
    bound, scale = spectral_loss_bound(covariance, M), float(covariance.trace())
    found = losses(trained(narrow(seed, d_in), world, seed), x)
    assert min(found) >= bound - ROUNDING * scale
    assert min(found) < spectral_loss_bound(covariance, M // 2), "the twin: half of the latents"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_meta_sae_explains_at_most_the_largest_axes(weighted, bias):
    """A2, B1: FVE <= the spectral bound, for every architecture, k and weights."""
    rows = orthonormal(D, D, generator=stream(0, "rows")).vectors
    weights = Zipf(D, 1.0, 0.5).firing_probs().float() if weighted else None
    init = stream(0, "init")
    saes = [TopK(D, M, k, bias=bias, generator=init) for k in (1, 4, M)]
    saes.append(ReLU(D, M, 1e-3, bias=bias, generator=init))
    config = TrainConfig(400, 256, lr=1e-2, decay=0.5)
    metas = train_meta(rows, saes, config, weights=weights, generator=stream(0, "train")).saes
    bound = spectral_fve_bound(rows, M, weights=weights, bias=bias).fve
    with torch.no_grad():
        fves = [fve(rows, sae(rows).x_hat, weights=weights) for sae in metas]
    assert max(fves) <= bound + ROUNDING
    fewer = spectral_fve_bound(rows, M // 2, weights=weights, bias=bias).fve
    assert max(fves) > fewer, "the twin: half of the latents"


@pytest.mark.parametrize("seed", range(2))
def test_one_sparse_codes_lose_all_but_a_share_of_the_tail(seed):
    """A4: (1 - mu) sum of the smallest energies, if one latent is active and one feature fires."""
    dictionary = random_unit(N, 64, generator=stream(seed, "dictionary"))
    for law in (ExactlyK(N, 1), Independent(N, 0.002)):
        world = ToyModel(law, dictionary)
        batch = world.sample(N_EVAL, generator=stream(seed, "eval"))
        alone = batch.codes.l0() <= 1
        codes, x = batch.codes.dense()[alone].double(), batch.x[alone]
        energies = codes.square().mean(0).sort().values
        tail, mu = float(energies[: N - M].sum()), dictionary.coherence()
        saes = [TopK(64, M, 1, bias=False, generator=stream(i, "init")) for i in range(3)]
        found = losses(trained(saes, world, seed), x)
        assert min(found) >= (1 - mu) * tail - ROUNDING * float(energies.sum())
        fewer = float(energies[: N - M // 2].sum())
        assert min(found) < fewer, "the twin: half of the latents, and no factor"
