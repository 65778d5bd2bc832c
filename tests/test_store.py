"""The store returns what was run, runs nothing twice, and believes nothing it cannot verify."""

import json
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae import store
from sae.store import Store, describe, digest, key


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
        patch.setattr(store, "NUMERICS_VERSION", store.NUMERICS_VERSION + 1)
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

    monkeypatch.setattr(store.os, "rename", killed)
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
        stored(tmp_path, Run({"x": np.array(1.0)}))  # someone else finishes meanwhile
        return {"x": np.array(2.0)}

    assert stored(tmp_path, slow)["x"] == 1
    assert stored(tmp_path, Run({}))["x"] == 1
    assert list((tmp_path / "tmp").iterdir()) == []


def write_when_told(root: str, ready, results) -> None:
    def run() -> dict[str, np.ndarray]:
        ready.wait(timeout=60)  # both processes are inside their run at once
        return {"x": np.full(100_000, 0.1), "who": np.array(os.getpid())}

    arrays = stored(Path(root), run)
    results.put((int(arrays["who"]), float(arrays["x"].sum())))


def test_two_processes_may_write_the_same_run(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(2), context.Queue()
    arguments = (str(tmp_path), ready, results)
    both = [context.Process(target=write_when_told, args=arguments) for _ in range(2)]
    for process in both:
        process.start()
    answers = [results.get(timeout=60) for _ in both]
    for process in both:
        process.join(timeout=60)
    assert [process.exitcode for process in both] == [0, 0]
    run = Run({})
    arrays = stored(tmp_path, run)
    assert run.n_calls == 0
    assert answers == 2 * [(int(arrays["who"]), float(arrays["x"].sum()))]
    assert int(arrays["who"]) in [process.pid for process in both]
    assert list((tmp_path / "tmp").iterdir()) == []
