"""Checkpoints: the state of a training in progress, in one file that a crash leaves whole."""

import contextlib
import hashlib
import json
import secrets
import time
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from sae.checks import check
from sae.describe import digest
from sae.durable import remove_scratch, write_whole

_DIGITS = 64  # hexadecimal digits of the SHA-256 at the end of the file
_FOREIGN = (ValueError, KeyError, TypeError, SafetensorError)


class Checkpoint:
    """The state of something in progress: tensors by name and a record, a tree of JSON values.

    The file is safetensors (the record and the hash of the identity in its metadata), followed by
    the SHA-256 of all that. It is replaced as a whole: a crash at any instant leaves the last one.

    Args:
        path: of the file; its folder is made when needed.
        identity: tree of JSON values that says what is in progress; a file of another identity is
            not read.
        every: seconds, >= 0, between two writes that `due` asks for.
    """

    def __init__(self, path: str | Path, identity: object, every: int | float = 30.0) -> None:
        check(every >= 0, "Checkpoint", "every >= 0 seconds", every=every)
        self.path, self.every = Path(path), every
        self.off = False  # whether the disk has refused
        self._identity = digest(identity)
        self._last = time.monotonic()

    def read(self) -> tuple[dict[str, Tensor], Any] | None:
        """Returns the tensors (on the CPU, bit for bit) and the record; None if there are none.

        What is broken or of another identity is set aside, with a warning. A tuple in the record
        comes back as a list.
        """
        with contextlib.suppress(OSError):
            remove_scratch(self.path)
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            return self._set_aside(error.strerror or str(error))
        body, seal = data[:-_DIGITS], data[-_DIGITS:]
        if hashlib.sha256(body).hexdigest().encode() != seal:
            return self._set_aside("it does not match its checksum")
        try:
            header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])["__metadata__"]
            record = json.loads(header["record"])
            tensors = safetensors.torch.load(body)
            identity = header["identity"]
        except _FOREIGN as error:
            return self._set_aside(f"it is no checkpoint: {type(error).__name__}: {error}")
        if identity != self._identity:
            return self._set_aside("it is of something else, or was made by another version")
        return tensors, record

    def due(self) -> bool:
        """Returns whether more than `every` seconds have passed since the start or last write."""
        return not self.off and time.monotonic() - self._last > self.every

    def write(self, tensors: dict[str, Tensor], record: object) -> None:
        """Replaces the checkpoint.

        If the disk refuses, a warning says so once; the last checkpoint stays, and from then on
        nothing is written: what is in progress goes on without.

        Raises:
            ValueError: tensors that safetensors cannot hold (sparse or complex128; names one).
        """
        data = _packed(tensors, {"identity": self._identity, "record": json.dumps(record)})
        if self.off:
            return
        try:
            write_whole(self.path, data + hashlib.sha256(data).hexdigest().encode())
        except OSError as error:
            self.off = True
            text = f"Checkpoint: cannot write to {self.path.parent} ({error.strerror or error})"
            warnings.warn(f"{text}; training goes on without checkpoints", stacklevel=2)
        self._last = time.monotonic()

    def remove(self) -> None:
        """Removes the checkpoint, if there is one."""
        with contextlib.suppress(OSError):
            remove_scratch(self.path)
            self.path.unlink(missing_ok=True)

    def _set_aside(self, found: str) -> None:
        aside = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}.broken")
        try:
            self.path.rename(aside)
            kept = f"it is kept as {aside.name}"
        except OSError as error:
            kept = f"it cannot be moved ({error.strerror})"
        text = f"Checkpoint: {self.path} cannot be used ({found})"
        warnings.warn(f"{text}; {kept}, and the training starts again", stacklevel=3)


class _Folder:
    """Where the calls of a context put their checkpoints, and the last one that it gave out."""

    def __init__(self, path: Path, every: int | float) -> None:
        self.path, self.every = path, every
        self.n_calls = 0
        self.last: Checkpoint | None = None


_CURRENT: ContextVar[_Folder | None] = ContextVar("folder of checkpoints", default=None)


@contextlib.contextmanager
def checkpoints_in(folder: str | Path, *, every: int | float = 30.0) -> Iterator[None]:
    """A context in which each training keeps its checkpoints in `folder`, as <folder>/<i>.

    Trainings are told apart by their order, so what runs inside must ask for them in the same
    order each time; the identity notices if it does not. A finished training keeps its last state
    there: who resumes does not train it again. Whoever made the context removes the folder.

    Args:
        every: seconds between the checkpoints of a training, >= 0.
    """
    token = _CURRENT.set(_Folder(Path(folder), every))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def checkpointing() -> bool:
    """Returns whether this is inside a context of checkpoints."""
    return _CURRENT.get() is not None


def next_checkpoint(identity: object) -> Checkpoint | None:
    """Returns the checkpoint of the next training in this context, or None outside of any.

    Args:
        identity: tree of JSON values; see `Checkpoint`.
    """
    folder = _CURRENT.get()
    if folder is None:
        return None
    checkpoint = Checkpoint(folder.path / str(folder.n_calls), identity, folder.every)
    # After a refusal the next trainings still read what is there, but do not ask the disk again.
    checkpoint.off = folder.last is not None and folder.last.off
    folder.n_calls, folder.last = folder.n_calls + 1, checkpoint
    return checkpoint


def _packed(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    for name, tensor in tensors.items():
        ok = tensor.layout == torch.strided and tensor.dtype != torch.complex128
        got = {name: f"{tensor.dtype}, {tensor.layout}"}
        check(ok, "Checkpoint", "dense tensors, none of complex128", **got)
    # A copy of each: safetensors refuses tensors that share memory.
    whole = {n: t.detach().to("cpu", copy=True).contiguous() for n, t in tensors.items()}
    return safetensors.torch.save(whole, metadata)
