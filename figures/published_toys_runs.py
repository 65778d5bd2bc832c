"""The runs of fig_published_toys: Ordered SAE's table, Sharkey's sweep, composed features."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import normalize

from figures.runs import device
from sae import SAE, MatryoshkaBatchTopK, ReLU, TopK, TrainConfig, train
from sae.architectures.ordered import OrderedTopK
from theory import recovery, stability
from theory.isotropic import isotropic_rows
from toymodels import Independent, ToyModel, Uniform, presets, random_unit, stream

KINDS = ("TopK", "Matryoshka, fixed", "Matryoshka, drawn", "Ordered")
N_EVAL = 4096
N_GROUPS = 5


@dataclass(frozen=True)
class Table:
    """The world of Ordered SAE's table, n_samples of which are all that is ever trained on.

    budgets: steps of batch_size; at each, two SAEs of each kind, differently initialised.
    nested: False puts all of every prefix law on the whole code.
    """

    budgets: tuple[int, ...]
    batch_size: int
    n_features: int = 100
    d_in: int = 80
    k: int = 5
    n_samples: int = 100_000
    lr: float = 1e-2
    nested: bool = True


@dataclass(frozen=True)
class Sweep:
    """Sharkey's sweep: penalties 10^(exponent / 4), widths n_features 2^log_ratio."""

    n_features: int
    d_in: int
    exponents: tuple[int, ...]
    log_ratios: tuple[int, ...]
    n_steps: int
    batch_size: int
    lr: float = 1e-2


@dataclass(frozen=True)
class Composed:
    """Anders' worlds: SAEs of 2 set_size latents at each penalty and learning rate."""

    lone_probs: tuple[float, ...]
    penalties: tuple[float, ...]
    lrs: tuple[float, ...]
    n_steps: int
    batch_size: int


@dataclass(frozen=True)
class TableRun:
    seed: int
    table: Table


@dataclass(frozen=True)
class SweepRun:
    seed: int
    sweep: Sweep


@dataclass(frozen=True)
class ComposedRun:
    seed: int
    set_size: int
    lone_prob: float
    composed: Composed


def untrained(kind: str, table: Table, generator: torch.Generator) -> SAE:
    """Returns a fresh SAE without a bias, which this world does not have either."""
    n, k = table.n_features, table.k
    if kind == "TopK":
        return TopK(table.d_in, n, k, bias=False, generator=generator)
    if kind == "Ordered":
        law = (1 / n,) * n if table.nested else (0.0,) * (n - 1) + (1.0,)
        return OrderedTopK(table.d_in, n, k, law, bias=False, generator=generator)
    prefixes = N_GROUPS if kind == "Matryoshka, drawn" else groups(n)
    prefixes = prefixes if table.nested else (n,)
    return MatryoshkaBatchTopK(table.d_in, n, k, prefixes, bias=False, generator=generator)


def groups(n_latents: int) -> tuple[int, ...]:
    """Returns the ends of N_GROUPS groups of latents of one size, up to rounding."""
    return tuple(round(n_latents * (i + 1) / N_GROUPS) for i in range(N_GROUPS))


def table_run(run: TableRun) -> dict[str, np.ndarray]:
    """Returns the table, [n_budgets, n_kinds] each; loss: mean squared error per coordinate."""
    table, seed = run.table, run.seed
    world = presets.ordered_sae(
        table.n_features, table.d_in, table.k, generator=stream(seed, "dictionary", device())
    )
    x = world.sample(table.n_samples, generator=stream(seed, "data", device())).x
    held_out = world.sample(N_EVAL, generator=stream(seed, "eval", device())).x

    def draw(n: int, *, generator: torch.Generator) -> Tensor:
        return x[torch.randint(len(x), (n,), device=x.device, generator=generator)]

    rows = []
    for n_steps in table.budgets:
        fresh = [
            untrained(kind, table, stream(seed, f"init {i}", device()))
            for kind in KINDS
            for i in range(2)
        ]
        settings = {"lr": table.lr, "k_annealing": 0.5, "dead_after": 20_000, "n_records": 2}
        config = TrainConfig(n_steps, table.batch_size, **settings)
        trained = train(fresh, draw, config, generator=stream(seed, "train", device())).saes
        pairs = [trained[i : i + 2] for i in range(0, len(trained), 2)]
        rows.append([table_row(pair, world.dictionary.vectors, held_out) for pair in pairs])
    return {name: np.array([[row[name] for row in at] for at in rows]) for name in rows[0][0]}


def table_row(pair: tuple[SAE, ...], dictionary: Tensor, x: Tensor) -> dict[str, float]:
    """Returns a row of the table; features are numbered from the most frequent one on."""
    decoders = [sae.W_dec.detach() for sae in pair]
    same, found = stability(decoders), [recovery(dictionary, rows) for rows in decoders]
    with torch.no_grad():
        loss = torch.stack([(x - sae(x).x_hat).square().mean() for sae in pair]).mean()
    row = {"same": same.score, "same_chance": same.chance, "loss": float(loss)}
    row |= {"truth": float(np.mean([f.score for f in found])), "truth_chance": found[0].chance}
    return row | {"order": float(np.mean([order(f.matching) for f in found]))}


