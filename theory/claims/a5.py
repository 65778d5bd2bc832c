"""A5: a smaller SAE on 1-sparse data is an energy-weighted meta-SAE."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import Claim, Comparisons, Mutant, equal
from theory.compressibility import fve
from theory.isotropic import isotropic_rows
from theory.sparse_coding import best_support, omp
from toymodels import Dictionary, stream
from toymodels import strategies as tms

MAX_FEATURES = 6
MAX_SUPPORTS = 200


@dataclass(frozen=True)
class SmallerSAE:
    """1-sparse data and some latents: feature i fires with probs[i], as large as two sizes alike.

    probs: they add up to at most 1.   sizes: the two magnitudes of each feature, equally likely.
    """

    dictionary: Dictionary
    probs: tuple[float, ...]
    sizes: tuple[tuple[float, float], ...]
    n_latents: int
    k: int
    seed: int

    def latents(self) -> Float[Tensor, "n_latents d_in"]:
        d_in, generator = self.dictionary.d_in, stream(self.seed, "latents")
        return isotropic_rows(self.n_latents, d_in, generator=generator, dtype=torch.float64)

    def energies(self) -> Float[Tensor, " n_features"]:
        sizes = torch.tensor(self.sizes, dtype=torch.float64)
        return torch.tensor(self.probs, dtype=torch.float64) * sizes.square().mean(1)


@st.composite
def smaller_saes(draw: Any) -> SmallerSAE:
    rows = draw(tms.dictionaries()).vectors[:MAX_FEATURES]
    n = len(rows)
    shares = draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))
    total = sum(shares) + draw(st.integers(0, 9))  # the rest of the time nothing fires
    size = st.sampled_from([1.0, 2.0]) | st.floats(0.01, 10)
    m = draw(st.integers(1, 6))
    return SmallerSAE(
        Dictionary(rows),
        tuple(share / total for share in shares),
        tuple(draw(st.lists(st.tuples(size, size), min_size=n, max_size=n))),
        m,
        draw(st.sampled_from([k for k in range(1, m + 1) if math.comb(m, k) <= MAX_SUPPORTS])),
        draw(tms.seeds()),
    )


def errors(
    x: Float[Tensor, "n d_in"], latents: Float[Tensor, "m d_in"], k: int, code: str
) -> Float[Tensor, " n"]:
    """Returns |x - x_hat|^2 of the best signed code, or of a non-negative code found greedily."""
    if code == "signed":
        energy = x.square().sum(1)
        alive = energy > 0  # a zero activation is coded exactly, and has no R^2
        unexplained = torch.zeros_like(energy)
        unexplained[alive] = 1 - best_support(x[alive], latents, k).r_squared
        return energy * unexplained
    return (x - omp(x, latents, k, nonnegative=True) @ latents).square().sum(1)


def loss_on_data(
    instance: SmallerSAE, code: str, offset: Float[Tensor, " d_in"] | None = None
) -> float:
    """Returns E min |x - offset - c W|^2 over every feature and each of its two sizes."""
    rows, loss = instance.dictionary.vectors, 0.0
    probs = torch.tensor(instance.probs, dtype=torch.float64)
    for which in range(2):
        sizes = torch.tensor([pair[which] for pair in instance.sizes], dtype=torch.float64)
        x = sizes[:, None] * rows - (0.0 if offset is None else offset)
        loss += 0.5 * float(probs @ errors(x, instance.latents(), instance.k, code))
    return loss


def loss_on_rows(instance: SmallerSAE, code: str, weights: Float[Tensor, " n_features"]) -> float:
    """Returns sum_i w_i min |d_i - c W|^2, by the criterion's weighted FVE."""
    rows = instance.dictionary.vectors
    if code == "signed":
        return float(weights @ errors(rows, instance.latents(), instance.k, code))
    codes = omp(rows, instance.latents(), instance.k, nonnegative=True)
    explained = fve(rows, codes @ instance.latents(), weights=weights)
    return float(weights.sum()) * (1 - explained)


def compare(instance: SmallerSAE) -> Comparisons:
    energies = instance.energies()
    scale = float(energies.sum())
    return tuple(
        equal(
            f"loss on the data, against energy-weighted rows, {code} codes",
            loss_on_data(instance, code),
            loss_on_rows(instance, code, energies),
            scale=scale,
        )
        for code in ("signed", "non-negative")
    )


def frequency_weights(instance: SmallerSAE) -> Comparisons:
    probs = torch.tensor(instance.probs, dtype=torch.float64)
    on_rows = loss_on_rows(instance, "signed", probs)
    return (equal("loss, against frequency weights", loss_on_data(instance, "signed"), on_rows),)


def with_a_bias(instance: SmallerSAE) -> Comparisons:
    offset = instance.dictionary.vectors[0]
    on_data = loss_on_data(instance, "signed", offset)
    shifted = instance.dictionary.vectors - offset
    losses = errors(shifted, instance.latents(), instance.k, "signed")
    return (
        equal("loss, against the rows, same bias", on_data, float(instance.energies() @ losses)),
    )


def together(instance: SmallerSAE) -> Comparisons:
    """Every feature fires with its probability, all features at once."""
    sizes = torch.tensor([pair[0] for pair in instance.sizes], dtype=torch.float64)
    x = sizes[None] @ instance.dictionary.vectors
    loss = float(errors(x, instance.latents(), instance.k, "signed"))
    on_rows = loss_on_rows(instance, "signed", sizes.square())
    return (equal("loss of co-firing features, against their rows", loss, on_rows),)


CLAIM = Claim(
    key="A5",
    statement="A smaller SAE is an energy-weighted meta-SAE\n"
    "If at most one feature fires per sample, without noise, then for latents whose codes are "
    "closed under positive scaling, E min_c |x - c W|^2 = sum_i e_i min_c |d_i - c W|^2 over "
    "k-sparse codes, signed or non-negative.",
    source="new",
    proof="x = a_i d_i; a_i > 0 moves into the code",
    status="proved",
    kind="exact",
    paper_label="eq:same-object",
    strategy=smaller_saes,
    compare=compare,
    mutants=(
        Mutant(
            "frequency-weights",
            "The meta-SAE weights each feature by how often it fires, however large it is",
            frequency_weights,
        ),
        Mutant("with-a-bias", "It holds with a decoder bias, shared by data and rows", with_a_bias),
        Mutant("together", "It holds if features fire together", together),
    ),
)
