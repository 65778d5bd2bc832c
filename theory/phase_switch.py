"""How far the law of the inputs is from one that prefers another phase."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor

from theory.checks import check, check_finite
from theory.few_active import LawDistance, kl


@dataclass(frozen=True)
class Switch:
    """The nearest laws at which two phases, their parameters held fixed, are equally good.

    probs: [n], the law of least KL(q || p) among them.   distance: its.
    least_tv: the least total variation distance of any of them.
    """

    probs: Float[Tensor, " n"]
    distance: LawDistance
    least_tv: float


def nearest_switch(
    probs: Float[Tensor, " n"], gains: Float[Tensor, " n"], needed: float | int
) -> Switch:
    """Returns the nearest reweighting q of p at which sum_i q_i gains_i = needed.

    gains_i: loss of the first phase less that of the second, given that feature i is active;
    needed: what the second costs, ((lambda' - lambda) ln n + (|w'|^2 - |w|^2) / 2) / n in free
    energy, 0 in loss. q_i is proportional to p_i exp(theta gains_i) (I-projection); the least total
    variation takes from the smallest gains (or largest) and gives to the other end.

    Raises: ValueError: no reweighting does it: `needed` is not strictly between the gains.
    Source: eq:nearest-switch. Csiszar 1975 for the projection.
    """
    where = "nearest_switch"
    check_finite(where, probs=probs, gains=gains)
    p, g = probs.double(), gains.double()
    low, high = float(g[p > 0].min()), float(g[p > 0].max())
    rule = f"{low} < needed < {high} (the gains)"
    check(low < needed < high, where, rule, "no reweighting makes the phases equal", needed=needed)

    def tilted(theta: float) -> Tensor:
        return torch.softmax(p.log() + theta * g, 0)

    def excess(theta: float) -> float:
        return float((tilted(theta) * g).sum()) - needed

    reach = 1 / (high - low)
    while excess(-reach) > 0 or excess(reach) < 0:
        reach *= 2
    q = tilted(float(brentq(excess, -reach, reach, xtol=1e-14 * reach)))  # type: ignore[arg-type]
    away = needed - float((p * g).sum())
    end = high if away > 0 else low
    # Mass is taken where moving it gains most, until the difference is made up.
    pull, order = (end - g).abs().sort(descending=True)
    made = (pull * p[order]).cumsum(0)
    taken = ((abs(away) - (made - pull * p[order])) / pull.clamp(min=1e-300)).clamp(min=0)
    least = float(torch.minimum(taken, p[order]).sum())
    distance = LawDistance(kl(q, p), kl(p, q), float((q - p).abs().sum()) / 2)
    return Switch(q, distance, least)
