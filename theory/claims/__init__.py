"""Executable propositions: one file per claim, attacked by property-based search.

    python -m theory list
    python -m theory check A1 --examples 1000
    python -m theory falsify A1/energies-not-variances

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
from theory.claims._engine import (
    CheckResult,
    Counterexample,
    all_claims,
    check,
    describe,
    falsify,
    find_claim,
)

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
    "all_claims",
    "at_most",
    "check",
    "describe",
    "equal",
    "falsify",
    "find_claim",
]
