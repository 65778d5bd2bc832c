"""Members of a joint training: their loss is more than their own SAE's."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae.base import SAE, Loss, SAEOutput
from sae.batches import Batches
from sae.checks import check
from sae.config import TrainConfig
from sae.engines.eager import EagerMember, LossOf, own_loss
from sae.geometric_median import geometric_median

Terms = Callable[[SAE, Tensor, SAEOutput], dict[str, Tensor]]  # (sae, x, output) -> terms by name
Change = Callable[[SAE, SAEOutput], SAEOutput]  # of the forward pass in training


def unchanged(sae: SAE, output: SAEOutput) -> SAEOutput:
    return output


def loss_with(terms: Terms, change: Change = unchanged) -> LossOf:
    """Returns the loss of an SAE with further `terms`, from a `change`d forward pass."""

    def loss(sae: SAE, x: Tensor, dead: Tensor) -> Loss:
        output = change(sae, sae.training_output(x))
        both = sae._terms(x, output, dead) | terms(sae, x, output)
        return Loss(torch.stack(list(both.values())).sum(), both, output)

    return loss


def member(
    i: int,
    sae: SAE,
    config: TrainConfig,
    x: Float[Tensor, "n d_in"],
    generator: torch.Generator,
    loss: LossOf = own_loss,
) -> EagerMember:
    """Returns a copy of `sae` with its optimiser, its decoder bias at the geometric median of x."""
    l0 = config.target_l0
    check(l0 is None, "train", "no target_l0 in a joint training", target_l0=l0)
    options: dict[str, Any] = {"lr": one_lr("train", config), "target_l0": None, "loss": loss}
    found = EagerMember(i, sae, config, **options, generator=generator)
    if sae.bias:
        with torch.no_grad():
            found.sae.b_dec.copy_(geometric_median(x))
    return found


def check_config(where: str, **configs: Any) -> None:
    """Raises ValueError that names the first that is no TrainConfig."""
    for name, config in configs.items():
        rule, todo = "a TrainConfig", "pass TrainConfig(n_steps, batch_size)"
        check(isinstance(config, TrainConfig), where, rule, todo, **{name: config})


def one_lr(where: str, config: TrainConfig) -> float:
    """Returns the learning rate of a config, which must not ask for several."""
    lrs = config.lr if isinstance(config.lr, tuple) else (config.lr,)
    check(len(lrs) == 1, where, "one learning rate", lr=config.lr)
    return lrs[0]


def batches_for(
    where: str, saes: tuple[SAE, ...], sample: Any, config: TrainConfig, generator: torch.Generator
) -> Batches:
    """Returns the batches of a joint training of SAEs of one d_in and dtype."""
    kinds = {(sae.d_in, sae.W_dec.dtype, str(sae.W_dec.device)) for sae in saes}
    rule = "SAEs of one d_in, dtype and device"
    check(len(kinds) == 1, where, rule, saes=sorted(map(str, kinds)))
    return Batches(sample, config.batch_size, saes[0], generator=generator)
