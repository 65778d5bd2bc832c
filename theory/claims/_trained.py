"""Claims about trained models: effects over stored worlds, and what their average says."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import beta, t

from sae.runs import Where, map_runs, run_name
from sae.store import Store, default_root
from theory import checks
from theory.claims._claim import Claim, Comparison
from theory.claims._tree import comparison_entry, to_tree

CONFIDENCE = 0.95  # of every interval, two-sided: each end errs with probability 2.5 %
Effects = dict[str, np.ndarray]  # name -> [n_worlds]


@dataclass(frozen=True)
class OverWorlds(Comparison):
    """A comparison of an average over worlds, taken at the end of its interval hardest to claim.

    claimed: of the average, e.g. "<= 1.3".
    mean, low, high: the average and its interval at level CONFIDENCE.   n_worlds.
    easiest: the margin at the other end. Below 0 not even that end holds: the claim is refuted.
    With `margin` < 0 <= `easiest` the worlds do not decide.
    """

    claimed: str
    mean: float
    low: float
    high: float
    n_worlds: int
    easiest: float

    @property
    def refuted(self) -> bool:
        return self.easiest < 0

    def in_words(self) -> str:
        """Returns the effect, its interval and what was claimed of it, in one line."""
        end = "holds" if self.margin >= 0 else "refuted" if self.refuted else "undecided"
        effect = f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"
        where = f"on average over {self.n_worlds} worlds"
        return f"{self.label}: {effect} {where}, claimed {self.claimed}: {end}"


def mean_at_most(label: str, values: np.ndarray, bound: float, *, scale: float = 1.0) -> OverWorlds:
    """Returns "the mean of an effect is at most `bound`", by its two-sided 95 % t-interval.

    values: [n_worlds], one per world, n_worlds >= 2; the worlds are drawn independently. The
    interval supposes nearly normal means, as t-intervals do. NaN fails and refutes nothing.
    scale: what a margin of 1 is, in the unit of the values.
    """
    mean, low, high = mean_interval(values)
    margins = (bound - high) / scale, (bound - low) / scale
    return OverWorlds(
        label,
        high,
        "<=",
        float(bound),
        margins[0],
        f"<= {bound:.4g}",
        mean,
        low,
        high,
        len(values),
        margins[1],
    )


def mean_at_least(
    label: str, values: np.ndarray, bound: float | int, *, scale: float | int = 1.0
) -> OverWorlds:
    """Returns "the mean of an effect is at least `bound`"; see `mean_at_most`."""
    mean, low, high = mean_interval(values)
    return _at_least(label, (mean, low, high), bound, scale, len(values))


def share_at_least(label: str, holds: np.ndarray, share: float) -> OverWorlds:
    """Returns "it holds in at least this share of all worlds", by an exact binomial interval.

    holds: [n_worlds] of booleans. Clopper-Pearson; all of 8 worlds support a share of .63.
    """
    count, n = int(np.sum(holds)), len(holds)
    low = float(beta.ppf((1 - CONFIDENCE) / 2, count, n - count + 1)) if count else 0.0
    high = float(beta.ppf((1 + CONFIDENCE) / 2, count + 1, n - count)) if count < n else 1.0
    return _at_least(label, (count / n, low, high), share, 1.0, n)


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Returns mean, low and high: mean -+ t_{n-1} s / sqrt(n), t at level CONFIDENCE."""
    n = len(values)
    checks.check(n >= 2, "mean_interval", "two worlds or more", n_worlds=n)
    mean = float(np.mean(values))
    radius = float(t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return mean, mean - radius, mean + radius


def _at_least(
    label: str, effect: tuple[float, float, float], bound: float, scale: float, n_worlds: int
) -> OverWorlds:
    _, low, high = effect
    margins = (low - bound) / scale, (high - bound) / scale
    claimed = f">= {bound:.4g}"
    return OverWorlds(
        label, float(bound), "<=", low, margins[0], claimed, *effect, n_worlds, margins[1]
    )


@dataclass(frozen=True)
class Verdict:
    """What the worlds of a trained claim, or of one of its mutants, say.

    refuted: some comparison fails at either end of its interval.
    passed: refuted if the status is "refuted"; else every comparison holds at its hardest end.
    """

    key: str
    passed: bool
    refuted: bool
    comparisons: tuple[OverWorlds, ...]

    @property
    def worst_margin(self) -> float:
        margins = [c.margin for c in self.comparisons]
        return math.nan if any(map(math.isnan, margins)) else min(margins)


def judge_worlds(claim: Claim, effects: Effects) -> Verdict:
    """Returns what these effects say of a trained claim. Nothing is trained.

    Raises: ValueError: comparisons other than those of this file, or none.
    """
    comparisons = claim.comparisons(effects)
    known = len(comparisons) > 0 and all(isinstance(c, OverWorlds) for c in comparisons)
    rule = "comparisons by mean_at_most, mean_at_least or share_at_least"
    checks.check(known, claim.key, rule, comparisons=len(comparisons))
    found = tuple(c for c in comparisons if isinstance(c, OverWorlds))
    refuted = any(c.refuted for c in found)
    holds = all(c.margin >= 0 for c in found)
    return Verdict(claim.key, refuted if claim.status == "refuted" else holds, refuted, found)


def stored_effects(claim: Claim) -> Effects | None:
    """Returns the effects of all worlds of a trained claim; None if one is not in the store."""
    store, name = Store(default_root()), run_name(_run(claim))
    results = [store.read(name, world, device_type="cpu") for world in claim.worlds]
    arrays = [result for result in results if result is not None]
    return _stacked(claim, arrays) if len(arrays) == len(results) else None


def train_worlds(
    claim: Claim, *, jobs: int = 1, progress: Callable[[Where], None] | None = None
) -> Effects:
    """Returns the effects of all worlds, after computing those that the store lacks.

    As for figures, a stored world is found by its configuration and NUMERICS_VERSION, not by the
    source of `run`.

    Args:
        jobs: processes to spread the missing worlds over; with one everything happens here.
    """
    kind = {"executor": "processes", "n_processes": jobs} if jobs > 1 else {}
    store = Store(default_root())
    options: dict[str, Any] = {"store": store, "device_type": "cpu", "progress": progress} | kind
    return _stacked(claim, map_runs(_run(claim), claim.worlds, **options))


def effect_entry(comparison: OverWorlds) -> dict[str, Any]:
    """Returns a comparison with its effect and interval, as the ledger holds it."""
    c = comparison
    numbers = {"mean": c.mean, "low": c.low, "high": c.high, "easiest": c.easiest}
    plain = {name: to_tree(value) for name, value in numbers.items()}
    return (comparison_entry(c) or {}) | plain | {"n_worlds": c.n_worlds, "words": c.in_words()}


def _run(claim: Claim) -> Callable[[Any], Effects]:
    checks.check(claim.run is not None, claim.key, "a trained claim", kind=claim.kind)
    assert claim.run is not None  # for the type checker
    return claim.run


def _stacked(claim: Claim, results: Sequence[Effects]) -> Effects:
    names = set(results[0])
    same = len(names) > 0 and all(set(result) == names for result in results)
    single = all(value.size == 1 for result in results for value in result.values())
    rule = "the same effects of one number each from every world"
    checks.check(same and single, claim.key, rule, effects=sorted(names))
    return {
        name: np.array([result[name].item() for result in results], dtype=float)
        for name in results[0]
    }
