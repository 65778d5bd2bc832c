"""H9: does a Matryoshka SAE prevent absorption where the child is louder than its parent?"""

from dataclasses import dataclass

import numpy as np
import torch

from sae import SAE, MatryoshkaReLU, ReLU, TrainConfig, train
from theory.absorption import absorption
from theory.claims._claim import Claim, Comparisons, Mutant
from theory.claims._trained import Effects, mean_at_least, mean_at_most
from theory.recovery import recovery
from toymodels import Constant, Hierarchy, Scaled, ToyModel, orthonormal, stream

N_PAIRS, D_IN, L1 = 4, 20, 0.1
PARENT, QUIET, LOUD = 2.0, 1.0, 10.0  # magnitudes of the parent and of the two kinds of child
PREVENTED = 0.5  # Matryoshka at least halves the rate of the same SAE without prefixes
N_EVAL = 4000


@dataclass(frozen=True)
class Pairs:
    """Parents, each with one child that fires on half of the parent's firings and never alone."""

    seed: int
    parent_prob: float = 0.3
    child_prob: float = 0.15
    n_steps: int = 3000
    batch_size: int = 512


def world_of(world: Pairs, child: float) -> ToyModel:
    """Returns orthonormal pairs: parents first, then their children, of magnitude `child`."""
    n = N_PAIRS
    probs = torch.tensor([world.parent_prob] * n + [world.child_prob] * n, dtype=torch.float64)
    law = Hierarchy((-1,) * n + tuple(range(n)), probs, magnitude=Constant(1.0))
    scales = torch.tensor([PARENT] * n + [child] * n, dtype=torch.float64)
    dictionary = orthonormal(2 * n, D_IN, generator=stream(world.seed, "dictionary"))
    return ToyModel(Scaled(law, scales), dictionary)


def run(world: Pairs) -> Effects:
    """Returns how often parents are absorbed, with and without prefixes, by either child."""
    effects: dict[str, float] = {}
    for name, child in (("quiet", QUIET), ("loud", LOUD)):
        toy, init = world_of(world, child), stream(world.seed, "init")
        n_latents = 2 * N_PAIRS
        saes: list[SAE] = [
            ReLU(D_IN, n_latents, L1, generator=init),
            MatryoshkaReLU(D_IN, n_latents, L1, (N_PAIRS, n_latents), generator=init),
        ]
        config = TrainConfig(world.n_steps, world.batch_size, lr=3e-3)
        trained = train(saes, toy, config, generator=stream(world.seed, "train")).saes
        batch = toy.sample(N_EVAL, generator=stream(world.seed, "eval"))
        for kind, sae in zip(("plain", "nested"), trained, strict=True):
            rows, features = sae.W_dec.detach(), toy.dictionary.vectors
            latents = sae.encode(batch.x).detach()
            matching = recovery(features, rows).matching
            found = absorption(batch.codes.dense(), latents, features, rows, matching)
            parents = slice(0, N_PAIRS)
            effects[f"{kind}_{name}_rate"] = float(found.rates[parents].nanmean())
            effects[f"{kind}_{name}_null"] = float(found.null_rates[parents].nanmean())
            effects[f"{kind}_{name}_share"] = float(found.shares[parents].nanmean())
            effects[f"{kind}_{name}_found"] = float((matching[parents] >= 0).double().mean())
        kept = effects[f"nested_{name}_rate"] - PREVENTED * effects[f"plain_{name}_rate"]
        effects[f"{name}_excess"] = kept
    return {name: np.array(value) for name, value in effects.items()}


def compare(effects: Effects) -> Comparisons:
    label = "absorption with prefixes, less half of that without"
    return (
        mean_at_most(f"quiet child: {label}", effects["quiet_excess"], 0.0),
        mean_at_most(f"loud child: {label}", effects["loud_excess"], 0.0),
    )


def quiet_child_too(effects: Effects) -> Comparisons:
    label = "quiet child: absorption with prefixes, less half of that without"
    return (mean_at_least(label, effects["quiet_excess"], 0.0),)


def whatever_the_loudness(effects: Effects) -> Comparisons:
    gap = effects["nested_loud_rate"] - effects["nested_quiet_rate"]
    return (mean_at_most("absorption by a loud child, less that by a quiet one", gap, 0.1),)


def not_without(effects: Effects) -> Comparisons:
    rate, null = effects["plain_quiet_rate"], effects["plain_quiet_null"]
    return (
        mean_at_most("quiet child: absorption without prefixes, over chance", rate - null, 0.1),
    )


CLAIM = Claim(
    key="H9",
    statement="Matryoshka prevents absorption\n"
    "4 orthonormal parents in R^20, p = .3, magnitude 2, each with a child that fires with "
    "p = .15, only with its parent, at magnitude 1 (quiet) or 10 (loud). 8 latents, L1 with "
    "coefficient .1, with and without a prefix of 4; 3,000 steps of 512. The prefix at least "
    "halves the share of the parents' firings that are absorbed, whatever the child. False for the "
    "loud child: its energy comes first, the prefix learns child and parent as one, and the "
    "parent's latent then need not fire with it.",
    source="Bussmann et al. 2025, arXiv 2503.17547; absorption: Chanin et al. 2024, arXiv "
    "2409.14507; the counterexample was predicted by Chanin in a comment on Nabeshima 2024",
    proof="E|x|^2 of a child is 15, of a parent 1.2: the prefix of 4 keeps the children",
    status="refuted",
    kind="trained",
    paper_label="eq:nested-absorption",
    strategy=None,
    compare=compare,
    run=run,
    worlds=tuple(Pairs(seed) for seed in range(8)),
    mutants=(
        Mutant("quiet-child-too", "It does not halve absorption by a quiet child", quiet_child_too),
        Mutant(
            "whatever-the-loudness",
            "The child's loudness moves absorption under Matryoshka by at most .1",
            whatever_the_loudness,
        ),
        Mutant("not-without", "Without prefixes nothing is absorbed either", not_without),
    ),
)
