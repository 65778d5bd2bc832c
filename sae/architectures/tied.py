"""Tied autoencoders, the baselines: linear, which finds a subspace, and ReLU with an L1 penalty."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.base import SAEOutput, TiedSAE, squared_error
from sae.checks import check


class TiedLinear(TiedSAE):
    """latents = (x - b_dec) @ W_dec.T; loss = E|x - x_hat|^2, without bottleneck but the width.

    The least loss is reached on the span of the first n_latents principal components, 0 from
    n_latents = d_in on; any rotation of the latents is as good, so no single row means anything.

    Args: see `SAE`.
    Source: Baldi and Hornik 1989, Neural networks and principal component analysis.
    """

    signed, unit_decoder, encoder_bias = True, False, False

    def activate(
        self, pre_acts: Float[Tensor, "batch n_latents"]
    ) -> Float[Tensor, "batch n_latents"]:
        return pre_acts

    def _terms(
        self, x: Float[Tensor, "batch d_in"], output: SAEOutput, dead: Bool[Tensor, " n_latents"]
    ) -> dict[str, Float[Tensor, ""]]:
        return {"mse": squared_error(x, output.x_hat)}

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from sae.strategies import generators, sizes

        return st.builds(
            lambda shape, bias, g: cls(shape[0], shape[1], bias=bias, generator=g),
            sizes(),
            st.booleans(),
            generators(),
        )


class TiedReLU(TiedSAE):
    """latents = relu((x - b_dec) @ W_dec.T + b_enc); loss = E|x - x_hat|^2 + l1 E sum_j latent_j.

    Args:
        l1: coefficient of the penalty, >= 0.
        d_in, n_latents, bias, generator: see `SAE`.
    Source: Cunningham et al. 2023, arXiv 2309.08600.
    """

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
        check(0 <= l1 < float("inf"), "TiedReLU", "a finite l1 >= 0", l1=l1)
        self.l1 = l1

    def activate(
        self, pre_acts: Float[Tensor, "batch n_latents"]
    ) -> Float[Tensor, "batch n_latents"]:
        return pre_acts.relu()

    def _terms(
        self, x: Float[Tensor, "batch d_in"], output: SAEOutput, dead: Bool[Tensor, " n_latents"]
    ) -> dict[str, Float[Tensor, ""]]:
        l1_norm = output.latents.sum(1).mean()
        return {"mse": squared_error(x, output.x_hat), "l1": self.l1 * l1_norm}

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
