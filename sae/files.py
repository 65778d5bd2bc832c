"""SAEs on disk: a folder with cfg.json and sae_weights.safetensors. No pickle."""

import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from sae.base import SAE
from sae.checks import check, check_finite
from sae.discovery import all_saes
from sae.durable import as_path, disk_errors

_WEIGHTS, _SETTINGS = "sae_weights.safetensors", "cfg.json"
_KEYS = ("architecture", "settings", "dtype", "sha256")
_AGAIN = "a file was truncated or changed: save the SAE again"


def save(sae: SAE, path: str | Path) -> None:
    """Writes the folder `path` with the SAE's settings and weights, whole or not at all.

    An SAE already there is replaced; anything else there is left alone.

    Raises:
        ValueError: `sae` is no SAE, or holds NaN or infinity; `path` exists and is not a saved SAE.
        DiskError: the disk is full, or nothing can be written at `path`.
    """
    rule, todo = "an SAE of this package", "other modules: torch.save(module.state_dict(), path)"
    check(isinstance(sae, SAE), "save", rule, todo, kind=type(sae).__name__)
    check_finite("save", **sae.state_dict())
    path = as_path("save", path)
    with disk_errors("save", "write the SAE", path):
        check(
            not path.exists() or _is_saved(path),
            "save",
            "a new path or the folder of a saved SAE",
            "choose another path or remove what is there",
            path=str(path),
        )
        _write_whole(sae, path)


def load(path: str | Path) -> SAE:
    """Returns the SAE saved at `path`, on the CPU, bit for bit as it was saved.

    Raises:
        ValueError: no SAE there; an unknown architecture; settings or weights that are truncated,
            foreign, not finite or changed since they were saved.
    """
    path = as_path("load", path)
    ok = (path / _SETTINGS).is_file() and (path / _WEIGHTS).is_file()
    rule, todo = f"a folder with {_SETTINGS} and {_WEIGHTS}", "give the folder that save wrote"
    check(ok, "load", rule, f"{todo}; for those of other libraries use load_any", path=str(path))
    data = (path / _WEIGHTS).read_bytes()
    described = _read_settings(path)
    try:
        name, settings = described["architecture"], described["settings"]
        dtype, sha256 = getattr(torch, described["dtype"]), described.pop("sha256")
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype {described['dtype']!r}")
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    except (TypeError, AttributeError) as error:
        raise _not_ours(path, str(error), _AGAIN) from error
    found = _digest(described, data)
    rule = f"settings and weights of SHA-256 {str(sha256)[:12]}..."
    check(found == sha256, "load", rule, _AGAIN, sha256=found[:12])
    known: dict[str, Any] = {cls.__name__: cls for cls in all_saes()}
    check(name in known, "load", f"one of the architectures {sorted(known)}", architecture=name)
    try:
        weights = safetensors.torch.load(data)
        sae = known[name](**settings, generator=torch.Generator()).to(dtype)
        sae.load_state_dict(weights)
    except (SafetensorError, TypeError, RuntimeError) as error:
        raise ValueError(f"load: expected weights that fit {settings}, got {error}") from error
    check_finite("load", **weights)
    return sae


def _write_whole(sae: SAE, path: Path) -> None:
    data = safetensors.torch.save({k: v.contiguous() for k, v in sae.state_dict().items()})
    described = {
        "architecture": type(sae).__name__,
        "settings": sae.settings(),
        "dtype": str(sae.W_dec.dtype).removeprefix("torch."),
    }
    described["sha256"] = _digest(described, data)
    suffix = secrets.token_hex(6)
    scratch = path.with_name(f".{path.name}.{suffix}.new")
    replaced = path.with_name(f".{path.name}.{suffix}.old")
    scratch.mkdir(parents=True)
    try:
        (scratch / _WEIGHTS).write_bytes(data)
        (scratch / _SETTINGS).write_text(json.dumps(described, indent=1) + "\n")
        if path.exists():
            os.rename(path, replaced)
        os.rename(scratch, path)
    except BaseException:
        if replaced.exists() and not path.exists():
            os.rename(replaced, path)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        described = json.loads((path / _SETTINGS).read_text())
    except ValueError as error:
        raise _not_ours(path, str(error), _AGAIN) from error
    if not isinstance(described, dict):
        raise _not_ours(path, f"a JSON {type(described).__name__}", _AGAIN)
    missing = [key for key in _KEYS if key not in described]
    if missing:
        theirs = "SAELens wrote it: use from_saelens or load_any"
        raise _not_ours(path, f"one without {missing}", theirs if "d_sae" in described else _AGAIN)
    return described


def _not_ours(path: Path, got: str, todo: str) -> ValueError:
    rule = f"a {_SETTINGS} written by save"
    return ValueError(f"load: expected {rule}, got {got} in {path}; {todo}")


def _digest(described: dict[str, Any], data: bytes) -> str:
    text = json.dumps(described, sort_keys=True)
    return hashlib.sha256(text.encode() + data).hexdigest()


def _is_saved(path: Path) -> bool:
    """Whether `path` is a folder as `save` writes it, with nothing else in it."""
    if not path.is_dir() or {p.name for p in path.iterdir()} != {_SETTINGS, _WEIGHTS}:
        return False
    try:
        return "sha256" in json.loads((path / _SETTINGS).read_text())
    except (ValueError, TypeError, OSError):
        return False
