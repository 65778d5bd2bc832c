"""The common part of laws that change the strengths of another law and leave its supports alone."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.distribution import ToyDistribution


class Wrapper(ToyDistribution):
    """A law with the supports of `base`, its first field; it writes `_sample` and the moments."""

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

    def _given(self, feature: int) -> Any:
        return replace(self, base=self.base._given(feature))  # type: ignore[type-var]


def per_feature(values: float | Tensor, n_features: int) -> Float[Tensor, " n_features"]:
    """Returns one value per feature, float64, of a number or [n_features] values."""
    return torch.as_tensor(values, dtype=torch.float64).expand(n_features)
