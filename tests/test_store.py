"""The store returns what was run, runs nothing twice, and believes nothing it cannot verify."""

import contextlib
import datetime
import errno
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae import describe as describe_file
from sae import durable, entry, locks
from sae.durable import DiskError
from sae.store import NUMERICS_VERSION, Store, default_root, describe, digest, key


@dataclass(frozen=True)
class Inner:
    firing_prob: float = 0.1


@dataclass(frozen=True)
class Twin:
    firing_prob: float = 0.1


@dataclass(frozen=True)
class Config:
    d_in: int = 4
    inner: object = Inner()
    ks: object = (1, 2)
    rows: object = None


ROOT = Path(__file__).resolve().parent.parent
TREE = describe_file.identity("tests.run", Config(), "cpu", "eager")
ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
    "number": np.array(0.1),
    "big_endian": np.array([1.5, -2.0], dtype=">f8"),
    "empty": np.zeros((0, 3)),
    "truth": np.array([True, False]),
    "count": np.array([2**62], dtype=np.int64),
    "odd": np.array([np.nan, np.inf, -0.0]),
}


class Run:
    """A run that counts its calls."""

    def __init__(self, arrays: dict[str, np.ndarray] | None = None) -> None:
        self.arrays = ARRAYS if arrays is None else arrays
        self.n_calls = 0

    def __call__(self) -> dict[str, np.ndarray]:
        self.n_calls += 1
        return self.arrays


def stored(root: Path, run: Callable, config: object = Config()) -> dict[str, np.ndarray]:
    return Store(root).get_or_run("tests.run", config, run, device_type="cpu")


def entry_of(root: Path, config: object = Config()) -> Path:
    name = key("tests.run", config, device_type="cpu")
    return root / name[:2] / name


def assert_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert set(ours) == set(theirs)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], strict=True)
        np.testing.assert_array_equal(np.signbit(ours[name]), np.signbit(theirs[name]))


# ---- keys


def test_equal_configurations_have_equal_keys():
    rows = torch.arange(4.0)
    a = key("f", Config(rows=rows.clone()), device_type="cpu")
    assert a == key("f", Config(rows=rows.clone()), device_type="cpu")
    assert len(a) == 64


@pytest.mark.parametrize(
    "other",
    [
        Config(d_in=5),
        Config(d_in=True),
        Config(d_in=4.0),  # type: ignore[arg-type]
        Config(inner=Inner(0.1 + 2**-56)),  # the next float after 0.1
        Config(inner=Twin()),
        Config(ks=(1, (2,))),
        Config(ks=(1, 2, 0)),
        Config(ks="12"),
        Config(ks=range(1, 3)),
        Config(rows=torch.zeros(2, 3)),
        Config(rows=torch.zeros(3, 2)),
        Config(rows=torch.zeros(6)),
        Config(rows=torch.zeros(2, 3, dtype=torch.float64)),
        Config(rows=torch.zeros(2, 3, dtype=torch.int32)),
        Config(rows=torch.tensor([[0.0, 0, 0], [0, 0, -0.0]])),
        Config(rows=np.zeros((2, 3))),
        Config(rows=float("nan")),
        Config(rows=float("inf")),
        Config(rows="nan"),
    ],
)
def test_a_changed_field_changes_the_key(other):
    plain = [Config(), Config(rows=torch.ones(2, 3))]
    assert key("f", other, device_type="cpu") not in [key("f", c, device_type="cpu") for c in plain]


def test_no_two_of_these_configurations_share_a_key():
    rows = [
        None,
        True,
        1,
        1.0,
        "1",
        (1,),
        ((1,),),
        range(1),
        torch.ones(1),
        np.ones(1),
        np.ones(()),
    ]
    names = {key("f", Config(rows=value), device_type="cpu") for value in rows}
    assert len(names) == len(rows)


def test_name_versions_device_and_engine_change_the_key(monkeypatch):
    config = Config()
    names = [
        key("f", config, device_type="cpu"),
        key("g", config, device_type="cpu"),
        key("f", config, device_type="cuda"),
        key("f", config, device_type="cpu", engine="fused"),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(describe_file, "NUMERICS_VERSION", NUMERICS_VERSION + 1)
        names.append(key("f", config, device_type="cpu"))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "0.0.1")
        names.append(key("f", config, device_type="cpu"))
    assert len(set(names)) == len(names)
    assert key("f", config, device_type="cpu") == names[0]


