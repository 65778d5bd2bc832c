"""A4: discarding is within 1 - mu of optimal for 1-sparse codes, whatever the width."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import Claim, Comparisons, Mutant, at_most, equal
from theory.claims._codes import any_rows
from theory.isotropic import isotropic_rows
from toymodels import Dictionary, stream
from toymodels import strategies as tms

MAX_FEATURES = 5  # 3^5 steps of the search over clusterings
N_COMPETITORS = 4


@dataclass(frozen=True)
class Exclusive:
    """At most one feature fires per sample; energies e_i = p_i E b_i^2, without noise."""

    dictionary: Dictionary
    energies: tuple[float, ...]
    n_latents: int
    seed: int

    def weights(self) -> Float[Tensor, " n_features"]:
        return torch.tensor(self.energies, dtype=torch.float64)

    def tail(self) -> float:
        """Returns the sum of all but the n_latents largest energies."""
        return math.fsum(sorted(self.energies, reverse=True)[self.n_latents :])


@st.composite
def exclusives(draw: Any, max_d_in: float | int = math.inf) -> Exclusive:
    """Up to 5 rows of any dictionary, energies over five orders of magnitude, any width."""
    rows = draw(any_rows().filter(lambda rows: rows.d_in <= max_d_in)).vectors[:MAX_FEATURES]
    n = len(rows)
    energy = st.sampled_from([1.0, 2.0, 3.0]) | st.floats(-4, 1).map(lambda t: 10.0**t)
    return Exclusive(
        Dictionary(rows),
        tuple(draw(st.lists(energy, min_size=n, max_size=n))),
        n_latents=draw(st.integers(1, n)),
        seed=draw(tms.seeds()),
    )


def least_loss(instance: Exclusive) -> float:
    """Returns the exact minimum over all latents and 1-sparse codes, by searching all clusterings.

    A cluster keeps the top eigenvalue of sqrt(e_i e_j) G_ij; the best split of the features into
    n_latents clusters is found over subsets, each cluster holding the first feature left.
    """
    roots = instance.weights().sqrt()
    gram = torch.outer(roots, roots) * instance.dictionary.gram()
    n = len(roots)
    subsets = [[i for i in range(n) if s >> i & 1] for s in range(1 << n)]
    kept = [0.0] + [float(torch.linalg.eigvalsh(gram[s][:, s])[-1]) for s in subsets[1:]]
    best = [0.0] + [-1.0] * ((1 << n) - 1)
    for _ in range(instance.n_latents):
        longer = best.copy()
        for s in range(1, 1 << n):
            first = s & -s
            rest = s ^ first
            part = rest
            while True:  # every cluster of `first` and a part of the rest
                cluster = part | first
                if best[s ^ cluster] >= 0:
                    longer[s] = max(longer[s], kept[cluster] + best[s ^ cluster])
                if part == 0:
                    break
                part = (part - 1) & rest
        best = longer
    return sum(instance.energies) - best[-1]


def loss(instance: Exclusive, latents: Float[Tensor, "m d_in"]) -> float:
    """Returns the loss of these unit latents under the best 1-sparse signed codes."""
    explained = (instance.dictionary.vectors @ latents.T).square().amax(1)
    return float(instance.weights() @ (1 - explained))


def compare(instance: Exclusive) -> Comparisons:
    mu, tail, total = instance.dictionary.coherence(), instance.tail(), sum(instance.energies)
    optimum, m = least_loss(instance), instance.n_latents
    rows = instance.dictionary.vectors
    largest = rows[instance.weights().argsort(descending=True)[:m]]
    generator = stream(instance.seed, "competitors")
    shape = (N_COMPETITORS, m, rows.shape[1])
    errors = isotropic_rows(*shape, generator=generator, dtype=torch.float64)
    spread = torch.tensor([0.1, 0.3, 1.0, 10.0], dtype=torch.float64)[:, None, None]
    others = torch.nn.functional.normalize(largest + spread * errors, dim=2)
    results = [
        at_most("(1 - mu) tail, against the least loss", (1 - mu) * tail, optimum, scale=total),
        at_most("least loss, against the tail", optimum, tail, scale=total),
        at_most("least loss, against other latents", optimum,
                min(loss(instance, latents) for latents in others), scale=total),
    ]  # fmt: skip
    if len(rows) == 2 and m == 1 and instance.energies[0] == instance.energies[1]:
        sharp = (1 - mu) * tail
        results.append(equal("two equal energies: (1 - mu) e", optimum, sharp, scale=total))
    return tuple(results)


def half_the_coherence(instance: Exclusive) -> Comparisons:
    bound = (1 - instance.dictionary.coherence() / 2) * instance.tail()
    label = "(1 - mu/2) tail, against the least loss"
    return (at_most(label, bound, least_loss(instance), scale=sum(instance.energies)),)


def discarding_is_optimal(instance: Exclusive) -> Comparisons:
    label, scale = "tail, against the least loss", sum(instance.energies)
    return (at_most(label, instance.tail(), least_loss(instance), scale=scale),)


def with_a_bias(instance: Exclusive) -> Comparisons:
    """Constant magnitudes 1; the bias is one feature, the latents lead from it to m others."""
    rows, e = instance.dictionary.vectors, instance.weights()
    order = e.argsort(descending=True)
    offset = rows[order[0]]
    latents = rows[order[1 : instance.n_latents + 1]] - offset
    norms = latents.norm(dim=1, keepdim=True).clamp(min=1e-12)
    left = rows - offset
    cosines = left @ (latents / norms).T
    explained = cosines.square().amax(1) if len(latents) else torch.zeros_like(e)
    reached = float(e @ (left.square().sum(1) - explained))
    bound = (1 - instance.dictionary.coherence()) * instance.tail()
    label = "(1 - mu) tail, against a loss with a bias"
    return (at_most(label, bound, reached, scale=sum(instance.energies)),)


CLAIM = Claim(
    key="A4",
    statement="Discarding is within 1 - mu of optimal for 1-sparse codes\n"
    "If at most one feature fires per sample, then for every dictionary and every width m, also "
    "m >= d, the least loss of bias-free latents with 1-sparse codes lies between (1 - mu) and 1 "
    "times the sum of all but the m largest energies. Two equal energies sharing one latent "
    "attain the left end. Equally for a meta-SAE with k = 1 and weights e.",
    source="new",
    proof="A cluster of features sharing a latent costs sum e - lambda_max(H), H_ij = "
    "sqrt(e_i e_j) G_ij, and |H| <= (1 - mu) diag(e) + mu sqrt(e) sqrt(e)^T entrywise (Perron); "
    "the m cluster maxima are at most the m largest energies",
    status="proved",
    kind="exact",
    paper_label="eq:one-sparse",
    strategy=exclusives,
    compare=compare,
    mutants=(
        Mutant(
            "half-the-coherence",
            "The least loss is at least (1 - mu/2) times the smallest energies",
            half_the_coherence,
        ),
        Mutant(
            "discarding-is-optimal",
            "Discarding the smallest energies is optimal in superposition too",
            discarding_is_optimal,
            lambda: exclusives(max_d_in=2),
        ),
        Mutant(
            "with-a-bias",
            "The lower end holds with a decoder bias",
            with_a_bias,
        ),
    ),
)
