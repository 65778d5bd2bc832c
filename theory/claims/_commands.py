"""The commands of `python -m theory` that are about claims; each returns its exit code."""

import itertools
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from sae.durable import write_whole
from theory.checks import check as require
from theory.claims._attack import attacks, in_words
from theory.claims._claim import Claim
from theory.claims._engine import check
from theory.claims._find import all_claims, find_claim
from theory.claims._output import OutputFile, check_writable
from theory.claims._pins import pin
from theory.claims._replay import replay, replay_entry, search_entry, versions
from theory.claims._replay import save as save_counterexample
from theory.claims._trained import effect_entry, judge_worlds, train_worlds

Flag = tyro.conf.FlagCreatePairsOff


def check_claims(
    keys: tyro.conf.Positional[tuple[str, ...]] = (),
    /,
    every: Annotated[bool, tyro.conf.arg(name="all"), Flag] = False,
    examples: int = 1000,
    seed: int = 0,
    jobs: int = os.cpu_count() or 1,
    ledger: OutputFile = None,
    trained: Annotated[bool, Flag] = False,
    as_json: Annotated[bool, tyro.conf.arg(name="json"), Flag] = False,
) -> int:
    """Attack claims and their mutants; exit 1 if a claim fails or a mutant survives.

    A claim about trained models is judged by the worlds in the store of runs. Named by its key, it
    trains those that are missing (a minute or two); among all claims only with --trained, and is
    else not run, which is neither a pass nor a failure: the ledger leaves it out.

    Args:
        keys: which claims, or mutants such as A1/energies-not-variances; all claims if none.
        every: all claims, as without keys.
        examples: instances to try per claim and per mutant.
        seed: of the search; the default search is always the same.
        jobs: processes to spread the claims over; the results do not depend on it.
        ledger: file to write the results to as JSON, if any; its folder must exist.
        trained: train the missing worlds of every claim about trained models (minutes).
        as_json: print the results as JSON, with the seconds of processor that each claim took.
    """
    require(not (every and keys), "check", "either keys or --all", keys=keys)
    claims = [find_claim(key) for key in keys] if keys else list(all_claims())
    check_writable("check", ledger=ledger)
    for claim in claims:
        if claim.kind == "trained" and (keys or trained):
            require(jobs >= 1, "check", "jobs >= 1", jobs=jobs)
            train_worlds(claim, jobs=jobs, progress=_trained_progress(claim))
            _clear_line()
    found, watched = [], _progress(examples)
    for attack in attacks(claims, examples=examples, seed=seed, jobs=jobs, progress=watched):
        _clear_line()
        found.append(attack)
        if not as_json:
            print(attack.text, flush=True)
    judged = [attack for attack in found if attack.passed is not None]
    if as_json:
        print(_json({a.key: a.entry | {"seconds": round(a.seconds, 2)} for a in judged}))
    if ledger:
        write_whole(ledger, f"{_json({a.key: a.entry for a in judged})}\n".encode())
    return 0 if all(attack.passed for attack in judged) else 1


def falsify_claim(
    name: Annotated[str, tyro.conf.Positional],
    /,
    examples: int = 1000,
    seed: int = 0,
    save: OutputFile = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json"), Flag] = False,
) -> int:
    """Search for the smallest counterexample and print it; exit 0 only if there is one.

    A claim about trained models has none: the effects over its worlds are printed, and the exit
    code is 0 if they refute it. No file can be saved of them.

    Args:
        name: a claim, or a mutant such as A1/energies-not-variances.
        examples: instances to try.
        seed: of the search; the default search is always the same.
        save: file for the counterexample, which `replay` reads; its folder must exist.
        as_json: print what was found, or how near the search came, as JSON.
    """
    claim = find_claim(name)
    if claim.kind == "trained":
        rule = "an exact or sampled claim for --save"
        require(save is None, "check", rule, "the store keeps the worlds", kind=claim.kind)
        return _falsify_trained(claim, as_json)
    check_writable("falsify", save=save)
    watched = _progress(examples)
    told = partial(watched, claim.key) if watched else None
    result = check(claim, examples=examples, seed=seed, progress=told)
    _clear_line()
    counterexample = result.counterexample
    if as_json:
        print(_json(search_entry(claim, result)))
    elif counterexample is None:
        print(f"{claim.key}: no counterexample among {examples} instances (seed {seed})")
        print(f"     nearest: {in_words(result.nearest)}" if result.nearest else "     all void")
    else:
        print(claim.statement)
        print(counterexample)
    if counterexample and save:
        save_counterexample(counterexample, save)
        print(f"saved in {save}", file=sys.stderr if as_json else sys.stdout)
    return 1 if counterexample is None else 0


def replay_file(
    path: Annotated[Path, tyro.conf.Positional],
    /,
    as_json: Annotated[bool, tyro.conf.arg(name="json"), Flag] = False,
) -> int:
    """Evaluate a saved counterexample again; exit 0 if it still refutes its claim, 1 if not.

    Exit 2 if the file cannot be read: foreign, of another format, with an unknown claim or class.

    Args:
        path: what `falsify --save` wrote.
        as_json: print the comparisons, the margins then and now, and both versions, as JSON.
    """
    done = replay(path)
    if as_json:
        print(_json(replay_entry(done)))
    elif done.refutes:
        print(find_claim(done.counterexample.key).statement)
        print(done.counterexample)
    else:
        print(f"{done.counterexample.key} holds here (margin {done.margin:.3g}), ", end="")
        print(f"and failed when the file was written (margin {done.saved_margin:.3g})")
        print(f"     written by {done.versions}, replayed by {versions()}")
    return 0 if done.refutes else 1


def pin_counterexamples(
    folder: Annotated[Path, tyro.conf.Positional],
    /,
    examples: int = 1000,
    jobs: int = os.cpu_count() or 1,
) -> int:
    """Save the smallest counterexample to every mutant and refuted claim; exit 1 if one survives.

    Args:
        folder: gets a file for each of them, and loses those of mutants that are no longer there.
        examples: instances to try for each.
        jobs: processes to spread them over; the files do not depend on it.
    """
    survivors = pin(folder, examples=examples, jobs=jobs)
    if survivors:
        print(f"no counterexample among {examples} instances: {', '.join(survivors)}")
    return 1 if survivors else 0


def _falsify_trained(claim: Claim, as_json: bool) -> int:
    verdict = judge_worlds(claim, train_worlds(claim, progress=_trained_progress(claim)))
    _clear_line()
    if as_json:
        about = {"claim": claim.key, "statement": claim.statement, "refuted": verdict.refuted}
        print(_json(about | {"effects": [effect_entry(c) for c in verdict.comparisons]}))
    else:
        print(claim.statement)
        print(f"{claim.key} {'fails' if verdict.refuted else 'is not refuted'}")
        print("\n".join(f"     {in_words(c)}" for c in verdict.comparisons))
    return 0 if verdict.refuted else 1


def _json(tree: object) -> str:
    return json.dumps(tree, indent=2, allow_nan=False)


def _progress(examples: int) -> Callable[[str, int], None] | None:
    """Returns what shows progress, or None where nobody watches (stderr is no terminal)."""
    if not sys.stderr.isatty():
        return None
    return lambda key, n: print(f"\r{key}: {n}/{examples}", end="", file=sys.stderr, flush=True)


def _trained_progress(claim: Claim) -> Callable[[str], None] | None:
    """Returns what counts the worlds of a trained claim, or None where nobody watches."""
    watched = _progress(len(claim.worlds))
    done = itertools.count(1)
    return (lambda where: watched(claim.key, next(done))) if watched else None


def _clear_line() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