def test_the_key_does_not_depend_on_how_a_tensor_lies_in_memory():
    rows = torch.arange(6.0).reshape(2, 3)
    parameter = torch.nn.Parameter(rows)
    assert describe(rows.T.contiguous()) == describe(rows.T) == describe(parameter.T)


def test_any_layout_of_a_tensor_is_described_by_its_numbers():
    rows = torch.complex(torch.arange(4.0), torch.arange(4.0))
    assert describe(torch.empty(0, dtype=torch.float64)[::2]) == describe(torch.empty(0).double())
    assert describe(rows.conj()) == describe(rows.conj().resolve_conj()) != describe(rows)
    assert describe(rows.conj().imag) == describe(-rows.imag)


@given(st.floats(), st.floats())
def test_floats_share_a_description_only_if_they_are_the_same(a, b):
    same = (np.isnan(a) and np.isnan(b)) or np.float64(a).tobytes() == np.float64(b).tobytes()
    assert (digest(describe(a)) == digest(describe(b))) == same
    assert digest(describe(a)) == digest(
        json.loads(json.dumps(describe(a)))
    )  # what _read relies on


@pytest.mark.parametrize(
    ("value", "path", "kind"),
    [
        ([1], "config.rows", "builtins.list"),
        ({"a": 1}, "config.rows", "builtins.dict"),
        (Path("x"), "config.rows", "pathlib"),
        (len, "config.rows", "builtins.builtin_function"),
        ((1, (2, {3})), "config.rows[1][1]", "builtins.set"),
        (Config(inner=Inner([0.1])), "config.rows.inner.firing_prob", "builtins.list"),  # type: ignore[arg-type]
        (np.array([None]), "config.rows", "numpy.ndarray"),
        (np.float32(1), "config.rows", "numpy.float32"),
    ],
)
def test_what_cannot_be_hashed_is_named_with_its_type(value, path, kind):
    with pytest.raises(ValueError, match="describe: expected None") as error:
        key("f", Config(rows=value), device_type="cpu")
    assert f"got {path} of type='{kind}" in str(error.value)


def test_the_configuration_must_be_a_frozen_dataclass():
    @dataclass
    class Loose:
        d_in: int = 4

    for config in (Loose(), {"d_in": 4}, Config):
        with pytest.raises(ValueError, match="key: expected a frozen dataclass as config"):
            key("f", config, device_type="cpu")


# ---- runs


def test_a_run_is_computed_once_and_comes_back_exactly(tmp_path):
    run = Run()
    first = stored(tmp_path, run)
    again = stored(tmp_path, run)
    assert run.n_calls == 1
    assert_same(first, again)
    native = {name: array.astype(array.dtype.newbyteorder("=")) for name, array in ARRAYS.items()}
    assert_same(first, native)
    first["matrix"][0, 0] = 7  # the caller's to change
    assert_same(again, stored(tmp_path, run))


def test_another_configuration_is_another_run(tmp_path):
    a, b = Run({"x": np.array(1.0)}), Run({"x": np.array(2.0)})
    assert stored(tmp_path, a)["x"] == 1
    assert stored(tmp_path, b, replace(Config(), d_in=5))["x"] == 2
    assert stored(tmp_path, a)["x"] == 1
    assert (a.n_calls, b.n_calls) == (1, 1)


def test_a_run_without_arrays_is_a_run(tmp_path):
    run = Run({})
    assert stored(tmp_path, run) == stored(tmp_path, run) == {}
    assert run.n_calls == 1


def test_run_json_says_what_was_run(tmp_path):
    stored(tmp_path, Run())
    record = json.loads((entry_of(tmp_path) / "run.json").read_text())
    assert record["identity"]["what"] == "tests.run"
    assert record["identity"]["config"]["inner"]["firing_prob"] == 0.1
    assert record["identity"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"names": np.array(["a"])}, "names of dtype='<U1'"),
        ({"things": np.array([None])}, "things of dtype='object'"),
        ({"wide": np.zeros(2, dtype=np.complex128)}, "wide of dtype='complex128'"),
        ({"x": [1.0]}, "x of type='builtins.list'"),
        ({"x": torch.zeros(2)}, "x of type='torch.Tensor'"),
        ([np.zeros(2)], "type='builtins.list'"),
    ],
)
def test_results_that_cannot_be_stored_are_named(tmp_path, result, said):
    with pytest.raises(ValueError, match=r"tests\.run: expected") as error:
        stored(tmp_path, lambda: result)
    assert said in str(error.value)
    assert not entry_of(tmp_path).exists()


