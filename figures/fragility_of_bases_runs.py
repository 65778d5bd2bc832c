"""The runs of fig_fragility_of_bases: SAEs, eigenspaces and minima under changed laws."""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import brentq, minimize
from torch import Tensor

from figures.runs import device
from sae import TopK, TrainConfig, train
from theory import (
    Phase,
    eigenspace_rotation,
    free_energy,
    polygon_phase,
    visibility_shifts,
)
from theory.basis_fragility import (
    critical_point,
    curvature,
    gradient_and_hessian,
    loss,
    movement,
    response,
    single_losses,
)
from theory.few_active import FewActive
from theory.phase_switch import nearest_switch
from toymodels import (
    Dictionary,
    ExactlyK,
    Exclusive,
    Mixture,
    ToyModel,
    Uniform,
    hadamard_union,
    orthonormal,
    random_unit,
    stream,
)

SPAN, D_IN, N, N_LATENTS, R = 16, 17, 32, 64, 4  # 32 features, a tight frame in 16 of 17 dims
MAGNITUDE = Uniform(0.5, 1.5)
RARE, VISIBLE = 1e-4, 0.01  # the rare feature's probability; a visible direction's eigenvalue
N_COLUMNS, RANK_5, RANK_6 = 6, 14, 17  # of the superposition models in the plane


@dataclass(frozen=True)
class Trained:
    """An SAE on the world `seed`, whose law is at total variation `size` from the even one.

    kind: "base"; "again", the same law in other data; "reweighted"; "grown" by inputs of two
        features; "inside" or "outside" with one more feature of probability `size`.
    """

    seed: int
    kind: str
    size: float
    n_steps: int


def frame(seed: int) -> Float[Tensor, "n_features d_in"]:
    """Returns the tight frame of world `seed`: the first 16 features are orthonormal."""
    generator = stream(seed, "dictionary", device())
    turn = orthonormal(SPAN, D_IN, generator=generator, dtype=torch.float64).vectors
    return hadamard_union(SPAN, dtype=torch.float64).vectors.to(turn.device) @ turn


def changes(seed: int, name: str) -> Float[Tensor, " n_features"]:
    """Returns relative changes of the probabilities: sum 0, mean size 1, none as large as 2.

    Of unequal sizes: equal ones give the moment of this frame equal eigenvalues.
    """
    generator = stream(seed, name)
    sizes = 0.5 + torch.rand(N, generator=generator, dtype=torch.float64)
    xi = sizes * (1 - 2 * (torch.randperm(N, generator=generator) % 2))
    xi = xi - xi.mean()
    return xi / xi.abs().mean()


def world_of(run: Trained) -> ToyModel:
    rows, even = frame(run.seed), torch.full((N,), 1 / N, dtype=torch.float64)
    if run.kind in ("inside", "outside"):
        probs = torch.cat([even * (1 - run.size), even.new_tensor([run.size])])
        rows = one_more(run.seed, run.kind).vectors
        return ToyModel(Exclusive(N + 1, probs, MAGNITUDE), Dictionary.normalise(rows.float()))
    if run.kind == "reweighted":  # total variation is half the mean change
        even = even * (1 + 2 * run.size * changes(run.seed, "shift"))
    law = Exclusive(N, even, MAGNITUDE)
    if run.kind == "grown":
        law = Mixture((law, ExactlyK(N, 2, MAGNITUDE)), (1 - run.size, run.size))
    return ToyModel(law, Dictionary.normalise(rows.float()))


def one_more(seed: int, kind: str) -> Dictionary:
    """Returns the frame and a direction in its span or at right angles to it."""
    rows = frame(seed)
    generator = stream(seed, "one more", device())
    drawn = random_unit(1, D_IN, generator=generator, dtype=torch.float64).vectors
    within = drawn @ rows.T @ rows / 2  # the frame bound is 2
    return Dictionary.normalise(torch.cat([rows, within if kind == "inside" else drawn - within]))


def sae_run(run: Trained) -> dict[str, np.ndarray]:
    """Returns the rows of the trained SAE; those of one world start alike."""
    sae = TopK(D_IN, N_LATENTS, 1, generator=stream(run.seed, "init", device()))
    config = TrainConfig(run.n_steps, 256, lr=1e-2, decay=0.5, dead_after=2000, n_records=2)
    data = stream(run.seed, "train" if run.kind == "base" else "train again", device())
    return {"rows": train(sae, world_of(run), config, generator=data).sae.W_dec.detach().numpy(
        force=True)}  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """Two laws of changes in random order; one is the other's rival for the top eigenspace.

    tight: energies are even; else the first R features have three times the energy.
    """

    seed: int
    sizes: tuple[float, ...]
    tight: bool


