"""The reference engine: autograd and torch's Adam, for any architecture, setting and device."""

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae.base import SAE, Loss
from sae.batches import Drawn
from sae.config import TrainConfig
from sae.engines.engine import Engine, step_failed
from sae.member import Member
from sae.resampling import resample_

LossOf = Callable[[SAE, Tensor, Tensor], Loss]  # (sae, x [batch, d_in], dead [n_latents])


def own_loss(sae: SAE, x: Tensor, dead: Tensor) -> Loss:
    return sae.loss(x, dead)


class EagerMember(Member):
    """A member with its optimiser, schedules and resampling.

    Args:
        loss: what its steps descend; a joint training adds terms to the SAE's own.
        generator: of the batches, before the first; what the member draws for itself follows from
            its state and leaves it alone.
    """

    def __init__(
        self,
        i: int,
        sae: SAE,
        config: TrainConfig,
        *,
        lr: float,
        target_l0: int | float | None,
        loss: LossOf = own_loss,
        generator: torch.Generator,
    ) -> None:
        super().__init__(i, sae, config, lr=lr, target_l0=target_l0)
        self.loss = loss
        self.generator = _derived(generator, "after step")
        self.resampling = _derived(generator, "resampling")
        self.trained = [p for p in self.sae.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(
            self.trained, lr=lr, betas=config.betas, eps=config.eps, fused=True
        )
        self.state = [*self.sae.parameters(), *self.sae.buffers()]
        self.before = [value.detach().clone() for value in self.state]
        self.average = (
            [p.detach().to(torch.float64, copy=True) for p in self.trained] if config.ema else []
        )

    def step(self, x: Float[Tensor, "batch d_in"]) -> Loss:
        """Takes a step, which `undo` takes back."""
        for kept, value in zip(self.before, self.state, strict=True):
            kept.copy_(value.detach())
        self.average_before = [value.clone() for value in self.average]
        self.numbers_before = self.numbers()
        with self._scheduled():
            loss = self.loss(self.sae, x, self.dead())
        self._check_finite("loss", loss.total)
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        self.sae.remove_radial_gradient_()
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.config.max_grad_norm)
        self._check_finite("gradient", norm)
        self.optimizer.param_groups[0]["lr"] = self.lr * self.config.lr_scale(self.n_steps)
        self.optimizer.step()
        self.sae.normalise_decoder_()
        self.sae.after_step_(loss.output, generator=self.generator)
        fired = (loss.output.latents.detach() != 0).any(0)
        self.silent = torch.where(fired, 0, self.silent + len(x))
        self._resample(x, loss)
        totals = torch.stack([p.detach().float().sum() for p in self.trained])
        self._check_finite("sum of the weights", totals.sum())
        self._control_l0(loss)
        self.n_steps += 1
        self._take_average()
        return loss

    @torch.no_grad()
    def _take_average(self) -> None:
        share = (1 - self.config.ema) / (1 - self.config.ema**self.n_steps)
        for average, parameter in zip(self.average, self.trained, strict=bool(self.average)):
            average.lerp_(parameter.double(), share)

    @torch.no_grad()
    def undo(self) -> None:
        """Takes back the last step, as far as `result` shows it."""
        for kept, value in zip(self.before, self.state, strict=True):
            value.copy_(kept)
        for kept, value in zip(self.average_before, self.average, strict=True):
            value.copy_(kept)
        for name, value in self.numbers_before.items():
            setattr(self, name, value)

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

    def tensors(self) -> dict[str, Tensor]:
        moments = {
            f"adam.{i}.{name}": value
            for i, p in enumerate(self.trained)
            for name, value in self.optimizer.state.get(p, {}).items()
        }
        averages = {f"average.{i}": value for i, value in enumerate(self.average)}
        generators = {
            "after_step": self.generator.get_state(),
            "resampling": self.resampling.get_state(),
        }
        return super().tensors() | moments | averages | generators

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        for i, p in enumerate(self.trained):  # a fresh optimiser has no moments to overwrite
            for name in ("step", "exp_avg", "exp_avg_sq"):
                if f"adam.{i}.{name}" in tensors:
                    self.optimizer.state[p][name] = tensors[f"adam.{i}.{name}"].clone()
        super().restore(tensors, numbers)
        self.generator.set_state(tensors["after_step"])
        self.resampling.set_state(tensors["resampling"])

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

    def _check_finite(self, what: str, value: Tensor) -> None:
        total = value.item()
        if not abs(total) < torch.inf:
            raise step_failed(what, total, step=self.n_steps, member=self.i, after=0)


class Eager(Engine):
    """One step at a time, one member after another."""

    name = "eager"
    begun: list[EagerMember]  # the last step, whether they finished it or not

    @classmethod
    def refusal(cls, sae: SAE, config: TrainConfig) -> str:
        return ""

    @classmethod
    def member(cls, i: int, sae: SAE, config: TrainConfig, **options: Any) -> EagerMember:
        return EagerMember(i, sae, config, **options)

    def advance(self, batches: Sequence[Drawn], *, record: bool) -> dict[int, dict[str, float]]:
        (batch,), self.begun, rows = batches, [], {}
        for member in self.members:
            if not member.stopped:
                self.begun.append(member)
                x = batch.to(member.sae.W_dec.dtype)
                loss = member.step(x)
                if record:
                    rows[member.i] = member.record(x, loss)
        return rows

    def undo(self) -> None:
        for member in self.begun:
            member.undo()


def _derived(generator: torch.Generator, purpose: str) -> torch.Generator:
    """A CPU generator that follows from the state of another and leaves it alone, so that what a
    member draws for itself neither moves the batches nor depends on the other members."""
    state = generator.get_state().numpy().tobytes()
    digest = hashlib.sha256(purpose.encode() + b"\0" + state).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
