"""python -m theory: exit codes, output, the ledger, files of counterexamples."""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import strategies as st

import theory.__main__ as cli
import theory.claims._commands as commands
import theory.claims._pins as pins
from theory.claims import VOID, Claim, Comparison, Mutant, all_claims, at_most, check, find_claim
from theory.claims._attack import in_words


def test_list_names_every_claim_and_mutant(capsys):
    assert cli.main(["list", "--mutants"]) == 0
    out = capsys.readouterr().out
    for claim in all_claims():
        assert f"{claim.key} " in out
        assert claim.statement.splitlines()[0] in out
        assert all(f"{claim.key}/{mutant.name}: " in out for mutant in claim.mutants)


def test_list_shows_what_a_ledger_holds(tmp_path, capsys):
    path = tmp_path / "ledger.json"
    assert cli.main(["check", "A2", "--examples", "20", "--ledger", str(path)]) == 0
    capsys.readouterr()
    assert cli.main(["list", "--ledger", str(path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert " 3/3 attained " in lines["A2"]
    assert re.search(r" 3 +- ", lines["A1"])  # of which the ledger says nothing
    entries = json.loads(path.read_text())
    entries["A2"]["statement"] = "Something else"
    entries["A2"]["mutants"] = {}
    path.write_text(json.dumps(entries))
    assert cli.main(["list", "--ledger", str(path), "--markdown"]) == 0
    (row,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("| A2 |")]
    assert row.endswith("| 3 | - |")  # a ledger of another statement is none of this one


@pytest.mark.parametrize("text", ["[]", "no JSON", '{"A2": {"passed": true}}', None])
def test_list_refuses_what_is_no_ledger(text, tmp_path, capsys):
    path = tmp_path / "ledger.json"
    if text is not None:
        path.write_text(text)
    assert cli.main(["list", "--ledger", str(path)]) == 2
    assert "expected a ledger" in capsys.readouterr().err


def test_check_writes_a_ledger(tmp_path, capsys):
    path = tmp_path / "ledger.json"
    path.write_text("an old one, which is replaced")
    # In this process; two processes write the same ledger, see the next test.
    args = ["check", "A2", "C1", "--examples", "10", "--jobs", "1", "--ledger", str(path)]
    assert cli.main(args) == 0
    ledger = json.loads(path.read_text())
    assert list(ledger) == ["A2", "C1"]
    entry = ledger["C1"]
    assert (entry["passed"], entry["examples"], entry["void"]) == (True, 10, 0)
    assert entry["mutants"] == {"unclipped-ray": True, "ray-sign-flips": True}
    assert 0 <= entry["worst_margin"] <= 1e-9
    assert entry["nearest"]["relation"] == "<="
    assert entry["nearest"] in entry["closest"]
    needed = {m: check(find_claim(f"C1/{m}"), examples=10).n_examples for m in entry["mutants"]}
    assert entry["examples_to_refute"] == needed
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[::2]] == [["A2", "ok"], ["C1", "ok"]]
    assert "2/2 mutants refuted" in lines[2]
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.json"]  # and no scratch file
    assert lines[3] == f"     nearest: {in_words(Comparison(**entry['nearest']))}"


def test_ledger_is_the_same_whatever_the_number_of_processes(tmp_path, capsys):
    written = []
    for name, jobs in (("first", "1"), ("second", "1"), ("third", "2")):
        args = ["check", "A2", "C1", "C2", "--examples", "20", "--ledger", str(tmp_path / name)]
        assert cli.main([*args, "--jobs", jobs]) == 0
        written.append((tmp_path / name).read_text())
    assert written[0] == written[1] == written[2]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[::2]] == ["A2", "C1", "C2"] * 3


def test_check_as_json_is_the_ledger_with_seconds(tmp_path, capsys):
    path = tmp_path / "ledger.json"
    assert cli.main(["check", "C1", "--examples", "10", "--json", "--ledger", str(path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["C1"].pop("seconds") >= 0
    assert told == json.loads(path.read_text())


def test_all_is_no_keys(monkeypatch, capsys):
    monkeypatch.setattr(commands, "all_claims", lambda: (claim(holds, fails),))
    assert cli.main(["check", "--all", "--examples", "20"]) == 0
    assert capsys.readouterr().out.startswith("T    ok   10 instances, 0 void, ")
    assert cli.main(["check", "A1", "--all"]) == 2
    assert capsys.readouterr().err == "check: expected either keys or --all, got keys=('A1',)\n"


def test_falsify_writes_only_if_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["falsify", "C1/ray-sign-flips", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []
    assert cli.main(["falsify", "C1/ray-sign-flips", "--save", "found.json"]) == 0
    assert capsys.readouterr().out.endswith("\nsaved in found.json\n")
    assert cli.main(["falsify", "C1/ray-sign-flips", "--save", "found.json", "--json"]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out)["refuted"], err) == (True, "saved in found.json\n")
    assert [file.name for file in tmp_path.iterdir()] == ["found.json"]
    assert json.loads(Path("found.json").read_text()) == told["counterexample"]
    assert told["refuted"] is True
    assert told["examples"] == 2
    assert cli.main(["replay", "found.json"]) == 0
    assert "C1/ray-sign-flips fails (margin -" in capsys.readouterr().out


def test_falsify_without_success_writes_nothing_and_says_how_near(tmp_path, capsys):
    args = ["falsify", "C2", "--examples", "20", "--save", str(tmp_path / "found.json"), "--json"]
    assert cli.main(args) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["refuted"], told["examples"], told["counterexample"]) == (False, 20, None)
    assert told["nearest"]["label"] == "mean score, against its bound"
    assert told["nearest"]["margin"] > 0.05
    assert list(tmp_path.iterdir()) == []


def test_pin_writes_every_false_claim_and_clears_what_is_stale(tmp_path, monkeypatch, capsys):
    keys = ("A1/correlated-codes", "C1/ray-sign-flips", "E1/errors-do-not-matter")
    monkeypatch.setattr(pins, "false_claims", lambda: tuple(map(find_claim, keys)))
    (tmp_path / "A1__gone.json").write_text("{}")
    (tmp_path / "mine.json").write_text("{}")
    assert cli.main(["pin", str(tmp_path), "--examples", "10", "--jobs", "1"]) == 1
    assert "among 10 instances: E1/errors-do-not-matter\n" in capsys.readouterr().out
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["A1__correlated-codes.json", "C1__ray-sign-flips.json", "mine.json"]
    assert cli.main(["pin", str(tmp_path), "--jobs", "0"]) == 2
    assert cli.main(["pin", "/proc/x", "--examples", "1"]) == 2
    assert "a folder that can be made, got folder='/proc/x'" in capsys.readouterr().err


def test_falsify_prints_the_same_minimal_counterexample_each_time(capsys):
    assert cli.main(["falsify", "C1/ray-sign-flips"]) == 0
    first = capsys.readouterr().out
    assert cli.main(["falsify", "C1/ray-sign-flips"]) == 0
    assert capsys.readouterr().out == first
    assert "C1/ray-sign-flips fails (margin -" in first
    assert "measured" in first


def test_falsify_of_a_true_claim_exits_1(capsys):
    assert cli.main(["falsify", "C1", "--examples", "10", "--seed", "5"]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == "C1: no counterexample among 10 instances (seed 5)"
    assert second.startswith("     nearest: ")


@pytest.mark.parametrize(
    ("args", "tried"),
    [(["check", "C1", "--ledger"], "attacks"), (["falsify", "C1", "--save"], "check")],
)
@pytest.mark.parametrize("name", ["no/folder/x.json", "file/x.json", "folder", "/dev/null"])
def test_a_path_that_cannot_be_written_exits_2_before_the_work(
    args, tried, name, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(commands, tried, lambda *args, **kwargs: pytest.fail("it began to work"))
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").write_text("as it was")
    assert cli.main([*args, name]) == 2
    out, err = capsys.readouterr()
    option = args[-1].removeprefix("--")
    assert (out, err.count("\n")) == ("", 1)
    assert re.match(f"{args[0]}: expected .*--{option}.* got {option}='{name}'", err)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]
    assert Path("file").read_text() == "as it was"


def test_an_interrupted_ledger_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "ledger.json"
    path.write_text("old")
    monkeypatch.setattr(
        "sae.durable.os.fsync", lambda handle: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        cli.main(["check", "C1", "--examples", "5", "--jobs", "1", "--ledger", str(path)])
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [
        ("ledger.json", "old")
    ]


@pytest.mark.parametrize("command", ["check", "falsify"])
@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("a2", "A2"),
        ("h1-Condition", "H1-condition"),
        ("f2_greedy", "F2-greedy"),
        ("a1/Correlated-code", "A1/correlated-codes"),
        ("A2/nope", "A2/bias-adds-nothing or A2/rarity-helps-unweighted or A2/copying-is-optimal"),
        ("NOPE", None),
    ],
)
def test_unknown_name_exits_2_and_says_what_is_near(command, name, near, capsys):
    assert cli.main([command, name]) == 2
    asked = f"did you mean {near}? " if near else ""
    assert capsys.readouterr().err == (
        f"expected the name of a claim or of a mutant, got name='{name}'; {asked}"
        "`python -m theory list` shows the claims, and with --mutants these too\n"
    )


def test_help_says_what_a_mutant_is_and_gives_an_example(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert "A mutant is a false variant of a claim" in out
    (example,) = re.findall(r"^ +python -m theory (check .*)$", out, re.MULTILINE)
    assert find_claim(example.split()[1])
    assert cli.main([*example.split()[:2], "--examples", "20"]) == 0


@pytest.mark.parametrize(
    ("command", "option"), [("list", "ledger"), ("check", "ledger"), ("falsify", "save")]
)
def test_help_shows_a_path_as_one(command, option, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    out = capsys.readouterr().out
    assert f"--{option} PATH" in out
    assert "{None}" not in out


def test_no_examples_exits_2(capsys):
    assert cli.main(["check", "C1", "--examples", "0"]) == 2
    assert capsys.readouterr().err == "check: expected examples >= 1, got examples=0\n"


def claim(compare, mutant):
    return Claim(
        key="T",
        statement="toy",
        source="new",
        proof="",
        status="proved",
        kind="exact",
        paper_label="eq:toy",
        strategy=lambda: st.integers(0, 9),
        compare=compare,
        mutants=(Mutant("false", "false", mutant),),
    )


def holds(n):
    return (at_most("n", float(n), 9.0),)


def fails(n):
    return (at_most("n", float(n), 3.0),)


@pytest.mark.parametrize(
    ("compare", "mutant", "said"),
    [
        (fails, fails, "FAIL"),
        (holds, holds, "SURVIVED: false"),
        (lambda n: VOID, fails, "more than half void"),
    ],
    ids=["false claim", "surviving mutant", "void"],
)
def test_check_exits_1(compare, mutant, said, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(commands, "all_claims", lambda: (claim(compare, mutant),))
    path = tmp_path / "ledger.json"
    assert cli.main(["check", "--examples", "50", "--ledger", str(path)]) == 1
    out = capsys.readouterr().out
    assert said in out
    assert out.startswith("T    FAIL ")
    todo = "\n     raise --examples (50 here): what survives many more may be true\n"
    assert (todo in out) == (mutant is holds)
    if compare is fails:
        assert "n: measured 4, claimed <= 3" in out
    entry = json.loads(path.read_text())["T"]
    assert entry["passed"] == (compare is holds)
    assert entry["mutants"] == {"false": mutant is fails}


def test_a_refuted_claim_that_survives_fails_with_what_to_do(monkeypatch, capsys):
    survivor = replace(claim(holds, fails), status="refuted")
    monkeypatch.setattr(commands, "all_claims", lambda: (survivor,))
    assert cli.main(["check", "--examples", "50"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("T    FAIL ")
    assert "\n     raise --examples (50 here): " in out


def test_errors_of_a_claim_are_not_taken_for_typing_errors(monkeypatch):
    def broken(n):
        raise ValueError("recovery: expected something else")

    monkeypatch.setattr(commands, "all_claims", lambda: (claim(broken, fails),))
    with pytest.raises(ValueError, match="something else"):
        cli.main(["check", "--examples", "5"])


def test_progress_is_shown_on_a_terminal_only(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(commands, "all_claims", lambda: (claim(holds, fails),))
    assert cli.main(["check", "--examples", "50"]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(commands.sys, "stderr", terminal)
    assert cli.main(["check", "--examples", "50"]) == 0
    assert "\rT: 10/50" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\033[K")


def test_exit_code_reaches_the_shell():
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "theory", "falsify", "nope"]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert "got name='nope'; " in run.stderr
