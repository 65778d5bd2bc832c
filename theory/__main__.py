"""The command line: python -m theory list | check | falsify | replay | pin | judge."""

import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import tyro

from sae import load_any
from theory.checks import check as require
from theory.claims._commands import (
    check_claims,
    falsify_claim,
    pin_counterexamples,
    replay_file,
)
from theory.claims._listing import list_claims
from theory.judge import judge
from toymodels import ToyModel, presets, stream

ABOUT = """Executable claims about SAEs, attacked by a search for counterexamples.

A mutant is a false variant of a claim, which the same search must refute: a search that cannot
says little for the claim. An example:

    python -m theory check A1 --examples 1000
"""
# Of errors in what was typed or dropped in the folder; others are a claim's, with a traceback.
INTERNAL = ("find_claim: ", "all_claims: ")  # functions, which a reader need not know
PREFIXES = (*INTERNAL, "list:", "check:", "falsify:", "pin:", "replay:")

app = tyro.extras.SubcommandApp()
app.command(name="list")(list_claims)
app.command(name="check")(check_claims)
app.command(name="falsify")(falsify_claim)
app.command(name="replay")(replay_file)
app.command(name="pin")(pin_counterexamples)


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
        return app.cli(prog="python -m theory", description=ABOUT, args=args)
    except ValueError as error:
        text = str(error)
        if not text.startswith(PREFIXES):
            raise
        for function in INTERNAL:
            text = text.removeprefix(function)
        print(text, file=sys.stderr)
        return 2


def _world(name: str, seed: int) -> ToyModel:
    """Returns the preset of that name; raises ValueError that lists the known ones."""
    functions = inspect.getmembers(presets, inspect.isfunction)
    known = {k: f for k, f in functions if f.__annotations__.get("return") is ToyModel}
    require(name in known, "judge", f"one of the worlds {sorted(known)}", world=name)
    needed = "generator" in inspect.signature(known[name]).parameters
    return known[name](**{"generator": stream(seed, "dictionary")} if needed else {})


if __name__ == "__main__":
    sys.exit(main())
