"""A step of training as one compiled program, which makes no dense matrix of latents."""

import numpy as np

from sae.engines.backward import all_gradients, sort_records
from sae.engines.forward import BATCH_TOPK, THRESHOLD, TOPK, decode, select, trim
from sae.engines.loops import compiled, entry
from sae.engines.primitives import dot, multiply, pack
from sae.engines.side import dead_latents, near_slopes

LEAST_SHARE = 1 - 0.99  # of a batch in BatchTopK's running threshold
TINY = 1e-30  # moments below are set to 0: arithmetic on denormal numbers is 100 times slower

# Columns of the report on a step; the summed squared error of group g is at ERRORS + g.
TOTAL, NORM, L0, DEAD_BEFORE, DEAD, AUX, L1, PREFIX_L1, PENALTY, ERRORS = range(10)
LOSS, GRADIENT, WEIGHTS = 1, 2, 3  # what is not finite after a step; 0 is nothing


@entry
def advance(rule, plan, state, data, work, reports):
    """Takes the steps of `data`, and returns how many were taken and what then failed, or 0."""
    for i in range(len(data.x)):
        for g in range(len(plan.ks)):
            plan.ks[g] = plan.all_ks[i, g]
        failed = _step(i, rule, plan, state, data, work, reports[i])
        if failed:
            return i, failed
    return len(data.x), 0


@compiled
def _step(i, rule, plan, state, data, work, report):
    weights, gradients = state.weights, work.gradients
    size = data.x.shape[1]
    kind = weights.flat.dtype.type
    height = _forward(i, rule, plan, state, data, work, report)
    _fired(rule, state, work, report)

    coefficient = state.numbers[1] * plan.scale[i]
    sort_records(height, work)
    l1 = coefficient if rule.kind == THRESHOLD and rule.bandwidth == 0 else 0.0
    norm, repeated = all_gradients(rule, plan, l1, height, weights, gradients, work)
    report[L1], report[PREFIX_L1] = coefficient * norm, coefficient * repeated
    if rule.bandwidth > 0:
        report[PENALTY] = _jump(rule, coefficient, report[L0], size, weights, gradients, work)
    if rule.kind != THRESHOLD or rule.bandwidth > 0:
        report[L1] = report[PREFIX_L1] = 0
    total = report[L1] + report[PREFIX_L1] + report[PENALTY] + report[AUX]
    for g in range(len(plan.weights)):
        report[ERRORS + g] /= size
        total += plan.weights[g] * report[ERRORS + g]
    report[TOTAL] = kind(total)
    if not np.isfinite(report[TOTAL]):
        return LOSS

    report[NORM] = np.sqrt(_squares(gradients.flat))
    if not np.isfinite(report[NORM]):
        return GRADIENT
    clip = min(1.0, rule.max_grad_norm / (report[NORM] + 1e-6))
    state.counts[0] += 1
    _adam(rule, plan.lr[i], state.counts[0], clip, state, gradients.flat)
    total, state.numbers[3] = _settle(rule, weights)
    if not np.isfinite(total):
        report[TOTAL] = total
        return WEIGHTS
    if rule.l0_target > 0 and plan.scale[i] >= 1:
        excess = report[L0] - rule.l0_target
        state.numbers[1] *= 1 + rule.l0_rate * ((excess > 0) - (excess < 0))
    return 0


@compiled
def _forward(i, rule, plan, state, data, work, report):
    """Selects and decodes, and returns the number of residuals of a sample."""
    weights, x = state.weights, data.x
    kind, n, size, d = weights.flat.dtype.type, rule.n_latents, x.shape[1], x.shape[2]
    centred, b_dec, base = work.centred, weights.b_dec, work.base
    pack(weights.W_enc, work.packed)
    for b in range(size):
        for q in range(d):
            centred[b, q] = x[i, b, q] - b_dec[0, q]
    for j in range(n):
        base[0, j] = weights.b_enc[j]
    for j in range(n, base.shape[1]):
        base[0, j] = np.nan  # never selected
    if data.used[i]:
        multiply(data.vectors, 0, len(data.vectors), work.packed, work.no_base, work.table)
        for q in range(d):
            work.offset[0, q] = data.offset[q] - b_dec[0, q]
        multiply(work.offset, 0, 1, work.packed, base, base)

    dead = dead_latents(state.silent, rule.dead_after, work.dead)
    report[DEAD_BEFORE] = len(dead)
    if rule.k_aux == 0:
        dead = dead[:0]
    height = len(plan.weights) + (len(dead) > 0)
    # Weights below 1e19 in float32 make no product that is not finite if the loss is.
    careful, low = not np.isfinite(state.numbers[3]), kind(state.numbers[2])
    low, whole = select(rule, plan, weights.threshold, low, i, data, dead, careful, work)
    if rule.kind == BATCH_TOPK:
        if not trim(plan.budgets[i], work) and state.numbers[2] > 0:
            zero = kind(0)
            low, whole = select(rule, plan, weights.threshold, zero, i, data, dead, careful, work)
            trim(plan.budgets[i], work)
    else:
        state.numbers[2] = low
    if len(dead) == 0:
        work.aux_starts[size] = 0
    error = decode(rule, plan, weights.W_dec, height, work, report[ERRORS:])
    if not whole:
        report[ERRORS] = np.nan
    report[AUX] = rule.aux_coefficient * error / size
    return height


