"""What a figure script needs besides its own mathematics: stored runs, a device, its margins."""

import functools
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from sae.runs import Arrays, Where, map_runs, run_name
from sae.store import Store, default_root

ROOT = Path(__file__).resolve().parent.parent
tally = {"computed": 0, "stored": 0}  # runs of this process, by where their results came from


@functools.cache
def device() -> str:
    """Returns "cuda" where a CUDA device is available, else "cpu": the only place that chooses."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def cached(run: Callable[[Any], Arrays], config: object) -> Arrays:
    """Returns `run(config)`, from the store if it was ever computed.

    The store is `default_root()`. What identifies a run is said in sae.store.key: the name of `run`
    counts, its source does not.

    Args:
        run: a function at module level that returns arrays by name (no strings) and depends on
            nothing but `config` and `device()`.
        config: frozen dataclass.
    """
    name, where = run_name(run), "stored"

    def compute() -> Arrays:
        nonlocal where
        where = "computed"
        return run(config)

    arrays = Store(default_root()).get_or_run(name, config, compute, device_type=device())
    tally[where] += 1
    return arrays


def map_cached(run: Callable[[Any], Arrays], configs: Iterable[object]) -> list[Arrays]:
    """Returns [cached(run, config) for config in configs], and says on stderr how far it is.

    It says so at most every two seconds, and only if SAE_TESTBED_PROGRESS is 1, or is not set and
    stderr is a terminal. A run that raises does not stop the others: see `map_runs`.
    """
    configs = list(configs)
    speaks = os.environ.get("SAE_TESTBED_PROGRESS", str(int(sys.stderr.isatty()))) == "1"
    start = spoke = time.perf_counter()
    done = {"computed": 0, "stored": 0, "failed": 0}

    def tell(where: Where) -> None:
        nonlocal spoke
        done[where] += 1
        if where != "failed":
            tally[where] += 1
        now, n = time.perf_counter(), sum(done.values())
        if speaks and (now - spoke > 2 or n == len(configs)):
            spoke = now
            failed = f", {done['failed']} failed" if done["failed"] else ""
            count = f"{n}/{len(configs)} runs ({done['stored']} stored{failed})"
            name = run.__module__.rpartition(".")[2]
            print(f"{name}: {count}, {now - start:.0f} s", file=sys.stderr, flush=True)

    store = Store(default_root())
    return map_runs(run, configs, store=store, device_type=device(), progress=tell)


def require(margins: dict[str, float]) -> dict[str, float]:
    """Prints each margin and returns them all; a figure's claim holds if none is negative.

    Args:
        margins: by what each one says; >= 0 where it holds.
    Raises:
        AssertionError: lists the margins that are negative or NaN; or there are no margins at all.
    """
    margins = {name: float(value) for name, value in margins.items()}
    for name, value in margins.items():
        print(f"{name}: {value:.6g}")
    refused = [f"{name} = {value:.6g}" for name, value in margins.items() if not value >= 0]
    if refused or not margins:
        raise AssertionError("; ".join(refused) or "no margins: nothing was checked")
    return margins
