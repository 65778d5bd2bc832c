"""Attacks on many claims and their mutants, in several processes, as plain data and as text."""

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from theory import checks
from theory.claims._claim import TOLERANCE, Claim, Comparison
from theory.claims._engine import CheckResult, check
from theory.claims._find import find_claim
from theory.claims._trained import OverWorlds, effect_entry, judge_worlds, stored_effects
from theory.claims._tree import comparison_entry


@dataclass(frozen=True)
class Attack:
    """What became of a claim and its mutants: plain data, which another process can send.

    passed: the claim passed and each mutant was refuted; None for a trained claim some of whose
        worlds are not in the store, which has an empty entry.   entry: of the ledger.
    text: to print.   seconds: of processor, for the claim with its mutants.
    """

    key: str
    passed: bool | None
    entry: dict[str, Any]
    text: str
    seconds: float


def attack(
    claim: Claim, *, examples: int, seed: int, progress: Callable[[int], None] | None = None
) -> Attack:
    """Returns the result of `check` on a claim and, without shrinking, on each of its mutants.

    A trained claim is judged by its stored worlds, and trains none: see `train_worlds`.
    """
    if claim.kind == "trained":
        return _attack_trained(claim)
    result = check(claim, examples=examples, seed=seed, progress=progress)
    mutants = {
        m.name: check(claim.variant(m), examples=examples, seed=seed, shrink=False)
        for m in claim.mutants
    }
    seconds = result.seconds + sum(mutant.seconds for mutant in mutants.values())
    refuted = {name: mutant.passed for name, mutant in mutants.items()}
    passed = result.passed and all(refuted.values())
    lines = [_summary(result, refuted, passed, seconds)]
    lines += _advice(claim, result.passed, refuted, f"raise --examples ({examples} here)")
    if result.nearest is not None:
        lines.append(f"     nearest: {in_words(result.nearest)}")
    if result.counterexample and not result.passed:
        lines.append(str(result.counterexample))
    return Attack(claim.key, passed, _entry(claim, result, mutants), "\n".join(lines), seconds)


def attacks(
    claims: Sequence[Claim],
    *,
    examples: int,
    seed: int,
    jobs: int,
    progress: Callable[[str, int], None] | None = None,
) -> Iterator[Attack]:
    """Yields the attack on each claim, in order; the results do not depend on `jobs`.

    Args:
        claims: those of theory.claims, which other processes find again by their keys, if jobs > 1.
        jobs: processes, >= 1; with one, or one claim, everything happens in this process.
        progress: called with a claim's key and the number of instances tried; in this process only.
    """
    checks.check(jobs >= 1, "check", "jobs >= 1", jobs=jobs)
    if min(jobs, len(claims)) <= 1:
        for claim in claims:
            told = partial(progress, claim.key) if progress else None
            yield attack(claim, examples=examples, seed=seed, progress=told)
        return
    # Forking a process that has run torch may hang: the workers start afresh.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(claims)), context, _one_thread) as workers:
        run = partial(_attack_by_key, examples=examples, seed=seed)
        yield from workers.map(run, [claim.key for claim in claims])


def in_words(comparison: Comparison) -> str:
    """Returns a comparison and its margin in one line; "attained" if only rounding is left."""
    if isinstance(comparison, OverWorlds):
        return comparison.in_words()
    c = comparison
    text = f"{c.label}: {c.measured:.6g} {c.relation} {c.expected:.6g}, margin {c.margin:.3g}"
    attained = c.relation == "<=" and 0 <= c.margin <= 2 * TOLERANCE
    return f"{text} (attained)" if attained else text


def _attack_trained(claim: Claim) -> Attack:
    start, effects = time.process_time(), stored_effects(claim)
    if effects is None:
        text = f"{claim.key:4} not run: python -m theory check {claim.key}"
        return Attack(claim.key, None, {}, text, 0.0)
    verdict = judge_worlds(claim, effects)
    refuted = {m.name: judge_worlds(claim.variant(m), effects).passed for m in claim.mutants}
    ordered = sorted(verdict.comparisons, key=lambda c: (not math.isnan(c.margin), c.margin))
    passed = verdict.passed and all(refuted.values())
    n, worst = len(claim.worlds), verdict.worst_margin
    counts = f"{n} worlds, worst margin {worst:.3g}"
    lines = [f"{claim.key:4} {'ok  ' if passed else 'FAIL'} {counts}{_fallen(refuted)}"]
    lines += _advice(claim, verdict.passed, refuted, f"add worlds ({n} here)")
    lines += [f"     {c.in_words()}" for c in verdict.comparisons]
    entry = {
        "passed": verdict.passed,
        "examples": n,
        "void": 0,
        "worst_margin": worst if math.isfinite(worst) else None,
        "nearest": comparison_entry(ordered[0]),
        "closest": [comparison_entry(c) for c in ordered],
        **_about(claim),
        "mutants": refuted,
        "examples_to_refute": {name: n if fell else None for name, fell in refuted.items()},
        "effects": [effect_entry(c) for c in verdict.comparisons],
    }
    return Attack(claim.key, passed, entry, "\n".join(lines), time.process_time() - start)


def _attack_by_key(key: str, examples: int, seed: int) -> Attack:
    return attack(find_claim(key), examples=examples, seed=seed)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _summary(result: CheckResult, refuted: dict[str, bool], passed: bool, seconds: float) -> str:
    verdict = "ok  " if passed else "FAIL"
    if result.counterexample is None and 2 * result.n_void > result.n_examples:
        verdict += " (more than half void)"
    counts = f"{result.n_examples} instances, {result.n_void} void"
    line = f"{result.key:4} {verdict} {counts}, worst margin {result.worst_margin:.3g}"
    return f"{line}{_fallen(refuted)} ({seconds:.1f} s)"


def _advice(claim: Claim, passed: bool, refuted: dict[str, bool], todo: str) -> list[str]:
    """Returns a line on what to do if a mutant, or a claim of status "refuted", survived."""
    survived = not all(refuted.values()) or (claim.status == "refuted" and not passed)
    return [f"     {todo}: what survives many more may be true"] if survived else []


def _fallen(refuted: dict[str, bool]) -> str:
    if not refuted:
        return ""
    survivors = [name for name, fell in refuted.items() if not fell]
    text = f", {len(refuted) - len(survivors)}/{len(refuted)} mutants refuted"
    return text + (f"; SURVIVED: {', '.join(survivors)}" if survivors else "")


def _about(claim: Claim) -> dict[str, Any]:
    names = ("status", "kind", "paper_label", "statement")
    return {name: getattr(claim, name) for name in names}


def _entry(claim: Claim, result: CheckResult, mutants: dict[str, CheckResult]) -> dict[str, Any]:
    worst = result.worst_margin
    return {
        "passed": result.passed,
        "examples": result.n_examples,
        "void": result.n_void,
        "worst_margin": worst if math.isfinite(worst) else None,
        "nearest": comparison_entry(result.nearest),
        "closest": [comparison_entry(c) for c in result.closest],
        **_about(claim),
        "mutants": {name: mutant.passed for name, mutant in mutants.items()},
        "examples_to_refute": {
            name: mutant.n_examples if mutant.passed else None for name, mutant in mutants.items()
        },
    }
