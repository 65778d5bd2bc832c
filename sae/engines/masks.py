"""Comparisons of 64 numbers at a time, and which of 16 is the k-th largest, in registers."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from sae.engines.llvm import Code, integer, written
from sae.engines.loops import LANES, PANEL

_INT = ir.IntType(64)


def _mask(compare: Any) -> Any:
    """A mask of 64 bits: which entries i, ..., i + 63 compare as asked, with a number or with the
    entries j, ..., j + 63."""

    @written
    def mask(_, rows, i, other, j, half):
        def write(context, builder, signature, args):
            rows, i, other, j, half = args
            kinds = signature.args
            code = Code(context, builder, kinds[0])
            row = code.load(code.at(kinds[0], rows, i), PANEL)
            if isinstance(kinds[2], types.Array):
                other = code.load(code.at(kinds[2], other, j), PANEL)
            else:
                other = code.splat(other, PANEL)
            return builder.bitcast(compare(code, row, other, half), ir.IntType(64))

        return types.uint64(rows, types.intp, other, types.intp, half), write

    return mask


def _near(code: Code, row: Any, other: Any, half: Any) -> Any:
    far = code.builder.fsub(row, other)
    distance = code.builder.select(
        code.builder.fcmp_ordered(">=", far, ir.Constant(far.type, None)),
        far,
        code.builder.fneg(far),
    )
    return code.builder.fcmp_ordered("<", distance, code.splat(half, PANEL))


at_least_64 = _mask(lambda code, row, low, _: code.builder.fcmp_ordered(">=", row, low))
above_64 = _mask(lambda code, row, low, _: code.builder.fcmp_ordered(">", row, low))
within_64 = _mask(_near)


def _bits(name: str) -> Any:
    @written
    def count(_, mask):
        def write(context, builder, signature, args):
            extra = [ir.Constant(ir.IntType(1), 0)] if name == "cttz" else []
            kind = ir.FunctionType(_INT, [_INT, *(value.type for value in extra)])
            function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.i64")
            return builder.call(function, [*args, *extra])

        return types.int64(types.uint64), write

    return count


lowest_bit, n_bits = _bits("cttz"), _bits("ctpop")


@written
def lane_maxima(_, rows, i, n, k):
    """The k-th largest of the maxima of 16 interleaved parts of n panels that begin at i."""

    def write(context, builder, signature, args):
        rows, i, n, k = args
        code = Code(context, builder, signature.args[0])
        row_at = code.at(signature.args[0], rows, i)
        places = code.places(PANEL // LANES)
        least = code.least()
        for place in places:
            builder.store(least, place)

        def larger(a, b):
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        with cgutils.for_range(builder, n) as loop:
            start = builder.mul(loop.index, integer(PANEL))
            for v, place in enumerate(places):
                at = code.past(row_at, builder.add(start, integer(v * LANES)))
                builder.store(larger(code.load(at), builder.load(place)), place)
        a, b, c, d = (builder.load(place) for place in places)
        maxima = larger(larger(a, b), larger(c, d))
        return code.kth(maxima, k)

    return rows.dtype(rows, types.intp, types.intp, types.intp), write


@written
def kth_lane(_, values, k):
    """The k-th largest of the first 16 of an array."""

    def write(context, builder, signature, args):
        code = Code(context, builder, signature.args[0])
        return code.kth(code.load(code.at(signature.args[0], args[0], integer(0))), args[1])

    return values.dtype(values, types.intp), write
