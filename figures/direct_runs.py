"""One procedure for finding atoms, on one composed world: the runs of fig_direct."""

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from figures.runs import device
from sae import SAE, BatchTopK, MatryoshkaBatchTopK, TopK, TrainConfig, train, train_meta
from sae.architectures.ortho import OrthoBatchTopK
from sae.direct import (
    gradient_product,
    held_out_meta_fve,
    meta_dictionary,
    nonnegative_omp,
    product_dictionary,
    refine_rows,
)
from sae.direct.penalty import train_penalised
from sae.direct.tie import train_tied
from theory import isotropic_rows, recovery
from theory.description_length import description_length
from toymodels import Dictionary, random_unit, stream
from toymodels.presets import ComposedWorld, composed_world

COHERENCE, NOISE, N_HELD_OUT = 0.25, 0.05, 2000
K, TOLERANCE = 5, 0.28  # of the pursuit: most latents of a sample; unexplained share of its norm
K_SAE = 2  # latents of a sample in gradient training: above the mean number of active features
LAMBDA, SIGMA_SQUARED = 0.3, 1.0  # of the penalty: Levinson's choice
BITS: dict[str, Any] = {"weight_bits": 16, "value_bits": 8, "bin_width": NOISE}
TRAINED = ("penalty", "tie", "ortho", "wide", "prefixes", "small")  # both in one
ONE_LEVEL = (
    "nearest",
    "ortho",
    "wide",
    "prefixes",
    "small",
)  # whose atoms are rows


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
    """Restarts, rounds and steps; `refined` False leaves out the alternating steps on SAE rows.

    joint_steps: of the penalty and of the tie, whose two SAEs are trained side by side.
    """

    n_restarts: int = 16
    n_starts: int = 2
    n_rounds: int = 2
    sae_steps: int = 2000
    meta_steps: int = 1500
    gradient_steps: int = 2000
    joint_steps: int = 2000
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


def world_of(seed: int, world: World) -> ComposedWorld:
    """Returns the atoms and the world of their mixtures, frequencies in random order."""
    return composed_world(
        atoms_of(seed, world),
        world.n_features,
        l0=world.l0,
        exponent=world.exponent,
        sizes=world.sizes,
        noise_std=NOISE,
        generator=stream(seed, "mixing", device()),
    )


def data_of(seed: int, world: World) -> Tensor:
    """Returns the samples that every procedure gets."""
    model = world_of(seed, world).model
    return model.sample(world.n_samples, generator=stream(seed, "train", device())).x


@functools.lru_cache(maxsize=2)  # several procedures begin with the same SAE
def sae_rows(seed: int, topk: bool, world: World, n_latents: int, effort: Effort) -> Tensor:
    """Returns the decoder of an SAE trained on x: TopK at lr .001, BatchTopK at .003 with decay."""
    kind, init = TopK if topk else BatchTopK, stream(seed, "init", device())
    lr, decay = (1e-3, 0.0) if topk else (3e-3, 0.4)
    config = TrainConfig(effort.sae_steps, effort.batch_size, lr=lr, decay=decay, n_records=2)
    sae, x = kind(world.d_in, n_latents, K_SAE, bias=False, generator=init), data_of(seed, world)
    rng = stream(seed, "train", device())
    return train(sae, sampler(x), config, generator=rng).sae.W_dec.detach()


def sampler(x: Tensor) -> Any:
    """Returns what draws a batch from x with replacement."""

    def draw(n: int, *, generator: torch.Generator) -> Tensor:
        return x[torch.randint(len(x), (n,), device=x.device, generator=generator)]

    return draw


