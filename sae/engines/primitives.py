"""The primitives of the kernels: those of `vectors` for float32, those of `loops` for float64."""

from typing import Any

from numba import types
from numba.extending import overload

from sae.engines import loops, vectors


def _chosen(name: str) -> Any:
    """Returns a function for compiled code, with the arguments that it has in `loops`."""
    slow, fast = getattr(loops, name).py_func, getattr(vectors, name).py_func

    def primitive(*arguments: Any) -> Any:
        raise NotImplementedError(f"{name} is for compiled code")

    def implementation(*arguments: Any) -> Any:
        return fast if arguments[0].dtype == types.float32 else slow

    options: Any = {"forceinline": True, **loops.OPTIONS}
    overload(primitive, jit_options=options, strict=False)(implementation)
    return primitive


dot = _chosen("dot")
row_dots = _chosen("row_dots")
pack = _chosen("pack")
multiply = _chosen("multiply")
add_rows = _chosen("add_rows")
at_least = _chosen("at_least")
count_at_least = _chosen("count_at_least")
above_each = _chosen("above_each")
within_each = _chosen("within_each")
lower_bound = _chosen("lower_bound")
kth_of_few = _chosen("kth_of_few")
