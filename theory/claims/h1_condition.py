"""H1-condition: where minimisers of the nested-dropout loss do minimise the full-prefix loss."""

import math
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from theory.claims._nested import Nested, minimisers, solutions, worlds
from theory.isotropic import isotropic_rows
from theory.spectral import spectral_loss_bound
from toymodels import stream

N_COMPETITORS = 3


def one_sparse_excess(world: Nested, slope: float) -> float:
    """Returns the largest slope x full-prefix loss - nested excess over all assignments."""
    every = solutions(world)
    least = min(s.nested for s in every)
    return max(slope * s.full - (s.nested - least) for s in every)


def moment(world: Nested) -> Float[Tensor, "d_in d_in"]:
    """Returns E[x x^T] of the one-sparse world."""
    rows = world.rows.vectors
    return rows.T @ (torch.tensor(world.energies, dtype=torch.float64)[:, None] * rows)


def prefix_losses(second_moment: Tensor, latents: Float[Tensor, "m d_in"]) -> list[float]:
    """Returns the losses of unrestricted codes in the first 1, ..., m latents."""
    basis = torch.linalg.qr(latents.T).Q
    kept = (basis * (second_moment @ basis)).sum(0).cumsum(0)
    return (torch.trace(second_moment) - kept).tolist()


def linear(world: Nested, slope: float) -> Comparisons:
    """Unrestricted codes: the principal axes minimise every prefix at once."""
    m, second_moment = min(world.n_latents, world.rows.d_in), moment(world)
    probs = [*world.prefix_probs[: m - 1], math.fsum(world.prefix_probs[m - 1 :])]
    least = [spectral_loss_bound(second_moment, j) for j in range(1, m + 1)]
    axes = torch.linalg.eigh(second_moment).eigenvectors.T.flip(0)[:m]
    nested = math.fsum(p * t for p, t in zip(probs, least, strict=True))
    scale = math.fsum(world.energies)
    generator = stream(world.seed, "competitors")
    shape = (N_COMPETITORS, m, world.rows.d_in)
    errors = isotropic_rows(*shape, generator=generator, dtype=torch.float64)
    worst = -math.inf
    for spread, error in zip((0.1, 0.5, 10.0), errors, strict=True):
        losses = prefix_losses(second_moment, axes + spread * error)
        excess = math.fsum(p * t for p, t in zip(probs, losses, strict=True)) - nested
        worst = max(worst, slope * probs[-1] * (losses[-1] - least[-1]) - excess)
    reached = prefix_losses(second_moment, axes)
    found = math.fsum(p * t for p, t in zip(probs, reached, strict=True))
    return (
        equal("nested loss of the principal axes", found, nested, scale=scale),
        at_most("p_m times the full excess less the nested excess", worst, 0.0, scale=scale),
    )


def compare(world: Nested) -> Comparisons:
    results = linear(world, 1.0)
    slope = world.prefix_probs[-1] - world.rows.coherence()
    if slope > 0:
        label = "(p_m - mu) times the full loss less the nested excess"
        worst, scale = one_sparse_excess(world, slope), math.fsum(world.energies)
        results += (at_most(label, worst, 0.0, scale=scale),)
    return results


def half_the_coherence(world: Nested) -> Comparisons:
    slope = world.prefix_probs[-1] - world.rows.coherence() / 2
    if slope <= 0:
        return VOID
    label = "(p_m - mu/2) times the full loss less the nested excess"
    worst, scale = one_sparse_excess(world, slope), math.fsum(world.energies)
    return (at_most(label, worst, 0.0, scale=scale),)


def every_width(world: Nested) -> Comparisons:
    if world.prefix_probs[-1] <= world.rows.coherence():
        return VOID
    worst = max(s.full for s in minimisers(world))
    least = min(s.full for s in solutions(world))
    label = "full-prefix loss of a nested minimiser, against the least"
    return (at_most(label, worst, least, scale=math.fsum(world.energies)),)


def whatever_its_probability(world: Nested) -> Comparisons:
    return linear(world, 1 / world.prefix_probs[-1])[1:]


CLAIM = Claim(
    key="H1-condition",
    statement="Where nested dropout keeps the full prefix optimal\n"
    "If some dictionary minimises all prefix losses at once, every W has p_m (full(W) - min full) "
    "<= nested(W) - min nested, so every nested minimiser minimises the full loss; the principal "
    "axes are one for unrestricted codes. For one-sparse worlds with a latent for each feature and "
    "p_m > mu, (p_m - mu) full(W) <= nested(W) - min nested. The threshold is sharp: two equal "
    "features of cosine above p_m are merged.",
    source="new; unrestricted codes: Rippel et al. 2014, arXiv 1402.0915",
    proof="Each prefix has a non-negative excess. A cluster keeps lambda_max(H_c) <= max_c e + mu "
    "times its other energies, each of which its own latent keeps with probability >= p_m",
    status="proved",
    kind="exact",
    paper_label="eq:nested-condition",
    strategy=partial(worlds, share=1.0),
    compare=compare,
    mutants=(
        Mutant(
            "half-the-coherence",
            "p_m > mu/2 suffices",
            half_the_coherence,
            partial(worlds, share=0.5),
        ),
        Mutant(
            "every-width",
            "p_m > mu suffices for fewer latents than features",
            every_width,
            partial(worlds, share=1.0, narrower=True),
        ),
        Mutant(
            "whatever-its-probability",
            "The full excess is at most the nested excess",
            whatever_its_probability,
        ),
    ),
)
