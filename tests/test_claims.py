"""Every claim holds, every mutant falls, and the search itself cannot pass by accident."""

import contextlib
import importlib
import math
import secrets
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers

import theory.claims as claims
from theory.claims import (
    VOID,
    Claim,
    Mutant,
    Noise,
    all_claims,
    at_most,
    check,
    describe,
    equal,
    false_claims,
    falsify,
    find_claim,
)
from theory.recovery import recovery, recovery_chance_bound
from theory.spectral import spectral_fve_bound, spectral_loss_bound
from toymodels import Independent, random_unit, stream

EXAMPLES = settings().max_examples
STATISTICAL_EXAMPLES = min(EXAMPLES, 20) if EXAMPLES > 50 else EXAMPLES
SEED = 0 if settings().derandomize else secrets.randbelow(2**31)
EVERY = all_claims()
CLAIMS = [claim for claim in EVERY if claim.kind != "trained"]  # see test_trained_claims.py
MUTANTS = [claim.variant(mutant) for claim in CLAIMS for mutant in claim.mutants]

# The smallest number of dimensions in which each mutant can fail at all; 1 where not listed.
LEAST_DIMS = {
    "A1/correlated-codes": 2,
    "A2/rarity-helps-unweighted": 2,
    "B1/m-over-rank": 2,
    "B2/no-binomial-factor": 2,
    "B2/in-sample": 2,
    "C2/one-over-root-d": 2,
    "C2/no-union-factor": 2,
}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.key)
def test_claim_holds(claim):
    examples = STATISTICAL_EXAMPLES if claim.kind == "sampled" else EXAMPLES
    result = check(claim, examples=examples, seed=SEED)
    assert result.passed, f"seed {SEED}: {result.counterexample or result}"
    assert (result.worst_margin >= 0) == (claim.status != "refuted")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.key)
def test_mutant_is_refuted_and_shrunk(mutant):
    found = falsify(mutant, examples=200)
    assert found is not None
    noise = Noise("retest", 10 * mutant.n_samples) if mutant.kind == "sampled" else None
    assert mutant.margin(found.instance, noise) == found.margin < 0
    dims = _dims(found.instance)
    if dims is not None or mutant.key in LEAST_DIMS:
        assert LEAST_DIMS.get(mutant.key, 1) <= dims <= 2
    assert getattr(found.instance, "seed", 0) < 10  # seeds shrink, if need be not quite to 0


def _dims(instance):
    """The dimension of an instance's space; None where this function does not know its kind."""
    if hasattr(instance, "d_in"):
        return instance.d_in
    if hasattr(instance, "distribution"):
        return instance.distribution.n_features + instance.extra_dims
    dictionaries = (getattr(instance, n, None) for n in ("dictionary", "atoms", "latents"))
    return next((d.d_in for d in dictionaries if d is not None), None)


def _one_more(matrix, n_latents):
    return spectral_loss_bound(matrix, n_latents + 1)


def _unweighted(rows, n_latents, *, weights=None, bias):
    return spectral_fve_bound(rows, n_latents, bias=bias)


def _swapped(n_features, n_latents, d_in, *, signed):
    return recovery_chance_bound(n_features, n_latents, d_in, signed=not signed)


def _first_latents_only(dictionary, W_dec, *, signed):
    return recovery(dictionary, W_dec[: len(dictionary)], signed=signed)


def _no_spread(n_rows, rank, rms_coherence, n_latents):
    return min(1.0, n_latents / rank)


@pytest.mark.parametrize(
    ("key", "criterion", "defect"),
    [
        ("A1", "spectral_loss_bound", _one_more),
        ("A2", "spectral_fve_bound", _unweighted),
        ("B1", "coherence_fve_bound", _no_spread),
        ("B2", "isotropic_fve_bound", lambda d, m, k: k / d),
        ("B2", "isotropic_fve_floor", lambda d, m, k, frame_bound: 0.9),
        ("C1", "recovery", _first_latents_only),
        ("C2", "recovery_chance_bound", _swapped),
    ],
)
def test_defect_in_a_criterion_is_caught_by_its_claim(key, criterion, defect, monkeypatch):
    monkeypatch.setattr(f"theory.claims.{key.lower()}.{criterion}", defect)
    assert not check(find_claim(key), examples=50, shrink=False).passed


