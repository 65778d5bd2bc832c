"""The JumpReLU SAE: one trained threshold per latent, and a penalty on l0 itself."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sae.base import SAE, SAEOutput, squared_error
from sae.checks import check


class JumpReLU(SAE):
    """latents = pre_acts where above the latent's threshold t >= 0, else 0;
    loss = E|x - x_hat|^2 + coefficient E l0, or coefficient (E l0 / target_l0 - 1)^2 with a target.

    The loss is piecewise constant in t. Its gradient there is a straight-through estimate with a
    rectangular kernel: with near = 1 where |pre_act - t| < bandwidth / 2,
    d latent / dt := -(t / bandwidth) near and d l0 / dt := -near / bandwidth. Neither the jump nor
    l0 has a gradient in the pre-activations. Thresholds are held >= 0 after each step.

    Args:
        coefficient: of the penalty, >= 0.
        target_l0: > 0; None asks for as few active latents as the coefficient pays for.
        initial_threshold: t of every latent at the start, >= 0; 0 is ReLU, and gets no gradient
            from the reconstruction.
        bandwidth: > 0, in the unit of x; smaller is less biased and noisier.
        d_in, n_latents, bias, generator: see `SAE`.
    Source: Rajamanoharan et al. 2024, arXiv 2407.14435 (which trains log t; bandwidth 1e-3 at
        batches of 4,096 of unit mean square).
    """

    straight_through = ("threshold",)
    scales_with_x = ("b_enc", "b_dec", "threshold")

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        coefficient: float,
        *,
        target_l0: float | None = None,
        initial_threshold: float = 0.01,
        bandwidth: float = 0.05,
        bias: bool = True,
        generator: torch.Generator,
    ) -> None:
        super().__init__(d_in, n_latents, bias=bias, generator=generator)
        inf = float("inf")
        ok = 0 <= coefficient < inf
        check(ok, "JumpReLU", "a finite coefficient >= 0", coefficient=coefficient)
        ok = target_l0 is None or 0 < target_l0 <= n_latents
        rule = f"0 < target_l0 <= {n_latents} (n_latents), or None"
        check(ok, "JumpReLU", rule, target_l0=target_l0)
        ok = 0 <= initial_threshold < inf
        rule = "a finite initial_threshold >= 0"
        check(ok, "JumpReLU", rule, initial_threshold=initial_threshold)
        check(0 < bandwidth < inf, "JumpReLU", "a finite bandwidth > 0", bandwidth=bandwidth)
        self.coefficient, self.target_l0, self.bandwidth = coefficient, target_l0, bandwidth
        self.initial_threshold = initial_threshold
        start = torch.full((n_latents,), float(initial_threshold), device=generator.device)
        self.threshold = nn.Parameter(start)

    def activate(
        self, pre_acts: Float[Tensor, "batch n_latents"]
    ) -> Float[Tensor, "batch n_latents"]:
        kept = torch.where(self._active(pre_acts), pre_acts, 0)
        return kept - self.threshold.detach() * self._near(pre_acts) * self._shift()

    def _active(self, pre_acts: Tensor) -> Tensor:
        return (pre_acts > self.threshold) & (pre_acts > 0)

    def _near(self, pre_acts: Tensor) -> Tensor:
        return ((pre_acts - self.threshold).abs() < self.bandwidth / 2).to(pre_acts.dtype)

    def _shift(self) -> Tensor:
        """Exactly 0, with derivative 1 / bandwidth in the thresholds."""
        return (self.threshold - self.threshold.detach()) / self.bandwidth

    def _terms(
        self, x: Float[Tensor, "batch d_in"], output: SAEOutput, dead: Bool[Tensor, " n_latents"]
    ) -> dict[str, Float[Tensor, ""]]:
        pre_acts = output.pre_acts.detach()
        active = self._active(pre_acts).to(pre_acts.dtype)
        l0 = (active - self._near(pre_acts) * self._shift()).sum(1).mean()
        penalty = l0 if self.target_l0 is None else (l0 / self.target_l0 - 1).square()
        return {"mse": squared_error(x, output.x_hat), "l0_penalty": self.coefficient * penalty}

    @torch.no_grad()
    def after_step_(self, output: SAEOutput, *, generator: torch.Generator) -> None:
        self.threshold.clamp_(min=0)

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from sae.strategies import generators, sizes

        @st.composite
        def build(draw: Any) -> JumpReLU:
            d_in, n_latents = draw(sizes())
            # Shares that the mean l0 of a small batch cannot hit: there the penalty is flat.
            target = draw(st.sampled_from([None, 0.37 * n_latents, 0.71 * n_latents]))
            return cls(
                d_in,
                n_latents,
                draw(st.floats(0.01, 1)),
                target_l0=target,
                initial_threshold=draw(st.floats(0, 1)),
                bandwidth=draw(st.floats(1, 2)),
                bias=draw(st.booleans()),
                generator=draw(generators()),
            )

        return build()
