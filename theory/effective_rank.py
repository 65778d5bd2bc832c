"""Effective rank of weighted directions: how many a finite sample, or a spectrum, makes visible."""

import hashlib
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from theory.checks import check
from theory.isotropic import isotropic_rows
from theory.spectral import checked_weights

NULL_DRAWS = 16


@dataclass(frozen=True)
class EffectiveRank:
    """Four counts of dimensions, each in [0, rank], and those of isotropic directions.

    rank: eigenvalues of Sigma = D^T diag(e) D above rounding.
    bayes: sum_j x_j / (1 + x_j), x_j = n_samples lambda_j / prior_precision: directions that the
        samples have decided; -> rank with many samples, -> 0 with few.
    entropy: exp(-sum p_j ln p_j), p = lambda / sum lambda;  participation: 1 / sum p_j^2. Both are
        r for r equal eigenvalues, and participation <= entropy <= rank.
    null_bayes, null_entropy, null_participation: means over 16 draws of isotropic directions with
        the same energies.
    sensitivities: [n_features], d bayes / d ln e_i >= 0: how many directions feature i decides per
        e-fold of its energy. Their sum is sum_j x_j / (1 + x_j)^2 <= rank / 4.
    """

    rank: int
    bayes: float
    entropy: float
    participation: float
    null_bayes: float
    null_entropy: float
    null_participation: float
    sensitivities: Float[Tensor, " n_features"]

    def learning_coefficient(self, n_outputs: int) -> float:
        """Returns (q/2) bayes for a linear map to q outputs; its limit (q/2) rank is exact."""
        check(n_outputs >= 1, "learning_coefficient", "n_outputs >= 1", n_outputs=n_outputs)
        return n_outputs / 2 * self.bayes


