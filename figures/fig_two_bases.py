"""A basis of the weights may be undercomplete while that of the activations is overcomplete.

Across: the directions of weight space that the data determine, over all that no rotation of the
hidden space moves. Upwards: features that an SAE recovers one to one, less those that it recovers
of the same dictionary turned at random, over the width of its data. Shaded: both halves of the
conjecture at once; the verdict asks for half a direction of each.

Exact phases of the toy model of superposition (diamonds): polygons in a plane, weights counted by
the rank of the Hessian. A silent column leaves three weights undetermined, so five of six features
determine 14 of 17; a TopK SAE (k = 1) finds all five in two dimensions, in every world. Without
silent columns the weights are complete. Trained networks (circles 5-2, squares 32-8; k = 1; N
samples for both sides): in every world both halves hold at the rarest features, though most
Gauss-Newton matrices have their full rank: some curvatures are small beside ln N / N, not 0. Dense
features of 5-2 are never found in excess of the width. Linear readers (triangles; k = 2) of 48
directions in 16 dimensions: where features are equally frequent both halves hold in every world at
the fewest samples, and at the most the weights are complete; where the directions span 8 dimensions
only, both hold at the most as well. The most common features found are no more than G3 allows. The
interaction basis never has more directions than the width.

With k at least the width any independent latents rebuild the data, so no verdict is given (hollow):
with k = width the SAE's median error is smaller than with k = 1, and in most worlds it finds fewer
features. Points: worlds (a fresh network, dictionary, data and initialisation each); lines:
medians; bars: ranges, and shares of the worlds.

Paper: fig:two-bases. Networks: Elhage et al. 2022, arXiv 2209.10652. Phases: Chen et al. 2023,
arXiv 2310.06301. Interaction basis: Bushnaq et al. 2024, arXiv 2405.10928.
"""

from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures import two_bases_panels as panels
from figures.runs import map_cached, require
from figures.two_bases_runs import (
    PhaseRun,
    ReaderRun,
    Reading,
    ToyRun,
    phase_run,
    reader_run,
    toy_run,
)
from theory.phases import polygon_phase, transition_size

MOST = 0.75  # share of the worlds that "most" asks for
HALF = 0.5  # a direction: rounding to the nearest count


@dataclass(frozen=True)
class Config:
    """Worlds; phases (columns, vertices, raised); networks and their densities; readers; training.

    n_samples: N of phases and networks.   plane_ks, wide_ks: the first one counts.
    sizes: N of readers.   readers: (exponent, span).
    n_starts: SAEs trained side by side, of which the one of least error counts.
    projected: whether rotations are projected out of the weights.
    """

    n_worlds: int
    phases: tuple[tuple[int, int, int], ...] = (
        (5, 5, 0),
        (6, 5, 0),
        (6, 5, 1),
        (6, 6, 0),
        (8, 6, 0),
        (8, 8, 0),
    )
    plane: tuple[float, ...] = (1.0, 0.3, 0.1, 0.03)
    wide: tuple[float, ...] = (0.3, 0.1, 0.03)
    wide_size: tuple[int, int] = (32, 8)
    wide_ks: tuple[int, ...] = (1, 2, 4, 8)
    sizes: tuple[int, ...] = (300, 3_000, 30_000)
    readers: tuple[tuple[float, int], ...] = ((0.0, 16), (1.0, 16), (2.0, 16), (0.0, 8))
    reader_size: tuple[int, int] = (48, 16)
    n_samples: int = 4_000
    plane_ks: tuple[int, ...] = (1, 2, 3)
    n_network: int = 1500
    n_sae: int = 500
    n_starts: int = 3
    projected: bool = True


CONFIGS = {
    "smoke": Config(
        2,
        ((6, 5, 0), (6, 6, 0)),
        (1.0, 0.03),
        (0.03,),
        (16, 4),
        (1, 4),
        (300, 10_000),
        ((0.0, 16), (0.0, 8)),
        plane_ks=(1, 2),
        n_samples=2_000,
        n_network=200,
        n_sae=150,
        n_starts=1,
    ),
    "quick": Config(3),
    "paper": Config(8, n_network=3000, n_sae=1000),
}


