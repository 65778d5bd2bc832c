"""E2: p-values of nearest neighbours."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import ALPHA, TOLERANCE, Claim, Comparisons, Mutant, Noise, at_most, equal
from theory.isotropic import isotropic_rows
from theory.nearest import nearest, neighbour_p_values
from theory.statistics import dkw_radius
from toymodels import strategies as tms

N_SAMPLES = 500  # radius .15 at ALPHA; .05 in the retest
RANKS = 3


@dataclass(frozen=True)
class Neighbourhood:
    """Isotropic candidates in R^d_in for the neighbours of a direction; rays or lines."""

    n_candidates: int
    d_in: int
    signed: bool
    seed: int

    def worlds(self, noise: Noise) -> Float[Tensor, "n n_candidates d_in"]:
        generator = noise.generator(self.seed)
        shape = (noise.n_samples, self.n_candidates, self.d_in)
        return isotropic_rows(*shape, generator=generator, dtype=torch.float64)

    def largest(self, worlds: Float[Tensor, "n n_candidates d_in"]) -> Float[Tensor, "n r"]:
        """Returns the largest cosines with the first axis (all directions are alike)."""
        cosines = worlds[:, :, 0]
        near = cosines if self.signed else cosines.abs()
        return near.topk(min(RANKS, self.n_candidates), dim=1).values.clamp(-1, 1)


def neighbourhoods() -> st.SearchStrategy[Neighbourhood]:
    """Up to thirty candidates in up to twelve dimensions."""
    sizes = st.integers(1, 30), st.integers(1, 12)
    return st.builds(Neighbourhood, *sizes, st.booleans(), tms.seeds())


def compare(instance: Neighbourhood, noise: Noise) -> Comparisons:
    worlds = instance.worlds(noise)
    largest = instance.largest(worlds)
    n, d, signed = instance.n_candidates, instance.d_in, instance.signed
    p_values = neighbour_p_values(largest, n, d, signed=signed)
    axis = torch.eye(d, dtype=worlds.dtype)[0]
    found = nearest(axis, worlds[0], n=RANKS, signed=signed)
    gap = float((found.p_values - p_values[0]).abs().max())
    results = [equal("p-values of the first draw", gap, 0.0)]
    radius = dkw_radius(len(worlds), ALPHA)
    for rank, values in enumerate(p_values.T, start=1):
        above, below = _deviations(values)
        label = f"neighbour {rank}: p-values"
        results.append(at_most(f"{label}, not too small", above, 0.0, radius=radius))
        if d > 1:  # in one dimension cosines are -1 or 1 and p-values have two values
            results.append(at_most(f"{label}, not too large", below, 0.0, radius=radius))
    copy = worlds[0, :1] * 3
    within = torch.cat([worlds[0], copy])
    kept = nearest(worlds[0, 0], within, n=1, signed=True, exclude=[0, n]) if n > 1 else None
    if kept is not None:
        alone = nearest(worlds[0, 0], worlds[0, 1:], n=1, signed=True)
        gap = abs(float(kept.p_values[0] - alone.p_values[0]))
        results.append(equal("p-value with the row and its copy left out", gap, 0.0))
    return tuple(results)


def _deviations(p_values: Float[Tensor, " n"]) -> tuple[float, float]:
    """Returns how far the empirical distribution lies above the uniform one, and below it."""
    ordered = p_values.sort().values
    n = len(ordered)
    ranks = torch.arange(n + 1, dtype=ordered.dtype) / n
    return float((ranks[1:] - ordered).max()), float((ordered - ranks[:-1]).max())


def _uniform(
    p_values: Callable[[Neighbourhood, Float[Tensor, "n r"]], Float[Tensor, "n r"]],
    instance: Neighbourhood,
    noise: Noise,
) -> Comparisons:
    """Returns the claim for other p-values of the nearest."""
    largest = instance.largest(instance.worlds(noise))[:, :1]
    above, _ = _deviations(p_values(instance, largest)[:, 0])
    radius = dkw_radius(len(largest), ALPHA)
    return (at_most("p-values, not too small", above, TOLERANCE, radius=radius),)


def one_candidate(instance: Neighbourhood, largest: Tensor) -> Tensor:
    return neighbour_p_values(largest, 1, instance.d_in, signed=instance.signed)


def rays_for_lines(instance: Neighbourhood, largest: Tensor) -> Tensor:
    return neighbour_p_values(largest, instance.n_candidates, instance.d_in, signed=True)


def one_dimension_more(instance: Neighbourhood, largest: Tensor) -> Tensor:
    n, d = instance.n_candidates, instance.d_in
    return neighbour_p_values(largest, n, 2 * d + 1, signed=instance.signed)


CLAIM = Claim(
    key="E2",
    statement="The nearest neighbour's p-value is exact\n"
    "For one direction and N independent isotropic candidates in d > 1 dimensions, with q the "
    "chance that one of them is as near as the j-th neighbour, Pr[Binomial(N, q) >= j] is exactly "
    "uniform. Lines: q = Pr[Beta(1/2, (d-1)/2) >= cos^2]; rays: half of it for cos >= 0, one "
    "minus half of it below. For j = 1 it is 1 - (1 - q)^N. In one dimension it is super-uniform.",
    source="order statistics (textbook)",
    proof="q of one candidate is uniform; the j-th smallest of N uniform numbers is Beta(j, N+1-j)",
    status="proved",
    kind="sampled",
    paper_label="eq:neighbour-p",
    strategy=neighbourhoods,
    compare=compare,
    n_samples=N_SAMPLES,
    mutants=(
        Mutant(
            "one-candidate",
            "The p-value need not count the candidates",
            partial(_uniform, one_candidate),
        ),
        Mutant(
            "rays-for-lines",
            "The p-value for rays holds for lines",
            partial(_uniform, rays_for_lines),
        ),
        Mutant(
            "wrong-dimension",
            "The dimension does not matter: 2 d + 1 will do",
            partial(_uniform, one_dimension_more),
        ),
    ),
)
