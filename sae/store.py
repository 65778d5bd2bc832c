"""A store of runs: a run is a value, found by the hash of everything that determines it."""

import dataclasses
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError

from sae.checks import check

NUMERICS_VERSION = 2  # bumped by whoever changes what a run computes; old runs are then not found

_DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_DTYPES += ("float16", "float32", "float64", "complex64")  # what safetensors can hold
_BROKEN = (ValueError, KeyError, TypeError, NotADirectoryError, IsADirectoryError, SafetensorError)
_STALE = 3600.0  # seconds; writing takes seconds, so an older scratch folder has lost its writer


def describe(value: object, where: str = "config") -> object:
    """Returns `value` as a tree of JSON values; different values give different trees.

    None, bool, int, str and finite floats stand for themselves (JSON writes the shortest decimal
    that reads back as the same float, so 0.1 is exact, and 1.0 differs from 1); a tuple is a list,
    a range its three numbers, a frozen dataclass its class and init fields, a tensor or array its
    dtype, shape and the SHA-256 of its bytes (not its device).

    Args:
        where: the name of `value` in the error message; fields append ".field", entries "[i]".
    Raises:
        ValueError: anything else (lists, dicts, paths, functions, modules); names the field.
    Example:
        >>> describe((1, 1.0, range(2)))
        [1, 1.0, {'range': [0, 2, 1]}]
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, tuple):
        return [describe(entry, f"{where}[{i}]") for i, entry in enumerate(value)]
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, torch.Tensor) and value.layout == torch.strided:
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return _described_array(str(value.dtype), tuple(value.shape), flat.tobytes())
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return _described_array(value.dtype.str, value.shape, value.tobytes())
    if _is_frozen_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value) if field.init]  # type: ignore[arg-type]  # _is_frozen_dataclass has checked
        tree = {name: describe(getattr(value, name), f"{where}.{name}") for name in fields}
        return {"class": _full_name(type(value)), **tree}
    rule = "None, bool, int, float, str, tuple, range, tensor, array or frozen dataclass throughout"
    todo = "make it one of these: a list a tuple, a dict a frozen dataclass, a path a str"
    got = {f"{where} of type": _full_name(type(value))}
    check(False, "describe", rule, todo, **got)
    raise AssertionError("unreachable")


def digest(tree: object) -> str:
    """Returns the SHA-256 (64 hex digits) of a tree of JSON values, written canonically."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def key(what: str, config: object, *, device_type: str, engine: str = "eager") -> str:
    """Returns the name of a run: SHA-256 (64 hex digits) of all that determines its result.

    That is: `what`, `config`, NUMERICS_VERSION, torch's version, `engine` and `device_type`. Not
    the source code: who changes what a run computes bumps NUMERICS_VERSION. Nor the processor or
    the number of threads: a store carried to another machine returns the first one's results.

    Args:
        what: full name of the function that makes the run, e.g. "figures.fig_rare.trained".
        config: frozen dataclass; what its fields may hold is said in `describe`.
        device_type: "cpu", "cuda", ...
    Raises:
        ValueError: `config` is not a frozen dataclass, or a field cannot be hashed.
    """
    return digest(_identity(what, config, device_type, engine))


