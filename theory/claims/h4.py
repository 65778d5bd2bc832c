"""H4: does a lower meta-FVE mean that more latents are atoms?"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from sae import SAE, BatchTopK, MatryoshkaBatchTopK, ReLU, TopK, TrainConfig, train, train_meta
from theory.claims._claim import Claim, Comparisons, Mutant
from theory.claims._trained import Effects, mean_at_least, mean_at_most
from theory.compressibility import fve
from theory.isotropic import isotropic_rows
from theory.recovery import RECOVERED_COSINE, recovery
from toymodels import (
    Dictionary,
    ToyModel,
    Uniform,
    Zipf,
    composed,
    random_mixing,
    random_unit,
    stream,
)

N_ATOMS, PER_SIZE, WIDTHS = 48, 48, (48, 96)  # composites: 48 pairs and 48 triples of atoms
NULLS = 2  # draws of isotropic rows for each width


@dataclass(frozen=True)
class Composed:
    """A world whose 96 features are pairs and triples of 48 atoms in `d_in` dimensions."""

    seed: int
    d_in: int = 32
    mean_l0: float = 1.2
    noise_std: float = 0.02
    n_steps: int = 2000
    n_meta_steps: int = 1000


def world_of(run: Composed) -> tuple[Dictionary, ToyModel]:
    """Returns the atoms and the world of their composites, which fire by a power law."""
    generator = stream(run.seed, "dictionary")
    atoms = random_unit(N_ATOMS, run.d_in, generator=generator)
    sizes = [random_mixing(PER_SIZE, N_ATOMS, k, generator=generator) for k in (2, 3)]
    mixing = torch.cat(sizes)[torch.randperm(2 * PER_SIZE, generator=generator)]
    n = len(mixing)
    first = run.mean_l0 / float((torch.arange(1, n + 1) ** -0.5).sum())
    law = Zipf(n, 0.5, first, magnitude=Uniform(0.5, 1.5))
    return atoms, ToyModel(law, composed(mixing, atoms), noise_std=run.noise_std)


def members(run: Composed) -> list[SAE]:
    """Returns untrained SAEs of three architectures, two widths and several sparsities."""
    d, init = run.d_in, stream(run.seed, "init")
    saes: list[SAE] = [TopK(d, m, k, generator=init) for m in WIDTHS for k in (1, 2, 3, 5)]
    saes += [ReLU(d, m, l1, generator=init) for m in WIDTHS for l1 in (0.1, 0.3)]
    prefixes = (24, 48, 96)
    saes += [MatryoshkaBatchTopK(d, 96, k, prefixes, generator=init) for k in (2, 5)]
    return saes


def meta_fve(rows: Float[Tensor, "n d_in"], run: Composed) -> float:
    """Returns the uncentred FVE of a meta-SAE of a quarter of the width, four latents a row."""
    init = stream(run.seed, "meta init")
    meta = BatchTopK(run.d_in, len(rows) // 4, 4, generator=init)
    config = TrainConfig(run.n_meta_steps, 256, lr=3e-3, dead_after=5_000)
    drawn = stream(run.seed, "meta rows")
    trained = train_meta(rows, meta, config, weights=None, generator=drawn).sae
    return fve(rows, trained(rows).x_hat.detach())


def run(world: Composed) -> Effects:
    """Returns rank correlations, over the SAEs of one world, of meta-FVE with atomicity."""
    atoms, toy = world_of(world)
    config = TrainConfig(world.n_steps, 256, lr=3e-3, dead_after=5_000)
    generator = stream(world.seed, "train")
    trained = train(members(world), toy, config, generator=generator).saes
    drawn = stream(world.seed, "null")
    nulls = {
        m: np.mean(
            [meta_fve(isotropic_rows(m, world.d_in, generator=drawn), world) for _ in range(NULLS)]
        )
        for m in WIDTHS
    }
    decoders = [sae.W_dec.detach() for sae in trained]
    raw = [meta_fve(rows, world) for rows in decoders]
    scores = {
        "fve": raw,
        "excess": [f - nulls[len(rows)] for f, rows in zip(raw, decoders, strict=True)],
    }
    truth = {"nearest": [], "atoms": [], "recovery": []}
    for rows in decoders:
        unit = Dictionary.normalise(rows).vectors
        to_atom = (unit @ atoms.vectors.T).amax(1)
        nearest = to_atom > (unit @ toy.dictionary.vectors.T).amax(1)
        truth["nearest"].append(float(nearest.float().mean()))
        truth["atoms"].append(float((nearest & (to_atom > RECOVERED_COSINE)).float().mean()))
        truth["recovery"].append(recovery(atoms.vectors, rows).score)
    effects = {
        f"{score}_{what}": rank_correlation(scores[score], truth[what])
        for score in scores
        for what in truth
    }
    effects["misled"] = misled(scores["excess"], truth["atoms"])
    return {name: np.array(value) for name, value in effects.items()}


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns Spearman's rank correlation, in [-1, 1]; NaN if either is constant."""
    with np.errstate(invalid="ignore"):
        return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def misled(fves: Sequence[float], atomicity: Sequence[float]) -> float:
    """Returns the share of pairs of SAEs whose lower FVE goes with fewer atoms.

    Pairs with equally many atoms are left out; NaN if there are no others.
    """
    pairs = itertools.combinations(zip(fves, atomicity, strict=True), 2)
    signs = [(f - g) * (a - b) for (f, a), (g, b) in pairs if a != b]
    return sum(sign > 0 for sign in signs) / len(signs) if signs else float("nan")


