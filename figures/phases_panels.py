"""The panels of fig_phases, and the phases that they and its claims are about."""

from collections import Counter
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from figures.phases_runs import N_FEATURES, STARTS

PHASES = ((4, 0), (4, 1), (4, 2), (5, 0), (5, 1), (6, 0))  # vertices, raised: by falling loss
N_SQUARES = 3  # the first of PHASES

BLACK, GREY, GREEN, BLUE, RED = "#000000", "#999999", "#009E73", "#0072B2", "#D55E00"
COLOURS = {"square": BLUE, "random": "#E69F00"}
LABELS = {"square": "SGD from near a square", "random": "SGD from random weights"}


def name_of(n_vertices: int, n_raised: int) -> str:
    return f"{n_vertices}{'+' * n_raised}"


def draw_pictures(ax: Axes, data: dict[str, np.ndarray]) -> None:
    """The columns of each phase, side by side, dead ones next to one another in the centre."""
    for i, (k, r) in enumerate(PHASES):
        x, W, b = 4 * i, data["columns"][i], data["biases"][i]
        ring = W[:, [*range(k), 0]]
        ax.plot(x + ring[0], ring[1], "o-", color=GREEN, lw=1, ms=5)
        for j in range(k, N_FEATURES):
            place = x + 0.28 * (j - (k + N_FEATURES - 1) / 2)
            ax.plot(place, 0, "o", mfc=BLACK if b[j] > 0 else "white", mec=BLACK, ms=5)
        rank, star = ("no Hessian", "*") if i < N_SQUARES else (f"rank {data['rank'][i]}", "")
        loss, coefficient = data["loss"][i], data["coefficient"][i]
        below = f"$L$ = {loss:.5f}\n{rank}, $\\lambda$ = {coefficient:g}{star}"
        ax.text(x, -1.5, below, ha="center", va="top")
        ax.text(x, 1.5, name_of(k, r), ha="center", fontsize=11, fontweight="bold")
    ax.set(xlim=(-1.9, 4 * len(PHASES) - 2.1), ylim=(-2.3, 2.0), aspect="equal")
    ax.set_axis_off()
    dead = "dead columns in the centre: filled raised, hollow silent"
    ax.set_title(f"(a) phases of six features ({dead})")


def draw_search(ax: Axes, data: dict[str, np.ndarray]) -> None:
    sizes = [(int(c), int(m)) for c, m in data["sizes"]]
    for x, (c, m) in enumerate(sizes):
        if m == 2:
            ax.hlines(data[f"polygons{c}"], x - 0.36, x + 0.36, color=GREY, lw=0.7, zorder=1)
        losses = data[f"search{c}{m}_losses_by_world"].ravel()
        resolved = data[f"search{c}{m}_resolved_by_world"].ravel()
        for kind, face in ((True, GREEN), (False, "none")):
            counts = Counter(np.round(losses[resolved == kind], 4).tolist())
            areas = [12 + 240 * n / len(losses) for n in counts.values()]
            style = {"facecolors": face, "edgecolors": GREEN, "alpha": 0.7, "zorder": 2}
            ax.scatter([x] * len(counts), list(counts), s=areas, **style)
    ax.set_xticks(range(len(sizes)), [f"{c} in {m}" for c, m in sizes])
    ax.set_xlabel("features in hidden dimensions")
    ax.set_ylabel("$L$ where a descent ends")
    ax.set_title("(b) ends of descents (area: how many; grey lines: polygons)")
    ax.set_xlim(-0.6, len(sizes) - 0.4)


def draw_energies(ax: Axes, data: dict[str, np.ndarray]) -> None:
    samples = data["samples"]
    above: dict[str, Any] = {"xytext": (3, 3), "ha": "left", "va": "bottom"}
    below: dict[str, Any] = {"xytext": (-3, -3), "ha": "right", "va": "top"}
    for name, line, where in (("prior", "-", above), ("flat", "--", below)):
        five, raised, six = data[f"energies_{name}"]
        ax.plot(samples, raised - five, line, color=GREY)
        ax.plot(samples, six - five, line, color=GREEN)
        at = float(data[f"five_to_six_{name}"])
        ax.plot([at], [0], "o", color=BLACK, ms=4, zorder=4)
        ax.annotate(f"{at:.0f}", (at, 0), textcoords="offset points", **where)
    ax.axhline(0, color=BLACK, lw=1)
    ax.axvline(1000, color=BLUE, lw=0.8, ls=":")
    ax.text(1020, 9.5, "samples\nof SGD", color=BLUE, fontsize=8, va="center")
    ax.text(52, 0.4, "5", fontweight="bold")
    ax.plot([], [], color=GREEN, label="6")
    ax.plot([], [], color=GREY, label="5+")
    ax.plot([], [], color=BLACK, ls="--", lw=1, label="without the prior's term")
    ax.legend(loc="lower left")
    ax.set_xscale("log")
    ax.set(xlim=(50, 2500), ylim=(-16, 12), xlabel="samples $n$")
    ax.set_ylabel("$F_n$ less that of 5 [nats]")
    ax.set_title("(c) the posterior prefers the lowest")


