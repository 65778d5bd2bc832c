"""Two bases of one network: directions the weights determine, and directions an SAE recovers."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from theory.checks import check, check_finite, check_generator, check_size, check_tensor
from theory.recovery import recovery

UNDERCOMPLETE, COMPLETE, OVERCOMPLETE = "undercomplete", "complete", "overcomplete"


@dataclass(frozen=True)
class WeightBasis:
    """How many directions of weight space a minimum determines, modulo its symmetries.

    n_free: n_weights minus the dimension of the symmetry orbit: what there is to determine.
    rank: eigenvalues above the tolerance; n_free - rank directions are flat without a symmetry.
    soft_rank: sum_j h_j / (h_j + threshold), in [0, rank]: directions determined at this threshold;
        at threshold gamma / (n beta) it is twice what localised sampling measures.
    effective_parameters: bounds on 2 lambda: (rank, rank + (n_free - rank) / 2). They agree, and
        lambda = rank / 2, where only symmetries are flat; elsewhere the lower one holds if all flat
        directions are tangent to a manifold of minima of that dimension, the upper one if the loss
        grows along each like a fourth power.
    eigenvalues: [n_free], descending, with the symmetric directions projected out.
    dead: indices of weights whose row of the curvature is 0.
    note: empty, or what makes the rank less than the whole story.
    """

    n_weights: int
    n_free: int
    rank: int
    soft_rank: float
    effective_parameters: tuple[float, float]
    eigenvalues: Float[Tensor, " n_free"]
    dead: Int[Tensor, " n_dead"]
    note: str


@dataclass(frozen=True)
class ActivationBasis:
    """How many true directions an SAE recovers one-to-one, beside chance.

    n_recovered: features with a latent of their own, in [0, min(n_features, n_latents)].
    null: expected number that structureless latents of the same sizes recover, or a bound on it.
    notes: what makes the count meaningless, one sentence each; empty if nothing does.
    """

    n_recovered: int
    null: float | int
    width: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class TwoBases:
    """Whether each basis is undercomplete, complete or overcomplete, within `tolerance` directions.

    weights: soft_rank against n_free; never overcomplete, a matrix has no rank above its size.
    activations: n_recovered minus its null, against the width.
    opposed: the weights are undercomplete while the activations are overcomplete, and no note says
        that the latter means nothing.
    notes: those of both sides.
    """

    weights: str
    activations: str
    opposed: bool
    tolerance: float | int
    notes: tuple[str, ...]


def weight_basis(
    curvature: Float[Tensor, "n_weights n_weights"],
    symmetries: Float[Tensor, "n_symmetries n_weights"],
    *,
    threshold: float | int,
    tolerance: float = 1e-9,
) -> WeightBasis:
    """Returns rank and soft rank of a curvature matrix at a minimiser, modulo symmetry.

    If a group leaves the loss alone, the tangents of its orbit through w* are in the kernel of the
    curvature and say nothing about the data. They are projected out; their span may be given with
    redundant vectors.

    Null: none is needed for an exact rank; compare it with n_free.

    Args:
        curvature: [n_weights, n_weights], Hessian, Gauss-Newton or Fisher matrix: symmetric, >= 0.
        symmetries: [n_symmetries, n_weights], generators of the group applied to w*, e.g. J W for
            the rotations of a hidden plane; shape [0, n_weights] for none.
        threshold: tau > 0, unit of the curvature, e.g. gamma / (n beta).
        tolerance: in (0, 1), relative to the largest eigenvalue: what counts as 0.
    Raises:
        ValueError: shapes, NaN, not symmetric, a negative eigenvalue (no minimum), a vector that is
            no symmetry: the curvature does not vanish along it.
    """
    where = "weight_basis"
    check_finite(where, curvature=curvature, symmetries=symmetries)
    shapes = {"curvature": tuple(curvature.shape), "symmetries": tuple(symmetries.shape)}
    square = curvature.ndim == 2 and shapes["curvature"][0] == shapes["curvature"][1] > 0
    fits = square and symmetries.ndim == 2 and symmetries.shape[1] == len(curvature)
    check(fits, where, "[n_weights, n_weights] and [n_symmetries, n_weights]", **shapes)
    check(0 < threshold < math.inf, where, "a finite threshold > 0", threshold=threshold)
    check(0 < tolerance < 1, where, "0 < tolerance < 1", tolerance=tolerance)
    h, tangents = curvature.detach().double(), symmetries.detach().double()
    size = float(torch.linalg.matrix_norm(h, 2))
    uneven = float((h - h.T).abs().max())
    check(uneven <= tolerance * size, where, "a symmetric curvature", asymmetry=uneven)
    _, singular, basis = torch.linalg.svd(tangents, full_matrices=True)
    orbit = int((singular > tolerance * singular[:1]).sum()) if len(tangents) else 0
    along = h @ basis[:orbit].T
    leak = float(torch.linalg.matrix_norm(along, 2)) if orbit else 0.0
    rule, todo = "symmetries along which the curvature is 0", "check the vectors, or refine w_star"
    # A root of the tolerance: an error e of w* turns the kernel by e but shifts eigenvalues by e^2.
    check(leak <= math.sqrt(tolerance) * size, where, rule, todo, curvature_along=leak, of=size)
    rest = basis[orbit:]
    values = torch.linalg.eigvalsh(rest @ h @ rest.T).flip(0)
    lowest = float(values[-1]) if len(values) else 0.0
    least = lowest >= -tolerance * size
    check(least, where, "a curvature without negative eigenvalues", "no minimum", lowest=lowest)
    rank = int((values > tolerance * size).sum())
    curved = values[:rank]
    dead = (h.abs().amax(1) <= tolerance * size).nonzero().flatten()
    n_flat = len(values) - rank
    notes = []
    if len(dead):
        notes.append(f"dead weights, along which there is no curvature at all: {len(dead)}")
    if n_flat:
        notes.append(f"flat directions that are no symmetry: {n_flat}; 2 lambda is only bounded")
    return WeightBasis(
        n_weights=len(h),
        n_free=len(values),
        rank=rank,
        soft_rank=float((curved / (curved + threshold)).sum()),
        effective_parameters=(float(rank), rank + n_flat / 2),
        eigenvalues=values,
        dead=dead,
        note="; ".join(notes),
    )


def activation_basis(
    recovered: Bool[Tensor, " n_features"],
    null_share: float | int,
    *,
    width: int,
    n_latents: int,
    k: int,
) -> ActivationBasis:
    """Returns the number of true directions recovered one-to-one, and what makes it meaningless.

    Null: null_share * n_features, the caller's, for latents of the same sizes (`Recovery`'s
    recovered_bound is one).

    Args:
        recovered: [n_features], True where a feature has a latent of its own (`Recovery`'s).
        null_share: expected share of features that chance recovers, or a bound, in [0, 1].
        width: dimension of the activations.   n_latents: of the SAE.
        k: most latents active at a time, 1 <= k <= n_latents.
    Raises: ValueError: shapes, sizes, more features recovered than there are latents.
    """
    where = "activation_basis"
    check_tensor(where, recovered=recovered)
    filled = recovered.ndim == 1 and len(recovered) > 0
    check(filled, where, "recovered [n_features]", shape=tuple(recovered.shape))
    check(0 <= null_share <= 1, where, "0 <= null_share <= 1", null_share=null_share)
    check_size(where, width=width, n_latents=n_latents, k=k)
    check(k <= n_latents, where, f"k <= {n_latents} (n_latents)", k=k)
    n_features, count = len(recovered), int(recovered.sum())
    check(count <= n_latents, where, f"at most {n_latents} (n_latents) recovered", recovered=count)
    null = null_share * n_features
    notes = []
    if k >= width:
        notes.append(f"any {width} independent latents span R^{width}: with k={k} no loss needs")
        notes[-1] += " the true directions"
    if null >= count > 0:
        notes.append(f"chance recovers up to {null:.3g} of {n_features}, as many as were found")
    if n_latents <= width:
        notes.append(f"{n_latents} latents cannot be overcomplete in R^{width}")
    if n_features <= width:
        notes.append(f"{n_features} features are not overcomplete in R^{width}")
    return ActivationBasis(count, null, width, tuple(notes))


def turned_share(
    dictionary: Float[Tensor, "n_features d_in"],
    W_dec: Float[Tensor, "n_latents d_in"],
    *,
    cosine: float,
    n_draws: int,
    generator: torch.Generator,
) -> float:
    """Returns the share of features that the same latents recover once the dictionary is turned.

    A null for `activation_basis` that keeps the angles among features and those among latents: the
    mean, over rotations Q drawn at random, of the share of rows of D Q whose matched cosine exceeds
    the limit. For regular n-gons both it is min(1, n arccos(cosine) / pi): in a plane a limit of
    0.9 lets chance recover most of a pentagon, one of 0.99 less than a quarter.

    Args:
        cosine: the limit above which a feature counts as recovered, in (0, 1).
        n_draws: >= 1; the result's own standard error is at most 0.5 / sqrt(n_draws).
    Raises: ValueError: sizes, cosine, what `recovery` raises.
    """
    where = "turned_share"
    check_size(where, n_draws=n_draws)
    check(0 < cosine < 1, where, "0 < cosine < 1", cosine=cosine)
    check_generator(where, generator, dictionary.device)
    d = dictionary.shape[-1]
    shares = []
    for _ in range(n_draws):
        normal = torch.randn(d, d, generator=generator, device=generator.device).double()
        q, r = torch.linalg.qr(normal)
        turned = dictionary.double() @ (q * r.diagonal().sign())  # signs: uniform over rotations
        shares.append(float((recovery(turned, W_dec.double()).cosines > cosine).double().mean()))
    return sum(shares) / n_draws


def two_bases(
    weights: WeightBasis, activations: ActivationBasis, *, tolerance: float | int = 0.5
) -> TwoBases:
    """Returns the joint report: which basis is undercomplete, complete or overcomplete.

    Weights compare soft_rank with n_free, activations n_recovered minus null with the width;
    "complete" is within the tolerance of equal.

    Args: tolerance: in directions, >= 0; a half is rounding to the nearest count.
    """
    finite = 0 <= tolerance < math.inf
    fits = isinstance(weights, WeightBasis) and isinstance(activations, ActivationBasis)
    got = {"weights": type(weights).__name__, "activations": type(activations).__name__}
    check(fits, "two_bases", "a WeightBasis and an ActivationBasis, in this order", **got)
    check(finite, "two_bases", "a finite tolerance >= 0", tolerance=tolerance)
    of_weights = _verdict(weights.soft_rank - weights.n_free, tolerance)
    of_activations = _verdict(
        activations.n_recovered - activations.null - activations.width, tolerance
    )
    opposed = (of_weights, of_activations) == (UNDERCOMPLETE, OVERCOMPLETE)
    notes = (*([weights.note] if weights.note else []), *activations.notes)
    sound = opposed and not activations.notes
    return TwoBases(of_weights, of_activations, sound, tolerance, notes)


def _verdict(surplus: float, tolerance: float | int) -> str:
    if abs(surplus) <= tolerance:
        return COMPLETE
    return OVERCOMPLETE if surplus > 0 else UNDERCOMPLETE
