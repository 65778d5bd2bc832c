"""The samples of every toy law agree with the moments that it declares, pair by pair.

Each block is one law: which features fire together (phi correlation; declared above the diagonal,
measured below), how many fire at once, how often each one fires, and a few samples. In grey, what
features of the same frequencies would do that fire independently: where the histogram or the matrix
departs from it, firing is structured. Points and bars: mean and range over worlds (fresh samples
each, from the same law). Counts of single features and of pairs pass exact binomial tests and the
mean number of active features Bernstein's bound, in each world and pooled, at a chance of 1e-10 of
any false alarm; `caught_error` is the relative error of a probability of 0.1 that the pooled test
does not miss (99 %). A law without closed co-firing is tested by its single features and its mean.
"""

import math
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure
from scipy import stats

from figures.runs import device, map_cached, require
from theory import smallest_caught_error
from toymodels import ToyDistribution, all_distributions, stream

ALPHA = 1e-10  # chance of any false alarm of the whole figure
N_SHOWN = 24  # samples in a raster


@dataclass(frozen=True)
class Config:
    """Worlds of each law and their samples; permuted=True destroys who fires with whom."""

    n_worlds: int
    n_samples: int = 20_000
    permuted: bool = False


CONFIGS = {"smoke": Config(2), "quick": Config(3, 100_000), "paper": Config(5, 400_000)}


@dataclass(frozen=True)
class Run:
    """The samples of world `seed` of one law."""

    law: ToyDistribution
    seed: int
    n_samples: int
    permuted: bool


def counts_run(run: Run) -> dict[str, np.ndarray]:
    """Returns in how many samples each pair fired, how many fired at once, and a few samples."""
    law, n = run.law, run.n_samples
    name = type(law).__name__
    codes = law.sample(n, generator=stream(run.seed, name, device()))
    support, shown = codes.support(), codes.dense()[:N_SHOWN]
    if run.permuted:
        generator = stream(run.seed, f"{name}, permuted", device())
        order = torch.rand(support.shape, device=device(), generator=generator).argsort(dim=0)
        support, shown = support.gather(0, order), codes.dense().gather(0, order)[:N_SHOWN]
    fires = support.to(torch.float32)  # holds whole numbers up to 2^24
    return {
        "together": (fires.T @ fires).to(torch.int32).cpu().numpy(),
        "active": support.sum(1).bincount(minlength=law.n_features + 1).cpu().numpy(),
        "shown": shown.cpu().numpy(),
    }


def compute(cfg: Config) -> dict[str, np.ndarray]:
    laws = [cls.example() for cls in all_distributions()]
    runs = [
        Run(law, seed, cfg.n_samples, cfg.permuted) for law in laws for seed in range(cfg.n_worlds)
    ]
    results = map_cached(counts_run, runs)
    names = [type(law).__name__ for law in laws]
    data = {"laws": np.array(names), "n_samples": np.array(cfg.n_samples)}
    n_tests = 0
    for i, (name, law) in enumerate(zip(names, laws, strict=True)):
        worlds = results[i * cfg.n_worlds : (i + 1) * cfg.n_worlds]
        data |= {f"{name}_{key}": value for key, value in _compare(law, worlds, cfg).items()}
        n_tests += _n_tests(data[f"{name}_cofiring"], cfg.n_worlds)
    data["n_tests"] = np.array(n_tests)
    n = cfg.n_worlds * cfg.n_samples
    data["caught_error"] = np.array(smallest_caught_error(n, 0.1, ALPHA / n_tests))
    return data


def _compare(
    law: ToyDistribution, worlds: list[dict[str, np.ndarray]], cfg: Config
) -> dict[str, np.ndarray]:
    """Returns the arrays of one law: the declared truth, its measurements, and what is drawn."""
    probs = law.firing_probs().cpu().numpy()
    try:
        cofiring = law.cofiring_probs().cpu().numpy()
    except NotImplementedError:
        cofiring = np.full((law.n_features, law.n_features), np.nan)
        np.fill_diagonal(cofiring, probs)
    together = np.stack([world["together"] for world in worlds])
    measured = _phi(together.mean(0) / cfg.n_samples)
    rank = np.argsort(-probs, kind="stable")
    return {
        "cofiring": cofiring,
        "together_by_world": together,
        "active_by_world": np.stack([world["active"] for world in worlds]) / cfg.n_samples,
        "if_independent": _poisson_binomial(probs),
        "expected_l0": np.array(law.expected_l0()),
        "phi": np.triu(_phi(cofiring), 1) + np.tril(measured, -1),
        "ranked_probs": probs[rank],
        "ranked_by_world": np.diagonal(together, axis1=1, axis2=2)[:, rank] / cfg.n_samples,
        "shown": worlds[0]["shown"],
    }


