"""Every criterion's null against an independent simulation in numpy, at twenty sizes.

ALPHA = 1e-10 is the false-alarm probability of each comparison, by Hoeffding's, McDiarmid's or
Massart's (DKW) inequality; the number of draws stands beside each test. Seeds are fixed. Sizes are
(n, m, d): features or rows, latents or atoms, d_in. The larger ten are slow.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.linalg import qr
from scipy.optimize import linear_sum_assignment

from theory import (
    amortisation,
    completeness,
    composition,
    composition_p_value,
    copy_baseline,
    dkw_radius,
    eigenspace_rotation,
    hoeffding_radius,
    isotropic_fve_bound,
    isotropic_fve_floor,
    neighbour_p_values,
    progressive,
    recovery_chance,
    recovery_chance_bound,
    redundancy,
    shared_features,
    sign_consistency,
    splitting,
    stability,
    surrogate_p_value,
)
from theory.nonnegative import nonnegative_least_squares as nnls
from toymodels import stream

ALPHA = 1e-10
QUICK = ((1, 1, 1), (2, 3, 2), (5, 5, 3), (8, 4, 4), (6, 12, 5))
QUICK += ((16, 16, 8), (10, 40, 6), (32, 16, 12), (24, 24, 24), (3, 30, 2))
SLOW = ((64, 64, 16), (100, 50, 20), (50, 100, 10), (128, 128, 64), (200, 40, 32))
SLOW += ((40, 200, 32), (17, 91, 3), (256, 64, 64), (150, 150, 4), (80, 160, 80))
SIZES = [*QUICK, *(pytest.param(size, marks=pytest.mark.slow) for size in SLOW)]
sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
signs = pytest.mark.parametrize("signed", [True, False], ids=["ray", "line"])


def rng_of(*name):
    return np.random.default_rng([len(str(name)), *(int(part) for part in name)])


def isotropic(rng, *shape):
    g = rng.normal(size=shape)
    return g / np.sqrt((g * g).sum(-1, keepdims=True))


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))


def near(cosines, signed):
    return np.maximum(cosines, 0) if signed else np.abs(cosines)


def assert_super_uniform(p_values, *, exactly=False):
    """Massart's DKW at ALPHA; the distribution function has jumps where p-values are discrete."""
    values, radius = np.sort(p_values), dkw_radius(len(p_values), ALPHA)
    reached = np.arange(1, len(values) + 1) / len(values)
    assert (reached - values).max() <= radius
    if exactly:
        assert (values - reached + 1 / len(values)).max() <= radius


def matched_score(features, latents, signed):
    similarity = near(features @ latents.T, signed)
    return similarity[linear_sum_assignment(similarity, maximize=True)].sum() / len(features)


def mcdiarmid(n, m, worlds):
    """Two-sided, for the mean score of worlds of n + m rows, each of which moves it by <= 1/n."""
    return math.sqrt((n + m) * math.log(2 / ALPHA) / (2 * worlds)) / n


