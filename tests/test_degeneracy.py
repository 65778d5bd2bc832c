"""The two bases: ranks modulo symmetry, the local interaction basis, counts beside their null."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from theory.autoencoder_curvature import autoencoder_gauss_newton, rotation_tangents
from theory.curvature import hessian
from theory.degeneracy import (
    activation_basis,
    turned_share,
    two_bases,
    weight_basis,
)
from theory.interaction_basis import interaction_basis
from theory.known_coefficients import normal_crossing, reduced_rank, regular_quadratic
from theory.phases import polygon_phase
from theory.potential import potential_hessian
from theory.recovery import recovery
from toymodels import stream

seeds = st.integers(0, 2**32 - 1)


def normal(*shape, seed, name):
    return torch.randn(*shape, generator=stream(seed, name), dtype=torch.float64)


def orthogonal(n, seed, name="rotation"):
    return torch.linalg.qr(normal(n, n, seed=seed, name=name))[0]


# ------------------------------------------------------------------ the weight side


def gl_tangents(n_in, n_out, n_hidden):
    """The change of (A, B) under A -> (1 + g) A, B -> B (1 - g), g each elementary matrix."""
    a = torch.eye(n_hidden, n_in, dtype=torch.float64)
    b = torch.eye(n_out, n_hidden, dtype=torch.float64)
    units = torch.eye(n_hidden**2, dtype=torch.float64).reshape(-1, n_hidden, n_hidden)
    return torch.stack([torch.cat([(g @ a).flatten(), -(b @ g).flatten()]) for g in units])


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), seeds)
def test_a_linear_network_is_degenerate_by_its_symmetry_alone(m, n, h, seed):
    """Rank h of h hidden units: n_weights = rank + h^2, and rank / 2 is the known lambda."""
    h = min(h, m, n)
    model = reduced_rank(m, n, h, h)
    curvature, tangents = hessian(model.loss, model.w_star), gl_tangents(m, n, h)
    found = weight_basis(curvature, tangents, threshold=0.1)
    assert found.n_weights - found.n_free == h * h
    assert found.rank == found.n_free == 2 * model.coefficient == h * (m + n - h)
    assert found.effective_parameters == (found.rank, found.rank)
    assert (found.note, len(found.dead)) == ("", 0)
    values = torch.linalg.eigvalsh(curvature)
    values = values[values > 1e-9]
    assert found.soft_rank == pytest.approx(float((values / (values + 0.1)).sum()))
    # Redundant generators and other coordinates of the weights change nothing.
    q = orthogonal(len(curvature), seed)
    mixed = normal(h * h + 2, h * h, seed=seed, name="generators") @ tangents
    again = weight_basis(q @ curvature @ q.T, mixed @ q.T, threshold=0.1)
    assert (again.rank, again.n_free) == (found.rank, found.n_free)
    assert again.soft_rank == pytest.approx(found.soft_rank)
    assert torch.allclose(again.eigenvalues, found.eigenvalues, atol=1e-9)
    # The symmetry not declared: as many flat directions without a reason, and only bounds.
    blind = weight_basis(curvature, tangents[:0], threshold=0.1)
    assert (blind.rank, blind.n_free - blind.rank) == (found.rank, h * h)
    assert blind.effective_parameters == (found.rank, found.rank + h * h / 2)
    assert f"no symmetry: {h * h};" in blind.note


@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 0), (2, 3, 2, 0), (3, 3, 2, 1), (4, 3, 3, 1), (2, 2, 2, 1)]
)
def test_bounds_hold_where_the_rank_is_not_the_whole_story(sizes):
    model = reduced_rank(*sizes)
    curvature = hessian(model.loss, model.w_star)
    low, high = weight_basis(curvature, curvature[:0], threshold=0.1).effective_parameters
    assert low < 2 * model.coefficient <= high


def test_bounds_are_attained():
    """The lower one by a flat manifold, the upper one by a fourth power."""
    for model, which in ((regular_quadratic([1.0, 0.0]), 0), (normal_crossing([2]), 1)):
        curvature = hessian(model.loss, model.w_star)
        bounds = weight_basis(curvature, curvature[:0], threshold=0.1).effective_parameters
        assert bounds[which] == 2 * model.coefficient
        assert bounds[0] < bounds[1]


def test_soft_rank_is_twice_the_localised_mean():
    model = regular_quadratic([3.0, 1.0, 0.2, 0.0])
    curvature = hessian(model.loss, model.w_star)
    found = weight_basis(curvature, curvature[:0], threshold=5 / 40)
    assert found.soft_rank == pytest.approx(2 * model.localised_mean(40, 5))
    assert found.dead.tolist() == [3]
    assert "no curvature at all: 1;" in found.note
    none = weight_basis(torch.zeros(2, 2), torch.zeros(0, 2), threshold=1.0)
    assert (none.rank, none.soft_rank, none.dead.tolist()) == (0, 0, [0, 1])


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), seeds)
def test_soft_rank_falls_from_the_rank_to_zero(n, n_outputs, n_samples, seed):
    jacobian = normal(n_outputs * n_samples, n, seed=seed, name="jacobian")
    fisher = jacobian.T @ jacobian
    options = {"symmetries": fisher[:0]}
    soft = [weight_basis(fisher, **options, threshold=t).soft_rank for t in (1e-7, 0.1, 1, 10, 1e9)]
    assert soft == sorted(soft, reverse=True)
    curved = torch.linalg.svdvals(jacobian).square()  # as many as the rank, some small
    assert soft[0] == pytest.approx(float((curved / (curved + 1e-7)).sum()), abs=1e-6)
    assert soft[-1] < 1e-5


# ------------------------------------------------------------------ a toy model of superposition

networks = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 12), seeds)


def network(m, c, n, seed):
    """Weights, biases, codes and importances, none of them special."""
    x = normal(n, c, seed=seed, name="x").clamp(min=0)
    importance = normal(c, seed=seed, name="importance").exp()
    return normal(m, c, seed=seed, name="W"), normal(c, seed=seed, name="b"), x, importance


def outputs(w, x, m, c):
    """relu(W^T W x + b) of one vector of weights, as it is written."""
    W, b = w[: m * c].reshape(m, c), w[m * c :]
    return (W.T @ (W @ x.T)).T.add(b).relu()


@given(networks)
def test_gauss_newton_is_the_sum_over_samples_and_outputs(sizes):
    m, c, n, _ = sizes
    W, b, x, importance = network(*sizes)
    found = autoencoder_gauss_newton(W, b, x, importance=importance, largest_step=1e99)
    w = torch.cat([W.flatten(), b])
    jacobian = torch.autograd.functional.jacobian(lambda v: outputs(v, x, m, c), w)
    expected = sum(
        2 * importance[j] / n * torch.outer(jacobian[i, j], jacobian[i, j])  # type: ignore[index]
        for i in range(n)
        for j in range(c)
    )
    size = 1 + float(found.abs().max())
    assert torch.allclose(found, expected, rtol=0, atol=1e-9 * size)
    tangents = rotation_tangents(W)
    assert tangents.shape == (m * (m - 1) // 2, len(w))
    scale = size * (1 + float(W.abs().max()))
    assert float((found @ tangents.T).abs().sum()) <= 1e-9 * scale


@given(networks)
def test_only_minimisers_have_a_curvature(sizes):
    """The limit is on |gradient| / largest curvature: refused just below it, taken just above."""
    m, c, _, _ = sizes
    W, b, x, importance = network(*sizes)
    w = torch.cat([W.flatten(), b]).requires_grad_()
    ((outputs(w, x, m, c) - x).square().mean(0) * importance).sum().backward()
    options = {"importance": importance}
    curvature = autoencoder_gauss_newton(W, b, x, **options, largest_step=1e99)
    slope, size = float(w.grad.norm()), float(torch.linalg.matrix_norm(curvature, 2))
    if size == 0 or slope < 1e-9 * size:
        return  # every output is silent, or the point is a minimiser
    taken = autoencoder_gauss_newton(W, b, x, **options, largest_step=1.001 * slope / size)
    assert torch.equal(taken, curvature)
    with pytest.raises(ValueError, match=r"gradient_norm=.*not a minimiser: train longer, or ref"):
        autoencoder_gauss_newton(W, b, x, **options, largest_step=0.999 * slope / size)


@given(st.integers(2, 4), st.integers(1, 5), seeds)
def test_rotations_move_the_weights_along_their_tangents(m, c, seed):
    """The derivative of exp(t A) W at 0, A each matrix with -1 and 1 in two places."""
    W = normal(m, c, seed=seed, name="W")
    tangents = iter(rotation_tangents(W))
    for i in range(m):
        for j in range(i + 1, m):
            generator = torch.zeros(m, m, dtype=torch.float64)
            generator[i, j], generator[j, i] = -1, 1
            turn = torch.matrix_exp(1e-6 * generator) - torch.matrix_exp(-1e-6 * generator)
            expected = torch.cat([(turn @ W / 2e-6).flatten(), torch.zeros(c).double()])
            assert torch.allclose(next(tangents), expected, atol=1e-8)
    assert next(tangents, None) is None


def test_gauss_newton_is_the_hessian_where_nothing_is_lost():
    """W orthogonal, b = 0, x > 0: x' = x exactly; the curvature is that of the loss."""
    W, x = orthogonal(3, 0), 1 + normal(20, 3, seed=0, name="x").square()
    importance = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)

    def loss(points):
        errors = [(outputs(w, x, 3, 3) - x).square() @ importance for w in points]
        return torch.stack(errors).mean(1)

    found = autoencoder_gauss_newton(W, torch.zeros(3).double(), x, importance=importance)
    assert torch.allclose(found, hessian(loss, torch.cat([W.flatten(), torch.zeros(3)])))


