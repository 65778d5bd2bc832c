"""Toy worlds with known ground truth: a law of codes, a dictionary, and exact moments.

world = ToyModel(Independent(32, 0.05), random_unit(32, 8, generator=stream(0, "dictionary")))
batch = world.sample(256, generator=stream(0, "train"))    # batch.x, batch.codes
"""

from toymodels.codes import Batch, Codes
from toymodels.dictionaries.hadamard_union import hadamard_union
from toymodels.dictionaries.orthonormal import orthonormal
from toymodels.dictionaries.polygon import polygon
from toymodels.dictionaries.random_unit import random_unit
from toymodels.dictionary import Dictionary
from toymodels.discovery import all_dictionaries, all_distributions
from toymodels.distribution import ToyDistribution
from toymodels.distributions.exclusive import Exclusive
from toymodels.distributions.independent import Independent
from toymodels.distributions.rare_property import RareProperty
from toymodels.distributions.rare_regime import RareRegime
from toymodels.distributions.zipf import Zipf
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
from toymodels.model import ToyModel
from toymodels.streams import stream

__all__ = [
    "AbsNormal",
    "AbsStudentT",
    "Batch",
    "Codes",
    "Constant",
    "Dictionary",
    "Exclusive",
    "Exponential",
    "Independent",
    "LogNormal",
    "Magnitude",
    "RareProperty",
    "RareRegime",
    "RectifiedNormal",
    "ToyDistribution",
    "ToyModel",
    "Uniform",
    "Zipf",
    "all_dictionaries",
    "all_distributions",
    "hadamard_union",
    "orthonormal",
    "polygon",
    "random_unit",
    "stream",
]
