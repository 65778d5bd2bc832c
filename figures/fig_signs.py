"""Informative negative activations mean a missing ray, a two-signed feature, or a wrong gain.

Columns: sign score of the refitted code (1 rays, 0 coin tosses), error with the 4 most negative
latents over the error without them (below 1 they help), and sign necessity, the share of energy
that no coefficients >= 0 explain. Top row, ray worlds against coherence: at any coherence the
true features have necessity 0 on all rows (1e-9), within F2's condition also on every prefix of
their own code. Every trained SAE stays below the bound E[delta^2 |a|_1^2] (right, hollow; delta is
the largest distance of a feature from its latent) and below E(sum_i delta_i a_i)^2 (filled), and
TopK below coins that turn its latents. The score alone misleads where latents come in opposite
pairs (antipodal): least squares splits a ray over both. Middle row, orthonormal features of which
a share has either sign: the true features score one minus the share (grey: all but 1e-10 of
samples of this size), and their necessity is half of what the score lacks. Where all have either
sign, a TopK SAE of the same width, which has one latent for each line, needs negative coefficients
more than one of twice the width, in every world. Right: the least refitted coefficient of a code
of k ones, over all prefixes, is 1 - (k - 1) coherence: it turns negative at 1/(k - 1). Bottom row,
rays left out: true features notice it if the other rays span the missing one (antipodal: exactly
the energy it had), not if it is orthogonal to them. Right: in every world of random rays the
negatives of one TopK SAE help if its decoder gain is cut to a quarter, and harm at its own. Small
dashes: nulls. Points: mean (of ratios the median) and range over worlds (a fresh dictionary, data
stream and initialisation each).

Paper: fig:signs.
"""

from dataclasses import dataclass, replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.runs import map_cached, require
from figures.signs_runs import D_IN, FAMILIES, Exact, K, Trained, exact_run, trained_run
from theory.signs import refitted
from theory.statistics import bernstein_radius
from toymodels import hadamard_union, simplex

ALPHA = 1e-10  # false-alarm probability of one interval of the sign score
GAINS = (0.25, 0.5, 0.75, 1.0, 1.25)
RAYS = ("TopK", "MultiTopK", "AbsTopK")
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


def width(family: str) -> int:
    return D_IN if family == "orthonormal" else 2 * D_IN


def compute(cfg: Config) -> dict[str, np.ndarray]:
    worlds = range(cfg.n_worlds)
    size = (cfg.n_steps, cfg.n_read)
    data: dict[str, np.ndarray] = {"shares": np.array(cfg.shares), "missing": np.array(cfg.missing)}
    rays = [
        Trained(w, f, 0.0, tuple((name, width(f)) for name in RAYS), *size)
        for w in worlds
        for f in FAMILIES
    ]
    _gather(data, "ray", map_cached(trained_run, rays), (cfg.n_worlds, len(FAMILIES)))
    lines = [Trained(w, "orthonormal", s, LINES, *size) for w in worlds for s in cfg.shares]
    _gather(data, "line", map_cached(trained_run, lines), (cfg.n_worlds, len(cfg.shares)))
    fewer = tuple(("TopK", 2 * D_IN - r) for r in cfg.missing)
    less = [Trained(w, "antipodal", 0.0, fewer, *size) for w in worlds]
    _gather(data, "less", map_cached(trained_run, less), (cfg.n_worlds,))
    scaled = [Trained(w, "random", 0.0, (("TopK", 2 * D_IN),), *size, GAINS) for w in worlds]
    _gather(data, "scaled", map_cached(trained_run, scaled), (cfg.n_worlds,))
    read: dict[str, Any] = {"n_samples": cfg.n_exact, "flipped": cfg.flipped}
    true = [Exact(w, f, 0.0, 0, **read) for w in worlds for f in FAMILIES]
    _gather(data, "true", map_cached(exact_run, true), (cfg.n_worlds, len(FAMILIES)))
    true = [Exact(w, "orthonormal", s, 0, **read) for w in worlds for s in cfg.shares]
    _gather(data, "trueline", map_cached(exact_run, true), (cfg.n_worlds, len(cfg.shares)))
    read["n_samples"] = cfg.n_read
    for family in ("orthonormal", "antipodal", "hadamard"):
        true = [Exact(w, family, 0.0, r, **read) for w in worlds for r in cfg.missing]
        shape = (cfg.n_worlds, len(cfg.missing))
        _gather(data, f"less{family}", map_cached(exact_run, true), shape)
    data["radius"] = np.array([radius(s, cfg.n_exact) for s in cfg.shares])
    data |= threshold()
    data["ray_necessity_topk"] = data["ray_necessity_by_world"][:, :, 0].max()
    data["ray_necessity_null"] = data["ray_necessity_null_by_world"][:, :, 0].min()
    last = data["line_necessity_by_world"][:, -1, :, 0].mean(0)
    for name, value in zip(("same", "twice", "abs"), last, strict=True):
        data[f"line_necessity_{name}"] = value
    data["left_out_necessity"] = data["lessantipodal_every_by_world"][:, -1].mean()
    for name, gain in (("quarter", 0.25), ("own", 1.0)):
        i = GAINS.index(gain)
        data[f"ratio_{name}"] = np.median(1 - data["scaled_gain_by_world"][:, 0, i])
    return data


