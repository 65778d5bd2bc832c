"""Whether negative activations help or harm is decided by the decoder's gain alone.

Errors are relative: 0 is perfect, 1 is an empty code. Top left: antipodal tight frames, read at a
decoder gain in units of d/n. The law (1 - gain/2)^2 for the positive half of the latents and
(1 - gain)^2 for all of them holds to 1e-12: at gain 1 the positive half leaves exactly 1/4 and the
negatives repair it; at gain 2 it is exact and the negatives raise the error to 1. Top right:
Multi-TopK SAEs without ReLU and without biases, trained at the larger half of their latents and at
all of them, the latter with weight beta, on features in opposite pairs. In every world the
negatives harm at the usual beta = 1/8 and help at beta = 2; the law turns at 1/2. With the ReLU
nothing is given up for the negatives. Bottom left: the SAEs trained at beta = 1/8, decoder
rescaled: in every world the same dictionary makes negatives essential at gain 1 and harmful at
gain 2. Bottom right: no code without biases gets below the line (proved), and trained ones lie
near it; encoder biases lead below it, in every world at beta = 2. Points: mean and range over
worlds (a fresh dictionary, data stream and initialisation each); lines: exact laws.

Paper: fig:quarter-law.
"""

from dataclasses import dataclass, replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from figures.runs import device, map_cached, require
from sae import SAE, MultiTopK, TrainConfig, train
from sae.architectures.signed_multi_topk import SignedMultiTopK
from theory.progressive import prefix_errors
from toymodels import (
    Dictionary,
    Independent,
    ToyModel,
    antipodal,
    hadamard_union,
    orthonormal,
    polygon,
    simplex,
    stream,
)

GAINS = np.linspace(0.5, 2.5, 9)  # of the decoder, in units of d/n; 1 and 2 are among them
USUAL, LARGE = 1 / 8, 2.0  # weights of all latents: that of the published recipe, and a large one
KINDS = ("signed", "relu", "biased")
N_EVAL = 1000


@dataclass(frozen=True)
class Config:
    """Worlds, dimension (there are 2 d_in features and latents), weights of all latents, training.

    gain_applied: whether the constructed frames are read at the decoder gain asked for.
    """

    n_worlds: int
    betas: tuple[float, ...] = (1 / 32, USUAL, 1 / 2, LARGE)
    d_in: int = 6
    n_steps: int = 400
    batch_size: int = 128
    lr: float = 2e-2
    gain_applied: bool = True


CONFIGS = {
    "smoke": Config(2, (USUAL, LARGE), d_in=4, n_steps=80, lr=5e-2),
    "quick": Config(3),
    "paper": Config(8, (1 / 64, 1 / 32, USUAL, 1 / 2, LARGE, 8.0), n_steps=800),
}


@dataclass(frozen=True)
class Run:
    """The SAEs of world `seed`: every kind at every weight, trained on the same batches."""

    seed: int
    betas: tuple[float, ...]
    d_in: int
    n_steps: int
    batch_size: int
    lr: float


def untrained(kind: str, beta: float, d_in: int, generator: torch.Generator) -> SAE:
    """Returns a fresh SAE of 2 d_in latents; only "biased" has an encoder bias, none a decoder's.

    Each is trained at the larger half of its latents and at all of them.
    """
    cls = MultiTopK if kind == "relu" else SignedMultiTopK
    ks = (d_in, 2 * d_in)
    sae = cls(d_in, 2 * d_in, ks, (1.0, beta), bias=False, generator=generator)
    sae.b_enc.requires_grad_(kind == "biased")
    return sae


