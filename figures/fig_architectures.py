"""The SAE that reconstructs best is not the one that finds the features.

Every architecture at several sparsities, in three worlds with the same expected number of active
features: independent ones, a hierarchy (children fire only with their parent and exclude their
siblings), and features of which some are a hundred times rarer than others. The tied linear
autoencoder reconstructs best and finds nothing. Of the sparse SAEs, taking architecture and
sparsity of lowest fvu loses features in the hierarchy and where features are rare. At the true l0,
among the architectures whose l0 is set, fvu ranks them as recovery does in the hierarchy and the
other way round where features are rare: JumpReLU reconstructs better than TopK in every world, and
finds more features in the hierarchy but fewer independent ones. Points: mean and range over worlds
(a fresh dictionary, data stream and initialisation each). Lines: chance, for rays and (dotted) for
the signed latents of AbsTopK and TiedLinear; no random latents recover a feature.
"""

from dataclasses import dataclass, replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

import sae as saes
from figures.runs import device, map_cached, require
from sae import SAE, TrainConfig, train
from theory import recovery
from toymodels import Hierarchy, Independent, ToyDistribution, ToyModel, random_unit, stream

N_FEATURES, D_IN, N_LATENTS, TRUE_L0 = 40, 20, 48, 2
N_EVAL = 4096
KINDS = ("independent", "hierarchical", "rare")
SET_L0 = ("TopK", "MultiTopK", "HierarchicalTopK", "BatchTopK", "MatryoshkaBatchTopK")
SET_L0 += ("AbsTopK", "MatchingPursuit", "JumpReLU")
PENALISED = ("ReLU", "Gated", "MatryoshkaReLU", "TiedReLU")
DENSE = "TiedLinear"  # no dial of sparsity: one SAE stands for all sparsities
FEW = 0.05  # share of the features: two of forty, which random latents reach less than once in 1e4


@dataclass(frozen=True)
class Config:
    """Worlds of each kind, architectures, the l0s asked for, training; which kinds of world."""

    n_worlds: int
    architectures: tuple[str, ...] = (*SET_L0, *PENALISED, DENSE)
    l0s: tuple[int, ...] = (1, 2, 4)
    n_steps: int = 200
    batch_size: int = 128
    lr: float = 2e-2
    kinds: tuple[str, ...] = KINDS
    decoder_trained: bool = True


SOME = ("TopK", "BatchTopK", "MatryoshkaBatchTopK", "MatchingPursuit", "JumpReLU", "ReLU", "Gated")
CONFIGS = {
    "smoke": Config(2, ("TopK", "JumpReLU", DENSE), (2,), n_steps=90, kinds=KINDS[:2]),
    "quick": Config(5, (*SOME, DENSE)),
    "paper": Config(8, l0s=(1, 2, 4, 8), n_steps=800, batch_size=256, lr=1e-2),
}


@dataclass(frozen=True)
class Run:
    """One architecture at all sparsities, in world `seed` of one kind."""

    seed: int
    kind: str
    architecture: str
    l0s: tuple[int, ...]
    n_steps: int
    batch_size: int
    lr: float
    decoder_trained: bool


def law(kind: str) -> ToyDistribution:
    """Returns the law of the codes: TRUE_L0 active features are expected in each kind of world."""
    if kind == "independent":
        return Independent(N_FEATURES, TRUE_L0 / N_FEATURES)
    if kind == "hierarchical":  # eight roots; each of its four children has a fifth of its root
        n_roots = N_FEATURES // 5
        return Hierarchy.regular(n_roots, 4, 1, TRUE_L0 / (1.8 * n_roots), 0.2)
    probs = torch.logspace(0, -2, N_FEATURES, dtype=torch.float64)
    return Independent(N_FEATURES, TRUE_L0 * probs / probs.sum())


