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

from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from figures import fragility_of_bases_panels as panels
from figures.fragility_of_bases_panels import CELLS, CHANCE_TURN, JUMP, TRANSITION
from figures.fragility_of_bases_runs import (
    RANK_5,
    RANK_6,
    RARE,
    Between,
    Minimum,
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
EXACT = 1e-6  # also of the roots of the switch


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
    worlds, places = range(cfg.n_worlds), ("inside", "outside")
    changed = [(kind, size) for kind in ("reweighted", "grown") for size in cfg.sizes]
    rare = [(kind, prob) for kind in places for prob in cfg.probs]
    cells = [("base", 0.0), ("again", 0.0), *changed, *rare]
    runs = [Trained(w, *cell, cfg.n_steps) for w in worlds for cell in cells]
    rows = np.stack([r["rows"] for r in map_cached(sae_run, runs)]).astype(float)
    rows = rows.reshape(cfg.n_worlds, len(cells), *rows.shape[1:])
    turns, found, chance, gained = [], [], [], []
    for w, decoders in enumerate(torch.from_numpy(rows)):
        of_frame, of_one_more = decoders.split([2 + len(changed), len(rare)])
        shown = [recovery(frame(w).cpu(), other) for other in of_frame]
        found.append([r.recovered.double().mean() for r in shown])
        mine = of_frame[0, shown[0].matching[shown[0].recovered]]
        against = [recovery(mine, other) for other in of_frame[1:]]
        turns.append([_sine(r.cosines) for r in against])
        chance.append((1 - against[0].chance ** 2) ** 0.5)
        gained.append([])
        for kind, others in zip(places, of_one_more.chunk(2), strict=True):
            features, directions = one_more(w, kind).vectors.cpu(), added(w, kind, cfg.probs)[0]
            latents = [recovery(features, other).recovered[-1] for other in others]
            gained[-1].append([directions, latents])
    kappas = [added(w, "outside", cfg.probs)[1] for w in worlds]
    n = len(cfg.sizes)
    sines, shares = (np.array(a, dtype=float) for a in (turns, found))
    return {
        "again_turn_by_world": sines[:, 0],
        "reweighted_turn_by_world": sines[:, 1 : 1 + n],
        "grown_turn_by_world": sines[:, 1 + n :],
        "base_found_by_world": shares[:, 0],
        "reweighted_found_by_world": shares[:, 2 : 2 + n],
        "grown_found_by_world": shares[:, 2 + n :],
        "chance_by_world": np.array(chance),
        "gained_by_world": np.array(gained, dtype=float),
        "kappa": np.array(np.mean(kappas)),
    }


def _sine(cosines: torch.Tensor) -> float:
    """Returns the root mean squared sine; 1 of none."""
    squares = (1 - cosines.double().square()).clamp(min=0)
    return float(squares.mean().sqrt()) if len(squares) else 1.0


def _numbers(data: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns single numbers for the text of the paper."""
    turn = {n: data[f"{n}_turn_by_world"].mean(0) for n in ("even", "reweighted", "grown")}
    inside, outside = data["gained_by_world"].mean(0)[:, 1, -1]
    numbers = {
        "smallest": data["sizes"][0],
        "largest": data["sizes"][-1],
        "turn_weights": turn["even"][0],
        "turn_sae": turn["reweighted"].max(),
        "turn_grown": turn["grown"].max(),
        "turn_again": data["again_turn_by_world"].mean(),
        "turn_chance": data["chance_by_world"].mean(),
        "jump": data["moved_by_world"][:, JUMP, 0].mean(),
        "inside_found": inside,
        "outside_found": outside,
        "switch_far": data["switch_refined"][-1],
        "switch_fixed": data["switch_tv"][-1],
        "switch_pairs": data["switch_pairs_by_loss"],
    }
    return {name: float(value) for name, value in numbers.items()}


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    even, uneven = data["even_turn_by_world"], data["uneven_turn_by_world"]
    rank, moved, foretold = (data[f"{n}_by_world"] for n in ("rank", "moved", "foretold"))
    chance = data["chance_by_world"].mean()
    expected = [RANK_6 if n == 6 else RANK_5 + 2 * (kind != "reweighted") for n, kind in CELLS]
    smooth = [i for i in range(len(CELLS)) if i != JUMP]
    near = moved[:, smooth] / foretold[:, smooth] - 1  # first order, to first order
    blocked = data["blocked_by_world"]
    margins = {
        "even energies: turned by more than half of chance at any size": np.min(
            even.mean(0) - CHANCE_TURN / 2
        ),
        "by the same amount at every size": EXACT - np.ptp(even, 1).max(),
        "a gap: no more than Davis and Kahan allow": np.min(data["uneven_bound_by_world"] - uneven),
        "reweighting keeps the ranks, every share of pairs adds two to the 5-gon's": -np.max(
            np.abs(rank - np.array(expected)[:, None])
        ),
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


def plot(data: dict[str, np.ndarray]) -> Figure:
    fig, axes = plt.subplots(2, 3, figsize=(11.5, 7.2))
    panels.draw_summary(axes[0, 0], data)
    panels.draw_turns(axes[0, 1], data)
    panels.draw_ranks(axes[0, 2], data)
    panels.draw_rare(axes[1, 0], data)
    panels.draw_places(axes[1, 1], data)
    panels.draw_switch(axes[1, 2], data)
    return fig