def draw_paths(ax: Axes, data: dict[str, np.ndarray]) -> None:
    epochs, losses = data["epochs"], data["losses_by_world"]
    later = epochs > 0
    for kind, name in reversed(list(enumerate(STARTS))):
        runs = losses[:, kind].reshape(-1, len(epochs))[:, later]
        ax.plot(epochs[later], runs.T, color=COLOURS[name], lw=0.5, alpha=0.5)
        ax.plot([], [], color=COLOURS[name], label=LABELS[name])
    for (k, r), loss in zip(PHASES, data["loss"], strict=True):
        ax.axhline(loss, color=BLACK, lw=0.7, ls=":")
        ax.annotate(name_of(k, r), (1.01, loss), xycoords=("axes fraction", "data"), va="center")
    twin = float(data["twin_loss"])
    ax.axhline(twin, color=RED, lw=0.9, ls="--")
    ax.annotate("two at one\ncorner", (0.01, twin), (0.01, 0.0755),
                xycoords=("axes fraction", "data"), color=RED, fontsize=8)  # fmt: skip
    ax.set_xscale("log")
    ax.set(ylim=(0.043, 0.135), xlim=(epochs[later][0], epochs[-1]))
    ax.set(xlabel="epochs", ylabel="exact $L$ along SGD")
    ax.set_title("(d) plateaus of SGD, and the polygons' losses")
    ax.legend(loc="upper right")


def draw_moves(ax: Axes, data: dict[str, np.ndarray]) -> None:
    by_phase = zip(PHASES, data["coefficient"].tolist(), data["loss"].tolist(), strict=True)
    places = {10 * k + r: (x, y) for (k, r), x, y in by_phase}
    places[0] = (6.5, float(data["twin_loss"]))
    for kind, name in enumerate(STARTS):
        rows = data["moves"][data["moves"][:, 0] == kind]
        counts = Counter((int(a), int(b)) for a, b in rows[:, 3:5])
        for (a, b), n in counts.items():
            if a in places and b in places:
                back = 0.003 * ((b, a) in counts) * (1 if a < b else -1)  # there and back apart
                start, end = ((x + 0.06 * kind, y + back) for x, y in (places[a], places[b]))
                _arrow(ax, start, end, COLOURS[name], "-", str(n), at=0.65 - 0.3 * kind)
    _arrow(ax, places[50], places[60], BLACK, "--", "posterior")
    for code, (x, y) in places.items():
        ax.plot(x, y, "o", color=BLACK if code else RED, ms=6, zorder=4)
        text = name_of(code // 10, code % 10) if code else "two at\none corner"
        place = (-2, -20) if code == 50 else (7, 3) if code else (-14, 14)
        ax.annotate(text, (x, y), place, textcoords="offset points", fontweight="bold", zorder=5)
    for name in STARTS:
        ax.plot([], [], color=COLOURS[name], label=LABELS[name])
    ax.legend(loc="lower left")
    ax.axvline(6.75, color=GREY, lw=0.8)
    ax.set_xticks([6.5, 7, 7.5, 8, 8.5], ["none", "7", "7.5", "8", "8.5"])
    ax.set(xlim=(6.25, 8.9), ylim=(0.036, 0.12), xlabel="$\\lambda$", ylabel="$L$")
    ax.set_title("(e) moves: SGD's, counted; dashed: the posterior's")


def _arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    line: str,
    text: str,
    at: float = 0.5,
) -> None:
    style = {
        "arrowstyle": "-|>",
        "color": colour,
        "ls": line,
        "lw": 1.5,
        "shrinkA": 6,
        "shrinkB": 6,
    }
    ax.annotate("", end, start, arrowprops=style)
    x, y = ((1 - at) * s + at * e for s, e in zip(start, end, strict=True))
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    ax.annotate(text, (x, y), ha="center", va="center", color=colour, fontsize=9, bbox=box)
