"""The smallest counterexample to every false claim, kept as files that a test replays."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch

from theory import checks
from theory.claims._engine import falsify
from theory.claims._find import all_claims, false_claims, find_claim
from theory.claims._replay import file_name, save


def pin(folder: Path, *, examples: int, jobs: int) -> tuple[str, ...]:
    """Writes a counterexample to every mutant and refuted claim; returns those that survived.

    Files KEY__name.json and KEY.json; those of mutants that are no longer there, or survived, and
    of claims that are not refuted any more, are removed.
    Trained claims are not pinned: what refutes their mutants is the store's worlds, not a file.

    Args:
        folder: made if need be.   examples: instances to try for each.
        jobs: processes to spread them over, >= 1; the files do not depend on it.
    """
    checks.check(examples >= 1, "pin", "examples >= 1", examples=examples)
    checks.check(jobs >= 1, "pin", "jobs >= 1", jobs=jobs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        where = {"folder": str(folder), "error": error.strerror}
        checks.check(False, "pin", "a folder that can be made", "choose another", **where)
    keys = [claim.key for claim in false_claims()]
    one = partial(_pin_one, folder=folder, examples=examples)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        jobs, context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        written = dict(zip(keys, pool.map(one, keys), strict=True))
    kept = {file_name(key) for key in keys if written[key]}
    of_claims = [folder / file_name(claim.key) for claim in all_claims()]
    for file in [*folder.glob("*__*.json"), *of_claims]:
        if file.name not in kept:
            file.unlink(missing_ok=True)
    return tuple(key for key in keys if not written[key])


def _pin_one(key: str, folder: Path, examples: int) -> bool:
    claim = find_claim(key)
    found = falsify(claim, examples=examples)
    if found is not None:
        save(found, folder / file_name(key))
    return found is not None
