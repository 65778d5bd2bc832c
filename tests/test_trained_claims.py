"""Claims about trained models: their intervals, their rules, and the real ones on their worlds."""

import json
import math
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp

import theory.__main__ as cli
import theory.claims._commands as commands
from sae import Store, default_root
from theory.claims import Claim, Mutant, all_claims, at_most, check
from theory.claims._attack import attack
from theory.claims._find import false_claims
from theory.claims._trained import (
    judge_worlds,
    mean_at_least,
    mean_at_most,
    mean_interval,
    share_at_least,
    stored_effects,
    train_worlds,
)

TRAINED = [claim for claim in all_claims() if claim.kind == "trained"]
effects = st.lists(st.floats(-10, 10), min_size=2, max_size=12).map(np.array)


@given(effects, st.floats(-10, 10))
def test_interval_is_scipys(values, bound):
    found = ttest_1samp(values, 0.0).confidence_interval(0.95) if np.ptp(values) > 1e-6 else None
    mean, low, high = mean_interval(values)
    assert mean == pytest.approx(values.mean(), abs=1e-12)
    if found is not None:
        assert (low, high) == pytest.approx((found.low, found.high), abs=1e-9)
    assert low <= mean <= high


@given(effects, st.floats(-10, 10))
def test_a_mean_holds_or_falls_where_the_t_test_says_so(values, bound):
    """A comparison is supported, or refuted, if a one-sided test at 2.5 % rejects the contrary."""
    if np.ptp(values) < 1e-3 or np.abs(np.array(mean_interval(values)) - bound).min() < 1e-6:
        return
    below = ttest_1samp(values, bound, alternative="less").pvalue < 0.025
    above = ttest_1samp(values, bound, alternative="greater").pvalue < 0.025
    most, least = mean_at_most("m", values, bound), mean_at_least("m", values, bound)
    assert (most.margin >= 0, most.refuted) == (below, above)
    assert (least.margin >= 0, least.refuted) == (above, below)
    assert mean_at_most("m", values, bound, scale=2.0).margin == pytest.approx(most.margin / 2)


@pytest.mark.parametrize("n", [8, 12])
def test_a_share_is_clopper_and_pearsons(n):
    for count in range(n + 1):
        found = share_at_least("s", np.arange(n) < count, 0.6)
        exact = binomtest(count, n).proportion_ci(0.95, method="exact")
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
        assert found.mean == count / n
        assert (found.margin >= 0, found.refuted) == (exact.low >= 0.6, exact.high < 0.6)
    assert share_at_least("s", np.ones(8, dtype=bool), 0.63).margin > 0


def test_an_interval_needs_two_worlds():
    with pytest.raises(ValueError, match="mean_interval: expected two worlds or more, got n_wo"):
        mean_at_most("m", np.array([1.0]), 2.0)


def test_words_say_what_was_found():
    values = np.array([1.0, 2.0, 3.0])
    text = "e: 2 [-0.4841, 4.484] on average over 3 worlds, claimed"
    assert mean_at_most("e", values, 5.0).in_words() == f"{text} <= 5: holds"
    assert mean_at_most("e", values, 4.0).in_words() == f"{text} <= 4: undecided"
    assert mean_at_least("e", values, 5.0).in_words() == f"{text} >= 5: refuted"


def test_what_is_not_a_number_fails_and_refutes_nothing():
    values = np.array([1.0, math.nan])
    for found in (mean_at_most("m", values, 0.0), mean_at_least("m", values, 0.0)):
        assert not found.margin >= 0
        assert not found.refuted


# A claim that trains nothing: world `seed` has the effect 1 + seed / 100.


@dataclass(frozen=True)
class Small:
    seed: int
    tilt: float = 1.0


calls = []


def run(world):
    calls.append(world.seed)
    return {"effect": np.array(world.tilt + world.seed / 100)}


def more(bound):
    return lambda effects: (mean_at_least("effect", effects["effect"], bound),)


def trained(compare=None, mutant=None, **changes):
    fields = {
        "key": "T1",
        "statement": "toy\nmore",
        "source": "new",
        "proof": "",
        "status": "conjecture",
        "kind": "trained",
        "paper_label": "eq:toy",
        "strategy": None,
        "compare": compare or more(0.9),
        "run": run,
        "worlds": tuple(Small(seed) for seed in range(8)),
        "mutants": (Mutant("false", "two", mutant or more(2.0)),),
    }
    return Claim(**fields | changes)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("SAE_TESTBED_RUNS", str(tmp_path / "runs"))
    calls.clear()
    return tmp_path / "runs"