def test_keys_and_labels_are_distinct_and_every_claim_has_a_mutant():
    mutants = [claim.variant(mutant).key for claim in EVERY for mutant in claim.mutants]
    assert len({claim.key for claim in EVERY}) == len(EVERY)
    assert len(set(mutants)) == len(mutants)
    assert all(claim.mutants for claim in EVERY)


# The engine, on claims about the integers.


@dataclass(frozen=True)
class Number:
    value: int


def numbers(high=1000):
    return st.builds(Number, st.integers(0, high))


def toy(compare, **changes):
    fields = {
        "key": "T",
        "statement": "toy",
        "source": "new",
        "proof": "",
        "status": "proved",
        "kind": "exact",
        "paper_label": "eq:toy",
        "strategy": numbers,
        "compare": compare,
        "mutants": (Mutant("none", "nothing holds", lambda _: (at_most("one", 1.0, 0.0),)),),
    }
    return Claim(**fields | changes)


def test_counterexample_is_minimal_and_says_what_it_measured():
    claim = toy(lambda number: (at_most("value", float(number.value), 136.0),))
    found = falsify(claim, examples=500)
    assert found.instance == Number(137)
    assert found.margin == pytest.approx(-1)
    assert str(found) == (
        "T fails (margin -1) on\n  Number(value=137)\n  value: measured 137, claimed <= 136"
    )
    assert not check(claim, examples=500).passed


def test_search_climbs_to_a_needle(monkeypatch):
    """Seven instances in 5 x 10^5 fail: random draws miss them, the margins lead there."""
    hole = toy(
        lambda number: (at_most("closeness", -abs(number.value - 123_456.0), -4.0, scale=1e6),),
        strategy=lambda: numbers(500_000),
    )
    assert abs(falsify(hole, examples=1000).instance.value - 123_456) <= 3
    monkeypatch.setattr("hypothesis.target", lambda *args, **kwargs: None)
    assert falsify(hole, examples=1000) is None


def test_half_void_passes_and_more_fails():
    def void_below(limit):
        return toy(
            lambda n: VOID if n.value < limit else (at_most("value", 0.0, 0.0),),
            strategy=lambda: numbers(9),
        )

    half = check(void_below(5), examples=100)
    assert (half.passed, half.n_examples, half.n_void) == (True, 10, 5)
    more = check(void_below(6), examples=100)
    assert (more.passed, more.n_examples, more.n_void, more.counterexample) == (False, 10, 6, None)
    every = check(void_below(10), examples=100)
    assert (every.passed, every.worst_margin) == (False, math.inf)


@pytest.mark.parametrize(
    "comparison",
    [
        at_most("a", math.nan, 1.0),
        at_most("a", 1.0, math.nan),
        equal("a", math.nan, math.nan),
        equal("a", math.inf, math.inf),
    ],
)
def test_nan_is_a_failure(comparison):
    holds = at_most("b", 0.0, 1.0)
    for comparisons in ((comparison, holds), (holds, comparison)):
        result = check(toy(lambda _, c=comparisons: c), examples=5)
        assert not result.passed
        assert math.isnan(result.worst_margin)
        assert math.isnan(result.counterexample.margin)


def test_sampled_candidate_must_fail_again_on_fresh_noise():
    evaluations = []

    def unlucky(number, noise):
        evaluations.append(noise)
        return (at_most("mean", 1.0 if noise.name == "search" else 0.0, 0.5, radius=0.1),)

    lucky = toy(unlucky, kind="sampled", n_samples=7)
    result = check(lucky, examples=5)
    assert result.passed
    assert result.worst_margin == pytest.approx(0.6)
    assert set(evaluations) == {Noise("search", 7), Noise("retest", 70)}


