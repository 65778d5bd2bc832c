"""The BatchTopK SAE whose decoder rows keep away from one another (OrtSAE)."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.architectures.batch_topk import BatchTopK
from sae.base import SAEOutput
from sae.checks import check


def crowding(rows: Float[Tensor, "n d_in"]) -> Float[Tensor, ""]:
    """Returns the mean over the rows of the squared largest inner product with *another* row.

    Rows are taken to be unit, as training keeps them, so that inner products are cosines. The
    largest is taken with its sign, so an opposite row counts only where no other is nearer. 0 for
    orthonormal rows, 1 where each has a copy.

    Args: rows: at least two.
    """
    others = (rows @ rows.T).masked_fill(
        torch.eye(len(rows), dtype=torch.bool, device=rows.device), -torch.inf
    )
    return others.amax(1).square().mean()


class OrthoBatchTopK(BatchTopK):
    """BatchTopK whose loss has one term more: ortho_coefficient * `crowding` of W_dec.

    Meant to make latents atomic: rows with a large cosine often share a part. It separates true
    directions that are not orthogonal as well. One latent has no other and no such term.
    All rows are one chunk, as in the paper up to 8,192 latents; beyond, the paper cuts the rows
    anew at each step into random chunks, to save time. Nothing is drawn here.

    Of a two-level model (error S1, sparse codes S2, sparse non-negative mixtures S3, atoms that are
    determined S4, short description S5) it satisfies S1 and S2, and presses on the coherence in S4;
    it has no mixtures, so S3 and S5 do not apply.

    Args:
        ortho_coefficient: >= 0, in the unit of |x|^2; 0 is BatchTopK.
        d_in, n_latents, k, aux_coefficient, bias, generator: see `BatchTopK`.
    Source: Korznikov et al. 2025, OrtSAE, arXiv 2509.22033 (coefficient 0.25).
    """

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        k: int | float,
        *,
        ortho_coefficient: float = 0.25,
        aux_coefficient: float = 1 / 32,
        bias: bool = True,
        generator: torch.Generator,
    ) -> None:
        options: dict[str, Any] = {"aux_coefficient": aux_coefficient, "bias": bias}
        super().__init__(d_in, n_latents, k, **options, generator=generator)
        ok = 0 <= ortho_coefficient < float("inf")
        rule = "a finite ortho_coefficient >= 0"
        check(ok, "OrthoBatchTopK", rule, ortho_coefficient=ortho_coefficient)
        self.ortho_coefficient = ortho_coefficient

    def _terms(
        self, x: Float[Tensor, "batch d_in"], output: SAEOutput, dead: Bool[Tensor, " n_latents"]
    ) -> dict[str, Float[Tensor, ""]]:
        terms = super()._terms(x, output, dead)
        if self.n_latents > 1:
            terms["ortho"] = self.ortho_coefficient * crowding(self.W_dec)
        return terms

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from sae.strategies import generators, sizes

        return sizes().flatmap(
            lambda shape: st.builds(
                lambda k, ortho, bias, generator: cls(
                    *shape, k, ortho_coefficient=ortho, bias=bias, generator=generator
                ),
                st.one_of(st.integers(1, shape[1]), st.floats(1, shape[1])),
                st.floats(0.01, 1),
                st.booleans(),
                generators(),
            )
        )
