"""The points of fig_two_bases: what weights determine and what an SAE recovers, in one world."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor

from figures.runs import device
from sae import TopK, TrainConfig, train
from theory import recovery
from theory.autoencoder_curvature import autoencoder_gauss_newton, rotation_tangents
from theory.degeneracy import (
    WeightBasis,
    activation_basis,
    turned_share,
    two_bases,
    weight_basis,
)
from theory.effective_rank import common_features_bound
from theory.interaction_basis import interaction_basis
from theory.phases import polygon_phase
from theory.potential import potential_hessian
from theory.recovery import RECOVERED_COSINE
from toymodels import (
    Dictionary,
    ExactlyK,
    Independent,
    ToyModel,
    Uniform,
    Zipf,
    initial_weights,
    orthonormal,
    random_unit,
    stream,
    train_superposition,
)

PLANE_COSINE = 0.99  # in a plane chance recovers most of a pentagon at 0.9, a quarter of it here
N_TURNS = 64  # rotations of the dictionary that make up the null
EXACT = 1e-9  # threshold of a law without samples: the soft rank is then the rank
ROUNDING = 1e-7  # relative to the largest curvature: what counts as 0


@dataclass(frozen=True)
class Reading:
    """How a dictionary is looked for: TopK SAEs of twice as many latents as there are features.

    Of n_starts trained side by side the one of least error counts, so the truth has no say in it.
    """

    ks: tuple[int, ...]
    n_samples: int
    n_steps: int
    n_starts: int


@dataclass(frozen=True)
class PhaseRun:
    """The exact potential's critical point: a polygon of n_vertices, the other columns silent."""

    seed: int
    n_features: int
    n_vertices: int
    n_raised: int
    reading: Reading
    projected: bool


@dataclass(frozen=True)
class ToyRun:
    """Networks trained together, one for each density; feature i has the importance decay^i."""

    seed: int
    n_features: int
    n_hidden: int
    decay: float
    densities: tuple[float, ...]
    n_steps: int
    reading: Reading
    projected: bool


@dataclass(frozen=True)
class ReaderRun:
    """A linear map from n_features directions of R^d_in, which fire by a power law in their rank.

    span: dimensions that the directions span, at most d_in.
    """

    seed: int
    exponent: float
    span: int
    n_features: int
    d_in: int
    reading: Reading


def tau(n_samples: float | int) -> float:
    """Returns ln N / N: localisation 1 at the inverse temperature 1 / ln N of N samples."""
    return math.log(n_samples) / n_samples


def enough(weights: WeightBasis) -> float:
    """Returns the samples N at which the weights lack half a direction; infinity if rank does."""
    h = weights.eigenvalues[: weights.rank]
    if weights.rank < weights.n_free:
        return math.inf
    low, high = math.e, math.e**40  # tau falls from N = e on
    while high / low > 1.001:
        n = math.sqrt(low * high)
        lacking = float((tau(n) / (h + tau(n))).sum())
        low, high = (n, high) if lacking > 0.5 else (low, n)
    return high


def phase_run(run: PhaseRun) -> dict[str, np.ndarray]:
    """Returns the two sides of an exact phase: the Hessian's rank; SAEs on h = W z e_i."""
    point = polygon_phase(run.n_features, run.n_vertices, n_raised=run.n_raised)
    hessian, tangents = potential_hessian(point.W, point.b), rotation_tangents(point.W)
    weights = _weights(hessian, tangents, EXACT, run.projected)
    law = ExactlyK(run.n_features, 1, Uniform(0.0, 1.0))
    drawn = law.sample(run.reading.n_samples, generator=stream(run.seed, "data", device()))
    columns = point.W.T.float().to(device())
    features = columns[columns.norm(dim=1) > ROUNDING]
    return _both(weights, features, drawn.dense().float() @ columns, run.seed, run.reading)


