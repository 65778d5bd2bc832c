"""The arrays and numbers that the kernels work on.

Rows of d_in numbers are padded with 0 to a multiple of `LANES`.
"""

from typing import NamedTuple

import numpy as np


class Rule(NamedTuple):
    """What a member's loss and optimiser are, in numbers that stay the same.

    Args:
        kind: how latents are selected, see `forward`.
        signed: by magnitude.
        main: the group that is the whole code that `encode` would return.
        k_aux: latents of the revival; 0 without one.
        bandwidth: of JumpReLU; 0 for the others.
        penalty_target: JumpReLU's own target of l0; 0 without one.
        l0_target, l0_rate: of the control of l0; 0 without one.
    """

    kind: int
    n_latents: int
    signed: bool
    unit_decoder: bool
    trains_b_dec: bool
    main: int
    aux_coefficient: float
    k_aux: int
    bandwidth: float
    penalty_target: float
    l0_target: float
    l0_rate: float
    dead_after: int
    max_grad_norm: float
    beta1: float
    beta2: float
    eps: float


class Plan(NamedTuple):
    """What changes from step to step, as arrays [n_steps, ...], and what belongs to the latents.

    Args:
        lr, scale: [n_steps], the learning rate, and the factor on the sparsity coefficient.
        budgets: [n_steps], latents selected in the batch.
        all_ks: [n_steps, n_groups], latents selected on a sample, increasing.
        ks: [n_groups], overwritten by those of the step.
        weights: [n_groups], of the squared errors.
        group_of: [n_latents], where groups are ranges of latents.
        penalties: [n_latents], how often the L1 norm of a latent counts.
    """

    lr: np.ndarray
    scale: np.ndarray
    budgets: np.ndarray
    all_ks: np.ndarray
    ks: np.ndarray
    weights: np.ndarray
    group_of: np.ndarray
    penalties: np.ndarray


class Weights(NamedTuple):
    """Parameters, or what belongs to them: views of one flat array.

    Args:
        flat: all of them, padding included.
        W_enc, W_dec: [n_latents, padded d_in].
        b_dec: [1, padded d_in].
        b_enc, threshold: [n_latents], padded to a multiple of PANEL.
    """

    flat: np.ndarray
    W_enc: np.ndarray
    W_dec: np.ndarray
    b_dec: np.ndarray
    b_enc: np.ndarray
    threshold: np.ndarray


class State(NamedTuple):
    """What the steps change.

    Args:
        first, second: Adam's moments.
        silent: [n_latents], samples since the last firing.
        counts: [2], steps taken; updates of the running threshold of BatchTopK.
        numbers: [4], float64: that threshold; the sparsity coefficient; a guess of what the
            selected values exceed, which changes nothing but the time; the sum of the squares of
            all weights, infinite if it is not known.
    """

    weights: Weights
    first: Weights
    second: Weights
    silent: np.ndarray
    counts: np.ndarray
    numbers: np.ndarray


class Data(NamedTuple):
    """Batches: x [n_steps, batch, padded d_in]; if `used`, also x = codes @ vectors + offset with
    codes as rows of events, see `toymodels.Codes`, one batch after another."""

    x: np.ndarray
    used: np.ndarray
    offsets: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    vectors: np.ndarray
    offset: np.ndarray


class Work(NamedTuple):
    """Arrays that a step writes before it reads them."""

    packed: np.ndarray
    centred: np.ndarray
    table: np.ndarray
    base: np.ndarray
    no_base: np.ndarray
    offset: np.ndarray
    pre: np.ndarray
    found: np.ndarray
    scratch: np.ndarray
    magnitudes: np.ndarray
    gathered: np.ndarray
    starts: np.ndarray
    latents: np.ndarray
    values: np.ndarray
    grouped: bool
    groups: np.ndarray
    all_scratch: np.ndarray
    aux_starts: np.ndarray
    aux_latents: np.ndarray
    aux_values: np.ndarray
    near_starts: np.ndarray
    near: np.ndarray
    near_sums: np.ndarray
    near_counts: np.ndarray
    residuals: np.ndarray
    ends: np.ndarray
    samples: np.ndarray
    rows: np.ndarray
    sorted_values: np.ndarray
    slopes: np.ndarray
    zeros: np.ndarray
    ones: np.ndarray
    firsts: np.ndarray
    latent_ids: np.ndarray
    dead: np.ndarray
    fired: np.ndarray
    gradients: Weights
