"""Shared by claims about hedging: the exact loss of one latent on two orthonormal features."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

PURE = tuple(math.pi / 2 * i for i in range(4))  # angles of the features and their opposites


@dataclass(frozen=True)
class Codes:
    """A law of the codes of a few orthonormal features, and the SAE's penalty and bias.

    outcomes: (weight, a_1, a_2, ...), magnitudes >= 0 and how often they occur together.
    penalty: lambda >= 0 of the loss E|x - x_hat|^2 + lambda E z, decoder rows of unit norm.
    bias: whether the decoder has one.
    """

    outcomes: tuple[tuple[float, ...], ...]
    penalty: float
    bias: bool

    def probs(self) -> Float[Tensor, " outcomes"]:
        weights = torch.tensor([float(o[0]) for o in self.outcomes], dtype=torch.float64)
        return weights / weights.sum()

    def codes(self) -> Float[Tensor, "outcomes n"]:
        return torch.tensor([o[1:] for o in self.outcomes], dtype=torch.float64)

    def moment(self) -> Float[Tensor, "n n"]:
        """Returns E[a a^T]."""
        codes = self.codes()
        return codes.T @ (self.probs()[:, None] * codes)

    def covariance(self) -> Float[Tensor, "n n"]:
        centred = self.codes() - self.probs() @ self.codes()
        return centred.T @ (self.probs()[:, None] * centred)

    @property
    def scale(self) -> float:
        """Largest |a|^2, the size of a loss."""
        return float(self.codes().square().sum(1).max())


def losses(law: Codes, angles: Float[Tensor, " angles"]) -> Float[Tensor, " angles"]:
    """Returns the least loss of a latent with decoder row (cos t, sin t), at each angle t.

    A ReLU encoder (the row itself and a threshold) gives the best code, (s - lambda/2)_+ at a
    projection s on the row. Across the row the loss is that of the bias alone. Along it the best
    bias b minimises E phi(s - b), phi(r) = r^2 - (r - lambda/2)_+^2, which is convex and
    quadratic between the breakpoints: its minimum is at one of them, or is the stationary point
    of one set of the largest projections.
    """
    probs, codes, half = law.probs(), law.codes(), law.penalty / 2
    along = angles.cos()[:, None] * codes[:, 0] + angles.sin()[:, None] * codes[:, 1]
    across = angles.cos()[:, None] * codes[:, 1] - angles.sin()[:, None] * codes[:, 0]
    if not law.bias:
        whole = (along.square() + across.square()) @ probs
        return whole - (along - half).clamp(min=0).square() @ probs
    left = across.square() @ probs - (across @ probs).square()
    order = along.argsort(dim=1, descending=True, stable=True)
    mass = probs[order]
    below = 1 - mass.cumsum(1)  # of the outcomes that are not among the largest
    rest = (mass * along.gather(1, order)).flip(1).cumsum(1).flip(1)
    rest = torch.cat([rest[:, 1:], torch.zeros_like(rest[:, :1])], dim=1)
    usable = below > 1e-12
    stationary = (rest + (1 - below) * half) / torch.where(usable, below, 1.0)
    stationary = torch.where(usable, stationary, along.max(1, keepdim=True).values)
    biases = torch.cat([stationary, along - half, (along @ probs)[:, None]], dim=1)
    distances = along[:, None] - biases[:, :, None]
    phi = distances.square() - (distances - half).clamp(min=0).square()
    return left + (phi @ probs).amin(1)


@st.composite
def two_features(
    draw: Any, *, bias: bool | None = None, penalised: bool = True, n_features: int = 2
) -> Codes:
    """Laws of two features (or more) of constant magnitude that fire in all combinations.

    Independent ones are among them, whose covariance is 0.   bias: None draws it.   penalised:
    draws a penalty, which may be 0.
    """
    scales = [draw(st.sampled_from([1.0, 2.0]) | st.floats(0.2, 2)) for _ in range(n_features)]
    independent = draw(st.booleans())
    odds = [(draw(st.integers(1, 3)), draw(st.integers(1, 3))) for _ in range(n_features)]
    outcomes = []
    for pattern in range(2**n_features):
        fires = [pattern >> i & 1 for i in range(n_features)]
        product = math.prod(odds[i][on] for i, on in enumerate(fires))
        weight = float(product if independent else draw(st.integers(1, 9)))
        outcomes.append((weight, *(scale * on for scale, on in zip(scales, fires, strict=True))))
    penalty = draw(st.sampled_from([0.0, 1.0, 0.5]) | st.floats(0, 1.2)) if penalised else 0.0
    return Codes(tuple(outcomes), penalty, draw(st.booleans()) if bias is None else bias)
