"""Fragility: how far the leading eigenspace of the data turns when firing rates change a little."""

import hashlib
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from theory.checks import check, check_finite
from theory.isotropic import isotropic_rows
from theory.spectral import checked_weights

EXACT_UP_TO = 14  # features: 2^13 vertices of the cube
NULL_DRAWS = 15
_GAP = 1e-12  # a smaller gap, relative to the largest eigenvalue, is rounding
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Fragility:
    """phi_r, the fastest the top-r eigenspace can turn, or two numbers that enclose it.

    lower, upper: phi_r lies in between; equal (to rounding) where `exact`. Unit: Frobenius norm of
        the projector's change per relative change of energies. Infinite where gap = 0, 0 where
        r = 0 or r = d_in.
    exact: True: the maximum over all vertices; False: `lower` is attained by `signs`, `upper`
        is certified by an eigenvalue.
    signs: [n_features], -1 or 1, the changes of log energy that attain `lower`.
    gap: lambda_r - lambda_(r+1), unit of energy.
    null: median of `lower` over 15 draws of isotropic directions with the same energies; a median,
        because gaps near 0 give the mean infinite variance.
    """

    lower: float
    upper: float
    exact: bool
    signs: Float[Tensor, " n_features"]
    gap: float
    null: float


def fragility(
    dictionary: Float[Tensor, "n_features d_in"],
    energies: Float[Tensor, " n_features"],
    r: int,
) -> Fragility:
    """Returns how fast the top-r eigenspace of Sigma = D^T diag(e) D can turn.

    phi_r = max over |xi_i| <= 1 of |dP_r[D^T diag(e xi) D]|_F,  P_r the projector on the space,
    |dP_r[dS]|_F^2 = 2 sum_{a <= r < b} (u_b^T dS u_a / (lambda_a - lambda_b))^2,
    xi a change of log energies. It is a convex quadratic form 2 xi Q xi^T, so a vertex of the cube
    attains the maximum: all are tried up to 14 features. Beyond, `lower` is a vertex from which no
    single flip leads higher, and upper^2 = 2 min over s of lambda_max(diag(s)^-1/2 Q diag(s)^-1/2)
    sum s over three positive s, valid for every s. Always phi_r <= |dS|_F / gap.

    Null: isotropic directions with the same energies, from a private generator seeded by sizes.

    Args:
        dictionary: [n_features, d_in].   energies: [n_features], >= 0, not all 0.
        r: in [0, d_in].
    Raises: ValueError: shapes, NaN, energies, r out of range.
    Source: eq:fragility. First-order perturbation of eigenprojections: Kato 1966.
    """
    where = "fragility"
    e = checked_weights(where, dictionary, energies)
    d = dictionary.detach().double()
    n_features, d_in = d.shape
    check(0 <= r <= d_in, where, f"0 <= r <= {d_in} (d_in)", r=r)
    form, gap = _form(d, e, r)
    lower, signs = _largest(form)
    exact = n_features <= EXACT_UP_TO
    upper = lower if exact else max(lower, _certificate(form))
    digest = hashlib.sha256(f"fragility {n_features} {d_in} {r}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
    lengths = torch.linalg.vector_norm(d, dim=1)[:, None]
    draws = [
        isotropic_rows(n_features, d_in, generator=generator, dtype=torch.float64).to(d.device)
        for _ in range(NULL_DRAWS)
    ]
    nulls = sorted(_largest(_form(lengths * u, e, r)[0])[0] for u in draws)
    return Fragility(
        lower=math.sqrt(2 * lower),
        upper=math.sqrt(2 * upper),
        exact=exact,
        signs=signs,
        gap=gap,
        null=math.sqrt(2 * nulls[NULL_DRAWS // 2]),
    )


def projector_change(
    dictionary: Float[Tensor, "n_features d_in"],
    energies: Float[Tensor, " n_features"],
    r: int,
    changes: Float[Tensor, " n_features"],
) -> Float[Tensor, "d_in d_in"]:
    """Returns dP_r, the derivative of the top-r projector along e_i -> e_i (1 + t changes_i) at 0.

    sum over a <= r < b of (u_b^T dS u_a) / (lambda_a - lambda_b) (u_a u_b^T + u_b u_a^T).
    Raises: ValueError: as `fragility`, and a gap of 0, where there is no derivative.
    Source: eq:fragility.
    """
    where = "projector_change"
    e = checked_weights(where, dictionary, energies)
    check_finite(where, changes=changes)
    d = dictionary.detach().double()
    check(0 <= r <= d.shape[1], where, f"0 <= r <= {d.shape[1]} (d_in)", r=r)
    values, vectors, gap = _eigen(d, e, r)
    check(gap > 0, where, "a gap after the r-th eigenvalue", gap=gap)
    shift = (d.T * (e * changes)) @ d
    top, rest = vectors[:, :r], vectors[:, r:]
    block = top.T @ shift @ rest / (values[:r, None] - values[r:])
    half = top @ block @ rest.T
    return half + half.T


def _eigen(
    d: Float[Tensor, "n d_in"], e: Float[Tensor, " n"], r: int
) -> tuple[Float[Tensor, " d_in"], Float[Tensor, "d_in d_in"], float]:
    """Returns eigenvalues (descending) and eigenvectors of Sigma, and the gap; 0 for rounding."""
    values, vectors = torch.linalg.eigh((d.T * e) @ d)
    values, vectors = values.flip(0), vectors.flip(1)
    if not 0 < r < len(values):
        return values, vectors, math.inf
    gap = float(values[r - 1] - values[r])
    return values, vectors, gap if gap > _GAP * float(values[0]) else 0.0


def _form(
    d: Float[Tensor, "n d_in"], e: Float[Tensor, " n"], r: int
) -> tuple[Float[Tensor, "n n"], float]:
    """Returns Q with |dP_r|_F^2 = 2 xi Q xi^T, infinite on the diagonal at gap 0; and the gap."""
    values, vectors, gap = _eigen(d, e, r)
    if gap == 0:
        return torch.full((len(d), len(d)), math.inf, dtype=d.dtype, device=d.device), gap
    along = d @ vectors
    blocks = along[:, :r, None] * along[:, None, r:] / (values[:r, None] - values[r:])
    rows = e[:, None] * blocks.flatten(1)
    return rows @ rows.T, gap


def _largest(form: Float[Tensor, "n n"]) -> tuple[float, Float[Tensor, " n"]]:
    """Returns the largest xi Q xi^T over vertices: exact up to 14 features, else by flips."""
    n = len(form)
    ones = torch.ones(n, dtype=form.dtype, device=form.device)
    if not bool(form.isfinite().all()):
        return math.inf, ones
    if n <= EXACT_UP_TO:
        # xi and -xi give the same: the first sign is fixed.
        bits = torch.arange(2 ** (n - 1), device=form.device)[:, None] >> torch.arange(
            n - 1, device=form.device
        )
        signs = torch.cat([ones[:1].expand(len(bits), 1), 1 - 2.0 * (bits & 1)], 1)
        values = ((signs @ form) * signs).sum(1)
        best = int(values.argmax())
        return max(0.0, float(values[best])), signs[best]
    starts = torch.linalg.eigh(form).eigenvectors[:, -4:].T
    climbed = [_climb(form, 1 - 2 * (s < 0).to(form.dtype)) for s in (*starts, ones)]
    return max(climbed, key=lambda found: found[0])


def _climb(
    form: Float[Tensor, "n n"], signs: Float[Tensor, " n"]
) -> tuple[float, Float[Tensor, " n"]]:
    """Returns the vertex reached by flipping the most rewarding sign until none rewards."""
    pull, diagonal = form @ signs, form.diagonal()
    tolerance = _ROUNDING * float(form.abs().max())
    for _ in range(20 * len(signs)):
        gains = 4 * (diagonal - signs * pull)
        best = int(gains.argmax())
        if not float(gains[best]) > tolerance:
            break
        pull = pull - 2 * signs[best] * form[best]
        signs = signs.clone()
        signs[best] = -signs[best]
    return max(0.0, float(signs @ form @ signs)), signs


def _certificate(form: Float[Tensor, "n n"]) -> float:
    """Returns the least of three upper bounds of max xi Q xi^T over the cube; see `fragility`."""
    if not bool(form.isfinite().all()):
        return math.inf
    bounds = []
    for weights in (torch.ones_like(form[0]), form.diagonal(), form.abs().sum(1)):
        s = weights.clamp(min=_ROUNDING * float(weights.max()))
        if float(s.max()) == 0:
            return 0.0
        scaled = form / (s.sqrt()[:, None] * s.sqrt())
        bounds.append(float(torch.linalg.eigvalsh(scaled)[-1]) * float(s.sum()))
    return min(bounds) * (1 + _ROUNDING)  # covers the rounding of the eigenvalue
