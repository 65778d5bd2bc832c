"""SGD rests at polygons of the exact potential and moves to lower losses, not to higher lambda.

One of six features is active at a time, z uniform on [0, 1], in two hidden dimensions. (a) Polygon
phases: loss, rank of the Hessian and lambda = rank/2 as published, the potential within 1e-7 of
quadrature on random weights. Corners: living columns; centre: dead ones, filled if raised (each
"+" saves 1/144), hollow if silent. Squares are not C^2, but in every direction tried L grows like
|d|^2: then half the number of directions is their lambda (*). (b) Where descents from random
starts end, hollow where L is not C^2; grey: polygons. (c) Free energies against the pentagon's:
with the normal prior the posterior moves to the hexagon at 601 samples, as published, without its
term at 445; with it 5+ is never preferred.

(d) Exact loss along SGD (1,000 samples, batch 20, lr .005; at smoke 200 and .05). From near a
square every plateau is nearer to the loss of its own polygon than to any other's; of all plateaus
more are than random levels would be (p < 1e-6). The exceptions start from random weights and wait
around a saddle that is no regular polygon, a pentagon with two columns at one corner (drawn, not
asserted; one that drifts on may count as a pentagon in passing). (e) Moves between plateaus: each
lowers L. Published sampled estimates of lambda rise along SGD as the loss falls; the exact lambda
rises in no move between these phases, and the posterior's move from 5 to 6 is never made. Lines
and counts: all runs of all worlds (samples, start and order of each run fresh; 8 runs of either
kind in 3 worlds at quick, 12 in 8 at paper).

Paper: fig:phases. Potential, phases, protocol: Chen, Lau, Mendel, Wei & Murfet 2023, arXiv
2310.06301.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from figures.phases_runs import (
    N_FEATURES,
    STARTS,
    Descents,
    Growth,
    Training,
    growth_run,
    quadrature,
    search_run,
    training_run,
    twin_phase,
)
from figures.runs import map_cached, require
from theory.phase_dynamics import plateaus
from theory.phases import free_energy, polygon_phase, transition_size
from theory.potential import potential
from toymodels import stream

PHASES = ((4, 0), (4, 1), (4, 2), (5, 0), (5, 1), (6, 0))  # vertices, raised: by falling loss
PRINTED = (0.11111, 0.10417, 0.09722, 0.06874, 0.06180, 0.04819)
RANKS = {(5, 0): 14, (5, 1): 17, (6, 0): 17}
PUBLISHED_TRANSITION, WITHOUT_PRIOR = 601, 445
N_SQUARES = 3  # the first of PHASES
WINDOW = 4  # records that have to be still
STILL = 1 / 1440  # a tenth of the least gap between polygons, 1 / (4 c^2)
UNLIKELY = 1e-6


@dataclass(frozen=True)
class Config:
    """Worlds; descents of sizes (c, m); directions tried around squares; training.

    halved: whether the loss carries the factor 1/2 of other conventions.
    """

    n_worlds: int
    training: Training
    sizes: tuple[tuple[int, int], ...] = ((5, 2), (6, 2), (7, 2), (8, 2), (7, 3), (8, 3))
    n_starts: int = 6
    n_directions: int = 2
    n_random: int = 20
    halved: bool = False


CONFIGS = {
    "smoke": Config(2, Training(2, 2, 60, 5, 200, lr=0.05), ((6, 2),), 1, 1, 3),
    "quick": Config(3, Training(3, 8, 1800, 25)),
    "paper": Config(8, Training(8, 12, 4500, 25), n_starts=25, n_directions=8, n_random=100),
}


def name_of(n_vertices: int, n_raised: int) -> str:
    return f"{n_vertices}{'+' * n_raised}"


def compute(cfg: Config) -> dict[str, np.ndarray]:
    data = table(cfg) | search(cfg) | free_energies(cfg) | trained(cfg)
    return data | counts(data)


def table(cfg: Config) -> dict[str, np.ndarray]:
    """The phases, how L grows around squares, and the potential beside quadrature."""
    found = [polygon_phase(N_FEATURES, k, n_raised=r) for k, r in PHASES]
    # Around squares all directions count but the rotation and the biases of silent columns.
    coefficients = [(18 - p.n_flat) / 2 if p.rank < 0 else p.learning_coefficient() for p in found]
    worlds, squares = range(cfg.n_worlds), PHASES[:N_SQUARES]
    runs = [Growth(w, *phase, cfg.n_directions) for w in worlds for phase in squares]
    growth = np.array([float(r["growth"]) for r in map_cached(growth_run, runs)])
    errors = np.zeros((cfg.n_worlds, cfg.n_random))
    for world in worlds:
        generator = stream(world, "weights")
        for i in range(cfg.n_random):
            W = torch.randn(2, N_FEATURES, generator=generator, dtype=torch.float64)
            b = torch.randn(N_FEATURES, generator=generator, dtype=torch.float64) / 2
            exact = factor(cfg) * float(potential(W, b))
            errors[world, i] = abs(exact - quadrature(W.numpy(), b.numpy()))
    return {
        "loss": factor(cfg) * np.array([p.loss for p in found]),
        "rank": np.array([p.rank for p in found]),
        "coefficient": np.array(coefficients),
        "squared_norm": np.array([p.squared_norm for p in found]),
        "columns": np.stack([p.W.numpy() for p in found]),
        "biases": np.stack([p.b.numpy() for p in found]),
        "growth_by_world": growth.reshape(cfg.n_worlds, N_SQUARES),
        "errors_by_world": errors,
        "twin_loss": np.array(twin_phase().loss),
    }


def factor(cfg: Config) -> float:
    return 0.5 if cfg.halved else 1.0


def search(cfg: Config) -> dict[str, np.ndarray]:
    """Where descents end, and the losses of the polygons of as many features."""
    data: dict[str, np.ndarray] = {"sizes": np.array(cfg.sizes)}
    for c, m in cfg.sizes:
        runs = [Descents(w, c, m, cfg.n_starts) for w in range(cfg.n_worlds)]
        results = map_cached(search_run, runs)
        for part in ("losses", "resolved"):
            data[f"search{c}{m}_{part}_by_world"] = np.stack([r[part] for r in results])
        some = [(k, r) for k in range(4, c + 1) for r in range(c - k + 1)]
        data[f"polygons{c}"] = np.array([polygon_phase(c, k, n_raised=r).loss for k, r in some])
    return data


def free_energies(cfg: Config) -> dict[str, np.ndarray]:
    """Free energies by phase and number of samples, and where the posterior changes its phase."""
    smooth = [(k, r) for k, r in PHASES if (k, r) in RANKS]
    found = [polygon_phase(N_FEATURES, k, n_raised=r) for k, r in smooth]
    found = [replace(p, loss=factor(cfg) * p.loss) for p in found]
    samples = np.geomspace(50, 5000, 200)
    data = {"samples": samples}
    for name, prior in (("prior", True), ("flat", False)):
        energies = [
            [
                free_energy(n, p.loss, p.learning_coefficient(), prior * p.squared_norm)
                for n in samples.tolist()
            ]
            for p in found
        ]
        data[f"energies_{name}"] = np.array(energies)
        five, raised, six = found
        data[f"five_to_six_{name}"] = np.array(transition_size(five, six, prior=prior))
        data[f"five_to_raised_{name}"] = np.array(transition_size(five, raised, prior=prior))
        data[f"raised_to_six_{name}"] = np.array(transition_size(raised, six, prior=prior))
    return data


def trained(cfg: Config) -> dict[str, np.ndarray]:
    """Losses along SGD, its plateaus, the polygons they are at, and the moves between them.

    plateaus: rows of kind, world, run, state, loss, its distance from the loss of the polygon of
    its label, chance that a random level is as well placed. state: 10 vertices + raised if no other
    polygon's loss is nearer, else 0. moves: kind, world, run, states and losses before and after.
    """
    (found,) = map_cached(training_run, [cfg.training])
    labels = [(k, r) for k in range(2, N_FEATURES + 1) for r in range(N_FEATURES - k + 1)]
    levels = np.array([polygon_phase(N_FEATURES, k, n_raised=r).loss for k, r in labels])
    chances = cells(levels)
    rests, moves = [], []
    for run in np.ndindex(found["losses"].shape[:-1]):
        of_run = [torch.from_numpy(found[name][run]) for name in ("losses", "vertices", "raised")]
        last: list[tuple[int, float]] = []
        for p in plateaus(*of_run, n_window=WINDOW, tolerance=STILL):
            label = (p.n_vertices, p.n_raised)
            i = labels.index(label) if label in labels else -1
            own = i == int(np.abs(levels - p.loss).argmin())
            state = (10 * p.n_vertices + p.n_raised) * own
            gap, chance = (abs(levels[i] - p.loss), chances[i]) if i >= 0 else (math.inf, 0.0)
            rests.append((*run, state, p.loss, gap, chance))
            if last and last[-1][0] != state:
                moves.append((*run, last[-1][0], state, last[-1][1], p.loss))
            last.append((state, p.loss))
    return {
        "epochs": found["epochs"],
        "losses_by_world": np.moveaxis(found["losses"], 1, 0).astype(np.float32),
        "plateaus": np.array(rests).reshape(-1, 7),
        "moves": np.array(moves).reshape(-1, 7),
    }


def counts(data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Numbers of plateaus and moves to quote."""
    rests, moves = data["plateaus"], data["moves"]
    coefficients = {10 * k + r: x for (k, r), x in zip(PHASES, data["coefficient"], strict=True)}
    both = [m for m in moves[:, 3:5].astype(int).tolist() if set(m) <= set(coefficients)]
    rises = np.array([coefficients[b] - coefficients[a] for a, b in both])
    ends = {tuple(row[:3]): int(row[3]) for row in rests}  # of each run the last
    found = {
        "n_runs": data["losses_by_world"][..., 0].size,
        "n_plateaus": len(rests),
        "n_elsewhere": (rests[:, 3] == 0).sum(),
        "n_moves": len(moves),
        "n_rising": (rises > 0).sum(),
        "n_level": (rises == 0).sum(),
        "n_falling": (rises < 0).sum(),
        "n_five_to_six": both.count([50, 60]),
        "n_ends": len(ends),
        "n_ends_hexagon": sum(state == 60 for state in ends.values()),
        "level_distance": np.median(rests[rests[:, 3] > 0, 5]) if len(rests) else math.nan,
        "random_chance": rests[:, 6].mean() if len(rests) else math.nan,
    }
    return {name: np.array(value) for name, value in found.items()}


