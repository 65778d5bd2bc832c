"""The BatchTopK SAE: a budget of latents for the batch, and a threshold after training."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.architectures.topk import revival
from sae.base import SAE, SAEOutput, squared_error
from sae.checks import check

DECAY = 0.99  # of the running mean of the threshold; an ordinary mean for the first 100 steps


def keep_largest_of_batch(
    pre_acts: Float[Tensor, "batch n_latents"], n: int
) -> Float[Tensor, "batch n_latents"]:
    """Returns the ReLU of the n largest entries of the whole batch, 0 elsewhere."""
    values, selected = pre_acts.flatten().topk(n, sorted=False)
    flat = pre_acts.new_zeros(pre_acts.numel()).scatter(0, selected, values.relu())
    return flat.reshape(pre_acts.shape)


class BatchTopK(SAE):
    """In training: latents = the floor(k * batch) largest pre-activations of the batch, then ReLU.
    After it, in `encode` and `forward`: latents = pre_acts where above max(threshold, 0), else 0.

    The threshold is the running mean over training of a batch's smallest active latent, so that
    the mean l0 after training is about k; it lags some 100 steps behind the weights. A fresh SAE
    has threshold 0 and encodes like ReLU.
    loss = E|x - x_hat|^2 + `revival`.

    Args:
        k: mean of selected latents per sample in training, in [1, n_latents]; need not be whole.
        aux_coefficient: of the revival, >= 0.
        d_in, n_latents, bias, generator: see `SAE`.
    Source: Bussmann et al. 2024, arXiv 2412.06410.
    """

    batch_code = True
    scales_with_x = ("b_enc", "b_dec", "threshold")
    threshold: Float[Tensor, ""]
    n_updates: Int[Tensor, ""]

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        k: int | float,
        *,
        aux_coefficient: float = 1 / 32,
        bias: bool = True,
        generator: torch.Generator,
    ) -> None:
        super().__init__(d_in, n_latents, bias=bias, generator=generator)
        where = type(self).__name__
        check(1 <= k <= n_latents, where, f"1 <= k <= {n_latents} (n_latents)", k=k)
        ok = 0 <= aux_coefficient < float("inf")
        check(ok, where, "a finite aux_coefficient >= 0", aux_coefficient=aux_coefficient)
        self.k, self.aux_coefficient = k, aux_coefficient
        self.register_buffer("threshold", torch.zeros((), device=generator.device))
        count = torch.zeros((), dtype=torch.int64, device=generator.device)
        self.register_buffer("n_updates", count)

    def max_mean_l0(self) -> float:
        return float(self.k)

    def activate(
        self, pre_acts: Float[Tensor, "batch n_latents"]
    ) -> Float[Tensor, "batch n_latents"]:
        return torch.where(pre_acts > self.threshold, pre_acts.relu(), 0)

    def training_output(self, x: Float[Tensor, "batch d_in"]) -> SAEOutput:
        pre_acts = self.pre_acts(x)
        latents = keep_largest_of_batch(pre_acts, int(self.k * len(x)))
        return SAEOutput(self.decode(latents), latents, pre_acts)

    @torch.no_grad()
    def after_step_(self, output: SAEOutput, *, generator: torch.Generator) -> None:
        latents = output.latents
        smallest = torch.where(latents > 0, latents, torch.inf).min()
        found = torch.isfinite(smallest)  # False if no latent was active
        self.n_updates += found
        share = (1 / self.n_updates.clamp(min=1)).clamp(min=1 - DECAY).to(latents.dtype)
        step = share * (smallest - self.threshold)
        self.threshold += torch.where(found, step, 0)

    def _terms(
        self, x: Float[Tensor, "batch d_in"], output: SAEOutput, dead: Bool[Tensor, " n_latents"]
    ) -> dict[str, Float[Tensor, ""]]:
        terms = {"mse": squared_error(x, output.x_hat)}
        return terms | revival(self, x, output, dead, self.aux_coefficient)

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from sae.strategies import generators, sizes

        @st.composite
        def build(draw: Any) -> BatchTopK:
            d_in, n_latents = draw(sizes())
            k = draw(st.one_of(st.integers(1, n_latents), st.floats(1, n_latents)))
            return cls(d_in, n_latents, k, bias=draw(st.booleans()), generator=draw(generators()))

        return build()
