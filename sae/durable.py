"""Files that a crash leaves whole, and one wording for what a disk refuses."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sae.checks import check

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


class DiskError(OSError):
    """The disk refused: it is full, read-only or broken. What was stored before is untouched."""


def as_path(where: str, path: str | Path) -> Path:
    """Returns `path` as a Path; raises ValueError if it is none."""
    ok = isinstance(path, str | os.PathLike)
    check(ok, where, "path to be a str or a Path", path=type(path).__name__)
    return Path(path)


@contextmanager
def disk_errors(where: str, doing: str, folder: Path) -> Iterator[None]:
    """Turns an OSError inside into a DiskError that says what failed, where, and what to do."""
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        todo = "choose another folder"
        if error.errno in _FULL:
            todo = "free some space or choose another folder"
        elif error.errno in _CLOSED:
            todo = "make it writable or choose another folder"
        cause = error.strerror or str(error)
        refused = DiskError(f"{where}: cannot {doing} in {folder}: {cause}; {todo}")
        refused.errno = error.errno
        raise refused from None


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file so that a crash at any instant leaves the old file or the new one.

    Written beside, as .<name>.<random>.tmp, synced and renamed. Only a kill leaves that scratch
    behind; see `remove_scratch`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        write_synced(scratch, data)
        os.rename(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_scratch(path: Path) -> None:
    """Removes what killed writers of `path` have left beside it."""
    for scratch in path.parent.glob(f".{path.name}.*.tmp"):
        scratch.unlink(missing_ok=True)


def write_synced(path: Path, data: bytes) -> None:
    """Writes a file and returns when it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Returns when the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
