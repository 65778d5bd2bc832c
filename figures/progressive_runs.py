"""SAEs of one world, read over all their latents: the runs of fig_progressive."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sae as saes
from figures.runs import device
from sae import SAE, TrainConfig, train
from theory import progressive, recovery, sign_consistency
from theory.progressive import prefix_errors
from toymodels import Independent, Signed, ToyModel, Uniform, antipodal, random_unit, stream

ARCHITECTURES = ("TopK", "MultiTopK", "HierarchicalTopK", "MatryoshkaBatchTopK", "ReLU", "AbsTopK")
L1 = 0.5  # of the ReLU SAE: a few more active latents than features
CURVES = ("by_rank", "by_index", "by_rank_positive", "by_index_positive")
GAINS = ("gain", "gain_null", "scaled_gain", "scaled_gain_null")


@dataclass(frozen=True)
class Sizes:
    """A world of n_features, SAEs as wide, their training; n_few samples are refitted."""

    n_features: int = 256
    d_in: int = 64
    firing_prob: float = 0.02
    k: int = 5
    far_k: int = 20
    n_steps: int = 2500
    batch_size: int = 1024
    lr: float = 1e-3
    n_eval: int = 2048
    n_few: int = 128

    def ks(self) -> tuple[int, ...]:
        """Returns every k' up to far_k, and sixteen more up to all latents."""
        n, far = self.n_features, self.far_k
        return (*range(far + 1), *(far + (n - far) * i // 16 for i in range(1, 17)))


@dataclass(frozen=True)
class Run:
    """World `seed` of one kind; far False leaves out all prefixes but the k-th in training."""

    seed: int
    kind: str
    sizes: Sizes
    architectures: tuple[str, ...]
    far: bool = True


def world_of(seed: int, kind: str, sizes: Sizes) -> ToyModel:
    """Returns rays; lines used with both signs; or rays in opposite pairs, each a feature."""
    n, generator = sizes.n_features, stream(seed, "dictionary", device())
    law = Independent(n, sizes.firing_prob, Uniform(0.5, 1.5))
    if kind == "antipodal":
        return ToyModel(law, antipodal(random_unit(n // 2, sizes.d_in, generator=generator)))
    dictionary = random_unit(n, sizes.d_in, generator=generator)
    return ToyModel(Signed(law) if kind == "bipolar" else law, dictionary)


def untrained(name: str, run: Run, generator: torch.Generator) -> SAE:
    s = run.sizes
    options: dict[str, Any] = {"generator": generator}
    several = name in ("MultiTopK", "HierarchicalTopK")
    if several and not run.far:
        return saes.TopK(s.d_in, s.n_features, s.k, **options)
    if name == "MultiTopK":
        return saes.MultiTopK(s.d_in, s.n_features, (s.k, s.far_k), (1.0, 1 / 8), **options)
    if name == "MatryoshkaBatchTopK":
        widths = tuple(s.n_features // part for part in (8, 4, 2, 1))
        return saes.MatryoshkaBatchTopK(s.d_in, s.n_features, s.k, widths, **options)
    dial: Any = {"ReLU": L1, "HierarchicalTopK": s.far_k}.get(name, s.k)
    return getattr(saes, name)(s.d_in, s.n_features, dial, **options)


def trained(run: Run, world: ToyModel) -> list[SAE]:
    """Returns the SAEs; Hierarchical TopK, which takes far longer, sees a quarter of each batch."""
    s, init = run.sizes, stream(run.seed, "init", device())
    config = TrainConfig(s.n_steps, s.batch_size, lr=s.lr, n_records=2)
    fresh = {name: untrained(name, run, init) for name in run.architectures}
    done: dict[str, SAE] = {}
    for slow in (False, True):
        names = [name for name in fresh if (name == "HierarchicalTopK") == slow]
        if names:
            settings = replace(config, batch_size=s.batch_size // 4) if slow else config
            rng = stream(run.seed, "train", device())
            after = train([fresh[name] for name in names], world, settings, generator=rng).saes
            done |= dict(zip(names, after, strict=True))
    return [done[name] for name in run.architectures]


def reading_run(run: Run) -> dict[str, np.ndarray]:
    """Returns for each SAE, first axis, how it reads at every k', and what its negatives add."""
    world = world_of(run.seed, run.kind, run.sizes)
    batch = stream(run.seed, "eval", device())
    x = world.sample(run.sizes.n_eval, generator=batch).x
    rows = [read(sae, x, world, run) for sae in trained(run, world)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def read(sae: SAE, x: Tensor, world: ToyModel, run: Run) -> dict[str, np.ndarray]:
    """Returns curves and nulls of `progressive`, signed SAEs ranked by magnitude, and more.

    threshold: [n_ks], fvu under one threshold for all samples, `by_threshold`.
    before, after: at k, far_k and all positive latents, under non-negative least squares.
    negatives: `GAINS` of `sign_consistency`.
    """
    s, rows, bias = run.sizes, sae.W_dec.detach(), sae.b_dec.detach()
    with torch.no_grad():
        pre_acts, latents = sae.pre_acts(x), sae.encode(x)
    found = progressive(x, pre_acts, rows, bias, s.ks(), magnitude=sae.signed)
    curves = [getattr(found, name) for name in CURVES]
    result = {"fvu": torch.stack([curve.fvu for curve in curves])}
    result["null"] = torch.stack([curve.null for curve in curves])
    result["violations"] = torch.tensor([curve.n_violations for curve in curves])
    result["threshold"] = by_threshold(x, pre_acts, sae, s.ks())
    few, last = slice(0, s.n_few), (s.k, s.far_k, s.n_features)
    variance = (x[few] - x[few].mean(0)).double().square().sum()
    for name, refit in (("before", False), ("after", True)):
        options: Any = {"positive": True, "refit": refit}
        errors = prefix_errors(x[few], pre_acts[few], rows, bias, last, **options)
        result[name] = errors.sum(0) / variance
    signs = oriented(latents) if sae.signed else torch.ones_like(bias[:1])
    codes = latents * signs if sae.signed else with_negatives(pre_acts, latents, s.k)
    rng = stream(run.seed, "signs", device())
    gains = sign_consistency(x[few], codes[few], rows * signs[:, None], bias, generator=rng)
    result["negatives"] = torch.tensor([getattr(gains, name) for name in GAINS])
    score = recovery(world.dictionary.vectors, rows, signed=not sae.signed)
    result["recovered"] = score.recovered.double().mean()
    result["n_positive"] = torch.tensor(found.n_positive)
    result["l0"] = (latents != 0).double().sum() / len(x)
    return {name: value.cpu().double().numpy() for name, value in result.items()}


@torch.no_grad()
def by_threshold(x: Tensor, pre_acts: Tensor, sae: SAE, ks: tuple[int, ...]) -> Tensor:
    """Returns the fvu at each k' if one threshold for all samples leaves k' latents of a sample on
    average (of largest magnitude if signed); those below 0 are then set to 0.

    At n_latents, and 0, it is the reading by rank.
    """
    size = (pre_acts.abs() if sae.signed else pre_acts).flatten()
    order, errors = size.argsort(descending=True), []
    for k in ks:
        code = torch.zeros_like(size)
        kept = order[: k * len(x)]
        code[kept] = pre_acts.flatten()[kept].relu()
        errors.append((x - sae.decode(code.reshape(pre_acts.shape))).double().square().sum())
    return torch.stack(errors) / (x - x.mean(0)).double().square().sum()


def oriented(latents: Tensor) -> Tensor:
    """Returns the sign that most of each latent's energy has, [n_latents].

    A latent and its row may be negated together. Without this, half of the rays that a signed SAE
    finds would count as negative.
    """
    return torch.where((latents * latents.abs()).sum(0) < 0, -1.0, 1.0)


def with_negatives(pre_acts: Tensor, latents: Tensor, n: int) -> Tensor:
    """Returns the code and the n most negative pre-activations of each sample."""
    low = pre_acts.topk(n, dim=1, largest=False)
    return latents.scatter_add(1, low.indices, low.values.clamp(max=0))
