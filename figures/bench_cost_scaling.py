"""What a trained SAE costs: seconds of one core per million samples, against each size.

TopK SAEs on a noise-free ToyModel of as many features as latents, by the reference engine and the
compiled one, one thread, drawing included. From the base (256 latents, 64 dimensions, l0 5, k = 5,
8 members) one size is changed at a time; with l0 its k. Timed in turn, by the clock. Results go to
figures/reference/bench_cost_scaling.json, which fig_cost_scaling draws.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from figures.timing import Work, in_turn, machine, middle
from sae import TopK, TrainConfig, train
from sae.durable import write_whole
from toymodels import Independent, ToyModel, random_unit, stream

RESULTS = Path(__file__).with_name("reference") / "bench_cost_scaling.json"
BATCH, N_TURNS = 1024, 5


@dataclass(frozen=True)
class Size:
    """One training: its sizes, and how many steps of it are timed, by the compiled engine."""

    n_latents: int = 256
    d_in: int = 64
    l0: int = 5
    members: int = 8
    n_steps: int = 64

    def steps(self, engine: str) -> int:
        """Returns how many are timed by this engine; the reference is many times as slow."""
        return self.n_steps if engine == "rows" else max(2, self.n_steps // 4)


BASE = Size()
AXES: dict[str, tuple[Size, ...]] = {
    "n_latents": tuple(
        Size(n, n_steps=max(4, 64 * 256 // n)) for n in (64, 128, 256, 512, 1024, 2048, 4096)
    ),
    "d_in": tuple(replace(BASE, d_in=d) for d in (16, 32, 64, 128, 256, 512)),
    "l0": tuple(replace(BASE, l0=k) for k in (1, 2, 5, 10, 20, 40)),
    "members": tuple(replace(BASE, members=m, n_steps=96 // m + 8) for m in (1, 2, 4, 8, 16, 32)),
}
ENGINES = ("eager", "rows")


def main() -> None:
    """Measures, prints and writes the results."""
    torch.set_num_threads(1)
    results: dict[str, object] = {"batch": BATCH, "machine": machine({})}
    for axis, sizes in AXES.items():
        works = {(engine, size): _work(engine, size) for engine in ENGINES for size in sizes}
        seconds = in_turn({f"{e} {i}": w for i, ((e, _), w) in enumerate(works.items())}, N_TURNS)
        rows = []
        for (engine, size), times in zip(works, seconds.values(), strict=True):
            samples = size.members * size.steps(engine) * BATCH
            costs = [1e6 * t / samples for t in times]
            rows.append({"engine": engine, "size": asdict(size), "seconds": costs})
            print(f"{axis}: {engine:<6} {size}: {middle(costs):.3f} s", flush=True)
        results[axis] = rows
    write_whole(RESULTS, (json.dumps(results, indent=1) + "\n").encode())
    print(f"written: {RESULTS}")


def _work(engine: str, size: Size) -> Work:
    vectors = random_unit(size.n_latents, size.d_in, generator=stream(0, "dictionary"))
    world = ToyModel(Independent(size.n_latents, size.l0 / size.n_latents), vectors)
    saes = [
        TopK(size.d_in, size.n_latents, size.l0, generator=stream(i, "init"))
        for i in range(size.members)
    ]
    config = TrainConfig(size.steps(engine), BATCH, lr=1e-3, n_records=2)
    return lambda: train(saes, world, config, generator=stream(0, "bench"), engine=engine)


if __name__ == "__main__":
    main()