@sizes
@signs
def test_recovery_chance_and_its_bound(size, signed):
    """200 worlds, fewer of large ones, against the 16 that the criterion draws."""
    n, m, d = size
    rng, worlds = rng_of(1, *size, signed), max(16, min(200, 20_000 // (n * m)))
    scores = [
        matched_score(isotropic(rng, n, d), isotropic(rng, m, d), signed) for _ in range(worlds)
    ]
    own = mcdiarmid(n, m, worlds)
    chance = recovery_chance(n, m, d, signed=signed)
    assert abs(np.mean(scores) - chance) <= own + mcdiarmid(n, m, 16)
    assert np.mean(scores) <= recovery_chance_bound(n, m, d, signed=signed) + own


@sizes
@signs
def test_stability_chance_by_matching_and_by_index(size, signed):
    """As recovery's, the larger decoder matched; 4,000 pairs of latents by index."""
    n, m, d = size
    rng, worlds = rng_of(2, *size, signed), max(16, min(100, 10_000 // (n * m)))
    large, small = max(n, m), min(n, m)
    pairs = [(isotropic(rng, large, d), isotropic(rng, small, d)) for _ in range(worlds)]
    mean = np.mean([matched_score(a, b, signed) for a, b in pairs])
    found = stability([tensor(a) for a in reversed(pairs[0])], signed=signed)
    own = mcdiarmid(large, small, worlds)
    assert abs(mean - found.chance) <= own + mcdiarmid(large, small, 16)
    assert mean <= found.chance_bound + own
    cosines = near((isotropic(rng, 4000, d) * isotropic(rng, 4000, d)).sum(1), signed)
    assert abs(cosines.mean() - found.by_index_chance) <= hoeffding_radius(4000, 1, ALPHA)


def explained(directions, atoms, k):
    """R_k^2 by full search over supports, each projected on by an orthonormal basis."""
    supports = np.array(list(itertools.combinations(range(len(atoms)), k)))
    best = np.zeros(len(directions))
    for part in np.array_split(supports, max(1, len(supports) // 200)):
        bases = np.linalg.qr(np.swapaxes(atoms[part], 1, 2))[0]
        best = np.maximum(
            best, np.square(np.einsum("sdk,nd->nsk", bases, directions)).sum(2).max(1)
        )
    return best


@sizes
def test_held_out_bounds_and_composition_p_values(size):
    """1,000 directions (DKW radius .11); k = 1, and 2 where there are at most 5,000 supports."""
    _, m, d = size
    rng, radius = rng_of(3, *size), hoeffding_radius(1000, 1, ALPHA)
    atoms, u = isotropic(rng, m, d), isotropic(rng, 1000, d)
    frame_bound = max(0.0, float(np.linalg.eigvalsh(atoms.T @ atoms)[0]))
    for k in range(1, min(2, m) + 1):
        if math.comb(m, k) > 5000:
            continue
        r_squared = explained(u, atoms, k) if k < d else np.ones(1000)
        assert r_squared.mean() <= isotropic_fve_bound(d, m, k) + radius
        assert r_squared.mean() >= isotropic_fve_floor(d, m, k, frame_bound) - radius
        p_values = composition_p_value(tensor(r_squared.clip(0, 1)), d, m, k).numpy()
        # One support: no union bound, so the p-value is uniform. d atoms: they explain everything.
        assert_super_uniform(p_values, exactly=m == k < d)
        if k >= d:
            assert (p_values == 1).all()
            continue
        found = composition(tensor(u[:40]), tensor(atoms), k=k, tau=0.9, alpha=0.05)
        assert np.abs(found.r_squared.numpy() - r_squared[:40]).max() < 1e-9
        copies = np.square(u @ atoms.T).max(1) >= 0.9
        assert copies.mean() <= found.null_copies + radius


@sizes
@signs
def test_neighbours_have_uniform_p_values(size, signed):
    """1,000 worlds, DKW radius .11; the three nearest of m rows to one direction."""
    _, m, d = size
    axis, rows = np.eye(d)[0], isotropic(rng_of(4, *size, signed), 1000, m, d)
    cosines = rows @ axis if signed else np.abs(rows @ axis)
    nearest = -np.sort(-cosines, axis=1)[:, : min(3, m)]
    p_values = neighbour_p_values(tensor(nearest), m, d, signed=signed).numpy()
    for column in p_values.T:
        assert_super_uniform(column, exactly=d > 1)


@sizes
@signs
def test_redundancy_and_shared_features(size, signed):
    """400 worlds, Hoeffding radius .17; twins at cosine .6, and those of one feature."""
    _, m, d = size
    rows = isotropic(rng_of(5, *size, signed), 400, m, d)
    cosines = near(rows @ np.swapaxes(rows, 1, 2), signed)
    cosines[:, np.arange(m), np.arange(m)] = -1
    share = (cosines.max(2) >= 0.6).mean()
    found = redundancy(tensor(rows[0]), threshold=0.6, signed=signed)
    assert abs(share - found.null) <= hoeffding_radius(400, 1, ALPHA)
    counts = (near(rows @ np.eye(d)[0], signed) >= 0.6).sum(1)
    axis = torch.eye(d, dtype=torch.float64)[:1]
    null = shared_features(axis, tensor(rows[0]), threshold=0.6, signed=signed).null
    assert abs((counts >= 2).mean() - null) <= hoeffding_radius(400, 1, ALPHA)


@sizes
@signs
def test_completeness_null(size, signed):
    """10,000 directions (radius .034) against the criterion's 256 (radius .22), by one latent."""
    n, m, d = size
    rng = rng_of(6, *size, signed)
    latents, features = isotropic(rng, m, d), isotropic(rng, n, d)
    level = np.square(near(isotropic(rng, 10_000, d) @ latents.T, signed)).max(1)
    found = completeness(tensor(features), tensor(latents), signed=signed, tau=0.5)
    radius = hoeffding_radius(10_000, 1, ALPHA)
    assert abs(level.mean() - found.null) <= radius + hoeffding_radius(256, 1, ALPHA)
    assert level.mean() <= found.null_bound + radius
    assert abs((level >= 0.5).mean() - found.null_covered) <= radius + hoeffding_radius(
        256, 1, ALPHA
    )


@sizes
def test_copy_baseline_of_structureless_rows(size):
    """No sampling error: both choices of rows and the best single code, from scratch."""
    n, m, d = size
    rows = isotropic(rng_of(7, *size), n, d) * np.linspace(2, 1, n)[:, None]
    scores = []
    for chosen in (np.arange(n)[:m], qr(rows.T, pivoting=True, mode="economic")[2][:m]):
        atoms = rows[chosen] / np.linalg.norm(rows[chosen], axis=1, keepdims=True)
        scores.append(np.square(near(rows @ atoms.T, True).max(1)).sum() / np.square(rows).sum())
    expected = 1.0 if m >= n else max(scores)
    found = copy_baseline(tensor(rows), m, 1)
    if m >= d and m < n:  # beyond the rank the order of pivots is rounding
        assert found >= scores[0] - 1e-9
    else:
        assert abs(found - expected) < 1e-9


@sizes
def test_progressive_null_is_a_random_order(size):
    """3,000 orders, the error of each sample bounded by (|y| + sum |z_j w_j|)^2."""
    n, m, d = size
    rng = rng_of(8, *size)
    x, acts, rows = (
        rng.normal(size=(n + 1, d)),
        rng.normal(size=(n + 1, m)),
        rng.normal(size=(m, d)),
    )
    ks = sorted({0, (m + 1) // 2, m})
    bias = torch.zeros(d, dtype=torch.float64)
    found = progressive(tensor(x), tensor(acts), tensor(rows), bias, ks)
    variance = np.square(x - x.mean(0)).sum()
    for z, null in (
        (acts, found.by_rank.null),
        (np.maximum(acts, 0), found.by_index_positive.null),
    ):
        most = np.linalg.norm(x, axis=1) + np.abs(z) @ np.linalg.norm(rows, axis=1)
        radius = math.sqrt(float((most**4).sum()) * math.log(2 / ALPHA) / 6000) / variance
        keys = rng.random((3000, len(z), m)).argsort(2) if m * n < 2000 else None
        for k, level in zip(ks, null.tolist(), strict=True):
            if k in (0, m):  # one order only: exact
                left = np.square(x - (z @ rows if k else 0)).sum() / variance
                assert abs(left - level) < 1e-9 * max(1.0, left)
            elif keys is not None:
                kept = np.where(keys < k, z, 0.0)
                errors = np.square(x - kept @ rows).sum((1, 2)) / variance
                assert abs(errors.mean() - level) <= radius


@pytest.mark.parametrize(("n", "m"), [(2, 2), (4, 3), (5, 2)])
def test_sign_nulls_by_enumeration(n, m):
    """Exact: all tosses of coins, all permutations. Necessity: 30 x 16 draws, radius .16."""
    rng = rng_of(9, n, m)
    codes = rng.normal(size=(n, m))
    rows = np.linalg.qr(rng.normal(size=(m + 1, m + 1)))[0][:m]
    x, zero = codes @ rows, torch.zeros(m + 1, dtype=torch.float64)
    given = (tensor(x), tensor(codes), tensor(rows), zero)
    found = [sign_consistency(*given, generator=stream(s, "null")) for s in range(30)]
    energy = np.square(codes).ravel()
    tosses = np.array(list(itertools.product([1, -1], repeat=n * m))) @ energy / energy.sum()
    assert abs(tosses.mean() - found[0].score_null) < 1e-9
    assert abs(tosses.std() - found[0].score_null_std) < 1e-9
    plus, minus = np.maximum(codes, 0) @ rows, np.minimum(codes, 0) @ rows
    orders = itertools.permutations(range(n))
    left = np.mean([np.square(x - plus - minus[list(order)]).sum() for order in orders])
    assert abs(1 - left / np.square(x - plus).sum() - found[0].gain_null) < 1e-9
    lost = []
    for coins in itertools.product([1, -1], repeat=m):
        atoms = (np.array(coins)[:, None] * rows).T
        lost.append(sum(nnls(atoms, y)[1] ** 2 for y in x) / np.square(x).sum())
    mean = np.mean([f.necessity_null for f in found])
    assert abs(mean - np.mean(lost)) <= hoeffding_radius(30 * 16, 1, ALPHA)


@sizes
def test_splitting_null_is_a_permutation(size):
    """2,000 permutations of each of m latents among n + 3 firings, Hoeffding radius .077."""
    n, m, _ = size
    rng, n_firings = rng_of(10, *size), n + 3
    parts = rng.random((n_firings, min(m, 8))) < 0.3
    parts[0] = True
    found = splitting(
        torch.ones(n_firings, 1), tensor(parts.astype(float)), generator=stream(0, "p")
    )
    mixed = rng.permuted(np.broadcast_to(parts.T, (2000, *parts.T.shape)), axis=2)
    scores = mixed.any(1).mean(1) - parts.mean(0).max()
    assert abs(scores.mean() - found.null) <= hoeffding_radius(2000, 1, ALPHA)


@sizes
def test_amortisation_null_is_a_random_support(size):
    """5 x 4 draws against 20: each sample's error lies between 0 and |y|^2."""
    n, m, d = (min(value, 24) for value in size)
    rng = rng_of(11, *size)
    x, rows, k = rng.normal(size=(n + 2, d)), isotropic(rng, m, d), min(2, m)
    latents = np.zeros((n + 2, m))
    latents[:, :k] = 1
    given = (tensor(x), tensor(latents), tensor(rows), torch.zeros(d, dtype=torch.float64))
    found = [amortisation(*given, generator=stream(s, "null")).null_fvu for s in range(5)]
    errors = [
        nnls(rows[rng.choice(m, k, replace=False)].T, y)[1] ** 2 for y in x for _ in range(20)
    ]
    variance = np.square(x - x.mean(0)).sum()
    spread = (np.square(x).sum(1) ** 2).sum()
    radius = math.sqrt(spread * math.log(2 / ALPHA) / (2 * 20)) / variance
    assert abs(np.sum(errors) / 20 / variance - np.mean(found)) <= 2 * radius


@sizes
def test_rotation_null_is_a_random_space(size):
    """500 spaces of half the dimensions, Hoeffding radius .15 in the mean squared sine."""
    d = min(size[2], 32)
    r, rng = (d + 1) // 2, rng_of(12, *size)
    fixed = np.diag(np.arange(d, 0.0, -1))
    spaces = np.linalg.qr(rng.normal(size=(500, d, d)))[0][:, :, :r]
    sines = 1 - np.square(spaces[:, :r]).sum((1, 2)) / r
    turned = spaces[0] @ spaces[0].T
    found = eigenspace_rotation(tensor(fixed), tensor(turned), r)
    assert abs(found.score - sines[0]) < 1e-9
    assert abs(sines.mean() - found.null) <= hoeffding_radius(500, 1, ALPHA)


@pytest.mark.parametrize("n_surrogates", [8, 19, 49])
def test_surrogate_p_values_are_uniform_on_their_grid(n_surrogates):
    """2,000 worlds (DKW radius .077) of a recipe's score among its nulls: exact on the grid."""
    rng = rng_of(13, n_surrogates)
    scores = rng.normal(size=(2000, 1 + n_surrogates)) ** 2
    p_values = [surrogate_p_value(float(s[0]), tensor(s[1:])) for s in scores]
    radius = dkw_radius(2000, ALPHA)
    for j in range(1, n_surrogates + 2):
        level = j / (n_surrogates + 1)
        assert abs(np.mean(np.array(p_values) <= level + 1e-12) - level) <= radius


@pytest.mark.parametrize(
    "broken",
    [
        lambda p: p / 2,  # one-sided taken for two-sided
        lambda p: p**2,
        lambda p: np.where(p < 0.3, 0.0, p),
    ],
)
def test_broken_p_values_are_refused(broken):
    p_values = np.arange(1, 1001) / 1001
    assert_super_uniform(p_values, exactly=True)
    with pytest.raises(AssertionError):
        assert_super_uniform(broken(p_values))
    with pytest.raises(AssertionError):
        assert_super_uniform(np.minimum(1, 2 * p_values), exactly=True)
