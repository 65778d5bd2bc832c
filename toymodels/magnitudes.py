"""How strongly a feature fires when it fires: laws of non-negative magnitudes."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check, check_generator
from toymodels.events import normals, uniforms


class Magnitude(ABC):
    """A law of magnitudes b >= 0 with exactly declared moments."""

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, " n"]:
        """Returns `n` independent magnitudes, float32, drawn in float64."""
        check_generator(type(self).__name__ + ".sample", generator)
        return self._sample(n, generator).to(torch.float32)

    @abstractmethod
    def _sample(self, n: int, generator: torch.Generator) -> Tensor: ...

    @abstractmethod
    def mean(self) -> float:
        """Returns E[b]."""

    @abstractmethod
    def second_moment(self) -> float:
        """Returns E[b^2]."""

    def largest(self) -> float:
        """Returns the largest possible value, inf where b is unbounded."""
        return math.inf


@dataclass(frozen=True)
class Constant(Magnitude):
    """b = value, with value > 0."""

    value: float = 1.0

    def __post_init__(self) -> None:
        ok = 0 < self.value < math.inf
        check(ok, "Constant", "a finite value > 0", value=self.value)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.full((n,), self.value, dtype=torch.float64, device=generator.device)

    def mean(self) -> float:
        return self.value

    def second_moment(self) -> float:
        return self.value**2

    def largest(self) -> float:
        return self.value


@dataclass(frozen=True)
class Uniform(Magnitude):
    """b uniform in [low, high], with 0 <= low <= high and high > 0."""

    low: float = 0.5
    high: float = 1.5

    def __post_init__(self) -> None:
        ok = 0 <= self.low <= self.high < math.inf and self.high > 0
        check(ok, "Uniform", "0 <= low <= high, high > 0", low=self.low, high=self.high)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.low + (self.high - self.low) * uniforms(n, generator=generator)

    def mean(self) -> float:
        return (self.low + self.high) / 2

    def second_moment(self) -> float:
        return (self.low**2 + self.low * self.high + self.high**2) / 3

    def largest(self) -> float:
        return self.high


@dataclass(frozen=True)
class AbsNormal(Magnitude):
    """b = |N(0, scale^2)|: mean scale * sqrt(2 / pi), second moment scale^2."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        ok = 0 < self.scale < math.inf
        check(ok, "AbsNormal", "a finite scale > 0", scale=self.scale)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.scale * normals(n, generator=generator).abs()

    def mean(self) -> float:
        return self.scale * math.sqrt(2 / math.pi)

    def second_moment(self) -> float:
        return self.scale**2


@dataclass(frozen=True)
class Exponential(Magnitude):
    """b exponential with mean `scale`: second moment 2 scale^2."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        ok = 0 < self.scale < math.inf
        check(ok, "Exponential", "a finite scale > 0", scale=self.scale)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        return -self.scale * torch.log1p(-uniforms(n, generator=generator))

    def mean(self) -> float:
        return self.scale

    def second_moment(self) -> float:
        return 2 * self.scale**2


@dataclass(frozen=True)
class LogNormal(Magnitude):
    """b = exp(N(mu, sigma^2)): mean exp(mu + sigma^2 / 2), second moment exp(2 mu + 2 sigma^2)."""

    mu: float = 0.0
    sigma: float = 0.5

    def __post_init__(self) -> None:
        ok = math.isfinite(self.mu) and 0 <= self.sigma < math.inf
        check(ok, "LogNormal", "finite mu, finite sigma >= 0", mu=self.mu, sigma=self.sigma)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        return (self.mu + self.sigma * normals(n, generator=generator)).exp()

    def mean(self) -> float:
        return math.exp(self.mu + self.sigma**2 / 2)

    def second_moment(self) -> float:
        return math.exp(2 * self.mu + 2 * self.sigma**2)


@dataclass(frozen=True)
class RectifiedNormal(Magnitude):
    """b = max(0, N(mu, sigma^2)): a firing feature may have strength 0.

    With Phi, phi the standard normal's distribution and density at z = mu / sigma: mean
    mu Phi + sigma phi, second moment (mu^2 + sigma^2) Phi + mu sigma phi.
    """

    mu: float = 1.0
    sigma: float = 0.5

    def __post_init__(self) -> None:
        ok = math.isfinite(self.mu) and 0 < self.sigma < math.inf
        check(ok, "RectifiedNormal", "finite mu, finite sigma > 0", mu=self.mu, sigma=self.sigma)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        return (self.mu + self.sigma * normals(n, generator=generator)).clamp(min=0)

    def _at_z(self) -> tuple[float, float]:
        z = self.mu / self.sigma
        return math.erfc(-z / math.sqrt(2)) / 2, math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    def mean(self) -> float:
        below, density = self._at_z()
        return self.mu * below + self.sigma * density

    def second_moment(self) -> float:
        below, density = self._at_z()
        return (self.mu**2 + self.sigma**2) * below + self.mu * self.sigma * density


@dataclass(frozen=True)
class AbsStudentT(Magnitude):
    """b = scale |t|, t Student's with df > 2 degrees of freedom: a power-law tail P(b > x) ~ x^-df.

    Mean scale 2 sqrt(df) Gamma((df+1)/2) / (sqrt(pi) (df-1) Gamma(df/2)), second moment
    scale^2 df / (df - 2). Drawn as sqrt(df (U^(-2/df) - 1)) |cos 2 pi V| (Bailey 1994, exact).
    """

    df: float = 3.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        ok = 2 < self.df < math.inf and 0 < self.scale < math.inf
        check(ok, "AbsStudentT", "finite df > 2, finite scale > 0", df=self.df, scale=self.scale)

    def _sample(self, n: int, generator: torch.Generator) -> Tensor:
        radius = torch.expm1(-2 / self.df * torch.log1p(-uniforms(n, generator=generator)))
        angle = (2 * math.pi * uniforms(n, generator=generator)).cos().abs()
        return self.scale * (self.df * radius).sqrt() * angle

    def mean(self) -> float:
        log_ratio = math.lgamma((self.df + 1) / 2) - math.lgamma(self.df / 2)
        return self.scale * 2 * math.sqrt(self.df / math.pi) / (self.df - 1) * math.exp(log_ratio)

    def second_moment(self) -> float:
        return self.scale**2 * self.df / (self.df - 2)
