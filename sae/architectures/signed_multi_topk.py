"""The Multi-TopK SAE without its ReLU: a code read further and further into the negatives."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architectures.multi_topk import MultiTopK


def keep_largest_signed(
    pre_acts: Float[Tensor, "batch n_latents"], k: int
) -> Float[Tensor, "batch n_latents"]:
    """Returns the k largest entries of each row with their signs, 0 elsewhere.

    Largest by value, not by magnitude: negative ones are kept only after all positive ones.
    """
    values, indices = pre_acts.topk(k, dim=1, sorted=False)
    return torch.zeros_like(pre_acts).scatter(1, indices, values)


class SignedMultiTopK(MultiTopK):
    """latents = the ks[0] largest pre-activations, with their signs; loss = that of MultiTopK with
    every x_hat_k decoded from such a code.

    As soon as k exceeds the number of positive pre-activations the code holds negative ones, the
    least negative first; at k = n_latents it is affine in x. Up to there it is MultiTopK.

    Args: see `MultiTopK`.
    """

    signed = True
    keep = staticmethod(keep_largest_signed)

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from sae.strategies import generators, sizes

        @st.composite
        def build(draw: Any) -> SignedMultiTopK:
            d_in, n_latents = draw(sizes())
            # `encode` reads every latent: a shorter code may well hold positive ones only.
            ks = (n_latents, *draw(st.sets(st.integers(1, n_latents), max_size=2)) - {n_latents})
            weights = (1.0, *draw(st.tuples(*[st.floats(0.1, 2)] * (len(ks) - 1))))
            bias, generator = draw(st.booleans()), draw(generators())
            return cls(d_in, n_latents, ks, weights, bias=bias, generator=generator)

        return build()