# ---- damage


def truncate(entry: Path) -> None:
    arrays = entry / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-3])


def flip_a_bit(entry: Path) -> None:
    arrays = entry / "arrays.safetensors"
    data = bytearray(arrays.read_bytes())
    data[-1] ^= 1
    arrays.write_bytes(bytes(data))


def edit_configuration(entry: Path) -> None:
    record = json.loads((entry / "run.json").read_text())
    record["identity"]["config"]["d_in"] = 8
    (entry / "run.json").write_text(json.dumps(record))


def lose_arrays(entry: Path) -> None:
    (entry / "arrays.safetensors").unlink()


def cut_record(entry: Path) -> None:
    (entry / "run.json").write_text((entry / "run.json").read_text()[:40])


def replace_record(entry: Path) -> None:
    (entry / "run.json").write_text("[]")


def swap_for_another_run(entry: Path) -> None:
    root, other = entry.parent.parent, Config(d_in=99)
    stored(root, Run({"x": np.zeros(1)}), other)
    for file in entry_of(root, other).iterdir():
        (entry / file.name).write_bytes(file.read_bytes())


def become_a_file(entry: Path) -> None:
    for file in entry.iterdir():
        file.unlink()
    entry.rmdir()
    entry.write_text("not a folder")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "does not match the checksum"),
        (flip_a_bit, "does not match the checksum"),
        (edit_configuration, "not the one its key promises"),
        (lose_arrays, "arrays.safetensors is missing"),
        (cut_record, "JSONDecodeError"),
        (replace_record, "TypeError"),
        (swap_for_another_run, "it holds another run"),
        (become_a_file, "NotADirectoryError"),
    ],
)
def test_a_damaged_entry_is_computed_again_with_one_message(tmp_path, damage, said):
    run = Run()
    first = stored(tmp_path, run)
    damage(entry_of(tmp_path))
    with pytest.warns(UserWarning, match=said) as caught:
        again = stored(tmp_path, run)
    assert [str(w.message).count("it is computed again") for w in caught] == [1]
    assert run.n_calls == 2
    assert_same(first, again)
    assert len(list((tmp_path / "broken").iterdir())) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(first, stored(tmp_path, run))
    assert run.n_calls == 2


# ---- interruption and company


def test_an_interrupted_run_leaves_nothing_and_resumes(tmp_path):
    def interrupted() -> dict[str, np.ndarray]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path, interrupted)
    assert not entry_of(tmp_path).exists()
    run = Run()
    assert_same(stored(tmp_path, run), stored(tmp_path, run))
    assert run.n_calls == 1


def test_a_run_killed_while_writing_leaves_no_half_result(tmp_path, monkeypatch):
    def killed(*paths: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry.os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path, Run())
    monkeypatch.undo()
    assert not entry_of(tmp_path).exists()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_scratch_folders_of_killed_runs_are_ignored_and_old_ones_removed(tmp_path):
    name = entry_of(tmp_path).name
    young, old = tmp_path / "tmp" / f"{name}.young", tmp_path / "tmp" / f"{name}.old"
    for scratch in (young, old):
        scratch.mkdir(parents=True)
        (scratch / "arrays.safetensors").write_bytes(b"half")
    hours_ago = time.time() - 2 * 3600
    os.utime(old, (hours_ago, hours_ago))
    run = Run()
    assert_same(stored(tmp_path, run), stored(tmp_path, run))
    assert run.n_calls == 1
    assert young.exists()  # its writer may be alive
    assert not old.exists()


