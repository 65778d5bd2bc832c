"""What a claim is: an executable proposition, its comparisons, and its false variants."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from hypothesis.strategies import SearchStrategy

from theory import checks
from toymodels import stream

TOLERANCE = 1e-9  # rounding of float64 arithmetic at toy sizes, relative to a comparison's scale
ALPHA = 1e-10  # false-alarm probability of one sampled comparison
LEAST_WORLDS = 8  # of a trained claim
_LEAST_SCALE = 1e-290  # below it products of subnormal numbers lose their relative precision


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


Status = Literal["proved", "conjecture", "refuted"]
Kind = Literal["exact", "sampled", "trained"]
Comparisons = tuple[Comparison, ...]
VOID: Comparisons = ()  # what `compare` returns where the claim's bound says nothing


def at_most(
    label: str,
    measured: float,
    bound: float,
    *,
    scale: float | int = 1.0,
    radius: float | None = None,
) -> Comparison:
    """Returns measured <= bound, with margin (bound - measured + slack) / scale.

    slack: `radius`, a confidence radius at level ALPHA, or TOLERANCE * scale for exact numbers.
    A smaller scale than 1e-290 (a world of zeros or subnormal numbers) counts as 1e-290.
    """
    measured, bound, scale = float(measured), float(bound), max(float(scale), _LEAST_SCALE)
    slack = TOLERANCE if radius is None else float(radius) / scale
    return Comparison(label, measured, "<=", bound, (bound - measured) / scale + slack)


def equal(label: str, measured: float, expected: float, *, scale: float | int = 1.0) -> Comparison:
    """Returns measured = expected, with margin TOLERANCE - |measured - expected| / scale."""
    measured, expected = float(measured), float(expected)  # numpy's are not plain numbers
    gap = abs(measured - expected) / max(float(scale), _LEAST_SCALE)
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
    compare: as the claim's.   strategy: of its own instances; None is the claim's. A mutant of a
        trained claim has none: it compares the effects of the same worlds.
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
        `compare(instance, noise)`, and adds a confidence radius at level ALPHA; "trained" trains
        on a few fresh worlds, `compare(effects)`, and speaks of their average: never "proved".
    paper_label: the equation it makes executable.
    strategy: returns a Hypothesis strategy of instances (small frozen dataclasses); None if
        trained.
    compare: evaluates every inequality of the claim on an instance; VOID where it says nothing.
        The labels of one evaluation are distinct.
    mutants: false variants, one or more, of distinct names.
    n_samples: samples per evaluation, for sampled claims.
    run, worlds: of trained claims; `run(world)` at module level trains and returns effects by name,
        arrays of one number, for each of at least LEAST_WORLDS frozen dataclasses with a `seed`.
    """

    key: str
    statement: str
    source: str
    proof: str
    status: Status
    kind: Kind
    paper_label: str
    strategy: Callable[[], SearchStrategy] | None
    compare: Callable[..., Comparisons]
    mutants: tuple[Mutant, ...] = ()
    n_samples: int = 0
    run: Callable[[Any], dict[str, np.ndarray]] | None = None
    worlds: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        for name, known in (("status", get_args(Status)), ("kind", get_args(Kind))):
            value, rule = getattr(self, name), f"a {name} of {', '.join(known)}"
            todo = "the docstring of Claim says what each means"
            checks.check(value in known, self.key, rule, todo, **{name: value})
        names = [mutant.name for mutant in self.mutants]
        rule = "one mutant or more, of distinct names"
        todo = "give it false variants, which the search must refute"
        is_mutant = "/" in self.key  # which has none of its own
        enough = is_mutant or 0 < len(names) == len(set(names))
        checks.check(enough, self.key, rule, todo, mutants=names)
        draws = self.kind == "sampled"
        rule = "n_samples >= 1 for a sampled claim, 0 for an exact one"
        checks.check(draws == (self.n_samples > 0), self.key, rule, n_samples=self.n_samples)
        trains = self.kind == "trained"
        rule = "a strategy, and no run and no worlds, unless it is a trained claim"
        has = (self.strategy is not None, self.run is not None, len(self.worlds) > 0)
        checks.check(has == (not trains, trains, trains), self.key, rule, has=has)
        if trains:
            self._check_trained()

    def comparisons(self, instance: Any, noise: Noise | None = None) -> Comparisons:
        """Returns every comparison on this instance; () where the bound is void.

        instance: the effects of the worlds, of a trained claim.
        noise: of a sampled claim; None is the noise that the search uses.
        """
        if self.kind != "sampled":
            return self.compare(instance)
        return self.compare(instance, noise or Noise("search", self.n_samples))

    def margin(self, instance: Any, noise: Noise | None = None) -> float:
        """Returns the least margin: dimensionless, >= 0 where the claim holds, inf where void."""
        return least(self.comparisons(instance, noise))

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

    def _check_trained(self) -> None:
        rule, todo = "a status other than proved for a trained claim", "training proves nothing"
        checks.check(self.status != "proved", self.key, rule, todo, status=self.status)
        seeds = [getattr(world, "seed", None) for world in self.worlds]
        enough = len(set(seeds)) == len(seeds) >= LEAST_WORLDS and None not in seeds
        rule = f"{LEAST_WORLDS} worlds or more, each with a seed of its own"
        checks.check(enough, self.key, rule, seeds=seeds)
        drawn = [mutant.name for mutant in self.mutants if mutant.strategy]
        rule = "mutants of a trained claim without a strategy"
        checks.check(not drawn, self.key, rule, with_strategy=drawn)


def least(comparisons: Comparisons) -> float:
    """Returns the least margin; NaN if any is NaN, inf if there is none."""
    margins = [c.margin for c in comparisons]
    return math.nan if any(map(math.isnan, margins)) else min(margins, default=math.inf)