@pytest.mark.parametrize(
    ("c", "k", "raised", "rank"),
    [(5, 5, 0, 14), (6, 5, 0, 14), (6, 5, 1, 17), (6, 6, 0, 17), (8, 6, 0, 17)],
)
def test_a_silent_column_leaves_three_weights_undetermined(c, k, raised, rank):
    """Of 3 c - 1 that no rotation moves, in the exact Hessian; its bias and direction are free."""
    point = polygon_phase(c, k, n_raised=raised)
    tangents = rotation_tangents(point.W)
    options = {"threshold": 1e-9, "tolerance": 1e-7}
    found = weight_basis(potential_hessian(point.W, point.b), tangents, **options)
    assert (found.rank, found.n_free) == (rank, 3 * c - 1)
    assert found.soft_rank == pytest.approx(rank, abs=1e-3)
    # The Gauss-Newton matrix of z e_i, z on a grid, has the same rank and the same dead weights.
    z = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    x = (z[:, None, None] * torch.eye(c, dtype=torch.float64)).flatten(0, 1)
    ones = torch.ones(c, dtype=torch.float64)
    grid = autoencoder_gauss_newton(point.W, point.b, x, importance=ones)
    again = weight_basis(grid, tangents, **options)
    assert (again.rank, again.dead.tolist()) == (rank, found.dead.tolist())
    blind = weight_basis(grid, tangents[:0], **options)
    assert (blind.rank, blind.n_free) == (rank, 3 * c)


