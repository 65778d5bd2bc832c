"""One order of the features serves every width, rare ones last; training pays for nesting.

Orthonormal features fire independently, all alike but for their probability, a power law. Left:
no m fixed latents, whoever trained them, leave less than the tail eigenvalues of the data's
covariance, and neither the features, a BatchTopK SAE of each width nor a prefix of a Matryoshka SAE
does in any world. Dropping features from the rarest attains that bound in expectation at every
width at once. Separate SAEs and, less so, Matryoshka's prefixes beat a random order of the
features; nesting costs error on average. By rank (Multi-TopK) one latent a sample leaves less than
the bound of one, which speaks of fixed latents: each sample picks its own. (Further out it need not
fall, even between the two ks of training; drawn, not asserted.)

Middle: the same against bits per sample for which latents fire and how strongly (8 bits a value,
empirical rates, decoder not counted). As many latents by rank take more bits than the fixed ones.
Rare last is the order of widths, not of bits: per bit the commonest feature is not the best buy.
The first points of separate SAEs lie far right: BatchTopK's k is at least 1, so that an SAE of one
latent lets it fire always.

Right: the least width at which a feature is recovered, and its latent's index in the Matryoshka
SAE (medians; what is not found, at twice the last width and at the last index). Both follow the
features' energies more closely than chance allows; line: the oracle's order. Points: mean and range
over worlds; what lies above 1 or far to the right is cut off. 32 features at quick, 64 at paper.

Paper: fig:refinement. Least error: Ky Fan 1949 (claim A1). Matryoshka SAEs: Bussmann et al. 2025,
arXiv 2503.17547. Message: Ayonrinde et al. 2024, arXiv 2410.11179 (claim D5).
"""

import math
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats
from torch import Tensor

import sae as saes
from figures.runs import device, map_cached, require
from sae import SAE, TrainConfig, train
from theory import description_length, recovery, spectral_loss_bound
from toymodels import ToyModel, Zipf, orthonormal, stream

FIRST_PROB = 0.4  # of the commonest feature: below one half, energies and variances order alike
VALUE_BITS, WEIGHT_BITS = 8, 16
N_EVAL = 4096
ORDERS = {"width": "width of the SAE", "index": "index of a Matryoshka"}
FOUND = {"separate": "width", "matryoshka": "index"}


@dataclass(frozen=True)
class Config:
    """Features, exponents of their energies, training; ordered False reverses Matryoshka's."""

    n_worlds: int
    n_features: int = 32
    exponents: tuple[float, ...] = (0.5, 1.5)
    n_steps: int = 1500
    batch_size: int = 256
    lr: float = 3e-3
    ordered: bool = True


CONFIGS = {
    "smoke": Config(2, 16, (1.0,), 300, 128, 1e-2),
    "quick": Config(3),
    "paper": Config(8, 64, n_steps=2000),
}


@dataclass(frozen=True)
class Run:
    """SAEs of every width, a Matryoshka and a Multi-TopK SAE on world `seed` of one exponent."""

    seed: int
    n_features: int
    exponent: float
    n_steps: int
    batch_size: int
    lr: float
    ordered: bool


def widths(n_features: int) -> tuple[int, ...]:
    """Returns 1, 2, 4, ... up to n_features, a power of 2."""
    return tuple(2**i for i in range(n_features.bit_length()))


def law(n_features: int, exponent: float) -> Zipf:
    return Zipf(n_features, exponent, FIRST_PROB)


