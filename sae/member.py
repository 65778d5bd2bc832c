"""One SAE in training: its copy, optimiser, schedules, and when its latents last fired."""

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.base import SAE, Loss
from sae.checks import check
from sae.config import TrainConfig
from sae.evaluation import HeldOut
from sae.geometric_median import geometric_median
from sae.resampling import resample_

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
    """Member `i` of a run; everything that it does follows from its own SAE and the batches."""

    def __init__(
        self,
        i: int,
        sae: SAE,
        config: TrainConfig,
        *,
        lr: float,
        target_l0: int | float | None,
        generator: torch.Generator,
    ) -> None:
        self.i, self.sae, self.config = i, copy.deepcopy(sae), config
        self.lr, self.target_l0 = lr, target_l0
        self.generator = _derived(generator, "after step")
        self.resampling = _derived(generator, "resampling")
        self.sae.normalise_decoder_()
        self.trained = [p for p in self.sae.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(
            self.trained, lr=lr, betas=config.betas, eps=config.eps, fused=True
        )
        self.silent = torch.zeros(sae.n_latents, dtype=torch.int64, device=sae.W_dec.device)
        self.coefficient_name = coefficient_name(sae)
        self.coefficient = float(getattr(sae, self.coefficient_name, torch.nan))
        self.n_steps, self.in_step, self.stopped = 0, False, False
        self.best_fvu, self.best_at = torch.inf, 0
        self.state = [*self.sae.parameters(), *self.sae.buffers()]
        self.before = [value.detach().clone() for value in self.state]
        self.average = (
            [p.detach().to(torch.float64, copy=True) for p in self.trained] if config.ema else []
        )

    @torch.no_grad()
    def centre_on(self, x: Float[Tensor, "batch d_in"]) -> None:
        if self.sae.bias:
            self.sae.b_dec.copy_(geometric_median(x))

    def dead(self) -> Bool[Tensor, " n_latents"]:
        return self.silent >= self.config.dead_after

    def step(self, x: Float[Tensor, "batch d_in"]) -> Loss:
        """Takes a step, which `keep` makes final and `undo` takes back."""
        for kept, value in zip(self.before, self.state, strict=True):
            kept.copy_(value.detach())
        self.in_step = True
        with self._scheduled():
            loss = self.sae.loss(x, self.dead())
        todo = "lower the learning rate, or look for huge values in the data"
        self._check_finite("loss", loss.total, todo)
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        self.sae.remove_radial_gradient_()
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.config.max_grad_norm)
        self._check_finite("gradient", norm, todo)
        self.optimizer.param_groups[0]["lr"] = self.lr * self.config.lr_scale(self.n_steps)
        self.optimizer.step()
        self.sae.normalise_decoder_()
        self.sae.after_step_(loss.output, generator=self.generator)
        fired = (loss.output.latents.detach() != 0).any(0)
        self.silent = torch.where(fired, 0, self.silent + len(x))
        self._resample(x, loss)
        totals = torch.stack([p.detach().float().sum() for p in self.trained])
        self._check_finite("sum of the weights", totals.sum(), todo)
        return loss

    @torch.no_grad()
    def keep(self, loss: Loss) -> None:
        self._control_l0(loss)
        self.n_steps, self.in_step = self.n_steps + 1, False
        if self.average:
            share = (1 - self.config.ema) / (1 - self.config.ema**self.n_steps)
            for average, parameter in zip(self.average, self.trained, strict=True):
                average.lerp_(parameter.double(), share)

    @torch.no_grad()
    def undo(self) -> None:
        if not self.in_step:
            return
        for kept, value in zip(self.before, self.state, strict=True):
            value.copy_(kept)

    @torch.no_grad()
    def result(self) -> SAE:
        """Returns the SAE with averaged weights if it asks for them, in unit rows."""
        if not self.average or self.n_steps == 0:
            return self.sae
        sae = copy.deepcopy(self.sae)
        own = [p for p in sae.parameters() if p.requires_grad]
        for parameter, average in zip(own, self.average, strict=True):
            parameter.copy_(average)
        sae.normalise_decoder_()
        return sae

    def evaluate(self, held_out: HeldOut) -> dict[str, float]:
        """Returns the evaluation on held-out samples; stops the member if it has stalled."""
        found, seen = held_out.evaluate(self.result()), self.n_steps * self.config.batch_size
        if found.fvu < (1 - self.config.stop_gain) * self.best_fvu:
            self.best_fvu, self.best_at = found.fvu, seen
        self.stopped = seen - self.best_at >= self.config.stop_after
        return found.summary()

    def record(self, x: Float[Tensor, "batch d_in"], loss: Loss) -> dict[str, float]:
        output = loss.output
        variance = (x - x.mean(0)).square().sum()
        fvu = (x - output.x_hat).square().sum() / variance
        l0 = (output.latents != 0).sum() / len(x)
        row = {"fvu": fvu, "l0": l0, "dead": self.dead().float().mean(), **loss.terms}
        return {name: float(value.detach()) for name, value in row.items()}

    @contextmanager
    def _scheduled(self) -> Iterator[None]:
        """The settings of this step, for as long as the loss is computed."""
        config, now = self.config, {}
        sae: Any = self.sae
        if config.sparsity_warmup or self.target_l0 is not None:
            scale = config.sparsity_scale(self.n_steps)
            now[self.coefficient_name] = self.coefficient * scale
        if config.k_annealing:
            now["k"] = config.k_at(self.n_steps, sae.k, sae.n_latents)
        asked = {name: getattr(sae, name) for name in now}
        try:
            for name, value in now.items():
                setattr(sae, name, value)
            yield
        finally:
            for name, value in asked.items():
                setattr(sae, name, value)

    def _control_l0(self, loss: Loss) -> None:
        if self.target_l0 is None or self.config.sparsity_scale(self.n_steps) < 1:
            return
        latents = loss.output.latents
        excess = float((latents != 0).sum()) / len(latents) - self.target_l0
        self.coefficient *= 1 + self.config.l0_rate * ((excess > 0) - (excess < 0))

    def _resample(self, x: Tensor, loss: Loss) -> None:
        every, size = self.config.resample_every, self.config.batch_size
        if (self.n_steps + 1) * size // every == self.n_steps * size // every:
            return
        residual, norm = (x - loss.output.x_hat).detach(), self.config.resample_norm
        chosen = resample_(
            self.sae, self.optimizer, self.dead(), residual, norm, generator=self.resampling
        )
        self.silent = torch.where(chosen, 0, self.silent)

    def _check_finite(self, what: str, value: Tensor, todo: str) -> None:
        total = value.item()
        if not abs(total) < torch.inf:
            got = {"step": self.n_steps, "member": self.i, "total": total}
            raise not_finite(f"a finite {what}", todo, **got)


def _derived(generator: torch.Generator, purpose: str) -> torch.Generator:
    """A CPU generator that follows from the state of another and leaves it alone, so that what a
    member draws for itself neither moves the batches nor depends on the other members."""
    state = generator.get_state().numpy().tobytes()
    digest = hashlib.sha256(purpose.encode() + b"\0" + state).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
