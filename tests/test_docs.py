"""The documents say what is so: their example and recipes run, and all that they name exists."""

import ast
import contextlib
import dataclasses
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sae
import sae.__main__ as sae_cli
import theory
import theory.__main__ as theory_cli
import theory.claims
import toymodels
from figures.__main__ import Options
from figures.runner import PRESETS
from sae.laws import SAE_LAWS
from theory.claims import find_claim
from toymodels.laws import ALPHA, DISTRIBUTION_LAWS, MOST_SAMPLES, N_SAMPLES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
DOCUMENTS = {"README.md": README, "CONTRIBUTING.md": CONTRIBUTING}
MAKEFILE = (ROOT / "Makefile").read_text()
IGNORED = (ROOT / ".gitignore").read_text().split()
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text, language):
    """The fenced blocks of a language ("" for none), without their fences."""
    return [block for name, block in FENCED.findall(text) if name == language]


RECIPES = dict(
    re.findall(r"^\*\*`([\w/]+\.py)`\*\*\n\n```python\n(.*?)^```$", CONTRIBUTING, re.M | re.S)
)


def disagreements(printed, written):
    """What a run printed that README does not say: other words, or numbers more than 0.05 away.

    Trained models depend on the processor's rounding, and top-k makes paths chaotic; what the
    example shows (0.99 against 0.37, 0.50 against 0.96) is more than 0.05 apart.
    """
    found = []
    for ours, theirs in zip(printed.splitlines(), written.splitlines(), strict=True):
        pairs = zip(NUMBER.findall(ours), NUMBER.findall(theirs), strict=True)
        near = all(abs(float(a) - float(b)) <= 0.05 for a, b in pairs)
        if NUMBER.sub("#", ours) != NUMBER.sub("#", theirs) or not near:
            found.append((ours, theirs))
    return found


def test_the_example_prints_what_readme_says():
    example = blocks(README, "python")[0]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example, "README.md", "exec"), {})
    (written,) = [block for block in blocks(README, "") if block.startswith("recovery ")]
    assert disagreements(printed.getvalue(), written) == []
    assert disagreements(printed.getvalue(), written.replace("0.37", "0.57"))
    assert disagreements(printed.getvalue(), written.replace("at most", "at least"))


def test_an_sae_of_ones_own_is_judged_as_readme_says():
    """Nearly the truth: recovered far above chance, with the l0 of the world, and no sign."""
    example = blocks(README, "python")[1]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example, "README.md", "exec"), {})
    words = [line.split() for line in printed.getvalue().splitlines()]
    found = {name: (float(value), float(null)) for name, value, _, null, *_ in words}
    (score, chance), (error, floor), (l0, _) = (found[k] for k in ("recovery", "fvu", "l0"))
    assert score > 0.95 > 0.5 > chance
    assert error < 0.15 < floor
    assert abs(l0 - 1.12) < 0.05
    assert found["negative_share"][0] == 0


MISTAKEN_TWINS = (
    ("self.p**2 * v.sum(0) + (self.p - self.p**2) * (v + twin)", "self.p * (v + twin)"),
    ("torch.cat([2 * pairs, 2 * pairs + 1])", "torch.cat([2 * pairs, 2 * pairs])"),
    ("return self.p**2 * v.sum(0) + (self.p - self.p**2) * (v + twin)", "return self.p * v"),
)


def test_a_distribution_of_ones_own_gets_all_laws_in_its_own_repository(tmp_path):
    """README's section, verbatim, outside of this project; and each planted mistake is caught."""
    law, test = [block for block in blocks(README, "python") if block.startswith("# ")]
    for i, (right, wrong) in enumerate((("", ""), *MISTAKEN_TWINS)):
        folder = tmp_path / f"acme_{i}"
        folder.mkdir()
        assert right in law
        (folder / "twins.py").write_text(law.replace(right, wrong) if right else law)
        (folder / "test_twins.py").write_text(test)
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", "-p", "no:xdist"],
            cwd=folder,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        )
        if not right:
            assert run.returncode == 0, run.stdout + run.stderr
            assert f"{len(DISTRIBUTION_LAWS)} passed" in run.stdout
        else:
            assert run.returncode == 1, run.stdout + run.stderr
            assert "AssertionError" in run.stdout or "Codes.from_events" in run.stdout


