"""The TopK SAE, with an auxiliary loss that revives dead latents."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.base import SAE, SAEOutput, squared_error
from sae.checks import check


def keep_largest(
    pre_acts: Float[Tensor, "batch n_latents"], k: int
) -> Float[Tensor, "batch n_latents"]:
    """Returns the ReLU of the k largest entries of each row, 0 elsewhere: at most k non-zero.

    Among equal entries at rank k exactly as many are kept as make k.
    """
    values, indices = pre_acts.topk(k, dim=1, sorted=False)
    return torch.zeros_like(pre_acts).scatter(1, indices, values.relu())


Keep = Callable[[Tensor, int], Tensor]  # (pre_acts [batch, n], k) -> latents [batch, n]


def revival(
    sae: SAE,
    x: Float[Tensor, "batch d_in"],
    output: SAEOutput,
    dead: Bool[Tensor, " n_latents"],
    coefficient: float,
    keep: Keep = keep_largest,
) -> dict[str, Float[Tensor, ""]]:
    """Returns the term "aux" of the top-k family, which revives dead latents; empty without any.

    coefficient E|r - r_hat|^2, where r = x - x_hat, held constant, and r_hat = z @ W_dec (no bias:
    r has it removed already) with z the k_aux latents that `keep` finds among the *dead* ones;
    k_aux = max(1, d_in // 2) or the number of dead latents if that is smaller.

    Source: Gao et al. 2024, arXiv 2406.04093 (k_aux a power of 2 near d_in / 2).
    """
    n_dead = int(dead.sum()) if coefficient > 0 else 0
    if n_dead == 0:
        return {}
    candidates = keep(output.pre_acts[:, dead], min(max(1, sae.d_in // 2), n_dead))
    residual = (x - output.x_hat).detach()
    return {"aux": coefficient * squared_error(residual, candidates @ sae.W_dec[dead])}


def masked_revival(
    sae: SAE,
    x: Float[Tensor, "batch d_in"],
    output: SAEOutput,
    dead: Bool[Tensor, " n_latents"],
    coefficient: float,
    keep: Keep = keep_largest,
) -> Float[Tensor, ""]:
    """Returns the term of `revival`, or 0 without dead latents, by the same operations for any
    `dead`: slower on a CPU, but the host need not know how many are dead.

    A living latent enters as 0, which adds nothing to r_hat where `keep` selects it.
    """
    candidates = torch.where(dead, output.pre_acts, 0)
    code = keep(candidates, min(max(1, sae.d_in // 2), sae.n_latents))
    residual = (x - output.x_hat).detach()
    error = squared_error(residual, code @ sae.W_dec)
    return torch.where(dead.any(), coefficient * error, 0)


class TopK(SAE):
    """latents = the k largest pre-activations, then ReLU, so that l0 <= k.

    loss = E|x - x_hat|^2 + `revival`, which is 0 while no latent is dead. A subclass that selects
    in another way says so in `keep`, by which code and revival are selected.

    Args:
        k: selected latents per sample, from 1 to n_latents.
        aux_coefficient: of the revival, >= 0.
        d_in, n_latents, bias, generator: see `SAE`.
    Source: Gao et al. 2024, arXiv 2406.04093 (coefficient 1/32).
    """

    keep = staticmethod(keep_largest)

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        k: int,
        *,
        aux_coefficient: float = 1 / 32,
        bias: bool = True,
        generator: torch.Generator,
    ) -> None:
        super().__init__(d_in, n_latents, bias=bias, generator=generator)
        where = type(self).__name__
        ok = isinstance(k, int) and 1 <= k <= n_latents
        check(ok, where, f"an integer 1 <= k <= {n_latents} (n_latents)", k=k)
        ok = 0 <= aux_coefficient < float("inf")
        check(ok, where, "a finite aux_coefficient >= 0", aux_coefficient=aux_coefficient)
        self.k, self.aux_coefficient = k, aux_coefficient

    def max_l0(self) -> int:
        return self.k

    def activate(
        self, pre_acts: Float[Tensor, "batch n_latents"]
    ) -> Float[Tensor, "batch n_latents"]:
        return self.keep(pre_acts, self.k)

    def _terms(
        self, x: Float[Tensor, "batch d_in"], output: SAEOutput, dead: Bool[Tensor, " n_latents"]
    ) -> dict[str, Float[Tensor, ""]]:
        terms = {"mse": squared_error(x, output.x_hat)}
        return terms | revival(self, x, output, dead, self.aux_coefficient, self.keep)

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from sae.strategies import generators, sizes

        @st.composite
        def build(draw: Any) -> TopK:
            d_in, n_latents = draw(sizes())
            k = draw(st.integers(1, n_latents))
            return cls(d_in, n_latents, k, bias=draw(st.booleans()), generator=draw(generators()))

        return build()
