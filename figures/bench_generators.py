"""Samples per second of the generators here, as ratios to those of sae-lens, and cost against size.

Codes only, batches of 1,024, one thread. What is compared is timed in turn, again and again, in
processor time: whatever else the machine does then slows both alike. Of sae-lens both forms are
timed, dense codes (its default) and sparse ones. With equal l0, time and peak memory of a batch are
taken at 10^4 to 10^6 features. The results go to figures/reference/bench_generators.json, which
fig_generators draws; without sae-lens (pip install sae-lens) they are printed and not written.
"""

import importlib.metadata
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from figures.timing import machine
from sae.durable import write_whole
from toymodels import (
    Hierarchy,
    Independent,
    RectifiedNormal,
    ToyDistribution,
    Zipf,
    presets,
    stream,
)
from toymodels.wrapper import Wrapper

RESULTS = Path(__file__).with_name("reference") / "bench_generators.json"
BATCH = 1024
SIZES = (10_000, 100_000, 1_000_000)
L0 = 34.0
N_REPETITIONS, LEAST_SECONDS = 9, 0.15  # of each; what a repetition times at least
N_L0_BATCHES = 4  # in which features are counted, in each library
Draw = Callable[[], object]


@dataclass(frozen=True)
class World:
    """One world in both libraries: a law here, an activation generator of sae-lens."""

    ours: Callable[[], ToyDistribution]
    theirs: Callable[[], Any]


def worlds() -> tuple[World, ...]:
    """Returns the worlds in which the libraries are compared, smallest first."""
    small, large = (256, 0.02), (4096, 0.01)
    return (
        World(lambda: _independent(*small), lambda: _their_independent(*small)),
        World(lambda: _independent(*large), lambda: _their_independent(*large)),
        World(_benchmark, _their_benchmark),
    )


def law_name(law: ToyDistribution) -> str:
    """Returns the name of the law that decides who fires, which others may wrap."""
    return law_name(law.base) if isinstance(law, Wrapper) else type(law).__name__


def _independent(n_features: int, prob: float) -> ToyDistribution:
    return Independent(n_features, prob, RectifiedNormal(1.0, 0.5))  # the law of sae-lens


def _their_independent(n_features: int, prob: float) -> Any:
    from sae_lens.synthetic import ActivationGenerator  # type: ignore[import-not-found]

    return ActivationGenerator(n_features, prob, std_firing_magnitudes=0.5)


def _benchmark() -> ToyDistribution:
    # Only the law is used, so one dimension is enough for the directions.
    return presets.benchmark_16k(1, generator=stream(0, "dictionary")).distribution


def _their_benchmark() -> Any:
    """The published configuration, but for the directions (arXiv 2602.14687)."""
    from sae_lens.synthetic import (  # type: ignore[import-not-found]
        FoldedNormalMagnitudeConfig,
        HierarchyConfig,
        LinearMagnitudeConfig,
        LowRankCorrelationConfig,
        SyntheticModel,
        SyntheticModelConfig,
        ZipfianFiringProbabilityConfig,
    )

    trees = HierarchyConfig(
        total_root_nodes=128,
        branching_factor=4,
        max_depth=3,
        mutually_exclusive_portion=1.0,
        compensate_probabilities=True,
        scale_children_by_parent=True,
    )
    config = SyntheticModelConfig(
        num_features=16_384,
        hidden_dim=1,
        firing_probability=ZipfianFiringProbabilityConfig(0.5, 0.4, 5e-4),
        hierarchy=trees,
        correlation=LowRankCorrelationConfig(rank=25, correlation_scale=0.1),
        mean_firing_magnitudes=LinearMagnitudeConfig(5.0, 4.0),
        std_firing_magnitudes=FoldedNormalMagnitudeConfig(0.5, 0.5),
        seed=42,
    )
    return SyntheticModel(config).activation_generator


def main() -> None:
    """Measures, prints, and writes the results if sae-lens was there to compare with."""
    torch.set_num_threads(1)
    has_peer = importlib.util.find_spec("sae_lens") is not None
    results: dict[str, object] = {"batch": BATCH, "repetitions": N_REPETITIONS}
    names = ["numpy"] + ["sae-lens"] * has_peer
    results["machine"] = machine({name: importlib.metadata.version(name) for name in names})
    if has_peer:
        results["peer"] = [_compare(world) for world in worlds()]
    else:
        print("sae-lens is not installed: no comparison, and nothing is written")
    results["scaling"] = [
        _scaling("Zipf", _zipf),
        _scaling("Hierarchy", _regular_forest),
    ]
    if has_peer:
        write_whole(RESULTS, (json.dumps(results, indent=1) + "\n").encode())
        print(f"written: {RESULTS}")


