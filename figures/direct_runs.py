"""One procedure for finding atoms, on one composed world: the runs of fig_direct."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from figures.runs import device
from sae import BatchTopK, TopK, TrainConfig, train, train_meta
from sae.direct import (
    gradient_product,
    held_out_meta_fve,
    meta_dictionary,
    nonnegative_omp,
    product_dictionary,
    refine_rows,
)
from theory import isotropic_rows, recovery
from toymodels import (
    Dictionary,
    Independent,
    ToyModel,
    Uniform,
    composed,
    random_mixing,
    random_unit,
    stream,
)

COHERENCE, NOISE, N_HELD_OUT = 0.25, 0.05, 2000
K, TOLERANCE = 5, 0.28  # of the pursuit: most latents of a sample; unexplained share of its norm
K_SAE = 2  # latents of a sample in gradient training: above the mean number of active features


@dataclass(frozen=True)
class World:
    """A composed world: as many mixtures of each size, l0 features active on average."""

    n_atoms: int = 64
    d_in: int = 64
    n_features: int = 160
    n_samples: int = 10_000
    l0: float = 1.5
    exponent: float = 0.8
    sizes: tuple[int, ...] = (2, 3)


@dataclass(frozen=True)
class Asked:
    """Sizes that every procedure is told, over the true ones."""

    n_latents: float = 1.0
    n_meta: float = 1.0
    k_meta: float = 1.0


@dataclass(frozen=True)
class Effort:
    """Restarts, rounds and steps; `refined` False leaves out the alternating steps on SAE rows."""

    n_restarts: int = 16
    n_starts: int = 2
    n_rounds: int = 2
    sae_steps: int = 2000
    meta_steps: int = 1500
    gradient_steps: int = 2000
    batch_size: int = 512
    refined: bool = True


@dataclass(frozen=True)
class Run:
    """One procedure on one world."""

    seed: int
    procedure: str
    world: World
    asked: Asked
    effort: Effort


def atoms_of(seed: int, world: World) -> Dictionary:
    """Returns random atoms, the cosines of which are clipped until none exceeds 0.25."""
    drawn = random_unit(world.n_atoms, world.d_in, generator=stream(seed, "atoms", device()))
    rows, limit = drawn.vectors.double(), 0.98 * COHERENCE
    for _ in range(500):
        gram = (rows @ rows.T).fill_diagonal_(0)
        if float(gram.abs().max()) <= COHERENCE:
            return Dictionary(rows.float())
        values, vectors = torch.linalg.eigh(gram.clamp(-limit, limit).fill_diagonal_(1))
        n = min(world.d_in, world.n_atoms)
        rows = vectors[:, -n:] * values[-n:].clamp(min=0).sqrt()
        rows = pad(normalize(rows, dim=1), (0, world.d_in - n))
    raise AssertionError(f"atoms of coherence {COHERENCE} not reached")


def world_of(seed: int, world: World) -> tuple[Dictionary, ToyModel]:
    """Returns the atoms and the world of their mixtures, frequencies in random order."""
    atoms, generator = atoms_of(seed, world), stream(seed, "mixing", device())
    n, each = world.n_features, world.n_features // len(world.sizes)
    draws = [random_mixing(each, world.n_atoms, k, generator=generator) for k in world.sizes]
    power = torch.arange(1, n + 1, dtype=torch.float64) ** -world.exponent
    probs = (world.l0 * power / power.sum()).clamp(max=0.5)
    probs = probs[torch.randperm(n, device=generator.device, generator=generator).cpu()]
    law = Independent(n, probs, Uniform(0.5, 1.5))
    return atoms, ToyModel(law, composed(torch.cat(draws), atoms), noise_std=NOISE)


def sae_rows(run: Run, x: Tensor, n_latents: int) -> Tensor:
    """Returns the decoder of an SAE trained on x: TopK at lr .001, BatchTopK at .003 with decay."""
    topk = run.procedure.endswith("topk")
    kind, init = TopK if topk else BatchTopK, stream(run.seed, "init", device())
    lr, decay = (1e-3, 0.0) if topk else (3e-3, 0.4)
    steps, batch = run.effort.sae_steps, run.effort.batch_size
    config = TrainConfig(steps, batch, lr=lr, decay=decay, n_records=2)
    sae = kind(x.shape[1], n_latents, K_SAE, bias=False, generator=init)
    rng = stream(run.seed, "train", device())
    return train(
        sae, lambda n, *, generator: draw(x, n, generator), config, generator=rng
    ).sae.W_dec


def draw(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return x[torch.randint(len(x), (n,), device=x.device, generator=generator)]


def fit(run: Run, x: Tensor, held_out: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Returns rows and atoms by one procedure."""
    seed, effort, asked = run.seed, run.effort, run.asked
    n_latents, n_meta = int(asked.n_latents * len(truth)), int(asked.n_meta * run.world.n_atoms)
    k_meta = int(asked.k_meta * max(run.world.sizes))
    rng = stream(seed, "solver", device())
    sizes: dict[str, Any] = {"n_latents": n_latents, "n_meta": n_meta, "k_meta": k_meta}
    sizes |= {"held_out": held_out, "generator": rng}
    if run.procedure == "direct":
        starts, rounds = effort.n_starts, effort.n_rounds
        product = product_dictionary(x, k=K, n_starts=starts, n_rounds=rounds, **sizes)
        return product.free_rows, product.atoms
    if run.procedure == "gradient":
        steps, batch = effort.gradient_steps, effort.batch_size
        config = TrainConfig(steps, batch, lr=3e-3, decay=0.4, k_annealing=0.5)
        product = gradient_product(x, k=K_SAE, config=config, **sizes)
        return product.rows, product.atoms
    if run.procedure in ("nearest", "oracle"):
        rows = truth
    elif run.procedure == "null":
        drawn = stream(seed, "structureless", device())
        rows = isotropic_rows(n_latents, x.shape[1], generator=drawn)
    else:
        rows = sae_rows(run, x, n_latents).detach()
    if run.procedure == "nearest":
        return rows, rows
    if run.procedure == "refined" and effort.refined:
        rows = refine_rows(x, rows, K, generator=stream(seed, "refine", device()))
    if run.procedure.startswith("meta"):
        init = stream(seed, "meta init", device())
        meta = TopK(x.shape[1], n_meta, k_meta, bias=False, generator=init)
        config = TrainConfig(effort.meta_steps, 256, lr=3e-3, decay=0.4, n_records=2)
        trained = train_meta(rows, meta, config, weights=None, generator=rng).sae
        return rows, trained.W_dec.detach()
    found = meta_dictionary(rows, n_meta, k_meta, generator=rng, n_restarts=effort.n_restarts)
    return rows, found.atoms


