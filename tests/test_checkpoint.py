"""A checkpoint comes back bit for bit or not at all, and no crash loses the last one."""

import errno
import hashlib
import multiprocessing
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import sae.store
from sae import checkpoint as file_of
from sae import durable, entry
from sae.checkpoint import Checkpoint, checkpoints_in, next_checkpoint
from sae.store import Store, key
from toymodels import stream

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64)
DTYPES += (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
FORK = multiprocessing.get_context("fork")  # no imports again: a crash every few milliseconds
STATE = {"W_dec": torch.tensor([[0.1, -0.0], [torch.nan, torch.inf]]), "step": torch.tensor(3)}


def bits(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    plain = torch.empty(tensor.shape, dtype=tensor.dtype)
    plain.copy_(tensor.detach())
    return tensor.dtype, tuple(tensor.shape), plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return {n: bits(t) for n, t in ours.items()} == {n: bits(t) for n, t in theirs.items()}


# ---- round trip

FINITE = st.floats(allow_nan=False, allow_infinity=False)
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda t: t,
    "transposed": lambda t: t.mT if t.ndim > 1 else t,
    "every second": lambda t: t[::2] if t.ndim else t,
    "repeated": lambda t: t.expand(3, *t.shape),
    "conjugate": lambda t: t.conj(),
    "part of a conjugate": lambda t: t.conj().imag if t.is_complex() else t,  # a negative view
    "a parameter": lambda t: torch.nn.Parameter(t) if t.is_floating_point() else t,
}


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any bits (NaNs with their payloads, too) in any dtype, shape and layout."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    n_bytes = torch.Size(shape).numel() * dtype.itemsize
    data = bytearray(draw(st.binary(min_size=n_bytes, max_size=n_bytes)))
    if dtype == torch.bool:
        data = bytearray(byte & 1 for byte in data)
    flat = torch.frombuffer(data, dtype=dtype) if n_bytes else torch.empty(0, dtype=dtype)
    return LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](flat.reshape(shape))


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(min_size=1, max_size=4), tensors(), max_size=4), trees, trees)
def test_what_is_written_is_read_bit_for_bit(tmp_path_factory, state, record, identity):
    state.pop("__metadata__", None)
    path = tmp_path_factory.mktemp("round") / "deeper" / "0"
    Checkpoint(path, identity).write(state, record)
    read = Checkpoint(path, identity).read()
    assert read is not None
    assert same(read[0], state)
    assert read[1] == record
    assert [file.name for file in path.parent.iterdir()] == ["0"]  # no scratch


def test_views_that_share_memory_are_written_and_read_apart(tmp_path):
    whole = torch.arange(6.0)
    state = {"whole": whole, "half": whole[:3], "same": whole}
    Checkpoint(tmp_path / "0", {}).write(state, None)
    read = Checkpoint(tmp_path / "0", {}).read()
    assert read is not None
    assert same(read[0], state)
    read[0]["whole"].zero_()
    assert same({"half": read[0]["half"]}, {"half": whole[:3]})


def test_a_generator_goes_on_where_it_was(tmp_path):
    generator = torch.Generator().manual_seed(3)
    torch.rand(100, generator=generator)
    Checkpoint(tmp_path / "0", {}).write({"state": generator.get_state()}, {"fvu": float("inf")})
    expected = torch.rand(5, generator=generator)
    read = Checkpoint(tmp_path / "0", {}).read()
    assert read is not None
    assert read[1] == {"fvu": float("inf")}
    other = torch.Generator()
    other.set_state(read[0]["state"])
    assert torch.equal(torch.rand(5, generator=other), expected)


def test_tensors_that_cannot_be_written_are_named(tmp_path):
    for tensor in (torch.eye(2).to_sparse(), torch.zeros(2, dtype=torch.complex128)):
        with pytest.raises(ValueError, match=r"Checkpoint: expected dense tensors.*got moment="):
            Checkpoint(tmp_path / "0", {}).write({"moment": tensor}, None)
    with pytest.raises(ValueError, match="expected every >= 0 seconds, got every=-1"):
        Checkpoint(tmp_path / "0", {}, every=-1)


# ---- when


