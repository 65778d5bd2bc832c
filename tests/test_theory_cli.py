"""python -m theory: exit codes, output, the ledger."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import strategies as st

import theory.__main__ as cli
from theory.claims import VOID, Claim, Mutant, all_claims, at_most


def test_list_names_every_claim_and_mutant(capsys):
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    for claim in all_claims():
        assert f"{claim.key} " in out
        assert claim.statement.splitlines()[0] in out
        assert all(f"{claim.key}/{mutant.name}: " in out for mutant in claim.mutants)


def test_check_writes_a_ledger(tmp_path, capsys):
    path = tmp_path / "deep" / "ledger.json"
    args = ["check", "A2", "C1", "--examples", "10", "--ledger", str(path)]
    assert cli.main(args) == 0
    ledger = json.loads(path.read_text())
    assert list(ledger) == ["A2", "C1"]
    entry = ledger["C1"]
    assert (entry["passed"], entry["examples"], entry["void"]) == (True, 10, 0)
    assert entry["mutants"] == {"unclipped-ray": True, "ray-sign-flips": True}
    assert 0 <= entry["worst_margin"] <= 1e-9
    first = path.read_text()
    assert cli.main(args) == 0
    assert path.read_text() == first
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["A2", "ok"], ["C1", "ok"]]
    assert "2/2 mutants refuted" in lines[1]


def test_falsify_prints_the_same_minimal_counterexample_each_time(capsys):
    assert cli.main(["falsify", "C1/ray-sign-flips"]) == 0
    first = capsys.readouterr().out
    assert cli.main(["falsify", "C1/ray-sign-flips"]) == 0
    assert capsys.readouterr().out == first
    assert "C1/ray-sign-flips fails (margin -" in first
    assert "measured" in first


def test_falsify_of_a_true_claim_exits_1(capsys):
    assert cli.main(["falsify", "C1", "--examples", "10", "--seed", "5"]) == 1
    assert capsys.readouterr().out == "C1: no counterexample among 10 instances (seed 5)\n"


@pytest.mark.parametrize("command", ["check", "falsify"])
def test_unknown_name_exits_2_and_lists_the_known(command, capsys):
    assert cli.main([command, "A1/nope"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("find_claim: expected one of A1, A2, ")
    assert "A1/energies-not-variances" in err
    assert err.endswith("got name='A1/nope'\n")


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
    monkeypatch.setattr(cli, "all_claims", lambda: (claim(compare, mutant),))
    path = tmp_path / "ledger.json"
    assert cli.main(["check", "--examples", "50", "--ledger", str(path)]) == 1
    out = capsys.readouterr().out
    assert said in out
    if compare is fails:
        assert "n: measured 4, claimed <= 3" in out
    entry = json.loads(path.read_text())["T"]
    assert entry["passed"] == (compare is holds)
    assert entry["mutants"] == {"false": mutant is fails}


def test_errors_of_a_claim_are_not_taken_for_typing_errors(monkeypatch):
    def broken(n):
        raise ValueError("recovery: expected something else")

    monkeypatch.setattr(cli, "all_claims", lambda: (claim(broken, fails),))
    with pytest.raises(ValueError, match="something else"):
        cli.main(["check", "--examples", "5"])


def test_progress_is_shown_on_a_terminal_only(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(cli, "all_claims", lambda: (claim(holds, fails),))
    assert cli.main(["check", "--examples", "50"]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cli.sys, "stderr", terminal)
    assert cli.main(["check", "--examples", "50"]) == 0
    assert "\rT: 10/50" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\033[K")


def test_exit_code_reaches_the_shell():
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "theory", "falsify", "nope"]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.endswith("got name='nope'\n")
