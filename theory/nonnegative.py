"""Non-negative least squares whose answer is checked before it is believed."""

import numpy as np
from jaxtyping import Float
from scipy.optimize import lsq_linear, nnls

from theory.checks import check

TOLERANCE = 1e-9  # of the conditions of optimality, relative to the target's norm
ROUNDING = 1e-14


def nonnegative_least_squares(
    columns: Float[np.ndarray, "d n"], target: Float[np.ndarray, " d"]
) -> tuple[Float[np.ndarray, " n"], float]:
    """Returns the c >= 0 that minimises |target - columns @ c|, and this distance.

    c is optimal if and only if no column has a positive product with the residual, and those in use
    have none (Karush, Kuhn and Tucker). scipy.optimize.nnls is tried first, whose c and norm are
    wrong about once in ten thousand small problems from scipy 1.15 on (scipy issue 25389). Where
    the conditions fail by 1e-9, an active-set method from least squares gives c (Stark and Parker
    1995, Bounded-variable least squares).

    Raises: ValueError: neither is optimal.
    """
    c = nnls(columns, target)[0]
    if not _is_optimal(columns, target, c):
        c = _bounded(columns, target)
        rule, todo = "columns for which a solver ends at the optimum", "drop near repetitions"
        condition = float(np.linalg.cond(columns))
        optimal = _is_optimal(columns, target, c)
        check(optimal, "nonnegative_least_squares", rule, todo, condition_number=condition)
    return c, float(np.linalg.norm(target - columns @ c))


def _bounded(columns: np.ndarray, target: np.ndarray) -> np.ndarray:
    found = lsq_linear(columns, target, (0, np.inf), method="bvls", tol=1e-14)
    return np.where(found.active_mask == 0, found.x, 0.0).clip(min=0)


def _is_optimal(columns: np.ndarray, target: np.ndarray, c: np.ndarray) -> bool:
    norms, used = np.linalg.norm(columns, axis=0), c > 0
    # A residual is known up to the rounding of the terms that it is the difference of.
    small = TOLERANCE * np.linalg.norm(target) + ROUNDING * float(norms @ np.abs(c))
    slopes = columns.T @ (target - columns @ c) / np.where(norms > 0, norms, 1)
    return bool((c >= 0).all() and (slopes <= small).all() and (slopes[used] >= -small).all())