def _compare(world: World) -> dict[str, object]:
    law, peer = world.ours(), world.theirs()
    generator = stream(0, "bench")

    def theirs(sparse: bool) -> torch.Tensor:
        peer.use_sparse_tensors = sparse
        return peer.sample(BATCH)

    torch.sparse.check_sparse_tensor_invariants.disable()  # its tensors are made with a warning
    draws: dict[str, Draw] = {
        "ours": lambda: law.sample(BATCH, generator=generator),
        "dense": lambda: theirs(sparse=False),
        "sparse": lambda: theirs(sparse=True),
    }
    counts = [law.sample(BATCH, generator=generator).l0() for _ in range(N_L0_BATCHES)]
    their_counts = [(theirs(sparse=False) > 0).sum(1) for _ in range(N_L0_BATCHES)]
    l0 = {"declared": law.expected_l0()}
    for whose, found in (("ours", counts), ("theirs", their_counts)):
        l0[whose] = float(torch.cat(found).double().mean())
    seconds = _in_turn(draws)
    title = f"{law_name(law)}, {law.n_features:,} features"
    rates = {name: BATCH / statistics.median(times) for name, times in seconds.items()}
    print(title + "".join(f", {name} {rate:,.0f}/s" for name, rate in rates.items()))
    for form in ("dense", "sparse"):
        ratios = sorted(t / u for t, u in zip(seconds[form], seconds["ours"], strict=True))
        least, middle, most = ratios[0], statistics.median(ratios), ratios[-1]
        print(f"    {form:<7} {middle:.1f} x ({least:.1f} to {most:.1f})")
    print("    l0: " + ", ".join(f"{whose} {value:.2f}" for whose, value in l0.items()), flush=True)
    about = {"law": law_name(law), "n_features": law.n_features}
    return {**about, "l0": l0, "seconds": seconds}


def _zipf(n_features: int) -> ToyDistribution:
    """Independent features, p_i ~ i^-1/2: what helps where all are equally frequent does not."""
    shares = torch.arange(1, n_features + 1, dtype=torch.float64) ** -0.5
    return Zipf(n_features, alpha=0.5, first_prob=L0 / float(shares.sum()))


def _regular_forest(n_features: int) -> Hierarchy:
    """About n_features in trees of 85, four children each that exclude one another; l0 = 34."""
    n_roots = round(n_features / 85)
    shares = sum((4 * 0.2) ** level for level in range(4))
    return Hierarchy.regular(n_roots, 4, 3, L0 / n_roots / shares, 0.2)


def _scaling(name: str, law_of: Callable[[int], ToyDistribution]) -> dict[str, object]:
    laws = [law_of(size) for size in SIZES]
    generator = stream(0, "bench")
    draws: dict[str, Draw] = {
        str(size): lambda law=law: law.sample(BATCH, generator=generator)
        for size, law in zip(SIZES, laws, strict=True)
    }
    seconds = _in_turn(draws)
    peaks = [_peak_bytes(draw) for draw in draws.values()]
    for size, peak in zip(SIZES, peaks, strict=True):
        milliseconds = 1e3 * statistics.median(seconds[str(size)])
        print(f"{name}, {size:,} features: {milliseconds:.2f} ms, {peak / 2**20:.1f} MiB a batch")
    l0 = [law.expected_l0() for law in laws]
    sizes = [law.n_features for law in laws]
    times = list(seconds.values())
    return {"law": name, "n_features": sizes, "l0": l0, "seconds": times, "peak_bytes": peaks}


def _in_turn(draws: dict[str, Draw]) -> dict[str, list[float]]:
    """Returns the processor seconds of a batch in each repetition, the draws timed in turn."""
    counts = {}
    for name, draw in draws.items():
        draw()  # warm-up
        counts[name] = 1 + int(LEAST_SECONDS / _seconds(draw, 1))
    seconds: dict[str, list[float]] = {name: [] for name in draws}
    for _ in range(N_REPETITIONS):
        for name, draw in draws.items():
            seconds[name].append(_seconds(draw, counts[name]))
    return seconds


def _seconds(draw: Draw, count: int) -> float:
    start = time.process_time()
    for _ in range(count):
        draw()
    return max((time.process_time() - start) / count, 1e-9)


def _peak_bytes(draw: Draw) -> int:
    """Returns the most memory that a batch holds at a time, in tensors it has made itself."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        draw()
    assert profiled.profiler is not None
    results = profiled.profiler.kineto_results
    assert results is not None
    events = [event for event in results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    changes = [event.nbytes() for event in events]  # type: ignore[attr-defined]  # not in its stub
    return int(np.cumsum(changes).max())


if __name__ == "__main__":
    main()
