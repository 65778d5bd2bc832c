"""The primitives of `loops` for float32, as vectors of 16 numbers held in registers.

They are LLVM code for any processor, and several times faster than loops where registers are wide.
"""

import numpy as np

from sae.engines.intrinsics import dots, one_dot, sum_of, tile_of, transpose
from sae.engines.loops import LANES, PANEL, compiled, inlined
from sae.engines.masks import (
    above_64,
    at_least_64,
    kth_lane,
    lane_maxima,
    lowest_bit,
    n_bits,
    within_64,
)

ROWS = 4  # of a tile of the matrix product: 4 x 64 sums, 16 of the 32 registers of AVX-512
WIDE = 16  # vectors that a sum of rows holds in registers

_tile_rows, _tile_row = tile_of(ROWS), tile_of(1)
_sum_wide, _sum_panel, _sum_lanes = sum_of(WIDE), sum_of(PANEL // LANES), sum_of(1)


@inlined
def dot(a, i, b, j):
    d = a.shape[1]
    return one_dot(a, i * d, b, j * d, d)


@inlined
def row_dots(table, ids, start, end, w, j, scale, shift, out):
    d = w.shape[1]
    return dots(table, ids, start, end, w, j * d, d, scale, shift, out)


@compiled
def pack(rows, packed):
    n, d = rows.shape
    whole = n // LANES * LANES
    for j in range(0, whole, LANES):
        start = j // PANEL * d * PANEL + j % PANEL
        for q in range(0, d, LANES):
            transpose(rows, j * d + q, d, packed, start + q * PANEL)
    for j in range(whole, len(packed) * PANEL):
        panel, i = j // PANEL, j % PANEL
        for q in range(d):
            packed[panel, q, i] = rows[j, q] if j < n else 0


@compiled
def multiply(x, first, n, packed, base, out):
    d, width = x.shape[1], out.shape[1]
    tiled = n // ROWS * ROWS
    for panel in range(len(packed)):
        i, w = panel * PANEL, panel * d * PANEL
        for b in range(0, tiled, ROWS):
            _tile_rows(x, (first + b) * d, d, packed, w, d, base, i, out, b * width + i, width)
        for b in range(tiled, n):
            _tile_row(x, (first + b) * d, d, packed, w, d, base, i, out, b * width + i, width)


@inlined
def add_rows(base, i, sign, ids, coefficients, start, end, table, out, j):
    d, q = out.shape[1], 0
    while q + WIDE * LANES <= d:
        _sum_wide(base, i * d + q, sign, ids, coefficients, start, end, table, q, d, out, j * d + q)
        q += WIDE * LANES
    while q + PANEL <= d:
        _sum_panel(
            base, i * d + q, sign, ids, coefficients, start, end, table, q, d, out, j * d + q
        )
        q += PANEL
    while q < d:
        _sum_lanes(
            base, i * d + q, sign, ids, coefficients, start, end, table, q, d, out, j * d + q
        )
        q += LANES


@inlined
def _write(mask, start, found, count):
    # The first three whether there are so many or not: branches that nobody can foresee cost more.
    n, one = n_bits(mask), np.uint64(1)
    second = mask & (mask - one)
    third = second & (second - one)
    found[count] = start + lowest_bit(mask)
    found[count + 1] = start + lowest_bit(second)
    found[count + 2] = start + lowest_bit(third)
    for e in range(count + 3, count + n):
        third &= third - one
        found[e] = start + lowest_bit(third)
    return count + n


@inlined
def at_least(rows, i, low, n, found):
    count, at = 0, i * rows.shape[1]
    for j in range(0, n, PANEL):
        count = _write(at_least_64(rows, at + j, low, j, low), j, found, count)
    return count


@inlined
def count_at_least(rows, i, low, n):
    count, at = 0, i * rows.shape[1]
    for j in range(0, n, PANEL):
        count += n_bits(at_least_64(rows, at + j, low, j, low))
    return count


@inlined
def above_each(rows, i, lows, n, found):
    count, at = 0, i * rows.shape[1]
    for j in range(0, n, PANEL):
        count = _write(above_64(rows, at + j, lows, j, lows[0]), j, found, count)
    return count


@inlined
def within_each(rows, i, centres, half, n, found):
    count, at = 0, i * rows.shape[1]
    for j in range(0, n, PANEL):
        count = _write(within_64(rows, at + j, centres, j, half), j, found, count)
    return count


@inlined
def lower_bound(rows, i, n, k):
    return lane_maxima(rows, i * rows.shape[1], (n + PANEL - 1) // PANEL, k)


@inlined
def kth_of_few(values, n, k):
    for i in range(n, LANES):
        values[i] = -np.inf
    return kth_lane(values, k)