def test_sampled_failure_that_survives_the_retest_counts():
    false = toy(
        lambda number, noise: (at_most("mean", 1.0, 0.5, radius=0.1),), kind="sampled", n_samples=7
    )
    result = check(false, examples=5)
    assert not result.passed
    assert result.counterexample.margin == pytest.approx(-0.4)


def test_noise_streams_are_fresh_and_repeatable():
    draws = [torch.rand(3, generator=Noise(name, 1).generator(0)) for name in ("a", "b", "a")]
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


def test_refuted_claim_passes_by_its_counterexample():
    false = toy(lambda number: (at_most("value", float(number.value), 10.0),), status="refuted")
    assert check(false, examples=100).passed
    true = toy(lambda number: (at_most("value", float(number.value), 1000.0),), status="refuted")
    assert not check(true, examples=100).passed


def test_same_seed_same_search_and_another_seed_another():
    def trail(seed):
        seen = []

        def compare(number):
            seen.append(number.value)
            return (at_most("value", float(number.value), 1000.0),)

        result = check(toy(compare), examples=30, seed=seed)
        return seen, replace(result, seconds=0.0)

    assert trail(3) == trail(3)
    assert trail(3)[0] != trail(4)[0]


def test_search_does_not_read_the_source_of_loaded_modules(monkeypatch):
    """Hypothesis would draw constants that it finds in local files: edits would change searches."""
    reads = []
    look = providers._get_local_constants
    monkeypatch.setattr(providers, "_get_local_constants", lambda: reads.append(1) or look())
    holds = toy(lambda number: (at_most("value", float(number.value), 1000.0),))
    check(holds, examples=100)
    assert reads == []
    monkeypatch.setattr("theory.claims._engine._settled_search", contextlib.nullcontext)
    check(holds, examples=100)
    assert reads


def test_result_says_which_comparison_came_nearest():
    def compare(n):
        low = at_most("near", float(n.value), 1010.0, scale=1000)
        return (equal("tight", 1.0, 1.0), low, at_most("far", float(n.value), 2000.0, scale=1000))

    result = check(toy(compare), examples=200)
    assert [c.label for c in result.closest] == ["tight", "near", "far"]
    assert (result.nearest.label, result.nearest.measured) == ("near", 1000.0)
    assert result.nearest.margin == pytest.approx(0.01)
    assert result.worst_margin == result.closest[0].margin == 1e-9
    only = check(toy(lambda n: (equal("tight", 1.0, 1.0),)), examples=5)
    assert only.nearest.label == "tight"
    assert check(toy(lambda n: VOID), examples=5).nearest is None


def test_numbers_of_a_comparison_are_plain_floats():
    one = np.float64(1)
    for c in (at_most("a", one, one, radius=one), equal("a", one, one, scale=one)):
        assert {type(c.measured), type(c.expected), type(c.margin)} == {float}


def test_margins_are_scaled_and_have_the_stated_slack():
    assert at_most("a", 3.0, 2.0, scale=4.0).margin == pytest.approx(-0.25)
    assert at_most("a", 3.0, 2.0, scale=4.0, radius=2.0).margin == pytest.approx(0.25)
    assert equal("a", 3.0, 2.0, scale=4.0).margin == pytest.approx(-0.25)
    assert equal("a", 1.0, 1.0 + 0.9e-9).margin > 0 > equal("a", 1.0, 1.0 + 1.1e-9).margin
    assert at_most("a", 1.0 + 0.9e-9, 1.0).margin > 0 > at_most("a", 1.0 + 1.1e-9, 1.0).margin
    assert equal("a", 0.0, 0.0, scale=0.0).margin > 0
    assert equal("a", 0.0, 1e-200, scale=0.0).margin < 0


def test_exceptions_of_a_claim_are_not_swallowed():
    def broken(number):
        raise RuntimeError("no such world")

    with pytest.raises(RuntimeError, match="no such world"):
        check(toy(broken), examples=5)