def _phi(cofiring: np.ndarray) -> np.ndarray:
    """Correlations of 0/1 firing; 0 for a feature that fires never or always."""
    p = np.diagonal(cofiring)
    scale = np.sqrt(np.outer(p * (1 - p), p * (1 - p)))
    return np.where(scale > 0, cofiring - np.outer(p, p), 0) / np.where(scale > 0, scale, 1)


def _poisson_binomial(probs: np.ndarray) -> np.ndarray:
    """How many of independent features fire at once: probabilities of 0 .. n_features."""
    law = np.ones(1)
    for p in probs:
        law = np.convolve(law, (1 - p, p))
    return law


def _n_tests(cofiring: np.ndarray, n_worlds: int) -> int:
    pairs = np.isfinite(cofiring[np.triu_indices_from(cofiring)]).sum()
    return int(pairs + 1) * (n_worlds + 1)  # one more for the mean, one more for the pooled worlds


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    level = ALPHA / int(data["n_tests"])
    margins = {}
    for name in data["laws"]:
        least = _least_log_p(
            data[f"{name}_cofiring"],
            data[f"{name}_together_by_world"],
            data[f"{name}_active_by_world"],
            cfg.n_samples,
        )
        margins[f"{name}: log10 of the least p-value over its level"] = least - math.log10(level)
    return require(margins)


def _least_log_p(
    cofiring: np.ndarray, together: np.ndarray, active: np.ndarray, n_samples: int
) -> float:
    """Returns log10 of the least p-value of one law, over its pairs, its mean l0 and its worlds."""
    upper = np.triu_indices_from(cofiring)
    probs = cofiring[upper].clip(0, 1)
    known = np.isfinite(probs)
    counts = together[:, *upper][:, known]
    p_values = [_binomial(world, n_samples, probs[known]) for world in counts]
    p_values += [_binomial(counts.sum(0), len(counts) * n_samples, probs[known])]
    # l0 is not binomial. Its variance is declared where co-firing is, else at most n E[l0].
    n, mean = len(cofiring), np.trace(cofiring)
    variance = cofiring.sum() - mean**2 if known.all() else n * mean
    l0 = active @ np.arange(n + 1)
    sizes = np.array([n_samples] * len(l0) + [n_samples * len(l0)])
    off = np.abs(np.append(l0, l0.mean()) - mean)
    spread = variance + n * off / 3 + 1e-12  # a law of exactly k has no variance
    log_bernstein = math.log(2) - sizes * off**2 / (2 * spread)
    with np.errstate(divide="ignore"):  # log 0 = -inf is refused
        log_p = np.log10(np.concatenate(p_values))
    return float(min(log_p.min(), log_bernstein.min() / math.log(10)))


def _binomial(counts: np.ndarray, n: int, probs: np.ndarray) -> np.ndarray:
    """Exact two-sided p-values of Binomial(n, probs): twice the smaller tail."""
    tails = stats.binom.cdf(counts, n, probs), stats.binom.sf(counts - 1, n, probs)
    return np.minimum(1, 2 * np.minimum(*tails))


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with each feature's firing permuted across samples: no co-firing."""
    return compute(replace(cfg, permuted=True))


MEASURED, NULL = "#D55E00", "#999999"
HEADINGS = ("co-firing", "number active", "prob. by rank", "samples")
NOTE = (
    "co-firing: φ of each pair of features, declared above the diagonal, measured below "
    "(red: together, blue: apart); samples: one a row"
)
WIDTHS = (1, 0.1, 1, 0.32, 1, 0.1, 1)  # the panels of a law, and what is between them
PER_ROW = 2  # laws side by side


