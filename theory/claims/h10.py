"""H10: do energy weights help a meta-SAE to find atoms, and to refit them?"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae import SAE, TopK, TrainConfig, train_meta
from theory.claims._claim import Claim, Comparisons, Mutant
from theory.claims._trained import Effects, mean_at_least, mean_at_most
from theory.recovery import recovery
from toymodels import Scaled, ToyModel, Zipf, composed, random_mixing, random_unit, stream

N_ATOMS, D_IN, PER_SIZE, K = 48, 48, 64, 3
INITIALISATIONS = 2  # meta-SAEs of each weighting, averaged


@dataclass(frozen=True)
class Estimated:
    """Composites of atoms, fired by Zipf's law, whose rows are estimated from `n_samples`."""

    seed: int
    n_samples: int = 5000
    alpha: float = 1.0
    first_prob: float = 0.3
    noise_std: float = 0.05
    n_steps: int = 2000


def run(world: Estimated) -> Effects:
    """Returns, for each weighting of the rows, how well atoms are found and how well refitted."""
    generator = stream(world.seed, "dictionary")
    atoms = random_unit(N_ATOMS, D_IN, generator=generator)
    sizes = [random_mixing(PER_SIZE, N_ATOMS, k, generator=generator) for k in (2, 3)]
    order = torch.randperm(2 * PER_SIZE, generator=generator)
    mixing = torch.cat(sizes)[order].double()
    n = len(mixing)
    # Scales of their own, or else energies would be proportional to frequencies.
    scales = (0.5 * torch.randn(n, dtype=torch.float64, generator=generator)).exp()
    law = Scaled(Zipf(n, world.alpha, world.first_prob), scales)
    toy = ToyModel(law, composed(mixing, atoms), noise_std=world.noise_std)
    batch = toy.sample(world.n_samples, generator=stream(world.seed, "data"))
    # What an SAE with perfect codes would learn: least squares, noisier for rarer features.
    rows = torch.linalg.lstsq(batch.codes.dense().double(), batch.x.double(), driver="gelsd")[0]
    weights = {
        "uniform": torch.ones(n, dtype=torch.float64),
        "frequency": law.firing_probs(),
        "energy": law.code_energies(),
    }
    order = torch.randperm(n, generator=stream(world.seed, "shuffle"))
    weights["shuffled"] = weights["energy"][order]  # as unequal, but of the wrong rows
    true = atoms.vectors.double()
    shares = mixing / (mixing @ true).norm(dim=1, keepdim=True)
    effects = {}
    for name, weight in weights.items():
        effects[f"found_{name}"] = found(rows.float(), weight, true, world)
        root = weight.sqrt()[:, None]
        refit = torch.linalg.lstsq(root * shares, root * rows).solution
        effects[f"error_{name}"] = float((refit - true).square().sum(1).mean())
    for name in ("frequency", "energy", "shuffled"):
        effects[f"{name}_gain"] = effects[f"found_{name}"] - effects["found_uniform"]
        effects[f"{name}_refit"] = float(
            np.log2(effects["error_uniform"] / effects[f"error_{name}"])
        )
    return {name: np.array(value) for name, value in effects.items()}


def found(
    rows: Float[Tensor, "n d_in"],
    weights: Float[Tensor, " n"],
    atoms: Float[Tensor, "n_atoms d_in"],
    world: Estimated,
) -> float:
    """Returns how well meta-SAEs trained on weighted rows recover the atoms: a mean score."""
    init = stream(world.seed, "init")
    metas: list[SAE] = [
        TopK(D_IN, N_ATOMS, K, bias=False, generator=init) for _ in range(INITIALISATIONS)
    ]
    config = TrainConfig(world.n_steps, 512, lr=3e-3)
    drawn = stream(world.seed, "train")
    trained = train_meta(rows, metas, config, weights=weights, generator=drawn).saes
    scores = [recovery(atoms, sae.W_dec.detach().double()).score for sae in trained]
    return float(np.mean(scores))


def compare(effects: Effects) -> Comparisons:
    gain, refit = "atoms found from scratch, over uniform", "bits of squared error of a refit"
    return (
        mean_at_least(f"energy weights: {gain}", effects["energy_gain"], 0.0),
        mean_at_least(f"frequency weights: {gain}", effects["frequency_gain"], 0.0),
        mean_at_least(f"energy weights: {refit}", effects["energy_refit"], 0.0),
        mean_at_least(f"frequency weights: {refit}", effects["frequency_refit"], 0.0),
    )


def no_better_refit(effects: Effects) -> Comparisons:
    label = "energy weights: bits of squared error of a refit"
    return (mean_at_most(label, effects["energy_refit"], 0.0),)


def no_harm(effects: Effects) -> Comparisons:
    label = "energy weights: atoms found from scratch, over uniform"
    return (mean_at_least(label, effects["energy_gain"], -0.01),)


def inequality_is_harmless(effects: Effects) -> Comparisons:
    label = "energies dealt to the wrong rows: atoms found from scratch, over uniform"
    return (mean_at_least(label, effects["shuffled_gain"], -0.01),)


def frequency_will_do(effects: Effects) -> Comparisons:
    gap = effects["energy_refit"] - effects["frequency_refit"]
    return (mean_at_most("bits of a refit, energy over frequency weights", gap, 0.0),)


CLAIM = Claim(
    key="H10",
    statement="Energy-weighted meta-SAEs recover atoms better\n"
    "128 features in R^48, pairs and triples of 48 atoms, of different scales, fire by Zipf's law; "
    "their rows are estimated by least squares from 5,000 noisy samples with known codes. A TopK "
    "meta-SAE (48 latents, k = 3, 2,000 steps of 512 rows) that draws rows in proportion to "
    "E[a^2], or to the firing probability, recovers the atoms at least as well as one that draws "
    "them uniformly; so does weighted least squares with the mixing known. False for the "
    "first: few rows carry the weight, and the same weights dealt to the rows at random do as "
    "much harm. The second holds.",
    source="asked by Shah in a comment on the post behind Leask et al. 2025, arXiv 2502.04878; "
    "refitting: D2",
    proof="weights shrink the effective number of rows; with the mixing known they are "
    "those of Gauss and Markov",
    status="refuted",
    kind="trained",
    paper_label="eq:weighted-discovery",
    strategy=None,
    compare=compare,
    run=run,
    worlds=tuple(Estimated(seed) for seed in range(8)),
    mutants=(
        Mutant("no-better-refit", "Energy weights do not improve a refit", no_better_refit),
        Mutant("no-harm", "Energy weights cost at most .01 of recovery from scratch", no_harm),
        Mutant(
            "inequality-is-harmless",
            "Energies dealt to the rows at random cost at most .01 of recovery from scratch",
            inequality_is_harmless,
        ),
        Mutant(
            "frequency-will-do",
            "Frequencies are as good weights for a refit as energies",
            frequency_will_do,
        ),
    ),
)
