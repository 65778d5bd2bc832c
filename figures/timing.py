"""What the benchmarks share: timing in turn, and what the machine could do at best."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch

from figures.draw import _cpu

Work = Callable[[], object]


def in_turn(works: Mapping[str, Work], n_turns: int) -> dict[str, list[float]]:
    """Returns the seconds by the clock of each work in each turn, after one that does not count.

    The works take turns, so that whatever else the machine does slows all of them alike.
    """
    for work in works.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(n_turns):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def machine(versions: Mapping[str, str]) -> dict[str, object]:
    """Returns what the times depend on: processor, cores, load of other work, versions."""
    own = {"torch": str(torch.__version__), "python": platform.python_version()}
    load = round(os.getloadavg()[0], 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": _cpu(), "cores": cores, "load": load, "versions": own | dict(versions)}


def limits() -> dict[str, float]:
    """Returns the most that one thread reaches: float32 matmul in GFLOP/s, copying in GB/s."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    a, b = torch.ones(1024, 1024), torch.ones(1024, 1024)
    source = torch.ones(2**26)  # 256 MB: far beyond the caches
    target = torch.empty_like(source)
    works = {"matmul": lambda: a @ b, "copy": lambda: target.copy_(source)}
    best = {name: min(seconds) for name, seconds in in_turn(works, 9).items()}
    torch.set_num_threads(before)
    flops, moved = 2 * 1024**3, 2 * source.numel() * 4
    return {"matmul_gflops": flops / best["matmul"] / 1e9, "copy_gb": moved / best["copy"] / 1e9}


def middle(values: list[float]) -> float:
    """Returns the median."""
    return statistics.median(values)
