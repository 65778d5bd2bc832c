"""A basis of the weights may be undercomplete while that of the activations is overcomplete.

Across: the directions of weight space that the data determine, over all that no rotation of the
hidden space moves. Upwards: features that an SAE recovers one to one, less those that it recovers
of the same dictionary turned at random, over the width of its data. Shaded: both halves of the
conjecture at once; the verdict asks for half a direction of each.

Exact phases of the toy model of superposition (diamonds): polygons in a plane, weights counted by
the rank of the Hessian. A silent column leaves three weights undetermined, so five of six features
determine 14 of 17; a TopK SAE (k = 1) finds all five in two dimensions, in every world. Without
silent columns the weights are complete. Trained networks (circles 5-2, squares 32-8; k = 1; N
samples for both sides): in every world both halves hold at the rarest features, though most
Gauss-Newton matrices have their full rank: some curvatures are small beside ln N / N, not 0. Dense
features of 5-2 are never found in excess of the width. Linear readers (triangles; k = 2) of 48
directions in 16 dimensions: where features are equally frequent both halves hold in every world at
the fewest samples, and at the most the weights are complete; where the directions span 8 dimensions
only, both hold at the most as well. The most common features found are no more than G3 allows. The
interaction basis never has more directions than the width.

With k at least the width any independent latents rebuild the data, so no verdict is given (hollow):
with k = width the SAE's median error is smaller than with k = 1, and in most worlds it finds fewer
features. Points: worlds (a fresh network, dictionary, data and initialisation each); lines:
medians; bars: ranges, and shares of the worlds.

Paper: fig:two-bases. Networks: Elhage et al. 2022, arXiv 2209.10652. Phases: Chen et al. 2023,
arXiv 2310.06301. Interaction basis: Bushnaq et al. 2024, arXiv 2405.10928.
"""

from dataclasses import dataclass, replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.runs import map_cached, require
from figures.two_bases_runs import (
    PhaseRun,
    ReaderRun,
    Reading,
    ToyRun,
    phase_run,
    reader_run,
    toy_run,
)
from theory.phases import polygon_phase, transition_size

MOST = 0.75  # share of the worlds that "most" asks for
HALF = 0.5  # a direction: rounding to the nearest count


@dataclass(frozen=True)
class Config:
    """Worlds; phases (columns, vertices, raised); networks and their densities; readers; training.

    n_samples: N of phases and networks.   plane_ks, wide_ks: the first one counts.
    sizes: N of readers.   readers: (exponent, span).
    n_starts: SAEs trained side by side, of which the one of least error counts.
    projected: whether rotations are projected out of the weights.
    """

    n_worlds: int
    phases: tuple[tuple[int, int, int], ...] = (
        (5, 5, 0),
        (6, 5, 0),
        (6, 5, 1),
        (6, 6, 0),
        (8, 6, 0),
        (8, 8, 0),
    )
    plane: tuple[float, ...] = (1.0, 0.3, 0.1, 0.03)
    wide: tuple[float, ...] = (0.3, 0.1, 0.03)
    wide_size: tuple[int, int] = (32, 8)
    wide_ks: tuple[int, ...] = (1, 2, 4, 8)
    sizes: tuple[int, ...] = (300, 3_000, 30_000)
    readers: tuple[tuple[float, int], ...] = ((0.0, 16), (1.0, 16), (2.0, 16), (0.0, 8))
    reader_size: tuple[int, int] = (48, 16)
    n_samples: int = 4_000
    plane_ks: tuple[int, ...] = (1, 2, 3)
    n_network: int = 1500
    n_sae: int = 500
    n_starts: int = 3
    projected: bool = True


CONFIGS = {
    "smoke": Config(
        2,
        ((6, 5, 0), (6, 6, 0)),
        (1.0, 0.03),
        (0.03,),
        (16, 4),
        (1, 4),
        (300, 10_000),
        ((0.0, 16), (0.0, 8)),
        plane_ks=(1, 2),
        n_samples=2_000,
        n_network=200,
        n_sae=150,
        n_starts=1,
    ),
    "quick": Config(3),
    "paper": Config(8, n_network=3000, n_sae=1000),
}


