"""The base of every toy distribution: a law of codes whose moments are declared exactly."""

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check, check_generator, check_size
from toymodels.codes import Codes
from toymodels.events import Events
from toymodels.magnitudes import Constant, Magnitude

DENSE_MOMENT_LIMIT = 4096  # features up to which an [n, n] matrix is formed (128 MB)
LEAST_REJECTED_PROB = 1e-4  # rarer features are not waited for by `sample_given`


class ToyDistribution(ABC):
    """A law of codes: which features fire, with whom, and how strongly.

    A new distribution is one file in toymodels/distributions/ with one subclass: a frozen
    dataclass that writes `n_features`, `_sample`, the moments below, `strategy` and `example`. The
    laws in toymodels/laws.py then test each declared moment against samples.

    Throughout, a_i is the code of feature i, 0 where it does not fire; a_i >= 0 unless `signed`.
    """

    n_features: Any  # an int: field or property of the subclass

    def __post_init__(self) -> None:
        """Refuses magnitudes that are none, for every law, before it checks the rest."""
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            if f.type in (Magnitude, "Magnitude"):
                value = getattr(self, f.name)
                rule = f"a Magnitude as {f.name}"
                todo = "pass one such as Uniform() or Constant(1.0)"
                ok = isinstance(value, Magnitude)
                check(ok, type(self).__name__, rule, todo, **{f.name: value})

    def __init_subclass__(cls, **options: Any) -> None:
        """Has the check above run first in a subclass that checks its own fields."""
        super().__init_subclass__(**options)
        own = vars(cls).get("__post_init__")
        if own is not None:

            @functools.wraps(own)
            def both(self: ToyDistribution) -> None:
                ToyDistribution.__post_init__(self)
                own(self)

            cls.__post_init__ = both

    @property
    def signed(self) -> bool:
        """Returns whether a code may be negative."""
        return False

    def sample(self, n: int, *, generator: torch.Generator) -> Codes:
        """Returns the codes of `n` independent samples, on the generator's device.

        Args:
            n: number of samples, >= 1.
            generator: where the randomness comes from; see `stream`.
        Raises:
            ValueError: n < 1, or no generator.
        """
        where = type(self).__name__ + ".sample"
        check_size(where, n=n)
        check_generator(where, generator)
        return self._codes(self._sample(n, generator=generator), n)

    def sample_given(self, n: int, feature: int, *, generator: torch.Generator) -> Codes:
        """Returns the codes of `n` independent samples in all of which `feature` fires.

        Drawn from `given(feature)` where the law has it in closed form: then at no more cost than
        a sample with that many events, however rare the feature. Else by rejection: 1 / P(feature
        fires) samples are drawn for each one kept.

        Args:
            n: number of samples, >= 1.
            feature: in [0, n_features), with positive probability.
        Raises:
            ValueError: a feature that never fires, or one too rare (below 1e-4) for rejection.
        """
        where = type(self).__name__ + ".sample_given"
        check_size(where, n=n)
        check_generator(where, generator)
        self._check_can_fire(where, feature, "a feature that can fire")
        return self._codes(self._sample_given(n, feature, generator=generator), n)

    def _sample_given(self, n: int, feature: int, *, generator: torch.Generator) -> Events:
        """Returns the events of `n` samples given that `feature`, of positive probability, fires.

        A law without `_given` that can do better than rejection writes its own.
        """
        try:
            return self._given(feature)._sample(n, generator=generator)
        except NotImplementedError:
            prob = self.firing_probs()[feature].item()
        where = type(self).__name__ + ".sample_given"
        todo = "its conditional law is not known in closed form, and samples would be rejected"
        rule = f"a feature of firing probability at least {LEAST_REJECTED_PROB}"
        check(prob >= LEAST_REJECTED_PROB, where, rule, todo, feature=feature, firing_prob=prob)
        parts: list[Events] = []
        n_found = 0
        while n_found < n:
            n_drawn = int((n - n_found) / prob * 1.1) + 10
            events = self._sample(n_drawn, generator=generator)
            kept = events.rows[events.features == feature].sort().values[: n - n_found]
            place = torch.full((n_drawn,), -1, device=kept.device)
            place[kept] = n_found + torch.arange(len(kept), device=kept.device)
            rows = place[events.rows]
            keep = rows >= 0
            parts.append(Events(rows[keep], events.features[keep], events.values[keep]))
            n_found += len(kept)
        return Events(*(torch.cat([getattr(p, f) for p in parts]) for f in Events.__annotations__))

    def given(self, *features: int) -> "ToyDistribution":
        """Returns the law of the codes given that all these features fire.

        Args:
            features: at least one, each in [0, n_features), that fire together with positive
                probability.
        Raises:
            ValueError: a feature that never fires (with those before it).
            NotImplementedError: the law has no closed form; `sample_given` still draws from it.
        """
        where = type(self).__name__ + ".given"
        check(len(features) > 0, where, "at least one feature", features=features)
        law: ToyDistribution = self
        for feature in features:
            law._check_can_fire(where, feature, "features that can fire together")
            law = law._given(feature)
        return law

    def _check_can_fire(self, where: str, feature: int, rule: str) -> None:
        inside = 0 <= feature < self.n_features
        check(inside, where, f"a feature in [0, {self.n_features})", feature=feature)
        prob = self.firing_probs()[feature].item()
        check(prob > 0, where, rule, feature=feature, firing_prob=prob)

    def _given(self, feature: int) -> "ToyDistribution":
        """Returns the law given that `feature`, of positive probability, fires."""
        raise NotImplementedError(
            f"{type(self).__name__}: the law given a feature is not in this family; "
            "use sample_given, which draws from it by rejection"
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

    def _cofiring_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        """Returns P @ v for P_ij = P(i and j fire): the code moment where all magnitudes are 1.

        A law whose strengths are not all `Magnitude` fields, its own or those of laws it is made
        of, writes its own.
        """
        return self.with_magnitudes([Constant(1.0)])._moment_times(v)

    @classmethod
    @abstractmethod
    def strategy(cls) -> Any:
        """Returns a Hypothesis strategy over valid instances (hypothesis imported inside)."""

    @classmethod
    @abstractmethod
    def example(cls) -> "ToyDistribution":
        """Returns a typical instance of about 24 features, for galleries of worlds."""

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
        return self._moment_times(self._identity("code_moment"))

    def cofiring_probs(self) -> Float[Tensor, "n_features n_features"]:
        """Returns P(i and j both fire), float64; its diagonal is `firing_probs`.

        Raises as `code_moment` does.
        """
        return self._cofiring_times(self._identity("cofiring_probs"))

    def code_covariance(self) -> Float[Tensor, "n_features n_features"]:
        """Returns Cov(a) = C - m m^T, float64. Raises as `code_moment` does."""
        mean = self.mean_codes()
        return self.code_moment() - torch.outer(mean, mean)

    def largest_codes(self) -> Float[Tensor, " n_features"]:
        """Returns a bound on |a_i|, [n_features], float64; inf where magnitudes are unbounded.

        Here the largest value of any of the law's magnitudes; a law that multiplies magnitudes
        writes its own.
        """
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        values = [getattr(self, f.name) for f in fields]
        highest = max((v.largest() for v in values if isinstance(v, Magnitude)), default=torch.inf)
        return torch.full((self.n_features,), highest, dtype=torch.float64)

    def with_magnitudes(self, laws: Sequence[Magnitude]) -> Any:
        """Returns this law with its i-th magnitude replaced by laws[i], by the last beyond.

        The magnitudes are its fields that hold a `Magnitude`, then those of each field that holds
        a distribution or a tuple of distributions, where the count begins anew.

        Args:
            laws: at least one.
        Raises:
            ValueError: a law without such fields; it must write `_cofiring_times` itself.
        """
        changed: dict[str, Any] = {}
        n_own = 0
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, Magnitude):
                changed[f.name] = laws[min(n_own, len(laws) - 1)]
                n_own += 1
            elif isinstance(value, ToyDistribution):
                changed[f.name] = value.with_magnitudes(laws)
            elif isinstance(value, tuple) and value and isinstance(value[0], ToyDistribution):
                changed[f.name] = tuple(part.with_magnitudes(laws) for part in value)
        where = type(self).__name__ + ".with_magnitudes"
        check(bool(changed), where, "a field that holds a Magnitude", fields=list(vars(self)))
        return dataclasses.replace(self, **changed)  # type: ignore[type-var]

    def _identity(self, method: str) -> Float[Tensor, "n_features n_features"]:
        check(
            self.n_features <= DENSE_MOMENT_LIMIT,
            f"{type(self).__name__}.{method}",
            f"at most {DENSE_MOMENT_LIMIT} features",
            "use code_moment_matvec(v), which never forms the matrix",
            n_features=self.n_features,
        )
        return torch.eye(self.n_features, dtype=torch.float64)

    def _codes(self, events: Events, n: int) -> Codes:
        return Codes.from_events(
            events.rows, events.features, events.values, n_rows=n, n_features=self.n_features
        )


class OneMagnitude(ToyDistribution):
    """A law whose features all draw their strength, when they fire, from one law of magnitudes.

    Strengths are independent of who fires and of one another. With P_ij = P(i and j fire):
    m_i = P_ii E[b], e_i = P_ii E[b^2], C_ij = P_ij E[b]^2 for i != j. Such a law writes
    `_cofiring_times`; the moments follow.
    """

    magnitude: Magnitude

    @abstractmethod
    def _cofiring_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        """Returns P @ v for P_ij = P(i and j fire), without forming P where P has structure."""

    def mean_codes(self) -> Float[Tensor, " n_features"]:
        return self.firing_probs() * self.magnitude.mean()

    def code_energies(self) -> Float[Tensor, " n_features"]:
        return self.firing_probs() * self.magnitude.second_moment()

    def _moment_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        square = self.magnitude.mean() ** 2
        own = self.firing_probs()[:, None] * v
        return square * (self._cofiring_times(v) - own) + self.magnitude.second_moment() * own
