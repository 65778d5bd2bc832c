"""H8: an SAE with too few active latents beats the truth, correlated features or not."""

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Bool, Float
from torch import Tensor

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal


@dataclass(frozen=True)
class Limited:
    """Codes of a few orthonormal features, of which k may be active in a sample.

    outcomes: (weight, a_1, ..., a_n), magnitudes >= 0 and how often they occur together.
    """

    outcomes: tuple[tuple[float, ...], ...]
    k: int

    def probs(self) -> Float[Tensor, " outcomes"]:
        weights = torch.tensor([o[0] for o in self.outcomes], dtype=torch.float64)
        return weights / weights.sum()

    def codes(self) -> Float[Tensor, "outcomes n"]:
        return torch.tensor([o[1:] for o in self.outcomes], dtype=torch.float64)

    def kept(self) -> Bool[Tensor, "outcomes n"]:
        """Returns which features the truth codes: the k largest, of equal ones the first."""
        codes = self.codes()
        largest = codes.argsort(dim=1, descending=True, stable=True)[:, : self.k]
        kept = torch.zeros_like(codes, dtype=torch.bool).scatter_(1, largest, True)
        return kept & (codes > 0)

    def mean(self, values: Tensor) -> float:
        return float(self.probs() @ values)


@dataclass(frozen=True)
class Tilt:
    """The latent of one feature tilted towards another: by which angle, and what it gains.

    cross: A = E[a_i a_j; i coded, j dropped], where other samples count 0.
    rest: B = E[a_j^2; i coded, j dropped] - E[a_i^2; i coded]; never positive.
    """

    first: int
    second: int
    cross: float
    rest: float

    @property
    def angle(self) -> float:
        return 0.5 * math.atan2(2 * self.cross, -self.rest)

    @property
    def gain(self) -> float:
        """Returns max over t of A sin 2t + B sin^2 t = sqrt(A^2 + B^2/4) + B/2."""
        return math.hypot(self.cross, self.rest / 2) + self.rest / 2


def best_tilt(law: Limited) -> Tilt:
    """Returns the tilt of one latent towards one other feature that gains most."""
    codes, kept = law.codes(), law.kept()
    tilts = []
    for i, j in itertools.permutations(range(codes.shape[1]), 2):
        coded, alone = kept[:, i].double(), (kept[:, i] & ~kept[:, j]).double()
        a, b = codes[:, i], codes[:, j]
        rest = law.mean(alone * b**2) - law.mean(coded * a**2)
        tilts.append(Tilt(i, j, law.mean(alone * a * b), rest))
    return max(tilts, key=lambda tilt: tilt.gain)


def tilted_rows(n: int, tilt: Tilt) -> Float[Tensor, "n n"]:
    """Returns orthonormal rows, row i turned by the tilt's angle towards row j."""
    rows = torch.eye(n, dtype=torch.float64)
    rows[tilt.first, tilt.first] = math.cos(tilt.angle)
    rows[tilt.first, tilt.second] = math.sin(tilt.angle)
    return rows


def loss(law: Limited, rows: Float[Tensor, "n n"]) -> float:
    """Returns the mean squared error of the best non-negative codes of at most k latents.

    On its active latents such a code is the least-squares one, so all sets of at most k latents
    are tried, and those whose least-squares code is negative somewhere left out.
    """
    codes = law.codes()
    best = codes.square().sum(1)
    for size in range(1, law.k + 1):
        for support in itertools.combinations(range(len(rows)), size):
            chosen = rows[list(support)]
            found = codes @ torch.linalg.pinv(chosen)
            error = (codes - found @ chosen).square().sum(1)
            best = torch.where((found >= -1e-12).all(1), torch.minimum(best, error), best)
    return law.mean(best)


@st.composite
def limited(draw: Any, *, independent: bool = False, exclusive: bool = False) -> Limited:
    """Two or three features, binary or not, up to five outcomes and k below their number.

    independent: binary features that fire independently.   exclusive: at most k fire together.
    """
    n = draw(st.integers(2, 3))
    k = draw(st.integers(1, n - 1))
    scales = [draw(st.sampled_from([1.0, 2.0]) | st.floats(0.1, 3)) for _ in range(n)]
    if independent:
        odds = [(draw(st.integers(1, 9)), draw(st.integers(1, 9))) for _ in range(n)]
        outcomes = []
        for fires in itertools.product((0, 1), repeat=n):
            weight = math.prod(odds[i][on] for i, on in enumerate(fires))
            magnitudes = (scale * on for scale, on in zip(scales, fires, strict=True))
            outcomes.append((float(weight), *magnitudes))
        return Limited(tuple(outcomes), k)
    magnitude = st.sampled_from([0.0, 1.0]) | st.floats(0.1, 3)
    codes = st.tuples(*[magnitude] * n).filter(any)
    if exclusive:
        codes = codes.filter(lambda code: sum(a > 0 for a in code) <= k)
    outcome = st.tuples(st.integers(1, 9).map(float), codes).map(lambda o: (o[0], *o[1]))
    return Limited(tuple(draw(st.lists(outcome, min_size=1, max_size=5))), k)