def test_bad_arguments_are_named():
    claim = toy(lambda number: VOID)
    with pytest.raises(ValueError, match="check: expected examples >= 1, got examples=0"):
        check(claim, examples=0)
    with pytest.raises(ValueError, match="check: expected seed >= 0, got seed=-1"):
        check(claim, seed=-1)
    with pytest.raises(ValueError, match="T: expected n_samples >= 1 for a sampled claim"):
        toy(lambda number, noise: VOID, kind="sampled")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kind": "exakt"},
            "T: expected a kind of exact, sampled, trained, got kind='exakt'; the d",
        ),
        (
            {"status": "true"},
            "T: expected a status of proved, conjecture, refuted, got status='tru",
        ),
        (
            {"mutants": ()},
            r"T: expected one mutant or more, of distinct names, got mutants=\[\]; give",
        ),
        (
            {"mutants": (Mutant("m", "a", lambda n: VOID), Mutant("m", "b", lambda n: VOID))},
            r"T: expected one mutant or more, of distinct names, got mutants=\['m', 'm'\]; give",
        ),
    ],
    ids=["kind", "status", "no mutants", "twice the same"],
)
def test_a_claim_that_is_none_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        toy(lambda number: VOID, **changes)


def test_find_claim_resolves_mutants_and_says_what_is_near():
    assert find_claim("A1") is next(claim for claim in CLAIMS if claim.key == "A1")
    mutant = find_claim("A1/energies-not-variances")
    assert (mutant.status, mutant.mutants) == ("refuted", ())
    with pytest.raises(ValueError, match=r"got name='A1/nope'; did you mean A1/energies-not-va"):
        find_claim("A1/nope")


FILE = """
from hypothesis import strategies as st
from theory.claims import Claim, Mutant, at_most

def compare(n):
    return (at_most("n", float(n), 10.0),)

def mutant(n):
    return (at_most("n", float(n), 9.0),)

CLAIM = Claim(key="Z9", statement="n <= 10", source="new", proof="", status="proved", kind="exact",
              paper_label="eq:z", strategy=lambda: st.integers(0, 10), compare=compare,
              mutants=(Mutant("nine", "n <= 9", mutant),))
"""


def test_new_file_is_found_without_any_other_edit(tmp_path, monkeypatch):
    folder = tmp_path / "dropped_claims"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "_helper.py").write_text("")
    (folder / "z9.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    package = importlib.import_module("dropped_claims")
    (claim,) = all_claims(package)
    assert check(claim, examples=50).passed
    assert falsify(find_claim("Z9/nine", package), examples=50).instance == 10
    assert [false.key for false in false_claims(package)] == ["Z9/nine"]
    (folder / "z10.py").write_text("")
    importlib.invalidate_caches()
    with pytest.raises(ValueError, match=r"a CLAIM in every file.*dropped_claims\.z10"):
        all_claims(package)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "Z9",
            r"a key of its own for each claim, got Z9=\['copy.py', 'z9.py'\]; change the key in",
        ),
        ("Z9/ten", r"all_claims: expected keys without a slash, got keys=\['Z9/ten'\]; "),
    ],
    ids=["twice the same", "of a mutant"],
)
def test_a_key_that_hides_another_is_refused(key, message, tmp_path, monkeypatch):
    folder = tmp_path / f"claims_{key.replace('/', '_')}"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "z9.py").write_text(FILE)
    (folder / "copy.py").write_text(FILE.replace('"Z9"', f'"{key}"'))
    monkeypatch.syspath_prepend(tmp_path)
    package = importlib.import_module(folder.name)
    for look in (all_claims, lambda package: find_claim("Z9", package)):
        with pytest.raises(ValueError, match=message):
            look(package)


def test_descriptions_are_readable():
    law = Independent(2, torch.tensor([0.25, 1e-7], dtype=torch.float64))
    assert describe(law).startswith("Independent(n_features=2, firing_prob=[0.25, 1e-07], ")
    dictionary = random_unit(40, 3, generator=stream(0, "d"))
    assert describe(dictionary) == "Dictionary(vectors=tensor(40, 3))"
    assert describe((1.0, None, "a")) == "[1, None, 'a']"


def test_public_names_exist():
    assert all(hasattr(claims, name) for name in claims.__all__)
    assert Mutant("a", "b", lambda n: VOID).strategy is None
