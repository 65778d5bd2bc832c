"""The panels of fig_learning_coefficient."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from figures.learning_coefficient_runs import BURN_INS, COVERED, N_BATCH

BLUE, RED, GREY = "#0072B2", "#D55E00", "#888888"


def draw_known(ax: Axes, data: dict[str, np.ndarray]) -> None:
    truth, found, errors = (data[f"known_{k}"] for k in ("coefficient", "by_world", "errors"))
    y = np.arange(len(truth))[::-1]
    at = _spread(y, len(found), 0.25)
    style: dict[str, Any] = {"fmt": "o", "ms": 3, "color": BLUE, "capsize": 0, "lw": 1}
    ax.errorbar((found / truth).ravel(), at.ravel(), xerr=(2 * errors / truth).ravel(), **style,
                label="sampled, two standard errors")  # fmt: skip
    ax.plot(data["known_target"] / truth, y, "|", color=RED, ms=17, mew=2)
    ax.plot([], [], "|", color=RED, ms=8, mew=2, label="exact mean at this n")
    ax.axvline(1, color="black", lw=0.8, label="λ, the limit")
    ax.set_yticks(y, data["models"].tolist())
    ax.set(xlabel="estimate / λ", title="Known models", ylim=(-0.6, len(truth) + 1.4))
    ax.set_xlim(left=0)
    ax.legend(loc="upper left", fontsize="x-small", ncols=1)


def draw_polygons(ax: Axes, data: dict[str, np.ndarray]) -> None:
    truth, found, errors = (data[f"polygon_{k}"] for k in ("coefficient", "by_world", "errors"))
    x = np.arange(1, 1 + len(truth))
    at = _spread(x, len(found), 0.12)
    style: dict[str, Any] = {"ms": 3.5, "capsize": 0, "lw": 1, "fmt": "o"}
    for i, coefficient in enumerate(truth):
        label = "half the Hessian's rank" if i == 0 else None
        ax.plot(x[i] + np.array([-0.42, 0.42]), [coefficient] * 2, color="black", label=label)
    raw = {**style, "color": GREY, "mfc": "none"}
    bars = 2 * errors.ravel()
    ax.errorbar(at.ravel() - 0.04, found.ravel(), yerr=bars, label="as sampled", **raw)
    corrected = found - data["polygon_low"] + truth
    ax.errorbar(at.ravel() + 0.04, corrected.ravel(), yerr=bars, color=BLUE,
                label="less its biases", **style)  # fmt: skip
    ax.plot(x + 0.34, data["published"], "x", color=RED, ms=6, mew=1.6, label="public reproduction")
    if "square_by_world" in data:
        square, bars = (data[f"square_{k}"].ravel() for k in ("by_world", "errors"))
        ax.errorbar(_spread(np.zeros(1), len(square), 0.12).ravel(), square, yerr=2 * bars, **raw)
        ax.annotate("no Hessian", (0, square.max()), xytext=(0, 22), textcoords="offset points",
                    ha="center", fontsize="small")  # fmt: skip
    ax.set_xticks(np.arange(1 + len(truth)), ["4", *data["polygons"].tolist()])
    ax.set(xlabel="polygon", ylabel="learning coefficient", xlim=(-0.6, len(x) + 0.6))
    ax.set(title="Polygons, six features, n = 500,000")
    ax.set_ylim(top=max(corrected.max(), found.max()) + 2.2)
    ax.legend(loc="upper left", ncols=2, fontsize="x-small")


def draw_steps(ax: Axes, data: dict[str, np.ndarray]) -> None:
    ax.axhline(0.5, color="black", lw=0.8)
    ax.annotate("λ = 1/2", (3.2, 0.5), ha="right", va="top", xytext=(0, -3),
                textcoords="offset points")  # fmt: skip
    ax.plot(
        data["fine_stiffness"],
        data["step_line"],
        color=RED,
        label=r"exact: $\frac{1}{2}\,/\,(1-\varepsilon n_\beta h/4)$",
    )
    _points(ax, data["stiffnesses"], data, "step", BLUE, "sampled")
    ax.axvline(0.1, color="black", lw=0.8, ls=":")
    ax.annotate("elsewhere\nat most 0.1", (0.15, 1.35), fontsize="small")
    ax.set(
        xlabel=r"stiffness of a step, $\varepsilon n_\beta h$",
        ylabel="estimate",
        title="Steps too large",
    )
    ax.set_ylim(0, 2.5)
    ax.legend(loc="upper left", bbox_to_anchor=(0.05, 1.0))


def draw_wrong(ax: Axes, data: dict[str, np.ndarray]) -> None:
    n = len(data["samples"])
    shown = ((RED, "weakly held, γ = 0.1"), (BLUE, "held, γ = 400"))
    for i, (colour, label) in enumerate(shown):
        part = {
            f"wrong_{k}": data[f"wrong_{k}"][:, i * n : (i + 1) * n] for k in ("by_world", "errors")
        }
        ax.plot(data["fine_n"], data["n_lines"][i], color=colour, lw=1)
        _points(ax, data["samples"], part, "wrong", colour, label)
    ax.axhline(7, color="black", lw=0.8)
    ax.annotate("λ = 7", (60, 7.0), fontsize="small", va="bottom")
    ax.axvline(N_BATCH, color="black", lw=0.8, ls=":")
    ax.annotate(" a batch\n for n", (N_BATCH, 10.5), fontsize="small")
    for x, share, top in zip(
        data["samples"], data["escaped"], data["wrong_by_world"].max(0), strict=False
    ):  # weak first
        if share > 0:
            ax.annotate(
                f"{share:.0%} of chains\nwould be dropped", (1.2 * x, top - 0.3), fontsize="small"
            )
    ax.set_xscale("log")
    ax.set(xlabel=r"samples $n$, in $n_\beta=n/\ln n$", ylabel="estimate", ylim=(-0.3, 15))
    ax.set_title("5-gon: n too small, dead columns loose")
    ax.legend(loc="upper right", title="points: sampled; lines: a quadratic",
              title_fontsize="small", fontsize="small")  # fmt: skip


def draw_burn_in(ax: Axes, data: dict[str, np.ndarray]) -> None:
    x = np.array(BURN_INS) / 10  # a relaxation is 1 / (eps n beta h) steps
    ax.axhline(float(data["wait_target"]), color="black", lw=0.8, label="settled")
    ax.plot(x, data["wait_low"], color=RED, label="exact, started at w*")
    _points(ax, x, data, "wait", BLUE, "sampled")
    ax.set(xlabel=r"burn-in, in relaxations $1/(\varepsilon n_\beta h)$", ylabel="estimate")
    ax.set(title="Burn-in too short (windows of two relaxations)", ylim=(0, 0.62))
    ax.legend(loc="lower right")


def draw_coverage(ax: Axes, data: dict[str, np.ndarray]) -> None:
    ax.axhline(COVERED, color="black", lw=0.8)
    ax.annotate("nominal 95 %", (1.0, COVERED), xycoords=("axes fraction", "data"), ha="right",
                va="top", xytext=(0, -14), textcoords="offset points")  # fmt: skip
    ax.plot(data["fine_times"], data["naive_line"], color=RED, lw=1)
    times = data["autocorrelation"]
    shown = (
        ("coverage", BLUE, "o", "autocorrelation-aware"),
        ("naive_coverage", RED, "s", "naive"),
    )
    for name, colour, marker, label in shown:
        for world, shares in enumerate(data[f"{name}_by_world"]):
            ax.plot(times, shares, marker, ls="", color=colour, mfc="none", ms=4.5,
                    label=label if world == 0 else None)  # fmt: skip
    ax.set_xscale("log")
    ax.set_xticks([1, 3, 10, 30], ["1", "3", "10", "30"])
    ax.minorticks_off()
    ax.set(xlabel="autocorrelation time, in draws", ylabel="share of estimates")
    ax.set(title="Truth within two standard errors", ylim=(0, 1.05))
    ax.legend(loc="lower left")


def _spread(at: np.ndarray, n_worlds: int, width: float) -> np.ndarray:
    """Returns [worlds, points]: each point's worlds side by side."""
    return at + np.linspace(-width, width, n_worlds)[:, None]


def _points(
    ax: Axes, x: np.ndarray, data: dict[str, np.ndarray], name: str, colour: str, label: str
) -> None:
    found, errors = data[f"{name}_by_world"], data[f"{name}_errors"]
    for world, (y, error) in enumerate(zip(found, errors, strict=True)):
        ax.errorbar(x, y, yerr=2 * error, fmt="o", color=colour, ms=4, mfc="none", capsize=0,
                    lw=1, label=label if world == 0 else None)  # fmt: skip