# ------------------------------------------------------------------ the local interaction basis


def layer(n_samples, n_out, d, seed, silent=0, inert=0):
    """Activations of d directions, `silent` of them constant, `inert` others without effect."""
    x = normal(n_samples, d, seed=seed, name="x") @ normal(d, d, seed=seed, name="mix")
    j = normal(n_samples, n_out, d, seed=seed, name="jacobian")
    q = orthogonal(d, seed)
    x, j = x @ q, j @ q
    x[:, :silent] = 3.0
    j[:, :, silent : silent + inert] = 0
    return x @ q.T, j @ q.T


@given(st.integers(2, 5), st.integers(0, 2), st.integers(0, 2), seeds)
def test_the_interaction_basis_does_what_it_says(d, silent, inert, seed):
    silent, inert = min(silent, d - 1), min(inert, d - 1 - min(silent, d - 1))
    x, j = layer(4 * d, d, d, seed, silent, inert)
    found = interaction_basis(x, j)
    n = d - silent - inert
    assert (len(found.strengths), found.n_silent, found.n_inert) == (n, silent, inert)
    # Directions that vary together with inert ones keep their own whole effect.
    c = (x - found.mean) @ found.to_basis.T
    covariance = c.T @ c / len(c)
    scale = float(found.strengths[0]) ** 2
    assert torch.allclose(covariance, found.strengths.square().diag(), rtol=0, atol=1e-8 * scale)
    through = j @ found.from_basis
    gram = torch.einsum("soi,soj->ij", through, through) / len(j)
    assert torch.allclose(gram, torch.eye(n, dtype=gram.dtype), rtol=0, atol=1e-7)
    both = found.to_basis @ found.from_basis
    assert torch.allclose(both, torch.eye(n, dtype=both.dtype), rtol=0, atol=1e-7)
    # To first order nothing of the layer's effect is lost.
    rebuilt = c @ found.from_basis.T
    wanted, kept = ((torch.einsum("soi,ti->sto", j, y)) for y in (x - found.mean, rebuilt))
    assert torch.allclose(wanted, kept, rtol=0, atol=1e-6 * float(wanted.abs().max()))
    assert list(found.strengths) == sorted(found.strengths, reverse=True)