@compiled
def _fired(rule, state, work, report):
    """Counts who fired, and moves the running threshold of BatchTopK."""
    size, active, silent = len(work.centred), 0, state.silent
    values, latents, groups, fired = work.values, work.latents, work.groups, work.fired
    smallest = work.base.dtype.type(np.inf)
    ranked = work.grouped and rule.kind == TOPK  # other groups are part of the whole code
    for j in range(len(fired)):
        fired[j] = False
    for i in range(work.starts[size]):
        if values[i] != 0 and (not ranked or groups[i] <= rule.main):
            active += 1
            fired[latents[i]] = True
            smallest = min(smallest, values[i])
    report[L0] = active / size
    n_dead = 0
    for j in range(rule.n_latents):
        silent[j] = 0 if fired[j] else silent[j] + size
        n_dead += silent[j] >= rule.dead_after
    report[DEAD] = n_dead
    if rule.kind == BATCH_TOPK and active > 0:
        state.counts[1] += 1
        # Counted in float32, whatever the SAE's own dtype, as the architecture does.
        share = max(np.float32(1) / np.float32(state.counts[1]), np.float32(LEAST_SHARE))
        kind = work.base.dtype.type
        threshold = kind(state.numbers[0])
        step = kind(share) * (smallest - threshold)
        state.numbers[0] = threshold + step
        state.numbers[2] = 0.9 * smallest


@compiled
def _jump(rule, coefficient, l0, size, weights, gradients, work):
    """Writes the straight-through gradient of JumpReLU's thresholds; returns the penalty."""
    kind = weights.flat.dtype.type
    near_slopes(weights.W_dec, work)
    penalty, slope = coefficient * l0, coefficient
    if rule.penalty_target > 0:
        excess = l0 / rule.penalty_target - 1
        penalty, slope = coefficient * excess**2, 2 * coefficient * excess / rule.penalty_target
    for j in range(rule.n_latents):
        of_errors = 2 / size * weights.threshold[j] * work.near_sums[j]
        gradients.threshold[j] = kind(
            (of_errors - slope / size * work.near_counts[j]) / rule.bandwidth
        )
    return penalty


@compiled
def _adam(rule, lr, t, clip, state, gradients):
    """Adam's step with the gradients times `clip`."""
    weights, first, second = state.weights.flat, state.first.flat, state.second.flat
    kind = weights.dtype.type
    scale, tiny, eps = kind(clip), kind(TINY), kind(rule.eps)
    keep2, new1, new2 = kind(rule.beta2), kind(1 - rule.beta1), kind(1 - rule.beta2)
    size = kind(lr / (1 - rule.beta1**t))
    rescale = kind(1 / np.sqrt(1 - rule.beta2**t))
    zero = kind(0)
    for i in range(len(weights)):
        g = scale * gradients[i]
        m = first[i] + new1 * (g - first[i])
        v = keep2 * second[i] + new2 * g * g
        m = m if abs(m) > tiny else zero
        v = v if v > tiny else zero
        first[i] = m
        second[i] = v
        weights[i] -= size * m / (np.sqrt(v) * rescale + eps)


@compiled
def _settle(rule, weights):
    """Makes the rows of W_dec unit rows and thresholds not negative; returns the sum of
    all weights, and of their squares."""
    flat, W_dec, threshold = weights.flat, weights.W_dec, weights.threshold
    kind = flat.dtype.type
    if rule.unit_decoder:
        for j in range(rule.n_latents):
            length = max(np.sqrt(dot(W_dec, j, W_dec, j)), kind(1e-12))
            for q in range(W_dec.shape[1]):
                W_dec[j, q] /= length
    for j in range(rule.n_latents):
        threshold[j] = max(threshold[j], kind(0))
    total = kind(0)
    for i in range(len(flat)):
        total += flat[i]
    return total, _squares(flat)


@compiled
def _squares(flat):
    total = flat.dtype.type(0)
    for i in range(len(flat)):
        total += flat[i] * flat[i]
    return total
