"""The runner draws only what its check holds for, repeats itself exactly, and can be stopped."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # figures/ is not installed with the packages

from figures import runs  # noqa: E402 - needs the line above
from figures.__main__ import main  # noqa: E402
from figures.compare import compare_arrays  # noqa: E402
from figures.draw import Refused, draw, load, npz_bytes  # noqa: E402
from figures.gallery import write_gallery  # noqa: E402
from figures.runner import _summary, discover, known_seconds, listing  # noqa: E402
from sae.durable import DiskError  # noqa: E402

TINY = '''
"""Parabolas open upwards <everywhere>.

The question: do they, at every world?
"""

import os
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np

from figures.runs import cached, map_cached, require

@dataclass(frozen=True)
class World:
    seed: int
    sign: float = 1.0

@dataclass(frozen=True)
class Config:
    worlds: range = range(2)
    n_points: int = 5

PAPER = Config(worlds=range(4), n_points=9)
CONFIGS = {"smoke": Config(), "quick": Config(worlds=range(3)), "paper": PAPER}

def simulate(world):
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(f"{world.seed}\\n")
    if os.environ.get("STOP_AT") == str(world.seed):
        raise KeyboardInterrupt
    x = np.linspace(-1, 1, 9)
    return {"x": x, "y": world.sign * (1 + 0.01 * world.seed) * x**2}

def compute(cfg, sign=1.0):
    done = map_cached(simulate, [World(seed, sign) for seed in cfg.worlds])
    y = np.stack([one["y"] for one in done])
    return {"x": done[0]["x"], "y_by_world": y, "top": y.max(), "n_worlds": np.array(len(y))}

def check(data, cfg):
    curvature = np.diff(data["y_by_world"], 2, axis=1)
    return require({"least curvature": curvature.min(), "symmetric": 1e-9})

def broken(cfg):
    return compute(cfg, sign=-1.0)

def plot(data):
    figure, axes = plt.subplots()
    axes.plot(data["x"], data["y_by_world"].T)
    axes.set(xlabel="x (m) αβ", ylabel="height (m)", title="$x^2$")
    axes.text(0, 0.5, " ".join({"to", "be", "or", "not"}))  # in an order that hashes decide
    return figure
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with one figure, fig_tiny, and a store and a list of computed runs of its own."""
    folder = tmp_path / "figs"
    folder.mkdir()
    (folder / "fig_tiny.py").write_text(TINY)
    monkeypatch.setenv("SAE_TESTBED_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls.txt"))
    return folder


def calls(folder: Path) -> list[str]:
    listed = folder.parent / "calls.txt"
    return listed.read_text().split() if listed.exists() else []


def outputs(out: Path, suffixes: tuple[str, ...] = ("npz", "pdf", "png")) -> list[bytes]:
    return [(out / f"fig_tiny.{suffix}").read_bytes() for suffix in suffixes]


def variant(folder: Path, name: str, *edits: tuple[str, str]) -> Path:
    text = TINY
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    (folder / f"{name}.py").write_text(text)
    return folder / f"{name}.py"


# ---- one figure, in this process


def test_a_figure_is_written_with_its_provenance(folder, tmp_path):
    record = draw(folder / "fig_tiny.py", "quick", tmp_path / "out")
    assert record == json.loads((tmp_path / "out" / "fig_tiny.run.json").read_text())
    assert record["preset"] == "quick"
    assert record["numbers"] == {"top": pytest.approx(1.02), "n_worlds": 3}
    assert record["margins"]["least curvature"] == pytest.approx(2 / 16)
    assert record["config"]["worlds"] == {"range": [0, 3, 1]}
    assert record["runs"] == {"computed": 3, "stored": 0}
    assert record["claim"].startswith("Parabolas open upwards <everywhere>.\n\nThe question")
    with np.load(tmp_path / "out" / "fig_tiny.npz", allow_pickle=False) as arrays:
        assert arrays["y_by_world"].shape == (3, 9)
        assert set(arrays.files) == {"x", "y_by_world", "top", "n_worlds"}
    _, pdf, png = outputs(tmp_path / "out")
    for data in (pdf, png):
        assert record["config_hash"].encode() in data
        assert b"Date" not in data
    assert b"/Type3" not in pdf
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"fig_tiny.{suffix}" for suffix in ("npz", "pdf", "png", "run.json")
    ]


