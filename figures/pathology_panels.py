"""The panels of fig_pathologies: drawing only."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.pathology_published import (
    CORRELATED,
    FEATURE_2,
    FEW_KS,
    L1_COOCCURRENCE,
    L1_PUBLISHED,
    L1_SD,
    NUMBERS,
    TRUE_L0,
    VARIANTS,
    WORLDS,
    saving,
)
from figures.pathology_runs import CHILDREN, N_PROJECTED

BLUE, RED, GREEN, PINK, ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"
DIAMOND = {"marker": "D", "mfc": "none", "mec": "black", "ms": 7, "ls": "", "mew": 1.2, "zorder": 4}
CROSS = {"marker": "x", "color": "black", "ms": 6, "ls": "", "mew": 1.4, "zorder": 5}


def draw(data: dict[str, np.ndarray]) -> Figure:
    """Returns the figure: a panel for each name in data["panels"]."""
    panels = data["panels"].tolist()
    n_rows = 2 if len(panels) > 4 else 1
    n_columns = -(-len(panels) // n_rows)
    size = (2.9 * n_columns, 2.9 * n_rows + 0.35)
    fig, axes = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False)
    for letter, ax, name in zip("abcdefgh", axes.flat, panels, strict=False):
        DRAW[name](ax, data)
        ax.set_title(f"{letter}  {ax.get_title(loc='left')}")
    handles = [Line2D([], [], **style) for style in (DIAMOND, CROSS)]
    handles.append(Line2D([], [], marker="o", color="#555555", ls="", ms=4))
    labels = ["published value", "published recipe, run here", "one world"]
    if not any(name.endswith("as_published_by_world") for name in data):
        handles, labels = handles[::2], labels[::2]
    fig.legend(handles, labels, loc="outside lower center", ncols=3)
    return fig


def _dots(ax: Axes, x: float, values: np.ndarray, colour: str, label: str = "") -> None:
    shift = np.linspace(-0.12, 0.12, len(values))
    ax.plot(x + shift, values, "o", color=colour, ms=4, alpha=0.75, label=label)


def _draw_saving(ax: Axes, data: dict[str, np.ndarray]) -> None:
    grid = np.linspace(0, 1, 50)
    ax.plot(grid, grid, "--", color="#999999", label="free rows: δ")
    ax.plot(grid, saving(grid), color="#555555", label="unit rows")
    places = {"independent": (0.1, 0.0), "hierarchical": (0.5, 0.75), "batch_topk": (0.62, 0.25)}
    for (v, label), colour in zip(WORLDS.items(), (GREEN, BLUE, RED), strict=True):
        delta, saved = data[f"{v}_delta_by_world"], data[f"{v}_saved_by_world"]
        ax.plot(delta, saved, "o", color=colour, ms=5, alpha=0.8)
        at = (delta.mean(), saved.mean())
        ax.annotate(
            label, at, places[v], color=colour, va="center", ha="left" if at[0] < 0.5 else "center",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.8, "shrinkB": 4},
        )  # fmt: skip
        if f"{v}_delta_as_published_by_world" in data:
            crossed = (data[f"{v}_{name}_as_published_by_world"] for name in ("delta", "saved"))
            ax.plot(*crossed, **CROSS)
        goal = np.array(0.0 if v == "independent" else 1.0)
        ax.plot(goal, saving(goal), **DIAMOND)
    ax.set(xlabel="share absorbed δ", ylabel="L1 saved where both fire", ylim=(-0.08, 1.05))
    ax.set_title("absorption saves L1\nat no error")
    ax.legend(loc="upper left", handlelength=1.5)


def _draw_share(ax: Axes, data: dict[str, np.ndarray]) -> None:
    for (v, (*_, published)), colour in zip(VARIANTS.items(), (BLUE, GREEN, RED), strict=True):
        ax.plot(data["grid"], data[f"{v}_curve"], color=colour)
        for world in data[f"{v}_delta_by_world"]:
            ax.plot(data["l1s"], world, "o", color=colour, ms=4, alpha=0.75)
        if f"{v}_delta_as_published_by_world" in data:
            for world in data[f"{v}_delta_as_published_by_world"]:
                ax.plot(L1_PUBLISHED, world[0], **CROSS)
        if v != "magnitudes":
            ax.plot(L1_PUBLISHED, published, **{**DIAMOND, "mec": colour})
        x, y, text = {
            "sd": (1.5e-4, 0.88, "magnitudes, sd .1"),
            "magnitudes": (5e-5, 0.2, "variance .1"),
            "cooccurrence": (4e-3, 0.01, "5 % alone"),
        }[v]
        ax.text(x, y, text, color=colour, fontsize=8, va="center")
    ax.axvline(L1_PUBLISHED, color="#999999", ls=":", zorder=0.5)
    ax.set(xscale="log", xlabel="coefficient of L1 (dotted: published)", ylabel="share absorbed δ")
    ax.set(ylim=(-0.05, 1.05), title="how much: exact curves,\nnot the published shares")


def _draw_numbers(ax: Axes, data: dict[str, np.ndarray]) -> None:
    values = data["numbers_by_world"]
    for i, published in enumerate(NUMBERS.values()):
        shift = np.linspace(-0.15, 0.15, len(values))
        ax.plot(values[:, i], i + shift, "o", color=BLUE if i < 4 else RED, ms=4, alpha=0.75)
        ax.plot(published, i, **DIAMOND)
    ax.set_yticks(range(len(NUMBERS)), list(NUMBERS))
    ax.invert_yaxis()
    ax.axhline(3.5, color="black", lw=0.8)
    ax.text(0.62, 0.6, f"magnitudes,\nL1 {L1_SD}", color=BLUE, fontsize=8, va="center")
    ax.text(0.02, 5, f"co-occurrence,\nL1 {L1_COOCCURRENCE}", color=RED, fontsize=8, va="center")
    ax.set(xlabel="latent's activation", xlim=(-0.08, 1.4))
    ax.set_title("published numbers, at the\ncoefficients they imply")


def _draw_lean(ax: Axes, data: dict[str, np.ndarray]) -> None:
    for i, (v, sign) in enumerate(CORRELATED.items()):
        _dots(ax, i, data[f"{v}_lean_by_world"], BLUE, "decoder row's lean" if i == 0 else "")
        style = {"color": "black", "lw": 1.5, "zorder": 3}
        label = "exact: principal axis" if i == 0 else ""
        ax.plot([i - 0.25, i + 0.25], [data[f"{v}_axis"]] * 2, **style, label=label)
        if f"{v}_lean_as_published_by_world" in data:
            recipe = data[f"{v}_lean_as_published_by_world"]
            ax.plot([i] * len(recipe), recipe, **CROSS)
        ax.text(i, 0.45, {0: "0", 1: "+", -1: "−"}[sign], ha="center", va="center", fontsize=12)
    _dots(ax, 0, data["independent_bias_by_world"], ORANGE, "b_dec on feature 2")
    ax.plot(0, FEATURE_2, **DIAMOND)
    ax.axhline(0, color="#999999", lw=0.8)
    ax.set_xticks(range(4), ["indep.", "hier-\narchy", "pos.", "neg."])
    ax.set(ylabel="of feature 2, per feature 1", ylim=(-0.85, 0.55), xlim=(-0.5, 3.5))
    ax.set(xlabel="world (above: published sign)", title="hedging: the sign of\nthe correlation")
    ax.legend(loc="lower left", handlelength=1.2)


def _draw_balance(ax: Axes, data: dict[str, np.ndarray]) -> None:
    weights = data["weights"]
    places = np.arange(len(weights))
    for world in data["equal_reads_by_world"]:
        ax.plot(places, world.mean(1), "o-", color=BLUE, lw=1, ms=3)
    for i, (p, colour) in enumerate(zip(CHILDREN["unequal"], (PINK, ORANGE, RED), strict=True)):
        reads = data["unequal_reads_by_world"][:, :, i]
        ax.plot(places, np.median(reads, axis=0), "--", color=colour, lw=1.2)
        ax.text(places[-1] + 0.15, np.median(reads[:, -1]), f"{p:g}", color=colour, va="center")
    ax.text(1.8, -0.5, "three equal\nchildren, .15", color=BLUE, fontsize=8)
    ax.text(0, 0.45, "dashed: children of\nthe p at their right", fontsize=8)
    ax.axhline(0, color="black", lw=0.8)
    ax.plot(weights.tolist().index(0.25), 0, **DIAMOND)
    names = {0: "0", 1 / 16: "1/16", 1 / 6: "1/6", 1 / 4: "1/4", 1: "1", np.inf: "∞"}
    ax.set_xticks(places, [names.get(w, "") for w in weights.tolist()])
    ax.set(xlabel="weight of the inner loss", ylabel="child read by the parent's latent")
    ax.set(ylim=(-1.1, 0.8), xlim=(-0.4, len(weights) + 0.3))
    ax.set_title("Matryoshka: absorbs (< 0)\nor hedges (> 0)")


def _draw_few(ax: Axes, data: dict[str, np.ndarray]) -> None:
    ks = data["ks"]
    below = ks < TRUE_L0
    lines = {
        "error": ("error, of the truth's", BLUE),
        "cosine": ("row cosines, of largest", RED),
        "projection": (f"{N_PROJECTED}th projection, of largest", GREEN),
    }
    for name, (label, colour) in lines.items():
        values, shown = data[f"few_{name}_by_world"], below if name == "error" else ks > 0
        scaled = values[:, shown] / _unit(data, name)[:, shown]
        ax.plot(ks[shown], np.median(scaled, axis=0), "-", color=colour, label=label)
        for world in scaled:
            ax.plot(ks[shown], world, "o", color=colour, ms=3, alpha=0.7)
        recipe, at = data.get(f"few_{name}_as_published_by_world", ()), np.array(FEW_KS)
        shown = at < TRUE_L0 if name == "error" else at > 0
        for world, unit in zip(recipe, _unit(data, name), strict=False):
            scaled = world[shown] / unit[np.searchsorted(ks, at[shown])]
            ax.plot(at[shown], scaled, **{**CROSS, "color": colour})
    ax.axhline(1, color="black", lw=0.8)
    ax.axvline(TRUE_L0, ymax=0.6, color="#999999", ls=":")
    ax.plot(TRUE_L0, 0, **DIAMOND)
    ax.text(11.4, 0.85, "true l0", fontsize=8)
    ax.set(
        xlabel="k",
        ylabel="ratio",
        ylim=(-0.05, 1.75),
        title="too low a k beats the truth;\nsignals are least at true l0",
    )
    ax.legend(loc="upper left", handlelength=1.2)


def _unit(data: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Returns what values of panel f are divided by, [n_worlds, n_ks]; crosses as their world."""
    if name == "error":
        return data["few_truth_by_world"]
    values = data[f"few_{name}_by_world"]
    return np.broadcast_to(values.max(1, keepdims=True), values.shape)


