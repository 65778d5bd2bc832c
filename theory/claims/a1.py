"""A1: what an SAE that is too small throws away."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import Claim, Comparisons, Mutant, at_most, equal
from theory.isotropic import isotropic_rows
from theory.spectral import spectral_loss_bound
from toymodels import ToyDistribution, ToyModel, orthonormal, stream
from toymodels import strategies as tms

N_COMPETITORS = 3


@dataclass(frozen=True)
class World:
    """A law of codes in n_features orthonormal directions of R^(n_features + extra_dims)."""

    distribution: ToyDistribution
    extra_dims: int
    n_latents: int
    noise_std: float
    seed: int

    def model(self) -> ToyModel:
        n = self.distribution.n_features
        generator = stream(self.seed, "dictionary")
        dictionary = orthonormal(n, n + self.extra_dims, generator=generator, dtype=torch.float64)
        return ToyModel(self.distribution, dictionary, self.noise_std)

    def noise_loss(self) -> float:
        """Returns sigma^2 (d_in - n_latents), the noise no m latents can represent."""
        d_in = self.distribution.n_features + self.extra_dims
        return self.noise_std**2 * (d_in - self.n_latents)

    def tail(self, values: Float[Tensor, " n"]) -> float:
        """Returns the sum of all but the n_latents largest values, plus the noise loss."""
        beyond = values.sort(descending=True).values[self.n_latents :]
        return float(beyond.sum()) + self.noise_loss()

    def variances(self) -> Float[Tensor, " n"]:
        return self.distribution.code_covariance().diagonal()

    def optimum(self) -> float:
        """Returns the tail eigenvalue sum of Cov(a) plus the noise loss."""
        return self.tail(torch.linalg.eigvalsh(self.distribution.code_covariance()))

    def energy(self) -> float:
        """Returns E|x|^2, the scale of every loss."""
        d_in = self.distribution.n_features + self.extra_dims
        return float(self.distribution.code_energies().sum()) + self.noise_std**2 * d_in


def worlds() -> st.SearchStrategy[World]:
    """Every distribution that declares its code moment, any width up to its features."""
    return _worlds(tms.distributions().filter(_declares_its_moment))


@st.composite
def _worlds(draw: Any, distributions: st.SearchStrategy[ToyDistribution]) -> World:
    distribution = draw(distributions)
    return World(
        distribution,
        extra_dims=draw(st.integers(0, 3)),
        n_latents=draw(st.integers(0, distribution.n_features)),
        noise_std=draw(st.sampled_from([0.0, 0.1, 0.3])),
        seed=draw(tms.seeds()),
    )


def _declares_its_moment(distribution: ToyDistribution) -> bool:
    try:
        distribution.code_moment()
    except NotImplementedError:
        return False
    return True


def least_loss(instance: World, moment: Float[Tensor, "d_in d_in"]) -> float:
    """Returns the criterion's bound; a moment that is rounding error next to E|x|^2 counts as 0.

    Codes that never vary have a covariance of rounding errors, which need not be semi-definite.
    Their tail is below 1e-11 d_in E|x|^2, well within TOLERANCE.
    """
    if bool(moment.abs().max() <= 1e-11 * instance.energy()):
        return 0.0
    return spectral_loss_bound(moment, instance.n_latents)


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of the activations."""

    mean: Float[Tensor, " d_in"]
    covariance: Float[Tensor, "d_in d_in"]


def affine_loss(x: Moments, rows: Float[Tensor, "m d_in"], bias: Float[Tensor, " d_in"]) -> float:
    """Returns E|x - x_hat|^2 of the best encoder, linear or not, for this affine decoder.

    With P the projection on the span of the rows: tr((I-P) Cov x) + |(I-P)(E x - bias)|^2.
    """
    _, singular, right = torch.linalg.svd(rows, full_matrices=False)
    basis = right[singular > 1e-10]
    projection = torch.eye(rows.shape[1], dtype=rows.dtype) - basis.T @ basis
    offset = projection @ (x.mean - bias)
    return float((projection * x.covariance).sum() + offset @ offset)