def effective_rank(
    dictionary: Float[Tensor, "n_features d_in"],
    energies: Float[Tensor, " n_features"],
    *,
    n_samples: float | int,
    prior_precision: float | int,
) -> EffectiveRank:
    """Returns how many dimensions the second moment of the features has, for a finite sample too.

    Sigma = sum_i e_i d_i d_i^T, e_i = E a_i^2 of codes with E[a_i a_j] = 0. For a linear map W [q,
    d_in] fitted to N samples by L(W) = 1/2 E|(W - W*) x|^2, with a normal prior of precision alpha
    about W*, the effective number of parameters is q * bayes. It counts dimensions of the span,
    never features: splitting a feature into copies of the same total energy changes nothing.
    sensitivity_i = alpha N e_i |(N Sigma + alpha I)^-1 d_i|^2.

    Null: each direction isotropic, energies as given, from a private generator seeded by the sizes.
    Rows need not be unit: e_i |d_i|^2 counts. Samples may be given as rows, with e = 1/n.

    Args:
        dictionary: [n_features, d_in].   energies: [n_features], >= 0, not all 0.
        n_samples: N > 0.   prior_precision: alpha > 0, in units of 1/W^2.
    Raises: ValueError: shapes, NaN, energies, no energy in any direction, N or alpha <= 0.
    Source: eq:learning-coefficient. Watanabe 2009 for the coefficient; Roy & Vetterli 2007 for the
        entropy.
    """
    where = "effective_rank"
    e = checked_weights(where, dictionary, energies)
    strength = _ratio(where, n_samples, prior_precision)
    d = dictionary.detach().double()
    n_features, d_in = d.shape
    left, singular, _ = torch.linalg.svd(e.sqrt()[:, None] * d, full_matrices=False)
    spectrum = singular.square()
    check(float(spectrum[0]) > 0, where, "a direction with energy", largest=float(spectrum[0]))
    digest = hashlib.sha256(f"effective rank {n_features} {d_in}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
    lengths = torch.linalg.vector_norm(d, dim=1)[:, None]
    nulls = []
    for _ in range(NULL_DRAWS):
        draw = isotropic_rows(n_features, d_in, generator=generator, dtype=torch.float64)
        nulls.append(_counts(_spectrum(lengths * draw.to(d.device), e), strength))
    counts, null = _counts(spectrum, strength), torch.tensor(nulls).double().mean(0).tolist()
    x = strength * spectrum
    # sqrt(e_i) d_i = sum_j U_ij sqrt(lambda_j) v_j: no inverse of a nearly singular matrix.
    shares = left.square() * (x / (1 + x) / (1 + x))
    return EffectiveRank(
        rank=int((spectrum > max(d.shape) * 1e-15 * spectrum[0]).sum()),
        bayes=counts[0],
        entropy=counts[1],
        participation=counts[2],
        null_bayes=null[0],
        null_entropy=null[1],
        null_participation=null[2],
        sensitivities=shares.sum(1),
    )


def visibility_shifts(
    dictionary: Float[Tensor, "n_features d_in"],
    energies: Float[Tensor, " n_features"],
    threshold: float | int,
) -> Float[Tensor, " n_features"]:
    """Returns the factor of each e_i at which the number of visible directions changes.

    A direction is visible if its eigenvalue of Sigma exceeds the threshold t, e.g. alpha / N. While
    e_i alone grows from 0 to infinity at most one eigenvalue passes t, at
    kappa_i = 1 + 1 / (e_i s_i),   s_i = d_i^T (t I - Sigma)^-1 d_i,
    the only root of det(t I - Sigma - (kappa - 1) e_i d_i d_i^T). kappa_i > 1: a rare feature that
    becomes this much more common adds a direction; kappa_i < 1: one that becomes this much rarer
    removes it; infinity: e_i makes no difference to the count. Orthonormal: kappa_i = t / e_i.

    Null: none is needed, the factor is exact; compare features with each other.

    Args:
        threshold: > 0, unit of energy, not an eigenvalue of Sigma (there a direction is at the
            border as it is; the result is then rounding).
    Returns: [n_features], > 0; infinity also where e_i = 0, which no factor changes.
    Raises: ValueError: shapes, NaN, energies, threshold <= 0.
    Source: eq:visibility.
    """
    where = "visibility_shifts"
    e = checked_weights(where, dictionary, energies)
    positive = 0 < threshold < math.inf
    check(positive, where, "a finite threshold > 0", threshold=threshold)
    d = dictionary.detach().double()
    gap = threshold * torch.eye(d.shape[1], dtype=d.dtype, device=d.device) - (d.T * e) @ d
    values, vectors = torch.linalg.eigh(gap)
    parts = (d @ vectors).square()
    # An eigenvector orthogonal to d_i does not move with e_i, wherever its eigenvalue is.
    along = torch.where(parts > 1e-24, parts / values, 0.0).sum(1)
    factors = 1 + 1 / (e * along)
    return torch.where((e > 0) & (factors > 0) & factors.isfinite(), factors, math.inf)


def common_features_bound(
    rank: int, tail: float | int, threshold: float | int, rms_coherence: float | int
) -> float:
    """Returns how many features of energy >= threshold a weight basis of `rank` directions allows.

    n <= (r + tail / threshold) / (1 - mu sqrt(r)): if r directions leave only the energy `tail` of
    Sigma, the features K of energy >= threshold, |K| >= r, of rms coherence mu (among themselves)
    are no more than this. All others are rare.

    Args:
        rank: r >= 1.   tail: sum of the eigenvalues beyond the r-th, >= 0, unit of energy.
        threshold: > 0, unit of energy.   rms_coherence: in [0, 1].
    Returns: a count, >= r; infinity (void) for mu sqrt(r) >= 1.
    Source: eq:common-features.
    """
    where = "common_features_bound"
    check(rank >= 1, where, "rank >= 1", rank=rank)
    check(tail >= 0 and threshold > 0, where, "tail >= 0, threshold > 0", tail=tail, got=threshold)
    check(0 <= rms_coherence <= 1, where, "0 <= rms_coherence <= 1", rms_coherence=rms_coherence)
    room = 1 - rms_coherence * math.sqrt(rank)
    return (rank + tail / threshold) / room if room > 0 else math.inf


def _spectrum(d: Float[Tensor, "n d_in"], e: Float[Tensor, " n"]) -> Float[Tensor, " r"]:
    """Returns the eigenvalues of D^T diag(e) D, descending; squared singular values are >= 0."""
    return torch.linalg.svdvals(e.sqrt()[:, None] * d).square()


def _counts(spectrum: Float[Tensor, " r"], strength: float) -> tuple[float, ...]:
    x = strength * spectrum
    p = spectrum / spectrum.sum()
    entropy = torch.special.entr(p).sum().exp()
    return float((x / (1 + x)).sum()), float(entropy), float(1 / p.square().sum())


def _ratio(where: str, n_samples: float | int, prior_precision: float | int) -> float:
    fits = 0 < n_samples < math.inf and 0 < prior_precision < math.inf
    rule = "finite n_samples > 0 and prior_precision > 0"
    check(fits, where, rule, n_samples=n_samples, prior_precision=prior_precision)
    return n_samples / prior_precision