def _gather(
    data: dict[str, np.ndarray],
    prefix: str,
    results: list[dict[str, np.ndarray]],
    shape: tuple[int, ...],
) -> None:
    """Adds "prefix_name_by_world" arrays whose first axes are those of `shape`."""
    for name, value in results[0].items():
        stacked = np.stack([r[name] for r in results])
        data[f"{prefix}_{name}_by_world"] = stacked.reshape(*shape, *value.shape)


def radius(share: float, n: int) -> float:
    """Returns how far sum a^2 (sign - (1 - share)) per sample is from its mean 0, at level ALPHA.

    Of the K active features a ray adds a^2 share; a line a^2 (share - 1 +- 1), by a coin. The
    K terms are not positively correlated, so their variances add up to an upper bound.
    """
    fourth, largest = (1.5**5 - 0.5**5) / 5, 1.5**2  # E a^4 and max a^2 of U(.5, 1.5)
    spread = (1 - share) * share**2 + share * (1 + (1 - share) ** 2)
    return bernstein_radius(n, K * fourth * spread, K * largest * (2 - share), ALPHA)


def threshold() -> dict[str, np.ndarray]:
    """Returns (k - 1) mu and the least refitted coefficient over all prefixes, for three families.

    A code of ones on: k rows of which the first has cosine -mu with the others, which have mu with
    one another; a basis vector and Hadamard rows with a negative entry there; k of a simplex.
    """
    found: dict[str, np.ndarray] = {}
    opposed = [(k, c / (k - 1)) for k in (3, 5, 8) for c in np.linspace(0.1, 1.5, 15)]
    points = []
    for k, mu in opposed:
        if mu < 1:
            flips = torch.ones(k, dtype=torch.float64)
            flips[0] = -1
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
    within = [FAMILIES.index(f) for f in WITHIN]
    assert (K - 1) * data["true_coherence_by_world"][:, within].max() < 1
    margins = {
        "true features, within F2's condition: no necessity on any prefix": 1e-9
        - max(data[f"true_{n}_by_world"][:, within].max() for n in ("necessity", "prefixes")),
        "true features, any coherence: no necessity on all rows": 1e-9
        - data["true_every_by_world"].max(),
    }
    for name in ("told", "every"):
        gap = data["ray_bound_by_world"] - data[f"ray_{name}_by_world"]
        margins[f"trained, {name}: necessity below its bound"] = np.min(gap) + 1e-9  # float32 x
    margins["the bound is below E delta^2 |a|_1^2"] = 1e-9 + np.min(
        data["ray_worst_by_world"] - data["ray_bound_by_world"]
    )
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
    for name in ("opposed", "hadamard", "simplex"):
        at, least = data[f"threshold_{name}"].T
        margins[f"{name}: the least coefficient is 1 - (k-1) mu"] = 1e-9 - np.max(
            np.abs(least - (1 - at))
        )
    opposed = data["threshold_opposed"]
    beyond = opposed[opposed[:, 0] > 1 + 1e-9]
    margins["opposed rows beyond the threshold: negative"] = np.min(-beyond[:, 1])
    left_out = data["lessantipodal_every_by_world"] - data["lessantipodal_expected_by_world"]
    margins["antipodal, rays left out: the necessity is their energy"] = FLOAT32 - np.max(
        np.abs(left_out)
    )
    margins["orthonormal, rays left out: none"] = (
        1e-9 - data["lessorthonormal_every_by_world"].max()
    )
    gain = data["scaled_gain_by_world"][:, 0]
    margins["negatives help at a quarter of the gain"] = np.min(gain[:, GAINS.index(0.25)])
    margins["negatives harm at the gain as trained"] = np.min(-gain[:, GAINS.index(1.0)])
    return require(margins)


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with one row of the true dictionary pointing the wrong way."""
    return compute(replace(cfg, flipped=True))


COLOURS = ("#0072B2", "#009E73", "#D55E00", "#000000")
MARKERS = ("o", "^", "s", "D")
FAMILY_NAMES = ("ortho-\nnormal", "Hadamard\nunion", "random", "anti-\npodal")
LINE_NAMES = ("TopK, one latent per line", "TopK, two per line", "AbsTopK, one per line")
LABELS = ("sign score", "error with / without negatives", "sign necessity")
MOST = 1e3  # ratios are drawn from 1/MOST to MOST


def plot(data: dict[str, np.ndarray]) -> Figure:
    fig, axes = plt.subplots(3, 4, figsize=(11.5, 8.6))
    places = np.arange(len(FAMILIES))
    _row(axes[0], data, "ray", "true", places, RAYS)
    for ax in axes[0, :3]:
        ax.set_xticks(places, FAMILY_NAMES)
        ax.set_xlabel("coherence of the rays \u2192")
    _row(axes[1], data, "line", "trueline", data["shares"], LINE_NAMES)
    score = axes[1, 0]
    energy = data["trueline_energy_by_world"].mean(0)
    low, high = (1 - data["shares"] + sign * data["radius"] / energy for sign in (-1, 1))
    score.fill_between(data["shares"], low, high, color="#DDDDDD", lw=0)
    for ax in axes[1, :3]:
        ax.set_xlabel("share of features with either sign")
    axes[1, 2].plot(data["shares"], data["shares"] / 2, color="black", lw=0.8)
    share = data["missing"] / (2 * D_IN)
    _less(axes[2], data, share)
    _bound(axes[0, 3], data)
    _threshold(axes[1, 3], data)
    _scaled(axes[2, 3], data)
    for ax, label in zip(axes[0, :3], LABELS, strict=True):
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
        for ax, score in zip(axes, ("score", "gain", "necessity"), strict=False):
            values = data[f"{trained}_{score}_by_world"][:, :, i, 0]
            null = data[f"{trained}_{score}_null_by_world"][:, :, i, 0]
            if score == "gain":
                values, null = ratio(values), ratio(null)
            _points(ax, at, values, i, name)
            ax.plot(at, np.median(null, 0), "_", color=COLOURS[i], ms=9, alpha=0.6)
    for ax, score in ((axes[0], "score"), (axes[2], "necessity")):
        _points(ax, x + 2 * step, data[f"{true}_{score}_by_world"], 3, "true features")
    axes[0].set_ylim(-0.65, 1.08)
    _ratio_axis(axes[1])
    axes[2].set_ylim(-0.03, 1.0)
    axes[2].plot([], [], "_", color="#999999", ms=9, label="null of each")
    axes[2].legend(loc="upper left", fontsize=7)


def ratio(gain: np.ndarray) -> np.ndarray:
    """Returns error with over error without the negatives, within what is drawn."""
    return np.clip(1 - gain, 1 / MOST, MOST)


def _ratio_axis(ax: Axes) -> None:
    ax.set_yscale("log")
    ax.axhline(1, color="black", lw=0.8)
    ax.set_ylim(0.1 / MOST, 10 * MOST)
    above, below = "negatives harm (clipped at 1,000)", "negatives help (clipped at 1/1,000)"
    ax.annotate(above, (0.02, 0.99), xycoords="axes fraction", va="top", fontsize="small")
    ax.annotate(below, (0.02, 0.02), xycoords="axes fraction", fontsize="small")


def _points(ax: Axes, x: np.ndarray, y: np.ndarray, i: int, label: str = "") -> None:
    """Mean over worlds (the median where the axis is a ratio's) and their range."""
    centre = np.median(y, 0) if ax.get_yscale() == "log" else y.mean(0)
    spread = np.stack([centre - y.min(0), y.max(0) - centre]).clip(min=0)  # rounding
    style: dict[str, Any] = {"fmt": MARKERS[i], "color": COLOURS[i], "capsize": 0, "ms": 4}
    ax.errorbar(x, centre, yerr=spread, elinewidth=0.8, label=label, **style)


def _less(axes: np.ndarray, data: dict[str, np.ndarray], share: np.ndarray) -> None:
    for ax, score in zip(axes, ("score", "gain", "necessity"), strict=False):
        values = data[f"less_{score}_by_world"][:, :, 0]
        null = data[f"less_{score}_null_by_world"][:, :, 0]
        if score == "gain":
            values, null = ratio(values), ratio(null)
            _ratio_axis(ax)
        _points(ax, share, values, 0, "TopK, as many latents (antipodal)")
        ax.plot(share, np.median(null, 0), "_", color=COLOURS[0], ms=9, alpha=0.6)
        ax.set_xlabel("share of the rays left out")
    _points(axes[0], share, data["lessantipodal_score_by_world"], 3)
    for i, family in ((3, "antipodal"), (1, "hadamard"), (2, "orthonormal")):
        values = data[f"less{family}_every_by_world"]
        at = share * (2 if family == "orthonormal" else 1)
        _points(axes[2], at, values, i, f"true features, {family}")
    axes[0].set_ylim(-0.65, 1.08)
    axes[2].set_ylim(-0.03, 1.0)
    axes[2].legend(loc="upper left", fontsize=7)


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
        _points(ax, np.array(GAINS), values, i, label)
        null = ratio(data[f"scaled_{name}_null_by_world"][:, 0])
        ax.plot(GAINS, np.median(null, 0), "_", color=COLOURS[i], ms=9, alpha=0.6)
    ax.axhline(1, color="black", lw=0.8)
    ax.set(xlabel="decoder gain of TopK (1 as trained)", ylabel="error with / without")
    ax.set_title("random rays: the gain decides")
    ax.set_ylim(0.2)
    ax.legend(loc="lower right")