@given(st.integers(1, 4), seeds)
def test_strengths_do_not_depend_on_the_given_basis(d, seed):
    """x -> M x takes J to J M^-1; principal components and Jacobian alone both change."""
    x, j = layer(5 * d, 3, d, seed)
    m = orthogonal(d, seed, "left") @ torch.diag(torch.linspace(0.3, 3, d).double())
    # A direction that the tolerance drops in one basis it may keep in the other.
    found, moved = (
        interaction_basis(*layer, tolerance=1e-18)
        for layer in ((x, j), (x @ m.T, j @ torch.linalg.inv(m)))
    )
    assert torch.allclose(found.strengths, moved.strengths, rtol=1e-6)
    shifted = interaction_basis(x + 7, j, tolerance=1e-18)
    assert torch.allclose(found.strengths, shifted.strengths, rtol=1e-6)
    doubled = interaction_basis(x, 2 * j, tolerance=1e-18)
    assert torch.allclose(2 * found.strengths, doubled.strengths, rtol=1e-9)


def test_known_interaction_basis():
    """Coordinates of sizes 2 and 1 that act with weights 1 and 6: strengths 6 and 2."""
    x = torch.tensor([[2.0, 1], [2, -1], [-2, 1], [-2, -1]])
    found = interaction_basis(x, torch.diag(torch.tensor([1.0, 6.0])).expand(4, 2, 2))
    assert found.strengths.tolist() == pytest.approx([6, 2])
    assert found.to_basis.abs().flatten().tolist() == pytest.approx([0, 6, 1, 0], abs=1e-12)


# ------------------------------------------------------------------ the activation side, and both


def polygon(n):
    angles = torch.arange(n).double() * (2 * math.pi / n)
    return torch.stack([angles.cos(), angles.sin()], 1)


def both_bases(n, recovered, *, curvatures, k=1, null=0.0, tolerance=0.5, width=2, n_latents=None):
    mask = torch.arange(n) < recovered
    h = torch.diag(torch.tensor(curvatures).double())
    options = {"width": width, "n_latents": n_latents or 2 * n, "k": k}
    return two_bases(
        weight_basis(h, h[:0], threshold=0.01),
        activation_basis(mask, null, **options),
        tolerance=tolerance,
    )


def test_verdicts():
    under, complete = [1.0, 1.0, 0.0], [1.0, 1.0, 2.0]
    found = both_bases(8, 8, curvatures=under, width=4)
    assert (found.weights, found.activations, found.tolerance) == (
        "undercomplete",
        "overcomplete",
        0.5,
    )
    assert found.opposed
    assert len(found.notes) == 1  # the dead weight and its flat direction, in one
    found = both_bases(8, 4, curvatures=complete, width=4)
    assert (found.weights, found.activations, found.opposed) == ("complete", "complete", False)
    assert both_bases(8, 3, curvatures=complete, width=4).activations == "undercomplete"
    # Half a direction is the border, both sides of it; chance counts against what was found.
    assert both_bases(8, 5, curvatures=under, width=4, null=0.05).activations == "overcomplete"
    assert both_bases(8, 5, curvatures=under, width=4, null=0.07).activations == "complete"
    assert both_bases(8, 5, curvatures=under, width=4, tolerance=1).activations == "complete"
    # Curvatures at the threshold count a half.
    assert both_bases(8, 5, curvatures=[1.0, 0.01], width=4).weights == "undercomplete"
    assert both_bases(8, 5, curvatures=[1.0, 0.03], width=4).weights == "complete"


