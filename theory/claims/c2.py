"""C2: the recovery that latents score by chance."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._engine import ALPHA, Claim, Comparisons, Mutant, Noise, at_most
from theory.isotropic import expected_best_cosine_bound, isotropic_rows
from theory.recovery import recovery, recovery_chance_bound, recovery_radius
from theory.statistics import mcdiarmid_radius
from toymodels import Dictionary
from toymodels import strategies as tms

N_SAMPLES = 500  # features drawn in all; radius .15 at ALPHA, .048 in the retest


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
    scores = _scores(instance, noise, signed)
    bound = recovery_chance_bound(n, m, d, signed=signed)
    radius = _mean_radius(instance, scores)
    single = recovery_radius(n, ALPHA / len(scores))
    results = [
        at_most("mean score, against its bound", float(scores.mean()), bound, radius=radius),
        at_most("largest score, against its bound", float(scores.max()), bound, radius=single),
    ]
    if m >= n:
        closed = math.sqrt(2 * math.log(2 * m) / d)
        mean = float(scores.mean())
        results.append(
            at_most("mean score, against sqrt(2 ln 2m / d)", mean, closed, radius=radius)
        )
    return tuple(results)


def _scores(instance: Chance, noise: Noise, signed: bool) -> Float[Tensor, " n_draws"]:
    """Returns the recovery of about noise.n_samples / n_features independent dictionaries."""
    n, latents = instance.n_features, instance.latents.vectors
    n_draws = math.ceil(noise.n_samples / n)
    generator = noise.generator(instance.seed)
    worlds = isotropic_rows(n_draws, n, latents.shape[1], generator=generator, dtype=torch.float64)
    scores = [recovery(features, latents, signed=signed).score for features in worlds]
    return torch.tensor(scores, dtype=torch.float64)


def _mean_radius(instance: Chance, scores: Float[Tensor, " n_draws"]) -> float:
    """Returns McDiarmid's radius of the mean score: each feature moves it by at most 1/total."""
    total = instance.n_features * len(scores)
    return mcdiarmid_radius(total, ALPHA, 1 / total)


def _against(bound: Callable[[int, int], float], instance: Chance, noise: Noise) -> Comparisons:
    """Returns mean *line* score <= bound(n_latents, d_in), which the mutants get wrong."""
    scores = _scores(instance, noise, signed=False)
    claimed = bound(instance.latents.n_features, instance.latents.d_in)
    radius = _mean_radius(instance, scores)
    return (at_most("mean line score", float(scores.mean()), claimed, radius=radius),)


CLAIM = Claim(
    key="C2",
    statement="The chance level of recovery\n"
    "For m fixed latents and n isotropic features the expected score is at most "
    "beta(m) = the integral of min{1, c m Pr[Beta(1/2, (d-1)/2) >= t^2]} (c = 1 for lines, 1/2 for "
    "rays), at most (m/n) beta(n) if m < n, and at most sqrt(2 ln(2m) / d) if m >= n. It exceeds "
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
