"""Sparse codes of given targets in given atoms: greedy (omp) and exact (best_support)."""

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from theory.checks import check, check_finite, check_size

MAX_SUPPORTS = 5000
_EXPLAINED = 1e-9  # a residual this small relative to its target is rounding
_DEPENDENT = 1e-6  # an atom whose unit vector is this close to the span of the chosen ones is in it


def omp(
    targets: Float[Tensor, "n d_in"],
    atoms: Float[Tensor, "m d_in"],
    k: int,
    *,
    nonnegative: bool = False,
) -> Float[Tensor, "n m"]:
    """Returns codes with at most k non-zeros per target, found by orthogonal matching pursuit.

    k times: add the atom with the largest |cosine| with the residual, then refit all chosen
    coefficients by least squares. With `nonnegative` the largest positive cosine and a refit under
    coefficients >= 0 (the Lawson-Hanson active-set method, stopped after k additions; an atom
    whose coefficient reaches 0 leaves, so the code may hold fewer than k).

    A target stops early when it is explained (relative residual 1e-9) or no atom helps (relative
    correlation 1e-6), so duplicate, dependent and zero atoms are never added. Computed in float64.
    Its R^2 is a lower bound of `best_support`'s.

    Args:
        targets: [n, d_in]; a zero target gets the zero code.   atoms: [m, d_in], any norms.
        k: atoms per target, 1 <= k <= m.
    Returns:
        codes: [n, m], in the units in which targets = codes @ atoms; dtype of the targets.
    Raises: ValueError: shapes, NaN, k out of range.
    Source: Pati et al. 1993; with `nonnegative`, Bruckstein, Elad & Zibulevsky 2008.
    Example:
        >>> omp(torch.tensor([[3.0, 0.0, -1.0]]), torch.eye(3), 2).tolist()
        [[3.0, 0.0, -1.0]]
    """
    _check_problem("omp", targets, atoms, k)
    x, atoms = targets.detach().double(), atoms.detach().double()
    norms = torch.linalg.vector_norm(atoms, dim=1)
    norms = torch.where(norms > 0, norms, 1.0)
    unit = atoms / norms[:, None]
    support = torch.zeros(len(x), k, dtype=torch.int64, device=x.device)
    active = torch.zeros(len(x), k, dtype=torch.bool, device=x.device)
    coefs = torch.zeros_like(support, dtype=x.dtype)
    codes = x.new_zeros(len(x), len(unit))
    residual, scale = x, torch.linalg.vector_norm(x, dim=1)
    for step in range(k):
        cosines = residual @ unit.T
        cosines = cosines if nonnegative else cosines.abs()
        chosen = torch.zeros_like(codes).scatter_add_(1, support, active.double()) > 0
        best, support[:, step] = cosines.masked_fill(chosen, -math.inf).max(1)
        rest = torch.linalg.vector_norm(residual, dim=1)
        active[:, step] = (best > _DEPENDENT * rest) & (rest > _EXPLAINED * scale)
        basis = unit[support]
        coefs, active = _refit(x, basis, coefs, active, nonnegative)
        residual = x - (coefs[:, None] @ basis)[:, 0]
    return codes.scatter_add_(1, support, coefs / norms[support]).to(targets.dtype)


@dataclass(frozen=True)
class BestSupport:
    """The best k atoms of each target. r_squared: [n], in [0, 1]; support: [n, k], atom indices."""

    r_squared: Float[Tensor, " n"]
    support: Int[Tensor, "n k"]


def best_support(
    targets: Float[Tensor, "n d_in"], atoms: Float[Tensor, "m d_in"], k: int
) -> BestSupport:
    """Returns the exact maximiser of R_k^2 = max over |S| = k of |P_S u|^2 / |u|^2, by full search.

    P_S projects on the span of the atoms in S (signed codes; rank-deficient S allowed). The value
    over |S| <= k is the same. Null: `isotropic_fve_bound`, `composition_p_value`.

    Args:
        targets: [n, d_in], non-zero rows.   atoms: [m, d_in].   k: 1 <= k <= m, C(m, k) <= 5,000.
    Raises: ValueError: more than 5,000 supports (use `omp`, a lower bound), a zero target, NaN.
    Source: eq:composition.
    """
    _check_problem("best_support", targets, atoms, k)
    n_supports = math.comb(len(atoms), k)
    check(
        n_supports <= MAX_SUPPORTS,
        "best_support",
        f"at most {MAX_SUPPORTS} supports",
        "use omp, whose R^2 is a lower bound",
        n_supports=n_supports,
    )
    norms = torch.linalg.vector_norm(targets.detach().double(), dim=1, keepdim=True)
    check(
        bool((norms > 0).all()), "best_support", "non-zero targets", n_zero=int((norms == 0).sum())
    )
    u = targets.detach().double() / norms
    supports = torch.tensor(list(itertools.combinations(range(len(atoms)), k)), device=u.device)
    best = u.new_full((len(u),), -1.0)
    index = torch.zeros_like(best, dtype=torch.int64)
    for start in range(0, n_supports, 256):  # bounds the memory: 256 k n numbers at a time
        bases = atoms.detach().double()[supports[start : start + 256]]
        _, singular, right = torch.linalg.svd(bases, full_matrices=False)
        keep = singular > 1e-10 * singular[:, :1]
        values = (torch.einsum("skd,nd->nsk", right, u).square() * keep).sum(2)
        value, where = values.max(1)
        index = torch.where(value > best, start + where, index)
        best = torch.maximum(best, value)
    return BestSupport(best.clamp(max=1).to(targets.dtype), supports[index])