def test_whoever_finishes_second_gets_the_first_result(tmp_path):
    def slow() -> dict[str, np.ndarray]:
        entry.write_entry(tmp_path, entry_of(tmp_path).name, TREE, {"x": np.array(1.0)}, 0.1)
        return {"x": np.array(2.0)}  # someone without locks has finished meanwhile

    assert stored(tmp_path, slow)["x"] == 1
    assert stored(tmp_path, Run({}))["x"] == 1
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_run_that_asks_for_itself_is_refused(tmp_path):
    """It would wait for its own lock for ever; another run may be asked for."""

    def circular() -> dict[str, np.ndarray]:
        stored(tmp_path, Run(), Config(d_in=5))
        return stored(tmp_path, circular)

    with pytest.raises(
        ValueError, match=r"a run that does not ask for itself, got run='tests\.run'"
    ):
        stored(tmp_path, circular)
    assert stored(tmp_path, Run({})) == {}  # its lock was given back
    assert list((tmp_path / "locks").iterdir()) == []


# ---- company


def lock_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(locks, "_flock", lambda handle, path, wait: True)


LOCKS = {
    "flock": lambda patch: None,
    "none on this system": lambda patch: patch.setattr(locks, "fcntl", None),
    "broken": lock_nothing,
}


def race(folder: str, start, results) -> None:
    """Asks for six runs at the same time as the others, with each kind of lock."""
    warnings.simplefilter("ignore")
    for kind, install in LOCKS.items():
        root = Path(folder, kind)
        root.mkdir(exist_ok=True)
        log = root / "log.txt"

        def run(i: int, log: Path = log) -> dict[str, np.ndarray]:
            with log.open("a") as file:
                file.write(f"{i}\n")
            patience = time.monotonic() + 0.2  # time for others to come in, if they can
            while log.read_text().split().count(str(i)) < 2 and time.monotonic() < patience:
                time.sleep(0.002)
            return {"x": np.full(10_000, 0.1 * i)}

        with pytest.MonkeyPatch.context() as patch:
            install(patch)
            for i in range(6):
                start.wait(timeout=60)
                x = stored(root, lambda i=i, run=run: run(i), Config(d_in=i))["x"]
                results.put((kind, i, float(x.sum())))


def test_four_processes_that_race_compute_each_run_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(4), context.Queue()
    racers = [context.Process(target=race, args=(str(tmp_path), start, results)) for _ in range(4)]
    for racer in racers:
        racer.start()
    answers = [results.get(timeout=60) for _ in range(4 * 6 * len(LOCKS))]
    for racer in racers:
        racer.join(timeout=60)
    assert [racer.exitcode for racer in racers] == 4 * [0]
    right = [(kind, i, float(np.full(10_000, 0.1 * i).sum())) for kind in LOCKS for i in range(6)]
    assert sorted(answers) == sorted(4 * right)
    computed = {kind: sorted((tmp_path / kind / "log.txt").read_text().split()) for kind in LOCKS}
    assert computed["flock"] == list("012345")
    for kind in ("none on this system", "broken"):  # the test would see a lock that locks nothing
        assert len(computed[kind]) > 6
    for kind in LOCKS:  # and without any the store is sound
        assert Store(tmp_path / kind).verify() == []
        assert list((tmp_path / kind / "tmp").iterdir()) == []
        assert list((tmp_path / kind / "locks").iterdir()) == []


def hold(path: str, holding) -> None:
    locks.acquire(Path(path))
    holding.set()
    time.sleep(600)


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    context = multiprocessing.get_context("spawn")
    holding, lock = context.Event(), tmp_path / "locks" / "name"
    holder = context.Process(target=hold, args=(str(lock), holding), daemon=True)
    holder.start()
    assert holding.wait(timeout=60)
    assert locks.held(lock)
    assert locks.acquire(lock, wait=False) is None
    holder.kill()
    holder.join()
    assert not locks.held(lock)
    handle = locks.acquire(lock)
    assert locks.held(lock)
    locks.release(lock, handle)
    assert not lock.exists()


