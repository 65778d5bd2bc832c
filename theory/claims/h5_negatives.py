"""H5-negatives: do negative activations carry information where features have one sign?"""

from dataclasses import dataclass

import numpy as np
import torch

from sae import SAE, MultiTopK, ReLU, TopK, TrainConfig, train
from theory.claims._claim import Claim, Comparison, Comparisons, Mutant
from theory.claims._trained import Effects, mean_at_least, mean_at_most, share_at_least
from theory.recovery import recovery
from theory.signs import sign_consistency, sign_necessity
from toymodels import Independent, ToyModel, Uniform, random_unit, stream

K, L1, N_NEGATIVE = 3, 0.1, 8  # the code read: active latents and the 8 most negative
N_EVAL = 500  # samples, each with a non-negative least-squares problem
NAMES = ("TopK", "MultiTopK", "L1")


@dataclass(frozen=True)
class Rays:
    """Independent features of positive magnitude along random directions; SAEs of their number."""

    seed: int
    n_features: int = 48
    d_in: int = 32
    firing_prob: float = 0.04
    n_steps: int = 3000
    batch_size: int = 512


def run(world: Rays) -> Effects:
    """Returns gains by negative activations, the sign necessity and its bounds, for each SAE."""
    n, d = world.n_features, world.d_in
    features = random_unit(n, d, generator=stream(world.seed, "dictionary"))
    toy = ToyModel(Independent(n, world.firing_prob, Uniform(0.5, 1.5)), features)
    init = stream(world.seed, "init")
    # Without a bias the features' own code is a feasible one, which the bounds suppose.
    saes: list[SAE] = [
        TopK(d, n, K, bias=False, generator=init),
        MultiTopK(d, n, (K, 4 * K), (1.0, 1 / 8), bias=False, generator=init),
        ReLU(d, n, L1, bias=False, generator=init),
    ]
    config = TrainConfig(world.n_steps, world.batch_size, lr=3e-3, dead_after=5_000)
    trained = train(saes, toy, config, generator=stream(world.seed, "train")).saes
    batch = toy.sample(N_EVAL, generator=stream(world.seed, "eval"))
    codes = batch.codes.dense().double()
    power = float(batch.x.double().square().sum(1).mean())
    effects: dict[str, float] = {}
    for name, sae in zip(NAMES, trained, strict=True):
        with torch.no_grad():
            latents, pre_acts = sae.encode(batch.x), sae.pre_acts(batch.x)
        low = pre_acts.topk(N_NEGATIVE, dim=1, largest=False)
        negative = torch.zeros_like(pre_acts).scatter(1, low.indices, low.values.clamp(max=0))
        rows, bias = sae.W_dec.detach(), sae.b_dec.detach()
        drawn = stream(world.seed, "signs")
        signs = sign_consistency(batch.x, latents + negative, rows, bias, generator=drawn)
        every = torch.ones_like(latents, dtype=torch.bool)
        matching = recovery(features.vectors, rows).matching
        matched = torch.where((matching >= 0)[:, None], rows[matching.clamp(min=0)], 0)
        distance = (features.vectors - matched).double().norm(dim=1)
        effects |= {
            f"{name}_gain": signs.gain,
            f"{name}_gain_null": signs.gain_null,
            f"{name}_scaled": signs.scaled_gain,
            f"{name}_scaled_null": signs.scaled_gain_null,
            f"{name}_necessity": sign_necessity(batch.x, every, rows, bias),
            f"{name}_bound": float((codes @ distance).square().mean()) / power,
            f"{name}_worst_bound": float(distance.max() ** 2 * codes.sum(1).square().mean())
            / power,
        }
    return {name: np.array(value) for name, value in effects.items()}


def compare(effects: Effects) -> Comparisons:
    results: list[Comparison] = []
    for name in NAMES:
        gain, scaled = effects[f"{name}_gain"], effects[f"{name}_scaled"]
        results.append(mean_at_least(f"{name}: gain by negatives, frozen decoder", gain, 0.0))
        results.append(mean_at_least(f"{name}: gain, each with its best scale", scaled, 0.0))
    return tuple(results)


def strangers(effects: Effects) -> Comparisons:
    gaps = {name: effects[f"{name}_gain"] - effects[f"{name}_gain_null"] for name in NAMES}
    label = "gain, less that by another sample's negatives"
    return tuple(mean_at_most(f"{name}: {label}", gap, 0.0) for name, gap in gaps.items())


def necessary(effects: Effects) -> Comparisons:
    necessity = {name: effects[f"{name}_necessity"] for name in NAMES}
    label = "sign necessity of all latents"
    return tuple(mean_at_least(f"{name}: {label}", v, 0.05) for name, v in necessity.items())


def beyond_the_bound(effects: Effects) -> Comparisons:
    beyond = {name: effects[f"{name}_necessity"] > effects[f"{name}_bound"] for name in NAMES}
    label = "sign necessity beyond E (sum_i a_i |d_i - w_i|)^2 / E|x|^2"
    return tuple(share_at_least(f"{name}: {label}", v, 0.5) for name, v in beyond.items())


CLAIM = Claim(
    key="H5-negatives",
    statement="Negative activations carry information\n"
    "48 random unit features in R^32 of firing probability .04 and magnitudes U(.5, 1.5), so rays; "
    "TopK (k = 3), Multi-TopK (3, 12) and L1 SAEs of width 48, 3,000 steps of 512. Adding the 8 "
    "most negative pre-activations of each sample to the code does not raise the error, with the "
    "decoder as it is and with the best scalar for each of the two codes. False of all three: "
    "it multiplies the error. They do know their sample, being "
    "better than another sample's, and almost no energy needs negative coefficients.",
    source="raised by Gao et al. 2024, arXiv 2406.04093, 5.3.1, whose codes are read over all "
    "latents; the bound on necessity is new",
    proof="sign necessity: a itself is a feasible non-negative code, so it is at most "
    "E (sum_i a_i |d_i - w_i|)^2",
    status="refuted",
    kind="trained",
    paper_label="eq:trained-negatives",
    strategy=None,
    compare=compare,
    run=run,
    worlds=tuple(Rays(seed) for seed in range(8)),
    mutants=(
        Mutant("strangers", "They are no better than those of another sample", strangers),
        Mutant("necessary", "5 % of the energy needs negative coefficients", necessary),
        Mutant(
            "beyond-the-bound",
            "Sign necessity exceeds its bound in half of the worlds",
            beyond_the_bound,
        ),
    ),
)
