"""Sums and products of rows in registers; rows are given by the place of their first number."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from sae.engines.llvm import Code, integer, written
from sae.engines.loops import LANES, PANEL

_INT = ir.IntType(64)


def tile_of(n_rows: int) -> Any:
    """out[i_o + r ld_o : + 64] = base[i_b :] + sum_q x[i_x + r ld_x + q] packed[i_p + 64 q :]."""

    @written
    def tile(_, x, i_x, ld_x, packed, i_p, depth, base, i_b, out, i_o, ld_o):
        i = types.intp
        signature = types.void(x, i, i, packed, i, i, base, i, out, i, i)

        def write(context, builder, signature, args):
            x, i_x, ld_x, packed, i_p, depth, base, i_b, out, i_o, ld_o = args
            kinds = signature.args
            code, n_vectors = Code(context, builder, kinds[0]), PANEL // LANES
            x_at, w_at = code.at(kinds[0], x, i_x), code.at(kinds[3], packed, i_p)
            base_at, out_at = code.at(kinds[6], base, i_b), code.at(kinds[8], out, i_o)
            sums = [code.places(n_vectors) for _ in range(n_rows)]
            for v in range(n_vectors):
                start = code.load(code.past(base_at, v * LANES))
                for row in sums:
                    builder.store(start, row[v])
            with cgutils.for_range(builder, depth) as loop:
                column = code.past(w_at, builder.mul(loop.index, integer(PANEL)))
                weights = [code.load(code.past(column, v * LANES)) for v in range(n_vectors)]
                for r, row in enumerate(sums):
                    place = builder.add(loop.index, builder.mul(ld_x, integer(r)))
                    scalar = code.splat(builder.load(code.past(x_at, place)))
                    for v in range(n_vectors):
                        code.add_product(row[v], scalar, weights[v])
            for r, row in enumerate(sums):
                row_at = code.past(out_at, builder.mul(ld_o, integer(r)))
                for v in range(n_vectors):
                    code.store(builder.load(row[v]), code.past(row_at, v * LANES))
            return context.get_dummy_value()

        return signature, write

    return tile


def sum_of(n_vectors: int) -> Any:
    """out[i_o :] = base[i_b :] + sign sum_e coefficients[e] table[ids[e] ld + i :], so many."""

    @written
    def rows(_, base, i_b, sign, ids, coefficients, start, end, table, i, ld, out, i_o):
        n = types.intp
        signature = types.void(base, n, sign, ids, coefficients, n, n, table, n, n, out, n)

        def write(context, builder, signature, args):
            base, i_b, sign, ids, coefficients, start, end, table, i, ld, out, i_o = args
            kinds = signature.args
            code = Code(context, builder, kinds[0])
            base_at, out_at = code.at(kinds[0], base, i_b), code.at(kinds[10], out, i_o)
            table_at = code.at(kinds[7], table, i)
            sums = code.places(n_vectors)
            for v, place in enumerate(sums):
                builder.store(code.load(code.past(base_at, v * LANES)), place)
            with cgutils.for_range(builder, end, start) as loop:
                which = builder.load(code.at(kinds[3], ids, loop.index))
                row_at = code.past(table_at, builder.mul(builder.sext(which, _INT), ld))
                scalar = builder.load(code.at(kinds[4], coefficients, loop.index))
                scalar = code.splat(builder.fmul(scalar, sign))
                for v, place in enumerate(sums):
                    code.add_product(place, scalar, code.load(code.past(row_at, v * LANES)))
            for v, place in enumerate(sums):
                code.store(builder.load(place), code.past(out_at, v * LANES))
            return context.get_dummy_value()

        return signature, write

    return rows


@written
def dots(_, table, ids, start, end, w, i_w, n, scale, shift, out):
    """out[e] = scale table[ids[e] n :] . w[i_w :] + shift over n; their sum."""
    i, number = types.intp, table.dtype

    def write(context, builder, signature, args):
        table, ids, start, end, w, i_w, n, scale, shift, out = args
        kinds = signature.args
        code = Code(context, builder, kinds[0])
        w_at, zero = code.at(kinds[4], w, i_w), ir.Constant(code.number, 0.0)
        sums, total = code.places(PANEL // LANES), cgutils.alloca_once(builder, code.number)
        builder.store(zero, total)
        n_panels = builder.sdiv(n, integer(PANEL))
        n_whole = builder.mul(n_panels, integer(PANEL // LANES))
        n_vectors = builder.sdiv(n, integer(LANES))
        with cgutils.for_range(builder, end, start) as record:
            which = builder.load(code.at(kinds[1], ids, record.index))
            row_at = code.at(kinds[0], table, builder.mul(builder.sext(which, _INT), n))
            for place in sums:
                builder.store(ir.Constant(code.vector(), None), place)

            def step(index, places, row_at=row_at):
                for v, place in enumerate(places):
                    at = builder.add(index, integer(v * LANES))
                    a, b = code.load(code.past(row_at, at)), code.load(code.past(w_at, at))
                    code.add_product(place, a, b)

            with cgutils.for_range(builder, n_panels) as loop:
                step(builder.mul(loop.index, integer(PANEL)), sums)
            with cgutils.for_range(builder, n_vectors, n_whole) as loop:
                step(builder.mul(loop.index, integer(LANES)), sums[:1])
            first, second, third, fourth = (builder.load(place) for place in sums)
            four = builder.fadd(builder.fadd(first, second), builder.fadd(third, fourth))
            product = code.reduce("fadd", four, zero)
            product = code.total(code.product(product, scale), shift)
            builder.store(product, code.at(kinds[9], out, record.index))
            builder.store(builder.fadd(builder.load(total), product), total)
        return builder.load(total)

    return number(table, ids, i, i, w, i, i, number, number, out), write


@written
def one_dot(_, a, i_a, b, i_b, n):
    """sum_q a[i_a + q] b[i_b + q] for n a multiple of LANES."""
    i = types.intp

    def write(context, builder, signature, args):
        a, i_a, b, i_b, n = args
        kinds = signature.args
        code = Code(context, builder, kinds[0])
        a_at, b_at, total = code.at(kinds[0], a, i_a), code.at(kinds[2], b, i_b), code.places(1)[0]
        builder.store(ir.Constant(code.vector(), None), total)
        with cgutils.for_range(builder, builder.sdiv(n, integer(LANES))) as loop:
            at = builder.mul(loop.index, integer(LANES))
            code.add_product(total, code.load(code.past(a_at, at)), code.load(code.past(b_at, at)))
        return code.reduce("fadd", builder.load(total), ir.Constant(code.number, 0.0))

    return a.dtype(a, i, b, i, i), write


@written
def transpose(_, rows, i_r, ld, packed, i_p):
    """packed[i_p + 64 q + r] = rows[i_r + ld r + q] for 16 rows and columns."""

    def write(context, builder, signature, args):
        rows, i_r, ld, packed, i_p = args
        code = Code(context, builder, signature.args[0])
        row_at = code.at(signature.args[0], rows, i_r)
        block = [code.load(code.past(row_at, builder.mul(ld, integer(r)))) for r in range(LANES)]
        lanes, half = ir.VectorType(ir.IntType(32), LANES), LANES // 2
        # Riffling rows r and r + 8, four times over, turns the block around.
        low = [i // 2 + LANES * (i % 2) for i in range(LANES)]
        masks = [ir.Constant(lanes, low), ir.Constant(lanes, [i + half for i in low])]
        for _ in range(4):
            block = [
                builder.shuffle_vector(block[r], block[r + half], mask)
                for r in range(half)
                for mask in masks
            ]
        packed_at = code.at(signature.args[3], packed, i_p)
        for q, column in enumerate(block):
            code.store(column, code.past(packed_at, q * PANEL))
        return context.get_dummy_value()

    return types.void(rows, types.intp, types.intp, packed, types.intp), write
