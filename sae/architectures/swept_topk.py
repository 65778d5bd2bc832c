"""The ordered TopK SAE whose latents are frozen one after another while it trains."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.architectures.ordered import OrderedTopK
from sae.base import SAEOutput
from sae.checks import check


class SweptTopK(OrderedTopK):
    """OrderedTopK of which latents 0 to m - 1 no longer move once t steps of training were taken,
    m = floor((t - start) / every), at most n_latents: W_enc's columns, b_enc and W_dec's rows.

    They are put back after each step, since Adam's momentum would carry them on without a gradient.
    b_dec is never frozen. What is left of the loss is that of the longer prefixes: those of frozen
    latents alone have no gradient.

    Measured in the world of `presets.ordered_sae`, 2 worlds with two SAEs each, steps of 256 at
    learning rate .01, a sweep through the second half: nothing is gained. In 400 steps the mean
    matched cosine to the features falls from .79 to .68 by it, Spearman's correlation of their
    order from .75 to .69, and the error per coordinate rises from .0037 to .0106; in 1,200 steps
    .90 to .87, .85 to .80, .0016 to .0033. A sweep through all steps loses more, one through the
    last quarter less.

    start >= the number of steps is OrderedTopK; start = 0 and every = 1 freezes a latent a step.

    Args:
        start: steps before the sweep, >= 0.
        every: steps for each latent, >= 1.
        d_in, n_latents, k, prefix_probs, aux_coefficient, bias, generator: see `OrderedTopK`.
    Source: Wang et al. 2025, arXiv 2512.02194; Rippel et al. 2014, arXiv 1402.0915, where a unit is
        frozen when it has converged: a schedule stands for that here.
    """

    scales_with_x = (*OrderedTopK.scales_with_x, "held_b_enc")
    n_steps: Int[Tensor, ""]
    held: Float[Tensor, "n_latents twice_d_in"]
    held_b_enc: Float[Tensor, " n_latents"]

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        k: int,
        prefix_probs: tuple[float, ...],
        start: int,
        every: int,
        *,
        aux_coefficient: float = 1 / 32,
        bias: bool = True,
        generator: torch.Generator,
    ) -> None:
        options: dict[str, Any] = {"aux_coefficient": aux_coefficient, "bias": bias}
        super().__init__(d_in, n_latents, k, prefix_probs, **options, generator=generator)
        ok = isinstance(start, int) and start >= 0
        check(ok, "SweptTopK", "an integer start >= 0, in steps", start=start)
        ok = isinstance(every, int) and every >= 1
        check(ok, "SweptTopK", "an integer every >= 1, in steps", every=every)
        self.start, self.every = start, every
        device = generator.device
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("held", torch.zeros(n_latents, 2 * d_in, device=device))
        self.register_buffer("held_b_enc", torch.zeros(n_latents, device=device))

    def n_swept(self) -> int:
        """Returns how many latents are frozen."""
        return min(max(0, int(self.n_steps) - self.start) // self.every, self.n_latents)

    @torch.no_grad()
    def after_step_(self, output: SAEOutput, *, generator: torch.Generator) -> None:
        super().after_step_(output, generator=generator)
        before = self.n_swept()
        self.n_steps += 1
        n = self.n_swept()
        self.held[before:n] = torch.cat([self.W_dec, self.W_enc.T], 1)[before:n]
        self.held_b_enc[before:n] = self.b_enc[before:n]
        rows, columns = self.held[:n].split(self.d_in, dim=1)
        self.W_dec[:n], self.W_enc[:, :n], self.b_enc[:n] = rows, columns.T, self.held_b_enc[:n]

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from sae.strategies import generators

        # The laws train for 60 steps at most: a sweep that began at 0 would leave little to train.
        return st.builds(
            lambda base, start, every, generator: cls(
                **base.settings(), start=start, every=every, generator=generator
            ),
            OrderedTopK.strategy(),
            st.integers(30, 60),
            st.integers(1, 10),
            generators(),
        )
