"""Counterexamples as files: written by the falsifier, checked again by anyone."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import torch

from sae.describe import NUMERICS_VERSION
from sae.durable import write_whole
from theory.checks import check
from theory.claims._claim import Claim, least
from theory.claims._counterexample import Counterexample
from theory.claims._engine import CheckResult, evaluate
from theory.claims._find import find_claim
from theory.claims._tree import comparison_entry, from_tree, to_tree

FORMAT = 1  # of the file; another one is not read
_AGAIN = "write it with `python -m theory falsify NAME --save FILE`"
_FIELDS = ("format", "claim", "statement", "instance", "comparisons", "margin", "versions")


@dataclass(frozen=True)
class Replay:
    """A counterexample's file and its claim, evaluated again on the instance that it holds.

    margin: least margin now; inf where the claim says nothing of the instance.   saved_margin: as
    written.   versions: that wrote the file.
    """

    counterexample: Counterexample
    saved_margin: float
    versions: dict[str, str]

    @property
    def margin(self) -> float:
        return self.counterexample.margin

    @property
    def refutes(self) -> bool:
        """Whether the claim still fails here; a margin that is not a number is a failure."""
        return not self.margin >= 0


def file_name(key: str) -> str:
    """Returns the file that holds the counterexample to a claim or mutant: "A1__name.json"."""
    return f"{key.replace('/', '__')}.json"


def versions() -> dict[str, str]:
    """Returns what else than the file decides how a replay ends."""
    numbers = {"numerics": str(NUMERICS_VERSION), "torch": str(torch.__version__)}
    return numbers | {"hypothesis": hypothesis.__version__}


def to_file(found: Counterexample) -> dict[str, Any]:
    """Returns the content of a counterexample's file: plain values only.

    The comparisons are those that a replay meets, evaluated on what the file holds.

    Raises:
        ValueError: the instance holds what a file cannot, or does not fail when read back.
    """
    tree = to_tree(found.instance)
    claim = find_claim(found.key)
    comparisons = evaluate(claim, from_tree(tree))
    margin = least(comparisons)
    check(not margin >= 0, "to_file", "an instance that fails when read back", margin=margin)
    return {
        "format": FORMAT,
        "claim": found.key,
        "statement": claim.statement,
        "instance": tree,
        "comparisons": [comparison_entry(c) for c in comparisons],
        "margin": to_tree(margin),
        "versions": versions(),
    }


def save(found: Counterexample, path: Path) -> None:
    """Writes a counterexample to a file, with the folder it lies in; an old file is replaced."""
    text = json.dumps(to_file(found), indent=1, allow_nan=False) + "\n"
    write_whole(path, text.encode())


def replay(path: Path) -> Replay:
    """Returns a counterexample's file, its claim evaluated again by the rules of the search.

    Raises:
        ValueError: no such file, not one of ours or of another format, an unknown claim or class,
            an instance that its class refuses.
    """
    where = f"replay: {path}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{where}: expected a JSON file, got {error}; {_AGAIN}") from error
    ours = isinstance(content, dict) and set(content) == set(_FIELDS)
    got = sorted(content) if isinstance(content, dict) else type(content).__name__
    check(ours, where, f"an object of {', '.join(_FIELDS)}", _AGAIN, found=got)
    check(content["format"] == FORMAT, where, f"format {FORMAT}", _AGAIN, format=content["format"])
    try:
        claim = find_claim(content["claim"])
        instance = from_tree(content["instance"])
        saved, wrote = float(from_tree(content["margin"])), dict(content["versions"])
        comparisons = evaluate(claim, instance)
    except Exception as error:  # a file that was edited may fail anywhere inside the claim
        what = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{where}: expected an instance of the claim, got: {what}") from error
    found = Counterexample(claim.key, instance, comparisons, least(comparisons))
    return Replay(found, saved, wrote)


def search_entry(claim: Claim, result: CheckResult) -> dict[str, Any]:
    """Returns what a search for a counterexample found, or how near it came, as JSON holds it."""
    found = result.counterexample
    return {
        "claim": claim.key,
        "statement": claim.statement,
        "refuted": found is not None,
        "examples": result.n_examples,
        "void": result.n_void,
        "nearest": comparison_entry(result.nearest),
        "closest": [comparison_entry(c) for c in result.closest],
        "counterexample": found and to_file(found),
        "seconds": round(result.seconds, 2),
    }


def replay_entry(done: Replay) -> dict[str, Any]:
    """Returns what a replay met as JSON holds it."""
    return {
        "claim": done.counterexample.key,
        "refutes": done.refutes,
        "margin": to_tree(done.margin),
        "saved_margin": to_tree(done.saved_margin),
        "comparisons": [comparison_entry(c) for c in done.counterexample.comparisons],
        "saved_versions": done.versions,
        "versions": versions(),
    }
