"""How an SAE is trained."""

from dataclasses import dataclass

from sae.checks import check, check_size


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation, as a value; part of the key under which a run is stored.

    Args:
        n_steps: optimiser steps, >= 1.
        batch_size: samples per step, >= 1; a run sees n_steps * batch_size samples.
        lr: Adam's peak learning rate, > 0; a tuple gives one to each member of an ensemble.
        betas, eps: Adam's.
        warmup: fraction of the steps over which the learning rate rises linearly from 0.
        decay: fraction of the steps, at the end, over which it falls linearly to 0.
        max_grad_norm: each member's gradient is scaled down to this norm if it is longer.
        dead_after: samples without firing after which a latent counts as dead.
        n_records: how many times the history is recorded, >= 2, evenly spaced, first and last step
            included; at most n_steps.
    """

    n_steps: int
    batch_size: int
    lr: float | tuple[float, ...] = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup: float = 0.05
    decay: float = 0.2
    max_grad_norm: float = 1.0
    dead_after: int = 50_000
    n_records: int = 20

    def __post_init__(self) -> None:
        where = "TrainConfig"
        for name in ("n_steps", "batch_size", "dead_after", "n_records"):
            check_size(where, **{name: getattr(self, name)})
        check(self.n_records >= 2, where, "n_records >= 2 (first, last)", n_records=self.n_records)
        rates = self.lr if isinstance(self.lr, tuple) else (self.lr,)
        ok = len(rates) > 0 and all(0 < rate < float("inf") for rate in rates)
        check(ok, where, "finite learning rates > 0", lr=self.lr)
        check(all(0 <= b < 1 for b in self.betas), where, "betas in [0, 1)", betas=self.betas)
        check(self.eps > 0, where, "eps > 0", eps=self.eps)
        ok = self.warmup >= 0 and self.decay >= 0 and self.warmup + self.decay <= 1
        rule = "warmup >= 0, decay >= 0, warmup + decay <= 1 (fractions of the steps)"
        check(ok, where, rule, warmup=self.warmup, decay=self.decay)
        check(self.max_grad_norm > 0, where, "max_grad_norm > 0", max_grad_norm=self.max_grad_norm)

    def lr_scale(self, step: int) -> float:
        """Returns the factor in (0, 1] on the peak learning rate at step 0, 1, ..., n_steps - 1."""
        rise = self.warmup * self.n_steps
        fall = self.decay * self.n_steps
        return min(1.0, (step + 1) / max(rise, 1), (self.n_steps - step) / max(fall, 1))
