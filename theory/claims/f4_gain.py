"""F4-gain: training at two prefixes picks the gain, and no signed code without bias escapes it."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from theory.claims.f4 import Framed, framed, relative_error
from theory.progressive import prefix_errors
from toymodels import polygon

Matrix = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Halved:
    """A frame, a code of 2m latents of small integers, and the weight of reading all of a code.

    encoder, decoder: 2m rows of length d_in.   biases: 2m, of the encoder; only a mutant uses them.
    samples: of length d_in, not all of them 0.
    """

    frame: Framed
    encoder: Matrix
    decoder: Matrix
    biases: tuple[int, ...]
    samples: Matrix
    weight: float

    def x(self, *, symmetric: bool = True) -> Float[Tensor, "batch d_in"]:
        x = torch.tensor(self.samples, dtype=torch.float64)
        return torch.cat([x, -x]) if symmetric else x

    def pre_acts(
        self, x: Float[Tensor, "batch d_in"], *, bias: bool = False
    ) -> Float[Tensor, "batch n_latents"]:
        h = x @ torch.tensor(self.encoder, dtype=torch.float64).T
        return h + torch.tensor(self.biases, dtype=torch.float64) if bias else h

    def ties(self, x: Float[Tensor, "batch d_in"], *, bias: bool = False) -> bool:
        """Returns whether on some sample the larger half is not well defined."""
        h = self.pre_acts(x, bias=bias).sort(dim=1).values
        m = h.shape[1] // 2
        return bool(((h[:, m] == h[:, m - 1]) & (h != 0).any(1)).any())

    def errors(
        self, x: Float[Tensor, "batch d_in"], *, gain: float = 1.0, bias: bool = False
    ) -> tuple[float, float]:
        """Returns the squared errors of the larger half of each code and of all of it, by the
        criterion, relative to that of an empty code."""
        h = self.pre_acts(x, bias=bias)
        rows, n = gain * torch.tensor(self.decoder, dtype=torch.float64), len(self.decoder)
        left = prefix_errors(x, h, rows, torch.zeros_like(rows[0]), [n // 2, n]).sum(0)
        half, whole = (left / x.square().sum()).tolist()
        return half, whole


@st.composite
def halved(
    draw: Any,
    largest: int = 3,
    most: int = 3,
    frames: st.SearchStrategy[Framed] | None = None,
) -> Halved:
    d_in, m = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    entry = st.integers(-most, most)

    def matrix(n_rows: int) -> Matrix:
        row = st.lists(entry, min_size=d_in, max_size=d_in).map(tuple)
        return tuple(draw(st.lists(row, min_size=n_rows, max_size=n_rows)))

    encoder, decoder = matrix(2 * m), matrix(2 * m)
    if draw(st.booleans()):  # latents in opposite pairs, which come closest to the bound
        encoder = encoder[:m] + tuple(tuple(-v for v in row) for row in encoder[:m])
        decoder = decoder[:m] + tuple(tuple(-v for v in row) for row in decoder[:m])
    biases = tuple(draw(st.lists(entry, min_size=2 * m, max_size=2 * m)))
    samples = ((1,) * d_in, *matrix(draw(st.integers(0, 2))))
    weight = draw(st.sampled_from([1 / 64, 1 / 8, 1 / 2, 1.0, 8.0]) | st.floats(0.01, 10))
    frame = draw(framed() if frames is None else frames)
    return Halved(frame, encoder, decoder, biases, samples, weight)


def on_a_line() -> st.SearchStrategy[Halved]:
    """Small codes, whose frame plays no part."""
    square = Framed(polygon(4, dtype=torch.float64), (1, 0))
    return halved(1, 1, st.just(square))


def own_gains(instance: Halved) -> tuple[list[float], list[float]]:
    """Returns the gain of least error of each prefix on its own, and the energies, both at
    gain 1: |x - g x_hat|^2 = |x|^2 - 2 g S + g^2 Q is known from its values at 1 and -1."""
    x = instance.x()
    pairs = zip(instance.errors(x), instance.errors(x, gain=-1.0), strict=True)
    sums = [((minus - plus) / 4, (minus + plus) / 2 - 1) for plus, minus in pairs]
    return [s / q if q > 1e-9 else 0.0 for s, q in sums], [q for _, q in sums]


def sum_of_errors(
    instance: Halved, *, gain: float = 1.0, symmetric: bool = True, bias: bool = False
) -> float:
    """Returns 2 |error of the larger half| + |error of all|, root mean squares in units of |x|."""
    half, whole = instance.errors(instance.x(symmetric=symmetric), gain=gain, bias=bias)
    return 2 * half**0.5 + whole**0.5


def loss(instance: Halved, gain: float) -> float:
    half, whole = instance.errors(instance.x(), gain=gain)
    return half + instance.weight * whole


def on_the_frame(instance: Halved) -> tuple[float, float]:
    """Returns the errors of the positive part and of all latents of the frame at the best gain."""
    unit = instance.frame.rows.d_in / instance.frame.rows.n_features
    gain = (1 / 2 + instance.weight) / (1 / 4 + instance.weight) * unit
    positive, every = (relative_error(instance.frame, gain, positive=p) for p in (True, False))
    return positive, every


def compare(instance: Halved) -> Comparisons:
    beta = instance.weight
    positive, every = on_the_frame(instance)
    results = [
        equal("frame: error of the positive part", positive, (2 * beta / (1 + 4 * beta)) ** 2),
        equal("frame: error of all latents", every, 1 / (1 + 4 * beta) ** 2),
        equal("frame: loss, against the least", positive + beta * every, beta / (1 + 4 * beta)),
        at_most(
            "frame: (1/2 - beta) of the negatives' gain", (0.5 - beta) * (positive - every), 0.0
        ),
    ]
    if not instance.ties(instance.x()):
        half, whole = instance.errors(instance.x())
        results += [
            at_most("1, against 2 |error of half| + |error of all|", 1.0, sum_of_errors(instance)),
            at_most("least loss, against the loss", beta / (1 + 4 * beta), half + beta * whole),
        ]
    (first, second), (q_first, q_second) = own_gains(instance)
    if min(q_first, q_second) > 1e-9:
        weights = (q_first, beta * q_second)
        best = (weights[0] * first + weights[1] * second) / sum(weights)
        rivals = min(loss(instance, best + step) for step in (-1, -0.01, 0.01, 1))
        results += [
            at_most("loss at the mean gain, against other gains", loss(instance, best), rivals),
            at_most("least own gain, against the mean", min(first, second), best),
            at_most("the mean, against the largest own gain", best, max(first, second)),
        ]
    return tuple(results)


def negatives_help(instance: Halved) -> Comparisons:
    positive, every = on_the_frame(instance)
    return (at_most("error of all latents, against the positive part", every, positive),)


def with_biases(instance: Halved) -> Comparisons:
    """At gain 1/2, where an opposite pair with biases as large as its x is exact in both."""
    if instance.ties(instance.x(), bias=True):
        return VOID
    return (
        at_most("1, against the two errors", 1.0, sum_of_errors(instance, gain=0.5, bias=True)),
    )


def one_sided(instance: Halved) -> Comparisons:
    """The samples without their opposites."""
    if instance.ties(instance.x()):
        return VOID
    return (at_most("1, against the two errors", 1.0, sum_of_errors(instance, symmetric=False)),)


def whatever_ties(instance: Halved) -> Comparisons:
    """Among equal pre-activations the first are taken, at x as at -x."""
    return (at_most("1, against the two errors", 1.0, sum_of_errors(instance)),)


def weights_alone(instance: Halved) -> Comparisons:
    """The mean of the prefixes' own gains, weighted by beta without their energies."""
    (first, second), (q_first, q_second) = own_gains(instance)
    if min(q_first, q_second) <= 1e-9:
        return VOID
    best = (first + instance.weight * second) / (1 + instance.weight)
    rivals = min(loss(instance, best + step) for step in (-0.01, 0.01))
    return (at_most("loss, against other gains", loss(instance, best), rivals),)


