"""What the folder of claims holds: a new file is found without being registered."""

import difflib
import importlib
import pkgutil
import re
from collections.abc import Iterable, Mapping
from types import ModuleType

from theory import checks
from theory.claims._claim import Claim


def all_claims(package: ModuleType | None = None) -> tuple[Claim, ...]:
    """Returns the CLAIM of every file of the folder, by name; a new file needs no other edit.

    "h10" follows "h9", and "h9_case" stands between them.

    Args:
        package: where to look; None is theory.claims. Files that begin with "_" are helpers.

    Raises: ValueError: a file without a CLAIM, a key of two files, or one with a slash.
    """
    package = package or importlib.import_module("theory.claims")
    found = [i.name for i in pkgutil.iter_modules(package.__path__) if i.name[0] != "_"]
    names = sorted(found, key=_natural)
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    without = [m.__name__ for m in modules if not isinstance(getattr(m, "CLAIM", None), Claim)]
    todo = "define CLAIM = Claim(...), or begin the file's name with _"
    checks.check(not without, "all_claims", "a CLAIM in every file", todo, without=without)
    claims = tuple(module.CLAIM for module in modules)
    _check_keys({f"{name}.py": claim.key for name, claim in zip(names, claims, strict=True)})
    return claims


def _check_keys(keys: Mapping[str, str]) -> None:
    """Raises ValueError if two files (file name -> key) share a key, or one has a mutant's."""
    files = {key: [file for file in keys if keys[file] == key] for key in keys.values()}
    shared = {key: named for key, named in files.items() if len(named) > 1}
    rule, todo = "a key of its own for each claim", "change the key in one of the files"
    checks.check(not shared, "all_claims", rule, todo, **shared)
    slashed = [key for key in files if "/" in key]
    todo = "a slash joins the name of a mutant to its claim's key"
    checks.check(not slashed, "all_claims", "keys without a slash", todo, keys=slashed)


def _natural(name: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def find_claim(name: str, package: ModuleType | None = None) -> Claim:
    """Returns the claim "KEY", or the mutant "KEY/name" as a claim of status "refuted".

    Raises: ValueError: an unknown name; the message says which known ones are near it.
    """
    claims = all_claims(package)
    known = {c.key: c for c in claims} | {
        variant.key: variant for c in claims for variant in map(c.variant, c.mutants)
    }
    # A file that names its claim may hold anything, so `name` may be no text.
    near = [] if name in known else _near(str(name), known)
    todo = f"did you mean {' or '.join(near)}? " if near else ""
    todo += "`python -m theory list` shows the claims, and with --mutants these too"
    checks.check(name in known, "find_claim", "the name of a claim or of a mutant", todo, name=name)
    return known[name]


def _near(name: str, known: Iterable[str]) -> list[str]:
    """Returns the name in its right case, or up to three like it, or all mutants of its claim."""
    name, lowered = name.lower(), {key.lower(): key for key in known}
    if name in lowered:
        return [lowered[name]]
    claim = name.partition("/")[0]
    close = difflib.get_close_matches(name, lowered)
    return [lowered[n] for n in close or [n for n in lowered if n.startswith(f"{claim}/")]]


def false_claims(package: ModuleType | None = None) -> tuple[Claim, ...]:
    """Returns every claim that the search must refute: those of status "refuted", all mutants.

    Trained claims are not among them: they are judged by their worlds, not searched.
    """
    claims = all_claims(package)
    mutants = [c.variant(mutant) for c in claims for mutant in c.mutants]
    every = [c for c in [*claims, *mutants] if c.kind != "trained"]
    return tuple(c for c in every if c.status == "refuted")
