"""Toy SAEs train eight to thirty times as fast here as in sae-lens, on the same data and processor.

Drawn from the committed figures/reference/bench_throughput.json, which `make bench` writes. TopK
SAEs in two worlds, in SAE-samples per second (a sample counts once for each SAE trained on it),
over those of sae-lens; drawing the data is included on all sides. Other trainers take one SAE at a
time, with one thread or two, whichever is faster; ours an ensemble (its members: the number on the
axis) that shares its batches, from x or from the sparse codes behind it. Asserted, for 8 members or
more: on two threads 10 times sae-lens from x and 30 times from codes in the small world, 8 times
in the large one; from codes more than dense arithmetic could reach at best; and two threads 1.8
times as fast as one or more. Dashed, the limit of dense arithmetic: 2 P / (6 n_latents d_in)
samples per second on two threads, with P the multiply-adds per second of one thread in a float32
matmul of 1,024 x 1,024 in the same run, and six products of n_latents d_in a sample: to encode, to
decode and two each for their gradients. Points: median and range over turns, in which the trainers
followed one another; ratios are taken within a turn. Right: fresh runs confirm that what was timed
learns: after as many steps on the same batches the engines have found as many features, their means
nearer to one another than worlds are (one standard deviation). Points there: worlds (a fresh
dictionary, data stream and initialisation each); bars: means.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.bench_throughput import RESULTS
from figures.peers import DISTRIBUTIONS
from figures.runs import map_cached, require
from sae import TopK, TrainConfig, train
from theory import recovery
from toymodels import Independent, ToyModel, random_unit, stream

CASES = ("small", "large")
TARGETS = {("small", "from x"): 10, ("small", "from codes"): 30}
TARGETS |= {("large", "from x"): 8, ("large", "from codes"): 8}
THREADS = 1.8  # what a second thread makes of the rate, at least
MANY = 8  # members from which the targets hold
OURS = ("eager", "from x", "from codes")  # the first is the reference of the others
MULTIPLY_ADDS = 6  # of n_latents * d_in, a sample, where nothing is sparse
HALF = 0.5  # of the features; untrained latents recover none


@dataclass(frozen=True)
class Config:
    """Fresh runs; swapped=True exchanges the times of sae-lens and of the fastest of ours."""

    n_worlds: int
    n_features: int = 256
    d_in: int = 64
    k: int = 5
    n_steps: int = 300
    batch_size: int = 1024
    swapped: bool = False


CONFIGS = {
    "smoke": Config(3, 64, 32, 2, n_steps=200, batch_size=256),
    "quick": Config(3),
    "paper": Config(8, n_steps=1000),
}


@dataclass(frozen=True)
class Run:
    """One of OURS in world `seed`."""

    seed: int
    trainer: str
    n_features: int
    d_in: int
    k: int
    n_steps: int
    batch_size: int


def learning_run(run: Run) -> dict[str, np.ndarray]:
    """Returns the share of features recovered before and after; on the CPU, like the benchmark."""
    dictionary = random_unit(run.n_features, run.d_in, generator=stream(run.seed, "dictionary"))
    world = ToyModel(Independent(run.n_features, 0.02), dictionary)
    source = _x_only(world) if run.trainer == "from x" else world
    engine = "eager" if run.trainer == "eager" else "rows"
    sae = TopK(run.d_in, run.n_features, run.k, generator=stream(run.seed, "init"))
    config = TrainConfig(run.n_steps, run.batch_size, lr=3e-2, decay=0.5, n_records=2)
    generator = stream(run.seed, "train")
    trained = train(sae, source, config, generator=generator, engine=engine).sae
    shares = {
        name: recovery(dictionary.vectors, s.W_dec.detach()).recovered.double().mean()
        for name, s in {"before": sae, "after": trained}.items()
    }
    return {name: share.numpy() for name, share in shares.items()}


def _x_only(world: ToyModel) -> Callable:
    return lambda n, *, generator: world.sample(n, generator=generator).x


def compute(cfg: Config) -> dict[str, np.ndarray]:
    measured = json.loads(RESULTS.read_text())
    peak = measured["limits"]["matmul_gflops"] * 1e9
    data = {"peers": np.array([p for p in DISTRIBUTIONS if p in measured["machine"]["versions"]])}
    data["absent"] = np.array([p for p in DISTRIBUTIONS if p not in data["peers"]], dtype="U32")
    for case in measured["cases"]:
        name, rates = case["name"], _entries(case["rates"])
        if cfg.swapped:
            rates = _swapped(rates)
        reference = rates["sae-lens", 1, _better(rates, "sae-lens")]
        kept = [e for e in rates if e[0] in OURS or e[2] == _better(rates, e[0])]
        data[f"{name}_trainers"] = np.array([e[0] for e in kept])
        data[f"{name}_members"] = np.array([e[1] for e in kept])
        data[f"{name}_threads"] = np.array([e[2] for e in kept])
        data[f"{name}_rates"] = np.array([np.median(rates[e]) for e in kept])
        data[f"{name}_ratios"] = np.array([rates[e] / reference for e in kept])
        flops = 2 * MULTIPLY_ADDS * case["n_latents"] * case["d_in"]
        data[f"{name}_dense"] = 2 * peak / flops / np.median(reference)
        data[f"{name}_sizes"] = np.array([case[s] for s in ("n_features", "d_in", "k")])
        for trainer in OURS[1:]:
            both = [np.median(rates[trainer, MANY, t] / reference) for t in (1, 2)]
            slug = f"{name}_{trainer.replace(' ', '_')}"
            data[f"times_{slug}"] = np.array(both[1])
            data[f"threads_{slug}"] = np.array(both[1] / both[0])
    cells = [(seed, trainer) for seed in range(cfg.n_worlds) for trainer in OURS]
    sizes = (cfg.n_features, cfg.d_in, cfg.k, cfg.n_steps, cfg.batch_size)
    found = map_cached(learning_run, [Run(*cell, *sizes) for cell in cells])
    for when in ("before", "after"):
        shares = np.array([f[when] for f in found]).reshape(cfg.n_worlds, len(OURS))
        data[f"{when}_by_world"] = shares
    return data


Entry = tuple[str, int, int]  # trainer, members, threads


def _entries(rates: dict[str, list[float]]) -> dict[Entry, np.ndarray]:
    """The rates, [n_turns], of "from x, 8 members, 2 threads" under ("from x", 8, 2)."""
    parts = {key: key.rsplit(", ", 2) for key in rates}
    return {
        (trainer, int(members.split()[0]), int(threads.split()[0])): np.array(rates[key])
        for key, (trainer, members, threads) in parts.items()
    }


def _better(rates: dict[Entry, np.ndarray], trainer: str) -> int:
    """The number of threads at which one SAE is trained faster."""
    threads = [entry[2] for entry in rates if entry[:2] == (trainer, 1)]
    return max(threads, key=lambda n: float(np.median(rates[trainer, 1, n])))


def _swapped(rates: dict[Entry, np.ndarray]) -> dict[Entry, np.ndarray]:
    theirs = "sae-lens", 1, _better(rates, "sae-lens")
    fastest = max((e for e in rates if e[0] in OURS), key=lambda e: float(np.median(rates[e])))
    return {**rates, theirs: rates[fastest], fastest: rates[theirs]}


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    margins = {}
    for case in CASES:
        trainers, members, threads, ratios = _columns(data, case)
        middle = np.median(ratios, axis=1)
        many = members >= MANY
        for trainer in OURS[1:]:
            both = many & (threads == 2) & (trainers == trainer)
            if (case, trainer) in TARGETS:
                target = TARGETS[case, trainer]
                title = f"{case}, {trainer}: at least {target} x sae-lens"
                margins[title] = np.min(middle[both]) / target - 1
            alone = many & (threads == 1) & (trainers == trainer)
            gains = np.median(ratios[both] / ratios[alone], axis=1)
            title = f"{case}, {trainer}: two threads at least {THREADS} x one"
            margins[title] = np.min(gains) / THREADS - 1
        dense = float(data[f"{case}_dense"])
        codes = many & (threads == 2) & (trainers == "from codes")
        margins[f"{case}, from codes: beyond dense arithmetic"] = np.min(middle[codes]) / dense - 1
        plain = middle[trainers == "plain torch"]  # else the peak was measured on a busy machine
        margins[f"{case}: plain torch is not"] = 1 - np.max(plain) / dense
    before, after = data["before_by_world"], data["after_by_world"]
    margins["training finds half of the features"] = np.min(after - before) - HALF
    apart = np.abs(after.mean(0) - after.mean(0)[0]).max()
    margins["the engines differ by less than worlds do"] = after[:, 0].std(ddof=1) - apart
    return require(margins)


def _columns(data: dict[str, np.ndarray], case: str) -> tuple[np.ndarray, ...]:
    return tuple(data[f"{case}_{name}"] for name in ("trainers", "members", "threads", "ratios"))


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with the times of sae-lens and of the fastest of ours exchanged."""
    return compute(replace(cfg, swapped=True))


