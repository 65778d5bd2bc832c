"""The gated SAE: which latents are active is decided apart from how large they are."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sae.base import SAE, SAEOutput, squared_error
from sae.checks import check


class Gated(SAE):
    """latents = relu(magnitudes) where gates > 0, else 0, with gates = (x - b_dec) @ W_enc + b_enc,
    the pre-activations, and magnitudes = exp(r_mag) ((x - b_dec) @ W_enc) + b_mag.

    loss = E|x - x_hat|^2 + l1 E sum_j relu(gate_j) + E|x - x_gate|^2, where x_gate is decoded from
    relu(gates) by the decoder held constant. The gates learn from the last two only: a jump has no
    gradient. The penalty does not touch the magnitudes, hence does not shrink them.

    Args:
        l1: coefficient of the penalty, >= 0.
        d_in, n_latents, bias, generator: see `SAE`.
    Source: Rajamanoharan et al. 2024, arXiv 2404.16014 (b_enc is its b_gate).
    """

    frozen_decoder_terms = ("gate_mse",)
    scales_with_x = ("b_enc", "b_dec", "b_mag")

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        l1: float,
        *,
        bias: bool = True,
        generator: torch.Generator,
    ) -> None:
        super().__init__(d_in, n_latents, bias=bias, generator=generator)
        check(0 <= l1 < float("inf"), "Gated", "a finite l1 >= 0", l1=l1)
        self.l1 = l1
        self.r_mag = nn.Parameter(torch.zeros(n_latents, device=generator.device))
        self.b_mag = nn.Parameter(torch.zeros(n_latents, device=generator.device))

    def activate(
        self, pre_acts: Float[Tensor, "batch n_latents"]
    ) -> Float[Tensor, "batch n_latents"]:
        magnitudes = self.r_mag.exp() * (pre_acts - self.b_enc) + self.b_mag
        return torch.where(pre_acts > 0, magnitudes.relu(), 0)

    def _terms(
        self, x: Float[Tensor, "batch d_in"], output: SAEOutput, dead: Bool[Tensor, " n_latents"]
    ) -> dict[str, Float[Tensor, ""]]:
        gates = output.pre_acts.relu()
        x_gate = gates @ self.W_dec.detach() + self.b_dec.detach()
        return {
            "mse": squared_error(x, output.x_hat),
            "l1": self.l1 * gates.sum(1).mean(),
            "gate_mse": squared_error(x, x_gate),
        }

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from sae.strategies import generators, sizes

        return st.builds(
            lambda shape, l1, bias, g: cls(shape[0], shape[1], l1, bias=bias, generator=g),
            sizes(),
            st.floats(0.01, 1),
            st.booleans(),
            generators(),
        )
