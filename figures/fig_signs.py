"""Informative negative activations mean a missing ray or a feature used with both signs.

Columns: sign score of the refitted code (1 rays, 0 coin tosses), error with the 4 most negative
latents over the error without them (below 1 they help), and sign necessity, the share of energy
that no coefficients >= 0 explain. Top row, ray worlds against coherence: at any coherence the
true features have necessity 0 on all rows (1e-9), within F2's condition also on every prefix of
their own code; a trained TopK SAE has less than coins that turn its latents. The score alone
misleads where latents come in opposite pairs (antipodal): least squares splits a ray over both.
Middle row, orthonormal features of which a share has either sign: the true features score one
minus the share (grey: all but 1e-10 of samples of this size), and their necessity is half of what
the score lacks. Where all have either sign, a TopK SAE of the same width, which has one latent for
each line, needs negative coefficients more than one of twice the width, in every world. Bottom
row, rays left out: true features notice it if the other rays span the missing one (antipodal:
exactly the energy it had), not if it is orthogonal to them. Small dashes: nulls. Points: mean (of
ratios the median) and range over worlds (a fresh dictionary, data stream and initialisation each).

Paper: fig:signs.
"""

from dataclasses import dataclass, replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.runs import map_cached, require
from figures.signs_panels import COLOURS, MOST, points, ratio
from figures.signs_runs import (
    D_IN,
    FAMILIES,
    RAYS,
    Exact,
    K,
    Trained,
    exact_run,
    gather,
    on_rays,
    trained_run,
)
from theory.statistics import bernstein_radius

ALPHA = 1e-10  # false-alarm probability of one interval of the sign score
LINES = (("TopK", D_IN), ("TopK", 2 * D_IN), ("AbsTopK", D_IN))
FLOAT32 = 1e-6  # the rows of a world are orthogonal to about 1e-7
WITHIN = ("orthonormal", "hadamard")  # (K - 1) * coherence < 1


@dataclass(frozen=True)
class Config:
    """Worlds; bipolar shares; numbers of rays left out of 32 (of 16 where orthonormal); training.

    n_exact, n_read: samples on which the true features and the SAEs are read.
    flipped: whether one row of the true dictionary points the wrong way.
    """

    n_worlds: int
    shares: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    missing: tuple[int, ...] = (0, 4, 8, 12)
    n_steps: int = 1200
    n_exact: int = 1500
    n_read: int = 100
    flipped: bool = False


CONFIGS = {
    "smoke": Config(2, (0.0, 1.0), (0, 8), n_steps=100, n_exact=40, n_read=6),
    "quick": Config(3),
    "paper": Config(8, n_steps=2000, n_exact=4000, n_read=150),
}


def compute(cfg: Config) -> dict[str, np.ndarray]:
    worlds = range(cfg.n_worlds)
    size = (cfg.n_steps, cfg.n_read)
    data: dict[str, np.ndarray] = {"shares": np.array(cfg.shares), "missing": np.array(cfg.missing)}
    rays = [on_rays(w, f, *size) for w in worlds for f in FAMILIES]
    gather(data, "ray", map_cached(trained_run, rays), (cfg.n_worlds, len(FAMILIES)))
    lines = [Trained(w, "orthonormal", s, LINES, *size) for w in worlds for s in cfg.shares]
    gather(data, "line", map_cached(trained_run, lines), (cfg.n_worlds, len(cfg.shares)))
    fewer = tuple(("TopK", 2 * D_IN - r) for r in cfg.missing)
    less = [Trained(w, "antipodal", 0.0, fewer, *size) for w in worlds]
    gather(data, "less", map_cached(trained_run, less), (cfg.n_worlds,))
    read: dict[str, Any] = {"n_samples": cfg.n_exact, "flipped": cfg.flipped}
    true = [Exact(w, f, 0.0, 0, **read) for w in worlds for f in FAMILIES]
    gather(data, "true", map_cached(exact_run, true), (cfg.n_worlds, len(FAMILIES)))
    true = [Exact(w, "orthonormal", s, 0, **read) for w in worlds for s in cfg.shares]
    gather(data, "trueline", map_cached(exact_run, true), (cfg.n_worlds, len(cfg.shares)))
    read["n_samples"] = cfg.n_read
    for family in ("orthonormal", "antipodal", "hadamard"):
        true = [Exact(w, family, 0.0, r, **read) for w in worlds for r in cfg.missing]
        shape = (cfg.n_worlds, len(cfg.missing))
        gather(data, f"less{family}", map_cached(exact_run, true), shape)
    data["radius"] = np.array([radius(s, cfg.n_exact) for s in cfg.shares])
    data["ray_necessity_topk"] = data["ray_necessity_by_world"][:, :, 0].max()
    data["ray_necessity_null"] = data["ray_necessity_null_by_world"][:, :, 0].min()
    last = data["line_necessity_by_world"][:, -1, :, 0].mean(0)
    for name, value in zip(("same", "twice", "abs"), last, strict=True):
        data[f"line_necessity_{name}"] = value
    data["left_out_necessity"] = data["lessantipodal_every_by_world"][:, -1].mean()
    return data