def sessions(text):
    """(arguments, shown lines) of each `python -m theory` command in the console blocks."""
    for block in blocks(text, "console"):
        for session in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *lines = session.splitlines()
            assert command.startswith("python -m theory ")
            yield command.split()[3:], [line for line in lines if line != "..."]


SESSIONS = {" ".join(arguments): (arguments, shown) for arguments, shown in sessions(README)}


@pytest.mark.parametrize("command", SESSIONS)
def test_a_session_prints_what_readme_says(command, capsys):
    arguments, shown = SESSIONS[command]
    assert theory_cli.main(arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    if arguments[0] == "check":  # how many are void, and the seconds, depend on the machine
        printed, shown = ([NUMBER.sub("#", line) for line in lines] for lines in (printed, shown))
    assert len(shown) >= 1
    assert [line for line in shown if line not in printed] == []


# (file, names in it to change, text, planted mistake): the tests named below must notice each one.
MISTAKES = (
    (
        "toymodels/distributions/twins.py",
        ("Twins", "WrongTwins"),
        ("p * (1 - p) * self", "p * self"),
    ),
    (
        "sae/architectures/hoyer.py",
        ("Hoyer", "WrongHoyer"),
        ("self.coefficient * l0", "self.coefficient * l0.detach()"),
    ),
    (
        "theory/claims/w1.py",
        ("W1", "W2"),
        ("(n - 1) * dictionary.rms_coherence()", "dictionary.coherence()"),
    ),
    (
        "figures/fig_width.py",
        ("figures.fig_width", "figures.fig_wrong_width"),
        ("decoder_trained=False))", "decoder_trained=True))"),
    ),
)
WRONG_FILES = {"fig_width.py": "fig_wrong_width.py", "w1.py": "w2.py"}
NOTICED = {
    "test_law[WrongTwins-cofiring_is_exact]",
    "test_law[WrongHoyer-loss_is_the_sum_of_its_terms]",
    "test_claim_holds[W2]",
    "test_broken_twin_is_refused[fig_wrong_width]",
}
SELECT = "Twins or angled_pairs or Hoyer or W1 or W2 or width) and not same_bytes"
TEST_FILES = ("test_laws.py", "test_sae_laws.py", "test_claims.py", "test_figures.py")
FEW_EXAMPLES = """
from hypothesis import Phase, settings
phases = [Phase.generate]
settings.register_profile("few", max_examples=5, phases=phases, derandomize=True, deadline=None)
settings.load_profile("few")
"""


def mistaken(source, names, mistake):
    for old, new in (names, mistake):
        assert old in source or old.startswith("figures.")
        source = source.replace(old, new)
    return source


def outcomes(folder):
    """Test ids and whether they passed, in a copy of the project with the recipes dropped in."""
    ignore = shutil.ignore_patterns("__pycache__", "out")
    for package in ("toymodels", "sae", "theory", "figures"):
        shutil.copytree(ROOT / package, folder / package, ignore=ignore)
    for path, source in RECIPES.items():
        assert not (folder / path).exists(), f"{path} exists: the recipe needs another name"
        (folder / path).write_text(source)
    for path, names, mistake in MISTAKES:
        name = Path(path).name
        wrong = folder / Path(path).with_name(WRONG_FILES.get(name, f"wrong_{name}"))
        wrong.write_text(mistaken(RECIPES[path], names, mistake))
    (folder / "tests").mkdir()
    (folder / "tests/conftest.py").write_text(FEW_EXAMPLES)
    for name in TEST_FILES:
        shutil.copy(ROOT / "tests" / name, folder / "tests")
    environment = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    environment["SAE_TESTBED_RUNS"] = str(folder / "runs")
    packages = "--jaxtyping-packages=toymodels,sae,theory,beartype.beartype"
    flags = [
        "-p",
        "no:cacheprovider",
        "-v",
        "-rN",
        "--tb=short",
        packages,
        "-k",
        f"({SELECT}",
        "--durations=15",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *flags, "tests"],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = re.findall(r"::(\S+) (PASSED|FAILED|ERROR)", done.stdout)
    assert lines, done.stdout + done.stderr
    return {name: verdict == "PASSED" for name, verdict in lines}, done.stdout


def test_recipes_pass_their_tests_and_mistakes_in_them_are_noticed(tmp_path):
    passed, output = outcomes(tmp_path)
    right = {name for name in passed if "rong" not in name and "W2" not in name}
    wanted = {f"test_law[Twins-{law.__name__}]" for law in DISTRIBUTION_LAWS}
    wanted |= {f"test_law[Hoyer-{law.__name__}]" for law in SAE_LAWS}
    wanted |= {"test_each_dictionary_file_has_a_strategy[angled_pairs]", "test_claim_holds[W1]"}
    wanted |= {"test_mutant_is_refuted_and_shrunk[W1/nearest-only]"}
    wanted |= {"test_claim_holds_and_is_drawn[fig_width]", "test_broken_twin_is_refused[fig_width]"}
    assert wanted <= right, output
    assert {name for name in right if not passed[name]} == set(), output
    assert {name for name in NOTICED if not passed.get(name, True)} == NOTICED, output


def test_a_mistake_in_the_recipe_of_a_dictionary_is_noticed():
    """Apart from the others: every claim about dictionaries would meet it."""
    source = RECIPES["toymodels/dictionaries/angled_pairs.py"]
    sound: dict = {}
    exec(source, sound)
    assert sound["angled_pairs"](2, 0.6).coherence() == pytest.approx(0.6)
    wrong: dict = {}
    exec(mistaken(source, ("angled_pairs", "wrong_pairs"), (") ** 0.5", ")")), wrong)
    with pytest.raises(ValueError, match="Dictionary: expected rows of norm 1"):
        wrong["wrong_pairs"](2, 0.6)


def test_recipes_keep_the_style(tmp_path):
    ruff = [sys.executable, "-m", "ruff"]
    settings = ["--no-cache", "--config", str(ROOT / "pyproject.toml")]
    for path, source in RECIPES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(source)
    for command in (["check", "--quiet"], ["format", "--quiet", "--diff"]):
        subprocess.run([*ruff, *command, *settings, str(tmp_path)], check=True)
    assert len(RECIPES) == 5


def code_of(text):
    """Inline code and the lines of code blocks that are not Python: where commands stand."""
    prose = FENCED.sub("", text)
    lines = [line.removeprefix("$ ") for kind in ("", "console") for b in blocks(text, kind)
             for line in b.splitlines()]  # fmt: skip
    return re.findall(r"`([^`\n]+)`", prose), lines


def missing_targets(text):
    spans, lines = code_of(text)
    named = [m for code in spans + lines for m in re.findall(r"(?:^|&& )make (\w+)", code)]
    targets = set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE))
    return {f"make {name}" for name in named if name not in targets}


