"""A meta-SAE with k = 4 "explains" most of the variance of structureless rows in low dimension.

TopK meta-SAEs trained on isotropic rows (no structure to find) and on planted compositions (each
row a sum of 4 of the m atoms), with the published ratios: 64 rows a dimension, 3 atoms a dimension,
k = 4. In sample they explain more than held out; chance falls with d and rises with k and m. The
published 55.5 % at d = 768 is below chance at d = 16. No held-out row is explained beyond nu, the
bound for the best signed k-sparse code, and none beyond the spectral bound where that is not void
(m < d). Planted compositions stand out held out, but have little headroom in low dimension.
Markers: mean and range over worlds (fresh rows, atoms, initialisation, batches each).

Paper: fig:null-compressibility. Published set-up: Leask et al. 2025, arXiv 2502.04878.
"""

from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from figures.runs import device, map_cached, require
from sae import TopK, TrainConfig, train_meta
from theory import (
    copy_baseline,
    fve,
    held_out_radius,
    isotropic_fve_bound,
    isotropic_rows,
    spectral_fve_bound,
    surrogate_p_value,
)
from toymodels import Dictionary, stream

ATOMS_PER_ROW = 4
PUBLISHED_FVE = 0.555  # GPT-2 small, d = 768, m = 2,304, k = 4: Leask et al. 2025
ALPHA = 1e-10  # false alarm of one Hoeffding assertion


@dataclass(frozen=True)
class Config:
    """Worlds, and the values of d, k and m / d; the middle d is the setting of the last two.

    headroom: share of what chance leaves at the highest d that planted compositions must explain.
    """

    n_worlds: int
    n_surrogates: int = 8
    ds: tuple[int, ...] = (16, 32, 64)
    ks: tuple[int, ...] = (1, 2, 4, 8)
    widths: tuple[float, ...] = (0.25, 0.5, 0.75, 3.0)
    rows_per_d: int = 64
    n_steps: int = 300
    headroom: float = 0.2
    planted: bool = True


CONFIGS = {
    "smoke": Config(
        2, ds=(8, 16), ks=(1, 4), widths=(0.5, 3.0), rows_per_d=16, n_steps=60, headroom=0.0
    ),
    "quick": Config(5),
    "paper": Config(8, ds=(16, 32, 64, 128), n_steps=1000, n_surrogates=19),
}
K, WIDTH = 4, 3.0  # the published setting


@dataclass(frozen=True)
class Run:
    """One meta-SAE, on isotropic rows or on planted compositions."""

    seed: int
    planted: bool
    d: int
    m: int
    k: int
    n_rows: int
    n_steps: int


def composed_rows(n_rows: int, atoms: Tensor, *, generator: torch.Generator) -> Tensor:
    """Returns unit rows, each a sum of ATOMS_PER_ROW distinct atoms with weights in [0.5, 1]."""
    n_atoms = min(ATOMS_PER_ROW, len(atoms))
    draws = torch.rand(n_rows, len(atoms), device=atoms.device, generator=generator)
    weights = torch.rand(n_rows, n_atoms, device=atoms.device, generator=generator) / 2 + 0.5
    chosen = atoms[draws.argsort(dim=1)[:, :n_atoms]]
    return Dictionary.normalise((weights[:, :, None] * chosen).sum(1)).vectors


