"""F6: when the positive activations say everything."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from scipy.optimize import linprog
from torch import Tensor

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from toymodels import Dictionary, polygon

ZERO = 1e-9  # pre-activations this small are those of a row orthogonal to x


@dataclass(frozen=True)
class Planar:
    """Latents in the plane, and an activation at a whole number of degrees, norm 1."""

    rows: Dictionary
    degrees: int

    @property
    def d_in(self) -> int:
        return 2

    def x(self) -> Float[Tensor, " 2"]:
        return _at(math.radians(self.degrees))


def _at(angle: float) -> Float[Tensor, " 2"]:
    return torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)


@st.composite
def planars(draw: Any) -> Planar:
    """Polygons, or up to 6 rows at multiples of 15 degrees; right angles are common."""
    angles = st.lists(st.integers(0, 23), min_size=1, max_size=6, unique=True)
    some = angles.map(lambda a: Dictionary(torch.stack([_at(math.pi * t / 12) for t in a])))
    corners = st.integers(1, 9).map(lambda n: polygon(n, dtype=torch.float64))
    return Planar(draw(st.one_of(corners, some)), 15 * draw(st.integers(0, 23)))


def spans(rows: Float[Tensor, "m 2"], x: Float[Tensor, " 2"]) -> bool:
    """Returns whether the rows with <d_j, x> >= 0 span the plane."""
    near = rows[rows @ x >= -ZERO]
    return len(near) > 0 and int(torch.linalg.matrix_rank(near, rtol=1e-6)) == 2


def regions(rows: Float[Tensor, "m 2"]) -> list[Float[Tensor, " 2"]]:
    """Returns a direction inside each region in which the same rows are positive.

    Only these need be looked at: on a border more rows count than on either side.
    """
    angles = torch.atan2(rows[:, 1], rows[:, 0])
    turns = torch.cat([angles - math.pi / 2, angles + math.pi / 2]) % (2 * math.pi)
    borders = sorted({round(float(t), 9) for t in turns})
    following = [*borders[1:], borders[0] + 2 * math.pi]
    middles = [(a + b) / 2 for a, b in zip(borders, following, strict=True) if b - a > 1e-6]
    return [_at(t) for t in middles]


def everywhere(rows: Float[Tensor, "m 2"]) -> bool:
    return all(spans(rows, x) for x in regions(rows))


def freedom(rows: Float[Tensor, "m 2"], x: Float[Tensor, " 2"]) -> float:
    """Returns how far another y with the same positive activations may be, per coordinate.

    <d_j, y> = <d_j, x> where that is positive, <= 0 elsewhere, |y_i - x_i| <= 1: by linear
    programming.
    """
    h = (rows @ x).numpy()
    positive = h > ZERO
    farthest = 0.0
    for coordinate in range(2):
        for sign in (1.0, -1.0):
            target = [0.0, 0.0]
            target[coordinate] = -sign
            found = linprog(
                target,
                A_ub=rows.numpy()[~positive] if (~positive).any() else None,
                b_ub=[0.0] * int((~positive).sum()) if (~positive).any() else None,
                A_eq=rows.numpy()[positive] if positive.any() else None,
                b_eq=h[positive] if positive.any() else None,
                bounds=[(value - 1, value + 1) for value in x.tolist()],
            )
            farthest = max(farthest, sign * (found.x[coordinate] - float(x[coordinate])))
    return farthest


def twin_gap(rows: Float[Tensor, "m 2"]) -> float:
    """Returns the largest difference of positive activations between an x and a distinct twin.

    x is in a region whose rows do not span, the twin a step from it orthogonal to these rows,
    short enough to stay in the region.
    """
    x = next(x for x in regions(rows) if not spans(rows, x))
    near, far = rows[rows @ x >= 0], rows[rows @ x < 0]
    step = torch.tensor([-near[0, 1], near[0, 0]]) if len(near) else _at(0.0)
    room = float((-(far @ x)).min()) if len(far) else 1.0
    twin = x + 0.5 * room * step
    return float((torch.relu(rows @ x) - torch.relu(rows @ twin)).abs().max())


def compare(instance: Planar) -> Comparisons:
    rows = instance.rows.vectors
    corners = everywhere(polygon(len(rows), dtype=torch.float64).vectors)
    enough = equal("polygon of as many corners", float(corners), float(len(rows) >= 4))
    if everywhere(rows):
        return (enough, at_most("freedom of x", freedom(rows, instance.x()), 0.0))
    return (enough, equal("positive activations of two activations", twin_gap(rows), 0.0))


def polygons_from(instance: Planar) -> Comparisons:
    """n = 3 corners suffice."""
    n = len(instance.rows.vectors)
    if n < 3:
        return VOID
    return (at_most("freedom of x", freedom(instance.rows.vectors, instance.x()), 0.0),)


def all_rows_span(instance: Planar) -> Comparisons:
    rows = instance.rows.vectors
    if int(torch.linalg.matrix_rank(rows, rtol=1e-6)) < 2:
        return VOID
    return (at_most("freedom of x", freedom(rows, instance.x()), 0.0),)


def corners() -> st.SearchStrategy[Planar]:
    return st.builds(
        lambda n, step: Planar(polygon(n, dtype=torch.float64), 15 * step),
        st.integers(1, 9),
        st.integers(0, 23),
    )


CLAIM = Claim(
    key="F6",
    statement="When the positive activations say everything\n"
    "relu(D x) determines x for every x if and only if, for every x, the rows with <d_j, x> >= 0 "
    "span the space. In the plane: not for the triangle, but for every regular polygon of n >= 4 "
    "corners.",
    source="Puthawala et al. 2022, arXiv 2006.08464",
    proof="In the interior of a region the positive rows alone change; a border has more of them",
    status="proved",
    kind="exact",
    paper_label="eq:directed-spanning",
    strategy=planars,
    compare=compare,
    mutants=(
        Mutant("triangle", "Three corners of a polygon suffice", polygons_from, corners),
        Mutant("all-rows-span", "It suffices that all rows together span", all_rows_span),
    ),
)