def _flags(command):
    """The flags of a documented command, from its own definition; None if it is not ours."""
    if command.startswith("python -m figures"):
        return {field.name.rstrip("_") for field in dataclasses.fields(Options)}
    functions = {
        "list": theory_cli.list_claims,
        "check": theory_cli.check_claims,
        "falsify": theory_cli.falsify_claim,
        "replay": theory_cli.replay_file,
        "pin": theory_cli.pin_counterexamples,
        "judge": theory_cli.judge_sae,
    }
    stores = {"list": sae_cli.list_runs, "verify": sae_cli.verify_runs, "prune": sae_cli.prune_runs}
    known = {f"theory {name}": function for name, function in functions.items()}
    known |= {f"sae runs {name}": function for name, function in stores.items()}
    for name, function in known.items():
        if command.startswith(f"python -m {name}"):
            return set(inspect.signature(function).parameters)
    return None


def missing_commands(text):
    """Unknown modules, subcommands, flags, claims and figures in commands."""
    spans, lines = code_of(text)
    found = set()
    for code in spans + lines:
        command = code.partition("#")[0].strip()
        for module in re.findall(r"python -m (\w+)", command):
            if module not in {"theory", "figures", "sae", "pytest", "venv"}:
                found.add(command)
        if re.match(r"python -m (theory .|figures|sae)", command):
            flags = _flags(command)
            used = re.findall(r"--([\w-]+)", command)
            if flags is None or not set(used) <= flags:
                found.add(command)
        for name in re.findall(r"(?:check|falsify) ([A-Z]\d\S*)", command):
            if not name.startswith("W1") and not _claim_exists(name):
                found.add(command)
        for name in re.findall(r"\bfig_\w+\b", command):
            if name != "fig_x" and not (ROOT / "figures" / f"{name}.py").exists():
                found |= {name} - {Path(path).stem for path in RECIPES}
    return found