def test_due_counts_from_the_start_and_from_the_last_write(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(file_of.time, "monotonic", lambda: now)
    checkpoint, seen = Checkpoint(tmp_path / "0", {}, every=30), []
    for now in (100, 130, 130.5, 131, 161, 161.5):
        seen.append(checkpoint.due())
        if now == 131:
            checkpoint.write(STATE, None)
    assert seen == [False, False, True, True, False, True]


# ---- what cannot be used


def test_nothing_there_is_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Checkpoint(tmp_path / "deep" / "0", {}).read() is None
        Checkpoint(tmp_path / "deep" / "0", {}).remove()
    assert not (tmp_path / "deep").exists()


def used(path: Path, identity: object = None) -> bool:
    """Whether a checkpoint is used; if not, sees that one warning says so and keeps the file."""
    data = path.read_bytes() if path.is_file() else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if Checkpoint(path, identity).read() is not None:
            return True
    (said,) = [str(warning.message) for warning in caught]
    assert "and the training starts again" in said
    assert not path.exists()
    (kept,) = path.parent.glob("0.*.broken")
    assert data is None or kept.read_bytes() == data
    kept.unlink() if kept.is_file() else kept.rmdir()
    return False


def damages(data: bytes) -> Iterator[bytes]:
    for i, byte in enumerate(data):
        for mask in (1 << i % 8, 1 << (i + 3) % 8):
            yield data[:i] + bytes([byte ^ mask]) + data[i + 1 :]
    for n in range(0, len(data), 10):
        yield data[:n]
    yield data[:-1]
    yield data + b"0"


def test_a_flipped_bit_anywhere_or_a_cut_is_noticed(tmp_path):
    path = tmp_path / "0"
    Checkpoint(path, None).write(STATE, {"step": 3})
    data = path.read_bytes()
    assert used(path)
    for damaged in damages(data):
        path.write_bytes(damaged)
        assert not used(path)


def test_without_the_checksum_a_flipped_bit_would_pass(tmp_path, monkeypatch):
    path = tmp_path / "0"
    Checkpoint(path, None).write(STATE, {"step": 3})
    data = path.read_bytes()
    anything = SimpleNamespace(encode=lambda: ANY)
    twin = SimpleNamespace(sha256=lambda body: SimpleNamespace(hexdigest=lambda: anything))
    monkeypatch.setattr(file_of, "hashlib", twin)
    passed = 0
    for damaged in damages(data):
        path.write_bytes(damaged)
        passed += used(path)
    assert passed > 100  # most of the numbers and of the seal itself


def sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).hexdigest().encode()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(b""), "it does not match its checksum"),
        (lambda path: path.write_bytes(sealed(b"")), "it is no checkpoint"),
        (lambda path: path.write_bytes(sealed(b"\x02" + 7 * b"\x00" + b"{}")), "no checkpoint"),
        (lambda path: path.write_bytes(sealed(8 * b"\xff")), "it is no checkpoint"),
        (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
        (lambda path: Checkpoint(path, {"lr": 2}).write(STATE, None), "it is of something else"),
    ],
)
def test_what_is_foreign_is_set_aside_with_its_reason(tmp_path, damage, said):
    path = tmp_path / "0"
    Checkpoint(path, {"lr": 1}).write(STATE, None)
    damage(path)
    checkpoint = Checkpoint(path, {"lr": 1})
    with pytest.warns(UserWarning, match=said) as caught:
        assert checkpoint.read() is None
    assert len(caught) == 1
    checkpoint.write(STATE, 5)
    read = checkpoint.read()
    assert read is not None
    assert read[1] == 5


# ---- contexts


def test_calls_of_a_context_are_told_apart_by_their_order(tmp_path):
    assert next_checkpoint({}) is None
    for _ in range(2):  # the second time is who resumes
        with checkpoints_in(tmp_path / "outer", every=7):
            first, second = next_checkpoint({"a": 1}), next_checkpoint({"a": 1})
            with checkpoints_in(tmp_path / "inner"):
                inner = next_checkpoint({})
            third = next_checkpoint({})
        given_out = [first, second, inner, third]
        places = [c.path.relative_to(tmp_path).as_posix() for c in given_out if c is not None]
        assert places == ["outer/0", "outer/1", "inner/0", "outer/2"]
        assert [c.every for c in given_out if c is not None] == [7, 7, 30, 7]
    assert next_checkpoint({}) is None
    assert list(tmp_path.iterdir()) == []  # nothing is made before it is written


