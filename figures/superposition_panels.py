"""The panels of fig_superposition: drawing only."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from figures.superposition_runs import (
    ABSOLUTE,
    IMPORTANCES,
    LINEAR,
    MANY,
    MAP,
    NEURONS,
    PARTNERS,
)

LINES = {"1": 1, "3/4": 3 / 4, "2/3": 2 / 3, "1/2": 1 / 2, "2/5": 2 / 5, "3/8": 3 / 8}
BLUE, RED, GREEN, PINK, ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"
GREY = "#999999"


def draw(data: dict[str, np.ndarray]) -> Figure:
    """Returns the figure: a panel for each name in data["panels"]."""
    panels = data["panels"].tolist()
    n_columns = min(len(panels), 3)
    n_rows = -(-len(panels) // n_columns)
    size = (3.2 * n_columns, 3.0 * n_rows + 0.3)
    fig, axes = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False)
    for ax, panel, letter in zip(axes.flat, panels, "abcdefghi", strict=False):
        DRAW[panel](ax, data)
        ax.set_title(f"{letter}  {ax.get_title(loc='left')}", fontweight="bold")
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    return fig


def _by_density(ax: Axes, densities: np.ndarray) -> None:
    ax.set_xscale("log")
    low, high = densities.min() / 1.15, densities.max() * 1.15
    ax.set_xlim(high, low)
    ticks = [t for t in (1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01) if low <= t <= high]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("density (firing probability)")


def _draw_five(ax: Axes, data: dict[str, np.ndarray]) -> None:
    p, D, kind = data["densities"], data["five_D_by_world"], data["five_kind_by_world"]
    bands = {"two digons": (0.16, 0.4, 0.48, 0.52), "pentagon": (0.05, 0.12, 0.39, 0.41)}
    for i, (left, right, low, high) in enumerate(bands.values()):
        label = "band stated in advance" if i == 0 else None
        ax.fill_between([left, right], low, high, color="#BBBBBB", lw=0, label=label)
    kept = data["five_norm_by_world"] >= 0.5
    for code, name, colour in ((0, "other", GREY), (1, "orthogonal pair", BLUE),
                               (2, "two digons", GREEN), (3, "pentagon", RED)):  # fmt: skip
        world, i, j = np.nonzero(kept & (kind == code)[..., None])
        if len(i):
            ax.plot(p[i], D[world, i, j], "o", ms=3, color=colour, label=name, alpha=0.7)
    star = np.median(data["five_star_by_world"], axis=0)
    ax.plot(p, star, color="black", lw=1, label="D* (median)")
    _by_density(ax, p)
    ax.set(ylim=(0.25, 1.05), ylabel="dimensions of a feature, D")
    ax.set_title("5 features in 2 dimensions")
    ax.legend(loc="upper right", fontsize=7.5)


def _draw_many(ax: Axes, data: dict[str, np.ndarray]) -> None:
    p = np.array(MANY)
    for label, level in LINES.items():
        ax.axhline(level, color="#CCCCCC", lw=0.8, zorder=0)
        va = {"2/5": "bottom", "3/8": "top"}.get(label, "center")
        ax.annotate(label, (1.01, level), xycoords=("axes fraction", "data"), va=va,
                    fontsize=7.5, color="#666666")  # fmt: skip
    # Worlds stand side by side, so that features of the same D are seen.
    for name, colour, shift in (("many", BLUE, 1.0), ("large", ORANGE, 0.9)):
        if f"{name}_size" not in data:
            continue
        n, m = data[f"{name}_size"]
        D, kept = data[f"{name}_D_by_world"], data[f"{name}_norm_by_world"] >= 0.5
        world, i, j = np.nonzero(kept)
        x = p[i] * (shift + 0.02 * (world - (len(D) - 1) / 2))
        ax.plot(x, D[world, i, j], ".", ms=2.5, color=colour, alpha=0.5, zorder=1.5)
        line = {"color": "black" if name == "many" else RED, "lw": 1}
        for star in data[f"{name}_star_by_world"]:
            ax.plot(p, star, **line)
        label = f"{n} in {m} dimensions: D, D* (line)"
        ax.plot([], [], "o-", ms=3.5, mfc=colour, mec=colour, label=label, **line)
    ax.plot(p, data["many_random"], "--", color=GREY, lw=1, label="D, random directions")
    _by_density(ax, p)
    ax.grid(visible=False)
    ax.set(ylim=(0.1, 1.35), ylabel="dimensions of a feature, D")
    ax.set_yticks([0.2, 0.4, 0.6, 0.8, 1])
    ax.set_title("many equal features")
    ax.legend(loc="upper right", fontsize=7.5)


def _draw_map(name: str, title: str, words: tuple) -> Any:
    def draw(ax: Axes, data: dict[str, np.ndarray]) -> None:
        state = data[f"{name}_state_by_world"]
        counts = np.stack([(state == k).sum(0) for k in range(3)])
        colours = ListedColormap(["#DDDDDD", "#9ECAE9", "#F5C77E"])
        x, y = np.array(IMPORTANCES), np.array(MAP)
        ax.pcolormesh(x, y, counts.argmax(0), cmap=colours, vmin=-0.5, vmax=2.5, shading="nearest")
        exact, free = data[f"{name}_exact"], data[f"{name}_free"]
        grid, curve = data[f"{name}_grid"], data[f"{name}_curve"]
        for k, sign in enumerate((1, -1) if name == "pair" else (1,)):
            side, fine = sign * np.log(x) < 0, sign * np.log(grid) <= 0
            labels = ("exact p*", "free weights") if k == 0 else (None, None)
            ax.plot(grid[fine], curve[fine], color="black", lw=1.5, label=labels[0])
            ax.plot(x[side], free[side], "--", color="black", lw=1, label=labels[1])
            ax.fill_between(x[side], exact[side], free[side], color="white", lw=0)
        if name == "triple":
            ax.axvline(1, color="black", lw=1.5)
        i, j = np.nonzero(data[f"{name}_judged"])
        ax.plot(x[j], y[i], ".", color="#666666", ms=2, label="as predicted")
        i, j = np.nonzero((state != data[f"{name}_expected"]).any(0) & data[f"{name}_judged"])
        if len(i):
            ax.plot(x[j], y[i], "x", color=RED, ms=5, ls="", label="not, in a world")
        for text, at_x, at_y in words:
            ax.text(at_x, at_y, text, ha="center", va="center", fontsize=8)
        ax.set(xscale="log", yscale="log", xlabel="importance, relative to the others")
        ax.set(ylabel="density (firing probability)", title=title)
        ax.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
        ax.set_yticks([1, 0.1, 0.01], ["1", "0.1", "0.01"])
        ax.grid(visible=False)
        legend = ax.legend(loc="lower left", fontsize=7.5, handlelength=1.4, frameon=True)
        legend.get_frame().set(facecolor=colours(1), edgecolor="none", alpha=1)

    return draw


def _draw_partners(ax: Axes, data: dict[str, np.ndarray]) -> None:
    p = np.array(PARTNERS)
    styles = (
        ("apart", "never together", RED, "^"),
        ("independent", "independent", GREY, "o"),
        ("together", "always together", GREEN, "s"),
    )
    for i, (law, label, colour, marker) in enumerate(styles):
        y = data[f"{law}_antipodal_by_world"]
        spread = [y.mean(0) - y.min(0), y.max(0) - y.mean(0)]
        x = p * (1 + 0.04 * (i - 1))
        ax.errorbar(x, y.mean(0), yerr=spread, fmt=f"{marker}-", color=colour, label=label)
        if law != "independent":
            at_best = data[f"{law}_best_by_world"].mean(0)
            ax.plot(x, at_best, marker, color=colour, mfc="none", ms=9, clip_on=False)
    ax.plot([], [], "s", color=GREY, mfc="none", ms=8, label="best start (large)")
    ax.axhline(1 / 3, color="black", ls=":", lw=1, label="chance")
    _by_density(ax, p)
    ax.set(ylim=(-0.05, 1.45), ylabel="antipodal pairs, share of starts")
    ax.set_title("2 pairs in 2 dimensions")
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.legend(loc="upper center", fontsize=7.5, ncol=2)


def _draw_linear(ax: Axes, data: dict[str, np.ndarray]) -> None:
    i = np.arange(1, 21)
    linear = data["linear_norm_by_world"]
    low, high = linear.min((0, 1)), linear.max((0, 1))
    ax.fill_between(i, low, high, color="black", alpha=0.3, lw=0)
    ax.plot(i, linear.mean((0, 1)), color="black", lw=2, label="linear, any density")
    for k, (p, colour) in enumerate(zip(LINEAR, (BLUE, GREEN, ORANGE, RED), strict=True)):
        y = data["relu_norm_by_world"][:, k]
        x = i + 0.12 * (k - 1.5)
        ax.plot(x, y.mean(0), "-", lw=1, color=colour, label=f"ReLU, density {p:g}")
        alone = np.median(data["relu_D_by_world"][:, k], axis=0) > 0.75
        for which, fill in ((alone, colour), (~alone, "white")):
            shown = which & (y.mean(0) >= 0.5)
            ax.plot(x[shown], y.mean(0)[shown], "o", ms=4, color=colour, mfc=fill)
        ax.fill_between(x, y.min(0), y.max(0), color=colour, alpha=0.15, lw=0)
    ax.set(xlabel="feature, most important first", ylabel="norm of its direction, |W|")
    ax.plot([], [], "o", ms=4, color="black", mfc="white", label="shares a dimension")
    ax.set(title="20 features in 5 dimensions", ylim=(-0.05, 1.95))
    ax.set_xticks([1, 5, 10, 15, 20])
    ax.set_yticks([0, 0.5, 1])
    ax.legend(loc="upper right", fontsize=7.5, ncol=1)


def _draw_neurons(ax: Axes, data: dict[str, np.ndarray]) -> None:
    count, p = data["neurons_count_by_world"], np.array(NEURONS)
    n = count.shape[2]
    for values, colour, label in (
        ((count == 1).sum(2), BLUE, "carry one feature"),
        ((count > 1).sum(2), RED, "carry several"),
    ):
        mean = values.mean(0)
        spread = [mean - values.min(0), values.max(0) - mean]
        ax.errorbar(p, mean, yerr=spread, fmt="o-", color=colour, label=label)
    null = n * data["neurons_null_one_by_world"].mean(0)
    ax.plot(p, null, "--", color=GREY, lw=1, label="one feature, weights shuffled")
    _by_density(ax, p)
    ax.set(ylabel=f"neurons (of {n})", ylim=(-0.2, n + 2.4), title="10 features, 5 neurons")
    ax.set_yticks(range(n + 1))
    ax.legend(loc="upper center", fontsize=7.5)


def _draw_absolute(ax: Axes, data: dict[str, np.ndarray]) -> None:
    two = data["absolute_two_by_world"]
    i = np.arange(1, two.shape[2] + 1)
    for k, (p, colour) in enumerate(zip(ABSOLUTE, (BLUE, GREEN, ORANGE, RED), strict=True)):
        x = i + 0.1 * (k - 1.5)
        ax.plot(x, two[:, k].mean(0), "o-", ms=4, color=colour, label=f"density {p:g}")
    null = data["absolute_null_two_by_world"][:, ABSOLUTE.index(0.5)].mean()
    ax.axhline(null, color=GREY, ls="--", lw=1, label="weights shuffled")
    n_neurons = data["absolute_count_by_world"].shape[2]
    ax.axvline(
        n_neurons / 2 + 0.5, color="black", ls=":", lw=1, ymax=0.68, label="half the features"
    )
    ax.set(xlabel="feature, most important first", ylabel="share with a neuron for each sign")
    ax.set(title=f"|x| of {len(i)} features, {n_neurons} neurons", ylim=(-0.05, 1.5))
    ax.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    ax.legend(loc="upper center", fontsize=7.5, ncol=2)


def _draw_learning(ax: Axes, data: dict[str, np.ndarray]) -> None:
    step, shown = data["learning_step"], int(data["learning_sharpest"])
    D, loss = data["learning_D_by_world"][0, :, shown], data["learning_loss_by_world"][0, :, shown]
    for y, colour in zip(D.T, (BLUE, GREEN, ORANGE, RED, PINK), strict=True):
        ax.plot(step, y, color=colour, lw=1.2)
    ax.plot([], [], color=GREY, lw=1.2, label="D of each feature")
    ax.plot([], [], color="black", lw=2, label="expected loss (right)")
    ax.axvspan(0, step[len(step) // 10], color="#EEEEEE", lw=0, label="left out")
    same, chance = (data[f"learning_{name}_by_world"].mean() for name in ("same", "chance"))
    text = f"largest fall with largest jump:\n{same:.0%} of starts, by chance {chance:.0%}"
    ax.text(0.97, 0.5, text, transform=ax.transAxes, ha="right", fontsize=7.5)
    ax.set(xlabel="training step", ylabel="dimensions of a feature, D", ylim=(-0.05, 1.35))
    ax.set(xlim=(0, step[-1]), title="5 features learnt, sharpest step")
    ax.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    ax.legend(loc="upper right", fontsize=7.5, frameon=True, edgecolor="none")
    right = ax.twinx()
    right.plot(step, loss, color="black", lw=2)
    right.set(ylabel="expected loss", ylim=(0, 1.35 * loss.max()))
    right.locator_params(axis="y", nbins=5)
    right.spines["right"].set_visible(True)
    right.grid(visible=False)


DRAW = {
    "five": _draw_five,
    "many": _draw_many,
    "pair": _draw_map(
        "pair",
        "2nd of 2 features, 1 dimension",
        (("ignored", 0.19, 0.75), ("superposed", 1.0, 0.13), ("alone", 5.2, 0.75)),
    ),
    "triple": _draw_map(
        "triple",
        "3rd of 3 features, 2 dimensions",
        (("ignored", 0.19, 0.75), ("superposed", 0.3, 0.13), ("alone", 3.7, 0.42)),
    ),
    "partners": _draw_partners,
    "linear": _draw_linear,
    "neurons": _draw_neurons,
    "absolute": _draw_absolute,
    "learning": _draw_learning,
}
