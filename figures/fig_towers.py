"""A tower of meta-SAEs tells where structure ends, but what it finds higher up is not the truth.

Rows are sums of 4 of 192 parts. In the world of two levels each part is itself a sum of 2 of 64
atoms; in that of one level the parts are directions of their own; in the third world the rows are.
A meta-SAE is trained on the rows, a meta-meta-SAE on the meta-SAE's decoder. Every level explains
much in every world, most of it chance: the world without structure at that level is the null, and
above it a tower tells two levels from one. The rows rebuilt from the last level lose more at each.
Where the parts share nothing the first level finds them. Where they share atoms it mixes the two,
and the second level finds the atoms hardly better than copying the first level's latents
would, although it finds them in the true parts (oracle): errors of a level are the next one's data.
Markers: mean and range over worlds (fresh atoms, mixing, rows, training).

Paper: fig:towers. Meta-meta-SAEs: asked in the discussion of Leask et al. 2025, arXiv 2502.04878.
"""

from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from figures.fig_null_compressibility import composed_rows
from figures.runs import device, map_cached, require
from sae import SAE, TopK, TrainConfig, train_meta
from sae.direct import nearest_composite
from sae.meta_recipe import published_meta_sae
from sae.meta_tower import through_tower, train_tower
from theory import fve, isotropic_rows, recovery
from toymodels import composed, random_mixing, random_unit, stream

KINDS = ("two", "one", "none")


@dataclass(frozen=True)
class Config:
    """Sizes of the worlds, which the levels' widths equal, and training."""

    n_worlds: int
    d: int = 64
    n_atoms: int = 64
    n_parts: int = 192
    n_rows: int = 4096
    n_steps: int = 1500
    batch_size: int = 512
    structure: bool = True


CONFIGS = {
    "smoke": Config(2, n_rows=1536, n_steps=600, batch_size=256),
    "quick": Config(3),
    "paper": Config(8),
}


@dataclass(frozen=True)
class Run:
    """The tower of one world."""

    seed: int
    kind: str
    config: Config


def atoms_and_parts(run: Run) -> tuple[Tensor, Tensor]:
    """Returns the atoms, and the parts: pairs of atoms, or directions of their own."""
    cfg, generator = run.config, stream(run.seed, "parts", device())
    atoms = random_unit(cfg.n_atoms, cfg.d, generator=generator)
    if run.kind != "two" or not cfg.structure:
        return atoms.vectors, isotropic_rows(cfg.n_parts, cfg.d, generator=generator).float()
    mixing = random_mixing(cfg.n_parts, cfg.n_atoms, 2, generator=generator)
    return atoms.vectors, composed(mixing, atoms).vectors


def tower_run(run: Run) -> dict[str, np.ndarray]:
    """Returns, for levels 1 and 2: the share explained of what the level saw and of the rows,
    how well parts or atoms are found, and by the nearest of the rows that the level could copy."""
    cfg, seed = run.config, run.seed
    atoms, parts = atoms_and_parts(run)
    generator = stream(seed, "rows", device())
    if run.kind == "none" or not cfg.structure:
        rows = isotropic_rows(cfg.n_rows, cfg.d, generator=generator).float()
    else:
        rows = composed_rows(cfg.n_rows, parts, generator=generator)
    config = TrainConfig(cfg.n_steps, cfg.batch_size, lr=3e-3, decay=0.5, n_records=2)
    init = stream(seed, "meta-init", device())
    first = published_meta_sae(cfg.d, cfg.n_parts, encoder_bias=True, generator=init)
    second = TopK(cfg.d, cfg.n_atoms, 2, bias=False, generator=init)
    drawn = stream(seed, "meta-train", device())
    levels: tuple[SAE, ...] = (first, second)
    saes = train_tower(rows, levels, config, weights=None, generator=drawn)
    oracle = train_meta(parts, second, config, weights=None, generator=drawn).sae
    seen = (rows, saes[0].W_dec.detach())
    return {
        "own": np.array([fve(x, s(x).x_hat.detach()) for x, s in zip(seen, saes, strict=True)]),
        "through": np.array([fve(rows, through_tower(rows, saes[: i + 1])) for i in range(2)]),
        "found": np.array(
            [recovery(t, s.W_dec.detach()).score for t, s in zip((parts, atoms), saes, strict=True)]
        ),
        "nearest": np.array(
            [
                float(nearest_composite(t, x).mean())
                for t, x in zip((parts, atoms), seen, strict=True)
            ]
        ),
        "chance": np.array(
            [
                recovery(t, s.W_dec.detach()).chance
                for t, s in zip((parts, atoms), saes, strict=True)
            ]
        ),
        "nearest_part": nearest_composite(atoms, parts).mean().cpu().numpy(),
        "oracle": np.array(recovery(atoms, oracle.W_dec.detach()).score),
    }


