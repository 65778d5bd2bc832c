"""How an SAE is trained, and the schedules as functions of the step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Real

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
        decay: fraction of the steps, at the end, over which it falls to 0; 0 keeps it constant.
        decay_shape: "linear" or "cosine" (half a period).
        max_grad_norm: each member's gradient is scaled down to this norm if it is longer.
        dead_after: samples without firing after which a latent counts as dead.
        n_records: how many times the history is recorded, >= 2, evenly spaced, first and last step
            included; at most n_steps. Held-out samples are evaluated at these steps.
        sparsity_warmup: fraction of the steps over which the sparsity coefficient (`l1` or
            `coefficient`) rises linearly from 0.
        k_annealing: fraction of the steps over which k falls linearly to its own value, from
            k_start or n_latents, whichever is less; whole where k is.
        k_start: >= 1; no effect where it is at most k.
        target_l0: > 0; from the end of the sparsity warm-up on, each step multiplies the sparsity
            coefficient by 1 + l0_rate if the batch's mean l0 is above it and by 1 - l0_rate if
            below. A tuple gives one to each member; None leaves the coefficient alone.
        l0_rate: in [0, 1).
        resample_every: samples between resamplings of the dead latents, > 0; inf is never.
        resample_norm: encoder norm of a resampled latent, over the mean of the living; > 0.
        ema: in [0, 1); decay per step of the bias-corrected average of the weights that the
            result holds; 0 is the last weights. Buffers are those of the last step, among them
            BatchTopK's threshold, which then lags by more.
        stop_after: a member stops if for so many samples its held-out fvu has not fallen below
            (1 - stop_gain) times the last best; > 0, inf is never.
        stop_gain: in [0, 1).

    Source: l0 control: Nabeshima 2024, Matryoshka sparse autoencoders (rate 3e-4); resampling:
        Bricken et al. 2023, Towards Monosemanticity (norm 0.2; `resample_` says what differs);
        averaged weights: Gao et al. 2024, arXiv 2406.04093 (decay 0.999).
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
    decay_shape: str = "linear"
    sparsity_warmup: float = 0.0
    k_annealing: float = 0.0
    k_start: int | float = math.inf
    target_l0: int | float | tuple[int | float, ...] | None = None
    l0_rate: float = 3e-4
    resample_every: int | float = math.inf
    resample_norm: float = 0.2
    ema: float = 0.0
    stop_after: int | float = math.inf
    stop_gain: float = 0.01

    def __post_init__(self) -> None:
        where = "TrainConfig"
        for name in ("n_steps", "batch_size", "dead_after", "n_records"):
            check_size(where, **{name: getattr(self, name)})
        others = ("lr", "betas", "decay_shape", "target_l0")
        for name in (field.name for field in fields(self) if field.name not in others):
            value = getattr(self, name)
            check(isinstance(value, Real), where, f"a number as {name}", **{name: value})
        check(self.n_records >= 2, where, "n_records >= 2 (first, last)", n_records=self.n_records)
        rates = self.lr if isinstance(self.lr, tuple) else (self.lr,)
        ok = all(isinstance(rate, Real) and 0 < rate < math.inf for rate in rates)
        todo = "pass a number, or a tuple of one for each SAE"
        check(ok and len(rates) > 0, where, "finite learning rates > 0", todo, lr=self.lr)
        betas = tuple(self.betas) if isinstance(self.betas, Sequence) else ()
        ok = len(betas) == 2 and all(isinstance(beta, Real) and 0 <= beta < 1 for beta in betas)
        check(ok, where, "two betas in [0, 1)", betas=self.betas)
        check(self.eps > 0, where, "eps > 0", eps=self.eps)
        ok = self.warmup >= 0 and self.decay >= 0 and self.warmup + self.decay <= 1
        rule = "warmup >= 0, decay >= 0, warmup + decay <= 1 (fractions of the steps)"
        check(ok, where, rule, warmup=self.warmup, decay=self.decay)
        check(self.max_grad_norm > 0, where, "max_grad_norm > 0", max_grad_norm=self.max_grad_norm)

        shapes = ("linear", "cosine")
        rule = f"decay_shape one of {shapes}"
        check(self.decay_shape in shapes, where, rule, decay_shape=self.decay_shape)
        for name in ("sparsity_warmup", "k_annealing"):
            share = getattr(self, name)
            check(0 <= share <= 1, where, f"{name} in [0, 1], of the steps", **{name: share})
        for name in ("l0_rate", "ema", "stop_gain"):
            value = getattr(self, name)
            check(0 <= value < 1, where, f"{name} in [0, 1)", **{name: value})
        for name in ("resample_every", "stop_after"):
            value = getattr(self, name)
            check(value > 0, where, f"{name} > 0 samples, inf for never", **{name: value})
        norm = self.resample_norm
        check(0 < norm < math.inf, where, "a finite resample_norm > 0", resample_norm=norm)
        check(self.k_start >= 1, where, "k_start >= 1", k_start=self.k_start)
        targets = self.target_l0 if isinstance(self.target_l0, tuple) else (self.target_l0,)
        wanted = [target for target in targets if target is not None]
        ok = all(isinstance(target, Real) and 0 < target < math.inf for target in wanted)
        check(ok and len(targets) > 0, where, "finite target_l0 > 0", target_l0=self.target_l0)

    def lr_scale(self, step: int) -> float:
        """Returns the factor in (0, 1] on the peak learning rate at step 0, 1, ..., n_steps - 1."""
        rise = self.warmup * self.n_steps
        fall = self.decay * self.n_steps
        left = min(1.0, (self.n_steps - step) / max(fall, 1))
        if self.decay_shape == "cosine":
            left = (1 - math.cos(math.pi * left)) / 2
        return min(left, (step + 1) / max(rise, 1))

    def sparsity_scale(self, step: int) -> float:
        """Returns the factor in [0, 1] on the sparsity coefficient at a step: step / span, with
        span = sparsity_warmup * n_steps, then 1."""
        span = self.sparsity_warmup * self.n_steps
        return 1.0 if step >= span else step / span

    def k_at(self, step: int, k: int | float, n_latents: int) -> int | float:
        """Returns the k of a step for an SAE that asks for `k`: k + (start - k)(1 - step / span),
        with start = max(k, min(k_start, n_latents)) and span = k_annealing * n_steps, then k;
        rounded up if k is an integer."""
        span = self.k_annealing * self.n_steps
        if step >= span:
            return k
        extra = (max(k, min(self.k_start, n_latents)) - k) * (1 - step / span)
        # A whole number that rounding left just above itself is not rounded up to the next.
        return k + (math.ceil(extra - 1e-9) if isinstance(k, int) else extra)