def _draw_tree(ax: Axes, data: dict[str, np.ndarray]) -> None:
    for i, name in enumerate(("recall", "off_diagonal")):
        for j, colour in enumerate((BLUE, RED)):
            _dots(ax, 2.5 * i + j, data[f"tree_{name}_by_world"][:, j], colour)
            recipe = data.get(f"tree_{name}_as_published_by_world", np.zeros((0, 2)))[:, j]
            ax.plot([2.5 * i + j] * len(recipe), recipe, **CROSS)
    ax.set_xticks([0, 1, 2.5, 3.5], ["plain", "nested", "plain", "nested"])
    ax.set(ylim=(-0.06, 1.3), xlim=(-0.6, 4.1), xlabel="ReLU SAE without and with prefixes")
    ax.set(ylabel="share")
    ax.text(0.5, 1.14, "parent recall\ngiven a child", ha="center", va="center", fontsize=8)
    ax.text(3, 1.14, "energy off\nthe diagonal", ha="center", va="center", fontsize=8)
    ax.set_title("Nabeshima's tree\n(no scalar published)")


def _draw_loud(ax: Axes, data: dict[str, np.ndarray]) -> None:
    loudness, rates = data["loudness"], data["loud_rate_by_world"]
    places = np.arange(len(loudness))
    for j, (label, colour) in enumerate((("plain", BLUE), ("with prefixes", RED))):
        ax.plot(places, rates[:, :, j].mean(0), "-", color=colour, label=label)
        for i in range(len(loudness)):
            _dots(ax, i, rates[:, i, j], colour)
    ax.axhline(0.5, color="black", lw=0.8)
    ax.text(0, 0.52, "all that could be absorbed", fontsize=8)
    null = data["loud_null_by_world"].mean()
    ax.axhline(null, color="#999999", ls="--", label="chance")
    ax.set_xticks(places, [f"{x:g}" for x in loudness])
    ax.set(xlabel="child's magnitude (parent's: 2)", ylabel="absorption rate", ylim=(-0.03, 0.95))
    ax.set_title("a loud child is absorbed\nwith prefixes too")
    ax.legend(loc="upper right", ncols=1, handlelength=1.2)


DRAW = {
    "saving": _draw_saving, "share": _draw_share, "numbers": _draw_numbers, "lean": _draw_lean,
    "balance": _draw_balance, "few": _draw_few, "tree": _draw_tree, "loud": _draw_loud,
}  # fmt: skip