class Store:
    """Results of runs on disk: <root>/<key[:2]>/<key>/arrays.safetensors, with run.json beside it.

    run.json says in readable form what the key is the hash of. An entry appears whole or not at
    all (written beside, synced, renamed), by any number of processes at once. What is read is
    verified; an entry that does not hold what its name promises is moved to <root>/broken, with a
    warning, and computed again. Nothing is ever unpickled.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def get_or_run(
        self,
        what: str,
        config: object,
        run: Callable[[], dict[str, np.ndarray]],
        *,
        device_type: str,
        engine: str = "eager",
    ) -> dict[str, np.ndarray]:
        """Returns the arrays of the run; calls `run()` only if the store does not hold them.

        Args:
            run: returns arrays by name, of any shape; bool, int, float or complex64, no strings.
            what, config, device_type, engine: see `key`.
        Returns:
            The arrays as they are on disk, so the first call and later ones return the same.
        Raises:
            ValueError: see `key`; or `run` returned what the store cannot hold (names the array).
        """
        identity = _identity(what, config, device_type, engine)
        name = digest(identity)
        arrays = self._read(name)
        if arrays is None:
            start = time.perf_counter()
            arrays = _checked(run(), what)
            self._write(name, identity, arrays, seconds=time.perf_counter() - start)
            arrays = self._read(name)
        if arrays is None:
            raise OSError(f"Store: cannot read back the run just written below {self.root}")
        return arrays

    def _entry(self, name: str) -> Path:
        return self.root / name[:2] / name

    def _read(self, name: str) -> dict[str, np.ndarray] | None:
        entry = self._entry(name)
        if not entry.exists():
            return None
        try:
            record = json.loads((entry / "run.json").read_text())
            data = (entry / "arrays.safetensors").read_bytes()
            if record["key"] != name:
                raise ValueError(f"it holds another run, {record['key']}")
            if digest(record["identity"]) != name:
                raise ValueError("the configuration in run.json is not the one its key promises")
            if record["arrays_sha256"] != hashlib.sha256(data).hexdigest():
                raise ValueError("arrays.safetensors does not match the checksum in run.json")
            return safetensors.numpy.load(data)
        except FileNotFoundError as error:
            if not entry.exists():  # another process has just moved it aside
                return None
            self._set_aside(entry, f"{Path(error.filename).name} is missing")
        except _BROKEN as error:
            self._set_aside(entry, f"{type(error).__name__}: {error}")
        return None

    def _set_aside(self, entry: Path, found: str) -> None:
        aside = self.root / "broken" / f"{entry.name}.{secrets.token_hex(4)}"
        aside.parent.mkdir(exist_ok=True)
        try:
            os.rename(entry, aside)
        except FileNotFoundError:  # another process was faster
            return
        text = f"Store: stored run {entry.name} is broken ({found}); it is computed again"
        warnings.warn(f"{text}, and the broken entry is kept in {aside}", stacklevel=4)

    def _write(self, name: str, identity: object, arrays: dict, *, seconds: float) -> None:
        scratch = self._scratch(name)
        try:
            data = safetensors.numpy.save(arrays)
            sha256 = hashlib.sha256(data).hexdigest()
            record = {"key": name, "identity": identity, "arrays_sha256": sha256}
            record |= {"numpy": np.__version__, "seconds": round(seconds, 3)}
            _write_synced(scratch / "arrays.safetensors", data)
            _write_synced(scratch / "run.json", json.dumps(record, indent=1).encode())
            _sync_folder(scratch)
            entry = self._entry(name)
            entry.parent.mkdir(exist_ok=True)
            os.rename(scratch, entry)
            _sync_folder(entry.parent)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise  # these two say that another process finished the same run first: it wins
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _scratch(self, name: str) -> Path:
        """A fresh folder on the store's file system; removes those that killed runs have left."""
        folder = self.root / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            try:
                stale = time.time() - old.stat().st_mtime > _STALE
            except FileNotFoundError:  # its writer has just finished
                continue
            if stale:
                shutil.rmtree(old, ignore_errors=True)
        scratch = folder / f"{name}.{secrets.token_hex(8)}"
        scratch.mkdir()
        return scratch


def _identity(what: str, config: object, device_type: str, engine: str) -> dict[str, object]:
    got = {"config of type": _full_name(type(config))}
    check(_is_frozen_dataclass(config), "key", "a frozen dataclass as config", **got)
    return {
        "what": what,
        "config": describe(config),
        "numerics_version": NUMERICS_VERSION,
        "torch": str(torch.__version__),
        "engine": engine,
        "device_type": device_type,
    }


def _checked(arrays: object, what: str) -> dict[str, np.ndarray]:
    got = {"type": _full_name(type(arrays))}
    check(isinstance(arrays, dict), what, "a dict of numpy arrays as the run's result", **got)
    assert isinstance(arrays, dict)  # for the type checker
    for name, array in arrays.items():
        check(isinstance(name, str), what, "names of arrays that are strings", name=name)
        rule = f"numpy arrays of numbers ({', '.join(_DTYPES)})"
        kind = _full_name(type(array))
        check(isinstance(array, np.ndarray | np.generic), what, rule, **{f"{name} of type": kind})
        dtype = str(array.dtype)
        todo = "strings belong in the configuration"
        check(array.dtype.name in _DTYPES, what, rule, todo, **{f"{name} of dtype": dtype})
    # safetensors copies raw memory: a transposed view would be saved in the wrong order
    return {name: np.array(array, order="C") for name, array in arrays.items()}


def _described_array(dtype: str, shape: tuple[int, ...], data: bytes) -> dict[str, object]:
    return {"array": dtype, "shape": list(shape), "sha256": hashlib.sha256(data).hexdigest()}


def _is_frozen_dataclass(value: object) -> bool:
    params = getattr(type(value), "__dataclass_params__", None)
    return params is not None and params.frozen


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
