"""The panels of fig_fragility_of_bases, and what both they and its claims know of the arrays."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from figures.fragility_of_bases_runs import RANK_5, RANK_6, SPAN, R

CELLS = (  # polygon and change: the order of the arrays of minima
    (5, "reweighted"),
    (5, "all pairs"),
    (5, "one pair"),
    (6, "reweighted"),
    (6, "all pairs"),
)
JUMP = CELLS.index((5, "one pair"))
CHANCE_TURN = (1 - R / SPAN) ** 0.5  # root mean squared sine of a random eigenspace
TRANSITION = 601  # samples at which 5-gon and 6-gon are equally good under the even law

WEIGHTS, DICTIONARY, GREY = "#D55E00", "#0072B2", "#777777"
LAW = "change of the law (total variation)"


def first_changes(data: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Returns by change the first sizes at which weights and dictionary have changed; NaN: none."""
    sizes, small, probs = data["sizes"], data["followed"], data["probs"]

    def turned(name: str, chance: float) -> float:
        return _first(sizes, data[f"{name}_turn_by_world"].mean(0) > chance / 2)

    def another_rank(change: str) -> float:
        rank = data["rank_by_world"][:, CELLS.index((5, change))].mean(0)
        return _first(small, rank != RANK_5)

    chance = data["chance_by_world"].mean()
    reweighted, grown = turned("reweighted", chance), turned("grown", chance)
    jump = _first(small, data["moved_by_world"][:, JUMP].mean(0) > 1e-3)
    inside, outside = (
        (_first(probs, weights > 0.5), _first(probs, latents > 0.5))
        for weights, latents in data["gained_by_world"].mean(0)
    )
    phase = float(np.interp(1000, data["n_samples"], data["switch_refined"]))
    return {
        "reweighting, even energies:\ntop directions": (turned("even", CHANCE_TURN), reweighted),
        "reweighting, a gap:\ntop directions": (turned("uneven", CHANCE_TURN), reweighted),
        "reweighting: rank": (another_rank("reweighted"), reweighted),
        "a share of new pairs: rank": (another_rank("all pairs"), grown),
        "one new pair: place": (jump, grown),
        "a new feature,\ninside the span": inside,
        "a new feature,\noutside": outside,
        "reweighting: phase": (phase, reweighted),
    }


def draw_summary(ax: Axes, data: dict[str, np.ndarray]) -> None:
    rows = first_changes(data)
    never = 0.6  # where the arrows are
    for i, pair in enumerate(rows.values()):
        ax.axhline(i, color="#EEEEEE", lw=6, zorder=0)
        for value, colour, up in zip(pair, (WEIGHTS, DICTIONARY), (-0.16, 0.16), strict=True):
            kept = np.isnan(value)
            face, marker = ("none", ">") if kept else (colour, "o")
            place = (never if kept else value, i + up)
            ax.plot(*place, marker, color=colour, markerfacecolor=face, ms=7)
    ax.set_yticks(range(len(rows)), list(rows), fontsize="x-small")
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(data["sizes"][0] / 2, 1.3)
    _decades(ax)
    ax.set_xlabel(
        "smallest change that changed the basis\n(total variation; ▷ none of those tried)"
    )
    ax.set_title("Which breaks first?")
    for colour, label in ((WEIGHTS, "weights"), (DICTIONARY, "dictionary of an SAE")):
        ax.plot([], [], "o", color=colour, ms=7, label=label)
    ax.legend(loc="center left", bbox_to_anchor=(0.02, 0.73), frameon=True, fontsize=7)


def draw_turns(ax: Axes, data: dict[str, np.ndarray]) -> None:
    x = data["sizes"]
    _line(ax, x, data["even_turn_by_world"], WEIGHTS, "o-", "weights, even energies")
    _line(ax, x, data["uneven_turn_by_world"], WEIGHTS, "s--", "weights, a gap")
    bound = data["uneven_bound_by_world"].max(0)
    ax.plot(x, np.where(np.isfinite(bound), bound, np.nan), ":", color=WEIGHTS, label="its bound")
    _line(ax, x, data["reweighted_turn_by_world"], DICTIONARY, "o-", "SAE, reweighted")
    _line(ax, x, data["grown_turn_by_world"], DICTIONARY, "s--", "SAE, two features")
    again = data["again_turn_by_world"]
    ax.axhspan(again.min(), again.max(), color=DICTIONARY, alpha=0.15, lw=0)
    for chance in (CHANCE_TURN, data["chance_by_world"].mean()):
        ax.axhline(chance, color=GREY, ls="-.", lw=0.9)
    ax.text(x[0], 0.95, "chance", va="bottom", color=GREY, fontsize=7)
    _decades(ax)
    ax.set(ylim=(-0.02, 1.12), xlabel=LAW, ylabel="sine of the turn")
    ax.set_title("Turn of the directions")
    ax.legend(loc="center left", bbox_to_anchor=(0.0, 0.46), fontsize=7, frameon=True)


