"""The paper names a test for each equation and a script for each figure, and types no result.

The rules are functions of the paper's text; each has a broken twin below.

1. Every numbered line has a label and an \\eqtest; its key is a claim, or is declared \\untested.
   A key that is a claim may not be declared \\untested.
2. Every \\ref, \\eqref and citation resolves; no label is defined twice, no reference is unused.
3. Every figure has one \\script, names an existing script, and includes the same figure.
4. Decimals and percentages occur only inside \\published{...}{citation}. Sentences that report a
   measurement (environment `measured`) hold no digit that is typed by hand.
"""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from theory.claims import all_claims

ROOT = Path(__file__).resolve().parent.parent
PAPER = ROOT / "paper"
BIB = (PAPER / "refs.bib").read_text(encoding="utf-8")
CLAIMS = frozenset(claim.key for claim in all_claims())
FIGURES = frozenset(script.stem for script in (ROOT / "figures").glob("fig_*.py"))
NUMBERED = r"\\begin\{(equation|align|gather)\}(.*?)\\end\{\1\}"


def read_paper() -> str:
    """Returns the text of main.tex with its sections in place, without comments."""

    def section(found: re.Match) -> str:
        return (PAPER / f"{found[1]}.tex").read_text(encoding="utf-8")

    text = (PAPER / "main.tex").read_text(encoding="utf-8")
    text = re.sub(r"\\input\{(sections/\w+)\}", section, text)
    return re.sub(r"(?<!\\)%.*", "", text)


def numbered_lines(text: str) -> list[str]:
    """Returns the lines that LaTeX numbers; an inner environment belongs to its line."""
    lines = []
    for kind, body in re.findall(NUMBERED, text, flags=re.DOTALL):
        body = re.sub(r"\\begin\{(\w+)\}.*?\\end\{\1\}", "", body, flags=re.DOTALL)
        rows = [body] if kind == "equation" else body.split(r"\\")
        lines += [row for row in rows if not re.search(r"\\(notag|nonumber)\b", row)]
    return lines


def equation_problems(text: str, claims: frozenset[str]) -> list[str]:
    untested = re.findall(r"\\untested\{([^}]*)\}", text)
    problems = [f"{key} is a claim and declared untested" for key in set(untested) & claims]
    named = set()
    for line in numbered_lines(text):
        keys = re.findall(r"\\eqtest\{([^}]*)\}", line)
        named |= set(keys)
        if len(keys) != 1 or len(re.findall(r"\\label\{eq:[^}]+\}", line)) != 1:
            problems.append(f"not one label and one eqtest: {line.strip()}")
        known = claims | set(untested)
        problems += [f"eqtest of no claim, not declared: {key}" for key in keys if key not in known]
    problems += [f"declared untested, not in any equation: {k}" for k in untested if k not in named]
    return problems


def reference_problems(text: str, bib: str) -> list[str]:
    labels = re.findall(r"\\label\{([^}]*)\}", text)
    entries = re.findall(r"@\w+\{([^,\s]+),", bib)
    cited = [k for keys in re.findall(r"\\cite\w*\{([^}]*)\}", text) for k in keys.split(",")]
    cited += [key for _, key in published(text)]
    pairs = [("ref", re.findall(r"\\(?:eq|auto)?ref\{([^}]*)\}", text), labels)]
    pairs += [("citation", cited, entries)]
    problems = []
    for kind, used, defined in pairs:
        problems += [f"unknown {kind}: {key}" for key in used if key not in defined]
        twice = {key for key in defined if defined.count(key) > 1}
        problems += [f"{kind} defined twice: {key}" for key in twice]
    return problems + [f"never cited: {key}" for key in entries if key not in cited]


def figure_problems(text: str, figures: frozenset[str]) -> list[str]:
    problems = []
    for _, body in re.findall(r"\\begin\{(figure\*?)\}(.*?)\\end\{\1\}", text, flags=re.DOTALL):
        scripts = re.findall(r"\\script\{([^}]*)\}", body)
        shown = re.findall(r"\\includefigure\{([^}]*)\}", body)
        if len(scripts) != 1 or shown != scripts or r"\includegraphics" in body:
            problems.append(f"a figure shows {shown} and names the scripts {scripts}")
        if len(re.findall(r"\\label\{fig:[^}]*\}", body)) != 1:
            problems.append(f"a figure of {shown} without a label")
    named = re.findall(r"\\(?:script|result|resultpreset)\{([^}]*)\}", text)
    return problems + [f"no such script: figures/{n}.py" for n in named if n not in figures]