@dataclass(frozen=True)
class Training:
    """Two trainings after each other; each step takes the last state to the next."""

    n_steps: int = 4

    def trained(self, start: float) -> float:
        checkpoint = next_checkpoint({"start": start})
        read = None if checkpoint is None else checkpoint.read()
        state = {"x": torch.tensor(start, dtype=torch.float64)} if read is None else read[0]
        for step in range(0 if read is None else read[1], self.n_steps):
            state = {"x": (state["x"] * 1.7 + step) % 1}
            STEPS.append(step)
            if checkpoint is not None and checkpoint.due():
                checkpoint.write(state, step + 1)
        return float(state["x"])

    def __call__(self) -> dict[str, np.ndarray]:
        first = self.trained(0.1)
        return {"x": np.array([first, self.trained(first)])}


STEPS: list[int] = []


def trained(root: Path, config: Training = Training()) -> dict[str, np.ndarray]:
    store = Store(root, checkpoint_every=0)
    return store.get_or_run("tests.training", config, config, device_type="cpu")


def test_a_stored_run_resumes_and_cleans_up(tmp_path, monkeypatch):
    config = Training()
    folder = tmp_path / "checkpoints" / key("tests.training", config, device_type="cpu")
    expected = config()["x"]
    STEPS.clear()

    def crash(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(file_of, "write_whole", lambda *a: (durable.write_whole(*a), n_more(crash)))
        remaining = 6

        def n_more(then: Callable) -> None:
            nonlocal remaining
            remaining -= 1
            if remaining == 0:
                then()

        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path)
    assert STEPS == [0, 1, 2, 3, 0, 1]
    assert sorted(file.name for file in folder.iterdir()) == ["0", "1"]
    np.testing.assert_array_equal(trained(tmp_path)["x"], expected, strict=True)
    assert STEPS == [0, 1, 2, 3, 0, 1, 2, 3]  # each step once; the first training not again
    assert not folder.exists()


def test_a_run_that_cannot_be_stored_keeps_its_checkpoints(tmp_path, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sae.store, "write_entry", full)
        with pytest.raises(sae.store.DiskError, match="free some space"):
            trained(tmp_path)
    STEPS.clear()
    np.testing.assert_array_equal(trained(tmp_path)["x"], Training()()["x"], strict=True)
    assert STEPS == list(range(4)) * 2  # those of the comparison: both trainings were kept


# ---- a disk that refuses


