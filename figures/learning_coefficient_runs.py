"""The runs of fig_learning_coefficient: chains on known models, polygons and single modes.

All worlds of a run are chains of one call, an equal share each: chains are independent, and one
call of many chains is cheaper than many calls.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from theory.chain_error import chain_mean
from theory.curvature import Loss, hessian
from theory.known_coefficients import KnownModel, normal_crossing, reduced_rank, regular_quadratic
from theory.langevin import langevin
from theory.langevin_bias import quadratic_mean
from theory.learning_coefficient import MAX_SHARE_BELOW, ROUNDING, learning_coefficient
from theory.newton import flatten
from theory.phases import polygon_phase
from theory.potential import potential
from toymodels import stream

STIFFNESS, MAX_STIFFNESS = 0.08, 0.1  # eps (n beta h + gamma): by the rule, and wherever chains go
COVERED = 0.95  # what two standard errors promise
N_BATCH = 20  # the batch size of the published training
BURN_INS = (0, 10, 20, 40, 80, 160)  # steps of stiffness 0.1, for windows of 20 draws
RELAXATIONS = 7  # of the slowest mode before the first draw: e^-7 of its start is left


@dataclass(frozen=True)
class Setting:
    """A known model and what the rule of steps needs: all but `make` in units of the loss.

    n_beta: 0 for that of the run.   steepest: largest curvature that chains meet, all the way out.
    slowest: least curvature that matters, beside localisation: 0 where only that settles them.
    """

    make: Callable[[], KnownModel]
    n_beta: float
    steepest: float
    slowest: float


# Tails reach |w|^2 = 15 for one weight, 30 for the six of a map, at gamma = 1. Curvatures of x^4
# are those of |x| <= 2 n_beta^(-1/4).
SETTINGS = {
    "quadratic": Setting(lambda: regular_quadratic([2.0, 1.0, 0.5, 0.0]), 1e3, 2.0, 0.5),
    "map 3→4 of rank 2": Setting(lambda: reduced_rank(3, 4, 2, 2), 1e4, 2.5, 1.0),
    "x⁴": Setting(lambda: normal_crossing([2]), 1e4, 0.5, 0.01),
    "x²y² (m = 2)": Setting(lambda: normal_crossing([1, 1]), 0, 36.0, 0.0),
    "x²y⁴": Setting(lambda: normal_crossing([1, 2]), 1, 700.0, 0.0),
    "zero map 1→3": Setting(lambda: reduced_rank(1, 3, 1, 0), 0, 26.0, 0.0),
    "zero map 3→1": Setting(lambda: reduced_rank(3, 1, 1, 0), 0, 26.0, 0.0),
    "zero map 1→1, 3 hidden": Setting(lambda: reduced_rank(1, 1, 3, 0), 0, 26.0, 0.0),
    "zero map 2→2": Setting(lambda: reduced_rank(2, 2, 2, 0), 0, 28.0, 0.0),
    "zero map 2→3 (m = 2)": Setting(lambda: reduced_rank(2, 3, 2, 0), 0, 30.0, 0.0),
}


@dataclass(frozen=True)
class Known:
    """A known model, sampled at localisation 1. n_beta: for the models that name none."""

    name: str
    n_beta: float
    n_worlds: int
    n_chains: int
    n_draws: int


@dataclass(frozen=True)
class Polygon:
    """A polygon at c = 6 in two hidden dimensions, its exact loss sampled at n = n_samples.

    checked: whether chains that escape are dropped and mistakes refused, as they should be.
    n_burn_in: 0 for the rule.   n_chains: in each world.
    steepest: largest curvature that chains meet; 0 for the Hessian's, enough at a regular minimum.
    """

    n_vertices: int
    n_raised: int
    n_samples: float
    localisation: float
    n_worlds: int
    n_chains: int
    n_draws: int
    n_burn_in: int = 0
    checked: bool = True
    steepest: float = 0.0


@dataclass(frozen=True)
class Mode:
    """One curved mode, n beta h = 1 without localisation, sampled with steps of a stiffness.

    n_repeats: estimates in each world, of n_chains chains each.
    """

    stiffness: float
    n_worlds: int
    n_repeats: int
    n_chains: int
    n_draws: int
    n_burn_in: int


def known_run(run: Known) -> dict[str, np.ndarray]:
    """Returns the estimates by world, the mean at that n_beta, lambda, and the step's bias."""
    setting = SETTINGS[run.name]
    model, n_beta = setting.make(), setting.n_beta or run.n_beta
    step_size = STIFFNESS / (n_beta * setting.steepest + 1)
    found = learning_coefficient(
        model.loss,
        model.w_star,
        n_beta=n_beta,
        step_size=step_size,
        localisation=1,
        n_draws=run.n_draws,
        n_burn_in=math.ceil(RELAXATIONS / step_size / (n_beta * setting.slowest + 1)),
        n_chains=run.n_worlds * run.n_chains,
        generator=stream(0, f"chains {run.name}"),
        max_stiffness=MAX_STIFFNESS,
    )
    regular = setting.slowest > 0 and run.name != "x⁴"
    try:
        target = model.localised_mean(n_beta, 1)
    except NotImplementedError:  # a regular map: the quadratic is exact up to 1 / n_beta
        target = model.coefficient + found.localisation_bias
    # The step's bias is known for a quadratic, and for other losses at most that of its steepest.
    most = target / (1 - found.stiffness / 4) - target
    biases = (found.step_bias, found.step_bias) if regular else (0.0, most)
    return {
        **by_world(found.draws, run.n_worlds),
        "target": np.array(target),
        "step_bias": np.array(biases),
        "coefficient": np.array(model.coefficient),
        "n_beta": np.array(n_beta),
    }


