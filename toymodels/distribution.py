"""The base of every toy distribution: a law of codes whose moments are declared exactly."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check, check_size
from toymodels.codes import Codes
from toymodels.events import Events
from toymodels.magnitudes import Magnitude

DENSE_MOMENT_LIMIT = 4096  # features up to which the [n, n] code moment is formed (128 MB)


class ToyDistribution(ABC):
    """A law of codes: which features fire, with whom, and how strongly.

    A new distribution is one file in toymodels/distributions/ with one subclass: a frozen
    dataclass that writes `n_features`, `_sample`, the moments below, and `strategy`. The laws in
    toymodels/laws.py then test each declared moment against samples.

    Throughout, a_i >= 0 is the code of feature i, 0 where it does not fire.
    """

    n_features: Any  # an int: field or property of the subclass

    def sample(self, n: int, *, generator: torch.Generator) -> Codes:
        """Returns the codes of `n` independent samples, on the generator's device.

        Args:
            n: number of samples, >= 1.
            generator: where the randomness comes from; see `stream`.
        Raises:
            ValueError: n < 1.
        """
        check_size(type(self).__name__ + ".sample", n=n)
        events = self._sample(n, generator=generator)
        return Codes.from_events(
            events.rows, events.features, events.values, n_rows=n, n_features=self.n_features
        )

    @abstractmethod
    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        """Returns the events of `n` samples, at a cost proportional to their number."""

    @abstractmethod
    def firing_probs(self) -> Float[Tensor, " n_features"]:
        """Returns P(feature i fires), [n_features], float64."""

    @abstractmethod
    def mean_codes(self) -> Float[Tensor, " n_features"]:
        """Returns m_i = E[a_i], [n_features], float64."""

    @abstractmethod
    def code_energies(self) -> Float[Tensor, " n_features"]:
        """Returns e_i = E[a_i^2], [n_features], float64."""

    @abstractmethod
    def _moment_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        """Returns C @ v for C = E[a a^T], without forming C where C has structure.

        A law without a closed form raises NotImplementedError and says why.
        """

    @classmethod
    @abstractmethod
    def strategy(cls) -> Any:
        """Returns a Hypothesis strategy over valid instances (hypothesis imported inside)."""

    def expected_l0(self) -> float:
        """Returns the expected number of features that fire per sample (a count)."""
        return float(self.firing_probs().sum())

    def code_moment_matvec(
        self, v: Float[Tensor, "n_features *n"]
    ) -> Float[Tensor, "n_features *n"]:
        """Returns C @ v, where C = E[a a^T], at any number of features.

        Args:
            v: [n_features] or [n_features, n], float64.
        Raises:
            NotImplementedError: the law has no closed form; the message says why.
        """
        check(
            v.ndim in (1, 2) and v.shape[0] == self.n_features,
            type(self).__name__ + ".code_moment_matvec",
            f"v of shape ({self.n_features} (n_features),) or ({self.n_features}, n)",
            v_shape=tuple(v.shape),
        )
        columns = v.reshape(self.n_features, -1).to(torch.float64)
        return self._moment_times(columns).reshape(v.shape)

    def code_moment(self) -> Float[Tensor, "n_features n_features"]:
        """Returns C = E[a a^T], float64; its diagonal is `code_energies`.

        Raises:
            ValueError: more than 4,096 features; use `code_moment_matvec`.
            NotImplementedError: the law has no closed form; the message says why.
        """
        check(
            self.n_features <= DENSE_MOMENT_LIMIT,
            type(self).__name__ + ".code_moment",
            f"at most {DENSE_MOMENT_LIMIT} features",
            "use code_moment_matvec(v), which never forms the matrix",
            n_features=self.n_features,
        )
        return self._moment_times(torch.eye(self.n_features, dtype=torch.float64))

    def code_covariance(self) -> Float[Tensor, "n_features n_features"]:
        """Returns Cov(a) = C - m m^T, float64. Raises as `code_moment` does."""
        mean = self.mean_codes()
        return self.code_moment() - torch.outer(mean, mean)


class OneMagnitude(ToyDistribution):
    """A law whose features all draw their strength, when they fire, from one law of magnitudes.

    m_i = P(i fires) E[b], e_i = P(i fires) E[b^2].
    """

    magnitude: Magnitude

    def mean_codes(self) -> Float[Tensor, " n_features"]:
        return self.firing_probs() * self.magnitude.mean()

    def code_energies(self) -> Float[Tensor, " n_features"]:
        return self.firing_probs() * self.magnitude.second_moment()
