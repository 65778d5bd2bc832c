"""Dictionaries against their closed forms, with refusals and broken twins."""

import itertools
import math
import sys

import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

import toymodels.dictionaries.composed as composed_file
from toymodels import Dictionary, all_dictionaries, dictionaries, orthonormal, random_unit, stream
from toymodels import strategies as tms
from toymodels.dictionaries.antipodal import antipodal
from toymodels.dictionaries.blocks import blocks
from toymodels.dictionaries.composed import composed, random_mixing
from toymodels.dictionaries.equiangular import equiangular
from toymodels.dictionaries.icosahedral import icosahedral
from toymodels.dictionaries.low_coherence import low_coherence, welch_bound
from toymodels.dictionaries.low_effective_rank import low_effective_rank
from toymodels.dictionaries.simplex import simplex

DOUBLE = {"dtype": torch.float64}


def g(seed=0):
    return stream(seed, "dictionary")


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def one_cosine(n, cosine):
    """The Gram of n directions of which every two have this cosine."""
    gram = torch.full((n, n), float(cosine), dtype=torch.float64)
    return gram.fill_diagonal_(1)


def refusal(call):
    """The message with which a call is refused, empty where it is not."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


def is_refuted(test, **strategies):
    """Asserts that the search that passes for the original finds a counterexample."""
    search = settings(
        max_examples=50, derandomize=True, database=None, deadline=None, phases=[Phase.generate]
    )
    with pytest.raises(AssertionError):
        search(given(**strategies)(test))()


# Closed forms -------------------------------------------------------------------------------------


def assert_simplex(n, make):
    dictionary = make(n)
    close(dictionary.gram(), one_cosine(n, -1 / (n - 1)))
    assert dictionary.d_in == n - 1
    assert dictionary.coherence() == pytest.approx(welch_bound(n, n - 1), abs=1e-9)
    assert dictionary.frame_bounds() == pytest.approx((n / (n - 1),) * 2, abs=1e-9)
    close(dictionary.vectors.sum(0), torch.zeros(n - 1, **DOUBLE))


@given(n=st.integers(2, 40))
def test_simplex(n):
    assert_simplex(n, lambda n: simplex(n, **DOUBLE))


def simplex_off_by_one(n):
    """The corners of the next simplex, less one: every cosine is -1 / n."""
    return Dictionary(simplex(n + 1, **DOUBLE).vectors[:n])


def centred_basis(n):
    """The simplex in R^n: right cosines, one dimension too many."""
    return Dictionary.normalise(torch.eye(n, **DOUBLE) - 1 / n)


@pytest.mark.parametrize("twin", [simplex_off_by_one, centred_basis])
def test_a_simplex_off_by_one_dimension_is_refuted(twin):
    is_refuted(lambda n: assert_simplex(n, twin), n=st.integers(2, 40))


def test_icosahedral():
    dictionary = icosahedral(**DOUBLE)
    gram = dictionary.gram()
    assert dictionary.vectors.shape == (6, 3)
    close(gram.abs(), one_cosine(6, 5**-0.5), 1e-14)
    assert dictionary.coherence() == pytest.approx(welch_bound(6, 3), abs=1e-14)
    assert dictionary.frame_bounds() == pytest.approx((2, 2), abs=1e-14)
    corners = antipodal(dictionary).gram()
    assert ((corners > 0.4) & (corners < 0.5)).sum(1).tolist() == [5] * 12  # nearest neighbours


@given(half=tms.dictionaries())
def test_antipodal(half):
    dictionary = antipodal(half)
    gram = half.gram()
    close(dictionary.gram(), torch.kron(torch.tensor([[1.0, -1], [-1, 1]], **DOUBLE), gram))
    low, high = half.frame_bounds()
    assert dictionary.frame_bounds() == pytest.approx((2 * low, 2 * high), abs=1e-9)
    assert dictionary.coherence() == pytest.approx(1, abs=1e-9)


@st.composite
def sizes_and_cosines(draw, max_size=12):
    """A number of directions and a cosine in their range; both ends of it often."""
    n = draw(st.integers(1, max_size))
    low = -1 / max(1, n - 1)
    return n, draw(st.sampled_from([low, 0.0, math.nextafter(1, 0)]) | st.floats(low, 0.9999))


@given(drawn=sizes_and_cosines())
def test_equiangular(drawn):
    n, cosine = drawn
    dictionary = equiangular(n, cosine, **DOUBLE)
    close(dictionary.gram(), one_cosine(n, cosine))
    if n == 1:
        return
    at_lower_end = abs(1 + (n - 1) * cosine) <= 1e-12
    assert dictionary.d_in == (n - 1 if at_lower_end else n)
    eigenvalues = [1 - cosine] + [1 + (n - 1) * cosine] * (not at_lower_end)
    expected = min(eigenvalues), max(eigenvalues)
    assert dictionary.frame_bounds() == pytest.approx(expected, abs=1e-9)


@given(n_blocks=st.integers(1, 4), drawn=sizes_and_cosines(5))
def test_blocks(n_blocks, drawn):
    size, cosine = drawn
    dictionary = blocks(n_blocks, size, cosine, **DOUBLE)
    block = equiangular(size, cosine, **DOUBLE)
    for i, j in itertools.product(range(dictionary.n_features), repeat=2):
        same = i // size == j // size
        expected = 1.0 if i == j else cosine if same else 0.0
        assert float(dictionary.vectors[i] @ dictionary.vectors[j]) == pytest.approx(expected)
    assert dictionary.vectors.shape == (n_blocks * size, n_blocks * block.d_in)
    assert dictionary.frame_bounds() == pytest.approx(block.frame_bounds(), abs=1e-9)


# Low effective rank -------------------------------------------------------------------------------


@given(n=st.integers(1, 6), d=st.integers(1, 6), decay=st.floats(0, 20), seed=st.integers(0, 2**32))
def test_low_effective_rank_squashes_random_directions(n, d, decay, seed):
    rows = random_unit(n, d, generator=g(seed), **DOUBLE).vectors
    squashed = low_effective_rank(n, d, decay, generator=g(seed), **DOUBLE).vectors
    for row, found in zip(rows, squashed, strict=True):
        stretched = torch.tensor([float(row[j]) / (j + 1) ** decay for j in range(d)], **DOUBLE)
        close(found, stretched / stretched.norm())


def test_low_effective_rank_is_even_without_decay_and_a_line_with_much():
    close(
        low_effective_rank(9, 5, 0.0, generator=g(), **DOUBLE).vectors,
        random_unit(9, 5, generator=g(), **DOUBLE).vectors,
    )
    line = low_effective_rank(9, 5, 200.0, generator=g(), **DOUBLE).vectors
    close(line.abs(), torch.eye(5, **DOUBLE)[[0] * 9])


N_ROWS = 100_000
# Hoeffding at 1e-10 for a mean of N_ROWS numbers in [0, 1]: an error of 0.011 is missed, of 0.022
# caught with probability 1 - 1e-10.
RADIUS = math.sqrt(math.log(2 / 1e-10) / (2 * N_ROWS))


def axis_share(rows):
    return float(rows[:, 0].square().mean())


@pytest.mark.parametrize("decay", [0.0, 1.0, 2.5])
def test_the_first_axis_of_the_plane_holds_the_stated_share(decay):
    share = 1 / (1 + 2**-decay)  # s_1 / (s_1 + s_2)
    rows = low_effective_rank(N_ROWS, 2, decay, generator=g(), **DOUBLE).vectors
    assert abs(axis_share(rows) - share) <= RADIUS


def test_the_share_of_the_first_axis_can_be_wrong():
    """With the squares of the spectrum in its place, the share is off."""
    rows = low_effective_rank(N_ROWS, 2, 2.0, generator=g(), **DOUBLE).vectors
    assert abs(axis_share(rows) - 1 / (1 + 2**-1.0)) > RADIUS


# Welch's bound and low coherence ------------------------------------------------------------------


@given(dictionary=tms.dictionaries())
def test_no_dictionary_is_below_the_welch_bound(dictionary):
    bound = welch_bound(dictionary.n_features, dictionary.d_in)
    assert dictionary.coherence() >= bound - 1e-9
    # The stronger statement from which it follows: the root mean square is no smaller either.
    assert dictionary.rms_coherence() >= bound - 1e-9


def test_a_bound_above_welch_is_refuted():
    def above(dictionary):
        n, d = dictionary.n_features, dictionary.d_in
        assume(n > 1)
        bound = math.sqrt(max(0, n - d) / (max(1, d - 1) * (n - 1)))  # d - 1 for d
        assert dictionary.rms_coherence() >= bound - 1e-9

    is_refuted(above, dictionary=tms.dictionaries())


@pytest.mark.parametrize(
    ("n", "d", "best"),
    [
        (3, 2, 1 / 2),  # Welch: lines at 60 degrees
        (5, 4, 1 / 4),  # Welch: the simplex
        (6, 3, 5**-0.5),  # Welch: the icosahedron
        (28, 7, 1 / 3),  # Welch: the most equiangular lines in R^7
        (7, 2, math.cos(math.pi / 7)),  # best in the plane, above Welch
        (4, 1, 1.0),  # nothing else is possible on the line
    ],
)
def test_low_coherence_finds_known_optima(n, d, best):
    """Up to the softness of the last maximum: the sum over the n (n - 1) pairs of |G_ij|^10000 is
    lowest within a factor (n (n - 1))^(1 / 10000) of the lowest coherence, at most 1.0007 here."""
    found = low_coherence(n, d, generator=g(), **DOUBLE).coherence()
    assert best - 1e-12 <= found <= best * (n * (n - 1)) ** 1e-4
    assert best >= welch_bound(n, d) - 1e-12


@given(n=st.integers(1, 10), d=st.integers(1, 6), seed=st.integers(0, 2**32))
def test_low_coherence_lies_between_welch_and_its_start(n, d, seed):
    dictionary = low_coherence(n, d, generator=g(seed), n_steps=50, **DOUBLE)
    start = random_unit(n, d, generator=g(seed), **DOUBLE)
    assert dictionary.vectors.shape == (n, d)
    assert welch_bound(n, d) - 1e-9 <= dictionary.coherence() <= start.coherence() + 1e-9
    again = low_coherence(n, d, generator=g(seed), n_steps=50, **DOUBLE)
    assert torch.equal(dictionary.vectors, again.vectors)
    if n <= d:
        close(dictionary.gram(), torch.eye(n, **DOUBLE))
    close(low_coherence(n, n, generator=g(seed)).gram(), torch.eye(n), 1e-5)


@pytest.mark.parametrize(("n", "d", "target"), [(64, 16, 0.35), (256, 64, 0.2), (12, 6, 0.5)])
def test_low_coherence_stops_at_the_coherence_asked_for(n, d, target):
    asked = low_coherence(n, d, generator=g(), coherence=target, **DOUBLE).coherence()
    best = low_coherence(n, d, generator=g(), **DOUBLE).coherence()
    assert best < asked <= target < low_coherence(n, d, generator=g(), n_steps=0).coherence()
    assert asked > target - 0.05  # it stopped there, and did not go on to the end


@pytest.mark.parametrize(("n", "d"), [(10, 5), (64, 16), (128, 8)])
def test_low_coherence_halves_the_distance_to_welch(n, d):
    """The table in its docstring has at most 0.4 of the way left, for the hardest of the three."""
    bound = welch_bound(n, d)
    start = random_unit(n, d, generator=g(), **DOUBLE).coherence()
    found = low_coherence(n, d, generator=g(), **DOUBLE).coherence()
    assert found - bound < (start - bound) / 2
    unmoved = low_coherence(n, d, generator=g(), n_steps=0, **DOUBLE).coherence()
    assert unmoved == pytest.approx(start)


# Composed -----------------------------------------------------------------------------------------


@st.composite
def mixings(draw):
    """Small integer mixings, as they come: many are to be refused."""
    n, m = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    row = st.lists(st.integers(0, 3), min_size=m, max_size=m)
    return torch.tensor(draw(st.lists(row, min_size=n, max_size=n)), **DOUBLE)


def proportional(u, v):
    """Naive and exact for small integers: all 2 x 2 minors vanish, and neither is zero."""
    minors = (u[i] * v[j] - u[j] * v[i] for i, j in itertools.combinations(range(len(u)), 2))
    return any(u) and any(v) and not any(minors)


def flaw(mixing):
    """The first reason to refuse a mixing of independent atoms, with its indices, or None."""
    rows, columns = mixing.tolist(), mixing.T.tolist()
    for name, vectors in (("zero_rows", rows), ("zero_columns", columns)):
        if zero := [i for i, v in enumerate(vectors) if not any(v)]:
            return f"{name}={zero[:5]}"
    for name, vectors in (("proportional_rows", rows), ("proportional_columns", columns)):
        pairs = itertools.combinations(range(len(vectors)), 2)
        if bad := [[i, j] for i, j in pairs if proportional(vectors[i], vectors[j])]:
            return f"{name}={bad[:5]}"
    return None


def assert_refuses_flaws(mixing, make):
    atoms = orthonormal(mixing.shape[1], mixing.shape[1], generator=g(), **DOUBLE)
    message = refusal(lambda: make(mixing, atoms))
    if expected := flaw(mixing):
        assert expected in message
        return
    assert message == ""
    dictionary = make(mixing, atoms)
    for i, row in enumerate(mixing.tolist()):
        mixed = sum(w * a for w, a in zip(row, atoms.vectors, strict=True))
        close(dictionary.vectors[i], mixed / mixed.norm())


@given(mixing=mixings())
def test_composed_mixes_or_refuses(mixing):
    assert_refuses_flaws(mixing, composed)


TWINS = {
    "_parallel_pairs": lambda matrix: [],
    "_zero_rows": lambda matrix: [],
}


@pytest.mark.parametrize("name", TWINS)
def test_composed_without_a_check_is_refuted(name, monkeypatch):
    monkeypatch.setattr(composed_file, name, TWINS[name])
    is_refuted(lambda mixing: assert_refuses_flaws(mixing, composed), mixing=mixings())


def test_composed_without_weights_is_refuted():
    def unweighted(mixing, atoms):
        return composed((mixing > 0).double(), atoms)

    is_refuted(lambda mixing: assert_refuses_flaws(mixing, unweighted), mixing=mixings())


def test_composed_gram_in_closed_form():
    atoms = simplex(4, **DOUBLE)
    mixing = torch.tensor([[1.0, 1, 0, 0], [0, 1, 2, 0], [0, 0, 1, 3]], **DOUBLE)
    inner = mixing @ one_cosine(4, -1 / 3) @ mixing.T
    scale = inner.diagonal().rsqrt()
    close(composed(mixing, atoms).gram(), scale[:, None] * inner * scale)


def test_proportional_in_float32_is_still_proportional():
    row = torch.rand(6, generator=g())
    mixing = torch.stack([row, row / 3, torch.rand(6, generator=g(1))])
    message = refusal(lambda: composed(mixing, orthonormal(6, 6, generator=g())))
    assert "proportional_rows=[[0, 1]]" in message


def test_proportional_rows_are_found_beyond_the_first_block():
    mixing = random_mixing(2100, 100, 3, generator=g(), **DOUBLE)
    atoms = orthonormal(100, 100, generator=g(), **DOUBLE)
    composed(mixing, atoms)
    mixing[2050] = 0.5 * mixing[1500]
    assert "proportional_rows=[[1500, 2050]]" in refusal(lambda: composed(mixing, atoms))


# Random mixings -----------------------------------------------------------------------------------


@st.composite
def mixing_sizes(draw):
    m = draw(st.integers(3, 7))
    k = draw(st.integers(2, m - 1))
    few, many = -(-2 * m // k), math.comb(m, k)
    n = draw(st.sampled_from([few, many]) | st.integers(few, many))
    return n, m, k


def assert_good_mixing(n, m, k, mixing):
    assert mixing.shape == (n, m)
    supports = [tuple(row.nonzero()[:, 0].tolist()) for row in mixing]
    assert {len(s) for s in supports} == {k}
    assert len(set(supports)) == n
    weights = mixing[mixing > 0]
    assert 0.7 <= float(weights.min()) <= float(weights.max()) <= 1
    uses = (mixing > 0).sum(0).tolist()
    assert {min(uses), max(uses)} == {n * k // m, -(-n * k // m)}
    assert flaw(mixing) is None


@given(sizes=mixing_sizes(), seed=st.integers(0, 2**32))
def test_random_mixing(sizes, seed):
    assert_good_mixing(*sizes, random_mixing(*sizes, generator=g(seed), **DOUBLE))


def repeat_a_support(mixing):
    """Row 0 again in each row of which the support is that of row 0, shifted by one atom."""
    same = ((mixing > 0) == (mixing[:1] > 0).roll(1, dims=1)).all(1)
    return torch.where(same[:, None], mixing[:1], mixing)


MIXING_TWINS = {
    "a support twice": repeat_a_support,
    "weights too small": lambda mixing: mixing - 0.01 * (mixing > 0),
    "proportional columns": lambda mixing: (mixing > 0).double(),
}


@pytest.mark.parametrize("name", MIXING_TWINS)
def test_a_broken_random_mixing_is_refuted(name):
    def attempt(sizes, seed):
        mixing = random_mixing(*sizes, generator=g(seed), **DOUBLE)
        assert_good_mixing(*sizes, MIXING_TWINS[name](mixing))

    is_refuted(attempt, sizes=mixing_sizes(), seed=st.integers(0, 2**32))


def test_a_random_mixing_out_of_balance_is_refuted(monkeypatch):
    monkeypatch.setattr(composed_file, "_balanced", lambda support: support)

    def attempt(sizes, seed):
        assert_good_mixing(*sizes, random_mixing(*sizes, generator=g(seed), **DOUBLE))

    is_refuted(attempt, sizes=mixing_sizes(), seed=st.integers(0, 2**32))


def test_mixings_of_several_sizes_stack():
    parts = [random_mixing(40, 32, k, generator=g(k), **DOUBLE) for k in (2, 3)]
    dictionary = composed(torch.cat(parts), orthonormal(32, 48, generator=g(), **DOUBLE))
    assert dictionary.vectors.shape == (80, 48)
    assert dictionary.vectors.dtype == torch.float64  # as the atoms


# Refusals -----------------------------------------------------------------------------------------


EYE2 = Dictionary(torch.eye(2))
OPPOSITE = Dictionary(torch.tensor([[1.0, 0], [-1, 0], [0, 1]]))
PLANE = Dictionary.normalise(torch.tensor([[1.0, 0], [0, 1], [1, 1]]))
NAN = float("nan")

REFUSALS = [
    (lambda: simplex(1), "simplex: expected n_features >= 2, got n_features=1"),
    (lambda: equiangular(4, -0.5), "-0.333333 <= cosine < 1 for 4 directions, got cosine=-0.5"),
    (lambda: equiangular(4, 1.0), "-0.333333 <= cosine < 1 for 4 directions, got cosine=1.0"),
    (lambda: equiangular(4, NAN), "cosine=nan"),
    (lambda: equiangular(1, -2.0), "-1 <= cosine < 1"),
    (lambda: equiangular(0, 0.0), "an integer n_features >= 1"),
    (lambda: blocks(2, 3, -0.6), "blocks: expected -0.5 <= cosine < 1 for block_size 3"),
    (lambda: blocks(2, 3, 1.0), "blocks: expected -0.5 <= cosine < 1 for block_size 3"),
    (lambda: blocks(0, 3, 0.5), "an integer n_blocks >= 1"),
    (lambda: low_effective_rank(3, 3, -1.0, generator=g()), "a finite decay >= 0, got decay=-1.0"),
    (lambda: low_effective_rank(3, 3, math.inf, generator=g()), "a finite decay >= 0"),
    (lambda: low_coherence(0, 3, generator=g()), "low_coherence: expected an integer n_features"),
    (lambda: low_coherence(4, 3, generator=g(), n_steps=-1), "n_steps >= 0, got n_steps=-1"),
    (
        lambda: low_coherence(6, 3, generator=g(), coherence=0.4),
        "expected coherence >= 0.447214, Welch's bound for 6 directions in R^3, got coherence=0.4",
    ),
    (
        lambda: low_coherence(7, 2, generator=g(), coherence=0.7),
        "what 1000 steps reached, got coherence=0.7; take more steps",
    ),
    (lambda: welch_bound(3, 0), "welch_bound: expected an integer d_in >= 1"),
    (lambda: random_mixing(4, 2, 2, generator=g()), "n_atoms >= 3, got n_atoms=2"),
    (lambda: random_mixing(4, 4, 1, generator=g()), "2 <= per_feature <= 3 (n_atoms - 1)"),
    (lambda: random_mixing(4, 4, 4, generator=g()), "2 <= per_feature <= 3 (n_atoms - 1)"),
    (lambda: random_mixing(3, 4, 2, generator=g()), "4 <= n_features <= 6 for these atoms"),
    (lambda: random_mixing(7, 4, 2, generator=g()), "4 <= n_features <= 6 for these atoms"),
    (lambda: composed(torch.ones(2, 3), EYE2), "shape [n_features, 2]"),
    (lambda: composed(torch.tensor([[1.0, NAN]]), EYE2), "finite numbers in mixing"),
    (lambda: composed(torch.tensor([[1.0, -1]]), EYE2), "negative_entries=[[0, 1]]"),
    (lambda: composed(torch.tensor([[1.0, 1], [0, 0]]), EYE2), "zero_rows=[1]"),
    (lambda: composed(torch.tensor([[1.0, 0]]), EYE2), "zero_columns=[1]; remove these atoms"),
    (lambda: composed(torch.tensor([[1.0, 2], [2, 4]]), EYE2), "proportional_rows=[[0, 1]]"),
    (
        lambda: composed(torch.tensor([[1.0, 2]]), EYE2),
        "proportional_columns=[[0, 1]]; merge each pair into one atom",
    ),
    (
        lambda: composed(torch.tensor([[1.0, 1, 0], [0, 1, 1], [1, 2, 2]]), OPPOSITE),
        "atoms that do not cancel, got features_of_norm_0=[0]",
    ),
    (
        lambda: composed(torch.tensor([[1.0, 1, 0], [0, 0, 1], [1, 0, 1]]), PLANE),
        "equal_features=[[0, 1]]",
    ),
]


@pytest.mark.parametrize(("call", "words"), REFUSALS, ids=lambda v: v if isinstance(v, str) else "")
def test_refusals(call, words):
    assert words in refusal(call)


@pytest.mark.parametrize(
    "make",
    [
        lambda **o: simplex(3, **o),
        lambda **o: icosahedral(**o),
        lambda **o: antipodal(simplex(3, **o)),
        lambda **o: equiangular(3, 0.2, **o),
        lambda **o: blocks(2, 2, 0.2, **o),
        lambda **o: low_effective_rank(3, 2, 1.0, generator=g(), **o),
        lambda **o: low_coherence(3, 2, generator=g(), n_steps=5, **o),
        lambda **o: low_coherence(2, 3, generator=g(), n_steps=5, **o),
        lambda **o: composed(torch.tensor([[1.0, 1], [1, 2]]), Dictionary(torch.eye(2, **o))),
    ],
)
def test_the_dtype_is_float32_unless_asked_for(make):
    assert make().vectors.dtype == torch.float32
    assert make(**DOUBLE).vectors.dtype == torch.float64
    assert make().vectors.is_contiguous()


def test_a_misnamed_function_is_answered_with_its_name(tmp_path, monkeypatch):
    (tmp_path / "star.py").write_text("def stern(n):\n    return n\n")
    monkeypatch.setattr(dictionaries, "__path__", [*dictionaries.__path__, str(tmp_path)])
    name = f"{dictionaries.__name__}.star"
    rule = "all_dictionaries: expected a function star in toymodels/dictionaries/star.py"
    try:
        with pytest.raises(ValueError, match=rf"^{rule}, got functions=\['stern'\]; name it"):
            all_dictionaries()
        del sys.modules[name]
        (tmp_path / "star.py").write_text("def star(n):\n    return n\n# another size\n")
        assert "star" in {make.__name__ for make in all_dictionaries()}
    finally:
        sys.modules.pop(name, None)
        vars(dictionaries).pop("star", None)
