"""The AbsTopK SAE: signed latents, selected by magnitude."""

from jaxtyping import Float
from torch import Tensor

from sae.architectures.topk import TopK


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
    keep = staticmethod(keep_largest_magnitudes)