def draw_ranks(ax: Axes, data: dict[str, np.ndarray]) -> None:
    for cell, before, label, style in (
        ((5, "reweighted"), RANK_5, "5-gon, reweighted", "o-"),
        ((5, "all pairs"), RANK_5, "5-gon, new pairs", "s--"),
        ((6, "all pairs"), RANK_6, "6-gon, new pairs", "^:"),
    ):
        change = data["rank_by_world"][:, CELLS.index(cell)] / before - 1
        _line(ax, data["followed"], change, WEIGHTS, style, f"weights, {label}", ms=9)
    base = data["base_found_by_world"][:, None]
    for name, style, label in (("reweighted", "o-", "reweighted"), ("grown", "s--", "new pairs")):
        change = data[f"{name}_found_by_world"] / base - 1
        _line(ax, data["sizes"], change, DICTIONARY, style, f"SAE, {label}")
    _decades(ax)
    ax.set(ylim=(-0.3, 0.5), xlabel=LAW, ylabel="relative change")
    ax.set_yticks([-0.2, 0, 0.2, 0.4])
    ax.set_title("Number of directions")
    ax.legend(loc="upper left", fontsize=7)


def draw_rare(ax: Axes, data: dict[str, np.ndarray]) -> None:
    x, gains = data["probs"], data["gained_by_world"]
    for i, (place, style) in enumerate((("inside the span", "s--"), ("outside it", "o-"))):
        _line(ax, x, gains[:, i, 0], WEIGHTS, style, f"weights: {place}")
        ax.plot(x, gains[:, i, 1].mean(0), style, color=DICTIONARY, lw=1.2, label=f"SAE: {place}")
    kappa = float(data["kappa"])
    ax.axvline(kappa, color=WEIGHTS, lw=0.9, ls=":")
    ax.text(kappa, 1.09, " κp", color=WEIGHTS)
    _decades(ax)
    ax.set(ylim=(-0.06, 1.2), xlabel="probability of the rare feature")
    ax.set_ylabel("directions gained (SAE: share of worlds)")
    ax.set_title("A rare feature becomes common")
    ax.legend(loc="center left", bbox_to_anchor=(0.0, 0.63), fontsize=7)


def draw_places(ax: Axes, data: dict[str, np.ndarray]) -> None:
    x = data["followed"]
    labels = ("reweighted", "all pairs alike", "one new pair")
    for i, (label, marker) in enumerate(zip(labels, "os^", strict=True)):
        moved, foretold = (data[f"{n}_by_world"][:, i] for n in ("moved", "foretold"))
        _line(ax, x, moved, WEIGHTS, marker, label, alpha=(1.0, 0.6, 1.0)[i])
        mean, colour = (moved, WEIGHTS) if i == JUMP else (foretold, GREY)
        ax.plot(x, mean.mean(0), "-", color=colour, lw=0.9)
    ax.plot([], [], "-", color=GREY, label="implicit function theorem")
    _decades(ax)
    _decades(ax, "y")
    ax.set(xlabel=LAW, ylabel="movement |Δw| / |w| modulo rotations")
    ax.set_title("Place of the minimum (5-gon)")
    ax.legend(loc="lower right", fontsize=7)


def draw_switch(ax: Axes, data: dict[str, np.ndarray]) -> None:
    n = data["n_samples"]
    ax.plot(n, data["switch_tv"], "-", color=WEIGHTS, label="parameters fixed")
    ax.plot(n, data["switch_second"], "--", color=WEIGHTS, label="second order")
    ax.plot(n, data["switch_refined"], "o", color=WEIGHTS, label="minima found anew")
    ax.plot(n, data["switch_kl"], ":", color=GREY, label="KL of the same law, nats")
    ax.axvline(TRANSITION, color=GREY, lw=0.8)
    ax.text(TRANSITION, 0.078, " 5-gon | 6-gon", fontsize=7, color=GREY, ha="center", va="top")
    _decades(ax)
    ax.set(ylim=(0, 0.08), xlabel="number of samples n")
    ax.set_yticks([0, 0.02, 0.04, 0.06, 0.08])
    ax.set_ylabel("distance to the switch (total variation)")
    ax.set_title("Reweighting that switches the phase")
    ax.legend(loc="center right", bbox_to_anchor=(1.0, 0.4), fontsize=7)


def _first(sizes: np.ndarray, changed: np.ndarray) -> float:
    return float(sizes[np.argmax(changed)]) if changed.any() else math.nan


def _decades(ax: Axes, name: str = "x") -> None:
    """Makes an axis logarithmic, with a tick at each power of ten that is in view."""
    ax.set(**{f"{name}scale": "log"})
    low, high = sorted(getattr(ax, f"get_{name}lim")())
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    labels = [f"{10.0**p:,.{max(0, -p)}f}" for p in powers]
    getattr(ax, f"set_{name}ticks")([10.0**p for p in powers], labels)
    ax.minorticks_off()


def _line(
    ax: Axes,
    x: np.ndarray,
    by_world: np.ndarray,
    colour: str,
    style: str,
    label: str,
    **options: float,
) -> None:
    """Mean over worlds and their range."""
    mean = by_world.mean(0)
    spread = np.stack([mean - by_world.min(0), by_world.max(0) - mean]).clip(min=0)
    given: dict[str, Any] = {"capsize": 2, "lw": 1.2, **options}
    ax.errorbar(x, mean, yerr=spread, fmt=style, color=colour, label=label, **given)
