"""Recovery: how well decoder rows match the true dictionary, and what chance gives."""

import functools
import hashlib
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy.special import betaincc
from torch import Tensor

from theory.checks import check, check_finite, check_tensor
from theory.isotropic import expected_best_cosine_bound, isotropic_rows
from theory.matching import match
from theory.statistics import mcdiarmid_radius

RECOVERED_COSINE = 0.9
CHANCE_DRAWS = 16
MAX_CHANCE_ENTRIES = 4 * 10**6  # 16 matchings of 2,000 x 2,000: five seconds on one core


@dataclass(frozen=True)
class Recovery:
    """A recovery score and its null; every number is for the same sizes and the same sign rule.

    score: mean matched cosine over features, in [0, 1]; 1 means every feature has its own latent.
    chance: mean score of isotropic latents (NaN where not affordable: `note` says so).
    chance_bound: proved upper bound on the expected score under the null, in [0, 1].
    cosines: [n_features], matched cosine of each feature; 0 where nothing is matched.
    matching: [n_features], the latent of each feature; -1 where nothing is matched.
    recovered: [n_features], True where the matched cosine exceeds 0.9.
    recovered_bound: proved upper bound on the expected fraction of `recovered` under the null.
    note: empty, or why `chance` is NaN.
    """

    score: float
    chance: float
    chance_bound: float
    cosines: Float[Tensor, " n_features"]
    matching: Int[Tensor, " n_features"]
    recovered: Bool[Tensor, " n_features"]
    recovered_bound: float
    note: str

    def exceeds_chance(self, alpha: float) -> bool:
        """Returns whether the score refutes the null at level alpha (one-sided, McDiarmid).

        score > chance_bound + sqrt(ln(1/alpha) / (2 n_features)). Conservative: the bound is not
        the chance level itself, and a score of 1 cannot pass where the right side is above 1.
        """
        return self.score > self.chance_bound + recovery_radius(len(self.cosines), alpha)


def recovery(
    dictionary: Float[Tensor, "n_features d_in"],
    W_dec: Float[Tensor, "n_latents d_in"],
    *,
    signed: bool = True,
) -> Recovery:
    """Returns how well the rows of `W_dec` recover the features, beside the chance level.

    score = (1/n_features) max over matchings pi of sum_i s(d_i, w_pi(i)), each latent used once.
    signed (a feature is a ray):   s = max(0, cos): matching to nothing is worth 0, so a forced bad
                                   match cannot lower the score, and adding latents never does.
    not signed (a line):           s = |cos|.
    Invariant under reordering, positive rescaling and joint rotation; the line score also under
    sign flips. A latent with a zero row (dead) has cosine 0 with everything. Computed in float64.

    Null: the features are i.i.d. isotropic, independent of the latents; how well latents of these
    sizes do then depends on n_features, n_latents (dead ones included) and d_in, and grows with
    n_latents / d_in: it is far from 0 at toy size. `chance` averages 16 draws in which features and
    latents are both isotropic, from a private generator seeded by the sizes alone. `chance_bound`
    holds for any fixed latents and isotropic features, and equally for any fixed dictionary and
    isotropic latents. In the latter case the level itself depends on the dictionary only through
    competition for the same latents: about the same for orthonormal rows, lower for coherent ones.

    Args:
        dictionary: [n_features, d_in], non-zero rows; only their directions count.
        W_dec: [n_latents, d_in]; fewer latents than features leaves features unmatched, worth 0.
        signed: ray (True) or line (False).
    Raises:
        ValueError: different d_in or devices, NaN, a zero feature, more than 10^8 pairs.
    Source: eq:recovery. Differs from the MCC of other libraries in the clipping at 0 and in
        averaging over features, not over matched pairs.
    Example:
        >>> recovery(torch.eye(3), 2 * torch.eye(3)[[2, 0, 1]]).matching.tolist()
        [1, 2, 0]
    """
    _check_directions(dictionary, W_dec)
    n_features, d_in = dictionary.shape
    n_latents = W_dec.shape[0]
    score, cosines, matching = _matched(dictionary, W_dec, signed)
    affordable = n_features * n_latents <= MAX_CHANCE_ENTRIES
    sizes = (n_features, n_latents, d_in)
    return Recovery(
        score=score,
        chance=recovery_chance(*sizes, signed=signed) if affordable else math.nan,
        chance_bound=recovery_chance_bound(*sizes, signed=signed),
        cosines=cosines.to(W_dec.dtype),
        matching=matching,
        recovered=cosines > RECOVERED_COSINE,
        recovered_bound=_recovered_bound(*sizes, signed=signed),
        note="" if affordable else f"no chance: more than {MAX_CHANCE_ENTRIES} pairs to match",
    )