THEIRS, COLOURS = "#555555", dict(zip(OURS, ("#009E73", "#0072B2", "#D55E00"), strict=True))
BLANK = {"fc": "white", "ec": "none", "pad": 0.8}  # lines end at text


def plot(data: dict[str, np.ndarray]) -> Figure:
    fig, axes = plt.subplots(1, 3, figsize=(9.4, 4.4), width_ratios=(1, 1, 0.36))
    for ax, case in zip(axes, CASES, strict=False):
        _draw_case(ax, data, case)
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    _draw_learning(axes[2], data["after_by_world"])
    return fig


def _draw_case(ax: Axes, data: dict[str, np.ndarray], case: str) -> None:
    trainers, members, threads, ratios = _columns(data, case)
    n_features, d_in, k = data[f"{case}_sizes"]
    keys = list(dict.fromkeys(zip(trainers.tolist(), members.tolist(), strict=True)))
    middle = np.median(ratios, axis=1)
    spread = np.stack([middle - ratios.min(1), ratios.max(1) - middle])
    for row, (trainer, n_members) in enumerate(keys):
        colour = COLOURS.get(trainer, THEIRS)
        here = np.flatnonzero((trainers == trainer) & (members == n_members))
        ax.plot(middle[here], [row] * len(here), color=colour, lw=2.5, alpha=0.35)
        for i in here:
            fill = colour if threads[i] == 2 else "white"
            style = {"color": colour, "mfc": fill, "marker": "o", "ms": 5}
            ax.errorbar(middle[i], row, xerr=spread[:, [i]], elinewidth=0.8, capsize=0, **style)
        best = here[np.argmax(middle[here])]
        text = f"{middle[best]:.2g} x, {_short(float(data[f'{case}_rates'][best]))}/s"
        right = ratios[here].max()
        if n_members >= MANY and (case, trainer) in TARGETS:
            target = TARGETS[case, trainer]
            ax.vlines(target, row - 0.5, row + 0.5, color="black", ls=":", lw=1.6)
            right = max(right, target)
        place = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
        ax.annotate(text, (right, row), fontsize=7, bbox=BLANK, **place)
    ax.axvline(1, color="#999999", lw=0.8)
    ax.axvline(float(data[f"{case}_dense"]), color="#CC79A7", ls="--", lw=1.4)
    _legend_entries(ax)
    labels = [_label(trainer, n, i) for i, (trainer, n) in enumerate(keys)]
    ax.set_yticks(range(len(keys)), labels)
    ax.set_ylabel("trainer (ours: members)" if case == CASES[0] else "")
    ax.set_ylim(len(keys) - 0.5, -0.9)
    ax.set_xscale("log")
    ax.set_xlim(0.4, 7 * ratios.max())
    ticks = [t for t in (0.5, 1, 2, 5, 10, 20, 50, 100) if t < 3 * ratios.max()]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_xticks([], minor=True)
    title = f"{case}: {n_features:,} features, d_in = {d_in}, k = {k}"
    ax.set(xlabel="times the SAE-samples/s of sae-lens", title=title)
    ax.grid(axis="y", visible=False)
    if case == "small" and len(data["absent"]):
        note = "not installed: " + ", ".join(data["absent"].tolist())
        ax.text(1, 0.97, note, transform=ax.transAxes, ha="right", fontsize=7, bbox=BLANK)


