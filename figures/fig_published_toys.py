"""Three published toy experiments, run again: a table, a sweep, and composed features.

Top: Ordered SAE's table (Wang et al. 2025), crosses as published. After half a pass over the
100,000 samples (three passes at preset paper) TopK is above its published row in every world, and
its loss below the one published for the ordered SAE: the table compares under-trained SAEs. The
ordered SAE's lead in true features, published as .335 over TopK, is at most half of that in every
world. Its latents come in the order of the features (published: .734), and TopK's in none; but so
do those of both Matryoshka SAEs, better in every world than the .119 and .054 published for them.

Middle: Sharkey's sweep (Sharkey, Braun and Millidge 2022), smaller. There is a cell in which the
features are found. Agreement with the next wider dictionary, which needs no truth, chooses the
penalty for a given width (circles; crosses: the best) better than chance. It does not choose the
width: over all cells it favours (star) a dictionary narrower than the world, and loses more.

Bottom: composed features (Anders et al. 2024), two sets of which one feature each fires. That they
are found whatever the penalty or learning rate, even when a feature is alone in 75 % of samples, is
false here: from the published penalty of .3 on, in all worlds and at all rates, most latents are
composed in sets of 2 if no feature is ever alone, and most are true features if 75 % are. The
dotted line is where both bases cost the same in the limit of a small penalty, (6 - 4 sqrt 2) /
(3 - sqrt 2) = .216. In sets of 4 in 4 dimensions fewer latents than by chance are composed, in
every world. Published were features of a trained toy model; here they are declared: opposite pairs
on orthogonal axes.

Points: mean and range over worlds (fresh directions where random, data and initialisation). Grey:
chance, for the order the band of a random order at 1 in 1,000.
"""

from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from figures.published_toys_runs import (
    KINDS,
    Composed,
    ComposedRun,
    Sweep,
    SweepRun,
    Table,
    TableRun,
    composed_run,
    sweep_run,
    table_run,
)
from figures.runs import map_cached, require

PUBLISHED = {
    "same": (0.572, 0.538, 0.531, 0.664),
    "truth": (0.479, 0.502, 0.480, 0.814),
    "order": (0.016, 0.119, 0.054, 0.734),
    "loss": (0.0257, 0.0339, 0.0309, 0.00725),
}
PUBLISHED_PENALTY = 0.3
RECOVERED = 0.9
LONE_TIE = (6 - 4 * 2**0.5) / (3 - 2**0.5)  # from costs of 1 and 2 sqrt 2 / 3, 1/2 and sqrt 2 / 2
ALPHA = 1e-3  # of the order's band under the null


@dataclass(frozen=True)
class Config:
    """Worlds of the table and the sweep, and of the composed features; the three settings."""

    n_worlds: int
    n_composed_worlds: int
    table: Table
    sweep: Sweep
    composed: Composed


CONFIGS = {
    "smoke": Config(
        2,
        2,
        Table((2, 55), 48, n_features=32, d_in=24, k=3, n_samples=2000),
        Sweep(16, 8, (-4, -2, 0, 2), (-1, 0, 1), 150, 48),
        Composed((0.0, 0.75), (0.3,), (0.1,), 150, 48),
    ),
    "quick": Config(
        3,
        5,
        Table((50, 400), 128),
        Sweep(64, 32, (-6, -4, -2, 0, 2, 4, 6), (-2, -1, 0, 1, 2), 800, 256),
        Composed((0.0, 0.1, 0.3, 0.75), (0.03, 0.3, 1.0), (0.02, 0.06), 800, 128),
    ),
    "paper": Config(
        8,
        8,
        Table((100, 400, 1200), 256),
        Sweep(128, 64, tuple(range(-8, 9, 2)), (-2, -1, 0, 1, 2), 1000, 256),
        Composed((0.0, 0.1, 0.2, 0.3, 0.5, 0.75), (0.03, 0.1, 0.3, 1.0), (0.02, 0.06), 1500, 128),
    ),
}