@functools.lru_cache(maxsize=4096)
def recovery_chance(n_features: int, n_latents: int, d_in: int, *, signed: bool = True) -> float:
    """Returns the mean score of 16 draws of isotropic features and isotropic latents (cached).

    Its own error: within sqrt(ln(2/alpha) (1 + n_latents / n_features) / (32 n_features)) of the
    expectation with probability 1 - alpha (McDiarmid). Refuses above 4 x 10^6 pairs (five seconds);
    ask `recovery_chance_bound` there.
    """
    check(
        n_features * n_latents <= MAX_CHANCE_ENTRIES,
        "recovery_chance",
        f"at most {MAX_CHANCE_ENTRIES} pairs",
        "use recovery_chance_bound",
        n_features=n_features,
        n_latents=n_latents,
    )
    digest = hashlib.sha256(f"recovery {n_features} {n_latents} {d_in}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
    scores = []
    for _ in range(CHANCE_DRAWS):
        features = isotropic_rows(n_features, d_in, generator=generator)
        latents = isotropic_rows(n_latents, d_in, generator=generator)
        scores.append(_matched(features, latents, signed)[0])
    return sum(scores) / CHANCE_DRAWS


def recovery_chance_bound(
    n_features: int, n_latents: int, d_in: int, *, signed: bool = True
) -> float:
    """Returns an upper bound on the expected recovery score under the null.

    beta(m) = int_0^1 min{1, c m Pr[Beta(1/2, (d_in-1)/2) >= t^2]} dt (c = 1/2 for rays, 1 for
    lines) bounds a feature's best cosine among m latents, hence the score. With fewer latents (m)
    than features (n), (m/n) beta(n) holds too, by exchanging roles, and is the smaller of the two.

    Returns: cosine in [0, 1]; 1 at d_in = 1 for lines.
    Source: eq:recovery-chance.
    """
    share = 0.5 if signed else 1.0
    most = max(n_features, n_latents)
    return min(1.0, n_latents / n_features) * expected_best_cosine_bound(d_in, share * most)


def recovery_radius(n_features: int, alpha: float) -> float:
    """Returns t = sqrt(ln(1/alpha) / (2 n_features)): Pr(score >= E score + t) <= alpha.

    One-sided McDiarmid bound under the null of independent features: replacing one feature moves
    the (clipped or absolute) score by at most 1 / n_features.
    """
    return mcdiarmid_radius(n_features, alpha, 1 / n_features)


def _matched(
    dictionary: Float[Tensor, "n_features d_in"],
    W_dec: Float[Tensor, "n_latents d_in"],
    signed: bool,
) -> tuple[float, Float[Tensor, " n_features"], Int[Tensor, " n_features"]]:
    """Returns score, matched cosines (float64) and matching; a cosine of 0 counts as no match."""
    similarity = _unit(dictionary) @ _unit(W_dec).T
    similarity = (similarity.clamp(min=0) if signed else similarity.abs()).clamp(max=1)
    matching = match(similarity)
    rows = torch.arange(len(matching), device=matching.device)
    cosines = torch.where(matching >= 0, similarity[rows, matching], 0.0)
    return cosines.mean().item(), cosines, torch.where(cosines > 0, matching, -1)


def _unit(rows: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_in"]:
    """Returns the rows as float64 unit vectors, zero rows as zeros."""
    rows = rows.detach().double()
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1.0)


def _recovered_bound(n_features: int, n_latents: int, d_in: int, *, signed: bool) -> float:
    """Returns the union bound on Pr(some latent within RECOVERED_COSINE of a random feature)."""
    tail = 1.0
    if d_in > 1:
        tail = float(betaincc(0.5, (d_in - 1) / 2, RECOVERED_COSINE**2))
    most = max(n_features, n_latents)
    return min(1.0, n_latents / n_features) * min(1.0, (0.5 if signed else 1.0) * most * tail)


def _check_directions(dictionary: Tensor, W_dec: Tensor) -> None:
    check_tensor("recovery", dictionary=dictionary, W_dec=W_dec)
    shapes = (tuple(dictionary.shape), tuple(W_dec.shape))
    fits = dictionary.ndim == W_dec.ndim == 2 and dictionary.shape[1] == W_dec.shape[1]
    rule = "dictionary [n_features, d_in] and W_dec [n_latents, d_in]"
    filled = fits and 0 not in shapes[0] + shapes[1]
    check(filled, "recovery", rule, dictionary=shapes[0], W_dec=shapes[1])
    check_finite("recovery", dictionary=dictionary, W_dec=W_dec)
    zero = (dictionary == 0).all(1).nonzero().flatten().tolist()
    check(not zero, "recovery", "features with a direction (non-zero rows)", zero_rows=zero)
