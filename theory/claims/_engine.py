"""The search for counterexamples, and what an attack on a claim found."""

import contextlib
import importlib
import math
import pkgutil
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from types import ModuleType
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity
from torch import Tensor

from theory import checks
from theory.claims._claim import Claim, Comparisons, Noise, least

RETEST_FACTOR = 10  # a sampled candidate must fail again on this many times the samples
_MAX_PRINTED = 36  # entries of a tensor that a counterexample still prints


@dataclass(frozen=True)
class Counterexample:
    """An instance on which a claim fails, and the comparisons evaluated there."""

    key: str
    instance: Any
    comparisons: Comparisons
    margin: float

    def __str__(self) -> str:
        lines = [f"{self.key} fails (margin {self.margin:.3g}) on", f"  {describe(self.instance)}"]
        for c in self.comparisons:
            if not c.margin >= 0:
                claimed = f"claimed {c.relation} {c.expected:.6g}"
                lines.append(f"  {c.label}: measured {c.measured:.6g}, {claimed}")
        return "\n".join(lines)


@dataclass(frozen=True)
class CheckResult:
    """What an attack found.

    passed: no counterexample and at most half of the instances void; for status "refuted", a
        counterexample.
    n_examples, n_void: instances tried before the first counterexample, and those skipped.
    worst_margin: the least margin seen (dimensionless); inf if nothing was evaluated.
    counterexample: the smallest that shrinking found, or None.
    """

    key: str
    passed: bool
    n_examples: int
    n_void: int
    worst_margin: float
    counterexample: Counterexample | None
    seconds: float


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
    checks.check(examples >= 1, "check", "examples >= 1", examples=examples)
    checks.check(seed >= 0, "check", "seed >= 0", seed=seed)
    found: Counterexample | None = None
    n_examples = n_void = 0
    worst = math.inf
    start = time.perf_counter()
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
    @hypothesis.given(claim.strategy())
    def attempt(instance: Any) -> None:
        nonlocal found, n_examples, n_void, worst
        comparisons = _evaluate(claim, instance)
        margin = least(comparisons)
        if found is None:
            n_examples += 1
            n_void += not comparisons
            worst = margin if not margin >= worst else worst
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

    with warnings.catch_warnings(), contextlib.suppress(_Violated):
        # Under pytest beartype looks at a random element of each tuple that a strategy handles.
        warnings.filterwarnings("ignore", "Do not use the `random` module inside strategies")
        attempt()
    if claim.status == "refuted":
        passed = found is not None
    else:
        passed = found is None and 2 * n_void <= n_examples
    seconds = time.perf_counter() - start
    return CheckResult(claim.key, passed, n_examples, n_void, worst, found, seconds)


def falsify(claim: Claim, *, examples: int = 1000, seed: int = 0) -> Counterexample | None:
    """Returns the smallest counterexample that search and shrinking find, or None."""
    return check(claim, examples=examples, seed=seed).counterexample


def all_claims(package: ModuleType | None = None) -> tuple[Claim, ...]:
    """Returns the CLAIM of every file of the folder, by file name; a new file needs no other edit.

    Args:
        package: where to look; None is theory.claims. Files that begin with "_" are helpers.
    """
    package = package or importlib.import_module("theory.claims")
    names = sorted(i.name for i in pkgutil.iter_modules(package.__path__) if i.name[0] != "_")
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    without = [m.__name__ for m in modules if not isinstance(getattr(m, "CLAIM", None), Claim)]
    todo = "define CLAIM = Claim(...), or begin the file's name with _"
    checks.check(not without, "all_claims", "a CLAIM in every file", todo, without=without)
    return tuple(module.CLAIM for module in modules)


def find_claim(name: str, package: ModuleType | None = None) -> Claim:
    """Returns the claim "KEY", or the mutant "KEY/name" as a claim of status "refuted".

    Raises: ValueError: an unknown name; the message lists the known ones.
    """
    claims = all_claims(package)
    known = {c.key: c for c in claims} | {
        variant.key: variant for c in claims for variant in map(c.variant, c.mutants)
    }
    checks.check(name in known, "find_claim", f"one of {', '.join(known)}", name=name)
    return known[name]


def describe(value: Any) -> str:
    """Returns a readable text of an instance: numbers rounded, tensors as lists, large ones not."""
    if isinstance(value, Tensor):
        shape = tuple(value.shape)
        rounded = [describe(v) for v in value.tolist()] if value.ndim else [describe(value.item())]
        return f"[{', '.join(rounded)}]" if value.numel() <= _MAX_PRINTED else f"tensor{shape}"
    if is_dataclass(value) and not isinstance(value, type):
        inside = [f"{f.name}={describe(getattr(value, f.name))}" for f in fields(value)]
        return f"{type(value).__name__}({', '.join(inside)})"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(describe, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


class _Violated(Exception):
    """Raised inside the search where a claim fails."""


def _evaluate(claim: Claim, instance: Any) -> Comparisons:
    comparisons = claim.comparisons(instance)
    if claim.kind == "sampled" and not least(comparisons) >= 0:
        retest = Noise("retest", RETEST_FACTOR * claim.n_samples)
        comparisons = claim.comparisons(instance, retest)
    return comparisons
