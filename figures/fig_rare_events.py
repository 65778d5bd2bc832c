"""Rare events are cheap to discard only for a data-weighted meta-SAE; rare variants for any.

An idealised SAE has the true features as latents: n orthonormal rows. A meta-SAE of width m < n
on these rows explains at most m/n of them unweighted, however rare the features are; weighted by
firing frequency or energy, and likewise a smaller SAE on the data, it may throw rare features away
and explains nearly all. A rare *property* idealised as a row of its own {carrier, property} is as
incompressible as the rest; idealised as a variant of its carrier {carrier, carrier + property} even
the unweighted meta-SAE discards it, at the price of eps^2 / (1 + eps^2) of a row at most. A decoder
bias adds one direction. Markers: trained SAEs, mean and range over worlds (a fresh dictionary,
initialisation and data stream each); lines: exact bounds.

Paper: fig:rare-events. Source of the question: discussion of Leask et al. 2025, arXiv 2502.04878.
"""

from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from figures.runs import device, map_cached, require
from sae import TopK, TrainConfig, train, train_meta
from theory import fve, spectral_fve_bound, spectral_loss_bound
from toymodels import (
    Independent,
    RareProperty,
    RareRegime,
    ToyDistribution,
    ToyModel,
    Uniform,
    Zipf,
    orthonormal,
    stream,
)

WEIGHTINGS = ("uniform", "frequency", "energy")
BIASES = (False, True)
L0 = 1.5  # expected number of active features in every world


@dataclass(frozen=True)
class Config:
    """Sizes of the worlds, the knob's values in each kind of world (last = rarest), training."""

    n_worlds: int
    n_features: int = 16
    n_latents: int = 8
    d_in: int = 24
    k: int = 4
    n_steps: int = 240
    zipf: tuple[float, ...] = (0.0, 1.0, 2.0)
    regime: tuple[float, ...] = (0.5, 0.1, 0.01)
    property: tuple[float, ...] = (0.5, 0.1, 0.01)
    variant: tuple[float, ...] = (1.0, 0.5, 0.2)
    weights_used: bool = True


CONFIGS = {
    "smoke": Config(2, n_steps=40, zipf=(2.0,), regime=(0.01,), property=(0.01,), variant=(0.2,)),
    "quick": Config(5),
    "paper": Config(
        8,
        n_features=32,
        n_latents=16,
        d_in=48,
        n_steps=1500,
        zipf=(0.0, 0.5, 1.0, 1.5, 2.0),
        regime=(0.5, 0.2, 0.05, 0.01),
        property=(0.5, 0.2, 0.05, 0.01),
        variant=(1.0, 0.7, 0.4, 0.2),
    ),
}
KINDS = ("zipf", "regime", "property", "variant")
PROPERTY_STRENGTH = 0.5  # of a property relative to its carrier, in the third kind of world
PROPERTY_PROB = 0.1  # of the property given its carrier, in the fourth


@dataclass(frozen=True)
class MetaRun:
    """One meta-SAE on the rows of world `seed`; strength > 0 replaces properties by variants."""

    seed: int
    sizes: tuple[int, int, int]
    k: int
    n_steps: int
    strength: float
    weights: tuple[float, ...] | None
    bias: bool


@dataclass(frozen=True)
class DataRun:
    """One SAE of the same width on the data of world `seed`."""

    seed: int
    sizes: tuple[int, int, int]
    k: int
    n_steps: int
    kind: str
    knob: float
    bias: bool


def law(kind: str, knob: float, n_features: int) -> ToyDistribution:
    """Returns the law of the codes in a kind of world, L0 features active on average."""
    half = n_features // 2
    if kind == "zipf":
        shape = Independent(n_features, Zipf(n_features, knob, 1.0).firing_probs())
        return Zipf(n_features, knob, L0 / shape.expected_l0())
    if kind == "regime":
        return RareRegime(half, half, knob, L0 / half)
    strength = PROPERTY_STRENGTH if kind == "property" else knob
    prob = knob if kind == "property" else PROPERTY_PROB
    scaled = Uniform(0.5 * strength, 1.5 * strength)
    return RareProperty(half, L0 / half, prob, property_magnitude=scaled)


