"""The backward pass as compiled loops over latents: each reads its own records, so that its
gradients stay in the cache and are written once."""

import numpy as np

from sae.engines.loops import compiled
from sae.engines.primitives import add_rows, dot, row_dots


@compiled
def sort_records(height, work):
    """Lists all records by latent: the row of `centred`, the row of `residuals`, the value.

    A counting sort: within a latent the samples stay in order, the revival's after the others'.
    """
    ends, size, starts, latents = work.ends, len(work.centred), work.starts, work.latents
    values, groups, grouped = work.values, work.groups, work.grouped
    samples, rows, sorted_values = work.samples, work.rows, work.sorted_values
    aux_starts, aux_latents, aux_values = work.aux_starts, work.aux_latents, work.aux_values
    for j in range(len(ends)):
        ends[j] = 0
    for i in range(starts[size]):
        ends[latents[i] + 1] += 1
    for i in range(aux_starts[size]):
        ends[aux_latents[i] + 1] += 1
    for j in range(1, len(ends)):
        ends[j] += ends[j - 1]
    # ends[j] moves from the start of the list of latent j to its end as the list is filled.
    for b in range(size):
        for i in range(starts[b], starts[b + 1]):
            place = ends[latents[i]]
            ends[latents[i]] = place + 1
            samples[place] = b
            rows[place] = b * height + (groups[i] if grouped else 0)
            sorted_values[place] = values[i]
    if aux_starts[size]:
        for b in range(size):
            for i in range(aux_starts[b], aux_starts[b + 1]):
                place = ends[aux_latents[i]]
                ends[aux_latents[i]] = place + 1
                samples[place] = b
                rows[place] = b * height + height - 1
                sorted_values[place] = aux_values[i]


@compiled
def all_gradients(rule, plan, l1, height, weights, gradients, work):
    """Writes the gradients of the loss but for the penalty of JumpReLU, the part along each unit
    row of W_dec removed; returns the mean L1 norm of the codes, and that of the smaller prefixes.

    With residuals R, inputs X and values v of the records of a latent with rows w and e in W_dec
    and W_enc: dz = scale R.w + penalty |w|; of w it is scale sum v R, of e sum dz X, of the
    encoder bias sum dz; of b_dec it is scale sum R - sum dz e.
    """
    W_enc, W_dec, b_dec = weights.W_enc, weights.W_dec, gradients.b_dec
    to_enc, to_dec, b_enc = gradients.W_enc, gradients.W_dec, gradients.b_enc
    residuals, centred, zeros, slopes = work.residuals, work.centred, work.zeros, work.slopes
    rows, samples, values, ends = work.rows, work.samples, work.sorted_values, work.ends
    n, d, size, kind = len(W_enc), W_enc.shape[1], len(centred), W_enc.dtype.type
    one, zero, scale = kind(1), kind(0), kind(-2 / size)
    norms = repeated = 0.0
    start = 0
    for j in range(n):
        end, length = ends[j], zero
        factor = kind(l1 * plan.penalties[j] / size)
        if l1 > 0:
            length = np.sqrt(dot(W_dec, j, W_dec, j))
        b_enc[j] = row_dots(residuals, rows, start, end, W_dec, j, scale, factor * length, slopes)
        add_rows(zeros, 0, scale, rows, values, start, end, residuals, to_dec, j)
        add_rows(zeros, 0, one, samples, slopes, start, end, centred, to_enc, j)
        if rule.unit_decoder:
            radial = dot(to_dec, j, W_dec, j)
            for q in range(d):
                to_dec[j, q] -= radial * W_dec[j, q]
        if length > 0:
            mass = zero
            for e in range(start, end):
                mass += values[e]
            norms += mass * length
            repeated += mass * length * (plan.penalties[j] - 1)
            if not rule.unit_decoder:
                for q in range(d):
                    to_dec[j, q] += factor * mass / length * W_dec[j, q]
        start = end
    if rule.trains_b_dec:
        firsts, ones, ids = work.firsts, work.ones, work.latent_ids
        for b in range(size):
            firsts[b] = b * height
        for j in range(n):
            ids[j] = j
        add_rows(zeros, 0, scale, firsts, ones, 0, size, residuals, b_dec, 0)
        add_rows(b_dec, 0, -one, ids, b_enc, 0, n, W_enc, b_dec, 0)
    else:
        for q in range(d):
            b_dec[0, q] = 0  # another member may have left its own there
    return norms / size, repeated / size
