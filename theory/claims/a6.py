"""A6: how fast energies that fall like a power can be compressed."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st

from theory.claims._claim import Claim, Comparisons, Mutant, at_most


@dataclass(frozen=True)
class PowerLaw:
    """n features of energies i^-alpha, m latents, and a share eps of energy that may be lost."""

    n_features: int
    n_latents: int
    alpha: float
    eps: float

    def energies(self) -> torch.Tensor:
        return torch.arange(1, self.n_features + 1, dtype=torch.float64) ** -self.alpha

    def needed(self) -> int:
        """Returns the least m at which the energy beyond the m largest is at most eps of all."""
        energies = self.energies()
        beyond = energies.flip(0).cumsum(0).flip(0)  # beyond[m]: what m latents lose
        lost = torch.cat([beyond, beyond.new_zeros(1)]) <= self.eps * beyond[0] * (1 + 1e-12)
        return int(lost.int().argmax())


@st.composite
def power_laws(draw: Any) -> PowerLaw:
    n = draw(st.integers(1, 50) | st.integers(1, 20_000))
    alpha = st.sampled_from([1.0, 2.0, 0.5, 0.0, 1.5]) | st.floats(0, 3)
    m = draw(st.integers(0, n))
    return PowerLaw(n, m, draw(alpha), draw(st.sampled_from([0.5, 0.1, 0.01, 0.9])))


def integral(low: float | int, high: float | int, alpha: float) -> float:
    """Returns the integral of t^-alpha from low to high; infinity at low = 0 for alpha >= 1."""
    if low == high:
        return 0.0
    if low == 0:
        return high ** (1 - alpha) / (1 - alpha) if alpha < 1 else math.inf
    log_ratio, s = math.log(high / low), 1 - alpha
    # expm1: near alpha = 1 the difference of the two powers would cancel.
    return low**s * (math.expm1(s * log_ratio) / s if s * log_ratio else log_ratio)


def width_bounds(law: PowerLaw) -> tuple[float | int, float | int]:
    """Returns a lower bound on needed + 1 and an upper bound on needed, from integrals alone.

    alpha > 1: about eps^(-1/(alpha-1)), for every n at once in the upper bound.
    alpha < 1: about (1 - eps)^(1/(1-alpha)) n.   alpha = 1 is not bounded here: 0 and n.
    """
    n, alpha, eps = float(law.n_features), law.alpha, law.eps
    s = alpha - 1
    if s > 1e-6:
        low = (eps * alpha + (n + 1) ** -s) ** (-1 / s)
        log_high = -math.log(eps * s) / s
        return low, n if log_high > math.log(n) else math.ceil((eps * s) ** (-1 / s))
    if s < -1e-6:
        low = (n + 1) * (1 - eps) ** (-1 / s)
        rest = n**-s - eps * ((n + 1) ** -s - 1)
        return low, min(n, math.ceil(max(0.0, rest) ** (-1 / s)))
    return 0.0, n


def compare(law: PowerLaw) -> Comparisons:
    n, m, alpha = law.n_features, law.n_latents, law.alpha
    energies = law.energies()
    tail, total = float(energies[m:].sum()), float(energies.sum())
    needed = law.needed()
    low, high = width_bounds(law)
    return (
        at_most("integral from m+1, against the tail", integral(m + 1, n + 1, alpha), tail,
                scale=total),
        at_most("tail, against the integral from m", tail, integral(m, n, alpha), scale=total),
        at_most("lower bound on the width", float(low), needed + 1.0, scale=n),
        at_most("width, against its upper bound", float(needed), float(high), scale=n),
    )  # fmt: skip


def integral_from_next(law: PowerLaw) -> Comparisons:
    n, m, alpha = law.n_features, law.n_latents, law.alpha
    energies = law.energies()
    label, tail = "tail, against the integral from m+1", float(energies[m:].sum())
    bound = integral(m + 1, n + 1, alpha)
    return (at_most(label, tail, bound, scale=float(energies.sum())),)


def cheap_for_every_exponent(law: PowerLaw) -> Comparisons:
    """The width of alpha = 2, whatever alpha and n."""
    bound = math.ceil(1 / law.eps)
    return (
        at_most("width, against 1/eps", float(law.needed()), float(bound), scale=law.n_features),
    )


CLAIM = Claim(
    key="A6",
    statement="How fast power-law energies can be compressed\n"
    "For energies i^-alpha, alpha >= 0, the integral of t^-alpha over [m+1, n+1] is at most their "
    "sum beyond m, which is at most the integral over [m, n]. So for alpha > 1 all but a share eps "
    "of the energy needs at most (eps (alpha-1))^(-1/(alpha-1)) latents, rounded up, whatever n, "
    "and more than (eps alpha + (n+1)^(1-alpha))^(-1/(alpha-1)) - 1; for alpha < 1 it needs at "
    "least (n+1) (1-eps)^(1/(1-alpha)) - 1, a fixed fraction of all features, and in the limit no "
    "more.",
    source="folklore",
    proof="t^-alpha falls; total >= 1 and <= alpha/(alpha-1), or <= n^(1-alpha)/(1-alpha)",
    status="proved",
    kind="exact",
    paper_label="eq:rate",
    strategy=power_laws,
    compare=compare,
    mutants=(
        Mutant(
            "integral-from-next",
            "The integral from m+1 bounds the sum beyond m from above",
            integral_from_next,
        ),
        Mutant(
            "cheap-for-every-exponent",
            "1/eps latents suffice whatever the exponent and the number of features",
            cheap_for_every_exponent,
        ),
    ),
)
