"""Hedging: a latent points away from its feature, towards what its feature is correlated with."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.special import betainc
from torch import Tensor

from theory.checks import check, check_finite


@dataclass(frozen=True)
class Hedging:
    """How far each feature's latent has gone from pure to hedged, beside an isotropic error.

    degrees: [n_features]; 0 points at nothing the feature is correlated with, 1 is the full hedge,
        negative leans away from it. NaN without a latent or without anything to hedge towards.
    null_stds: [n_features], standard deviation of the degree if the latent's error were isotropic
        (its mean is then 0).
    p_values: [n_features], one-sided, exactly uniform under that null for d_in >= 3 (1/2
        or 1 at d_in = 2, where there are but two directions); small for hedging.
    mixing: [n_features], |the latent's error| relative to its part along the feature: tan of the
        angle between the two, >= 0, hedged or not.
    score: mean of the degrees that are defined; NaN if there is none.
    """

    degrees: Float[Tensor, " n_features"]
    null_stds: Float[Tensor, " n_features"]
    p_values: Float[Tensor, " n_features"]
    mixing: Float[Tensor, " n_features"]

    @property
    def score(self) -> float:
        return float(self.degrees.nanmean())


def hedging(
    dictionary: Float[Tensor, "n_features d_in"],
    W_dec: Float[Tensor, "n_latents d_in"],
    matching: Int[Tensor, " n_features"],
    moment: Float[Tensor, "n_features n_features"],
) -> Hedging:
    """Returns the hedging degree of each feature's latent.

    Were latent i to read a_i and nothing else, least squares would point its decoder at
    u_i = sum_j (M_ij / M_ii) d_j, all that goes with feature i: the full hedge. With
    e(v) = v / <v, d_i> - d_i, the error of a direction v relative to its part along the feature,
    degree_i = <e(w_i), e(u_i)> / |e(u_i)|^2,
    the regression of the latent's error on that of the full hedge. Two orthogonal features of equal
    variance and correlation rho share their optimal single latent at (d_1 + d_2) / sqrt(2): degree
    1 / rho, beyond the full hedge of a latent that must also *encode* both. The sign of
    <e(w_i), d_j> for orthonormal features is then the sign of the correlation.

    Null: the latent's error e(w_i) has the length it has and an isotropic direction orthogonal to
    d_i: then the degree has mean 0 and standard deviation |e(w_i)| / (|e(u_i)| sqrt(d_in - 1)).

    Args:
        dictionary: unit rows.   W_dec: any norms.   matching: [n_features], -1 for none.
        moment: M, the codes' covariance where the SAE has a decoder bias, their second moment where
            it has none; declared or estimated. Not the other way round: without a bias even
            independent features are worth a hedge.
    Returns: NaN also where <w_i, d_i> <= 0 or <u_i, d_i> <= 0, where M_ii = 0, and (p-values and
        spreads) at d_in = 1.
    Raises: ValueError: shapes, NaN, matching out of range.
    Source: eq:hedging. The phenomenon: Chanin et al. 2025, arXiv 2505.11756, without a definition
        of its degree.
    """
    _check(dictionary, W_dec, matching, moment)
    features, rows, m = (t.detach().double() for t in (dictionary, W_dec, moment))
    d_in = features.shape[1]
    nan = torch.full((len(features),), torch.nan, dtype=torch.float64, device=features.device)
    degrees, stds, p_values, mixing = (nan.clone() for _ in range(4))
    for i, own in enumerate(matching.tolist()):
        if own < 0 or not float(rows[own] @ features[i]) > 0:
            continue
        error = _error(rows[own], features[i])
        mixing[i] = torch.linalg.vector_norm(error)
        full = m[i] @ features  # M_ii times the full hedge
        if not (float(m[i, i]) > 0 and float(full @ features[i]) > 0):
            continue
        hedge = _error(full, features[i])
        length = torch.linalg.vector_norm(hedge)
        if not float(length) > 1e-12:
            continue
        degrees[i] = error @ hedge / length**2
        if d_in > 1:
            stds[i] = mixing[i] / (length * (d_in - 1) ** 0.5)
            size = float(mixing[i])
            p_values[i] = _tail(float(error @ hedge / length) / size, d_in - 1) if size else 1.0
    return Hedging(degrees, stds, p_values, mixing)


def _error(v: Float[Tensor, " d_in"], feature: Float[Tensor, " d_in"]) -> Float[Tensor, " d_in"]:
    """Returns v / <v, d> - d, projected once more on what is orthogonal to d against rounding."""
    error = v / (v @ feature) - feature
    return error - (error @ feature) * feature


def _tail(cosine: float, d: int) -> float:
    """Returns Pr(cosine of an isotropic direction in R^d with a fixed one >= the given cosine)."""
    c = min(1.0, max(-1.0, cosine))
    if d == 1:  # the cosine is -1 or 1
        return 0.5 if c > 0 else 1.0
    half = 0.5 * float(betainc(0.5, (d - 1) / 2, c * c))
    return 0.5 - half if c >= 0 else 0.5 + half


def _check(dictionary: Tensor, W_dec: Tensor, matching: Tensor, moment: Tensor) -> None:
    where = "hedging"
    check_finite(where, dictionary=dictionary, W_dec=W_dec, moment=moment)
    n = len(dictionary)
    fits = dictionary.ndim == W_dec.ndim == 2 and dictionary.shape[1] == W_dec.shape[1]
    fits = fits and matching.shape == (n,) and moment.shape == (n, n) and n > 0 and len(W_dec) > 0
    rule = "dictionary [n, d_in], W_dec [n_latents, d_in], matching [n] and moment [n, n]"
    given = {"dictionary": dictionary, "W_dec": W_dec, "matching": matching, "moment": moment}
    check(fits, where, rule, **{name: tuple(value.shape) for name, value in given.items()})
    norms = torch.linalg.vector_norm(dictionary.detach().double(), dim=1)
    unit = bool((norms - 1).abs().max() < 1e-4)
    check(unit, where, "unit rows in dictionary", largest_norm=float(norms.max()))
    valid = bool(((matching >= -1) & (matching < len(W_dec))).all())
    check(valid, where, f"matching in [-1, {len(W_dec)})", matching=matching.tolist())