def number_problems(text: str) -> list[str]:
    text = text.partition(r"\begin{document}")[2]
    problems = []
    for body in re.findall(r"\\begin\{measured\}(.*?)\\end\{measured\}", text, flags=re.DOTALL):
        typed = re.sub(r"\\(\w*ref|cite\w*|resultpreset|result\{[^}]*\})\{[^}]*\}", "", body)
        problems += [
            f"typed in a measured sentence: {digit}" for digit in re.findall(r"\d+", typed)
        ]
    for literal, _ in published(text):
        text = text.replace(f"\\published{{{literal}}}", "")
    typed = re.findall(r"\d*\.\d+|\d+\s*(?:\\%|per cent|percent)", text)
    return problems + [f"typed outside \\published: {literal}" for literal in typed]


def published(text: str) -> list[tuple[str, str]]:
    return re.findall(r"\\published\{([^}]*)\}\{([^}]*)\}", text)


def problems_of(text: str) -> list[str]:
    problems = equation_problems(text, CLAIMS) + reference_problems(text, BIB)
    return problems + figure_problems(text, FIGURES) + number_problems(text)


def test_equations_name_their_tests():
    text = read_paper()
    assert len(numbered_lines(text)) >= 20, "the pattern finds no equations"
    assert equation_problems(text, CLAIMS) == []


def test_references_resolve():
    assert reference_problems(read_paper(), BIB) == []


def test_figures_name_their_scripts():
    text = read_paper()
    assert text.count(r"\begin{figure}") >= 3
    assert figure_problems(text, FIGURES) == []


def test_no_result_is_typed_by_hand():
    text = read_paper()
    assert text.count(r"\begin{measured}") == text.count(r"\begin{figure}")
    assert number_problems(text) == []


def test_claims_and_docstrings_name_labels_of_the_paper():
    labels = set(re.findall(r"\\label\{([^}]*)\}", read_paper()))
    without = {claim.key: claim.paper_label for claim in all_claims()}
    without = {key: label for key, label in without.items() if label not in labels}
    assert without == {}, "claims whose paper_label is no \\label: write their equations in paper/"
    sources = [p for folder in ("theory", "figures") for p in (ROOT / folder).rglob("*.py")]
    named = {
        (source.name, label)
        for source in sources
        for label in re.findall(r"\b((?:eq|fig):[a-z][a-z-]*)", source.read_text(encoding="utf-8"))
    }
    assert named, "no docstring names a label"
    missing = {(name, label) for name, label in named if label not in labels}
    assert missing == set(), "no such \\label: write it in paper/, or do not name it"


def test_every_claim_is_in_the_paper():
    missing = CLAIMS - set(re.findall(r"\\eqtest\{([^}]*)\}", read_paper()))
    assert missing == set(), "claims of no equation: add \\eqtest{KEY} to the one with their label"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (r"\eqtest{A1}", "", "not one label and one eqtest"),
        (r"\label{eq:weights}", "", "not one label and one eqtest"),
        (r"\label{eq:discard}", r"\label{eq:weights}", "ref defined twice: eq:weights"),
        (r"\eqtest{B1}", r"\eqtest{Z9}", "eqtest of no claim, not declared: Z9"),
        (r"\untested{B2-refit}", "", "eqtest of no claim, not declared: B2-refit"),
        (r"\untested{B2-refit}", r"\untested{A1}", "A1 is a claim and declared untested"),
        (r"\untested{B2-refit}", r"\untested{B2-refit}\untested{Z9}", "not in any equation: Z9"),
        (r"\eqref{eq:discard}", r"\eqref{eq:discord}", "unknown ref: eq:discord"),
        (r"\citep{fan1949}", r"\citep{fan1849}", "unknown citation: fan1849"),
        (r"}{bussmann2024metasaes} of", r"}{nobody} of", "unknown citation: nobody"),
        (r"\citep{benjamini2001}", "", "never cited: benjamini2001"),
        (r"\script{fig_rare_events}", "", "names the scripts []"),
        (r"\script{fig_rare_events}", r"\script{fig_none}", "no such script: figures/fig_none.py"),
        (r"\result{fig_rare_events}", r"\result{fig_none}", "no such script: figures/fig_none.py"),
        (r"\label{fig:recovery}", "", "without a label"),
        (r"\result{fig_rare_events}{energy_rarest}", "0.97", "typed in a measured sentence: 97"),
        (r"\result{fig_rare_events}{energy_rarest}", "97", "typed in a measured sentence: 97"),
        (r"\published{0.555}", "0.555", r"typed outside \published: 0.555"),
        ("a twenty-first", r"5 \%", r"typed outside \published: 5 \%"),
    ],
)
def test_broken_twins_are_refused(old, new, complaint):
    text = re.sub(r"\s+", " ", read_paper())
    assert text.count(old) >= 1, "the twin changes nothing"
    before = problems_of(text)
    after = problems_of(text.replace(old, new, 1))
    assert not any(complaint in problem for problem in before)
    assert any(complaint in problem for problem in after), after