def meta_run(run: Run) -> dict[str, np.ndarray]:
    """Returns the FVE in sample and on as many held-out rows, and the spectral bounds of both."""
    rng = stream(run.seed, "rows", device())
    n = 2 * run.n_rows
    if run.planted:
        atoms = isotropic_rows(run.m, run.d, generator=rng).float()
        rows = composed_rows(n, atoms, generator=rng)
    else:
        rows = isotropic_rows(n, run.d, generator=rng).float()
    fitted, held_out = rows.chunk(2)
    init = stream(run.seed, "meta-init", device())
    meta = TopK(run.d, run.m, run.k, bias=False, generator=init)
    config = TrainConfig(run.n_steps, 512, lr=3e-2, decay=0.5, dead_after=25_000, n_records=5)
    trained = train_meta(
        fitted, meta, config, weights=None, generator=stream(run.seed, "meta-train", device())
    ).sae
    scores, bounds = [], []
    for part in (fitted, held_out):
        scores.append(fve(part, trained(part).x_hat.detach()))
        bound = spectral_fve_bound(part, run.m, bias=False)
        bounds.append(np.nan if bound.void else bound.fve)
    copied = copy_baseline(fitted, run.m, run.k)
    return {"fve": np.array(scores), "spectral": np.array(bounds), "copied": np.array(copied)}


