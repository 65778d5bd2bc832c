"""The shape checks of the tests notice what they should: each axis has one size within a call."""

import checking
import jaxtyping
import pytest
import torch
from beartype import beartype
from jaxtyping import Float
from torch import Tensor

from sae import checks
from theory import recovery
from toymodels import Constant


def checked(fn):
    return checking.jaxtyped(fn, typechecker=beartype)


@checked
def rows(first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    return first @ second.T


@checked
def turned(first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    return second @ first.T


@checked
def nested(first: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    return rows(first.T, first.T)  # in whose scope n is this function's d


@checked
def many(parts: list[Float[Tensor, "n d"]]) -> int:
    return len(parts)


@checked
def half(x: float) -> float:
    return x / 2


@checked
def plain(n: int) -> str:
    return "x" * n if n else n  # type: ignore[return-value]


WIDE, NARROW = torch.zeros(2, 3), torch.zeros(4, 5)


def test_right_shapes_pass_and_each_call_has_its_own_scope():
    assert rows(WIDE, torch.zeros(4, 3)).shape == (2, 4)
    assert rows(NARROW, torch.zeros(1, 5)).shape == (4, 1)
    assert nested(WIDE).shape == (3, 3)
    assert many([WIDE, WIDE]) == 2
    assert plain(2) == "xx"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: rows(WIDE, NARROW),  # d is 3 and 5
        lambda: rows(WIDE[0], WIDE),  # one axis too few
        lambda: rows(WIDE.int(), WIDE),  # not floats
        lambda: turned(WIDE, torch.zeros(4, 3)),  # the result is [m, n]
        lambda: many([WIDE.int()]),
        lambda: plain("2"),
        lambda: plain(2.0),
        lambda: half("2"),
        lambda: plain(0),  # the result is no str
    ],
)
def test_wrong_shapes_and_types_are_refused(wrong):
    with pytest.raises(Exception, match="violates type hint"):
        wrong()
    assert rows(WIDE, torch.zeros(4, 3)).shape == (2, 4)  # a failed call leaves no scope behind


def test_an_int_is_a_float_in_functions_and_in_fields():
    assert half(3) == 1.5
    assert Constant(1).mean() == 1
    with pytest.raises(Exception, match="type"):
        Constant("1")


def test_the_packages_are_checked_with_it():
    assert jaxtyping.jaxtyped is checking.jaxtyped
    assert {recovery.__code__.co_filename, checks.check.__code__.co_filename} == {checking.__file__}
    with pytest.raises(Exception, match="violates type hint"):
        recovery(torch.zeros(3, 2), torch.zeros(3, 4), signed=True)


@pytest.mark.usefixtures("unchecked")
def test_the_checks_can_be_turned_off():
    assert turned(WIDE, torch.zeros(4, 3)).shape == (4, 2)
    assert plain(0) == 0
