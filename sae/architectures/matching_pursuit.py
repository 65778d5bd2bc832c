"""The matching-pursuit SAE: latents are found one after another on what is left of x."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.base import SAEOutput, TiedSAE, squared_error
from sae.checks import check, check_size


class MatchingPursuit(TiedSAE):
    """From residual r = x - b_dec and z = 0, repeat: j = argmax r @ W_dec.T, v = relu(r . W_dec_j),
    z_j += v, r -= v W_dec_j. loss = E|x - x_hat|^2, differentiated through every step.

    A sample stops after a step that leaves |r| < residual_threshold, and after max_iterations; it
    takes at least one step. A latent may be selected again, so l0 <= max_iterations. With unit
    rows no step lengthens r. `pre_acts` are those of the first step.

    Args:
        max_iterations: >= 1.
        residual_threshold: >= 0, in the unit of x; 0 never stops early.
        stop_on_repeat: whether a sample also stops after a step that selects no new latent.
        d_in, n_latents, bias, generator: see `SAE`.
    Source: Costa et al. 2025, arXiv 2506.03093; Mallat and Zhang 1993.
    """

    encoder_bias = False
    scales_with_x = ("b_dec", "residual_threshold")

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        max_iterations: int,
        *,
        residual_threshold: float = 0.01,
        stop_on_repeat: bool = False,
        bias: bool = True,
        generator: torch.Generator,
    ) -> None:
        super().__init__(d_in, n_latents, bias=bias, generator=generator)
        check_size("MatchingPursuit", max_iterations=max_iterations)
        ok = 0 <= residual_threshold < float("inf")
        rule = "a finite residual_threshold >= 0"
        check(ok, "MatchingPursuit", rule, residual_threshold=residual_threshold)
        self.max_iterations, self.residual_threshold = max_iterations, residual_threshold
        self.stop_on_repeat = stop_on_repeat

    def max_l0(self) -> int:
        return min(self.max_iterations, self.n_latents)

    def activate(
        self, pre_acts: Float[Tensor, "batch n_latents"]
    ) -> Float[Tensor, "batch n_latents"]:
        raise NotImplementedError(
            "MatchingPursuit.activate: the code depends on x, not on its first pre-activations "
            "alone; call encode(x)"
        )

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch n_latents"]:
        return self._pursue(x, self.pre_acts(x))

    def forward(self, x: Float[Tensor, "batch d_in"]) -> SAEOutput:
        pre_acts = self.pre_acts(x)
        latents = self._pursue(x, pre_acts)
        return SAEOutput(self.decode(latents), latents, pre_acts)

    def _pursue(self, x: Tensor, pre_acts: Tensor) -> Tensor:
        residual, latents = x - self.b_dec, torch.zeros_like(pre_acts)
        going = torch.ones(len(x), 1, dtype=torch.bool, device=x.device)
        for _ in range(self.max_iterations):
            value, selected = (residual @ self.W_dec.T).max(dim=1, keepdim=True)
            value = torch.where(going, value.relu(), 0)
            is_new = latents.detach().gather(1, selected) == 0
            latents = latents.scatter_add(1, selected, value)
            residual = residual - value * self.W_dec[selected[:, 0]]
            going = going & (residual.detach().norm(dim=1) >= self.residual_threshold)[:, None]
            if self.stop_on_repeat:
                going = going & is_new
            if not bool(going.any()):
                break
        return latents

    def _terms(
        self, x: Float[Tensor, "batch d_in"], output: SAEOutput, dead: Bool[Tensor, " n_latents"]
    ) -> dict[str, Float[Tensor, ""]]:
        return {"mse": squared_error(x, output.x_hat)}

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from sae.strategies import generators, sizes

        return st.builds(
            lambda shape, n, threshold, stop, bias, g: cls(
                shape[0],
                shape[1],
                n,
                residual_threshold=threshold,
                stop_on_repeat=stop,
                bias=bias,
                generator=g,
            ),
            sizes(),
            st.integers(1, 4),
            st.floats(0, 0.5),
            st.booleans(),
            st.booleans(),
            generators(),
        )
