"""Signs: are latents rays or lines, and what do negative activations add?"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from theory.checks import check, check_finite, check_generator, check_tensor
from theory.nonnegative import nonnegative_least_squares

NULL_DRAWS = 16


@dataclass(frozen=True)
class SignConsistency:
    """Three readings of the signs of a code, each beside its null.

    score: (sum c_+^2 - sum c_-^2) / sum c^2 over all latents, in [-1, 1]: 1 rays, 0 symmetric
        lines, NaN for a code of zeros.
    score_null, score_null_std: its mean, 0, and spread if signs are tossed by a coin.
    scores: [n_latents], the same of each latent; NaN where a latent is never active.
    gain: negative-information gain at the frozen decoder, at most 1.   gain_null.
    scaled_gain, scaled_gain_null: the same where the positive part and the whole code each get the
        scalar factor that suits it best, so that neither pays for a decoder of wrong scale.
    necessity: share of energy that only negative coefficients explain, in [0, 1].
    necessity_null: the same for the same lines, each turned by the toss of a coin.
    """

    score: float
    score_null: float
    score_null_std: float
    scores: Float[Tensor, " n_latents"]
    gain: float
    gain_null: float
    scaled_gain: float
    scaled_gain_null: float
    necessity: float
    necessity_null: float


def sign_consistency(
    x: Float[Tensor, "batch d_in"],
    codes: Float[Tensor, "batch n_latents"],
    W_dec: Float[Tensor, "n_latents d_in"],
    b_dec: Float[Tensor, " d_in"],
    *,
    generator: torch.Generator,
) -> SignConsistency:
    """Returns whether the latents are rays, and what the negative entries of `codes` add.

    codes: a signed code, e.g. the pre-activations of the active latents and of the q most negative
    ones, 0 elsewhere. The score and the necessity are about the best coefficients on its support
    (least squares, minimum norm where the rows are dependent; NNLS), the gains about the code as
    it is.

    score: `sign_scores` of the refitted coefficients; null: signs are independent fair coins.
    gain: 1 - E|x - x_hat|^2 / E|x - x_hat_+|^2, x_hat_+ from the positive entries only; 0 if
        there are no negative ones, negative if they hurt, NaN if the positive part is exact. Null:
        the negative parts of the samples are exchanged at random, so that they know nothing of
        their sample (exact mean; mean over 16 permutations for the scaled gain).
    necessity: `sign_necessity`; null: each row of W_dec is negated with probability 1/2 (mean over
        16 draws): what one pays for lines used as rays without knowing their direction.

    Raises: ValueError: shapes, NaN, no sample, x equal to b_dec throughout.
    Source: eq:sign-score, eq:sign-gain, eq:sign-necessity.
    """
    _check(x, codes, W_dec, b_dec)
    check_generator("sign_consistency", generator, x.device)
    y, z, rows = _centred(x, codes, W_dec, b_dec)
    support = z != 0
    coefs = refitted(x, support, W_dec, b_dec)
    energy = coefs.square()
    total = energy.sum()
    score = (coefs.sign() * energy).sum() / total
    plus, minus = z.clamp(min=0) @ rows, z.clamp(max=0) @ rows
    residual, n, power = y - plus, len(y), float(y.square().sum())
    left = float(residual.square().sum())
    exchanged = left + minus.square().sum()
    exchanged = exchanged - 2 / n * residual.sum(0) @ minus.sum(0)
    orders = [torch.randperm(n, generator=generator, device=x.device) for _ in range(NULL_DRAWS)]
    scaled = [
        _gain(_scaled_error(y, plus), _scaled_error(y, plus + minus[o]), power) for o in orders
    ]
    turned = []
    for _ in range(NULL_DRAWS):
        coins = torch.randint(0, 2, (len(rows), 1), generator=generator, device=x.device) * 2 - 1
        turned.append(_beyond_cone(coefs @ rows, support, coins * rows) / power)
    return SignConsistency(
        score=float(score),
        score_null=0.0,
        score_null_std=float(energy.square().sum().sqrt() / total),
        scores=sign_scores(coefs),
        gain=_gain(left, float((residual - minus).square().sum()), power),
        gain_null=_gain(left, float(exchanged), power),
        scaled_gain=_gain(_scaled_error(y, plus), _scaled_error(y, plus + minus), power),
        scaled_gain_null=sum(scaled) / NULL_DRAWS,
        necessity=_beyond_cone(coefs @ rows, support, rows) / power,
        necessity_null=sum(turned) / NULL_DRAWS,
    )


def sign_scores(codes: Float[Tensor, "batch n_latents"]) -> Float[Tensor, " n_latents"]:
    """Returns SC_j = (E c_+^2 - E c_-^2) / E c^2 of each latent: 1 a ray, 0 a symmetric line.

    -1 is a ray the wrong way; NaN a latent that is never active. Null: signs are independent fair
    coins given the magnitudes; then E SC_j = 0, Var SC_j = sum c^4 / (sum c^2)^2, and
    Pr(|SC_j| >= t) <= 2 exp(-t^2 / (2 Var SC_j)) (Hoeffding).
    Source: eq:sign-score.
    """
    check_finite("sign_scores", codes=codes)
    check(codes.ndim == 2, "sign_scores", "codes [batch, n_latents]", shape=tuple(codes.shape))
    c = codes.detach().double()
    c = c / c.abs().amax(0).clamp(min=1e-300)  # squares of tiny codes would underflow
    return (c.sign() * c.square()).sum(0) / c.square().sum(0)


def sign_necessity(
    x: Float[Tensor, "batch d_in"],
    support: Bool[Tensor, "batch n_latents"],
    W_dec: Float[Tensor, "n_latents d_in"],
    b_dec: Float[Tensor, " d_in"],
) -> float:
    """Returns E[NNLS residual^2 - least-squares residual^2] / E|x - b_dec|^2 on the same supports.

    The share of energy that no coefficients >= 0 on the supported rows explain, but signed ones
    do: in [0, 1], 0 if and only if every projection lies in the cone of its rows. It equals the
    mean squared distance of the projections from the cones, and is computed as such.
    0 for a support without rows. Null: see `sign_consistency`. Source: eq:sign-necessity.
    """
    coefs = refitted(x, support, W_dec, b_dec)
    y, _, rows = _centred(x, support, W_dec, b_dec)
    projections = coefs @ rows
    return _beyond_cone(projections, support, rows) / float(y.square().sum())


def refitted(
    x: Float[Tensor, "batch d_in"],
    support: Bool[Tensor, "batch n_latents"],
    W_dec: Float[Tensor, "n_latents d_in"],
    b_dec: Float[Tensor, " d_in"],
) -> Float[Tensor, "batch n_latents"]:
    """Returns the least-squares coefficients of x - b_dec on the supported rows, 0 elsewhere.

    Signed; of minimum norm where the rows are dependent. Float64, in the units of x = code @ W_dec.
    """
    check_tensor("refitted", support=support)
    rule, dtype = "a support of booleans", str(support.dtype)
    check(dtype == "torch.bool", "refitted", rule, "pass codes != 0", support_dtype=dtype)
    _check(x, support.double(), W_dec, b_dec)
    y, _, rows = _centred(x, support.double(), W_dec, b_dec)
    coefs = y.new_zeros(support.shape)
    for i, mask in enumerate(support):
        if bool(mask.any()):
            coefs[i, mask] = torch.linalg.pinv(rows[mask].T, rtol=1e-10) @ y[i]
    return coefs


def _beyond_cone(
    projections: Float[Tensor, "batch d_in"],
    support: Bool[Tensor, "batch n_latents"],
    rows: Float[Tensor, "n_latents d_in"],
) -> float:
    """Returns the summed squared distances of the projections from the cones of their rows."""
    atoms, distance = rows.cpu().numpy(), 0.0
    for p, mask in zip(projections.cpu().numpy(), support.cpu().numpy(), strict=True):
        if mask.any():
            distance += nonnegative_least_squares(atoms[mask].T, p)[1] ** 2
    return distance


def _gain(without: float, with_all: float, power: float) -> float:
    """Returns 1 - with_all / without; NaN where `without` is rounding next to |y|^2."""
    return 1 - with_all / without if without > 1e-20 * power else math.nan


def _scaled_error(y: Float[Tensor, "batch d_in"], x_hat: Float[Tensor, "batch d_in"]) -> float:
    """Returns min over g of sum |y - g x_hat|^2."""
    power = x_hat.square().sum()
    factor = (y * x_hat).sum() / power if bool(power > 0) else power
    return float((y - factor * x_hat).square().sum())


def _centred(
    x: Tensor, codes: Tensor, W_dec: Tensor, b_dec: Tensor
) -> tuple[Float[Tensor, "batch d_in"], Float[Tensor, "batch n_latents"], Float[Tensor, "m d_in"]]:
    y = (x - b_dec).detach().double()
    return y, codes.detach().double(), W_dec.detach().double()


def _check(x: Tensor, codes: Tensor, W_dec: Tensor, b_dec: Tensor) -> None:
    where = "sign_consistency"
    given = {"x": x, "codes": codes, "W_dec": W_dec, "b_dec": b_dec}
    check_finite(where, **given)
    fits = x.ndim == codes.ndim == W_dec.ndim == 2 and b_dec.shape == x.shape[1:]
    fits = fits and W_dec.shape == (codes.shape[1], x.shape[1]) and len(codes) == len(x) > 0
    rule = "x [batch, d_in], codes [batch, n_latents], W_dec [n_latents, d_in], b_dec [d_in]"
    check(fits, where, rule, **{name: tuple(value.shape) for name, value in given.items()})
    varies = bool(((x - b_dec) != 0).any())
    check(varies, where, "an x that is not b_dec throughout", batch=len(x))
