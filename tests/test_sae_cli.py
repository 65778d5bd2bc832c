"""python -m sae runs: what it says about a store, and what it does to it."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sae.__main__ import main
from sae.store import NUMERICS_VERSION, Store, describe, key

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Config:
    n_latents: int = 4
    scale: float = 0.5
    rows: object = None
    note: str = ""


CONFIGS = (Config(), Config(8, rows=torch.zeros(2, 3)), Config(note="long " * 99))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A store with three runs, the default one."""
    monkeypatch.setenv("SAE_TESTBED_RUNS", str(tmp_path / "runs"))
    store, arrays = Store(tmp_path / "runs"), {"x": np.arange(1000.0)}
    for config in CONFIGS:
        store.get_or_run("a.trained", config, lambda: arrays, device_type="cpu")
    return store.root


def entry_of(root: Path, config: Config = CONFIGS[0]) -> Path:
    name = key("a.trained", config, device_type="cpu")
    return root / name[:2] / name


def spoil(entry: Path) -> None:
    data = (entry / "arrays.safetensors").read_bytes()
    (entry / "arrays.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_the_list_is_a_table(root, capsys):
    assert main(["runs", "list"]) == 0
    head, *rows, verdict = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["key", "run", "size", "seconds"]
    assert "engine" not in head  # the key's label: "eager" for runs that other engines trained
    assert len(rows) == len(CONFIGS)
    assert re.fullmatch(r"3 runs, \d+\.\d KiB, 0 s of computation", verdict)
    (row,) = [row for row in rows if "n_latents=8" in row]
    assert row.startswith(entry_of(root, CONFIGS[1]).name[:12] + "  a.trained  ")
    assert re.search(r" \d\.\d KiB +0\.0 +\d{4}-\d\d-\d\d \d\d:\d\d  ", row)
    versions = [str(NUMERICS_VERSION), torch.__version__, "cpu", "Config("]
    assert re.search(" +".join(map(re.escape, versions)), row)
    config = 'Config(n_latents=8, scale=0.5, rows=(array="torch.float32", shape=[2, 3]), note="")'
    assert row.endswith(config)
    start = row.index(config)  # the columns stand below each other
    assert head.index("configuration") == start
    assert all(other[start:].startswith("Config(") for other in rows)
    assert max(map(len, rows)) == start + 100


def test_the_list_as_json_holds_everything(root, capsys):
    assert main(["runs", "list", "--json", "--root", str(root)]) == 0
    listed = {entry["key"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert set(listed) == {entry_of(root, config).name for config in CONFIGS}
    first = listed[entry_of(root).name]
    assert first["config"] == describe(CONFIGS[0])
    assert first["path"] == str(entry_of(root))
    assert (first["what"], first["torch"]) == ("a.trained", torch.__version__)


def test_verify_finds_what_is_broken_and_sets_it_aside_if_asked(root, capsys):
    assert main(["runs", "verify"]) == 0
    assert capsys.readouterr().out == "every run is sound\n"
    spoil(entry_of(root))
    assert main(["runs", "verify"]) == 1
    _, row, verdict = capsys.readouterr().out.splitlines()
    assert str(entry_of(root)) in row
    assert "does not match the checksum" in row
    assert verdict == "1 runs broken; --move sets them aside"
    assert main(["runs", "verify", "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found["path"] == str(entry_of(root))
    assert main(["runs", "verify", "--move"]) == 1
    assert main(["runs", "verify"]) == 0
    assert len(list((root / "broken").iterdir())) == 1


def test_prune_says_what_it_would_do_and_does_it(root, capsys, monkeypatch):
    assert main(["runs", "prune"]) == 0
    assert capsys.readouterr().out == "0 things, 0 B, removed\n"
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "0.0.1")
        other = replace(CONFIGS[0], scale=0.25)
        Store(root).get_or_run("a.trained", other, dict, device_type="cpu")
    (root / "checkpoints" / entry_of(root).name).mkdir(parents=True)
    for flags, verb, n_left in (["--dry-run"], "would be removed", 4), ([], "removed", 3):
        assert main(["runs", "prune", "--other-versions", *flags]) == 0
        *rows, verdict = capsys.readouterr().out.splitlines()
        assert len(rows) == 3
        assert "made by numerics version" in rows[1]
        assert "checkpoints of a run that is stored" in rows[2]
        assert re.fullmatch(rf"2 things, \d+ B, {verb}", verdict)
        assert len(Store(root).entries()) == n_left
    assert main(["runs", "prune", "--older-than", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["runs", "prune", "--older-than", "0"]) == 0
    assert Store(root).entries() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--root", "nowhere"], "runs: expected the folder of a store, got root='nowhere'"),
        (["prune", "--older-than", "-1"], "prune: expected older_than >= 0 days, got older_than="),
        (["prune", "--older-than", "nan"], "prune: expected older_than >= 0 days, got older_than="),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(root, capsys, arguments, said):
    assert main(["runs", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(said)
    assert printed.err.count("\n") == 1
    assert len(Store(root).entries()) == len(CONFIGS)


@pytest.mark.parametrize("arguments", [["runs", "sweep"], ["runs", "list", "--rot", "x"], ["runs"]])
def test_what_is_unknown_has_exit_code_2(root, capsys, arguments):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert capsys.readouterr().out == ""


def test_other_words_show_the_usage(capsys):
    assert main(["trains"]) == main([]) == 2
    assert capsys.readouterr().err.count("usage: python -m sae runs list | verify | prune") == 2
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: ")


def test_the_command_itself(root):
    spoil(entry_of(root))
    command = [sys.executable, "-m", "sae", "runs", "verify"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert "1 runs broken" in done.stdout
