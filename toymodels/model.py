"""A toy world: a law of codes in a dictionary."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check, check_finite, check_generator
from toymodels.codes import Batch
from toymodels.dictionary import Dictionary
from toymodels.distribution import ToyDistribution


@dataclass(frozen=True, eq=False)
class ToyModel:
    """Activations with known ground truth: x = sum_i a_i d_i + bias + noise_std * N(0, I).

    Args:
        distribution: the law of the codes a.
        dictionary: the directions d_i, as many rows as the distribution has features.
        noise_std: standard deviation of the isotropic noise per coordinate, >= 0.
        bias: [d_in], or None for 0.
    Raises:
        ValueError: sizes that do not fit, a negative noise_std, a bias with NaN.
    Example:
        >>> world = ToyModel(Independent(8, 0.1), polygon(8))
        >>> world.sample(5, generator=stream(0, "train")).x.shape
        torch.Size([5, 2])
    """

    distribution: ToyDistribution
    dictionary: Dictionary
    noise_std: float = 0.0
    bias: Float[Tensor, " d_in"] | None = None

    def __post_init__(self) -> None:
        n_features, d_in = self.dictionary.n_features, self.dictionary.d_in
        check(
            self.distribution.n_features == n_features,
            "ToyModel",
            f"a distribution of {n_features} features, one for each row of the dictionary",
            n_features=self.distribution.n_features,
        )
        ok = 0 <= self.noise_std < float("inf")
        check(ok, "ToyModel", "a finite noise_std >= 0", noise_std=self.noise_std)
        if self.bias is not None:
            shape = tuple(self.bias.shape)
            check(shape == (d_in,), "ToyModel", f"a bias of shape ({d_in},)", bias_shape=shape)
            check_finite("ToyModel", bias=self.bias)

    @property
    def d_in(self) -> int:
        return self.dictionary.d_in

    def sample(self, n: int, *, generator: torch.Generator) -> Batch:
        """Returns `n` activations and the codes that made them, in the dictionary's dtype.

        Raises:
            ValueError: n < 1, or a generator on another device than the dictionary.
        """
        vectors = self.dictionary.vectors
        check_generator("ToyModel.sample", generator, vectors.device)
        codes = self.distribution.sample(n, generator=generator)
        x = codes.decode(vectors)
        if self.bias is not None:
            x = x + self.bias.to(x)
        if self.noise_std > 0:
            noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
            x = x + self.noise_std * noise
        return Batch(x, codes)

    def mean(self) -> Float[Tensor, " d_in"]:
        """Returns E[x], float64, exact."""
        mean = self.distribution.mean_codes() @ self._vectors()
        return mean if self.bias is None else mean + self.bias.cpu().to(mean)

    def covariance(self) -> Float[Tensor, "d_in d_in"]:
        """Returns Cov(x) = D^T Cov(a) D + noise_std^2 I, float64.

        Exact where the distribution declares its code moment; raises what it raises elsewhere.
        """
        vectors = self._vectors()
        mean = self.distribution.mean_codes() @ vectors
        second = vectors.T @ self.distribution.code_moment_matvec(vectors)
        noise = self.noise_std**2 * torch.eye(self.d_in, dtype=torch.float64)
        covariance = second - torch.outer(mean, mean) + noise
        return (covariance + covariance.T) / 2  # exactly symmetric, whatever the rounding

    def second_moment(self) -> Float[Tensor, "d_in d_in"]:
        """Returns E[x x^T] = Cov(x) + E[x] E[x]^T, float64. Exact where `covariance` is."""
        mean = self.mean()
        return self.covariance() + torch.outer(mean, mean)

    def _vectors(self) -> Float[Tensor, "n_features d_in"]:
        return self.dictionary.vectors.cpu().to(torch.float64)
