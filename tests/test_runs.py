"""Many runs: in order, each computed once, whatever becomes of the others."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae.durable import DiskError
from sae.runs import RunsFailed, map_runs
from sae.store import Store

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Work:
    """What `work` does, besides its lines in the log: "", or how it ends."""

    i: int
    log: str
    ends: str = ""


def work(config: Work) -> dict[str, np.ndarray]:
    with Path(config.log).open("a") as file:
        file.write(f"{config.i}\n")
    n_tries = logged(Path(config.log))[config.i]
    if config.ends == "raises":
        raise ArithmeticError(f"no square of {config.i}\nand more")
    if config.ends == "is killed" or (config.ends == "is killed once" and n_tries == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if config.ends == "exits":
        os._exit(3)
    about = [torch.get_num_threads(), os.getpid()]
    return {"square": np.array(config.i**2), "about": np.array(about)}


def logged(log: Path) -> Counter:
    return Counter(map(int, log.read_text().split())) if log.exists() else Counter()


def mapped(folder: Path, configs: list, **options) -> list[dict[str, np.ndarray]]:
    return map_runs(work, configs, store=Store(folder / "runs"), device_type="cpu", **options)


def works(folder: Path, *numbers: int, **ends: int) -> list[Work]:
    """Work for each number; `is_killed=3` says how number 3 ends."""
    how = {i: name.replace("_", " ") for name, i in ends.items()}
    return [Work(i, str(folder / "log.txt"), how.get(i, "")) for i in numbers]


# ---- one after the other


@given(st.lists(st.integers(0, 5), max_size=8), st.lists(st.integers(0, 5), max_size=3))
def test_results_come_in_order_and_each_run_is_computed_once(tmp_path_factory, numbers, before):
    folder = tmp_path_factory.mktemp("map")
    mapped(folder, works(folder, *before))
    told: list[str] = []
    results = mapped(folder, works(folder, *numbers), progress=told.append)
    assert [int(result["square"]) for result in results] == [i**2 for i in numbers]
    assert logged(folder / "log.txt") == Counter({*numbers, *before})
    new = len(set(numbers) - set(before))
    assert Counter(told) == Counter({"computed": new, "stored": len(numbers) - new})
    for result in results:  # each the caller's own
        result["square"] += 1
    again = mapped(folder, works(folder, *numbers))
    assert [int(result["square"]) for result in again] == [i**2 for i in numbers]


def test_a_broken_entry_is_computed_again(tmp_path):
    mapped(tmp_path, works(tmp_path, 1, 2))
    (entry, _) = Store(tmp_path / "runs").entries()
    (entry.path / "run.json").write_text("{}")
    with pytest.warns(UserWarning, match="it is computed again"):
        results = mapped(tmp_path, works(tmp_path, 1, 2))
    assert [int(result["square"]) for result in results] == [1, 4]
    assert logged(tmp_path / "log.txt") == Counter([1, 2, entry.config["i"]])


def test_an_exception_is_told_at_the_end_and_stops_nothing(tmp_path):
    told: list[str] = []
    configs = works(tmp_path, 1, 2, 3, 2, raises=2)
    with pytest.raises(RunsFailed) as error:
        mapped(tmp_path, configs, progress=told.append)
    assert str(error.value).splitlines() == [
        "map_runs: 1 of 3 runs failed, all others are stored",
        f"  {configs[1]!r}: ArithmeticError: no square of 2",
    ]
    assert error.value.causes == [(configs[1], "ArithmeticError: no square of 2")]
    assert "raise ArithmeticError(f" in error.value.__notes__[0]  # where it was raised
    assert told == ["computed", "failed", "computed"]
    assert logged(tmp_path / "log.txt") == Counter([1, 2, 3])
    assert len(Store(tmp_path / "runs").entries()) == 2


def test_ctrl_c_is_not_taken_for_a_failure(tmp_path, monkeypatch):
    def interrupted(config: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[__name__], "logged", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mapped(tmp_path, works(tmp_path, 1, 2))


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_a_disk_that_refuses_stops_everything(tmp_path, executor):
    (tmp_path / "runs").write_text("a file is in the way")
    with pytest.raises(DiskError, match=r"Store: cannot store .*work.* choose another"):
        mapped(tmp_path, works(tmp_path, 1, 2), executor=executor, n_processes=1)
    assert not (tmp_path / "log.txt").exists()
    assert multiprocessing.active_children() == []


def main_function(config: Work) -> dict[str, np.ndarray]:
    return {}


main_function.__module__ = "__main__"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"run": lambda config: {}},
            "a named function at module level, got run='.*lambda",
        ),
        ({"run": main_function}, "at module level, got run='__main__.main_function'"),
        ({"run": object()}, "expected a named function at module level"),
        ({"configs": [Work(1, "log"), Work([1], "log")]}, r"got config.i of type='builtins.list'"),  # type: ignore[arg-type]
        ({"configs": [Work(1, "log"), 3]}, "key: expected a frozen dataclass as config"),
        (
            {"executor": "threads"},
            r"one of \('serial', 'processes', 'ray'\), got executor=",
        ),
        ({"executor": "processes", "n_processes": 0}, "an integer n_processes >= 1"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_runs(
    tmp_path, unchecked, monkeypatch, change, said
):
    monkeypatch.chdir(tmp_path)
    call = {"run": work, "configs": [Work(1, "log")], "store": Store("runs"), "device_type": "cpu"}
    with pytest.raises(ValueError, match=said):
        map_runs(**{**call, **change})
    assert list(tmp_path.iterdir()) == []


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"needs ray; install the \[scale\] extra"):
        mapped(tmp_path, works(tmp_path, 1), executor="ray")
    mapped(tmp_path, works(tmp_path, 1))
    mapped(tmp_path, works(tmp_path, 1), executor="serial")


# ---- in other processes


def test_whatever_becomes_of_some_the_others_are_computed_once(tmp_path):
    """Of six runs on two workers one is killed each time, one once, one exits and one raises."""
    ends = {"is_killed": 2, "is_killed_once": 3, "exits": 4, "raises": 5}
    configs = works(tmp_path, 1, 2, 3, 4, 5, 6, 1, **ends)
    told: list[str] = []
    with pytest.raises(RunsFailed) as error:
        mapped(tmp_path, configs, executor="processes", n_processes=2, progress=told.append)
    said = str(error.value).splitlines()
    assert said[0] == "map_runs: 3 of 6 runs failed, all others are stored"
    assert said[1:] == [
        f"  {configs[1]!r}: its process was ended by signal 9 (out of memory?), twice",
        f"  {configs[3]!r}: its process ended with code 3, twice",
        f"  {configs[4]!r}: ArithmeticError: no square of 5",
    ]
    assert Counter(told) == Counter(computed=3, failed=3)
    assert logged(tmp_path / "log.txt") == Counter({1: 1, 2: 2, 3: 2, 4: 2, 5: 1, 6: 1})
    assert sorted(e.config["i"] for e in Store(tmp_path / "runs").entries()) == [1, 3, 6]
    assert Store(tmp_path / "runs").verify() == []
    assert multiprocessing.active_children() == []
    results = mapped(tmp_path, works(tmp_path, 1, 3, 6, 1, **ends))  # all of them stored
    assert [int(result["square"]) for result in results] == [1, 9, 36, 1]
    assert {int(result["about"][0]) for result in results} == {1}  # one torch thread
    assert os.getpid() not in {int(result["about"][1]) for result in results}


def test_stopping_ends_the_workers(tmp_path):
    def stop(where: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as error:
        mapped(tmp_path, works(tmp_path, 1, 2), executor="processes", n_processes=1, progress=stop)
    left = multiprocessing.active_children()
    for process in left:  # pytest would wait for them
        process.kill()
    assert left == []  # although the traceback keeps all frames alive
    assert error.value.args == ()
    assert len(Store(tmp_path / "runs").entries()) >= 1


def test_what_a_worker_cannot_import_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "__qualname__", "no_such_function")
    with pytest.raises(ValueError, match=r"a function to import, got .*no_such_function \(Attrib"):
        mapped(tmp_path, works(tmp_path, 1), executor="processes", n_processes=1)
    assert multiprocessing.active_children() == []


def test_a_configuration_that_cannot_be_sent_fails_alone(tmp_path):
    @dataclass(frozen=True)
    class Local(Work):
        """Its class lies in a function, where no other process finds it."""

    configs = [Local(1, str(tmp_path / "log.txt")), *works(tmp_path, 2)]
    with pytest.raises(RunsFailed, match=r"1 of 2 runs failed(.|\n)*cannot be sent to a process"):
        mapped(tmp_path, configs, executor="processes", n_processes=1)
    assert logged(tmp_path / "log.txt") == Counter([2])


def paths() -> str:
    """What a new interpreter needs to import this file."""
    given = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([str(ROOT), str(ROOT / "tests"), given]).rstrip(os.pathsep)


UNGUARDED = """
import test_runs
from pathlib import Path
test_runs.mapped(Path("."), test_runs.works(Path("."), 1, 2, 3), executor="processes")
"""


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_so_and_ends(tmp_path):
    (tmp_path / "script.py").write_text(UNGUARDED)
    command, environment = [sys.executable, "script.py"], {**os.environ, "PYTHONPATH": paths()}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "worker processes end before they are ready; a script must guard" in done.stderr


def test_ray_computes_what_the_others_compute(tmp_path, monkeypatch, request):
    ray = pytest.importorskip("ray")
    request.addfinalizer(ray.shutdown)
    monkeypatch.setenv("PYTHONPATH", paths())
    configs = works(tmp_path, 1, 2, 3, 1, is_killed_once=2)
    results = mapped(tmp_path, configs, executor="ray")
    assert [int(result["square"]) for result in results] == [1, 4, 9, 1]
    assert logged(tmp_path / "log.txt") == Counter({1: 1, 2: 2, 3: 1})
    with pytest.raises(RunsFailed) as error:
        mapped(tmp_path, works(tmp_path, 4, 5, 6, raises=4, is_killed=5), executor="ray")
    assert [config.i for config, _ in error.value.causes] == [4, 5]
    assert error.value.causes[0][1] == "ArithmeticError: no square of 4"
    assert error.value.causes[1][1].startswith("ray: WorkerCrashedError")
    assert logged(tmp_path / "log.txt")[6] == 1