def _claim_exists(name):
    try:
        return bool(find_claim(name))
    except ValueError:
        return False


def missing_paths(text):
    """Paths in inline code and links that are no file, no output of ours and no recipe."""
    links = re.findall(r"\]\(([^)#]+)\)", text)
    spans, _ = code_of(text)
    named = [s for s in spans if re.fullmatch(r"[\w.*-]+(/[\w.*-]*)+|[\w-]+\.(py|txt|md|cff)", s)]
    found = set()
    for name in links + named:
        written = any((name.rstrip("/") + "/").startswith(ignored) for ignored in IGNORED)
        exists = any(ROOT.glob(name)) or any(ROOT.glob(f"*/{name}"))
        recipe = any(path.endswith(name) for path in RECIPES)
        if not (written or exists or recipe):
            found.add(name)
    return found


def known_words():
    """Every identifier in the sources of the packages, the figures, and the recipes."""
    words = {"pytest", "dev", "ci", "deep", "slow", "assert"}  # profiles, a mark, a keyword
    words |= {preset for preset in PRESETS} | {script.stem for script in ROOT.glob("figures/*.py")}
    sources = [p.read_text() for top in ("toymodels", "sae", "theory", "figures")
               for p in (ROOT / top).rglob("*.py")]  # fmt: skip
    for node in (n for s in [*sources, *RECIPES.values()] for n in ast.walk(ast.parse(s))):
        for field in ("id", "attr", "name", "arg", "asname", "module"):
            value = getattr(node, field, None)
            words |= set(value.split(".")) if isinstance(value, str) else set()
    return words


def missing_names(text, words):
    """Identifiers in inline code, dotted or called, that no source of ours knows."""
    spans, _ = code_of(text)
    named = [s for s in spans if re.fullmatch(r"[A-Za-z_][\w.]*(\(.*\))?", s)]
    named = [s for s in named if not re.search(r"\.(py|txt|md|cff|npz|json)$", s)]
    parts = {part for span in named for part in span.partition("(")[0].split(".")}
    calls = {w for span in named for w in re.findall(r"(\w+)=", span)}
    return (parts | calls) - words - {"_by_world", ""}  # the ending of some names


@pytest.mark.parametrize("name", DOCUMENTS)
def test_everything_named_exists(name):
    text = DOCUMENTS[name]
    assert missing_targets(text) == set()
    assert missing_commands(text) == set()
    assert missing_paths(text) == set()
    assert missing_names(text, known_words()) == set()


@pytest.mark.parametrize(
    ("check", "text", "found"),
    [
        (missing_targets, "`make figurs`", {"make figurs"}),
        (missing_targets, "```\nmake tests\n```", {"make tests"}),
        (missing_commands, "`python -m figures --lst`", {"python -m figures --lst"}),
        (missing_commands, "`python -m theory prove A1`", {"python -m theory prove A1"}),
        (missing_commands, "`python -m theory check A99`", {"python -m theory check A99"}),
        (missing_commands, "`python -m teory list`", {"python -m teory list"}),
        (missing_commands, "`make figure NAME=fig_nope`", {"fig_nope"}),
        (missing_paths, "[a](docs/nope.png)", {"docs/nope.png"}),
        (missing_paths, "`toymodels/nope/`", {"toymodels/nope/"}),
        (missing_paths, "`nope.py`", {"nope.py"}),
        (lambda t: missing_names(t, known_words()), "`recovry`", {"recovry"}),
        (lambda t: missing_names(t, known_words()), '`stream(0, "a", devce="cuda")`', {"devce"}),
    ],
)
def test_what_does_not_exist_is_found(check, text, found):
    assert check(text) == found


