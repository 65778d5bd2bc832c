"""The primitives of the kernels on rows of numbers, in plain loops.

`vectors` holds the same functions several times faster for float32. Rows of d_in numbers are padded
by 0 to a multiple of `LANES`, rows of n_latents numbers by NaN to a multiple of `PANEL`.
"""

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

LANES = 16
PANEL = 64
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz"},
}
# To be callable from Python would take longer to compile than all else.
_INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def compiled(function: Callable[..., Any]) -> Any:
    """Returns the function for other compiled code to call, see `entry`."""
    return numba.njit(cache=True, **OPTIONS, **_INNER)(_plain(function))


def inlined(function: Callable[..., Any]) -> Any:
    """Returns the function for other compiled code to hold a copy of: the call of a small function
    would take longer than its work."""
    return numba.njit(cache=True, forceinline=True, **OPTIONS, **_INNER)(_plain(function))


def entry(function: Callable[..., Any]) -> Any:
    """Returns the function compiled by numba on its first call and kept on disk for the next
    process; it lets other threads run meanwhile.

    Sums may be reordered and multiplications fused with additions, the same way each time on one
    machine; NaN and infinity are kept.
    """
    return numba.njit(cache=True, **OPTIONS)(_plain(function))


def _plain(function: Callable[..., Any]) -> Any:
    plain: Any = inspect.unwrap(function)  # without the shape checks that the tests wrap around it
    plain.__qualname__ += f"_{_SOURCE}"
    return plain


def _digest() -> str:
    """Of the source of all kernels. Numba looks for its results by the name of a function and the
    age of its own file, and would not see a change in another file that the result holds a copy of.
    """
    here = Path(__file__).parent
    return hashlib.sha256(b"".join((here / f"{n}.py").read_bytes() for n in _KERNELS)).hexdigest()


_KERNELS = (
    "loops",
    "llvm",
    "intrinsics",
    "masks",
    "layout",
    "vectors",
    "primitives",
    "selection",
    "side",
    "forward",
    "backward",
    "kernels",
)
_SOURCE = _digest()[:12]


@compiled
def dot(a, i, b, j):
    """Returns sum_q a[i, q] b[j, q]."""
    total = a.dtype.type(0)
    for q in range(a.shape[1]):
        total += a[i, q] * b[j, q]
    return total


@compiled
def row_dots(table, ids, start, end, w, j, scale, shift, out):
    """Writes out[e] = scale table[ids[e]] . w[j] + shift for start <= e < end; returns the sum."""
    total = w.dtype.type(0)
    for e in range(start, end):
        product = w.dtype.type(0)
        for q in range(w.shape[1]):
            product += table[ids[e], q] * w[j, q]
        out[e] = scale * product + shift
        total += out[e]
    return total


@compiled
def pack(rows, packed):
    """Writes rows [n, d] into packed [n_panels, d, PANEL]: packed[p, q, i] = rows[PANEL p + i, q],
    0 for rows past the last."""
    n, d = rows.shape
    for j in range(len(packed) * PANEL):
        panel, i = j // PANEL, j % PANEL
        for q in range(d):
            packed[panel, q, i] = rows[j, q] if j < n else 0


@compiled
def multiply(x, first, n, packed, base, out):
    """Writes out[b] = base[0] + x[first + b] @ W for b < n and packed W, see `pack`."""
    for b in range(n):
        for panel in range(len(packed)):
            start = panel * PANEL
            for i in range(start, start + PANEL):
                out[b, i] = base[0, i]
            for q in range(x.shape[1]):
                coefficient = x[first + b, q]
                for i in range(PANEL):
                    out[b, start + i] += coefficient * packed[panel, q, i]


@compiled
def add_rows(base, i, sign, ids, coefficients, start, end, table, out, j):
    """Writes out[j] = base[i] + sign sum_{start <= e < end} coefficients[e] table[ids[e]].

    Row base[i] may be out[j].
    """
    for q in range(out.shape[1]):
        out[j, q] = base[i, q]
    for e in range(start, end):
        coefficient, row = sign * coefficients[e], ids[e]
        for q in range(out.shape[1]):
            out[j, q] += coefficient * table[row, q]


@compiled
def at_least(rows, i, low, n, found):
    """Writes the indices j < n with rows[i, j] >= low, in order; returns how many there are.

    `found` has room for 3 more.
    """
    count = 0
    for j in range(n):
        if rows[i, j] >= low:
            found[count] = j
            count += 1
    return count


@compiled
def count_at_least(rows, i, low, n):
    """Returns how many j < n have rows[i, j] >= low."""
    count = 0
    for j in range(n):
        count += rows[i, j] >= low
    return count


@compiled
def above_each(rows, i, lows, n, found):
    """Writes the indices j < n with rows[i, j] > lows[j], in order; returns how many there are."""
    count = 0
    for j in range(n):
        if rows[i, j] > lows[j]:
            found[count] = j
            count += 1
    return count


@compiled
def within_each(rows, i, centres, half, n, found):
    """Writes the j < n with |rows[i, j] - centres[j]| < half, in order; returns how many."""
    count = 0
    for j in range(n):
        if abs(rows[i, j] - centres[j]) < half:
            found[count] = j
            count += 1
    return count


@compiled
def lower_bound(rows, i, n, k):
    """Returns a number that at least k of the n entries of a row reach, for k <= min(n, LANES)."""
    least = rows.dtype.type(np.inf)
    for j in range(k):
        least = min(least, rows[i, j])
    return least


@compiled
def kth_of_few(values, n, k):
    """Returns the k-th largest of the first n values, 1 <= k <= n <= LANES; overwrites those past
    the n-th."""
    best = values.dtype.type(-np.inf)
    for i in range(n):
        n_reach = 0
        for j in range(n):
            n_reach += values[j] >= values[i]
        if n_reach >= k:
            best = max(best, values[i])
    return best
