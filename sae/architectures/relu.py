"""The ReLU SAE with an L1 penalty."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.base import SAE, SAEOutput, squared_error
from sae.checks import check


class ReLU(SAE):
    """latents = relu(pre_acts); loss = E|x - x_hat|^2 + l1 E sum_j latent_j |W_dec_j|.

    The L1 norm is weighted by the decoder's row norms, so that it cannot be lowered by shrinking
    latents and stretching rows: loss and x_hat stay the same when latent j is divided and row j
    multiplied by one positive number. With unit rows it is the plain L1 norm.

    Args:
        l1: coefficient of the penalty, >= 0.
        unit_decoder: whether training keeps the rows of W_dec at norm 1; False leaves them free.
        d_in, n_latents, bias, generator: see `SAE`.
    Source: Bricken et al. 2023, Towards Monosemanticity; the weighting: Conerly et al. 2024.
    """

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        l1: float,
        *,
        unit_decoder: bool = True,
        bias: bool = True,
        generator: torch.Generator,
    ) -> None:
        super().__init__(d_in, n_latents, bias=bias, generator=generator)
        ok = 0 <= l1 < float("inf")
        check(ok, type(self).__name__, "a finite l1 >= 0", l1=l1)
        self.l1, self.unit_decoder = l1, unit_decoder

    def activate(
        self, pre_acts: Float[Tensor, "batch n_latents"]
    ) -> Float[Tensor, "batch n_latents"]:
        return pre_acts.relu()

    def _terms(
        self, x: Float[Tensor, "batch d_in"], output: SAEOutput, dead: Bool[Tensor, " n_latents"]
    ) -> dict[str, Float[Tensor, ""]]:
        l1_norm = (output.latents @ self.W_dec.norm(dim=1)).mean()
        return {"mse": squared_error(x, output.x_hat), "l1": self.l1 * l1_norm}

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from sae.strategies import generators, sizes

        return st.builds(
            lambda shape, l1, unit, bias, generator: cls(
                shape[0], shape[1], l1, unit_decoder=unit, bias=bias, generator=generator
            ),
            sizes(),
            st.floats(0.01, 1),
            st.booleans(),
            st.booleans(),
            generators(),
        )
