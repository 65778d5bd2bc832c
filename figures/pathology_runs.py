"""The field's toy pathologies, one run each: what an SAE in a published world ends with.

SAEs start at the truth where a run says so, as the published code of two of the papers does: what
they end with is then what the objective wants, not where a random start left them. In each run
related=False makes every feature fire independently with the same probability: the broken twin.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from figures.runs import device
from sae import SAE, BatchTopK, MatryoshkaReLU, ReLU, TrainConfig, train
from theory import recovery
from theory.absorption import absorption
from toymodels import Constant, Hierarchy, Independent, Scaled, ToyModel, orthonormal, stream
from toymodels import presets as worlds
from toymodels.magnitudes import RectifiedNormal

NEVER = -1e6  # an encoder bias with which a latent fires on no sample and is not trained
PAIRS = torch.tensor([[1, 1], [0.9, 1], [0.75, 1], [1, 0], [0, 1]])  # (parent, child) in the text
N_EVAL = 4000


@dataclass(frozen=True)
class Training:
    """The optimisation; decay is the last share of the steps, in which the rate falls to 0."""

    n_steps: int
    batch_size: int = 256
    lr: float = 1e-2
    decay: float = 0.5


@dataclass(frozen=True)
class Run:
    """One world of a pathology: `variant` names it, `dials` are what varies in one training."""

    seed: int
    variant: str
    dials: tuple[float, ...]
    training: Training
    related: bool = True


def trained(saes: list[SAE], world: ToyModel, run: Run) -> tuple[SAE, ...]:
    t = run.training
    config = TrainConfig(t.n_steps, t.batch_size, lr=t.lr, decay=t.decay, n_records=2)
    return train(saes, world, config, generator=stream(run.seed, "train", device())).saes


def as_asked(world: ToyModel, related: bool) -> ToyModel:
    """Returns the world, or one of independent features with the same marginals and strengths."""
    law = world.distribution
    if related:
        return world
    base = law.base if isinstance(law, Scaled) else law
    single = Independent(law.n_features, law.firing_probs(), base.magnitude)  # type: ignore[attr-defined]
    alone = Scaled(single, law.scales) if isinstance(law, Scaled) else single
    return ToyModel(alone, world.dictionary)


@torch.no_grad()
def at_the_truth(sae: SAE, features: Tensor, latents: list[int]) -> SAE:
    """Returns the SAE with these latents at the features, in order."""
    sae.W_dec[latents], sae.W_enc[:, latents] = features, features.T
    return sae


def absorption_run(run: Run) -> dict[str, np.ndarray]:
    """Absorption: the child's decoder on the parent, delta, and both latents on PAIRS, by dial.

    delta = <w_c, d_p> / <w_c, d_c>: 0 at the truth, 1 if the child's row is parent + child.
    variant: of `presets.absorption`; "sd": magnitudes of standard deviation (not variance) .1.
    dials: coefficients of L1, or the k of a BatchTopK for the variant "batch_topk".
    """
    rng, top = stream(run.seed, "dictionary", device()), run.variant == "batch_topk"
    name = "hierarchical" if run.variant == "sd" else run.variant
    world = worlds.absorption(name, generator=rng)
    if run.variant == "sd":
        law = replace(world.distribution, magnitude=RectifiedNormal(1.0, 0.1))  # type: ignore[type-var]
        world = ToyModel(law, world.dictionary)
    world, d = as_asked(world, run.related), world.dictionary.vectors
    n, init = len(d), stream(run.seed, "init", device())
    fresh = [(BatchTopK if top else ReLU)(d.shape[1], n, x, generator=init) for x in run.dials]
    saes = trained([at_the_truth(s, d, list(range(n))) for s in fresh], world, run)
    rows = torch.stack([s.W_dec.detach() @ d.T for s in saes])
    pairs = PAIRS.to(d.device) @ d[:2]
    codes = torch.stack([s.encode(pairs).detach()[:, :2] for s in saes])
    return {"delta": (rows[:, 1, 0] / rows[:, 1, 1]).cpu().numpy(), "codes": codes.cpu().numpy()}


def hedging_run(run: Run) -> dict[str, np.ndarray]:
    """Hedging with one latent, which starts at feature 0: how far its row leans to feature 1.

    lean = <w, d_1> / <w, d_0>; bias = <b_dec, d_1>; axis, the lean of the covariance's principal
    axis, which is the best row without a penalty (claim H7-condition).   dials: coefficients of L1.
    """
    rng = stream(run.seed, "dictionary", device())
    world = as_asked(worlds.hedging(run.variant, generator=rng), run.related)
    d, init = world.dictionary.vectors, stream(run.seed, "init", device())
    fresh = [ReLU(d.shape[1], 1, x, generator=init) for x in run.dials]
    saes = trained([at_the_truth(sae, d[:1], [0]) for sae in fresh], world, run)
    rows = torch.stack([sae.W_dec.detach()[0] @ d.T for sae in saes])
    bias = torch.stack([sae.b_dec.detach() @ d[1] for sae in saes])
    axis = torch.linalg.eigh(world.distribution.code_covariance()).eigenvectors[:, -1]
    found = {"lean": rows[:, 1] / rows[:, 0], "bias": bias, "axis": axis[1] / axis[0]}
    return {name: value.cpu().numpy() for name, value in found.items()}


CHILDREN = {"equal": (0.15, 0.15, 0.15), "unequal": (0.02, 0.15, 0.5)}
BALANCE_L1 = 3e-2


def balance_run(run: Run) -> dict[str, np.ndarray]:
    """What the parent's latent, alone in the inner prefix, reads and writes of each child.

    reads: [dials, children], <v, d_child> / <v, d_parent> for its encoder column v: negative where
        it absorbs (the child silences it), positive where it hedges.   writes: of its decoder row.
    dials: weight of the inner loss, 1/m or m for a whole m; 0 is no prefix, inf the prefix alone.
    A prefix counts m times if m - 1 latents that never fire lengthen it one by one.
    """
    rng, init = (stream(run.seed, name, device()) for name in ("dictionary", "init"))
    world = worlds.hedging_balance(CHILDREN[run.variant], generator=rng)
    world, d = as_asked(world, run.related), world.dictionary.vectors
    n, d_in = d.shape
    saes: list[SAE] = []
    for weight in run.dials:
        if weight in (0, np.inf):
            width = n if weight == 0 else 1
            plain = ReLU(d_in, width, BALANCE_L1, generator=init)
            saes.append(at_the_truth(plain, d[:width], list(range(width))))
            continue
        inner, outer = max(1, round(weight)), max(1, round(1 / weight))
        last = n + inner + outer - 2
        prefixes = (*range(1, inner + 1), *range(n + inner - 1, last + 1))
        sae = MatryoshkaReLU(d_in, last, BALANCE_L1, prefixes, generator=init)
        live = [0, *range(inner, inner + n - 1)]
        with torch.no_grad():
            sae.b_enc[[i for i in range(last) if i not in live]] = NEVER
        saes.append(at_the_truth(sae, d, live))
    after = trained(saes, world, run)
    found = {"reads": torch.stack([d @ sae.W_enc.detach()[:, 0] for sae in after])}
    found["writes"] = torch.stack([d @ sae.W_dec.detach()[0] for sae in after])
    return {name: (v[:, 1:] / v[:, :1]).cpu().numpy() for name, v in found.items()}


N_PROJECTED = 20  # above the true l0, below the number of latents: which projection is read


def few_run(run: Run) -> dict[str, np.ndarray]:
    """BatchTopK from random rows at several k (the dials) in the world of 50 features.

    error, and that of the true dictionary with the k largest codes of a sample on average and the
    best bias; mean |cosine| between rows; the N_PROJECTED-th largest projection of a sample on
    average; share of features recovered.
    """
    rng = stream(run.seed, "dictionary", device())
    world = as_asked(worlds.sparse_but_wrong_large(generator=rng), run.related)
    d, init = world.dictionary.vectors, stream(run.seed, "init", device())
    fresh: list[SAE] = [BatchTopK(d.shape[1], len(d), k, generator=init) for k in run.dials]
    batch = world.sample(N_EVAL, generator=stream(run.seed, "eval", device()))
    codes, rows = batch.codes.dense(), []
    for sae, k in zip(trained(fresh, world, run), run.dials, strict=True):
        least = codes.flatten().topk(int(k * N_EVAL)).values[-1]
        dropped = torch.where(codes >= least, 0, codes)
        with torch.no_grad():
            x_hat, w = sae.training_output(batch.x).x_hat, sae.W_dec
            projected = ((batch.x - sae.b_dec) @ w.T).flatten().sort(descending=True).values
        cosines = (w @ w.T).detach().abs().fill_diagonal_(0)
        row = {"error": (batch.x - x_hat).square().sum(1).mean(), "truth": dropped.var(0).sum()}
        row |= {"cosine": cosines.sum() / (len(w) * (len(w) - 1))}
        row |= {"projection": projected[N_PROJECTED * N_EVAL]}
        row |= {"share": recovery(d, w.detach()).recovered.double().mean()}
        rows.append({name: float(value) for name, value in row.items()})
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


TREE_PREFIXES, N_DRAWN = (1, 2, 3, 4, 6, 8, 12, 16, 20), 10


def tree_run(run: Run) -> dict[str, np.ndarray]:
    """Nabeshima's tree, without and with prefixes: parent recall given a child, off-diagonal mass.

    Recall: share of the samples with a child in which the parent's (matched) latent fires.
    Off-diagonal mass: 1 - cos^2 of a feature and its row, the row's energy on other features.
    variant: "published" draws N_DRAWN prefixes anew for each batch, after a short warm-up; latents
        are not sorted by size, nor inputs scaled, as they are there.
    dials: starting coefficients of L1, one; it is then moved towards the published l0.
    """
    rng, init = (stream(run.seed, name, device()) for name in ("dictionary", "init"))
    world = as_asked(worlds.nabeshima_tree(generator=rng), run.related)
    d, (l1,), t = world.dictionary.vectors, run.dials, run.training
    prefixes, warmup = (N_DRAWN, 0.0025) if run.variant == "published" else (TREE_PREFIXES, 0.05)
    saes = [ReLU(20, 20, l1, generator=init)]
    saes.append(MatryoshkaReLU(20, 20, l1, prefixes, generator=init))
    how = TrainConfig(
        t.n_steps, t.batch_size, lr=t.lr, betas=(0.5, 0.9375), warmup=warmup, decay=t.decay,
        n_records=2, sparsity_warmup=0.2, target_l0=1.2338,
    )  # fmt: skip
    batch = world.sample(N_EVAL, generator=stream(run.seed, "eval", device()))
    fires, recalls, masses = batch.codes.dense() > 0, [], []
    for sae in train(saes, world, how, generator=stream(run.seed, "train", device())).saes:
        found = recovery(d, sae.W_dec.detach())
        active = sae.encode(batch.x).detach() > 0
        both = [(fires[:, p], fires[:, p + 1 : p + 4].any(1), found.matching[p]) for p in (0, 4, 8)]
        recalls.append(np.mean([float(active[p & c, i].double().mean()) for p, c, i in both]))
        masses.append(float((1 - found.cosines.double().square()).mean()))
    return {"recall": np.array(recalls), "off_diagonal": np.array(masses)}


def loud_run(run: Run) -> dict[str, np.ndarray]:
    """Absorption of four parents by children of one magnitude, without and with prefixes.

    The world and the penalty of claim H9; rate, its null, and the prefix's energy on children.
    dials: the child's magnitude, one; the parent's is 2.
    """
    n, (loudness,) = 4, run.dials
    probs = torch.tensor([0.3] * n + [0.15] * n, dtype=torch.float64)
    law = Hierarchy((-1,) * n + tuple(range(n)), probs, magnitude=Constant(1.0))
    scales = torch.tensor([2.0] * n + [loudness] * n, dtype=torch.float64)
    rng, init = (stream(run.seed, name, device()) for name in ("dictionary", "init"))
    world = ToyModel(Scaled(law, scales), orthonormal(2 * n, 20, generator=rng))
    world, d = as_asked(world, run.related), world.dictionary.vectors
    saes: list[SAE] = [ReLU(20, 2 * n, 0.1, generator=init)]
    saes.append(MatryoshkaReLU(20, 2 * n, 0.1, (n, 2 * n), generator=init))
    batch, rows = world.sample(N_EVAL, generator=stream(run.seed, "eval", device())), []
    for sae in trained(saes, world, run):
        w, latents = sae.W_dec.detach(), sae.encode(batch.x).detach()
        found = absorption(batch.codes.dense(), latents, d, w, recovery(d, w).matching)
        inner = (w[:n] @ d.T).square()[:, n:].sum(1).mean()
        parents = (found.rates[:n].nanmean(), found.null_rates[:n].nanmean(), inner)
        rows.append([float(value) for value in parents])
    rate, null, inner = np.array(rows).T
    return {"rate": rate, "null": null, "inner": inner}
