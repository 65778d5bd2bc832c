"""Ties and new kinds of input break the basis of the weights; neither breaks the dictionary.

Every change of the inputs' law has one size, its total variation from the even law. Orange: what
the minimum in weight space determines; blue: what a TopK SAE finds in the activations. Top left,
the summary: the smallest size tried at which each has changed (arrows: it never did). Changed means
another number of directions, a turn of more than half of what chance gives, or a jump.

Turn: 32 features, a tight frame in 16 dimensions, one at a time. With even energies the change
decides the top four directions of the second moment, whatever its size; with a gap they turn in
proportion, below the bound of Davis and Kahan. Up to the largest size the rows of the SAE turn by
less than half of chance, as they do if inputs of two features are added; blue band: a second SAE on
the same law. Number: of six features in a plane the 5-gon determines 14 directions under the
reweightings and 16 at every share of two-feature inputs, however small; the 6-gon 17 under all. A
rare feature that becomes common adds one direction outside the span of the others, at the factor
kappa, and none inside; a latent for it is found in most worlds outside, and inside, where nothing
is asserted, in 3 of 8 at the preset paper. Place: the minimum moves in proportion, as the implicit
function theorem says, but for one new pair that holds the feature left out by the 5-gon: there it
jumps, by about as much at every small share. Phase: total variation of the nearest reweighting at
which a posterior on n samples prefers the other of 5-gon and 6-gon, none at their transition near
n = 601; lines: in closed form with the parameters held fixed, and with the 6-gon's response to
second order; markers: both minima found anew. The 6-gon adapts and the 5-gon does not, so that the
switch to it is nearer, and the one from it further, than with fixed parameters; the second order is
closer than the first.

Points: mean and range over worlds (a fresh frame, change, data and, for weights, a fresh order of
columns). Polygons are the weights where features fire in pairs, SAEs are those of the frame; rows
of the summary share SAEs: of even energies, or of pairs of all features. Two SAEs of one world
start alike. A latent found has a cosine above .9.

Paper: fig:fragility-of-bases. Phases: Chen et al. 2023, arXiv 2310.06301.
"""

import math
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.fragility_of_bases_runs import (
    RANK_5,
    RANK_6,
    RARE,
    SPAN,
    Between,
    Minimum,
    R,
    Rivals,
    Trained,
    Turn,
    added,
    frame,
    minimum_run,
    one_more,
    pairs_run,
    sae_run,
    switch_run,
    turn_run,
)
from figures.runs import map_cached, require
from theory import recovery

LARGEST_MINIMUM = 0.1  # total variation up to which minima are followed
CHANCE_TURN = (1 - R / SPAN) ** 0.5  # root mean squared sine of a random eigenspace
CELLS = {  # polygon and change: place in the arrays, and the rank without the change
    (5, "reweighted"): (0, RANK_5),
    (5, "all pairs"): (1, RANK_5),
    (5, "one pair"): (2, RANK_5),
    (6, "reweighted"): (3, RANK_6),
    (6, "all pairs"): (4, RANK_6),
}
JUMP = CELLS[5, "one pair"][0]
EXACT = 1e-6  # also of the roots of the switch
TRANSITION = 601  # samples at which 5-gon and 6-gon are equally good under the even law


@dataclass(frozen=True)
class Config:
    """Worlds; sizes of the changes; probabilities of the rare feature; numbers of samples.

    between: shares of two-feature inputs between which the preferred phase changes by loss.
    tight: whether the energies of the frame, called even, are so.
    """

    n_worlds: int
    sizes: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 0.1, 0.25)
    probs: tuple[float, ...] = (RARE, 1e-3, 3e-3, 0.01, 0.03)
    n_samples: tuple[float, ...] = (200.0, 400.0, 500.0, 560.0, 650.0, 800.0, 2000.0, 1e4, 1e5)
    n_steps: int = 1000
    between: tuple[float, float] = (0.15, 0.3)
    tight: bool = True