def row_weights(kind: str, knob: float, n_features: int, weighting: str) -> Tensor | None:
    """Returns how often, or with what energy, each row's latent fires in the idealised SAE."""
    if weighting == "uniform":
        return None
    world = law(kind, knob, n_features)
    probs, energies = world.firing_probs(), world.code_energies()
    if kind == "variant":  # two exclusive latents: the carrier alone, and the carrier with property
        half = n_features // 2
        alone, both = 1 - PROPERTY_PROB, PROPERTY_PROB
        probs = probs[:half].repeat(2) * torch.tensor([alone, both]).double().repeat_interleave(
            half
        )
        square = energies[0] / law(kind, knob, n_features).firing_probs()[0]  # E[b^2] of a carrier
        energies = probs * square * torch.cat([torch.ones(half), torch.full((half,), 1 + knob**2)])
    return probs if weighting == "frequency" else energies


def rows_of(seed: int, n_features: int, d_in: int, strength: float) -> Tensor:
    """Returns the idealised SAE's rows: orthonormal, or carriers and their variants."""
    vectors = orthonormal(n_features, d_in, generator=stream(seed, "dictionary", device())).vectors
    if strength == 0:
        return vectors
    carriers, properties = vectors.chunk(2)
    return torch.cat([carriers, (carriers + strength * properties) / (1 + strength**2) ** 0.5])


def meta_run(run: MetaRun) -> dict[str, np.ndarray]:
    """Returns the trained decoder's reconstruction of the rows."""
    n_features, n_latents, d_in = run.sizes
    rows = rows_of(run.seed, n_features, d_in, run.strength)
    weights = None if run.weights is None else torch.tensor(run.weights)
    meta = TopK(
        d_in, n_latents, run.k, bias=run.bias, generator=stream(run.seed, "meta-init", device())
    )
    config = TrainConfig(run.n_steps, 64, lr=3e-2, decay=0.5, dead_after=1000, n_records=5)
    rng = stream(run.seed, "meta-train", device())
    trained = train_meta(rows, meta, config, weights=weights, generator=rng).sae
    return {"rows": rows.cpu().numpy(), "x_hat": trained(rows).x_hat.detach().cpu().numpy()}


def data_run(run: DataRun) -> dict[str, np.ndarray]:
    """Returns the share of fresh data that a trained SAE explains, and its bound on that data."""
    n_features, n_latents, d_in = run.sizes
    dictionary = orthonormal(n_features, d_in, generator=stream(run.seed, "dictionary", device()))
    world = ToyModel(law(run.kind, run.knob, n_features), dictionary)
    sae = TopK(d_in, n_latents, run.k, bias=run.bias, generator=stream(run.seed, "init", device()))
    config = TrainConfig(run.n_steps, 256, lr=3e-2, decay=0.5, dead_after=20_000, n_records=5)
    trained = train(sae, world, config, generator=stream(run.seed, "train", device())).sae
    x = world.sample(20_000, generator=stream(run.seed, "eval", device())).x
    error = (x - trained(x).x_hat.detach()).double().square().sum(1).mean()
    x = x.double()
    centred = x - x.mean(0) if run.bias else x
    moment = centred.T @ centred / len(x)
    total = moment.trace()
    bound = 1 - spectral_loss_bound(moment, n_latents) / total
    return {"explained": (1 - error / total).cpu().numpy(), "bound": bound.cpu().numpy()}


def meta_bound(kind: str, knob: float, cfg: Config) -> np.ndarray:
    """Returns the exact bound on the FVE, [weighting, bias]; it is the same in every world."""
    rows = rows_of(0, cfg.n_features, cfg.d_in, knob if kind == "variant" else 0.0).cpu()
    bounds = np.full((len(WEIGHTINGS), len(BIASES)), np.nan)
    for i, weighting in enumerate(WEIGHTINGS):
        weights = row_weights(kind, knob, cfg.n_features, weighting)
        for j, bias in enumerate(BIASES):
            bound = spectral_fve_bound(rows, cfg.n_latents, weights=weights, bias=bias)
            bounds[i, j] = np.nan if bound.void else bound.fve
    return bounds


