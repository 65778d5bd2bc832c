"""Compiled, a toy SAE costs less at every size, and no more in a large ensemble than alone.

Drawn from the committed figures/reference/bench_cost_scaling.json, which `make bench` writes:
seconds of one core for a million SAE-samples (a sample counts once for each SAE trained on it),
drawing the data included, by the reference engine (eager) and by the compiled one from codes
(rows). From the base (stars: 256 latents, 64 dimensions, l0 5, k = 5, 8 members) one size at a time
is changed; there are as many features as latents, and k is l0. Asserted: rows is never slower than
eager; from end to end the cost of either grows by less than n_latents, d_in or l0 does; by rows an
SAE costs at most a tenth more than in any smaller ensemble, and in the largest at least a quarter
less than alone, since members share their batches. Points: median and range over turns; seconds
depend on the machine, ratios less. Fresh runs confirm that both engines learn as much from as many
samples, also where sizes are changed: their held-out fvu, in means over worlds (a fresh dictionary,
data stream and initialisation each), differs by at most 2 % of what training takes off it.
"""

import json
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.bench_cost_scaling import AXES, BASE, ENGINES, RESULTS, Size
from figures.runs import map_cached, require
from sae import TopK, TrainConfig, train
from toymodels import Independent, ToyModel, random_unit, stream

MOST_GROWTH = 1.1  # of the cost of an SAE by rows, over that in any smaller ensemble
SHARED = 0.75  # of the cost of an SAE alone, in the largest ensemble, at most
LEARNT, AGREED = 0.5, 0.02  # the share of the fvu that goes at least; of what goes, that may differ
N_EVAL = 4096
CHANGED = (
    replace(BASE, n_latents=64, members=2),
    replace(BASE, d_in=32, members=2),
    replace(BASE, l0=2, members=2),
)


@dataclass(frozen=True)
class Config:
    """Fresh runs; with rows_train=False the compiled engine leaves the SAEs as they were."""

    n_worlds: int
    sizes: tuple[Size, ...] = CHANGED
    n_steps: int = 200
    batch_size: int = 512
    rows_train: bool = True


CONFIGS = {
    "smoke": Config(2, (Size(64, 32, 2, 2),), batch_size=256),
    "quick": Config(3),
    "paper": Config(8, n_steps=500, batch_size=1024),
}


@dataclass(frozen=True)
class Run:
    """An ensemble of one size, by one engine, in world `seed`."""

    seed: int
    size: Size
    engine: str
    n_steps: int
    batch_size: int
    trained: bool


def fvu_run(run: Run) -> dict[str, np.ndarray]:
    """Returns the mean held-out fvu of the members, before and after; on the CPU."""
    size = run.size
    vectors = random_unit(size.n_latents, size.d_in, generator=stream(run.seed, "dictionary"))
    world = ToyModel(Independent(size.n_latents, size.l0 / size.n_latents), vectors)
    init = stream(run.seed, "init")
    fresh = [TopK(size.d_in, size.n_latents, size.l0, generator=init) for _ in range(size.members)]
    config = TrainConfig(run.n_steps, run.batch_size, lr=2e-2, n_records=2)
    generator = stream(run.seed, "train")
    after = train(fresh, world, config, generator=generator, engine=run.engine).saes
    x = world.sample(N_EVAL, generator=stream(run.seed, "eval")).x
    total = (x - x.mean(0)).square().sum()
    with torch.no_grad():
        fvus = {
            name: [float((x - sae(x).x_hat).square().sum() / total) for sae in saes]
            for name, saes in {"before": fresh, "after": after if run.trained else fresh}.items()
        }
    return {name: np.array(np.mean(values)) for name, values in fvus.items()}