def compare(effects: Effects) -> Comparisons:
    return (
        mean_at_most("rank correlation, latents that are atoms", effects["fve_atoms"], 0.0),
        mean_at_most("the same above the null", effects["excess_atoms"], 0.0),
        mean_at_most("rank correlation, latents nearest an atom", effects["fve_nearest"], 0.0),
        mean_at_most("the same, above the null", effects["excess_nearest"], 0.0),
    )


def more_atomic(effects: Effects) -> Comparisons:
    label = "rank correlation, latents that are atoms"
    return (mean_at_least(label, effects["fve_atoms"], 0.0),)


def in_every_pair(effects: Effects) -> Comparisons:
    label = "share of pairs of SAEs that FVE above the null orders wrongly"
    return (mean_at_most(label, effects["misled"], 0.05),)


def atoms_recovered(effects: Effects) -> Comparisons:
    label = "rank correlation, recovery of the atoms"
    return (
        mean_at_most(label, effects["fve_recovery"], -0.5),
        mean_at_most("the same above the null", effects["excess_recovery"], -0.5),
    )


CLAIM = Claim(
    key="H4",
    statement="Lower meta-FVE means more atomic latents\n"
    "96 features in R^32 are pairs and triples of 48 atoms and fire by a power law, 1.2 at a time. "
    "14 SAEs (TopK, L1, Matryoshka; width 48 or 96), 2,000 steps of 256; for each a meta-SAE of a "
    "quarter of the width, k = 4. Over the 14 of a world the meta-FVE and the share of latents "
    "that are atoms (nearer to one than to a composite, and at a cosine above .9 or not) have a "
    "negative rank correlation, on average over worlds; likewise the meta-FVE less that of "
    "isotropic rows.",
    source="Levinson 2026, arXiv 2604.03436; Korznikov et al. 2025, arXiv 2509.22033",
    proof="",
    status="conjecture",
    kind="trained",
    paper_label="eq:meta-atomicity",
    strategy=None,
    compare=compare,
    run=run,
    worlds=tuple(Composed(seed) for seed in range(8)),
    mutants=(
        Mutant("higher", "Higher meta-FVE means more atomic latents", more_atomic),
        Mutant(
            "in-every-pair",
            "Of two SAEs of one world that with the lower meta-FVE above the null has more atoms, "
            "in at least 95 % of the pairs",
            in_every_pair,
        ),
        Mutant(
            "atoms-recovered",
            "Lower meta-FVE means that the atoms are recovered, with a rank correlation below -.5",
            atoms_recovered,
        ),
    ),
)