def turn_run(run: Turn) -> dict[str, np.ndarray]:
    """Returns the root mean squared sine between the top eigenspaces of both laws, [sizes].

    bound: |dS|_F / (gap - |dS|) / sqrt(R) by Davis and Kahan; infinite without a gap.
    """
    d = frame(run.seed).cpu()
    e = torch.full((N,), MAGNITUDE.second_moment() / N, dtype=torch.float64)
    if not run.tight:
        e[:R] *= 3
    one, other = (changes(run.seed, name) for name in ("shift", "other shift"))
    sine, bound = [], []
    for size in run.sizes:
        first, second = ((d.T * (e * (1 + 2 * size * s))) @ d for s in (one, other))
        sine.append(math.sqrt(eigenspace_rotation(first, second, R).score))
        values = torch.linalg.eigvalsh(first).flip(0)
        change = torch.linalg.eigvalsh(second - first)
        room = float(values[R - 1] - values[R] - change.abs().max())
        bound.append(float(change.norm()) / room / R**0.5 if room > 0 else math.inf)
    return {"sine": np.array(sine), "bound": np.array(bound)}


def added(seed: int, kind: str, probs: tuple[float, ...]) -> tuple[np.ndarray, float]:
    """Returns the visible directions that one more feature adds, [probs], and where: kappa p."""
    d = one_more(seed, kind).vectors.cpu()

    def energies(prob: float) -> Tensor:
        rest = torch.full((N,), (1 - prob) / N, dtype=torch.float64)
        return MAGNITUDE.second_moment() * torch.cat([rest, rest.new_tensor([prob])])

    counts = [
        int((torch.linalg.eigvalsh((d.T * energies(p)) @ d) > VISIBLE).sum()) for p in (0.0, *probs)
    ]
    kappa = float(visibility_shifts(d, energies(RARE), VISIBLE)[-1])
    return np.array(counts[1:]) - counts[0], kappa * RARE


@functools.cache
def polygon(n_vertices: int) -> Phase:
    return polygon_phase(N_COLUMNS, n_vertices)


@dataclass(frozen=True)
class Minimum:
    """The minimum with `n_vertices` columns in use, followed as its law moves away by `sizes`.

    kind: "reweighted", half the columns rarer; "all pairs" of features, or "one pair", which holds
        the last feature, are active together.
    """

    seed: int
    n_vertices: int
    kind: str
    sizes: tuple[float, ...]


def even_law() -> FewActive:
    c = N_COLUMNS
    singles = torch.full((c,), 1 / c, dtype=torch.float64)
    return FewActive(singles, singles.new_zeros(c, c))


def far_law(run: Minimum) -> tuple[FewActive, float]:
    """Returns the law that the change points to, and its total variation from the even one."""
    c, even = N_COLUMNS, even_law()
    if run.kind == "reweighted":
        order = torch.randperm(c, generator=stream(run.seed, "columns"))
        return FewActive(even.singles * 2 * (order % 2), even.pairs), 0.5
    pairs = 1 - torch.eye(c, dtype=torch.float64)
    if run.kind == "one pair":
        first = int(torch.randint(c - 1, (1,), generator=stream(run.seed, "columns")))
        pairs = torch.zeros(c, c, dtype=torch.float64)
        pairs[first, c - 1] = pairs[c - 1, first] = 1.0
    return even.with_pairs(1.0, pairs / pairs.sum()), 1.0


def minimum_run(run: Minimum) -> dict[str, np.ndarray]:
    """Returns rank, negative eigenvalues and relative movement, [sizes]; what the implicit function
    theorem says of the movement, and how much of the slope it cannot answer (blocked)."""
    start, even = polygon(run.n_vertices), even_law()
    W, b, (far, reach) = start.W, start.b, far_law(run)
    first_order = response(W, b, even, far)
    length = math.sqrt(start.squared_norm)
    ranks, negative, moved = [], [], []
    for size in run.sizes:
        part = size / reach
        law = FewActive(
            (1 - part) * even.singles + part * far.singles,
            (1 - part) * even.pairs + part * far.pairs,
        )
        W, b = critical_point(W, b, law)
        found = curvature(W, b, law)
        ranks.append(found.rank)
        negative.append(found.n_negative)
        moved.append(movement(start.W, start.b, W, b) / length)
    return {
        "rank": np.array(ranks),
        "negative": np.array(negative),
        "moved": np.array(moved),
        "foretold": np.array(run.sizes) / reach * float(first_order.step.norm()) / length,
        "blocked": np.array(first_order.blocked),
    }


