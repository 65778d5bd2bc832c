"""Finds the figures and makes them, some at a time, each in a process of its own."""

import ast
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from figures.gallery import write_gallery

ROOT = Path(__file__).resolve().parent.parent
PRESETS = ("smoke", "quick", "paper")
BUDGET = {"smoke": 3.0, "quick": 45.0}  # CPU-seconds a figure may take, its imports not counted


def discover(folder: Path, prefix: str = "fig_") -> dict[str, Path]:
    """Returns the scripts of a folder by name: its files <prefix>*.py, in alphabetical order."""
    return {script.stem: script for script in sorted(folder.glob(f"{prefix}*.py"))}


def select(known: dict[str, Path], names: tuple[str, ...]) -> dict[str, Path]:
    """Returns the scripts of these names (with or without .py), or all if none is named.

    Raises:
        ValueError: unknown names; lists the known ones.
    """
    names = tuple(name.removesuffix(".py") for name in names)
    unknown = [name for name in names if name not in known]
    if unknown:
        listed = ", ".join(known) or "(there are none)"
        raise ValueError(f"figures: expected names among {listed}; got {', '.join(unknown)}")
    return {name: known[name] for name in names} if names else known


def listing(folder: Path, out: Path) -> str:
    """Returns one line per figure: seconds per preset where known, first line of its docstring."""
    lines = [f"{'figure':<28}" + "".join(f"{preset:>8}" for preset in PRESETS) + "   claim"]
    seconds = {preset: known_seconds(folder, out, preset) for preset in PRESETS}
    for name, script in discover(folder).items():
        times = [seconds[preset].get(name) for preset in PRESETS]
        columns = "".join(f"{'-' if t is None else format(t, '.1f'):>8}" for t in times)
        lines.append(f"{name:<28}{columns}   {_first_line(script)}")
    lines.append("Seconds at each preset when nothing is stored; - where none were measured.")
    return "\n".join(lines)


def known_seconds(folder: Path, out: Path, preset: str) -> dict[str, float]:
    """Returns the seconds a figure takes when nothing is stored, by name, where that was measured.

    A <name>.run.json in `out` counts if it is of this preset and took no run from the store; else
    the committed reference/seconds.json, {name: {preset: seconds}}.
    """
    committed = folder / "reference" / "seconds.json"
    table = json.loads(committed.read_text()) if committed.exists() else {}
    seconds = {name: times[preset] for name, times in table.items() if preset in times}
    for name in discover(folder):
        record = _record(out, name)
        if record.get("preset") == preset and record["runs"]["stored"] == 0:
            seconds[name] = record["seconds"]["wall"]
    return seconds


