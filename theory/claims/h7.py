"""H7: does one latent hedge with the sign of the correlation, whatever the SAE?"""

import math
from functools import partial

import torch

from theory.claims._claim import Claim, Comparisons, Mutant, at_most
from theory.claims._one_latent import PURE, Codes, losses, two_features

N_ANGLES = 1024  # per quadrant


def quadrant(start: float) -> torch.Tensor:
    """Returns evenly spaced angles of the quadrant that begins at `start`, ends included."""
    return start + torch.linspace(0, math.pi / 2, N_ANGLES, dtype=torch.float64)


def compare(law: Codes) -> Comparisons:
    """Least loss of the directions that the claim allows, against all others.

    A loss changes by 2 |E z (s - E s)| <= 3 scale per unit of angle, s the projection across the
    row, so a grid is within `resolution` of its minimum: a failure is one of the true minima.
    """
    covariance, scale = float(law.covariance()[0, 1]), law.scale
    pure = losses(law, torch.tensor(PURE, dtype=torch.float64)).min()
    same = torch.cat([quadrant(0.0), quadrant(math.pi)])
    opposite = torch.cat([quadrant(math.pi / 2), quadrant(3 * math.pi / 2)])
    if abs(covariance) <= 1e-12 * scale:
        allowed, others, resolution = pure, torch.cat([same, opposite]), 0.0
    else:
        towards, others = (same, opposite) if covariance > 0 else (opposite, same)
        resolution = 1.5 * scale * (math.pi / 2) / (N_ANGLES - 1)
        allowed = losses(law, towards).min() - resolution
    best = losses(law, others).min()
    label = "least loss with the sign of the covariance, against any other"
    return (at_most(label, float(allowed), float(best), scale=scale),)


CLAIM = Claim(
    key="H7",
    statement="The sign of hedging is the sign of the correlation\n"
    "One latent with a unit decoder row and ReLU codes on two orthonormal features: the least "
    "loss E|x - x_hat|^2 + lambda E z is reached with a row that leans towards the other feature "
    "with the sign of their covariance, or not at all if that is 0. Refuted without a decoder "
    "bias, where every pair that fires together is mixed positively, and with one for lambda > 0.",
    source="Chanin et al. 2025, arXiv 2505.11756 (decoder bias, small lambda)",
    proof="Counterexamples: no bias and equal odds of (1,0), (0,1) and (1,1); a bias, lambda 3/4 "
    "and two independent coins",
    status="refuted",
    kind="exact",
    paper_label="eq:one-latent",
    strategy=two_features,
    compare=compare,
    mutants=(
        Mutant(
            "any-penalty",
            "With a decoder bias it holds at every penalty",
            compare,
            partial(two_features, bias=True),
        ),
        Mutant(
            "without-a-bias",
            "It holds without a decoder bias if there is no penalty",
            compare,
            partial(two_features, bias=False, penalised=False),
        ),
    ),
)
