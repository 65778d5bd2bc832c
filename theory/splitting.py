"""Splitting: a feature shared among several latents, each of which fires for a part of it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from theory.checks import check, check_finite, check_generator

NULL_DRAWS = 199
_CHUNK = 2**22  # numbers drawn at a time


@dataclass(frozen=True)
class Splitting:
    """How far latents divide each feature among them; per feature, NaN where it has no latent.

    scores: [n_features], coverage - best, in [0, 1): 0 one latent does the work, 1 - 1/s a feature
        divided evenly among s latents.
    nulls: [n_features], the expected score of latents as frequent that miss firings at random.
    coverage: [n_features], share of the feature's firings at which one of its latents fires.
    best: [n_features], the same for the one latent that fires at most of them.
    n_parts: [n_features], latents of the feature.
    p_values: [n_features], of a score this large under the null (permutations); 1 without a latent.
    score, null: means over the features that have a latent; NaN if there is none.
    p_value: of a mean score this large.
    """

    scores: Float[Tensor, " n_features"]
    nulls: Float[Tensor, " n_features"]
    coverage: Float[Tensor, " n_features"]
    best: Float[Tensor, " n_features"]
    n_parts: Int[Tensor, " n_features"]
    p_values: Float[Tensor, " n_features"]
    p_value: float

    @property
    def score(self) -> float:
        return float(self.scores.nanmean())

    @property
    def null(self) -> float:
        return float(self.nulls.nanmean())


def splitting(
    codes: Float[Tensor, "batch n_features"],
    latents: Float[Tensor, "batch n_latents"],
    *,
    precision: float = 0.9,
    generator: torch.Generator,
) -> Splitting:
    """Returns how far features are divided among latents, beside latents that miss at random.

    A latent is one of feature i's if the feature fires in at least `precision` of the samples in
    which the latent does. With r_j = Pr(z_j > 0 | a_i > 0) for these latents,
    score_i = Pr(some z_j > 0 | a_i > 0) - max_j r_j.
    A latent for a part of the feature's firings (with a certain companion, or a large magnitude)
    adds what the others leave out; copies of one latent add nothing.

    Null: given the feature's firings, each of its latents fires at r_j of them at random,
    independently of the other latents (each one's activations are permuted among these samples).
    Expected score: 1 - prod_j (1 - r_j) - max_j r_j, exact. Unlike 0 it grants noisy latents of one
    feature what they add to each other: only latents that avoid each other score above it, and
    copies score below. p = (1 + #{null >= score}) / 200 from 199 permutations, super-uniform.

    Args:
        codes: true activations; a feature fires where they are > 0.
        latents: activations, > 0 where a latent fires.
        precision: in (0, 1].
    Raises: ValueError: shapes, NaN, precision out of range, a generator on another device.
    Source: eq:splitting-score. The phenomenon: Bricken et al. 2023; Chanin et al. 2024,
        arXiv 2409.14507, detect it by how much probes gain from a second latent.
    """
    where = "splitting"
    _check(where, codes, latents, precision)
    check_generator(where, generator, latents.device)
    a, z = codes > 0, latents > 0
    both = a.double().T @ z.double()  # [n_features, n_latents], samples with both
    n_firings, n_active = a.sum(0), z.sum(0)
    own = (both >= precision * n_active - 1e-9) & (n_active > 0)
    n_features = a.shape[1]
    scores, nulls, coverage, best = (
        torch.full((n_features,), torch.nan, dtype=torch.float64, device=a.device) for _ in range(4)
    )
    n_parts = own.sum(1)
    drawn = torch.zeros(n_features, NULL_DRAWS, dtype=torch.float64, device=a.device)
    for i in (n_parts > 0).nonzero().flatten().tolist():
        parts = z[a[:, i]][:, own[i]]
        rates = both[i, own[i]] / n_firings[i]
        best[i] = rates.max()
        coverage[i] = parts.any(1).double().mean()
        scores[i] = coverage[i] - best[i]
        nulls[i] = 1 - (1 - rates).prod() - best[i]
        if len(rates) > 1:
            drawn[i] = _permuted_coverage(parts, generator) - best[i]
    # Coverages are counts over one denominator: anything nearer than this is a tie.
    has = n_parts > 0
    exceeds = (drawn >= scores[:, None] - 1e-9).sum(1).double()
    p_values = torch.where(has, (1 + exceeds) / (1 + NULL_DRAWS), 1.0)
    total, draws = scores[has].sum(), drawn[has].sum(0)
    p_value = (
        (1 + int((draws >= total - 1e-9).sum())) / (1 + NULL_DRAWS) if bool(has.any()) else 1.0
    )
    return Splitting(scores, nulls, coverage, best, n_parts, p_values, p_value)


def _permuted_coverage(parts: Tensor, generator: torch.Generator) -> Float[Tensor, " n_draws"]:
    """Returns the coverage after permuting each latent's firings, for each draw."""
    size = max(1, _CHUNK // parts.numel())
    covered = []
    for start in range(0, NULL_DRAWS, size):
        shape = (min(size, NULL_DRAWS - start), *parts.shape)
        order = torch.rand(shape, generator=generator, device=parts.device).argsort(1)
        mixed = parts.expand(shape).gather(1, order)
        covered.append(mixed.any(2).double().mean(1))
    return torch.cat(covered)


def _check(where: str, codes: Tensor, latents: Tensor, precision: float) -> None:
    check_finite(where, codes=codes, latents=latents)
    fits = codes.ndim == latents.ndim == 2 and len(codes) == len(latents) > 0
    fits = fits and codes.shape[1] > 0
    rule = "codes [batch, n_features] and latents [batch, n_latents]"
    check(fits, where, rule, codes=tuple(codes.shape), latents=tuple(latents.shape))
    check(0 < precision <= 1, where, "0 < precision <= 1", precision=precision)
