"""Selection of the largest entries where each member of a stack has a k of its own."""

from typing import Any

import torch
from torch import Tensor

from sae.architectures.abs_topk import AbsTopK
from sae.architectures.batch_topk import BatchTopK
from sae.architectures.matryoshka import MatryoshkaBatchTopK
from sae.architectures.topk import TopK
from sae.base import SAE, SAEOutput

_OF_SAMPLES = (TopK, AbsTopK)
_OF_BATCHES = (BatchTopK, MatryoshkaBatchTopK)


def has_rank(sae: SAE) -> bool:
    """Returns whether k enters the loss only as the number of entries that are selected."""
    return type(sae) in (*_OF_SAMPLES, *_OF_BATCHES)


def rank(sae: SAE, k: int | float, batch_size: int) -> int:
    """Returns how many entries an SAE selects together: of a sample, or of the whole batch."""
    return int(k * batch_size) if type(sae) in _OF_BATCHES else int(k)


def select_by_rank_(sae: Any) -> None:
    """Makes an SAE select `sae.rank` entries, a tensor [], of which `sae.most` is a bound.

    Its own code needs the number on the host, where there can be only one for all members.
    """

    def activate(pre_acts: Tensor) -> Tensor:
        if sae.signed:
            return keep_ranks(pre_acts, pre_acts.abs(), sae.rank, sae.most)
        return keep_ranks(pre_acts, pre_acts, sae.rank, sae.most).relu()

    def training_output(x: Tensor) -> SAEOutput:
        pre_acts = sae.pre_acts(x)
        flat = pre_acts.flatten()
        latents = keep_ranks(flat, flat, sae.rank, sae.most).relu().reshape(pre_acts.shape)
        return SAEOutput(sae.decode(latents), latents, pre_acts)

    if type(sae) in _OF_BATCHES:
        sae.training_output = training_output
    else:
        sae.activate = activate


def keep_ranks(values: Tensor, keys: Tensor, rank: Tensor, most: int) -> Tensor:
    """Returns the values of the `rank` largest keys along the last axis, 0 elsewhere.

    Args:
        rank: [], from 1 to `most`; stays on its device.
    """
    order = keys.topk(most, dim=-1).indices
    kept = torch.arange(most, device=values.device) < rank
    chosen = torch.where(kept, values.gather(-1, order), 0)
    return torch.zeros_like(values).scatter(-1, order, chosen)
