"""Executable propositions: one file per claim, attacked by property-based search.

    python -m theory list
    python -m theory check A1 --examples 1000
    python -m theory falsify A1/energies-not-variances --save found.json
    python -m theory replay found.json

A new claim is one file here that defines CLAIM = Claim(...); see a1.py.
"""

from theory.claims._claim import (
    ALPHA,
    TOLERANCE,
    VOID,
    Claim,
    Comparison,
    Comparisons,
    Mutant,
    Noise,
    at_most,
    equal,
)
from theory.claims._counterexample import Counterexample, describe
from theory.claims._engine import CheckResult, check, evaluate, falsify
from theory.claims._find import all_claims, false_claims, find_claim
from theory.claims._replay import Replay, replay, save

__all__ = [
    "ALPHA",
    "TOLERANCE",
    "VOID",
    "CheckResult",
    "Claim",
    "Comparison",
    "Comparisons",
    "Counterexample",
    "Mutant",
    "Noise",
    "Replay",
    "all_claims",
    "at_most",
    "check",
    "describe",
    "equal",
    "evaluate",
    "false_claims",
    "falsify",
    "find_claim",
    "replay",
    "save",
]
