"""LLVM code for vectors of 16 numbers, as pieces that the intrinsics are put together from."""

import inspect
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from sae.engines.loops import LANES

_FAST = ("contract", "reassoc", "nsz")
_NUMBERS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
_INT = ir.IntType(64)


class Code:
    """Writes LLVM code for vectors of the numbers of one array."""

    def __init__(self, context: Any, builder: Any, array: Any) -> None:
        self.context, self.builder = context, builder
        self.number = _NUMBERS[array.dtype]

    def vector(self, n: int = LANES) -> ir.VectorType:
        return ir.VectorType(self.number, n)

    def at(self, array: Any, value: Any, index: Any) -> Any:
        """A pointer to element `index` of an array."""
        data = self.context.make_array(array)(self.context, self.builder, value).data
        return self.builder.gep(data, [index])

    def past(self, pointer: Any, n: Any) -> Any:
        return self.builder.gep(pointer, [integer(n) if isinstance(n, int) else n])

    def load(self, pointer: Any, n: int = LANES) -> Any:
        return self.builder.load(
            self.builder.bitcast(pointer, self.vector(n).as_pointer()), align=4
        )

    def store(self, value: Any, pointer: Any) -> None:
        self.builder.store(value, self.builder.bitcast(pointer, value.type.as_pointer()), align=4)

    def product(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b, flags=_FAST)

    def total(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b, flags=_FAST)

    def splat(self, scalar: Any, n: int = LANES) -> Any:
        lanes = ir.VectorType(ir.IntType(32), n)
        nothing = ir.Constant(self.vector(n), ir.Undefined)
        one = self.builder.insert_element(nothing, scalar, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(one, nothing, ir.Constant(lanes, [0] * n))

    def add_product(self, place: Any, a: Any, b: Any) -> None:
        """Adds a * b to a vector held in a register."""
        total = self.total(self.builder.load(place), self.product(a, b))
        self.builder.store(total, place)

    def reduce(self, name: str, vector: Any, *start: Any) -> Any:
        """The sum ("fadd", from a start) or the maximum ("fmax") of the lanes of a vector."""
        size = 32 if self.number == ir.FloatType() else 64
        kind = ir.FunctionType(self.number, [*(value.type for value in start), vector.type])
        full = f"llvm.vector.reduce.{name}.v{vector.type.count}f{size}"
        function = cgutils.get_or_insert_function(self.builder.module, kind, full)
        flags = (*_FAST, "nnan") if name == "fmax" else _FAST  # no maximum is asked of NaN
        return self.builder.call(function, [*start, vector], fastmath=flags)

    def least(self) -> Any:
        return ir.Constant(self.vector(), [ir.Constant(self.number, float("-inf"))] * LANES)

    def kth(self, vector: Any, k: Any) -> Any:
        """The k-th largest lane: the largest of those that k lanes reach, itself among them."""
        builder, counts = self.builder, ir.VectorType(ir.IntType(32), LANES)
        n_reach = ir.Constant(counts, None)
        for lane in range(LANES):
            one = builder.shuffle_vector(vector, vector, ir.Constant(counts, [lane] * LANES))
            reaches = builder.sext(builder.fcmp_ordered(">=", one, vector), counts)  # -1 is true
            n_reach = builder.sub(n_reach, reaches)
        nothing, first = ir.Constant(counts, ir.Undefined), ir.Constant(ir.IntType(32), 0)
        ks = builder.insert_element(nothing, builder.trunc(k, ir.IntType(32)), first)
        ks = builder.shuffle_vector(ks, nothing, ir.Constant(counts, [0] * LANES))
        enough = builder.icmp_signed(">=", n_reach, ks)
        return self.reduce("fmax", builder.select(enough, vector, self.least()))

    def places(self, n: int) -> list[Any]:
        return [cgutils.alloca_once(self.builder, self.vector()) for _ in range(n)]


def integer(value: int) -> Any:
    """A constant of 64 bits."""
    return ir.Constant(_INT, value)


def written(function: Any) -> Any:
    """Returns a function of compiled code whose LLVM code `function` writes."""
    return intrinsic(inspect.unwrap(function))  # without the shape checks of the tests