def make_folder(out: Path) -> None:
    """Makes the folder of the figures, unless it is there.

    Raises:
        ValueError: it cannot be made, or nothing can be written in it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        got = f"got out={str(out)!r} ({error.strerror}); choose another one with --out"
        raise ValueError(f"figures: expected a folder that can be written, {got}") from error


def make(folder: Path, scripts: dict[str, Path], preset: str, jobs: int, out: Path) -> int:
    """Makes the figures, longest first, `jobs` at a time; returns how many were not drawn.

    `out` is a folder (see `make_folder`). Each figure has a process with one thread. What a refused
    or crashed figure left in `out` from an earlier time is removed: `out` holds only figures whose
    check held when last run. The gallery <out>/index.html is written at the end, if there is
    anything to show or to take back, also after an interruption, which stops the processes;
    finished runs stay stored.
    """
    seconds = known_seconds(folder, out, preset)
    waiting = sorted(scripts, key=lambda name: -seconds.get(name, float("inf")))
    running: list[_Child] = []
    failed: list[str] = []
    start = time.perf_counter()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                running.append(_Child(name, scripts[name], preset, out))
                if sys.stdout.isatty():
                    print(f"{name}: started", flush=True)
            time.sleep(0.05)
            for child in [child for child in running if child.process.poll() is not None]:
                running.remove(child)
                done = f"{len(scripts) - len(waiting) - len(running)}/{len(scripts)}"
                if not child.report(f"[{done}, {time.perf_counter() - start:.0f} s]"):
                    failed.append(child.name)
    finally:
        for child in running:
            child.stop()
        see = ""
        if any(out.glob("*.run.json")) or (out / "index.html").exists():
            see = f"; see {write_gallery(out, list(discover(folder)))}"
    verdict = f"not drawn: {', '.join(failed)}" if failed else "all drawn"
    print(f"{time.perf_counter() - start:.0f} s, {verdict}{see}", flush=True)
    return len(failed)


@dataclass
class _Child:
    """The process that makes one figure."""

    name: str
    script: Path
    preset: str
    out: Path
    process: subprocess.Popen = field(init=False)
    folder: tempfile.TemporaryDirectory = field(init=False)

    def __post_init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="figures-")
        arguments = [self.script, self.preset, self.out, self._result()]
        # A session of its own: Ctrl-C reaches the runner only, which stops what it has started.
        with self._printed().open("wb") as printed:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "figures.draw", *map(str, arguments)],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=printed,
                start_new_session=True,
            )

    def report(self, progress: str) -> bool:
        """Prints how the finished process fared, and returns whether the figure was drawn."""
        if self._result().exists():
            answer: dict = json.loads(self._result().read_text())
        else:
            code = self.process.returncode
            killed = f"by signal {-code} (9: out of memory?)" if code < 0 else f"with code {code}"
            answer = {"status": "crashed", "message": f"its process ended {killed}"}
        printed = self._printed().read_text(errors="replace")
        record = answer.get("record")
        if record is not None:
            print(f"{progress} {self.name}: drawn, {_summary(record)}")
            if sys.stdout.isatty():
                _print_indented(printed)
        else:
            print(f"{progress} {self.name}: {answer['status'].upper()}, nothing drawn")
            _print_indented(printed)
            _print_indented(answer["message"])
            for suffix in ("npz", "pdf", "png", "html", "run.json"):
                (self.out / f"{self.name}.{suffix}").unlink(missing_ok=True)
        sys.stdout.flush()
        self._clean()
        return record is not None

    def stop(self) -> None:
        """Ends the process and those it has started."""
        for kind in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, kind)
            except ProcessLookupError:
                break
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                continue
        self._clean()

    def _result(self) -> Path:
        return Path(self.folder.name) / "result.json"

    def _printed(self) -> Path:
        return Path(self.folder.name) / "printed.txt"

    def _clean(self) -> None:
        self.folder.cleanup()
        for scratch in self.out.glob(f".{self.name}.*.tmp"):
            scratch.unlink(missing_ok=True)


def _environment() -> dict[str, str]:
    """The environment of a figure's process: one thread, no display, no randomised hashes."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    fixed = {"PYTHONHASHSEED": "0", "MPLBACKEND": "Agg"}
    fixed["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    progress = {"SAE_TESTBED_PROGRESS": str(int(sys.stderr.isatty()))}
    return {**progress, **os.environ, **threads, **fixed}


def _summary(record: dict) -> str:
    worst = min(record["margins"], key=record["margins"].get)
    seconds, stored = record["seconds"], record["runs"]["stored"]
    parts = [f"{seconds['wall']:.1f} s"]
    parts += [f"{seconds['cpu']:.1f} s of processor, {record['peak_memory_mib']} MiB"]
    parts += [f"smallest margin {record['margins'][worst]:.3g} ({worst})"]
    parts += [f"{stored} of {sum(record['runs'].values())} runs were stored"] if stored else []
    budget = BUDGET.get(record["preset"], float("inf"))
    if seconds["cpu"] > budget:
        parts += [f"WARNING: over the budget of {budget:.0f} s of processor"]
    return ", ".join(parts)


def _print_indented(text: str) -> None:
    for line in text.strip().splitlines():
        print(f"    {line}")


def _record(out: Path, name: str) -> dict:
    try:
        return json.loads((out / f"{name}.run.json").read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}


def _first_line(script: Path) -> str:
    docstring = ast.get_docstring(ast.parse(script.read_text())) or "(no docstring)"
    return docstring.splitlines()[0]
