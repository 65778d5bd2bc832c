"""Batches, and the arrays of members, in the layout of the kernels."""

from collections.abc import Sequence

import numpy as np
import torch

from sae.batches import Drawn
from sae.engines.forward import BLOCK
from sae.engines.layout import Data, State, Weights, Work
from sae.engines.loops import LANES, PANEL
from sae.engines.rules import Groups


def aligned(*shape: int, dtype: np.dtype | type) -> np.ndarray:
    """Returns zeros that begin at a multiple of 64 bytes, which vector loads need to be fast."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def padded(size: int, step: int = LANES) -> int:
    """Returns the least multiple of `step` that is at least `size`."""
    return -(-size // step) * step


def weights_of(n_latents: int, d_in: int, dtype: np.dtype) -> Weights:
    """Returns zeros for all parameters of an SAE."""
    d, n = padded(d_in), padded(n_latents, PANEL)
    flat = aligned(2 * n_latents * d + d + 2 * n, dtype=dtype)
    W_enc, W_dec, b_dec, b_enc, threshold = np.split(
        flat, np.cumsum([n_latents * d, n_latents * d, d, n])
    )
    return Weights(
        flat,
        W_enc.reshape(n_latents, d),
        W_dec.reshape(n_latents, d),
        b_dec.reshape(1, d),
        b_enc,
        threshold,
    )


def data_of(batches: Sequence[Drawn], dtype: torch.dtype) -> Data:
    """Returns batches of one size as arrays of one dtype."""
    first = batches[0].to(dtype)
    size, d_in = first.shape
    d, kind = padded(d_in), first.numpy().dtype
    x = aligned(len(batches), size, d, dtype=kind)
    for row, batch in zip(x, batches, strict=True):
        row[:, :d_in] = batch.to(dtype).numpy()
    used = np.zeros(len(batches), np.bool_)
    offsets = np.zeros(len(batches) * size + 1, np.int64)
    indices, values = np.zeros(0, np.int32), aligned(0, dtype=kind)
    vectors, offset = aligned(0, d, dtype=kind), aligned(d, dtype=kind)
    linear = batches[0].linear_map
    if linear is not None and linear[0].dtype == dtype:
        for i, batch in enumerate(batches):
            codes = batch.codes
            last = offsets[i * size]
            offsets[i * size : (i + 1) * size + 1] = codes.offsets.numpy() + last
            work = linear[0].numel() + EVENT * len(codes.indices)
            used[i] = work < size * d_in
        indices = torch.cat([batch.codes.indices for batch in batches]).to(torch.int32).numpy()
        values = torch.cat([batch.codes.values for batch in batches]).to(dtype).numpy()
        vectors = aligned(len(linear[0]), d, dtype=kind)
        vectors[:, :d_in] = linear[0].numpy()
        offset[:d_in] = linear[1].numpy()
    return Data(x, used, offsets, indices, values, vectors, offset)


# What adding a row of the table costs, over a multiplication by as many weights; see `data_of`.
EVENT = 4


def work_of(
    state: State, data: Data, groups: Groups, n_records: int, k_aux: int, near: bool
) -> Work:
    """Returns the arrays of a step.

    Args:
        n_records: most latents that are selected on a sample.
        near: whether the kernel of JumpReLU's gradient needs lists of its own.
    """
    weights = state.weights
    n, d = weights.W_enc.shape
    kind, size, n_groups = weights.flat.dtype, data.x.shape[1], len(groups.weights)
    panels = padded(n, PANEL)
    k_aux = min(k_aux, n)
    n_main, n_aux = size * n_records, size * k_aux
    height = n_groups + (k_aux > 0)

    def empty(*shape: int) -> np.ndarray:
        return aligned(*shape, dtype=kind)

    def integers(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.int32)

    return Work(
        packed=empty(panels // PANEL, d, PANEL),
        centred=empty(size, d),
        table=empty(len(data.vectors), panels),
        base=empty(1, panels),
        no_base=empty(1, panels),
        offset=empty(1, d),
        pre=empty(BLOCK, panels),
        found=integers(panels + 3),
        scratch=empty(panels + LANES),
        magnitudes=empty(1, panels),
        gathered=empty(1, panels),
        starts=np.zeros(size + 1, np.int64),
        latents=integers(n_main),
        values=empty(n_main),
        grouped=n_groups > 1,
        groups=np.zeros(n_main if n_groups > 1 else 0, np.int32),
        all_scratch=empty(n_main),
        aux_starts=np.zeros(size + 1, np.int64),
        aux_latents=integers(n_aux),
        aux_values=empty(n_aux),
        near_starts=np.zeros(size + 1, np.int64),
        near=integers(size * n if near else 0),
        near_sums=empty(n),
        near_counts=np.zeros(n, np.int64),
        residuals=empty(size * height, d),
        ends=np.zeros(n + 1, np.int64),
        samples=integers(n_main + n_aux),
        rows=integers(n_main + n_aux),
        sorted_values=empty(n_main + n_aux),
        slopes=empty(n_main + n_aux),
        zeros=empty(1, d),
        ones=empty(size) + kind.type(1),
        firsts=integers(size),
        latent_ids=integers(n),
        dead=integers(n),
        fired=np.zeros(n, np.bool_),
        gradients=weights_of(n, d, kind),
    )
