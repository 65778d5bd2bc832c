"""The published pathologies of SAEs come out, but for two numbers that another penalty explains.

Each panel is a published toy experiment, published values as diamonds. (a) With a child that fires
only with its parent, training moves an SAE from the truth to full absorption: delta = 1, L1 saved
1 + delta - sqrt(1 + delta^2) with unit rows (delta, if rows were free) at no error. Independent
features stay, and BatchTopK absorbs without L1. (b) How much is absorbed if magnitudes vary or the
child sometimes fires alone follows the exact minimiser of the objective, not the published shares,
.78 and .32: at the published coefficient, 3e-5, it is .59 (.02 if .1 is the variance) and .00. (c)
At the coefficients of .0145 and .039 that the shares imply all seven published numbers come out.
(d) One latent leans towards what its feature is correlated with, with the sign of the correlation;
if independent, b_dec takes feature 2 at its probability. (e) Matryoshka's inner weight 1/4 balances
what the parent's latent reads of equal children, 0 absorbs, infinity hedges; of unequal children
none balances all. (f) Below the true l0 an SAE has less error than the truth, and the signals that
see no truth have their minimum at the true l0. (g) On the tree of 20 features the parent's latent
is silent where a child fires, and with prefixes it is not; no scalar was published. (h) With
prefixes a quiet child is not absorbed, a loud one is, as predicted: at least half as often as
without. Points: worlds (fresh dictionary and data; starts at the truth in a to e, random in f to
h), trained briefly at a higher learning rate, in a with an L1 of .01. Crosses (paper preset): the
published 1e8 samples at learning rate 3e-4 and L1 3e-5, in one world.

Paper: fig:pathologies. Chanin et al. 2024, arXiv 2409.14507; 2025, arXiv 2505.11756; Chanin and
Garriga-Alonso 2025, arXiv 2508.16560; Nabeshima 2024, Matryoshka sparse autoencoders.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import pathology_runs as runs
from figures.pathology_runs import Run, Training, best_share
from figures.runs import map_cached, require

PANELS = ("saving", "share", "numbers", "lean", "balance", "few", "tree", "loud")
WORLDS = {"independent": "independent", "hierarchical": "hierarchy", "batch_topk": "BatchTopK"}
VARIANTS = {  # spread of magnitudes, Pr(parent silent | child), label, published share
    "sd": (0.1, 0.0, "magnitudes, sd .1", 0.78),
    "magnitudes": (0.1**0.5, 0.0, "magnitudes, variance .1", 0.78),
    "cooccurrence": (0.0, 0.05, "95 % co-occurrence", 0.32),
}
L1, L1_PUBLISHED = 0.01, 3e-5
L1_SD, L1_COOCCURRENCE = 0.0145, 0.039  # at which the published shares are best
NUMBERS = {
    "parent (1, 1)": 0.22, "parent (.9, 1)": 0.12, "parent (.75, 1)": 0.0, "child (1, 1)": 1.27,
    "parent (1, 1) ": 0.67, "child (1, 1) ": 1.05, "child (0, 1) ": 0.95,
}  # fmt: skip
CORRELATED = {"independent": 0, "hierarchical": 1, "positive": 1, "negative": -1}
FEATURE_2 = 0.2  # its firing probability in the independent world
CLOSE = 0.05  # of a parent's magnitude: the size of an error that the published plots would show
PUBLISHED = Training(24_414, 4096, 3e-4, 0.0)
SMALLER = replace(PUBLISHED, n_steps=97_656, batch_size=1024)  # where no batch is published


@dataclass(frozen=True)
class Config:
    """Worlds, panels, steps (of few, tree and loud in this order), what is varied.

    n_published: worlds in which the published recipe is run too, in panels a, b, d and e.
    """

    n_worlds: int
    panels: tuple[str, ...] = PANELS
    n_steps: int = 800
    more_steps: tuple[int, int, int] = (500, 1000, 700)
    l1s: tuple[float, ...] = (0.003, L1_SD, L1_COOCCURRENCE)
    weights: tuple[float, ...] = (0, 1 / 16, 1 / 8, 1 / 6, 1 / 4, 1 / 2, 1, 4, np.inf)
    ks: tuple[int, ...] = (3, 7, 9, 11, 13, 20)
    loudness: tuple[float, ...] = (1, 2, 10)
    n_published: int = 0
    related: bool = True


CONFIGS = {
    "smoke": Config(2, ("saving",), n_steps=250),
    "quick": Config(3),
    "paper": Config(
        8, n_steps=1600, more_steps=(1500, 3000, 1500), l1s=(0.001, 0.003, L1_SD, L1_COOCCURRENCE),
        ks=(1, 3, 5, 7, 9, 11, 13, 16, 20, 25), loudness=(0.5, 1, 1.4, 2, 4, 10), n_published=1,
    ),
}  # fmt: skip


def compute(cfg: Config) -> dict[str, np.ndarray]:
    data = {"panels": np.array(cfg.panels), "l1s": np.array(cfg.l1s)}
    data |= {"weights": np.array(cfg.weights), "ks": np.array(cfg.ks)}
    data["loudness"] = np.array(cfg.loudness)
    few, tree, loud = cfg.more_steps
    usual = Training(cfg.n_steps)

    def by_world(run: Callable, variant: str, dials: tuple, training: Training) -> dict:
        """Arrays of one variant, stacked over worlds."""
        n = cfg.n_published if training in (PUBLISHED, SMALLER) else cfg.n_worlds
        cells = [Run(w, variant, dials, training, cfg.related) for w in range(n)]
        found = map_cached(run, cells)
        return {name: np.stack([r[name] for r in found]) for name in found[0]} if found else {}

    for training, tail in ((usual, "_by_world"), (PUBLISHED, "_as_published_by_world")):
        if training == PUBLISHED and not cfg.n_published:
            continue
        absorbing = usual if training == usual else SMALLER
        l1s = cfg.l1s if training == usual else (L1_PUBLISHED,)
        weights = cfg.weights if training == usual else (1 / 4,)
        if "saving" in cfg.panels:
            for v in WORLDS if training == usual else ("independent", "hierarchical"):
                dial = 2.0 if v == "batch_topk" else (L1 if training == usual else L1_PUBLISHED)
                found = by_world(runs.absorption_run, v, (dial,), absorbing)
                data[f"{v}_delta{tail}"] = found["delta"][:, 0]
                data[f"{v}_saved{tail}"] = 2 - found["codes"][:, 0, 0].sum(1)
        if "share" in cfg.panels:
            for v in VARIANTS:
                found = by_world(runs.absorption_run, v, l1s, absorbing)
                data[f"{v}_delta{tail}"] = found["delta"]
                data[f"{v}_codes{tail}"] = found["codes"]
        if "lean" in cfg.panels:
            for v in CORRELATED:
                found = by_world(runs.hedging_run, v, (1e-3,), training)
                data[f"{v}_lean{tail}"] = found["lean"][:, 0]
                data[f"{v}_bias{tail}"] = found["bias"][:, 0]
                data[f"{v}_axis"] = found["axis"][0]
        if "balance" in cfg.panels:
            for v in runs.CHILDREN:
                found = by_world(runs.balance_run, v, weights, training)
                data |= {f"{v}_{name}{tail}": found[name] for name in ("reads", "writes")}
    for panel, run, dials, training in (
        ("few", runs.few_run, cfg.ks, Training(few)),
        ("tree", runs.tree_run, (0.2,), Training(tree, 200, 3e-2, 0.2)),
    ):
        if panel in cfg.panels:
            found = by_world(run, panel, dials, training)
            data |= {f"{panel}_{name}_by_world": value for name, value in found.items()}
    if "loud" in cfg.panels:
        each = [by_world(runs.loud_run, "", (m,), Training(loud)) for m in cfg.loudness]
        for name in ("rate", "null", "inner"):
            data[f"loud_{name}_by_world"] = np.stack([found[name] for found in each], axis=1)
    return data | derived(data, cfg)


def derived(data: dict[str, np.ndarray], cfg: Config) -> dict[str, np.ndarray]:
    """Exact curves, and single numbers for the text."""
    found: dict[str, Any] = {}
    if "share" in cfg.panels:
        found["grid"] = np.geomspace(1e-5, 0.1, 25)
        for v, (spread, alone, *_) in VARIANTS.items():
            curve = [best_share(l1, spread, alone) for l1 in found["grid"]]
            at = [best_share(l1, spread, alone) for l1 in cfg.l1s]
            found |= {f"{v}_curve": np.array(curve), f"{v}_best": np.array(at)}
            found[f"{v}_at_published"] = np.array(best_share(L1_PUBLISHED, spread, alone))
        sd = data["sd_codes_by_world"][:, cfg.l1s.index(L1_SD)]
        together = data["cooccurrence_codes_by_world"][:, cfg.l1s.index(L1_COOCCURRENCE)]
        seven = [sd[:, 0, 0], sd[:, 1, 0], sd[:, 2, 0], sd[:, 0, 1]]
        seven += [together[:, 0, 0], together[:, 0, 1], together[:, 4, 1]]
        found["numbers_by_world"] = np.stack(seven, axis=1)
        found |= {f"number_{i}": np.median(values) for i, values in enumerate(seven)}
        found |= {"l1_sd": np.array(L1_SD), "l1_cooccurrence": np.array(L1_COOCCURRENCE)}
    if "lean" in cfg.panels:
        found |= {f"lean_{v}": np.median(data[f"{v}_lean_by_world"]) for v in CORRELATED}
        found["lean_bias"] = np.median(data["independent_bias_by_world"])
    if "balance" in cfg.panels:
        quarter = cfg.weights.index(1 / 4)
        found["balance_reads"] = np.median(data["equal_reads_by_world"][:, quarter])
        found["balance_writes"] = np.median(data["equal_writes_by_world"][:, quarter])
        worst = np.median(np.abs(data["unequal_reads_by_world"]).max(2), axis=0)
        found |= {"unequal_least": worst.min(), "unequal_weight": cfg.weights[worst.argmin()]}
    if "few" in cfg.panels:
        for k in (k for k in (7, 9) if k in cfg.ks):
            at = cfg.ks.index(k)
            ratio = data["few_error_by_world"][:, at] / data["few_truth_by_world"][:, at]
            found[f"few_ratio_{k}"] = np.median(ratio)
    if "tree" in cfg.panels:
        for i, kind in enumerate(("plain", "nested")):
            found[f"tree_recall_{kind}"] = np.median(data["tree_recall_by_world"][:, i])
            found[f"tree_mass_{kind}"] = np.median(data["tree_off_diagonal_by_world"][:, i])
    if "loud" in cfg.panels:
        rate = data["loud_rate_by_world"].mean(0)
        found |= {"loud_quiet_nested": rate[cfg.loudness.index(1), 1]}
        found |= {"loud_plain": rate[-1, 0], "loud_nested": rate[-1, 1]}
    return {name: np.asarray(value) for name, value in found.items()}


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    margins: dict[str, float] = {}
    if "saving" in cfg.panels:
        for v, label in WORLDS.items():
            delta, saved = data[f"{v}_delta_by_world"], data[f"{v}_saved_by_world"]
            goal = 0 if v == "independent" else 1
            margins[f"a, {label}: delta is {goal}"] = CLOSE - np.abs(delta - goal).max()
            off = np.abs(saved - saving(delta)).max()
            margins[f"a, {label}: L1 is saved as the exact family says"] = CLOSE - off
    if "share" in cfg.panels:
        for v, (*_, label, published) in VARIANTS.items():
            off = np.abs(np.median(data[f"{v}_delta_by_world"], axis=0) - data[f"{v}_best"])
            margins[f"b, {label}: absorbed as the exact minimiser (median)"] = CLOSE - off.max()
            apart = np.abs(data[f"{v}_at_published"] - published)
            margins[f"b, {label}: not the published share at 3e-5"] = apart - 2 * CLOSE
            if cfg.n_published:
                off = np.abs(data[f"{v}_delta_as_published_by_world"] - data[f"{v}_at_published"])
                margins[f"b, {label}: nor by the published recipe"] = CLOSE - off.max()
    if "numbers" in cfg.panels:
        off = np.abs(data["numbers_by_world"] - np.array(list(NUMBERS.values()))).max()
        margins["c: all seven published numbers at their coefficients"] = CLOSE - off
    if "lean" in cfg.panels:
        for v, sign in CORRELATED.items():
            lean = data[f"{v}_lean_by_world"]
            held = CLOSE - np.abs(lean).max() if sign == 0 else (sign * lean).min() - CLOSE
            margins[f"d, {v}: the lean has the sign of the correlation"] = held
        off = np.abs(data["independent_bias_by_world"] - FEATURE_2).max()
        margins["d: the bias takes feature 2 at its probability"] = CLOSE - off
    if "balance" in cfg.panels:
        reads = [np.median(data[f"{v}_reads_by_world"], axis=0) for v in runs.CHILDREN]
        worst = np.abs(reads[0]).max(1)
        quarter = cfg.weights.index(1 / 4)
        margins["e, equal: 1/4 balances, to a fifth of the full hedge of .15"] = (
            0.03 - worst[quarter]
        )
        others = np.delete(worst, quarter)
        margins["e, equal: it is the best weight"] = others.min() - worst[quarter]
        margins["e, equal: 0 absorbs"] = -reads[0][0].max() - CLOSE
        margins["e, equal: infinity hedges"] = reads[0][-1].min() - CLOSE
        margins["e, unequal: no weight balances all"] = np.abs(reads[1]).max(1).min() - 0.03
    if "few" in cfg.panels:
        true = cfg.ks.index(11)
        gain = 1 - data["few_error_by_world"][:, :true] / data["few_truth_by_world"][:, :true]
        margins["f: below the true l0 less error than the truth"] = gain.min()
        for name in ("cosine", "projection"):
            median = np.median(data[f"few_{name}_by_world"], axis=0)
            margins[f"f: least {name} at the true l0 (median)"] = (
                np.delete(median, true).min() - median[true]
            )
    if "tree" in cfg.panels:
        plain, nested = np.median(data["tree_recall_by_world"], axis=0)
        margins["g: the plain SAE's parents are silent, nine in ten (median)"] = 0.1 - plain
        margins["g: those of the nested SAE fire, nine in ten (median)"] = nested - 0.9
        less = -np.diff(data["tree_off_diagonal_by_world"], axis=1)
        margins["g: less off the diagonal with prefixes"] = less.min()
    if "loud" in cfg.panels:
        rate = data["loud_rate_by_world"].mean(0)
        quiet = cfg.loudness.index(1)
        margins["h: a quiet child, a tenth of what could be is absorbed at most"] = (
            0.05 - rate[quiet, 1]
        )
        margins["h: a loud child, at least half as often as without prefixes"] = (
            rate[-1, 1] - rate[-1, 0] / 2
        )
        margins["h: which is often: half of what could be, .5"] = rate[-1, 0] - 0.25
        margins["h: no rate above what could be"] = 0.55 - data["loud_rate_by_world"].max()
    return require(margins)


def saving(delta: np.ndarray) -> np.ndarray:
    """Returns the L1 saved where both fire, with unit rows."""
    return 1 + delta - np.sqrt(1 + delta**2)


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with children that fire independently of their parents."""
    return compute(replace(cfg, related=False))


