"""One wording for errors; toymodels, sae and theory each hold the same copy of this file."""

from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor


def check(holds: bool, where: str, rule: str, todo: str = "", /, **got: object) -> None:
    """Raises ValueError "{where}: expected {rule}, got {name}={value}; {todo}" unless `holds`."""
    if not holds:
        values = ", ".join(f"{name}={value!r}" for name, value in got.items())
        raise ValueError(f"{where}: expected {rule}, got {values}" + (f"; {todo}" if todo else ""))


def check_size(where: str, least: int = 1, /, **sizes: Any) -> None:
    """Raises ValueError that names the first size that is not an integer >= `least`."""
    for name, size in sizes.items():
        whole = isinstance(size, Integral) and not isinstance(size, bool)
        ok = whole and int(size) >= least
        check(ok, where, f"an integer {name} >= {least}", **{name: size})


def check_tensor(where: str, **values: Any) -> None:
    """Raises ValueError that names the first value that is not a tensor, and what to pass."""
    for name, value in values.items():
        if isinstance(value, Tensor):
            continue
        held = ("vectors", "x", "W_dec")  # of a dictionary, a batch, an SAE
        of = next((part for part in held if isinstance(getattr(value, part, None), Tensor)), None)
        make = "from_numpy" if isinstance(value, np.ndarray) else "as_tensor"
        todo = f"pass its .{of}" if of else f"pass torch.{make}({name})"
        check(False, where, f"{name} to be a tensor", todo, **{name: type(value).__name__})


def check_finite(where: str, **tensors: Any) -> None:
    """Raises ValueError that names the first that is no tensor, or holds NaN or infinity."""
    check_tensor(where, **tensors)
    for name, tensor in tensors.items():
        finite = torch.isfinite(tensor)
        if not bool(finite.all()):
            first = tuple((~finite).nonzero()[0].tolist())
            check(
                False,
                where,
                f"finite numbers in {name}",
                "remove or replace these entries first",
                **{f"{name}{list(first)}": tensor[first].item()},
            )


def check_generator(where: str, generator: Any, device: torch.device | None = None) -> None:
    """Raises ValueError if `generator` is none, or draws elsewhere than the tensors live."""
    check(
        isinstance(generator, torch.Generator),
        where,
        "a torch.Generator",
        "use stream(seed, name)",
        generator=generator,
    )
    if device is None:
        return
    check(
        generator.device.type == device.type,
        where,
        f"a generator on the device of its tensors ({device.type})",
        f'make it with stream(seed, name, device="{device.type}") or move the tensors',
        **{"generator.device": str(generator.device)},
    )
