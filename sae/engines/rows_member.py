"""A member as the `rows` engine trains it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae.base import SAE
from sae.batches import Drawn
from sae.config import TrainConfig
from sae.engines import kernels
from sae.engines.layout import Data, Plan, Rule, State, Weights
from sae.engines.rows_data import weights_of, work_of
from sae.engines.rules import BATCH_TOPK, THRESHOLD, TOPK, groups_of, kind_of
from sae.member import Member

_WHAT = {
    0: "",
    kernels.LOSS: "loss",
    kernels.GRADIENT: "gradient",
    kernels.WEIGHTS: "sum of the weights",
}


class RowsMember(Member):
    """A member with Adam's moments in the layout of the kernels.

    Between calls of `advance` its SAE is the truth: weights are read from it before and written
    back after.
    """

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
        self.dtype, self.kind, self.groups = sae.W_dec.dtype, kind_of(sae), groups_of(sae)
        n, numbers = sae.n_latents, np.dtype(str(self.dtype).removeprefix("torch."))
        self.state = State(
            weights=weights_of(n, sae.d_in, numbers),
            first=weights_of(n, sae.d_in, numbers),
            second=weights_of(n, sae.d_in, numbers),
            silent=self.silent.numpy(),
            counts=np.zeros(2, np.int64),
            numbers=np.zeros(4),
        )
        self.rule = self._rule()
        self.before = [np.empty_like(value) for value in self._changing()]
        self.first_report: np.ndarray | None = None  # of the first batch since `keep`

    def _rule(self) -> Rule:
        sae: Any = self.sae
        config, aux = self.config, float(getattr(sae, "aux_coefficient", 0))
        return Rule(
            kind=self.kind,
            n_latents=sae.n_latents,
            signed=sae.signed,
            unit_decoder=sae.unit_decoder,
            trains_b_dec=sae.bias,
            main=self.groups.main,
            aux_coefficient=aux,
            k_aux=max(1, sae.d_in // 2) if aux > 0 else 0,
            bandwidth=float(getattr(sae, "bandwidth", 0)),
            penalty_target=float(getattr(sae, "target_l0", None) or 0),
            l0_target=float(self.target_l0 or 0),
            l0_rate=float(config.l0_rate),
            dead_after=config.dead_after,
            max_grad_norm=float(config.max_grad_norm),
            beta1=float(config.betas[0]),
            beta2=float(config.betas[1]),
            eps=float(config.eps),
        )

    def _plan(self, n_steps: int) -> Plan:
        sae: Any = self.sae
        config, groups, n = self.config, self.groups, self.sae.n_latents
        steps = range(self.n_steps, self.n_steps + n_steps)
        k = getattr(sae, "k", n)
        ks = [config.k_at(step, k, n) if config.k_annealing else k for step in steps]
        group_of = np.searchsorted(groups.widths, np.arange(n), side="right")
        one_k = self.kind == TOPK and len(groups.ks) == 1
        return Plan(
            lr=np.array([self.lr * config.lr_scale(step) for step in steps]),
            scale=np.array([config.sparsity_scale(step) for step in steps]),
            budgets=np.array([int(k * config.batch_size) for k in ks]),
            all_ks=np.array([(k,) if one_k else groups.ks for k in ks], np.int64),
            ks=np.zeros(len(groups.ks), np.int64),
            weights=np.array(groups.weights, self.state.weights.flat.dtype),
            group_of=group_of.astype(np.int64),
            penalties=(len(groups.weights) - group_of).astype(np.int64),
        )

    def begin(self) -> None:
        """Reads the SAE, as `take` expects it."""
        self._read()
        self.state.counts[0] = self.n_steps
        self.state.numbers[1], self.state.numbers[3] = self.coefficient, np.inf

    def keep(self) -> None:
        """Keeps what `undo` gives back."""
        for kept, value in zip(self.before, self._changing(), strict=True):
            kept[...] = value  # a new copy would cost many times as much in fresh memory
        self.numbers_before = self.numbers()
        self.first_report = None

    def undo(self) -> None:
        """Takes the member back to the last `keep`."""
        for kept, value in zip(self.before, self._changing(), strict=True):
            value[...] = kept
        for name, value in self.numbers_before.items():
            setattr(self, name, value)
        self._write()

    def take(self, data: Data, works: dict[Any, Any]) -> tuple[int, str, float]:
        """Takes a step for each batch; returns how many could be taken, and what was not finite
        then, with its value, or "".

        Args:
            works: the arrays of this thread by size; one more if need be.
        """
        most = {TOPK: max(self.groups.ks)}
        n = self.sae.n_latents
        n_records = n if self.config.k_annealing else most.get(self.kind, n)
        near, groups = self.rule.bandwidth > 0, self.groups
        shape = (self.dtype, data.x.shape, n, n_records, len(groups.weights), self.rule.k_aux, near)
        key = (*shape, len(data.vectors))
        if key not in works:
            works[key] = work_of(self.state, data, groups, n_records, self.rule.k_aux, near)
        n_groups = len(self.groups.weights)
        reports = np.zeros((len(data.x), kernels.ERRORS + n_groups))
        plan = self._plan(len(data.x))
        taken, failed = kernels.advance(self.rule, plan, self.state, data, works[key], reports)
        if self.first_report is None:
            self.first_report = reports[0]
        report = reports[min(taken, len(data.x) - 1)]
        value = report[kernels.NORM if failed == kernels.GRADIENT else kernels.TOTAL]
        return taken, _WHAT[failed], float(value)

    def settle(self, n_steps: int) -> None:
        """Takes over what `take` has computed."""
        self.n_steps += n_steps
        self.coefficient = float(self.state.numbers[1])
        self._write()

    def recorded(self, batch: Drawn) -> dict[str, float]:
        """Returns, for the first batch since the last `keep`, what `record` would."""
        assert self.first_report is not None, "nothing was taken"
        report, size = self.first_report, self.config.batch_size
        error = report[kernels.ERRORS + self.groups.main]
        fvu = float(torch.tensor(error * size) / batch.energy(self.dtype))
        share = float(report[kernels.DEAD]) / self.sae.n_latents
        return {"fvu": fvu, "l0": float(report[kernels.L0]), "dead": share, **self._terms()}

    def _terms(self) -> dict[str, float]:
        """The terms of the loss of the first batch."""
        assert self.first_report is not None, "nothing was taken"
        report, groups, rule = self.first_report.tolist(), self.groups, self.rule
        errors = report[kernels.ERRORS :]
        terms = {"mse": errors[groups.main]}
        others = [g for g in range(len(errors)) if g != groups.main]
        if self.kind != THRESHOLD and rule.k_aux and report[kernels.DEAD_BEFORE]:
            terms["aux"] = report[kernels.AUX]
        if self.kind == TOPK:
            return terms | {f"mse_{groups.ks[g]}": groups.weights[g] * errors[g] for g in others}
        if self.kind == THRESHOLD and rule.bandwidth:
            return terms | {"l0_penalty": report[kernels.PENALTY]}
        if self.kind == THRESHOLD:
            terms["l1"] = report[kernels.L1]
        if others and self.kind == THRESHOLD:
            terms["prefix_l1"] = report[kernels.PREFIX_L1]
        return terms | ({"prefixes": float(sum(errors[g] for g in others))} if others else {})

    def tensors(self) -> dict[str, Tensor]:
        moments = {"adam.first": self.state.first.flat, "adam.second": self.state.second.flat}
        return super().tensors() | {
            name: torch.from_numpy(value) for name, value in moments.items()
        }

    def _changing(self) -> list[np.ndarray]:
        state = self.state
        flat = [weights.flat for weights in (state.weights, state.first, state.second)]
        return [*flat, state.silent, state.counts, state.numbers]

    def parameters_of(self, weights: Weights) -> dict[str, np.ndarray]:
        """Returns views of such numbers by the names of the SAE's parameters, in their shapes."""
        d, n = self.sae.d_in, self.sae.n_latents
        views = {
            "W_enc": weights.W_enc[:, :d].T,
            "W_dec": weights.W_dec[:, :d],
            "b_enc": weights.b_enc[:n],
            "b_dec": weights.b_dec[0, :d],
            "threshold": weights.threshold[:n],
        }
        return {name: views[name] for name, _ in self.sae.named_parameters()}

    def _read(self) -> None:
        views = self.parameters_of(self.state.weights)
        for name, parameter in self.sae.named_parameters():
            torch.from_numpy(views[name]).copy_(parameter.detach())  # numpy transposes slowly
        if self.kind == BATCH_TOPK:
            sae: Any = self.sae
            self.state.numbers[0] = float(sae.threshold)
            self.state.counts[1] = int(sae.n_updates)

    def _write(self) -> None:
        views = self.parameters_of(self.state.weights)
        for name, parameter in self.sae.named_parameters():
            parameter.detach().copy_(torch.from_numpy(views[name]))
        if self.kind == BATCH_TOPK:
            sae: Any = self.sae
            sae.threshold.fill_(float(self.state.numbers[0]))
            sae.n_updates.fill_(int(self.state.counts[1]))
