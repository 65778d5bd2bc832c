"""Gaussian copula: features fire where correlated normal variables exceed their thresholds."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.binary_correlation import latent_from_binary
from toymodels.bivariate_normal import joint_prob
from toymodels.blockwise import symmetric_times
from toymodels.distribution import OneMagnitude
from toymodels.events import Events
from toymodels.gaussian_firing import GaussianFiring
from toymodels.loadings import (
    check_loadings,
    loadings_of_correlation,
    loadings_strategy,
    random_loadings,
)
from toymodels.magnitudes import Magnitude, Uniform
from toymodels.product_law import per_feature_probs


@dataclass(frozen=True, eq=False)
class GaussianCopula(OneMagnitude):
    """Feature i fires where z_i = F_i . u + sqrt(1 - |F_i|^2) eps_i exceeds t_i, so that P = p_i.

    u, of size rank and shared by all features of a sample, and eps_i are standard normal and
    independent; P(Z > t_i) = p_i for Z standard normal. The latent correlation of i and j is
    rho_ij = F_i . F_j, and with Phi2 the bivariate normal's upper tail

        P(i and j fire) = Phi2(t_i, t_j; rho_ij), exact by quadrature (`joint_prob`),

    from which the other moments follow as for any `OneMagnitude`. The correlation of the firing, as
    0 or 1, is nearer to 0 than rho_ij, and for rare features very much nearer if rho_ij < 0:
    `from_latent` requests the one, `from_binary` the other, and `binary_correlation` and
    `latent_correlation` report them.

    A sample costs rank multiply-adds for each feature, but only a few random numbers for each
    feature that fires. Moments look at every pair, in blocks: about 1 second for 1,000 features and
    half a minute for 4,096. The law given a feature is not in the family, but `sample_given` draws
    from it at the cost of a sample, however rare the feature.

    Extremes: F = 0 is `Independent`; rank 1 with |F_i| = 1 for all makes a feature fire whenever a
    rarer one does (same sign), or never with it as long as p_i + p_j <= 1 (opposite signs).

    Args:
        firing_prob: p, one for each feature, or one for all, in [0, 1].
        loadings: F, [n_features, rank], rows of norm <= 1.
        magnitude: law of b.
    Raises:
        ValueError: a row of loadings longer than 1; the message gives the largest feasible factor.
    Example:
        >>> copula = GaussianCopula(0.5, torch.tensor([[0.6], [0.6]]))
        >>> round(float(copula.binary_correlation()[0, 1]), 6)  # 2 asin(0.36) / pi
        0.234448
    """

    firing_prob: float | Tensor
    loadings: Tensor
    magnitude: Magnitude = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        check_loadings("GaussianCopula", self.loadings)
        self.firing_probs()

    @classmethod
    def from_latent(
        cls, firing_prob: float | Tensor, correlation: Tensor, magnitude: Magnitude | None = None
    ) -> "GaussianCopula":
        """Returns the copula whose latent variables z have this correlation matrix.

        Args:
            firing_prob: p, one for each feature, or one for all, in [0, 1].
            correlation: [n_features, n_features], symmetric and positive semi-definite, with unit
                diagonal.
        Raises:
            ValueError: a matrix that is none; the message gives its least eigenvalue and the
                largest factor by which its off-diagonal entries may be multiplied.
        """
        loadings = loadings_of_correlation("GaussianCopula.from_latent", correlation)
        return cls(firing_prob, loadings, magnitude or Uniform())

    @classmethod
    def from_binary(
        cls, firing_prob: float | Tensor, correlation: Tensor, magnitude: Magnitude | None = None
    ) -> "GaussianCopula":
        """Returns the copula in which the firing, as 0 or 1, has this correlation matrix.

        Args:
            firing_prob: p, one for each feature, or one for all; a feature that always or never
                fires has correlation 0 with all others.
            correlation: Pearson correlations phi, [n_features, n_features], symmetric, with unit
                diagonal. For each pair phi sqrt(p (1-p) q (1-q)) + p q, the probability of both,
                is at least max(0, p + q - 1) and at most min(p, q).
        Raises:
            ValueError: a pair outside its range, which the message gives; or correlations that no
                Gaussian copula has together: the message gives a factor that makes them feasible.
        """
        where = "GaussianCopula.from_binary"
        latent = latent_from_binary(where, firing_prob, correlation)
        return cls(firing_prob, loadings_of_correlation(where, latent), magnitude or Uniform())

    @classmethod
    def low_rank(
        cls,
        n_features: int,
        firing_prob: float | Tensor,
        rank: int,
        scale: float,
        *,
        generator: torch.Generator,
        magnitude: Magnitude | None = None,
    ) -> "GaussianCopula":
        """Returns a copula with random loadings, normal with standard deviation `scale` each.

        Latent correlations have mean 0 and standard deviation scale^2 sqrt(rank).

        Args:
            n_features, rank: >= 1.
            firing_prob, magnitude: see `GaussianCopula`.
            scale: >= 0; a row has norm near scale sqrt(rank), which should stay well below 1.
        Raises:
            ValueError: loadings with a row longer than 1; the message says how to scale them.
        """
        loadings = random_loadings(
            "GaussianCopula.low_rank", n_features, rank, scale, generator=generator
        )
        return cls(firing_prob, loadings, magnitude or Uniform())

    @property
    def n_features(self) -> int:
        return len(self.loadings)

    def firing_probs(self) -> Float[Tensor, " n_features"]:
        return per_feature_probs("GaussianCopula", self.firing_prob, self.n_features)

    def latent_correlation(self) -> Float[Tensor, "n_features n_features"]:
        """Returns rho, the correlation of the latent variables z, float64.

        Raises:
            ValueError: more than 4,096 features.
        """
        unit = self._identity("latent_correlation")
        loadings = self._firing_on(torch.device("cpu")).loadings
        return torch.where(unit > 0, unit, loadings @ loadings.T)

    def binary_correlation(self) -> Float[Tensor, "n_features n_features"]:
        """Returns phi, the correlation of the firing as 0 or 1, float64; NaN if one is constant.

        Raises:
            ValueError: more than 4,096 features.
        """
        p = self.firing_probs()
        deviation = (p * (1 - p)).sqrt()
        together = self.cofiring_probs() - torch.outer(p, p)
        correlation = together / torch.outer(deviation, deviation)
        return correlation.fill_diagonal_(1.0).where(together.diagonal() > 0, torch.nan)

    @cached_property
    def _firing(self) -> dict[str, GaussianFiring]:
        return {}

    def _firing_on(self, device: torch.device) -> GaussianFiring:
        if str(device) not in self._firing:
            probs, loadings = self.firing_probs().to(device), self.loadings.to(device)
            self._firing[str(device)] = GaussianFiring(probs, loadings.to(torch.float64))
        return self._firing[str(device)]

    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        firing = self._firing_on(generator.device)
        factor = firing.factor(n, generator=generator)
        rows, features = firing.draw(factor, generator=generator)
        return Events(rows, features, self.magnitude.sample(len(rows), generator=generator))

    def _sample_given(self, n: int, feature: int, *, generator: torch.Generator) -> Events:
        """As the base says: u is drawn given z_i > t_i, then the others given u, independently."""
        firing = self._firing_on(generator.device)
        factor = firing.factor_given(n, feature, generator=generator)
        rows, features = firing.draw(factor, generator=generator)
        other = features != feature
        samples = torch.arange(n, device=rows.device)
        rows = torch.cat([rows[other], samples])
        features = torch.cat([features[other], torch.full_like(samples, feature)])
        values = self.magnitude.sample(len(rows), generator=generator)
        return Events(rows, features, values)

    def _cofiring_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        p, loadings = self.firing_probs(), self._firing_on(torch.device("cpu")).loadings

        def block(start: int, stop: int) -> Tensor:
            latent = loadings[start:stop] @ loadings[start:].T
            together = joint_prob(p[start:stop, None], p[start:], latent)
            together.diagonal().copy_(p[start:stop])
            return together

        return symmetric_times(v, block)

    @classmethod
    def example(cls) -> Any:
        two_blocks = torch.zeros(24, 2, dtype=torch.float64)
        two_blocks[:12, 0] = torch.linspace(0.9, 0.5, 12)
        two_blocks[12:, 1] = 0.8
        two_blocks[12:, 0] = -0.5
        return cls(0.12, two_blocks)

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from toymodels.strategies import magnitudes, probs

        def build(n: int) -> Any:
            some = st.lists(probs(), min_size=n, max_size=n)
            as_tensor = some.map(lambda p: torch.tensor(p, dtype=torch.float64))
            return st.builds(cls, probs() | as_tensor, loadings_strategy(n), magnitudes())

        return st.integers(1, 5).flatmap(build)