def test_two_latents_span_a_plane():
    """k = 2 in two dimensions: any two latents code everything, so a count of 5 means nothing."""
    under = [1.0, 0.0]
    for k, sound in ((1, True), (2, False), (3, False)):
        found = both_bases(5, 5, curvatures=under, k=k)
        assert (found.weights, found.activations) == ("undercomplete", "overcomplete")
        assert found.opposed is sound
        assert any("span R^2" in note for note in found.notes) is not sound
    # The loss cannot tell: wrong latents, two at a time, code every feature without error.
    wrong = polygon(5) @ torch.linalg.qr(torch.tensor([[1.0, 2.0], [0.5, -1.0]]).double())[0]
    codes = torch.linalg.solve(wrong[:2].T, polygon(5).T)
    assert torch.allclose(wrong[:2].T @ codes, polygon(5).T)


def test_the_count_stands_beside_its_null():
    """Chance recovers most directions of a plane (cosine 0.9: within 26 degrees), none of R^32."""
    true = polygon(5)
    null = recovery(true, polygon(40)).recovered_bound
    found = activation_basis(recovery(true, true).recovered, null, width=2, n_latents=40, k=1)
    assert found.n_recovered == 5
    assert found.null == pytest.approx(5 * null)
    assert found.null >= 5
    assert any("chance recovers" in note for note in found.notes)
    wide = torch.linalg.qr(normal(64, 32, seed=0, name="rows"))[0]
    wide = wide / wide.norm(dim=1, keepdim=True)
    result = recovery(wide, wide)
    found = activation_basis(result.recovered, result.recovered_bound, width=32, n_latents=64, k=3)
    assert (found.n_recovered, found.notes) == (64, ())
    assert found.null < 1e-6
    h = torch.diag(torch.tensor([1.0, 0.0]))
    assert two_bases(weight_basis(h, h[:0], threshold=0.01), found).opposed
    # Isotropic latents instead of the features: the report is not fooled.
    latents = normal(64, 32, seed=1, name="latents")
    result = recovery(wide, latents)
    options = {"width": 32, "n_latents": 64, "k": 3}
    chance = activation_basis(result.recovered, result.recovered_bound, **options)
    report = two_bases(weight_basis(h, h[:0], threshold=0.01), chance)
    assert (report.activations, report.opposed) == ("undercomplete", False)


@pytest.mark.parametrize(("n", "cosine"), [(5, 0.99), (6, 0.99), (5, 0.95), (8, 0.9)])
def test_turned_polygons_recover_as_often_as_they_must(n, cosine):
    """All or none: within arccos(cosine) of one of n directions, hence n arccos(cosine) / pi.

    500 draws, false alarm 1e-10; with probability 99 % a share that is off by 0.2 is noticed.
    """
    generator = stream(n, "turns")
    options = {"cosine": cosine, "n_draws": 500, "generator": generator}
    share = turned_share(polygon(n), polygon(n).flip(0), **options)
    chance = min(1.0, n * math.acos(cosine) / math.pi)
    assert binomtest(round(500 * share), 500, chance).pvalue > 1e-10
    if chance == 1:
        assert share == 1


def test_turning_keeps_the_angles():
    """A dictionary is no longer found, in many dimensions; on a line half of the turns keep it."""
    rows = normal(24, 32, seed=0, name="rows")
    options = {"cosine": 0.9, "n_draws": 20, "generator": stream(0, "turns")}
    assert turned_share(rows, rows, **options) == 0
    one = torch.ones(1, 1, dtype=torch.float64)
    options |= {"n_draws": 200}
    share = turned_share(one, one, **options)
    assert binomtest(round(200 * share), 200, 0.5).pvalue > 1e-10


def test_counts_that_cannot_be_overcomplete():
    mask = torch.ones(3, dtype=torch.bool)
    assert "3 features are not" in activation_basis(mask, 0, width=4, n_latents=9, k=1).notes[0]
    notes = activation_basis(mask, 0.0, width=2, n_latents=3, k=1).notes
    assert notes == ()
    few = activation_basis(mask & False, 0.0, width=2, n_latents=2, k=1)
    assert few.notes == ("2 latents cannot be overcomplete in R^2",)


