"""The common part of laws that change the strengths of another law and leave its supports alone."""

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.distribution import ToyDistribution
from toymodels.events import Events


class Wrapper(ToyDistribution):
    """A law with the supports of `base`, its first field; it writes `_change` and the moments."""

    base: ToyDistribution

    @property
    def n_features(self) -> int:
        return self.base.n_features

    @property
    def signed(self) -> bool:
        return self.base.signed

    def firing_probs(self) -> Float[Tensor, " n_features"]:
        return self.base.firing_probs()

    def _cofiring_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        return self.base._cofiring_times(v)

    @abstractmethod
    def _change(self, events: Events, *, generator: torch.Generator) -> Events:
        """Returns the events of the base with other values."""

    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        return self._change(self.base._sample(n, generator=generator), generator=generator)

    def _sample_given(self, n: int, feature: int, *, generator: torch.Generator) -> Events:
        events = self.base._sample_given(n, feature, generator=generator)
        return self._change(events, generator=generator)

    def _given(self, feature: int) -> Any:
        return replace(self, base=self.base._given(feature))  # type: ignore[type-var]
