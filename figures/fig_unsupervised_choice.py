"""Which run to keep, without the truth: several signals, and what each of them loses.

The runs are those of fig_fragility: for each objective a box of sparsity, learning rate, width and
seed in which only some runs find the features. A signal chooses one run; its regret is the share of
features that the best run of the box finds beyond it. Agreement of two initialisations and
description length beat a random run over all objectives together and for each that sets l0 itself
(JumpReLU, TopK, BatchTopK, Matryoshka). For "L1, l0 set" that is not shown: the intervals reach a
random run at the preset paper. For L1 by coefficient the shortest description is a run that found
nothing. The lowest held-out fvu is worse than a random run where k is fixed. So is the smallest
mean |cosine| of two latents over all: it was proposed for features that are nearly orthogonal, and
here the true ones are not. Agreement with a larger SAE (MMCS), nearly as good as that of seeds, and
the decoder's projections are shown without a claim. The last row is no choice without the truth: it
is told the true l0 and takes the lowest fvu there.

Points: mean and 95 % interval over worlds (fresh features, data and initialisations), small dots:
worlds. Grey: a random run. Gated is left out at the preset quick.

Paper: fig:unsupervised-choice. MMCS: Sharkey et al. 2022; projection and cosine: Chanin and
Garriga-Alonso 2025, arXiv 2508.16560; description length: after Ayonrinde et al. 2024,
arXiv 2410.11179.
"""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from figures.fig_fragility import CONFIGS as BOXES
from figures.fig_fragility import SETS_L0, runs_of
from figures.fig_fragility import Config as Boxes
from figures.objective_runs import mean_and_radius, near_true_l0, regret
from figures.runs import require
from toymodels import stream

SIGNS = {"seeds": 1, "bits": -1, "larger": 1, "projection": -1, "pairwise": -1, "fvu": -1}
LABELS = {
    "seeds": "two seeds\nagree",
    "bits": "description\nlength",
    "larger": "larger SAE\nagrees",
    "projection": "decoder\nprojection",
    "pairwise": "pairwise\ncosine",
    "fvu": "held-out\nfvu",
    "told": "fvu, told\nthe true l0",
}
FIXED_K = ("TopK", "BatchTopK", "Matryoshka")


@dataclass(frozen=True)
class Config:
    """The runs; signals_kept=False deals each box's signals anew among its runs."""

    boxes: Boxes
    signals_kept: bool = True

    @property
    def n_worlds(self) -> int:
        return self.boxes.n_worlds


CONFIGS = {preset: Config(boxes) for preset, boxes in BOXES.items()}


def compute(cfg: Config) -> dict[str, np.ndarray]:
    runs, boxes = runs_of(cfg.boxes), cfg.boxes
    n_worlds, n = boxes.n_worlds, len(boxes.architectures)
    share = runs["share_by_world"].reshape(n_worlds, n, -1)
    near = near_true_l0(runs["l0_by_world"], boxes.box).reshape(share.shape)
    signals = {
        name: sign * runs[f"{name}_by_world"].reshape(share.shape) for name, sign in SIGNS.items()
    }
    if not cfg.signals_kept:
        order = dealt(share.shape)
        signals = {name: np.take_along_axis(s, order, -1) for name, s in signals.items()}
        near = np.take_along_axis(near, order, -1)
    # The last row of the boxes is all of them together.
    groups = [slice(j, j + 1) for j in range(n)] + [slice(None)]
    lost = np.zeros((n_worlds, n + 1, len(LABELS)))
    random = np.zeros((n_worlds, n + 1))
    for w in range(n_worlds):
        for g, group in enumerate(groups):
            found = share[w, group]
            random[w, g] = found.max() - found.mean()
            for i, name in enumerate(SIGNS):
                lost[w, g, i] = regret(found, signals[name][w, group])
            among = np.where(near[w, group], signals["fvu"][w, group], -np.inf)
            lost[w, g, -1] = regret(found, among)
    data = {
        "regret_by_world": lost,
        "random_by_world": random,
        "signals": np.array(list(LABELS)),
        "boxes": np.array([*boxes.architectures, "all together"]),
    }
    for i, name in enumerate(LABELS):
        data[f"all_{name}"] = lost[:, -1, i].mean()
        data[f"worst_{name}"] = lost[:, :-1, i].mean(0).max()
    data["all_random"], data["least_random"] = (
        random[:, -1].mean(),
        random[:, :-1].mean(0).min(),
    )
    return data