def test_a_figure_drawn_again_computes_nothing_and_a_larger_one_only_what_is_missing(
    folder, tmp_path
):
    draw(folder / "fig_tiny.py", "smoke", tmp_path / "out")
    again = draw(folder / "fig_tiny.py", "smoke", tmp_path / "out")
    assert calls(folder) == ["0", "1"]
    assert again["runs"] == {"computed": 0, "stored": 2}
    draw(folder / "fig_tiny.py", "quick", tmp_path / "out")
    assert calls(folder) == ["0", "1", "2"]


def test_an_interrupted_figure_resumes_with_the_same_bytes(folder, tmp_path, monkeypatch):
    draw(folder / "fig_tiny.py", "quick", tmp_path / "straight")
    monkeypatch.setenv("SAE_TESTBED_RUNS", str(tmp_path / "fresh"))
    monkeypatch.setenv("STOP_AT", "2")
    with pytest.raises(KeyboardInterrupt):
        draw(folder / "fig_tiny.py", "quick", tmp_path / "resumed")
    assert not (tmp_path / "resumed").exists()
    monkeypatch.delenv("STOP_AT")
    resumed = draw(folder / "fig_tiny.py", "quick", tmp_path / "resumed")
    assert resumed["runs"] == {"computed": 1, "stored": 2}
    assert outputs(tmp_path / "straight") == outputs(tmp_path / "resumed")