def compute(cfg: Config) -> dict[str, np.ndarray]:
    worlds, n = range(cfg.n_worlds), cfg.n_samples
    data: dict[str, np.ndarray] = {name: np.array(getattr(cfg, name)) for name in NAMED}
    once = Reading((1,), n, cfg.n_sae, cfg.n_starts)
    phases = [PhaseRun(w, *p, once, cfg.projected) for w in worlds for p in cfg.phases]
    _gather(data, "phase", map_cached(phase_run, phases), (cfg.n_worlds, len(cfg.phases)))
    plane, wide = (Reading(ks, n, cfg.n_sae, cfg.n_starts) for ks in (cfg.plane_ks, cfg.wide_ks))
    many = {
        "plane": (5, 2, 0.9, cfg.plane, cfg.n_network, plane),
        "wide": (*cfg.wide_size, 0.9, cfg.wide, cfg.n_network, wide),
    }
    for name, settings in many.items():
        runs = [ToyRun(w, *settings, cfg.projected) for w in worlds]
        _gather(data, name, map_cached(toy_run, runs), (cfg.n_worlds,))
    readers = [
        ReaderRun(w, exponent, span, *cfg.reader_size, Reading((2,), size, cfg.n_sae, 2))
        for w in worlds
        for exponent, span in cfg.readers
        for size in cfg.sizes
    ]
    shape = (cfg.n_worlds, len(cfg.readers), len(cfg.sizes))
    _gather(data, "reader", map_cached(reader_run, readers), shape)
    data["transition"] = np.array(transition_size(polygon_phase(6, 5), polygon_phase(6, 6)))
    data["wide_live"] = np.median(data["wide_live_by_world"][:, -1])
    for kind in ("plane", "wide"):
        data[f"{kind}_enough"] = np.median(data[f"{kind}_enough_by_world"][:, -1])
        data[f"{kind}_soft_share"] = np.median(weight_share(data, kind)[:, -1])
        data[f"{kind}_found"] = np.median(data[f"{kind}_recovered_by_world"][:, -1, 0])
        data[f"{kind}_null"] = np.median(data[f"{kind}_null_by_world"][:, -1, 0])
    data["pentagon_null"] = data["phase_null_by_world"][:, cfg.phases.index((6, 5, 0))].mean()
    ratio = data["reader_common_by_world"] / data["reader_bound_by_world"]
    data["tightest"] = np.array(np.nanmax(ratio))
    data["tightness"] = np.array(np.nanmedian(ratio))
    return data


NAMED = ("phases", "plane", "wide", "wide_size", "plane_ks", "wide_ks", "sizes", "readers")


def _gather(
    data: dict[str, np.ndarray],
    prefix: str,
    results: list[dict[str, np.ndarray]],
    shape: tuple[int, ...],
) -> None:
    """Adds "prefix_name_by_world" arrays whose first axes are those of `shape`."""
    for name in results[0].keys() - {"mask"}:
        stacked = np.stack([r[name] for r in results])
        data[f"{prefix}_{name}_by_world"] = stacked.reshape(*shape, *stacked.shape[1:])


def weight_share(data: dict[str, np.ndarray], kind: str) -> np.ndarray:
    """Returns soft rank over all free directions, [worlds, ...]: 1 is complete."""
    return data[f"{kind}_soft_rank_by_world"] / data[f"{kind}_n_free_by_world"]


def missing(data: dict[str, np.ndarray], kind: str) -> np.ndarray:
    """Returns free directions less the soft rank, [worlds, ...]: 0 is complete."""
    return data[f"{kind}_n_free_by_world"] - data[f"{kind}_soft_rank_by_world"]


