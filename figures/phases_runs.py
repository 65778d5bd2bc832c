"""The runs of fig_phases: descents of the exact potential, its growth, and SGD on samples of it."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from theory.critical_points import Phase, phase
from theory.newton import flatten
from theory.phase_dynamics import polygon_labels, sgd_paths
from theory.phases import polygon_phase, search_phases
from theory.potential import potential, refine
from toymodels import ExactlyK, Uniform, stream

N_FEATURES = 6  # of all runs but the search's
STARTS = ("square", "random")
SMALL = 1e-3  # distance at which growth is measured: cubic terms are a thousandth of it


@dataclass(frozen=True)
class Descents:
    """Descents of the potential from random starts in world `seed`."""

    seed: int
    n_features: int
    n_hidden: int
    n_starts: int


def search_run(run: Descents) -> dict[str, np.ndarray]:
    """Returns losses, [n_starts]: of the minima found, each as often as it was, then of the rest.

    resolved: [n_starts], whether the end is a minimum that is C^2 (else no Newton's method).
    """
    name = f"search {run.n_features} {run.n_hidden}"
    generator = stream(run.seed, name)
    found = search_phases(run.n_features, run.n_hidden, run.n_starts, generator=generator)
    minima = [p.loss for p, n in zip(found.phases, found.counts, strict=True) for _ in range(n)]
    resolved = [True] * len(minima) + [False] * found.n_unresolved
    losses = np.array(minima + list(found.unresolved))
    return {"losses": losses, "resolved": np.array(resolved)}


@dataclass(frozen=True)
class Growth:
    """Directions from which the flattest way out of a polygon phase is looked for, in one world."""

    seed: int
    n_vertices: int
    n_raised: int
    n_starts: int


def growth_run(run: Growth) -> dict[str, np.ndarray]:
    """Returns "growth", the least c (L(w + d) - L(w)) / |d|^2 found at |d| = SMALL.

    d is orthogonal to what is flat: the rotation and the biases of silent columns. Above 0, L grows
    like |d|^2 around a manifold of minima, and the learning coefficient is half the number of
    directions, whether L is C^2 or not.
    """
    here = polygon_phase(N_FEATURES, run.n_vertices, n_raised=run.n_raised)
    m, c = here.W.shape
    at, silent = flatten(here.W, here.b), (here.W.norm(dim=0) == 0) & (here.b < 0)
    turned = torch.stack([-here.W[1], here.W[0]])
    rotation = flatten(turned / turned.norm(), torch.zeros_like(here.b))
    moving = flatten(torch.ones_like(here.W), torch.where(silent, 0.0, 1.0))

    def growth(direction: np.ndarray) -> tuple[float, np.ndarray]:
        v = torch.from_numpy(direction).requires_grad_()
        d = moving * (v - (v @ rotation) * rotation)
        w = at + SMALL * d / d.norm()
        rise = potential(w[: m * c].view(m, c), w[m * c :]) - here.loss
        value = c * rise / SMALL**2
        value.backward()
        return float(value.detach()), v.grad.numpy()  # type: ignore[union-attr]

    generator = stream(run.seed, "directions")
    starts = torch.randn(run.n_starts, len(at), generator=generator, dtype=torch.float64)
    options = {"maxiter": 500}
    ends = [minimize(growth, s, jac=True, options=options).fun for s in starts.numpy()]
    return {"growth": np.array(min(ends))}


@dataclass(frozen=True)
class Training:
    """SGD on samples x = z e_i, in all worlds at once, from near a square and from random starts.

    n_runs: of each kind in each world; every run has samples and a start of its own.
    noise: standard deviation of each parameter around the square with dead columns of bias 0.
    """

    n_worlds: int
    n_runs: int
    n_epochs: int
    record_every: int
    n_samples: int = 1000
    batch_size: int = 20
    lr: float = 0.005
    noise: float = 0.05


def training_run(run: Training) -> dict[str, np.ndarray]:
    """Returns epochs, [records], and by kind, world, run and record the exact loss and the label.

    losses, vertices, raised: [kinds, worlds, runs, records]; see `polygon_labels`.
    """
    worlds = [start_of(kind, seed, run) for kind in STARTS for seed in range(run.n_worlds)]
    x, W, b = (torch.cat(parts) for parts in zip(*worlds, strict=True))
    paths = sgd_paths(
        x,
        W,
        b,
        lr=run.lr,
        batch_size=run.batch_size,
        n_epochs=run.n_epochs,
        record_every=run.record_every,
        generator=stream(0, "order"),
    )
    vertices, raised = polygon_labels(paths.W, paths.b)
    shape = (len(STARTS), run.n_worlds, run.n_runs, len(paths.epochs))
    arrays = {"losses": potential(paths.W, paths.b), "vertices": vertices, "raised": raised}
    found = {name: value.T.reshape(shape).numpy() for name, value in arrays.items()}
    return {"epochs": paths.epochs.numpy(), **found}


def start_of(kind: str, seed: int, run: Training) -> tuple[Tensor, Tensor, Tensor]:
    """Returns samples and starts of the runs of one kind in world `seed`."""
    c, n = N_FEATURES, run.n_runs
    law, drawn = ExactlyK(c, 1, Uniform(0.0, 1.0)), stream(seed, f"data {kind}")
    x = torch.stack([law.sample(run.n_samples, generator=drawn).dense() for _ in range(n)])
    generator = stream(seed, f"init {kind}")
    W = torch.randn(n, 2, c, generator=generator, dtype=torch.float64)
    b = torch.randn(n, c, generator=generator, dtype=torch.float64)
    if kind == "square":
        return x.double(), polygon_phase(c, 4).W + run.noise * W, run.noise * b
    return x.double(), W / math.sqrt(2), 0.1 * b


def twin_phase() -> Phase:
    """Returns the pentagon of six features in which two shorter columns share a vertex."""
    lengths = [0.874, 0.874, 1.147, 1.147, 1.159, 1.159]
    angles = (
        torch.tensor([0.0, 0.0, 71.0, -71.0, 144.0, -144.0], dtype=torch.float64) * math.pi / 180
    )
    W = torch.tensor(lengths, dtype=torch.float64) * torch.stack([angles.cos(), angles.sin()])
    b = torch.tensor([-0.199] * 2 + [-0.246] * 2 + [-0.264] * 2, dtype=torch.float64)
    return phase(*refine(W, b))


NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(3)  # exact for squares of lines


def quadrature(W: np.ndarray, b: np.ndarray) -> float:
    """Returns E|x - relu(W^T W x + b)|^2 by Gauss's rule on either side of each output's kink."""
    gram, c = W.T @ W, len(b)
    kinks = np.clip(-b / np.where(gram == 0, 1.0, gram), 0, 1) * (gram != 0)
    total = 0.0
    for low, high in ((np.zeros((c, c)), kinks), (kinks, np.ones((c, c)))):
        z = low[..., None] + (high - low)[..., None] * (NODES + 1) / 2
        out = np.maximum(gram[..., None] * z + b[:, None], 0)
        error = np.eye(c)[..., None] * z - out
        total += ((high - low) / 2 * (NODE_WEIGHTS * error**2).sum(-1)).sum()
    return float(total / c)