@pytest.mark.parametrize(
    ("code", "cause"),
    [(errno.ENOSPC, "No space left on device"), (errno.EROFS, "Read-only file system")],
)
def test_a_disk_that_refuses_is_said_once_and_the_training_goes_on(
    tmp_path, monkeypatch, code, cause
):
    calls, expected = 0, Training()()["x"]

    def refuse_from_the_third_on(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 4:  # two for each: the file and its folder
            raise OSError(code, os.strerror(code))

    Checkpoint(tmp_path / "other", {}).write(STATE, 1)
    with checkpoints_in(tmp_path / "deep", every=0), monkeypatch.context() as patch:
        patch.setattr(durable.os, "fsync", refuse_from_the_third_on)
        with pytest.warns(UserWarning, match="Checkpoint: cannot write to ") as caught:
            found = Training()()["x"]
    np.testing.assert_array_equal(found, expected, strict=True)
    (said,) = [str(warning.message) for warning in caught]
    assert f"{tmp_path / 'deep'} ({cause}); training goes on without checkpoints" in said
    assert calls == 5  # the disk is not asked again
    with checkpoints_in(tmp_path / "deep"):
        last = next_checkpoint({"start": 0.1})
    assert last is not None
    read = last.read()
    assert read is not None
    assert read[1] == 2  # the last one that was written, whole
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["0", "deep", "other"]


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("in the way")
    checkpoint = Checkpoint(tmp_path / "file" / "0", {}, every=0)
    with pytest.warns(UserWarning, match="training goes on without checkpoints"):
        checkpoint.write(STATE, 1)
    assert not checkpoint.due()


# ---- crashes


def at_each_system_call(act: Callable[[], None], n: int) -> None:
    """Runs `act` and dies by SIGKILL just before its n-th call that changes the disk.

    The disk is as bad as disks may be. A file at whose fsync the process dies loses its second
    half, and so does one that is renamed, or whose folder is, before it was synced.
    """
    left, synced = n, set()

    def deadly(module: object, name: str) -> None:
        real = getattr(module, name)

        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                if name == "fsync" and os.path.isfile(f"/proc/self/fd/{arguments[0]}"):
                    os.truncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            if name == "fsync":
                synced.add(os.fstat(arguments[0]).st_ino)
            if name == "rename":
                for file in [Path(arguments[0]), *Path(arguments[0]).rglob("*")]:
                    if file.is_file() and file.stat().st_ino not in synced:
                        os.truncate(file, file.stat().st_size // 2)
            return real(*arguments, **options)

        setattr(module, name, call)

    for name in ("fsync", "rename", "mkdir", "unlink", "rmdir", "open"):
        deadly(os, name)
    act()


def dies(act: Callable[[], None], n: int) -> bool:
    process = FORK.Process(target=at_each_system_call, args=(act, n))
    process.start()
    process.join(timeout=60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def last_survives(folder: Path) -> bool:
    """Whether at each crash while the second is written the first or the second is there."""
    for n in range(1, 100):
        path = folder / str(n) / "0"
        path.parent.mkdir(parents=True)
        Checkpoint(path, {}).write(STATE, 1)
        more = {**STATE, "more": torch.ones(100)}
        died = dies(lambda path=path, more=more: Checkpoint(path, {}).write(more, 2), n)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = Checkpoint(path, {}).read()
        if read is None or not same(read[0], STATE if read[1] == 1 else more):
            return False
        assert [file.name for file in path.parent.iterdir()] == ["0"]  # scratch is gone
        if not died:
            assert n > 4
            return read[1] == 2
    raise AssertionError("it never ends")


def test_the_last_checkpoint_survives_a_crash_at_every_step_of_writing_the_next(
    tmp_path, monkeypatch
):
    assert last_survives(tmp_path / "whole")
    monkeypatch.setattr(file_of, "write_whole", durable.write_synced)
    assert not last_survives(tmp_path / "in place")


def sound_after_each_crash(folder: Path, config: Training) -> bool:
    """Whether a run that dies at any of its system calls leaves a sound store and then resumes."""
    expected = config()["x"]
    for n in range(1, 1000):
        root = folder / str(n)
        died = dies(lambda root=root: trained(root, config), n)
        if Store(root).verify():
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing is found broken
            np.testing.assert_array_equal(trained(root, config)["x"], expected, strict=True)
        Store(root).prune()  # the last crashes come after the result is stored
        assert not any((root / "checkpoints").iterdir())
        assert not any((root / "locks").iterdir())
        if not died:
            assert n > 20
            return True
    raise AssertionError("it never ends")


def test_a_run_killed_before_each_of_its_system_calls_ends_with_the_same_bits(
    tmp_path, monkeypatch
):
    assert sound_after_each_crash(tmp_path / "whole", Training(2))

    def in_place(root: Path, name: str) -> Path:
        entry.entry_path(root, name).mkdir(parents=True, exist_ok=True)
        return entry.entry_path(root, name)

    monkeypatch.setattr(entry, "_scratch", in_place)
    monkeypatch.setattr(entry, "shutil", SimpleNamespace(rmtree=lambda *a, **o: None))
    assert not sound_after_each_crash(tmp_path / "in place", Training(2))


def test_a_file_that_is_not_synced_would_be_lost(tmp_path, monkeypatch):
    def unsynced(path: Path, data: bytes) -> None:
        path.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "write_synced", unsynced)
        assert not last_survives(tmp_path / "checkpoint")
    monkeypatch.setattr(entry, "write_synced", unsynced)
    assert not sound_after_each_crash(tmp_path / "run", Training(1))


def crowd(root: str) -> None:
    """Computes ten runs, with a checkpoint after every step."""
    for i in range(1, 11):
        trained(Path(root), Training(30 * i))


@pytest.mark.slow
def test_twenty_kills_at_random_instants_leave_a_sound_store_and_the_same_bits(tmp_path):
    root, instants, n_kills = tmp_path / "runs", stream(0, "kills"), 0
    while n_kills < 20:
        process = FORK.Process(target=crowd, args=(str(root),))
        process.start()
        process.join(timeout=0.02 + 0.4 * float(torch.rand((), generator=instants)))
        if process.exitcode is None:
            process.kill()
            n_kills += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode == 0:  # all done: the rest of the kills need another store
            shutil.rmtree(root)
        assert Store(root).verify() == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(1, 11):
            found = trained(root, Training(30 * i))["x"]
            np.testing.assert_array_equal(found, Training(30 * i)()["x"], strict=True)
