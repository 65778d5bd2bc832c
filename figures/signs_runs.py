"""Worlds and runs of fig_signs and fig_sign_laws: signs of codes on exact and trained rows."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from figures.runs import device
from sae import SAE, AbsTopK, MultiTopK, TopK, TrainConfig, train
from theory import recovery
from theory.signs import refitted, sign_consistency, sign_necessity
from toymodels import (
    Dictionary,
    ExactlyK,
    Signed,
    ToyModel,
    Uniform,
    antipodal,
    hadamard_union,
    orthonormal,
    random_unit,
    stream,
)

D_IN, K, N_NEGATIVE = 16, 3, 4  # active features; most negative latents read beside the active ones
FAMILIES = ("orthonormal", "hadamard", "random", "antipodal")  # by coherence: 0, 1/4, random, 1
SCORES = ("score", "score_null", "gain", "gain_null", "scaled_gain", "scaled_gain_null")
SCORES += ("necessity", "necessity_null")
RAYS = ("TopK", "MultiTopK", "AbsTopK")  # trained on rays


@dataclass(frozen=True)
class Exact:
    """The true dictionary of world `seed`, less `n_missing` rows, read on its own data.

    bipolar: share of the features that are used with either sign.
    flipped: whether the first row left points the wrong way.
    """

    seed: int
    family: str
    bipolar: float
    n_missing: int
    n_samples: int
    flipped: bool


@dataclass(frozen=True)
class Trained:
    """SAEs (architecture, width) trained together in world `seed`, and how they are read."""

    seed: int
    family: str
    bipolar: float
    saes: tuple[tuple[str, int], ...]
    n_steps: int
    n_samples: int
    gains: tuple[float, ...] = (1.0,)


def dictionary(family: str, seed: int) -> Dictionary:
    """Returns 16 features in R^16 of an orthonormal family, 32 of the others."""
    generator = stream(seed, "dictionary", device())
    if family == "hadamard":
        turn = orthonormal(D_IN, D_IN, generator=generator).vectors  # a basis of its own
        return Dictionary(hadamard_union(D_IN).vectors.to(turn.device) @ turn)
    if family == "random":
        return random_unit(2 * D_IN, D_IN, generator=generator)
    basis = orthonormal(D_IN, D_IN, generator=generator)
    return basis if family == "orthonormal" else antipodal(basis)


def world_of(family: str, bipolar: float, seed: int) -> ToyModel:
    """Returns a world in which K features fire; the first round(bipolar n) have random signs."""
    rows = dictionary(family, seed)
    n = rows.n_features
    law = ExactlyK(n, K, Uniform(0.5, 1.5))
    positive = torch.ones(n, dtype=torch.float64)
    positive[: round(bipolar * n)] = 0.5
    return ToyModel(Signed(law, positive) if bipolar else law, rows)


def exact_run(run: Exact) -> dict[str, np.ndarray]:
    """Returns how the signs of the true dictionary read, told which features are active.

    score, energy: of the refitted coefficients; mean energy |a|^2 of a sample.   necessity: on the
    active features.   prefixes: the largest on the 1 to K - 1 strongest.   every: on all rows.
    expected: what `every` must be for the rows of a basis and some of their opposites.
    coherence.   All in float64.
    """
    world = world_of(run.family, run.bipolar, run.seed)
    batch = world.sample(run.n_samples, generator=stream(run.seed, "eval", device()))
    codes = batch.codes.dense().double().cpu()
    features = world.dictionary.vectors.double().cpu()
    features = torch.nn.functional.normalize(features, dim=1)
    x, rows, zero = codes @ features, features[run.n_missing :].clone(), torch.zeros(D_IN).double()
    rows[0] *= -1 if run.flipped else 1
    shown = codes[:, run.n_missing :]
    coefs = refitted(x, shown != 0, rows, zero)
    total = coefs.square().sum()
    ranks = shown.abs().argsort(1, descending=True).argsort(1)
    few = slice(0, min(run.n_samples, 300))  # NNLS on every row is slow
    prefixes = [sign_necessity(x[few], (ranks < t)[few], rows, zero) for t in range(1, K)]
    basis, opposite = (x[few] @ features[:D_IN].T).clamp(min=0), run.n_missing
    return {
        "score": np.array(float((coefs.sign() * coefs.square()).sum() / total)),
        "energy": np.array(float(total / len(x))),
        "necessity": np.array(sign_necessity(x, shown != 0, rows, zero)),
        "prefixes": np.array(max(prefixes)),
        "every": np.array(sign_necessity(x[few], torch.ones_like(shown[few]) > 0, rows, zero)),
        "expected": np.array(float(basis[:, :opposite].square().sum() / x[few].square().sum())),
        "coherence": np.array(world.dictionary.coherence()),
    }


def trained_run(run: Trained) -> dict[str, np.ndarray]:
    """Returns the readings of SCORES, [saes, gains], and necessities beside their bounds, [saes].

    The code read is that of the SAE and its N_NEGATIVE most negative pre-activations, decoded by
    gain * W_dec; latents of AbsTopK are turned, by another half of the samples, to be mostly
    positive. told, every: necessity on the latents matched to the active features, and on all.
    worst: E[delta^2 |a|_1^2] / E|x|^2, delta the largest distance of a feature from its latent, 1
    from none; bound: E[(sum_i delta_i |a_i|)^2] / E|x|^2, no larger. On rays both are bounds: a
    itself is a feasible code of either support.
    """
    world = world_of(run.family, run.bipolar, run.seed)
    fresh = [untrained(name, n, stream(run.seed, "init", device())) for name, n in run.saes]
    config = TrainConfig(run.n_steps, 256, lr=1e-2, decay=0.5, dead_after=5_000, n_records=2)
    trained = train(fresh, world, config, generator=stream(run.seed, "train", device())).saes
    batch = world.sample(2 * run.n_samples, generator=stream(run.seed, "eval", device()))
    codes, features = batch.codes.dense().double(), world.dictionary.vectors
    later = slice(run.n_samples, None)
    x, zero = batch.x[later], torch.zeros_like(batch.x[0])
    power = float(x.double().square().sum(1).mean())
    results = []
    for sae in trained:
        code, rows = signed_code(sae, batch.x), sae.W_dec.detach()
        if sae.signed:
            earlier = sae.encode(batch.x[: run.n_samples]).detach()
            turn = torch.where((earlier * earlier.abs()).sum(0) < 0, -1, 1)
            code, rows = code * turn, rows * turn[:, None]
        found = recovery(features, rows).matching
        matched = torch.where((found >= 0)[:, None], rows[found.clamp(min=0)], 0)
        distance = (features - matched).double().norm(dim=1)
        told = supports(codes[later] != 0, found, len(rows))
        readings = []
        for gain in run.gains:
            drawn = stream(run.seed, "signs", device())
            signs = sign_consistency(x, code[later], gain * rows, zero, generator=drawn)
            readings.append([getattr(signs, name) for name in SCORES])
        columns = np.array(readings).T
        row: dict[str, np.ndarray] = {name: c for name, c in zip(SCORES, columns, strict=True)}
        row["told"] = np.array(sign_necessity(x, told, rows, zero))
        row["every"] = np.array(sign_necessity(x, torch.ones_like(told), rows, zero))
        sizes = codes[later].abs()
        row["bound"] = np.array(float((sizes @ distance).square().mean()) / power)
        largest = float(distance.max() ** 2 * sizes.sum(1).square().mean())
        row["worst"] = np.array(largest / power)
        results.append(row)
    return {name: np.stack([row[name] for row in results]) for name in results[0]}


def untrained(name: str, n_latents: int, generator: torch.Generator) -> SAE:
    """Returns a fresh SAE without decoder bias, which the bounds suppose."""
    if name == "MultiTopK":
        ks, weights = (K, 4 * K), (1.0, 1 / 8)
        return MultiTopK(D_IN, n_latents, ks, weights, bias=False, generator=generator)
    cls = {"TopK": TopK, "AbsTopK": AbsTopK}[name]
    return cls(D_IN, n_latents, K, bias=False, generator=generator)


def signed_code(sae: SAE, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch n_latents"]:
    """Returns the SAE's code, and the N_NEGATIVE most negative of its other pre-activations."""
    with torch.no_grad():
        latents, pre_acts = sae.encode(x), sae.pre_acts(x)
    rest = torch.where(latents != 0, torch.zeros_like(pre_acts), pre_acts)
    low = rest.topk(N_NEGATIVE, dim=1, largest=False)
    return latents.scatter_add(1, low.indices, low.values.clamp(max=0))


def supports(
    active: Bool[Tensor, "batch n_features"], matching: Tensor, n_latents: int
) -> Bool[Tensor, "batch n_latents"]:
    """Returns which latents are matched to active features."""
    told = torch.zeros(len(active), n_latents, dtype=torch.bool, device=active.device)
    kept = matching >= 0
    told[:, matching[kept]] = active[:, kept]
    return told


def width(family: str) -> int:
    """Returns the number of rays."""
    return D_IN if family == "orthonormal" else 2 * D_IN


def on_rays(seed: int, family: str, n_steps: int, n_samples: int) -> Trained:
    """Returns the run of the SAEs RAYS, each with as many latents as there are rays."""
    saes = tuple((name, width(family)) for name in RAYS)
    return Trained(seed, family, 0.0, saes, n_steps, n_samples)


def gather(
    data: dict[str, np.ndarray],
    prefix: str,
    results: list[dict[str, np.ndarray]],
    shape: tuple[int, ...],
) -> None:
    """Adds "prefix_name_by_world" arrays whose first axes are those of `shape`."""
    for name, value in results[0].items():
        stacked = np.stack([r[name] for r in results])
        data[f"{prefix}_{name}_by_world"] = stacked.reshape(*shape, *value.shape)
