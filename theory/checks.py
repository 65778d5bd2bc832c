"""One wording for errors; toymodels, sae and theory each hold the same copy of this file."""

from numbers import Integral
from typing import Any

import torch
from torch import Tensor


def check(holds: bool, where: str, rule: str, todo: str = "", /, **got: object) -> None:
    """Raises ValueError "{where}: expected {rule}, got {name}={value}; {todo}" unless `holds`."""
    if not holds:
        values = ", ".join(f"{name}={value!r}" for name, value in got.items())
        raise ValueError(f"{where}: expected {rule}, got {values}" + (f"; {todo}" if todo else ""))


def check_size(where: str, **sizes: Any) -> None:
    """Raises ValueError that names the first size that is not an integer >= 1."""
    for name, size in sizes.items():
        whole = isinstance(size, Integral) and not isinstance(size, bool)
        check(whole and int(size) >= 1, where, f"an integer {name} >= 1", **{name: size})


def check_finite(where: str, **tensors: Tensor) -> None:
    """Raises ValueError that names the first tensor holding NaN or infinity, and where it does."""
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


def check_generator(where: str, generator: torch.Generator, device: torch.device) -> None:
    """Raises ValueError if the generator would draw on another device than the tensors live on."""
    check(
        generator.device.type == device.type,
        where,
        f"a generator on the device of its tensors ({device.type})",
        f'make it with stream(seed, name, device="{device.type}") or move the tensors',
        **{"generator.device": str(generator.device)},
    )