def compute(cfg: Config) -> dict[str, np.ndarray]:
    worlds, n = range(cfg.n_worlds), cfg.n_samples
    data: dict[str, np.ndarray] = {name: np.array(getattr(cfg, name)) for name in NAMED}
    once = Reading((1,), n, cfg.n_sae, cfg.n_starts)
    phases = [PhaseRun(w, *p, once, cfg.projected) for w in worlds for p in cfg.phases]
    _gather(data, "phase", map_cached(phase_run, phases), (cfg.n_worlds, len(cfg.phases)))
    plane, wide = (Reading(ks, n, cfg.n_sae, cfg.n_starts) for ks in (cfg.plane_ks, cfg.wide_ks))
    many = {
        "plane": (5, 2, 0.9, cfg.plane, cfg.n_network, plane),
        "wide": (*cfg.wide_size, 0.9, cfg.wide, cfg.n_network, wide),
    }
    for name, settings in many.items():
        runs = [ToyRun(w, *settings, cfg.projected) for w in worlds]
        _gather(data, name, map_cached(toy_run, runs), (cfg.n_worlds,))
    readers = [
        ReaderRun(w, exponent, span, *cfg.reader_size, Reading((2,), size, cfg.n_sae, 2))
        for w in worlds
        for exponent, span in cfg.readers
        for size in cfg.sizes
    ]
    shape = (cfg.n_worlds, len(cfg.readers), len(cfg.sizes))
    _gather(data, "reader", map_cached(reader_run, readers), shape)
    data["transition"] = np.array(transition_size(polygon_phase(6, 5), polygon_phase(6, 6)))
    data["wide_live"] = np.median(data["wide_live_by_world"][:, -1])
    data["wide_found"] = np.median(data["wide_recovered_by_world"][:, -1, 0])
    data["wide_null"] = np.median(data["wide_null_by_world"][:, -1, 0])
    for kind in ("plane", "wide"):
        data[f"{kind}_enough"] = np.median(data[f"{kind}_enough_by_world"][:, -1])
    data["wide_soft_share"] = np.median(weight_share(data, "wide")[:, -1])
    data["plane_soft_share"] = np.median(weight_share(data, "plane")[:, -1])
    data["plane_found"] = np.median(data["plane_recovered_by_world"][:, -1, 0])
    data["plane_null"] = np.median(data["plane_null_by_world"][:, -1, 0])
    data["pentagon_null"] = data["phase_null_by_world"][:, cfg.phases.index((6, 5, 0))].mean()
    ratio = data["reader_common_by_world"] / data["reader_bound_by_world"]
    data["tightest"] = np.array(np.nanmax(ratio))
    data["tightness"] = np.array(np.nanmedian(ratio))
    return data


NAMED = ("phases", "plane", "wide", "wide_size", "plane_ks", "wide_ks", "sizes", "readers")


def _gather(
    data: dict[str, np.ndarray],
    prefix: str,
    results: list[dict[str, np.ndarray]],
    shape: tuple[int, ...],
) -> None:
    """Adds "prefix_name_by_world" arrays whose first axes are those of `shape`."""
    for name in results[0].keys() - {"mask"}:
        stacked = np.stack([r[name] for r in results])
        data[f"{prefix}_{name}_by_world"] = stacked.reshape(*shape, *stacked.shape[1:])


def weight_share(data: dict[str, np.ndarray], kind: str) -> np.ndarray:
    """Returns soft rank over all free directions, [worlds, ...]: 1 is complete."""
    return data[f"{kind}_soft_rank_by_world"] / data[f"{kind}_n_free_by_world"]


def surplus(data: dict[str, np.ndarray], kind: str, i_k: int = 0) -> np.ndarray:
    """Returns features recovered above the null less the width, [worlds, ...]: 0 is complete."""
    found = data[f"{kind}_recovered_by_world"] - data[f"{kind}_null_by_world"]
    return found[..., i_k] - data[f"{kind}_width_by_world"]


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    margins = {}
    columns, vertices, raised = np.array(cfg.phases).T
    silent = columns - vertices - raised
    free, rank = data["phase_n_free_by_world"], data["phase_rank_by_world"]
    margins["phases: rotation leaves 3 c - 1 of 3 c weights"] = -np.abs(
        free - (3 * columns - 1)
    ).max()
    margins["phases: each silent column leaves 3 weights undetermined"] = -np.abs(
        rank - (free - 3 * silent)
    ).max()
    margins["phases: more features than dimensions, every world"] = surplus(data, "phase").min() - (
        HALF
    )
    opposed = data["phase_opposed_by_world"][..., 0]
    margins["phases: opposed where a column is silent, nowhere else"] = 0.5 - np.max(
        opposed != (silent > 0)
    )
    six = data["phase_recovered_by_world"][:, columns == 6, 0] - vertices[columns == 6]
    margins["six columns: every vertex is found, every world"] = -np.abs(six).max()
    for kind in ("plane", "wide"):
        margins[f"{kind}: opposed at the rarest, every world"] = (
            data[f"{kind}_opposed_by_world"][:, -1, 0].min() - 0.5
        )
        full = data[f"{kind}_rank_by_world"] == data[f"{kind}_n_free_by_world"]
        margins[f"{kind}: full rank in most networks"] = full.mean() - MOST
        width = data[f"{kind}_width_by_world"]
        margins[f"{kind}: the interaction basis is no larger than the width"] = np.min(
            width - data[f"{kind}_interaction_by_world"]
        )
    margins["5-2, dense: not overcomplete, every world"] = -np.max(surplus(data, "plane")[:, 0])
    for kind in ("phase", "plane", "wide", "reader"):
        least = data[f"{kind}_n_free_by_world"] - data[f"{kind}_soft_rank_by_world"]
        margins[f"{kind}: the weights are never overcomplete"] = 1e-9 + least.min()
    margins |= _many_active(data, cfg)
    return require(margins | _readers(data, cfg))


