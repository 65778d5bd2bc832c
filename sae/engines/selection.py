"""Exact selection of the largest numbers; of equal ones at the rank of the last, the first come
first."""

import numpy as np

from sae.engines.loops import LANES, compiled, inlined
from sae.engines.primitives import at_least, count_at_least, kth_of_few, lower_bound


@compiled
def kth_largest(values, n, k):
    """Returns the k-th largest of the first n values, 1 <= k <= n, and reorders them."""
    low, high, target = 0, n - 1, k - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if target <= j:
            high = j
        elif target >= i:
            low = i
        else:
            break
    return values[target]


@inlined
def keep_largest(rows, i, found, n, k, scratch):
    """Keeps of the n entries `found` of row i the k largest, in their order; returns how many."""
    if n <= k:
        return n
    for e in range(n):
        scratch[e] = rows[i, found[e]]
    least = kth_of_few(scratch, n, k) if n <= LANES else kth_largest(scratch, n, k)
    kept = 0
    for e in range(n):  # without branches, which nobody can foresee
        latent, value = found[e], rows[i, found[e]]
        found[kept] = latent
        kept += value >= least
    last = kept - 1
    while kept > k:  # the last of those that equal the least
        if rows[i, found[last]] == least:
            kept -= 1
            for e in range(last, kept):
                found[e] = found[e + 1]
        last -= 1
    return kept


@inlined
def largest_of_row(rows, i, guess, floor, n, k, found, scratch):
    """Writes the k largest entries >= floor of row i, in their order, or all if there are fewer.

    `guess` is about what they exceed, which changes nothing but the time. Returns how many there
    are, and the next guess.
    """
    if 2 * k <= min(n, LANES):
        low = max(floor, lower_bound(rows, i, n, k))
    else:
        low = guess = _low_enough(rows, i, guess, floor, n, k)
    return keep_largest(rows, i, found, at_least(rows, i, low, n, found), k, scratch), guess


@compiled
def _low_enough(rows, i, guess, floor, n, k):
    """Returns a number >= floor that k entries of row i reach, and few more, or the floor."""
    less, more, n_tries = rows.dtype.type(0.9), rows.dtype.type(1.05), 40
    if not floor < guess < np.inf:
        if count_at_least(rows, i, floor, n) <= 2 * k:
            return floor
        guess = lower_bound(rows, i, n, 1)  # the largest
    low = max(floor, guess)
    count = count_at_least(rows, i, low, n)
    while count < k and low > floor:
        n_tries -= 1
        low = max(floor, low * less) if n_tries else floor
        count = count_at_least(rows, i, low, n)
    while count > k + k // 4 and low > floor and n_tries > 0:
        n_tries -= 1
        count = count_at_least(rows, i, low * more, n)
        low = low if count < k else low * more
    return low
