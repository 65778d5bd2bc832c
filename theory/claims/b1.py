"""B1: the spectral null curve, a certificate for every trained meta-SAE."""

from functools import partial

import torch

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from theory.claims._meta import (
    MetaProblem,
    fitted_fve,
    is_orthonormal,
    meta_problems,
    principal_fve,
)
from theory.spectral import coherence_fve_bound, compressible_coherence, spectral_fve_bound
from toymodels import stream


def compare(problem: MetaProblem) -> Comparisons:
    dictionary, m = problem.dictionary, problem.n_latents
    n = dictionary.n_features
    bound = spectral_fve_bound(problem.rows(), m, bias=False)
    if bound.void:
        return VOID
    rank = int(torch.linalg.matrix_rank(problem.rows()))
    rms = dictionary.rms_coherence()
    by_rank, by_width = (coherence_fve_bound(n, r, rms, m) for r in (rank, n))
    fitted = fitted_fve(problem, problem.k, generator=stream(problem.seed, "sparse codes"))
    results = [
        at_most("FVE fitted with sparse codes", fitted, bound.fve),
        equal("FVE of principal components", principal_fve(problem), bound.fve),
        at_most("m/rank, against the curve", m / rank, bound.fve),
        at_most("the curve, against its closed form in the rank", bound.fve, by_rank),
        at_most("closed form in the rank, against that in n", by_rank, by_width),
    ]
    if is_orthonormal(dictionary):
        results.append(equal("orthonormal: m/n", bound.fve, m / n))
    low, high = dictionary.frame_bounds()
    if high - low < 1e-12 * high:
        results.append(equal("tight: m/d_in", bound.fve, m / dictionary.d_in))
    if rank < n:
        # These rows are exactly compressible to `rank` atoms, so the corollary applies at rank.
        welch = compressible_coherence(n, rank)
        results.append(at_most("forced coherence", welch, dictionary.coherence()))
    return tuple(results)


def m_over_n(problem: MetaProblem) -> Comparisons:
    share = min(1.0, problem.n_latents / problem.dictionary.n_features)
    return (at_most("best FVE, against m/n", principal_fve(problem), share),)


def m_over_rank(problem: MetaProblem) -> Comparisons:
    rank = int(torch.linalg.matrix_rank(problem.rows()))
    share = min(1.0, problem.n_latents / rank)
    return (at_most("best FVE, against m/rank", principal_fve(problem), share),)


CLAIM = Claim(
    key="B1",
    statement="The spectral null curve bounds every meta-SAE\n"
    "For n unit rows of rank r, m atoms without bias and any code, FVE <= (1/n) sum of the top m "
    "eigenvalues of the Gram matrix <= m/r + sqrt((m/r)(1 - m/r)(r |G|_F^2 / n^2 - 1)), and the "
    "same with r = n. Orthonormal rows reach m/n; codes of k >= m atoms reach m/r of any rows, and "
    "of tight ones no more. Rows exactly compressible to m < n atoms have coherence >= sqrt((n-m) "
    "/ (m (n-1))).",
    source="new; Ky Fan 1949, Welch 1974",
    proof="Ky Fan, then Cauchy-Schwarz on the top m and the other r - m eigenvalues; "
    "rank <= m gives |G|_F^2 >= n^2 / m",
    status="proved",
    kind="exact",
    paper_label="eq:spectral-null",
    strategy=partial(meta_problems, weighted=False, bias=False, min_latents=1),
    compare=compare,
    mutants=(
        Mutant("m-over-n", "m/n bounds the FVE of every dictionary", m_over_n),
        Mutant("m-over-rank", "m/rank bounds the FVE of every dictionary", m_over_rank),
    ),
)
