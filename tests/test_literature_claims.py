"""The closed forms of claims on the literature, against brute force and against defects."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory.atomicity import atomicity
from theory.claims import check, h1, h2, h2_condition, h3, h3_condition, h6, h7, h7_condition, h8
from theory.claims import h8_threshold as threshold
from theory.claims._claim import least
from theory.claims._meta import MetaProblem, fitted_fve
from theory.claims._nested import Nested, minimisers, partitions, solutions, worlds
from theory.claims._one_latent import Codes, losses, two_features
from theory.compressibility import fve, surrogate_p_value
from theory.hedging import hedging
from theory.nonnegative import nonnegative_least_squares as nnls
from toymodels import Dictionary, stream

# H1: nested dropout on one-sparse worlds.


def angled(cosine, energies, probs):
    rows = torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]], dtype=torch.float64)
    return Nested(Dictionary(rows), energies, probs, seed=0)


@pytest.mark.parametrize(("n", "most", "count"), [(3, 3, 5), (4, 4, 15), (4, 2, 8), (3, 1, 1)])
def test_partitions_are_all_of_them_once(n, most, count):
    found = {frozenset(map(frozenset, p)) for p in partitions(n, most)}
    assert len(found) == len(list(partitions(n, most))) == count
    assert all(len(p) <= most and frozenset().union(*p) == frozenset(range(n)) for p in found)


@given(worlds())
def test_nested_optimum_against_all_angles(world):
    """Every ordered assignment to latents in the plane, their directions from a fine grid."""
    plane = replace(world, rows=Dictionary.normalise(world.rows.vectors[:, :2] + 1e-9))
    angles = np.linspace(0, math.pi, 4001)
    grid = np.stack([np.cos(angles), np.sin(angles)])
    energies = np.array(plane.energies)
    explained = energies[:, None] * (plane.rows.vectors.numpy() @ grid) ** 2
    survival, n = plane.survival(), len(energies)
    best = math.inf
    for latents in itertools.product(range(n), repeat=n):
        kept = [explained[np.array(latents) == j].sum(0).max(initial=0.0) for j in range(n)]
        best = min(best, energies.sum() - sum(s * k for s, k in zip(survival, kept, strict=True)))
    found = minimisers(plane)[0].nested
    # A direction half a step away loses (pi / 8000)^2 of the energy.
    assert found - 1e-12 * energies.sum() <= best <= found + 1e-6 * energies.sum()


@pytest.mark.parametrize("cosine", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("side", [-0.01, 0.01])
def test_two_equal_features_are_merged_beyond_the_threshold(cosine, side):
    """One each costs p_1 in all, both in the first latent 1 - c: they part at p_1 = 1 - c."""
    first = 1 - cosine + side
    world = angled(cosine, (1.0, 1.0), (first, 1 - first))
    (found,) = minimisers(world)
    merged = side > 0
    assert found.nested == pytest.approx(1 - cosine if merged else first)
    assert found.full == pytest.approx(1 - cosine if merged else 0.0, abs=1e-12)
    assert min(s.full for s in solutions(world)) == pytest.approx(0.0, abs=1e-12)
    assert (least(h1.compare(world)) < 0) == merged


@pytest.mark.parametrize("theta", [0.4, 0.9, 1.4])
def test_codes_refitted_to_each_prefix_give_up_the_full_prefix_at_every_angle(theta):
    """Two equal features, both prefixes equally probable: the first latent turns off its feature,
    by half of atan2(sin 2 theta / 2, 1 + cos 2 theta / 2) as in D4, and the full loss is its."""
    angles = np.linspace(0, math.pi, 1801)[:-1]
    first = np.stack([np.cos(angles) ** 2, np.cos(angles - theta) ** 2])  # what each row explains
    both = np.maximum(first[:, :, None], first[:, None, :]).sum(0)
    nested = 2 - 0.5 * first.sum(0)[:, None] - 0.5 * both
    i, j = np.unravel_index(nested.argmin(), nested.shape)
    turn = 0.5 * math.atan2(math.sin(2 * theta) / 2, 1 + math.cos(2 * theta) / 2)
    assert 2 - both[i, j] == pytest.approx(math.sin(turn) ** 2, abs=1e-3)
    assert 2 - both[i, j] > 1e-3
    assert both.max() > 2 - 1e-4


# H2 and H3: meta-SAEs of atoms.


@given(h2_condition.twins(), st.booleans())
def test_no_fitted_meta_sae_finds_more_in_orthonormal_rows(twin, sparse):
    problem = MetaProblem(
        Dictionary(twin.orthonormal()), twin.row_weights, twin.n_latents, twin.k, False, 0
    )
    k = twin.k if sparse else None
    assert fitted_fve(problem, k, generator=stream(0, "fit")) <= twin.heaviest() + 1e-9


@given(h2.idealised())
def test_weightings_are_what_they_say(instance):
    p, b = instance.firing_probs, instance.magnitudes
    energies = [q * a * a for q, a in zip(p, b, strict=True)]
    assert instance.weights("energy").tolist() == pytest.approx(energies)
    assert instance.weights("frequency").tolist() == list(p)
    (uniform,) = h2.nothing_to_find("uniform")(instance)
    assert uniform.margin == pytest.approx(0, abs=2e-9)


@given(h3.features(isotropic=False))
def test_orthonormal_features_are_atomic_by_the_criterion(instance):
    residuals = atomicity(instance.rows(), 2)
    assert residuals.residuals.min() > 1 - 1e-9


def test_share_of_small_p_values_by_hand():
    scores = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], dtype=torch.float64)
    apart = h3_condition.leave_one_out(scores)
    p_values = [surrogate_p_value(score, others) for score, others in apart]
    assert sorted(p_values) == pytest.approx([i / 9 for i in range(1, 10)])
    assert h3_condition.share(p_values, 2 / 9) == pytest.approx(2 / 9)


# H6: absorption.


@given(h6.families(), st.floats(0, 1))
def test_costs_of_absorption_sample_by_sample(family, delta):
    """Coordinates along the two features, which are what dual encoders read."""
    c, total = family.cosine, sum(o[0] for o in family.outcomes)
    error = l1 = l1_unit = 0.0
    for weight, a, b in family.outcomes:
        parent = max(0.0, a - delta * b)
        along = a - (parent + delta * b)  # the child's coordinate is always exact
        error += weight * along**2 / total
        l1 += weight * (parent + b) / total
        l1_unit += weight * (parent + b * math.sqrt(1 + 2 * delta * c + delta**2)) / total
    found = h6.costs(family, delta)
    expected = pytest.approx((error, l1, l1_unit), rel=1e-9, abs=1e-12)
    assert (found.error, found.l1, found.l1_unit) == expected


@pytest.mark.parametrize(
    ("delta", "l1", "l0"), [(0.0, 0.3, 0.3), (0.5, 0.275, 0.3), (1.0, 0.25, 0.25)]
)
def test_published_costs_of_absorption(delta, l1, l0):
    """Parent .25, child .05 within it: L1 is .05 (2 - delta) + .2; L0 falls at delta = 1 only."""
    family = h6.Family(0.0, delta, ((1, 1.0, 1.0), (4, 1.0, 0.0), (15, 0.0, 0.0)))
    found = h6.costs(family, delta)
    assert (found.error, found.l1, found.l0) == pytest.approx((0, l1, l0), abs=1e-12)


# H7: one latent on two features.


@given(two_features(), st.floats(0, 2 * math.pi))
def test_loss_of_one_latent_against_a_search_over_biases(law, angle):
    w = np.array([math.cos(angle), math.sin(angle)])
    probs, x = law.probs().numpy(), law.codes().numpy()

    def loss(bias):
        z = np.maximum(0, (x - bias) @ w - law.penalty / 2)
        return probs @ (((x - bias - z[:, None] * w) ** 2).sum(1) + law.penalty * z)

    if law.bias:
        starts = [*x, probs @ x, *(x - 0.7)]
        found = min(
            scipy.optimize.minimize(loss, s, method="Nelder-Mead", options={"xatol": 1e-9,
                        "fatol": 1e-12, "maxiter": 2000}).fun
            for s in starts
        )  # fmt: skip
    else:
        found = loss(np.zeros(2))
    value = float(losses(law, torch.tensor([angle], dtype=torch.float64))[0])
    # No bias is better than the best one; the simplex finds it to 1e-6.
    assert value - 1e-9 * law.scale <= found <= value + 1e-5 * law.scale


def test_no_code_is_better_than_the_thresholded_projection():
    z = np.linspace(0, 3, 300_001)
    for s, penalty in itertools.product((-0.5, 0.2, 1.3), (0.0, 0.3, 1.0)):
        best = max(0.0, s - penalty / 2)
        least_cost = (s - best) ** 2 + penalty * best
        assert ((s - z) ** 2 + penalty * z).min() == pytest.approx(least_cost, abs=1e-9)


@pytest.mark.parametrize(
    ("weights", "penalty", "bias", "refuted"),
    [
        ((1, 2, 2, 1), 0.0, False, True),  # negative covariance, positive mixture
        ((1, 2, 2, 1), 0.0, True, False),
        ((3, 2, 4, 3), 1.0, True, True),  # positive covariance, negative mixture
        ((3, 2, 4, 3), 0.0, True, False),
        ((1, 1, 1, 1), 0.75, True, True),  # independent features
        ((1, 1, 1, 1), 0.0, True, False),
    ],
)
def test_worlds_that_refute_the_sign_of_hedging(weights, penalty, bias, refuted):
    fires = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
    outcomes = tuple((float(w), *f) for w, f in zip(weights, fires, strict=True))
    assert (least(h7.compare(Codes(outcomes, penalty, bias))) < 0) == refuted


# H8: too few active latents.


@given(h8.any_law(), st.floats(0, 1.5))
def test_loss_of_limited_codes_against_nnls(law, angle):
    n = law.codes().shape[1]
    rows = h8.tilted_rows(n, replace(h8.best_tilt(law), cross=math.sin(angle), rest=0.0))
    expected = 0.0
    for prob, code in zip(law.probs().tolist(), law.codes().numpy(), strict=True):
        supports = itertools.combinations(range(n), law.k)
        errors = [nnls(rows[list(s)].numpy().T, code)[1] ** 2 for s in supports]
        expected += prob * min(errors)
    assert h8.loss(law, rows) == pytest.approx(expected, abs=1e-9)


def test_two_independent_coins_are_mixed():
    """k = 1, p = 1/2: the truth costs 1/4, the mixture (3 - sqrt 5) / 8."""
    law = h8.Limited(((1.0, 0.0, 0.0), (1.0, 1.0, 0.0), (1.0, 0.0, 1.0), (1.0, 1.0, 1.0)), k=1)
    tilt = h8.best_tilt(law)
    assert h8.loss(law, torch.eye(2, dtype=torch.float64)) == pytest.approx(1 / 4)
    mixed = h8.loss(law, h8.tilted_rows(2, tilt))
    assert mixed == pytest.approx((3 - math.sqrt(5)) / 8)
    angles = torch.linspace(-1.5, 1.5, 301).tolist()
    turned = [
        h8.tilted_rows(2, replace(tilt, cross=math.sin(a), rest=-math.cos(a))) for a in angles
    ]
    assert min(h8.loss(law, rows) for rows in turned) == pytest.approx(mixed, abs=1e-4)


@given(threshold.selected(), st.floats(-1.5, 1.5))
def test_error_under_a_threshold_sample_by_sample(law, angle):
    rows = np.array([[math.cos(angle), math.sin(angle)], [0.0, 1.0]])
    bias, expected = law.bias(), 0.0
    for (i, a), (j, b) in itertools.product(*map(enumerate, law.levels)):
        x = np.array([a, b]) - np.array(bias)
        chosen = rows[[a > law.threshold, b > law.threshold]]
        left = x - x @ np.linalg.pinv(chosen) @ chosen if len(chosen) else x
        expected += float(law.probs()[i, j]) * float(left @ left)
    assert threshold.error(law, angle, bias) == pytest.approx(expected, abs=1e-9)


# Planted defects.


def _swapped_sign(*arguments):
    found = hedging(*arguments)
    return replace(found, degrees=-found.degrees)


def _without_the_one(score, nulls):
    return float((nulls >= score).double().mean())


def _too_good(rows, reconstruction, *, weights=None):
    return fve(rows, reconstruction, weights=weights) / 2


def _some_bound(covariance, n_latents):
    return float(covariance.trace()) / 2


@pytest.mark.parametrize(
    ("claim", "name", "defect"),
    [
        (h2_condition, "copy_baseline", lambda rows, m, k, weights=None: m / len(rows)),
        (h3_condition, "surrogate_p_value", _without_the_one),
        (h3_condition, "fve", _too_good),
        (h7_condition, "hedging", _swapped_sign),
        (h7_condition, "spectral_loss_bound", _some_bound),
    ],
    ids=lambda x: getattr(x, "__name__", None) or str(x),
)
def test_defect_in_a_criterion_is_caught_by_its_claim(claim, name, defect, monkeypatch):
    monkeypatch.setattr(claim, name, defect)
    assert not check(claim.CLAIM, examples=50, shrink=False).passed
