"""The common part of laws whose features fire independently of one another."""

from abc import abstractmethod
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check
from toymodels.distribution import OneMagnitude, ToyDistribution
from toymodels.events import Events, IndependentFiring


def per_feature_probs(
    where: str, given: float | Tensor, n_features: int, name: str = "firing_prob"
) -> Float[Tensor, " n_features"]:
    """Returns one probability per feature, float64, from a scalar or [n_features] values."""
    probs = torch.as_tensor(given, dtype=torch.float64)
    check(
        probs.ndim == 0 or tuple(probs.shape) == (n_features,),
        where,
        f"{name} a number, or one value for each of the {n_features} features",
        **{f"{name}_shape": tuple(probs.shape)},
    )
    wrong = ~((probs >= 0) & (probs <= 1))  # NaN is wrong too
    if bool(wrong.any()):
        check(
            False,
            where,
            "probabilities in [0, 1]",
            **{name: probs[wrong][0].item() if probs.ndim else probs.item()},
        )
    return probs.expand(n_features)


class ProductLaw(OneMagnitude):
    """A law in which feature i fires with probability p_i, independently of all else.

    m_i = p_i E[b], e_i = p_i E[b^2], P(i and j fire) = p_i p_j, C = diag(e - m^2) + m m^T.
    """

    @abstractmethod
    def firing_probs(self) -> Float[Tensor, " n_features"]: ...

    @cached_property
    def _firing(self) -> IndependentFiring:
        return IndependentFiring(self.firing_probs())

    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        rows, features = self._firing.draw(n, generator=generator)
        return Events(rows, features, self.magnitude.sample(len(rows), generator=generator))

    def _cofiring_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        p = self.firing_probs()
        return (p - p**2)[:, None] * v + torch.outer(p, p @ v)

    def _given(self, feature: int) -> ToyDistribution:
        from toymodels.distributions.independent import Independent

        probs = self.firing_probs().clone()
        probs[feature] = 1.0
        return Independent(self.n_features, probs, self.magnitude)
