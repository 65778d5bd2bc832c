"""C3: when OMP, and when a one-shot encoder, must find the true support."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.certificates import (
    certified_k,
    omp_certificate,
    one_shot_certificate,
    support_certificate,
)
from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most
from theory.claims._codes import SparseCode, any_rows, simplices, sparse_codes, two_of_three
from theory.isotropic import isotropic_rows
from theory.sparse_coding import MAX_SUPPORTS, best_support, omp
from toymodels import strategies as tms
from toymodels import stream

EPSILON = (
    1e-6  # how far inside a strict inequality an instance must be, so that rounding is nothing
)


@dataclass(frozen=True)
class Noisy:
    """A sparse code, and noise of norm `noise` times the least magnitude in a random direction."""

    code: SparseCode
    noise: float
    seed: int

    def x(self) -> Float[Tensor, "1 d_in"]:
        d_in, generator = self.code.rows.d_in, stream(self.seed, "noise")
        direction = isotropic_rows(1, d_in, generator=generator, dtype=torch.float64)
        return self.code.x() + self.eta() * direction

    def eta(self) -> float:
        return self.noise * self.code.magnitudes[-1]


@st.composite
def noisy_codes(
    draw: Any, rows: Callable[[], st.SearchStrategy] = any_rows, slack: float = 1.0
) -> Noisy:
    """Codes with k up to what coherence (less by the factor `slack`) certifies; some noise."""
    code = draw(sparse_codes(rows, lambda mu: certified_k(mu / slack)))
    noise = draw(st.sampled_from([0.0, 0.5, 0.99]) | st.floats(0, 1))
    room = max(0.0, 1 - (2 * code.k - 1) * code.rows.coherence()) / 2
    return Noisy(code, noise * room, draw(tms.seeds()))


def misses(instance: Noisy, found: Float[Tensor, "1 n_features"], steps: int) -> float:
    """Returns how many of the atoms that OMP should have found in `steps` steps are missing."""
    chosen = found[0].nonzero()[:, 0].tolist()
    return float(steps - len(set(chosen) & set(instance.code.active)))


def pursuit(instance: Noisy) -> Comparisons:
    """OMP's steps; its residual before and after the last one; other supports."""
    code, eta = instance.code, instance.eta()
    rows, x = code.rows.vectors, instance.x()
    k, scale = code.k, code.energy() ** 0.5
    found = [omp(x, rows, t) for t in range(1, k + 1)]
    residuals = [float((x - codes @ rows).norm()) for codes in found]
    before = min([float(x.norm()), *residuals][:k])
    results = [
        at_most("missing atoms of OMP",
                max(misses(instance, codes, t) for t, codes in enumerate(found, 1)), 0.0),
        at_most("noise, against the residual before the last step", eta, before, scale=scale),
        at_most("residual after k steps, against the noise", residuals[-1], eta, scale=scale),
    ]  # fmt: skip
    mu = code.rows.coherence()
    sharper = support_certificate(rows, code.active).margin
    least = (1 - (2 * k - 1) * mu) / (1 - (k - 1) * mu)
    results.append(at_most("margin from coherence, against that of the support", least, sharper))
    n = len(rows)
    if eta == 0 and k > 1 and math.comb(n, k - 1) <= MAX_SUPPORTS // 10:
        sparser = float(best_support(x, rows, k - 1).r_squared)
        spare = code.magnitudes[-1] ** 2 / code.energy() * (1 - (2 * k - 2) * mu)
        results.append(at_most("R^2 of sparser codes", sparser, 1 - spare))
    return tuple(results)


def one_shot(instance: Noisy, tau: float) -> Comparisons:
    """TopK and thresholds of the tied pre-activations."""
    code, mu = instance.code, instance.code.rows.coherence()
    a = torch.tensor(code.magnitudes, dtype=torch.float64)
    certificate = one_shot_certificate(a, mu, noise=tau)
    pre_acts = (instance.x() @ code.rows.vectors.T)[0]
    active = torch.tensor(code.active)
    inactive = torch.ones(len(pre_acts), dtype=torch.bool).index_fill(0, active, False)
    largest = float(pre_acts[inactive].max()) if bool(inactive.any()) else -math.inf
    scale = float(a.sum())
    results = [
        at_most("error of the active pre-activations", float((pre_acts[active] - a).abs().max()),
                certificate.error, scale=scale),
        at_most("lower end, against active pre-activations", certificate.lower,
                float(pre_acts[active].min()), scale=scale),
        at_most("inactive pre-activations, against the upper end",
                max(largest, -scale), certificate.upper, scale=scale),
    ]  # fmt: skip
    if certificate.margin > EPSILON:
        chosen = set(pre_acts.topk(code.k).indices.tolist())
        results.append(at_most("wrong latents of TopK", float(len(chosen - set(code.active))), 0.0))
    return tuple(results)


