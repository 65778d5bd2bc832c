"""Defects planted one at a time in a copy of the project: each named test must catch its own.

A defect is a replacement of one piece of source text. The test fails if the text is no longer there
(the list has gone stale) or if the named test (or file of tests) passes with the defect in place.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("toymodels", "sae", "theory", "figures", "paper", "tests", "pyproject.toml")
COPIED += ("README.md", "CONTRIBUTING.md", "Makefile", "constraints.txt", "CITATION.cff", "LICENSE")


@dataclass(frozen=True)
class Defect:
    """`old` becomes `new` in `file`; `caught_by` must then fail."""

    name: str
    file: str
    old: str
    new: str
    caught_by: str


DEFECTS = (
    Defect(
        "features fire 10 % less often than declared",
        "toymodels/product_law.py",
        "IndependentFiring(self.firing_probs())",
        "IndependentFiring(0.9 * self.firing_probs())",
        "tests/test_laws.py::test_law[Independent-firing_probs_are_exact]",
    ),
    Defect(
        "a carrier and its property are declared independent",
        "toymodels/distributions/rare_property.py",
        "return product + torch.cat([extra * v[n:], extra * v[:n]])",
        "return product",
        "tests/test_laws.py::test_law[RareProperty-moments_are_exact]",
    ),
    Defect(
        "geometric gaps are one too long",
        "toymodels/events.py",
        "gaps.clamp_(max=n_trials).add_(1).cumsum_(0)",
        "gaps.clamp_(max=n_trials).add_(2).cumsum_(0)",
        "tests/test_toymodels.py::test_gaps_between_events_are_geometric",
    ),
    Defect(
        "a run that stopped early draws and records once more when resumed",
        "sae/ensemble.py",
        "while self.step < n_steps and not self._stopped():",
        "while self.step < n_steps:",
        "tests/test_resume.py::test_a_run_that_stopped_early_ends_as_it_did_when_resumed",
    ),
    Defect(
        "streams differ in 32 bits only",
        "toymodels/streams.py",
        "words[:] = sequence.generate_state(_MT_WORDS)",
        "pass",
        "tests/test_toymodels.py::test_a_streams_state_has_more_than_the_32_bits_of_manual_seed",
    ),
    Defect(
        "train_meta drops the weights",
        "sae/meta.py",
        "weights.to(device=rows.device, dtype=torch.float64).cumsum(0)",
        "torch.ones_like(weights).to(torch.float64).cumsum(0)",
        "tests/test_meta.py::test_weights_raise_the_weighted_fve",
    ),
    Defect(
        "the auxiliary residual is not detached",
        "sae/architectures/topk.py",
        '(x - output.x_hat).detach()\n    return {"aux"',
        '(x - output.x_hat)\n    return {"aux"',
        "tests/test_sae_laws.py::test_law[TopK-revival_reaches_only_dead_latents]",
    ),
    Defect(
        "members of an ensemble see different batches",
        "sae/engines/eager.py",
        "x = batch.to(member.sae.W_dec.dtype)",
        "x = batch.to(member.sae.W_dec.dtype)[: None if member is self.members[0] else -1]",
        "tests/test_sae_laws.py::test_law[Gated-members_equal_solo_runs]",
    ),
    Defect(
        "the decoder is not normalised after a step",
        "sae/engines/eager.py",
        "        self.optimizer.step()\n        self.sae.normalise_decoder_()\n",
        "        self.optimizer.step()\n",
        "tests/test_sae_laws.py::test_law[Gated-training_keeps_decoder_rows_unit]",
    ),
    Defect(
        "nu lacks the number of supports",
        "theory/isotropic.py",
        "log_count = _log_binomial(m, k)\n    if log_count > 660:",
        "log_count = math.log(m / k)\n    if log_count > 660:",
        "tests/test_isotropic.py::test_bound_equals_its_integral",
    ),
    Defect(
        "the ray score is not clipped at 0",
        "theory/recovery.py",
        "(similarity.clamp(min=0) if signed else similarity.abs())",
        "(similarity if signed else similarity.abs())",
        "tests/test_recovery.py::test_score_equals_naive_search",
    ),
    Defect(
        "the store does not verify checksums",
        "sae/entry.py",
        'if record["arrays_sha256"] != hashlib.sha256(data).hexdigest():',
        "if False:",
        "tests/test_store.py::test_a_flipped_bit_anywhere_is_noticed",
    ),
    Defect(
        "p-values of composition do not know that supports are searched",
        "theory/composition.py",
        "p_values = composition_p_value(explained, d_in, n_atoms, k).masked",
        "p_values = composition_p_value(explained, d_in, k, k).masked",
        "tests/test_composition.py::test_p_values_are_super_uniform",
    ),
    Defect(
        "copies are found by their cosine, unsquared",
        "theory/composition.py",
        "copy = single >= tau - _ROUNDING",
        "copy = single.sqrt() >= tau - _ROUNDING",
        "tests/test_composition.py::test_everything_equals_brute_force",
    ),
    Defect(
        "Benjamini-Hochberg for Benjamini-Yekutieli",
        "theory/composition.py",
        "(len(p) * (1 / ranks).sum()) / ranks",
        "len(p) / ranks",
        "tests/test_composition.py::test_adjustment_equals_its_definition",
    ),
    Defect(
        "the n-th neighbour's rank is one too low",
        "theory/nearest.py",
        "betainc(ranks, n_candidates - ranks + 1, q)",
        "betainc(ranks, n_candidates - ranks, q)",
        "tests/test_nearest.py::test_each_p_value_is_uniform",
    ),
    Defect(
        "p-values of rays are those of lines",
        "theory/nearest.py",
        "np.where(c >= 0, line / 2, 1 - line / 2) if signed else line",
        "line",
        "tests/test_nearest.py::test_each_p_value_is_uniform",
    ),
    Defect(
        "copies set aside still count as candidates",
        "theory/nearest.py",
        "/ (1 - beyond)).clip(0, 1)",
        "/ 1.0).clip(0, 1)",
        "tests/test_nearest.py::test_p_values_stay_uniform_where_copies_are_set_aside",
    ),
    Defect(
        "retrieval forgets an atom's own error",
        "theory/retrieval.py",
        "gap(slack) - 2 * atom_errors.double()",
        "gap(slack) - atom_errors.double()",
        "tests/test_retrieval.py::test_atom_errors_count_twice",
    ),
    Defect(
        "crosstalk of all features counts as that of one",
        "theory/retrieval.py",
        "crosstalk = coherence * math.sqrt(per_feature)",
        "crosstalk = coherence",
        "tests/test_retrieval.py::test_other_bound_is_sharp_and_smaller_constants_are_false",
    ),
    Defect(
        "counts of firings are sent for free",
        "theory/description_length.py",
        "(math.log2(len(x) + 1) + _log2_binomial(len(x), counts)).sum()",
        "_log2_binomial(len(x), counts).sum()",
        "tests/test_description_length.py::test_lengths_of_supports_satisfy_krafts_inequality_with_equality",
    ),
    Defect(
        "silence carries no information",
        "theory/description_length.py",
        "torch.special.entr(p).sum() + torch.special.entr(silent).sum()",
        "torch.special.entr(p).sum()",
        "tests/test_description_length.py::test_source_entropy_equals_enumeration",
    ),
    Defect(
        "which atoms a latent mixes is sent for free",
        "theory/description_length.py",
        "(int(most) * weight_bits + _log2_binomial(n_atoms, most).item())",
        "int(most) * weight_bits",
        "tests/test_description_length.py::test_two_levels_count_atoms_and_mixtures",
    ),
    Defect(
        "a prefix holds one latent more",
        "theory/progressive.py",
        "chosen = ranks < k\n",
        "chosen = ranks <= k\n",
        "tests/test_progressive.py::test_prefix_errors_equal_their_loop",
    ),
    Defect(
        "the null of a prefix lacks the pairs",
        "theory/progressive.py",
        "r = (q * m - 1) / max(1, m - 1)",
        "r = q",
        "tests/test_progressive.py::test_null_is_the_mean_over_all_orders",
    ),
    Defect(
        "sign scores count instead of weighing",
        "theory/signs.py",
        "return (c.sign() * c.square()).sum(0) / c.square().sum(0)",
        "return c.sign().sum(0) / c.abs().sign().sum(0)",
        "tests/test_signs.py::test_scores_equal_their_loop_and_do_not_see_scale",
    ),
    Defect(
        "the gain's null leaves the negative parts in place",
        "theory/signs.py",
        "exchanged - 2 / n * residual.sum(0) @ minus.sum(0)",
        "exchanged - 2 * (residual * minus).sum()",
        "tests/test_signs.py::test_gain_null_is_the_mean_over_all_permutations",
    ),
    Defect(
        "OMP is certified one feature too far",
        "theory/certificates.py",
        "1 - (2 * k - 1) * coherence - 2 * noise_to_signal",
        "1 - (2 * k - 2) * coherence - 2 * noise_to_signal",
        "tests/test_certificates.py::test_margins_are_the_stated_formulas",
    ),
    Defect(
        "a one-shot encoder is certified without crosstalk",
        "theory/certificates.py",
        "error = coherence * total + noise",
        "error = noise",
        "tests/test_certificates.py::test_one_shot_certificate_is_sharp",
    ),
    Defect(
        "a feature counts as seen once too early",
        "theory/certificates.py",
        "binom.cdf(times - 1, n, p)",
        "binom.cdf(times - 2, n, p)",
        "tests/test_certificates.py::test_sample_certificate_holds_in_simulation",
    ),
    Defect(
        "the floor of atomicity is linear in the coherence",
        "theory/atomicity.py",
        "1 - k * coherence**2 / spread",
        "1 - k * coherence / spread",
        "tests/test_atomicity.py::test_floor_is_attained",
    ),
    Defect(
        "a certificate of atomicity trusts orthogonal others",
        "theory/atomicity.py",
        "spread = 1 - (k - 1) * float(rest.max())",
        "spread = 1.0",
        "tests/test_atomicity.py::test_certificate_below_value_below_greedy",
    ),
    Defect(
        "absorption counts the absorbed latent's own share",
        "theory/absorption.py",
        "others = everything[:, i] - z[:, own] * overlap[own, i]",
        "others = everything[:, i]",
        "tests/test_absorption.py::test_every_number_equals_its_loop",
    ),
    Defect(
        "absorption needs only that the latent is silent",
        "theory/absorption.py",
        "rates[i] = (silent & (others[fires] >= needed)).double().mean()",
        "rates[i] = silent.double().mean()",
        "tests/test_absorption.py::test_a_dead_latent_is_missed_but_not_absorbed",
    ),
    Defect(
        "the degree of hedging is not a ratio of like lengths",
        "theory/hedging.py",
        "error @ hedge / length**2",
        "error @ hedge / length",
        "tests/test_hedging.py::test_degrees_of_known_latents",
    ),
    Defect(
        "the null of hedging has a dimension too many",
        "theory/hedging.py",
        "betainc(0.5, (d - 1) / 2, c * c)",
        "betainc(0.5, d / 2, c * c)",
        "tests/test_hedging.py::test_null_p_values_are_uniform_and_spread_is_exact",
    ),
    Defect(
        "least squares are shrunk by a thousandth",
        "theory/sparse_coding.py",
        "return solution + torch.linalg.solve(gram",
        "return 0.999 * solution + torch.linalg.solve(gram",
        "tests/test_sparse_coding.py::test_planted_codes_are_recovered",
    ),
    Defect(
        "the spectral bound keeps one direction too few",
        "theory/spectral.py",
        "tail = spectrum[n_latents:].sum() / total",
        "tail = spectrum[n_latents - 1 :].sum() / total",
        "tests/test_claims.py::test_claim_holds[A2]",
    ),
    Defect(
        "a surrogate p-value may be 0",
        "theory/compressibility.py",
        "(1 + int((null_fves >= score).sum())) / (1 + n_surrogates)",
        "int((null_fves >= score).sum()) / n_surrogates",
        "tests/test_compressibility.py::test_p_values_are_super_uniform_and_broken_ones_are_not",
    ),
    Defect(
        "a replay trusts the margin in the file",
        "theory/claims/_replay.py",
        "found = Counterexample(claim.key, instance, comparisons, least(comparisons))",
        "found = Counterexample(claim.key, instance, comparisons, saved)",
        "tests/test_replay.py::test_replay_of_what_no_longer_fails_exits_1",
    ),
    Defect(
        "a file of a counterexample rounds its tensors",
        "theory/claims/_tree.py",
        "to_tree(v) for v in value.detach().flatten().tolist()",
        "to_tree(v) for v in value.float().flatten().tolist()",
        "tests/test_replay.py::test_instances_survive_the_file_exactly[B1]",
    ),
    Defect(
        "the search does not climb",
        "theory/claims/_engine.py",
        "hypothesis.target(-c.margin, label=c.label)",
        "hypothesis.target(0.0, label=c.label)",
        "tests/test_claims.py::test_search_climbs_to_a_needle",
    ),
    Defect(
        "completeness with codes of either sign",
        "theory/completeness.py",
        "min(k, len(atoms)), nonnegative=signed",
        "min(k, len(atoms)), nonnegative=False",
        "tests/test_completeness.py",
    ),
    Defect(
        "completeness weights no feature",
        "theory/completeness.py",
        "score=float(weights @ explained),",
        "score=float(explained.mean()),",
        "tests/test_completeness.py::test_planted_composed_and_missing",
    ),
    Defect(
        "a latent counts among its own rivals",
        "theory/redundancy.py",
        "w.new_tensor([threshold]), n_live - 1, d_in",
        "w.new_tensor([threshold]), n_live, d_in",
        "tests/test_nulls.py::test_redundancy_and_shared_features",
    ),
    Defect(
        "one latent is enough to share a feature",
        "theory/redundancy.py",
        "binom.sf(1, n_live, q)",
        "binom.sf(0, n_live, q)",
        "tests/test_redundancy.py::test_shared_null_is_binomial",
    ),
    Defect(
        "a latent is its own copy",
        "theory/redundancy.py",
        "fill_diagonal_(-2)",
        "fill_diagonal_(2)",
        "tests/test_redundancy.py::test_equals_loops",
    ),
    Defect(
        "chance of stability ignores that signs are free",
        "theory/stability.py",
        "mean_cosine * (0.5 if signed else 1.0)",
        "mean_cosine",
        "tests/test_nulls.py::test_stability_chance_by_matching_and_by_index",
    ),
    Defect(
        "splitting adds rates as if parts never met",
        "theory/splitting.py",
        "1 - (1 - rates).prod() - best[i]",
        "rates.sum().clamp(max=1) - best[i]",
        "tests/test_splitting.py::test_null_equals_enumeration",
    ),
    Defect(
        "draws that tie with the data do not count",
        "theory/splitting.py",
        "int((draws >= total - 1e-9).sum())",
        "int((draws > total).sum())",
        "tests/test_splitting.py::test_p_values_are_super_uniform_and_see_divisions",
    ),
    Defect(
        "the norm of an NNLS residual instead of its square",
        "theory/amortisation.py",
        "nonnegative_least_squares(atoms[mask].T, targets[i])[1] ** 2",
        "nonnegative_least_squares(atoms[mask].T, targets[i])[1]",
        "tests/test_amortisation.py::test_parts_against_full_search",
    ),
    Defect(
        "random supports are one too large",
        "theory/amortisation.py",
        "order < active.sum",
        "order <= active.sum",
        "tests/test_amortisation.py::test_null_where_every_support_is_as_good",
    ),
    Defect(
        "sensitivity of the effective rank with one factor too few",
        "theory/effective_rank.py",
        "(x / (1 + x) / (1 + x))",
        "(x / (1 + x))",
        "tests/test_effective_rank.py::test_sensitivities_are_derivatives",
    ),
    Defect(
        "the shift is the added energy, not the factor",
        "theory/effective_rank.py",
        "1 + 1 / (e * along)",
        "1 / (e * along)",
        "tests/test_effective_rank.py::test_orthonormal_shifts",
    ),
    Defect(
        "common features without the root of the rank",
        "theory/effective_rank.py",
        "rms_coherence * math.sqrt(rank)",
        "rms_coherence",
        "tests/test_effective_rank.py::test_common_features_bound",
    ),
    Defect(
        "fragility climbs without the diagonal",
        "theory/fragility.py",
        "4 * (diagonal - signs * pull)",
        "-4 * signs * pull",
        "tests/test_fragility.py::test_climbing_ends_where_no_flip_leads_higher",
    ),
    Defect(
        "the lower bound of fragility without its factor 2",
        "theory/fragility.py",
        "lower=math.sqrt(2 * lower),",
        "lower=math.sqrt(lower),",
        "tests/test_fragility.py::test_closed_form_in_the_plane",
    ),
    Defect(
        "the null of a rotation is its complement",
        "theory/rotation.py",
        "Rotation(score, 1 - r / d_in,",
        "Rotation(score, r / d_in,",
        "tests/test_fragility.py::test_rotation_of_known_angle_and_its_null",
    ),
    Defect(
        "a generator is left where the next batches were drawn",
        "sae/ahead.py",
        "            self._batches.restore(*self._after)\n",
        "            pass\n",
        "tests/test_ahead.py::test_a_generator_left_ahead_is_caught",
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_defect_is_caught(defect, tmp_path):
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            made = shutil.ignore_patterns("out", "generated", "build", "__pycache__")
            shutil.copytree(source, tmp_path / name, ignore=made)
        else:
            shutil.copy(source, tmp_path / name)
    target = tmp_path / defect.file
    text = target.read_text()
    assert text.count(defect.old) == 1, f"{defect.file} no longer holds this text exactly once"
    target.write_text(text.replace(defect.old, defect.new))
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", defect.caught_by]
    environment = {**os.environ, "HYPOTHESIS_PROFILE": "ci", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