def toy_run(run: ToyRun) -> dict[str, np.ndarray]:
    """Returns the two sides of trained networks, [densities, ...]; both see the same samples.

    live: features whose column is longer than a half.   enough: samples that would complete the
    weights.   interaction: soft count of the directions of the hidden layer that move the outputs,
    sum s^2 / (s^2 + tau), s the strengths.
    """
    importance = run.decay ** torch.arange(run.n_features, device=device())
    laws = [Independent(run.n_features, p, Uniform(0.0, 1.0)) for p in run.densities]
    init = stream(run.seed, "init", device())
    fresh = initial_weights(len(laws), run.n_hidden, run.n_features, generator=init)
    nets = train_superposition(
        fresh,
        laws,
        importance=importance,
        n_steps=run.n_steps,
        batch_size=512,
        learning_rate=5e-3,
        generator=stream(run.seed, "network", device()),
    )
    data = stream(run.seed, "data", device())
    rows = []
    for i, law in enumerate(laws):
        x = law.sample(run.reading.n_samples, generator=data).dense().float()
        W, b = refined(nets.W[i], nets.b[i], x, importance)
        curvature = autoencoder_gauss_newton(W, b, x, importance=importance)
        threshold = tau(run.reading.n_samples)
        weights = _weights(curvature, rotation_tangents(W), threshold, run.projected)
        few = x[:1000].double()
        on = (few @ W.T @ W + b > 0).double()
        basis = interaction_basis(few @ W.T, on[:, :, None] * W.T)
        energy = basis.strengths.square()
        row = _both(weights, W.T.float(), x @ W.T.float(), run.seed, run.reading)
        row["live"] = np.array(float((W.norm(dim=0) > 0.5).sum()))
        row["enough"] = np.array(enough(weights))
        row["interaction"] = np.array(float((energy / (energy + threshold)).sum()))
        rows.append(row)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def reader_run(run: ReaderRun) -> dict[str, np.ndarray]:
    """Returns the two sides of a linear reader; G3's bound for r directions above tau.

    common, bound: how many of the most common recovered features there are and may be, where the
    two are closest; NaN where the bound is void or fewer than r features are recovered.
    """
    drawn = random_unit(
        run.n_features, run.span, generator=stream(run.seed, "dictionary", device())
    )
    inside = orthonormal(run.span, run.d_in, generator=stream(run.seed, "span", device()))
    rows = drawn.vectors @ inside.vectors
    share = float((torch.arange(1, run.n_features + 1).double() ** -run.exponent).sum())
    law = Zipf(run.n_features, run.exponent, 1 / share, ceiling=0.5, magnitude=Uniform(0.5, 1.5))
    world, n = ToyModel(law, Dictionary(rows)), run.reading.n_samples
    energies = law.code_energies().to(rows.device)
    moment = (rows.double().T * energies) @ rows.double()
    weights = _weights((moment + moment.T) / 2, moment[:0], tau(n), True)
    x = world.sample(n, generator=stream(run.seed, "data", device())).x
    found = _both(weights, rows, x, run.seed, run.reading)
    found["common"], found["bound"] = np.full(2, np.nan)
    r = max(1, int((weights.eigenvalues > tau(n)).sum()))
    order = [i for i in energies.argsort(descending=True).tolist() if found["mask"][0, i]]
    tail, tightest = float(weights.eigenvalues[r:].sum()), 0.0
    for m in range(max(r, 1), len(order) + 1):
        mu = Dictionary(rows[order[:m]]).rms_coherence() if m > 1 else 0.0
        bound = common_features_bound(max(r, 1), tail, float(energies[order[m - 1]]), min(mu, 1))
        if m / bound > tightest:
            found["common"], found["bound"], tightest = (
                np.array(1.0 * m),
                np.array(bound),
                m / bound,
            )
    return found


def refined(
    W: Tensor, b: Tensor, x: Tensor, importance: Tensor
) -> tuple[Float[Tensor, "n_hidden n_features"], Float[Tensor, " n_features"]]:
    """Returns the minimiser of the loss on these samples to which L-BFGS leads from (W, b)."""
    cut, x, importance = W.numel(), x.double().cpu(), importance.double().cpu()

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.from_numpy(w)
        V, bias = at[:cut].view_as(W), at[cut:]
        h = x @ V.T
        out = (h @ V + bias).relu()
        error = (out - x) * importance
        back = torch.where(out > 0, 2 * error / len(x), 0.0)
        slope = torch.cat([(h.T @ back + V @ back.T @ x).flatten(), back.sum(0)])
        return float((error * (out - x)).sum() / len(x)), slope.numpy()

    start = torch.cat([W.flatten(), b]).double().cpu().numpy()
    options = {"maxiter": 1000, "gtol": 1e-6, "ftol": 1e-13}
    end = torch.from_numpy(minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x)
    return end[:cut].view(W.shape).to(W.device), end[cut:].to(W.device)


def _weights(curvature: Tensor, tangents: Tensor, threshold: float, projected: bool) -> WeightBasis:
    kept = tangents if projected else tangents[:0]
    return weight_basis(curvature, kept, threshold=threshold, tolerance=ROUNDING)


def _both(
    weights: WeightBasis, features: Tensor, x: Tensor, seed: int, reading: Reading
) -> dict[str, np.ndarray]:
    """Returns both counts and their verdict, the activation side for each k.

    recovered, null: [ks], numbers of features.   mask: [ks, features].   opposed: [ks], the
    verdict of `two_bases`, and what it would be without its notes: [ks], raw.
    """
    d, n = x.shape[1], len(features)
    limit = PLANE_COSINE if d == 2 else RECOVERED_COSINE
    init, turns = stream(seed, "init", device()), stream(seed, "turns", device())
    each = [k for k in reading.ks for _ in range(reading.n_starts)]
    saes = [TopK(d, 2 * n, k, bias=False, generator=init) for k in each]

    def draw(size: int, *, generator: torch.Generator) -> Tensor:
        return x[torch.randint(len(x), (size,), device=x.device, generator=generator)]

    config = TrainConfig(reading.n_steps, 256, lr=1e-2, decay=0.5, dead_after=5_000, n_records=2)
    trained = train(saes, draw, config, generator=stream(seed, "train", device())).saes
    rows: list[dict[str, Any]] = []
    for i, k in enumerate(reading.ks):
        starts = trained[i * reading.n_starts : (i + 1) * reading.n_starts]
        with torch.no_grad():
            errors = [float((x - sae(x).x_hat).square().sum()) for sae in starts]
            best = starts[errors.index(min(errors))]
            living = (best.encode(x) != 0).any(0)
        latents = best.W_dec.detach()[living]
        mask = recovery(features, latents).cosines > limit
        null = turned_share(features, latents, cosine=limit, n_draws=N_TURNS, generator=turns)
        side = activation_basis(mask, null, width=d, n_latents=2 * n, k=k)
        verdict = two_bases(weights, side)
        raw = (verdict.weights, verdict.activations) == ("undercomplete", "overcomplete")
        row = {"recovered": side.n_recovered, "null": side.null, "mask": mask.cpu().numpy()}
        row |= {"fvu": min(errors) / float(x.square().sum())}
        rows.append(row | {"opposed": verdict.opposed, "raw": raw})
    counts = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    sides = {"n_free": weights.n_free, "rank": weights.rank, "soft_rank": weights.soft_rank}
    sides |= {"width": d, "n_features": n}
    return counts | {name: np.array(float(value)) for name, value in sides.items()}