def order(matching: Tensor) -> float:
    """Returns Spearman's correlation of the indices of features and of their latents."""
    matched = (matching >= 0).nonzero()[:, 0]
    result = stats.spearmanr(matched.cpu().numpy(), matching[matched].cpu().numpy())
    return float(np.asarray(result)[0])


def best_cosines(rows: Tensor, others: Tensor) -> Tensor:
    """Returns for each row its largest cosine with one of the others."""
    return (normalize(rows, dim=1) @ normalize(others, dim=1).T).amax(1)


def sweep_run(run: SweepRun) -> dict[str, np.ndarray]:
    """Returns maps [n_exponents, n_ratios]: truth (MMCS over features), dead; agreement with the
    next larger dictionary (MMCS over latents), [n_exponents, n_ratios - 1]; chance [n_ratios]."""
    sweep, seed, n = run.sweep, run.seed, run.sweep.n_features
    # The published probabilities, thinned out evenly where there are fewer features than 512.
    probs = 5 / n * 0.99 ** (torch.arange(n, dtype=torch.float64) * 512 / n)
    features = random_unit(n, sweep.d_in, generator=stream(seed, "dictionary", device()))
    world = ToyModel(Independent(n, probs, Uniform(0.0, 1.0)), features)
    widths = [round(n * 2.0**ratio) for ratio in sweep.log_ratios]
    # Published: error per coordinate plus penalty times the mean latent; here both times d_in.
    fresh = [
        ReLU(
            sweep.d_in,
            width,
            10 ** (exponent / 4) * sweep.d_in / width,
            bias=False,
            generator=stream(seed, f"init {width}", device()),
        )
        for exponent in sweep.exponents
        for width in widths
    ]
    config = TrainConfig(sweep.n_steps, sweep.batch_size, lr=sweep.lr, n_records=2)
    trained = train(fresh, world, config, generator=stream(seed, "train", device())).saes
    x = world.sample(N_EVAL, generator=stream(seed, "eval", device())).x
    with torch.no_grad():
        dead = [float((sae.encode(x) == 0).all(0).double().mean()) for sae in trained]
    rows = [sae.W_dec.detach() for sae in trained]
    shape = (len(sweep.exponents), len(widths))
    truth = [float(best_cosines(features.vectors, w).mean()) for w in rows]
    next_wider = [float(best_cosines(rows[i], rows[i + 1]).mean()) for i in range(len(rows) - 1)]
    draw = stream(seed, "chance", device())
    by_chance = [isotropic_rows(width, sweep.d_in, generator=draw) for width in widths]
    return {
        "truth": np.array(truth).reshape(shape),
        "dead": np.array(dead).reshape(shape),
        "agreement": np.array([*next_wider, np.nan]).reshape(shape)[:, :-1],
        "chance": np.array([float(best_cosines(features.vectors, w).mean()) for w in by_chance]),
    }


def composed_run(run: ComposedRun) -> dict[str, np.ndarray]:
    """Returns the share of live latents nearer to a composed than to a true feature, [n_penalties,
    n_lrs]; the cosines of all latents, NaN where dead, [n_penalties, n_lrs, n_latents]; chance."""
    cells, seed, size = run.composed, run.seed, run.set_size
    world = presets.anders(size, run.lone_prob)
    true = world.dictionary.vectors.to(device())
    composed = (true[:size, None] + true[None, size:]).reshape(-1, size)
    fresh = [
        ReLU(size, 2 * size, l1, generator=stream(seed, "init", device()))
        for l1 in cells.penalties
        for _ in cells.lrs
    ]
    lrs = cells.lrs * len(cells.penalties)
    config = TrainConfig(cells.n_steps, cells.batch_size, lr=lrs, decay=0.5, n_records=2)
    trained = train(fresh, world, config, generator=stream(seed, "train", device())).saes
    x = world.sample(N_EVAL, generator=stream(seed, "eval", device())).x
    found = []
    for sae in trained:
        with torch.no_grad():
            live = (sae.encode(x) > 0).any(0)
        both = torch.stack([best_cosines(sae.W_dec.detach(), rows) for rows in (composed, true)])
        found.append(torch.where(live, both, torch.nan).cpu().double().numpy())
    cosines = np.stack(found).reshape(len(cells.penalties), len(cells.lrs), 2, -1)
    nearer = np.where(np.isnan(cosines[:, :, 0]), np.nan, cosines[:, :, 0] > cosines[:, :, 1])
    rows = isotropic_rows(20_000, size, generator=stream(seed, "chance", device()))
    chance = (best_cosines(rows, composed) > best_cosines(rows, true)).double().mean()
    return {
        "share": np.nanmean(nearer, axis=2),
        "composed": cosines[:, :, 0],
        "true": cosines[:, :, 1],
        "chance": np.array(float(chance)),
    }