def half_run(run: Run) -> dict[str, np.ndarray]:
    """Returns errors of the larger half and of all latents, [kinds, betas, 1 + gains].

    First at the SAE's own gain, tr(W_enc W_dec) / d_in, then at each of GAINS. The samples are
    read with both signs, as their law is symmetric.
    """
    half = orthonormal(run.d_in, run.d_in, generator=stream(run.seed, "dictionary", device()))
    world = ToyModel(Independent(2 * run.d_in, 0.25), antipodal(half))
    fresh = [
        untrained(kind, beta, run.d_in, stream(run.seed, "init", device()))
        for kind in KINDS
        for beta in run.betas
    ]
    config = TrainConfig(run.n_steps, run.batch_size, lr=run.lr, decay=0.5, n_records=2)
    trained = train(fresh, world, config, generator=stream(run.seed, "train", device())).saes
    x = world.sample(N_EVAL, generator=stream(run.seed, "eval", device())).x
    x = torch.cat([x, -x])
    errors, gains = [], []
    for sae in trained:
        with torch.no_grad():
            pre_acts, own = sae.pre_acts(x), float((sae.W_enc.T * sae.W_dec).sum()) / run.d_in
        gains.append(own)
        factors = np.concatenate([[1.0], GAINS / own])
        errors.append([read(x, pre_acts, sae.W_dec.detach(), float(f)) for f in factors])
    shape = (len(KINDS), len(run.betas))
    table = np.array(errors).reshape(*shape, 1 + len(GAINS), 2)
    return {"half": table[..., 0], "whole": table[..., 1], "own": np.array(gains).reshape(shape)}


