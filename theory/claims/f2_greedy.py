"""F2-greedy: OMP picks true features, each with a positive correlation."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from theory.certificates import certified_k
from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most
from theory.claims._codes import SparseCode, signed_grams, simplices, sparse_codes
from theory.sparse_coding import omp

EPSILON = 1e-6  # how far below the threshold an instance must be, so that rounding is nothing


def steps(
    instance: SparseCode,
) -> list[tuple[list[int], Float[Tensor, " n_features"]]]:
    """Returns for t = 0, ..., k-1 OMP's first t atoms, and the correlations with what is left."""
    rows, x = instance.rows.vectors, instance.x()
    found, history = torch.zeros(1, len(rows), dtype=x.dtype), []
    for t in range(instance.k):
        found = omp(x, rows, t) if t else found
        residual = x - found @ rows
        history.append((found[0].nonzero()[:, 0].tolist(), (rows @ residual[0])))
    return history


def compare(instance: SparseCode) -> Comparisons:
    mu, k = instance.rows.coherence(), instance.k
    if (2 * k - 1) * mu >= 1 - EPSILON:
        return VOID
    results = []
    for t, (chosen, correlations) in enumerate(steps(instance)):
        left = [i for i in instance.active if i not in chosen]
        outside = [j for j in range(len(correlations)) if j not in instance.active]
        best = max(left, key=lambda i: abs(float(correlations[i])))
        others = float(correlations[outside].abs().max()) if outside else 0.0
        # The Schur complement: at least this much of the largest coefficient that is left.
        diagonal = (1 + mu) * (1 - t * mu) / (1 - (t - 1) * mu) if t else 1.0
        between = mu * (1 + mu) / (1 - (t - 1) * mu) if t else mu
        largest = max(instance.code()[0, left].tolist())
        floor = (diagonal - (k - t - 1) * between) * largest
        results += [
            at_most(f"wrong picks before {t}", float(len(set(chosen) - set(instance.active))), 0.0),
            at_most(f"picks missing before {t}", float(t - len(chosen)), 0.0),
            at_most(f"0, against the floor at {t}", 0.0, floor, scale=largest),
            at_most(f"floor, against the next pick's correlation at {t}", floor,
                    float(correlations[best]), scale=largest),
            at_most(f"others' correlations, against the next pick's at {t}", others,
                    float(correlations[best]), scale=largest),
        ]  # fmt: skip
    return tuple(results)


def up_to_f2s_threshold(instance: SparseCode) -> Comparisons:
    mu, k = instance.rows.coherence(), instance.k
    if (k - 1) * mu >= 1 - EPSILON or mu > 0.999:
        return VOID
    picked = [float(c.abs().max() - c.max()) for _, c in steps(instance)]
    scale = instance.energy() ** 0.5
    return (at_most("largest |correlation|, less the largest one", max(picked), 0.0, scale=scale),)


def every_active_feature(instance: SparseCode) -> Comparisons:
    mu, k = instance.rows.coherence(), instance.k
    if (2 * k - 1) * mu >= 1 - EPSILON:
        return VOID
    least = min(
        float(c[[i for i in instance.active if i not in chosen]].min())
        for chosen, c in steps(instance)
    )
    label = "0, against any remaining feature's correlation"
    return (at_most(label, 0.0, least, scale=instance.magnitudes[0]),)


CLAIM = Claim(
    key="F2-greedy",
    statement="Greedy sign consistency\n"
    "x is a code a > 0 of k features and mu < 1/(2k-1). Every pick of OMP is one of them and has a "
    "positive correlation with the residual, at least ((1+mu)(1-t mu) - (k-t-1) mu (1+mu)) / "
    "(1-(t-1) mu) times the largest coefficient not yet picked.",
    source="new; Tropp 2004",
    proof="G_R - G_RS G_S^-1 G_SR has a diagonal of at least (1+mu)(1-t mu)/(1-(t-1) mu) and "
    "off-diagonals of at most mu (1+mu)/(1-(t-1) mu)",
    status="proved",
    kind="exact",
    paper_label="eq:greedy-signs",
    strategy=partial(sparse_codes, most=certified_k),
    compare=compare,
    mutants=(
        Mutant(
            "up-to-f2s-threshold",
            "mu < 1/(k-1), which F2 asks for, suffices for OMP",
            up_to_f2s_threshold,
            partial(sparse_codes, simplices, lambda mu: 1 + 1 / mu),
        ),
        Mutant(
            "every-active-feature",
            "Every feature not yet picked, not only the next pick, has a positive correlation",
            every_active_feature,
            partial(sparse_codes, signed_grams, certified_k),
        ),
    ),
)
