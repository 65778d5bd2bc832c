"""What turns coefficients negative: coherence beyond 1 / (k - 1), rows off their rays, the gain.

Left: a code of k ones on true rays, refitted to each of its prefixes. The least coefficient is
1 - (k - 1) coherence (1e-9) for opposed rows, rows of a Hadamard union and of a simplex: it turns
negative at 1 / (k - 1), where F2's condition ends. Middle: SAEs trained on the ray worlds of
fig_signs. In every world sign necessity stays below E(sum_i delta_i a_i)^2 (filled), itself below
E[delta^2 |a|_1^2] (hollow); delta_i is the distance of feature i from its latent, delta the
largest. Right: in every world of random rays the 4 most negative latents of one TopK SAE lower the
error if its decoder is scaled to a quarter, and raise it as trained; where the code with and that
without them each get the factor that suits it best, the gain cancels. Points right: median and
range over worlds (a fresh dictionary, data stream and initialisation each); small dashes: nulls.

Paper: fig:sign-laws.
"""

from dataclasses import dataclass, replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.runs import map_cached, require
from figures.signs_panels import COLOURS, MARKERS, points, ratio
from figures.signs_runs import D_IN, FAMILIES, RAYS, Trained, gather, on_rays, trained_run
from theory.signs import refitted
from toymodels import hadamard_union, simplex

GAINS = (0.25, 0.5, 0.75, 1.0, 1.25)


@dataclass(frozen=True)
class Config:
    """Worlds, training steps, samples on which SAEs are read.

    opposed: whether the first of the opposed rows points against the others.
    """

    n_worlds: int
    n_steps: int = 1200
    n_read: int = 100
    opposed: bool = True


CONFIGS = {
    "smoke": Config(2, n_steps=100, n_read=6),
    "quick": Config(3),
    "paper": Config(8, n_steps=2000, n_read=150),
}


def compute(cfg: Config) -> dict[str, np.ndarray]:
    worlds, size = range(cfg.n_worlds), (cfg.n_steps, cfg.n_read)
    data = threshold(opposed=cfg.opposed)
    rays = [on_rays(w, f, *size) for w in worlds for f in FAMILIES]
    gather(data, "ray", map_cached(trained_run, rays), (cfg.n_worlds, len(FAMILIES)))
    scaled = [Trained(w, "random", 0.0, (("TopK", 2 * D_IN),), *size, GAINS) for w in worlds]
    gather(data, "scaled", map_cached(trained_run, scaled), (cfg.n_worlds,))
    for name, gain in (("quarter", 0.25), ("own", 1.0)):
        i = GAINS.index(gain)
        data[f"ratio_{name}"] = np.median(1 - data["scaled_gain_by_world"][:, 0, i])
    return data


def threshold(*, opposed: bool = True) -> dict[str, np.ndarray]:
    """Returns (k - 1) mu and the least refitted coefficient over all prefixes, for three families.

    A code of ones on: k rows of which the first has cosine -mu with the others, which have mu with
    one another; a basis vector and Hadamard rows with a negative entry there; k of a simplex.

    opposed: False for a first row that points with the others, not against them.
    """
    found: dict[str, np.ndarray] = {}
    sizes = [(k, c / (k - 1)) for k in (3, 5, 8) for c in np.linspace(0.1, 1.5, 15)]
    points = []
    for k, mu in sizes:
        if mu < 1:
            flips = torch.ones(k, dtype=torch.float64)
            flips[0] = -1 if opposed else 1
            gram = (mu * torch.outer(flips, flips)).fill_diagonal_(1.0)
            points.append(((k - 1) * mu, least_coefficient(torch.linalg.cholesky(gram))))
    found["threshold_opposed"] = np.array(points)
    union, points = hadamard_union(D_IN, dtype=torch.float64).vectors, []
    column = 1  # the first column of a Hadamard matrix is positive
    against = union[D_IN:][union[D_IN:, column] < 0]
    for k in range(2, 8):
        rows = torch.cat([union[column : column + 1], against[: k - 1]])
        points.append(((k - 1) / D_IN**0.5, least_coefficient(rows)))
    found["threshold_hadamard"] = np.array(points)
    corners = simplex(9, dtype=torch.float64).vectors
    points = [((k - 1) / 8, least_coefficient(corners[:k])) for k in range(2, 9)]
    found["threshold_simplex"] = np.array(points)
    return found