def test_readme_names_every_figure_claim_target_and_preset():
    for script in (ROOT / "figures").glob("fig_*.py"):
        assert f"`{script.stem}`" in README, (
            f"README.md does not name `{script.stem}`: add it to a row of the table of questions"
        )
    for claim in theory.claims.all_claims():
        assert re.search(rf"\b{claim.key}\b", README), (
            f"README.md does not name the claim {claim.key}: add its key to a row of the table of "
            "questions, and make the list of claims anew (CONTRIBUTING.md, A claim)"
        )
    for target in set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE)) - {"help"}:
        assert f"make {target}" in README, target
    table = [line for line in README.splitlines() if re.match(r"\| [A-Z]\d", line)]
    assert len(README.splitlines()) - len(table) <= 300
    assert (ROOT / "docs/figure.png").stat().st_size < 200_000


def test_readme_holds_the_list_of_claims_and_every_claim_held(capsys):
    """It is made by `theory check --all --trained --examples 200 --ledger docs/ledger.json`."""
    todo = "make it anew (the commands are in CONTRIBUTING.md, A claim)"
    ledger = json.loads((ROOT / "docs" / "ledger.json").read_text())
    for claim in theory.claims.all_claims():
        assert claim.key in ledger, f"docs/ledger.json has no {claim.key}: {todo}"
        entry = ledger[claim.key]
        assert entry["statement"] == claim.statement, f"{claim.key} is older there: {todo}"
        assert entry["passed"], claim.key
        assert entry["mutants"] == {mutant.name: True for mutant in claim.mutants}
        assert entry["examples"] <= 200 if claim.kind != "trained" else entry["effects"]
    gone = set(ledger) - {claim.key for claim in theory.claims.all_claims()}
    assert gone == set(), f"docs/ledger.json holds claims that are no more: {todo}"
    assert (
        theory_cli.main(["list", "--ledger", str(ROOT / "docs" / "ledger.json"), "--markdown"]) == 0
    )
    assert capsys.readouterr().out.strip() in README, f"README.md's list of claims is old: {todo}"


def test_readme_imports_public_names():
    for package in (toymodels, sae, theory):
        pattern = rf"^from {package.__name__} import (.+)$"
        (names,) = re.findall(pattern, blocks(README, "python")[0], re.MULTILINE)
        assert set(names.split(", ")) <= set(package.__all__)


def test_the_errors_that_laws_catch_are_as_contributing_says():
    prose = " ".join(CONTRIBUTING.split())
    stated = re.findall(r"([\d.]+) % in (?:a firing probability|one) of (0\.\d+)", prose)
    assert [p for _, p in stated] == ["0.5", "0.1", "0.01"]
    assert f"at {N_SAMPLES:,} samples, up to {MOST_SAMPLES:,}" in prose
    assert f"false alarm {ALPHA:.0e} a call" in prose
    for percent, p in stated:
        n = N_SAMPLES if float(p) > 0.01 else MOST_SAMPLES
        caught = theory.smallest_caught_error(n, float(p), ALPHA / 8, power=0.99)
        assert 0.9 * float(percent) <= 100 * caught <= float(percent)


def test_profiles_are_as_contributing_says():
    conftest = (ROOT / "tests/conftest.py").read_text()
    for name, n in re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", CONTRIBUTING, re.MULTILINE):
        assert f'register_profile("{name}", max_examples={n.replace(",", "")}' in conftest
    assert 'register_profile("ci", max_examples=50, derandomize=True' in conftest
    assert '"HYPOTHESIS_PROFILE", "dev"' in conftest


def test_the_pinned_version_is_as_readme_says():
    (pin,) = re.findall(r"`(torch==[\d.]+)`", README)
    assert pin in (ROOT / "constraints.txt").read_text().split()