def cells(levels: np.ndarray) -> np.ndarray:
    """Returns for each level the share of losses between the extremes to which it is nearest."""
    order = np.sort(levels)
    edges = np.concatenate([order[:1], (order[1:] + order[:-1]) / 2, order[-1:]])
    shares = np.diff(edges) / (order[-1] - order[0])
    return shares[levels.argsort().argsort()]


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    ranks = [rank for phase, rank in zip(PHASES, data["rank"], strict=True) if phase in RANKS]
    margins = {
        "printed losses": 5e-6 - np.abs(data["loss"] - PRINTED).max(),
        "published ranks": -np.abs(np.array(ranks) - list(RANKS.values())).max(),
        "potential, against quadrature": 1e-7 - data["errors_by_world"].max(),
        "from 5 to 6 at the published size": 0.5
        - abs(data["five_to_six_prior"] - PUBLISHED_TRANSITION),
        "from 5 to 6 without the prior": 0.5 - abs(data["five_to_six_flat"] - WITHOUT_PRIOR),
        "5+ is never preferred": least_excess(data),
        "squares are minima: growth in every direction tried": data["growth_by_world"].min(),
    }
    rests, moves = data["plateaus"], data["moves"]
    square = rests[rests[:, 0] == STARTS.index("square")]
    if len(square):
        margins["near squares: plateaus at their own polygon"] = np.mean(square[:, 3] > 0) - 1
    if len(rests) >= 20:
        margins["plateaus at polygons, against random levels"] = UNLIKELY - chance_of(rests)
    if len(moves):
        margins["every move lowers L"] = (moves[:, 5] - moves[:, 6]).min()
        margins["no move between the phases raises lambda"] = -data["n_rising"]
        margins["no move from 5 to 6"] = -data["n_five_to_six"]
    return require(margins)