def refinement_run(run: Run) -> dict[str, np.ndarray]:
    """Returns error, rate and recovery of each way to spend latents; the world's own curves."""
    n, codes_of = run.n_features, law(run.n_features, run.exponent)
    features = orthonormal(n, n, generator=stream(run.seed, "dictionary", device()))
    world = ToyModel(codes_of, features)
    init, sizes = stream(run.seed, "init", device()), widths(n)
    l0s = (
        codes_of.firing_probs().cumsum(0).tolist()
    )  # of the features that fit; each SAE is told its own
    k = max(1, round(l0s[-1]))
    fresh: list[SAE] = [saes.BatchTopK(n, m, max(1.0, l0s[m - 1]), generator=init) for m in sizes]
    fresh.append(saes.MatryoshkaBatchTopK(n, n, max(1.0, l0s[-1]), sizes, generator=init))
    fresh.append(saes.MultiTopK(n, n, (k, min(n, 4 * k)), (1.0, 1 / 8), generator=init))
    config = TrainConfig(run.n_steps, run.batch_size, lr=run.lr, n_records=2)
    *separate, nested, multi = train(
        fresh, world, config, generator=stream(run.seed, "train", device())
    ).saes
    batch = world.sample(N_EVAL, generator=stream(run.seed, "eval", device()))
    x, codes = batch.x, batch.codes.dense()
    order = torch.arange(n) if run.ordered else torch.arange(n).flip(0)
    rows, true = nested.W_dec.detach()[order], features.vectors
    with torch.no_grad():
        latents, ranked = nested.encode(x)[:, order], multi.pre_acts(x).relu()
        own = [sae.encode(x) for sae in separate]
    means = codes_of.mean_codes().to(true)
    bias = [means[m:] @ true[m:] for m in (0, *sizes)]
    known = [(codes[:, :m], true[:m], b) for m, b in zip((0, *sizes), bias, strict=True)]
    several = [*sizes[: 1 + sizes.index(min(n, 16))]]
    prefixes = {
        "oracle": known[1:],
        "separate": [(z, s.W_dec, s.b_dec) for z, s in zip(own, separate, strict=True)],
        "matryoshka": [(latents[:, :m], rows[:m], nested.b_dec) for m in sizes],
        "multi_topk": [(largest(ranked, m), multi.W_dec, multi.b_dec) for m in several],
        "oracle_rank": [(largest(codes, m), true, bias[-1]) for m in several],
    }
    result = {}
    for name, parts in prefixes.items():
        pairs = np.array([error_and_rate(x, z, w.detach(), b.detach()) for z, w, b in parts])
        result[f"{name}_fvu"], result[f"{name}_bits"] = pairs.T
    centred = (x - x.mean(0)).double()
    covariance = centred.T @ centred / len(x)
    total = float(covariance.trace())
    bounds = [spectral_loss_bound(covariance, m) for m in sizes]
    result["bound"] = np.array(bounds) / total
    result |= recovered_order(true, separate, rows, run)
    return result


def largest(codes: Tensor, k: int) -> Tensor:
    """Returns the k largest entries of each row, 0 elsewhere."""
    values, indices = codes.topk(min(k, codes.shape[1]), dim=1)
    return torch.zeros_like(codes).scatter(1, indices, values)


def error_and_rate(x: Tensor, latents: Tensor, rows: Tensor, bias: Tensor) -> tuple[float, float]:
    """Returns fvu, and bits per sample for which latents fire and how strongly."""
    y, z = x.double() - bias.double(), latents.double()
    error = (y - z @ rows.double()).square().sum()
    precision = {"weight_bits": WEIGHT_BITS, "value_bits": VALUE_BITS, "bin_width": 0.01}
    length = description_length(x, latents, rows, **precision)
    bits = (length.supports + length.values) / len(x)
    return float(error / (x - x.mean(0)).double().square().sum()), bits


def recovered_order(
    true: Tensor, separate: list[SAE], rows: Tensor, run: Run
) -> dict[str, np.ndarray]:
    """Returns for each feature the least width, and the index, at which its latent is found.

    Twice the number of features, and that number, where there is none.
    """
    n = run.n_features
    width, index = torch.full((n,), 2 * n), torch.full((n,), n)
    for m, sae in reversed(list(zip(widths(n), separate, strict=True))):
        width[recovery(true, sae.W_dec.detach(), signed=True).recovered] = m
    found = recovery(true, rows, signed=True)
    index[found.recovered] = found.matching[found.recovered]
    return {"width": width.numpy().astype(float), "index": index.numpy().astype(float)}


