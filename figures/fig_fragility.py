"""Features are found in a third to a half of a box of hyper-parameters, by TopK as by L1.

Dials: sparsity (the l0 asked for or, for L1 and Gated, the coefficient: a factor of 4 either way
around the value that gives the true l0), learning rate (4 either way), width (1 and 2 times the
number of features), seed of the initialisation. A run has found the features if half of them have
a latent at cosine above .9; random latents find none. 64 features in 32 dimensions fire
independently, by a power law. Every objective finds half of them somewhere, in the mean over
worlds; sparsity and learning rate matter, each beyond what permuted runs show, and the seed does
not. No run of TopK at 4 times the true l0 finds half of them, nor one of L1 at 4 times the
coefficient. The lowest held-out fvu loses features wherever l0 is set: it takes the largest l0.
Among runs within a quarter of the true l0 it loses less, but not for "L1, l0 set", the same loss
as L1 with the coefficient adapted until l0 is as asked.

That TopK recovers in a larger share of its box than L1 is not so: .46 for both at the preset paper,
difference 0 with an interval of .015 either way; JumpReLU .50, Gated and Matryoshka less. Which
is larger is not asserted. The middle of L1's and Gated's coefficients was found with the true l0,
which a user does not know. Gated is left out at quick. Bars: mean and 95 % interval over worlds
(fresh features, data and initialisations), dots: worlds.

Paper: fig:fragility. Objectives: see sae/architectures.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.objective_runs import (
    ARCHITECTURES,
    AXES,
    BY_COEFFICIENT,
    MEASURED,
    SIGNALS,
    Box,
    Run,
    box_run,
    first_order,
    first_order_null,
    mean_and_radius,
    near_true_l0,
    regret,
)
from figures.runs import map_cached, require

FEWER = tuple(name for name in ARCHITECTURES if name != "Gated")  # it is trained five times slower
HALF = 0.5  # of the features: fixed before anything was trained
SETS_L0 = ("JumpReLU", "TopK", "BatchTopK", "Matryoshka")  # in the objective itself


@dataclass(frozen=True)
class Config:
    """Worlds, architectures, the box, training; decoder_trained=False looks at initial SAEs."""

    n_worlds: int
    architectures: tuple[str, ...] = ARCHITECTURES
    box: Box = field(default_factory=Box)
    n_steps: int = 300
    batch_size: int = 128
    decoder_trained: bool = True


SMALL = Box(12, 12, 2, lrs=(1e-2, 4e-2), widths=(1,), larger=2)
CONFIGS = {
    "smoke": Config(2, ("L1", "TopK"), SMALL, n_steps=150, batch_size=64),
    "quick": Config(3, FEWER),
    "paper": Config(8, box=Box(sparsities=(0.25, 0.5, 1.0, 2.0, 4.0)), n_steps=600),
}


def runs_of(cfg: Config) -> dict[str, np.ndarray]:
    """Returns what was measured, [world, architecture, sparsity, lr, width, seed]."""
    worlds, names = range(cfg.n_worlds), cfg.architectures
    settings = (cfg.box, cfg.n_steps, cfg.batch_size, cfg.decoder_trained)
    results = map_cached(box_run, [Run(w, a, *settings) for w in worlds for a in names])
    shape = (cfg.n_worlds, len(names), *cfg.box.shape)
    return {
        f"{n}_by_world": np.reshape([r[n] for r in results], shape) for n in (*MEASURED, *SIGNALS)
    }


def compute(cfg: Config) -> dict[str, np.ndarray]:
    runs = runs_of(cfg)
    share, fvu, l0 = (runs[f"{n}_by_world"] for n in ("share", "fvu", "l0"))
    cells = list(np.ndindex(share.shape[:2]))
    near = near_true_l0(l0, cfg.box)
    shape = share.shape[:2]
    order = np.reshape([first_order(share[c]) for c in cells], (*shape, len(AXES)))
    free = np.reshape([regret(share[c], -fvu[c]) for c in cells], shape)
    told = np.reshape([regret(share[c], -fvu[c], near[c]) for c in cells], shape)
    inside = tuple(range(2, share.ndim))
    data = {
        "share_by_world": share,
        "agreement_by_world": runs["seeds_by_world"],
        "box_share_by_world": (share >= HALF).mean(inside),
        "best_by_world": share.max(inside),
        "first_order_by_world": order,
        "null": first_order_null(cfg.box.shape),
        "free_regret_by_world": free,
        "told_regret_by_world": told,
        "architectures": np.array(cfg.architectures),
        "sparsities": np.array(cfg.box.sparsities),
        "lrs": np.array(cfg.box.lrs),
    }
    for j, name in enumerate(cfg.architectures):
        short = name.lower().replace(", ", "_").replace(" ", "_")
        data[f"box_{short}"] = data["box_share_by_world"][:, j].mean()
        data[f"best_{short}"] = data["best_by_world"][:, j].mean()
        data[f"free_{short}"], data[f"told_{short}"] = free[:, j].mean(), told[:, j].mean()
    return data


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    share, names = data["share_by_world"], list(cfg.architectures)
    margins = {"no share above 1": 1 - share.max()}
    best = data["best_by_world"].mean(0).min()
    margins["each objective finds half of the features somewhere (mean)"] = best - HALF
    top, last = share[:, names.index("TopK")], len(cfg.box.sparsities) - 1
    margins["TopK at the true l0 beats 4 times the true l0"] = np.min(
        top[:, cfg.box.sparsities.index(1.0)].max((1, 2, 3)) - top[:, last].max((1, 2, 3))
    )
    if cfg.n_worlds > 2:
        mean, radius = mean_and_radius(data["first_order_by_world"])
        above, seed = mean - radius - data["null"], AXES.index("seed")
        for axis in ("sparsity", "lr"):
            margins[f"{axis} matters beyond the null"] = above[:, AXES.index(axis)].min()
        margins["the seed does not"] = np.min(data["null"][seed] - mean[:, seed])
        margins["no TopK at 4 times the true l0 finds half"] = HALF - top[:, last].max()
        too_strong = share[:, names.index("L1"), last].max()
        margins["nor L1 at 4 times the coefficient"] = HALF - too_strong
        is_set = [j for j, name in enumerate(names) if name not in BY_COEFFICIENT]
        mean, radius = mean_and_radius(data["free_regret_by_world"][:, is_set])
        margins["the lowest fvu loses features where l0 is set"] = np.min(mean - radius)
        gain = data["free_regret_by_world"] - data["told_regret_by_world"]
        own = [names.index(name) for name in SETS_L0 if name in names]
        mean, radius = mean_and_radius(gain[:, own])
        margins["and less so among runs at the true l0"] = np.min(mean - radius)
    return require(margins)


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with every decoder left as it was initialised."""
    return compute(replace(cfg, decoder_trained=False))


