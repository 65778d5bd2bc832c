"""What fig_superposition.py reads off trained networks, and what patterns and chance predict."""

import numpy as np
import torch

from figures.runs import map_cached
from figures.superposition_runs import Free, expected_loss, free_boundary_run
from toymodels import stream
from toymodels.superposition_boundary import superposition_boundary
from toymodels.superposition_geometry import (
    dimensions_per_feature,
    feature_dimensionality,
    shapes,
)
from toymodels.superposition_neurons import features_per_neuron, has_two_neurons

Values = tuple[float, ...]
KINDS = ("other", "orthogonal pair", "two digons", "pentagon")
BESIDE = 1.05  # cells within 5 % of the band between the two boundaries are not judged


def shuffled(networks: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Returns the networks with the entries of each W in one random order, W_out in the same."""
    W, W_out = torch.tensor(networks["W"]), torch.tensor(networks["W_out"])
    order = torch.randperm(W[0, 0, 0].numel(), generator=stream(seed, "shuffle"))
    mixed = {"W": placed(W, order), "W_out": placed(W_out.mT, order).mT}
    return networks | {name: a.numpy() for name, a in mixed.items()}


def placed(W: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Returns each matrix with its entries in another order."""
    return W.flatten(-2)[..., order].view_as(W)


def best(networks: dict[str, np.ndarray], name: str = "W") -> torch.Tensor:
    """Returns the weights of the start with the least loss, of the first importance."""
    at = networks["loss"][:, 0].argmin(1)
    return torch.tensor(networks[name][np.arange(len(at)), 0, at])


def geometry(W: torch.Tensor) -> dict[str, np.ndarray]:
    D, star, norm = feature_dimensionality(W), dimensions_per_feature(W), W.norm(dim=1)
    return {"D": D.numpy(), "star": star.numpy(), "norm": norm.numpy()}


def kinds(W: torch.Tensor) -> np.ndarray:
    """Returns which of KINDS each instance is, by the polytopes of its columns."""
    named = {
        ("alone", "alone", "ignored", "ignored", "ignored"): 1,
        ("digon", "digon", "ignored"): 2,
        ("pentagon",): 3,
    }
    labels = [tuple(sorted(shape.label for shape in shapes(w))) for w in W]
    return np.array([named.get(label, 0) for label in labels])


def random_dimensionality(norm: np.ndarray, n_hidden: int) -> np.ndarray:
    """Returns the mean D of represented features if their directions were random.

    NaN where fewer than n_hidden are represented: features have no directions of their own there.
    """
    generator, found = stream(0, "directions"), []
    for row in norm:
        n = int((row >= 0.5).sum())
        if n < n_hidden:
            found.append(np.nan)
            continue
        rows = torch.randn(100, n_hidden, n, generator=generator)
        found.append(float(feature_dimensionality(rows / rows.norm(dim=1, keepdim=True)).mean()))
    return np.array(found)


def states(networks: dict[str, np.ndarray], densities: Values, importances: tuple) -> np.ndarray:
    """Returns the last feature's state: 0 ignored, 1 superposed, 2 alone; [densities, importances].

    Of the start with the least expected loss. Ignored: norm below 1/2; superposed: at a cosine
    below -1/2 with another feature that is not ignored.
    """
    W, b = torch.tensor(networks["W"]).double(), torch.tensor(networks["b"]).double()
    density = torch.tensor(densities, dtype=torch.float64)[:, None, None].expand(W.shape[:3])
    importance = torch.tensor(importances, dtype=torch.float64)[:, None].expand(b.shape)
    at = expected_loss(W, b, density, importance).argmin(-1)
    W = W.take_along_dim(at[..., None, None, None], 2)[:, :, 0]
    kept = W.norm(dim=-2) >= 0.5
    u = W / W.norm(dim=-2, keepdim=True).clamp(min=1e-9)
    opposed = ((u[..., -1:] * u[..., :-1]).sum(-2) < -0.5) & kept[..., :-1]
    state = torch.where(opposed.any(-1), 1, 2)
    return torch.where(kept[..., -1], state, 0).numpy()


def expected_states(n: int, densities: Values, importances: Values) -> dict[str, np.ndarray]:
    """Returns the states that the patterns' losses imply, whether a cell is judged, the boundaries.

    Two features: superposed below p*, else the more important one alone. Three in two dimensions:
    a less important one shares a dimension below p*, a more important one never does: the others'
    antipodal pair costs p^2 / 3, less than p^2 (1 + I) / 6.
    """
    mirrored = tuple(min(i, 1 / i) for i in importances)
    exact = np.array([superposition_boundary(i) for i in importances])
    (found,) = map_cached(free_boundary_run, [Free(tuple(sorted(set(mirrored))))])
    free = found["boundary"][np.searchsorted(sorted(set(mirrored)), mirrored)]
    p, important = np.array(densities)[:, None], np.array(importances) > 1
    above = np.where(important, 2, 0)
    state = np.where((p < exact) & ~(important & (n == 3)), 1, above)
    low, high = np.minimum(exact, free) / BESIDE, np.maximum(exact, free) * BESIDE
    judged = (p < low) | (p > high) | (important & (n == 3))
    grid = np.geomspace(min(importances), max(importances), 101)
    curve = np.array([superposition_boundary(i) for i in grid])
    found = {"expected": state, "judged": judged, "exact": exact, "free": free}
    return found | {"grid": grid, "curve": curve}


def partners(networks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns, by density, the shares of starts whose first pair is antipodal and on one side.

    best: whether the first pair of the start with the least loss is antipodal.
    """
    W = torch.tensor(networks["W"][:, 0])
    u = W / W.norm(dim=-2, keepdim=True).clamp(min=1e-9)
    cosine = (u[..., 0] * u[..., 1]).sum(-1).numpy()
    kept = (W.norm(dim=-2)[..., :2] >= 0.5).all(-1).numpy()
    antipodal = kept & (cosine < -0.9)
    at = networks["loss"][:, 0].argmin(1)
    found = {"antipodal": antipodal.mean(1), "side": (cosine > 0.5).mean(1)}
    return found | {"best": antipodal[np.arange(len(at)), at].astype(float)}


def neurons(networks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the features per neuron and the features with two neurons, best start by density.

    null_one, null_two: the share of neurons with one feature, and of features with two neurons, if
    the weights were in random places.
    """
    W_in, W_out = best(networks), best(networks, "W_out")
    count, two = features_per_neuron(W_in, W_out), has_two_neurons(W_in, W_out)
    generator = stream(0, "null")
    orders = [torch.randperm(W_in[0].numel(), generator=generator) for _ in range(50)]
    mixed = [(placed(W_in, order), placed(W_out.mT, order).mT) for order in orders]
    one = torch.stack([(features_per_neuron(*W) == 1).double().mean(1) for W in mixed]).mean(0)
    null = torch.stack([has_two_neurons(*W).double().mean(1) for W in mixed]).mean(0)
    found = {"count": count.double(), "two": two.double(), "null_one": one, "null_two": null}
    return {name: a.numpy() for name, a in found.items()}


def coincidences(D: np.ndarray, loss: np.ndarray, *, n_orders: int = 10_000) -> dict:
    """Returns how often the largest fall of the loss is within a record of the largest jump of D.

    A jump is sum_j |change of D_j| from one record to the next. The first tenth of the records is
    left out: there every network leaves its random start. Chance keeps the course of training and
    breaks the pairs: the D of one start beside the loss of another of the same world.

    Args:
        D: [n_worlds, n_records, n_starts, n_features]; loss: [n_worlds, n_records, n_starts].
    Returns:
        same_by_world, chance_by_world: shares of starts; limit: the quantile .999 of the share over
        all worlds if the starts of each are put in random order; part_by_world, part_chance: the
        share of the loss's remaining fall that lies within a record of the jump, median; sharpest:
        the start of the first world with the largest fall over an earlier one, per loss.
    """
    first = D.shape[1] // 10
    fall = -np.diff(loss[:, first:], axis=1)
    jump = np.abs(np.diff(D[:, first:], axis=1)).sum(-1)
    at_fall, at_jump = fall.argmax(1), jump.argmax(1)
    near = np.abs(at_fall[:, :, None] - at_jump[:, None, :]) <= 1
    n_worlds, n = at_fall.shape
    others = ~np.eye(n, dtype=bool)
    orders = torch.rand(n_orders, n_worlds, n, generator=stream(0, "orders")).argsort(-1).numpy()
    shares = near[np.arange(n_worlds)[:, None], np.arange(n), orders].mean((1, 2))
    within = np.abs(np.arange(fall.shape[1])[:, None, None, None] - at_jump[:, None, :]) <= 1
    step = ((fall - np.minimum.accumulate(fall, 1)).max(1) / loss[:, first])[0]
    part = (fall.transpose(1, 0, 2)[..., None] * within).sum(0) / fall.sum(1)[..., None]
    return {
        "same_by_world": near[:, ~others].mean(1), "chance_by_world": near[:, others].mean(1),
        "limit": np.quantile(shares, 0.999), "part_by_world": np.median(part[:, ~others], axis=1),
        "part_chance": np.median(part[:, others]),
        "sharpest": step.argmax(),
    }  # fmt: skip
