"""Completeness: how much of the true features the latents can say at all."""

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from theory.checks import check, check_finite, check_size
from theory.compressibility import effective_n_rows, held_out_radius
from theory.isotropic import isotropic_fve_bound, isotropic_rows
from theory.sparse_coding import omp
from theory.spectral import checked_weights

NULL_DRAWS = 256  # isotropic directions: the null mean is within .22 at 1e-10, .1 at 1e-2


@dataclass(frozen=True)
class Completeness:
    """What the latents cover of the features, and of directions that are none.

    score: energy-weighted mean of `r_squared`, in [0, 1]; 1 is complete, 0 says nothing.
    null: mean R_k^2 of 256 isotropic directions in the same latents; 1 where latents span all.
    null_bound: proved upper bound on the expectation of `null`, whatever the latents.
    r_squared: [n_features], the share of each feature's squared norm that k latents explain.
    covered: [n_features], r_squared >= tau.
    covered_share: share of the energy that belongs to covered features.
    null_covered: share of the isotropic directions that would count as covered.
    effective_n_features: (sum e)^2 / sum e^2, in [1, n_features].
    """

    score: float
    null: float
    null_bound: float
    r_squared: Float[Tensor, " n_features"]
    covered: Bool[Tensor, " n_features"]
    covered_share: float
    null_covered: float
    effective_n_features: float

    def exceeds_null(self, alpha: float) -> bool:
        """Returns whether the score refutes the null at level alpha (one-sided, Hoeffding).

        score > null_bound + sqrt(ln(1/alpha) / (2 effective_n_features)). Conservative.
        """
        return self.score > self.null_bound + held_out_radius(self.effective_n_features, alpha)


def completeness(
    dictionary: Float[Tensor, "n_features d_in"],
    W_dec: Float[Tensor, "n_latents d_in"],
    *,
    k: int = 1,
    tau: float = 0.81,
    signed: bool = True,
    energies: Float[Tensor, " n_features"] | None = None,
) -> Completeness:
    """Returns how much of each feature at most k latents explain, beside isotropic directions.

    score = sum_i e_i R_k^2(d_i; W) / sum_i e_i,  R_k^2(u; W) = max over |S| <= k of |P_S u|^2/|u|^2
    signed (a feature is a ray): coefficients >= 0;  not signed (a line): any sign.
    Searched greedily (`omp`): exact for k = 1, a lower bound for k > 1. One latent may cover
    several features, unlike in `recovery`; a feature made of several latents counts from k = 2 on.
    More latents never lower it (k = 1).

    Null: directions isotropic and independent of the latents given; they go through the same
    search. The level depends on the latents, on k and on d_in, and is 1 where k latents reach
    d_in independent ones. Drawn from a private generator seeded by the sizes alone.

    Args:
        dictionary: [n_features, d_in], non-zero rows; only their directions count.
        W_dec: [n_latents, d_in]; zero rows explain nothing. No latent at all: everything is 0.
        k: latents per feature, >= 1; with fewer latents than k all of them.
        tau: share of squared norm from which a feature is covered, in (0, 1]; .81 is cosine .9.
        energies: [n_features], >= 0, not all 0; None is uniform.
    Raises: ValueError: shapes, NaN, a zero feature, energies, k or tau out of range.
    Source: eq:completeness. The criterion: Leask et al. 2025, arXiv 2502.04878, who ask which
        latents of a larger SAE a smaller one lacks.
    Example:
        >>> completeness(torch.eye(4), torch.eye(4)[:3]).score
        0.75
    """
    where = "completeness"
    e = checked_weights(where, dictionary, energies)
    check_finite(where, W_dec=W_dec)
    fits = W_dec.ndim == 2 and W_dec.shape[1] == dictionary.shape[1]
    rule = f"W_dec [n_latents, {dictionary.shape[1]}]"
    check(fits, where, rule, W_dec=tuple(W_dec.shape))
    check_size(where, k=k)
    check(0 < tau <= 1, where, "0 < tau <= 1", tau=tau)
    zero = (dictionary == 0).all(1).nonzero().flatten().tolist()
    check(not zero, where, "features with a direction (non-zero rows)", zero_rows=zero)
    n_latents, d_in = W_dec.shape
    explained = _explained(dictionary.detach().double(), W_dec.detach().double(), k, signed)
    digest = hashlib.sha256(f"completeness {n_latents} {d_in} {k}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
    draws = isotropic_rows(NULL_DRAWS, d_in, generator=generator, dtype=torch.float64)
    null = _explained(draws.to(W_dec.device), W_dec.detach().double(), k, signed)
    covered = explained >= tau - 1e-12  # exact copies reach tau = 1
    weights = e / e.sum()
    bound = isotropic_fve_bound(d_in, n_latents, min(k, n_latents)) if n_latents else 0.0
    return Completeness(
        score=float(weights @ explained),
        null=float(null.mean()),
        null_bound=bound,
        r_squared=explained.to(W_dec.dtype),
        covered=covered,
        covered_share=float(weights @ covered.double()),
        null_covered=float((null >= tau - 1e-12).double().mean()),
        effective_n_features=effective_n_rows(e),
    )


def _explained(
    targets: Float[Tensor, "n d_in"], atoms: Float[Tensor, "m d_in"], k: int, signed: bool
) -> Float[Tensor, " n"]:
    """Returns R_k^2 of each target, in float64."""
    u = targets / torch.linalg.vector_norm(targets, dim=1, keepdim=True)
    if len(atoms) == 0:
        return u.new_zeros(len(u))
    codes = omp(u, atoms, min(k, len(atoms)), nonnegative=signed)
    return (1 - (u - codes @ atoms).square().sum(1)).clamp(0, 1)
