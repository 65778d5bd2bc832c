"""H5: up to which k' are the codes of TopK and Multi-TopK SAEs progressive?"""

from dataclasses import dataclass

import numpy as np
import torch

from sae import MultiTopK, TopK, TrainConfig, train
from theory.claims._claim import Claim, Comparisons, Mutant
from theory.claims._trained import Effects, mean_at_least, mean_at_most
from theory.progressive import prefix_errors
from toymodels import Independent, ToyModel, Uniform, random_unit, stream

K, FAR_K, WEIGHT = 5, 20, 1 / 8  # Multi-TopK trains at k and 4k, the latter with weight 1/8
N_EVAL = 2048


@dataclass(frozen=True)
class Superposed:
    """Independent features of firing probability p along random directions."""

    seed: int
    n_features: int = 256
    d_in: int = 64
    firing_prob: float = 0.02
    n_steps: int = 2500
    batch_size: int = 1024


def run(world: Superposed) -> Effects:
    """Returns how the error moves with k', the latents ranked by activation, and its price at k."""
    n, d = world.n_features, world.d_in
    dictionary = random_unit(n, d, generator=stream(world.seed, "dictionary"))
    toy = ToyModel(Independent(n, world.firing_prob, Uniform(0.5, 1.5)), dictionary)
    init = stream(world.seed, "init")
    saes = [
        TopK(d, n, K, generator=init),
        MultiTopK(d, n, (K, FAR_K), (1.0, WEIGHT), generator=init),
    ]
    config = TrainConfig(world.n_steps, world.batch_size)
    trained = train(saes, toy, config, generator=stream(world.seed, "train")).saes
    x = toy.sample(N_EVAL, generator=stream(world.seed, "eval")).x
    variance = (x - x.mean(0)).double().square().sum()
    # Every k' up to twice the far one; further out the error moves slowly.
    ks = [*range(1, 2 * FAR_K + 1), *range(2 * FAR_K + 8, n, 8), n]
    effects: dict[str, float] = {}
    for name, sae in zip(("topk", "multi"), trained, strict=True):
        with torch.no_grad():
            pre_acts = sae.pre_acts(x)
        rows, bias = sae.W_dec.detach(), sae.b_dec.detach()
        errors = prefix_errors(x, pre_acts, rows, bias, ks, positive=True)
        fvu = errors.sum(0) / variance
        effects[f"{name}_rise"] = float(fvu[-1] / fvu.min())
        effects[f"{name}_best_k"] = float(ks[int(fvu.argmin())])
        effects[f"{name}_fvu_k"] = float(fvu[K - 1])
        effects[f"{name}_fvu_far"] = float(fvu[FAR_K - 1])
        effects[f"{name}_worst_step"] = float((fvu[1:K] / fvu[: K - 1]).max())
    effects["cost_at_k"] = effects["multi_fvu_k"] / effects["topk_fvu_k"]
    effects["gain_far"] = effects["multi_fvu_far"] / effects["topk_fvu_far"]
    return {name: np.array(value) for name, value in effects.items()}


def compare(effects: Effects) -> Comparisons:
    return (
        mean_at_least("TopK: error of all positives over its least", effects["topk_rise"], 2.0),
        mean_at_most(
            "TopK: largest error ratio of a step up to k", effects["topk_worst_step"], 1.0
        ),
        mean_at_most(
            "Multi-TopK: error of all positives over its least", effects["multi_rise"], 1.3
        ),
        mean_at_most(
            "Multi-TopK: largest error ratio of a step up to k", effects["multi_worst_step"], 1.0
        ),
        mean_at_most("at 4k: error of Multi-TopK over TopK's", effects["gain_far"], 1.0),
    )


def topk_too(effects: Effects) -> Comparisons:
    label = "TopK: error of all positives over its least"
    return (mean_at_most(label, effects["topk_rise"], 1.3),)


def strictly(effects: Effects) -> Comparisons:
    label = "Multi-TopK: error of all positives over its least"
    return (mean_at_most(label, effects["multi_rise"], 1.01),)


def for_nothing(effects: Effects) -> Comparisons:
    return (mean_at_most("at k: error of Multi-TopK over TopK's", effects["cost_at_k"], 1.0),)


CLAIM = Claim(
    key="H5",
    statement="TopK codes are progressive up to k; Multi-TopK's nearly at every k'\n"
    "256 random unit features in R^64, firing probability .02, magnitudes U(.5, 1.5); width 256, "
    "k = 5, Multi-TopK also at 20 with weight 1/8; 2,500 steps of 1,024. Latents ranked by "
    "activation: up to k the error falls at each step. At all positive latents it is at least "
    "twice its least value for TopK and at most 1.3 times it for Multi-TopK, on average over "
    "worlds; Multi-TopK is the better of the two at 4k.",
    source="Gao et al. 2024, arXiv 2406.04093, 5.3.1",
    proof="",
    status="conjecture",
    kind="trained",
    paper_label="eq:progressive-rise",
    strategy=None,
    compare=compare,
    run=run,
    worlds=tuple(Superposed(seed) for seed in range(8)),
    mutants=(
        Mutant("topk-too", "TopK's codes are progressive beyond k as well", topk_too),
        Mutant("strictly", "Multi-TopK's error does not rise by 1 % beyond its least", strictly),
        Mutant("for-nothing", "Multi-TopK costs nothing at k", for_nothing),
    ),
)