def radius(share: float, n: int) -> float:
    """Returns how far sum a^2 (sign - (1 - share)) per sample is from its mean 0, at level ALPHA.

    Of the K active features a ray adds a^2 share; a line a^2 (share - 1 +- 1), by a coin. The
    K terms are not positively correlated, so their variances add up to an upper bound.
    """
    fourth, largest = (1.5**5 - 0.5**5) / 5, 1.5**2  # E a^4 and max a^2 of U(.5, 1.5)
    spread = (1 - share) * share**2 + share * (1 + (1 - share) ** 2)
    return bernstein_radius(n, K * fourth * spread, K * largest * (2 - share), ALPHA)


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    within = [FAMILIES.index(f) for f in WITHIN]
    assert (K - 1) * data["true_coherence_by_world"][:, within].max() < 1
    margins = {
        "true features, within F2's condition: no necessity on any prefix": 1e-9
        - max(data[f"true_{n}_by_world"][:, within].max() for n in ("necessity", "prefixes")),
        "true features, any coherence: no necessity on all rows": 1e-9
        - data["true_every_by_world"].max(),
    }
    topk = data["ray_necessity_null_by_world"] - data["ray_necessity_by_world"]
    margins["TopK on rays: necessity below its null"] = np.min(topk[:, :, 0])
    score, energy = data["trueline_score_by_world"], data["trueline_energy_by_world"]
    off = np.abs(score - (1 - data["shares"]))
    margins["the score is one minus the share"] = 1e-9 + np.min(data["radius"] / energy - off)
    half = (1 - score) / 2
    margins["true lines: necessity is half of what the score lacks"] = FLOAT32 - np.max(
        np.abs(data["trueline_necessity_by_world"] - half)
    )
    lines = data["line_necessity_by_world"][:, -1, :, 0]
    margins["all lines: more necessity in one ray each than in two"] = np.min(
        lines[:, 0] - lines[:, 1]
    )
    left_out = data["lessantipodal_every_by_world"] - data["lessantipodal_expected_by_world"]
    margins["antipodal, rays left out: the necessity is their energy"] = FLOAT32 - np.max(
        np.abs(left_out)
    )
    margins["orthonormal, rays left out: none"] = (
        1e-9 - data["lessorthonormal_every_by_world"].max()
    )
    return require(margins)


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with one row of the true dictionary pointing the wrong way."""
    return compute(replace(cfg, flipped=True))


FAMILY_NAMES = ("ortho-\nnormal", "Hadamard\nunion", "random", "anti-\npodal")
LINE_NAMES = ("TopK, one latent per line", "TopK, two per line", "AbsTopK, one per line")
LABELS = ("sign score", "error with / without negatives", "sign necessity")


def plot(data: dict[str, np.ndarray]) -> Figure:
    fig, axes = plt.subplots(3, 3, figsize=(9.2, 8.6))
    places = np.arange(len(FAMILIES))
    _row(axes[0], data, "ray", "true", places, RAYS)
    for ax in axes[0]:
        ax.set_xticks(places, FAMILY_NAMES)
        ax.set_xlabel("coherence of the rays \u2192")
    _row(axes[1], data, "line", "trueline", data["shares"], LINE_NAMES)
    score = axes[1, 0]
    energy = data["trueline_energy_by_world"].mean(0)
    low, high = (1 - data["shares"] + sign * data["radius"] / energy for sign in (-1, 1))
    score.fill_between(data["shares"], low, high, color="#DDDDDD", lw=0)
    for ax in axes[1]:
        ax.set_xlabel("share of features with either sign")
    axes[1, 2].plot(data["shares"], data["shares"] / 2, color="black", lw=0.8)
    share = data["missing"] / (2 * D_IN)
    _less(axes[2], data, share)
    for ax, label in zip(axes[0], LABELS, strict=True):
        ax.set_title(label, fontweight="bold")
    for row, label in zip(axes, ("ray worlds", "lines and rays", "rays left out"), strict=True):
        row[0].set_ylabel(f"{label}\nsign score")
    return fig


def _row(
    axes: np.ndarray,
    data: dict[str, np.ndarray],
    trained: str,
    true: str,
    x: np.ndarray,
    names: tuple[str, ...],
) -> None:
    """Score, ratio of errors and necessity of three SAEs and of the true features, with nulls."""
    step = 0.1 if trained == "ray" else 0.02
    for i, name in enumerate(names):
        at = x + step * (i - 1)
        for ax, score in zip(axes, ("score", "gain", "necessity"), strict=True):
            values = data[f"{trained}_{score}_by_world"][:, :, i, 0]
            null = data[f"{trained}_{score}_null_by_world"][:, :, i, 0]
            if score == "gain":
                values, null = ratio(values), ratio(null)
            points(ax, at, values, i, name)
            ax.plot(at, np.median(null, 0), "_", color=COLOURS[i], ms=9, alpha=0.6)
    for ax, score in ((axes[0], "score"), (axes[2], "necessity")):
        points(ax, x + 2 * step, data[f"{true}_{score}_by_world"], 3, "true features")
    axes[0].set_ylim(-0.65, 1.08)
    _ratio_axis(axes[1])
    axes[2].set_ylim(-0.03, 1.0)
    axes[2].plot([], [], "_", color="#999999", ms=9, label="null of each")
    axes[2].legend(loc="upper left", fontsize=7)


def _ratio_axis(ax: Axes) -> None:
    ax.set_yscale("log")
    ax.axhline(1, color="black", lw=0.8)
    ax.set_ylim(0.1 / MOST, 10 * MOST)
    ax.set_yticks([1 / MOST, 1, MOST], ["1/1,000", "1", "1,000"])
    ax.minorticks_off()
    above, below = "negatives harm (clipped at 1,000)", "negatives help (clipped at 1/1,000)"
    ax.annotate(above, (0.02, 0.99), xycoords="axes fraction", va="top", fontsize="small")
    ax.annotate(below, (0.02, 0.02), xycoords="axes fraction", fontsize="small")


def _less(axes: np.ndarray, data: dict[str, np.ndarray], share: np.ndarray) -> None:
    for ax, score in zip(axes, ("score", "gain", "necessity"), strict=True):
        values = data[f"less_{score}_by_world"][:, :, 0]
        null = data[f"less_{score}_null_by_world"][:, :, 0]
        if score == "gain":
            values, null = ratio(values), ratio(null)
            _ratio_axis(ax)
        points(ax, share, values, 0, "TopK, as many latents (antipodal)")
        ax.plot(share, np.median(null, 0), "_", color=COLOURS[0], ms=9, alpha=0.6)
        ax.set_xlabel("share of the rays left out")
    points(axes[0], share, data["lessantipodal_score_by_world"], 3)
    for i, family in ((3, "antipodal"), (1, "hadamard"), (2, "orthonormal")):
        values = data[f"less{family}_every_by_world"]
        at = share * (2 if family == "orthonormal" else 1)
        points(axes[2], at, values, i, f"true features, {family}")
    axes[0].set_ylim(-0.65, 1.08)
    axes[2].set_ylim(-0.03, 1.0)
    axes[2].legend(loc="upper left", fontsize=7)
