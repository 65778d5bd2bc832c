"""The same bar from structure and from nothing: a meta-SAE's FVE means little without its null.

The four published bars, made again on two worlds. Planted: every row is a sum of 4 of 192 atoms
and a residual of its own. Atomic: every row is a direction of its own, nothing is shared. The
recipe, dimension, width and k are the same; strength of the residual and number of rows are set so
that the first bar has the published height. The meta-SAE's decoder is then replaced by the nearest
latents of a smaller SAE trained on the world's data, the encoder is tuned to that, and the decoder
is replaced by random directions. What tells the worlds apart is the first bar's null: the same
recipe refitted on isotropic rows of the same number (spectrum-matched rows: the same second
moment). The random bar measures the energy of the code, not structure. The middle two are lower
than published in both worlds: the smaller SAE's latents are not so near to the meta-latents. An
encoder bias is trained, which the published recipe lacks. Bars: means; dots: worlds (fresh rows,
data and training each).

Paper: fig:four-bars. Published bars: Leask et al. 2025, arXiv 2502.04878 (d = 768).
"""

from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

from figures.fig_null_compressibility import composed_rows
from figures.runs import device, map_cached, require
from sae import SAE, TopK, TrainConfig, train, train_meta
from sae.meta_recipe import published_config, published_meta_sae
from sae.meta_swap import nearest_rows, tune_encoder, with_decoder
from theory import fve, isotropic_rows, spectrum_surrogates
from toymodels import Dictionary, ToyModel, Zipf, stream

KINDS = ("planted", "atomic")
BARS = ("meta-SAE", "nearest of a\nsmaller SAE", "same, encoder\ntuned", "random\ndirections")
PUBLISHED = (0.555, 0.420, 0.509, -0.467)


@dataclass(frozen=True)
class Config:
    """Sizes of the worlds and of their SAEs, and how far from the published height is the same."""

    n_worlds: int
    d: int = 64
    n_atoms: int = 192
    n_rows: tuple[int, int] = (4096, 1216)  # planted, atomic
    residual: float = 0.65  # norm of a row's private part, over that of the composition
    width: int = 192
    k: int = 4
    small_width: int = 256
    n_steps: int = 1500
    batch_size: int = 512
    small_steps: int = 600
    tune_steps: int = 200
    same_height: float = 0.03
    structure: bool = True


CONFIGS = {
    "smoke": Config(
        2,
        n_rows=(832, 832),
        residual=0.1,
        small_width=64,
        n_steps=250,
        batch_size=128,
        small_steps=20,
        tune_steps=3,
        same_height=0.2,
    ),
    "quick": Config(3),
    "paper": Config(8, small_steps=3000, tune_steps=1500),
}


@dataclass(frozen=True)
class Run:
    """The bars of one world."""

    seed: int
    kind: str
    config: Config


@dataclass(frozen=True)
class NullRun:
    """The first bar on structureless rows in the place of a world's."""

    seed: int
    kind: str
    null: str
    config: Config


def atoms_of(seed: int, cfg: Config) -> Tensor:
    return isotropic_rows(cfg.n_atoms, cfg.d, generator=stream(seed, "atoms", device())).float()


def rows_of(seed: int, kind: str, cfg: Config) -> Tensor:
    """Returns the rows of a world: compositions with a residual, or directions of their own."""
    generator = stream(seed, f"{kind} rows", device())
    own = isotropic_rows(cfg.n_rows[KINDS.index(kind)], cfg.d, generator=generator).float()
    if kind == "atomic" or not cfg.structure:
        return own
    composed = composed_rows(len(own), atoms_of(seed, cfg), generator=generator)
    return normalize(composed + cfg.residual * own, dim=1)


def meta_of(rows: Tensor, seed: int, cfg: Config) -> SAE:
    init, drawn = stream(seed, "meta-init", device()), stream(seed, "meta-train", device())
    meta = published_meta_sae(cfg.d, cfg.width, cfg.k, encoder_bias=True, generator=init)
    config = published_config(cfg.n_steps, cfg.batch_size)
    return train_meta(rows, meta, config, weights=None, generator=drawn).sae


def smaller_sae(rows: Tensor, seed: int, kind: str, cfg: Config) -> Tensor:
    """Returns the decoder of an SAE of small_width trained on data in which the rows fire."""
    world = ToyModel(Zipf(len(rows), 0.8, 0.3), Dictionary(rows))
    init = stream(seed, "small-init", device())
    sae = TopK(cfg.d, cfg.small_width, cfg.k, bias=False, generator=init)
    config = TrainConfig(cfg.small_steps, 512, lr=3e-3, n_records=2)
    drawn = stream(seed, f"{kind} data", device())
    return train(sae, world, config, generator=drawn).sae.W_dec.detach()


def score(rows: Tensor, sae: SAE) -> float:
    return fve(rows, sae(rows).x_hat.detach())