EYE = torch.eye(2)
MASK = torch.ones(3, dtype=torch.bool)
X, J = layer(6, 2, 3, 0)


def basis(h=EYE, symmetries=EYE[:0], **options):
    return weight_basis(h, symmetries, **{"threshold": 1.0, **options})


def counted(mask=MASK, null=0.0, **options):
    return activation_basis(mask, null, **{"width": 2, "n_latents": 5, "k": 1, **options})


W, B, CODES, ONES = torch.eye(2), torch.zeros(2), torch.ones(4, 2), torch.ones(2)


def curved(w=W, b=B, x=CODES, importance=ONES, **options):
    return autoencoder_gauss_newton(w, b, x, importance=importance, **options)


def turned(generator=None, **options):
    options = {"cosine": 0.9, "n_draws": 2, **options}
    return turned_share(EYE, EYE, generator=generator or stream(0, "turns"), **options)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: basis(torch.ones(2, 3)), r"n_weights, n_weights.*curvature=\(2, 3\)"),
        (lambda: basis(EYE, torch.zeros(1, 3)), r"symmetries=\(1, 3\)"),
        (lambda: basis(EYE * math.nan), "finite numbers in curvature"),
        (lambda: basis(torch.tensor([[1.0, 1], [0, 1]])), "a symmetric curvature, got asymmetry=1"),
        (lambda: basis(torch.diag(torch.tensor([1.0, -1]))), "negative eigenvalues, got lowest=-1"),
        (lambda: basis(EYE, EYE[:1]), "the curvature is 0, got curvature_along=1.0.*refine w_star"),
        (lambda: basis(threshold=0), "a finite threshold > 0, got threshold=0"),
        (lambda: basis(tolerance=1.0), "0 < tolerance < 1"),
        (lambda: counted(MASK[None]), r"recovered \[n_features\], got shape=\(1, 3\)"),
        (lambda: counted(null=1.5), "0 <= null_share <= 1"),
        (lambda: counted(k=6), r"k <= 5 \(n_latents\), got k=6"),
        (lambda: counted(width=0), "an integer width >= 1"),
        (lambda: counted(n_latents=2), r"at most 2 \(n_latents\) recovered, got recovered=3"),
        (lambda: rotation_tangents(torch.zeros(0, 2)), r"n_features\], got W=\(0, 2\)"),
        (lambda: curved(b=torch.zeros(3)), r"b=\(3,\), x=\(4, 2\), importance=\(2,\)"),
        (lambda: curved(x=CODES[:0]), r"x=\(0, 2\)"),
        (lambda: curved(b=B * math.nan), r"finite numbers in b, got b\[0\]=nan"),
        (lambda: curved(importance=0 * ONES), "importance > 0, got smallest_importance=0.0"),
        (lambda: curved(largest_step=0), "a finite largest_step > 0, got largest_step=0"),
        (lambda: curved(w=2 * W), "a minimiser.*train longer, or refine it on these samples"),
        (lambda: turned(cosine=1.0), "0 < cosine < 1, got cosine=1.0"),
        (lambda: turned(n_draws=0), "an integer n_draws >= 1"),
        (lambda: two_bases(basis(), counted(), tolerance=-1), "a finite tolerance >= 0"),
        (lambda: two_bases(counted(), basis()), "in this order, got weights='ActivationBasis'"),
        (lambda: interaction_basis(X, J[:, :, :2]), r"jacobians=\(6, 2, 2\)"),
        (lambda: interaction_basis(X[:1] * math.inf, J[:1]), "finite numbers in activations"),
        (lambda: interaction_basis(0 * X, J), "activations that vary, got largest=0.0"),
        (lambda: interaction_basis(X, 0 * J), "an effect on the outputs, got largest=0.0"),
        (lambda: interaction_basis(X, J, tolerance=0), "0 < tolerance < 1"),
    ],
)
def test_bad_input_is_one_clear_message(call, message):
    with pytest.raises(ValueError, match=message):
        call()
