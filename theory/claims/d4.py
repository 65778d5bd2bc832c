"""D4: what nested dictionaries learn: one order for all prefixes, or a hedge between siblings."""

import math
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import Claim, Comparisons, Mutant, at_most, equal
from theory.claims.d1 import declared_laws, uncorrelated
from theory.isotropic import isotropic_rows
from theory.spectral import spectral_loss_bound
from toymodels import Independent, ToyDistribution, stream
from toymodels import strategies as tms

GRID = 90  # angles tried for each latent: steps of two degrees


@dataclass(frozen=True)
class Siblings:
    """Two features of unit energy at an angle, one at a time; and a law of orthonormal features."""

    angle: float
    law: ToyDistribution
    seed: int

    def features(self) -> Float[Tensor, "2 3"]:
        """Returns the two features in a plane of R^3, which leaves room for worse latents."""
        rows = torch.zeros(2, 3, dtype=torch.float64)
        rows[0, 0] = 1
        rows[1, 0], rows[1, 1] = math.cos(self.angle), math.sin(self.angle)
        return rows

    def optimum(self) -> float:
        """Returns 3/2 - sqrt(5/4 + cos 2 theta)."""
        return 1.5 - math.sqrt(1.25 + math.cos(2 * self.angle))

    def best_angle(self) -> float:
        """Returns atan2(sin(2 theta)/2, 1 + cos(2 theta)/2) / 2, from the nearer feature."""
        twice = 2 * self.angle
        return math.atan2(math.sin(twice) / 2, 1 + math.cos(twice) / 2) / 2


def siblings() -> st.SearchStrategy[Siblings]:
    """Angles up to a right one; independent laws and all others."""
    laws = st.one_of(Independent.strategy(), declared_laws())
    return st.builds(Siblings, st.floats(0.01, math.pi / 2), laws, tms.seeds())


def nested_loss(
    features: Float[Tensor, "2 d"], first: Float[Tensor, "n d"], second: Float[Tensor, "n d"]
) -> Float[Tensor, " n"]:
    """Returns the loss of prefix {1} plus that of {1, 2}, each feature coded by one latent."""
    left = 1 - (first @ features.T).square()
    both = torch.minimum(left, 1 - (second @ features.T).square())
    return left.sum(1) + both.sum(1)


def plane(angles: Float[Tensor, " n"]) -> Float[Tensor, "n 3"]:
    return torch.stack([angles.cos(), angles.sin(), torch.zeros_like(angles)], 1)


def compare(instance: Siblings) -> Comparisons:
    features, best = instance.features(), instance.best_angle()
    latent = plane(torch.tensor([best], dtype=torch.float64))
    reached = float(nested_loss(features, latent, features[1:]))
    angles = torch.arange(GRID, dtype=torch.float64) * math.pi / GRID
    pairs = torch.cartesian_prod(angles, angles)
    grid = float(nested_loss(features, plane(pairs[:, 0]), plane(pairs[:, 1])).min())
    generator = stream(instance.seed, "latents")
    random = isotropic_rows(2, 200, 3, generator=generator, dtype=torch.float64)
    elsewhere = float(nested_loss(features, random[0], random[1]).min())
    return (
        equal("loss at the stated angle", reached, instance.optimum()),
        at_most("optimum, against latents in the plane", instance.optimum(), grid),
        at_most("optimum, against latents anywhere", instance.optimum(), elsewhere),
        at_most("angle, against the bisector", best, instance.angle / 2),
        at_most("0, against the angle", 0.0, best),
        *_one_order(instance.law),
    )


def _one_order(law: ToyDistribution) -> Comparisons:
    """Keeping the largest variances is optimal at every prefix, orthonormal uncorrelated codes."""
    covariance = law.code_covariance()
    if not uncorrelated(law):
        return ()
    scale = float(law.code_energies().sum())
    if float(covariance.abs().max()) <= 1e-11 * scale:
        return ()  # codes that do not vary: their covariance is rounding
    order = covariance.diagonal().argsort(descending=True)
    gaps = [
        float(covariance.diagonal()[order[m:]].sum()) - spectral_loss_bound(covariance, m)
        for m in range(len(order) + 1)
    ]
    worst = max(gaps, key=abs)
    return (equal("one order for all prefixes, worst gap", worst, 0.0, scale=scale),)


def atom_or_bisector(instance: Siblings) -> Comparisons:
    features = instance.features()
    angles = torch.tensor([0.0, instance.angle / 2], dtype=torch.float64)
    second = features[1:].expand(2, -1)
    claimed = float(nested_loss(features, plane(angles), second).min())
    return (at_most("loss of an atom or the bisector", claimed, instance.optimum()),)


def two_at_a_time(instance: Siblings) -> Comparisons:
    # Two latents that span the plane code both features exactly: only prefix {1} is left.
    bisector = 2 * math.sin(instance.angle / 2) ** 2
    return (at_most("optimum, against 2-sparse codes", instance.optimum(), bisector),)


def recovers_a_feature(instance: Siblings) -> Comparisons:
    return (equal("angle of the first latent", instance.best_angle(), 0.0),)


CLAIM = Claim(
    key="D4",
    statement="Nested dictionaries hedge between siblings by a known angle\n"
    "For orthonormal features with uncorrelated codes and a decoder bias, keeping the largest "
    "variances is optimal for all prefixes at once. Two features of equal energy e at an angle "
    "theta <= pi/2, one at a time, 1-sparse codes and prefixes {1}, {1, 2} of equal weight: the "
    "best first latent is at atan2(sin(2 theta)/2, 1 + cos(2 theta)/2) / 2 from one of them, "
    "between it and the bisector, with total loss e (3/2 - sqrt(5/4 + cos 2 theta)).",
    source="new; Matryoshka SAEs: Bussmann et al. 2025, arXiv 2503.17547",
    proof="The second latent takes the worse feature; minimise 2 sin^2 f + sin^2(theta - f)",
    status="proved",
    kind="exact",
    paper_label="eq:prefix-angle",
    strategy=siblings,
    compare=compare,
    mutants=(
        Mutant(
            "atom-or-bisector",
            "The best first latent is one of the features or their bisector",
            atom_or_bisector,
        ),
        Mutant(
            "two-at-a-time",
            "The optimum is the same for 2-sparse codes",
            two_at_a_time,
        ),
        Mutant(
            "recovers-a-feature",
            "The first latent is one of the two features",
            recovers_a_feature,
        ),
    ),
)
