"""The panels of fig_two_bases: drawing only."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

COLOURS = {"phase": "#0072B2", "plane": "#D55E00", "wide": "#009E73", "reader": "#CC79A7"}
MARKERS = {"phase": "D", "plane": "o", "wide": "s", "reader": "^"}
READERS = ("#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#999999"
Named = tuple[str, Any, tuple[float, float]]  # label, index of its point, offset


def draw_both_sides(
    ax: Axes,
    data: dict[str, np.ndarray],
    shares: dict[str, np.ndarray],
    heights: dict[str, np.ndarray],
) -> None:
    """By kind and [worlds, ...]: shares of the weights determined, and found over the width."""
    ax.fill_between([0.3, 1], 1, 4.6, color="#FFF3C4", lw=0, zorder=0)
    ax.axhline(1, color="black", lw=0.8)
    ax.axvline(1, color="black", lw=0.8)
    ax.axhline(0, color=GREY, lw=1.2, ls=":")
    chance = {"ha": "right", "color": "#777777", "fontsize": 7}
    ax.annotate("chance: turned dictionaries", (0.95, -0.25), **chance)
    networks = {kind: f"networks {size}" for kind, size in _sizes(data).items()}
    labels = {"phase": "exact phases", **networks, "reader": "linear readers"}
    for kind, label in labels.items():
        x, y = shares[kind], heights[kind]
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


def draw_sparsity(ax: Axes, data: dict[str, np.ndarray], kind: str, share: np.ndarray) -> None:
    n, width = _sizes(data)[kind].split("-")
    density, widths = data[kind], data[f"{kind}_width_by_world"]
    found = data[f"{kind}_recovered_by_world"][..., 0] / widths
    null = data[f"{kind}_null_by_world"][..., 0] / widths
    _line(ax, density, found, 0, "found / width")
    _line(ax, density, null, 3, "chance / width")
    _line(ax, density, share, 1, "weights determined / free")
    interaction = data[f"{kind}_interaction_by_world"] / widths
    _line(ax, density, interaction, 2, "interaction basis / width")
    ax.axhline(1, color="black", lw=0.8)
    ax.set(xscale="log", xlabel="density (rarer \u2192)", ylim=(-0.1, 1.6 * found.max()))
    ax.set_title(f"{n} features in {width} dimensions")
    ax.set_xticks(density, [f"{p:g}" for p in density])
    ax.minorticks_off()
    ax.invert_xaxis()
    ax.legend(fontsize=7, loc="upper left")


def draw_samples(
    ax: Axes, data: dict[str, np.ndarray], share: np.ndarray, height: np.ndarray
) -> None:
    sizes = data["sizes"]
    for i, (exponent, span) in enumerate(data["readers"]):
        colour = READERS[i]
        label = f"Zipf {exponent:g}" + (f", in {span:g} of 16" if span < 16 else "")
        ax.plot(sizes, np.median(height, 0)[i], "-^", color=colour, label=label)
        ax.plot(sizes, np.median(share, 0)[i], "--", marker=".", color=colour)
        for side in (share, height):
            ax.plot(sizes, side[:, i].T, ".", color=colour, ms=3, alpha=0.35)
    ax.axhline(1, color="black", lw=0.8)
    ax.set(xscale="log", xlabel="samples N", ylabel="over width (1 complete)")
    ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
    ax.minorticks_off()
    ax.set_title("linear readers: found (\u2014), determined (- -)")
    ax.set_ylim(0, 1.5 * height.max())
    ax.legend(fontsize=7, ncols=2, loc="upper left")


def draw_active(ax: Axes, data: dict[str, np.ndarray]) -> None:
    for kind, size in _sizes(data).items():
        width = data[f"{kind}_width_by_world"].flat[0]
        order = np.argsort(data[f"{kind}_ks"])
        at = data[f"{kind}_ks"][order] / width
        found = data[f"{kind}_recovered_by_world"][:, -1, order] / width
        null = data[f"{kind}_null_by_world"][:, -1, order] / width
        style: dict[str, Any] = {"marker": MARKERS[kind], "color": COLOURS[kind]}
        ax.plot(at, np.median(found, 0), label=f"networks {size}", mfc="white", **style)
        ax.plot(at, found.T, ".", color=COLOURS[kind], ms=3, alpha=0.35)
        told = at < 1
        ax.plot(at[told], np.median(found, 0)[told], ls="", **style)
        ax.plot(at, np.median(null, 0), "_", color=COLOURS[kind], ms=10)
    ax.axhline(1, color="black", lw=0.8)
    ax.axvline(1, color="black", lw=0.8, ls=":")
    ax.set(xlabel="k / width", ylabel="found / width", title="from k = width on: no verdict")
    ax.plot([], [], "_", color=GREY, ms=10, label="chance")
    ax.legend()


def draw_common(ax: Axes, data: dict[str, np.ndarray]) -> None:
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


def draw_rates(ax: Axes, data: dict[str, np.ndarray]) -> None:
    phases = [f"{k} of {c}" + (", 1 raised" if r else "") for c, k, r in data["phases"]]
    labels = {"phase": phases}
    for kind, size in _sizes(data).items():
        labels[kind] = [f"{size}, at {p:g}" for p in data[kind]]
    labels["reader"] = [
        f"Zipf {exponent:g}" if span == 16 else f"in {span:g} of 16"
        for exponent, span in data["readers"]
    ]
    rows: list[tuple[str, float, str]] = []
    for kind, names in labels.items():
        opposed = data[f"{kind}_opposed_by_world"][..., 0].mean(0)
        shares = opposed[:, -1] if kind == "reader" else opposed
        rows += [(name, share, COLOURS[kind]) for name, share in zip(names, shares, strict=True)]
    names, shares, colours = zip(*rows, strict=True)
    at = -np.arange(len(rows))
    ax.barh(at, shares, color=colours)
    ax.plot(shares, at, "|", color="black", ms=5)
    ax.set_yticks(at, names, fontsize=7)
    ax.set(xlabel="share of worlds, readers at most N", xlim=(-0.02, 1.02))
    ax.set_title("both halves at once")
    ax.grid(axis="y", visible=False)


def _sizes(data: dict[str, np.ndarray]) -> dict[str, str]:
    """Returns the features and hidden dimensions of the networks of each kind."""
    return {"plane": "5-2", "wide": "{}-{}".format(*data["wide_size"])}


def _names(data: dict[str, np.ndarray], kind: str) -> list[Named]:
    """Returns labels with the index of the point that each belongs to, and its offset."""
    if kind == "phase":
        return [
            (f"{k} of {c}", i, (6, -3) if k == c else (-12, -13))
            for i, (c, k, raised) in enumerate(data["phases"])
            if raised == 0
        ]
    if kind == "reader":
        found: list[Named] = []
        for i, (exponent, span) in enumerate(data["readers"]):
            flat = f"in {span:g} of 16 dimensions"
            text = f"Zipf {exponent:g}, N = {data['sizes'][0]}" if span == 16 else flat
            right = span < 16 or exponent > 1
            found.append((text, (i, 0), (8, -4) if right else (-30, 8 - 20 * exponent)))
        return found
    first, last = ((14, -7), (-34, 7)) if kind == "wide" else ((7, -3), (-30, -12))
    return [(f"density {data[kind][i]:g}", i, offset) for i, offset in ((0, first), (-1, last))]


def _line(ax: Axes, x: np.ndarray, y: np.ndarray, i: int, label: str) -> None:
    """Median over worlds and their range."""
    centre = np.median(y, 0)
    spread = np.stack([centre - y.min(0), y.max(0) - centre]).clip(min=0)
    colour = (COLOURS["phase"], COLOURS["plane"], COLOURS["wide"], GREY)[i]
    ax.errorbar(x, centre, yerr=spread, marker="osD_"[i], color=colour, label=label, lw=1)