def test_a_lock_is_not_held_through_a_file_that_was_removed(tmp_path):
    """A waiter may get the old file after its holder has removed it: that must not count."""
    lock, got = tmp_path / "name", []
    first = locks.acquire(lock)
    waiter = threading.Thread(target=lambda: got.append(locks.acquire(lock)))
    waiter.start()
    time.sleep(0.05)  # it is waiting for the first file now, or will come later: both are right
    locks.release(lock, first)
    waiter.join(timeout=60)
    assert locks.held(lock)
    assert locks.acquire(lock, wait=False) is None
    locks.release(lock, got[0])


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_once_and_does_not_stop_the_run(
    tmp_path, monkeypatch, code
):
    def unsupported(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    run = Run()
    with pytest.warns(UserWarning, match="no locks in .*may each compute it") as caught:
        stored(tmp_path, run)
    assert len(caught) == 1
    assert run.n_calls == 1


# ---- every byte counts


def damages(data: bytes) -> Iterator[bytes]:
    """Every byte changed, every line end made another, some ends cut off, a byte added."""
    for i, byte in enumerate(data):
        for mask in (1 << i % 8, 7) if byte == 10 else (1 << i % 8,):  # 10 ^ 7 is a line end too
            yield data[:i] + bytes([byte ^ mask]) + data[i + 1 :]
    for n in range(0, len(data), 10):
        yield data[:n]
    yield data[:-1]
    yield data + b" "


def unnoticed(path: Path) -> bool:
    """Returns whether a damage of a file of an entry can be read as if nothing were wrong."""
    data = path.read_bytes()
    assert entry.read_arrays(path.parent) is not None
    for damaged in damages(data):
        path.write_bytes(damaged)
        with contextlib.suppress(entry.Broken):
            assert entry.read_arrays(path.parent) is not None
            return True
    return False


@pytest.mark.parametrize("file", ["run.json", "arrays.safetensors"])
def test_a_flipped_bit_anywhere_is_noticed(tmp_path, file):
    stored(tmp_path, Run({"x": np.array([1.5, -2.0])}))
    assert not unnoticed(entry_of(tmp_path) / file)


@pytest.mark.parametrize(
    ("file", "name"), [("run.json", "_sealed"), ("arrays.safetensors", "hashlib")]
)
def test_without_its_checksum_a_flipped_bit_would_pass(tmp_path, monkeypatch, file, name):
    stored(tmp_path, Run({"x": np.array([1.5, -2.0])}))
    anything = SimpleNamespace(sha256=lambda data: SimpleNamespace(hexdigest=lambda: ANY))
    twin = {"_sealed": lambda record: ANY, "hashlib": anything}[name]
    monkeypatch.setattr(entry, name, twin)
    assert unnoticed(entry_of(tmp_path) / file)


# ---- a disk that refuses


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path, monkeypatch):
    first, calls = stored(tmp_path, Run(), Config(d_in=1)), 0
    for i_refused in range(6):  # arrays, run.json, and four folders
        calls = 0

        def full(handle: int, i_refused: int = i_refused) -> None:
            nonlocal calls
            calls += 1
            if calls > i_refused:
                raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(durable.os, "fsync", full)
            if i_refused == 5:
                stored(tmp_path, Run())
                break
            with pytest.raises(DiskError) as error:
                stored(tmp_path, Run())
        said = str(error.value)
        assert said.startswith("Store: cannot store tests.run (")
        assert said.endswith("No space left on device; free some space or choose another folder")
        assert str(tmp_path) in said
        assert error.value.errno == errno.ENOSPC
        assert error.value.__suppress_context__
        assert list((tmp_path / "tmp").iterdir()) == []  # it has taken no space
        assert Store(tmp_path).verify() == []
        assert_same(first, stored(tmp_path, Run({}), Config(d_in=1)))
    run = Run()
    assert_same(stored(tmp_path, run), first)


def limited(root: str, results) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        stored(Path(root), lambda: {"x": np.zeros(10_000)})
    except DiskError as error:
        results.put(str(error))
    stored(Path(root), Run(), Config(d_in=1))  # a smaller one fits


def test_a_file_that_is_cut_off_by_the_system_is_not_stored(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=limited, args=(str(tmp_path), results))
    process.start()
    said = results.get(timeout=60)
    process.join(timeout=60)
    assert process.exitcode == 0
    assert "File too large; free some space" in said
    assert [e.path for e in Store(tmp_path).entries()] == [entry_of(tmp_path, Config(d_in=1))]
    assert Store(tmp_path).verify() == []
    assert list((tmp_path / "tmp").iterdir()) == []