def fit_trained(
    run: Run, x: Tensor, n_latents: int, n_meta: int, k_meta: int
) -> tuple[Tensor, Tensor]:
    """Returns rows and atoms of a procedure of TRAINED; where atoms fire on their own, with
    K_SAE * k_meta latents a sample."""
    effort, d_in, many = run.effort, x.shape[1], K_SAE * k_meta
    joint = run.procedure in ("penalty", "tie")
    steps = effort.joint_steps if joint else effort.sae_steps
    config = TrainConfig(steps, effort.batch_size, lr=3e-3, decay=0.4, n_records=2)
    rng, options = stream(run.seed, "train", device()), {"bias": False}

    def new(kind: Any, name: str, *sizes: Any) -> Any:
        return kind(d_in, *sizes, generator=stream(run.seed, name, device()), **options)

    if run.procedure == "penalty":
        sae = new(BatchTopK, "init", n_latents, K_SAE)
        meta = new(TopK, "meta init", n_meta, k_meta)
        strength: dict[str, Any] = {"coefficient": LAMBDA, "sigma_squared": SIGMA_SQUARED}
        both = train_penalised(sae, meta, sampler(x), config, config, **strength, generator=rng)
        return both.sae.W_dec.detach(), both.meta_sae.W_dec.detach()
    if run.procedure == "tie":
        levels = new(BatchTopK, "meta init", n_meta, many), new(BatchTopK, "init", n_latents, K_SAE)
        atoms, rows = train_tied(levels, sampler(x), config, generator=rng).levels
        return rows.W_dec.detach(), atoms.W_dec.detach()
    fresh: SAE = {
        "ortho": lambda: new(OrthoBatchTopK, "init", n_latents, many),
        "wide": lambda: new(BatchTopK, "init", n_latents, many),
        "prefixes": lambda: new(MatryoshkaBatchTopK, "init", n_latents, many, (n_meta, n_latents)),
        "small": lambda: new(BatchTopK, "init", n_meta, many),
    }[run.procedure]()
    rows = train(fresh, sampler(x), config, generator=rng).sae.W_dec.detach()
    return rows, rows[:n_meta] if run.procedure == "prefixes" else rows


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
    if run.procedure in TRAINED:
        return fit_trained(run, x, n_latents, n_meta, k_meta)
    if run.procedure in ("nearest", "oracle"):
        rows = truth
    elif run.procedure == "null":
        drawn = stream(seed, "structureless", device())
        rows = isotropic_rows(n_latents, x.shape[1], generator=drawn)
    else:
        topk = run.procedure.endswith("topk")
        rows = sae_rows(seed, topk, run.world, n_latents, replace(effort, refined=True))
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


def scores_of(run: Run) -> dict[str, np.ndarray]:
    """Returns the scores of one procedure; rarest: of the rarest quarter of the features.

    Rows of the direct procedure are its free ones: the meta-FVE of its product is blind. Bits are
    those of a message with the held-out data over those of one without latents: "flat" with the
    rows as the dictionary, "bits" with mixtures of the atoms in their place, if there are any.
    """
    made = world_of(run.seed, run.world)
    atoms, model = made.atoms, made.model
    x = data_of(run.seed, run.world)
    held_out = model.sample(N_HELD_OUT, generator=stream(run.seed, "eval", device())).x
    rows, found = fit(run, x, held_out, model.dictionary.vectors)
    rows, found = normalize(rows, dim=1), normalize(found, dim=1)
    of_atoms, of_features = recovery(atoms.vectors, found), recovery(model.dictionary.vectors, rows)
    rarest = model.distribution.firing_probs().argsort()[: run.world.n_features // 4]
    recovered = of_features.recovered.double()
    size = (run.world.n_atoms, max(run.world.sizes))
    rng, n_restarts = stream(run.seed, "split", device()), max(2, run.effort.n_restarts // 2)
    held = held_out_meta_fve(rows, *size, generator=rng, n_restarts=n_restarts)
    floor = TOLERANCE * float(held_out.square().sum(1).mean().sqrt())
    codes = nonnegative_omp(held_out, rows, K, tolerance=floor)
    error = held_out - codes @ rows
    none = description_length(held_out, 0 * codes, 0 * rows, **BITS).residual
    flat = bits = description_length(held_out, codes, rows, **BITS).total / none
    if run.procedure not in ONE_LEVEL:
        bits = _two_level_bits(held_out, rows, found, size[1], floor) / none
    scores = {
        "share": of_atoms.recovered.double().mean(),
        "cosine": of_atoms.score,
        "chance": of_atoms.chance,
        "composites": recovered.mean(),
        "rarest": recovered[rarest].mean(),
        "held": held,
        "fvu": error.square().sum() / held_out.square().sum(),
        "l0": (codes > 0).double().sum(1).mean(),
        "flat": flat,
        "bits": bits,
    }
    return {name: np.array(float(value)) for name, value in scores.items()}


def _two_level_bits(x: Tensor, rows: Tensor, atoms: Tensor, k_meta: int, floor: float) -> float:
    """Returns the bits of x with, in place of each row, its best mixture of k_meta atoms."""
    mixing = nonnegative_omp(rows, atoms, k_meta)
    product = mixing @ atoms
    norms = product.norm(dim=1, keepdim=True).clamp(min=1e-12)
    codes = nonnegative_omp(x, product / norms, K, tolerance=floor)
    return description_length(x, codes, atoms, mixing=mixing / norms, **BITS).total
