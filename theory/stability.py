"""Stability: how far SAEs trained from different seeds agree on their latents."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.special import betaln
from torch import Tensor
from torch.nn.functional import normalize

from theory.checks import check, check_finite
from theory.recovery import recovery


@dataclass(frozen=True)
class Stability:
    """Agreement of every pair of decoders, matched and index by index, beside chance.

    score: mean over pairs of the matched agreement, in [0, 1]; 1: the same latents in any order.
    chance: mean score of isotropic latents of these sizes (NaN where matching is unaffordable).
    chance_bound: proved upper bound on the expected score of independent isotropic latents.
    pairwise: [n_decoders, n_decoders], symmetric, the agreement of each pair; 1 on the diagonal.
    by_index: mean cosine of latents of equal index, in [0, 1]; 1: the same latents in order; NaN
        if no index has a live latent in two decoders.
    by_index_chance: its expectation for isotropic latents; exact.
    influence: sum over all latents of the squared largest change of the score that one can cause.
    """

    score: float
    chance: float
    chance_bound: float
    pairwise: Float[Tensor, "n_decoders n_decoders"]
    by_index: float
    by_index_chance: float
    influence: float

    def exceeds_chance(self, alpha: float) -> bool:
        """Returns whether the score refutes the null at level alpha (one-sided, McDiarmid).

        score > chance_bound + sqrt(influence ln(1/alpha) / 2); for S decoders of n latents each
        the influence is 4 / (S n). Conservative, as `recovery`'s is.
        """
        check(0 < alpha < 1, "exceeds_chance", "0 < alpha < 1", alpha=alpha)
        return self.score > self.chance_bound + math.sqrt(self.influence * math.log(1 / alpha) / 2)


def stability(decoders: Sequence[Float[Tensor, "_ d_in"]], *, signed: bool = True) -> Stability:
    """Returns how far the decoders agree, beside what isotropic ones would show.

    agreement(W, V) = (1 / max(n_W, n_V)) max over matchings pi of sum_j s(w_j, v_pi(j)),
    s = max(0, cos) (signed: rays) or |cos| (lines): `recovery` of the larger by the smaller, and
    symmetric. by_index: mean of s(w_j, v_j) over the indices both have, what an SAE with ordered
    latents should keep. Dead latents (zero rows) are set aside first. Ground truth plays no part:
    stable latents may be wrong, and where several dictionaries explain the data equally well right
    ones need not be stable.

    Null: all latents independent and isotropic. `chance` is far from 0 and grows with
    n_latents / d_in: see `recovery`. by_index_chance = E|cos| (half for rays) =
    Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2)), about sqrt(2 / (pi d_in)).

    Args: decoders: two or more, each [n_latents, d_in], of any numbers of latents.
    Raises: ValueError: fewer than two, shapes, NaN, a decoder without a live latent.
    Source: eq:stability.
    Example:
        >>> stability([torch.eye(3), torch.eye(3)[[1, 2, 0]]]).score
        1.0
    """
    where = "stability"
    for i, w in enumerate(decoders):
        check_finite(where, **{f"decoder_{i}": w})
    shapes = [tuple(w.shape) for w in decoders]
    check(len(shapes) >= 2, where, "two decoders or more", n_decoders=len(shapes))
    fits = all(w.ndim == 2 and w.shape[1] == shapes[0][1] for w in decoders)
    check(fits, where, "decoders [n_latents, d_in] of one d_in", shapes=shapes)
    units = [normalize(w.detach().double(), dim=1, eps=1e-300) for w in decoders]
    live = [u[(u != 0).any(1)] for u in units]
    n_live = [len(u) for u in live]
    todo = "leave out decoders that are dead"
    check(min(n_live) > 0, where, "a live latent in each decoder", todo, n_live=n_live)
    pairwise = torch.eye(len(live), dtype=torch.float64, device=live[0].device)
    chances, bounds, by_index = [], [], []
    for a, b in itertools.combinations(range(len(live)), 2):
        larger, smaller = sorted((live[a], live[b]), key=len, reverse=True)
        found = recovery(larger, smaller, signed=signed)
        pairwise[a, b] = pairwise[b, a] = found.score
        chances.append(found.chance)
        bounds.append(found.chance_bound)
        n_both = min(len(units[a]), len(units[b]))
        first, second = units[a][:n_both], units[b][:n_both]
        both = (first != 0).any(1) & (second != 0).any(1)
        cosines = (first * second).sum(1)[both]
        by_index.append(cosines.clamp(min=0) if signed else cosines.abs())
    n_pairs, d_in = len(chances), shapes[0][1]
    off_diagonal = float(pairwise.sum()) - len(live)
    changes = [
        sum(1 / max(n, other) for j, other in enumerate(n_live) if j != i) / n_pairs
        for i, n in enumerate(n_live)
    ]
    half = (d_in - 1) / 2
    mean_cosine = math.exp(betaln(1, half) - betaln(0.5, half)) if d_in > 1 else 1.0
    return Stability(
        score=off_diagonal / (2 * n_pairs),
        chance=sum(chances) / n_pairs,
        chance_bound=sum(bounds) / n_pairs,
        pairwise=pairwise,
        by_index=float(torch.cat(by_index).clamp(max=1).mean()),
        by_index_chance=mean_cosine * (0.5 if signed else 1.0),
        influence=sum(n * c * c for n, c in zip(n_live, changes, strict=True)),
    )
