"""Members that share a program, stacked: one batched computation is a step of all of them."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae.engines.ranks import has_rank, rank
from sae.engines.vectorised import Losses, Vectorised

CHECKS = ("loss", "gradient", "sum of the weights")


class Stack:
    """The tensors of some members as [members, ...], of which each member's are views.

    Nothing in `step` waits for the device.

    Args:
        members: `StackedMember`s of one program.
    """

    def __init__(self, members: Sequence[Any]) -> None:
        first = members[0]
        self.members, self.config = list(members), first.config
        self.tensors = {
            name: torch.stack([member.own()[name] for member in members]) for name in first.own()
        }
        for i, member in enumerate(members):
            member.live_in({name: value[i] for name, value in self.tensors.items()})
        self.trained = first.named(self.tensors["weights"])
        self.rest = {name: v for name, v in self.tensors.items() if name.startswith("sae.")}
        self.form = Vectorised(first.sae)
        self.sae = self.form.sae
        self.steers = any(member.target_l0 is not None for member in members)

    def begin(self, n_steps: int) -> None:
        """Keeps what `undo` gives back, and plans the next steps; may wait for the device."""
        members, config, device = self.members, self.config, self.tensors["silent"].device
        self.before = {name: value.clone() for name, value in self.tensors.items()}
        self.numbers_before = [member.numbers() for member in members]
        self.silence = int(self.tensors["silent"].max())
        plans = [[member.plan(s) for member in members] for s in range(n_steps)]
        self.plan = torch.tensor(plans, dtype=torch.float64).mT.to(device)
        self.ks = [[member.k(s) for member in members] for s in range(n_steps)]
        if has_rank(self.sae):
            size = config.batch_size
            ranks = torch.tensor([[rank(self.sae, k, size) for k in row] for row in self.ks])
            self.sae.most, self.ranks = int(ranks.max()), ranks.to(device)
        numbers = [
            (m.coefficient, m.target_l0 or 0.0, 0.0 if m.target_l0 is None else config.l0_rate)
            for m in members
        ]
        steering = torch.tensor(numbers, dtype=torch.float64).T.to(device)
        self.coefficients, self.targets, self.rates = steering
        self.checks: list[Tensor] = []
        self.record: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self, x: Float[Tensor, "batch d_in"], s: int, *, record: bool) -> None:
        """Takes step `s` after `begin` with all members."""
        config, tensors, n = self.config, self.tensors, len(x)
        step_sizes, roots, scales, shares = self.plan[s]
        dead = tensors["silent"] >= config.dead_after
        # Each step adds n to the silence of a latent at most: the host knows when none can be dead.
        revive = self.form.aux > 0 and self.silence + s * n >= config.dead_after
        losses, gradients = self._losses(x, s, scales, dead if revive else None)
        W_dec = self.trained["sae.W_dec"]
        if self.sae.unit_decoder:
            radial = (gradients["sae.W_dec"] * W_dec).sum(2, keepdim=True)
            gradients["sae.W_dec"] = gradients["sae.W_dec"] - radial * W_dec
        flat = torch.cat([gradients[name].flatten(1) for name in self.trained], 1)
        norms = _clip_(flat, config.max_grad_norm)
        self._adam_(flat, step_sizes, roots)
        if self.sae.unit_decoder:
            W_dec /= W_dec.norm(dim=2, keepdim=True).clamp(min=1e-12)
        self.form.after_step_(self.trained, self.rest, losses)
        fired = (losses.latents != 0).any(1)
        tensors["silent"].add_(n).masked_fill_(fired, 0)
        sums = tensors["weights"].float().sum(1)
        self.checks.append(torch.stack([v.double() for v in (losses.total, norms, sums)]))
        if self.steers and config.sparsity_scale(self.members[0].n_steps + s) == 1:
            excess = (losses.latents != 0).sum((1, 2)).double() / n - self.targets
            self.coefficients *= 1 + self.rates * excess.sign()
        if "average" in tensors:
            tensors["average"].lerp_(tensors["weights"].double(), shares[:, None])
        if record:
            self._record(x, losses, dead)

    def read(self) -> Float[Tensor, "steps checks members"]:
        """Returns for each step, on the host, the numbers that must be finite."""
        return torch.stack(self.checks).cpu()

    def settle(self) -> dict[int, dict[str, float]]:
        """Tells the members what they have become; returns the record of each, if there is one."""
        coefficients = self.coefficients.tolist()
        for member, coefficient in zip(self.members, coefficients, strict=True):
            member.n_steps += len(self.checks)
            if member.target_l0 is not None:
                member.coefficient = coefficient
        if not self.record:
            return {}
        columns = torch.stack([value.double() for value in self.record.values()]).T.tolist()
        rows = {}
        for member, column in zip(self.members, columns, strict=True):
            row = dict(zip(self.record, column, strict=True))
            if not row.pop("some dead"):
                row.pop("aux", None)
            rows[member.i] = row
        return rows

    def undo(self) -> None:
        """Takes all members back to the last `begin`."""
        for name, value in self.tensors.items():
            value.copy_(self.before[name])
        for member, numbers in zip(self.members, self.numbers_before, strict=True):
            for name, value in numbers.items():
                setattr(member, name, value)

    def _losses(
        self, x: Tensor, s: int, scales: Tensor, dead: Tensor | None
    ) -> tuple[Losses, dict[str, Tensor]]:
        settings, name = {}, self.members[0].coefficient_name
        if name:
            settings[name] = (self.coefficients * scales).to(x.dtype)
        if has_rank(self.sae):
            settings["rank"] = self.ranks[s]
        elif hasattr(self.sae, "k"):
            self.sae.k = self.ks[s][0]
        return self.form.losses(self.trained, self.rest, settings, x, dead)

    def _adam_(self, gradient: Tensor, step_sizes: Tensor, roots: Tensor) -> None:
        """Adam with a step size (lr / (1 - beta1^t)) and a root (sqrt(1 - beta2^t)) per member."""
        weights, first, second = (self.tensors[name] for name in ("weights", "first", "second"))
        beta1, beta2 = self.config.betas
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scaled = second.sqrt().div_(roots.to(second.dtype)[:, None]).add_(self.config.eps)
        weights.sub_(first / scaled * step_sizes.to(first.dtype)[:, None])

    def _record(self, x: Tensor, losses: Losses, dead: Tensor) -> None:
        """What `Member.record` says of each member, and whether any latent was dead before."""
        variance = (x - x.mean(0)).square().sum()
        now_dead = self.tensors["silent"] >= self.config.dead_after
        self.record = {
            "fvu": (x - losses.x_hat).square().sum((1, 2)) / variance,
            "l0": (losses.latents != 0).sum((1, 2)) / len(x),
            "dead": now_dead.float().mean(1),
            **losses.terms,
            "some dead": dead.any(1),
        }


def _clip_(gradients: Float[Tensor, "members n"], max_norm: float) -> Float[Tensor, " members"]:
    """Scales each row down to `max_norm` if it is longer, as `clip_grad_norm_` does; returns the
    norms before."""
    norms = torch.linalg.vector_norm(gradients, dim=1)
    gradients *= (max_norm / (norms + 1e-6)).clamp(max=1)[:, None]
    return norms