CLAIM = Claim(
    key="F4-gain",
    statement="Two prefixes pick the gain\n"
    "Prefixes x_s of a code count with weights beta_s. The best common gain, sum beta_s <x, x_s> / "
    "sum beta_s |x_s|^2, is a mean of the prefixes' own best gains, so between them. On an "
    "antipodal tight frame, positive part and all latents, the latter with weight beta: errors "
    "(2 beta / (1 + 4 beta))^2 and 1 / (1 + 4 beta)^2, so the negatives help at that gain if and "
    "only if beta > 1/2. No linear code of an even number of latents without biases does better "
    "on samples closed under x -> -x: 2 |error of the larger half| + |error of all| >= |x|, root "
    "mean squares, so its loss is at least beta / (1 + 4 beta), where no pre-activations tie at "
    "the half.",
    source="new",
    proof="A quadratic in the gain. The larger half of -h is the smaller half of h, negated, so "
    "f(x) - f(-x) is the whole code's reconstruction M x; 2x - M x is the difference of the "
    "errors at x and -x, and Minkowski's inequality",
    status="proved",
    kind="exact",
    paper_label="eq:half-and-whole",
    strategy=halved,
    compare=compare,
    mutants=(
        Mutant(
            "negatives-help",
            "Training at both prefixes makes the negatives useful at any weight",
            negatives_help,
        ),
        Mutant("with-biases", "Nor does a code with encoder biases", with_biases, on_a_line),
        Mutant(
            "one-sided", "It holds for samples without their opposites too", one_sided, on_a_line
        ),
        Mutant("whatever-ties", "Nor where pre-activations tie", whatever_ties, on_a_line),
        Mutant("weights-alone", "The mean of the own gains has the weights beta_s", weights_alone),
    ),
)
