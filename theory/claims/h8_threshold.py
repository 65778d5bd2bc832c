"""H8-threshold: selection by a common threshold, where independent features are not mixed."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Bool, Float
from torch import Tensor

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal

N_ANGLES = 40


@dataclass(frozen=True)
class Selected:
    """Joint law of two orthonormal features' codes, of which those above a threshold are coded.

    table: weights[i][j] of the magnitudes (levels_1[i], levels_2[j]).
    """

    levels: tuple[tuple[float, ...], tuple[float, ...]]
    table: tuple[tuple[float, ...], ...]
    threshold: float

    def probs(self) -> Float[Tensor, "first second"]:
        weights = torch.tensor(self.table, dtype=torch.float64)
        return weights / weights.sum()

    def codes(self) -> tuple[Float[Tensor, "first 1"], Float[Tensor, "1 second"]]:
        first, second = (torch.tensor(t, dtype=torch.float64) for t in self.levels)
        return first[:, None], second[None, :]

    def coded(self) -> tuple[Bool[Tensor, "first 1"], Bool[Tensor, "1 second"]]:
        first, second = self.codes()
        return first > self.threshold, second > self.threshold

    def bias(self) -> tuple[float, float]:
        """Returns the decoder bias that is best for the truth: each mean below the threshold."""
        means = []
        for axis, (codes, coded) in enumerate(zip(self.codes(), self.coded(), strict=True)):
            mass = self.probs().sum(1 - axis, keepdim=True) * ~coded
            total = float(mass.sum())
            means.append(float((mass * codes).sum()) / total if total else 0.0)
        return means[0], means[1]

    @property
    def scale(self) -> float:
        return max(max(level) for level in self.levels) ** 2 or 1.0


def error(law: Selected, angle: float, bias: tuple[float, float]) -> float:
    """Returns the loss with the first latent turned by `angle` towards the second feature.

    Each sample keeps the latents of the features above the threshold; the codes are refitted.
    """
    u, v = (code - b for code, b in zip(law.codes(), bias, strict=True))
    first, second = law.coded()
    across = v * math.cos(angle) - u * math.sin(angle)
    left = torch.where(first, torch.where(second, 0.0, across**2), u**2)
    left = left + torch.where(first | second, 0.0, v**2)
    return float((law.probs() * left).sum())


def moments(law: Selected, bias: tuple[float, float]) -> tuple[float, float]:
    """Returns A = E[u v] and B = E[v^2 - u^2]; samples that do not code 1, or code 2, count 0."""
    u, v = (code - b for code, b in zip(law.codes(), bias, strict=True))
    first, second = law.coded()
    mass = law.probs() * (first & ~second)
    return float((mass * u * v).sum()), float((mass * (v**2 - u**2)).sum())


@st.composite
def selected(draw: Any, *, independent: bool | None = None, close: bool = False) -> Selected:
    """Two to four levels for each feature, quarters as the threshold is.

    independent: None draws it.   close: the first feature has the threshold and the next level.
    """
    cut = draw(st.integers(0, 6))
    second = st.integers(0, 8)
    first = st.integers(cut, cut + 1) if close else second
    levels = tuple(
        tuple(level / 4 for level in sorted(found))
        for found in (
            draw(st.lists(first, min_size=2, max_size=4, unique=True)),
            draw(st.lists(second, min_size=2, max_size=4, unique=True)),
        )
    )
    n, m = map(len, levels)
    weight = st.integers(1, 9).map(float)
    if draw(st.booleans()) if independent is None else independent:
        rows, columns = (draw(st.lists(weight, min_size=s, max_size=s)) for s in (n, m))
        table = tuple(tuple(r * c for c in columns) for r in rows)
    else:
        table = tuple(tuple(draw(st.lists(weight, min_size=m, max_size=m))) for _ in range(n))
    return Selected((levels[0], levels[1]), table, cut / 4)


def is_independent(law: Selected) -> bool:
    probs = law.probs()
    return float((probs - probs.sum(1, keepdim=True) * probs.sum(0)).abs().max()) < 1e-14


def compare(law: Selected) -> Comparisons:
    bias, scale = law.bias(), law.scale
    a, b = moments(law, bias)
    truth = error(law, 0.0, bias)
    best = 0.5 * math.atan2(2 * a, -b)
    gain = math.hypot(a, b / 2) + b / 2
    reached = truth - error(law, best, bias)
    angles = [math.pi * i / N_ANGLES for i in range(N_ANGLES)]
    others = max(truth - error(law, angle, bias) for angle in angles)
    results = [
        equal("gain of the best turn", reached, gain, scale=scale),
        at_most("gain of any other turn", others, gain, scale=scale),
        at_most("0, against turn times A", 0.0, best * a, scale=scale),
    ]
    if bias[0] == 0:
        results.append(at_most("1 silent where not coded: B, against 0", b, 0.0, scale=scale))
    if is_independent(law):
        results.append(equal("independent: A", a, 0.0, scale=scale))
        results.append(equal("independent: gain", gain, max(b, 0.0), scale=scale))
    return tuple(results)


def without_a_bias(law: Selected) -> Comparisons:
    a, b = moments(law, (0.0, 0.0))
    gain = math.hypot(a, b / 2) + b / 2
    return (at_most("gain without a bias, against 0", gain, 0.0, scale=law.scale),)


def no_gain(law: Selected) -> Comparisons:
    a, b = moments(law, law.bias())
    gain = math.hypot(a, b / 2) + b / 2
    return (at_most("gain, against 0", gain, 0.0, scale=law.scale),)


def sign_of_covariance(law: Selected) -> Comparisons:
    """The covariance of the whole codes, in place of what is coded with what is dropped."""
    (u, v), probs = law.codes(), law.probs()
    covariance = float((probs * u * v).sum() - (probs * u).sum() * (probs * v).sum())
    a, _ = moments(law, law.bias())
    if abs(a) <= 1e-9 * law.scale:
        return VOID
    label = "0, against A times the codes' covariance"
    return (at_most(label, 0.0, a * covariance, scale=law.scale),)


CLAIM = Claim(
    key="H8-threshold",
    statement="With a common threshold and a bias only what goes together is mixed\n"
    "Two orthonormal features; a sample codes those above a threshold (BatchTopK on a large "
    "batch); the decoder bias b is the truth's best one, and supports and bias stay. Turning "
    "latent 1 towards feature 2 gains at most sqrt(A^2 + B^2/4) + B/2, by a turn with the sign of "
    "A = E[(a_1 - b_1)(a_2 - b_2)], B = E[(a_2 - b_2)^2 - (a_1 - b_1)^2], where samples that do "
    "not code 1, or code 2, count 0. If the features are independent A = 0 and the gain is "
    "max(B, 0), which is 0 if feature 1 is silent wherever it is not coded. A need not have the "
    "sign of the codes' covariance.",
    source="new; phenomenon: Chanin and Garriga-Alonso 2025, arXiv 2508.16560",
    proof="As H8; what is coded of a_1 and dropped of a_2 are independent and b_2 is the mean of "
    "the latter; both a_2 and b_2 lie in [0, threshold], a_1 above it",
    status="proved",
    kind="exact",
    paper_label="eq:threshold-mixing",
    strategy=selected,
    compare=compare,
    mutants=(
        Mutant(
            "without-a-bias",
            "Independent features are not mixed without a decoder bias",
            without_a_bias,
            partial(selected, independent=True),
        ),
        Mutant("never-mixed", "Features are never mixed", no_gain),
        Mutant(
            "independent-never",
            "Independent features are never mixed, silent or not where they are not coded",
            no_gain,
            partial(selected, independent=True, close=True),
        ),
        Mutant(
            "sign-of-the-covariance",
            "The turn has the sign of the codes' covariance",
            sign_of_covariance,
        ),
    ),
)
