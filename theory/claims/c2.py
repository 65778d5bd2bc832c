"""C2: the recovery that latents score by chance."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from theory.claims._claim import ALPHA, Claim, Comparisons, Mutant, Noise, at_most, equal
from theory.isotropic import expected_best_cosine_bound, isotropic_rows
from theory.recovery import recovery, recovery_chance_bound, recovery_radius
from theory.statistics import mcdiarmid_radius
from toymodels import Dictionary
from toymodels import strategies as tms

N_SAMPLES = 1000  # features drawn in all; radius .11 at ALPHA, .034 in the retest


@dataclass(frozen=True)
class Chance:
    """Fixed latents, and n_features isotropic features that have nothing to do with them."""

    latents: Dictionary
    n_features: int
    signed: bool
    seed: int


def chances() -> st.SearchStrategy[Chance]:
    """Latents of every family, more and fewer than the features; rays and lines."""
    return st.builds(Chance, tms.dictionaries(), st.integers(1, 8), st.booleans(), tms.seeds())


def compare(instance: Chance, noise: Noise) -> Comparisons:
    n, latents, signed = instance.n_features, instance.latents, instance.signed
    m, d = latents.n_features, latents.d_in
    worlds = _worlds(instance, noise)
    scores = _scores(worlds, latents.vectors, signed)
    mean, radius = float(scores.mean()), _mean_radius(worlds)
    bound = recovery_chance_bound(n, m, d, signed=signed)
    single = recovery_radius(n, ALPHA / len(scores))
    first = recovery(worlds[0], latents.vectors, signed=signed).score
    closed = math.sqrt(2 * math.log(2 * m) / d)
    return (
        equal("recovery of the first draw", first, float(scores[0])),
        at_most("mean score, against its bound", mean, bound, radius=radius),
        at_most("largest score, against its bound", float(scores.max()), bound, radius=single),
        at_most("mean score, against sqrt(2 ln 2m / d)", mean, closed, radius=radius),
    )


def _worlds(instance: Chance, noise: Noise) -> Float[Tensor, "n_draws n_features d_in"]:
    """Returns independent isotropic dictionaries, about noise.n_samples features in all."""
    latents = instance.latents
    n_draws = math.ceil(noise.n_samples / instance.n_features)
    generator = noise.generator(instance.seed)
    dtype = latents.vectors.dtype
    shape = (n_draws, instance.n_features, latents.d_in)
    return isotropic_rows(*shape, generator=generator, dtype=dtype)


def _scores(
    worlds: Float[Tensor, "n_draws n_features d_in"],
    latents: Float[Tensor, "n_latents d_in"],
    signed: bool,
) -> Float[Tensor, " n_draws"]:
    """Returns the recovery score of each world.

    Matched here all at once: the checks of `recovery` would take most of the search's time.
    `compare` holds the two together.
    """
    cosines = worlds @ latents.T
    similarity = (cosines.clamp(min=0) if signed else cosines.abs()).numpy()
    pairs = ((world, linear_sum_assignment(world, maximize=True)) for world in similarity)
    matched = [float(world[pair].sum()) / len(world) for world, pair in pairs]
    return torch.tensor(matched, dtype=torch.float64)


def _mean_radius(worlds: Float[Tensor, "n_draws n_features d_in"]) -> float:
    """Returns McDiarmid's radius of the mean score: each feature moves it by at most 1/total."""
    total = worlds.shape[0] * worlds.shape[1]
    return mcdiarmid_radius(total, ALPHA, 1 / total)


def _against(bound: Callable[[int, int], float], instance: Chance, noise: Noise) -> Comparisons:
    """Returns mean *line* score <= bound(n_latents, d_in), which the mutants get wrong."""
    worlds = _worlds(instance, noise)
    scores = _scores(worlds, instance.latents.vectors, signed=False)
    claimed = bound(instance.latents.n_features, instance.latents.d_in)
    mean = float(scores.mean())
    return (at_most("mean line score", mean, claimed, radius=_mean_radius(worlds)),)


CLAIM = Claim(
    key="C2",
    statement="The chance level of recovery\n"
    "For m fixed latents and n isotropic features the expected score is at most "
    "beta(m) = the integral of min{1, c m Pr[Beta(1/2, (d-1)/2) >= t^2]} (c = 1 for lines, 1/2 for "
    "rays), at most (m/n) beta(n) if m < n, and at most sqrt(2 ln(2m) / d). It exceeds "
    "its mean by t with probability at most exp(-2 n t^2).",
    source="new; McDiarmid 1989",
    proof="Matching <= mean of row maxima; union bound; one feature moves the sum by at most 1",
    status="proved",
    kind="sampled",
    paper_label="eq:recovery-chance",
    strategy=chances,
    compare=compare,
    n_samples=N_SAMPLES,
    mutants=(
        Mutant("zero", "Chance is 0", partial(_against, lambda m, d: 0.0)),
        Mutant("one-over-root-d", "Chance is 1/sqrt(d)", partial(_against, lambda m, d: d**-0.5)),
        Mutant(
            "ray-bound-for-lines",
            "The bound for rays holds for lines",
            partial(_against, lambda m, d: expected_best_cosine_bound(d, m / 2)),
        ),
        Mutant(
            "no-union-factor",
            "The bound holds without the factor m of the union bound",
            partial(_against, lambda m, d: expected_best_cosine_bound(d, 1)),
        ),
    ),
)
