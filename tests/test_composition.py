"""Composition labels and their p-values, against brute force, planted worlds and broken twins."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory.composition import LABELS, benjamini_yekutieli, composition
from theory.isotropic import composition_p_value, isotropic_rows
from theory.statistics import dkw_radius, hoeffding_radius
from toymodels import stream

ALPHA = 1e-10
seeds = st.integers(0, 2**32 - 1)
SIZES = st.sampled_from([(4, 3, 1), (6, 9, 2), (5, 4, 3), (12, 8, 2), (3, 5, 2)])


def rows_of(n, d, seed, name):
    return isotropic_rows(n, d, generator=stream(seed, name), dtype=torch.float64)


def brute_r_squared(row, atoms, k):
    """The best least-squares fit over all supports, by numpy-style loops."""
    best = 0.0
    for size in range(1, k + 1):
        for chosen in itertools.combinations(range(len(atoms)), size):
            basis = atoms[list(chosen)].T
            fit = basis @ torch.linalg.lstsq(basis, row[:, None], driver="gelsd").solution
            best = max(best, 1 - float((row - fit[:, 0]).square().sum() / row.square().sum()))
    return best


def brute_adjusted(p_values):
    n = len(p_values)
    harmonic = sum(1 / i for i in range(1, n + 1))
    ordered = sorted(p_values)
    steps = [min(1.0, n * harmonic * p / (i + 1)) for i, p in enumerate(ordered)]
    return [min(steps[ordered.index(p) :]) for p in p_values]


@given(SIZES, seeds)
def test_everything_equals_brute_force(sizes, seed):
    d, m, k = sizes
    atoms, rows = rows_of(m, d, seed, "atoms"), rows_of(4, d, seed, "rows")
    rows = torch.cat([rows, atoms[:1] + 0.1 * rows[:1], atoms[:k].sum(0, keepdim=True)])
    found = composition(rows, atoms, k=k, tau=0.9, alpha=0.05)
    assert found.exact
    labels = found.labels()
    for i, row in enumerate(rows):
        single, best = brute_r_squared(row, atoms, 1), brute_r_squared(row, atoms, k)
        assert found.best_cosine_squared[i].item() == pytest.approx(single, abs=1e-9)
        assert found.r_squared[i].item() == pytest.approx(best, abs=1e-9)
        again = brute_r_squared(row, atoms[found.support[i]], k)
        assert again == pytest.approx(best, abs=1e-9)
        p = composition_p_value(found.r_squared[i : i + 1], d, m, k).item()
        assert found.p_values[i].item() == (1.0 if single >= 0.9 else p)
    adjusted = brute_adjusted(found.p_values.tolist())
    assert found.adjusted_p_values.tolist() == pytest.approx(adjusted, abs=1e-12)
    for i, label in enumerate(labels):
        small = adjusted[i] <= 0.05
        if found.best_cosine_squared[i] >= 0.9:
            expected = "copy"
        elif small:
            expected = "composite" if found.r_squared[i] >= 0.9 else "partial"
        else:
            expected = "novel"
        assert label == expected


@given(SIZES, seeds, st.floats(0.05, 1), st.floats(0.001, 0.5))
def test_each_row_has_exactly_one_label(sizes, seed, tau, alpha):
    d, m, k = sizes
    atoms = rows_of(m, d, seed, "atoms")
    rows = torch.cat([rows_of(5, d, seed, "rows"), atoms, -atoms])
    found = composition(rows, atoms, k=k, tau=tau, alpha=alpha)
    flags = torch.stack([getattr(found, name) for name in LABELS]).int()
    assert flags.sum(0).tolist() == [1] * len(rows)
    assert sum(found.shares().values()) == pytest.approx(1)
    assert bool(found.copy[5:].all())  # atoms and their opposites are the same lines


def test_planted_rows_get_their_labels():
    atoms = rows_of(40, 128, 0, "atoms")
    new = rows_of(4, 128, 0, "new")
    rows = torch.cat(
        [
            2 * atoms[:4] + 0.01 * new,
            atoms[4:8] + 0.7 * atoms[8:12],
            atoms[12:16] + new,
            new,
        ]
    )
    found = composition(rows, atoms, k=2, tau=0.9, alpha=0.01)
    assert found.labels() == ["copy"] * 4 + ["composite"] * 4 + ["partial"] * 4 + ["novel"] * 4
    assert {tuple(sorted(s)) for s in found.support[4:8].tolist()} == {
        (4 + i, 8 + i) for i in range(4)
    }
    assert found.shares() == dict.fromkeys(LABELS, 0.25)


@given(SIZES, seeds)
def test_scale_order_signs_and_rotation_do_not_matter(sizes, seed):
    d, m, k = sizes
    atoms, rows = rows_of(m, d, seed, "atoms"), rows_of(4, d, seed, "rows")
    base = composition(rows, atoms, k=k, tau=0.8, alpha=0.1)
    generator = stream(seed, "changes")
    order = torch.randperm(m, generator=generator)
    scale = 10 ** (6 * torch.rand(m, 1, generator=generator, dtype=torch.float64) - 3)
    turn = torch.linalg.qr(rows_of(d, d, seed, "turn")).Q
    other = composition(-1e3 * rows @ turn, (-scale * atoms)[order] @ turn, k=k, tau=0.8, alpha=0.1)
    assert torch.allclose(base.r_squared, other.r_squared, atol=1e-9)
    assert torch.allclose(base.adjusted_p_values, other.adjusted_p_values, atol=1e-6)


def test_exact_copies_and_composites_reach_a_threshold_of_one():
    atoms = rows_of(9, 24, 0, "atoms")
    rows = torch.cat([3 * atoms, -atoms[:3], atoms[:4] - 0.3 * atoms[4:8]])
    found = composition(rows, atoms, k=2, tau=1.0, alpha=0.01)
    assert found.labels() == ["copy"] * 12 + ["composite"] * 4


def test_beyond_full_search_omp_takes_over_and_says_so():
    atoms, rows = rows_of(40, 32, 0, "atoms"), rows_of(10, 32, 0, "rows")
    assert math.comb(40, 3) > 5000 >= math.comb(40, 2)
    exact = composition(rows, atoms, k=2, tau=0.9, alpha=0.1)
    greedy = composition(rows, atoms, k=3, tau=0.9, alpha=0.1)
    assert (exact.exact, greedy.exact) == (True, False)
    for i, row in enumerate(rows):
        best = brute_r_squared(row, atoms[greedy.support[i]], 3)
        assert greedy.r_squared[i].item() == pytest.approx(best, abs=1e-9)
    assert bool((greedy.r_squared >= greedy.best_cosine_squared).all())
    padded = composition(atoms[:1] + atoms[1:2], atoms.repeat(2, 1), k=3, tau=0.9, alpha=0.1)
    assert not padded.exact
    assert padded.support[0].tolist().count(-1) == 1  # two atoms explain it; a third adds nothing


def false_alarms(p_values, n_worlds=4000):
    """Share of worlds of 3 isotropic rows in which a row is called composite or partial."""
    d, m, k, n_rows = 6, 5, 2, 3
    atoms = rows_of(m, d, 0, "atoms")
    rows = rows_of(n_worlds * n_rows, d, 0, "rows")
    found = composition(rows, atoms, k=k, tau=1.0, alpha=0.5)
    p = p_values(found, d, m, k).reshape(n_worlds, n_rows)
    return sum(bool((benjamini_yekutieli(q) <= 0.2).any()) for q in p) / n_worlds


def test_false_discoveries_are_rare_and_without_counting_supports_they_are_not():
    """Hoeffding at 1e-10, 4,000 worlds: a rate of .25 is never passed off as .2 - .054."""
    radius = hoeffding_radius(4000, 1.0, ALPHA)
    assert false_alarms(lambda found, d, m, k: found.p_values) <= 0.2 + radius
    uncounted = false_alarms(lambda found, d, m, k: composition_p_value(found.r_squared, d, k, k))
    assert uncounted > 0.2 + radius


@pytest.mark.parametrize("valid", [True, False])
def test_p_values_are_super_uniform(valid):
    """DKW at 1e-10, 4,000 rows: an excess of .109 (twice the radius) is always caught."""
    atoms, rows = rows_of(9, 6, 1, "atoms"), rows_of(4000, 6, 1, "rows")
    if not valid:  # the broken twin: rows that were fitted to the atoms
        rows = rows + 3 * atoms[0]
    p = composition(rows, atoms, k=2, tau=1.0, alpha=0.1).p_values.sort().values
    excess = (torch.arange(1, 4001) / 4000 - p).max()
    assert bool(excess <= dkw_radius(4000, ALPHA)) == valid


def test_nulls_hold_and_are_not_zero():
    """Mean R_k^2 and share of copies of isotropic rows: Hoeffding at 1e-10, n = 4,000, .054."""
    atoms, rows = rows_of(9, 6, 2, "atoms"), rows_of(4000, 6, 2, "rows")
    found = composition(rows, atoms, k=2, tau=0.6, alpha=0.1)
    radius = hoeffding_radius(4000, 1.0, ALPHA)
    mean, copies = found.r_squared.mean().item(), found.shares()["copy"]
    assert mean <= found.null_r_squared + radius
    assert copies <= found.null_copies + radius
    assert mean > 0.5  # chance is far from 0 in six dimensions
    assert copies > 0.1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_adjustment_equals_its_definition(p_values):
    found = benjamini_yekutieli(torch.tensor(p_values, dtype=torch.float64))
    assert found.tolist() == pytest.approx(brute_adjusted(p_values), abs=1e-12)


def test_adjustment_differs_from_bonferroni_and_from_no_correction():
    p = torch.tensor([0.01, 0.02, 0.03, 0.5], dtype=torch.float64)
    found = benjamini_yekutieli(p)
    assert bool((found > p).all())
    assert found[2] < 4 * (1 + 1 / 2 + 1 / 3 + 1 / 4) * 0.03
    assert benjamini_yekutieli(p[:1]).item() == 0.01


def test_dead_duplicate_and_dependent_atoms_only_make_it_careful():
    atoms, rows = rows_of(4, 6, 0, "atoms"), rows_of(3, 6, 0, "rows")
    base = composition(rows, atoms, k=2, tau=0.9, alpha=0.1)
    for extra in (torch.zeros(2, 6).double(), atoms[:2]):
        more = composition(rows, torch.cat([atoms, extra]), k=2, tau=0.9, alpha=0.1)
        assert torch.allclose(more.r_squared, base.r_squared, atol=1e-9)
        assert bool((more.p_values >= base.p_values).all())
    dead = composition(rows, 0 * atoms, k=2, tau=0.9, alpha=0.1)
    assert dead.r_squared.tolist() == [0, 0, 0]
    assert dead.labels() == ["novel"] * 3
    assert (
        composition(rows.float(), atoms, k=2, tau=0.9, alpha=0.1).r_squared.dtype == torch.float64
    )


EYE = torch.eye(4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: composition(EYE, EYE, k=4, tau=0.9, alpha=0.1), r"1 <= k <= 3 .*got k=4"),
        (lambda: composition(EYE, EYE[:2], k=3, tau=0.9, alpha=0.1), r"1 <= k <= 2 .*got k=3"),
        (lambda: composition(EYE, EYE, k=0, tau=0.9, alpha=0.1), "got k=0"),
        (lambda: composition(EYE, EYE[:0], k=1, tau=0.9, alpha=0.1), r"non-empty.*W_dec=\(0, 4\)"),
        (lambda: composition(EYE[:0], EYE, k=1, tau=0.9, alpha=0.1), r"non-empty.*rows=\(0, 4\)"),
        (lambda: composition(EYE, EYE[:, :3], k=1, tau=0.9, alpha=0.1), r"W_dec=\(4, 3\)"),
        (lambda: composition(0 * EYE, EYE, k=1, tau=0.9, alpha=0.1), r"zero_rows=\[0, 1, 2, 3\]"),
        (
            lambda: composition(EYE * math.nan, EYE, k=1, tau=0.9, alpha=0.1),
            r"finite.*rows\[0, 0\]",
        ),
        (lambda: composition(EYE, EYE, k=1, tau=0.0, alpha=0.1), "0 < tau <= 1, got tau=0.0"),
        (lambda: composition(EYE, EYE, k=1, tau=0.9, alpha=1.0), "0 < alpha < 1, got alpha=1.0"),
        (lambda: benjamini_yekutieli(torch.tensor([0.5, 1.2])), "p-values in"),
        (lambda: benjamini_yekutieli(torch.tensor([])), "n >= 1"),
        (lambda: benjamini_yekutieli(torch.tensor([math.nan])), "finite"),
    ],
)
def test_bad_input(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()
