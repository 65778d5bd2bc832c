"""An interrupted training goes on where its last checkpoint was, and ends with the same bits.

Interruptions come between any two steps (all architectures and settings, in this process), or at
any instant (SIGKILL of a process).
"""

import dataclasses
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import bits, same_bits, topk, world

from sae import MatryoshkaReLU, MultiTopK, ReLU, TrainConfig, checkpoint, ensemble, train
from sae import strategies as saes
from sae.evaluation import HeldOut
from sae.member import Member
from toymodels import stream


class Interrupted(Exception):
    pass


class Interruptible:
    """Standard normal batches in `d_in` dimensions; the `at`-th is never drawn."""

    def __init__(self, d_in, at):
        self.d_in, self.at, self.drawn = d_in, at, 0

    def __call__(self, n, *, generator):
        if self.drawn == self.at:
            raise Interrupted
        self.drawn += 1
        return torch.randn(n, self.d_in, generator=generator)


def once(members, config, folder, at=-1, **options):
    """Trains with a checkpoint after every stretch of steps; is interrupted at batch `at`."""
    generator, d_in = stream(3, "train"), members[0].d_in
    held_out = HeldOut(Interruptible(d_in, -1), 16, stream(3, "eval"))
    with checkpoint.checkpoints_in(folder, every=0.0):
        sample = Interruptible(d_in, at)
        result = train(members, sample, config, generator=generator, held_out=held_out, **options)
    return result, generator.get_state()


def assert_it_resumes(members, config, stops, **options):
    """Interrupted at each of `stops` in turn, counted from where it goes on."""
    whole, state = once(members, config, tempfile.mkdtemp(), **options)
    with tempfile.TemporaryDirectory() as folder:
        for at in stops:
            try:
                once(members, config, folder, at, **options)
            except Interrupted:
                continue
            break
        found, state_found = once(members, config, folder, **options)
    for a, b in zip(whole.saes, found.saes, strict=True):
        assert same_bits(bits(a), bits(b))
    assert whole.coefficients == pytest.approx(found.coefficients, rel=0, nan_ok=True)
    assert torch.equal(state, state_found)
    for field in dataclasses.fields(whole.history):
        a, b = (getattr(result.history, field.name) for result in (whole, found))
        a, b = (value if isinstance(value, dict) else {"": value} for value in (a, b))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name].nan_to_num(-1), b[name].nan_to_num(-1)) for name in a)


def assert_it_resumes_at_each(members, config, stops):
    for at in stops:
        assert_it_resumes(members, config, [at])


@given(
    sae=saes.saes(),
    config=saes.training_configs(),
    engine=st.sampled_from(["auto", "eager"]),
    stops=st.lists(st.integers(0, 12), max_size=3),
    stop_after=st.sampled_from([float("inf"), 20]),
)
def test_an_interrupted_training_ends_with_the_same_bits(sae, config, engine, stops, stop_after):
    config = dataclasses.replace(config, stop_after=stop_after)
    assert_it_resumes([sae], config, stops, engine=engine)


@pytest.mark.parametrize("engine", ["auto", "eager"])
def test_a_run_that_stopped_early_ends_as_it_did_when_resumed(engine, monkeypatch):
    """Its last state, which only runs of some length leave, has nothing left to do."""
    monkeypatch.setattr(ensemble, "WORTH_KEEPING", 0.0)
    config = TrainConfig(40, 10, lr=1e-9, n_records=8, stop_after=20)
    whole, _ = once([topk()], config, tempfile.mkdtemp(), engine=engine)
    assert int(whole.history.trained[0]) < 400
    assert_it_resumes([topk()], config, [40], engine=engine)


STEERED = TrainConfig(
    12, 16, lr=1e-2, dead_after=32, n_records=5, resample_every=48, ema=0.5, sparsity_warmup=0.3,
    target_l0=2.0, l0_rate=0.1,
)  # fmt: skip


@pytest.mark.parametrize("at", range(12))
def test_every_schedule_goes_on(at):
    members = [
        ReLU(12, 32, 0.3, generator=stream(0, "a")),
        MatryoshkaReLU(12, 20, 0.1, 3, generator=stream(0, "b")),
    ]
    assert_it_resumes(members, STEERED, [at])
    annealed = TrainConfig(12, 16, lr=1e-2, dead_after=32, k_annealing=0.6, n_records=5)
    assert_it_resumes(
        [topk(), MultiTopK(12, 8, (2, 5), (1.0, 0.5), generator=stream(0, "c"))], annealed, [at]
    )


FORGOTTEN = ["adam", "silent", "sae.", "average", "resampling", "after_step", "generator"]
NUMBERS = ["n_steps", "coefficient", "best_fvu", "best_at", "stopped"]


@pytest.mark.parametrize("name", FORGOTTEN)
def test_a_checkpoint_that_forgets_a_tensor_is_caught(name, monkeypatch):
    """Broken twins: everything of this name is as in a fresh member."""
    original = ensemble.Ensemble._restore

    def restore(self, tensors, record):
        fresh = {
            f"{m.i}/{key}": value.clone()
            for m in self.members
            for key, value in m.tensors().items()
        } | {"generator": self.batches.generator.get_state()}
        kept = {
            key: fresh.get(key, torch.zeros_like(value)) if name in key else value
            for key, value in tensors.items()
        }
        original(self, kept, record)

    monkeypatch.setattr(ensemble.Ensemble, "_restore", restore)
    # One member draws prefixes for each batch, of the other most latents are dead at any time.
    members = [MatryoshkaReLU(12, 32, 0.3, 3, generator=stream(0, "a")), topk(n_latents=64, k=1)]
    config = dataclasses.replace(STEERED, sparsity_warmup=0.0, target_l0=None, dead_after=32)
    with pytest.raises(AssertionError):
        assert_it_resumes_at_each(members, config, (5, 7))


