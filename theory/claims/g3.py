"""G3: how many common features a weight basis of r directions allows."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from theory.effective_rank import common_features_bound
from toymodels import Dictionary
from toymodels import strategies as tms


@dataclass(frozen=True)
class Common:
    """Features of which the first n_common have energy >= threshold, and a number of directions."""

    dictionary: Dictionary
    energies: tuple[float, ...]
    threshold: float
    r: int

    @property
    def n_common(self) -> int:
        return sum(e >= self.threshold for e in self.energies)

    def tail(self) -> float:
        """Returns the energy outside the top-r eigenspace of D^T diag(e) D."""
        e = torch.tensor(self.energies, dtype=torch.float64)
        spectrum = torch.linalg.svdvals(e.sqrt()[:, None] * self.dictionary.vectors).square()
        return float(spectrum[self.r :].sum())

    def rms_coherence(self) -> float:
        """Returns that of the common features among themselves."""
        common = [i for i, e in enumerate(self.energies) if e >= self.threshold]
        return Dictionary(self.dictionary.vectors[common]).rms_coherence()

    def void(self) -> bool:
        n, r = self.n_common, self.r
        return n < r or n == 0 or self.rms_coherence() * math.sqrt(r) >= 1


@st.composite
def commons(draw: Any) -> Common:
    """Any dictionary; all features equally common, or some of them rare."""
    dictionary = draw(tms.dictionaries())
    n = dictionary.n_features
    n_common = draw(st.just(n) | st.integers(1, n))
    rare = draw(st.sampled_from([0.01, 0.0, 1e-4]))
    energy = st.just(1.0) | st.floats(1, 4)
    common = draw(st.lists(energy, min_size=n_common, max_size=n_common))
    energies = (*common, *[rare] * (n - n_common))
    r = draw(st.integers(1, max(1, min(n_common, dictionary.d_in))))
    return Common(dictionary, energies, 1.0, r)


def compare(instance: Common) -> Comparisons:
    if instance.void():
        return VOID
    n, r, tail = float(instance.n_common), instance.r, instance.tail()
    mu = instance.rms_coherence()
    # B1's bound for the common features alone, before it is solved for their number.
    inside = r + mu * math.sqrt(r * (n - r) * (n - 1))
    bound = common_features_bound(r, tail, instance.threshold, mu)
    results = [
        at_most("common features", n, bound, scale=n),
        at_most("common features, before solving for n", n, inside + tail / instance.threshold,
                scale=n),
        at_most("rank, against the bound", float(r), bound, scale=n),
    ]  # fmt: skip
    if mu < 1e-12 and set(instance.energies) == {instance.threshold}:
        results.append(equal("orthonormal features of equal energy", n, bound, scale=n))
    return tuple(results)


def no_coherence_factor(instance: Common) -> Comparisons:
    if instance.void():
        return VOID
    bound = instance.r + instance.tail() / instance.threshold
    return (at_most("common features", float(instance.n_common), bound),)


def no_tail(instance: Common) -> Comparisons:
    if instance.void():
        return VOID
    room = 1 - instance.rms_coherence() * math.sqrt(instance.r)
    return (at_most("common features", float(instance.n_common), instance.r / room),)


def all_features(instance: Common) -> Comparisons:
    if instance.void():
        return VOID
    mu = instance.dictionary.rms_coherence()
    n = float(len(instance.energies))
    bound = common_features_bound(instance.r, instance.tail(), instance.threshold, mu)
    return (at_most("all features", n, bound),)


CLAIM = Claim(
    key="G3",
    statement="A small weight basis allows few common features\n"
    "Let r directions leave the energy epsilon of Sigma = D^T diag(e) D, and let K be the features "
    "with e_i >= tau, |K| >= r, of rms coherence mu among themselves. If mu sqrt(r) < 1, then "
    "|K| <= (r + epsilon / tau) / (1 - mu sqrt(r)). So many more incoherent features than weight "
    "directions are possible only if nearly all of them are rare.",
    source="new",
    proof="tau sum_K |d_i outside|^2 <= epsilon, and by B1 sum_K |d_i inside|^2 <= r + "
    "mu sqrt(r (|K| - r)(|K| - 1)) <= r + mu sqrt(r) |K|",
    status="proved",
    kind="exact",
    paper_label="eq:common-features",
    strategy=commons,
    compare=compare,
    mutants=(
        Mutant(
            "no-coherence-factor",
            "|K| <= r + epsilon / tau, whatever the coherence",
            no_coherence_factor,
        ),
        Mutant("no-tail", "|K| <= r / (1 - mu sqrt(r)), whatever is left over", no_tail),
        Mutant("all-features", "The bound holds for all features, rare ones too", all_features),
    ),
)
