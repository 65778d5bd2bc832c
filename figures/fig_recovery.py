"""An SAE recovers a feature only if its data show it: recovery against frequency and sample size.

Features fire independently, with probabilities spaced evenly in the logarithm; TopK and L1 SAEs,
wider than the number of features, are trained on N samples drawn once, all for the same number of
steps. The share of features recovered (cosine > 0.9) follows the probability 1 - (1 - p)^N that a
feature occurs at all: no feature that did not occur is recovered, most that occurred a hundred
times are, and the mean cosine stays below the coupon-collector limit and above the chance level of
random latents. Where N is large the steps may be the limit, not the data: a rare feature is drawn
into few batches. Points: share in a bin of neighbouring p, mean and range over
worlds (a fresh dictionary, data set and initialisation each).

Paper: fig:recovery.
"""

from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from figures.runs import device, map_cached, require
from sae import SAE, ReLU, TopK, TrainConfig, train
from theory import expected_unseen, recovery, recovery_chance_bound, recovery_radius
from toymodels import Independent, ToyModel, random_unit, stream

ARCHITECTURES = ("TopK", "L1")
OFTEN = 100  # expected occurrences from which a feature should be recovered
ALPHA = 1e-4  # level at which "the latents are random" is rejected, per architecture


@dataclass(frozen=True)
class Config:
    """Sizes of the worlds, the sample sizes N, training; features per plotted bin."""

    n_worlds: int
    n_features: int = 48
    d_in: int = 32
    n_latents: int = 64
    sample_sizes: tuple[int, ...] = (300, 3_000, 30_000)
    n_steps: int = 1200
    bin_size: int = 6
    decoder_trained: bool = True


CONFIGS = {
    "smoke": Config(2, sample_sizes=(100, 2_000), n_steps=220),
    "quick": Config(5),
    "paper": Config(
        8, 96, 64, 128, sample_sizes=(300, 3_000, 30_000, 300_000), n_steps=6000, bin_size=12
    ),
}
HIGHEST, LOWEST = 1e-1, 3e-4  # firing probabilities
TOPK, L1 = 2, 0.2
LR = {"TopK": 1e-2, "L1": 3e-2}


@dataclass(frozen=True)
class Run:
    """One SAE on `n_samples` samples of world `seed`."""

    seed: int
    architecture: str
    n_samples: int
    n_features: int
    d_in: int
    n_latents: int
    n_steps: int
    decoder_trained: bool


def firing_probs(n_features: int) -> Tensor:
    """Returns probabilities evenly spaced in the logarithm, highest first."""
    exponents = torch.linspace(np.log10(HIGHEST), np.log10(LOWEST), n_features).double()
    return 10**exponents


def recovery_run(run: Run) -> dict[str, np.ndarray]:
    """Returns the cosine at which each feature was found, which occurred, and the chance level."""
    dictionary = random_unit(
        run.n_features, run.d_in, generator=stream(run.seed, "dictionary", device())
    )
    world = ToyModel(Independent(run.n_features, firing_probs(run.n_features)), dictionary)
    batch = world.sample(run.n_samples, generator=stream(run.seed, "data", device()))
    init = stream(run.seed, "init", device())
    sae: SAE
    if run.architecture == "TopK":
        sae = TopK(run.d_in, run.n_latents, TOPK, generator=init)
    else:
        sae = ReLU(run.d_in, run.n_latents, L1, generator=init)
    config = TrainConfig(
        run.n_steps, 256, lr=LR[run.architecture], decay=0.5, dead_after=5_000, n_records=5
    )

    def draw(n: int, *, generator: torch.Generator) -> Tensor:
        picked = torch.randint(run.n_samples, (n,), device=device(), generator=generator)
        return batch.x[picked]

    trained = train(sae, draw, config, generator=stream(run.seed, "batches", device())).sae
    decoder = (trained if run.decoder_trained else sae).W_dec.detach()
    found = recovery(dictionary.vectors, decoder)
    return {
        "cosines": found.cosines.cpu().numpy(),
        "recovered": found.recovered.cpu().numpy(),
        "occurred": (batch.codes.counts() > 0).cpu().numpy(),
        "chance": np.array(found.chance),
    }


