"""The engine for GPUs: members are stacked, and one batched program steps all of them."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sae.architectures.abs_topk import AbsTopK
from sae.architectures.batch_topk import BatchTopK
from sae.architectures.gated import Gated
from sae.architectures.hierarchical_topk import HierarchicalTopK
from sae.architectures.jump_relu import JumpReLU
from sae.architectures.matryoshka import MatryoshkaBatchTopK, MatryoshkaReLU
from sae.architectures.multi_topk import MultiTopK
from sae.architectures.relu import ReLU
from sae.architectures.tied import TiedLinear, TiedReLU
from sae.architectures.topk import TopK
from sae.base import SAE
from sae.batches import Drawn
from sae.config import TrainConfig
from sae.engines.engine import Engine, step_failed
from sae.engines.ranks import has_rank
from sae.engines.stack import CHECKS, Stack
from sae.member import Member

# Those whose code asks the device for no number; MatchingPursuit asks whether any sample goes on.
_KNOWN = (
    TopK, AbsTopK, MultiTopK, HierarchicalTopK, BatchTopK, MatryoshkaBatchTopK, MatryoshkaReLU,
    ReLU, TiedReLU, TiedLinear, Gated, JumpReLU,
)  # fmt: skip
_MOST = 2**27  # latents of a batch in one stack: 0.5 GB in float32, of which some ten copies live


class StackedMember(Member):
    """A member whose tensors are views of a stack's, once there is one."""

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
        super().__init__(i, sae, config, lr=lr, target_l0=target_l0)
        own = self.sae.named_parameters()
        self.trained = {name: p for name, p in own if p.requires_grad}
        self.weights = torch.cat([p.detach().flatten() for p in self.trained.values()])
        self.first, self.second = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        self.average = self.weights.double() if config.ema else torch.zeros(0)
        self.live_in(self.own())

    def own(self) -> dict[str, Tensor]:
        """Returns what a stack holds: all that changes with a step, or differs between members."""
        names = ("weights", "first", "second", "silent", *(["average"] if self.config.ema else []))
        state = {**dict(self.sae.named_parameters()), **dict(self.sae.named_buffers())}
        others = {
            f"sae.{name}": value.detach()
            for name, value in state.items()
            if name not in self.trained and name != "widths"
        }
        return {name: getattr(self, name) for name in names} | others

    def live_in(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts tensors, equal to those of `own`, in their place."""
        state = {**dict(self.sae.named_parameters()), **dict(self.sae.named_buffers())}
        for name, value in tensors.items():
            if name.startswith("sae."):
                state[name.removeprefix("sae.")].data = value
            else:
                setattr(self, name, value)
        for name, view in self.named(self.weights).items():
            self.trained[name.removeprefix("sae.")].data = view

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Returns views [..., *shape] of the trained parameters in flat ones [..., n]."""
        sizes = [p.numel() for p in self.trained.values()]
        parts = flat.split(sizes, dim=-1)
        return {
            f"sae.{name}": part.unflatten(-1, p.shape)
            for (name, p), part in zip(self.trained.items(), parts, strict=True)
        }

    def plan(self, s: int) -> tuple[float, float, float, float]:
        """Returns for the step after `s` more: Adam's step size and root, the factor on the
        sparsity coefficient, and the weight of the new weights in their average."""
        config, t = self.config, self.n_steps + s + 1
        beta1, beta2 = config.betas
        size = self.lr * config.lr_scale(t - 1) / (1 - beta1**t)
        share = (1 - config.ema) / (1 - config.ema**t)
        return size, math.sqrt(1 - beta2**t), config.sparsity_scale(t - 1), share

    def k(self, s: int) -> int | float:
        """Returns the k of the step after `s` more, and 0 if the SAE has none."""
        sae: Any = self.sae
        k = getattr(sae, "k", 0)
        return self.config.k_at(self.n_steps + s, k, sae.n_latents) if k else 0

    def program(self) -> object:
        """Returns what members of one stack must share."""
        free = {self.coefficient_name, "k" if has_rank(self.sae) else ""}
        settings = {k: repr(v) for k, v in self.sae.settings().items() if k not in free}
        shapes = [(name, value.shape, value.dtype) for name, value in self.own().items()]
        return type(self.sae), tuple(self.trained), tuple(settings.items()), tuple(shapes)

    @torch.no_grad()
    def result(self) -> SAE:
        """Returns a copy, in memory of its own, with averaged weights if the config asks so."""
        sae = _alone(self.sae)
        if self.config.ema and self.n_steps > 0:
            own = dict(sae.named_parameters())
            for name, value in self.named(self.average).items():
                own[name.removeprefix("sae.")].copy_(value)
            sae.normalise_decoder_()
        return sae

    def tensors(self) -> dict[str, Tensor]:
        moments = {"adam.first": self.first, "adam.second": self.second}
        return super().tensors() | moments | ({"average": self.average} if self.config.ema else {})


class Stacked(Engine):
    """Several steps at a time of all members; the host waits for the device once for them all.

    A member ends as it would alone up to rounding: a matrix product may depend in its last bits on
    where its operands lie in memory (on a CPU it does not if all sizes are multiples of 64 bytes).
    """

    name = "stacked"
    steps_at_once = 32

    def __init__(self, members: Sequence[Any]) -> None:
        super().__init__(members)
        self.running: list[Any] = []
        self.stacks: list[Stack] = []

    @classmethod
    def refusal(cls, sae: SAE, config: TrainConfig) -> str:
        name = type(sae).__name__
        reasons = {
            f"it does not know that {name} never waits for the device": type(sae) not in _KNOWN,
            "it needs prefixes that are fixed": isinstance(getattr(sae, "prefixes", ()), int),
            "it trains W_dec": not sae.W_dec.requires_grad,
            "it does not resample": config.resample_every < math.inf,
        }
        return next((reason for reason, holds in reasons.items() if holds), "")

    @classmethod
    def automatic(cls, sae: SAE) -> bool:
        """Returns whether to take it unasked: not on a CPU, whose cache a stack does not fit."""
        return sae.W_dec.device.type == "cuda"

    @classmethod
    def member(cls, i: int, sae: SAE, config: TrainConfig, **options: Any) -> StackedMember:
        return StackedMember(i, sae, config, **options)

    def advance(self, batches: Sequence[Drawn], *, record: bool) -> dict[int, dict[str, float]]:
        running = [member for member in self.members if not member.stopped]
        if running != self.running:
            self.running, self.stacks = running, [Stack(group) for group in _groups(running)]
        for stack in self.stacks:
            stack.begin(len(batches))
        for stack in self.stacks:
            for s, batch in enumerate(batches):
                stack.step(batch.to(stack.sae.W_dec.dtype), s, record=record and s == 0)
        failed = [found for stack in self.stacks for found in _failures(stack)]
        if failed:
            after, _, check, member, value = min(failed, key=lambda found: found[:3])
            step = member.n_steps + after
            raise step_failed(CHECKS[check], value, step=step, member=member.i, after=after)
        rows: dict[int, dict[str, float]] = {}
        for stack in self.stacks:
            rows |= stack.settle()
        return rows

    def undo(self) -> None:
        for stack in self.stacks:
            stack.undo()


def _alone(sae: SAE) -> SAE:
    alone = copy.deepcopy(sae)  # of parameters a deep copy takes what they show, of buffers all
    for buffer in alone.buffers():
        buffer.data = buffer.clone()
    return alone


def _groups(members: Sequence[Any]) -> list[list[Any]]:
    """Members by program, no more of them together than memory holds."""
    programs: dict[object, list[Any]] = {}
    for member in members:
        programs.setdefault(member.program(), []).append(member)
    groups = []
    for group in programs.values():
        most = max(1, _MOST // (group[0].config.batch_size * group[0].sae.n_latents))
        groups += [group[i : i + most] for i in range(0, len(group), most)]
    return groups


def _failures(stack: Stack) -> list[tuple[int, int, int, Any, float]]:
    """The numbers that are not finite: step, member, check, the member itself, value."""
    checks = stack.read()
    found = (~checks.isfinite()).nonzero().tolist()
    return [
        (s, stack.members[m].i, c, stack.members[m], float(checks[s, c, m])) for s, c, m in found
    ]