def bars_run(run: Run) -> dict[str, np.ndarray]:
    """Returns the four bars, what random directions give in the middle two, and the energy of
    the code as the last one's expectation."""
    cfg, seed = run.config, run.seed
    rows = rows_of(seed, run.kind, cfg)
    meta = meta_of(rows, seed, cfg)
    random = stream(seed, "random", device())
    tune = TrainConfig(cfg.tune_steps, cfg.batch_size, lr=3e-3, decay=0.5, n_records=2)

    def swapped(candidates: Tensor) -> tuple[float, float]:
        other = with_decoder(meta, nearest_rows(meta.W_dec, candidates))
        drawn = stream(seed, "tune", device())
        tuned = tune_encoder(rows, other, tune, weights=None, generator=drawn)
        return score(rows, other), score(rows, tuned)

    nearest = swapped(smaller_sae(rows, seed, run.kind, cfg))
    by_chance = swapped(isotropic_rows(cfg.small_width, cfg.d, generator=random).float())
    directions = isotropic_rows(cfg.width, cfg.d, generator=random).float()
    last = score(rows, with_decoder(meta, directions))
    code = meta.encode(rows).detach().square().sum(1)
    left = (rows - meta.b_dec.detach()).square().sum(1)
    expected = float(1 - (left + code).mean() / rows.square().sum(1).mean())
    found = (atoms_of(seed, cfg) @ meta.W_dec.detach().T).amax(1) > 0.9
    return {
        "bars": np.array([score(rows, meta), *nearest, last]),
        "by_chance": np.array([*by_chance, expected]),
        "atoms": np.array(float(found.double().mean())),
    }


def null_run(run: NullRun) -> dict[str, np.ndarray]:
    cfg, seed = run.config, run.seed
    rows = rows_of(seed, run.kind, cfg)
    generator = stream(seed, f"{run.kind} null", device())
    if run.null == "isotropic":
        rows = isotropic_rows(*rows.shape, generator=generator).float()
    else:
        rows = spectrum_surrogates(rows, 8, generator=generator)[0]
    return {"fve": np.array(score(rows, meta_of(rows, seed, cfg)))}


def compute(cfg: Config) -> dict[str, np.ndarray]:
    worlds = range(cfg.n_worlds)
    data = {"published": np.array(PUBLISHED)}
    for kind in KINDS:
        results = map_cached(bars_run, [Run(w, kind, cfg) for w in worlds])
        for name in ("bars", "by_chance", "atoms"):
            data[f"{kind}_{name}_by_world"] = np.stack([r[name] for r in results])
        for null in ("isotropic", "spectrum"):
            nulls = map_cached(null_run, [NullRun(w, kind, null, cfg) for w in worlds])
            data[f"{kind}_{null}_by_world"] = np.array([float(r["fve"]) for r in nulls])
        first = data[f"{kind}_bars_by_world"][:, 0]
        data[f"{kind}_fve"] = first.mean()
        data[f"{kind}_excess"] = (first - data[f"{kind}_isotropic_by_world"]).mean()
        data[f"{kind}_spectrum_excess"] = (first - data[f"{kind}_spectrum_by_world"]).mean()
        data[f"{kind}_atoms"] = data[f"{kind}_atoms_by_world"].mean()
    return data


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    margins = {}
    for kind in KINDS:
        bars = data[f"{kind}_bars_by_world"]
        gap = abs(bars[:, 0].mean() - PUBLISHED[0])
        margins[f"{kind}: the first bar has the published height"] = cfg.same_height - gap
        # About 200 random rows and 1,000 codes or more: a standard deviation near .02.
        gap = np.abs(bars[:, 3] - data[f"{kind}_by_chance_by_world"][:, 2]).max()
        margins[f"{kind}: the random bar is what the energy of the code makes it"] = 0.1 - gap
    excess = {
        kind: data[f"{kind}_bars_by_world"][:, 0] - data[f"{kind}_isotropic_by_world"]
        for kind in KINDS
    }
    worst = np.abs(excess["atomic"]).max()
    margins["every planted world exceeds its null by 3 times what any atomic one does"] = (
        excess["planted"].min() - 3 * worst
    )
    margins["and its spectrum-matched null by as much"] = (
        np.min(data["planted_bars_by_world"][:, 0] - data["planted_spectrum_by_world"]) - 3 * worst
    )
    return require(margins)


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with isotropic rows in the place of compositions."""
    return compute(replace(cfg, structure=False))


COLOURS = {"planted": "#0072B2", "atomic": "#D55E00"}
TITLES = {
    "planted": "planted: rows share atoms",
    "atomic": "atomic: rows share nothing",
}


def plot(data: dict[str, np.ndarray]) -> Figure:
    fig, axes = plt.subplots(1, 2, figsize=(8.4, 3.7), sharey=True)
    for ax, kind in zip(axes, KINDS, strict=True):
        _draw(ax, data, kind)
    axes[0].set_ylabel("share of the rows explained (FVE)")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return fig


def _draw(ax: Axes, data: dict[str, np.ndarray], kind: str) -> None:
    bars, x = data[f"{kind}_bars_by_world"], np.arange(4)
    ax.bar(x, bars.mean(0), 0.55, color=COLOURS[kind], alpha=0.75)
    for world in bars:
        ax.plot(x, world, "o", ms=2.5, color="black")
    ax.plot(x, data["published"], "D", ms=5, mfc="none", color="#666666", label="published")
    nulls = {"isotropic": ("-", "null: isotropic rows"), "spectrum": (":", "spectrum-matched rows")}
    for null, (style, label) in nulls.items():
        level = data[f"{kind}_{null}_by_world"].mean()
        ax.plot([-0.45, 0.45], [level, level], style, color="black", lw=2, label=label)
    chance = data[f"{kind}_by_chance_by_world"].mean(0)
    label = "chance: random directions"
    for i, level in zip((1, 2, 3), chance, strict=True):
        ax.plot([i - 0.45, i + 0.45], [level, level], "--", color="black", lw=1.2, label=label)
        label = ""
    ax.axhline(0, color="black", lw=0.8)
    ax.set_xticks(x, BARS)
    excess = round(float(data[f"{kind}_excess"]), 2) + 0.0  # no minus before 0.00
    ax.set_title(f"{TITLES[kind]}\nabove its null: {excess:+.2f}")
    ax.set_xlabel("what decodes the meta-SAE's code")
