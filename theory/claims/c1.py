"""C1: what recovery does not depend on."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import Claim, Comparisons, Mutant, at_most, equal
from theory.isotropic import isotropic_rows
from theory.matching import match
from theory.recovery import recovery
from toymodels import Dictionary, orthonormal, stream
from toymodels import strategies as tms


@dataclass(frozen=True)
class Latents:
    """Latents that imitate the features (with a random sign and error) and, beyond, are random."""

    dictionary: Dictionary
    n_latents: int
    error: float
    seed: int

    def W_dec(self) -> Float[Tensor, "n_latents d_in"]:
        generator = stream(self.seed, "latents")
        features = self.dictionary.vectors
        rows = isotropic_rows(
            self.n_latents, features.shape[1], generator=generator, dtype=torch.float64
        )
        shared = min(len(features), self.n_latents)
        signs = torch.randint(0, 2, (shared, 1), generator=generator) * 2 - 1
        rows[:shared] = self.error * rows[:shared] + signs * features[:shared]
        return rows

    def extra(self) -> Float[Tensor, "1 d_in"]:
        """Returns one more latent: the opposite of the last feature."""
        return -self.dictionary.vectors[-1:]


@st.composite
def imitations(draw: Any) -> Latents:
    """Dictionaries of every family, more and fewer latents than features."""
    return Latents(
        draw(tms.dictionaries()),
        n_latents=draw(st.integers(1, 12)),
        error=draw(st.sampled_from([0.0, 0.1, 0.5, 2.0])),
        seed=draw(tms.seeds()),
    )


def compare(instance: Latents) -> Comparisons:
    features, latents = instance.dictionary.vectors, instance.W_dec()
    generator = stream(instance.seed, "transformations")
    m, d = latents.shape
    order = torch.randperm(m, generator=generator)
    scales = 10 ** (4 * torch.rand(m, 1, generator=generator, dtype=torch.float64) - 2)
    signs = torch.randint(0, 2, (m, 1), generator=generator) * 2 - 1
    rotation = orthonormal(d, d, generator=generator, dtype=torch.float64).vectors
    results, scores = [], {}
    for rule, signed in (("ray", True), ("line", False)):

        def score(D: Tensor, W: Tensor, signed: bool = signed) -> float:
            return recovery(D, W, signed=signed).score

        scores[rule] = base = score(features, latents)
        more = score(features, torch.cat([latents, instance.extra()]))
        results += [
            equal(f"{rule}: reordered latents", score(features, latents[order]), base),
            equal(f"{rule}: rescaled latents", score(features, scales * latents), base),
            equal(f"{rule}: rotated", score(features @ rotation, latents @ rotation), base),
            at_most(f"{rule}: score, against one more latent", base, more),
        ]
    flipped = recovery(features, signs * latents, signed=False).score
    results.append(equal("line: flipped signs", flipped, scores["line"]))
    results.append(at_most("ray, against line", scores["ray"], scores["line"]))
    errors = isotropic_rows(*features.shape, generator=generator, dtype=features.dtype)
    near = features + instance.error * errors
    delta = float((features - near).norm(dim=1).max())
    codes = torch.rand(len(features), generator=generator, dtype=torch.float64)
    gap = float((codes @ (features - near)).norm())
    size = float(codes.sum())
    results.append(
        at_most("reconstruction gap of recovered features", gap, delta * size, scale=size)
    )
    return tuple(results)


def unclipped_ray(instance: Latents) -> Comparisons:
    features, latents = instance.dictionary.vectors, instance.W_dec()

    def score(W: Tensor) -> float:
        cosines = features @ torch.nn.functional.normalize(W, dim=1).T
        matching = match(cosines)
        matched = cosines[torch.arange(len(features)), matching]
        return float(torch.where(matching >= 0, matched, 0.0).mean())

    more = score(torch.cat([latents, instance.extra()]))
    return (at_most("unclipped ray score, against one more latent", score(latents), more),)


def ray_sign_flips(instance: Latents) -> Comparisons:
    features, latents = instance.dictionary.vectors, instance.W_dec()
    flipped = recovery(features, -latents, signed=True).score
    return (equal("ray: flipped signs", flipped, recovery(features, latents, signed=True).score),)


CLAIM = Claim(
    key="C1",
    statement="The invariances of recovery\n"
    "The ray and the line score do not change when latents are reordered, rescaled by positive "
    "factors, or rotated together with the features; the line score also not under sign flips. "
    "Ray <= line. One more latent never lowers either (the ray score because it is clipped at 0). "
    "If every |d_i - w_i| <= delta then |sum_i a_i (d_i - w_i)| <= delta |a|_1.",
    source="folklore; clipping: new",
    proof="By inspection; a clipped similarity to nothing is 0, so old matchings stay feasible",
    status="proved",
    kind="exact",
    paper_label="eq:recovery",
    strategy=imitations,
    compare=compare,
    mutants=(
        Mutant(
            "unclipped-ray",
            "One more latent never lowers the ray score without clipping",
            unclipped_ray,
        ),
        Mutant("ray-sign-flips", "The ray score does not change under sign flips", ray_sign_flips),
    ),
)
