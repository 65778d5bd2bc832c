"""The hierarchical TopK SAE: every prefix of a code, by activation rank, reconstructs."""

from jaxtyping import Bool, Float
from torch import Tensor

from sae.architectures.topk import TopK, revival
from sae.base import SAEOutput


class HierarchicalTopK(TopK):
    """latents = those of TopK; loss = (1/k) sum_{j=1..k} E|x - x_hat_j|^2 + `revival`, where
    x_hat_j = b_dec + the j largest pre-activations of the sample, after ReLU, times their rows.

    The last prefix, j = k, is x_hat itself. k = 1 is TopK with k = 1.

    Args: see `TopK`. Time and memory of the loss are of order batch * k * d_in.
    Source: Balagansky et al. 2025, arXiv 2505.24473.
    """

    def _terms(
        self, x: Float[Tensor, "batch d_in"], output: SAEOutput, dead: Bool[Tensor, " n_latents"]
    ) -> dict[str, Float[Tensor, ""]]:
        values, selected = output.pre_acts.topk(self.k, dim=1)  # sorted, largest first
        parts = values.relu()[:, :, None] * self.W_dec[selected]
        errors = (x - self.b_dec)[:, None] - parts.cumsum(1)
        terms = {"prefixes": errors.square().sum(2).mean()}
        return terms | revival(self, x, output, dead, self.aux_coefficient)
