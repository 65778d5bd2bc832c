"""The Multi-TopK SAE: one code, trained to be read at several sparsities."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.architectures.topk import TopK
from sae.base import SAEOutput, squared_error
from sae.checks import check


class MultiTopK(TopK):
    """latents = those of TopK with k = ks[0]; loss = sum_i weights_i L(ks_i) + `revival`,
    L(k) = E|x - x_hat_k|^2 with x_hat_k decoded from the k largest pre-activations, then ReLU.

    The error then mostly falls from ks[0] to the last of the ks, and hardly rises after it, as that
    of TopK does after k; between two ks far apart it may rise. One k alone is TopK.

    Args:
        ks: distinct integers from 1 to n_latents; `encode` uses the first. (k, 4 * k) is usual.
        weights: as many, > 0; the first is 1, which fixes the unit of the others. (1, 1/8) is
            usual.
        d_in, n_latents, aux_coefficient, bias, generator: see `TopK`.
    Source: Gao et al. 2024, arXiv 2406.04093.
    """

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        ks: tuple[int, ...],
        weights: tuple[float, ...],
        *,
        aux_coefficient: float = 1 / 32,
        bias: bool = True,
        generator: torch.Generator,
    ) -> None:
        ok = isinstance(ks, Sequence) and len(ks) >= 1
        ok = ok and all(isinstance(k, int) and 1 <= k <= n_latents for k in ks)
        check(ok, "MultiTopK", f"integers 1 <= k <= {n_latents} (n_latents) as ks", ks=ks)
        check(len(set(ks)) == len(ks), "MultiTopK", "distinct ks", ks=ks)
        ok = isinstance(weights, tuple) and len(weights) == len(ks) and weights[:1] == (1,)
        ok = ok and all(0 < weight < float("inf") for weight in weights)
        rule = f"a tuple of {len(ks)} finite weights > 0, one for each k, the first of them 1"
        check(ok, "MultiTopK", rule, "divide all weights by the first", weights=weights)
        options: dict[str, Any] = {"aux_coefficient": aux_coefficient, "bias": bias}
        super().__init__(d_in, n_latents, next(iter(ks)), **options, generator=generator)
        self.ks, self.weights = ks, weights

    def _terms(
        self, x: Float[Tensor, "batch d_in"], output: SAEOutput, dead: Bool[Tensor, " n_latents"]
    ) -> dict[str, Float[Tensor, ""]]:
        terms = super()._terms(x, output, dead)
        for k, weight in zip(self.ks[1:], self.weights[1:], strict=True):
            x_hat = self.decode(self.keep(output.pre_acts, k))
            terms[f"mse_{k}"] = weight * squared_error(x, x_hat)
        return terms

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from sae.strategies import generators, sizes

        @st.composite
        def build(draw: Any) -> MultiTopK:
            d_in, n_latents = draw(sizes())
            drawn = draw(st.lists(st.integers(1, n_latents), min_size=1, max_size=3, unique=True))
            others = draw(st.tuples(*[st.floats(0.1, 2)] * (len(drawn) - 1)))
            bias, generator = draw(st.booleans()), draw(generators())
            return cls(
                d_in, n_latents, tuple(drawn), (1.0, *others), bias=bias, generator=generator
            )

        return build()