# --- generate.py ---------------------------------------------------------------------------------


def load_generate():
    """Returns paper/generate.py as a module: `paper` is a folder of sources, not a package."""
    spec = importlib.util.spec_from_file_location("paper_generate", PAPER / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = load_generate()
ENTRY = {
    "passed": True,
    "status": "proved",
    "kind": "exact",
    "examples": 200,
    "void": 3,
    "worst_margin": 1.25e-9,
    "mutants": {"wrong_50%": True},
}
RECORD = {
    "preset": "quick",
    "numbers": {"fve_held_out": 0.43217, "count": 12.0, "broken": float("nan")},
    "margins": {"below m/n & 5% of_it ≤ λ": 0.25, "other": 1.5},
    "config_hash": "0123456789abcdef",
}


@pytest.fixture
def tree(tmp_path):
    """A ledger with a claim that passes and three that do not, and one figure that has run."""
    figures = tmp_path / "figures"
    for folder in (figures / "out", figures / "reference"):
        folder.mkdir(parents=True)
    for name in ("fig_a", "fig_b"):
        (figures / f"{name}.py").write_text("")
    (figures / "out" / "fig_a.run.json").write_text(json.dumps(RECORD))
    (figures / "out" / "fig_a.pdf").write_bytes(b"the figure")
    ledger = tmp_path / "ledger.json"
    entries = {
        "A1": ENTRY,
        "A2": ENTRY | {"passed": False, "worst_margin": -0.5},
        "B1": ENTRY | {"mutants": {"caught": True, "missed": False}},
        "B2": ENTRY | {"status": "refuted", "worst_margin": None},
    }
    ledger.write_text(json.dumps(entries))
    return tmp_path


def run_generate(tree):
    return generate.generate(tree / "ledger.json", tree / "figures", tree / "generated")


def test_ledger_becomes_claim_lines(tree):
    notes = run_generate(tree)
    lines = (tree / "generated" / "claims.tex").read_text().splitlines()
    assert lines == [
        r"\claim{A1}{pass}{proved}{exact}{200}{3}{$1.25\times10^{-9}$}{1/1}",
        r"\claim{A2}{fail}{proved}{exact}{200}{3}{$-0.500$}{1/1}",
        r"\claim{B1}{fail}{proved}{exact}{200}{3}{$1.25\times10^{-9}$}{1/2}",
        r"\claim{B2}{false}{refuted}{exact}{200}{3}{--}{1/1}",
    ]
    assert notes[0] == "claims: 4 in the ledger, failing: A2, B1"


def test_record_becomes_number_lines(tree):
    notes = run_generate(tree)
    worst = r"below m/n \& 5\% of\_it \ensuremath{\le} [U+03BB]"
    lines = (tree / "generated" / "numbers.tex").read_text().splitlines()
    assert lines == [
        rf"\figurerun{{fig_a}}{{quick}}{{2}}{{0.250}}{{{worst}}}{{01234567}}",
        r"\resultvalue{fig_a}{count}{12}",
        r"\resultvalue{fig_a}{fve_held_out}{0.432}",
    ]
    assert (tree / "generated" / "fig_a.pdf").read_bytes() == b"the figure"
    assert notes[1:] == [
        "fig_a: preset quick, from out/",
        "fig_b: not made yet; make it with `python -m figures fig_b`",
    ]


def test_without_a_ledger_no_claim_has_a_state(tree):
    run_generate(tree)
    (tree / "ledger.json").unlink()
    notes = run_generate(tree)
    assert r"\claim" not in (tree / "generated" / "claims.tex").read_text()
    assert "python -m paper.generate --check" in notes[0]


@pytest.mark.parametrize("end", [".run.json", ".json"])
def test_reference_stands_in_and_stale_figures_leave(tree, end):
    run_generate(tree)
    (tree / "figures" / "out" / "fig_a.run.json").unlink()
    record = RECORD | {"preset": "paper"}
    (tree / "figures" / "reference" / f"fig_a{end}").write_text(json.dumps(record))
    notes = run_generate(tree)
    assert r"{paper}{2}{0.250}" in (tree / "generated" / "numbers.tex").read_text()
    # The PDF in out/ belongs to a run without a record: it is not shown beside these numbers.
    assert not (tree / "generated" / "fig_a.pdf").exists()
    assert "fig_a: no PDF in reference/; make it with `python -m figures fig_a`" in notes


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("ledger.json", "{", r"expected JSON in .*ledger\.json, got .*paper\.generate --check"),
        ("ledger.json", "[]", "expected an object in .*, got list"),
        ("ledger.json", '{"A1": {"passed": true}}', r"expected .*mutants in .*claim A1, got .*pas"),
        ("ledger.json", '{"A1": 3}', "claim A1, got int"),
        ("figures/out/fig_a.run.json", "no", r"JSON in .*fig_a.*python -m figures fig_a"),
        ("figures/out/fig_a.run.json", '{"preset": "quick"}', "numbers, margins.*got .*preset"),
        ("figures/out/fig_a.run.json", json.dumps(RECORD | {"margins": {}}), "nothing was assert"),
        (
            "figures/out/fig_a.run.json",
            json.dumps(RECORD | {"numbers": {"a}": 1}}),
            "expected a name of letters.*got 'a}'",
        ),
    ],
)
def test_broken_files_are_refused(tree, file, text, message):
    (tree / file).write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        run_generate(tree)
    assert "\n" not in str(refused.value)
    assert not (tree / "generated").exists()  # nothing half-written