def _many_active(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    """k at least the width: no verdict, smaller errors, fewer features."""
    margins = {}
    for kind, ks, width in (("plane", cfg.plane_ks, 2), ("wide", cfg.wide_ks, cfg.wide_size[1])):
        excluded = np.array(ks) >= width
        margins[f"{kind}: no verdict with k >= width"] = 0.5 - np.max(
            data[f"{kind}_opposed_by_world"][..., excluded]
        )
        at, one = ks.index(width), ks.index(1)
        found = data[f"{kind}_recovered_by_world"][:, -1]
        fewer = np.mean(found[:, at] < found[:, one])
        margins[f"{kind}: k = width finds fewer than k = 1 in most worlds"] = fewer - MOST
        error = data[f"{kind}_fvu_by_world"][:, -1]
        if cfg.n_sae >= 500:  # with fewer steps the error is that of training
            margins[f"{kind}: with a smaller error in the median"] = np.median(
                error[:, one] - error[:, at]
            )
    return margins


def _readers(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    missing = data["reader_n_free_by_world"] - data["reader_soft_rank_by_world"]
    opposed = data["reader_opposed_by_world"][..., 0]
    even, flat = cfg.readers.index((0.0, 16)), cfg.readers.index((0.0, 8))
    bound = data["reader_bound_by_world"] - data["reader_common_by_world"]
    return {
        "readers, few samples: opposed, every world": opposed[:, even, 0].min() - 0.5,
        "readers, many samples: the weights are complete, every world": HALF
        - missing[:, even, -1].max(),
        "readers of half the dimensions, many samples: opposed, every world": opposed[
            :, flat, -1
        ].min()
        - 0.5,
        "the most common features found are within G3's bound": np.nanmin(bound),
    }


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with rotations counted as directions the data leave undetermined."""
    return compute(replace(cfg, projected=False))


COLOURS = {"phase": "#0072B2", "plane": "#D55E00", "wide": "#009E73", "reader": "#CC79A7"}
MARKERS = {"phase": "D", "plane": "o", "wide": "s", "reader": "^"}
READERS = ("#CC79A7", "#E69F00", "#56B4E9", "#000000")


def plot(data: dict[str, np.ndarray]) -> Figure:
    fig = plt.figure(figsize=(13, 6.6))
    grid = fig.add_gridspec(2, 4)
    _both_sides(fig.add_subplot(grid[0, :2]), data)
    _sparsity(fig.add_subplot(grid[0, 2]), data, "plane", "5 features in 2 dimensions")
    n, width = data["wide_size"]
    _sparsity(fig.add_subplot(grid[0, 3]), data, "wide", f"{n} features in {width} dimensions")
    _samples(fig.add_subplot(grid[1, 0]), data)
    _active(fig.add_subplot(grid[1, 1]), data)
    _common(fig.add_subplot(grid[1, 2]), data)
    _rates(fig.add_subplot(grid[1, 3]), data)
    return fig


def _name(data: dict[str, np.ndarray]) -> str:
    return "networks {}-{}".format(*data["wide_size"])


def _height(data: dict[str, np.ndarray], kind: str) -> np.ndarray:
    return 1 + surplus(data, kind) / data[f"{kind}_width_by_world"]


def _both_sides(ax: Axes, data: dict[str, np.ndarray]) -> None:
    ax.fill_between([0.3, 1], 1, 4.6, color="#FFF3C4", lw=0, zorder=0)
    ax.axhline(1, color="black", lw=0.8)
    ax.axvline(1, color="black", lw=0.8)
    ax.axhline(0, color="#999999", lw=1.2, ls=":")
    chance = {"ha": "right", "color": "#777777", "fontsize": 7}
    ax.annotate("chance: turned dictionaries", (0.95, -0.25), **chance)
    labels = {"phase": "exact phases", "plane": "networks 5-2", "wide": _name(data)}
    for kind, label in (labels | {"reader": "linear readers"}).items():
        x, y = weight_share(data, kind), _height(data, kind)
        style: dict[str, Any] = {"marker": MARKERS[kind], "color": COLOURS[kind]}
        ax.plot(x.ravel(), y.ravel(), ls="", ms=3, alpha=0.35, **style)
        x, y = np.median(x, 0), np.median(y, 0)
        line = "" if kind == "phase" else "-"
        ax.plot(np.atleast_2d(x).T, np.atleast_2d(y).T, ls=line, lw=0.9, ms=5.5, **style)
        ax.plot([], [], ls="", label=label, **style)
        for text, i, offset in _names(data, kind):
            at = (float(x[i]), float(y[i]))
            options: dict[str, Any] = {"fontsize": 7, "color": COLOURS[kind]}
            ax.annotate(text, at, offset, textcoords="offset points", **options)
    ax.set(xlim=(0.3, 1.09), ylim=(-0.8, 4.6))
    ax.set_xlabel("weights: directions determined / free (1 complete)")
    ax.set_ylabel("activations: found above null / width")
    ax.set_title("shaded: undercomplete weights and overcomplete activations at once")
    ax.legend(loc="upper left", ncols=4, columnspacing=1)


def _names(data: dict[str, np.ndarray], kind: str) -> list[tuple[str, Any, tuple[float, float]]]:
    """Returns labels with the index of the point that each belongs to, and its offset."""
    found: list[tuple[str, Any, tuple[float, float]]] = []
    if kind == "phase":
        for i, (c, k, raised) in enumerate(data["phases"]):
            if raised == 0:
                found.append((f"{k} of {c}", i, (6, -3) if k == c else (-12, -13)))
    elif kind == "reader":
        for i, (exponent, span) in enumerate(data["readers"]):
            flat = f"in {span:g} of 16 dimensions"
            text = f"Zipf {exponent:g}, N = {data['sizes'][0]}" if span == 16 else flat
            found.append(
                (text, (i, 0), (8, -4) if span < 16 or exponent > 1 else (-30, 8 - 20 * exponent))
            )
    else:
        ends = (
            ((0, (14, -7)), (-1, (-34, 7))) if kind == "wide" else ((0, (7, -3)), (-1, (-30, -12)))
        )
        found += [(f"density {data[kind][i]:g}", i, offset) for i, offset in ends]
    return found


def _sparsity(ax: Axes, data: dict[str, np.ndarray], kind: str, title: str) -> None:
    density, width = data[kind], data[f"{kind}_width_by_world"]
    found = data[f"{kind}_recovered_by_world"][..., 0] / width
    _line(ax, density, found, 0, "found / width")
    _line(ax, density, data[f"{kind}_null_by_world"][..., 0] / width, 3, "chance / width")
    _line(ax, density, weight_share(data, kind), 1, "weights determined / free")
    _line(ax, density, data[f"{kind}_interaction_by_world"] / width, 2, "interaction basis / width")
    ax.axhline(1, color="black", lw=0.8)
    ax.set(
        xscale="log", xlabel="density (rarer \u2192)", title=title, ylim=(-0.1, 1.6 * found.max())
    )
    ax.set_xticks(density, [f"{p:g}" for p in density])
    ax.minorticks_off()
    ax.invert_xaxis()
    ax.legend(fontsize=7, loc="upper left")


def _line(ax: Axes, x: np.ndarray, y: np.ndarray, i: int, label: str) -> None:
    """Median over worlds and their range."""
    centre = np.median(y, 0)
    spread = np.stack([centre - y.min(0), y.max(0) - centre]).clip(min=0)
    colour = ("#0072B2", "#D55E00", "#009E73", "#999999")[i]
    ax.errorbar(x, centre, yerr=spread, marker="osD_"[i], color=colour, label=label, lw=1)


def _samples(ax: Axes, data: dict[str, np.ndarray]) -> None:
    x, y = weight_share(data, "reader"), _height(data, "reader")
    for i, (exponent, span) in enumerate(data["readers"]):
        label = f"Zipf {exponent:g}" + (f", in {span:g} of 16" if span < 16 else "")
        ax.plot(data["sizes"], np.median(y, 0)[i], "-^", color=READERS[i], label=label)
        ax.plot(data["sizes"], np.median(x, 0)[i], "--", marker=".", color=READERS[i])
        for side in (x, y):
            ax.plot(data["sizes"], side[:, i].T, ".", color=READERS[i], ms=3, alpha=0.35)
    ax.axhline(1, color="black", lw=0.8)
    ax.set(xscale="log", xlabel="samples N", ylabel="over width (1 complete)")
    ax.set_xticks(data["sizes"], [f"{n:,}" for n in data["sizes"]])
    ax.minorticks_off()
    ax.set_title("linear readers: found (\u2014), determined (- -)")
    ax.set_ylim(0, 1.5 * y.max())
    ax.legend(fontsize=7, ncols=2, loc="upper left")


def _active(ax: Axes, data: dict[str, np.ndarray]) -> None:
    for kind, label in (("plane", "networks 5-2"), ("wide", _name(data))):
        width = data[f"{kind}_width_by_world"].flat[0]
        order = np.argsort(data[f"{kind}_ks"])
        found = data[f"{kind}_recovered_by_world"][:, -1, order] / width
        null = data[f"{kind}_null_by_world"][:, -1, order] / width
        at = data[f"{kind}_ks"][order] / width
        style: dict[str, Any] = {"marker": MARKERS[kind], "color": COLOURS[kind]}
        ax.plot(at, np.median(found, 0), label=label, mfc="white", **style)
        ax.plot(at, found.T, ".", color=COLOURS[kind], ms=3, alpha=0.35)
        told = at < 1
        ax.plot(at[told], np.median(found, 0)[told], ls="", **style)
        ax.plot(at, np.median(null, 0), "_", color=COLOURS[kind], ms=10)
    ax.axhline(1, color="black", lw=0.8)
    ax.axvline(1, color="black", lw=0.8, ls=":")
    ax.set(xlabel="k / width", ylabel="found / width", title="from k = width on: no verdict")
    ax.plot([], [], "_", color="#999999", ms=10, label="chance")
    ax.legend()


def _common(ax: Axes, data: dict[str, np.ndarray]) -> None:
    for i in range(len(data["readers"])):
        x, y = (data[f"reader_{n}_by_world"][:, i].ravel() for n in ("bound", "common"))
        ax.plot(x, y, "^", color=READERS[i], ms=4, alpha=0.7)
    ends = np.array([3.0, 1000.0])
    ax.plot(ends, ends, color="black", lw=0.8, label="as many as G3 allows")
    ax.set(xscale="log", yscale="log", xlabel="G3's bound", ylabel="common features found")
    ax.set(title="how common they can be", ylim=(3, 100), xlim=(3, 2000))
    ax.set_xticks([10, 100, 1000], ["10", "100", "1,000"])
    ax.set_yticks([3, 10, 30, 100], ["3", "10", "30", "100"])
    ax.minorticks_off()
    ax.legend()


def _rates(ax: Axes, data: dict[str, np.ndarray]) -> None:
    rows: list[tuple[str, float, str]] = []
    for i, (c, k, raised) in enumerate(data["phases"]):
        label = f"{k} of {c}" + (", 1 raised" if raised else "")
        rows.append((label, data["phase_opposed_by_world"][:, i, 0].mean(), "phase"))
    size = "{}-{}".format(*data["wide_size"])
    for kind, name in (("plane", "5-2"), ("wide", size)):
        for i, p in enumerate(data[kind]):
            share = data[f"{kind}_opposed_by_world"][:, i, 0].mean()
            rows.append((f"{name}, at {p:g}", share, kind))
    for i, (exponent, span) in enumerate(data["readers"]):
        share = data["reader_opposed_by_world"][:, i, -1, 0].mean()
        rows.append((f"Zipf {exponent:g}" if span == 16 else f"in {span:g} of 16", share, "reader"))
    at = -np.arange(len(rows))
    ax.barh(at, [r[1] for r in rows], color=[COLOURS[r[2]] for r in rows])
    ax.plot([r[1] for r in rows], at, "|", color="black", ms=5)
    ax.set_yticks(at, [r[0] for r in rows], fontsize=7)
    ax.set(xlabel="share of worlds, readers at most N", xlim=(-0.02, 1.02))
    ax.set_title("both halves at once")
    ax.grid(axis="y", visible=False)