def compute(cfg: Config) -> dict[str, np.ndarray]:
    middle = cfg.ds[len(cfg.ds) // 2]
    settings = {
        "d": [(d, WIDTH, K) for d in cfg.ds],
        "k": [(middle, WIDTH, k) for k in cfg.ks],
        "m": [(middle, width, K) for width in cfg.widths],
    }

    def run(seed: int, planted: bool, d: int, width: float, k: int) -> Run:
        n_rows = cfg.rows_per_d * d
        return Run(seed, planted, d, round(width * d), k, n_rows, cfg.n_steps)

    data = {
        name: np.array(getattr(cfg, field))
        for name, field in zip("dkm", ("ds", "ks", "widths"), strict=True)
    }
    data["middle_d"] = np.array(middle)
    for name, cells in settings.items():
        for kind, planted in (("null", False), ("planted", cfg.planted)):
            runs = [run(w, planted, *cell) for w in range(cfg.n_worlds) for cell in cells]
            results = map_cached(meta_run, runs)
            shape = (cfg.n_worlds, len(cells), 2)
            for key in ("fve", "spectral"):
                stacked = np.stack([r[key] for r in results]).reshape(shape)
                data[f"{name}_{kind}_{key}_by_world"] = stacked
            copied = np.array([r["copied"] for r in results]).reshape(shape[:2])
            data[f"{name}_{kind}_copied_by_world"] = copied
        data[f"{name}_nu"] = np.array(
            [isotropic_fve_bound(d, round(w * d), k) for d, w, k in cells]
        )
        n_rows = [cfg.rows_per_d * d for d, _, _ in cells]
        data[f"{name}_radius"] = np.array([held_out_radius(n, ALPHA) for n in n_rows])
    # The criterion at the largest d: planted rows against refits on structureless ones.
    d = cfg.ds[-1]
    nulls = map_cached(meta_run, [run(w, False, d, WIDTH, K) for w in range(cfg.n_surrogates)])
    for i, sample in enumerate(("in_sample", "held_out")):
        null = torch.tensor([r["fve"][i] for r in nulls])
        score = float(data["d_planted_fve_by_world"][0, -1, i])
        data[f"p_value_{sample}"] = np.array(surrogate_p_value(score, null))
    data["chance_lowest_d"] = data["d_null_fve_by_world"][:, 0, 0].mean()
    data["chance_highest_d"] = data["d_null_fve_by_world"][:, -1, 0].mean()
    data["planted_highest_d"] = data["d_planted_fve_by_world"][:, -1, 0].mean()
    return data


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    margins = {}
    for name in "dkm":
        null = data[f"{name}_null_fve_by_world"]
        limit = data[f"{name}_nu"] + data[f"{name}_radius"]
        margins[f"{name}: no held-out structureless row set is explained beyond nu"] = np.min(
            limit - null[:, :, 1]
        )
        margins[f"{name}: structureless rows look better in sample than held out"] = np.min(
            (null[:, :, 0] - null[:, :, 1]).mean(0)
        )
    bounds = np.stack([data[f"m_{kind}_spectral_by_world"] for kind in ("null", "planted")])
    scores = np.stack([data[f"m_{kind}_fve_by_world"] for kind in ("null", "planted")])
    margins["no meta-SAE exceeds its spectral bound where m < d"] = np.nanmin(bounds - scores)
    null, planted = data["d_null_fve_by_world"], data["d_planted_fve_by_world"]
    margins["chance in the lowest dimension exceeds the published 55.5 %"] = (
        np.min(null[:, 0, 0]) - PUBLISHED_FVE
    )
    margins["chance falls with d"] = np.min(-np.diff(null.mean(0), axis=0))
    for name in "km":
        rise = np.diff(data[f"{name}_null_fve_by_world"].mean(0), axis=0)
        margins[f"chance rises with {name}"] = np.min(rise)
    headroom = (planted - null).mean(0)
    margins["compositions stand out least in the lowest dimension"] = np.min(
        headroom[1:] - headroom[0]
    )
    # By a share of what chance leaves unexplained: a fifth is far beyond the nulls' own spread.
    left = cfg.headroom * (1 - null[:, -1].max(0))
    margins["planted compositions stand out at the highest d"] = np.min(
        planted[:, -1].min(0) - null[:, -1].max(0) - left
    )
    least = 1 / (1 + cfg.n_surrogates)
    margins["and have the least p-value that the surrogates allow"] = (
        least - max(data["p_value_in_sample"], data["p_value_held_out"]) + 1e-12
    )
    return require(margins)


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with isotropic rows in the place of the planted ones."""
    return compute(replace(cfg, planted=False))


NULL, PLANTED, BOUND = "#D55E00", "#0072B2", "#000000"
SCORES = {"null": (NULL, "structureless rows"), "planted": (PLANTED, "planted compositions")}


def plot(data: dict[str, np.ndarray]) -> Figure:
    fig, axes = plt.subplots(1, 3, figsize=(8.6, 3.6), sharey=True)
    middle = int(data["middle_d"])
    xlabels = {"d": "dimension d", "k": "active meta-latents k", "m": "width m / d"}
    titles = {
        "d": "published ratios (m = 3d, k = 4)",
        "k": f"d = {middle}, m = 3d",
        "m": f"d = {middle}, k = 4",
    }
    for ax, name in zip(axes, "dkm", strict=True):
        x = data[name]
        for kind, (colour, label) in SCORES.items():
            by_world = data[f"{name}_{kind}_fve_by_world"]
            for i, sample in enumerate(("in sample", "held out")):
                _points(ax, x, by_world[:, :, i], colour, f"{label}, {sample}", filled=i == 0)
        ax.plot(x, data[f"{name}_nu"], color=BOUND, ls="--", label="ν: bound, held out")
        copied = data[f"{name}_null_copied_by_world"].mean(0)
        ax.plot(x, copied, color=NULL, ls=":", label="copying m structureless rows")
        spectral = data[f"{name}_null_spectral_by_world"][:, :, 0].mean(0)
        if np.isfinite(spectral).any():
            ax.plot(x, spectral, color=BOUND, label="spectral bound of structureless rows (m < d)")
        ax.set_xscale("log", base=2)
        ax.set_xticks(x, [f"{value:g}" for value in x])
        ax.minorticks_off()
        ax.set_xlabel(xlabels[name])
        ax.set_title(titles[name])
        ax.set_ylim(0, 1.02)
    axes[0].axhline(PUBLISHED_FVE, color="#999999", lw=1)
    axes[0].annotate(
        "published, d = 768",
        (0.98, PUBLISHED_FVE + 0.01),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        color="#666666",
        fontsize="small",
    )
    axes[0].set_ylabel("share of variance explained")
    handles, labels = axes[-1].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return fig


def _points(
    ax: Axes, x: np.ndarray, by_world: np.ndarray, colour: str, label: str, *, filled: bool
) -> None:
    mean = by_world.mean(0)
    spread = np.stack([mean - by_world.min(0), by_world.max(0) - mean])
    face = colour if filled else "white"
    ax.errorbar(
        x, mean, yerr=spread, fmt="o-", lw=1, color=colour, mfc=face, capsize=2, label=label
    )
