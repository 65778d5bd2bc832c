"""A2: the weights decide whether a meta-SAE can throw rare features away."""

import torch

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from theory.claims._meta import (
    MetaProblem,
    fitted_fve,
    is_orthonormal,
    meta_problems,
    principal_fve,
)
from theory.compressibility import fve
from theory.spectral import spectral_fve_bound
from toymodels import stream


def copied_fve(problem: MetaProblem) -> float:
    """Returns the FVE of copying the n_latents rows of largest weight (1-sparse, no bias)."""
    rows, w = problem.rows(), problem.weight_tensor()
    copy = torch.zeros_like(rows)
    largest = w.argsort(descending=True, stable=True)[: problem.n_latents]
    copy[largest] = rows[largest]
    return fve(rows, copy, weights=w)


def kept_weight(problem: MetaProblem) -> float:
    """Returns the share of the weight on the n_latents rows of largest weight."""
    w = problem.weight_tensor().sort(descending=True).values
    return float(w[: problem.n_latents].sum() / w.sum())


def compare(problem: MetaProblem) -> Comparisons:
    rows, w, m = problem.rows(), problem.weight_tensor(), problem.n_latents
    bound = spectral_fve_bound(rows, m, weights=w, bias=problem.bias)
    if bound.void:
        return VOID
    free = fitted_fve(problem, None, generator=stream(problem.seed, "free codes"))
    sparse = fitted_fve(problem, problem.k, generator=stream(problem.seed, "sparse codes"))
    results = [
        at_most("FVE fitted with unrestricted codes", free, bound.fve),
        at_most("FVE fitted with sparse codes", sparse, bound.fve),
        equal("FVE of principal components", principal_fve(problem), bound.fve),
    ]
    orthonormal, uniform = is_orthonormal(problem.dictionary), len(set(problem.weights)) == 1
    if problem.bias:
        one_more = spectral_fve_bound(rows, m + 1, weights=w, bias=False).fve
        results.append(at_most("bound with bias, against one more latent", bound.fve, one_more))
        if orthonormal and uniform:
            share = (m + 1) / len(rows)
            results.append(equal("orthonormal, uniform, bias: (m+1)/n", bound.fve, share))
        return tuple(results)
    kept = kept_weight(problem)
    smallest = max(0.0, float(torch.linalg.eigvalsh(problem.dictionary.gram())[0]))
    results.append(equal("FVE of copying the largest weights", copied_fve(problem), kept))
    results.append(at_most("copying, against the bound", kept, bound.fve))
    upper = 1 - smallest * (1 - kept)
    results.append(at_most("bound, against 1 - lambda_min(G) tail weight", bound.fve, upper))
    if orthonormal:
        results.append(equal("orthonormal: copying is optimal", kept, bound.fve))
        if uniform:
            results.append(equal("orthonormal, uniform: m/n", bound.fve, m / len(rows)))
    return tuple(results)


def bias_adds_nothing(problem: MetaProblem) -> Comparisons:
    w = problem.weight_tensor()
    bound = spectral_fve_bound(problem.rows(), problem.n_latents, weights=w, bias=False)
    if bound.void:
        return VOID
    return (
        at_most("FVE with a bias, against the bound without", principal_fve(problem), bound.fve),
    )


def rarity_helps_unweighted(problem: MetaProblem) -> Comparisons:
    unweighted = copied_fve(
        MetaProblem(
            problem.dictionary,
            (1.0,) * len(problem.weights),
            problem.n_latents,
            problem.k,
            problem.bias,
            problem.seed,
        )
    )
    if not is_orthonormal(problem.dictionary):
        return VOID
    label = "share of energy kept, against the best unweighted FVE"
    return (at_most(label, kept_weight(problem), unweighted),)


def copying_is_optimal(problem: MetaProblem) -> Comparisons:
    label = "best FVE, against copying the rows of largest weight"
    return (at_most(label, principal_fve(problem), kept_weight(problem)),)


CLAIM = Claim(
    key="A2",
    statement="The weights decide what a meta-SAE may discard\n"
    "For unit rows with weights w, m atoms and any code, uncentred FVE is at most the share of the "
    "top m eigenvalues of sum w d d^T (with a decoder bias: 1 minus the tail of the w-centred "
    "moment, at most m+1 eigenvalues of the uncentred one), void from the rank on. Without bias "
    "the best FVE lies between the weight share of the m heaviest rows and 1 - lambda_min(G) times "
    "the rest. For orthonormal rows the ends meet: unweighted m/n however rare the features, with "
    "a bias at most (m+1)/n.",
    source="new; Ky Fan 1949, Ostrowski 1959 (textbook)",
    proof="Ky Fan; the spectrum of w^(1/2) G w^(1/2) is theta_j w_(j), theta_j >= lambda_min(G); "
    "copy the top m",
    status="proved",
    kind="exact",
    paper_label="eq:weights",
    strategy=meta_problems,
    compare=compare,
    mutants=(
        Mutant(
            "bias-adds-nothing",
            "A decoder bias leaves the bias-free spectral bound valid",
            bias_adds_nothing,
            lambda: meta_problems(bias=True),
        ),
        Mutant(
            "rarity-helps-unweighted",
            "On orthonormal rows the unweighted meta-SAE reaches the share of energy of the m most "
            "energetic features",
            rarity_helps_unweighted,
            lambda: meta_problems(bias=False),
        ),
        Mutant(
            "copying-is-optimal",
            "Copying the rows of largest weight is optimal for every dictionary",
            copying_is_optimal,
            lambda: meta_problems(bias=False),
        ),
    ),
)