def tau(instance: Noisy) -> float:
    """Returns the largest correlation of any feature with the noise."""
    noise = instance.x() - instance.code.x()
    return float((instance.code.rows.vectors @ noise[0]).abs().max())


def compare(instance: Noisy) -> Comparisons:
    results = one_shot(instance, tau(instance))
    if omp_certificate(instance.code.rows.coherence(), instance.code.k,
                       noise_to_signal=instance.noise).margin > EPSILON:  # fmt: skip
        results += pursuit(instance)
    return results


def beyond_the_threshold(instance: Noisy) -> Comparisons:
    k, mu = instance.code.k, instance.code.rows.coherence()
    if (2 * k - 1) * mu >= 1.75 - EPSILON or mu > 1 - EPSILON:
        return VOID
    found = omp(instance.x(), instance.code.rows.vectors, k)
    return (at_most("missing atoms of OMP", misses(instance, found, k), 0.0),)


def one_shot_like_omp(instance: Noisy) -> Comparisons:
    code = instance.code
    if (2 * code.k - 1) * code.rows.coherence() >= 1 - EPSILON:
        return VOID
    pre_acts = (code.x() @ code.rows.vectors.T)[0]
    active = list(code.active)
    others = [h for j, h in enumerate(pre_acts.tolist()) if j not in active]
    if not others:
        return VOID
    label = "largest inactive pre-activation, against the least active one"
    least = float(pre_acts[active].min())
    return (at_most(label, max(others), least, scale=code.magnitudes[0]),)


def noise_below_signal(instance: Noisy) -> Comparisons:
    """Noise nearly as large as the least magnitude."""
    loud = Noisy(instance.code, 0.95, instance.seed)
    code = instance.code
    if (2 * code.k - 1) * code.rows.coherence() >= 1 - EPSILON:
        return VOID
    found = omp(loud.x(), code.rows.vectors, code.k)
    return (at_most("missing atoms of OMP", misses(loud, found, code.k), 0.0),)


CLAIM = Claim(
    key="C3",
    statement="Certificates of OMP and of one-shot encoders\n"
    "If mu < 1/(2k-1), a code of k features is the sparsest of its x and OMP finds its support in "
    "k steps; with |noise| <= eta and a_min > 2 eta / (1 - (2k-1) mu) too, if it stops at a "
    "residual of eta. For tied pre-activations h = D x of a code a > 0 with |<d_i, noise>| <= "
    "tau, |h_i - a_i| <= mu |a|_1 + tau where active, and TopK(k), or any threshold between, "
    "selects the support if (1 + mu) a_min > 2 mu |a|_1 + 2 tau. OMP needs no such bound on the "
    "dynamic range.",
    source="Donoho & Elad 2003; Tropp 2004; Cai & Wang 2011; one-shot: O'Neill et al. 2025, "
    "arXiv 2411.13117 (amortisation gap)",
    proof="The residual is D_S c: its best true correlation is at least |c|_max (1 - (k-1) mu), "
    "its best false one at most k mu |c|_max; induct. One-shot: triangle inequality",
    status="proved",
    kind="exact",
    paper_label="eq:omp-certificate",
    strategy=noisy_codes,
    compare=compare,
    mutants=(
        Mutant(
            "beyond-the-threshold",
            "mu < 1.75/(2k-1) suffices for OMP",
            beyond_the_threshold,
            lambda: noisy_codes(simplices, 1.75),
        ),
        Mutant(
            "one-shot-like-omp",
            "mu < 1/(2k-1) suffices for one-shot TopK, whatever the dynamic range",
            one_shot_like_omp,
            lambda: two_of_three().map(lambda code: Noisy(code, 0.0, 0)),
        ),
        Mutant(
            "noise-below-signal",
            "OMP finds the support if the noise is smaller than the least magnitude",
            noise_below_signal,
        ),
    ),
)
