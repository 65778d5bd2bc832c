"""Makes one figure in this process: compute, check, and only if the check holds, plot and write.

The runner starts `python -m figures.draw SCRIPT PRESET OUT RESULT` in a process of its own for each
figure; RESULT becomes a JSON file {"status": "drawn" | "refused" | "crashed", "message", "record"}.
"""

import datetime
import importlib.util
import io
import json
import os
import platform
import resource
import subprocess
import sys
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch._dynamo  # torch.optim imports it at first use: two seconds that no figure causes
from matplotlib.figure import Figure

from figures.runner import PRESETS
from figures.runs import ROOT, device, require, tally
from sae.durable import DiskError, disk_errors, write_whole
from sae.store import NUMERICS_VERSION, describe, digest

STYLE = Path(__file__).with_name("paper.mplstyle")
_PARTS = ("compute", "check", "plot", "broken")


class Refused(Exception):
    """The figure's check does not hold on its data; the message lists the margins that fail."""


def load(script: Path) -> ModuleType:
    """Returns the module of a figure script, imported as figures.<stem>.

    Raises:
        ValueError: the script lacks a docstring, a preset or one of the functions of a figure.
    """
    module = import_script(script)
    missing = [part for part in _PARTS if not callable(getattr(module, part, None))]
    missing += [f"CONFIGS[{p!r}]" for p in PRESETS if p not in getattr(module, "CONFIGS", {})]
    missing += [] if (module.__doc__ or "").strip() else ["a docstring that states the claim"]
    if missing:
        todo = f"missing: {', '.join(missing)}"
        raise ValueError(f"{script.name}: expected the parts of a figure; {todo}")
    return module


def import_script(script: Path) -> ModuleType:
    """Returns the module of a script, imported as figures.<stem> wherever its file lies."""
    name = f"figures.{script.stem}"
    module = sys.modules.get(name)
    if module is not None and Path(module.__file__ or "").resolve() == script.resolve():
        return module
    spec = importlib.util.spec_from_file_location(name, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def draw(script: Path, preset: str, out: Path) -> dict[str, object]:
    """Makes <out>/<name>.npz, .pdf, .png and .run.json, and returns what run.json holds.

    A script with a function `page(config) -> str` gets <name>.html too, a page for a browser.

    The same configuration, versions and machine give the same bytes in the first three (under one
    PYTHONHASHSEED, if the script iterates over sets). Each file is replaced at once.

    Raises:
        Refused: `check` does not hold, or checked nothing; nothing is written then.
        DiskError: a run cannot be stored, or a file cannot be written to `out`.
    """
    mpl.use("Agg")
    module = load(script)
    config = module.CONFIGS[preset]
    name, tree = script.stem, describe(config)
    before, wall, cpu = dict(tally), time.perf_counter(), _cpu_seconds()
    data = _as_arrays(module.compute(config), name)
    try:
        margins = module.check(data, config)
        if not margins or not all(value >= 0 for value in margins.values()):
            require(margins or {})  # a check that does not raise by itself is not believed
    except AssertionError as error:
        raise Refused(str(error) or "the check failed without a message") from error
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    versions |= {"numpy": np.__version__, "matplotlib": mpl.__version__}
    versions |= {"numerics": str(NUMERICS_VERSION)}
    pdf, png = _render(module.plot, data, digest(tree), versions)
    page = getattr(module, "page", None)
    text = None if page is None else page(config).encode()
    record: dict[str, object] = {
        "name": name,
        "preset": preset,
        "claim": (module.__doc__ or "").strip(),
        "margins": {key: float(value) for key, value in margins.items()},
        "numbers": {
            key: float(a) for key, a in data.items() if a.ndim == 0 and a.dtype.kind != "U"
        },
        "config": tree,
        "config_hash": digest(tree),
        "versions": versions,
        "device": device(),
        "seconds": {
            "wall": round(time.perf_counter() - wall, 2),
            "cpu": round(_cpu_seconds() - cpu, 2),
        },
        "runs": {key: tally[key] - before[key] for key in tally},
        "peak_memory_mib": round(_peak_memory_mib()),
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "processor": _cpu()},
        "commit": _commit(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    with disk_errors("figures", f"write {name}", out):
        write_whole(out / f"{name}.npz", npz_bytes(data))
        write_whole(out / f"{name}.pdf", pdf)
        write_whole(out / f"{name}.png", png)
        if text is not None:
            write_whole(out / f"{name}.html", text)
        write_whole(out / f"{name}.run.json", json.dumps(record, indent=1).encode())
    return record


def npz_bytes(data: dict[str, np.ndarray]) -> bytes:
    """Returns the bytes of an .npz file: arrays sorted by name, no time stamps, no pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(data):
            array = io.BytesIO()
            np.lib.format.write_array(array, data[name], allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy")  # its date is 1980-01-01
            archive.writestr(entry, array.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _render(
    plot: Callable[[dict[str, np.ndarray]], Figure],
    data: dict[str, np.ndarray],
    config_hash: str,
    versions: dict[str, str],
) -> tuple[bytes, bytes]:
    pdf, png = io.BytesIO(), io.BytesIO()
    provenance = f"config {config_hash}; " + ", ".join(f"{k} {v}" for k, v in versions.items())
    # "default" first, so that the user's own matplotlibrc changes nothing
    with plt.style.context(["default", str(STYLE)]):
        figure = plot(data)
        figure.draw_without_rendering()  # lays it out, once for both formats
        figure.set_layout_engine("none")
        about = {"Creator": None, "Producer": None, "CreationDate": None, "Keywords": provenance}
        figure.savefig(pdf, format="pdf", metadata=about)
        figure.savefig(png, format="png", metadata={"Software": None, "Source": provenance})
        plt.close(figure)
    return pdf.getvalue(), png.getvalue()


def _as_arrays(data: object, name: str) -> dict[str, np.ndarray]:
    if not isinstance(data, dict) or not data:
        raise TypeError(f"{name}: expected compute to return arrays by name, got {type(data)}")
    arrays = {key: np.array(value) for key, value in data.items()}
    for key, array in arrays.items():
        array.setflags(write=False)  # check and plot may only read
        if array.dtype.kind not in "biufcU":
            raise TypeError(f"{name}: expected numbers or text, got {key} of {array.dtype}")
    return arrays


def _cpu_seconds() -> float:
    """Processor time of this process, all its threads, and the children it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _peak_memory_mib() -> float:
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(who).ru_maxrss for who in whose)
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB here


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def _main(script: str, preset: str, out: str, result: str) -> None:
    torch.set_num_threads(1)
    status, message, record = "drawn", "", None
    try:
        record = draw(Path(script), preset, Path(out))
    except Refused as error:
        status, message = "refused", str(error)
    except DiskError as error:  # says what to do; where it was raised says nothing more
        status, message = "crashed", f"{error} (--out of figures, SAE_TESTBED_RUNS of runs)"
    except Exception:
        status, message = "crashed", traceback.format_exc()
    answer = {"status": status, "message": message, "record": record}
    write_whole(Path(result), json.dumps(answer).encode())


if __name__ == "__main__":
    _main(*sys.argv[1:])
