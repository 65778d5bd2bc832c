"""F5: when negative coefficients are necessary."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import Claim, Comparisons, Mutant, at_most, equal
from theory.claims._codes import any_rows
from theory.nonnegative import nonnegative_least_squares
from theory.signs import refitted, sign_necessity, sign_scores
from toymodels import Dictionary

MAX_LATENTS = 8


@dataclass(frozen=True)
class Signed:
    """Samples that are small integer combinations of the latents `rows`, of any sign."""

    rows: Dictionary
    codes: tuple[tuple[int, ...], ...]

    def code(self) -> Float[Tensor, "batch n_latents"]:
        return torch.tensor(self.codes, dtype=torch.float64)

    def x(self) -> Float[Tensor, "batch d_in"]:
        return self.code() @ self.rows.vectors


@st.composite
def signed_codes(draw: Any) -> Signed:
    """Up to 8 rows of any dictionary, up to 4 samples, not all of them 0."""
    rows = draw(any_rows()).vectors[:MAX_LATENTS]
    row = st.lists(st.integers(-2, 2), min_size=len(rows), max_size=len(rows)).map(tuple)
    codes = draw(st.lists(row, min_size=1, max_size=4))
    return Signed(Dictionary(rows), ((1,) + (0,) * (len(rows) - 1), *codes))


def necessity(x: Float[Tensor, "batch d_in"], rows: Float[Tensor, "m d_in"]) -> float:
    """Returns the sign necessity of x on all latents, in the units of x squared."""
    support = torch.ones(len(x), len(rows), dtype=torch.bool)
    zero = torch.zeros_like(rows[0])
    return sign_necessity(x, support, rows, zero) * float(x.square().sum())


def compare(instance: Signed) -> Comparisons:
    rows, x, codes = instance.rows.vectors, instance.x(), instance.code()
    scale, zero = float(codes.abs().sum(1).square().sum()), torch.zeros_like(rows[0])
    half = rows[: max(1, len(rows) // 2)]  # latents that do not span all samples
    support = torch.ones(len(x), len(half), dtype=torch.bool)
    projected = refitted(x, support, half, zero) @ half
    left = float((x - projected).square().sum())
    rays = sum(nonnegative_least_squares(half.numpy().T, row)[1] ** 2 for row in x.numpy())
    cones = sum(nonnegative_least_squares(half.numpy().T, row)[1] ** 2 for row in projected.numpy())
    basis = torch.eye(codes.shape[1], dtype=torch.float64)
    plus, minus = codes.clamp(min=0).square().sum(0), codes.clamp(max=0).square().sum(0)
    used = plus + minus > 0
    scores = sign_scores(codes)[used] - ((plus - minus) / (plus + minus))[used]
    return (
        equal("NNLS less least squares, against the necessity", rays - left, necessity(x, half)
              if float(x.square().sum()) > 0 else 0.0, scale=scale),
        equal("the same, against the projections' distance from the cone", rays - left, cones,
              scale=scale),
        equal("necessity of latents that hold every ray",
              necessity(codes.abs() @ rows, rows) if bool((codes.abs() @ rows).any()) else 0.0,
              0.0, scale=scale),
        equal("necessity of latents that hold every ray and its opposite",
              necessity(x, torch.cat([rows, -rows])) if bool(x.any()) else 0.0, 0.0, scale=scale),
        equal("orthonormal latents, against the negative energy", necessity(codes, basis),
              float(minus.sum()), scale=scale),
        equal("sign scores, against energies", float(scores.abs().max()), 0.0),
    )  # fmt: skip


def lines_are_enough(instance: Signed) -> Comparisons:
    """Every feature has a latent, but the first one's points the other way."""
    rows = instance.rows.vectors
    x = instance.code().abs() @ rows
    turned = rows.clone()
    turned[0] = -turned[0]
    measured = necessity(x, turned) if bool(x.any()) else 0.0
    return (at_most("necessity", measured, 0.0),)


def independent_of_the_basis(instance: Signed) -> Comparisons:
    """The negative energy of the coefficients, for latents that are not orthonormal."""
    x, rows = instance.x(), instance.rows.vectors
    negative = float(instance.code().clamp(max=0).square().sum())
    measured = necessity(x, rows) if bool(x.any()) else 0.0
    return (equal("necessity, against the negative energy", measured, negative),)


CLAIM = Claim(
    key="F5",
    statement="When negative coefficients are necessary\n"
    "What NNLS leaves beyond least squares is the squared distance of the projection from the cone "
    "of the latents, so it is 0 if and only if the projection lies in the cone. Latents that hold "
    "every ray of the data have sign necessity 0, whatever their coherence. For orthonormal "
    "latents the necessity is sum_j E c_j-^2, and SC_j = (E_+ - E_-) / (E_+ + E_-).",
    source="new; NNLS: Lawson & Hanson 1974 (textbook)",
    proof="Pythagoras: the cone lies in the span",
    status="proved",
    kind="exact",
    paper_label="eq:sign-necessity",
    strategy=signed_codes,
    compare=compare,
    mutants=(
        Mutant(
            "lines-are-enough",
            "Latents that hold every feature up to sign have sign necessity 0",
            lines_are_enough,
        ),
        Mutant(
            "independent-of-the-basis",
            "The necessity is the energy of the negative coefficients for every dictionary",
            independent_of_the_basis,
        ),
    ),
)
