"""SAEs of several levels in a tree: what a parent says is tied to the sum of its children."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from sae.base import SAE, SAEOutput, squared_error
from sae.checks import check, check_generator, check_size
from sae.config import TrainConfig
from sae.direct.extended import batches_for, check_config, loss_with, member
from sae.engines.eager import LossOf
from sae.evaluation import Sampler, World

UNASSIGNED = 0.2  # share of the children that are left without a parent


@dataclass(frozen=True, eq=False)
class Tied:
    """Levels of SAEs, from parents to children, and who belongs to whom.

    Args:
        levels: trained.
        parents: for each pair of levels [n_children], the latent of the level above that a latent
            belongs to, -1 for none.
        steps: [n_records], steps taken at each record.
        tie: [n_pairs, n_records], E sum_j |parent's output - children's sum|^2, before rho.
    """

    levels: tuple[SAE, ...]
    parents: tuple[Int[Tensor, " _n_children"], ...]
    steps: Int[Tensor, " n_records"]
    tie: Float[Tensor, "n_pairs n_records"]


@dataclass(frozen=True, eq=False)
class Said:
    """What a level says of a batch, held constant: latent j outputs latents[:, j] * rows[j]."""

    latents: Float[Tensor, "batch n"]
    rows: Float[Tensor, "n d_in"]
    bias: Float[Tensor, " d_in"]


@dataclass(eq=False)
class Tree:
    """The state of a joint training: for pair i, of levels i and i + 1, whose child is whose, and
    which outputs of level i are swapped [batch, n]; for each level what it says."""

    rho: float
    parents: list[Int[Tensor, " _n_children"]]
    swaps: list[Bool[Tensor, "batch _n"]]
    said: list[Said]


def train_tied(
    saes: Sequence[SAE],
    sample: World | Sampler,
    config: TrainConfig,
    *,
    rho: float = 0.01,
    swap: float = 0.05,
    unassigned: float = UNASSIGNED,
    assign_every: int = 100,
    generator: torch.Generator,
) -> Tied:
    """Returns SAEs trained at once on the sum of their losses + rho * `tied_distance` of each pair.

    In each sample each parent's output is replaced by the sum of its children's with probability
    `swap`, in the parent level's own reconstruction: children that cannot stand in for it cost
    error there, and are trained on that error. A parent without children is left alone.

    Of a two-level model (S1 to S5: see `sae.direct`) each level satisfies S1 and S2. Each child has
    one parent, so that children are no mixtures of parents and S3 does not hold (a parent is about
    a sum of its children); S4 is not pressed for, S5 does not hold: no level is written in terms of
    another.

    rho = 0 and swap = 0 train the levels as `train` does. All take their steps at once, each along
    its own part of the gradient of the sum, with clipping and dead latents of its own.

    Args:
        saes: two or more of one d_in, from the narrowest (parents) to the widest; not changed.
        sample, config: see `train`, for all levels; without target_l0, held-out samples and an
            early stop.
        rho: >= 0.   swap: in [0, 1].   unassigned: see `assignment`.
        assign_every: steps between renewals of who belongs to whom, the first before step 0.
        generator: draws batches and swaps.
    Raises: ValueError: fewer than two levels, levels that do not fit or do not widen, NaN.
    Source: Luo et al. 2026, HSAE, arXiv 2602.11881: JumpReLU levels, rho 0.01, swap 0.05, a fifth
        unassigned, renewed every 5,000 steps (here more often: runs are shorter).
    """
    where, saes = "train_tied", (saes,) if isinstance(saes, SAE) else tuple(saes)
    check_config(where, config=config)
    check(len(saes) >= 2, where, "two levels or more", n_levels=len(saes))
    widths = [sae.n_latents for sae in saes]
    check(widths == sorted(widths), where, "levels that widen", n_latents=widths)
    check(0 <= rho < float("inf"), where, "a finite rho >= 0", rho=rho)
    check(0 <= swap <= 1, where, "0 <= swap <= 1", swap=swap)
    check(0 <= unassigned < 1, where, "0 <= unassigned < 1", unassigned=unassigned)
    check_size(where, assign_every=assign_every)
    check_generator(where, generator, saes[0].W_dec.device)
    batches = batches_for(where, saes, sample, config, generator)
    first = batches.draw(0).to(saes[0].W_dec.dtype)
    tree = Tree(rho, [], [], [])
    levels = [
        member(i, sae, config, first, generator, loss_in(i, tree)) for i, sae in enumerate(saes)
    ]
    records, every = [], max(1, config.n_steps // (config.n_records - 1))
    for step in range(config.n_steps):
        x = first if step == 0 else batches.draw(step).to(first.dtype)
        if step % assign_every == 0:
            encoders = [level.sae.W_enc.detach().T for level in levels]
            tree.parents = [assignment(*pair, unassigned) for pair in pairwise(encoders)]
        # Before any of them moves: all steps are taken from one point.
        tree.said = [_says(level.sae, x) for level in levels]
        tree.swaps = [
            _swapped(said.latents, parents, swap, generator)
            for said, parents in zip(tree.said[:-1], tree.parents, strict=True)
        ]
        if step % every == 0 or step + 1 == config.n_steps:
            pairs = zip(tree.said[:-1], tree.said[1:], tree.parents, strict=True)
            records.append((step, [float(_distance(*pair)) for pair in pairs]))
        for level in levels:
            level.step(x)
    steps, ties = zip(*records, strict=True)
    trained = tuple(level.result() for level in levels)
    return Tied(trained, tuple(tree.parents), torch.tensor(steps), torch.tensor(ties).T)


def assignment(
    parents: Float[Tensor, "m d_in"], children: Float[Tensor, "n d_in"], unassigned: float
) -> Int[Tensor, " n"]:
    """Returns each child's parent, the one of largest cosine; -1 for the share `unassigned` of the
    children (rounded down) whose largest cosine is least."""
    best, chosen = (normalize(children, dim=1) @ normalize(parents, dim=1).T).max(1)
    left = best.argsort(stable=True)[: int(unassigned * len(children))]
    return chosen.index_fill(0, left, -1)


def tied_distance(
    parent_latents: Float[Tensor, "batch m"],
    parent_rows: Float[Tensor, "m d_in"],
    child_latents: Float[Tensor, "batch n"],
    child_rows: Float[Tensor, "n d_in"],
    parents: Int[Tensor, " n"],
) -> Float[Tensor, ""]:
    """Returns E sum_j |z_j P_j - sum over the children c of j of z_c C_c|^2, j with children.

    Multiplied out, so that no [batch, m, d_in] is needed.
    """
    own, has = parents.clamp(min=0), parents >= 0
    z = child_latents * has
    family = has[:, None] & (own[:, None] == own[None, :])
    siblings = torch.where(family, child_rows @ child_rows.T, 0)
    cross = (child_rows * parent_rows[own]).sum(1)
    alone = parent_latents.square() * parent_rows.square().sum(1)
    alone = alone * torch.bincount(own[has], minlength=len(parent_rows)).clamp(max=1)
    together = ((z @ siblings) * z).sum(1)
    return (alone.sum(1) - 2 * (z * parent_latents[:, own]) @ cross + together).mean()


def loss_in(i: int, tree: Tree) -> LossOf:
    """Returns the loss of level i; other levels are constants in it.

    terms: "tie_below" and "tie_above", rho * `tied_distance`; "stand_in", the error of the level
    above with this one's sums for the outputs swapped there.
    """

    def change(sae: SAE, output: SAEOutput) -> SAEOutput:
        if i == len(tree.swaps):
            return output
        swapped, below = tree.swaps[i], tree.said[i + 1]
        own = (output.latents * swapped) @ sae.W_dec
        sums = _sums(below.latents, below.rows, swapped, tree.parents[i])
        return replace(output, x_hat=output.x_hat - own + sums)

    def terms(sae: SAE, x: Tensor, output: SAEOutput) -> dict[str, Tensor]:
        found, own = {}, (output.latents, sae.W_dec)
        if i < len(tree.parents):
            below = tree.said[i + 1]
            distance = tied_distance(*own, below.latents, below.rows, tree.parents[i])
            found["tie_below"] = tree.rho * distance
        if i > 0:
            above, swapped, parents = tree.said[i - 1], tree.swaps[i - 1], tree.parents[i - 1]
            distance = tied_distance(above.latents, above.rows, *own, parents)
            found["tie_above"] = tree.rho * distance
            kept = (above.latents * ~swapped) @ above.rows + above.bias
            found["stand_in"] = squared_error(x, kept + _sums(*own, swapped, parents))
        return found

    return loss_with(terms, change)


def _sums(latents: Tensor, rows: Tensor, swapped: Tensor, parents: Tensor) -> Tensor:
    """Returns [batch, d_in], what children say in place of their swapped parents."""
    speaks = swapped[:, parents.clamp(min=0)] & (parents >= 0)
    return (latents * speaks) @ rows


def _says(level: SAE, x: Tensor) -> Said:
    with torch.no_grad():
        latents = level.training_output(x).latents
    return Said(latents, level.W_dec.detach().clone(), level.b_dec.detach().clone())


def _distance(above: Said, below: Said, parents: Tensor) -> Tensor:
    return tied_distance(above.latents, above.rows, below.latents, below.rows, parents)


def _swapped(
    latents: Tensor, parents: Tensor, swap: float, generator: torch.Generator
) -> Bool[Tensor, "batch n"]:
    """Draws which outputs are swapped, of parents that have children; at 0 it draws nothing."""
    if swap == 0:
        return torch.zeros_like(latents, dtype=torch.bool)
    chance = torch.full(latents.shape, swap, dtype=torch.float64, device=latents.device)
    has = torch.bincount(parents[parents >= 0], minlength=latents.shape[1]) > 0
    return torch.bernoulli(chance, generator=generator).bool() & has
