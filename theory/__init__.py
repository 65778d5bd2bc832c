"""Criteria for SAEs and meta-SAEs: pure functions of tensors, each with its null."""

from theory.absorption import Absorption, absorption
from theory.amortisation import Amortisation, amortisation
from theory.atomicity import Atomicity, atomicity, atomicity_floor
from theory.autoencoder_curvature import autoencoder_gauss_newton, rotation_tangents
from theory.certificates import (
    Certificate,
    certified_k,
    omp_certificate,
    one_shot_certificate,
    recoverable_bound,
    sample_certificate,
    support_certificate,
)
from theory.completeness import Completeness, completeness
from theory.composition import Composition, benjamini_yekutieli, composition
from theory.compressibility import (
    Compressibility,
    compressibility,
    copy_baseline,
    effective_n_rows,
    fve,
    held_out_radius,
    isotropic_surrogates,
    surrogate_p_value,
)
from theory.decomposition import Component, Decomposition, Neighbour, decompose
from theory.degeneracy import (
    ActivationBasis,
    TwoBases,
    WeightBasis,
    activation_basis,
    turned_share,
    two_bases,
    weight_basis,
)
from theory.description_length import (
    DescriptionLength,
    description_length,
    mixing_bits,
    source_entropy,
)
from theory.effective_rank import (
    EffectiveRank,
    common_features_bound,
    effective_rank,
    visibility_shifts,
)
from theory.few_active import FewActive, LawDistance, law_distance
from theory.fragility import Fragility, fragility, projector_change
from theory.hedging import Hedging, hedging
from theory.interaction_basis import InteractionBasis, interaction_basis
from theory.isotropic import (
    composition_p_value,
    expected_best_cosine_bound,
    isotropic_fve_bound,
    isotropic_fve_floor,
    isotropic_rows,
)
from theory.judge import Judgement, judge
from theory.known_coefficients import (
    KnownModel,
    normal_crossing,
    reduced_rank,
    reduced_rank_coefficient,
    regular_quadratic,
)
from theory.learning_coefficient import LearningCoefficient, learning_coefficient
from theory.matching import match
from theory.nearest import Neighbours, nearest, neighbour_p_values
from theory.phase_dynamics import Paths, Plateau, plateaus, polygon_labels, sgd_paths
from theory.phase_switch import Switch, nearest_switch
from theory.phases import (
    Phase,
    Search,
    free_energy,
    phase,
    polygon_phase,
    polygon_point,
    search_phases,
    transition_size,
)
from theory.potential import potential, potential_gradient, potential_hessian
from theory.progressive import Curve, Progressive, prefix_errors, progressive
from theory.projection import Signal, decoder_projection, larger_agreement, pairwise_cosine
from theory.recovery import (
    Recovery,
    recovery,
    recovery_chance,
    recovery_chance_bound,
    recovery_radius,
)
from theory.redundancy import Redundancy, SharedFeatures, redundancy, shared_features
from theory.retrieval import (
    Retrieval,
    RetrievalBound,
    direction_errors,
    retrieval,
    retrieval_bound,
)
from theory.rotation import Rotation, eigenspace_rotation
from theory.signs import SignConsistency, refitted, sign_consistency, sign_necessity, sign_scores
from theory.sparse_coding import BestSupport, best_support, omp, r_squared
from theory.spectral import (
    SpectralBound,
    coherence_fve_bound,
    compressible_coherence,
    spectral_fve_bound,
    spectral_loss_bound,
)
from theory.spectrum_null import SpectrumNull, spectrum_null, spectrum_surrogates
from theory.splitting import Splitting, splitting
from theory.stability import Stability, stability
from theory.statistics import (
    bernstein_radius,
    binomial_p_values,
    dkw_radius,
    expected_unseen,
    hoeffding_radius,
    mcdiarmid_radius,
    rare_rate_samples,
    samples_to_see_all,
    smallest_caught_error,
)
from theory.stitching import Cluster, Stitching, Swaps, cosine_clusters, stitching, swap

__all__ = [
    "Absorption",
    "ActivationBasis",
    "Amortisation",
    "Atomicity",
    "BestSupport",
    "Certificate",
    "Cluster",
    "Completeness",
    "Component",
    "Composition",
    "Compressibility",
    "Curve",
    "Decomposition",
    "DescriptionLength",
    "EffectiveRank",
    "FewActive",
    "Fragility",
    "Hedging",
    "InteractionBasis",
    "Judgement",
    "KnownModel",
    "LawDistance",
    "LearningCoefficient",
    "Neighbour",
    "Neighbours",
    "Paths",
    "Phase",
    "Plateau",
    "Progressive",
    "Recovery",
    "Redundancy",
    "Retrieval",
    "RetrievalBound",
    "Rotation",
    "Search",
    "SharedFeatures",
    "SignConsistency",
    "Signal",
    "SpectralBound",
    "SpectrumNull",
    "Splitting",
    "Stability",
    "Stitching",
    "Swaps",
    "Switch",
    "TwoBases",
    "WeightBasis",
    "absorption",
    "activation_basis",
    "amortisation",
    "atomicity",
    "atomicity_floor",
    "autoencoder_gauss_newton",
    "benjamini_yekutieli",
    "bernstein_radius",
    "best_support",
    "binomial_p_values",
    "certified_k",
    "coherence_fve_bound",
    "common_features_bound",
    "completeness",
    "composition",
    "composition_p_value",
    "compressibility",
    "compressible_coherence",
    "copy_baseline",
    "cosine_clusters",
    "decoder_projection",
    "decompose",
    "description_length",
    "direction_errors",
    "dkw_radius",
    "effective_n_rows",
    "effective_rank",
    "eigenspace_rotation",
    "expected_best_cosine_bound",
    "expected_unseen",
    "fragility",
    "free_energy",
    "fve",
    "hedging",
    "held_out_radius",
    "hoeffding_radius",
    "interaction_basis",
    "isotropic_fve_bound",
    "isotropic_fve_floor",
    "isotropic_rows",
    "isotropic_surrogates",
    "judge",
    "larger_agreement",
    "law_distance",
    "learning_coefficient",
    "match",
    "mcdiarmid_radius",
    "mixing_bits",
    "nearest",
    "nearest_switch",
    "neighbour_p_values",
    "normal_crossing",
    "omp",
    "omp_certificate",
    "one_shot_certificate",
    "pairwise_cosine",
    "phase",
    "plateaus",
    "polygon_labels",
    "polygon_phase",
    "polygon_point",
    "potential",
    "potential_gradient",
    "potential_hessian",
    "prefix_errors",
    "progressive",
    "projector_change",
    "r_squared",
    "rare_rate_samples",
    "recoverable_bound",
    "recovery",
    "recovery_chance",
    "recovery_chance_bound",
    "recovery_radius",
    "reduced_rank",
    "reduced_rank_coefficient",
    "redundancy",
    "refitted",
    "regular_quadratic",
    "retrieval",
    "retrieval_bound",
    "rotation_tangents",
    "sample_certificate",
    "samples_to_see_all",
    "search_phases",
    "sgd_paths",
    "shared_features",
    "sign_consistency",
    "sign_necessity",
    "sign_scores",
    "smallest_caught_error",
    "source_entropy",
    "spectral_fve_bound",
    "spectral_loss_bound",
    "spectrum_null",
    "spectrum_surrogates",
    "splitting",
    "stability",
    "stitching",
    "support_certificate",
    "surrogate_p_value",
    "swap",
    "transition_size",
    "turned_share",
    "two_bases",
    "visibility_shifts",
    "weight_basis",
]
