"""Criteria for SAEs and meta-SAEs: pure functions of tensors, each with its null."""

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
from theory.isotropic import (
    composition_p_value,
    expected_best_cosine_bound,
    isotropic_fve_bound,
    isotropic_fve_floor,
    isotropic_rows,
)
from theory.judge import Judgement, judge
from theory.matching import match
from theory.recovery import (
    Recovery,
    recovery,
    recovery_chance,
    recovery_chance_bound,
    recovery_radius,
)
from theory.sparse_coding import BestSupport, best_support, omp, r_squared
from theory.spectral import (
    SpectralBound,
    coherence_fve_bound,
    compressible_coherence,
    spectral_fve_bound,
    spectral_loss_bound,
)
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

__all__ = [
    "BestSupport",
    "Compressibility",
    "Judgement",
    "Recovery",
    "SpectralBound",
    "bernstein_radius",
    "best_support",
    "binomial_p_values",
    "coherence_fve_bound",
    "composition_p_value",
    "compressibility",
    "compressible_coherence",
    "copy_baseline",
    "dkw_radius",
    "effective_n_rows",
    "expected_best_cosine_bound",
    "expected_unseen",
    "fve",
    "held_out_radius",
    "hoeffding_radius",
    "isotropic_fve_bound",
    "isotropic_fve_floor",
    "isotropic_rows",
    "isotropic_surrogates",
    "judge",
    "match",
    "mcdiarmid_radius",
    "omp",
    "r_squared",
    "rare_rate_samples",
    "recovery",
    "recovery_chance",
    "recovery_chance_bound",
    "recovery_radius",
    "samples_to_see_all",
    "smallest_caught_error",
    "spectral_fve_bound",
    "spectral_loss_bound",
    "surrogate_p_value",
]