def data_bound(kind: str, knob: float, cfg: Config) -> np.ndarray:
    """Returns the exact share of the law's energy (bias: variance) that m directions can hold."""
    codes = law(kind, knob, cfg.n_features)
    moments = [codes.code_covariance() if bias else codes.code_moment() for bias in BIASES]
    return np.array([1 - spectral_loss_bound(c, cfg.n_latents) / float(c.trace()) for c in moments])


def compute(cfg: Config) -> dict[str, np.ndarray]:
    sizes = (cfg.n_features, cfg.n_latents, cfg.d_in)
    worlds = range(cfg.n_worlds)
    data: dict[str, np.ndarray] = {"width_share": np.array(cfg.n_latents / cfg.n_features)}
    data["width_share_bias"] = np.array((cfg.n_latents + 1) / cfg.n_features)
    for kind in KINDS:
        knobs = getattr(cfg, kind)
        cells = [(w, x, q, b) for w in worlds for x in knobs for q in WEIGHTINGS for b in BIASES]
        weights = [row_weights(kind, x, cfg.n_features, q) for _, x, q, _ in cells]
        runs = [
            MetaRun(
                w,
                sizes,
                cfg.k,
                cfg.n_steps,
                x if kind == "variant" else 0.0,
                None if v is None or not cfg.weights_used else tuple((v / v.sum()).tolist()),
                b,
            )
            for (w, x, _, b), v in zip(cells, weights, strict=True)
        ]
        results = map_cached(meta_run, runs)
        scores = [
            fve(torch.from_numpy(r["rows"]), torch.from_numpy(r["x_hat"]), weights=v)
            for r, v in zip(results, weights, strict=True)
        ]
        shape = (cfg.n_worlds, len(knobs), len(WEIGHTINGS), len(BIASES))
        data[f"{kind}_knob"] = np.array(knobs)
        data[f"{kind}_meta_by_world"] = np.array(scores).reshape(shape)
        data[f"{kind}_meta_bound"] = np.stack([meta_bound(kind, x, cfg) for x in knobs])
        # A single value of the knob still gets a curve, over a factor of 2 around it.
        low, high = (min(knobs), max(knobs)) if len(knobs) > 1 else (knobs[0] / 2, knobs[0] * 2)
        space = np.geomspace if kind in ("regime", "property") else np.linspace
        grid = space(low, high, 21)
        data[f"{kind}_grid"] = grid
        data[f"{kind}_meta_curve"] = np.stack([meta_bound(kind, x, cfg) for x in grid.tolist()])
        if kind == "variant":  # the data of such a world are those of "property"
            continue
        cells = [(w, x, b) for w in worlds for x in knobs for b in BIASES]
        data_runs = [DataRun(w, sizes, cfg.k, cfg.n_steps, kind, x, b) for w, x, b in cells]
        results = map_cached(data_run, data_runs)
        shape = (cfg.n_worlds, len(knobs), len(BIASES))
        for name in ("explained", "bound"):
            values = np.array([float(r[name]) for r in results]).reshape(shape)
            data[f"{kind}_data_{name}_by_world"] = values
        data[f"{kind}_data_curve"] = np.stack([data_bound(kind, x, cfg) for x in grid.tolist()])
    last = [data[f"{kind}_meta_by_world"][:, -1].mean(0) for kind in KINDS]
    orthonormal_kinds = np.stack(last[:3])
    data["unweighted_rarest"] = orthonormal_kinds[:, 0, 0].max()
    data["energy_rarest"] = orthonormal_kinds[:, 2, 0].min()
    data["variant_unweighted"] = last[3][0, 0]
    rarest = [data[f"{kind}_data_explained_by_world"][:, -1, 1].mean() for kind in KINDS[:3]]
    data["smaller_sae_rarest"] = np.min(rarest)
    return data


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    rounding = 1e-5  # the SAEs compute in float32
    margins = {}
    for kind in KINDS:
        meta, bound = data[f"{kind}_meta_by_world"], data[f"{kind}_meta_bound"]
        margins[f"{kind}: every meta-SAE is below its exact bound"] = (
            np.nanmin(bound - meta) + rounding
        )
        if kind == "variant":
            continue
        explained = data[f"{kind}_data_explained_by_world"]
        margins[f"{kind}: every smaller SAE is below the bound of its own data"] = (
            np.min(data[f"{kind}_data_bound_by_world"] - explained) + rounding
        )
        limit = np.array([data["width_share"], data["width_share_bias"]])
        margins[f"{kind}: unweighted, rarity gains nothing over m/n, bias (m+1)/n"] = (
            np.min(limit - meta[:, :, 0]) + rounding
        )
        # Half of what rarity offers beyond m/n: a trained SAE need not be optimal to show it.
        half_way = (1 + float(data["width_share"])) / 2
        margins[f"{kind}: energy-weighted, the rarest world's meta-SAE is nearly lossless"] = (
            np.min(meta[:, -1, 2]) - half_way
        )
        margins[f"{kind}: so is the smaller SAE on the data"] = np.min(explained[:, -1]) - half_way
    variant = data["variant_meta_by_world"][:, -1, 0]
    price = data["variant_knob"][-1] ** 2 / (1 + data["variant_knob"][-1] ** 2)
    margins["variant: unweighted, m/n is passed half-way to what the price allows"] = np.min(
        variant.mean(0) - (float(data["width_share"]) + (1 - price / 2)) / 2
    )
    return require(margins)


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with the weights dropped in training."""
    return compute(replace(cfg, weights_used=False))


COLOURS = {"uniform": "#000000", "frequency": "#56B4E9", "energy": "#D55E00", "data": "#009E73"}
LABELS = {
    "uniform": "meta-SAE, unweighted",
    "frequency": "meta-SAE, frequency-weighted",
    "energy": "meta-SAE, energy-weighted",
    "data": "smaller SAE on the data",
}
TITLES = {
    "zipf": "Zipf law\n",
    "regime": "rare regime\n",
    "property": "rare property:\nrows {carrier, property}",
    "variant": "rare property: rows\n{carrier, carrier + ε property}",
}
KNOBS = {
    "zipf": "exponent α  (rarer →)",
    "regime": "P(regime) π  (rarer →)",
    "property": "P(property | carrier)  (rarer →)",
    "variant": "strength ε  (weaker →)",
}


def plot(data: dict[str, np.ndarray]) -> Figure:
    fig, axes = plt.subplots(2, 4, figsize=(8.6, 4.9), sharey="row", sharex="col")
    for column, kind in enumerate(KINDS):
        for row, bias in enumerate(BIASES):
            ax = axes[row, column]
            _draw(ax, data, kind, row)
            share = float(data["width_share_bias" if bias else "width_share"])
            ax.set_ylim(share - 0.12, 1.03)
            if kind != "variant":
                ax.annotate(
                    ("(m + 1)/n" if bias else "m/n") + ", however rare",
                    (0.97, share - 0.02),
                    xycoords=("axes fraction", "data"),
                    ha="right",
                    va="top",
                    fontsize="small",
                )
            if column == 0:
                ax.set_ylabel(("with" if bias else "without") + " decoder bias\nshare explained")
            if row == 0:
                ax.set_title(TITLES[kind])
            else:
                ax.set_xlabel(KNOBS[kind])
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return fig


def _draw(ax: Axes, data: dict[str, np.ndarray], kind: str, bias: int) -> None:
    knob, grid = data[f"{kind}_knob"], data[f"{kind}_grid"]
    series = [
        (name, data[f"{kind}_meta_by_world"][:, :, i, bias], data[f"{kind}_meta_curve"][:, i, bias])
        for i, name in enumerate(WEIGHTINGS)
    ]
    if kind != "variant":
        explained = data[f"{kind}_data_explained_by_world"][:, :, bias]
        series.append(("data", explained, data[f"{kind}_data_curve"][:, bias]))
    for i, (name, by_world, curve) in enumerate(series):
        mean = by_world.mean(0)
        spread = np.stack([mean - by_world.min(0), by_world.max(0) - mean])
        ax.plot(grid, curve, color=COLOURS[name], lw=1.2, alpha=0.8)
        ax.errorbar(
            knob,
            mean,
            yerr=spread,
            fmt="os^D"[i],
            ms=(5, 8, 5, 4)[i],
            mfc="none" if name == "frequency" else COLOURS[name],
            color=COLOURS[name],
            capsize=2,
            label=LABELS[name],
        )
    if kind in ("regime", "property"):
        ax.set_xscale("log")
    if kind != "zipf" and not ax.xaxis_inverted():
        ax.invert_xaxis()