@dataclass(frozen=True)
class Rivals:
    """The 5-gon and the 6-gon at these numbers of samples."""

    n_samples: tuple[float, ...]


def switch_run(run: Rivals) -> dict[str, np.ndarray]:
    """Returns how far the nearest reweighting is at which the preferred phase changes, [n_samples].

    tv, kl, reverse_kl: the parameters fixed, in closed form.   by_search: the same KL by general
    constrained minimisation over all laws.   second: total variation, the 6-gon's response taken
    into account to second order.   refined: with both minima found anew at each law on the way.
    """
    five, six, even = polygon(5), polygon(6), even_law()
    gains = single_losses(five.W, five.b) - single_losses(six.W, six.b)
    last = N_COLUMNS - 1
    far = FewActive(torch.eye(N_COLUMNS, dtype=torch.float64)[last], even.pairs)
    slope, _ = gradient_and_hessian(six.W, six.b, far)
    pull = -float(slope @ response(six.W, six.b, even, far).step)
    results = []
    for n in run.n_samples:
        cost = 1.5 * math.log(n) + (six.squared_norm - five.squared_norm) / 2
        found = nearest_switch(even.singles, gains, cost / n)
        searched = _search(even.singles.numpy(), gains.numpy(), cost / n)

        def by_response(share: float, n: float = n, cost: float = cost) -> float:
            # Along (1 - t) even + t (feature alone), the 6-gon gains t^2 pull / 2 by moving.
            t = (share - 1 / N_COLUMNS) / (1 - 1 / N_COLUMNS)
            q = torch.full((N_COLUMNS,), (1 - share) / last, dtype=torch.float64)
            q[last] = share
            return n * (float((q * gains).sum()) + t * t * pull / 2) - cost

        def by_minima(share: float, n: float = n) -> float:
            q = torch.full((N_COLUMNS,), (1 - share) / last, dtype=torch.float64)
            q[last] = share
            law = FewActive(q, even.pairs)
            return _energy(five, law, n, 7.0) - _energy(six, law, n, 8.5)

        near, closed = float(found.probs[last]), abs(float(found.probs[last]) - 1 / N_COLUMNS)
        ends = (max(0.06, near - 0.5 * closed - 1e-3), near + 0.5 * closed + 1e-3)
        tv = [
            abs(float(brentq(f, *ends, xtol=1e-6)) - 1 / N_COLUMNS)  # type: ignore[arg-type]
            for f in (by_response, by_minima)
        ]
        distance = found.distance
        results.append((found.least_tv, distance.kl, distance.reverse_kl, searched, tv[0], tv[1]))
    names = ("tv", "kl", "reverse_kl", "by_search", "second", "refined")
    return dict(zip(names, np.array(results).T, strict=True))


@dataclass(frozen=True)
class Between:
    """Two shares of two-feature inputs: by loss the 6-gon is preferred at one of them only."""

    low: float
    high: float


def pairs_run(run: Between) -> dict[str, np.ndarray]:
    """Returns the share of two-feature inputs at which the losses are equal, minima found anew."""
    five, six, even = polygon(5), polygon(6), even_law()
    pairs = (1 - torch.eye(N_COLUMNS, dtype=torch.float64)) / (N_COLUMNS * (N_COLUMNS - 1))

    def lead(share: float) -> float:
        law = even.with_pairs(share, pairs)
        return _loss(five, law) - _loss(six, law)

    share = float(brentq(lead, run.low, run.high, xtol=1e-3))  # type: ignore[arg-type]
    return {"pairs_by_loss": np.array(share)}


def _loss(start: Phase, law: FewActive) -> float:
    W, b = critical_point(start.W, start.b, law)
    return float(loss(W, b, law))


def _energy(start: Phase, law: FewActive, n: float, coefficient: float) -> float:
    W, b = critical_point(start.W, start.b, law)
    alive = W.norm(dim=0) > 1e-9
    size = float(W.square().sum() + b[alive].square().sum())
    return free_energy(n, float(loss(W, b, law)), coefficient, size)


def _search(p: np.ndarray, gains: np.ndarray, needed: float) -> float:
    """Returns the least KL(q || p) with q . gains = needed, by sequential quadratic programming."""
    rules = (
        {"type": "eq", "fun": lambda q: 100 * (q @ gains - needed)},
        {"type": "eq", "fun": lambda q: q.sum() - 1},
    )
    found = minimize(
        lambda q: 100 * float((q * np.log(q / p)).sum()),
        p,
        method="SLSQP",
        bounds=[(1e-9, 1)] * len(p),
        constraints=rules,
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return found.fun / 100
