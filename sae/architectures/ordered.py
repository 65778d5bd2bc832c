"""The ordered TopK SAE: nested dropout over prefixes of single latents, by index."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.architectures.topk import TopK, revival
from sae.base import SAEOutput, squared_error
from sae.checks import check


class OrderedTopK(TopK):
    """latents = those of TopK; loss = sum_m p_m E|x - x_hat_m|^2 + `revival`, where x_hat_m =
    latents[:m] @ W_dec[:m] + b_dec is the code cut off behind the m first latents *by index*.

    It is the expectation over the prefix m, exactly: nothing is sampled. With r = x - x_hat, latent
    i (from 0) is dropped with probability q_i = p_1 + ... + p_i, and i and j both with min(q_i,
    q_j), so that

        sum_m p_m |x - x_hat_m|^2
            = |r|^2 + 2 sum_i q_i z_i <r, W_dec_i> + sum_ij min(q_i, q_j) z_i z_j <W_dec_i, W_dec_j>

    in time batch * n_latents * (d_in + n_latents), however large k is. Latents of low index are
    kept more often and pressed to carry more; equal latents are told apart by their place.

    Extremes: all probability on the last prefix is TopK; on g of them, a Matryoshka SAE of g groups
    whose errors are averaged, not summed.

    Args:
        prefix_probs: p_1, ..., p_n_latents, >= 0, the last > 0, of sum 1.
        d_in, n_latents, k, aux_coefficient, bias, generator: see `TopK`.
    Source: Wang et al. 2025, arXiv 2512.02194; nested dropout: Rippel et al. 2014, arXiv 1402.0915.
        Differs in that latents are not frozen as training sweeps over them: see `SweptTopK`.
    """

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        k: int,
        prefix_probs: tuple[float, ...],
        *,
        aux_coefficient: float = 1 / 32,
        bias: bool = True,
        generator: torch.Generator,
    ) -> None:
        options: dict[str, Any] = {"aux_coefficient": aux_coefficient, "bias": bias}
        super().__init__(d_in, n_latents, k, **options, generator=generator)
        where, n_probs = type(self).__name__, len(prefix_probs)
        rule = f"{n_latents} prefix_probs, one for each of the n_latents"
        check(n_probs == n_latents, where, rule, n_prefix_probs=n_probs)
        wrong = [p for p in prefix_probs if not p >= 0]
        check(not wrong, where, "prefix_probs >= 0", prefix_probs=wrong[:5])
        total = math.fsum(prefix_probs)
        check(abs(total - 1) <= 1e-9, where, "prefix_probs of sum 1", sum=total)
        rule = "the last of the prefix_probs > 0 (else the last latents are never trained)"
        check(prefix_probs[-1] > 0, where, rule, last=prefix_probs[-1])
        self.prefix_probs = tuple(prefix_probs)
        self.ordered = any(p > 0 for p in prefix_probs[:-1])

    def _terms(
        self, x: Float[Tensor, "batch d_in"], output: SAEOutput, dead: Bool[Tensor, " n_latents"]
    ) -> dict[str, Float[Tensor, ""]]:
        kept = torch.tensor((0.0, *self.prefix_probs[:-1]), dtype=torch.float64)
        dropped = kept.cumsum(0).to(x)
        both = torch.minimum(dropped, dropped[:, None])
        z, rows = output.latents, self.W_dec
        overlap = 2 * ((x - output.x_hat) @ rows.T) * dropped + z @ (both * (rows @ rows.T))
        terms = {"prefixes": squared_error(x, output.x_hat) + (z * overlap).sum(1).mean()}
        return terms | revival(self, x, output, dead, self.aux_coefficient)

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from sae.strategies import generators, sizes

        @st.composite
        def build(draw: Any) -> OrderedTopK:
            d_in, n_latents = draw(sizes())
            k = draw(st.integers(1, n_latents))
            n_inner = n_latents - 1
            inner = draw(st.lists(st.integers(0, 3), min_size=n_inner, max_size=n_inner))
            shares = [*inner, draw(st.integers(1, 3))]
            probs = tuple(share / sum(shares) for share in shares)
            bias, generator = draw(st.booleans()), draw(generators())
            return cls(d_in, n_latents, k, probs, bias=bias, generator=generator)

        return build()