def r_squared(
    targets: Float[Tensor, "n d_in"], reconstruction: Float[Tensor, "n d_in"]
) -> Float[Tensor, " n"]:
    """Returns 1 - |u - u_hat|^2 / |u|^2 per row: 1 is exact, 0 is the zero vector, no lower limit.

    Uncentred. Null: see `composition_p_value`. Raises ValueError for zero targets.
    """
    check_finite("r_squared", targets=targets, reconstruction=reconstruction)
    shapes = (tuple(targets.shape), tuple(reconstruction.shape))
    equal = shapes[0] == shapes[1]
    check(equal, "r_squared", "equal shapes", targets=shapes[0], reconstruction=shapes[1])
    energy = targets.square().sum(1)
    check(
        bool((energy > 0).all()), "r_squared", "non-zero targets", n_zero=int((energy == 0).sum())
    )
    return 1 - (targets - reconstruction).square().sum(1) / energy


def _refit(
    x: Float[Tensor, "n d_in"],
    basis: Float[Tensor, "n k d_in"],
    coefs: Float[Tensor, "n k"],
    active: Bool[Tensor, "n k"],
    nonnegative: bool,
) -> tuple[Float[Tensor, "n k"], Bool[Tensor, "n k"]]:
    """Returns least-squares coefficients on the active slots, and the slots still active."""
    while True:
        solution = _least_squares(x, basis, active)
        negative = active & (solution <= 0)
        blocked = negative.any(1)
        if not nonnegative or not bool(blocked.any()):
            return solution, active
        # Walk from the feasible coefs towards the solution until the first one reaches 0.
        # Each round removes a slot of every blocked row (0/0 counts as 0), so this ends.
        coefs = coefs.clamp(min=0)
        steps = torch.where(negative, coefs / (coefs - solution).clamp(min=1e-300), math.inf)
        length = steps.min(1, keepdim=True).values.clamp(max=1)
        coefs = torch.where(active, coefs + length * (solution - coefs), 0.0)
        active = active & ~(negative & (steps <= length))
        coefs = torch.where(active, coefs, 0.0)


def _least_squares(
    x: Float[Tensor, "n d_in"], basis: Float[Tensor, "n k d_in"], active: Bool[Tensor, "n k"]
) -> Float[Tensor, "n k"]:
    """Returns the coefficients of x on its active basis rows, 0 elsewhere."""
    both = active[:, :, None] & active[:, None, :]
    identity = torch.eye(basis.shape[1], dtype=x.dtype, device=x.device)
    gram = torch.where(both, basis @ basis.mT, identity)
    solution = torch.linalg.solve(gram, (basis @ x[:, :, None])[..., 0] * active)
    # One step of refinement: the Gram matrix squares the condition number of nearly equal atoms.
    residual = x - (solution[:, None] @ basis)[:, 0]
    return solution + torch.linalg.solve(gram, (basis @ residual[:, :, None])[..., 0] * active)


def _check_problem(where: str, targets: Tensor, atoms: Tensor, k: int) -> None:
    check_finite(where, targets=targets, atoms=atoms)
    shapes = (tuple(targets.shape), tuple(atoms.shape))
    fits = targets.ndim == atoms.ndim == 2 and targets.shape[1] == atoms.shape[1]
    rule = "targets [n, d_in] and atoms [m, d_in]"
    check(fits, where, rule, targets=shapes[0], atoms=shapes[1])
    check(1 <= k <= len(atoms), where, f"1 <= k <= {len(atoms)} (number of atoms)", k=k)
    check_size(where, k=k)
