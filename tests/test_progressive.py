"""Progressive codes: against loops, exact nulls by enumeration, invariances, and bad input."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory.isotropic import isotropic_rows
from theory.nonnegative import nonnegative_least_squares as nnls
from theory.progressive import prefix_errors, progressive
from toymodels import orthonormal, stream

seeds = st.integers(0, 2**32 - 1)
flags = st.booleans()


def _problem(n, m, d, seed, *, integers=True):
    """Activations, pre-activations and decoder; small integers give ties and dependent rows."""
    generator = stream(seed, "problem")
    shapes = ((n, d), (n, m), (m, d), (d,))
    if integers:
        return [torch.randint(-2, 3, s, generator=generator).double() for s in shapes]
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


def _naive(x, acts, rows, bias, k, *, by_index, positive, magnitude, refit):
    """One sample, by a loop over its latents in order."""
    m = len(acts)
    key = (lambda j: -abs(acts[j])) if magnitude else (lambda j: -acts[j])
    order = range(m) if by_index else sorted(range(m), key=key)
    chosen = [j for j in itertools.islice(order, k) if not positive or acts[j] > 0]
    y = x - bias
    if not refit:
        for j in chosen:
            y = y - acts[j] * rows[j]
        return float(y @ y)
    if not chosen:
        return float(y @ y)
    basis = rows[chosen].T
    if positive:
        return nnls(basis, y)[1] ** 2
    residual = y - basis @ np.linalg.lstsq(basis, y, rcond=1e-10)[0]
    return float(residual @ residual)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), seeds, flags, flags, flags, flags)
def test_prefix_errors_equal_their_loop(n, m, d, seed, by_index, positive, magnitude, refit):
    data = _problem(n, m, d, seed)
    options = dict(by_index=by_index, positive=positive, magnitude=magnitude, refit=refit)
    ks = range(m + 1)
    found = prefix_errors(*data, ks, **options)
    x, acts, rows, bias = (t.numpy() for t in data)
    for i, k in itertools.product(range(n), ks):
        expected = _naive(x[i], acts[i], rows, bias, k, **options)
        assert float(found[i, k]) == pytest.approx(expected, abs=1e-9)


def test_the_loop_tells_rank_from_index_and_refit_from_frozen():
    data = _problem(4, 5, 4, 0, integers=False)
    base = prefix_errors(*data, range(6))
    for option in ("by_index", "positive", "magnitude", "refit"):
        assert (prefix_errors(*data, range(6), **{option: True}) - base).abs().max() > 0.1


def _enumerated(data, k, positive, pairs=True):
    """The mean error over every set of k latents; `pairs=False` forgets that sets do not repeat."""
    x, acts, rows, bias = data
    acts = acts.clamp(min=0) if positive else acts
    parts = acts[:, :, None] * rows
    m = acts.shape[1]
    draw = itertools.combinations if pairs else lambda r, k: itertools.product(r, repeat=k)
    sets = list(draw(range(m), k))
    errors = [(x - bias - parts[:, list(s)].sum(1)).square().sum() for s in sets]
    return float(torch.stack(errors).mean())


@given(st.integers(2, 4), st.integers(1, 5), st.integers(1, 3), seeds, st.data())
def test_null_is_the_mean_over_all_orders(n, m, d, seed, data):
    problem = _problem(n, m, d, seed, integers=False)
    k = data.draw(st.integers(0, m))
    variance = float((problem[0] - problem[0].mean(0)).square().sum())
    found = progressive(*problem, [k])
    for curve, positive in ((found.by_rank, False), (found.by_index_positive, True)):
        assert float(curve.null[0]) == pytest.approx(_enumerated(problem, k, positive) / variance)


def test_null_without_its_pair_term_is_noticed():
    problem = _problem(4, 4, 3, 1, integers=False)
    variance = float((problem[0] - problem[0].mean(0)).square().sum())
    wrong = _enumerated(problem, 2, False, pairs=False) / variance
    assert abs(float(progressive(*problem, [2]).by_rank.null[0]) - wrong) > 0.1


def test_refitted_null_is_a_mean_over_random_orders():
    """Orthonormal rows and isotropic x: any k of d explain k/d of |x|^2 in the mean.

    False alarm 1e-10: 8 x 2,000 values in [0, 1], Hoeffding radius .028; smallest error caught
    twice that, .06 of |x|^2.
    """
    d, n = 6, 2000
    x = isotropic_rows(n, d, generator=stream(0, "x"), dtype=torch.float64)
    rows = orthonormal(d, d, generator=stream(0, "rows"), dtype=torch.float64).vectors
    data = (x, x @ rows.T, rows, torch.zeros(d).double(), [0, 3, d])
    found = progressive(*data, magnitude=True, refit=True)
    scale = n / float((x - x.mean(0)).square().sum())
    radius = math.sqrt(math.log(2e10) / (2 * 8 * n))
    assert abs(float(found.by_rank.null[1]) - 0.5 * scale) < radius * scale
    assert float(found.by_rank.null[2]) == pytest.approx(0, abs=1e-9)
    # By magnitude the largest come first: better than the null by more than both radii.
    assert float(found.by_rank.fvu[1]) < 0.5 * scale - 2 * radius


def _world(seed=0, n=64, n_features=5):
    """Sparse non-negative codes of orthonormal features, and their exact decoder."""
    generator = stream(seed, "codes")
    rows = orthonormal(n_features, 8, generator=generator, dtype=torch.float64).vectors
    codes = torch.rand(n, n_features, generator=generator, dtype=torch.float64)
    codes *= torch.rand(n, n_features, generator=generator) < 0.5
    return codes @ rows, codes, rows, torch.zeros(8, dtype=torch.float64)


def test_planted_code_is_progressive_and_its_negatives_are_told_apart():
    x, codes, rows, bias = _world()
    exact = progressive(x, codes, rows, bias, range(6))
    assert exact.by_rank.n_violations == exact.by_index.n_violations == 0
    assert exact.by_rank.worst_rise == 0.0
    assert float(exact.by_rank.fvu[-1]) == pytest.approx(0, abs=1e-12)
    assert (exact.by_rank.fvu[1:4] < exact.by_rank.null[1:4]).all()
    assert exact.n_positive == pytest.approx(float((codes > 0).sum(1).double().mean()))
    # Negative pre-activations where nothing fires: they come last by rank, and only hurt.
    noisy = torch.where(codes > 0, codes, -0.3)
    found = progressive(x, noisy, rows, bias, range(6))
    assert found.by_rank.n_violations > 0
    assert found.by_rank_positive.n_violations == 0
    added = 0.09 * float((codes == 0).sum()) / float((x - x.mean(0)).square().sum())
    assert float(found.by_rank.fvu[-1]) == pytest.approx(added)
    assert float(found.by_rank_positive.fvu[-1]) == pytest.approx(0, abs=1e-12)


def test_violations_are_counted_and_measured():
    """Two latents of the same direction and full size: the second one adds what the first did."""
    x = torch.tensor([[1.0], [-1.0]]).double()
    rows, bias = torch.ones(2, 1).double(), torch.zeros(1).double()
    found = progressive(x, x.expand(2, 2), rows, bias, [0, 1, 2])
    assert found.by_index.fvu.tolist() == [1.0, 0.0, 1.0]
    assert (found.by_index.n_violations, found.by_index.worst_rise) == (1, 1.0)
    refit = progressive(x, x.expand(2, 2), rows, bias, [0, 1, 2], refit=True)
    assert refit.by_index.n_violations == 0


@given(seeds, st.permutations(range(5)))
def test_rank_does_not_see_labels_and_nothing_sees_rotations(seed, order):
    x, acts, rows, bias = _problem(6, 5, 4, seed, integers=False)
    rotation = orthonormal(4, 4, generator=stream(seed, "rotation"), dtype=torch.float64).vectors
    base = progressive(x, acts, rows, bias, range(6))
    turned = progressive(x @ rotation, acts, rows @ rotation, bias @ rotation, range(6))
    relabelled = progressive(x, acts[:, order], rows[order], bias, range(6))
    for name in ("by_rank", "by_index", "by_rank_positive", "by_index_positive"):
        assert torch.allclose(getattr(turned, name).fvu, getattr(base, name).fvu)
    assert torch.allclose(relabelled.by_rank.fvu, base.by_rank.fvu)
    assert torch.allclose(relabelled.by_index.null, base.by_index.null)


@given(seeds)
def test_refitting_never_makes_it_worse(seed):
    data = _problem(4, 5, 4, seed)
    for options in ({}, {"positive": True}, {"by_index": True}):
        frozen = prefix_errors(*data, range(6), **options)
        refit = prefix_errors(*data, range(6), refit=True, **options)
        assert bool((refit <= frozen + 1e-9).all())
        assert bool((refit.diff(dim=1) <= 1e-9).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: [d[0][:, :2], *d[1:]], "expected x .batch, d_in."),
        (lambda d: [*d[:2], d[2][:3], *d[3:]], "W_dec=.3, 4"),
        (lambda d: [*d[:1], d[1] * torch.nan, *d[2:]], r"finite numbers in pre_acts"),
        (lambda d: [*d[:4], [2, 1]], r"strictly increasing ks in \[0, 5\]"),
        (lambda d: [*d[:4], [6]], r"strictly increasing ks in \[0, 5\]"),
        (lambda d: [*d[:4], []], r"strictly increasing ks"),
        (lambda d: [*d[:4], [1.5, 3.7]], r"integers, got ks=\[1\.5, 3\.7\]; round fractions"),
        (lambda d: [*d[:4], np.array([1.0, 2.0])], "a sequence ks of integers"),
        (lambda d: [*d[:4], 2], "a sequence ks of integers, got ks=2"),
        (lambda d: [*d[:3], None, d[4]], "b_dec to be a tensor"),
        (lambda d: [torch.ones(3, 4).double(), *d[1:]], "x that varies between samples"),
        (lambda d: [d[0][:0], d[1][:0], *d[2:]], "a sample or more"),
        (lambda d: [d[0], d[1][:, :0], d[2][:0], d[3], [0]], "a latent or more"),
    ],
)
def test_bad_input_is_one_clear_error(change, message, unchecked):
    data = [*_problem(3, 5, 4, 0), [1, 2]]
    with pytest.raises(ValueError, match=f"progressive: .*{message}") as error:
        progressive(*change(data))
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("unchecked")
def test_prefix_errors_refuse_fractions_too():
    with pytest.raises(ValueError, match=r"a sequence ks of integers, got ks=\[1\.5\]"):
        prefix_errors(*_problem(3, 5, 4, 0), [1.5])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("make", [np.array, torch.tensor, tuple])
def test_integers_of_any_kind_are_prefix_lengths(make):
    data = _problem(3, 5, 4, 0)
    found = progressive(*data, make([1, 4]))
    assert found.ks.dtype == torch.int64
    assert torch.equal(found.by_rank.fvu, progressive(*data, [1, 4]).by_rank.fvu)
