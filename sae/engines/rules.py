"""Which architectures the `rows` engine trains, and as what rule."""

import math
from dataclasses import dataclass

import torch

from sae.architectures.abs_topk import AbsTopK
from sae.architectures.batch_topk import BatchTopK
from sae.architectures.jump_relu import JumpReLU
from sae.architectures.matryoshka import MatryoshkaBatchTopK, MatryoshkaReLU
from sae.architectures.multi_topk import MultiTopK
from sae.architectures.relu import ReLU
from sae.architectures.topk import TopK
from sae.base import SAE
from sae.config import TrainConfig

TOPK, BATCH_TOPK, THRESHOLD = range(3)

_KINDS: dict[type[SAE], int] = {
    TopK: TOPK,
    MultiTopK: TOPK,
    AbsTopK: TOPK,
    BatchTopK: BATCH_TOPK,
    MatryoshkaBatchTopK: BATCH_TOPK,
    ReLU: THRESHOLD,
    MatryoshkaReLU: THRESHOLD,
    JumpReLU: THRESHOLD,
}


@dataclass(frozen=True)
class Groups:
    """The sizes at which the loss reads a code; see `forward`.

    Args:
        ks: latents selected on a sample in each group and those before, where ranks make groups.
        widths: where each group of latents ends, if groups are ranges of latents.
        weights: of the squared errors.
        main: the group whose code is that of `encode`.
    """

    ks: tuple[int, ...]
    widths: tuple[int, ...]
    weights: tuple[float, ...]
    main: int


def kind_of(sae: SAE) -> int:
    """Returns how the SAE selects latents."""
    return _KINDS[type(sae)]


def groups_of(sae: SAE) -> Groups:
    """Returns the groups of an SAE that is not refused."""
    n = sae.n_latents
    if isinstance(sae, MultiTopK):
        weight_of = dict(zip(sae.ks, sae.weights, strict=True))
        ks = tuple(sorted(weight_of))
        return Groups(ks, (n,) * len(ks), tuple(weight_of[k] for k in ks), ks.index(sae.k))
    if isinstance(sae, MatryoshkaReLU | MatryoshkaBatchTopK):
        widths = tuple(sae.widths.tolist())
        return Groups((n,) * len(widths), widths, (1.0,) * len(widths), len(widths) - 1)
    k = sae.k if isinstance(sae, TopK) else n
    return Groups((k,), (n,), (1.0,), 0)


def refusal(sae: SAE, config: TrainConfig) -> str:
    """Returns why the `rows` engine cannot train the SAE, or "" if it can."""
    name = type(sae).__name__
    trained = {key for key, p in sae.named_parameters() if p.requires_grad}
    usual = {key for key, _ in sae.named_parameters()} - (set() if sae.bias else {"b_dec"})
    reasons = {
        f"it has no rule for {name}": type(sae) not in _KINDS,
        "it needs a CPU": sae.W_dec.device.type != "cpu",
        "it trains float32 and float64": sae.W_dec.dtype not in (torch.float32, torch.float64),
        "it trains all parameters of an SAE": trained != usual,
        "its prefixes are fixed": isinstance(getattr(sae, "prefixes", ()), int),
        "it has no averaged weights (ema)": config.ema > 0,
        "it does not resample": config.resample_every < math.inf,
        "it anneals one k only": config.k_annealing > 0 and isinstance(sae, MultiTopK),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")
