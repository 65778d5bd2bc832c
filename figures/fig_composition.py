"""What a larger SAE adds is labelled as planted: mixtures are called composite, atoms are not.

Composed worlds hold 24 common atoms that fire alone, 24 rarer mixtures of two or three of them, and
24 rare new directions, in 64 dimensions; atomic worlds hold unrelated atoms in the place of the
mixtures. A small SAE as wide as there are common atoms, and larger ones up to three times as wide
(a latent for each feature), see the same data. Left: each row of a larger SAE is labelled by what
at most three rows of the small one explain of it (composite: 90 % in cosine, and beyond chance at
level .05 over all rows). Lines: means over worlds; dots: worlds (fresh atoms, data and start each);
diamonds: the planted kind of the feature that a row matches at a cosine above .9 (rows that match
none have no diamond). Middle: where nothing is composed, at most five rows in a hundred are called
composite, in the mean over worlds. Crosses: structureless rows, none of them composite.

Right: inserted into the small SAE, new directions lower its error and mixtures raise it, as copies
do. The proxy by row cosines (below .7: novel) calls many mixtures novel too. A structureless
latent would raise the error by E z^2, the upper line.

Rows are trained by alternating exact steps. Labels are about rows: a small SAE that may use many
more latents than features fire merges atoms, and then rows that are atoms are mixtures of its rows;
an SAE with more latents than the world has features spends those left over on mixtures.

Paper: fig:composition. The game, stitching and its proxy: Leask et al. 2025, arXiv 2502.04878.
"""

from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

from figures.runs import device, map_cached, require
from sae.direct import nonnegative_omp, object_rows
from theory import composition, isotropic_rows
from theory.stitching import PROXY_COSINE, stitching
from toymodels import Dictionary, Independent, ToyModel, Uniform, random_mixing, random_unit, stream

KINDS = ("composed", "atomic")
LABELS = ("copy", "composite", "partial", "novel")
COPY, COMPOSITE, NOVEL, NONE = 0, 1, 3, -1  # planted kinds, as indices of LABELS
TAU, ALPHA, K_ROWS = 0.81, 0.05, 3
NOISE, TOLERANCE = 0.03, 0.28  # tolerance: of the rms norm of a sample, as in `object_rows`
# Expected number active: common atoms, what is in the mixtures' place, new directions. More atoms
# fire in the atomic world: an SAE that may use many more latents than fire merges atoms, and then a
# larger one's atoms truly are mixtures of its rows.
L0 = {"composed": (0.72, 0.36, 0.19), "atomic": (2.2, 0.36, 0.19)}
K_SMALL = 4
K_LARGE = {"composed": 2, "atomic": 4}  # tight in the composed world: mixtures pay off


@dataclass(frozen=True)
class Config:
    """Worlds, width ratios (the last one is drawn on the right), and sizes."""

    n_worlds: int
    ratios: tuple[float, ...] = (1.0, 2.0, 3.0)
    n_atoms: int = 24
    d_in: int = 64
    n_samples: int = 4000
    rows_kept: bool = True


CONFIGS = {
    "smoke": Config(2, (1.0, 3.0), n_atoms=16, n_samples=1000),
    "quick": Config(5),
    "paper": Config(8, (1.0, 1.5, 2.0, 2.5, 3.0)),
}


@dataclass(frozen=True)
class Run:
    """The smaller SAE of world `seed` and one larger; rows_kept: its rows are left as trained."""

    seed: int
    kind: str
    ratio: float
    n_atoms: int
    d_in: int
    n_samples: int
    rows_kept: bool


def world(seed: int, kind: str, n_atoms: int, d_in: int) -> ToyModel:
    """Returns the world: n_atoms common atoms, as many mixtures (or atoms), as many new ones."""
    drawn = stream(seed, "dictionary", device())
    vectors = random_unit(3 * n_atoms, d_in, generator=drawn).vectors
    atoms, middle, new = vectors.split(n_atoms)
    if kind == "composed":
        mixing, half = stream(seed, "mixing", device()), n_atoms // 2
        draws = [random_mixing(n_atoms, n_atoms, k, generator=mixing)[:half] for k in (2, 3)]
        middle = normalize(torch.cat(draws) @ atoms, dim=1)
    probs = torch.tensor(L0[kind], dtype=torch.float64).repeat_interleave(n_atoms) / n_atoms
    law = Independent(3 * n_atoms, probs, Uniform(0.5, 1.5))
    return ToyModel(law, Dictionary(torch.cat([atoms, middle, new])), noise_std=NOISE)