CONFIGS = {
    "smoke": Config(2, (1e-3, 0.01), (0.03,), (1000.0,), n_steps=30, between=(0.226, 0.228)),
    "quick": Config(3),
    "paper": Config(8, n_steps=2000),
}


def followed(cfg: Config) -> tuple[float, ...]:
    return tuple(size for size in cfg.sizes if size <= LARGEST_MINIMUM)


def compute(cfg: Config) -> dict[str, np.ndarray]:
    worlds = range(cfg.n_worlds)
    data: dict[str, np.ndarray] = {
        "sizes": np.array(cfg.sizes),
        "followed": np.array(followed(cfg)),
        "probs": np.array(cfg.probs),
        "n_samples": np.array(cfg.n_samples),
    }
    for name, tight in (("even", cfg.tight), ("uneven", False)):
        turns = [turn_run(Turn(w, cfg.sizes, tight)) for w in worlds]
        data[f"{name}_turn_by_world"] = np.stack([t["sine"] for t in turns])
        data[f"{name}_bound_by_world"] = np.stack([t["bound"] for t in turns])
    # Nothing is drawn for all pairs alike: what holds in one world holds in all.
    cells = [(0 if cell[1] == "all pairs" else w, *cell) for w in worlds for cell in CELLS]
    minima = map_cached(minimum_run, [Minimum(*cell, followed(cfg)) for cell in cells])
    for name in minima[0]:
        stacked = np.stack([m[name] for m in minima]).astype(float)
        shape = (cfg.n_worlds, len(CELLS), *stacked.shape[1:])
        data[f"{name}_by_world"] = stacked.reshape(shape)
    switch = map_cached(switch_run, [Rivals(cfg.n_samples)])[0]
    switch = switch | map_cached(pairs_run, [Between(*cfg.between)])[0]
    data |= {f"switch_{name}": values for name, values in switch.items()}
    data |= _dictionaries(cfg)
    data |= {name: np.array(value) for name, value in _numbers(data).items()}
    return data


def _dictionaries(cfg: Config) -> dict[str, np.ndarray]:
    """Returns what the SAEs show: turns of rows, shares of features found, the rare feature's."""
    changed = [(kind, size) for kind in ("reweighted", "grown") for size in cfg.sizes]
    rare = [(kind, prob) for kind in ("inside", "outside") for prob in cfg.probs]
    cells = [("base", 0.0), ("again", 0.0), *changed, *rare]
    runs = [Trained(w, *cell, cfg.n_steps) for w in range(cfg.n_worlds) for cell in cells]
    rows = np.stack([r["rows"] for r in map_cached(sae_run, runs)]).astype(float)
    rows = rows.reshape(cfg.n_worlds, len(cells), *rows.shape[1:])
    turns, found, chance, gained, kappas = [], [], [], [], []
    for w, decoders in enumerate(torch.from_numpy(rows)):
        features, base = frame(w).cpu(), decoders[0]
        kept = recovery(features, base)
        mine = base[kept.matching[kept.recovered]]
        against = [recovery(mine, other) for other in decoders[1 : 2 + len(changed)]]
        turns.append([_sine(r.cosines) for r in against])
        chance.append((1 - against[0].chance ** 2) ** 0.5)
        of_features = [recovery(features, other) for other in decoders[: 2 + len(changed)]]
        found.append([r.recovered.double().mean() for r in of_features])
        latents = [
            float(recovery(one_more(w, kind).vectors.cpu(), decoders[i]).recovered[-1])
            for i, (kind, _) in enumerate(rare, 2 + len(changed))
        ]
        counts = [added(w, kind, cfg.probs) for kind in ("inside", "outside")]
        gained.append([np.concatenate([c for c, _ in counts]), latents])
        kappas.append(counts[1][1])
    n = len(cfg.sizes)
    sines, shares, gains = (np.array(a, dtype=float) for a in (turns, found, gained))
    return {
        "again_turn_by_world": sines[:, 0],
        "reweighted_turn_by_world": sines[:, 1 : 1 + n],
        "grown_turn_by_world": sines[:, 1 + n :],
        "base_found_by_world": shares[:, 0],
        "reweighted_found_by_world": shares[:, 2 : 2 + n],
        "grown_found_by_world": shares[:, 2 + n :],
        "chance_by_world": np.array(chance),
        "gained_by_world": gains.reshape(cfg.n_worlds, 2, 2, -1).swapaxes(1, 2),
        "kappa": np.array(np.mean(kappas)),
    }


