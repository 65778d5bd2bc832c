"""Weights decide what a meta-SAE discards: uniform ones find the atoms, energies refit them.

Composites of 2 and 3 of 64 atoms fire by a Zipf law, each with a scale of its own; their rows are
estimated by least squares from noisy data with known codes, so a rare one has a noisy row. A
meta-SAE that draws rows uniformly keeps rare rows as well as common ones. One that draws them by
firing frequency or by energy E[a^2], as an SAE on data does, gives the rare ones up as rarity
grows. It also finds fewer atoms: few rows carry the weight. With the supports known the opposite
holds: energies are the weights of least variance for the atoms. So search uniformly, refit by
energy. Markers: mean and range over worlds (fresh atoms, mixing, scales, data, training).

Paper: fig:weights-decide. Asked by Shah in a comment on the post behind Leask et al. 2025, arXiv
2502.04878.
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
from sae import SAE, TopK, TrainConfig, train_meta
from sae.direct import nearest_composite
from sae.meta_refit import refit_meta
from sae.meta_weights import WEIGHTINGS
from theory import isotropic_rows, recovery
from toymodels import Scaled, ToyModel, Zipf, composed, random_mixing, random_unit, stream


@dataclass(frozen=True)
class Config:
    """Sizes of the worlds, the Zipf exponents (last = rarest), training."""

    n_worlds: int
    exponents: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5)
    d: int = 64
    n_atoms: int = 64
    per_size: int = 128
    k: int = 3
    first_prob: float = 0.2
    n_samples: int = 20_000
    noise_std: float = 0.01
    n_steps: int = 1500
    weights_used: bool = True


CONFIGS = {
    "smoke": Config(2, exponents=(0.0, 1.5), n_steps=120, n_samples=4000),
    "quick": Config(3),
    "paper": Config(8, exponents=(0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5), n_steps=3000),
}


@dataclass(frozen=True)
class Run:
    """One world, with all weightings."""

    seed: int
    exponent: float
    config: Config


def world_run(run: Run) -> dict[str, np.ndarray]:
    """Returns, for each weighting: the share of the commonest and of the rarest quarter of the
    true rows that is explained, how well atoms are found, and the error of refitting them."""
    cfg, seed = run.config, run.seed
    generator = stream(seed, "dictionary", device())
    atoms = random_unit(cfg.n_atoms, cfg.d, generator=generator)
    sizes = [random_mixing(cfg.per_size, cfg.n_atoms, k, generator=generator) for k in (2, 3)]
    order = torch.randperm(2 * cfg.per_size, device=device(), generator=generator)
    mixing = torch.cat(sizes)[order]
    n = len(mixing)
    normal = torch.randn(n, dtype=torch.float64, device=device(), generator=generator)
    # Scales of their own, or else energies would be proportional to frequencies.
    law = Scaled(Zipf(n, run.exponent, cfg.first_prob), (0.5 * normal).exp())
    features = composed(mixing, atoms)
    toy = ToyModel(law, features, noise_std=cfg.noise_std)
    batch = toy.sample(cfg.n_samples, generator=stream(seed, "data", device()))
    # What an SAE with perfect codes would learn: least squares, noisier for rarer features.
    estimated = torch.linalg.lstsq(batch.codes.dense().double(), batch.x.double(), driver="gelsd")
    fired = batch.codes.support().any(0)  # an SAE has no latent for what it never saw
    rows = normalize(estimated.solution[fired], dim=1).float()
    probs, energies = law.firing_probs()[fired], law.code_energies()[fired]
    chosen = {
        "uniform": None,
        "frequency": probs if cfg.weights_used else None,
        "energy": energies if cfg.weights_used else None,
    }
    truth, mixing, true_atoms = features.vectors[fired], mixing[fired], atoms.vectors.double()
    n = len(truth)
    found: dict[str, list[float]] = {name: [] for name in ("common", "rare", "atoms", "error")}
    metas = {name: meta_of(rows, weights, seed, cfg) for name, weights in chosen.items()}
    for name, weights in chosen.items():
        error = (truth - metas[name](rows).x_hat.detach()).double().square().sum(1)
        found["common"].append(1 - float(error[: n // 4].mean()))
        found["rare"].append(1 - float(error[-(n // 4) :].mean()))
        found["atoms"].append(recovery(true_atoms, metas[name].W_dec.detach().double()).score)
        refit = refit_meta(rows, mixing > 0, true_atoms, weights=weights).atoms
        found["error"].append(float((refit - true_atoms).square().sum(1).mean()))
    wrong = torch.randperm(n, device=device(), generator=generator)  # as unequal, of other rows
    shuffled = refit_meta(rows, mixing > 0, true_atoms, weights=energies[wrong]).atoms
    meta = metas["uniform"]
    support = meta.encode(rows).detach() != 0
    both = refit_meta(rows, support, meta.W_dec.detach(), weights=chosen["energy"]).atoms
    nothing = isotropic_rows(n, cfg.d, generator=stream(seed, "null", device())).float()
    null = meta_of(nothing, None, seed, cfg)(nothing).x_hat.detach()
    return {name: np.array(values) for name, values in found.items()} | {
        "shuffled": np.array(float((shuffled - true_atoms).square().sum(1).mean())),
        "both": np.array(recovery(true_atoms, both).score),
        "null": np.array(1 - float((nothing - null).square().sum(1).mean())),
        "nearest": nearest_composite(true_atoms, rows.double()).mean().cpu().numpy(),
        "chance": np.array(recovery(true_atoms, nothing[: cfg.n_atoms].double()).chance),
    }


def meta_of(rows: Tensor, weights: Tensor | None, seed: int, cfg: Config) -> SAE:
    init, drawn = stream(seed, "meta-init", device()), stream(seed, "meta-train", device())
    meta = TopK(cfg.d, cfg.n_atoms, cfg.k, bias=False, generator=init)
    config = TrainConfig(cfg.n_steps, 512, lr=3e-3, n_records=2)
    return train_meta(rows, meta, config, weights=weights, generator=drawn).sae


def compute(cfg: Config) -> dict[str, np.ndarray]:
    worlds = range(cfg.n_worlds)
    runs = [Run(w, exponent, cfg) for w in worlds for exponent in cfg.exponents]
    results = map_cached(world_run, runs)
    data = {"exponents": np.array(cfg.exponents)}
    for name in results[0]:
        stacked = np.stack([r[name] for r in results])
        shape = (cfg.n_worlds, len(cfg.exponents), *stacked.shape[1:])
        data[f"{name}_by_world"] = stacked.reshape(shape)
    for i, name in enumerate(WEIGHTINGS):
        for what in ("common", "rare", "atoms"):
            data[f"{what}_{name}"] = data[f"{what}_by_world"][:, -1, i].mean()
    error = data["error_by_world"][:, -1].mean(0)
    data["refit_gain"] = error[0] / error[2]
    return data


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    rare, common = data["rare_by_world"], data["common_by_world"]
    atoms, error = data["atoms_by_world"], data["error_by_world"]
    lost = rare[:, -1, 0] - rare[:, -1, 2]
    margins = {
        "rarest worlds: energy weights give up a tenth of the rare rows or more": lost.min() - 0.1,
        "which is more than uniform ones lose from common to rare": np.min(
            lost - (common[:, -1, 0] - rare[:, -1, 0])
        ),
        "the loss grows from the world without rarity to the rarest": np.mean(
            lost - (rare[:, 0, 0] - rare[:, 0, 2])
        ),
        "rarest worlds: energy weights find atoms less well": np.min(
            atoms[:, -1, 0] - atoms[:, -1, 2]
        )
        - 0.02,
        "and refit known supports with less than half the error": np.min(
            error[:, -1, 0] / error[:, -1, 2]
        )
        - 2,
        "which is the right rows' doing, not the inequality's": np.min(
            data["shuffled_by_world"][:, -1] / error[:, -1, 0]
        )
        - 1,
        "frequencies refit better than uniform weights too": np.min(
            error[:, -1, 0] / error[:, -1, 1]
        )
        - 1,
    }
    return require({name: float(value) for name, value in margins.items()})


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with the weights dropped."""
    return compute(replace(cfg, weights_used=False))