def compare(instance: World) -> Comparisons:
    world, law = instance.model(), instance.distribution
    x = Moments(world.mean(), world.covariance())
    vectors, scale, m = world.dictionary.vectors, instance.energy(), instance.n_latents
    covariance, variances = law.code_covariance(), instance.variances()
    optimum, discarded = instance.optimum(), instance.tail(variances)
    kept = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :m].T @ vectors
    without_bias = least_loss(instance, world.second_moment())
    energies = law.code_energies()
    largest = vectors[energies.argsort(descending=True)[:m]]
    zero = torch.zeros_like(vectors[0])
    results = [
        equal("tail eigenvalues of Cov(x)", least_loss(instance, x.covariance), optimum,
              scale=scale),
        equal("the code on the top eigenvectors of Cov(a)", affine_loss(x, kept, x.mean),
              optimum, scale=scale),
        at_most("least loss, against discarding the smallest variances", optimum, discarded,
                scale=scale),
        at_most("least loss, against other decoders", optimum,
                min(_competitors(instance, x, kept)), scale=scale),
        at_most("least loss, against no bias", optimum, without_bias, scale=scale),
        at_most("loss without bias, against the smallest energies", without_bias,
                instance.tail(energies), scale=scale),
        equal("the bias-free code that keeps the largest energies",
              affine_loss(x, largest, zero), instance.tail(energies), scale=scale),
    ]  # fmt: skip
    correlation = (covariance - torch.diag(variances)).abs().max()
    if bool(correlation <= 1e-12 * energies.max()):
        order = variances.argsort(descending=True)
        bias = law.mean_codes()[order[m:]] @ vectors[order[m:]]
        loss = affine_loss(x, vectors[order[:m]], bias)
        results.append(equal("keeping the largest variances", loss, discarded, scale=scale))
        results.append(equal("least loss, uncorrelated codes", optimum, discarded, scale=scale))
    return tuple(results)


def _competitors(instance: World, x: Moments, best: Float[Tensor, "m d_in"]) -> list[float]:
    """Returns losses of other affine decoders: random ones, and the best one perturbed."""
    generator = stream(instance.seed, "competitors")
    losses = []
    for spread in (0.03, 0.3, 3.0):
        for _ in range(N_COMPETITORS):
            noise = isotropic_rows(
                len(best) + 1, len(x.mean), generator=generator, dtype=torch.float64
            )
            offset = spread * noise[0] * instance.energy() ** 0.5
            losses.append(affine_loss(x, best + spread * noise[1:], x.mean))
            losses.append(affine_loss(x, best, x.mean + offset))
            losses.append(affine_loss(x, best + spread * noise[1:], 0 * offset))
    return losses


def energies_not_variances(instance: World) -> Comparisons:
    bound = instance.tail(instance.distribution.code_energies())
    label = "least loss, against the sum of the smallest energies"
    return (equal(label, instance.optimum(), bound, scale=instance.energy()),)


def correlated_codes(instance: World) -> Comparisons:
    bound = instance.tail(instance.variances())
    label = "least loss, against the sum of the smallest variances"
    return (equal(label, instance.optimum(), bound, scale=instance.energy()),)


def bias_is_worth_nothing(instance: World) -> Comparisons:
    loss = least_loss(instance, instance.model().second_moment())
    label = "least loss without a bias, against that with one"
    return (equal(label, loss, instance.optimum(), scale=instance.energy()),)


CLAIM = Claim(
    key="A1",
    statement="A smaller SAE discards the least variance\n"
    "For orthonormal features, any encoder and any affine decoder of m latents, the least "
    "E|x - x_hat|^2 is the tail eigenvalue sum of Cov(a) beyond the m-th, plus "
    "sigma^2 (d_in - m). For uncorrelated codes that is the sum of the smallest variances, "
    "attained by keeping the m largest variances and putting the other means in the bias. "
    "Without a bias it lies between the sums of the smallest variances and energies, for these "
    "codes.",
    source="Ky Fan 1949 (textbook); hedging: Chanin et al. 2025, arXiv 2505.11756",
    proof="x_hat lies in an m-dimensional affine space: loss >= tr((I-P) Cov x), Ky Fan",
    status="proved",
    kind="exact",
    paper_label="eq:discard",
    strategy=worlds,
    compare=compare,
    mutants=(
        Mutant(
            "energies-not-variances",
            "With a decoder bias the least loss is the sum of the smallest energies",
            energies_not_variances,
        ),
        Mutant(
            "correlated-codes",
            "The sum of the smallest variances is the least loss for correlated codes too",
            correlated_codes,
        ),
        Mutant(
            "bias-is-worth-nothing",
            "The least loss is the same with and without a decoder bias",
            bias_is_worth_nothing,
        ),
    ),
)
