"""The geometry of superposition: a feature's share of dimensions, and its polytope."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check, check_finite
from toymodels.dictionaries.polygon import polygon
from toymodels.dictionaries.simplex import simplex


def feature_dimensionality(
    W: Float[Tensor, "*n_instances n_hidden n_features"],
) -> Float[Tensor, "*n_instances n_features"]:
    """Returns D_j = |W_j|^4 / sum_k (W_j . W_k)^2, the dimensions that feature j has.

    In [0, 1]: 1 where W_j is orthogonal to all others, r / k for one of k columns of equal norm
    that are a tight frame of r dimensions (digon 1/2, triangle 2/3, pentagon 2/5), 0 for a zero
    column. sum_j D_j <= rank W <= n_hidden: by Cauchy and Schwarz D_j is at most the leverage W_j^T
    (W W^T)^+ W_j, and leverages sum to the rank. Equality for tight frames of equal norms, and for
    sums of such in orthogonal subspaces.

    Source: Elhage et al. 2022, arXiv 2209.10652; the same number is the capacity C_j of Scherlis
        et al. 2022, arXiv 2210.01892.
    """
    _check_weights("feature_dimensionality", W)
    gram = W.mT @ W
    own = gram.diagonal(dim1=-2, dim2=-1).square()
    total = gram.square().sum(-1)
    return torch.where(total > 0, own / total.where(total > 0, 1.0), 0.0)


def dimensions_per_feature(
    W: Float[Tensor, "*n_instances n_hidden n_features"],
) -> Float[Tensor, " *n_instances"]:
    """Returns D* = n_hidden / |W|_F^2: hidden dimensions per represented feature.

    1 where n_hidden features have orthonormal columns, 1/2 with twice as many of norm 1; inf at
    W = 0. Not the mean of D_j: columns of a pentagon are longer than 1 (Elhage et al. 2022).
    """
    _check_weights("dimensions_per_feature", W)
    return W.shape[-2] / W.square().sum((-2, -1))


@dataclass(frozen=True)
class Shape:
    """Features that interfere with one another and with no others.

    label: "ignored" | "alone" | "digon" | "triangle" | ... | "other".
    features: their indices, increasing.
    n_dims: the dimensions they span: eigenvalues of their Gram matrix of cosines above the
        tolerance; 0 where ignored.
    """

    label: str
    features: tuple[int, ...]
    n_dims: int


def shapes(
    W: Float[Tensor, "n_hidden n_features"], *, tolerance: float = 0.1, least_norm: float = 0.5
) -> tuple[Shape, ...]:
    """Returns the polytopes that the columns of W form, in the order of their first features.

    Features of norm below `least_norm` are ignored, each a shape of its own. The rest are
    connected where |cosine| > tolerance; the connected parts are the shapes. A part has the name
    of a polytope if its sorted cosines are those of the polytope's vertices, each to within
    `tolerance`. Lengths beyond `least_norm` play no part.

    Null: random columns are "other" or "alone". Two of them in n_hidden dimensions are within
    arccos(1 - tolerance) of antipodal with the probability of a cap of a sphere: 0.14 for two and
    0.05 for three dimensions at the default, so a lone digon is weak evidence there.

    Args:
        tolerance: of a cosine, in (0, 0.25): larger ones confuse the square with the pentagon.
        least_norm: > 0, against the norm of about 1 of a feature that is represented.
    Source: names as in Elhage et al. 2022, arXiv 2209.10652. The square antiprism has squared
        height 0.3, between that of the tight frame (1/3, D = 3/8) and that of the minimum with one
        active feature (0.269, D = 0.368). An octahedron is three digons, a square two: what is
        orthogonal does not interfere.
    """
    where = "shapes"
    check(W.ndim == 2, where, "W [n_hidden, n_features] of one instance", W_shape=tuple(W.shape))
    _check_weights(where, W)
    check(0 < tolerance < 0.25, where, "0 < tolerance < 0.25", tolerance=tolerance)
    check(least_norm > 0, where, "least_norm > 0", least_norm=least_norm)
    W = W.detach().double()
    norms = W.norm(dim=0)
    kept = norms >= least_norm
    unit = W / norms.clamp(min=least_norm)
    cosines = unit.T @ unit
    linked = (cosines.abs() > tolerance) & kept & kept[:, None]
    found, seen = [], set()
    for i in range(len(norms)):
        if i in seen:
            continue
        part = _component(i, linked) if kept[i] else [i]
        seen.update(part)
        if not kept[i]:
            found.append(Shape("ignored", (i,), 0))
            continue
        gram = cosines[part][:, part]
        n_dims = int((torch.linalg.eigvalsh(gram) > tolerance).sum())
        found.append(Shape(_label(gram, tolerance), tuple(part), n_dims))
    return tuple(found)


def _component(i: int, linked: Tensor) -> list[int]:
    reached, front = {i}, [i]
    while front:
        new = set(linked[front.pop()].nonzero()[:, 0].tolist()) - reached
        reached |= new
        front.extend(new)
    return sorted(reached)


def _label(gram: Float[Tensor, "n n"], tolerance: float) -> str:
    cosines = _sorted_cosines(gram)
    for name, vertices in _polytopes().items():
        if len(vertices) == len(gram):
            distance = (cosines - _sorted_cosines(vertices @ vertices.T)).abs()
            if not len(distance) or float(distance.max()) <= tolerance:
                return name
    return "other"


def _sorted_cosines(gram: Float[Tensor, "n n"]) -> Float[Tensor, " n_pairs"]:
    i, j = torch.triu_indices(len(gram), len(gram), 1)
    return gram[i, j].sort().values


def _polytopes() -> dict[str, Float[Tensor, "n_vertices n_dims"]]:
    """Returns unit vertices by name; the first that fits is taken."""
    one = torch.ones(1, 1, dtype=torch.float64)
    turn = torch.arange(8, dtype=torch.float64) * torch.pi / 4
    height = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4) * 0.3**0.5
    flat = 0.7**0.5
    return {
        "alone": one,
        "digon": torch.cat([one, -one]),
        "collinear": torch.cat([one, one]),
        "triangle": polygon(3, dtype=torch.float64).vectors,
        "tetrahedron": simplex(4, dtype=torch.float64).vectors,
        "pentagon": polygon(5, dtype=torch.float64).vectors,
        "hexagon": polygon(6, dtype=torch.float64).vectors,
        "heptagon": polygon(7, dtype=torch.float64).vectors,
        "square antiprism": torch.stack([flat * turn.cos(), flat * turn.sin(), height], 1),
    }


def _check_weights(where: str, W: Tensor) -> None:
    shape = tuple(W.shape)
    check(W.ndim >= 2 and 0 not in shape, where, "W [..., n_hidden, n_features]", W_shape=shape)
    check_finite(where, W=W)
