"""Retrieval certificates: when the latents nearest to an atom must be those that contain it."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from theory.checks import check, check_finite, check_size, check_tensor


@dataclass(frozen=True)
class RetrievalBound:
    """What coherence guarantees about the cosines of features with one atom.

    contained: lower bound on the cosine with a feature that contains the atom, in [-1, 1].
    other: upper bound on the absolute cosine with a feature that does not, in [0, 1].
    """

    contained: float
    other: float

    @property
    def margin(self) -> float:
        """Returns contained - other: cosine to spare, or if <= 0 the cosine that is missing."""
        return self.contained - self.other

    @property
    def certified(self) -> bool:
        """Returns whether every feature with the atom is nearer to it than any without it."""
        return self.margin > 0


def retrieval_bound(coherence: float, per_feature: int, min_weight: float) -> RetrievalBound:
    """Returns the certificate of a world of composed features, before any of them is drawn.

    Features d_i = M_i B / |M_i B| with weights M >= 0 in rows of unit norm, at most k = per_feature
    of them non-zero and those at least m = min_weight, unit atoms B of coherence mu:
    contained: <b_j, d_i> >= ((1 + mu) m - mu sqrt(k)) / sqrt(1 + (k - 1) mu);
    other:    |<b_j, d_i>| <= mu sqrt(k) / sqrt(1 - (k - 1) mu).
    A negative first numerator, which certifies nothing, is divided by the second root. The second
    root must be positive: otherwise nothing is known and the bounds are -1 and 1. For mu = 0:
    m against 0, always certified. m = 1/sqrt(k) (equal weights) gives a cosine of 1/sqrt(k),
    not of 1: that is what a perfect neighbour looks like.

    Null: none is needed, this is a certificate. Sufficient, not necessary.

    Args:
        coherence: mu of the atoms, in [0, 1].   per_feature: k >= 1.   min_weight: m in (0, 1].
    Source: eq:retrieval. Example: retrieval_bound(0.0, 4, 0.5).margin == 0.5.
    """
    where = "retrieval_bound"
    check(0 <= coherence <= 1 + 1e-6, where, "0 <= coherence <= 1", coherence=coherence)
    check_size(where, per_feature=per_feature)
    check(0 < min_weight <= 1, where, "0 < min_weight <= 1", min_weight=min_weight)
    spread = (per_feature - 1) * coherence
    if spread >= 1:
        return RetrievalBound(-1.0, 1.0)
    crosstalk = coherence * math.sqrt(per_feature)
    own = (1 + coherence) * min_weight - crosstalk
    contained = own / math.sqrt(1 + math.copysign(spread, own))
    return RetrievalBound(max(-1.0, contained), min(1.0, crosstalk / math.sqrt(1 - spread)))


@dataclass(frozen=True)
class Retrieval:
    """Whether retrieval survives the errors of atoms and rows, for each atom.

    gaps: [n_atoms], least cosine of a row with the atom less the largest of one without; as given.
    margins: [n_atoms], the gap less what the errors can take from it; cosine. Infinity for an atom
        in all rows or in none, where there is nothing to tell apart.
    """

    gaps: Float[Tensor, " n_atoms"]
    margins: Float[Tensor, " n_atoms"]

    @property
    def certified(self) -> Bool[Tensor, " n_atoms"]:
        """Returns [n_atoms], True where the order cannot be wrong; else -margin is missing."""
        return self.margins > 0


def retrieval(
    atoms: Float[Tensor, "n_atoms d_in"],
    rows: Float[Tensor, "n_rows d_in"],
    members: Bool[Tensor, "n_rows n_atoms"],
    *,
    atom_errors: Float[Tensor, " n_atoms"],
    row_errors: Float[Tensor, " n_rows"],
) -> Retrieval:
    """Returns for which atoms the rows that contain them are nearest, in spite of known errors.

    Given estimates and how far each may be from the truth (`direction_errors`), it is about the
    truth; given the truth and how far estimates may be, about every such estimate. For atom j
    margin_j = min_{i with j} (<b_j, d_i> - eps_i) - max_{l without j} (<b_j, d_l> + eps_l)
               - 2 eps_j,
    positive: on the other side, too, every row with atom j has a larger cosine than any without.

    Null: none is needed, this is a certificate. Sufficient, not necessary.

    Args:
        atoms: [n_atoms, d_in], rows: [n_rows, d_in]; non-zero, only their directions count.
        members: [n_rows, n_atoms], True where the row's feature contains the atom.
        atom_errors, row_errors: chord lengths |u_hat - u| of unit vectors, in [0, 2].
    Raises: ValueError: shapes, NaN, zero rows, errors outside [0, 2].
    Source: eq:retrieval-errors.
    """
    where = "retrieval"
    shapes = {"atoms": atoms, "rows": rows, "members": members}
    shapes |= {"atom_errors": atom_errors, "row_errors": row_errors}
    check_tensor(where, **shapes)
    n, m = len(rows), len(atoms)
    fits = atoms.ndim == rows.ndim == 2 and atoms.shape[1:] == rows.shape[1:] and n * m > 0
    fits = fits and members.shape == (n, m)
    fits = fits and atom_errors.shape == (m,) and row_errors.shape == (n,)
    rule = (
        "atoms [n_atoms, d_in], rows [n_rows, d_in], members [n_rows, n_atoms], an error for each"
    )
    check(fits, where, rule, **{name: tuple(value.shape) for name, value in shapes.items()})
    b, d = _directions(where, "atoms", atoms), _directions(where, "rows", rows)
    check_finite(where, atom_errors=atom_errors, row_errors=row_errors)
    largest = max(atom_errors.max().item(), row_errors.max().item())
    least = min(atom_errors.min().item(), row_errors.min().item())
    check(0 <= least and largest <= 2, where, "errors in [0, 2]", least=least, largest=largest)
    inside = members.bool()
    cosines, slack = d @ b.T, row_errors.double()[:, None]
    separable = inside.any(0) & ~inside.all(0)

    def gap(eps: Tensor | float) -> Tensor:
        contained = (cosines - eps).masked_fill(~inside, math.inf).amin(0)
        other = (cosines + eps).masked_fill(inside, -math.inf).amax(0)
        return torch.where(separable, contained - other, math.inf)

    return Retrieval(gaps=gap(0.0), margins=gap(slack) - 2 * atom_errors.double())


def direction_errors(
    estimates: Float[Tensor, "n d_in"], directions: Float[Tensor, "n d_in"]
) -> Float[Tensor, " n"]:
    """Returns |u_hat - u| of the unit vectors, row by row: chord length in [0, 2], float64.

    0 is the same direction, sqrt(2) orthogonal, 2 opposite; sqrt(2 - 2 c) at cosine c.
    Null: an isotropic direction has mean square 2.
    """
    where = "direction_errors"
    check_tensor(where, estimates=estimates, directions=directions)
    same = estimates.ndim == 2 and estimates.shape == directions.shape and len(estimates) > 0
    shapes = {"estimates": tuple(estimates.shape), "directions": tuple(directions.shape)}
    check(same, where, "two [n, d_in] of one shape", **shapes)
    u = _directions(where, "estimates", estimates) - _directions(where, "directions", directions)
    return torch.linalg.vector_norm(u, dim=1)


def _directions(where: str, name: str, rows: Tensor) -> Float[Tensor, "n d_in"]:
    check_finite(where, **{name: rows})
    unit = normalize(rows.detach().double(), dim=1, eps=1e-300)
    zero = (unit == 0).all(1).nonzero()[:5, 0].tolist()
    check(not zero, where, f"non-zero {name}", zero_rows=zero)
    return unit
