"""Counterexamples as files: exact both ways, refused when foreign, one for every false claim."""

import json
import math
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings

import theory.__main__ as cli
from theory.claims import all_claims, false_claims, falsify, find_claim, replay, save
from theory.claims._replay import file_name
from theory.claims._tree import from_tree, to_tree

PINS = Path(__file__).with_name("counterexamples")
MAKE_PINS = "python -m theory pin tests/counterexamples"
STRATEGIES = {c.key: c.strategy for c in all_claims() if c.strategy}
STRATEGIES |= {
    f"{c.key}/{m.name}": m.strategy for c in all_claims() for m in c.mutants if m.strategy
}


def same(a, b):
    """Whether two instances hold the same, to the last bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.tolist() == b.tolist()
    if is_dataclass(a):
        names = [f.name for f in fields(a)]
        return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n)) for n in names)
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


@pytest.mark.parametrize("key", STRATEGIES)
def test_instances_survive_the_file_exactly(key):
    # Ten of each: they go through the same few types, whatever the numbers.
    @settings(max_examples=min(10, settings().max_examples))
    @given(STRATEGIES[key]())
    def survives(instance):
        text = json.dumps(to_tree(instance), allow_nan=False)
        read = from_tree(json.loads(text))
        assert same(instance, read)
        assert json.dumps(to_tree(read)) == text

    survives()


def test_another_instance_is_not_the_same():
    law = falsify(find_claim("A1/energies-not-variances"), examples=50).instance
    tree = to_tree(law)
    tree["fields"]["distribution"]["fields"]["firing_prob"]["values"] = [math.nextafter(0.5, 1)]
    assert not same(law, from_tree(tree))


@pytest.mark.parametrize(
    "value",
    [
        (1, 1.0, True, None, "a", -0.0, 5e-324, 0.1),
        [(1,), [2.0]],
        (math.inf, -math.inf),
        (torch.zeros(0, 3), torch.tensor(True), torch.tensor([[1, 2]]), torch.tensor([0.1])),
        (torch.tensor([math.inf, -0.0], dtype=torch.float64),),
    ],
    ids=str,
)
def test_plain_values_survive(value):
    assert same(value, from_tree(json.loads(json.dumps(to_tree(value), allow_nan=False))))


def test_nan_survives():
    assert math.isnan(from_tree(to_tree(math.nan)))
    assert from_tree(to_tree(torch.tensor([math.nan]))).isnan().all()


@pytest.mark.parametrize("value", [object(), {1: 2}, lambda: 0, torch.zeros(1).half(), Path("a")])
def test_what_a_file_cannot_hold_is_named(value):
    with pytest.raises(ValueError, match=r"^to_tree: expected .*, got "):
        to_tree(value)


@pytest.mark.parametrize("claim", false_claims(), ids=lambda claim: claim.key)
def test_pinned_counterexample_still_refutes(claim):
    path = PINS / file_name(claim.key)
    assert path.exists(), f"not pinned; make it with `{MAKE_PINS}`"
    done = replay(path)
    assert done.counterexample.key == claim.key
    assert done.refutes, f"no longer refuted; if that is meant, run `{MAKE_PINS}`"


def test_every_pin_is_of_a_false_claim():
    files = {path.name for path in PINS.iterdir()}
    assert files == {file_name(claim.key) for claim in false_claims()}, f"run `{MAKE_PINS}`"


@pytest.mark.parametrize(
    ("claim", "mutant"),
    [
        (c, m)
        for c in all_claims()
        for m in c.mutants
        if m.strategy is None and c.status == "proved"
    ],
    ids=lambda x: getattr(x, "key", None) or x.name,
)
def test_a_mutants_pin_does_not_refute_the_claim(claim, mutant):
    instance = replay(PINS / file_name(f"{claim.key}/{mutant.name}")).counterexample.instance
    assert claim.margin(instance) >= 0


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "new" / "found.json"
    save(falsify(find_claim("A1/energies-not-variances"), examples=50), path)
    return path


def edit(path, *keys, value):
    """Replaces what lies under these keys in a JSON file."""
    content = inner = json.loads(path.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content))


WORLD = ("instance", "fields")
LAW = (*WORLD, "distribution")
EDITS = {
    "format": (("format",), 2, "expected format 1, got format=2"),
    "extra": (("more",), 1, "expected an object of format, claim"),
    "claim": (("claim",), "Q7", "the name of a claim or of a mutant, got name='Q7'"),
    "module": ((*LAW, "class"), "os.path.join", "a dataclass of toymodels or theory.claims"),
    "imported": ((*LAW, "class"), "theory.claims.a1.Claim", "a dataclass of toymodels or"),
    "function": ((*LAW, "class"), "toymodels.streams.stream", "a dataclass of toymodels or"),
    "missing": ((*LAW, "class"), "toymodels.nowhere.Law", "a dataclass of toymodels or"),
    "relative": ((*LAW, "class"), "toymodels..os.Law", "a dataclass of toymodels or"),
    "fields": ((*WORLD, "colour"), 1, "the fields ['distribution', "),
    "value": ((*LAW, "fields", "n_features"), 0, "n_features"),
    "shape": ((*LAW, "fields", "firing_prob", "shape"), [3], "a shape and that many numbers"),
    "dtype": ((*LAW, "fields", "firing_prob", "tensor"), "float8", "a class, a tensor"),
    "numbers": ((*LAW, "fields", "firing_prob", "values"), ["a"], "that many numbers"),
    "kind": (LAW, 5, "expected an instance of the claim"),
    "instance": (("instance",), None, "expected an instance of the claim"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", EDITS)
def test_a_foreign_file_exits_2_with_one_line(name, saved, capsys):
    keys, value, said = EDITS[name]
    edit(saved, *keys, value=value)
    assert cli.main(["replay", str(saved)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"replay: {saved}: ")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("text", [None, "", "{", "[]", "3", "[" * 100_000], ids=range(6))
def test_no_counterexample_in_the_file_exits_2(text, saved, capsys):
    saved.unlink() if text is None else saved.write_text(text)
    assert cli.main(["replay", str(saved)]) == 2
    assert capsys.readouterr().err.startswith(f"replay: {saved}: expected ")


def test_replay_repeats_the_margin_to_the_last_bit(saved, capsys):
    assert cli.main(["replay", str(saved), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["refutes"] is True
    assert told["margin"] == told["saved_margin"] == json.loads(saved.read_text())["margin"] < 0
    assert told["versions"] == told["saved_versions"]


def test_replay_of_what_no_longer_fails_exits_1(saved, capsys):
    edit(saved, "claim", value="A1")
    assert cli.main(["replay", str(saved)]) == 1
    assert "A1 holds here (margin 1e-09)" in capsys.readouterr().out
    assert cli.main(["replay", str(saved), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["refutes"] is False
