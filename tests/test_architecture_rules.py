"""The rules that hold the packages apart and their randomness in the open, read off the source."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("toymodels", "sae", "theory")
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for top in (*PACKAGES, "figures")
    for path in (ROOT / top).rglob("*.py")
)
MAY_IMPORT_HYPOTHESIS = ("*/strategies.py", "*/laws.py", "theory/claims/*", "theory/__main__.py")
MEETING_PLACES = ("theory/claims/*", "theory/__main__.py")


def tree(source):
    return ast.parse(source)


def imported(nodes):
    """The modules that import statements among `nodes` name."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import_time(node):
    """The nodes that run when the module is imported: all but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_import_time(child)


def tops(modules):
    return {module.partition(".")[0] for module in modules}


def cross_imports(path, source):
    home = path.partition("/")[0]
    if home == "figures" or any(fnmatch(path, place) for place in MEETING_PLACES):
        return set()
    return tops(imported(ast.walk(tree(source)))) & ({*PACKAGES, "figures"} - {home})


def early_test_imports(path, source):
    if any(fnmatch(path, place) for place in MAY_IMPORT_HYPOTHESIS):
        return set()
    return tops(imported(at_import_time(tree(source)))) & {"hypothesis", "pytest"}


def dotted(node):
    """Returns "a.b.c" for an attribute chain that starts at a name, else an empty string."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def hidden_randomness(_, source):
    """Global generators, seeds that are sums, and what can load a pickle."""
    found, safe = set(), set()
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.Call) and dotted(node.func) == "torch.load":
            values = [ast.unparse(k.value) for k in node.keywords if k.arg == "weights_only"]
            safe |= {node.func} if values == ["True"] else set()
        name = "" if node in safe else dotted(node)
        found |= {name} & {
            "torch.manual_seed",
            "torch.seed",
            "torch.load",
            "torch.cuda.manual_seed",
        }
        if re.fullmatch(r"(np|numpy)\.random\.(?!SeedSequence$|get_state$)\w+", name):
            found.add(name)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            sides = {dotted(side).rpartition(".")[2] for side in (node.left, node.right)}
            constant = any(isinstance(s, ast.Constant) for s in (node.left, node.right))
            if constant and any(side == "seed" or side.endswith("_seed") for side in sides):
                found.add(ast.unparse(node))
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= tops(imported([node])) & {"pickle", "random", "dill", "cloudpickle", "joblib"}
    return found


RULES = {
    "cross imports": (
        cross_imports,
        [
            ("toymodels/x.py", "def f():\n    from sae.train import train"),
            ("sae/x.py", "import toymodels.codes"),
            ("theory/x.py", "from toymodels import stream"),
            ("theory/x.py", "import figures"),
        ],
        [
            ("sae/x.py", "from sae import train"),
            ("theory/claims/x.py", "import sae, toymodels"),
            ("figures/x.py", "import sae, toymodels, theory"),
            ("sae/x.py", "'import toymodels'"),
        ],
    ),
    "test libraries at import": (
        early_test_imports,
        [
            ("sae/x.py", "import hypothesis"),
            ("sae/x.py", "try:\n    from hypothesis import given\nexcept ImportError: ..."),
            ("figures/x.py", "class A:\n    import pytest"),
        ],
        [
            ("sae/x.py", "def f():\n    import hypothesis"),
            ("sae/strategies.py", "import hypothesis"),
            ("theory/claims/a.py", "from hypothesis import strategies"),
        ],
    ),
    "hidden randomness or pickle": (
        hidden_randomness,
        [
            ("x", "torch.manual_seed(0)"),
            ("x", "np.random.rand(3)"),
            ("x", "numpy.random.default_rng(0)"),
            ("x", "stream(cfg.seed + 1, 'a')"),
            ("x", "f(1 + world_seed)"),
            ("x", "import pickle"),
            ("x", "from random import random"),
            ("x", "torch.load(path)"),
            ("x", "torch.load(path, weights_only=False)"),
            ("x", "load = torch.load"),
        ],
        [
            ("x", "torch.Generator().manual_seed(3)"),
            ("x", "np.random.SeedSequence(3)"),
            ("x", "a = seeds + 1"),
            ("x", "torch.load(path, weights_only=True)"),
            ("x", "torch.random.get_rng_state()"),
        ],
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_source_keeps_the_rule(rule):
    finds = RULES[rule][0]
    broken = {path: found for path in SOURCES if (found := finds(path, (ROOT / path).read_text()))}
    assert len(SOURCES) > 30
    assert broken == {}


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_can_be_broken(rule):
    finds, wrong, right = RULES[rule]
    for path, source in wrong:
        assert finds(path, source), (path, source)
    for path, source in right:
        assert not finds(path, source), (path, source)


IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
from fnmatch import fnmatch
sys.modules["hypothesis"] = sys.modules["pytest"] = None
skipped = ("*.strategies", "*.laws", "theory.claims*", "*.__main__")
names = []
for top in ("toymodels", "sae", "theory", "figures"):
    package = importlib.import_module(top)
    found = pkgutil.walk_packages(package.__path__, top + ".", onerror=lambda _: None)
    names += [module.name for module in found]
names = [name for name in names if not any(fnmatch(name, s) for s in skipped)]
for name in names:
    importlib.import_module(name)
try:
    import sae.strategies
except ImportError as error:
    assert "install the [dev] extra" in str(error)
    print(len(names))
"""


def test_the_packages_work_without_hypothesis_and_pytest():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_EVERYTHING],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30


def test_the_wording_of_errors_is_one():
    texts = {(ROOT / package / "checks.py").read_bytes() for package in PACKAGES}
    assert len(texts) == 1


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_sorted_out_and_has_a_docstring(package):
    module = importlib.import_module(package)
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    bare = []
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            doc = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
            if not doc or doc.startswith(f"{name}("):  # a dataclass writes its own signature
                bare.append(name)
    assert bare == []


# Written in two parts, so that this file does not find itself.
PRIVATE = re.compile(
    r"\bsha" r"red/|(?<![\w.])/(?:wo" r"rk|ho" r"me|ro" r"ot|Us" r"ers|t" r"mp)/\w"
)
SUFFIXES = {".py", ".md", ".toml", ".txt", ".cff", ".cfg", ".tex", ".mplstyle", ""}


def test_no_file_speaks_of_another_machine():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = {}
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and path.suffix in SUFFIXES:
            lines = [line for line in path.read_text().splitlines() if PRIVATE.search(line)]
            if lines:
                found[name] = lines
    assert found == {}


def test_another_machine_would_be_noticed():
    for text in ("sha" + "red/notes.md", '"/ho' + 'me/me/x"', "cd /wo" + "rk/main"):
        assert PRIVATE.search(text)
    for text in ("figures/reference/", "a/home/b", "https://x.org/work/1", "net" + "work/x"):
        assert not PRIVATE.search(text)
