"""Newton's method: quadratic losses in closed form, what it leaves alone, what it refuses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory.newton import flatten, gradient_of, hessian_of, newton, unflatten
from theory.phases import polygon_phase
from theory.potential import potential_hessian, refine
from toymodels import stream

sizes = st.tuples(st.integers(1, 3), st.integers(1, 4))
seeds = st.integers(0, 2**32 - 1)
WHO = {"where": "here", "todo": "do this"}


def normal(seed, *shape):
    return torch.randn(*shape, generator=stream(seed, "test"), dtype=torch.float64)


def parameters(seed, size):
    m, c = size
    w = normal(seed, m * c + c)
    return w[: m * c].view(m, c), w[m * c :]


def along(slope, curvature):
    """A gradient and a Hessian that see W [1, 1] only: dL/dW and d2L/dW2 of W."""

    def gradient(W, b):
        return torch.stack([slope(W[0, 0]), 0 * b[0]])

    def hessian(W, b):
        return torch.stack([curvature(W[0, 0]), 0 * b[0]]).diag()

    return gradient, hessian


def at(x):
    return torch.tensor([[x]], dtype=torch.float64), torch.tensor([0.25], dtype=torch.float64)


@given(sizes, seeds)
def test_parameters_come_back_in_order(size, seed):
    W, b = parameters(seed, size)
    w = flatten(W, b)
    assert w.tolist() == [float(x) for row in W for x in row] + [float(x) for x in b]
    back_W, back_b = unflatten(w, len(b))
    assert torch.equal(back_W, W)
    assert torch.equal(back_b, b)


@given(sizes, seeds)
def test_derivatives_are_those_of_a_cubic(size, seed):
    """L = sum_k (V w)_k^3: the gradient is 3 V^T (Vw)^2, the Hessian 6 V^T diag(Vw) V."""
    W, b = parameters(seed, size)
    w = torch.cat([W.flatten(), b])
    V = normal(seed, len(w) + 1, len(w))

    def loss(W, b):
        return (V[:, : W.numel()] @ W.flatten() + V[:, W.numel() :] @ b).pow(3).sum()

    hessian = 6 * V.T @ (V @ w).diag() @ V
    assert torch.allclose(gradient_of(loss, W, b), 3 * V.T @ (V @ w) ** 2, rtol=1e-9, atol=1e-9)
    assert torch.allclose(hessian_of(loss, W, b), hessian, rtol=1e-9, atol=1e-9)


@given(sizes, seeds, st.integers(0, 16))
def test_a_quadratic_takes_one_step_and_keeps_its_null_directions(size, seed, n_null):
    """L = (w - o)^T A (w - o) / 2 with eigenvalues 0 and +-1 to +-2: w - o loses all but its
    part in the kernel."""
    W, b = parameters(seed, size)
    n, steps = W.numel() + len(b), []
    Q = torch.linalg.qr(normal(seed, n, n)).Q
    values = torch.linspace(1, 2, n, dtype=torch.float64) * (-1.0) ** torch.arange(n)
    values[: min(n_null, n)] = 0.0
    A, origin = Q @ values.diag() @ Q.T, normal(seed + 1, n)

    def gradient(W, b):
        return A @ (torch.cat([W.flatten(), b]) - origin)

    def hessian(W, b):
        steps.append(1)
        return A

    ends = newton(gradient, hessian, W, b, rtol=1e-7, n_steps=1, **WHO)
    found = torch.cat([x.flatten() for x in ends])
    kernel = Q[:, values == 0]
    apart = torch.cat([W.flatten(), b]) - origin
    assert torch.allclose(found - origin, kernel @ (kernel.T @ apart), atol=1e-9)
    assert len(steps) == (n_null < n)


def test_the_cut_decides_what_is_null():
    """Curvatures 1 along W and 1e-9 along b: below the cut of 1e-7, above that of 1e-10."""
    curvatures = torch.tensor([1.0, 1e-9], dtype=torch.float64)

    def gradient(W, b):
        return curvatures * torch.cat([W[0], b])

    ends = [
        newton(gradient, lambda W, b: curvatures.diag(), *at(0.5), rtol=cut, n_steps=5, **WHO)
        for cut in (1e-7, 1e-10)
    ]
    assert [float(W) for W, _ in ends] == [0, 0]
    assert [float(b) for _, b in ends] == pytest.approx([0.25, 0], abs=1e-15)


def test_no_hessian_is_asked_for_at_a_critical_point():
    """A square of bias 0 is critical and not C^2: it has no Hessian, and stays where it is."""
    square = polygon_phase(6, 4)
    with pytest.raises(ValueError, match="C\\^2"):
        potential_hessian(square.W, square.b)
    W, b = refine(square.W, square.b)
    assert torch.equal(W, square.W)
    assert torch.equal(b, square.b)


def test_the_point_returned_is_the_one_that_is_checked():
    """dL/dW = s (1 + W) + W^2 with s = 5e-9: small at 0, but the step from there ends at -1."""
    s = 5e-9
    derivatives = along(lambda x: s * (1 + x) + x * x, lambda x: s + 2 * x)
    message = r"^here: expected convergence.* within 1 steps, got gradient_norm=1\.0; do this$"
    with pytest.raises(ValueError, match=message):
        newton(*derivatives, *at(0.0), rtol=1e-7, n_steps=1, **WHO)


def test_steps_end_at_the_limit():
    """dL/dW = W^3: a step takes off a third, (2/3)^3k of the slope is left after k."""
    derivatives = along(lambda x: x**3, lambda x: 3 * x * x)
    W, b = newton(*derivatives, *at(1.0), rtol=1e-7, n_steps=16, **WHO)
    assert float(W) == pytest.approx((2 / 3) ** 16, rel=1e-9)
    assert b.tolist() == [0.25]
    with pytest.raises(ValueError, match="within 15 steps, got gradient_norm=1"):
        newton(*derivatives, *at(1.0), rtol=1e-7, n_steps=15, **WHO)