def read(
    x: Float[Tensor, "batch d_in"],
    pre_acts: Float[Tensor, "batch n_latents"],
    rows: Float[Tensor, "n_latents d_in"],
    factor: float,
) -> list[float]:
    """Returns the relative errors of the larger half and of all latents, rows times `factor`."""
    n = len(rows)
    zero = torch.zeros_like(rows[0])
    errors = prefix_errors(x, pre_acts, factor * rows, zero, [n // 2, n]).sum(0)
    return (errors / x.double().square().sum()).tolist()


def frames() -> dict[str, Dictionary]:
    """Returns antipodal tight frames in float64."""
    double: Any = {"dtype": torch.float64}
    basis = orthonormal(6, 6, generator=stream(0, "frame"), **double)
    return {
        "hexagon": polygon(6, **double),
        "± basis of R⁶": antipodal(basis),
        "± simplex in R⁴": antipodal(simplex(5, **double)),
        "± Hadamard in R⁸": antipodal(hadamard_union(8, **double)),
    }


def frame_errors(rows: Dictionary, gain_applied: bool) -> np.ndarray:
    """Returns the errors of an antipodal frame at each of GAINS, [gains, (half, whole)]."""
    x = torch.randn(64, rows.d_in, generator=stream(0, "x"), dtype=torch.float64)
    unit = rows.d_in / rows.n_features
    factors = GAINS * unit if gain_applied else np.full_like(GAINS, unit)
    return np.array([read(x, x @ rows.vectors.T, rows.vectors, float(f)) for f in factors])


def compute(cfg: Config) -> dict[str, np.ndarray]:
    settings = (cfg.betas, cfg.d_in, cfg.n_steps, cfg.batch_size, cfg.lr)
    results = map_cached(half_run, [Run(seed, *settings) for seed in range(cfg.n_worlds)])
    data = {f"{name}_by_world": np.stack([r[name] for r in results]) for name in results[0]}
    built = {name: frame_errors(rows, cfg.gain_applied) for name, rows in frames().items()}
    data |= {"frames": np.array(list(built)), "frame_errors": np.stack(list(built.values()))}
    fine = np.linspace(GAINS[0], GAINS[-1], 81)
    data |= {"betas": np.array(cfg.betas), "gains": GAINS, "law": law(GAINS)}
    data |= {"fine": fine, "fine_law": law(fine)}
    betas = np.geomspace(min(cfg.betas) / 1.5, max(cfg.betas) * 1.5, 60)
    data |= {"beta_curve": betas, "law_curve": law(best_gain(betas))}
    half, whole = data["half_by_world"][:, 0, :, 0], data["whole_by_world"][:, 0, :, 0]
    own = np.stack([half, whole], -1)
    data["largest_gap"] = np.abs(own - law(best_gain(data["betas"]))).max()
    for name, beta in (("usual", USUAL), ("large", LARGE)):
        i = cfg.betas.index(beta)
        for kind in range(len(KINDS)):
            data[f"half_{KINDS[kind]}_{name}"] = data["half_by_world"][:, kind, i, 0].mean()
            data[f"whole_{KINDS[kind]}_{name}"] = data["whole_by_world"][:, kind, i, 0].mean()
        bound = beta / (1 + 4 * beta)
        biased = data["half_by_world"][:, 2, i, 0] + beta * data["whole_by_world"][:, 2, i, 0]
        data[f"loss_biased_{name}"] = (biased / bound).mean()
    return data


def law(gains: np.ndarray) -> np.ndarray:
    """Returns the errors of half and whole at each gain, [..., 2]."""
    return np.stack([(1 - gains / 2) ** 2, (1 - gains) ** 2], -1)


def best_gain(betas: np.ndarray) -> np.ndarray:
    """Returns the gain of least half + beta whole, in units of d/n: from 2 down to 1."""
    return (1 / 2 + betas) / (1 / 4 + betas)


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    half, whole = data["half_by_world"], data["whole_by_world"]
    usual, large = cfg.betas.index(USUAL), cfg.betas.index(LARGE)
    one, two = (1 + int(np.flatnonzero(gain == GAINS)[0]) for gain in (1.0, 2.0))
    negatives_help = half - whole
    together = 2 * np.sqrt(half[:, :2]) + np.sqrt(whole[:, :2])
    betas = data["betas"]
    loss = half[:, 2, :, 0] + betas * whole[:, 2, :, 0]
    return require(
        {
            "constructed frames obey the law to 1e-12": 1e-12
            - np.abs(data["frame_errors"] - data["law"]).max(),
            "no code without biases is below the line": np.min(together - 1) + 1e-5,  # float32
            "beta = 1/8: negatives harm": np.min(-negatives_help[:, 0, usual, 0]),
            "beta = 2: negatives help": np.min(negatives_help[:, 0, large, 0]),
            "trained at 1/8, read at gain 1: they help": np.min(negatives_help[:, 0, usual, one]),
            "trained at 1/8, read at gain 2: they harm": np.min(-negatives_help[:, 0, usual, two]),
            "with the ReLU the half is better, at every beta": np.min(
                half[:, 0, :, 0] - half[:, 1, :, 0]
            ),
            "encoder biases lead below the least loss at beta = 2": np.min(
                (betas / (1 + 4 * betas) - loss)[:, large]
            ),
        }
    )


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with the frames always read at gain d/n."""
    return compute(replace(cfg, gain_applied=False))


HALF, WHOLE, BIASED, RELU = "#0072B2", "#D55E00", "#CC79A7", "#009E73"


def plot(data: dict[str, np.ndarray]) -> Figure:
    fig, axes = plt.subplots(2, 2, figsize=(8.2, 6.6))
    _draw_frames(axes[0, 0], data)
    _draw_betas(axes[0, 1], data)
    _draw_rescaled(axes[1, 0], data)
    _draw_plane(axes[1, 1], data)
    return fig


def _draw_frames(ax: Axes, data: dict[str, np.ndarray]) -> None:
    ax.plot(data["fine"], data["fine_law"][:, 0], color=HALF)
    ax.plot(data["fine"], data["fine_law"][:, 1], color=WHOLE)
    for name, errors, marker in zip(data["frames"], data["frame_errors"], "os^D", strict=True):
        size = 9 - 2 * "os^D".index(marker)
        style: dict[str, Any] = {"ls": "", "marker": marker, "mfc": "none", "ms": size}
        ax.plot(data["gains"], errors[:, 0], color=HALF, **style)
        ax.plot(data["gains"], errors[:, 1], color=WHOLE, **style)
        ax.plot([], [], color="black", label=name, **style)
    _label_gains(ax, "Constructed antipodal frames (exact)")
    ax.legend(loc="upper left", bbox_to_anchor=(0.2, 1.0))


def _label_gains(ax: Axes, title: str) -> None:
    ax.set(xlabel="decoder gain, in units of d/n", ylabel="relative error", title=title)
    ax.set_ylim(-0.05, 1.5)
    ax.annotate("positive half", (0.7, 0.5), color=HALF)
    ax.annotate("all latents", (1.68, 0.75), color=WHOLE, ha="right")
    ax.annotate("1/4", (1.0, 0.25), xytext=(4, 5), textcoords="offset points", color=HALF)


def _draw_betas(ax: Axes, data: dict[str, np.ndarray]) -> None:
    curve, betas = data["law_curve"], data["betas"]
    ax.plot(data["beta_curve"], curve[:, 0], color=HALF)
    ax.plot(data["beta_curve"], curve[:, 1], color=WHOLE)
    for kind, name, colour, marker, label in (
        (0, "half", HALF, "o", "larger half, no ReLU"),
        (0, "whole", WHOLE, "s", "all latents, no ReLU"),
        (1, "half", RELU, "^", "larger half, with ReLU"),
    ):
        _points(ax, betas, data[f"{name}_by_world"][:, kind, :, 0], colour, marker, label)
    ax.axvline(0.5, color="black", lw=0.8, ls=":")
    ax.annotate("negatives\nharm", (0.45, 0.97), ha="right", va="top", fontsize="small",
                xycoords=("data", "axes fraction"))  # fmt: skip
    ax.annotate("negatives\nhelp", (0.56, 0.97), va="top", fontsize="small",
                xycoords=("data", "axes fraction"))  # fmt: skip
    ax.set_xscale("log")
    ticks = (1 / 32, 1 / 8, 1 / 2, 2, 8)
    shown = [t for t in ticks if data["beta_curve"].min() <= t <= data["beta_curve"].max()]
    names = {1 / 32: "1/32", 1 / 8: "1/8", 1 / 2: "1/2", 2: "2", 8: "8"}
    ax.set_xticks(shown, [names[t] for t in shown])
    ax.minorticks_off()
    ax.set(xlabel="weight β of all latents in training", ylabel="relative error")
    ax.set_title("Trained SAEs without biases")
    ax.legend(loc="upper right", bbox_to_anchor=(1.0, 0.84))


def _points(
    ax: Axes, x: np.ndarray, y: np.ndarray, colour: str, marker: str, label: str = ""
) -> None:
    spread = np.stack([y.mean(0) - y.min(0), y.max(0) - y.mean(0)]).clip(min=0)  # rounding
    style: dict[str, Any] = {"color": colour, "fmt": marker, "label": label, "ms": 5}
    ax.errorbar(x, y.mean(0), yerr=spread, **style)


def _draw_rescaled(ax: Axes, data: dict[str, np.ndarray]) -> None:
    usual = data["betas"].tolist().index(USUAL)
    for j, (name, colour) in enumerate((("half", HALF), ("whole", WHOLE))):
        ax.plot(data["fine"], data["fine_law"][:, j], color=colour, lw=1)
        values = data[f"{name}_by_world"][:, 0, usual, 1:]
        _points(ax, data["gains"], values, colour, "os"[j])
    own = data["own_by_world"][:, 0, usual].mean()
    ax.axvline(own, color="black", lw=0.8, ls=":")
    ax.annotate("as trained", (own, 1.42), ha="right", va="top", fontsize="small",
                xytext=(-3, 0), textcoords="offset points")  # fmt: skip
    _label_gains(ax, "Trained at β = 1/8, decoder rescaled")


def _draw_plane(ax: Axes, data: dict[str, np.ndarray]) -> None:
    gains = np.linspace(1, 2, 60)
    half, whole = (1 - gains / 2) ** 2, (1 - gains) ** 2
    ax.fill_between(half, 0, whole, color="#DDDDDD", lw=0)
    ax.plot(half, whole, color="black", lw=1)
    shown = (
        (0, HALF, "o", "no ReLU, no biases"),
        (1, RELU, "^", "ReLU, no biases"),
        (2, BIASED, "D", "no ReLU, encoder biases"),
    )
    for kind, colour, marker, label in shown:
        x, y = (data[f"{n}_by_world"][:, kind, :, 0].ravel() for n in ("half", "whole"))
        ax.plot(x, y, marker, color=colour, mfc="none", ms=6, label=label)
    ax.annotate("grey: out of reach\nwithout biases (proved)", (0.06, 0.15), (0.1, 0.42),
                fontsize="small", arrowprops={"arrowstyle": "-", "lw": 0.6})  # fmt: skip
    ax.set(xlabel="error of the larger half", ylabel="error of all latents", xlim=(-0.01, 0.3))
    ax.set_title("Half against whole")
    ax.legend(loc="upper right")
