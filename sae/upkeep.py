"""What lies in a store of runs, whether it is sound, and what may go."""

import contextlib
import datetime
import math
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sae import describe, locks
from sae.checks import check
from sae.durable import disk_errors
from sae.entry import STALE, Broken, entry_path, read_arrays, read_record, set_aside


@dataclass(frozen=True)
class Entry:
    """A stored run, as its run.json describes it.

    Args:
        key: 64 hex digits.
        what: full name of the function that made it.
        config: its configuration as a tree of JSON values.
        n_bytes: size on disk.
        seconds: that the run took.
        when: UTC, ISO 8601, when it was stored.
        engine: the label in its key, which need not be the engine that trained; see `key`.
    """

    key: str
    what: str
    config: Any
    n_bytes: int
    seconds: float
    when: str
    numerics_version: int
    torch: str
    numpy: str
    engine: str
    device_type: str
    path: Path

    def age(self) -> float:
        """Returns the days since it was stored."""
        then = datetime.datetime.fromisoformat(self.when)
        return (datetime.datetime.now(datetime.UTC) - then).total_seconds() / 86400


@dataclass(frozen=True)
class Found:
    """Something in a store and why it is named: what is broken in it, or why it may go."""

    path: Path
    why: str
    n_bytes: int


def lock_path(root: Path, key: str) -> Path:
    """Returns the lock of a key; see `locks.acquire`."""
    return root / "locks" / key


def entries(root: Path) -> list[Entry]:
    """Returns the stored runs, by name and date; reads run.json only and leaves out broken ones."""
    return sorted(_entries(root), key=lambda entry: (entry.what, entry.when, entry.key))


def verify(root: Path, *, move: bool = False) -> list[Found]:
    """Returns the broken entries, after reading every byte of all; with `move`, sets them aside.

    Raises:
        DiskError: one cannot be read, or cannot be moved to <root>/broken.
    """
    broken = []
    for path in _paths(root):
        with disk_errors("verify", f"verify {path.name[:12]}", root):
            try:
                read_arrays(path)
            except Broken as error:
                broken.append(Found(path, str(error), _size(path)))
                if move:
                    _move_if_still_broken(root, path)
    return broken


def prune(
    root: Path,
    *,
    older_than: int | float = math.inf,
    other_versions: bool = False,
    dry_run: bool = False,
) -> list[Found]:
    """Returns what was removed, or with `dry_run` what would be.

    Always: scratch and locks that killed processes left, and checkpoints of runs that are stored.
    A run that is being computed loses nothing.

    Args:
        older_than: days, >= 0; also entries, unfinished checkpoints and what was set aside, if
            older.
        other_versions: also entries of another NUMERICS_VERSION or torch, which are not found.
    Raises:
        DiskError: something cannot be removed.
    """
    check(older_than >= 0, "prune", "older_than >= 0 days", older_than=older_than)
    removed = []
    for path, key, why in list(_superfluous(root, older_than, other_versions)):
        lock = lock_path(root, key)
        if locks.held(lock) or not path.exists():
            continue
        found = Found(path, why, _size(path))
        if dry_run or _remove(root, path, lock):
            removed.append(found)
    return removed


def _superfluous(
    root: Path, older_than: int | float, other_versions: bool
) -> Iterator[tuple[Path, str, str]]:
    """Yields path, key and reason of what may go."""
    days = f"older than {older_than:g} days"
    now = (describe.NUMERICS_VERSION, str(torch.__version__))
    for path in _inside(root / "locks"):
        yield path, path.name, "lock of a killed process"
    for entry in entries(root):
        if other_versions and (entry.numerics_version, entry.torch) != now:
            made = f"made by numerics version {entry.numerics_version}, torch {entry.torch}"
            yield entry.path, entry.key, made
        elif entry.age() > older_than:
            yield entry.path, entry.key, days
    for path in _inside(root / "tmp"):
        if _age(path) > STALE / 86400:
            yield path, path.name.partition(".")[0], "scratch of a killed process"
    for path in _inside(root / "checkpoints"):
        if entry_path(root, path.name).exists():
            yield path, path.name, "checkpoints of a run that is stored"
        elif _age(path) > older_than:
            yield path, path.name, f"unfinished, {days}"
    for path in _inside(root / "broken"):
        if _age(path) > older_than:
            yield path, path.name.partition(".")[0], f"broken, {days}"


def _remove(root: Path, path: Path, lock: Path) -> bool:
    """Removes a file or folder, which leaves its place whole; False if its run is in progress."""
    with disk_errors("prune", f"remove {path.name[:12]}", path.parent):
        handle = locks.acquire(lock, wait=False)
        if handle is None:
            return False
        try:
            if path != lock:  # the release removes that
                trash = root / "tmp" / f"{path.name}.{secrets.token_hex(8)}"
                trash.parent.mkdir(exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # another process removes it as well
                    path.rename(trash)
                    shutil.rmtree(trash) if trash.is_dir() else trash.unlink()
        finally:
            locks.release(lock, handle)
    return True


def _move_if_still_broken(root: Path, path: Path) -> None:
    lock = lock_path(root, path.name)
    handle = locks.acquire(lock, wait=False)
    if handle is None:  # it is being computed, by who has moved it
        return
    try:
        read_arrays(path)
    except Broken:
        set_aside(root, path)
    finally:
        locks.release(lock, handle)


def _entries(root: Path) -> Iterator[Entry]:
    for path in _paths(root):
        try:
            record = read_record(path)
        except Broken:
            continue
        if record is not None:
            measured = {name: record[name] for name in ("seconds", "when", "numpy")}
            yield Entry(path.name, path=path, n_bytes=_size(path), **measured, **record["identity"])


def _paths(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("??/*") if re.fullmatch("[0-9a-f]{64}", path.name))


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _size(path: Path) -> int:
    size = 0
    for file in [path, *path.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):  # its writer has just removed it
            size += file.stat().st_size if file.is_file() else 0
    return size


def _age(path: Path) -> float:
    """Days since the last change; 0 for what its writer has just removed."""
    with contextlib.suppress(FileNotFoundError):
        return (time.time() - path.stat().st_mtime) / 86400
    return 0.0