COLOURS = ("#D55E00", "#E69F00", "#CC79A7", "#009E73", "#0072B2", "#56B4E9", "#000000")
AXIS_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")


def plot(data: dict[str, np.ndarray]) -> Figure:
    names = data["architectures"].tolist()
    fig = plt.figure(figsize=(10.6, 6.2))
    above, below = fig.add_gridspec(2, 1, height_ratios=[1, 1.25])
    maps = above.subgridspec(1, len(names)).subplots(sharey=True, squeeze=False)[0]
    image: Any = None
    for j, (ax, name) in enumerate(zip(maps, names, strict=True)):
        mean = data["share_by_world"][:, j].mean((0, 3, 4))
        image = ax.imshow(mean, vmin=0, vmax=1, cmap="viridis", aspect="auto", origin="lower")
        ax.grid(False)
        dial = "coefficient" if name in BY_COEFFICIENT else "l0"
        ax.set_title(f"{name}\n(dial: {dial})", fontsize=9)
        ax.set_xticks(range(len(data["lrs"])), [f"{1e3 * v:g}" for v in data["lrs"]])
        ax.set_yticks(range(len(data["sparsities"])), [f"×{v:g}" for v in data["sparsities"]])
        ax.set_xlabel("lr / .001")
    maps[0].set_ylabel("dial over its middle")
    fig.colorbar(image, ax=maps.tolist(), label="features found")
    axes = below.subgridspec(1, 4).subplots(squeeze=False)[0]
    for ax in axes[:3]:
        ax.set_yticks(range(len(names)), names if ax is axes[0] else [""] * len(names))
        ax.invert_yaxis()
    _bars(axes[0], data["box_share_by_world"], 0.0, 0.7, [COLOURS[j] for j in range(len(names))])
    axes[0].axvline(0, color="black", lw=1)
    axes[0].set(xlim=(-0.01, 1), xlabel="share of the box in which\nhalf of the features are found")
    axes[0].set_title("a part of the box (chance: 0)", fontsize=9)
    order, left = data["first_order_by_world"].mean(0), np.zeros(len(names))
    for a, axis in enumerate(AXES):
        axes[1].barh(range(len(names)), order[:, a], left=left, color=AXIS_COLOURS[a], label=axis)
        left = left + order[:, a]
    axes[1].axvline(data["null"].sum(), color="black", ls=":", label="all four, permuted")
    axes[1].set(xlim=(0, 1), xlabel="share of the variance\n(rest: interactions)")
    axes[1].set_title("what it depends on", fontsize=9)
    grey = ["#999999"] * len(names)
    _bars(axes[2], data["free_regret_by_world"], -0.2, 0.36, ["#D55E00"] * len(names), "any run")
    _bars(axes[2], data["told_regret_by_world"], 0.2, 0.36, grey, "runs at the true l0")
    axes[2].set(xlim=(-0.01, 1), xlabel="features lost by taking\nthe lowest fvu")
    axes[2].set_title("best fvu is not best", fontsize=9)
    for j, _ in enumerate(names):
        x, y = data["agreement_by_world"][:, j], data["share_by_world"][:, j]
        axes[3].plot(x.ravel(), y.ravel(), ".", ms=3, color=COLOURS[j], alpha=0.5)
    axes[3].axvline(0, color="#999999", label="chance")
    axes[3].set(xlim=(-0.1, 0.7), xlabel="agreement of seeds\nabove chance")
    axes[3].set_ylabel("features found")
    axes[3].set_title("seeds agree where it works\n(colours as left)", fontsize=9)
    for ax in axes[1:3]:
        place = (0.5, -0.34)
        ax.legend(loc="upper center", bbox_to_anchor=place, ncols=2, fontsize=8, frameon=False)
    axes[3].legend(loc="lower right", fontsize=8, frameon=False)
    return fig


def _bars(
    ax: Axes, values: np.ndarray, shift: float, height: float, colours: list[str], label: str = ""
) -> None:
    """Mean and interval over worlds of values [world, architecture], and the worlds as dots."""
    places = np.arange(values.shape[1]) + shift
    mean, radius = mean_and_radius(values)
    ax.barh(places, mean, height, color=colours, alpha=0.5, label=label or None)
    ax.errorbar(mean, places, xerr=radius, fmt="none", ecolor="black", elinewidth=1, capsize=2)
    for world in values:
        ax.scatter(world, places, s=6, color=colours, zorder=3)