def compute(cfg: Config) -> dict[str, np.ndarray]:
    worlds = range(cfg.n_worlds)
    tables = map_cached(table_run, [TableRun(w, cfg.table) for w in worlds])
    data = {f"{name}_by_world": np.stack([t[name] for t in tables]) for name in PUBLISHED}
    data |= {f"{name}_published": np.array(values) for name, values in PUBLISHED.items()}
    data |= {name: np.array(tables[0][name].flat[0]) for name in ("same_chance", "truth_chance")}
    data["order_band"] = np.array(order_band(cfg))
    for i, kind in enumerate(("topk", "fixed", "drawn", "ordered")):
        for name in PUBLISHED:
            data[f"{name}_{kind}"] = data[f"{name}_by_world"][:, -1, i].mean()

    sweeps = map_cached(sweep_run, [SweepRun(w, cfg.sweep) for w in worlds])
    for name in ("truth", "dead", "agreement"):
        data[f"map_{name}_by_world"] = np.stack([s[name] for s in sweeps])
        data[f"map_{name}"] = data[f"map_{name}_by_world"].mean(0)
    data["exponents"] = np.array(cfg.sweep.exponents)
    data["log_ratios"] = np.array(cfg.sweep.log_ratios)
    data["map_chance"] = np.mean([s["chance"] for s in sweeps], axis=0)
    data["best_cell"] = data["map_truth_by_world"].max((1, 2)).mean()
    chosen = [choice(s["truth"], s["agreement"]) for s in sweeps]
    for name in chosen[0]:
        data[f"choice_{name}_by_world"] = np.array([c[name] for c in chosen])
        data[f"choice_{name}"] = data[f"choice_{name}_by_world"].mean()
    favourites = data["choice_width_by_world"].astype(int)
    data["favourite_log_ratio_by_world"] = np.array(cfg.sweep.log_ratios)[favourites]
    data |= composed(cfg)
    settings = {"n_worlds": cfg.n_worlds, "samples": cfg.table.batch_size * cfg.table.budgets[-1]}
    return data | {name: np.array(value) for name, value in settings.items()}


def composed(cfg: Config) -> dict[str, np.ndarray]:
    """Returns shares and cosines for sets of 2, and for sets of 4 at the ends of lone_probs."""
    cells = cfg.composed
    data: dict[str, np.ndarray] = {"penalties": np.array(cells.penalties)}
    ends = (cells.lone_probs[0], cells.lone_probs[-1])
    for size, lone_probs in ((2, cells.lone_probs), (4, ends)):
        worlds = range(cfg.n_composed_worlds)
        runs = [ComposedRun(w, size, h, cells) for w in worlds for h in lone_probs]
        found = map_cached(composed_run, runs)
        for name in ("share", "composed"):
            array = np.stack([f[name] for f in found])
            shape = (len(worlds), len(lone_probs), *array.shape[1:])
            data[f"{name}_{size}_by_world"] = array.reshape(shape)
        data[f"lone_probs_{size}"] = np.array(lone_probs)
        data[f"composed_chance_{size}"] = np.array([f["chance"] for f in found]).mean()
    from_published = data["penalties"] >= PUBLISHED_PENALTY
    data["edges"] = np.linspace(0.7, 1, 16)
    for name, i in (("never", 0), ("mostly", -1)):
        share = data["share_2_by_world"][:, i, from_published]
        data[f"composed_{name}_alone"] = share.mean()
        cosines = data["composed_2_by_world"][:, i, from_published].clip(0.7, 1)
        counts = np.histogram(cosines[~np.isnan(cosines)], data["edges"])[0]
        data[f"histogram_{name}_alone"] = counts / counts.sum()
    data["composed_sets_of_4"] = data["share_4_by_world"].mean()
    return data


def order_band(cfg: Config) -> float:
    """Returns what the mean |Spearman| of all pairs (n_worlds, two SAEs each) stays below with
    probability 1 - ALPHA if latents are in random order: its variance is 1 / (n_features - 1)."""
    n = 2 * cfg.n_worlds * (cfg.table.n_features - 1)
    return float(stats.norm.ppf(1 - ALPHA / 2) / np.sqrt(n))