@pytest.fixture
def known(monkeypatch):
    """Makes a claim, and its mutants, the only ones that the command line knows."""

    def use(claim):
        names = {c.key: c for c in (claim, *map(claim.variant, claim.mutants))}
        monkeypatch.setattr(commands, "all_claims", lambda: (claim,))
        monkeypatch.setattr(commands, "find_claim", names.__getitem__)

    return use


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "proved"}, "T1: expected a status other than proved .* training proves noth"),
        ({"worlds": tuple(map(Small, range(7)))}, "T1: expected 8 worlds or more, each with a se"),
        ({"worlds": (Small(0),) * 8}, "T1: expected 8 worlds or more, each with a seed of its own"),
        ({"worlds": (object(),) * 8}, "T1: expected 8 worlds or more, each with a seed of its own"),
        ({"worlds": ()}, r"no worlds, unless it is a trained claim, got has=\(False, True, False"),
        ({"run": None}, r"unless it is a trained claim, got has=\(False, False, True\)"),
        ({"strategy": st.integers}, r"unless it is a trained claim, got has=\(True, True, True\)"),
        ({"kind": "exact"}, r"T1: expected a strategy, and no run and no worlds"),
        ({"n_samples": 3}, "T1: expected n_samples >= 1 for a sampled claim, 0 for an exact one"),
        (
            {"mutants": (Mutant("m", "f", more(2.0), st.integers),)},
            r"T1: expected mutants of a trained claim without a strategy, got with_strategy=\['m'",
        ),
    ],
)
def test_rules_of_the_kind(changes, message):
    with pytest.raises(ValueError, match=message):
        trained(**changes)


def test_a_trained_claim_cannot_be_searched():
    with pytest.raises(ValueError, match=r"check: expected an exact or sampled claim.*kind='tra"):
        check(trained())


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda seed: {"effect": np.zeros(2)}, "T1: expected the same effects of one number each"),
        (lambda seed: {f"effect {seed}": np.zeros(1)}, "T1: expected the same effects of one num"),
        (lambda seed: {}, "T1: expected the same effects of one number each from every world"),
    ],
    ids=["two numbers", "other names", "none"],
)
def test_effects_are_one_number_of_each_world(result, message, store, monkeypatch):
    monkeypatch.setitem(globals(), "result", result)
    with pytest.raises(ValueError, match=message):
        train_worlds(trained(run=given_result))


def given_result(world):
    return globals()["result"](world.seed)


def test_comparisons_are_of_averages():
    claim = trained(lambda effects: (at_most("mean", float(effects["effect"].mean()), 2.0),))
    with pytest.raises(ValueError, match="T1: expected comparisons by mean_at_most, mean_at_lea"):
        judge_worlds(claim, {"effect": np.ones(8)})
    with pytest.raises(ValueError, match="T1: expected comparisons by mean_at_most, mean_at_lea"):
        judge_worlds(trained(lambda effects: ()), {"effect": np.ones(8)})


def test_worlds_are_trained_once(store):
    claim = trained()
    assert stored_effects(claim) is None
    found = train_worlds(claim)
    assert found["effect"].tolist() == [1 + seed / 100 for seed in range(8)]
    assert calls == list(range(8))
    assert stored_effects(claim)["effect"].tolist() == found["effect"].tolist()
    wider = trained(worlds=tuple(map(Small, range(9))))
    assert stored_effects(wider) is None
    train_worlds(wider)
    assert calls == list(range(9))


def test_status_decides_what_passes():
    found = {"effect": 1 + np.arange(8) / 100}
    for bound, holds, refuted in ((0.9, True, False), (1.035, False, False), (2.0, False, True)):
        for status, passes in (("conjecture", holds), ("refuted", refuted)):
            verdict = judge_worlds(trained(more(bound), status=status), found)
            assert (verdict.passed, verdict.refuted) == (passes, refuted)