def planted_kinds(rows: Tensor, model: ToyModel, kind: str) -> Tensor:
    """Returns the planted kind of the feature that each row matches, NONE without a match."""
    cosine, feature = (normalize(rows, dim=1) @ model.dictionary.vectors.T).max(1)
    middle = COMPOSITE if kind == "composed" else NOVEL
    kinds = torch.tensor([COPY, middle, NOVEL], device=rows.device)
    found = kinds[feature // (model.dictionary.n_features // 3)]
    return torch.where(cosine > 0.9, found, NONE)


def game(run: Run) -> dict[str, np.ndarray]:
    """Returns labels, planted kinds and stitching of the larger SAE's rows; -1: nothing planted."""
    model = world(run.seed, run.kind, run.n_atoms, run.d_in)
    x = model.sample(run.n_samples, generator=stream(run.seed, "train", device())).x
    width, k_large = int(run.ratio * run.n_atoms), K_LARGE[run.kind]
    small = object_rows(x, run.n_atoms, K_SMALL, generator=stream(run.seed, "small", device()))
    large = object_rows(x, width, k_large, generator=stream(run.seed, "large", device()))
    planted = planted_kinds(large, model, run.kind)
    if not run.rows_kept:  # the same entries in another order: no longer related to the small SAE
        large = large.roll(1, dims=1)
    options = {"k": K_ROWS, "tau": TAU, "alpha": ALPHA}
    labels = composition(large, small, **options).labels()
    rng = stream(run.seed, "structureless", device())
    nothing = composition(isotropic_rows(width, run.d_in, generator=rng), small, **options)
    held_out = model.sample(run.n_samples, generator=stream(run.seed, "eval", device())).x
    floor = TOLERANCE * float(held_out.square().sum(1).mean().sqrt())
    codes = [
        nonnegative_omp(held_out, rows, k, tolerance=floor)
        for rows, k in ((small, K_SMALL), (large, k_large))
    ]
    stitched = stitching(held_out, codes[0], small, codes[1], large)
    change = stitched.error_changes / stitched.null_changes.clamp(min=1e-12)
    return {
        "labels": np.array([LABELS.index(label) for label in labels]),
        "planted": planted.cpu().numpy(),
        "nothing": np.array(nothing.shares()["composite"]),
        "change": change.cpu().numpy(),
        "cosine": stitched.max_cosines.cpu().numpy(),
    }


def compute(cfg: Config) -> dict[str, np.ndarray]:
    data: dict[str, np.ndarray] = {"ratios": np.array(cfg.ratios), "level": np.array(ALPHA)}
    sizes = (cfg.n_atoms, cfg.d_in, cfg.n_samples, cfg.rows_kept)
    for kind in KINDS:
        cells = [(w, kind, ratio) for w in range(cfg.n_worlds) for ratio in cfg.ratios]
        runs = map_cached(game, [Run(*cell, *sizes) for cell in cells])
        shape = (cfg.n_worlds, len(cfg.ratios))
        for name, values in (("label", "labels"), ("planted", "planted")):
            shares = [[np.mean(r[values] == i) for i in range(len(LABELS))] for r in runs]
            data[f"{kind}_{name}_by_world"] = np.array(shares).reshape(*shape, len(LABELS))
        data[f"{kind}_nothing_by_world"] = np.array([r["nothing"] for r in runs]).reshape(shape)
        scores = np.array([_agreement(r["labels"], r["planted"]) for r in runs])
        data[f"{kind}_agreement_by_world"] = scores[:, 0].reshape(shape)
        data[f"{kind}_agreement_chance_by_world"] = scores[:, 1].reshape(shape)
        if kind == "composed":
            last = runs[len(cfg.ratios) - 1 :: len(cfg.ratios)]
            for name in ("change", "cosine", "planted"):
                values = np.array([r[name] for r in last])
                data[f"stitch_{name}_by_world"] = values.astype(float)
    planted = data["stitch_planted_by_world"]
    rises, far = data["stitch_change_by_world"] > 0, data["stitch_cosine_by_world"] < PROXY_COSINE
    for name, which, what in (
        ("composite_rises", COMPOSITE, rises),
        ("composite_proxy_novel", COMPOSITE, far),
        ("novel_falls", NOVEL, ~rises),
    ):
        shares = [_share(w[p == which]) for w, p in zip(what, planted, strict=True)]
        data[f"stitch_{name}_by_world"] = np.array(shares)
    data["false_composite"] = data["atomic_label_by_world"][..., COMPOSITE].mean()
    data["composite_rises"] = np.median(data["stitch_composite_rises_by_world"])
    data["composite_proxy_novel"] = np.median(data["stitch_composite_proxy_novel_by_world"])
    return data


def _share(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0


def _agreement(labels: np.ndarray, planted: np.ndarray) -> tuple[float, float]:
    """Returns the share of matched rows labelled as planted, and the same for shuffled labels."""
    labels, planted = labels[planted != NONE], planted[planted != NONE]
    if not len(labels):
        return 0.0, 0.0
    chance = sum(np.mean(labels == i) * np.mean(planted == i) for i in range(len(LABELS)))
    return float(np.mean(labels == planted)), float(chance)


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    margins = {}
    for kind in KINDS:
        label = data[f"{kind}_label_by_world"]
        margins[f"{kind}: no share above 1"] = 1 - label.max()
        agreement = data[f"{kind}_agreement_by_world"]
        half_way = (1 + data[f"{kind}_agreement_chance_by_world"]) / 2
        # At equal width nearly every row is a copy, and shuffled labels agree as well.
        margins[f"{kind}: labels as planted, half-way from chance to all (widest, median)"] = (
            np.median((agreement - half_way)[:, -1])
        )
        nothing = data[f"{kind}_nothing_by_world"]
        margins[f"{kind}: structureless rows called composite, at most the level"] = (
            ALPHA - nothing.mean()
        )
    composite = data["composed_label_by_world"][..., COMPOSITE]
    margins["composed: a wider SAE has more composites, in each world"] = np.min(
        composite[:, -1] - composite[:, 0]
    )
    planted = data["composed_planted_by_world"][:, -1, COMPOSITE]
    margins["composed: the widest SAE has found a tenth of its rows in the mixtures (median)"] = (
        np.median(planted) - 0.1
    )
    false = data["atomic_label_by_world"][..., COMPOSITE]
    margins["atomic: false composites at most the level (mean over worlds, every ratio)"] = (
        ALPHA - np.max(false.mean(0))
    )
    rises, proxy = (
        np.median(data[f"stitch_composite_{name}_by_world"]) for name in ("rises", "proxy_novel")
    )
    # Half of the mixtures are triples, whose cosine with an atom is about 1/sqrt(3).
    margins["stitching: mixtures raise the error, nine in ten (median)"] = rises - 0.9
    margins["stitching: the proxy calls one in four of them novel (median)"] = proxy - 0.25
    falls = np.median(data["stitch_novel_falls_by_world"])
    margins["stitching: new directions lower the error, three in four (median)"] = falls - 0.75
    return require(margins)


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with the entries of the larger SAE's rows shifted by one place."""
    return compute(replace(cfg, rows_kept=False))


COLOURS = {"copy": "#0072B2", "composite": "#D55E00", "partial": "#999999", "novel": "#009E73"}


def plot(data: dict[str, np.ndarray]) -> Figure:
    fig, axes = plt.subplots(1, 3, figsize=(9.6, 3.5), width_ratios=[1, 1, 1.15])
    for ax, kind in zip(axes[:2], KINDS, strict=True):
        _draw_shares(ax, data, kind)
    axes[1].sharey(axes[0])
    axes[0].set_ylabel("share of the larger SAE's rows")
    axes[0].set_title("composed world: mixtures are found,\nand labelled composite")
    axes[1].set_title("atomic world: composites\nstay below the level")
    _draw_stitching(axes[2], data)
    handles, names = axes[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=4)
    return fig


def _draw_shares(ax: Axes, data: dict[str, np.ndarray], kind: str) -> None:
    ratios, found = data["ratios"], data[f"{kind}_label_by_world"]
    planted = data[f"{kind}_planted_by_world"]
    for i, name in enumerate(LABELS):
        colour, thin = COLOURS[name], name == "partial"
        label = f"called {name}"
        ax.plot(ratios, found[..., i].mean(0), color=colour, lw=1 if thin else 1.8, label=label)
        for values in found[..., i]:
            ax.plot(ratios, values, "o", color=colour, ms=2.5, alpha=0.6)
    for i, name in enumerate(LABELS):
        if name != "partial":
            style = {"marker": "D", "ls": "", "mfc": "none", "ms": 6, "color": COLOURS[name]}
            ax.plot(ratios, planted[..., i].mean(0), label=f"planted {name}", **style)
    nothing = data[f"{kind}_nothing_by_world"].mean(0)
    ax.plot(ratios, nothing, "x", color="black", label="structureless, composite")
    ax.axhline(float(data["level"]), color="black", ls=":", lw=1)
    ax.text(ratios[-1], float(data["level"]) + 0.012, "level .05", ha="right", fontsize="small")
    ax.set_xlabel("width of larger / smaller SAE")
    ax.set_ylim(-0.03, 1.03)


def _draw_stitching(ax: Axes, data: dict[str, np.ndarray]) -> None:
    planted = data["stitch_planted_by_world"]
    for name, which in (("copy", COPY), ("composite", COMPOSITE), ("novel", NOVEL)):
        own = planted == which
        x, y = data["stitch_cosine_by_world"][own], data["stitch_change_by_world"][own]
        ax.plot(x, y, "o", ms=3, alpha=0.7, color=COLOURS[name])
    ax.axvline(PROXY_COSINE, color="black", lw=1)
    ax.axhline(0, color="black", lw=1)
    ax.axhline(1, color="black", ls=":", lw=1)
    ax.set_ylim(-1.15, 1.5)
    note = {"transform": ax.get_xaxis_transform(), "fontsize": "small", "va": "top"}
    ax.text(PROXY_COSINE - 0.02, 0.99, "proxy: novel", ha="right", **note)
    ax.text(PROXY_COSINE + 0.02, 0.99, "known", ha="left", **note)
    left = ax.get_xlim()[0]
    ax.text(left, 1.02, " structureless", fontsize="small", va="bottom")
    ax.text(left, 0.04, " error rises ↑", fontsize="small", va="bottom")
    ax.text(left, -0.04, " error falls ↓", fontsize="small", va="top")
    ax.set_xlabel("largest cosine with a row of the smaller SAE")
    ax.set_ylabel("change of error / E z²")
    ax.set_title("inserted into the smaller SAE:\nthe proxy takes triples for new")
