"""Biases of sampled learning coefficients that no number of draws removes, as if quadratic."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from theory.checks import check


@dataclass(frozen=True)
class LangevinBias:
    """What is added to the mean of n beta L, in units of parameters / 2.

    step: >= 0, by the size of the steps.   localisation: <= 0, by the pull towards w*.
    gradient: <= 0, because w* is not quite the minimum.   descent: <= 0, by directions that curve
        down and are held by localisation alone; -inf if it does not hold them.
    """

    step: float
    localisation: float
    gradient: float
    descent: float


def quadratic_mean(
    curvatures: Float[Tensor, " n"],
    *,
    n_beta: float | int,
    step_size: float | int,
    localisation: float | int,
) -> float:
    """Returns the mean of n beta L of Langevin chains on L = (1/2) sum_j h_j w_j^2, at w* = 0.

    A step is w <- (1 - eps p / 2) w + sqrt(eps) N(0, 1) with the pull p = n beta h + gamma. Its
    stationary variance is 1 / (p (1 - eps p / 4)), so the mode adds

        (1/2) n beta h / p / (1 - eps p / 4):

    1/2 as eps and gamma go to 0, infinity as eps p goes to 4, where the chain diverges.

    Args:
        curvatures: h_j, of any sign; all pulls in [0, 4 / eps). A pull of 0 adds nothing.
        step_size: eps >= 0; 0 for exact samples of exp(-n beta L - (gamma/2)|w|^2).
    Raises: ValueError: a pull out of range.
    Source: the AR(1) process; in the paper eq:langevin-bias.
    """
    if len(curvatures) == 0:
        return 0.0
    strength = n_beta * curvatures
    pulls = strength + localisation
    slowed = 1 - step_size * pulls / 4
    held = bool((pulls >= 0).all() and (slowed > 0).all())
    rule = "0 <= n_beta * h + localisation < 4 / step_size"
    check(held, "quadratic_mean", rule, least=float(pulls.min()), most=float(pulls.max()))
    shares = torch.where(pulls > 0, strength / pulls.where(pulls > 0, 1.0), 0.0)
    return float((shares / slowed).sum()) / 2


def langevin_bias(
    curvatures: Float[Tensor, " n"],
    slopes: Float[Tensor, " n"],
    *,
    n_beta: float | int,
    step_size: float,
    localisation: float | int,
) -> LangevinBias:
    """Returns the biases of the estimate for L = sum_j (g_j w_j + (1/2) h_j w_j^2).

    The chains settle around -n beta g / p, p = n beta h + gamma, where n beta L is lower by
    (n beta g)^2 / p (1 - n beta h / (2 p)): from (n beta g)^2 / (2 p) without localisation up to
    twice that where it is all that pulls.

    Args:
        curvatures, slopes: the Hessian's eigenvalues h and the gradient g along its eigenvectors.
            Curvatures below sqrt(rounding) of the largest count as 0.
    """
    resolution = math.sqrt(torch.finfo(curvatures.dtype).eps)
    cut = resolution * float(curvatures.abs().max())
    curved, down = curvatures[curvatures > cut], n_beta * curvatures[curvatures < -cut]
    exact = quadratic_mean(curved, n_beta=n_beta, step_size=0, localisation=localisation)
    stepped = quadratic_mean(curved, n_beta=n_beta, step_size=step_size, localisation=localisation)
    held = bool((down + localisation > 0).all())
    return LangevinBias(
        step=stepped - exact,
        localisation=exact - len(curved) / 2,
        gradient=-_lost(n_beta * curvatures, n_beta * slopes, localisation),
        descent=float((down / (down + localisation)).sum()) / 2 if held else -math.inf,
    )


def _lost(
    strengths: Float[Tensor, " n"], slopes: Float[Tensor, " n"], localisation: float | int
) -> float:
    pulls = strengths + localisation
    # Flat directions have a curvature of rounding's size; so has the gradient along them.
    floor = math.sqrt(torch.finfo(pulls.dtype).eps) * float(pulls.abs().max())
    if floor == 0:
        return math.inf if bool((slopes != 0).any()) else 0.0
    pulls = pulls.clamp(min=floor)
    return float((slopes.square() / pulls * (1 - strengths / pulls / 2)).sum())
