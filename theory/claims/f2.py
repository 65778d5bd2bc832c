"""F2: below the coherence 1/(k-1) every refitted prefix keeps every sign."""

from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from theory.claims._codes import SparseCode, signed_grams, sparse_codes
from theory.signs import refitted
from toymodels import Dictionary

EPSILON = 1e-6  # how far below the threshold an instance must be, so that rounding is nothing


def threshold(mu: float) -> float:
    """Returns the largest k with mu < 1/(k-1), as a float."""
    return 1 + 1 / max(mu, 1e-3) - EPSILON


def coefficients(instance: SparseCode, t: int, *, extra: bool = False) -> Float[Tensor, " t"]:
    """Returns the refitted coefficients of the t largest, by the criterion's least squares.

    extra: with one inactive feature at the end, if there is one.
    """
    rows = instance.rows.vectors
    chosen = list(instance.active[:t])
    if extra:
        chosen += [j for j in range(len(rows)) if j not in instance.active][:1]
    support = torch.zeros(1, len(rows), dtype=torch.bool)
    support[0, chosen] = True
    return refitted(instance.x(), support, rows, torch.zeros_like(rows[0]))[0, chosen]


def compare(instance: SparseCode) -> Comparisons:
    mu, k = instance.rows.coherence(), instance.k
    a = torch.tensor(instance.magnitudes, dtype=torch.float64)
    if (k - 1) * mu >= 1 - EPSILON:
        return VOID
    results = []
    for t in range(1, k + 1):
        kept = 1 - mu * (k - t) / (1 - (t - 1) * mu)
        ratios = coefficients(instance, t) / a[:t]
        results.append(at_most(f"floor, against c_i / a_i at {t}", kept, float(ratios.min())))
    results.append(at_most("0, against the least floor", 0.0, 1 - (k - 1) * mu))
    whole = coefficients(instance, k, extra=True)
    exact = float((whole[:k] - a).abs().max())
    if k * mu < 1 - EPSILON:
        results.append(equal("coefficients of the whole code", exact, 0.0, scale=float(a[0])))
        if len(whole) > k:
            inactive = float(whole[k])
            results.append(equal("an inactive one", inactive, 0.0, scale=float(a[0])))
    return tuple(results)


def least_ratio(instance: SparseCode) -> float:
    """Returns the least c_i / a_i over all prefixes."""
    a = torch.tensor(instance.magnitudes, dtype=torch.float64)
    prefixes = range(1, instance.k + 1)
    return min(float((coefficients(instance, t) / a[:t]).min()) for t in prefixes)


def beyond_the_threshold(instance: SparseCode) -> Comparisons:
    mu, k = instance.rows.coherence(), instance.k
    # Fewer features than 3 have no threshold; dependent ones no unique coefficients.
    if k < 3 or (k - 1) * mu >= 1.2:
        return VOID
    return (at_most("0, against the least c_i / a_i", 0.0, least_ratio(instance)),)


def any_order(instance: SparseCode) -> Comparisons:
    """Prefixes of the smallest coefficients."""
    mu, k = instance.rows.coherence(), instance.k
    if (k - 1) * mu >= 1 - EPSILON:
        return VOID
    order = tuple(reversed(range(k)))
    turned = SparseCode(
        instance.rows,
        tuple(instance.active[i] for i in order),
        tuple(instance.magnitudes[i] for i in order),
    )
    return (at_most("0, against the least c_i / a_i", 0.0, least_ratio(turned)),)


@st.composite
def opposed(draw: Any) -> SparseCode:
    """k features of which the first has cosine -c with all others, which have c with each other."""
    k = draw(st.integers(3, 8))
    c = draw(st.floats(0.5, 1.25)) / (k - 1)
    flips = torch.ones(k, dtype=torch.float64)
    flips[0] = -1
    gram = c * torch.outer(flips, flips)
    rows = torch.linalg.cholesky(gram.fill_diagonal_(1.0))
    return SparseCode(Dictionary.normalise(rows), tuple(range(k)), (1.0,) * k)


CLAIM = Claim(
    key="F2",
    statement="Sign consistency\n"
    "x is a code a > 0 of k features. If mu < 1/(k-1), the refitted coefficients of the t largest "
    "are all positive, c_i >= a_i (1 - mu (k-t) / (1 - (t-1) mu)); at t = k the code is exact, and "
    "where k mu < 1 one more feature gets the coefficient 0. The threshold is sharp for k >= 3: "
    "with a = 1 and G_1l = -mu, other cosines mu, c_1 = 1 - (k-1) mu at t = 1.",
    source="new",
    proof="c - a_S = G_S^-1 G_SR a_R; |G_S^-1|_inf <= 1/(1 - (t-1) mu), |G_SR a_R|_inf <= "
    "mu (k-t) a_i, as the prefix holds the largest",
    status="proved",
    kind="exact",
    paper_label="eq:sign-consistency",
    strategy=partial(sparse_codes, most=threshold),
    compare=compare,
    mutants=(
        Mutant(
            "beyond-the-threshold",
            "mu < 1.2/(k-1) suffices",
            beyond_the_threshold,
            opposed,
        ),
        Mutant(
            "any-order",
            "It holds for the smallest coefficients first",
            any_order,
            partial(sparse_codes, signed_grams, threshold),
        ),
    ),
)