def parsed(text):
    """A citation file as nested dictionaries and lists; raises ValueError for what it cannot read.

    The part of YAML that such a file needs: two-space indentation, `key: value`, `- entry`, and
    double quotes around every value that is not a plain word, a number or a version.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    value, rest = _nested(lines, 0)
    if rest:
        raise ValueError(f"not understood: {rest[0]}")
    return value


def _nested(lines, indent):
    into: dict | list = [] if lines[0].lstrip().startswith("- ") else {}
    while lines and len(lines[0]) - len(lines[0].lstrip()) == indent:
        line = lines[0].strip()
        if isinstance(into, list):
            if not line.startswith("- "):
                raise ValueError(f"not an entry: {line}")
            entry = line.removeprefix("- ")
            if re.match(r"[a-z-]+: ", entry):
                inner, lines = _nested([" " * (indent + 2) + entry, *lines[1:]], indent + 2)
                into.append(inner)
            else:
                into.append(_scalar(entry))
                lines = lines[1:]
            continue
        match = re.fullmatch(r"([a-z-]+):(?: (.+))?", line)
        if not match or match[1] in into:
            raise ValueError(f"not a new key: {line}")
        if match[2]:
            into[match[1]], lines = _scalar(match[2]), lines[1:]
        else:
            into[match[1]], lines = _nested(lines[1:], indent + 2)
    if not into:
        raise ValueError(f"indentation: {lines[0]}")
    return into, lines


def _scalar(text):
    if re.fullmatch(r'"[^"\\]*"', text):
        return text[1:-1]
    if not re.fullmatch(r"[\w.-]+", text):
        raise ValueError(f"needs quotes: {text}")
    return text


def citation_faults(text):
    """What is wrong with a citation file of this project."""
    cited = parsed(text)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    title = re.search(r"\\title\{(.+?)\}\n", (ROOT / "paper/main.tex").read_text())
    assert title is not None
    us = [{"name": "The SAE testbed authors"}]
    paper = cited["preferred-citation"]
    wanted = {
        "cff-version": (cited["cff-version"], "1.2.0"),
        "message": (bool(cited["message"]), True),
        "type": (cited["type"], "software"),
        "version": (cited["version"], project["version"]),
        "license": (cited["license"], project["license"]),
        "abstract": (cited["abstract"], project["description"]),
        "keywords": (cited["keywords"], project["keywords"]),
        "authors": (cited["authors"], us),
        "authors of project": (project["authors"], us),
        "authors of paper": (paper["authors"], us),
        "title of paper": (paper["title"], title[1].replace("\\\\", " ")),
        "type of paper": (paper["type"] in ("article", "unpublished"), True),
    }
    return {name for name, (found, right) in wanted.items() if found != right}


def test_the_citation_is_right_and_faults_are_found():
    text = (ROOT / "CITATION.cff").read_text()
    assert citation_faults(text) == set()
    assert citation_faults(text.replace("version: 0", "version: 7")) == {"version"}
    assert citation_faults(text.replace("1.2.0", "1.0.0")) == {"cff-version"}
    paper = text.replace("meta-SAE tell", "meta-SAE say")
    assert citation_faults(paper) == {"title of paper"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("license: MIT", "license: MIT: yes", "needs quotes"),
        ("license: MIT", "license MIT", "not a new key"),
        ("license: MIT", "version: 2", "not a new key"),
        ("license: MIT", "    license: MIT", "not understood"),
        ('  - name: "The', '- name: "The', "indentation"),
        ('  - "toy models"', "  toy models", "not an entry"),
    ],
)
def test_citations_that_no_parser_reads_are_refused(old, new, message):
    text = (ROOT / "CITATION.cff").read_text()
    assert old in text
    with pytest.raises(ValueError, match=message):
        parsed(text.replace(old, new))


def test_the_changelog_begins_with_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = re.findall(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == project["version"]


def test_every_public_name_of_the_claims_engine_has_a_docstring():
    """Those of the three packages are looked at in test_architecture_rules.py."""
    values = {name: getattr(theory.claims, name) for name in theory.claims.__all__}
    documented = {n: v for n, v in values.items() if inspect.isclass(v) or inspect.isfunction(v)}
    assert len(documented) > 10
    assert [n for n, v in documented.items() if not v.__doc__ or v.__doc__.startswith(n)] == []
