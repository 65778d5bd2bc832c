"""A robust centre of a cloud of points."""

import torch
from jaxtyping import Float
from torch import Tensor


def geometric_median(
    points: Float[Tensor, "n d_in"], n_iterations: int = 50
) -> Float[Tensor, " d_in"]:
    """Returns the point y with the least sum_i |x_i - y|, by Weiszfeld's iteration from the mean.

    y <- sum_i x_i / |x_i - y| / sum_i 1 / |x_i - y|; distances below 1e-6 of their mean are raised
    to that, so that a start on a data point does not stop the iteration. Of identical points (a
    first batch in which nothing fires, say) it is the point itself.

    Source: Weiszfeld 1937; as an SAE's initial decoder bias: Bricken et al. 2023.
    """
    centre = points.mean(0)
    for _ in range(n_iterations):
        distance = (points - centre).norm(dim=1)
        floor = 1e-6 * float(distance.mean())
        if floor <= torch.finfo(points.dtype).tiny:
            break
        weight = floor / distance.clamp(min=floor)  # in (0, 1], hence never infinite
        centre = (weight @ points) / weight.sum()
    return centre