def dealt(shape: tuple[int, ...]) -> np.ndarray:
    """Returns a random order of the last axis for each world and box."""
    order = [
        torch.randperm(shape[-1], generator=stream(w, f"dealt {j}")).numpy()
        for w, j in np.ndindex(shape[:2])
    ]
    return np.reshape(order, shape)


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    lost, random = data["regret_by_world"], data["random_by_world"]
    boxes, signals = data["boxes"].tolist(), data["signals"].tolist()
    gain = random[..., None] - lost  # over a random run
    mean, radius = mean_and_radius(gain)
    margins = {"no regret above 1": 1 - lost.max() + 1e-9}
    seeds, bits, fvu = (signals.index(name) for name in ("seeds", "bits", "fvu"))
    own = [j for j, name in enumerate(boxes) if name in SETS_L0]
    margins["agreement of seeds beats a random run, if l0 is set by the objective"] = np.min(
        (mean - radius)[own, seeds]
    )
    margins["and over all"] = (mean - radius)[-1, seeds]
    if cfg.n_worlds > 2:
        of_k = [boxes.index(name) for name in FIXED_K]
        margins["so does description length"] = np.min((mean - radius)[[*own, -1], bits])
        one = boxes.index("L1")
        margins["but not for L1 by coefficient"] = -(mean + radius)[one, bits]
        margins["the lowest fvu is worse than random for a fixed k"] = np.min(
            -(mean + radius)[of_k, fvu]
        )
        cosine = signals.index("pairwise")
        margins["so is the smallest pairwise cosine, over all"] = -(mean + radius)[-1, cosine]
    return require(margins)


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same runs with the signals of each box dealt anew among its runs."""
    return compute(Config(cfg.boxes, signals_kept=False))


COLOURS = ("#D55E00", "#E69F00", "#CC79A7", "#009E73", "#0072B2", "#56B4E9", "#999999", "#000000")


def plot(data: dict[str, np.ndarray]) -> Figure:
    names, boxes = data["signals"].tolist(), data["boxes"].tolist()
    fig, axes = plt.subplots(1, len(boxes), figsize=(10.6, 3.9), sharey=True)
    places = np.arange(len(names))
    for g, (ax, box) in enumerate(zip(axes, boxes, strict=True)):
        colour = COLOURS[-1] if g == len(boxes) - 1 else COLOURS[g]
        mean, radius = mean_and_radius(data["regret_by_world"][:, g])
        ax.axhline(len(names) - 1.5, color="#999999", lw=0.6)
        chance, spread = mean_and_radius(data["random_by_world"][:, g])
        ax.axvspan(chance - spread, chance + spread, color="#999999", alpha=0.3, lw=0)
        ax.axvline(chance, color="#999999", label="a random run")
        label = "the chosen run"
        ax.errorbar(mean, places, xerr=radius, fmt="o", color=colour, ms=5, capsize=2, label=label)
        for world in data["regret_by_world"][:, g]:
            ax.plot(world, places + 0.22, ".", color=colour, ms=3, alpha=0.6)
        ax.set(xlim=(-0.04, 1.04), title=box)
        ax.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
    axes[0].set_yticks(places, [LABELS[name] for name in names])
    axes[0].invert_yaxis()
    axes[len(boxes) // 2].set_xlabel("features lost against the best run of the box (0: nothing)")
    handles, labels = axes[-1].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower right", ncols=2)
    return fig
