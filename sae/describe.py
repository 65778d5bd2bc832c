"""What a run is called: the hash of everything that determines its result."""

import dataclasses
import hashlib
import json
import math

import numpy as np
import torch

from sae.checks import check

NUMERICS_VERSION = 4  # bumped by whoever changes what a run computes; old runs are then not found


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
        plain = value.detach().cpu().resolve_conj().resolve_neg()  # raw memory follows
        flat = plain.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8)
        return _described_array(str(value.dtype), tuple(value.shape), flat.numpy().tobytes())
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return _described_array(value.dtype.str, value.shape, value.tobytes())
    if _is_frozen_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value) if field.init]  # type: ignore[arg-type]  # _is_frozen_dataclass has checked
        tree = {name: describe(getattr(value, name), f"{where}.{name}") for name in fields}
        return {"class": full_name(type(value)), **tree}
    rule = "None, bool, int, float, str, tuple, range, tensor, array or frozen dataclass throughout"
    todo = "make it one of these: a list a tuple, a dict a frozen dataclass, a path a str"
    got = {f"{where} of type": full_name(type(value))}
    check(False, "describe", rule, todo, **got)
    raise AssertionError("unreachable")


def digest(tree: object) -> str:
    """Returns the SHA-256 (64 hex digits) of a tree of JSON values, written canonically."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def key(what: str, config: object, *, device_type: str, engine: str = "eager") -> str:
    """Returns the name of a run: SHA-256 (64 hex digits) of all that determines its result.

    That is: `what`, `config`, NUMERICS_VERSION, torch's version, `engine` and `device_type`. Not
    the source code: who changes what a run computes bumps NUMERICS_VERSION. Nor the processor, the
    number of threads or the engines that `train` chooses by itself: a store carried to another
    machine returns the first one's results.

    Args:
        what: full name of the function that makes the run, e.g. "figures.fig_rare.trained".
        config: frozen dataclass; what its fields may hold is said in `describe`.
        device_type: "cpu", "cuda", ...
        engine: a label of the caller's, to keep runs apart; it need not be the engine that trains,
            and runs of which nothing is said are called "eager" whatever trained them.
    Raises:
        ValueError: `config` is not a frozen dataclass, or a field cannot be hashed.
    """
    return digest(identity(what, config, device_type, engine))


def identity(what: str, config: object, device_type: str, engine: str) -> dict[str, object]:
    """Returns the tree that `key` is the digest of; arguments and errors as there."""
    got = {"config of type": full_name(type(config))}
    check(_is_frozen_dataclass(config), "key", "a frozen dataclass as config", **got)
    return {
        "what": what,
        "config": describe(config),
        "numerics_version": NUMERICS_VERSION,
        "torch": str(torch.__version__),
        "engine": engine,
        "device_type": device_type,
    }


def full_name(cls: type) -> str:
    """Returns the name of a class with that of its module."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _described_array(dtype: str, shape: tuple[int, ...], data: bytes) -> dict[str, object]:
    return {"array": dtype, "shape": list(shape), "sha256": hashlib.sha256(data).hexdigest()}


def _is_frozen_dataclass(value: object) -> bool:
    params = getattr(type(value), "__dataclass_params__", None)
    return params is not None and params.frozen
