"""G4: what happens to the effective rank when rare features become common."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from theory.claims._meta import is_orthonormal
from theory.effective_rank import EffectiveRank, effective_rank, visibility_shifts
from toymodels import Dictionary, orthonormal, stream
from toymodels import strategies as tms

LARGEST = 1e6  # factor of an energy
BORDER = 1e-4  # an eigenvalue this near the threshold, relative to it, is left to rounding


@dataclass(frozen=True)
class Visible:
    """Features with energies, and a threshold alpha / N that a visible direction exceeds."""

    dictionary: Dictionary
    energies: tuple[float, ...]
    threshold: float

    def e(self) -> Float[Tensor, " n_features"]:
        return torch.tensor(self.energies, dtype=torch.float64)

    def spectrum(self, e: Float[Tensor, " n_features"]) -> Float[Tensor, " d_in"]:
        d = self.dictionary.vectors
        return torch.linalg.eigvalsh((d.T * e) @ d)

    def measured(self) -> EffectiveRank:
        options = {"n_samples": 1.0, "prior_precision": self.threshold}
        return effective_rank(self.dictionary.vectors, self.e(), **options)

    def shifts(self) -> Float[Tensor, " n_features"]:
        return visibility_shifts(self.dictionary.vectors, self.e(), self.threshold)

    def with_factor(self, i: int, factor: float) -> Float[Tensor, " n_features"]:
        e = self.e()
        e[i] = factor * e[i]
        return e


@st.composite
def visibles(draw: Any) -> Visible:
    """Any dictionary, or an orthonormal one; energies over a factor of a thousand."""
    orthonormals = st.builds(
        lambda n, seed: orthonormal(n, n, generator=stream(seed, "basis"), dtype=torch.float64),
        st.integers(1, 5),
        tms.seeds(),
    )
    dictionary = draw(st.one_of(tms.dictionaries(), orthonormals))
    n = dictionary.n_features
    energy = st.just(1.0) | st.floats(-2, 1).map(lambda t: 10.0**t)
    energies = draw(st.just([1.0] * n) | st.lists(energy, min_size=n, max_size=n))
    threshold = st.sampled_from([1.0, 0.7, 2.0]) | st.floats(-1, 1).map(lambda t: 10.0**t)
    return Visible(dictionary, tuple(energies), draw(threshold))


def bayes(
    vectors: Float[Tensor, "n d_in"], log_energies: Float[Tensor, " n"], threshold: float
) -> Float[Tensor, ""]:
    """Returns tr[Sigma (Sigma + threshold)^-1], for autograd."""
    moment = (vectors.T * log_energies.exp()) @ vectors
    identity = torch.eye(len(moment), dtype=moment.dtype)
    return torch.linalg.solve(moment + threshold * identity, moment).trace()


def compare(instance: Visible) -> Comparisons:
    vectors, e, threshold = instance.dictionary.vectors, instance.e(), instance.threshold
    found = instance.measured()
    logs = e.log().requires_grad_()
    (slopes,) = torch.autograd.grad(bayes(vectors, logs, threshold), logs)
    x = instance.spectrum(e).clamp(min=0) / threshold
    total = float(found.sensitivities.sum())
    error = float((found.sensitivities - slopes).abs().max())
    results = [
        equal("sensitivities, against derivatives", error, 0.0, scale=found.rank),
        equal("sum of sensitivities, against the spectrum", total,
              float((x / (1 + x).square()).sum()), scale=found.rank),
        at_most("sum of sensitivities, against rank / 4", total, found.rank / 4,
                scale=found.rank),
        at_most("no sensitivity is negative", -float(found.sensitivities.min()), 0.0),
        at_most("any sensitivity, against 1/4", float(found.sensitivities.max()), 0.25),
    ]  # fmt: skip
    if not bool(((x - 1).abs() < BORDER).any()):
        results += shifted(instance)
    return tuple(results)


def shifted(instance: Visible) -> Comparisons:
    """Where the factors put an eigenvalue, and how many directions appear on the way."""
    off, miscounted = 0.0, 0.0
    for i, kappa in enumerate(instance.shifts().tolist()):
        finite = kappa < math.inf
        if finite and kappa > LARGEST:
            continue  # the spectrum there is dominated by one feature, and the rest is rounding
        if finite:
            at = instance.spectrum(instance.with_factor(i, kappa))
            nearest = float((at - instance.threshold).abs().min())
            off = max(off, nearest / (float(at.abs().max()) + instance.threshold))
        ends = (0.0, 1e3 * max(kappa, 1.0) if finite else LARGEST)
        without, with_it = (instance.spectrum(instance.with_factor(i, f)) for f in ends)
        both = torch.cat([without, with_it]) / instance.threshold
        if bool(((both - 1).abs() > BORDER).all()):
            more = int((with_it > instance.threshold).sum() - (without > instance.threshold).sum())
            miscounted = max(miscounted, float(abs(more - finite)))
    results = [
        equal("an eigenvalue at the factor, against the threshold", off, 0.0),
        equal("directions that a feature adds, against whether its factor is finite", miscounted,
              0.0),
    ]  # fmt: skip
    if is_orthonormal(instance.dictionary):
        error = (instance.shifts() * instance.e() / instance.threshold - 1).abs().max()
        results.append(equal("orthonormal: threshold / e_i", float(error), 0.0))
    return tuple(results)


def threshold_over_energy(instance: Visible) -> Comparisons:
    kappas, e = instance.shifts(), instance.e()
    finite = kappas.isfinite()
    if not bool(finite.any()):
        return VOID
    error = float((kappas * e / instance.threshold - 1)[finite].abs().max())
    return (equal("factor times e_i over the threshold", error, 0.0),)


def half_of_it(instance: Visible) -> Comparisons:
    found = instance.measured()
    total = float(found.sensitivities.sum())
    return (at_most("sum of sensitivities, against rank / 8", total, found.rank / 8),)


def commonest_is_most_sensitive(instance: Visible) -> Comparisons:
    found = instance.measured()
    commonest = found.sensitivities[int(instance.e().argmax())]
    largest = float(found.sensitivities.max())
    return (at_most("largest sensitivity, against the commonest feature's", largest,
                    float(commonest)),)  # fmt: skip


CLAIM = Claim(
    key="G4",
    statement="Rare features that become common raise the effective rank, one direction each\n"
    "With x_j = N lambda_j / alpha, the derivative of lambda_eff = (q/2) sum_j x_j / (1 + x_j) "
    "in ln e_i is (q/2) alpha N e_i |(N Sigma + alpha I)^-1 d_i|^2, between 0 and q/8; the "
    "derivatives add up to (q/2) sum_j x_j / (1 + x_j)^2 <= q rank(D) / 8. While e_i alone grows "
    "from 0 at most one eigenvalue passes a threshold t > 0 that is none of them, where e_i has "
    "grown by kappa_i = 1 + 1 / (e_i d_i^T (t I - Sigma)^-1 d_i), if that is positive; "
    "orthonormal: t / e_i.",
    source="new",
    proof="Differentiate the trace of Sigma (Sigma + alpha/N)^-1; x/(1+x)^2 <= 1/4; "
    "Sherman-Morrison for one feature; a rank-one change moves one eigenvalue past t at the root "
    "of its determinant, 1 = (kappa - 1) e_i s_i",
    status="proved",
    kind="exact",
    paper_label="eq:visibility",
    strategy=visibles,
    compare=compare,
    mutants=(
        Mutant(
            "threshold-over-energy",
            "kappa_i = t / e_i for every dictionary",
            threshold_over_energy,
        ),
        Mutant(
            "half-a-quarter",
            "The slopes of sum_j x_j / (1 + x_j) add up to rank/8 at most",
            half_of_it,
        ),
        Mutant(
            "commonest-is-most-sensitive",
            "The effective rank depends most on the commonest feature",
            commonest_is_most_sensitive,
        ),
    ),
)
