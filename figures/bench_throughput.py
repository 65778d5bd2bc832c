"""SAE-samples per second of training, here and in other libraries, on the same data.

TopK SAEs with Adam in float32; SAE-samples count each sample once for each SAE trained on it. Data
come from one ToyModel on all sides, drawing them included; only here a trainer may use the codes
("from codes") instead of the dense activations ("from x"). Other trainers take one SAE at a time,
with the number of torch threads that suits them. Small: 256 features in 64 dimensions, p = .02,
width 256, k = 5. Large: 4,096 features in 512 dimensions, p = .01, width 4,096, k = 41. What is
compared is timed in turn, by the clock; the machine should have nothing else to do. Results go
to figures/reference/bench_throughput.json, which fig_throughput draws; without sae-lens they are
printed and not written.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from figures import peers
from figures.timing import Work, in_turn, limits, machine, middle
from sae import TopK, TrainConfig, train
from sae.durable import write_whole
from toymodels import Independent, ToyModel, random_unit, stream

RESULTS = Path(__file__).with_name("reference") / "bench_throughput.json"
BATCH = 1024
N_TURNS = 5


@dataclass(frozen=True)
class Case:
    """A world, the SAEs for it, and how many steps are timed, of others and of ours.

    Other trainers go on where they were. Each of our calls is a whole training, set-up included: of
    as many steps as one takes, or in the large case as there is time for.
    """

    name: str
    n_features: int
    d_in: int
    prob: float
    n_latents: int
    k: int
    n_steps: int
    our_steps: int
    members: tuple[int, ...]

    def world(self) -> ToyModel:
        vectors = random_unit(self.n_features, self.d_in, generator=stream(0, "dictionary"))
        return ToyModel(Independent(self.n_features, self.prob), vectors)


CASES = (
    Case("small", 256, 64, 0.02, 256, 5, 160, 1280, (1, 2, 8, 32)),
    Case("large", 4096, 512, 0.01, 4096, 41, 4, 32, (1, 2, 8)),
)


def main() -> None:
    """Measures, prints, and writes the results if sae-lens was there to compare with."""
    versions = peers.installed()
    results: dict[str, object] = {"batch": BATCH, "machine": machine(versions), "limits": limits()}
    print(f"machine limits, one thread: {results['limits']}")
    results["cases"] = [_case(case, list(versions)) for case in CASES]
    if "sae-lens" not in versions:
        print("sae-lens is not installed: nothing is written")
        return
    write_whole(RESULTS, (json.dumps(results, indent=1) + "\n").encode())
    print(f"written: {RESULTS}")


def _case(case: Case, names: list[str]) -> dict[str, object]:
    world, works, samples = case.world(), {}, {}
    for name in ("plain torch", *names):
        generator = stream(0, "bench")

        def batch(generator: torch.Generator = generator) -> Tensor:
            return world.sample(BATCH, generator=generator).x

        step = peers.trainer(name, case.d_in, case.n_latents, case.k, batch, BATCH)
        for threads in (1, 2):
            key = f"{name}, 1 member, {threads} threads"
            works[key] = _with_threads(threads, lambda step=step: step(case.n_steps))
            samples[key] = BATCH * case.n_steps
    for label, engine, source in (
        ("eager", "eager", world),
        ("from x", "rows", lambda n, *, generator: world.sample(n, generator=generator).x),
        ("from codes", "rows", world),
    ):
        for n_members in case.members if engine == "rows" else (1,):
            for threads in (1, 2) if n_members > 1 else (1,):
                key = f"{label}, {n_members} member{'s' * (n_members > 1)}, {threads} threads"
                train_all = _ours(case, source, engine, n_members)
                works[key] = _with_threads(threads, train_all)
                samples[key] = n_members * BATCH * case.our_steps
    seconds = in_turn(works, N_TURNS)
    print(f"{case.name} case")
    for key, times in seconds.items():
        print(f"    {key:<40} {samples[key] / middle(times):12,.0f} SAE-samples/s", flush=True)
    rates = {key: [samples[key] / t for t in times] for key, times in seconds.items()}
    about = {name: getattr(case, name) for name in ("name", "n_features", "d_in", "n_latents", "k")}
    return {**about, "rates": rates}


def _ours(case: Case, source: object, engine: str, n_members: int) -> Work:
    saes = [
        TopK(case.d_in, case.n_latents, case.k, generator=stream(i, "init"))
        for i in range(n_members)
    ]
    config = TrainConfig(case.our_steps, BATCH, lr=1e-3, n_records=2)
    return lambda: train(saes, source, config, generator=stream(0, "bench"), engine=engine)  # type: ignore[arg-type]


def _with_threads(n_threads: int, work: Callable[[], object]) -> Work:
    def run() -> None:
        torch.set_num_threads(n_threads)
        work()

    return run


if __name__ == "__main__":
    main()
