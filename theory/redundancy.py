"""Redundancy: latents that point the same way, and features that have more latents than one."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import binom
from torch import Tensor
from torch.nn.functional import normalize

from theory.checks import check, check_finite
from theory.nearest import neighbour_p_values

DUPLICATE_COSINE = 0.9


@dataclass(frozen=True)
class Redundancy:
    """How many latents have a twin, and how many would among isotropic rows.

    score: share of the live latents with a duplicate, in [0, 1]; 0 none, 1 all.
    null: its expectation for isotropic rows; exact.
    cosines: [n_latents], cosine with the nearest other live latent; -1 where there is none
        (0 for lines). Dead latents (zero rows) are nobody's twin and have the same value.
    duplicated: [n_latents], cosines >= threshold.
    p_values: [n_latents], of each nearest cosine: exactly uniform under the null; 1 for the dead.
    coherence: the largest of the cosines.
    coherence_p_value: of the largest, over all pairs (Bonferroni): super-uniform under the null.
    n_live: latents with a direction.
    """

    score: float
    null: float
    cosines: Float[Tensor, " n_latents"]
    duplicated: Bool[Tensor, " n_latents"]
    p_values: Float[Tensor, " n_latents"]
    coherence: float
    coherence_p_value: float
    n_live: int


@dataclass(frozen=True)
class SharedFeatures:
    """How many features have two latents or more.

    score: share of such features, in [0, 1].
    null: its expectation for isotropic latents, Pr[Binomial(n_live, q) >= 2]; exact.
    n_latents: [n_features], latents within the threshold of each feature.
    """

    score: float
    null: float
    n_latents: Int[Tensor, " n_features"]


def redundancy(
    W_dec: Float[Tensor, "n_latents d_in"],
    *,
    threshold: float = DUPLICATE_COSINE,
    signed: bool = True,
) -> Redundancy:
    """Returns which latents duplicate another one, beside what isotropic rows of these sizes show.

    c_j = max over i != j of cos(w_i, w_j)  (signed: rays;  otherwise lines, |cos|)
    score = #{j : c_j >= threshold} / n_live.  Needs no ground truth.

    Null: independent isotropic rows. Given w_j the n_live - 1 others are independent of each other,
    so c_j has p-value 1 - (1 - q(c_j))^(n_live - 1), exactly uniform, and the expected score is
    1 - (1 - q(threshold))^(n_live - 1), with q(c) the chance that one isotropic row is as near. The
    p-values of different latents are dependent. With fewer than two live latents score and null
    are 0.

    Args:
        W_dec: [n_latents, d_in], any norms; n_latents = 0 is allowed.
        threshold: cosine from which two latents are duplicates, in (0, 1].
    Raises: ValueError: shapes, NaN, threshold out of range.
    Source: eq:redundancy.
    Example:
        >>> redundancy(torch.eye(4)[[0, 1, 1, 2]]).score
        0.5
    """
    where = "redundancy"
    _check_rows(where, W_dec, threshold)
    w = normalize(W_dec.detach().double(), dim=1, eps=1e-300)
    live = (w != 0).any(1)
    n_live, d_in = int(live.sum()), W_dec.shape[1]
    least = -1.0 if signed else 0.0
    cosines = w.new_full((len(w),), least)
    p_values = torch.ones_like(cosines)
    if n_live < 2:
        return Redundancy(0.0, 0.0, cosines, cosines > 1, p_values, least, 1.0, n_live)
    near = w[live] @ w[live].T
    near = near if signed else near.abs()
    cosines[live] = near.fill_diagonal_(-2).amax(1).clamp(least, 1)
    options = {"signed": signed}
    p_values[live] = neighbour_p_values(cosines[live][:, None], n_live - 1, d_in, **options)[:, 0]
    largest = cosines[live].max()
    one_pair = neighbour_p_values(largest[None], 1, d_in, **options).item()
    at_threshold = neighbour_p_values(w.new_tensor([threshold]), n_live - 1, d_in, **options)
    duplicated = live & (cosines >= threshold - 1e-12)  # exact copies reach a threshold of 1
    return Redundancy(
        score=float(duplicated.sum()) / n_live,
        null=at_threshold.item(),
        cosines=cosines,
        duplicated=duplicated,
        p_values=p_values,
        coherence=largest.item(),
        coherence_p_value=min(1.0, n_live * (n_live - 1) / 2 * one_pair),
        n_live=n_live,
    )


def shared_features(
    dictionary: Float[Tensor, "n_features d_in"],
    W_dec: Float[Tensor, "n_latents d_in"],
    *,
    threshold: float = DUPLICATE_COSINE,
    signed: bool = True,
) -> SharedFeatures:
    """Returns how many features have two or more latents within the threshold.

    Two latents of one feature need not be duplicates of each other: at cosine .9 with the feature
    their own cosine may be as low as 2 x .81 - 1 = .62.

    Null: isotropic latents, whatever the features: each count is Binomial(n_live, q(threshold)).

    Args: as `redundancy`; dictionary: [n_features, d_in], non-zero rows.
    Returns: score 0 with fewer than two live latents.
    Raises: ValueError: shapes, NaN, a zero feature, threshold out of range.
    Source: eq:redundancy.
    """
    where = "shared_features"
    _check_rows(where, W_dec, threshold)
    check_finite(where, dictionary=dictionary)
    fits = dictionary.ndim == 2 and dictionary.shape[1] == W_dec.shape[1] and len(dictionary) > 0
    rule = "non-empty dictionary [n_features, d_in]"
    check(fits, where, rule, dictionary=tuple(dictionary.shape), W_dec=tuple(W_dec.shape))
    d = normalize(dictionary.detach().double(), dim=1, eps=1e-300)
    zero = (d == 0).all(1).nonzero().flatten().tolist()
    check(not zero, where, "features with a direction (non-zero rows)", zero_rows=zero)
    w = normalize(W_dec.detach().double(), dim=1, eps=1e-300)
    n_live = int((w != 0).any(1).sum())
    near = d @ w.T if signed else (d @ w.T).abs()
    counts = (near >= threshold - 1e-12).sum(1)
    q = neighbour_p_values(d.new_tensor([threshold]), 1, d.shape[1], signed=signed).item()
    return SharedFeatures(
        score=float((counts >= 2).double().mean()),
        null=float(binom.sf(1, n_live, q)),
        n_latents=counts,
    )


def _check_rows(where: str, W_dec: Tensor, threshold: float) -> None:
    check_finite(where, W_dec=W_dec)
    fits = W_dec.ndim == 2 and W_dec.shape[1] > 0
    check(fits, where, "W_dec [n_latents, d_in]", W_dec=tuple(W_dec.shape))
    check(0 < threshold <= 1, where, "0 < threshold <= 1", threshold=threshold)
