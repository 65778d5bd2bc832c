"""The search for counterexamples: claims, mutants, and what an attack on them found."""

import contextlib
import importlib
import math
import pkgutil
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from types import ModuleType
from typing import Any, Literal

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from theory import checks
from toymodels import stream

TOLERANCE = 1e-9  # rounding of float64 arithmetic at toy sizes, relative to a comparison's scale
ALPHA = 1e-10  # false-alarm probability of one sampled comparison
RETEST_FACTOR = 10  # a sampled candidate must fail again on this many times the samples
_LEAST_SCALE = 1e-290  # below it products of subnormal numbers lose their relative precision
_MAX_PRINTED = 36  # entries of a tensor that a counterexample still prints


@dataclass(frozen=True)
class Comparison:
    """One inequality or equality of a claim, evaluated: `measured` `relation` `expected`.

    margin: dimensionless; >= 0 where it holds, NaN (a failure) where it could not be computed.
    """

    label: str
    measured: float
    relation: Literal["<=", "="]
    expected: float
    margin: float


Comparisons = tuple[Comparison, ...]
VOID: Comparisons = ()  # what `compare` returns where the claim's bound says nothing


def at_most(
    label: str, measured: float, bound: float, *, scale: float = 1.0, radius: float | None = None
) -> Comparison:
    """Returns measured <= bound, with margin (bound - measured + slack) / scale.

    slack: `radius`, a confidence radius at level ALPHA, or TOLERANCE * scale for exact numbers.
    A smaller scale than 1e-290 (a world of zeros or subnormal numbers) counts as 1e-290.
    """
    scale = max(scale, _LEAST_SCALE)
    slack = TOLERANCE if radius is None else radius / scale
    return Comparison(label, measured, "<=", bound, (bound - measured) / scale + slack)


def equal(label: str, measured: float, expected: float, *, scale: float = 1.0) -> Comparison:
    """Returns measured = expected, with margin TOLERANCE - |measured - expected| / scale."""
    gap = abs(measured - expected) / max(scale, _LEAST_SCALE)
    return Comparison(label, measured, "=", expected, TOLERANCE - gap)


@dataclass(frozen=True)
class Noise:
    """The randomness of one evaluation of a sampled claim: a stream's name and a sample size."""

    name: str
    n_samples: int

    def generator(self, seed: int) -> torch.Generator:
        """Returns the generator of this noise in world `seed`."""
        return stream(seed, self.name)


@dataclass(frozen=True)
class Mutant:
    """A false variant of a claim, which the same search must refute.

    name: joined to the claim's key by a slash.   falsehood: what it wrongly says.
    compare: as the claim's.   strategy: of its own instances; None is the claim's.
    """

    name: str
    falsehood: str
    compare: Callable[..., Comparisons]
    strategy: Callable[[], SearchStrategy] | None = None


@dataclass(frozen=True)
class Claim:
    """An executable proposition.

    key: e.g. "A1".   statement: what it says; the first line is its title.
    source: who stated it, "new" where we saw it nowhere.   proof: the argument in a few words.
    status: a "refuted" claim is kept because it is false: its check passes if it is refuted.
    kind: "exact" compares closed forms in float64, `compare(instance)`; "sampled" draws noise,
        `compare(instance, noise)`, and adds a confidence radius at level ALPHA.
    paper_label: the equation it makes executable.
    strategy: returns a Hypothesis strategy of instances (small frozen dataclasses).
    compare: evaluates every inequality of the claim on an instance; VOID where it says nothing.
        The labels of one evaluation are distinct.
    mutants: false variants.   n_samples: samples per evaluation, for sampled claims.
    """

    key: str
    statement: str
    source: str
    proof: str
    status: Literal["proved", "conjecture", "refuted"]
    kind: Literal["exact", "sampled"]
    paper_label: str
    strategy: Callable[[], SearchStrategy]
    compare: Callable[..., Comparisons]
    mutants: tuple[Mutant, ...] = ()
    n_samples: int = 0

    def __post_init__(self) -> None:
        draws = self.kind == "sampled"
        rule = "n_samples >= 1 for a sampled claim, 0 for an exact one"
        checks.check(draws == (self.n_samples > 0), self.key, rule, n_samples=self.n_samples)

    def comparisons(self, instance: Any, noise: Noise | None = None) -> Comparisons:
        """Returns every comparison on this instance; () where the bound is void.

        noise: of a sampled claim; None is the noise that the search uses.
        """
        if self.kind == "exact":
            return self.compare(instance)
        return self.compare(instance, noise or Noise("search", self.n_samples))

    def margin(self, instance: Any, noise: Noise | None = None) -> float:
        """Returns the least margin: dimensionless, >= 0 where the claim holds, inf where void."""
        return _least(self.comparisons(instance, noise))

    def variant(self, mutant: Mutant) -> "Claim":
        """Returns the mutant as a claim of its own, "KEY/name", with status "refuted"."""
        return replace(
            self,
            key=f"{self.key}/{mutant.name}",
            statement=mutant.falsehood,
            status="refuted",
            strategy=mutant.strategy or self.strategy,
            compare=mutant.compare,
            mutants=(),
        )


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
        margin = _least(comparisons)
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
    if claim.kind == "sampled" and not _least(comparisons) >= 0:
        retest = Noise("retest", RETEST_FACTOR * claim.n_samples)
        comparisons = claim.comparisons(instance, retest)
    return comparisons


def _least(comparisons: Comparisons) -> float:
    margins = [c.margin for c in comparisons]
    return math.nan if any(map(math.isnan, margins)) else min(margins, default=math.inf)
