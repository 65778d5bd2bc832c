"""D3: what known atoms are worth to a composite that is rarely seen."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from scipy.stats import chi2
from torch import Tensor

from theory.claims._claim import ALPHA, VOID, Claim, Comparisons, Mutant, Noise, at_most, equal
from theory.sparse_coding import omp
from toymodels import Dictionary, composed
from toymodels import strategies as tms

N_SAMPLES = 400


@dataclass(frozen=True)
class RareComposite:
    """The composite of the first atoms, with these weights, seen with total energy over noise."""

    atoms: Dictionary
    weights: tuple[int, ...]
    signal_to_noise: float
    seed: int

    def support(self) -> Float[Tensor, "k d_in"]:
        return self.atoms.vectors[: len(self.weights)]

    def direction(self) -> Float[Tensor, " d_in"]:
        return torch.tensor(self.weights, dtype=torch.float64) @ self.support()

    def rank(self) -> int:
        return int(torch.linalg.matrix_rank(self.support()))

    def estimates(self, noise: Noise) -> Float[Tensor, "n d_in"]:
        """Returns least-squares estimates of the direction, in independent worlds.

        From samples x = a u + sigma g, sum a x / sum a^2 is u plus noise of variance
        sigma^2 / sum a^2 = 1 / signal_to_noise in each coordinate.
        """
        generator = noise.generator(self.seed)
        shape = (noise.n_samples, self.atoms.d_in)
        error = torch.randn(shape, generator=generator, dtype=torch.float64)
        return self.direction() + error / math.sqrt(self.signal_to_noise)

    def on_support(self, estimates: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_in"]:
        """Returns the estimates projected on the span of the composite's atoms."""
        _, singular, right = torch.linalg.svd(self.support(), full_matrices=False)
        basis = right[singular > 1e-10]
        return estimates @ basis.T @ basis


def rare_composites() -> st.SearchStrategy[RareComposite]:
    """Atoms of every family, one to three of them mixed, from one noisy sight to a clear one."""
    return _rare_composites(tms.dictionaries())


@st.composite
def _rare_composites(draw: Any, dictionaries: st.SearchStrategy[Dictionary]) -> RareComposite:
    atoms = draw(dictionaries)
    weights = st.lists(st.integers(1, 3), min_size=1, max_size=min(3, atoms.n_features))
    clarity = st.sampled_from([1.0, 0.1, 10.0, 1e3, 1e5])
    return RareComposite(atoms, tuple(draw(weights)), draw(clarity), draw(tms.seeds()))


def compare(instance: RareComposite, noise: Noise) -> Comparisons:
    d, rank = instance.atoms.d_in, instance.rank()
    direction, estimates = instance.direction(), instance.estimates(noise)
    known = instance.on_support(estimates)
    n, snr = len(estimates), instance.signal_to_noise
    results = []
    for name, found, freedoms in (("free", estimates, d), ("atoms known", known, rank)):
        total = float((found - direction).square().sum()) * snr
        low, high = chi2.ppf(ALPHA / 2, freedoms * n), chi2.isf(ALPHA / 2, freedoms * n)
        mean, expected = total / n, float(freedoms)
        above, below = float(high) / n - expected, expected - float(low) / n
        results.append(at_most(f"{name}: risk, from above", mean, expected, radius=above))
        results.append(at_most(f"{name}: risk, from below", expected, mean, radius=below))
    wrong = _certified_failures(instance, estimates)
    results.append(at_most("certified supports that OMP misses", wrong, 0.0))
    return (*results, *_merged(instance))


def _certified_failures(instance: RareComposite, estimates: Float[Tensor, "n d_in"]) -> float:
    """Returns the largest coefficient that OMP puts on a wrong atom where that is excluded."""
    k, mu = len(instance.weights), instance.atoms.coherence()
    largest = min(instance.weights) * (1 - (2 * k - 1) * mu) / 2
    errors = torch.linalg.vector_norm(estimates - instance.direction(), dim=1)
    certified = estimates[errors < largest]
    if not len(certified):
        return 0.0
    codes = omp(certified, instance.atoms.vectors, k)
    return float(codes[:, k:].abs().max()) if codes.shape[1] > k else 0.0


def _merged(instance: RareComposite) -> Comparisons:
    """Two atoms always used in the ratio 1 : 2 are one atom as far as any row can tell."""
    atoms, n = instance.atoms.vectors, len(instance.weights)
    mixing = torch.eye(len(atoms), dtype=atoms.dtype)
    mixing[0, :n] = torch.tensor(instance.weights, dtype=atoms.dtype)
    split = torch.cat([mixing, 2 * mixing[:, :1]], 1)
    extra = torch.cat([atoms, atoms[-1:]])
    together = extra[:1] + 2 * extra[-1:]
    merged = torch.cat([together, atoms[1:]])
    gap = float((split @ extra - mixing @ merged).abs().max())
    try:
        composed(split, Dictionary(extra))
    except ValueError:
        refused = 1.0
    else:
        refused = 0.0
    return (
        equal("merging proportional atoms changes the rows by", gap, 0.0),
        equal("such a mixing is refused", refused, 1.0),
    )


def atoms_do_not_help(instance: RareComposite, noise: Noise) -> Comparisons:
    d = float(instance.atoms.d_in)
    known = instance.on_support(instance.estimates(noise))
    total = float((known - instance.direction()).square().sum()) * instance.signal_to_noise
    low = float(chi2.ppf(ALPHA / 2, d * noise.n_samples)) / noise.n_samples
    label = "d, against the risk with known atoms"
    return (at_most(label, d, total / noise.n_samples, radius=d - low),)


def support_is_always_found(instance: RareComposite, noise: Noise) -> Comparisons:
    atoms, k = instance.atoms.vectors, len(instance.weights)
    if instance.rank() < k:
        return VOID
    estimates = instance.estimates(noise)
    found = omp(estimates, atoms, k) @ atoms
    total = float((found - instance.direction()).square().sum()) * instance.signal_to_noise
    n = len(estimates)
    high = float(chi2.isf(ALPHA / 2, k * n)) / n
    return (at_most("risk of OMP's support, against k", total / n, float(k), radius=high - k),)


CLAIM = Claim(
    key="D3",
    statement="Known atoms cut the risk of a rare composite from d to k\n"
    "A direction seen with total energy over noise S = sum a^2 / sigma^2 has least-squares risk "
    "d/S; projected on the span of its k independent atoms, k/S. The support itself is found by "
    "OMP where the error is below min weight (1 - (2k-1) mu) / 2. Atoms in proportional columns "
    "of the mixing matrix can be merged without changing any row.",
    source="textbook; support: Cai & Wang 2011",
    proof="Noise projected on r dimensions has r times the variance of one; the residual's "
    "correlations for the support; D = M B depends on proportional columns through one sum",
    status="proved",
    kind="sampled",
    paper_label="eq:composite-risk",
    strategy=rare_composites,
    compare=compare,
    n_samples=N_SAMPLES,
    mutants=(
        Mutant("atoms-do-not-help", "The risk with known atoms is d/S too", atoms_do_not_help),
        Mutant(
            "support-is-always-found",
            "The risk is k/S with a support found by OMP, at any noise and coherence",
            support_is_always_found,
        ),
    ),
)
