"""F4: whether negative activations help or hurt is decided by the decoder's gain."""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from theory.progressive import prefix_errors
from toymodels import Dictionary, antipodal, hadamard_union, orthonormal, polygon, simplex, stream
from toymodels import strategies as tms


@dataclass(frozen=True)
class Framed:
    """A frame, and an activation with small integer entries, not all of them 0."""

    rows: Dictionary
    entries: tuple[int, ...]

    def x(self) -> Float[Tensor, "1 d_in"]:
        return torch.tensor(self.entries, dtype=torch.float64)[None]

    def pre_acts(self) -> Float[Tensor, "1 n"]:
        return self.x() @ self.rows.vectors.T


def antipodal_frames() -> st.SearchStrategy[Dictionary]:
    """Polygons with an even number of corners, and tight frames with their opposites."""
    even = st.integers(1, 12).map(lambda half: polygon(2 * half, dtype=torch.float64))
    cross = st.builds(
        lambda d, seed: orthonormal(d, d, generator=stream(seed, "frame"), dtype=torch.float64),
        st.integers(1, 6),
        tms.seeds(),
    )
    unions = st.sampled_from([2, 4]).map(lambda d: hadamard_union(d, dtype=torch.float64))
    tight = st.one_of(cross, unions, st.integers(3, 6).map(_simplex))
    return st.one_of(even.filter(lambda rows: rows.n_features > 2), tight.map(antipodal))


def _simplex(n: int) -> Dictionary:
    return simplex(n, dtype=torch.float64)


@st.composite
def framed(draw: Any, frames: st.SearchStrategy[Dictionary] | None = None) -> Framed:
    rows = draw(antipodal_frames() if frames is None else frames)
    entries = draw(st.lists(st.integers(-3, 3), min_size=rows.d_in, max_size=rows.d_in))
    return Framed(rows, tuple(entries) if any(entries) else (1, *entries[1:]))


def relative_error(instance: Framed, gain: float, *, positive: bool) -> float:
    """Returns |x - x_hat|^2 / |x|^2 of all latents, or of the positive ones, by the criterion."""
    rows, x = instance.rows.vectors, instance.x()
    zero, n = torch.zeros_like(rows[0]), len(rows)
    errors = prefix_errors(x, instance.pre_acts(), gain * rows, zero, [n], positive=positive)
    return float(errors) / float(x.square().sum())


def descending(instance: Framed, gain: float) -> list[float]:
    """Returns the errors along the descending order, equal pre-activations taken together."""
    h = instance.pre_acts()
    values = h[0].sort(descending=True).values.tolist()
    ends = [t for t in range(1, len(values)) if values[t - 1] - values[t] > 1e-9]
    rows, x = instance.rows.vectors, instance.x()
    ks = [0, *ends, len(values)]
    # Ties are cut as one, so any order within them will do.
    errors = prefix_errors(x, h, gain * rows, torch.zeros_like(rows[0]), ks)
    return (errors[0] / x.square().sum()).tolist()


def compare(instance: Framed) -> Comparisons:
    d_in, n = instance.rows.d_in, instance.rows.n_features
    low, high = d_in / n, 2 * d_in / n
    results = [
        equal(
            "gain d/n, positive latents: 1/4", relative_error(instance, low, positive=True), 0.25
        ),
        equal("gain d/n, all latents: 0", relative_error(instance, low, positive=False), 0.0),
        equal("gain 2d/n, positive latents: 0", relative_error(instance, high, positive=True), 0.0),
        equal("gain 2d/n, all latents: 1", relative_error(instance, high, positive=False), 1.0),
    ]
    if d_in == 2 and float(instance.pre_acts().max()) > float(instance.x().norm()) - 1e-12:
        # In the plane, along one of the rays: the error never rises.
        rise = max(b - a for a, b in itertools.pairwise(descending(instance, low)))
        results.append(at_most("largest rise along the descending order", rise, 0.0))
    return (*results, *two_prefixes(instance))


def two_prefixes(instance: Framed) -> Comparisons:
    """The gain of least error at both prefixes at once, that of all latents weighted by 1/8."""

    def loss(gain: float) -> float:
        every = relative_error(instance, gain, positive=False)
        return relative_error(instance, gain, positive=True) + every / 8

    unit = instance.rows.d_in / instance.rows.n_features
    best = 5 / 3 * unit
    rivals = min(loss(gain * unit) for gain in (1.0, 1.5, 1.66, 1.68, 2.0))
    return (
        at_most("loss at gain 5/3 d/n, against other gains", loss(best), rivals),
        equal("its error at the positive part: 1/36",
              relative_error(instance, best, positive=True), 1 / 36),
    )  # fmt: skip


def without_opposites(instance: Framed) -> Comparisons:
    """Tight frames of any kind."""
    gain = instance.rows.d_in / instance.rows.n_features
    left = relative_error(instance, gain, positive=True)
    return (equal("gain d/n, positive latents: 1/4", left, 0.25),)


def descending_everywhere(instance: Framed) -> Comparisons:
    """At gain 2d/n."""
    if instance.rows.d_in != 2:
        return VOID
    errors = descending(instance, 2 * 2 / instance.rows.n_features)
    rise = max(b - a for a, b in itertools.pairwise(errors))
    return (at_most("largest rise along the descending order", rise, 0.0),)


def tight_frames() -> st.SearchStrategy[Dictionary]:
    return st.integers(3, 8).map(lambda n: polygon(n, dtype=torch.float64))


CLAIM = Claim(
    key="F4",
    statement="The quarter law of antipodal frames\n"
    "D is a tight frame of n rays in R^d, in pairs of opposites. For every x, with "
    "h = D x and decoder gain d/n, the positive part alone has relative squared error 1/4 and all "
    "of h error 0; at gain 2d/n the positive part has error 0 and all of h error 1. Polygons, x "
    "along a corner, gain d/n: the error never rises along the descending order, ties taken "
    "together. Where both prefixes are trained, all of h with weight 1/8, the best gain is "
    "5/3 d/n and the positive part keeps an error of 1/36.",
    source="new",
    proof="Pair each ray with its opposite: relu(h_j) d_j + relu(-h_j) (-d_j) = h_j d_j, so "
    "relu(h) D = n/(2d) x and h D = n/d x; the best gain is sum w A / sum w A^2",
    status="proved",
    kind="exact",
    paper_label="eq:quarter-law",
    strategy=framed,
    compare=compare,
    mutants=(
        Mutant(
            "without-opposites",
            "The quarter holds for every tight frame",
            without_opposites,
            lambda: framed(tight_frames()),
        ),
        Mutant(
            "descending-everywhere",
            "The error never rises along the descending order at gain 2d/n either",
            descending_everywhere,
            lambda: framed(tight_frames()),
        ),
    ),
)
