"""One SAE of a run, whatever engine trains it: its copy, its counts, its evaluation."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.base import SAE, Loss
from sae.checks import check
from sae.config import TrainConfig
from sae.evaluation import HeldOut

COEFFICIENTS = ("l1", "coefficient")  # what a sparsity coefficient is called


class NotFinite(ValueError):
    """A batch, a loss or weights hold NaN or infinity."""


def not_finite(rule: str, todo: str, **got: object) -> NotFinite:
    """Returns the error in the wording of `check`."""
    try:
        check(False, "train", rule, todo, **got)
    except ValueError as error:
        return NotFinite(str(error))
    raise AssertionError("unreachable")


def coefficient_name(sae: SAE) -> str:
    """Returns the name of the setting that is the SAE's sparsity coefficient, or ""."""
    settings = sae.settings()
    return next((name for name in COEFFICIENTS if name in settings), "")


class Member:
    """Member `i` of a run; everything that it does follows from its own SAE and the batches.

    Args:
        sae: copied; training starts from the copy with unit rows.
        lr, target_l0: this member's own.
    """

    def __init__(
        self, i: int, sae: SAE, config: TrainConfig, *, lr: float, target_l0: int | float | None
    ) -> None:
        self.i, self.sae, self.config = i, copy.deepcopy(sae), config
        self.lr, self.target_l0 = lr, target_l0
        self.sae.normalise_decoder_()
        self.silent = torch.zeros(sae.n_latents, dtype=torch.int64, device=sae.W_dec.device)
        self.coefficient_name = coefficient_name(sae)
        self.coefficient = float(getattr(sae, self.coefficient_name, torch.nan))
        self.n_steps, self.stopped = 0, False
        self.best_fvu, self.best_at = torch.inf, 0

    def dead(self) -> Bool[Tensor, " n_latents"]:
        return self.silent >= self.config.dead_after

    def result(self) -> SAE:
        """Returns the SAE that the run would end with now."""
        return self.sae

    def evaluate(self, held_out: HeldOut) -> dict[str, float]:
        """Returns the evaluation on held-out samples; stops the member if it has stalled."""
        found, seen = held_out.evaluate(self.result()), self.n_steps * self.config.batch_size
        if found.fvu < (1 - self.config.stop_gain) * self.best_fvu:
            self.best_fvu, self.best_at = found.fvu, seen
        self.stopped = seen - self.best_at >= self.config.stop_after
        return found.summary()

    def record(self, x: Float[Tensor, "batch d_in"], loss: Loss) -> dict[str, float]:
        """Returns what the history keeps of the loss on a batch."""
        output = loss.output
        variance = (x - x.mean(0)).square().sum()
        fvu = (x - output.x_hat).square().sum() / variance
        l0 = (output.latents != 0).sum() / len(x)
        row = {"fvu": fvu, "l0": l0, "dead": self.dead().float().mean(), **loss.terms}
        return {name: float(value.detach()) for name, value in row.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Returns, by name, all tensors that the rest of the run depends on."""
        own = {**dict(self.sae.named_parameters()), **dict(self.sae.named_buffers())}
        return {"silent": self.silent} | {f"sae.{name}": value for name, value in own.items()}

    def numbers(self) -> dict[str, Any]:
        """Returns, by attribute, all numbers that the rest of the run depends on."""
        names = ("coefficient", "n_steps", "stopped", "best_fvu", "best_at")
        return {name: getattr(self, name) for name in names}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Continues where a member with these `tensors()` and `numbers()` was."""
        for name, value in self.tensors().items():
            value.copy_(tensors[name])
        for name, value in numbers.items():
            setattr(self, name, value)