def compute(cfg: Config) -> dict[str, np.ndarray]:
    settings = (cfg.n_steps, cfg.batch_size, cfg.lr, cfg.ordered)
    cells = [(w, cfg.n_features, a) for w in range(cfg.n_worlds) for a in cfg.exponents]
    results = map_cached(refinement_run, [Run(*cell, *settings) for cell in cells])
    shape = (cfg.n_worlds, len(cfg.exponents))
    data: dict[str, np.ndarray] = {
        f"{name}_by_world": np.stack([r[name] for r in results]).reshape(*shape, -1)
        for name in results[0]
    }
    sizes = widths(cfg.n_features)
    data |= {"widths": np.array(sizes), "exponents": np.array(cfg.exponents)}
    laws = [law(cfg.n_features, a) for a in cfg.exponents]
    data["efficiency"] = np.stack([(variances(a) / bits(a)).numpy() for a in laws])
    data["gap_by_world"] = np.array(
        [[optimum_gap(w, one, sizes) for one in laws] for w in range(cfg.n_worlds)]
    )
    for name in ORDERS:
        data[f"{name}_rank_by_world"] = np.array(
            [order_correlation(r[name], cfg.n_features) for r in results]
        ).reshape(shape)
    bound = data["bound_by_world"][..., :-1]
    for i, exponent in enumerate(cfg.exponents):
        tag = f"{round(10 * exponent):02d}"
        for name in ("separate", "matryoshka"):
            over = data[f"{name}_fvu_by_world"][:, i, :-1] / bound[:, i]
            data[f"over_{name}_{tag}"] = over.mean()
        for name in ORDERS:
            data[f"order_{name}_{tag}"] = data[f"{name}_rank_by_world"][:, i].mean()
    return data


def variances(one: Zipf) -> Tensor:
    return one.code_energies() - one.mean_codes().square()


def bits(one: Zipf) -> Tensor:
    """Returns h(p) + 8 p for each feature: bits per sample that say when and how it fires."""
    p = one.firing_probs()
    return (torch.special.entr(p) + torch.special.entr(1 - p)) / math.log(2) + VALUE_BITS * p


def optimum_gap(seed: int, one: Zipf, sizes: tuple[int, ...]) -> float:
    """Returns how far dropping features from the last is from the least error of any width."""
    n = one.n_features
    rng = stream(seed, "dictionary")
    x = ToyModel(one, orthonormal(n, n, generator=rng, dtype=torch.float64)).covariance()
    left = variances(one)
    gaps = [abs(float(left[m:].sum()) - spectral_loss_bound(x, m)) for m in sizes]
    return max(gaps) / float(left.sum())


def order_correlation(found_at: np.ndarray, n: int) -> float:
    """Returns Spearman's correlation of a feature's place in energy with where it is found."""
    return float(np.corrcoef(np.arange(n), stats.rankdata(found_at))[0, 1])


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    sizes, n, n_worlds = data["widths"], cfg.n_features, cfg.n_worlds
    bound = data["bound_by_world"][..., :-1]  # at full width it is 0 and says nothing
    own = {name: data[f"{name}_fvu_by_world"] for name in ("oracle", "separate", "matryoshka")}
    rounding = 1e-9
    margins = {
        f"{name}: no width beats the bound, in every world": (f[..., :-1] - bound).min() + rounding
        for name, f in own.items()
    }
    margins["one order of the features is optimal at every width"] = (
        rounding - data["gap_by_world"].max()
    )
    buys = data["efficiency"]
    margins["per bit the commonest feature is not the best buy"] = (
        buys[:, 1:].max(1) - buys[:, 0]
    ).min()
    chance = 1 - sizes[:-1] / n  # of the variance, expected, if m features are kept at random
    for name in ("separate", "matryoshka"):
        ahead = (chance - own[name][..., :-1]).mean((0, 2))
        margins[f"{name} is ahead of a random order of the features (mean)"] = ahead.min()
    cost = (own["matryoshka"] - own["separate"])[..., :-1].mean((0, 2))
    margins["nested prefixes cost error against separate SAEs (mean)"] = cost.min()
    ranked, rate = data["multi_topk_fvu_by_world"], data["multi_topk_bits_by_world"]
    below = bound[..., 0] - ranked[..., 0]
    margins["one latent by rank beats any one fixed latent, in every world"] = below.min()
    inner = ranked.shape[-1] - 1
    dearer = rate[..., :inner] - data["oracle_bits_by_world"][..., :inner]
    margins["as many latents by rank take more bits than the oracle's, in every world"] = (
        dearer.min()
    )
    # In a random order the correlation has mean 0 and variance 1 / (n - 1) in each world.
    chance_of_order = 2 / math.sqrt((n - 1) * n_worlds)
    for name, label in ORDERS.items():
        order = data[f"{name}_rank_by_world"]
        margins[f"rare features come last by {label} (mean)"] = (
            order.mean(0).min() - chance_of_order
        )
        margins[f"no correlation above 1, {label}"] = 1 - order.max() + rounding
    return require(margins)


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with Matryoshka's latents in reverse order."""
    return compute(replace(cfg, ordered=False))