def least_coefficient(rows: torch.Tensor) -> float:
    """Returns the least refitted coefficient of x = sum of the rows over prefixes of the rows."""
    x, zero = rows.sum(0, keepdim=True), torch.zeros_like(rows[0])
    prefixes = [torch.arange(len(rows))[None] < t for t in range(1, len(rows) + 1)]
    return min(float(refitted(x, p, rows, zero)[p].min()) for p in prefixes)


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    margins: dict[str, Any] = {}
    for name in ("opposed", "hadamard", "simplex"):
        at, least = data[f"threshold_{name}"].T
        margins[f"{name}: the least coefficient is 1 - (k-1) mu"] = 1e-9 - np.max(
            np.abs(least - (1 - at))
        )
    opposed = data["threshold_opposed"]
    beyond = opposed[opposed[:, 0] > 1 + 1e-9]
    margins["opposed rows beyond the threshold: negative"] = np.min(-beyond[:, 1])
    for name in ("told", "every"):
        gap = data["ray_bound_by_world"] - data[f"ray_{name}_by_world"]
        margins[f"trained, {name}: necessity below its bound"] = np.min(gap) + 1e-9  # float32 x
    margins["the bound is below E delta^2 |a|_1^2"] = 1e-9 + np.min(
        data["ray_worst_by_world"] - data["ray_bound_by_world"]
    )
    gain = data["scaled_gain_by_world"][:, 0]
    margins["negatives help at a quarter of the gain"] = np.min(gain[:, GAINS.index(0.25)])
    margins["negatives harm at the gain as trained"] = np.min(-gain[:, GAINS.index(1.0)])
    return require(margins)


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with the opposed row turned to the side of the others."""
    return compute(replace(cfg, opposed=False))


def plot(data: dict[str, np.ndarray]) -> Figure:
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.4))
    _threshold(axes[0], data)
    _bound(axes[1], data)
    _scaled(axes[2], data)
    return fig


def _bound(ax: Axes, data: dict[str, np.ndarray]) -> None:
    least = 1e-8
    for i, name in enumerate(RAYS):
        value = data["ray_told_by_world"][:, :, i].ravel().clip(min=least)
        for bound, fill in (("bound", COLOURS[i]), ("worst", "none")):
            at = data[f"ray_{bound}_by_world"][:, :, i].ravel().clip(min=least)
            style: dict[str, Any] = {"color": COLOURS[i], "mfc": fill, "ms": 4, "ls": ""}
            ax.plot(at, value, marker=MARKERS[i], label=name if bound == "bound" else "", **style)
    ax.plot([], [], "o", color="#999999", mfc="none", ms=4, label="with the largest \u03b4")
    ax.legend(loc="upper left")
    ax.plot([least, 10], [least, 10], color="black", lw=1)
    ax.set(xscale="log", yscale="log", title="trained on rays: below the bound")
    ax.minorticks_off()
    ax.set(
        xlabel="bound E(\u03a3 \u03b4\u1d62 a\u1d62)\u00b2 / E|x|\u00b2", ylabel="sign necessity"
    )


def _threshold(ax: Axes, data: dict[str, np.ndarray]) -> None:
    ax.plot([0, 1.5], [1, -0.5], color="black", lw=0.8)
    names = {"opposed": "opposed rows", "hadamard": "Hadamard rows", "simplex": "simplex"}
    for i, (name, label) in enumerate(names.items()):
        at, least = data[f"threshold_{name}"].T
        ax.plot(at, least, MARKERS[i], color=COLOURS[i], mfc="none", ms=4, label=label)
    ax.axhline(0, color="black", lw=0.8)
    ax.axvline(1, color="black", lw=0.8, ls=":")
    ax.set(xlabel="coherence \u00d7 (k \u2212 1)", ylabel="least refitted coefficient")
    ax.set_title("true rays: signs turn at 1/(k \u2212 1)")
    ax.legend()


def _scaled(ax: Axes, data: dict[str, np.ndarray]) -> None:
    ax.set_yscale("log")
    for i, (name, label) in enumerate((("gain", "as it is"), ("scaled_gain", "each rescaled"))):
        values = ratio(data[f"scaled_{name}_by_world"][:, 0])
        points(ax, np.array(GAINS), values, i, label)
        null = ratio(data[f"scaled_{name}_null_by_world"][:, 0])
        ax.plot(GAINS, np.median(null, 0), "_", color=COLOURS[i], ms=9, alpha=0.6)
    ax.axhline(1, color="black", lw=0.8)
    ax.set(xlabel="decoder gain of TopK (1 as trained)", ylabel="error with / without")
    ax.set_title("random rays: the gain decides")
    ax.set_ylim(0.2)
    ax.legend(loc="lower right")