def _sine(cosines: torch.Tensor) -> float:
    """Returns the root mean squared sine; 1 of none."""
    return (
        float((1 - cosines.double().square()).clamp(min=0).mean().sqrt()) if len(cosines) else 1.0
    )


def _numbers(data: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns single numbers for the text of the paper."""
    turn = {n: data[f"{n}_turn_by_world"].mean(0) for n in ("even", "reweighted", "grown")}
    jump = data["moved_by_world"][:, JUMP, 0]
    numbers = {
        "smallest": data["sizes"][0],
        "largest": data["sizes"][-1],
        "turn_weights": turn["even"][0],
        "turn_sae": turn["reweighted"].max(),
        "turn_grown": turn["grown"].max(),
        "turn_again": data["again_turn_by_world"].mean(),
        "turn_chance": data["chance_by_world"].mean(),
        "jump": jump.mean(),
        "inside_found": data["gained_by_world"].mean(0)[0, 1, -1],
        "outside_found": data["gained_by_world"].mean(0)[1, 1, -1],
        "switch_far": data["switch_refined"][-1],
        "switch_fixed": data["switch_tv"][-1],
        "switch_pairs": data["switch_pairs_by_loss"],
    }
    return {name: float(value) for name, value in numbers.items()}


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    even, uneven = data["even_turn_by_world"], data["uneven_turn_by_world"]
    rank, moved, foretold = (data[f"{n}_by_world"] for n in ("rank", "moved", "foretold"))
    chance = data["chance_by_world"].mean()
    start = np.array([before for _, before in CELLS.values()])[:, None]
    by_pairs = [2 if i and before == RANK_5 else 0 for i, before in CELLS.values()]
    more = rank - start - np.array(by_pairs)[:, None]
    smooth = [i for i in range(len(CELLS)) if i != JUMP]
    near = moved[:, smooth] / foretold[:, smooth] - 1  # first order, to first order
    blocked = data["blocked_by_world"]
    margins = {
        "even energies: turned by more than half of chance at any size": np.min(
            even.mean(0) - CHANCE_TURN / 2
        ),
        "by the same amount at every size": EXACT - np.ptp(even, 1).max(),
        "a gap: no more than Davis and Kahan allow": np.min(data["uneven_bound_by_world"] - uneven),
        "reweighting keeps the ranks, every share of pairs adds two to the 5-gon's": -np.abs(
            more
        ).max(),
        "these are minima": -data["negative_by_world"].max(),
        "the slope of one new pair is blocked": blocked[:, JUMP].min() - EXACT,
        "no other is": EXACT - blocked[:, smooth].max(),
        "the jump at the smallest share is over half of that at the next": np.min(
            moved[:, JUMP, 0] / moved[:, JUMP, 1] - 0.5
        ),
        "first-order error falls with the size": np.min(
            np.abs(near[..., 1]) / 2 - np.abs(near[..., 0])
        ),
        "nearest switch: closed form and search": EXACT
        - np.abs(data["switch_by_search"] - data["switch_kl"]).max(),
        "the 6-gon adapts: the switch to it is nearer, from it further": 2 * EXACT
        + np.min(
            (data["switch_refined"] - data["switch_tv"]) * np.sign(data["n_samples"] - TRANSITION)
        ),
        "found anew, it is nearer the second order": np.min(
            np.abs(data["switch_tv"] - data["switch_refined"])
            - np.abs(data["switch_second"] - data["switch_refined"])
        ),
        "SAE, reweighted: less than half of chance": np.min(
            chance / 2 - data["reweighted_turn_by_world"].mean(0)
        ),
        "SAE, two features at a time: likewise": np.min(
            chance / 2 - data["grown_turn_by_world"].mean(0)
        ),
        "outside the span: one direction": -np.abs(
            data["gained_by_world"][:, 1, 0] - (data["probs"] > data["kappa"])
        ).max(),
        "inside: none": -np.abs(data["gained_by_world"][:, 0, 0]).max(),
    }
    if cfg.n_worlds > 2:
        latents = data["gained_by_world"].mean(0)[1, 1, -1]
        margins["outside the span: a latent for it in most worlds"] = latents - 0.5
    return require(margins)


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with unequal energies in the world that is called even."""
    return compute(replace(cfg, tight=False))


WEIGHTS, DICTIONARY = "#D55E00", "#0072B2"
ROWS = (
    "reweighting, even energies:\ntop directions",
    "reweighting, a gap:\ntop directions",
    "reweighting: rank",
    "a share of new pairs: rank",
    "one new pair: place",
    "rare to common,\ninside the span",
    "rare to common,\noutside",
    "reweighting: phase",
)


def first_changed(sizes: np.ndarray, changed: np.ndarray) -> float:
    """Returns the first size at which it has changed; NaN if it never has."""
    return float(sizes[np.argmax(changed)]) if changed.any() else float("nan")


def summary(data: dict[str, np.ndarray]) -> list[tuple[float, float]]:
    """Returns for each of ROWS the first size at which weights and dictionary have changed."""
    sizes, small, probs = data["sizes"], data["followed"], data["probs"]
    chance, rank = data["chance_by_world"].mean() / 2, data["rank_by_world"].mean(0)
    turned = {
        n: first_changed(sizes, data[f"{n}_turn_by_world"].mean(0) > CHANCE_TURN / 2)
        for n in ("even", "uneven")
    }
    moved = {
        n: first_changed(sizes, data[f"{n}_turn_by_world"].mean(0) > chance)
        for n in ("reweighted", "grown")
    }
    rare = [
        (first_changed(probs, weights > 0.5), first_changed(probs, latents > 0.5))
        for weights, latents in data["gained_by_world"].mean(0)
    ]
    ranks = [first_changed(small, rank[i] != RANK_5) for i in range(3)]
    jump = first_changed(small, data["moved_by_world"][:, JUMP].mean(0) > 1e-3)
    phase = float(np.interp(1000, data["n_samples"], data["switch_refined"]))
    return [
        (turned["even"], moved["reweighted"]),
        (turned["uneven"], moved["reweighted"]),
        (ranks[0], moved["reweighted"]),
        (ranks[1], moved["grown"]),
        (jump, moved["grown"]),
        rare[0],
        rare[1],
        (phase, moved["reweighted"]),
    ]


def plot(data: dict[str, np.ndarray]) -> Figure:
    fig, axes = plt.subplots(2, 3, figsize=(11.5, 7.2))
    _summary(axes[0, 0], data)
    _turns(axes[0, 1], data)
    _ranks(axes[0, 2], data)
    _rare(axes[1, 0], data)
    _places(axes[1, 1], data)
    _switch(axes[1, 2], data)
    return fig


def _decades(ax: Axes, name: str = "x") -> None:
    """Makes an axis logarithmic, with a tick at each power of ten that is in view."""
    ax.set(**{f"{name}scale": "log"})
    low, high = sorted(getattr(ax, f"get_{name}lim")())
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    labels = [f"{10.0**p:,.{max(0, -p)}f}" for p in powers]
    getattr(ax, f"set_{name}ticks")([10.0**p for p in powers], labels)
    ax.minorticks_off()


def _summary(ax: Axes, data: dict[str, np.ndarray]) -> None:
    never = 0.6  # where the arrows are
    for i, pair in enumerate(summary(data)):
        ax.axhline(i, color="#EEEEEE", lw=6, zorder=0)
        for value, colour, up in zip(pair, (WEIGHTS, DICTIONARY), (-0.16, 0.16), strict=True):
            kept = np.isnan(value)
            face, marker = ("none", ">") if kept else (colour, "o")
            place = (never if kept else value, i + up)
            ax.plot(*place, marker, color=colour, markerfacecolor=face, ms=7)
    ax.set_yticks(range(len(ROWS)), ROWS, fontsize="x-small")
    ax.set_ylim(len(ROWS) - 0.4, -0.6)
    ax.set_xlim(data["sizes"][0] / 2, 1.3)
    _decades(ax)
    ax.set_xlabel(
        "smallest change that changed the basis\n(total variation; ▷ none of those tried)"
    )
    ax.set_title("Which breaks first?")
    for colour, label in ((WEIGHTS, "weights"), (DICTIONARY, "dictionary of an SAE")):
        ax.plot([], [], "o", color=colour, ms=7, label=label)
    ax.legend(loc="center left", bbox_to_anchor=(0.02, 0.73), frameon=True, fontsize=7)


def _turns(ax: Axes, data: dict[str, np.ndarray]) -> None:
    x = data["sizes"]
    _line(ax, x, data["even_turn_by_world"], WEIGHTS, "o-", "weights, even energies")
    _line(ax, x, data["uneven_turn_by_world"], WEIGHTS, "s--", "weights, a gap")
    bound = data["uneven_bound_by_world"].max(0)
    ax.plot(x, np.where(np.isfinite(bound), bound, np.nan), ":", color=WEIGHTS, label="its bound")
    _line(ax, x, data["reweighted_turn_by_world"], DICTIONARY, "o-", "SAE, reweighted")
    _line(ax, x, data["grown_turn_by_world"], DICTIONARY, "s--", "SAE, two features")
    again = data["again_turn_by_world"]
    ax.axhspan(again.min(), again.max(), color=DICTIONARY, alpha=0.15, lw=0)
    ax.axhline(CHANCE_TURN, color="#777777", ls="-.", lw=0.9)
    ax.axhline(data["chance_by_world"].mean(), color="#777777", ls="-.", lw=0.9)
    ax.text(x[0], 0.95, "chance", va="bottom", color="#777777", fontsize=7)
    _decades(ax)
    ax.set_ylim(-0.02, 1.12)
    ax.set_xlabel("change of the law (total variation)")
    ax.set_ylabel("sine of the turn")
    ax.set_title("Turn of the directions")
    ax.legend(loc="center left", bbox_to_anchor=(0.0, 0.46), fontsize=7, frameon=True)


def _ranks(ax: Axes, data: dict[str, np.ndarray]) -> None:
    x, rank = data["followed"], data["rank_by_world"]
    for i, label, style in (
        (0, "5-gon, reweighted", "o-"),
        (1, "5-gon, new pairs", "s--"),
        (4, "6-gon, new pairs", "^:"),
    ):
        start = RANK_6 if i == 4 else RANK_5
        _line(ax, x, rank[:, i] / start - 1, WEIGHTS, style, f"weights, {label}")
    base = data["base_found_by_world"][:, None]
    for name, style, label in (("reweighted", "o-", "reweighted"), ("grown", "s--", "new pairs")):
        share = data[f"{name}_found_by_world"] / base - 1
        _line(ax, data["sizes"], share, DICTIONARY, style, f"SAE, {label}")
    _decades(ax)
    ax.set_ylim(-0.3, 0.5)
    ax.set_yticks([-0.2, 0, 0.2, 0.4])
    ax.set_xlabel("change of the law (total variation)")
    ax.set_ylabel("relative change")
    ax.set_title("Number of directions")
    ax.legend(loc="upper left", fontsize=7, ncols=1)


def _rare(ax: Axes, data: dict[str, np.ndarray]) -> None:
    x, gains = data["probs"], data["gained_by_world"]
    for i, (place, style) in enumerate((("inside the span", "s--"), ("outside it", "o-"))):
        _line(ax, x, gains[:, i, 0], WEIGHTS, style, f"weights: {place}")
        ax.plot(x, gains[:, i, 1].mean(0), style, color=DICTIONARY, lw=1.2, label=f"SAE: {place}")
    kappa = float(data["kappa"])
    ax.axvline(kappa, color=WEIGHTS, lw=0.9, ls=":")
    ax.text(kappa, 1.09, " κp", color=WEIGHTS)
    _decades(ax)
    ax.set_ylim(-0.06, 1.2)
    ax.set_xlabel("probability of the rare feature")
    ax.set_ylabel("directions gained (SAE: share of worlds)")
    ax.set_title("A rare feature becomes common")
    ax.legend(loc="center left", bbox_to_anchor=(0.0, 0.63), fontsize=7)


def _places(ax: Axes, data: dict[str, np.ndarray]) -> None:
    x = data["followed"]
    labels = ("reweighted", "all pairs alike", "one new pair")
    for i, (label, marker) in enumerate(zip(labels, "os^", strict=True)):
        moved, foretold = (data[f"{n}_by_world"][:, i] for n in ("moved", "foretold"))
        _line(ax, x, moved, WEIGHTS, marker, label, alpha=(1.0, 0.6, 1.0)[i])
        if i == JUMP:
            ax.plot(x, moved.mean(0), "-", color=WEIGHTS, lw=0.9)
        else:
            ax.plot(x, foretold.mean(0), "-", color="#777777", lw=0.9)
    ax.plot([], [], "-", color="#777777", label="implicit function theorem")
    _decades(ax)
    _decades(ax, "y")
    ax.set_xlabel("change of the law (total variation)")
    ax.set_ylabel("movement |Δw| / |w| modulo rotations")
    ax.set_title("Place of the minimum (5-gon)")
    ax.legend(loc="lower right", fontsize=7)


def _switch(ax: Axes, data: dict[str, np.ndarray]) -> None:
    n = data["n_samples"]
    ax.plot(n, data["switch_tv"], "-", color=WEIGHTS, label="parameters fixed")
    ax.plot(n, data["switch_second"], "--", color=WEIGHTS, label="second order")
    ax.plot(n, data["switch_refined"], "o", color=WEIGHTS, label="minima found anew")
    ax.plot(n, data["switch_kl"], ":", color="#777777", label="KL of the same law, nats")
    ax.axvline(TRANSITION, color="#777777", lw=0.8)
    ax.text(TRANSITION, 0.078, " 5-gon | 6-gon", fontsize=7, color="#777777", ha="center", va="top")
    _decades(ax)
    ax.set_ylim(0, 0.08)
    ax.set_yticks([0, 0.02, 0.04, 0.06, 0.08])
    ax.set_xlabel("number of samples n")
    ax.set_ylabel("distance to the switch (total variation)")
    ax.set_title("Reweighting that switches the phase")
    ax.legend(loc="center right", bbox_to_anchor=(1.0, 0.4), fontsize=7)


def _line(
    ax: Axes,
    x: np.ndarray,
    by_world: np.ndarray,
    colour: str,
    style: str,
    label: str,
    alpha: float = 1.0,
) -> None:
    mean = by_world.mean(0)
    spread = np.stack([mean - by_world.min(0), by_world.max(0) - mean]).clip(min=0)
    ax.errorbar(
        x, mean, yerr=spread, fmt=style, color=colour, label=label, alpha=alpha, capsize=2, lw=1.2
    )