def compute(cfg: Config) -> dict[str, np.ndarray]:
    data: dict[str, np.ndarray] = {}
    for kind in KINDS:
        results = map_cached(tower_run, [Run(w, kind, cfg) for w in range(cfg.n_worlds)])
        for name in results[0]:
            data[f"{kind}_{name}_by_world"] = np.stack([r[name] for r in results])
        for i in range(2):
            data[f"{kind}_own_{i + 1}"] = data[f"{kind}_own_by_world"][:, i].mean()
            data[f"{kind}_found_{i + 1}"] = data[f"{kind}_found_by_world"][:, i].mean()
    data["two_oracle"] = data["two_oracle_by_world"].mean()
    return data


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    own = {kind: data[f"{kind}_own_by_world"] for kind in KINDS}
    found = {kind: data[f"{kind}_found_by_world"] for kind in KINDS}
    margins = {}
    for kind in ("two", "one"):
        gap = own[kind][:, 0].min() - own["none"][:, 0].max()
        margins[f"level 1: the world of {kind} is a tenth above that of none"] = gap - 0.1
    two, one, none = (own[kind][:, 1] for kind in KINDS)
    # Near chance is not at chance: the first level's latents are not isotropic.
    margins["level 2: that of two is twice as far above none as that of one"] = (
        two.min() - none.mean()
    ) - 2 * (one.max() - none.mean())
    for kind in KINDS:
        through = data[f"{kind}_through_by_world"]
        margins[f"{kind}: the second level loses more"] = np.min(through[:, 0] - through[:, 1])
    nearest = data["one_nearest_by_world"][:, 0]
    margins["one: level 1 finds the parts better than its nearest rows do"] = np.min(
        found["one"][:, 0] - nearest
    )
    at_chance = [np.abs(found[k] - data[f"{k}_chance_by_world"])[:, 1].max() for k in KINDS[1:]]
    margins["one, none: level 2 finds atoms that are not there as chance does"] = 0.05 - max(
        at_chance
    )
    margins["two: the oracle finds the atoms better than the nearest part does"] = np.min(
        data["two_oracle_by_world"] - data["two_nearest_part_by_world"]
    )
    margins["two: and than the tower's second level by .05 or more"] = (
        np.mean(data["two_oracle_by_world"] - found["two"][:, 1]) - 0.05
    )
    gain = np.mean(found["two"][:, 1] - data["two_nearest_by_world"][:, 1])
    margins["two: the tower finds atoms at most .05 better than copying would"] = 0.05 - gain
    return require(margins)


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with isotropic rows and parts in all three worlds."""
    return compute(replace(cfg, structure=False))


COLOURS = {"two": "#0072B2", "one": "#009E73", "none": "#D55E00"}
LABELS = {"two": "two levels planted", "one": "one level planted", "none": "nothing planted (null)"}
LEVELS = ("meta", "meta-meta")


def plot(data: dict[str, np.ndarray]) -> Figure:
    fig, axes = plt.subplots(1, 3, figsize=(8.6, 3.5), sharey=True)
    for kind in KINDS:
        for ax, name in zip(axes, ("own", "through", "found"), strict=True):
            _points(ax, data[f"{kind}_{name}_by_world"], kind)
    x = np.arange(2)
    for i in x:
        ends = np.array([i - 0.3, i + 0.3])
        chance = data["two_chance_by_world"][:, i].mean()
        nearest = data["two_nearest_by_world"][:, i].mean()
        axes[2].plot(ends, [chance] * 2, ":", color="black", label="" if i else "chance")
        label = "" if i else "copying the rows below (two levels)"
        axes[2].plot(ends, [nearest] * 2, "--", color=COLOURS["two"], label=label)
    oracle = data["two_oracle_by_world"].mean()
    label = "oracle: trained on the true parts"
    axes[2].plot([1], [oracle], "*", ms=10, mfc="none", color=COLOURS["two"], label=label)
    axes[0].set_title("Explained of what the level saw")
    axes[1].set_title("Explained of the rows\nthrough all levels so far")
    axes[2].set_title("Found: parts (meta),\natoms (meta-meta)")
    axes[0].set_ylabel("share explained; mean matched cosine")
    for ax in axes:
        ax.set_xticks(x, LEVELS)
        ax.set_xlim(-0.4, 1.4)
        ax.set_ylim(0, 1)
        ax.set_xlabel("level of the tower")
    handles, labels = axes[2].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return fig


def _points(ax: Axes, by_world: np.ndarray, kind: str) -> None:
    mean = by_world.mean(0)
    spread = np.stack([mean - by_world.min(0), by_world.max(0) - mean])
    x = np.arange(2) + 0.06 * (KINDS.index(kind) - 1)
    ax.errorbar(x, mean, yerr=spread, fmt="o-", color=COLOURS[kind], label=LABELS[kind])
