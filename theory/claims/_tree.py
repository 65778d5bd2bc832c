"""Instances of claims as trees of plain values that JSON holds exactly, and back again."""

import importlib
import math
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from theory.checks import check
from theory.claims._claim import Comparison

PACKAGES = ("toymodels", "theory.claims")  # whose dataclasses an instance may be made of
DTYPES = {"float64": torch.float64, "float32": torch.float32, "int64": torch.int64}
DTYPES |= {"bool": torch.bool}


def to_tree(value: Any) -> Any:
    """Returns None, bool, int, float, str, and lists and dicts of these, that `from_tree` reads.

    A tuple is a list, a list is {"list": ...}, a dataclass {"class", "fields"}, a tensor {"tensor":
    dtype, "shape", "values"}, a float that JSON lacks {"float": "nan"}. Floats are exact: the
    shortest text that gives the number back. A tensor's layout in memory is not kept.

    Raises:
        ValueError: anything else, such as an object of a class that is no dataclass of PACKAGES.
    """
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        check(dtype in DTYPES, "to_tree", f"a tensor of {', '.join(DTYPES)}", dtype=dtype)
        flat = [to_tree(v) for v in value.detach().flatten().tolist()]
        return {"tensor": dtype, "shape": list(value.shape), "values": flat}
    cls: Any = type(value)
    name = f"{cls.__module__}.{cls.__qualname__}"
    if is_dataclass(cls):
        kept = {f.name: to_tree(getattr(value, f.name)) for f in fields(cls) if f.init}
        _find_class(name, "to_tree")
        return {"class": name, "fields": kept}
    if type(value) is tuple:
        return [to_tree(v) for v in value]
    if type(value) is list:
        return {"list": [to_tree(v) for v in value]}
    if type(value) is float and not math.isfinite(value):
        return {"float": repr(value)}
    plain = value is None or type(value) in (bool, int, float, str)
    rule = "numbers, text, tensors, tuples, lists and frozen dataclasses"
    check(plain, "to_tree", rule, type=name)
    return value


def from_tree(tree: Any) -> Any:
    """Returns the value that `to_tree` wrote; classes come from PACKAGES only.

    Raises:
        ValueError: what `to_tree` does not write, an unknown class or field, or values that the
            class itself refuses.
    """
    if isinstance(tree, list):
        return tuple(map(from_tree, tree))
    if not isinstance(tree, dict):
        return tree
    keys = set(tree)
    if keys == {"class", "fields"} and isinstance(tree["fields"], dict):
        cls = _find_class(tree["class"], "from_tree")
        expected = sorted(f.name for f in fields(cls) if f.init)
        known = sorted(tree["fields"]) == expected
        rule = f"the fields {expected} of {cls.__name__}"
        check(known, "from_tree", rule, fields=sorted(tree["fields"]))
        return cls(**{name: from_tree(value) for name, value in tree["fields"].items()})
    if keys == {"tensor", "shape", "values"} and tree["tensor"] in DTYPES:
        return _tensor(tree)
    if keys == {"list"} and isinstance(tree["list"], list):
        return [from_tree(v) for v in tree["list"]]
    if keys == {"float"} and tree["float"] in ("nan", "inf", "-inf"):
        return float(tree["float"])
    rule = "a class, a tensor, a list or a float"
    check(False, "from_tree", rule, keys=sorted(map(str, keys)))


def comparison_entry(comparison: Comparison | None) -> dict[str, Any] | None:
    """Returns a comparison as JSON holds it."""
    if comparison is None:
        return None
    c = comparison
    numbers = {"measured": c.measured, "expected": c.expected, "margin": c.margin}
    named = {"label": c.label, "relation": c.relation}
    return named | {name: to_tree(float(value)) for name, value in numbers.items()}


def _tensor(tree: dict[str, Any]) -> Tensor:
    shape, values = tree["shape"], from_tree(tree["values"])
    sizes = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
    kinds = {"bool": (bool,), "int64": (int,)}.get(tree["tensor"], (int, float))
    numbers = isinstance(values, tuple) and all(type(v) in kinds for v in values)
    fits = sizes and numbers and len(values) == math.prod(shape)
    check(fits, "from_tree", "a shape and that many numbers", shape=shape)
    return torch.tensor(values, dtype=DTYPES[tree["tensor"]]).reshape(shape)


def _find_class(name: Any, where: str) -> Any:
    """Returns the dataclass "module.Name" if it is defined in a module of PACKAGES."""
    module, _, attribute = str(name).rpartition(".")
    ours = any(module == package or module.startswith(f"{package}.") for package in PACKAGES)
    cls = None
    if ours and all(part.isidentifier() for part in module.split(".")):
        try:
            cls = getattr(importlib.import_module(module), attribute, None)
        except ModuleNotFoundError:
            cls = None
    found = isinstance(cls, type) and is_dataclass(cls) and cls.__module__ == module
    check(found, where, f"a dataclass of {' or '.join(PACKAGES)}", name=name)
    return cls
