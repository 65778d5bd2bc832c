"""An instance on which a claim fails, and how it reads."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor

from theory.claims._claim import Comparisons

_MAX_PRINTED = 36  # entries of a tensor that a counterexample still prints


@dataclass(frozen=True)
class Counterexample:
    """An instance on which a claim fails, and the comparisons evaluated there."""

    key: str
    instance: Any
    comparisons: Comparisons
    margin: float

    def __str__(self) -> str:
        lines = [f"{self.key} fails (margin {self.margin:.3g}) on", f"  {describe(self.instance)}"]
        for c in self.comparisons:
            if not c.margin >= 0:
                claimed = f"claimed {c.relation} {c.expected:.6g}"
                lines.append(f"  {c.label}: measured {c.measured:.6g}, {claimed}")
        return "\n".join(lines)


def describe(value: Any) -> str:
    """Returns a readable text of an instance: numbers rounded, tensors as lists, large ones not."""
    if isinstance(value, Tensor):
        shape = tuple(value.shape)
        rounded = [describe(v) for v in value.tolist()] if value.ndim else [describe(value.item())]
        return f"[{', '.join(rounded)}]" if value.numel() <= _MAX_PRINTED else f"tensor{shape}"
    if is_dataclass(value) and not isinstance(value, type):
        inside = [f"{f.name}={describe(getattr(value, f.name))}" for f in fields(value)]
        return f"{type(value).__name__}({', '.join(inside)})"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(describe, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else repr(value)
