"""Many runs of one function: each one stored, and computed once, here or in other processes."""

import os
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any, Literal

import numpy as np

from sae.checks import check, check_size
from sae.cluster import in_ray
from sae.describe import key
from sae.durable import DiskError
from sae.jobs import Answer, Answers, Job
from sae.store import Store
from sae.workers import in_processes

Arrays = dict[str, np.ndarray]
Where = Literal["stored", "computed", "failed"]
EXECUTORS = ("serial", "processes", "ray")


class RunsFailed(RuntimeError):
    """Some runs failed, and all others are stored.

    Args:
        causes: pairs of a configuration and what became of it, in one line.
        details: traceback of the first failure, or "".
    """

    def __init__(self, causes: list[tuple[object, str]], n_runs: int, details: str = "") -> None:
        self.causes = causes
        lines = [f"  {_shortened(repr(config))}: {cause}" for config, cause in causes]
        head = f"map_runs: {len(causes)} of {n_runs} runs failed, all others are stored"
        super().__init__("\n".join([head, *lines]))
        if details:
            self.add_note(f"The first with a traceback:\n{details}")


def map_runs(
    run: Callable[[Any], Arrays],
    configs: Iterable[object],
    *,
    store: Store,
    device_type: str,
    executor: str = "serial",
    engine: str = "eager",
    n_processes: int | None = None,
    progress: Callable[[Where], None] | None = None,
) -> list[Arrays]:
    """Returns [run(config) for config in configs], each from the store if it was ever computed.

    A run that raises, or whose process dies twice, does not stop the others.

    Args:
        run: a function at module level that returns arrays by name (no strings) and depends on
            nothing but its configuration; its name counts, its source does not.
        configs: frozen dataclasses (see `describe`). Equal ones are computed once.
        device_type, engine: part of what identifies a run; see `key`.
        executor: "serial": one after the other, in this process. "processes": worker processes
            with one torch thread each. "ray": tasks of one core on a ray cluster, whose machines
            share the store's folder; needs the extra [scale].
        n_processes: of "processes"; None for one per core that this process may use.
        progress: is told of each run as it is done: "stored" (already), "computed" or "failed".
    Raises:
        ValueError: a function without a name to import it by, a configuration that cannot be
            hashed, an unknown executor; nothing has run then.
        RunsFailed: names each failed run and why, after all others were stored.
        DiskError: the store is full or read-only; the rest was not tried.
    """
    configs, tell = list(configs), progress or (lambda where: None)
    check(executor in EXECUTORS, "map_runs", f"one of {EXECUTORS}", executor=executor)
    if n_processes is None:
        n_processes = _n_cores()
    check_size("map_runs", n_processes=n_processes)
    root = str(store.root.absolute())
    name = run_name(run)
    job = Job(run.__module__, run.__qualname__, root, store.checkpoint_every, device_type, engine)
    kind = {"device_type": device_type, "engine": engine}
    keys = [key(name, config, **kind) for config in configs]
    unique, found = dict(zip(keys, configs, strict=True)), {}
    for k, config in unique.items():
        arrays = store.read(name, config, **kind)
        if arrays is not None:
            found[k] = arrays
            tell("stored")
    missing = {k: config for k, config in unique.items() if k not in found}
    if executor == "processes":
        answers = in_processes(job, missing, n_processes)
    else:
        answers = in_ray(job, missing) if executor == "ray" else _serial(job, run, missing)
    failed: dict[str, Answer] = {}
    with closing(answers):
        for k, answer in answers:
            if answer.where == "refused":
                raise DiskError(answer.cause)
            if answer.where == "failed":
                failed[k] = answer
            tell(answer.where)
    if failed:
        causes = [(unique[k], failed[k].cause) for k in unique if k in failed]
        details = next((answer.details for answer in failed.values() if answer.details), "")
        raise RunsFailed(causes, len(unique), details)
    results = []
    for k, config in zip(keys, configs, strict=True):
        arrays = found.pop(k, None)
        if arrays is None:  # computed just now, or asked for before in this list
            arrays = store.get_or_run(name, config, lambda c=config: run(c), **kind)
            if k not in missing:
                tell("stored")
            missing.pop(k, None)
        results.append(arrays)
    return results


def run_name(run: Callable) -> str:
    """Returns the name under which the runs of a function are stored.

    Raises:
        ValueError: it cannot be imported by that name: a lambda, a nested or a main function.
    """
    module, function = (getattr(run, a, "<unnamed>") for a in ("__module__", "__qualname__"))
    name, ok = f"{module}.{function}", module != "__main__" and "<" not in function
    todo = "a stored run is found again by that name"
    check(ok, "map_runs", "a named function at module level", todo, run=name)
    return name


def _serial(job: Job, run: Callable, configs: dict[str, object]) -> Answers:
    for k, config in configs.items():
        yield k, job.do(run, config)


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:150]} ... {text[-45:]}"
