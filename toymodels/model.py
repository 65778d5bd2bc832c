"""A toy world: a law of codes in a dictionary."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check, check_finite, check_generator, check_tensor
from toymodels.codes import Batch, Codes
from toymodels.dictionary import Dictionary
from toymodels.distribution import ToyDistribution
from toymodels.shift import Shift


@dataclass(frozen=True, eq=False)
class ToyModel:
    """Activations with known ground truth: x = scale (sum_i a_i d_i + bias + noise_std N(0, I)).

    Args:
        distribution: the law of the codes a.
        dictionary: the directions d_i, as many rows as the distribution has features.
        noise_std: standard deviation of the isotropic noise per coordinate, >= 0.
        bias: [d_in], or None for 0.
        scale: factor of everything, > 0; `normalised` chooses it.
    Raises:
        ValueError: no law or no `Dictionary`, sizes that do not fit, a negative noise_std or scale,
            a bias with NaN.
    Example:
        >>> world = ToyModel(Independent(8, 0.1), polygon(8))
        >>> world.sample(5, generator=stream(0, "train")).x.shape
        torch.Size([5, 2])
    """

    distribution: ToyDistribution
    dictionary: Dictionary
    noise_std: float = 0.0
    bias: Float[Tensor, " d_in"] | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name, kind, todo in (
            ("distribution", ToyDistribution, "pass a law such as Independent(n_features, p)"),
            ("dictionary", Dictionary, "pass Dictionary(vectors), with unit rows"),
        ):
            value = getattr(self, name)
            got = {name: type(value).__name__}
            check(isinstance(value, kind), "ToyModel", f"a {kind.__name__}", todo, **got)
        n_features, d_in = self.dictionary.n_features, self.dictionary.d_in
        check(
            self.distribution.n_features == n_features,
            "ToyModel",
            f"a distribution of {n_features} features, one for each row of the dictionary",
            n_features=self.distribution.n_features,
        )
        ok = 0 <= self.noise_std < float("inf")
        check(ok, "ToyModel", "a finite noise_std >= 0", noise_std=self.noise_std)
        ok = 0 < self.scale < float("inf")
        check(ok, "ToyModel", "a finite scale > 0", scale=self.scale)
        if self.bias is not None:
            check_tensor("ToyModel", bias=self.bias)
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
        check_generator("ToyModel.sample", generator, self.dictionary.vectors.device)
        return self._batch(self.distribution.sample(n, generator=generator), generator)

    def sample_given(self, n: int, feature: int, *, generator: torch.Generator) -> Batch:
        """Returns `n` activations in all of which `feature` fires, and their codes.

        However rare the feature, where the law knows itself given a feature; see
        `ToyDistribution.sample_given`.
        """
        check_generator("ToyModel.sample_given", generator, self.dictionary.vectors.device)
        codes = self.distribution.sample_given(n, feature, generator=generator)
        return self._batch(codes, generator)

    def _batch(self, codes: Codes, generator: torch.Generator) -> Batch:
        x = self._clean(codes)
        if self.noise_std > 0:
            noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
            x = x + self.noise_std * noise
        return Batch(x if self.scale == 1 else self.scale * x, codes)

    def activations(self, codes: Codes) -> Float[Tensor, "batch d_in"]:
        """Returns scale (sum_i a_i d_i + bias): the activations of codes, without noise."""
        x = self._clean(codes)
        return x if self.scale == 1 else self.scale * x

    def linear_map(self) -> tuple[Tensor, Tensor] | None:
        """Returns (vectors [n_features, d_in], offset [d_in]) with x = codes @ vectors + offset, up
        to rounding, in the dictionary's dtype; None with noise, where codes do not determine x."""
        if self.noise_std > 0:
            return None
        vectors = self.dictionary.vectors
        offset = torch.zeros_like(vectors[0]) if self.bias is None else self.bias.to(vectors)
        return self.scale * vectors, self.scale * offset

    def _clean(self, codes: Codes) -> Float[Tensor, "batch d_in"]:
        x = codes.decode(self.dictionary.vectors)
        return x if self.bias is None else x + self.bias.to(x)

    def normalised(self, mean_square: float | None = None) -> "ToyModel":
        """Returns the world scaled so that E|x|^2 = mean_square, by default d_in. Exact.

        Raises what `second_moment` raises, and ValueError where x is always 0.
        """
        target = float(self.d_in) if mean_square is None else mean_square
        check(target > 0, "ToyModel.normalised", "mean_square > 0", mean_square=mean_square)
        now = float(self.second_moment().trace())
        check(now > 0, "ToyModel.normalised", "a world that is not always 0", mean_square=now)
        return replace(self, scale=self.scale * (target / now) ** 0.5)

    def shifted(self, shift: Shift) -> "ToyModel":
        """Returns this world under the law of a shift: the same features, met otherwise.

        Shifts come from `more_often` (a feature gets more frequent, or several co-occur more),
        `reweighted` (new firing probabilities) and `that_never_occurred` (support growth). They
        say how far the law has moved: the divergences of the activations are at most those.
        """
        return replace(self, distribution=shift.distribution)

    def mean(self) -> Float[Tensor, " d_in"]:
        """Returns E[x], float64, exact."""
        mean = self.distribution.mean_codes() @ self._vectors()
        return self.scale * (mean if self.bias is None else mean + self.bias.cpu().to(mean))

    def covariance(self) -> Float[Tensor, "d_in d_in"]:
        """Returns Cov(x) = scale^2 (D^T Cov(a) D + noise_std^2 I), float64.

        Exact where the distribution declares its code moment; raises what it raises elsewhere.
        """
        vectors = self._vectors()
        mean = self.distribution.mean_codes() @ vectors
        second = vectors.T @ self.distribution.code_moment_matvec(vectors)
        noise = self.noise_std**2 * torch.eye(self.d_in, dtype=torch.float64)
        covariance = self.scale**2 * (second - torch.outer(mean, mean) + noise)
        return (covariance + covariance.T) / 2  # exactly symmetric, whatever the rounding

    def second_moment(self) -> Float[Tensor, "d_in d_in"]:
        """Returns E[x x^T] = Cov(x) + E[x] E[x]^T, float64. Exact where `covariance` is."""
        mean = self.mean()
        return self.covariance() + torch.outer(mean, mean)

    def _vectors(self) -> Float[Tensor, "n_features d_in"]:
        return self.dictionary.vectors.cpu().to(torch.float64)
