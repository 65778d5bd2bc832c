"""A3: what discarding features costs in superposition."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.atomicity import atomicity_floor
from theory.claims._claim import Claim, Comparisons, Mutant, at_most, equal
from theory.claims._codes import any_rows, magnitudes
from theory.sparse_coding import MAX_SUPPORTS, best_support
from toymodels import Dictionary


@dataclass(frozen=True)
class Discarded:
    """Features that are dropped and fire independently, and kept ones that fire with the first.

    order: of the features; the dropped ones come first, then the kept ones that fire.
    probs, sizes: firing probability and magnitude of each dropped feature.
    kept_sizes: magnitudes of the kept features that fire.   n_coded: K of the code of what is left.
    """

    dictionary: Dictionary
    order: tuple[int, ...]
    probs: tuple[float, ...]
    sizes: tuple[float, ...]
    kept_sizes: tuple[float, ...]
    n_coded: int

    def dropped(self) -> Float[Tensor, "n_dropped d_in"]:
        return self.dictionary.vectors[list(self.order[: len(self.sizes)])]

    def kept(self) -> Float[Tensor, "n_kept d_in"]:
        return self.dictionary.vectors[list(self.order[len(self.sizes) :])]

    def energy(self) -> float:
        """Returns E sum a_i^2 of the dropped features."""
        return math.fsum(p * a * a for p, a in zip(self.probs, self.sizes, strict=True))


@st.composite
def discards(draw: Any) -> Discarded:
    """Up to 5 dropped features of any dictionary; codes of the rest that can be searched."""
    dictionary = draw(any_rows())
    n = dictionary.n_features
    n_dropped = draw(st.integers(1, min(5, n)))
    n_kept = n - n_dropped
    n_active = draw(st.integers(0, min(2, n_kept)))
    coded = [k for k in range(min(3, n_kept) + 1) if math.comb(n_kept, k) <= MAX_SUPPORTS // 10]
    prob = st.sampled_from([0.5, 0.1, 1.0]) | st.floats(0.001, 0.6)
    return Discarded(
        dictionary,
        tuple(draw(st.permutations(range(n)))),
        tuple(draw(st.lists(prob, min_size=n_dropped, max_size=n_dropped))),
        draw(magnitudes(n_dropped)),
        draw(magnitudes(n_active)),
        draw(st.sampled_from(coded)),
    )


def outcomes(instance: Discarded) -> tuple[Float[Tensor, "n n_dropped"], Float[Tensor, " n"]]:
    """Returns the codes of every set of dropped features that can fire, and its probability."""
    fires = torch.tensor(list(itertools.product((0.0, 1.0), repeat=len(instance.sizes))))
    p = torch.tensor(instance.probs, dtype=torch.float64)
    chances = torch.where(fires > 0, p, 1 - p).prod(1)
    return fires.double() * torch.tensor(instance.sizes, dtype=torch.float64), chances


def refit_error(instance: Discarded) -> float:
    """Returns the error of the best n_coded-sparse code over kept features, one dropped firing."""
    rows, kept = instance.dropped(), instance.kept()
    sizes = torch.tensor(instance.kept_sizes, dtype=torch.float64)
    x = instance.sizes[0] * rows[:1] + sizes @ kept[: len(sizes)]
    energy = float(x.square().sum())
    if instance.n_coded == 0 or energy == 0:
        return energy
    return energy * (1 - float(best_support(x, kept, instance.n_coded).r_squared))


def compare(instance: Discarded) -> Comparisons:
    mu, rows = instance.dictionary.coherence(), instance.dropped()
    codes, chances = outcomes(instance)
    errors, sizes = (codes @ rows).square().sum(1), codes.square().sum(1)
    reach = mu * ((codes > 0).double().sum(1) - 1).clamp(min=0)
    worst = float(sizes.max())
    p = torch.tensor(instance.probs, dtype=torch.float64)
    mean = p * torch.tensor(instance.sizes, dtype=torch.float64)
    interference = float(mean @ (rows @ rows.T).fill_diagonal_(0.0) @ mean)
    expected, energy = float(chances @ errors), instance.energy()
    largest = mu * (float(mean.sum()) ** 2)
    floor = instance.sizes[0] ** 2 * atomicity_floor(
        mu, len(instance.kept_sizes) + instance.n_coded
    )
    scale = energy + largest
    return (
        at_most("(1 - mu (s-1)) |a|^2, against the error of a sample",
                float(((1 - reach) * sizes - errors).max()), 0.0, scale=worst),
        at_most("error of a sample, against (1 + mu (s-1)) |a|^2",
                float((errors - (1 + reach) * sizes).max()), 0.0, scale=worst),
        equal("expected error, against energies and interference", expected,
              energy + interference, scale=scale),
        at_most("expected error, against second order in rarity", abs(expected - energy), largest,
                scale=scale),
        at_most("floor, against the error of a refit without the dropped feature", floor,
                refit_error(instance), scale=sum(a * a for a in instance.sizes)
                + sum(instance.kept_sizes) ** 2),
    )  # fmt: skip


def no_interference(instance: Discarded) -> Comparisons:
    codes, chances = outcomes(instance)
    expected = float(chances @ (codes @ instance.dropped()).square().sum(1))
    return (equal("expected error, against energies", expected, instance.energy()),)


def pairs_only(instance: Discarded) -> Comparisons:
    codes, _ = outcomes(instance)
    sizes, errors = codes.square().sum(1), (codes @ instance.dropped()).square().sum(1)
    gap = float(((1 - instance.dictionary.coherence()) * sizes - errors).max())
    return (at_most("(1 - mu) |a|^2, against the error", gap, 0.0, scale=float(sizes.max())),)


def no_denominator(instance: Discarded) -> Comparisons:
    q = len(instance.kept_sizes) + instance.n_coded
    floor = instance.sizes[0] ** 2 * (1 - q * instance.dictionary.coherence() ** 2)
    return (at_most("1 - q mu^2, against the error of a refit", floor, refit_error(instance)),)


CLAIM = Claim(
    key="A3",
    statement="Discarding in superposition\n"
    "Features T are dropped, all other coefficients exact. With s of them active the error lies "
    "within (1 -+ mu (s-1)) sum a_i^2. If they fire independently its mean is sum e_i + "
    "sum_{i != j} G_ij m_i m_j, so the interference is at most mu (sum m_i)^2: second order in "
    "rarity. If one dropped feature fires with k-1 kept ones, every K-sparse code over kept rows "
    "errs by at least a_i^2 (1 - q mu^2 / (1 - (q-1) mu)), q = k-1+K, where (q-1) mu < 1.",
    source="folklore; Gershgorin (textbook)",
    proof="Gershgorin on G_TT; expand; the refit's error is at least a_i^2 times the squared "
    "distance of d_i from the span of q other rows, whose Gram matrix is at least 1 - (q-1) mu",
    status="proved",
    kind="exact",
    paper_label="eq:superposition",
    strategy=discards,
    compare=compare,
    mutants=(
        Mutant(
            "no-interference",
            "The mean error is the sum of the dropped energies for every dictionary",
            no_interference,
        ),
        Mutant(
            "pairs-only",
            "The error is at least (1 - mu) sum a_i^2 however many dropped features fire",
            pairs_only,
        ),
        Mutant(
            "no-denominator",
            "A refit over kept rows leaves at least a_i^2 (1 - q mu^2)",
            no_denominator,
        ),
    ),
)
