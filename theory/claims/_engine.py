"""The search for counterexamples, and what an attack on a claim found."""

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

from theory import checks
from theory.claims._claim import Claim, Comparison, Comparisons, Noise, least
from theory.claims._counterexample import Counterexample

RETEST_FACTOR = 10  # a sampled candidate must fail again on this many times the samples


@dataclass(frozen=True)
class CheckResult:
    """What an attack found.

    passed: no counterexample and at most half of the instances void; for status "refuted", a
        counterexample.
    n_examples, n_void: instances tried up to the first counterexample, and those skipped.
    closest: for each label the comparison of least margin met on them, least margin first.
    counterexample: the smallest that shrinking found, or None.
    seconds: of processor.
    """

    key: str
    passed: bool
    n_examples: int
    n_void: int
    closest: Comparisons
    counterexample: Counterexample | None
    seconds: float

    @property
    def worst_margin(self) -> float:
        """The least margin met (dimensionless), NaN first; inf if nothing was evaluated."""
        return self.closest[0].margin if self.closest else math.inf

    @property
    def nearest(self) -> Comparison | None:
        """The comparison that came nearest to failing: an inequality, if the claim has one.

        The margin of an equality that holds is its tolerance, which says nothing of how near.
        """
        bounds = [c for c in self.closest if c.relation == "<="]
        return next(iter(bounds or self.closest), None)


def check(
    claim: Claim,
    *,
    examples: int = 1000,
    seed: int = 0,
    shrink: bool = True,
    progress: Callable[[int], None] | None = None,
) -> CheckResult:
    """Returns the result of attacking `claim` with `examples` instances.

    Hypothesis draws the instances and climbs towards small margins of the inequalities. A failure
    of a sampled claim counts only if it fails again on a fresh stream of RETEST_FACTOR times the
    samples. The result depends on `seed` and `examples` only, `seconds` apart.

    Args:
        examples: instances to try, >= 1.   seed: of the search, >= 0.
        shrink: whether to look for a smaller counterexample.
        progress: called with the number of instances tried so far.
    """
    strategy, todo = claim.strategy, "judge the worlds of a trained one: `judge_worlds`"
    rule = "an exact or sampled claim, which can be searched"
    checks.check(strategy is not None, "check", rule, todo, kind=claim.kind)
    assert strategy is not None  # for the type checker
    checks.check(examples >= 1, "check", "examples >= 1", examples=examples)
    checks.check(seed >= 0, "check", "seed >= 0", seed=seed)
    found: Counterexample | None = None
    n_examples = n_void = 0
    closest: dict[str, Comparison] = {}
    start = time.process_time()
    phases = (Phase.generate, Phase.target) + ((Phase.shrink,) if shrink else ())

    @hypothesis.settings(
        max_examples=examples,
        phases=phases,
        database=None,
        deadline=None,
        derandomize=False,
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=Verbosity.quiet,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @hypothesis.seed(seed)
    @hypothesis.given(strategy())
    def attempt(instance: Any) -> None:
        nonlocal found, n_examples, n_void
        comparisons = evaluate(claim, instance)
        margin = least(comparisons)
        if found is None:
            n_examples += 1
            n_void += not comparisons
            for c in comparisons:
                if c.label not in closest or not c.margin >= closest[c.label].margin:
                    closest[c.label] = c
            if progress:
                progress(n_examples)
        for c in comparisons:
            # The margins of equalities are rounding error: there is nothing to climb.
            if c.relation == "<=" and math.isfinite(c.margin):
                hypothesis.target(-c.margin, label=c.label)
        if not margin >= 0:
            # Hypothesis runs the smallest failure last, so the last one found is the smallest.
            found = Counterexample(claim.key, instance, comparisons, margin)
            raise _Violated

    with _settled_search(), contextlib.suppress(_Violated):
        attempt()
    if claim.status == "refuted":
        passed = found is not None
    else:
        passed = found is None and 2 * n_void <= n_examples
    ordered = sorted(closest.values(), key=lambda c: (not math.isnan(c.margin), c.margin))
    seconds = time.process_time() - start
    return CheckResult(claim.key, passed, n_examples, n_void, tuple(ordered), found, seconds)


def evaluate(claim: Claim, instance: Any) -> Comparisons:
    """Returns the comparisons that the search goes by, () where the claim says nothing.

    Those of a sampled claim that fails are evaluated on a fresh stream of RETEST_FACTOR times the
    samples: only if they fail again does the failure count.
    """
    comparisons = claim.comparisons(instance)
    if claim.kind == "sampled" and not least(comparisons) >= 0:
        retest = Noise("retest", RETEST_FACTOR * claim.n_samples)
        comparisons = claim.comparisons(instance, retest)
    return comparisons


def falsify(claim: Claim, *, examples: int = 1000, seed: int = 0) -> Counterexample | None:
    """Returns the smallest counterexample that search and shrinking find, or None."""
    return check(claim, examples=examples, seed=seed).counterexample


class _Violated(Exception):
    """Raised inside the search where a claim fails."""


@contextlib.contextmanager
def _settled_search() -> Iterator[None]:
    """Keeps from the search what would make it depend on more than its arguments.

    Hypothesis also draws constants that it reads in the source of whatever modules are loaded: an
    edit anywhere, or a test that imports one module more, would make every search another one.
    """
    nothing = Constants()
    inside = {"_get_local_constants": lambda: nothing, "CONSTANTS_CACHE": {}}
    with mock.patch.multiple(providers, create=True, **inside), warnings.catch_warnings():
        # Under pytest beartype looks at a random element of each tuple that a strategy handles.
        warnings.filterwarnings("ignore", "Do not use the `random` module inside strategies")
        yield
