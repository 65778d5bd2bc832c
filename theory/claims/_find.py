"""What the folder of claims holds: a new file is found without being registered."""

import importlib
import pkgutil
import re
from types import ModuleType

from theory import checks
from theory.claims._claim import Claim


def all_claims(package: ModuleType | None = None) -> tuple[Claim, ...]:
    """Returns the CLAIM of every file of the folder, by name; a new file needs no other edit.

    "h10" follows "h9", and "h9_case" stands between them.

    Args:
        package: where to look; None is theory.claims. Files that begin with "_" are helpers.
    """
    package = package or importlib.import_module("theory.claims")
    found = [i.name for i in pkgutil.iter_modules(package.__path__) if i.name[0] != "_"]
    names = sorted(found, key=_natural)
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    without = [m.__name__ for m in modules if not isinstance(getattr(m, "CLAIM", None), Claim)]
    todo = "define CLAIM = Claim(...), or begin the file's name with _"
    checks.check(not without, "all_claims", "a CLAIM in every file", todo, without=without)
    return tuple(module.CLAIM for module in modules)


def _natural(name: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def find_claim(name: str, package: ModuleType | None = None) -> Claim:
    """Returns the claim "KEY", or the mutant "KEY/name" as a claim of status "refuted".

    Raises: ValueError: an unknown name; the message lists the known ones.
    """
    claims = all_claims(package)
    known = {c.key: c for c in claims} | {
        variant.key: variant for c in claims for variant in map(c.variant, c.mutants)
    }
    checks.check(name in known, "find_claim", f"one of {', '.join(known)}", name=name)
    return known[name]


def false_claims(package: ModuleType | None = None) -> tuple[Claim, ...]:
    """Returns every claim that the search must refute: those of status "refuted", all mutants.

    Trained claims are not among them: they are judged by their worlds, not searched.
    """
    claims = all_claims(package)
    mutants = [c.variant(mutant) for c in claims for mutant in c.mutants]
    every = [c for c in [*claims, *mutants] if c.kind != "trained"]
    return tuple(c for c in every if c.status == "refuted")