SMALL_DISK = """
import errno, os, subprocess, sys
import numpy as np
from dataclasses import dataclass
from sae.store import DiskError, Store

@dataclass(frozen=True)
class Config:
    i: int

def ask(i, size=2000):
    return Store(sys.argv[1]).get_or_run("f", Config(i), lambda: calls.append(i) or
        {"x": np.full(size, float(i))}, device_type="cpu")["x"].sum()

calls = []
mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", sys.argv[1]]
if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
    sys.exit(77)
ask(0)
for i in range(1, 99):
    try:
        ask(i)
    except DiskError as error:
        assert error.errno == errno.ENOSPC, error
        print("full:", error)
        break
n = len(Store(sys.argv[1]).entries())
assert n == i > 2 and Store(sys.argv[1]).verify() == []
assert len(Store(sys.argv[1]).prune(older_than=0)) >= n  # room can be made on a full disk
ask(0)
calls.clear()
assert not subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]]).returncode
assert ask(0) == 0 and calls == []
try:
    ask(1)
except DiskError as error:
    assert error.errno == errno.EROFS and calls == [], (error, calls)
    print("read-only:", error)
assert len(Store(sys.argv[1]).entries()) == 1 and Store(sys.argv[1]).verify() == []
"""


def test_a_real_full_and_a_real_read_only_disk(tmp_path):
    """A file system of 256 KiB in a name space of its own, then mounted read-only."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    command = ["unshare", "-rm", sys.executable, "-c", SMALL_DISK, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no name spaces for users here")
    assert done.returncode == 0, done.stderr
    full, read_only = done.stdout.splitlines()
    assert full.endswith("free some space or choose another folder")
    assert read_only.endswith("Read-only file system; make it writable or choose another folder")


def test_a_folder_without_permission_is_refused_before_the_run(tmp_path):
    run = Run()
    stored(tmp_path, run, Config(d_in=1))
    (tmp_path / "locks").rmdir()
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        stored(tmp_path, run, Config(d_in=1))
        with pytest.raises(DiskError, match="make it writable or choose another folder"):
            stored(tmp_path, run)
    finally:
        tmp_path.chmod(0o700)
    assert run.n_calls == 1


# ---- upkeep


def age(path: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def test_entries_say_what_is_stored(tmp_path):
    assert Store(tmp_path).entries() == []
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    for d_in in (7, 8):
        stored(tmp_path, Run(), Config(d_in=d_in))
    flip_a_bit_of(entry_of(tmp_path, Config(d_in=8)) / "run.json")
    (only,) = Store(tmp_path).entries()
    assert only.key == key("tests.run", Config(d_in=7), device_type="cpu")
    assert (only.what, only.config) == ("tests.run", describe(Config(d_in=7)))
    assert (only.numerics_version, only.torch) == (NUMERICS_VERSION, torch.__version__)
    assert (only.numpy, only.engine, only.device_type) == (np.__version__, "eager", "cpu")
    assert only.n_bytes == sum(file.stat().st_size for file in only.path.iterdir())
    assert before <= datetime.datetime.fromisoformat(only.when)
    assert 0 <= only.age() < 1
    assert only.seconds >= 0


def flip_a_bit_of(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def test_verify_names_the_broken_ones_and_moves_them_only_if_asked(tmp_path):
    kept = stored(tmp_path, Run(), Config(d_in=1))
    for d_in in (2, 3):
        stored(tmp_path, Run(), Config(d_in=d_in))
    broken = [entry_of(tmp_path, Config(d_in=2)), entry_of(tmp_path, Config(d_in=3))]
    flip_a_bit_of(broken[0] / "arrays.safetensors")
    lose_arrays(broken[1])
    for move in (False, True):
        found = Store(tmp_path).verify(move=move)
        assert {thing.path: thing.why for thing in found} == {
            broken[0]: "ValueError: arrays.safetensors does not match the checksum in run.json",
            broken[1]: "arrays.safetensors is missing",
        }
        assert [path.exists() for path in broken] == 2 * [not move]
    assert Store(tmp_path).verify() == []
    assert len(list((tmp_path / "broken").iterdir())) == 2
    assert_same(kept, stored(tmp_path, Run({}), Config(d_in=1)))


def test_a_broken_entry_is_moved_only_by_who_holds_its_lock(tmp_path):
    """Another process may just be about to put a sound one in its place."""
    stored(tmp_path, Run())
    flip_a_bit(entry_of(tmp_path))
    read = Store(tmp_path).read("tests.run", Config(), device_type="cpu")
    assert read is None
    assert entry_of(tmp_path).exists()
    lock = tmp_path / "locks" / entry_of(tmp_path).name
    handle = locks.acquire(lock)
    assert len(Store(tmp_path).verify(move=True)) == 1
    assert entry_of(tmp_path).exists()
    locks.release(lock, handle)


def pruned(root: Path, **options) -> set[tuple[str, str]]:
    """Prunes dry, then for good; returns what went, and sees that it did and nothing else."""
    before = {path for path in root.rglob("*")}
    said = Store(root).prune(dry_run=True, **options)
    assert {path for path in root.rglob("*")} == before
    done = Store(root).prune(**options)
    assert said == done
    gone = [found.path for found in done]
    inside = {path for path in before if any(top in (path, *path.parents) for top in gone)}
    after = {path for path in root.rglob("*")} - {root / "tmp", root / "locks"}
    assert after == before - inside - {root / "tmp", root / "locks"}
    return {(found.path.relative_to(root).parts[0][:5], found.why) for found in done}


def test_prune_removes_what_killed_processes_left_and_no_more(tmp_path):
    stored(tmp_path, Run())
    name, other = entry_of(tmp_path).name, entry_of(tmp_path, Config(d_in=5)).name
    for folder in (name, other):
        (tmp_path / "checkpoints" / folder).mkdir(parents=True)
        (tmp_path / "checkpoints" / folder / "0").write_bytes(b"state")
    for scratch in ("old", "young"):
        (tmp_path / "tmp" / f"{other}.{scratch}").mkdir()
    age(tmp_path / "tmp" / f"{other}.old", 0.1)
    (tmp_path / "locks" / other).touch()
    assert pruned(tmp_path) == {
        ("check", "checkpoints of a run that is stored"),
        ("tmp", "scratch of a killed process"),
        ("locks", "lock of a killed process"),
    }
    assert (tmp_path / "checkpoints" / other).exists()  # from there it resumes
    assert pruned(tmp_path) == set()


def test_prune_removes_other_versions_and_old_runs_if_asked(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "0.0.1")
        stored(tmp_path, Run())
    stored(tmp_path, Run())
    stored(tmp_path, Run(), Config(d_in=5))
    flip_a_bit(entry_of(tmp_path, Config(d_in=5)))
    Store(tmp_path).verify(move=True)
    (tmp_path / "checkpoints" / ("0" * 64)).mkdir(parents=True)
    age(tmp_path / "checkpoints" / ("0" * 64), 3)
    age(next((tmp_path / "broken").iterdir()), 3)
    assert pruned(tmp_path, older_than=4) == set()
    old = "older than 2 days"
    assert pruned(tmp_path, older_than=2) == {
        ("check", f"unfinished, {old}"),
        ("broke", f"broken, {old}"),
    }
    ((where, why),) = pruned(tmp_path, other_versions=True)
    assert why == f"made by numerics version {NUMERICS_VERSION}, torch 0.0.1"
    ((where, why),) = pruned(tmp_path, older_than=0)
    assert (where, why) == (entry_of(tmp_path).parent.name, "older than 0 days")
    assert Store(tmp_path).entries() == []
    with pytest.raises(ValueError, match=r"expected older_than >= 0 days, got older_than=-1"):
        Store(tmp_path).prune(older_than=-1)


def test_prune_leaves_a_run_alone_that_is_being_computed(tmp_path):
    stored(tmp_path, Run())
    lock = tmp_path / "locks" / entry_of(tmp_path).name
    handle = locks.acquire(lock)
    for dry_run in (True, False):
        assert Store(tmp_path).prune(older_than=0, dry_run=dry_run) == []
    locks.release(lock, handle)
    assert entry_of(tmp_path).exists()
    assert len(Store(tmp_path).prune(older_than=0)) == 1


def test_the_folder_of_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("SAE_TESTBED_RUNS", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("SAE_TESTBED_RUNS")
    assert default_root() == ROOT / "figures" / "out" / "runs"
