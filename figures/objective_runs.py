"""One box of hyper-parameters for each objective, and what its runs found.

Every dial spans the same factor around its middle: the l0 asked for or the penalty's coefficient
(around the value that gives the true l0); the learning rate. Then come the width, from the number
of features up, and the seed of the initialisation. The middle of a coefficient is what the
controller of l0 ends with at the middle learning rate and the smallest width, so penalties are told
more of the truth than a user would know.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from figures.runs import device
from sae import (
    SAE,
    BatchTopK,
    Gated,
    JumpReLU,
    MatryoshkaBatchTopK,
    ReLU,
    TopK,
    TrainConfig,
    train,
)
from theory import description_length, recovery, stability
from theory.projection import decoder_projection, larger_agreement, pairwise_cosine
from toymodels import Independent, ToyModel, Uniform, random_unit, stream

ARCHITECTURES = ("L1", "Gated", "L1, l0 set", "JumpReLU", "TopK", "BatchTopK", "Matryoshka")
BY_COEFFICIENT = ("L1", "Gated")  # their l0 is what comes out
AXES = ("sparsity", "lr", "width", "seed")
MEASURED = ("share", "cosine", "fvu", "l0", "dead")
SIGNALS = ("larger", "projection", "pairwise", "bits", "seeds")
N_EVAL, N_PROJECTED, L0_RATE = 2048, 512, 0.02
# At these precisions the true dictionary's rounding errors are below a thousandth of the energy.
PRECISION: dict[str, Any] = {"weight_bits": 8, "value_bits": 5, "bin_width": 0.05}


@dataclass(frozen=True)
class Box:
    """The world (features fire independently, with probabilities as i^-exponent) and the dials.

    sparsities: factors on the true l0, or on the middle coefficient.   widths: factors on
    n_features.   larger: factor of the SAE beyond the box that the widest ones are compared with.
    """

    n_features: int = 64
    d_in: int = 32
    l0: int = 4
    exponent: float = 0.75
    sparsities: tuple[float, ...] = (0.25, 1.0, 4.0)
    lrs: tuple[float, ...] = (2e-3, 8e-3, 3.2e-2)
    widths: tuple[int, ...] = (1, 2)
    larger: int = 4
    n_seeds: int = 2

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.sparsities), len(self.lrs), len(self.widths), self.n_seeds)


@dataclass(frozen=True)
class Run:
    """The box of one architecture in world `seed`."""

    seed: int
    architecture: str
    box: Box
    n_steps: int
    batch_size: int
    decoder_trained: bool = True


def world_of(seed: int, box: Box) -> ToyModel:
    """Returns a world of random unit features, `box.l0` of which fire on average."""
    probs = torch.arange(1, box.n_features + 1, dtype=torch.float64) ** -box.exponent
    law = Independent(box.n_features, box.l0 * probs / probs.sum(), Uniform(0.5, 1.5))
    sizes = (box.n_features, box.d_in)
    return ToyModel(law, random_unit(*sizes, generator=stream(seed, "dictionary", device())))


def untrained(run: Run, factor: float, n_latents: int, middle: float, i_seed: int) -> SAE:
    """Returns a fresh SAE; factor: on the true l0, or on `middle`, a coefficient."""
    box, name, l0 = run.box, run.architecture, factor * run.box.l0
    generator = stream(run.seed, f"init {i_seed}", device())
    if name in (*BY_COEFFICIENT, "L1, l0 set"):
        cls = Gated if name == "Gated" else ReLU
        return cls(box.d_in, n_latents, factor * middle, generator=generator)
    if name == "JumpReLU":
        options: dict[str, Any] = {"target_l0": l0, "initial_threshold": 0.1, "bandwidth": 0.1}
        return JumpReLU(box.d_in, n_latents, 1.0, **options, generator=generator)
    k = max(1, round(l0))
    if name == "Matryoshka":
        prefixes = (n_latents // 4, n_latents // 2, n_latents)
        return MatryoshkaBatchTopK(box.d_in, n_latents, k, prefixes, generator=generator)
    cls = TopK if name == "TopK" else BatchTopK
    return cls(box.d_in, n_latents, k, generator=generator)


def trained(run: Run, saes: list[SAE], lrs: list[float], targets: list[float] | None) -> Any:
    """Returns the result of training; Gated in one stack, which is faster than one by one."""
    settings: dict[str, Any] = {"decay": 0.5, "dead_after": 5_000, "n_records": 2}
    settings |= {"target_l0": None if targets is None else tuple(targets), "l0_rate": L0_RATE}
    config = TrainConfig(run.n_steps, run.batch_size, lr=tuple(lrs), **settings)
    engine = "stacked" if run.architecture == "Gated" else "auto"
    generator = stream(run.seed, "train", device())
    return train(saes, world_of(run.seed, run.box), config, generator=generator, engine=engine)


def middle_coefficient(run: Run) -> float:
    """Returns the coefficient at which l0 is the true one; 1 where there is none or no training."""
    if run.architecture not in BY_COEFFICIENT or not run.decoder_trained:
        return 1.0
    box, lr = run.box, run.box.lrs[len(run.box.lrs) // 2]
    sae = untrained(run, 1.0, box.widths[0] * box.n_features, 1.0, 0)
    return float(trained(run, [sae], [lr], [float(box.l0)]).coefficients[0])


def box_run(run: Run) -> dict[str, np.ndarray]:
    """Returns MEASURED and SIGNALS, each [sparsity, lr, width, seed], and the middle coefficient.

    share: of the features found (cosine above .9), minus the bound on what chance finds.
    """
    box, middle = run.box, middle_coefficient(run)
    cells = [tuple(int(i) for i in cell) for cell in np.ndindex(box.shape)]
    beyond = len(box.widths)  # index of the width beyond the box, with one seed
    cells += [(s, r, beyond, 0) for s in range(box.shape[0]) for r in range(box.shape[1])]
    widths = [w * box.n_features for w in (*box.widths, box.larger)]
    saes = [untrained(run, box.sparsities[s], widths[w], middle, i) for s, _, w, i in cells]
    targets = [box.sparsities[s] * box.l0 for s, *_ in cells]
    if run.decoder_trained:
        told = targets if run.architecture == "L1, l0 set" else None
        saes = trained(run, saes, [box.lrs[r] for _, r, *_ in cells], told).saes
    world = world_of(run.seed, box)
    x = world.sample(N_EVAL, generator=stream(run.seed, "eval", device())).x
    seen = run.n_steps * run.batch_size
    found = {c: measured(sae, x, world, seen) for c, sae in zip(cells, saes, strict=True)}
    live = {cell: row.pop("live") for cell, row in found.items()}
    for s, r, w, i in cells[: -box.shape[0] * box.shape[1]]:
        own, row = live[s, r, w, i], found[s, r, w, i]
        next_larger = live[s, r, w + 1, i if w + 1 < beyond else 0]
        alive = len(own) > 0 and len(next_larger) > 0
        row["larger"] = larger_agreement(own, next_larger).value if alive else -1.0
        others = [live[s, r, w, j] for j in range(box.n_seeds) if j != i]
        row["seeds"] = seed_agreement(own, others)
    inside = cells[: int(np.prod(box.shape))]
    names = (*MEASURED, *SIGNALS)
    return {n: np.reshape([found[c][n] for c in inside], box.shape) for n in names} | {
        "middle": np.array(middle)
    }


@torch.no_grad()
def measured(sae: SAE, x: Tensor, world: ToyModel, n_seen: int) -> dict[str, Any]:
    """Returns what one SAE found, the signals that need no other SAE, and its living latents.

    A signal that is not defined because too few latents live is the worst there can be.
    bits: per sample, those of the decoder spread over the `n_seen` samples of the training.
    """
    features, W_dec, b_dec = world.dictionary.vectors, sae.W_dec.detach(), sae.b_dec.detach()
    output = sae(x)
    active = output.latents != 0
    lives = active.any(0)
    found, live, n = recovery(features, W_dec), W_dec[lives], len(W_dec) // 4
    error, spread = (x - output.x_hat).square().sum(), (x - x.mean(0)).square().sum()
    projection = np.inf
    if len(live) > n:  # a quarter of the latents: above every l0 of the box
        projection = decoder_projection(x[:N_PROJECTED], live, b_dec, n=n).value
    latents = output.latents[:, lives] if len(live) else output.latents[:, :1]
    rows = live if len(live) else W_dec[:1]
    message = description_length(x, latents, rows, b_dec, **PRECISION)
    return {
        "share": float(found.recovered.double().mean()) - found.recovered_bound,
        "cosine": (found.score - found.chance) / (1 - found.chance),
        "fvu": float(error / spread),
        "l0": float(active.sum()) / len(x),
        "dead": float((~lives).double().mean()),
        "bits": (message.total - message.dictionary) / len(x) + message.dictionary / n_seen,
        "pairwise": pairwise_cosine(live).value if len(live) > 1 else np.inf,
        "projection": projection,
        "live": live,
    }


def seed_agreement(own: Tensor, others: list[Tensor]) -> float:
    """Returns how far above chance the matched agreement with the other seeds is; -1 for none."""
    if len(own) == 0 or any(len(other) == 0 for other in others):
        return -1.0
    pairs = [stability([own, other]) for other in others]
    return float(np.mean([p.score - p.chance for p in pairs]))


def first_order(values: np.ndarray) -> np.ndarray:
    """Returns the share of the variance over a full box that each axis explains alone.

    S_a = Var(mean over all other axes) / Var; 0 if all values are equal. The rest up to 1 is
    interaction. Null: if the values are permuted over the cells, E S_a = (n_a - 1) / (N - 1)
    exactly, with n_a levels and N cells.
    """
    axes = range(values.ndim)
    total = values.var()
    if not total > 0:
        return np.zeros(values.ndim)
    means = [values.mean(axis=tuple(b for b in axes if b != a)) for a in axes]
    return np.array([mean.var() / total for mean in means])


def first_order_null(shape: tuple[int, ...]) -> np.ndarray:
    """Returns the expectation of `first_order` if values are permuted over the cells."""
    return (np.array(shape) - 1) / (np.prod(shape) - 1)


def regret(recovered: np.ndarray, score: np.ndarray, among: np.ndarray | None = None) -> float:
    """Returns the best recovery minus that of the run with the largest score, ties averaged.

    recovered, score: of the same runs, any shape.   among: which runs may be chosen; None: all.
    The best is the best of those that may be chosen.
    """
    chosen = np.ones(recovered.shape, bool) if among is None else among
    r, s = recovered[chosen], score[chosen]
    return float(r.max() - r[s >= s.max()].mean())


def near_true_l0(l0: np.ndarray, box: Box) -> np.ndarray:
    """Returns which runs have a true l0 to within a quarter; where none has, the nearest.

    l0: [world, architecture, sparsity, lr, width, seed].
    """
    away = np.abs(np.log(np.maximum(l0, 1e-9) / box.l0))
    least = away.min(axis=tuple(range(2, l0.ndim)), keepdims=True)
    return away <= np.maximum(least, np.log(1.25))


def mean_and_radius(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean over worlds (axis 0) and the half-width of its 95 % interval (Student).

    Of two worlds, which give no interval worth the name, the half-width is 0.
    """
    n = len(values)
    if n < 3:
        return values.mean(0), np.zeros(values.shape[1:])
    return values.mean(0), stats.t.ppf(0.975, n - 1) * values.std(0, ddof=1) / np.sqrt(n)