def test_all_claims_without_worlds_are_not_run(store, known, tmp_path, capsys):
    known(trained())
    ledger = tmp_path / "ledger.json"
    assert cli.main(["check", "--all", "--jobs", "1", "--ledger", str(ledger)]) == 0
    assert capsys.readouterr().out == "T1   not run: python -m theory check T1\n"
    assert json.loads(ledger.read_text()) == {}
    assert cli.main(["check", "--all", "--jobs", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {}
    assert calls == []


@pytest.mark.parametrize("asked", [["T1"], ["--all", "--trained"]])
def test_check_trains_if_asked_and_the_ledger_has_the_effect(asked, store, known, tmp_path, capsys):
    known(trained())
    path = tmp_path / "ledger.json"
    assert cli.main(["check", *asked, "--jobs", "1", "--ledger", str(path)]) == 0
    assert calls == list(range(8))
    first = capsys.readouterr().out
    assert cli.main(["check", "--jobs", "1"]) == 0
    assert capsys.readouterr().out == first
    assert calls == list(range(8))
    entry = json.loads(path.read_text())["T1"]
    (effect,) = entry["effects"]
    low, high = ttest_1samp([1 + s / 100 for s in range(8)], 0).confidence_interval(0.95)
    assert (effect["low"], effect["high"]) == pytest.approx((low, high))
    assert (effect["mean"], effect["n_worlds"]) == (pytest.approx(1.035), 8)
    words = "effect: 1.035 [1.015, 1.055] on average over 8 worlds, claimed >= 0.9: holds"
    assert effect["words"] == words
    assert first == f"T1   ok   8 worlds, worst margin 0.115, 1/1 mutants refuted\n     {words}\n"
    assert (entry["passed"], entry["examples"], entry["void"]) == (True, 8, 0)
    assert (entry["kind"], entry["status"]) == ("trained", "conjecture")
    assert entry["worst_margin"] == pytest.approx(low - 0.9)
    assert entry["mutants"] == {"false": True}
    assert entry["examples_to_refute"] == {"false": 8}


@pytest.mark.parametrize(
    ("compare", "mutant", "said"),
    [
        (more(1.5), None, "FAIL 8 worlds"),
        (more(1.04), None, "FAIL 8 worlds"),
        (
            None,
            more(0.5),
            "FAIL 8 worlds, worst margin 0.115, 0/1 mutants refuted; SURVIVED: false",
        ),
        (None, more(1.04), "     add worlds (8 here): what survives many more may be true"),
    ],
    ids=["false", "undecided", "true mutant", "undecided mutant"],
)
def test_check_exits_1(compare, mutant, said, store, known, capsys):
    known(trained(compare, mutant))
    assert cli.main(["check", "T1", "--jobs", "1"]) == 1
    assert said in capsys.readouterr().out


def test_falsify_prints_the_effects_that_refute(store, known, capsys):
    known(trained())
    assert cli.main(["falsify", "T1/false"]) == 0
    text = "effect: 1.035 [1.015, 1.055] on average over 8 worlds, claimed >= 2: refuted"
    assert capsys.readouterr().out == f"two\nT1/false fails\n     {text}\n"
    assert cli.main(["falsify", "T1"]) == 1
    assert "T1 is not refuted\n     effect: 1.035 [1.015" in capsys.readouterr().out
    assert cli.main(["falsify", "T1/false", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["claim"], told["refuted"]) == ("T1/false", True)
    assert told["effects"][0]["words"] == text


def test_effects_are_not_saved_as_a_file(store, known, tmp_path, capsys):
    known(trained())
    assert cli.main(["falsify", "T1/false", "--save", str(tmp_path / "found.json")]) == 2
    assert "check: expected an exact or sampled claim for --save" in capsys.readouterr().err
    assert not (tmp_path / "found.json").exists()


def test_no_number_stays_plain_json(store, known, capsys):
    known(trained(lambda effects: (mean_at_most("m", effects["effect"] * math.nan, 1.0),)))
    assert cli.main(["check", "T1", "--jobs", "1", "--json"]) == 1
    entry = json.loads(capsys.readouterr().out)["T1"]
    assert (entry["passed"], entry["worst_margin"]) == (False, None)


def test_neither_trained_claims_nor_their_mutants_are_pinned():
    kinds = {claim.kind for claim in false_claims()}
    assert kinds == {"exact", "sampled"}
    assert {claim.key for claim in TRAINED}


# The real ones.


@pytest.mark.parametrize("claim", TRAINED, ids=lambda claim: claim.key)
def test_every_effect_that_is_compared_is_measured(claim):
    """A few steps of one world: everything runs, and the claim and its mutants find their effects.

    What they say of models that are hardly trained does not matter.
    """
    few = {"n_steps": 20, "n_meta_steps": 20, "batch_size": 64}
    world = claim.worlds[0]
    world = replace(world, **{f.name: few[f.name] for f in fields(world) if f.name in few})
    result = claim.run(world)
    assert all(isinstance(value, np.ndarray) and value.size == 1 for value in result.values())
    found = {name: np.array([value.item()] * 8) for name, value in result.items()}
    for variant in (claim, *map(claim.variant, claim.mutants)):
        assert judge_worlds(variant, found).comparisons
    seeds = [world.seed for world in claim.worlds]
    assert seeds == list(range(len(seeds)))
    assert claim.worlds == tuple(replace(claim.worlds[0], seed=seed) for seed in seeds)


@pytest.mark.slow
@pytest.mark.parametrize("claim", TRAINED, ids=lambda claim: claim.key)
def test_claim_is_as_its_worlds_say_and_every_mutant_falls(claim):
    found = train_worlds(claim)
    verdict = judge_worlds(claim, found)
    told = "\n".join(c.in_words() for c in verdict.comparisons)
    assert verdict.passed, told
    for mutant in claim.mutants:
        fallen = judge_worlds(claim.variant(mutant), found)
        assert fallen.refuted, "\n".join(c.in_words() for c in fallen.comparisons)
    assert attack(claim, examples=1, seed=0).passed


@pytest.mark.slow
@pytest.mark.parametrize("claim", TRAINED, ids=lambda claim: claim.key)
def test_a_stored_world_is_what_its_source_computes_now(claim):
    """The store does not know the source: a stale world would be judged in its place."""
    train_worlds(claim)
    name = f"{claim.run.__module__}.{claim.run.__qualname__}"
    stored = Store(default_root()).read(name, claim.worlds[-1], device_type="cpu")
    fresh = claim.run(claim.worlds[-1])
    assert set(fresh) == set(stored)
    for name, value in fresh.items():
        # Least squares in float64 round as the memory happens to lie; training repeats its bits.
        assert value.item() == pytest.approx(stored[name].item(), rel=1e-9, abs=1e-12), name
