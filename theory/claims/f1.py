"""F1: the error of a code's prefixes, between two bounds."""

import itertools
import math
from functools import partial

import torch
from hypothesis import strategies as st

from theory.claims._claim import Claim, Comparisons, Mutant, at_most, equal
from theory.claims._codes import SparseCode, signed_grams, sparse_codes
from theory.progressive import prefix_errors


def codes() -> st.SearchStrategy[SparseCode]:
    """Codes in worst cases of coherence, and in every family of dictionaries; up to 6 features."""
    return sparse_codes(signed_grams) | sparse_codes(most=lambda mu: 6)


def errors(instance: SparseCode, *, refit: bool) -> torch.Tensor:
    """Returns |x - x_hat|^2 of the 0, 1, ..., k largest coefficients, by the criterion."""
    rows = instance.rows.vectors
    ks = range(instance.k + 1)
    return prefix_errors(
        instance.x(), instance.code(), rows, torch.zeros_like(rows[0]), ks, refit=refit
    )[0]


def left(instance: SparseCode) -> list[float]:
    """Returns |a_R|^2, the energy of the coefficients beyond each prefix."""
    squares = [a * a for a in instance.magnitudes]
    return [math.fsum(squares[t:]) for t in range(instance.k + 1)]


def compare(instance: SparseCode) -> Comparisons:
    mu, k, scale = instance.rows.coherence(), instance.k, instance.energy()
    refit, rest = errors(instance, refit=True).tolist(), left(instance)
    results = [
        equal("error of the whole code", refit[k], 0.0, scale=scale),
        at_most("largest rise of the error", max(b - a for a, b in itertools.pairwise(refit)), 0.0,
                scale=scale),
    ]  # fmt: skip
    for t in range(k):
        low, high = (1 - (k - 1) * mu) * rest[t], (1 + (k - t - 1) * mu) * rest[t]
        results.append(at_most(f"lower end at {t}", low, refit[t], scale=scale))
        results.append(at_most(f"upper end at {t}", refit[t], high, scale=scale))
    return tuple(results)


def no_refit(instance: SparseCode) -> Comparisons:
    frozen = errors(instance, refit=False).tolist()
    rise = max(b - a for a, b in itertools.pairwise(frozen))
    return (at_most("largest rise of the error", rise, 0.0, scale=instance.energy()),)


def no_interference(instance: SparseCode) -> Comparisons:
    pairs = zip(errors(instance, refit=True).tolist(), left(instance), strict=True)
    excess = max(error - energy for error, energy in pairs)
    return (at_most("error, less the energy left out", excess, 0.0, scale=instance.energy()),)


def one_neighbour(instance: SparseCode) -> Comparisons:
    mu = instance.rows.coherence()
    pairs = zip(errors(instance, refit=True).tolist(), left(instance), strict=True)
    lack = max((1 - mu) * energy - error for error, energy in pairs)
    return (at_most("(1 - mu) of the energy left out", lack, 0.0, scale=instance.energy()),)


CLAIM = Claim(
    key="F1",
    statement="The error of a code's prefixes\n"
    "x is a code a > 0 of k features, and its t largest coefficients are refitted by least "
    "squares. The errors never rise with t, for any dictionary, and with R the features left out, "
    "(1 - (k-1) mu) |a_R|^2 <= error <= (1 + (k-t-1) mu) |a_R|^2.",
    source="new; Schur complements (textbook)",
    proof="The error is the Schur complement of G_S at a_R: its eigenvalues lie between the least "
    "one of G_S and the largest one of G_R (Gershgorin)",
    status="proved",
    kind="exact",
    paper_label="eq:progressive",
    strategy=codes,
    compare=compare,
    mutants=(
        Mutant(
            "no-refit",
            "The errors never rise with the true coefficients either",
            no_refit,
            partial(sparse_codes, signed_grams),
        ),
        Mutant(
            "no-interference",
            "The error is at most the energy of the features left out",
            no_interference,
            partial(sparse_codes, signed_grams),
        ),
        Mutant(
            "one-neighbour",
            "The error is at least (1 - mu) |a_R|^2 however many features fire",
            one_neighbour,
            partial(sparse_codes, signed_grams),
        ),
    ),
)