def _label(trainer: str, n_members: int, row: int) -> str:
    if trainer not in OURS:
        return trainer
    return f"ours, {trainer}" if trainer == "eager" else f"{trainer}, {n_members}"


def _short(rate: float) -> str:
    return f"{rate / 1e6:.1f} M" if rate >= 1e6 else f"{rate / 1e3:.3g} k"


def _legend_entries(ax: Axes) -> None:
    circle = {"color": THEIRS, "marker": "o", "ms": 5, "ls": ""}
    ax.plot([], [], mfc="white", label="1 thread", **circle)
    ax.plot([], [], label="2 threads", **circle)
    ax.plot([], [], ":k", lw=1.6, label="at least")
    ax.plot([], [], color="#CC79A7", ls="--", label="dense arithmetic at its best")


def _draw_learning(ax: Axes, shares: np.ndarray) -> None:
    for i, trainer in enumerate(OURS):
        at = np.full(len(shares), i)
        ax.plot(at, shares[:, i], "o", color=COLOURS[trainer], ms=5, mfc="none")
        ax.plot(i, shares[:, i].mean(), "_", color=COLOURS[trainer], ms=16, mew=2)
    ax.axhline(0, color="#999999", lw=0.8)
    ax.set_xticks(range(len(OURS)), OURS, rotation=40, ha="right")
    ax.set(xlim=(-0.6, len(OURS) - 0.4), ylim=(-0.02, 1.02), title="equal steps")
    ax.set(ylabel="share of features recovered", xlabel="fresh runs")