def compute(cfg: Config) -> dict[str, np.ndarray]:
    measured = json.loads(RESULTS.read_text())
    data = {}
    for axis in AXES:
        rows = [[r for r in measured[axis] if r["engine"] == engine] for engine in ENGINES]
        data[f"{axis}_sizes"] = np.array([row["size"][axis] for row in rows[0]])
        data[f"{axis}_seconds"] = np.array([[row["seconds"] for row in r] for r in rows])
        eager, compiled = np.median(data[f"{axis}_seconds"], axis=2)
        data[f"gain_{axis}_least"] = np.min(eager / compiled)
        data[f"gain_{axis}_most"] = np.max(eager / compiled)
    ensembles = np.median(data["members_seconds"][ENGINES.index("rows")], axis=1)
    data["growth_members"] = np.max(ensembles / np.minimum.accumulate(ensembles))
    data["share_members"] = ensembles[-1] / ensembles[0]
    cells = [
        Run(seed, size, engine, cfg.n_steps, cfg.batch_size, cfg.rows_train or engine != "rows")
        for seed in range(cfg.n_worlds)
        for size in cfg.sizes
        for engine in ENGINES
    ]
    found = map_cached(fvu_run, cells)
    for when in ("before", "after"):
        values = np.array([f[when] for f in found])
        data[f"{when}_by_world"] = values.reshape(cfg.n_worlds, len(cfg.sizes), len(ENGINES))
    return data


def _growth_beside_size(data: dict[str, np.ndarray], axis: str) -> np.ndarray:
    """How often the cost of each engine grows from end to end, over how often the size does."""
    middle, sizes = np.median(data[f"{axis}_seconds"], axis=2), data[f"{axis}_sizes"]
    return middle[:, -1] / middle[:, 0] / (sizes[-1] / sizes[0])


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    margins = {}
    for axis in AXES:
        margins[f"{axis}: rows is never slower than eager"] = data[f"gain_{axis}_least"] - 1
        if axis != "members":
            growth = _growth_beside_size(data, axis).max()
            margins[f"{axis}: no cost grows by more than the size"] = 1 - growth
    margins["members: a larger ensemble costs no more each"] = MOST_GROWTH - data["growth_members"]
    margins["members: sharing batches saves a quarter"] = SHARED - data["share_members"]
    before, after = data["before_by_world"], data["after_by_world"]
    margins["training takes off half of the fvu"] = np.min(1 - after / before) - LEARNT
    gone = (before - after).mean(0)
    apart = np.abs(np.diff(after.mean(0), axis=1)[:, 0])
    margins["both engines learn as much"] = np.min(AGREED * gone.max(1) - apart)
    return require(margins)


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with the SAEs of the compiled engine left at their initialisation."""
    return compute(replace(cfg, rows_train=False))


STYLES = {
    "eager": {"color": "#D55E00", "marker": "s", "ms": 4},
    "rows": {"color": "#0072B2", "marker": "o", "ms": 4},
}
LABELS = {"n_latents": "n_latents (= n_features)", "d_in": "d_in", "l0": "l0 (= k)"}


def plot(data: dict[str, np.ndarray]) -> Figure:
    fig, axes = plt.subplots(1, 4, figsize=(9.4, 3.0), sharey=True)
    for ax, axis in zip(axes, AXES, strict=True):
        _draw_axis(ax, data, axis)
    axes[0].set_ylabel("seconds of one core\nper million SAE-samples")
    entries: dict[str, Artist] = {}
    for ax in axes:
        entries |= {label: h for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    entries = {name: entries[name] for name in (*ENGINES, "linear", "constant")}
    fig.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=len(entries))
    return fig


def _draw_axis(ax: Axes, data: dict[str, np.ndarray], axis: str) -> None:
    sizes, base = data[f"{axis}_sizes"], getattr(BASE, axis)
    for engine, seconds in zip(ENGINES, data[f"{axis}_seconds"], strict=True):
        middle = np.median(seconds, axis=1)
        spread = np.stack([middle - seconds.min(1), seconds.max(1) - middle])
        ax.errorbar(sizes, middle, yerr=spread, label=engine, **STYLES[engine])
        at_base = middle[sizes == base]
        ax.plot([base], at_base, "*", color=STYLES[engine]["color"], ms=10, zorder=3)
    low = np.median(data[f"{axis}_seconds"], axis=2).min(0)
    ends = sizes[-3:]
    if axis == "members":
        ax.plot(ends, np.full(3, low[-1] / 2), color="black", ls="--", lw=1, label="constant")
    else:
        ax.plot(ends, low[-1] / 2 * ends / ends[-1], ":k", label="linear")
    least, most = data[f"gain_{axis}_least"], data[f"gain_{axis}_most"]
    ax.set_title(f"rows {least:.2g} to {most:.2g} x as fast")
    ax.set(xscale="log", yscale="log", xlabel=LABELS.get(axis, axis))
    ticks = sizes if len(sizes) < 7 else sizes[::2]
    ax.set_xticks(ticks, [f"{t:,}" for t in ticks])
    ax.set_xticks([], minor=True)
