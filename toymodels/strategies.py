"""Hypothesis strategies of toy worlds. Structure is drawn and shrinks; noise comes from one seed.

from toymodels import strategies as tms
"""

import functools
import importlib
import inspect
from typing import Any

import torch

try:
    from hypothesis import strategies as st
except ImportError as error:  # pragma: no cover
    raise ImportError("toymodels.strategies needs hypothesis; install the [dev] extra") from error

from toymodels.codes import Codes
from toymodels.dictionary import Dictionary
from toymodels.discovery import all_dictionaries, all_distributions
from toymodels.distribution import ToyDistribution
from toymodels.magnitudes import (
    AbsNormal,
    AbsStudentT,
    Constant,
    Exponential,
    LogNormal,
    Magnitude,
    RectifiedNormal,
    Uniform,
)
from toymodels.streams import stream

Strategy = st.SearchStrategy


def seeds() -> Strategy[int]:
    """Seeds of worlds; they shrink to 0."""
    return st.integers(0, 2**32 - 1)


def generators(name: str = "test") -> Strategy[torch.Generator]:
    """Fresh generators of the stream `name` of a drawn seed."""
    return seeds().map(lambda seed: stream(seed, name))


def probs() -> Strategy[float]:
    """Probabilities: exactly 0 and 1, ordinary ones, and rare ones down to 1e-7."""
    return st.one_of(
        st.sampled_from([0.5, 0.0, 1.0]),
        st.floats(0, 1),
        st.floats(-7, 0).map(lambda exponent: 10.0**exponent),
    )


def magnitudes() -> Strategy[Magnitude]:
    """Every law of magnitudes, with moderate parameters (lognormal sigma up to 1)."""
    scale = st.floats(0.25, 4)
    return st.one_of(
        scale.map(Constant),
        st.tuples(st.floats(0, 2), st.floats(0.25, 2)).map(lambda p: Uniform(p[0], p[0] + p[1])),
        scale.map(AbsNormal),
        scale.map(Exponential),
        st.tuples(st.floats(-1, 1), st.floats(0, 1)).map(lambda p: LogNormal(*p)),
        st.tuples(st.floats(-1, 2), st.floats(0.25, 2)).map(lambda p: RectifiedNormal(*p)),
        st.tuples(st.floats(2.5, 20), scale).map(lambda p: AbsStudentT(*p)),
    )


@functools.cache  # building all of them takes longer than drawing one
def distributions(
    exclude: tuple[type[ToyDistribution], ...] = (),
) -> Strategy[ToyDistribution]:
    """Instances of every distribution in the folder, less those excluded.

    They shrink to independent features where these will do.
    """
    kept = [cls for cls in all_distributions() if cls not in exclude]
    simplest_first = sorted(kept, key=lambda cls: cls.__name__ != "Independent")
    return st.one_of([cls.strategy() for cls in simplest_first])


def simple_distributions() -> Strategy[ToyDistribution]:
    """Instances of distributions that are not made of others."""
    from toymodels.distributions.mixture import Mixture
    from toymodels.wrapper import Wrapper

    made_of_others = tuple(c for c in all_distributions() if issubclass(c, Wrapper | Mixture))
    return distributions(exclude=made_of_others)


def from_distribution(cls: type[ToyDistribution], **fixed: Any) -> Strategy[ToyDistribution]:
    """Instances of `cls` with the fields in `fixed` set to these values."""
    names = [n for n in inspect.signature(cls).parameters if n not in fixed]
    return cls.strategy().map(lambda d: cls(**{n: getattr(d, n) for n in names}, **fixed))


@functools.cache
def dictionaries(max_coherence: float = 1.0) -> Strategy[Dictionary]:
    """Every dictionary in the folder, float64, as it comes or randomly rotated."""
    each = st.one_of(
        [importlib.import_module(make.__module__).strategy() for make in all_dictionaries()]
    )
    rotated = st.builds(_rotate, each, st.none() | generators("rotation"))
    if max_coherence >= 1:
        return rotated
    return rotated.filter(lambda dictionary: dictionary.coherence() <= max_coherence)


def codes(max_rows: int = 5, max_features: int = 6) -> Strategy[Codes]:
    """Sparse codes with small integer values."""
    return st.integers(1, max_features).flatmap(
        lambda n: st.lists(
            st.lists(st.integers(0, 3), min_size=n, max_size=n), min_size=1, max_size=max_rows
        ).map(lambda rows: Codes.from_dense(torch.tensor(rows, dtype=torch.float64)))
    )


def _rotate(dictionary: Dictionary, generator: torch.Generator | None) -> Dictionary:
    if generator is None:
        return dictionary
    from toymodels.dictionaries.orthonormal import orthonormal

    d_in = dictionary.d_in
    rotation = orthonormal(d_in, d_in, generator=generator, dtype=torch.float64).vectors
    return Dictionary(dictionary.vectors @ rotation)


def _register() -> None:
    """Called by Hypothesis at start-up, so that st.from_type(ToyDistribution) works."""
    st.register_type_strategy(ToyDistribution, distributions())
    st.register_type_strategy(Dictionary, dictionaries())