def any_law() -> st.SearchStrategy[Limited]:
    return st.one_of(limited(), limited(independent=True), limited(exclusive=True))


def compare(law: Limited) -> Comparisons:
    codes, n = law.codes(), law.codes().shape[1]
    scale = float(codes.square().sum(1).max())
    dropped = law.mean((codes * ~law.kept()).square().sum(1))
    truth, tilt = loss(law, torch.eye(n, dtype=torch.float64)), best_tilt(law)
    crowded = law.mean(((codes > 0).sum(1) > law.k).double())
    results = [equal("loss of the truth: what it drops", truth, dropped, scale=scale)]
    if crowded == 0:
        results.append(equal("never more than k: the truth is exact", truth, 0.0, scale=scale))
        return tuple(results)
    mixed = loss(law, tilted_rows(n, tilt))
    least = tilt.cross**2 / (tilt.cross + abs(tilt.rest))
    return (
        *results,
        at_most("loss of the mixture, against truth - gain", mixed, truth - tilt.gain, scale=scale),
        at_most("A^2 / (A + |B|), against the gain", least, tilt.gain, scale=scale),
        at_most("0, against the tilt's angle", 0.0, tilt.angle),
    )


def truth_is_best(law: Limited) -> Comparisons:
    n = law.codes().shape[1]
    scale = float(law.codes().square().sum(1).max())
    mixed = loss(law, tilted_rows(n, best_tilt(law)))
    truth = loss(law, torch.eye(n, dtype=torch.float64))
    return (at_most("loss of the truth, against a mixture", truth, mixed, scale=scale),)


def above_the_mean(law: Limited) -> Comparisons:
    mean_l0 = law.mean((law.codes() > 0).double().sum(1))
    return truth_is_best(law) if law.k >= mean_l0 else VOID


def sign_of_covariance(law: Limited) -> Comparisons:
    """Whether the best tilt leans away from a feature that fires less often with its own."""
    tilt, codes, probs = best_tilt(law), law.codes(), law.probs()
    a, b = codes[:, tilt.first], codes[:, tilt.second]
    covariance = float(probs @ (a * b) - (probs @ a) * (probs @ b))
    if tilt.cross <= 0:
        return VOID
    label = "0, against the tilt times the covariance"
    return (at_most(label, 0.0, tilt.angle * covariance),)


CLAIM = Claim(
    key="H8",
    statement="With too few active latents a mixture beats the truth\n"
    "Orthonormal features, non-negative codes, k active latents per sample, no decoder bias. If "
    "never more than k features fire the truth is exact; else turning one latent i towards a "
    "feature j lowers the loss by at least sqrt(A^2 + B^2/4) + B/2 >= A^2 / (A + |B|) > 0, where "
    "A = E[a_i a_j; i coded, j dropped], other samples counting 0, and B = E[a_j^2; i coded, j "
    "dropped] - E[a_i^2; i coded]. Correlation is not needed, the turn is always towards j, and "
    "k may exceed the mean number of active features.",
    source="Chanin and Garriga-Alonso 2025, arXiv 2508.16560 (correlated features); the condition "
    "is new",
    proof="Where j is dropped the latent keeps (a_i cos t + a_j sin t)^2 in place of a_i^2; where "
    "both are coded the code is exact or, if it would be negative, loses at most a_i^2 sin^2 t",
    status="proved",
    kind="exact",
    paper_label="eq:too-few-active",
    strategy=any_law,
    compare=compare,
    mutants=(
        Mutant(
            "independent-features",
            "The truth is best for independent features",
            truth_is_best,
            partial(limited, independent=True),
        ),
        Mutant(
            "above-the-mean",
            "The truth is best if k is at least the mean number of active features",
            above_the_mean,
            partial(limited, independent=True),
        ),
        Mutant(
            "sign-of-the-covariance",
            "The mixture has the sign of the covariance",
            sign_of_covariance,
        ),
    ),
)