BLUE, RED, GREEN, PINK, ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"
DIAMOND = {"marker": "D", "mfc": "none", "mec": "black", "ms": 7, "ls": "", "mew": 1.2, "zorder": 4}
CROSS = {"marker": "x", "color": "black", "ms": 6, "ls": "", "mew": 1.4, "zorder": 5}


def plot(data: dict[str, np.ndarray]) -> Figure:
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
    for i, (p, colour) in enumerate(
        zip(runs.CHILDREN["unequal"], (PINK, ORANGE, RED), strict=True)
    ):
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
    below = ks < 11
    lines = {
        "error, of the truth's": (data["few_error_by_world"], data["few_truth_by_world"], BLUE),
        "row cosines, of largest": (data["few_cosine_by_world"], None, RED),
        f"{runs.N_PROJECTED}th projection, of largest": (
            data["few_projection_by_world"], None, GREEN
        ),
    }  # fmt: skip
    for label, (values, base, colour) in lines.items():
        shown = below if base is not None else ks > 0
        base = values.max(1, keepdims=True) if base is None else base[:, shown]
        scaled = values[:, shown] / base
        ax.plot(ks[shown], np.median(scaled, axis=0), "-", color=colour, label=label)
        for world in scaled:
            ax.plot(ks[shown], world, "o", color=colour, ms=3, alpha=0.7)
    ax.axhline(1, color="black", lw=0.8)
    ax.axvline(11, ymax=0.6, color="#999999", ls=":")
    ax.text(11.4, 0.85, "true l0", fontsize=8)
    ax.set(
        xlabel="k",
        ylabel="ratio",
        ylim=(-0.05, 1.75),
        title="too low a k beats the truth;\nsignals are least at true l0",
    )
    ax.legend(loc="upper left", handlelength=1.2)


def _draw_tree(ax: Axes, data: dict[str, np.ndarray]) -> None:
    for i, name in enumerate(("recall", "off_diagonal")):
        for j, colour in enumerate((BLUE, RED)):
            _dots(ax, 2.5 * i + j, data[f"tree_{name}_by_world"][:, j], colour)
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