def test_command_line_says_what_is_wrong(tree, capsys, monkeypatch):
    monkeypatch.setattr(generate, "ROOT", tree)
    assert generate.main(["--ledger", str(tree / "ledger.json")]) == 0
    assert (tree / "paper" / "generated" / "claims.tex").exists()
    (tree / "ledger.json").write_text("{")
    assert generate.main(["--ledger", str(tree / "ledger.json")]) == 1
    assert capsys.readouterr().err.startswith("paper: expected JSON in ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.43217, "0.432"),
        (0.9996, "1.00"),
        (0.5, "0.500"),
        (12.0, "12"),
        (0.0, "0"),
        (-3.0, "$-3$"),
        (1234.5, "1234"),
        (65536, "65536"),
        (1e6, r"$1.00\times10^{6}$"),
        (0.00123456, "0.00123"),
        (0.000999, r"$9.99\times10^{-4}$"),
        (-2.5e-7, r"$-2.50\times10^{-7}$"),
        (float("inf"), ""),
        (None, ""),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert generate.format_number(value) == text


def test_escape_leaves_nothing_to_latex():
    assert generate.escape("50% a_b #1 {x} $ & ~ ^ \\") == (
        r"50\% a\_b \#1 \{x\} \$ \& \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )
    assert generate.escape("a\nb λ") == "a b [U+03BB]"


# --- the PDF --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("latexmk"), reason="needs latexmk")
@pytest.mark.parametrize("generated", [False, True])
def test_paper_builds(tree, generated):
    """With and without generated files, without an undefined reference or an untested equation."""
    paper = tree / "paper"
    shutil.copytree(PAPER, paper, ignore=shutil.ignore_patterns("build", "generated", "*.py"))
    if generated:
        for name in ("fig_a", "fig_rare_events"):
            (tree / "figures" / f"{name}.py").write_text("")
            (tree / "figures" / "out" / f"{name}.run.json").write_text(json.dumps(RECORD))
            Figure(figsize=(4, 2)).savefig(tree / "figures" / "out" / f"{name}.pdf")
        run_generate(tree)
        shutil.copytree(tree / "generated", paper / "generated")
    command = ["latexmk", "-pdf", "-outdir=build", "-interaction=nonstopmode", "main.tex"]
    built = subprocess.run(command, cwd=paper, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout[-3000:]
    log = (paper / "build" / "main.log").read_text(errors="replace")
    assert not re.findall(r"LaTeX Warning: (?:Reference|Citation).*undefined", log)
    assert (paper / "build" / "main.pdf").stat().st_size > 100_000
    if shutil.which("pdftotext"):
        pages = ["pdftotext", str(paper / "build" / "main.pdf"), "-"]
        text = subprocess.run(pages, capture_output=True, text=True, check=True).stdout
        text = " ".join(text.split())
        assert "??" in text  # the figures of the paper have not run in this tree
        assert "no test named" not in text
        assert ("no ledger of claims here" in text) == (not generated)
        assert ("not made yet: python -m figures fig_rare_events" in text) == (not generated)
        assert ("smallest of 2 asserted margins 0.250" in text) == generated
