"""The loss of an SAE over the members of a stack, from its architecture's own code."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from sae.architectures.abs_topk import keep_largest_magnitudes
from sae.architectures.jump_relu import JumpReLU
from sae.architectures.topk import keep_largest, masked_revival
from sae.base import SAE, SAEOutput
from sae.engines.ranks import has_rank, select_by_rank_


@dataclass(frozen=True, eq=False)
class Losses:
    """What `Loss` is for one member, with an axis of members in front."""

    total: Float[Tensor, " members"]
    terms: dict[str, Float[Tensor, " members"]]
    x_hat: Float[Tensor, "members batch d_in"]
    latents: Float[Tensor, "members batch n_latents"]
    pre_acts: Float[Tensor, "members batch n_latents"]


Tensors = dict[str, Tensor]  # by name in the SAE, each with an axis of members in front


class Vectorised:
    """Differentiates the loss of an SAE by torch.func, and vectorises it over members that differ
    in parameters, buffers and some settings.

    Args:
        sae: copied; only a form, in place of whose parameters and buffers come those of members.
    """

    def __init__(self, sae: SAE) -> None:
        self.sae: Any = copy.deepcopy(sae)
        self._call = _Call(self.sae)
        if hasattr(self.sae, "widths"):  # of prefixes that are fixed; the host reads them
            self.sae.widths = self.sae.widths.cpu()
        self.aux = float(getattr(self.sae, "aux_coefficient", 0))
        if self.aux > 0:
            self.sae.aux_coefficient = 0.0  # `_loss` adds the revival, in its form for devices
        if has_rank(self.sae):
            select_by_rank_(self.sae)

    def losses(
        self,
        trained: Tensors,
        rest: Tensors,
        settings: Tensors,
        x: Float[Tensor, "batch d_in"],
        dead: Bool[Tensor, "members n_latents"] | None,
    ) -> tuple[Losses, Tensors]:
        """Returns the losses of all members, and the gradients of `trained`.

        Args:
            settings: [members] by name, those in which members differ.
            dead: which latents to revive; None where none can be dead.
        """

        def objective(trained: Tensors, rest: Tensors, settings: Tensors, dead: Any) -> Any:
            return functional_call(self._call, trained | rest, (_loss, x, settings, dead, self.aux))

        dims = (0, 0, 0, None if dead is None else 0)
        members = vmap(grad_and_value(objective, has_aux=True), in_dims=dims)
        gradients, (total, (terms, output)) = members(trained, rest, settings, dead)
        return Losses(total, terms, *output), gradients

    def after_step_(self, trained: Tensors, rest: Tensors, losses: Losses) -> None:
        """Does in place what the SAE's own `after_step_` does."""
        if isinstance(self.sae, JumpReLU):  # vmap would clamp one member after another
            trained["sae.threshold"].clamp_(min=0)
        elif type(self.sae).after_step_ is not SAE.after_step_:

            def update(tensors: Tensors, output: Any) -> tuple[()]:
                functional_call(self._call, tensors, (_after_step_, output))
                return ()

            vmap(update)(trained | rest, (losses.x_hat, losses.latents, losses.pre_acts))


class _Call(nn.Module):
    """Calls a function of an SAE: `functional_call` puts tensors into a module for a forward."""

    def __init__(self, sae: SAE) -> None:
        super().__init__()
        self.sae = sae

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(self.sae, *args)


def _loss(
    sae: Any, x: Tensor, settings: dict[str, Tensor], dead: Tensor | None, aux: float
) -> tuple[Tensor, tuple[dict[str, Tensor], tuple[Tensor, Tensor, Tensor]]]:
    """Returns the loss of one member under its settings: total, terms, output.

    Args:
        dead: which latents to revive with coefficient `aux`; None where none can be dead.
    """
    for name, value in settings.items():
        setattr(sae, name, value)
    loss = sae.loss(x)
    terms, output = loss.terms, loss.output
    if dead is not None:
        keep = keep_largest_magnitudes if sae.signed else keep_largest
        terms = terms | {"aux": masked_revival(sae, x, output, dead, aux, keep)}
    total = torch.stack(list(terms.values())).sum()
    return total, (terms, (output.x_hat, output.latents, output.pre_acts))


def _after_step_(sae: SAE, output: tuple[Tensor, Tensor, Tensor]) -> None:
    sae.after_step_(SAEOutput(*output), generator=torch.Generator())
