"""The command line: python -m theory list | check | falsify (claims) | judge (an SAE)."""

import inspect
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import tyro

from sae import load_any
from theory.checks import check as require
from theory.claims import CheckResult, Claim, all_claims, check, find_claim
from theory.judge import judge
from toymodels import ToyModel, presets, stream

app = tyro.extras.SubcommandApp()


@app.command(name="list")
def list_claims() -> int:
    """List the claims: key, status, kind, paper label, title, and their mutants."""
    for claim in all_claims():
        title = claim.statement.splitlines()[0]
        print(f"{claim.key:4} {claim.status:10} {claim.kind:8} {claim.paper_label:20} {title}")
        for mutant in claim.mutants:
            print(f"     {claim.key}/{mutant.name}: {mutant.falsehood}")
    return 0


@app.command(name="check")
def check_claims(
    keys: tyro.conf.Positional[tuple[str, ...]] = (),
    /,
    examples: int = 1000,
    seed: int = 0,
    ledger: Path | None = None,
) -> int:
    """Attack claims and their mutants; exit 1 if a claim fails or a mutant survives.

    Args:
        keys: which claims, or mutants such as A1/energies-not-variances; all claims if none.
        examples: instances to try per claim and per mutant.
        seed: of the search; the default search is always the same.
        ledger: where to write the results as JSON, if anywhere.
    """
    claims = [find_claim(key) for key in keys] if keys else list(all_claims())
    entries, all_passed = {}, True
    for claim in claims:
        result = check(claim, examples=examples, seed=seed, progress=_progress(claim, examples))
        _clear_line()
        refuted = {m.name: _is_refuted(claim.variant(m), examples, seed) for m in claim.mutants}
        print(_summary(result, refuted))
        if result.counterexample and not result.passed:
            print(result.counterexample)
        all_passed &= result.passed and all(refuted.values())
        entries[claim.key] = _entry(claim, result, refuted)
    if ledger:
        ledger.parent.mkdir(parents=True, exist_ok=True)
        ledger.write_text(json.dumps(entries, indent=2, allow_nan=False) + "\n")
    return 0 if all_passed else 1


@app.command(name="falsify")
def falsify_claim(
    name: Annotated[str, tyro.conf.Positional], /, examples: int = 1000, seed: int = 0
) -> int:
    """Search for the smallest counterexample and print it; exit 0 only if there is one.

    Args:
        name: a claim, or a mutant such as A1/energies-not-variances.
        examples: instances to try.
        seed: of the search; the default search is always the same.
    """
    claim = find_claim(name)
    result = check(claim, examples=examples, seed=seed, progress=_progress(claim, examples))
    _clear_line()
    if result.counterexample is None:
        print(f"{claim.key}: no counterexample among {examples} instances (seed {seed})")
        return 1
    print(claim.statement)
    print(result.counterexample)
    return 0


@app.command(name="judge")
def judge_sae(
    path: Annotated[Path, tyro.conf.Positional],
    /,
    world: str,
    seed: int = 0,
    samples: int = 4096,
    as_json: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Judge an SAE on a named world by every criterion, each beside its null.

    Args:
        path: a folder of ours, of SAELens, sparsify or dictionary_learning.
        world: a function of toymodels.presets, with its default arguments.
        seed: of the world's dictionary and of the samples; that of the SAE's own world.
        samples: activations to judge it on.
        as_json: print the same numbers as JSON.
    """
    try:
        require(samples >= 2, "judge", "samples >= 2", samples=samples)
        truth = _world(world, seed)
        sae = load_any(path)
        rule, todo = f"an SAE of d_in = {truth.d_in}, that of {world}", "choose another world"
        require(sae.d_in == truth.d_in, "judge", rule, todo, d_in=sae.d_in)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    x = truth.sample(samples, generator=stream(seed, "eval")).x
    nulls = stream(seed, "judge")
    rows, features = sae.W_dec.detach(), truth.dictionary.vectors
    found = judge(x, features, rows, sae.encode, b_dec=sae.b_dec.detach(), generator=nulls)
    about = {
        "path": str(path),
        "architecture": type(sae).__name__,
        "world": world,
        "seed": seed,
        "samples": samples,
        "n_features": len(features),
        "n_latents": sae.n_latents,
        "d_in": sae.d_in,
        "true_l0": truth.distribution.expected_l0(),
        "latents_are": "lines" if found.lines else "rays",
    }
    if as_json:
        print(json.dumps(about | found.numbers(), indent=2, allow_nan=False))
    else:
        print(", ".join(f"{name} {value}" for name, value in about.items()))
        print(found)
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code; 2 for what the user mistyped."""
    torch.set_num_threads(1)  # the matrices are tiny: threads only cost
    try:
        return app.cli(prog="python -m theory", args=args)
    except ValueError as error:
        if not str(error).startswith(("find_claim", "check:")):
            raise
        print(error, file=sys.stderr)
        return 2


def _world(name: str, seed: int) -> ToyModel:
    """Returns the preset of that name; raises ValueError that lists the known ones."""
    functions = inspect.getmembers(presets, inspect.isfunction)
    known = {k: f for k, f in functions if f.__annotations__.get("return") is ToyModel}
    require(name in known, "judge", f"one of the worlds {sorted(known)}", world=name)
    needed = "generator" in inspect.signature(known[name]).parameters
    return known[name](**{"generator": stream(seed, "dictionary")} if needed else {})


def _is_refuted(mutant: Claim, examples: int, seed: int) -> bool:
    return check(mutant, examples=examples, seed=seed, shrink=False).passed


def _summary(result: CheckResult, refuted: dict[str, bool]) -> str:
    verdict = "ok  " if result.passed else "FAIL"
    if result.counterexample is None and 2 * result.n_void > result.n_examples:
        verdict += " (more than half void)"
    counts = f"{result.n_examples} instances, {result.n_void} void"
    line = f"{result.key:4} {verdict} {counts}, worst margin {result.worst_margin:.3g}"
    survivors = [name for name, killed in refuted.items() if not killed]
    line += f", {len(refuted) - len(survivors)}/{len(refuted)} mutants refuted" if refuted else ""
    line += f"; SURVIVED: {', '.join(survivors)}" if survivors else ""
    return f"{line} ({result.seconds:.1f} s)"


def _entry(claim: Claim, result: CheckResult, refuted: dict[str, bool]) -> dict[str, object]:
    worst = result.worst_margin
    return {
        "passed": result.passed,
        "examples": result.n_examples,
        "void": result.n_void,
        "worst_margin": worst if math.isfinite(worst) else None,
        "status": claim.status,
        "kind": claim.kind,
        "paper_label": claim.paper_label,
        "statement": claim.statement,
        "mutants": refuted,
    }


def _progress(claim: Claim, examples: int) -> Callable[[int], None] | None:
    """Returns what shows progress, or None where nobody watches (stderr is no terminal)."""
    if not sys.stderr.isatty():
        return None
    return lambda n: print(f"\r{claim.key}: {n}/{examples}", end="", file=sys.stderr, flush=True)


def _clear_line() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