def plot(data: dict[str, np.ndarray]) -> Figure:
    names = data["laws"]
    n_rows = -(-len(names) // PER_ROW)
    height = 0.86 * n_rows + 0.95
    fig = plt.figure(figsize=(7.4, height))
    fig.set_layout_engine("none")  # a fixed grid: laying out a hundred panels takes seconds
    grid = fig.add_gridspec(
        n_rows,
        (len(WIDTHS) + 1) * PER_ROW - 1,
        width_ratios=([*WIDTHS, 0.25] * PER_ROW)[:-1],
        left=0.02,
        right=0.985,
        top=1 - 0.6 / height,
        bottom=0.5 / height,
        wspace=0.02,
        hspace=0.5,
    )
    for i, name in enumerate(names):
        row, first = i % n_rows, i // n_rows * (len(WIDTHS) + 1)
        axes = [fig.add_subplot(grid[row, first + j]) for j in range(0, len(WIDTHS), 2)]
        law = {key: data[f"{name}_{key}"] for key in _DRAWN}
        for draw, ax in zip((_matrix, _histogram, _ranks, _raster), axes, strict=True):
            draw(ax, law)
        axes[0].set_title(str(name), fontsize=8, fontweight="bold", pad=3)
        if row == 0:
            for ax, heading in zip(axes, HEADINGS, strict=True):
                where = ax.get_position()
                at = (where.x0 + where.width / 2, where.y1 + 0.2 / height)
                fig.text(*at, heading, ha="center", fontsize=8)
    fig.text(0.02, 1 - 0.16 / height, NOTE, fontsize=7.5)
    handles, labels = fig.axes[1].get_legend_handles_labels()
    more = fig.axes[2].get_legend_handles_labels()
    fig.legend(handles + more[0], labels + more[1], loc="lower center", ncols=4)
    return fig


_DRAWN = ("phi", "active_by_world", "if_independent", "expected_l0", "ranked_probs")
_DRAWN += ("ranked_by_world", "shown")


def _matrix(ax: Axes, law: dict[str, np.ndarray]) -> None:
    # Linear up to 0.03, so that sampling noise stays pale; logarithmic beyond.
    norm = SymLogNorm(linthresh=0.03, linscale=0.3, vmin=-1, vmax=1)
    ax.imshow(law["phi"], cmap="RdBu_r", norm=norm, interpolation="none")
    _bare(ax)


def _histogram(ax: Axes, law: dict[str, np.ndarray]) -> None:
    active, null = law["active_by_world"], law["if_independent"]
    size = np.arange(active.shape[1])
    edges = np.append(size, len(size)) - 0.5
    ax.stairs(active.mean(0), edges, fill=True, color=MEASURED)  # one artist, not one a bar
    ax.vlines(size, active.min(0), active.max(0), color="black", lw=0.8)
    ax.plot(size, null, color=NULL, lw=1.2, label="if firing independently")
    ax.axvline(float(law["expected_l0"]), color="black", lw=1, ls="--", label="declared mean")
    last = np.flatnonzero((active.max(0) > 1e-3) | (null > 1e-3))[-1]
    ax.set_xlim(-0.6, max(last, 3) + 0.6)
    ax.set_ylim(0)
    ax.set_yticks([])
    ax.tick_params(labelsize=6.5, pad=1.5, length=2)
    ax.grid(False)


def _ranks(ax: Axes, law: dict[str, np.ndarray]) -> None:
    ranked = law["ranked_by_world"]
    rank = np.arange(1, ranked.shape[1] + 1)
    mean = ranked.mean(0)
    spread = np.stack([mean - ranked.min(0), ranked.max(0) - mean])
    ax.errorbar(rank, mean, yerr=spread, fmt=".", ms=5, color=MEASURED, capsize=0, label="measured")
    ax.plot(rank, law["ranked_probs"], color="black", lw=0.8, zorder=3, label="declared")
    ax.set_yscale("log")
    ax.set_ylim(min(1e-3, float(ranked.min(where=ranked > 0, initial=1)) / 2), 1.5)
    ax.set_yticks([1e-2, 1], ["0.01", "1"])
    ax.set_xticks([1, ranked.shape[1]])
    ax.minorticks_off()
    ax.tick_params(labelsize=6.5, pad=1.5, length=2)


def _raster(ax: Axes, law: dict[str, np.ndarray]) -> None:
    top = float(np.abs(law["shown"]).max()) or 1.0
    ax.imshow(law["shown"], cmap="PuOr_r", vmin=-top, vmax=top, interpolation="none", aspect="auto")
    _bare(ax)


def _bare(ax: Axes) -> None:
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_visible(False)
    ax.spines[["top", "right"]].set_visible(True)
