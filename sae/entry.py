"""One stored run on disk: a folder <root>/<key[:2]>/<key> with arrays.safetensors and run.json."""

import contextlib
import datetime
import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from sae.describe import digest
from sae.durable import sync_folder, write_synced

STALE = 3600.0  # seconds; writing takes seconds, so an older scratch folder has lost its writer
_BROKEN = (ValueError, KeyError, TypeError, NotADirectoryError, IsADirectoryError, SafetensorError)


class Broken(ValueError):
    """An entry does not hold what its name promises; the message says what was found."""


def entry_path(root: Path, key: str) -> Path:
    """Returns where the entry of a key lies."""
    return root / key[:2] / key


def read_record(entry: Path) -> dict[str, Any] | None:
    """Returns the checked contents of run.json, or None if there is no such entry.

    Raises:
        Broken: they are not what was written for this key.
        OSError: the disk does not give them.
    """
    try:
        data = (entry / "run.json").read_bytes()
        record = json.loads(data)
        if record["key"] != entry.name:
            raise ValueError(f"it holds another run, {record['key']}")
        if digest(record["identity"]) != entry.name:
            raise ValueError("the configuration in run.json is not the one its key promises")
        if "run_sha256" not in record:
            raise ValueError("run.json has no checksum of its own: an older version wrote it")
        if _sealed(record) != data:
            raise ValueError("run.json does not match its own checksum")
    except FileNotFoundError as error:
        return _missing(entry, error)
    except _BROKEN as error:
        raise Broken(f"{type(error).__name__}: {error}") from None
    return record


def read_arrays(entry: Path) -> dict[str, np.ndarray] | None:
    """Returns the verified arrays, or None if there is no such entry; raises as `read_record`."""
    record = read_record(entry)
    if record is None:
        return None
    try:
        data = (entry / "arrays.safetensors").read_bytes()
        if record["arrays_sha256"] != hashlib.sha256(data).hexdigest():
            raise ValueError("arrays.safetensors does not match the checksum in run.json")
        return safetensors.numpy.load(data)
    except FileNotFoundError as error:
        return _missing(entry, error)
    except _BROKEN as error:
        raise Broken(f"{type(error).__name__}: {error}") from None


def write_entry(
    root: Path, key: str, identity: object, arrays: dict[str, np.ndarray], seconds: float
) -> None:
    """Writes an entry that appears whole or not at all; one that is already there stays."""
    scratch, entry = _scratch(root, key), entry_path(root, key)
    try:
        data = safetensors.numpy.save(arrays)
        record = {"key": key, "identity": identity}
        record |= {"arrays_sha256": hashlib.sha256(data).hexdigest(), "numpy": np.__version__}
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record |= {"seconds": round(seconds, 3), "when": now}
        write_synced(scratch / "arrays.safetensors", data)
        write_synced(scratch / "run.json", _sealed(record))
        sync_folder(scratch)
        entry.parent.mkdir(exist_ok=True)
        sync_folder(root)
        os.rename(scratch, entry)
        sync_folder(entry.parent)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise  # these two say that another process finished the same run first: it wins
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def set_aside(root: Path, entry: Path) -> Path:
    """Moves a broken entry to <root>/broken and returns where it is; its lock must be held."""
    aside = root / "broken" / f"{entry.name}.{secrets.token_hex(4)}"
    aside.parent.mkdir(exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # without locks another process may be faster
        os.rename(entry, aside)
    return aside


def _sealed(record: dict[str, Any]) -> bytes:
    """The only bytes that a record may have: no flipped one, not even of white space, fits."""
    body = {name: value for name, value in record.items() if name != "run_sha256"}
    return json.dumps(body | {"run_sha256": digest(body)}, indent=1).encode()


def _missing(entry: Path, error: FileNotFoundError) -> None:
    """A file is not there: the entry is broken, or another process has just moved all of it."""
    if entry.exists():
        raise Broken(f"{Path(error.filename).name} is missing") from None


def _scratch(root: Path, key: str) -> Path:
    """A fresh folder on the store's file system; removes those that killed runs have left."""
    folder = root / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        try:
            stale = time.time() - old.stat().st_mtime > STALE
        except FileNotFoundError:  # its writer has just finished
            continue
        if stale:
            shutil.rmtree(old, ignore_errors=True)
    scratch = folder / f"{key}.{secrets.token_hex(8)}"
    scratch.mkdir()
    return scratch
