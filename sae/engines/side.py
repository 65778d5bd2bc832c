"""What some steps look for among the pre-activations besides the latents that are selected."""

import numpy as np

from sae.engines.loops import compiled
from sae.engines.primitives import dot, within_each
from sae.engines.selection import largest_of_row


@compiled
def dead_latents(silent, dead_after, out):
    """Returns the latents that are dead, in order, written to `out`."""
    count = 0
    for j in range(len(silent)):
        if silent[j] >= dead_after:
            out[count] = np.int32(j)
            count += 1
    return out[:count]


@compiled
def find_nan(n_rows, n, pre):
    """Returns whether there is NaN among n entries of each row."""
    found = False
    for b in range(n_rows):
        for j in range(n):
            found |= pre[b, j] != pre[b, j]
    return found


@compiled
def find_dead(first, n_rows, rule, dead, floor, work):
    """Writes the records of the revival: the k_aux largest of the dead latents on each sample."""
    pre, gathered, found, scratch = work.pre, work.gathered, work.found, work.scratch
    starts, latents, values = work.aux_starts, work.aux_latents, work.aux_values
    k, low, total = min(rule.k_aux, len(dead)), floor, starts[first]
    for j in range(gathered.shape[1]):
        gathered[0, j] = np.nan
    for b in range(n_rows):
        for i in range(len(dead)):
            value = pre[b, dead[i]]
            gathered[0, i] = abs(value) if rule.signed else value
        count, low = largest_of_row(gathered, 0, low, floor, len(dead), k, found, scratch)
        for i in range(count):
            latents[total + i] = dead[found[i]]
            values[total + i] = pre[b, dead[found[i]]]
        total += count
        starts[first + b + 1] = total


@compiled
def find_near(first, n_rows, rule, thresholds, work):
    """Writes the latents whose pre-activation is so near their threshold that JumpReLU's estimate
    counts the sample in its gradient."""
    pre, found, starts, near = work.pre, work.found, work.near_starts, work.near
    half, total = pre.dtype.type(rule.bandwidth / 2), starts[first]
    for b in range(n_rows):
        count = within_each(pre, b, thresholds, half, rule.n_latents, found)
        for i in range(count):
            near[total + i] = found[i]
        total += count
        starts[first + b + 1] = total


@compiled
def near_slopes(W_dec, work):
    """Writes for each latent the sum of residual . W_dec over its near samples, and how many."""
    sums, counts, starts = work.near_sums, work.near_counts, work.near_starts
    for j in range(len(sums)):
        sums[j] = 0
        counts[j] = 0
    for b in range(len(work.centred)):
        for e in range(starts[b], starts[b + 1]):
            j = work.near[e]
            sums[j] += dot(work.residuals, b, W_dec, j)
            counts[j] += 1
