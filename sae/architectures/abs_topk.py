"""The AbsTopK SAE: signed latents, selected by magnitude."""

from jaxtyping import Bool, Float
from torch import Tensor

from sae.architectures.topk import TopK, revival
from sae.base import SAEOutput, squared_error


def keep_largest_magnitudes(
    pre_acts: Float[Tensor, "batch n_latents"], k: int
) -> Float[Tensor, "batch n_latents"]:
    """Returns the k entries of largest magnitude in each row with their signs, 0 elsewhere."""
    selected = pre_acts.abs().topk(k, dim=1, sorted=False).indices
    return pre_acts.new_zeros(pre_acts.shape).scatter(1, selected, pre_acts.gather(1, selected))


class AbsTopK(TopK):
    """latents = the k pre-activations of largest magnitude, with their signs; loss = E|x - x_hat|^2
    + `revival` with the dead latents of largest magnitude.

    The same function as TopK with twice the latents in antipodal pairs: encoder columns and rows
    of the decoder w and -w, encoder biases b and -b.

    Args: see `TopK`.
    Source: Zhu et al. 2025, arXiv 2510.00404.
    """

    signed = True

    def activate(
        self, pre_acts: Float[Tensor, "batch n_latents"]
    ) -> Float[Tensor, "batch n_latents"]:
        return keep_largest_magnitudes(pre_acts, self.k)

    def _terms(
        self, x: Float[Tensor, "batch d_in"], output: SAEOutput, dead: Bool[Tensor, " n_latents"]
    ) -> dict[str, Float[Tensor, ""]]:
        terms = {"mse": squared_error(x, output.x_hat)}
        coefficient, keep = self.aux_coefficient, keep_largest_magnitudes
        return terms | revival(self, x, output, dead, coefficient, keep)