def polygon_run(run: Polygon) -> dict[str, np.ndarray]:
    """Returns the estimates by world, what a quadratic of the same Hessian gives, and its rank.

    For chains that are not checked: of all of them, with the share that `learning_coefficient`
    would drop.
    """
    phase = polygon_phase(6, run.n_vertices, n_raised=run.n_raised)
    w_star = flatten(phase.W, phase.b)
    n_beta = run.n_samples / math.log(run.n_samples)
    curved = polygon_curvatures(run.n_vertices, run.n_raised)
    ends = (run.steepest or curved.max(), curved.min())
    pulls = [n_beta * x + run.localisation for x in ends]
    steepest, slowest = (float(pull) for pull in pulls)
    options = {"n_beta": n_beta, "step_size": STIFFNESS / steepest}
    options |= {"localisation": run.localisation}
    chains = {
        **options,
        "n_draws": run.n_draws,
        "n_burn_in": run.n_burn_in or math.ceil(RELAXATIONS / options["step_size"] / slowest),
        "n_chains": run.n_worlds * run.n_chains,
        "generator": stream(0, f"chains {run.n_vertices} {run.n_raised}"),
    }
    if run.checked:
        found = learning_coefficient(polygon_loss, w_star, max_stiffness=MAX_STIFFNESS, **chains)
        draws, escaped = found.draws, found.escaped
    else:
        losses, _ = langevin(polygon_loss, w_star, **chains)
        draws = n_beta * (losses - phase.loss)
        escaped = (draws < -ROUNDING).double().mean(1) > MAX_SHARE_BELOW
    expected = quadratic_mean(curved, **options)
    exact = quadratic_mean(curved, **{**options, "step_size": 0})
    return {
        **by_world(draws, run.n_worlds),
        "target": np.array(exact),
        "step_bias": np.array((expected - exact, expected - exact)),
        "rank": np.array(len(curved)),
        "coefficient": np.array(phase.rank / 2 if phase.smooth else math.nan),
        "share_escaped": np.array(float(escaped.double().mean())),
    }


def mode_run(run: Mode) -> dict[str, np.ndarray]:
    """Returns estimates and errors, [worlds, repeats], and what an exact mode would give."""
    loss: Loss = lambda w: w.square().sum(1) / 2  # noqa: E731  # no name is clearer
    losses, _ = langevin(
        loss,
        torch.zeros(1, dtype=torch.float64),
        n_beta=1,
        step_size=run.stiffness,
        localisation=0,
        n_draws=run.n_draws,
        n_burn_in=run.n_burn_in,
        n_chains=run.n_worlds * run.n_repeats * run.n_chains,
        generator=stream(0, "chains of one mode"),
    )
    parts = by_world(losses, run.n_worlds * run.n_repeats)
    one = torch.ones(1, dtype=torch.float64)
    target = quadratic_mean(one, n_beta=1, step_size=run.stiffness, localisation=0)
    times = run.n_burn_in + np.arange(run.n_draws)
    # From w* on, the variance lacks (1 - eps / 2)^(2 t) of what it will be.
    settled = 1 - np.mean((1 - run.stiffness / 2) ** (2 * times))
    shaped = {k: v.reshape(run.n_worlds, run.n_repeats) for k, v in parts.items()}
    return {**shaped, "target": np.array(target), "unsettled": np.array(target * settled)}


def polygon_curvatures(n_vertices: int, n_raised: int) -> Float[Tensor, " rank"]:
    """Returns the Hessian's eigenvalues beyond 1e-7 of the largest (4-gon: one-sided)."""
    phase = polygon_phase(6, n_vertices, n_raised=n_raised)
    h = torch.linalg.eigvalsh(hessian(polygon_loss, flatten(phase.W, phase.b)))
    return h[h > 1e-7 * h.max()]


def polygon_loss(w: Float[Tensor, "n n_weights"]) -> Float[Tensor, " n"]:
    """Returns the potential of each row, w = (W [2, 6] row by row, b [6])."""
    return potential(w[:, :12].reshape(-1, 2, 6), w[:, 12:])


def by_world(draws: Float[Tensor, "n_chains n_draws"], n_worlds: int) -> dict[str, np.ndarray]:
    """Returns means and their errors of equal shares of the chains.

    errors: aware of autocorrelation.   naive: as if all draws were independent.
    """
    shares = draws.tensor_split(n_worlds)
    means = [chain_mean(share) for share in shares]
    return {
        "estimates": np.array([mean.mean for mean in means]),
        "errors": np.array([mean.standard_error for mean in means]),
        "naive": np.array([float(share.std()) / math.sqrt(share.numel()) for share in shares]),
        "autocorrelation": np.array([mean.autocorrelation_time for mean in means]),
    }