STYLES = {
    "oracle": ("#000000", "-", "s", "features, rarest dropped"),
    "separate": ("#D55E00", "", "o", "a BatchTopK SAE of each width"),
    "matryoshka": ("#009E73", "-", "^", "Matryoshka, by index"),
    "multi_topk": ("#0072B2", "-", "D", "MultiTopK, by rank"),
    "oracle_rank": ("#999999", ":", "", "features, largest codes kept"),
}


def plot(data: dict[str, np.ndarray]) -> Figure:
    exponents, sizes = data["exponents"].tolist(), data["widths"]
    n = len(exponents)
    fig, axes = plt.subplots(n, 3, figsize=(8.6, 2.7 * n + 0.9), squeeze=False)
    for i, exponent in enumerate(exponents):
        left, middle, right = axes[i]
        end = 1.7 * data["oracle_bits_by_world"][:, i].max()
        left.plot(sizes[:-1], data["bound_by_world"][:, i, :-1].mean(0), "k--", lw=1)
        m = np.linspace(1, sizes[-1], 100)
        left.plot(m, 1 - m / sizes[-1], color="#CC79A7", lw=1)
        for name, (colour, line, marker, label) in STYLES.items():
            fvu, rate = (data[f"{name}_{what}_by_world"][:, i] for what in ("fvu", "bits"))
            mean = fvu.mean(0)
            spread = np.stack([mean - fvu.min(0), fvu.max(0) - mean]).clip(min=0)  # rounding
            fmt: dict = {"color": colour, "ls": line, "marker": marker, "elinewidth": 0.7}
            left.errorbar(sizes[: len(mean)], mean, yerr=spread, label=label, **fmt)
            n_in = int((rate.mean(0) <= end).sum())
            middle.errorbar(rate.mean(0)[:n_in], mean[:n_in], yerr=spread[:, :n_in], **fmt)
        place = np.arange(1, sizes[-1] + 1)
        right.plot(place, place, "k-", lw=1)
        right.axhline((sizes[-1] + 1) / 2, color="#CC79A7", lw=1)
        for name, shift in (("separate", 0), ("matryoshka", 1)):
            colour, _, marker, _ = STYLES[name]
            at = data[f"{FOUND[name]}_by_world"][:, i] + shift
            right.plot(place, np.median(at, 0), marker, color=colour, ms=3.5, alpha=0.8)
        left.set_xscale("log", base=2)
        left.set_xticks(sizes, [str(size) for size in sizes])
        left.set_ylabel(f"energies $i^{{-{exponent:g}}}$\nfvu")
        middle.set(ylim=(-0.03, 1.03), xlim=(0, end))
        left.set(ylim=(-0.03, 1.03))
        right.set_yscale("log", base=2)
        right.set_yticks(sizes, [str(size) for size in sizes])
        right.set_ylabel("found at (width, or index)")
    axes[0, 0].set_title("error against latents")
    axes[0, 1].set_title("error against rate")
    axes[0, 2].set_title("rare features last")
    axes[-1, 0].set_xlabel("width, prefix, or active latents")
    axes[-1, 1].set_xlabel("bits per sample for the codes")
    axes[-1, 2].set_xlabel("feature (1 = commonest)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    handles += [Line2D([], [], color="black", ls="--", lw=1), Line2D([], [], color="#CC79A7", lw=1)]
    labels += ["bound for any fixed latents", "random order"]
    fig.legend(handles, labels, loc="outside lower center", ncols=3)
    return fig