def procedure(run: Run) -> dict[str, np.ndarray]:
    """Returns the scores of one procedure; rarest: of the rarest quarter of the features.

    Rows of the direct procedure are its free ones: the meta-FVE of its product is blind.
    """
    atoms, model = world_of(run.seed, run.world)
    x = model.sample(run.world.n_samples, generator=stream(run.seed, "train", device())).x
    held_out = model.sample(N_HELD_OUT, generator=stream(run.seed, "eval", device())).x
    rows, found = fit(run, x, held_out, model.dictionary.vectors)
    of_atoms, of_features = recovery(atoms.vectors, found), recovery(model.dictionary.vectors, rows)
    rarest = model.distribution.firing_probs().argsort()[: run.world.n_features // 4]
    recovered = of_features.recovered.double()
    size = (run.world.n_atoms, max(run.world.sizes))
    rng, n_restarts = stream(run.seed, "split", device()), max(2, run.effort.n_restarts // 2)
    held = held_out_meta_fve(rows, *size, generator=rng, n_restarts=n_restarts)
    floor = TOLERANCE * float(held_out.square().sum(1).mean().sqrt())
    codes = nonnegative_omp(held_out, normalize(rows, dim=1), K, tolerance=floor)
    error = held_out - codes @ normalize(rows, dim=1)
    scores = {
        "share": of_atoms.recovered.double().mean(),
        "cosine": of_atoms.score,
        "chance": of_atoms.chance,
        "composites": recovered.mean(),
        "rarest": recovered[rarest].mean(),
        "held": held,
        "fvu": error.square().sum() / held_out.square().sum(),
        "l0": (codes > 0).double().sum(1).mean(),
    }
    return {name: np.array(float(value)) for name, value in scores.items()}