def test_another_preset_gives_other_bytes(folder, tmp_path):
    a = draw(folder / "fig_tiny.py", "smoke", tmp_path / "a")
    b = draw(folder / "fig_tiny.py", "quick", tmp_path / "b")
    assert a["config_hash"] != b["config_hash"]
    pairs = zip(outputs(tmp_path / "a"), outputs(tmp_path / "b"), strict=True)
    assert all(ours != theirs for ours, theirs in pairs)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            ("map_cached(simulate, [World(seed, sign)", "map_cached(simulate, [World(seed, -1)"),
            "-0.12",
        ),
        (('"symmetric": 1e-9', '"symmetric": float("nan")'), "symmetric = nan"),
        (("return require(", "return ("), "-0.5"),  # returns negative margins, raises nothing
        (("return require(", "return {} and ("), "nothing was checked"),
        (("return require(", "assert 1 < 0, 'bare'; ("), "bare"),
    ],
)
def test_a_refused_figure_is_not_drawn(folder, tmp_path, edit, said):
    old, new = edit
    edits = [(old, new)]
    if "-0.5" in said:
        edits.append(('"symmetric": 1e-9', '"symmetric": -0.5'))
    script = variant(folder, "fig_refused", *edits)
    with pytest.raises(Refused, match=re.escape(said)):
        draw(script, "smoke", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_check_refuses_the_broken_figure(folder):
    module = load(folder / "fig_tiny.py")
    config = module.CONFIGS["smoke"]
    module.check(module.compute(config), config)
    with pytest.raises(AssertionError, match="least curvature"):
        module.check(module.broken(config), config)


def test_check_and_plot_cannot_change_the_arrays(folder, tmp_path):
    script = variant(folder, "fig_edits", ("figure, axes", "data['x'][0] = 7; figure, axes"))
    with pytest.raises(ValueError, match="read-only"):
        draw(script, "smoke", tmp_path / "out")


def test_a_script_that_is_not_a_figure_is_refused_with_what_is_missing(folder):
    script = folder / "fig_stub.py"
    script.write_text("CONFIGS = {'smoke': 1}\ndef compute(cfg): ...\ndef plot(data): ...\n")
    with pytest.raises(ValueError, match=r"missing: check, broken, CONFIGS\['quick'\]") as error:
        load(script)
    assert "a docstring that states the claim" in str(error.value)


def test_arrays_of_objects_are_refused():
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        npz_bytes({"a": np.array([None])})


# ---- runs


def test_progress_is_shown_only_if_asked_for(folder, capsys, monkeypatch):
    module = load(folder / "fig_tiny.py")
    worlds = [module.World(seed) for seed in range(3)]
    runs.cached(module.simulate, worlds[1])
    runs.map_cached(module.simulate, worlds)
    assert capsys.readouterr().err == ""  # stderr is no terminal here
    monkeypatch.setenv("SAE_TESTBED_PROGRESS", "1")
    results = runs.map_cached(module.simulate, [*worlds, module.World(3)])
    assert capsys.readouterr().err == "fig_tiny: 4/4 runs (3 stored), 0 s\n"
    assert [result["y"][0] for result in results] == pytest.approx([1.0, 1.01, 1.02, 1.03])


def test_a_run_without_a_name_is_refused():
    with pytest.raises(ValueError, match="expected a named function at module level"):
        runs.cached(lambda config: {}, None)


@pytest.mark.parametrize("bad", [-1e-12, float("nan"), -float("inf")])
def test_require_prints_every_margin_and_lists_the_bad_ones(bad, capsys):
    assert runs.require({"edge": 0.0, "wide": np.float64(2)}) == {"edge": 0.0, "wide": 2.0}
    assert capsys.readouterr().out == "edge: 0\nwide: 2\n"
    with pytest.raises(AssertionError) as error:
        runs.require({"good": 1.0, "bad": bad, "worse": -3})
    assert str(error.value) == f"bad = {bad:.6g}; worse = -3"
    assert "good: 1" in capsys.readouterr().out


# ---- the command


def test_unknown_names_are_answered_with_the_known_ones(folder, capsys):
    assert main(["fig_tinny"], folder) == 2
    assert "expected names among fig_tiny; got fig_tinny" in capsys.readouterr().err
    assert main(["fig_tiny", "--jobs", "0"], folder) == 2
    assert "jobs=0" in capsys.readouterr().err
    assert not (folder / "out").exists()  # before any work
    assert calls(folder) == []


@pytest.mark.parametrize("place", ["/proc/x", "/sys/x", "file", "file/x"])
def test_a_folder_that_cannot_be_written_is_refused(folder, tmp_path, capsys, place):
    (tmp_path / "file").write_text("mine")
    out = tmp_path / place
    assert main(["--out", str(out)], folder) == 2
    said = capsys.readouterr().err
    rule = "figures: expected a folder that can be written"
    assert re.fullmatch(rf"{rule}, got out='{out}' \(.+\); choose .* --out\n", said)
    assert calls(folder) == []
    assert (tmp_path / "file").read_text() == "mine"
    assert main(["--list", "--out", str(out)], folder) == 0


def test_a_store_that_cannot_be_written_is_answered_in_one_line(
    folder, tmp_path, capfd, monkeypatch
):
    monkeypatch.setenv("SAE_TESTBED_RUNS", "/proc/x")
    assert main(["--preset", "smoke"], folder) == 1
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err
    todo = r"choose another folder \(--out of figures, SAE_TESTBED_RUNS of runs\)"
    line = rf"^    Store: .* in /proc/x: .*; {todo}$"
    assert re.search(line, printed.out, re.MULTILINE)
    assert "index.html" not in printed.out
    assert list((folder / "out").iterdir()) == []


def test_a_full_disk_is_answered_in_one_line(folder, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("figures.draw.write_whole", full)
    line = rf"figures: cannot write fig_tiny in {tmp_path}: No space left .*; free some space or "
    with pytest.raises(DiskError, match=line):
        draw(folder / "fig_tiny.py", "smoke", tmp_path)


def test_help_names_a_figure(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "Figures to make, e.g. fig_recovery" in said
    assert "[OPTIONS] [FIGURE ...]" in said


def test_the_list_shows_claims_and_seconds_measured_without_stored_runs(folder, capsys):
    (folder / "reference").mkdir()
    times = {"fig_tiny": {"smoke": 1.25, "paper": 600.0}}
    (folder / "reference" / "seconds.json").write_text(json.dumps(times))
    assert main(["--list"], folder) == 0
    header, row, note = capsys.readouterr().out.splitlines()
    assert header.split() == ["figure", "smoke", "quick", "paper", "claim"]
    assert header.index("claim") == row.index("Parabolas")
    assert "- where none were measured" in note
    row = row.split(maxsplit=4)
    assert row == ["fig_tiny", "1.2", "-", "600.0", "Parabolas open upwards <everywhere>."]
    record = draw(folder / "fig_tiny.py", "smoke", folder / "out")
    measured = {"fig_tiny": record["seconds"]["wall"]}
    assert known_seconds(folder, folder / "out", "smoke") == measured
    assert known_seconds(folder, folder / "out", "paper") == {"fig_tiny": 600.0}
    draw(folder / "fig_tiny.py", "smoke", folder / "out")  # from the store: says nothing about time
    assert known_seconds(folder, folder / "out", "smoke") == {"fig_tiny": 1.25}
    assert f"{1.25:.1f}" in listing(folder, folder / "out")


def test_good_bad_and_crashing_figures_in_processes_of_their_own(folder, tmp_path, capfd):
    out = folder / "out"
    variant(folder, "fig_refused", ("compute(cfg, sign=1.0)", "compute(cfg, sign=-1.0)"))
    variant(folder, "fig_crash", ("return figure", "raise RuntimeError('no ink')"))
    variant(folder, "fig_killed", ("return figure", "os.kill(os.getpid(), 9)"))
    out.mkdir()
    for stale in ("fig_refused.png", "fig_crash.run.json"):
        (out / stale).write_text("from an earlier time")
    assert main(["--preset", "smoke"], folder) == 1
    printed = capfd.readouterr()
    assert "fig_tiny: drawn" in printed.out
    assert "fig_refused: REFUSED, nothing drawn" in printed.out
    assert "    symmetric: 1e-09" in printed.out  # a refused figure's margins are all printed
    assert "    least curvature = -0.12" in printed.out
    assert "fig_crash: CRASHED, nothing drawn" in printed.out
    assert (printed.out + printed.err).count("RuntimeError: no ink") == 1
    assert "its process ended by signal 9" in printed.out
    assert printed.out.count("nothing drawn") == 3
    assert re.search(r"^\[4/4, \d+ s\] fig_", printed.out, re.MULTILINE)
    assert sorted(path.name for path in out.iterdir()) == [
        *(f"fig_tiny.{suffix}" for suffix in ("npz", "pdf", "png", "run.json")),
        "index.html",
    ]
    page = (out / "index.html").read_text()
    assert "<code>fig_crash</code>, <code>fig_killed</code>, <code>fig_refused</code>" in page
    record = json.loads((out / "fig_tiny.run.json").read_text())
    assert record["seconds"]["cpu"] > 0
    assert record["peak_memory_mib"] > 50  # numpy, torch and matplotlib are in there


def test_two_processes_with_fresh_stores_write_the_same_bytes(folder, tmp_path, monkeypatch):
    found = []
    for place in ("a", "b"):
        monkeypatch.setenv("SAE_TESTBED_RUNS", str(tmp_path / place / "runs"))
        monkeypatch.setenv("PYTHONHASHSEED", str(len(found) + 1))  # orders the set
        monkeypatch.chdir(tmp_path if found else ROOT)
        out = tmp_path / place
        assert main(["fig_tiny", "--preset", "smoke", "--out", str(out)], folder) == 0
        found.append(outputs(out))
    assert calls(folder) == ["0", "1", "0", "1"]
    assert found[0] == found[1]


def test_ctrl_c_stops_the_children_and_keeps_what_is_done(folder, tmp_path):
    edit = ("return {", "import time; time.sleep(600 * (world.seed == 1)); return {")
    variant(folder, "fig_slow", edit)
    (folder / "fig_tiny.py").unlink()
    (folder / "out").mkdir()
    (folder / "out" / "index.html").write_text("from an earlier time")
    pid = tmp_path / "pid"
    script = folder / "fig_slow.py"
    text = script.read_text()
    script.write_text(text + f"\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\n")
    code = f"""
        import pathlib, signal, sys
        from figures.__main__ import main
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
        sys.exit(main(["--preset", "smoke"], pathlib.Path({str(folder)!r})))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    patience = time.monotonic() + 60
    while len(calls(folder)) < 2 and time.monotonic() < patience:
        time.sleep(0.05)
    assert calls(folder) == ["0", "1"]
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "runs that were completed are kept; the same command resumes" in said
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert [path.name for path in (folder / "out").iterdir()] == ["index.html"]
    assert "<code>fig_slow</code>" in (folder / "out" / "index.html").read_text()
    assert len(list((tmp_path / "runs").glob("??/*/run.json"))) == 1  # world 0


@pytest.mark.parametrize(
    ("preset", "cpu", "warns"),
    [("quick", 44.9, False), ("quick", 45.1, True), ("smoke", 3.1, True), ("paper", 999.0, False)],
)
def test_a_figure_over_its_budget_is_noted(preset, cpu, warns):
    record = {"preset": preset, "margins": {"a": 0.5, "b": 0.25}, "peak_memory_mib": 9}
    record |= {"seconds": {"wall": 1.0, "cpu": cpu}, "runs": {"computed": 3, "stored": 1}}
    said = _summary(record)
    assert ("WARNING: over the budget" in said) == warns
    assert "smallest margin 0.25 (b), 1 of 4 runs were stored" in said


def test_benchmarks_are_run_apart_from_the_figures(folder, capsys):
    (folder / "bench_good.py").write_text('"""Fast."""\ndef main():\n    print("7 ms")\n')
    assert list(discover(folder)) == ["fig_tiny"]
    assert main(["--bench"], folder) == 0
    assert "7 ms" in capsys.readouterr().out
    (folder / "bench_bad.py").write_text("def main():\n    raise RuntimeError('slow')\n")
    assert main(["--bench"], folder) == 1
    said = capsys.readouterr()
    assert "7 ms" in said.out
    assert "RuntimeError: slow" in said.err


# ---- the gallery


class Page(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.links: list[str] = []
        self.alts: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = {name: value or "" for name, value in attrs}
        self.sources += [given[name] for name in ("src", "srcset", "data") if name in given]
        self.links += [given["href"]] if "href" in given else []
        self.alts += [given["alt"]] if tag == "img" else []


def test_the_gallery_needs_nothing_but_itself(folder, tmp_path):
    out = tmp_path / "out"
    draw(folder / "fig_tiny.py", "smoke", out)
    path = write_gallery(out, ["fig_tiny", "fig_other"])
    text = path.read_text()
    page = Page()
    page.feed(text)
    assert len(page.sources) == 1
    assert page.sources[0].startswith("data:image/png;base64,")
    files = [f"fig_tiny.{suffix}" for suffix in ("pdf", "npz", "run.json")]
    assert page.links == ["#fig_tiny", *files]
    assert '<article id="fig_tiny">' in text
    assert all((out / file).exists() for file in files)
    assert page.alts == ["fig_tiny: Parabolas open upwards <everywhere>."]
    assert not re.search(r"https?://|@import|url\(", text)
    assert not page.tags & {"script", "link", "iframe", "object"}
    for said in ("least curvature", "0.125", "1.01", "&lt;everywhere&gt;", "do they, at every"):
        assert said in text
    assert "<code>fig_other</code>" in text
    write_gallery(out, ["fig_tiny", "fig_other"])
    assert path.read_text() == text


# ---- comparison with the committed arrays


def planted() -> dict[str, np.ndarray]:
    worlds = 1 + 0.01 * np.sin(np.arange(8.0))[:, None] + np.linspace(0, 1, 3)
    worlds[:, 2] = np.nan
    return {
        "score_by_world": worlds,
        "curve": np.array([-2.0, 0.0, np.inf, 1.0]),
        "ks": np.arange(4),
        "names": np.array(["a", "b"]),
        "number": np.array(0.5),
        "found_by_world": np.full((8,), 100),
    }


def verdicts(**changed: np.ndarray) -> dict[str, str]:
    lines = compare_arrays({**planted(), **changed}, planted())
    return {line.name: line.verdict for line in lines if line.verdict != "same"}


def test_equal_arrays_and_allowed_changes_pass():
    old = planted()
    assert verdicts() == {}
    noise = 0.02 * np.cos(np.arange(8.0))[:, None]  # another processor: other worlds, same mean
    assert verdicts(score_by_world=old["score_by_world"] + noise + 0.005) == {}
    assert verdicts(curve=old["curve"] + [0.09, -0.09, 0, 0]) == {}
    assert verdicts(number=old["number"] * 1.04) == {}
    assert verdicts(found_by_world=old["found_by_world"] + 1) == {}  # a count, but a measured one


@pytest.mark.parametrize("name", ["score_by_world", "curve", "number", "found_by_world"])
def test_a_change_of_ten_percent_is_caught(name):
    assert verdicts(**{name: planted()[name] * 1.1}) == {name: "DIFFERS"}


def test_the_table_shows_the_worst_entry_and_its_tolerance():
    curve = planted()["curve"] + [0.05, 0.5, 0, 0.3]
    line = next(
        x for x in compare_arrays({**planted(), "curve": curve}, planted()) if x.name == "curve"
    )
    assert (line.difference, line.tolerance) == (pytest.approx(0.5), pytest.approx(0.1))


def test_every_other_kind_of_difference_is_caught():
    old = planted()
    assert verdicts(ks=old["ks"] + [0, 0, 0, 1]) == {"ks": "1 OF 4 ENTRIES DIFFER"}
    assert verdicts(names=np.array(["a", "c"])) == {"names": "1 OF 2 ENTRIES DIFFER"}
    assert "KINDS DIFFER" in verdicts(names=np.arange(2))["names"]
    assert "(3, 3), reference (8, 3)" in verdicts(score_by_world=np.ones((3, 3)))["score_by_world"]
    nowhere = np.where(np.isnan(old["score_by_world"]), 1, old["score_by_world"])
    assert verdicts(score_by_world=nowhere) == {"score_by_world": "NaN OR INFINITY ELSEWHERE"}
    assert verdicts(curve=-old["curve"] * [-1, 1, 1, -1]) == {"curve": "NaN OR INFINITY ELSEWHERE"}
    assert verdicts(extra=np.zeros(1)) == {"extra": "not in the reference"}
    del old["ks"]
    assert [x.verdict for x in compare_arrays(old, planted()) if x.name == "ks"] == [
        "not regenerated"
    ]


def test_compare_says_what_to_run(folder, capsys):
    out, reference = folder / "out", folder / "reference"
    assert main(["--compare"], folder) == 2
    assert "there is no reference" in capsys.readouterr().out
    draw(folder / "fig_tiny.py", "paper", reference)
    assert main(["--compare"], folder) == 1
    assert "run python -m figures fig_tiny --preset paper" in capsys.readouterr().out
    draw(folder / "fig_tiny.py", "paper", out)
    assert main(["--compare"], folder) == 0
    assert capsys.readouterr().out.count("same") == 4
    draw(folder / "fig_tiny.py", "quick", out)
    assert main(["--compare"], folder) == 1
    said = capsys.readouterr().out
    assert "SHAPES DIFFER: (3, 9), reference (4, 9)" in said
    assert "at the preset quick, the reference at paper; run python -m figures fig_tiny" in said