def choice(truth: np.ndarray, agreement: np.ndarray) -> dict[str, np.ndarray | float]:
    """Returns what is lost by taking the cell of best agreement, of MMCS to the truth.

    loss: given the width, averaged over widths; random: by a penalty drawn at random; overall: over
    all cells; overall_random: by a cell drawn at random; penalty, width: where the best one is.
    """
    truth = truth[:, :-1]  # the widest has no wider one to agree with
    taken = np.take_along_axis(truth, agreement.argmax(0)[None], 0)[0]
    penalty, width = np.unravel_index(agreement.argmax(), agreement.shape)
    return {
        "loss": float((truth.max(0) - taken).mean()),
        "random": float((truth.max(0) - truth.mean(0)).mean()),
        "overall": float(truth.max() - truth[penalty, width]),
        "overall_random": float(truth.max() - truth.mean()),
        "penalty": np.array(penalty),
        "width": np.array(width),
    }


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    last = {name: data[f"{name}_by_world"][:, -1] for name in PUBLISHED}
    band, order = float(data["order_band"]), last["order"].mean(0)
    margins = {f"{kind} is in order": order[i] - band for i, kind in enumerate(KINDS) if i > 0}
    margins["TopK is in no order"] = band - abs(order[0])
    if cfg.table.n_features == 100:
        margins |= against_the_published_table(last)
        if cfg.table.budgets[-1] * cfg.table.batch_size > cfg.table.n_samples:
            for name in ("same", "truth"):
                ordered = PUBLISHED[name][-1]
                margins[f"TopK above the published ordered SAE, {name}"] = (
                    last[name][:, 0].min() - ordered
                )
    if cfg.sweep.n_features >= 64:
        margins["there is a cell in which the features are found"] = (
            data["map_truth_by_world"].max((1, 2)).min() - RECOVERED
        )
    lost, blind = data["choice_loss_by_world"], data["choice_random_by_world"]
    margins["agreement chooses the penalty better than chance"] = np.min(blind - lost)
    favourites = data["favourite_log_ratio_by_world"]
    margins["agreement favours a dictionary narrower than the world"] = -0.5 - favourites.max()
    margins["and loses more by it"] = np.min(data["choice_overall_by_world"] - lost)
    share = data["share_2_by_world"][:, :, data["penalties"] >= PUBLISHED_PENALTY]
    chance = data["composed_chance_2"]
    margins["never alone: composed features in sets of 2"] = share[:, 0].min() - chance
    margins["mostly alone: true features in sets of 2"] = chance - share[:, -1].max()
    of_four = data["share_4_by_world"].mean((2, 3))
    margins["true features in sets of 4"] = float(data["composed_chance_4"] - of_four.max())
    return require({name: float(value) for name, value in margins.items()})


def against_the_published_table(last: dict[str, np.ndarray]) -> dict[str, float]:
    margins = {}
    for name in ("same", "truth"):
        margins[f"TopK above its published row, {name}"] = (
            last[name][:, 0].min() - PUBLISHED[name][0]
        )
    loss = last["loss"][:, 0].max()
    margins["TopK's loss below the published ordered SAE's"] = PUBLISHED["loss"][-1] - loss
    lead, published = last["truth"][:, -1] - last["truth"][:, 0], PUBLISHED["truth"]
    half = (published[-1] - published[0]) / 2
    margins["the ordered SAE's lead is at most half the published one"] = half - lead.max()
    for i in (1, 2):
        margins[f"{KINDS[i]} in better order than published"] = (
            last["order"][:, i].min() - PUBLISHED["order"][i]
        )
    return margins


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """All prefix laws put their whole weight on the whole code: no latent comes before another."""
    return compute(replace(cfg, table=replace(cfg.table, nested=False)))


TITLES = {
    "same": "Stab(D, D\u2032): two seeds",
    "truth": "Stab(D, D*): true features",
    "order": "Ord(D, D*): order of latents",
}
MAPS = {"truth": "MMCS to the truth", "dead": "dead latents", "agreement": "MMCS to the next wider"}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def plot(data: dict[str, np.ndarray]) -> Figure:
    fig, axes = plt.subplots(3, 3, figsize=(8.8, 8.6))
    for ax, (name, title) in zip(axes[0], TITLES.items(), strict=True):
        _table(ax, data, name)
        ax.set_title(title)
    axes[0, 0].set_ylabel("mean matched cosine")
    axes[0, 2].set_ylabel("Spearman correlation")
    axes[0, 0].legend(loc="lower center", fontsize=7, ncols=2)
    for ax, (name, title) in zip(axes[1], MAPS.items(), strict=True):
        image = _map(ax, data, name)
        ax.set_title(title)
    fig.colorbar(image, ax=axes[1], label="cosine, or share dead", shrink=0.9, pad=0.01)
    axes[1, 0].set_ylabel("log10 of the penalty")
    for ax, size in zip(axes[2], (2, 4), strict=False):
        _composed(ax, data, size)
    axes[2, 0].set_ylabel("latents nearer to composed")
    axes[2, 0].axvline(LONE_TIE, color="black", ls=":", lw=1)
    axes[2, 0].text(LONE_TIE + 0.02, 1.07, "equal costs", fontsize=7, va="center")
    axes[2, 0].plot([0.78, 0.78], [0.52, 1.05], color="black", lw=3)
    axes[2, 0].text(
        0.765, 0.95, "published:\nwhatever the\npenalty", fontsize=7, ha="right", va="top"
    )
    axes[2, 1].legend(title="penalty", loc=(0.36, 0.22))
    ax, edges = axes[2, 2], data["edges"]
    for (name, label), colour in zip(
        (("never", "never alone"), ("mostly", "mostly alone")), COLOURS, strict=False
    ):
        ax.stairs(data[f"histogram_{name}_alone"], edges, fill=True, color=colour, label=label)
    ax.set(xlabel="best cosine to a composed feature", ylabel="share of latents")
    ax.set_title(f"sets of 2, penalty \u2265 {PUBLISHED_PENALTY}")
    ax.text(0.712, 0.5, "true\nfeatures", fontsize=7, transform=ax.get_xaxis_transform())
    ax.legend(loc="upper center")
    return fig


