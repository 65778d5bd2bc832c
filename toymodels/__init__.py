"""Toy worlds with known ground truth: a law of codes, a dictionary, and exact moments.

world = ToyModel(Independent(32, 0.05), random_unit(32, 8, generator=stream(0, "dictionary")))
batch = world.sample(256, generator=stream(0, "train"))    # batch.x, batch.codes
"""

from toymodels.codes import Batch, Codes
from toymodels.dictionaries.antipodal import antipodal
from toymodels.dictionaries.blocks import blocks
from toymodels.dictionaries.composed import composed, random_mixing
from toymodels.dictionaries.equiangular import equiangular
from toymodels.dictionaries.hadamard_union import hadamard_union
from toymodels.dictionaries.icosahedral import icosahedral
from toymodels.dictionaries.low_coherence import low_coherence, welch_bound
from toymodels.dictionaries.low_effective_rank import low_effective_rank
from toymodels.dictionaries.orthonormal import orthonormal
from toymodels.dictionaries.polygon import polygon
from toymodels.dictionaries.random_unit import random_unit
from toymodels.dictionaries.simplex import simplex
from toymodels.dictionary import Dictionary
from toymodels.discovery import all_dictionaries, all_distributions
from toymodels.distribution import ToyDistribution
from toymodels.distributions.blocks import Blocks
from toymodels.distributions.correlated_hierarchy import CorrelatedHierarchy
from toymodels.distributions.correlated_pairs import CorrelatedPairs
from toymodels.distributions.dag import Dag
from toymodels.distributions.exactly_k import ExactlyK
from toymodels.distributions.exclusive import Exclusive
from toymodels.distributions.exclusive_groups import ExclusiveGroups
from toymodels.distributions.gaussian_copula import GaussianCopula
from toymodels.distributions.hierarchy import Hierarchy
from toymodels.distributions.independent import Independent
from toymodels.distributions.mixture import Mixture
from toymodels.distributions.rare_property import RareProperty
from toymodels.distributions.rare_regime import RareRegime
from toymodels.distributions.scaled import Scaled
from toymodels.distributions.shared_gain import SharedGain
from toymodels.distributions.signed import Signed
from toymodels.distributions.two_sets import TwoSets
from toymodels.distributions.weighted_k import WeightedK
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
from toymodels.shift import Shift, more_often, reweighted, that_never_occurred
from toymodels.streams import stream
from toymodels.superposition import Superposition, initial_weights, train_superposition
from toymodels.superposition_boundary import (
    antipodal_loss,
    dropped_loss,
    superposition_boundary,
)
from toymodels.superposition_geometry import (
    Shape,
    dimensions_per_feature,
    feature_dimensionality,
    shapes,
)
from toymodels.superposition_neurons import (
    Neurons,
    features_per_neuron,
    has_two_neurons,
    train_neurons,
)

__all__ = [
    "AbsNormal",
    "AbsStudentT",
    "Batch",
    "Blocks",
    "Codes",
    "Constant",
    "CorrelatedHierarchy",
    "CorrelatedPairs",
    "Dag",
    "Dictionary",
    "ExactlyK",
    "Exclusive",
    "ExclusiveGroups",
    "Exponential",
    "GaussianCopula",
    "Hierarchy",
    "Independent",
    "LogNormal",
    "Magnitude",
    "Mixture",
    "Neurons",
    "RareProperty",
    "RareRegime",
    "RectifiedNormal",
    "Scaled",
    "Shape",
    "SharedGain",
    "Shift",
    "Signed",
    "Superposition",
    "ToyDistribution",
    "ToyModel",
    "TwoSets",
    "Uniform",
    "WeightedK",
    "Zipf",
    "all_dictionaries",
    "all_distributions",
    "antipodal",
    "antipodal_loss",
    "blocks",
    "composed",
    "dimensions_per_feature",
    "dropped_loss",
    "equiangular",
    "feature_dimensionality",
    "features_per_neuron",
    "hadamard_union",
    "has_two_neurons",
    "icosahedral",
    "initial_weights",
    "low_coherence",
    "low_effective_rank",
    "more_often",
    "orthonormal",
    "polygon",
    "random_mixing",
    "random_unit",
    "reweighted",
    "shapes",
    "simplex",
    "stream",
    "superposition_boundary",
    "that_never_occurred",
    "train_neurons",
    "train_superposition",
    "welch_bound",
]
