"""The forward pass as compiled loops over samples: which latents are selected, and what is left.

A *record* is a latent selected on a sample, with its value. Where the loss reads a code at several
sizes (Multi-TopK, Matryoshka), a record belongs to the smallest of them that holds it, its
*group*. Rows of d_in numbers are padded with 0 to a multiple of `LANES`.
"""

import numpy as np

from sae.engines.loops import compiled
from sae.engines.primitives import above_each, add_rows, at_least, dot, multiply
from sae.engines.selection import kth_largest, largest_of_row
from sae.engines.side import find_dead, find_nan, find_near

TOPK, BATCH_TOPK, THRESHOLD = range(3)  # how latents are selected
BLOCK = 128  # samples whose pre-activations are held at a time


@compiled
def encode(first, n, step, data, work):
    """Writes the pre-activations of n samples to work.pre, in the padding NaN."""
    base, table, pre = work.base, work.table, work.pre
    if data.used[step]:
        offsets, ids, values, one = data.offsets, data.indices, data.values, base.dtype.type(1)
        start = step * len(work.centred) + first
        for b in range(n):
            e, f = offsets[start + b], offsets[start + b + 1]
            add_rows(base, 0, one, ids, values, e, f, table, pre, b)
    else:
        multiply(work.centred, first, n, work.packed, base, pre)


@compiled
def select(rule, plan, thresholds, low, step, data, dead, careful, work):
    """Writes the records of the batch; those of BatchTopK are all that reach `low`.

    Args:
        low: what the values selected are about to reach; for TopK this changes the time alone.
        dead: the latents that the revival chooses from.
        careful: whether to look for NaN.
    Returns:
        The next `low`, and whether no NaN was found.
    """
    n, size, pre, magnitudes = rule.n_latents, len(work.centred), work.pre, work.magnitudes
    found, scratch, starts, latents = work.found, work.scratch, work.starts, work.latents
    values, floor = work.values, smallest(rule, work.base)
    k, by_rank = plan.ks[-1], len(plan.ks) > 1
    total, whole = 0, True
    for first in range(0, size, BLOCK):
        n_rows = min(BLOCK, size - first)
        encode(first, n_rows, step, data, work)
        for b in range(n_rows):
            if rule.kind == TOPK:
                keys, i = pre, b
                if rule.signed:
                    keys, i = magnitudes, 0
                    for j in range(pre.shape[1]):
                        keys[0, j] = abs(pre[b, j])
                count, low = largest_of_row(keys, i, low, floor, n, k, found, scratch)
                if by_rank:
                    _by_rank(keys, i, found, count)
            elif rule.kind == BATCH_TOPK:
                count = at_least(pre, b, max(low, floor), n, found)
            else:
                count = above_each(pre, b, thresholds, n, found)
            for e in range(count):
                latents[total + e] = found[e]
                values[total + e] = pre[b, found[e]]
            total += count
            starts[first + b + 1] = total
        if careful:
            whole &= not find_nan(n_rows, n, pre)
        if rule.bandwidth > 0:
            find_near(first, n_rows, rule, thresholds, work)
        if len(dead):
            find_dead(first, n_rows, rule, dead, floor, work)
    return low, whole


@compiled
def smallest(rule, like):
    """The least value that is recorded: a ReLU would make smaller ones 0."""
    zero = like.dtype.type(0)
    return zero if rule.signed else np.nextafter(zero, like.dtype.type(1))


@compiled
def _by_rank(rows, i, found, n):
    """Sorts by decreasing value; equal ones stay in their order."""
    for e in range(1, n):
        latent = found[e]
        f = e - 1
        while f >= 0 and rows[i, found[f]] < rows[i, latent]:
            found[f + 1] = found[f]
            f -= 1
        found[f + 1] = latent


@compiled
def trim(budget, work):
    """Keeps the `budget` largest records of the batch, and returns whether there were enough."""
    total = work.starts[-1]
    if total <= budget:
        return total == budget
    starts, latents, values, scratch = work.starts, work.latents, work.values, work.all_scratch
    for i in range(total):
        scratch[i] = values[i]
    least = kth_largest(scratch, total, budget)
    spare = budget
    for i in range(total):
        spare -= values[i] > least
    kept = start = 0
    for b in range(len(starts) - 1):
        end = starts[b + 1]
        for i in range(start, end):
            value = values[i]
            if value > least or (value == least and spare > 0):
                spare -= value == least
                latents[kept], values[kept] = latents[i], value
                kept += 1
        start = end
        starts[b + 1] = kept
    return True


@compiled
def decode(rule, plan, W_dec, height, work, errors):
    """Writes the residuals, and adds their squares to the errors of the groups.

    Row b H + g of work.residuals, with H the `height`, becomes the sum over the groups h >= g of
    weights_h r_h, where r_h is what the code of group h leaves of sample b: this is what the
    gradient of a latent of group g needs. Row b H + n_groups, if there is one, becomes the
    residual of the revival times its coefficient; returns the sum of squares of these before.
    """
    one, coefficient = W_dec.dtype.type(1), W_dec.dtype.type(rule.aux_coefficient)
    centred, starts, latents = work.centred, work.starts, work.latents
    values, residuals, groups = work.values, work.residuals, work.groups
    aux_starts, aux_latents, aux_values = work.aux_starts, work.aux_latents, work.aux_values
    n_groups, d = len(plan.weights), W_dec.shape[1]
    error_aux = 0.0
    for b in range(len(centred)):
        start, end, row = starts[b], starts[b + 1], b * height
        if n_groups == 1:
            add_rows(centred, b, -one, latents, values, start, end, W_dec, residuals, row)
            errors[0] += dot(residuals, row, residuals, row)
        else:
            _group(rule, plan, start, end, latents, groups)
        for g in range(n_groups if n_groups > 1 else 0):
            stop = start
            while stop < end and groups[stop] <= g:
                stop += 1
            if g == 0:
                add_rows(centred, b, -one, latents, values, start, stop, W_dec, residuals, row)
            else:
                before = row + g - 1
                add_rows(
                    residuals, before, -one, latents, values, start, stop, W_dec, residuals, row + g
                )
            errors[g] += dot(residuals, row + g, residuals, row + g)
            start = stop
        if height > n_groups:
            aux, e, f = row + n_groups, aux_starts[b], aux_starts[b + 1]
            main = row + rule.main
            add_rows(residuals, main, -one, aux_latents, aux_values, e, f, W_dec, residuals, aux)
            error_aux += dot(residuals, aux, residuals, aux)
            for q in range(d):
                residuals[aux, q] *= coefficient
        for g in range(n_groups - 1, -1, -1):
            weight = plan.weights[g]
            if weight != 1:
                for q in range(d):
                    residuals[row + g, q] *= weight
            if g < n_groups - 1:
                for q in range(d):
                    residuals[row + g, q] += residuals[row + g + 1, q]
    return error_aux


@compiled
def _group(rule, plan, start, end, latents, groups):
    """Writes the groups of records: those of their latents, or those of their ranks."""
    if rule.kind == TOPK:
        g = 0
        for e in range(start, end):
            while e - start >= plan.ks[g]:
                g += 1
            groups[e] = g
    else:
        for e in range(start, end):
            groups[e] = plan.group_of[latents[e]]