def untrained(architecture: str, l0: int, generator: torch.Generator) -> SAE:
    """Returns a fresh SAE of this l0, or with a penalty of 1 / l0, which gives roughly as much."""
    cls = getattr(saes, architecture)
    options: dict[str, Any] = {"generator": generator}
    if architecture.startswith("Matryoshka"):
        options["prefixes"] = (N_LATENTS // 4, N_LATENTS // 2, N_LATENTS)
    if architecture == "MultiTopK":
        return cls(D_IN, N_LATENTS, (l0, 4 * l0), (1.0, 1 / 8), **options)
    if architecture == "JumpReLU":
        options |= {"target_l0": float(l0), "initial_threshold": 0.1, "bandwidth": 0.1}
        return cls(D_IN, N_LATENTS, 1.0, **options)
    if architecture == DENSE:
        return cls(D_IN, N_LATENTS, **options)
    # A penalty shrinks a lone latent by half of itself: 2 would leave nothing but to gates, which
    # are not the latents' magnitudes.
    penalty = (2 if architecture == "Gated" else 1) / l0
    return cls(D_IN, N_LATENTS, l0 if architecture in SET_L0 else penalty, **options)


def architecture_run(run: Run) -> dict[str, np.ndarray]:
    """Returns for each sparsity what was recovered and how well x was reconstructed; chance."""
    dictionary = random_unit(N_FEATURES, D_IN, generator=stream(run.seed, "dictionary", device()))
    world = ToyModel(law(run.kind), dictionary)
    l0s = run.l0s[:1] if run.architecture == DENSE else run.l0s
    fresh = [untrained(run.architecture, l0, stream(run.seed, "init", device())) for l0 in l0s]
    settings = {"lr": run.lr, "decay": 0.5, "dead_after": 5_000, "n_records": 2}
    config = TrainConfig(run.n_steps, run.batch_size, **settings)
    after = train(fresh, world, config, generator=stream(run.seed, "train", device())).saes
    x = world.sample(N_EVAL, generator=stream(run.seed, "eval", device())).x
    rows = []
    for sae in after if run.decoder_trained else fresh:
        found = recovery(dictionary.vectors, sae.W_dec.detach(), signed=not sae.signed)
        with torch.no_grad():
            output = sae(x)
        active = output.latents != 0
        fvu = (x - output.x_hat).square().sum() / (x - x.mean(0)).square().sum()
        row = {"share": found.recovered.double().mean(), "cosine": found.score, "fvu": fvu}
        row |= {"l0": active.sum() / len(x), "dead": (~active.any(0)).double().mean()}
        row |= {"chance": found.chance, "chance_share": found.recovered_bound}
        rows.append({name: float(value) for name, value in row.items()})
    rows *= len(run.l0s) // len(rows)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def compute(cfg: Config) -> dict[str, np.ndarray]:
    cells = [(w, k, a) for w in range(cfg.n_worlds) for k in cfg.kinds for a in cfg.architectures]
    settings = (cfg.l0s, cfg.n_steps, cfg.batch_size, cfg.lr, cfg.decoder_trained)
    results = map_cached(architecture_run, [Run(*cell, *settings) for cell in cells])
    shape = (cfg.n_worlds, len(cfg.kinds), len(cfg.architectures), len(cfg.l0s))
    data = {
        f"{name}_by_world": np.stack([r[name] for r in results]).reshape(shape)
        for name in ("share", "cosine", "fvu", "l0", "dead")
    }
    data |= {"architectures": np.array(cfg.architectures), "kinds": np.array(cfg.kinds)}
    data["true_l0"] = np.array(TRUE_L0)
    for name in ("chance", "chance_share"):  # of the sizes and of the sign rule alone
        data[name] = np.array([r[name][0] for r in results[: len(cfg.architectures)]])
    at_truth = cfg.l0s.index(TRUE_L0)
    data["at_truth"] = np.array(at_truth)
    share, fvu = data["share_by_world"], data["fvu_by_world"]
    is_set = np.isin(cfg.architectures, SET_L0)
    data["rank_by_world"] = np.array(
        [
            [
                rank_correlation(-fvu[w, k, is_set, at_truth], share[w, k, is_set, at_truth])
                for k in range(len(cfg.kinds))
            ]
            for w in range(cfg.n_worlds)
        ]
    )
    sparse = np.array(cfg.architectures) != DENSE
    data["loss_by_world"] = loss_of_choice(share[:, :, sparse], fvu[:, :, sparse])
    for i, kind in enumerate(cfg.kinds):
        data[f"rank_{kind}"] = data["rank_by_world"][:, i].mean()
        data[f"loss_{kind}"] = data["loss_by_world"][:, i].mean()
        for j, architecture in enumerate(cfg.architectures):
            data[f"share_{kind}_{architecture.lower()}"] = share[:, i, j, at_truth].mean()
    return data


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Returns Spearman's correlation, ties at their mean rank; 0 where one of them is constant."""
    ranks = np.stack([stats.rankdata(a), stats.rankdata(b)])
    if np.any(np.ptp(ranks, axis=1) == 0):
        return 0.0
    return float(np.corrcoef(ranks)[0, 1])


def loss_of_choice(share: np.ndarray, fvu: np.ndarray) -> np.ndarray:
    """Returns the share of features lost by taking the SAE of lowest fvu, [n_worlds, n_kinds].

    The other choice is the architecture and sparsity with the highest mean share in the *other*
    worlds, so that it does not profit from the noise of the world in which both are compared.
    """
    share, fvu = (a.reshape(*a.shape[:2], -1) for a in (share, fvu))
    others = (share.sum(0) - share) / (len(share) - 1)
    chosen, best = fvu.argmin(-1)[..., None], others.argmax(-1)[..., None]
    return (np.take_along_axis(share, best, -1) - np.take_along_axis(share, chosen, -1))[..., 0]


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    names, at_truth = list(cfg.architectures), int(data["at_truth"])
    share, fvu = data["share_by_world"], data["fvu_by_world"]
    margins = {}
    for j, name in enumerate(names):
        if name != DENSE:
            best = share[:, :, j].mean(0).max(-1)
            margins[f"{name} finds features at its best l0, in each kind of world"] = np.min(
                best - FEW
            )
    dense, rest = names.index(DENSE), [j for j, name in enumerate(names) if name != DENSE]
    margins[f"{DENSE} reconstructs best"] = np.min(fvu[:, :, rest] - fvu[:, :, [dense]])
    margins[f"{DENSE} finds no feature"] = FEW - share[:, :, dense].max()
    jump, top = names.index("JumpReLU"), names.index("TopK")
    better = fvu[:, :, top, at_truth] - fvu[:, :, jump, at_truth]
    margins["JumpReLU reconstructs better than TopK, in each kind of world"] = np.min(
        [low_end(better[:, i]) for i in range(len(cfg.kinds))]
    )
    more = share[:, :, jump, at_truth] - share[:, :, top, at_truth]
    independent, hierarchical = (cfg.kinds.index(kind) for kind in ("independent", "hierarchical"))
    margins["JumpReLU finds more than TopK in the hierarchy"] = low_end(more[:, hierarchical])
    margins["JumpReLU finds fewer than TopK if independent"] = low_end(-more[:, independent])
    if cfg.n_worlds > 2:
        loss, rank = data["loss_by_world"], data["rank_by_world"]
        rare = cfg.kinds.index("rare")
        for i in (hierarchical, rare):
            margins[f"taking the lowest fvu loses features, {KINDS[i]}"] = low_end(loss[:, i])
        margins["fvu ranks as recovery does in the hierarchy"] = low_end(rank[:, hierarchical])
        margins["fvu ranks the other way round among rare features"] = low_end(-rank[:, rare])
    return require(margins)


def low_end(values: np.ndarray) -> float:
    """Returns the lower end of the one-sided 95 % interval (Student) for the mean over worlds.

    Of two worlds, which give no interval worth the name, it is the mean.
    """
    n = len(values)
    radius = stats.t.ppf(0.95, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 2 else 0.0
    return float(values.mean() - radius)


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with every SAE left as it was initialised."""
    return compute(replace(cfg, decoder_trained=False))


COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#999999", "#000000", "#E69F00")
ROWS = {"share": "share recovered", "cosine": "mean cosine", "fvu": "fvu", "dead": "dead latents"}
CHANCE = {"chance": "-", "chance, signed latents": ":"}


def plot(data: dict[str, np.ndarray]) -> Figure:
    names, kinds = data["architectures"].tolist(), data["kinds"].tolist()
    fig, axes = plt.subplots(len(ROWS) + 1, len(kinds), figsize=(8.6, 10.4), sharey="row")
    for i, kind in enumerate(kinds):
        axes[0, i].set_title(f"{kind} features")
        for ax, (name, label) in zip(axes[:, i], ROWS.items(), strict=False):
            for j, architecture in enumerate(names):
                x, y = data["l0_by_world"][:, i, j], data[f"{name}_by_world"][:, i, j]
                only = slice(0, 1) if architecture == DENSE else slice(None)
                _points(ax, x[:, only], y[:, only], architecture)
            true_l0 = float(data["true_l0"])
            ax.axvline(true_l0, color="black", lw=0.8, ls=(0, (4, 3)), label="true l0")
            ax.set_xscale("log")
            ax.set_xticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
            ax.set_xticks([], minor=True)
            ax.set_xlabel("l0" if name == "dead" else "")
            if i == 0:
                ax.set_ylabel(label)
        levels = {"cosine": data["chance"], "share": data["chance_share"]}
        for row, level in ((list(ROWS).index(name), level) for name, level in levels.items()):
            for value, (label, style) in zip(np.unique(level), CHANCE.items(), strict=False):
                axes[row, i].axhline(value, color="#999999", ls=style, zorder=0.5, label=label)
        ax, t = axes[-1, i], int(data["at_truth"])
        for j, architecture in enumerate(names):
            if architecture in SET_L0:
                x, y = (data[f"{n}_by_world"][:, i, j, t] for n in ("fvu", "share"))
                _points(ax, x[:, None], y[:, None], architecture)
        rank = data["rank_by_world"][:, i]
        text = f"rank correlation {rank.mean():+.2f}\n({rank.min():+.2f} to {rank.max():+.2f})"
        text = text.replace("-", "\u2212")
        ax.text(0.97, 0.96, text, transform=ax.transAxes, ha="right", va="top", fontsize=8)
        ax.set_xlabel("fvu at the true l0  (better \u2190)")
    axes[-1, 0].set_ylabel("share recovered")
    axes[-1, 0].set_ylim(-0.03, 1.35)
    axes[-1, 0].set_yticks([0, 0.25, 0.5, 0.75, 1])
    handles, labels = axes[1, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=5)
    return fig


def _points(ax: Axes, x: np.ndarray, y: np.ndarray, architecture: str) -> None:
    """Means over worlds, joined along the sparsities, with the range over worlds of y."""
    order = np.argsort(x.mean(0))
    x, y = x.mean(0)[order], y[:, order]
    spread = np.stack([y.mean(0) - y.min(0), y.max(0) - y.mean(0)]).clip(min=0)  # rounding
    style: dict[str, Any]
    if architecture == DENSE:
        style = {"color": "black", "marker": "*", "ms": 8.0, "ls": ""}
    elif architecture in SET_L0:
        style = {"color": COLOURS[SET_L0.index(architecture)], "marker": "o", "ls": "-"}
    else:
        colour = COLOURS[2 * PENALISED.index(architecture)]
        style = {"color": colour, "marker": "s", "mfc": "white", "ls": "--"}
    ax.errorbar(x, y.mean(0), yerr=spread, elinewidth=0.7, capsize=0, label=architecture, **style)
