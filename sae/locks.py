"""Locks between processes, which the kernel releases when their holder dies."""

import contextlib
import errno
import os
import warnings
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


def acquire(path: Path, *, wait: bool = True) -> int | None:
    """Returns a handle that holds the lock named `path`; None if another has it and not `wait`.

    A file there is not a lock; holding it open with flock is. Where the system or the file system
    has no flock it says so in a warning and goes on without: then two processes may do the same
    work, which costs time and nothing else.

    Raises:
        OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _flock(handle, path, wait):
                os.close(handle)
                return None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(path)):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its last holder has removed the file: this one is no longer the lock


def release(path: Path, handle: int) -> None:
    """Gives the lock back and removes its file."""
    with contextlib.suppress(OSError):  # a file that stays is no lock, and no reason to fail
        path.unlink(missing_ok=True)  # before the release: after it, it may be another's
    if fcntl is not None:
        with contextlib.suppress(OSError):  # there was none to release
            fcntl.flock(handle, fcntl.LOCK_UN)  # also for children that have inherited the handle
    os.close(handle)


def held(path: Path) -> bool:
    """Returns whether a living process holds the lock named `path`; makes no file."""
    if fcntl is None or not path.exists():
        return False
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # no flock here: nobody holds any
            return False
    return False


def _flock(handle: int, path: Path, wait: bool) -> bool:
    """Whether the lock is held; True with a warning where there are no locks."""
    if fcntl is None:
        return _without(path, "this system has no flock")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return _without(path, f"flock: {error.strerror}")
    return True


def _without(path: Path, why: str) -> bool:
    text = f"locks: no locks in {path.parent} ({why}); processes that ask for the same run at once"
    warnings.warn(f"{text} may each compute it", stacklevel=4)
    return True
