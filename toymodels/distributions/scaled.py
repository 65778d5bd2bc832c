"""Features of different scales: each feature's strength is multiplied by its own factor."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check
from toymodels.distribution import ToyDistribution
from toymodels.events import Events
from toymodels.wrapper import Wrapper


@dataclass(frozen=True, eq=False)
class Scaled(Wrapper):
    """The codes s_i a_i, where a is drawn from another law: loud and quiet features.

    E[s_i a_i] = s_i m_i, E[(s_i a_i)^2] = s_i^2 e_i, and the code moment is diag(s) C diag(s).

    Args:
        base: the law of a.
        scales: s, one for all features or [n_features], finite and > 0.
    """

    base: ToyDistribution
    scales: float | Tensor

    def __post_init__(self) -> None:
        s, n = torch.as_tensor(self.scales), self.base.n_features
        rule = f"scales a number, or one for each of the {n} features"
        check(s.ndim == 0 or tuple(s.shape) == (n,), "Scaled", rule, scales_shape=tuple(s.shape))
        wrong = s.flatten()[~(torch.isfinite(s) & (s > 0)).flatten()]
        check(len(wrong) == 0, "Scaled", "finite scales > 0", scales=wrong[:5].tolist())

    def _scales(self) -> Float[Tensor, " n_features"]:
        return torch.as_tensor(self.scales, dtype=torch.float64).expand(self.n_features)

    def _change(self, events: Events, *, generator: torch.Generator) -> Events:
        scales = self._scales().to(events.values)
        return Events(events.rows, events.features, scales[events.features] * events.values)

    def mean_codes(self) -> Float[Tensor, " n_features"]:
        return self._scales() * self.base.mean_codes()

    def code_energies(self) -> Float[Tensor, " n_features"]:
        return self._scales() ** 2 * self.base.code_energies()

    def largest_codes(self) -> Float[Tensor, " n_features"]:
        return self._scales() * self.base.largest_codes()

    def _moment_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        scales = self._scales()[:, None]
        return scales * self.base._moment_times(scales * v)

    @classmethod
    def example(cls) -> Any:
        from toymodels.distributions.independent import Independent

        return cls(Independent(24, 0.15), torch.logspace(0.5, -0.5, 24, dtype=torch.float64))

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from toymodels.strategies import simple_distributions

        @st.composite
        def build(draw: Any) -> Scaled:
            base = draw(simple_distributions())
            scale, n = st.floats(0.25, 4), base.n_features
            each = st.lists(scale, min_size=n, max_size=n).map(torch.tensor)
            return cls(base, draw(scale | each))

        return build()
