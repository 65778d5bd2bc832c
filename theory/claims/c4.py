"""C4: how many samples show every feature."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from scipy.stats import binom
from torch import Tensor

from theory.certificates import sample_certificate
from theory.claims._claim import Claim, Comparisons, Mutant, at_most, equal
from theory.statistics import expected_unseen, samples_to_see_all


@dataclass(frozen=True)
class Sampling:
    """Features with their firing probabilities, a failure probability, and sightings wanted."""

    firing_probs: tuple[float, ...]
    n_samples: int
    delta: float
    times: int

    def probs(self) -> Float[Tensor, " n_features"]:
        return torch.tensor(self.firing_probs, dtype=torch.float64)


@st.composite
def samplings(draw: Any) -> Sampling:
    """Up to 7 features of probability 1e-4 to 1, up to 60 sightings."""
    n = draw(st.integers(1, 7))
    prob = st.sampled_from([0.5, 0.1, 1.0]) | st.floats(-4, 0).map(lambda t: 10.0**t)
    probs = draw(st.just((draw(prob),) * n) | st.lists(prob, min_size=n, max_size=n).map(tuple))
    delta = draw(st.sampled_from([0.5, 0.1, 0.01, 0.9]))
    return Sampling(probs, draw(st.integers(0, 1000)), delta, draw(st.integers(1, 60)))


def missed_independent(probs: Float[Tensor, " n"], n_samples: int, times: int) -> float:
    """Returns Pr(some feature fires fewer than `times` times), independent features, exactly."""
    seen = binom.sf(times - 1, n_samples, probs.numpy())
    return -math.expm1(float(sum(math.log(s) if s > 0 else -math.inf for s in seen)))


def missed_exclusive(probs: Float[Tensor, " n"], n_samples: int) -> float:
    """Returns Pr(some feature never fires) if at most one fires at a time: inclusion-exclusion."""
    total = 0.0
    for size in range(1, len(probs) + 1):
        for subset in itertools.combinations(probs.tolist(), size):
            total += (-1) ** (size + 1) * max(0.0, 1 - sum(subset)) ** n_samples
    return total


def simulated_unseen(probs: Float[Tensor, " n"], n_samples: int) -> float:
    """Returns the expected number of unseen features by recursion over samples, not by a power."""
    unseen = torch.ones_like(probs)
    for _ in range(n_samples):
        unseen = unseen - probs * unseen
    return float(unseen.sum())


def compare(instance: Sampling) -> Comparisons:
    p, delta, times = instance.probs(), instance.delta, instance.times
    least, n = float(p.min()), len(p)
    once = samples_to_see_all(least, n, delta)
    often = samples_to_see_all(least, n, delta, times=times)
    often_more = samples_to_see_all(least, n, delta, times=max(2, times))
    exclusive = p / max(1.0, float(p.sum()))
    once_exclusive = samples_to_see_all(float(exclusive.min()), n, delta)
    certificate = sample_certificate(p, often, delta, times=times)
    short = Sampling(instance.firing_probs, certificate.needed, delta, times)
    return (
        equal("expected unseen features", expected_unseen(p, instance.n_samples),
              simulated_unseen(p, instance.n_samples), scale=n),
        at_most("missed once, independent features", missed_independent(p, once, 1), delta),
        at_most("missed once, exclusive features", missed_exclusive(exclusive, once_exclusive),
                delta),
        at_most("missed at some time", missed_independent(p, often, times), delta),
        at_most("seen r times at most", missed_independent(p, often_more, times + 1), delta),
        at_most("missed at some time, at the certificate's samples",
                missed_independent(p, short.n_samples, times), delta),
        at_most("certificate's samples, against the closed form", float(certificate.needed),
                float(max(often, times)), scale=often),
        at_most("chance to miss, against its union bound",
                missed_independent(p, often, times), certificate.failure_prob),
    )  # fmt: skip


def no_union(instance: Sampling) -> Comparisons:
    p, delta = instance.probs(), instance.delta
    samples = math.ceil(math.log(1 / delta) / float(p.min()))
    return (at_most("missed once", missed_independent(p, samples, 1), delta),)


def no_factor_two(instance: Sampling) -> Comparisons:
    p, delta, times = instance.probs(), instance.delta, instance.times
    samples = math.ceil((times + math.log(len(p) / delta)) / float(p.min()))
    return (at_most("missed at some time", missed_independent(p, samples, times), delta),)


CLAIM = Claim(
    key="C4",
    statement="Rare features need samples\n"
    "After N independent samples sum_i (1 - p_i)^N features are unseen on average. With "
    "probability at least 1 - delta all are seen once N >= ln(n/delta) / p_min, and all more than "
    "r times once N >= 2 (r + ln(n/delta)) / p_min, whatever the dependence between features.",
    source="folklore (coupon collector; Chernoff)",
    proof="Union bound; Chernoff with (r + 2L)^2 >= 4 L (r + L)",
    status="proved",
    kind="exact",
    paper_label="eq:coupon",
    strategy=samplings,
    compare=compare,
    mutants=(
        Mutant("no-union", "ln(1/delta) / p_min samples show every feature", no_union),
        Mutant(
            "no-factor-two",
            "(r + ln(n/delta)) / p_min samples show every feature r times",
            no_factor_two,
        ),
    ),
)
