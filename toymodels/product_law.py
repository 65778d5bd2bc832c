"""The common part of laws whose features fire independently of one another."""

from abc import abstractmethod
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check
from toymodels.distribution import OneMagnitude
from toymodels.events import Events, IndependentFiring


def per_feature_probs(
    where: str, firing_prob: float | Tensor, n_features: int
) -> Float[Tensor, " n_features"]:
    """Returns one probability per feature, float64, from a scalar or [n_features] values."""
    probs = torch.as_tensor(firing_prob, dtype=torch.float64)
    check(
        probs.ndim == 0 or tuple(probs.shape) == (n_features,),
        where,
        f"firing_prob a number, or one value for each of the {n_features} features",
        firing_prob_shape=tuple(probs.shape),
    )
    wrong = ~((probs >= 0) & (probs <= 1))  # NaN is wrong too
    if bool(wrong.any()):
        check(
            False,
            where,
            "probabilities in [0, 1]",
            firing_prob=probs[wrong][0].item() if probs.ndim else probs.item(),
        )
    return probs.expand(n_features)


class ProductLaw(OneMagnitude):
    """A law in which feature i fires with probability p_i, independently of all else.

    m_i = p_i E[b], e_i = p_i E[b^2], C = diag(e - m^2) + m m^T.
    """

    @abstractmethod
    def firing_probs(self) -> Float[Tensor, " n_features"]: ...

    @cached_property
    def _firing(self) -> IndependentFiring:
        return IndependentFiring(self.firing_probs())

    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        rows, features = self._firing.draw(n, generator=generator)
        return Events(rows, features, self.magnitude.sample(len(rows), generator=generator))

    def _moment_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        mean = self.mean_codes()
        return (self.code_energies() - mean**2)[:, None] * v + torch.outer(mean, mean @ v)