@pytest.mark.parametrize("name", NUMBERS)
def test_a_checkpoint_that_forgets_a_number_is_caught(name, monkeypatch):
    original = Member.numbers
    monkeypatch.setattr(
        Member, "numbers", lambda self: {k: v for k, v in original(self).items() if k != name}
    )
    # One member stands still and stops; the other improves now and then, and goes on.
    members = [ReLU(12, 32, 0.3, generator=stream(0, "a")) for _ in range(2)]
    config = dataclasses.replace(STEERED, ema=0.0, lr=(1e-9, 3e-3), n_steps=16, n_records=16)
    config = dataclasses.replace(config, stop_after=80, stop_gain=0.1)
    with pytest.raises(AssertionError):
        assert_it_resumes_at_each(members, config, range(3, 12))


def test_another_training_does_not_go_on_from_it(tmp_path):
    """Not from another configuration, other weights or another stream; a warning says so."""
    config = TrainConfig(6, 16, n_records=2)
    with pytest.raises(Interrupted):
        once([topk()], config, tmp_path / "a", 4, engine="eager")
    for i, (members, other) in enumerate(
        [([topk()], dataclasses.replace(config, lr=2e-3)), ([topk(1)], config)]
    ):
        shutil.copytree(tmp_path / "a", tmp_path / str(i))
        with pytest.warns(UserWarning, match="something else"):
            found, _ = once(members, other, tmp_path / str(i), engine="eager")
        whole, _ = once(members, other, tmp_path / f"fresh {i}", engine="eager")
        assert same_bits(bits(found.sae), bits(whole.sae))


def test_outside_of_a_context_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(topk(), world(0), TrainConfig(3, 8), generator=stream(0, "train"))
    assert list(tmp_path.iterdir()) == []


# Any instant --------------------------------------------------------------------------------------

SCRIPT = textwrap.dedent(
    """
    import dataclasses, sys
    import numpy as np, torch
    torch.set_num_threads(1)
    from sae import ReLU, Store, TopK, TrainConfig, train
    from toymodels import Independent, ToyModel, random_unit, stream

    @dataclasses.dataclass(frozen=True)
    class Config:
        seed: int = 0

    class Loud:
        # Prints a dot for each batch, so that whoever kills this process can count steps.
        def __init__(self, world):
            self.world = world
        def __call__(self, n, *, generator):
            sys.stdout.write("."); sys.stdout.flush()
            return self.world.sample(n, generator=generator).x

    def run():
        world = ToyModel(Independent(16, 0.06), random_unit(16, 12, generator=stream(0, "d")))
        arrays = {}
        for i in range(2):  # two trainings in one run
            g = stream(i, "init")
            saes = [TopK(12, 32, 2, generator=g), ReLU(12, 32, 0.1, generator=g)]
            config, generator = TrainConfig(60, 64, lr=1e-2), stream(i, "train")
            result = train(saes, Loud(world), config, generator=generator)
            for j, sae in enumerate(result.saes):
                arrays |= {f"{i}{j}{k}": v.numpy() for k, v in sae.state_dict().items()}
        return arrays

    store = Store(sys.argv[1], checkpoint_every=0.0)
    arrays = store.get_or_run("script.run", Config(), run, device_type="cpu")
    np.savez(sys.argv[2], **arrays)
    """
)
N_BATCHES = 120


def start(script, root, out):
    command = [sys.executable, str(script), str(root), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_after(process, n_batches, spins):
    """Kills the process once it has drawn `n_batches` batches and a little later; returns how many
    it has drawn, and whether it was killed before its end."""
    read = len(process.stdout.read(n_batches))
    for _ in range(spins):  # between two batches: a delay by work, not by the clock
        random.random()
    process.send_signal(signal.SIGKILL)
    read += len(process.stdout.read())
    return read, process.wait() == -signal.SIGKILL


def assert_kills_change_nothing(tmp_path, n_kills, seed):
    """Kills at random instants; then the run ends, and its bits are those of a run left alone."""
    script, draws = tmp_path / "script.py", random.Random(seed)
    script.write_text(SCRIPT)
    whole = tmp_path / "whole.npz"
    with start(script, tmp_path / "alone", whole) as process:
        assert len(process.stdout.read()) == N_BATCHES
    n_batches, n_killed = [], 0
    root, out = tmp_path / "killed", tmp_path / "out.npz"
    while n_killed < n_kills:
        if out.exists():  # the run is over: the next kills are of another one
            shutil.rmtree(root)
            assert_equal_arrays(whole, out)
            out.unlink()
        with start(script, root, out) as process:
            # Mostly a few batches on, so that one run is killed many times.
            drawn, killed = kill_after(process, draws.randint(0, 30), draws.randint(0, 100_000))
        n_batches.append(drawn)
        n_killed += killed
    with start(script, root, out) as process:
        n_batches.append(len(process.stdout.read()))
    assert_equal_arrays(whole, out)
    assert min(n_batches) < N_BATCHES  # it did go on rather than start again
    assert [path for path in (root / "checkpoints").rglob("*") if path.is_file()] == []


def assert_equal_arrays(first, second):
    first, second = np.load(first), np.load(second)
    assert sorted(first.files) == sorted(second.files) != []
    assert all(np.array_equal(first[name], second[name]) for name in first.files)


def test_two_kills_change_nothing(tmp_path):
    assert_kills_change_nothing(tmp_path, 2, 0)


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path):
    assert_kills_change_nothing(tmp_path, 20, 1)