def _table(ax: Axes, data: dict[str, np.ndarray], name: str) -> None:
    values, x = data[f"{name}_by_world"], np.arange(len(KINDS))
    for i, label in ((0, "shortest run"), (-1, f"{int(data['samples']):,} samples")):
        mean = values[:, i].mean(0)
        spread = np.stack([mean - values[:, i].min(0), values[:, i].max(0) - mean]).clip(min=0)
        filling, colour = "white" if i == 0 else COLOURS[0], COLOURS[0]
        ax.errorbar(x, mean, spread, ls="", marker="o", ms=6, mfc=filling, c=colour, label=label)
    ax.plot(x, data[f"{name}_published"], "kx", ms=7, mew=1.8, label="published")
    if name == "order":
        band = float(data["order_band"])
        ax.axhspan(-band, band, color="#DDDDDD", zorder=0)
        ax.text(3.4, -band + 0.02, "random order", color="#666666", fontsize=7, ha="right")
    else:
        level = float(data[f"{name}_chance"])
        ax.axhline(level, color="#888888", ls="--")
        ax.text(3.4, level + 0.015, "chance", color="#666666", fontsize=7, ha="right")
    ax.set_xticks(x, ["TopK", "Matry-\noshka,\nfixed", "Matry-\noshka,\ndrawn", "Ordered"])
    ax.set_xlabel("")
    ax.set(xlim=(-0.5, 3.5), ylim=(-0.35 if name == "order" else 0, 1))


def _map(ax: Axes, data: dict[str, np.ndarray], name: str):
    values, ratios = data[f"map_{name}"], data["log_ratios"]
    image = ax.imshow(values, origin="lower", aspect="auto", vmin=0, vmax=1)
    ax.set_xlim(-0.5, len(ratios) - 0.5)
    ax.set_xticks(np.arange(len(ratios)), [f"{2.0**r:g}" for r in ratios])
    ax.set_yticks(np.arange(len(data["exponents"])), [f"{e / 4:g}" for e in data["exponents"]])
    ax.set_xlabel("latents per feature")
    ax.grid(visible=False)
    agreement, truth = data["map_agreement"], data["map_truth"]
    widths = np.arange(agreement.shape[1])
    if name != "dead":
        ax.plot(widths, agreement.argmax(0), "o", mfc="none", mec="red", ms=10, label="agrees best")
        penalty, width = np.unravel_index(agreement.argmax(), agreement.shape)
        ax.plot(width, penalty, "*", color="red", ms=7, label="of all widths")
    if name == "truth":
        ax.plot(widths, truth[:, :-1].argmax(0), "kx", ms=6, mew=1.5, label="finds most")
        ax.legend(loc="upper left", fontsize=7, frameon=True)
    if name == "agreement":
        ax.text(len(ratios) - 1, 0.5, "no wider one", rotation=90, ha="center", va="bottom")
    return image


def _composed(ax: Axes, data: dict[str, np.ndarray], size: int) -> None:
    shares, x = data[f"share_{size}_by_world"].mean(-1), data[f"lone_probs_{size}"]
    for i, (penalty, colour) in enumerate(zip(data["penalties"], COLOURS, strict=False)):
        y = shares[:, :, i]
        spread = np.stack([y.mean(0) - y.min(0), y.max(0) - y.mean(0)]).clip(min=0)
        shift = 0.008 * (i - len(data["penalties"]) / 2)  # so that error bars do not overlap
        ax.errorbar(
            x + shift, y.mean(0), yerr=spread, marker="o", color=colour, label=f"{penalty:g}"
        )
    level = float(data[f"composed_chance_{size}"])
    ax.axhline(level, color="#888888", ls="--")
    ax.text(0.6, level + 0.02, "chance", color="#666666", fontsize=7, ha="right")
    ax.set(xlabel="P(a feature is alone)", ylim=(-0.05, 1.12), xlim=(-0.05, 0.8))
    ax.set_title(f"sets of {size} in {size} dimensions")
