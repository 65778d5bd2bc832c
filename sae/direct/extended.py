"""An SAE whose training loss is more than its own, for the members of a joint training."""

import copy
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from sae.base import SAE, SAEOutput
from sae.batches import Batches
from sae.checks import check
from sae.config import TrainConfig
from sae.engines.eager import EagerMember
from sae.geometric_median import geometric_median

AnySAE = TypeVar("AnySAE", bound=SAE)
Terms = Callable[[SAE, Tensor, SAEOutput], dict[str, Tensor]]  # (sae, x, output) -> terms by name
Change = Callable[[SAE, SAEOutput], SAEOutput]  # of the forward pass in training


def unchanged(sae: SAE, output: SAEOutput) -> SAEOutput:
    return output


def extended(sae: SAE, terms: Terms, change: Change = unchanged) -> SAE:
    """Returns a copy of `sae` whose loss has further `terms`, from a `change`d forward pass.

    All else stays: the copy is of a subclass made for it, which `plain` takes back.
    """
    base: Any = type(sae)
    copied: Any = copy.deepcopy(sae)

    def training_output(self: SAE, x: Tensor) -> SAEOutput:
        return change(self, base.training_output(self, x))

    def _terms(self: SAE, x: Tensor, output: SAEOutput, dead: Tensor) -> dict[str, Tensor]:
        return base._terms(self, x, output, dead) | terms(self, x, output)

    both = {function.__name__: function for function in (training_output, _terms)}
    copied.__class__ = type(base.__name__, (base,), both)
    return copied


def plain(sae: SAE, like: AnySAE) -> AnySAE:
    """Returns an extended SAE, made one of the class of `like` again."""
    sae.__class__ = type(like)
    return cast(AnySAE, sae)


def member(
    i: int, sae: SAE, config: TrainConfig, x: Float[Tensor, "n d_in"], generator: torch.Generator
) -> EagerMember:
    """Returns a copy of `sae` with its optimiser, its decoder bias at the geometric median of x."""
    check(not isinstance(config.lr, tuple), "train", "one learning rate", lr=config.lr)
    l0 = config.target_l0
    check(l0 is None, "train", "no target_l0 in a joint training", target_l0=l0)
    lr = float(config.lr) if not isinstance(config.lr, tuple) else 0.0
    found = EagerMember(i, sae, config, lr=lr, target_l0=None, generator=generator)
    if sae.bias:
        with torch.no_grad():
            found.sae.b_dec.copy_(geometric_median(x))
    return found


def batches_for(
    where: str, saes: tuple[SAE, ...], sample: Any, config: TrainConfig, generator: torch.Generator
) -> Batches:
    """Returns the batches of a joint training of SAEs of one d_in and dtype."""
    kinds = {(sae.d_in, sae.W_dec.dtype, str(sae.W_dec.device)) for sae in saes}
    rule = "SAEs of one d_in, dtype and device"
    check(len(kinds) == 1, where, rule, saes=sorted(map(str, kinds)))
    return Batches(sample, config.batch_size, saes[0], generator=generator)
