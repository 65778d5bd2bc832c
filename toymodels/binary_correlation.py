"""The latent correlations under which thresholded normals have given binary correlations."""

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.bivariate_normal import joint_bounds, latent_correlation
from toymodels.checks import check
from toymodels.loadings import ROUNDING, check_correlation
from toymodels.product_law import per_feature_probs

N_HALVINGS = 20  # of the factor that makes a request feasible


def latent_from_binary(
    where: str, firing_prob: float | Tensor, correlation: Float[Tensor, "n_features n_features"]
) -> Float[Tensor, "n_features n_features"]:
    """Returns the latent correlations rho under which firing, as 0 or 1, has correlations phi.

    Float64 and positive semi-definite. Each pair by itself has P(both) = p q + phi sqrt(p (1-p) q
    (1-q)), for which `latent_correlation` finds rho.

    Args:
        where: what errors begin with.
        firing_prob: p, one for each feature, or one for all.
        correlation: phi, symmetric with unit diagonal.
    Raises:
        ValueError: a pair beyond Frechet's bounds max(0, p + q - 1) <= P(both) <= min(p, q), with
            the range of phi they leave; or pairs that cannot be had together, with the largest
            factor, to six digits and found by bisection, that makes them feasible.
    """
    check_correlation(where, correlation)
    n = len(correlation)
    p = per_feature_probs(where, firing_prob, n)
    i, j = torch.triu_indices(n, n, 1)
    phi, p, q = correlation.double()[i, j], p[i], p[j]
    deviation = (p * (1 - p) * q * (1 - q)).sqrt()
    least, most = joint_bounds(p, q)
    low, high = least - p * q, most - p * q
    wanted = phi * deviation
    wrong = (wanted < low - 1e-12 * p * q) | (wanted > high + 1e-12 * most)
    wrong |= (deviation == 0) & (phi != 0)  # one that is constant is correlated with none
    if bool(wrong.any()):
        k = int(wrong.nonzero()[0])
        scale = deviation[k].item() or 1.0
        lowest, highest = low[k].item() / scale, high[k].item() / scale
        rule = f"{lowest!r} <= correlation[{i[k]}, {j[k]}] <= {highest!r} (what firing_prob "
        rule += f"{p[k]:.9g} and {q[k]:.9g} allow)"
        check(False, where, rule, correlation=phi[k].item())

    def latent(factor: float) -> Tensor:
        rho = torch.eye(n, dtype=torch.float64)
        both = (p * q + factor * wanted).clamp(min=least, max=most)
        rho[i, j] = rho[j, i] = latent_correlation(p, q, both)
        return rho

    rho = latent(1.0)
    lowest = float(torch.linalg.eigvalsh(rho)[0])
    if lowest < -ROUNDING:
        feasible, too_large = 0.0, 1.0
        for _ in range(N_HALVINGS):
            middle = (feasible + too_large) / 2
            ok = float(torch.linalg.eigvalsh(latent(middle))[0]) >= 0
            feasible, too_large = (middle, too_large) if ok else (feasible, middle)
        rule = "binary correlations whose latent correlations are positive semi-definite"
        todo = f"multiply those off the diagonal by {feasible:.6g} or less"
        check(False, where, rule, todo, least_eigenvalue=lowest)
    return rho