COLOURS = {"uniform": "#000000", "frequency": "#56B4E9", "energy": "#D55E00"}


def plot(data: dict[str, np.ndarray]) -> Figure:
    fig, axes = plt.subplots(1, 3, figsize=(8.6, 3.5))
    x = data["exponents"]
    for i, name in enumerate(WEIGHTINGS):
        for what, style in (("common", "--"), ("rare", "-")):
            _points(axes[0], x, data[f"{what}_by_world"][:, :, i], name, style, f"{name} weights")
        _points(axes[1], x, data["atoms_by_world"][:, :, i], name, "-", "")
        _points(axes[2], x, data["error_by_world"][:, :, i], name, "-", "")
    grey = "#777777"
    axes[0].axhline(data["null_by_world"].mean(), color=grey, ls=":", label="chance")
    axes[1].axhline(data["chance_by_world"].mean(), color=grey, ls=":")
    axes[1].plot(
        x, data["nearest_by_world"].mean(0), color=grey, ls="-.", label="nearest composite"
    )
    both = data["both_by_world"].mean(0)
    axes[1].plot(x, both, "s", mfc="none", color="#009E73", label="uniform, then energy refit")
    shuffled = data["shuffled_by_world"].mean(0)
    axes[2].plot(x, shuffled, "x:", color=grey, label="energies of the wrong rows")
    axes[0].set_title("What is kept: commonest (- -)\nand rarest (—) quarter of rows")
    axes[0].set_ylabel("share of the true rows explained")
    axes[1].set_title("Search: uniform weights\nfind the atoms")
    axes[1].set_ylabel("mean matched cosine of atoms")
    axes[2].set_title("Refit, supports known:\nenergies are the best weights")
    axes[2].set_ylabel("mean squared error of atoms")
    axes[2].set_yscale("log")
    for ax in axes:
        ax.set_xlabel("Zipf exponent  (rarer →)")
    pairs = [pair for ax in axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    unique = {label: handle for handle, label in pairs}
    fig.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=3, frameon=False)
    return fig


def _points(
    ax: Axes, x: np.ndarray, by_world: np.ndarray, name: str, style: str, label: str
) -> None:
    mean = by_world.mean(0)
    spread = np.stack([mean - by_world.min(0), by_world.max(0) - mean])
    ax.errorbar(x, mean, yerr=spread, fmt="o" + style, color=COLOURS[name], capsize=2, label=label)
