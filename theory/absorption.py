"""Absorption: a feature fires, its own latent does not, and another latent stands in for it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from theory.checks import check, check_finite


@dataclass(frozen=True)
class Absorption:
    """How much of each feature other latents carry; per feature, NaN where it cannot be said.

    rates: [n_features], share of the feature's firings at which its latent is silent and the others
        supply at least `supplied` of its magnitude, in [0, 1]; 0 is none.
    null_rates: [n_features], the same if the others knew nothing of the feature.
    shares: [n_features], share of the feature's magnitude that other latents supply, whether its
        own latent is silent (full absorption) or only weakened (partial); 0 is none, 1 all.
    null_shares: [n_features], what the other latents supply where the feature does not fire.
    missed: [n_features], share of firings at which its latent is silent, absorbed or not.
    n_firings: [n_features].
    rate, null_rate: means over the features with a latent that fire at least once, weighted
        equally; NaN if there is none.
    """

    rates: Float[Tensor, " n_features"]
    null_rates: Float[Tensor, " n_features"]
    shares: Float[Tensor, " n_features"]
    null_shares: Float[Tensor, " n_features"]
    missed: Float[Tensor, " n_features"]
    n_firings: Int[Tensor, " n_features"]

    @property
    def rate(self) -> float:
        return float(self.rates.nanmean())

    @property
    def null_rate(self) -> float:
        return float(self.null_rates.nanmean())


def absorption(
    codes: Float[Tensor, "batch n_features"],
    latents: Float[Tensor, "batch n_latents"],
    dictionary: Float[Tensor, "n_features d_in"],
    W_dec: Float[Tensor, "n_latents d_in"],
    matching: Int[Tensor, " n_features"],
    *,
    supplied: float = 0.5,
) -> Absorption:
    """Returns how often each feature is absorbed, beside what unrelated latents would show.

    Feature i with latent l = matching[i] is absorbed in a sample where it fires (codes > 0) if
    latent l is silent (latents <= 0) and the other latents put at least `supplied` of it where it
    points: sum_{j != l} z_j <w_j, d_i> >= supplied a_i. The share counts the same sum at every
    firing, silent latent or not, against sum a_i: with the parent's latent at d_p - delta d_c in
    the encoder and the child's at d_c + delta d_p in the decoder it is delta Pr(child | parent), if
    both have one and the same strength.

    Null: the other latents' contribution is independent of the feature. Every firing is paired
    with every sample in which the feature is silent (exactly, by counting; no draws). So chance
    overlaps in superposition count in the null too, and a faithful SAE scores about its null.
    NaN where a feature never fires, always fires (no sample to pair it with: nulls only), or has no
    latent.

    Args:
        codes: true activations >= 0.   latents: activations.   dictionary: unit rows.
        matching: [n_features], the latent of each feature, -1 for none; e.g. of `recovery`.
        supplied: in (0, 1].
    Raises: ValueError: shapes, NaN, negative codes, matching or `supplied` out of range.
    Source: eq:absorption. The phenomenon: Chanin et al. 2024, arXiv 2409.14507, whose rate is
        about probes of real models and has no null.
    """
    _check(codes, latents, dictionary, W_dec, matching, supplied)
    a, z = codes.detach().double(), latents.detach().double()
    overlap = W_dec.detach().double() @ dictionary.detach().double().T  # [n_latents, n_features]
    everything = z @ overlap
    nan = torch.full((a.shape[1],), torch.nan, dtype=torch.float64, device=a.device)
    rates, null_rates, shares, null_shares, missed = (nan.clone() for _ in range(5))
    for i, own in enumerate(matching.tolist()):
        fires = a[:, i] > 0
        if own < 0 or not bool(fires.any()):
            continue
        others = everything[:, i] - z[:, own] * overlap[own, i]
        silent = z[fires, own] <= 0
        needed = supplied * a[fires, i]
        rates[i] = (silent & (others[fires] >= needed)).double().mean()
        shares[i] = others[fires].sum() / a[fires, i].sum()
        missed[i] = silent.double().mean()
        elsewhere = others[~fires].sort().values
        if len(elsewhere) > 0:
            below = torch.searchsorted(elsewhere, needed) / len(elsewhere)
            null_rates[i] = (silent * (1 - below)).mean()
            null_shares[i] = elsewhere.mean() / a[fires, i].mean()
    return Absorption(rates, null_rates, shares, null_shares, missed, (a > 0).sum(0))


def _check(
    codes: Tensor,
    latents: Tensor,
    dictionary: Tensor,
    W_dec: Tensor,
    matching: Tensor,
    supplied: float,
) -> None:
    where = "absorption"
    given = {"codes": codes, "latents": latents, "dictionary": dictionary, "W_dec": W_dec}
    check_finite(where, **given)
    fits = all(value.ndim == 2 for value in given.values()) and len(codes) == len(latents) > 0
    fits = fits and codes.shape[1] == len(dictionary) > 0 and latents.shape[1] == len(W_dec)
    fits = fits and dictionary.shape[1] == W_dec.shape[1] and matching.shape == codes.shape[1:]
    rule = (
        "codes [batch, n_features], latents [batch, n_latents], dictionary [n_features, d_in], "
        "W_dec [n_latents, d_in] and matching [n_features]"
    )
    shapes = {name: tuple(value.shape) for name, value in given.items()}
    check(fits, where, rule, **shapes, matching=tuple(matching.shape))
    norms = torch.linalg.vector_norm(dictionary.detach().double(), dim=1)
    unit = bool((norms - 1).abs().max() < 1e-4)
    check(unit, where, "unit rows in dictionary", largest_norm=float(norms.max()))
    check(bool((codes >= 0).all()), where, "codes >= 0", least=float(codes.min()))
    valid = bool(((matching >= -1) & (matching < len(W_dec))).all())
    check(valid, where, f"matching in [-1, {len(W_dec)})", matching=matching.tolist())
    check(0 < supplied <= 1, where, "0 < supplied <= 1", supplied=supplied)
