"""Non-negative least squares: optimal by the conditions that decide it, whatever a solver says."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import theory.nonnegative as nonnegative
from theory.nonnegative import nonnegative_least_squares
from toymodels import stream

sizes = st.integers(1, 6)
# For scipy 1.15 to 1.17 its own nnls returns (.255, .113, 0) here, and a false norm.
ROWS = np.array(
    [
        [0.26462509, -0.51551107, -0.8149981],
        [-0.71104722, -0.67521113, 0.19621872],
        [-0.65144871, 0.52757773, -0.54523051],
    ]
)


@given(
    st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1), st.booleans(), st.booleans()
)
def test_no_feasible_step_lowers_the_distance(d, n, seed, orthogonal, whole):
    """The slope along a coefficient is 0 where it is positive, and not downhill where it is 0."""
    generator = stream(seed, "problem")
    columns = torch.randn(max(d, n), max(d, n), generator=generator, dtype=torch.float64)
    columns = torch.linalg.qr(columns)[0][:d, :n] if orthogonal else columns[:d, :n]
    code = torch.randint(-2, 3, (n,), generator=generator).double()
    target = columns @ code if whole else torch.randn(d, generator=generator).double()
    c, distance = nonnegative_least_squares(columns.numpy(), target.numpy())
    residual = target.numpy() - columns.numpy() @ c
    slopes = columns.numpy().T @ residual
    assert (c >= 0).all()
    assert distance == pytest.approx(np.linalg.norm(residual), abs=1e-12)
    size = 1e-8 * (1 + np.linalg.norm(target))
    assert (slopes <= size).all()
    assert (np.abs(slopes[c > 0]) <= size).all()


def test_the_opposite_of_a_row_has_no_code():
    c, distance = nonnegative_least_squares(ROWS.T, -ROWS[2])
    assert c == pytest.approx(np.zeros(3), abs=1e-6)
    assert distance == pytest.approx(1.0, abs=1e-6)


def test_a_solver_that_errs_is_not_believed(monkeypatch):
    """With a solver that stops at 0, and one that leaves the cone, the answer is the same."""
    right = nonnegative_least_squares(ROWS.T, ROWS[0] + 2 * ROWS[1])
    for wrong in (np.zeros(3), np.array([1.0, 2.0, -0.5])):
        monkeypatch.setattr(nonnegative, "nnls", lambda *_, wrong=wrong: (wrong, 0.0))
        c, distance = nonnegative_least_squares(ROWS.T, ROWS[0] + 2 * ROWS[1])
        assert c == pytest.approx(right[0], abs=1e-9)
        assert distance == pytest.approx(right[1], abs=1e-9)


def test_no_optimum_is_an_error(monkeypatch):
    monkeypatch.setattr(nonnegative, "nnls", lambda *_: (np.zeros(3), 0.0))
    monkeypatch.setattr(nonnegative, "_bounded", lambda *_: np.zeros(3))
    with pytest.raises(ValueError, match="expected columns for which a solver ends at the optimum"):
        nonnegative_least_squares(ROWS.T, ROWS[0])