def compute(cfg: Config) -> dict[str, np.ndarray]:
    probs = firing_probs(cfg.n_features)
    cells = [
        (w, a, n) for w in range(cfg.n_worlds) for a in ARCHITECTURES for n in cfg.sample_sizes
    ]
    sizes = (cfg.n_features, cfg.d_in, cfg.n_latents, cfg.n_steps, cfg.decoder_trained)
    results = map_cached(recovery_run, [Run(*cell, *sizes) for cell in cells])
    shape = (cfg.n_worlds, len(ARCHITECTURES), len(cfg.sample_sizes))
    data = {
        f"{name}_by_world": np.stack([r[name] for r in results]).reshape(*shape, cfg.n_features)
        for name in ("cosines", "recovered", "occurred")
    }
    data["chance"] = np.array(results[0]["chance"])  # of these sizes: the same for every run
    data["chance_bound"] = np.array(recovery_chance_bound(cfg.n_features, cfg.n_latents, cfg.d_in))
    data["firing_probs"] = probs.numpy()
    data["sample_sizes"] = np.array(cfg.sample_sizes)
    data["bin_size"] = np.array(cfg.bin_size)
    unseen = np.array([float(expected_unseen(probs, n)) for n in cfg.sample_sizes])
    # A feature that did not occur is worth no more than chance.
    data["limit"] = 1 - unseen / cfg.n_features * (1 - data["chance_bound"])
    score = data["cosines_by_world"].mean((0, 3))
    for i, architecture in enumerate(ARCHITECTURES):
        data[f"score_{architecture.lower()}"] = score[i, -1]
        often = probs.numpy() * cfg.sample_sizes[-1] >= OFTEN
        data[f"often_{architecture.lower()}"] = data["recovered_by_world"][:, i, -1, often].mean()
    return data


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    cosines, recovered = data["cosines_by_world"], data["recovered_by_world"]
    occurred = data["occurred_by_world"]
    n = cfg.n_features
    margins = {}
    # A random direction has a cosine above 0.9 with one of the latents with probability < 1e-9.
    margins["no feature that did not occur is recovered"] = 0.5 - np.sum(recovered & ~occurred)
    seen = occurred.sum(-1)
    # McDiarmid at 1e-10 on the cosines of the features that did not occur.
    radius = np.sqrt((n - seen) * np.log(1e10) / 2)
    limit = (seen + (n - seen) * float(data["chance_bound"]) + radius) / n
    margins["the mean cosine is below the coupon-collector limit of its own data"] = np.min(
        limit - cosines.mean(-1)
    )
    # The worlds' dictionaries are independent: their cosines pool into one McDiarmid radius.
    chance = float(data["chance_bound"]) + recovery_radius(n * cfg.n_worlds, ALPHA)
    margins["with the most samples the mean cosine is above chance"] = np.min(
        cosines[:, :, -1].mean((0, 2)) - chance
    )
    often = data["firing_probs"] * data["sample_sizes"][:, None] >= OFTEN
    for i, architecture in enumerate(ARCHITECTURES):
        share = recovered[:, i, often].mean()
        margins[f"{architecture}: most features that occurred {OFTEN} times are recovered"] = (
            share - 0.8
        )
        gain = recovered[:, i, -1].mean() - recovered[:, i, 0].mean()
        growth = occurred[:, i, -1].mean() - occurred[:, i, 0].mean()
        margins[f"{architecture}: more samples recover at least half of what they newly show"] = (
            gain - growth / 2
        )
    return require(margins)


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with the decoder left at its random initialisation."""
    return compute(replace(cfg, decoder_trained=False))


COLOURS = ("#CC79A7", "#E69F00", "#0072B2", "#000000")
MARKERS = ("o", "s")


def plot(data: dict[str, np.ndarray]) -> Figure:
    fig, axes = plt.subplots(1, 3, figsize=(8.6, 3.6), sharey=True)
    for i, architecture in enumerate(ARCHITECTURES):
        _draw_shares(axes[i], data, i)
        axes[i].set_title(f"{architecture} SAE")
        axes[i].set_xlabel("firing probability p  (rarer →)")
    axes[0].set_ylabel("share of features recovered")
    ax = axes[2]
    sizes = data["sample_sizes"]
    score = data["cosines_by_world"].mean(-1)
    for i, architecture in enumerate(ARCHITECTURES):
        mean = score[:, i].mean(0)
        spread = np.stack([mean - score[:, i].min(0), score[:, i].max(0) - mean])
        ax.errorbar(sizes, mean, yerr=spread, marker=MARKERS[i], capsize=2, label=architecture)
    ax.plot(sizes, data["limit"], color="black", ls="--", label="coupon-collector limit")
    ax.axhline(float(data["chance"]), color="#999999", label="chance level")
    ax.axhline(float(data["chance_bound"]), color="#999999", ls=":", label="bound on chance")
    ax.set_xscale("log")
    ax.set_xlabel("samples N")
    ax.set_title("mean cosine")
    ax.legend(loc="center right", bbox_to_anchor=(1, 0.55))
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=4)
    return fig


def _draw_shares(ax: Axes, data: dict[str, np.ndarray], i_architecture: int) -> None:
    probs, size = data["firing_probs"], int(data["bin_size"])
    centres = np.exp(np.log(probs).reshape(-1, size).mean(1))
    grid = np.geomspace(probs[0], probs[-1], 200)
    for i, n in enumerate(data["sample_sizes"]):
        recovered = data["recovered_by_world"][:, i_architecture, i]
        share = recovered.reshape(len(recovered), -1, size).mean(-1)
        mean = share.mean(0)
        spread = np.stack([mean - share.min(0), share.max(0) - mean])
        colour = COLOURS[i]
        ax.errorbar(
            centres * 1.09 ** (1 - i),  # side by side, so that no marker hides another
            mean,
            yerr=spread,
            fmt=MARKERS[i_architecture],
            ms=4.5,
            color=colour,
            capsize=2,
        )
        label = f"N = {n:,}: P(occurs)"
        ax.plot(grid, -np.expm1(n * np.log1p(-grid)), color=colour, lw=1.2, label=label)
    ax.set_xscale("log")
    if not ax.xaxis_inverted():
        ax.invert_xaxis()
    ax.set_ylim(-0.03, 1.05)
