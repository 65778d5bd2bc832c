"""A mixture of laws: every sample is drawn from one of several."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check
from toymodels.distribution import ToyDistribution
from toymodels.events import Events, bernoulli_indices

_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Mixture(ToyDistribution):
    """Each sample is drawn from component c with probability w_c, independently of the others.

    Every moment about zero (firing, co-firing, means, energies, code moment) is the sum of those of
    the components, weighted by w. Given that a feature fires, the weights become proportional to
    w_c P_c(it fires), and each component becomes the law given that feature.

    Args:
        components: at least one law, all of the same number of features.
        weights: w >= 0, one for each component, that sum to 1 (to 1e-9).
    """

    components: tuple[ToyDistribution, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        where = "Mixture"
        sizes = [component.n_features for component in self.components]
        same = len(set(sizes)) == 1
        check(same, where, "components of one number of features", n_features=sizes)
        n = len(self.components)
        check(len(self.weights) == n, where, f"{n} weights", n_weights=len(self.weights))
        total = sum(self.weights)
        ok = min(self.weights) >= 0 and abs(total - 1) <= _ROUNDING
        check(ok, where, "weights >= 0 that sum to 1", weights=self.weights, sum=total)

    @property
    def n_features(self) -> int:
        return self.components[0].n_features

    @property
    def signed(self) -> bool:
        return any(component.signed for component in self.components)

    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        rows = torch.arange(n, device=generator.device)  # not yet given to a component
        left = 1.0
        parts: list[Events] = []
        for component, weight in zip(self.components, self.weights, strict=True):
            chosen = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
            share = min(1.0, weight / left) if left > _ROUNDING else 1.0
            if component is self.components[-1]:
                share = 1.0
            chosen[bernoulli_indices(len(rows), share, generator=generator)] = True
            mine, rows, left = rows[chosen], rows[~chosen], left - weight
            if len(mine):
                events = component._sample(len(mine), generator=generator)
                parts.append(Events(mine[events.rows], events.features, events.values))
        return Events(
            torch.cat([part.rows for part in parts]),
            torch.cat([part.features for part in parts]),
            torch.cat([part.values for part in parts]),
        )

    def _mean(self, method: str, *args: Any) -> Tensor:
        values = [getattr(component, method)(*args) for component in self.components]
        return sum(w * value for w, value in zip(self.weights, values, strict=True))  # type: ignore[return-value]

    def firing_probs(self) -> Float[Tensor, " n_features"]:
        return self._mean("firing_probs")

    def mean_codes(self) -> Float[Tensor, " n_features"]:
        return self._mean("mean_codes")

    def code_energies(self) -> Float[Tensor, " n_features"]:
        return self._mean("code_energies")

    def largest_codes(self) -> Float[Tensor, " n_features"]:
        return torch.stack([c.largest_codes() for c in self.components]).amax(0)

    def _moment_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        return self._mean("_moment_times", v)

    def _cofiring_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        return self._mean("_cofiring_times", v)

    def _given(self, feature: int) -> "Mixture":
        odds = [
            w * component.firing_probs()[feature].item()
            for component, w in zip(self.components, self.weights, strict=True)
        ]
        possible = [i for i, odd in enumerate(odds) if odd > 0]
        return Mixture(
            tuple(self.components[i]._given(feature) for i in possible),
            tuple(odds[i] / sum(odds) for i in possible),
        )

    @classmethod
    def example(cls) -> Any:
        from toymodels.distributions.exactly_k import ExactlyK
        from toymodels.distributions.independent import Independent

        often_first = Independent(24, torch.linspace(0.3, 0.0, 24))
        return cls((often_first, ExactlyK(24, 6)), (0.7, 0.3))

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from toymodels.distributions.exclusive import Exclusive
        from toymodels.distributions.independent import Independent
        from toymodels.strategies import magnitudes, probs

        @st.composite
        def build(draw: Any) -> Mixture:
            n = draw(st.integers(1, 6))
            components: list[ToyDistribution] = []
            for exclusive in draw(st.lists(st.booleans(), min_size=1, max_size=3)):
                each = torch.tensor(draw(st.lists(probs(), min_size=n, max_size=n))).double()
                total = max(1.0, float(each.sum())) if exclusive else 1.0
                make = Exclusive if exclusive else Independent
                components.append(make(n, each / total, draw(magnitudes())))
            shares = draw(st.lists(st.integers(1, 9), min_size=len(components), max_size=3))
            shares = shares[: len(components)]
            return cls(tuple(components), tuple(share / sum(shares) for share in shares))

        return build()
