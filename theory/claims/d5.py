"""D5: when a dictionary in two levels is the shorter description, and what none can undercut."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import ALPHA, TOLERANCE, Claim, Comparisons, Mutant, Noise, at_most, equal
from theory.description_length import DescriptionLength, description_length, source_entropy
from theory.isotropic import isotropic_rows
from theory.statistics import hoeffding_radius
from toymodels import Constant, Dictionary, Exclusive, Independent, ToyModel, orthonormal, stream
from toymodels import strategies as tms

N_SAMPLES = 200
LUCK = math.log2(1 / ALPHA)  # bits by which a message is too short with probability ALPHA at most


@dataclass(frozen=True)
class Message:
    """Sizes of a dictionary in two levels, and a source of on-off features to describe."""

    n_latents: int
    n_atoms: int
    per_latent: int
    d_in: int
    weight_bits: int
    firing_probs: tuple[float, ...]
    exclusive: bool
    seed: int

    def mixing(self) -> Float[Tensor, "n m"]:
        """Returns weights in [.5, 1], exactly per_latent of them in each row."""
        generator = stream(self.seed, "mixing")
        keys = torch.rand(self.n_latents, self.n_atoms, generator=generator, dtype=torch.float64)
        kept = keys.topk(self.per_latent, dim=1).indices
        return torch.zeros_like(keys).scatter(1, kept, 0.5 + keys.gather(1, kept) / 2)

    def atoms(self) -> Float[Tensor, "m d_in"]:
        generator = stream(self.seed, "atoms")
        return isotropic_rows(self.n_atoms, self.d_in, generator=generator, dtype=torch.float64)

    def gain(self) -> float:
        """Returns d b - k' b - log2 C(m, k'): bits that a mixture saves over a row."""
        count = math.comb(self.n_atoms, self.per_latent)
        return (self.d_in - self.per_latent) * self.weight_bits - math.log2(count)

    def atom_bits(self) -> int:
        return self.n_atoms * self.d_in * self.weight_bits

    def probs(self) -> Float[Tensor, " n_features"]:
        p = torch.tensor(self.firing_probs, dtype=torch.float64)
        return p / (1 + p.sum()) if self.exclusive else p

    def world(self) -> ToyModel:
        """Returns orthonormal features of strength 1, without noise: supports can be read off x."""
        law = Exclusive if self.exclusive else Independent
        n, generator = len(self.firing_probs), stream(self.seed, "features")
        features = orthonormal(n, n, generator=generator, dtype=torch.float64)
        return ToyModel(law(n, self.probs(), Constant(1.0)), features)

    def information(self, fires: Float[Tensor, "n n_features"]) -> Float[Tensor, " n"]:
        """Returns -log2 of the probability of each support."""
        p = self.probs()
        if not self.exclusive:
            return -(fires * p.log2() + (1 - fires) * (1 - p).log2()).sum(1)
        silent = 1 - fires.sum(1)
        return -(fires @ p.log2() + silent * (1 - p.sum()).log2())

    def range(self) -> float:
        """Returns the difference between the largest and the smallest information."""
        p = self.probs()
        if not self.exclusive:
            return float((p.log2() - (1 - p).log2()).abs().sum())
        logs = torch.cat([p.log2(), (1 - p.sum()).log2()[None]])
        return float(logs.max() - logs.min())


@st.composite
def messages(draw: Any) -> Message:
    """Dictionaries with up to 40 latents; sources of up to five features, rare and common."""
    d_in = draw(st.integers(1, 6))
    n_atoms = draw(st.integers(1, 6))
    return Message(
        n_latents=draw(st.integers(1, 40)),
        n_atoms=n_atoms,
        per_latent=draw(st.integers(1, min(3, n_atoms))),
        d_in=d_in,
        weight_bits=draw(st.sampled_from([2, 8, 16])),
        firing_probs=tuple(draw(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=5))),
        exclusive=draw(st.booleans()),
        seed=draw(tms.seeds()),
    )


def dictionary_bits(instance: Message, *, two_level: bool) -> float:
    """Returns the dictionary part of `description_length`, whose other parts do not matter."""
    mixing, atoms = instance.mixing(), instance.atoms()
    x = torch.ones(1, instance.d_in, dtype=torch.float64)
    silent = torch.zeros(1, instance.n_latents, dtype=torch.float64)
    b = instance.weight_bits
    if two_level:
        found = description_length(
            x, silent, atoms, mixing=mixing, weight_bits=b, value_bits=0, bin_width=1.0
        )
    else:
        found = description_length(
            x, silent, mixing @ atoms, weight_bits=b, value_bits=0, bin_width=1.0
        )
    return found.dictionary


def compare(instance: Message, noise: Noise) -> Comparisons:
    flat = dictionary_bits(instance, two_level=False)
    two_level = dictionary_bits(instance, two_level=True)
    n, gain, atoms = instance.n_latents, instance.gain(), instance.atom_bits()
    results = [equal("flat - two levels", flat - two_level, n * gain - atoms, scale=flat + atoms)]
    longer, shorter = (flat, two_level) if gain > 0 and n > atoms / gain else (two_level, flat)
    label = "the level that the threshold calls shorter"
    results.append(at_most(label, shorter, longer, scale=flat + atoms))
    world = instance.world()
    batch = world.sample(noise.n_samples, generator=noise.generator(instance.seed))
    fires = batch.codes.support().double()
    information = instance.information(fires)
    entropy = source_entropy(instance.probs(), exclusive=instance.exclusive)
    spread = hoeffding_radius(len(fires), instance.range(), ALPHA) + TOLERANCE
    mean, scale = float(information.mean()), 1 + instance.range()
    results.append(at_most("mean information", mean, entropy, scale=scale, radius=spread))
    results.append(at_most("source entropy", entropy, mean, scale=scale, radius=spread))
    for name, message in _messages(batch.x, fires, world.dictionary).items():
        total, least = message.total, float(information.sum())
        label = f"information, against the message of {name}"
        results.append(at_most(label, least, total, scale=len(fires), radius=LUCK))
    return tuple(results)


def _messages(
    x: Float[Tensor, "n d_in"], fires: Float[Tensor, "n n_features"], features: Dictionary
) -> dict[str, DescriptionLength]:
    """Returns messages about the same data; bins too narrow to confuse two supports."""
    rows, width = features.vectors, 0.5 / math.sqrt(features.d_in)
    fine = {"weight_bits": 16, "value_bits": 0, "bin_width": width}
    coarse = {"weight_bits": 2, "value_bits": 2, "bin_width": width}
    eye = torch.eye(len(rows), dtype=rows.dtype)
    return {
        "the true dictionary": description_length(x, fires, rows, **fine),
        "the true dictionary, coarse": description_length(x, fires, rows, **coarse),
        "two levels": description_length(x, fires, rows, mixing=eye, **fine),
        "silence": description_length(x, 0 * fires, rows, **coarse),
        "one latent": description_length(x, fires[:, :1], rows[:1], **coarse),
    }


def fewer_atoms_are_enough(instance: Message, noise: Noise) -> Comparisons:
    if instance.n_atoms >= instance.n_latents:
        return ()
    flat = dictionary_bits(instance, two_level=False)
    two_level = dictionary_bits(instance, two_level=True)
    return (at_most("two levels, against flat, m < n", two_level, flat, scale=flat),)


def supports_are_free(instance: Message, noise: Noise) -> Comparisons:
    b, d, k = instance.weight_bits, instance.d_in, instance.per_latent
    if d <= k or instance.n_latents <= instance.atom_bits() / ((d - k) * b):
        return ()
    flat = dictionary_bits(instance, two_level=False)
    two_level = dictionary_bits(instance, two_level=True)
    label = "two levels, against flat, beyond m d b / (d b - k b)"
    return (at_most(label, two_level, flat, scale=flat),)


def residual_is_free(instance: Message, noise: Noise) -> Comparisons:
    world = instance.world()
    batch = world.sample(noise.n_samples, generator=noise.generator(instance.seed))
    fires = batch.codes.support().double()
    message = _messages(batch.x, fires, world.dictionary)["silence"]
    least = float(instance.information(fires).sum())
    rest = message.total - message.residual
    label = "information, against the message less its residual"
    return (at_most(label, least, rest, scale=len(fires), radius=LUCK),)


CLAIM = Claim(
    key="D5",
    statement="When two levels are the shorter description\n"
    "With b bits a number, n latents that mix k of m atoms in R^d take fewer bits than n rows if "
    "and only if n (d b - k b - log2 C(m, k)) > m d b. No message that can be decoded, from any "
    "dictionary, is shorter than the information in the data less s bits with probability "
    "above 2^-s; per sample the information is the source's entropy on average.",
    source="counting; MDL for SAEs: Ayonrinde et al. 2024, arXiv 2410.11179; Shannon 1948",
    proof="Count bits; Kraft's inequality and Markov's",
    status="proved",
    kind="sampled",
    paper_label="eq:two-level",
    strategy=messages,
    compare=compare,
    n_samples=N_SAMPLES,
    mutants=(
        Mutant(
            "fewer-atoms-are-enough",
            "Two levels are shorter whenever there are fewer atoms than latents",
            fewer_atoms_are_enough,
        ),
        Mutant(
            "supports-are-free",
            "Two levels are shorter beyond n = m d b / (d b - k b)",
            supports_are_free,
        ),
        Mutant(
            "residual-is-free",
            "A message needs no residual to be as long as the information",
            residual_is_free,
        ),
    ),
)