def least_excess(data: dict[str, np.ndarray]) -> float:
    """Returns the least free energy of 5+ above the lower of 5 and 6, over numbers of samples."""
    five, raised, six = data["energies_prior"]
    return float((raised - np.minimum(five, six)).min())


def chance_of(rests: np.ndarray) -> float:
    """Returns how likely so many plateaus are at their polygons if their levels were random.

    The number is a sum of independent trials of unequal chances; a binomial of the mean chance has
    the heavier tail (Hoeffding 1956).
    """
    return float(stats.binom.sf((rests[:, 3] > 0).sum() - 1, len(rests), rests[:, 6].mean()))


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with half the loss, another convention: 601 is then missed as well."""
    return compute(replace(cfg, halved=True))


COLOURS = {"square": "#0072B2", "random": "#E69F00"}
LABELS = {"square": "SGD from near a square", "random": "SGD from random weights"}
BLACK, GREY, GREEN = "#000000", "#999999", "#009E73"


def plot(data: dict[str, np.ndarray]) -> Figure:
    fig = plt.figure(figsize=(10.5, 9.0))
    rows = fig.add_gridspec(3, 1, height_ratios=[0.8, 1, 1.25])
    _pictures(fig.add_subplot(rows[0]), data)
    middle: Any = rows[1].subgridspec(1, 2, width_ratios=[1.25, 1]).subplots()
    _search(middle[0], data)
    _energies(middle[1], data)
    below: Any = rows[2].subgridspec(1, 2, width_ratios=[1.25, 1]).subplots()
    _paths(below[0], data)
    _moves(below[1], data)
    return fig


def _pictures(ax: Axes, data: dict[str, np.ndarray]) -> None:
    """The columns of each phase, side by side, dead ones next to one another in the centre."""
    for i, (k, r) in enumerate(PHASES):
        x, W, b = 4 * i, data["columns"][i], data["biases"][i]
        ring = W[:, [*range(k), 0]]
        ax.plot(x + ring[0], ring[1], "o-", color=GREEN, lw=1, ms=5)
        for j in range(k, N_FEATURES):
            place = x + 0.28 * (j - (k + N_FEATURES - 1) / 2)
            ax.plot(place, 0, "o", mfc=BLACK if b[j] > 0 else "white", mec=BLACK, ms=5)
        star = "*" if i < N_SQUARES else ""
        rank = "no Hessian" if i < N_SQUARES else f"rank {data['rank'][i]}"
        below = (
            f"$L$ = {data['loss'][i]:.5f}\n{rank}, $\\lambda$ = {data['coefficient'][i]:g}{star}"
        )
        ax.text(x, -1.5, below, ha="center", va="top")
        ax.text(x, 1.5, name_of(k, r), ha="center", fontsize=11, fontweight="bold")
    ax.set(xlim=(-1.9, 4 * len(PHASES) - 2.1), ylim=(-2.3, 2.0), aspect="equal")
    ax.set_axis_off()
    ax.set_title(
        "(a) phases of six features (dead columns in the centre: filled raised, hollow silent)"
    )


def _search(ax: Axes, data: dict[str, np.ndarray]) -> None:
    sizes = [(int(c), int(m)) for c, m in data["sizes"]]
    for x, (c, m) in enumerate(sizes):
        if m == 2:
            ax.hlines(data[f"polygons{c}"], x - 0.36, x + 0.36, color=GREY, lw=0.7, zorder=1)
        losses = data[f"search{c}{m}_losses_by_world"].ravel()
        resolved = data[f"search{c}{m}_resolved_by_world"].ravel()
        for kind, face in ((True, GREEN), (False, "none")):
            counts = Counter(np.round(losses[resolved == kind], 4).tolist())
            sizes_of = [12 + 240 * n / len(losses) for n in counts.values()]
            style = {"facecolors": face, "edgecolors": GREEN, "alpha": 0.7, "zorder": 2}
            ax.scatter([x] * len(counts), list(counts), s=sizes_of, **style)
    ax.set_xticks(range(len(sizes)), [f"{c} in {m}" for c, m in sizes])
    ax.set_xlabel("features in hidden dimensions")
    ax.set_ylabel("$L$ where a descent ends")
    ax.set_title("(b) ends of descents (area: how many; grey lines: polygons)")
    ax.set_xlim(-0.6, len(sizes) - 0.4)


def _energies(ax: Axes, data: dict[str, np.ndarray]) -> None:
    samples = data["samples"]
    for name, line in (("prior", "-"), ("flat", "--")):
        five, raised, six = data[f"energies_{name}"]
        ax.plot(samples, raised - five, line, color=GREY)
        ax.plot(samples, six - five, line, color=GREEN)
        at = float(data[f"five_to_six_{name}"])
        ax.plot([at], [0], "o", color=BLACK, ms=4, zorder=4)
        up = name == "flat"
        where: dict[str, Any] = {"ha": "right" if up else "left", "va": "top" if up else "bottom"}
        ax.annotate(f"{at:.0f}", (at, 0), (-3 if up else 3, -3 if up else 3),
                    textcoords="offset points", **where)  # fmt: skip
    ax.axhline(0, color=BLACK, lw=1)
    ax.axvline(1000, color="#0072B2", lw=0.8, ls=":")
    ax.text(1020, 9.5, "samples\nof SGD", color="#0072B2", fontsize=8, va="center")
    ax.text(52, 0.4, "5", fontweight="bold")
    ax.plot([], [], color=GREEN, label="6")
    ax.plot([], [], color=GREY, label="5+")
    ax.plot([], [], color=BLACK, ls="--", lw=1, label="without the prior's term")
    ax.legend(loc="lower left")
    ax.set_xscale("log")
    ax.set(xlim=(50, 2500), ylim=(-16, 12), xlabel="samples $n$")
    ax.set_ylabel("$F_n$ less that of 5 [nats]")
    ax.set_title("(c) the posterior prefers the lowest")


def _paths(ax: Axes, data: dict[str, np.ndarray]) -> None:
    epochs, losses = data["epochs"], data["losses_by_world"]
    later = epochs > 0
    for kind, name in reversed(list(enumerate(STARTS))):
        runs = losses[:, kind].reshape(-1, len(epochs))[:, later]
        ax.plot(epochs[later], runs.T, color=COLOURS[name], lw=0.5, alpha=0.5)
        ax.plot([], [], color=COLOURS[name], label=LABELS[name])
    for (k, r), loss in zip(PHASES, data["loss"], strict=True):
        ax.axhline(loss, color=BLACK, lw=0.7, ls=":")
        ax.annotate(name_of(k, r), (1.01, loss), xycoords=("axes fraction", "data"), va="center")
    ax.axhline(float(data["twin_loss"]), color="#D55E00", lw=0.9, ls="--")
    ax.annotate("two at one\ncorner", (0.01, float(data["twin_loss"])), (0.01, 0.0755),
                xycoords=("axes fraction", "data"), color="#D55E00", fontsize=8)  # fmt: skip
    ax.set_xscale("log")
    ax.set(ylim=(0.043, 0.135), xlim=(epochs[later][0], epochs[-1]))
    ax.set(xlabel="epochs", ylabel="exact $L$ along SGD")
    ax.set_title("(d) plateaus of SGD, and the polygons' losses")
    ax.legend(loc="upper right")


def _moves(ax: Axes, data: dict[str, np.ndarray]) -> None:
    places = {10 * k + r: (float(x), float(y)) for (k, r), x, y in
              zip(PHASES, data["coefficient"], data["loss"], strict=True)}  # fmt: skip
    places[0] = (6.5, float(data["twin_loss"]))
    for kind, name in enumerate(STARTS):
        rows = data["moves"][data["moves"][:, 0] == kind]
        counts = Counter((int(a), int(b)) for a, b in rows[:, 3:5])
        for (a, b), n in counts.items():
            if a in places and b in places:
                start, end = ((x + 0.06 * kind, y) for x, y in (places[a], places[b]))
                _arrow(ax, start, end, COLOURS[name], "-", str(n), at=0.65 - 0.3 * kind)
    _arrow(ax, places[50], places[60], BLACK, "--", "posterior")
    for code, (x, y) in places.items():
        ax.plot(x, y, "o", color=BLACK if code else "#D55E00", ms=6, zorder=4)
        text = name_of(code // 10, code % 10) if code else "two at\none corner"
        place = (-4, -13) if code == 50 else (7, 3) if code else (-14, 8)
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
    place = [(1 - at) * s + at * e for s, e in zip(start, end, strict=True)]
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    ax.annotate(
        text, (place[0], place[1]), ha="center", va="center", color=colour, fontsize=9, bbox=box
    )
