"""A store of runs: a run is a value, found by the hash of everything that determines it."""

import contextlib
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path

import numpy as np

from sae import locks, upkeep
from sae.checkpoint import checkpoints_in
from sae.checks import check
from sae.describe import NUMERICS_VERSION, describe, digest, full_name, identity, key
from sae.durable import DiskError, disk_errors
from sae.entry import Broken, entry_path, read_arrays, set_aside, write_entry
from sae.upkeep import Entry, Found, lock_path

__all__ = ["NUMERICS_VERSION", "DiskError", "Entry", "Found", "Store", "default_root"]
__all__ += ["describe", "digest", "key"]

_DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_DTYPES += ("float16", "float32", "float64", "complex64")  # what safetensors can hold
_ASKED: ContextVar[frozenset[Path]] = ContextVar("runs being computed", default=frozenset())


def default_root() -> Path:
    """Returns the folder of runs: SAE_TESTBED_RUNS, or figures/out/runs of this checkout.

    Where the package is installed without the figures, figures/out/runs of the working directory.
    """
    named = os.environ.get("SAE_TESTBED_RUNS")
    checkout = Path(__file__).resolve().parent.parent
    base = checkout if (checkout / "figures").is_dir() else Path.cwd()
    return Path(named) if named else base / "figures" / "out" / "runs"


class Store:
    """Results of runs on disk: <root>/<key[:2]>/<key>/arrays.safetensors, with run.json beside it.

    run.json says in readable form what the key is the hash of. An entry appears whole or not at
    all (written beside, synced, renamed). Processes that ask for the same run at once compute it
    once: the others wait. What is read is verified; an entry that does not hold what its name
    promises is moved to <root>/broken, with a warning, and computed again. `train` inside a run
    leaves checkpoints in <root>/checkpoints/<key>, from which a killed run resumes. Nothing is
    ever unpickled.

    Args:
        checkpoint_every: seconds between the checkpoints of a training, >= 0.
    """

    def __init__(self, root: str | Path, *, checkpoint_every: int | float = 30.0) -> None:
        rule = "checkpoint_every >= 0 seconds"
        check(checkpoint_every >= 0, "Store", rule, checkpoint_every=checkpoint_every)
        self.root, self.checkpoint_every = Path(root), checkpoint_every

    def read(
        self, what: str, config: object, *, device_type: str, engine: str = "eager"
    ) -> dict[str, np.ndarray] | None:
        """Returns the arrays of a stored run, or None if there is none that is sound.

        Args:
            what, config, device_type, engine: see `key`.
        Raises:
            DiskError: the disk does not give what is there.
        """
        name = key(what, config, device_type=device_type, engine=engine)
        try:
            with disk_errors("Store", f"read {what} ({name[:12]})", self.root):
                return read_arrays(entry_path(self.root, name))
        except Broken:  # left in its place: who holds its lock may just be replacing it
            return None

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
            ValueError: see `key`; or `run` returned what the store cannot hold (names the array),
                or asks for its own result.
            DiskError: a full disk or a read-only store; what was there is untouched.
        """
        arrays = self.read(what, config, device_type=device_type, engine=engine)
        if arrays is not None:
            return arrays
        tree = identity(what, config, device_type, engine)
        name = digest(tree)
        doing = f"store {what} ({name[:12]})"
        with self._alone(name, what, doing):
            arrays = self._sound(name, doing)  # another process may have been faster
            if arrays is None:
                self._compute(name, tree, run, what, doing)
                arrays = self._sound(name, doing)
        if arrays is None:
            raise OSError(f"Store: cannot read back the run just written below {self.root}")
        return arrays

    def entries(self) -> list[Entry]:
        """Returns the stored runs, by name and date; leaves out broken ones (see `verify`)."""
        return upkeep.entries(self.root)

    def verify(self, *, move: bool = False) -> list[Found]:
        """Returns the broken entries, after reading every byte; see `upkeep.verify`."""
        return upkeep.verify(self.root, move=move)

    def prune(
        self,
        *,
        older_than: int | float = math.inf,
        other_versions: bool = False,
        dry_run: bool = False,
    ) -> list[Found]:
        """Removes what is no longer of use, and returns what that was; see `upkeep.prune`."""
        return upkeep.prune(
            self.root, older_than=older_than, other_versions=other_versions, dry_run=dry_run
        )

    def _sound(self, name: str, doing: str) -> dict[str, np.ndarray] | None:
        """The arrays, or None after a broken entry was moved; its lock must be held."""
        entry = entry_path(self.root, name)
        with disk_errors("Store", doing, self.root):
            try:
                return read_arrays(entry)
            except Broken as error:
                kept = set_aside(self.root, entry)
                text = f"Store: stored run {name} is broken ({error}); it is computed again"
                warnings.warn(f"{text}, and the broken entry is kept in {kept}", stacklevel=3)
                return None

    def _compute(self, name: str, tree: object, run: Callable, what: str, doing: str) -> None:
        progress = self.root / "checkpoints" / name
        start = time.perf_counter()
        with checkpoints_in(progress, every=self.checkpoint_every):
            arrays = _checked(run(), what)
        with disk_errors("Store", doing, self.root):
            write_entry(self.root, name, tree, arrays, time.perf_counter() - start)
        shutil.rmtree(progress, ignore_errors=True)

    @contextlib.contextmanager
    def _alone(self, name: str, what: str, doing: str) -> Iterator[None]:
        """Holds the lock of a run, for which it waits."""
        lock, asked = lock_path(self.root, name), _ASKED.get()
        todo = "it would wait for itself for ever"
        check(lock not in asked, "Store", "a run that does not ask for itself", todo, run=what)
        with disk_errors("Store", doing, self.root):
            handle = locks.acquire(lock)
        assert handle is not None  # it has waited
        token = _ASKED.set(asked | {lock})
        try:
            yield
        finally:
            _ASKED.reset(token)
            locks.release(lock, handle)


def _checked(arrays: object, what: str) -> dict[str, np.ndarray]:
    got = {"type": full_name(type(arrays))}
    check(isinstance(arrays, dict), what, "a dict of numpy arrays as the run's result", **got)
    assert isinstance(arrays, dict)  # for the type checker
    for name, array in arrays.items():
        check(isinstance(name, str), what, "names of arrays that are strings", name=name)
        rule = f"numpy arrays of numbers ({', '.join(_DTYPES)})"
        kind = full_name(type(array))
        check(isinstance(array, np.ndarray | np.generic), what, rule, **{f"{name} of type": kind})
        dtype = str(array.dtype)
        todo = "strings belong in the configuration"
        check(array.dtype.name in _DTYPES, what, rule, todo, **{f"{name} of dtype": dtype})
    # safetensors copies raw memory: a transposed view would be saved in the wrong order
    return {name: np.array(array, order="C") for name, array in arrays.items()}
