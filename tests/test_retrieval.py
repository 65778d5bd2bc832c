"""Retrieval certificates, against worst cases, closed forms and broken twins."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory.isotropic import isotropic_rows
from theory.retrieval import direction_errors, retrieval, retrieval_bound
from toymodels import composed, equiangular, orthonormal, random_mixing, stream

seeds = st.integers(0, 2**32 - 1)


def rows_of(n, d, seed, name):
    return isotropic_rows(n, d, generator=stream(seed, name), dtype=torch.float64)


def library(seed, cosine=0.0, n_atoms=6, per_feature=2, n_features=9):
    """Atoms, features of `per_feature` atoms each, and who is in which."""
    generator = stream(seed, "mixing")
    mixing = random_mixing(
        n_features, n_atoms, per_feature, generator=generator, dtype=torch.float64
    )
    atoms = equiangular(n_atoms, cosine, dtype=torch.float64)
    weights = torch.nn.functional.normalize(mixing, dim=1)
    return atoms.vectors, composed(mixing, atoms).vectors, weights


@given(seeds, st.floats(-0.15, 0.3), st.integers(2, 4))
def test_bound_holds_and_certifies_the_order(seed, cosine, per_feature):
    atoms, rows, weights = library(seed, cosine, per_feature=per_feature)
    members = weights > 0
    bound = retrieval_bound(abs(cosine), per_feature, weights[members].min().item())
    cosines = rows @ atoms.T
    assert cosines[members].min().item() >= bound.contained - 1e-9
    assert cosines[~members].abs().max().item() <= bound.other + 1e-9
    gap = min(
        min(c[m].tolist()) - max(c[~m].tolist()) for c, m in zip(cosines.T, members.T, strict=True)
    )
    assert gap >= bound.margin - 1e-9
    assert bound.certified == (bound.margin > 0)


def test_bound_values_and_extremes():
    assert retrieval_bound(0.0, 4, 0.5).margin == 0.5
    assert retrieval_bound(0.0, 1, 1.0).margin == 1.0
    # One atom a feature: 1 against mu, both attained.
    bound = retrieval_bound(0.3, 1, 1.0)
    assert (bound.contained, bound.other) == (pytest.approx(1.0), pytest.approx(0.3))
    # (k - 1) mu >= 1: nothing is known.
    void = retrieval_bound(0.5, 3, 0.5)
    assert (void.contained, void.other, void.certified) == (-1.0, 1.0, False)
    assert retrieval_bound(0.4, 3, 0.1).margin < 0
    assert retrieval_bound(1.0 + 1e-9, 1, 1.0).margin <= 1e-6  # a coherence off by rounding


def test_other_bound_is_sharp_and_smaller_constants_are_false():
    """Three lines at cosine -mu: a feature of two of them has cosine -2 mu/sqrt(2 - 2 mu)."""
    mu = 0.3
    atoms = equiangular(3, -mu, dtype=torch.float64).vectors
    feature = atoms[0] + atoms[1]
    cosine = abs((feature @ atoms[2] / feature.norm()).item())
    assert cosine == pytest.approx(retrieval_bound(mu, 2, math.sqrt(0.5)).other, abs=1e-12)


@given(seeds, st.sampled_from([0.01, 0.1, 0.3]), st.floats(-0.15, 0.3))
def test_margin_of_estimates_never_exceeds_the_true_gap(seed, error, cosine):
    atoms, rows, weights = library(seed, cosine)
    near_atoms = atoms + error * rows_of(*atoms.shape, seed, "atom errors")
    near_rows = rows + error * rows_of(*rows.shape, seed, "row errors")
    errors = {
        "atom_errors": direction_errors(near_atoms, atoms),
        "row_errors": direction_errors(near_rows, rows),
    }
    zero = {name: 0 * value for name, value in errors.items()}
    true_gaps = retrieval(atoms, rows, weights > 0, **zero).gaps
    estimated = retrieval(near_atoms, near_rows, weights > 0, **errors)
    assert bool((estimated.margins <= true_gaps + 1e-9).all())
    assert bool((true_gaps[estimated.certified] > 0).all())
    forward = retrieval(atoms, rows, weights > 0, **errors)
    near_gaps = retrieval(near_atoms, near_rows, weights > 0, **zero).gaps
    assert bool((forward.margins <= near_gaps + 1e-9).all())


def rotated(row, towards, chord):
    """The unit vector at this chord from `row`, in its plane with `towards`."""
    away = towards - (towards @ row) * row
    angle = 2 * math.asin(chord / 2)
    return math.cos(angle) * row + math.sin(angle) * away / away.norm()


@pytest.mark.parametrize("factor", [1.0, 0.45])
def test_row_errors_are_needed_in_full(factor):
    """Worst case: the member turns away from the atom, the other towards it, by equal chords.

    The full slack never certifies a broken order; less than half of it (the broken twin) does.
    """
    atom = torch.eye(3, dtype=torch.float64)[:1]
    rows = torch.tensor([[0.8, 0.6, 0.0], [0.6, 0.0, 0.8]], dtype=torch.float64)
    members = torch.tensor([[True], [False]])
    wrong = []
    for chord in torch.linspace(0.05, 0.3, 26).tolist():
        # Estimates are the given rows; the truth has been turned.
        truth = torch.stack([rotated(rows[0], -atom[0], chord), rotated(rows[1], atom[0], chord)])
        sizes = direction_errors(rows, truth)
        assert sizes.tolist() == pytest.approx([chord, chord])
        zero = torch.zeros(1, dtype=torch.float64)
        certified = retrieval(
            atom, rows, members, atom_errors=zero, row_errors=factor * sizes
        ).certified
        true_gap = retrieval(atom, truth, members, atom_errors=zero, row_errors=0 * sizes).gaps
        wrong.append(bool(certified[0]) and true_gap[0].item() <= 0)
    assert any(wrong) == (factor < 1)


def test_atom_errors_count_twice():
    """The atom between a member and an opposite: turning it costs nearly 2 eps."""
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    members = torch.tensor([[True], [False]])
    atom = torch.tensor([[0.1, (1 - 0.01) ** 0.5]], dtype=torch.float64)
    eps, none = torch.tensor([0.2]).double(), torch.zeros(2).double()
    found = retrieval(atom, rows, members, atom_errors=eps, row_errors=none)
    assert found.margins.item() == pytest.approx(0.2 - 0.4)
    turned = rotated(atom[0], -rows[0], 0.2)[None]
    true = retrieval(turned, rows, members, atom_errors=0 * eps, row_errors=none).gaps.item()
    assert found.margins.item() <= true < 0  # counted once, the margin would certify (0.0) this


def test_nothing_to_tell_apart_is_certified():
    atoms, rows = torch.eye(2), torch.eye(2)
    members = torch.tensor([[True, False], [True, False]])
    found = retrieval(atoms, rows, members, atom_errors=torch.zeros(2), row_errors=torch.zeros(2))
    assert found.margins.tolist() == [math.inf, math.inf]
    assert found.certified.tolist() == [True, True]


def test_direction_errors_are_chords_of_directions():
    u = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [1.0, 0.0]])
    v = torch.tensor([[5.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 1.0]])
    expected = [0, math.sqrt(2), 2, math.sqrt(2 - math.sqrt(2))]
    assert direction_errors(u, v).tolist() == pytest.approx(expected, abs=1e-12)


def test_rotation_scale_and_order_do_not_matter():
    atoms, rows, weights = library(0, 0.1)
    turn = orthonormal(6, 6, generator=stream(0, "turn"), dtype=torch.float64).vectors
    errors = {"atom_errors": torch.rand(6).double() / 9, "row_errors": torch.rand(9).double() / 9}
    base = retrieval(atoms, rows, weights > 0, **errors)
    other = retrieval(
        2 * atoms.flip(0) @ turn,
        3 * rows @ turn,
        (weights > 0).flip(1),
        atom_errors=errors["atom_errors"].flip(0),
        row_errors=errors["row_errors"],
    )
    assert torch.allclose(base.margins, other.margins.flip(0))


EYE, FLAGS, ZERO = torch.eye(2), torch.eye(2).bool(), torch.zeros(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: retrieval_bound(-0.1, 2, 0.5), "coherence=-0.1"),
        (lambda: retrieval_bound(math.nan, 2, 0.5), "coherence=nan"),
        (lambda: retrieval_bound(0.1, 0, 0.5), "per_feature >= 1"),
        (lambda: retrieval_bound(0.1, 2, 0.0), "min_weight=0.0"),
        (
            lambda: retrieval(EYE, EYE[:1], FLAGS, atom_errors=ZERO, row_errors=ZERO),
            r"an error for each.*members=\(2, 2\)",
        ),
        (
            lambda: retrieval(EYE[:0], EYE, FLAGS[:, :0], atom_errors=ZERO[:0], row_errors=ZERO),
            r"atoms=\(0, 2\)",
        ),
        (
            lambda: retrieval(EYE, 0 * EYE, FLAGS, atom_errors=ZERO, row_errors=ZERO),
            r"non-zero rows, got zero_rows=\[0, 1\]",
        ),
        (
            lambda: retrieval(EYE, EYE * math.nan, FLAGS, atom_errors=ZERO, row_errors=ZERO),
            "finite numbers in rows",
        ),
        (
            lambda: retrieval(EYE, EYE, FLAGS, atom_errors=ZERO - 1, row_errors=ZERO),
            r"errors in \[0, 2\], got least=-1.0",
        ),
        (lambda: direction_errors(EYE, EYE[:1]), r"directions=\(1, 2\)"),
        (lambda: direction_errors(0 * EYE, EYE), "non-zero estimates"),
    ],
)
def test_bad_input(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()