def surplus(data: dict[str, np.ndarray], kind: str) -> np.ndarray:
    """Returns features found above the null less the width, [worlds, ...], at the first k."""
    found = data[f"{kind}_recovered_by_world"] - data[f"{kind}_null_by_world"]
    return found[..., 0] - data[f"{kind}_width_by_world"]


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    columns, vertices, raised = np.array(cfg.phases).T
    silent = columns - vertices - raised
    free, rank = data["phase_n_free_by_world"], data["phase_rank_by_world"]
    opposed = data["phase_opposed_by_world"][..., 0]
    six = data["phase_recovered_by_world"][:, columns == 6, 0] - vertices[columns == 6]
    margins = {
        "phases: rotation leaves 3 c - 1 of 3 c weights": -np.abs(free - (3 * columns - 1)).max(),
        "phases: each silent column leaves 3 weights undetermined": -np.max(
            np.abs(rank - (free - 3 * silent))
        ),
        "phases: more features than dimensions, every world": surplus(data, "phase").min() - HALF,
        "phases: opposed where a column is silent, nowhere else": 0.5
        - np.max(opposed != (silent > 0)),
        "six columns: every vertex is found, every world": -np.abs(six).max(),
    }
    for kind in ("plane", "wide"):
        margins[f"{kind}: opposed at the rarest, every world"] = (
            data[f"{kind}_opposed_by_world"][:, -1, 0].min() - 0.5
        )
        full = data[f"{kind}_rank_by_world"] == data[f"{kind}_n_free_by_world"]
        margins[f"{kind}: full rank in most networks"] = full.mean() - MOST
        width = data[f"{kind}_width_by_world"]
        margins[f"{kind}: the interaction basis is no larger than the width"] = np.min(
            width - data[f"{kind}_interaction_by_world"]
        )
    margins["5-2, dense: not overcomplete, every world"] = -np.max(surplus(data, "plane")[:, 0])
    for kind in ("phase", "plane", "wide", "reader"):
        margins[f"{kind}: the weights are never overcomplete"] = 1e-9 + missing(data, kind).min()
    return require(margins | _many_active(data, cfg) | _readers(data, cfg))


def _many_active(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    """k at least the width: no verdict, smaller errors, fewer features."""
    margins = {}
    for kind, ks, width in (("plane", cfg.plane_ks, 2), ("wide", cfg.wide_ks, cfg.wide_size[1])):
        excluded = np.array(ks) >= width
        margins[f"{kind}: no verdict with k >= width"] = 0.5 - np.max(
            data[f"{kind}_opposed_by_world"][..., excluded]
        )
        at, one = ks.index(width), ks.index(1)
        found = data[f"{kind}_recovered_by_world"][:, -1]
        fewer = np.mean(found[:, at] < found[:, one])
        margins[f"{kind}: k = width finds fewer than k = 1 in most worlds"] = fewer - MOST
        error = data[f"{kind}_fvu_by_world"][:, -1]
        if cfg.n_sae >= 500:  # with fewer steps the error is that of training
            margins[f"{kind}: with a smaller error in the median"] = np.median(
                error[:, one] - error[:, at]
            )
    return margins


def _readers(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    opposed = data["reader_opposed_by_world"][..., 0]
    even, flat = cfg.readers.index((0.0, 16)), cfg.readers.index((0.0, 8))
    few, many = opposed[:, even, 0].min(), opposed[:, flat, -1].min()
    lacking = missing(data, "reader")[:, even, -1].max()
    bound = data["reader_bound_by_world"] - data["reader_common_by_world"]
    return {
        "readers, few samples: opposed, every world": few - 0.5,
        "readers, many samples: the weights are complete, every world": HALF - lacking,
        "readers of half the dimensions, many samples: opposed, every world": many - 0.5,
        "the most common features found are within G3's bound": np.nanmin(bound),
    }


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with rotations counted as directions the data leave undetermined."""
    return compute(replace(cfg, projected=False))


def plot(data: dict[str, np.ndarray]) -> Figure:
    fig = plt.figure(figsize=(13, 6.6))
    grid = fig.add_gridspec(2, 4)
    kinds = ("phase", "plane", "wide", "reader")
    shares = {kind: weight_share(data, kind) for kind in kinds}
    heights = {kind: 1 + surplus(data, kind) / data[f"{kind}_width_by_world"] for kind in kinds}
    panels.draw_both_sides(fig.add_subplot(grid[0, :2]), data, shares, heights)
    for i, kind in enumerate(("plane", "wide"), 2):
        panels.draw_sparsity(fig.add_subplot(grid[0, i]), data, kind, shares[kind])
    panels.draw_samples(fig.add_subplot(grid[1, 0]), data, shares["reader"], heights["reader"])
    panels.draw_active(fig.add_subplot(grid[1, 1]), data)
    panels.draw_common(fig.add_subplot(grid[1, 2]), data)
    panels.draw_rates(fig.add_subplot(grid[1, 3]), data)
    return fig
