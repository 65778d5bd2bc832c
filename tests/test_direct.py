"""Meta-SAEs trained directly: each part beside a broken twin, the whole beside the truth."""

import importlib
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from figures.direct_runs import World, world_of
from sae import TopK, TrainConfig, evaluate, load, save, train, train_meta
from sae.direct import (
    ProductDictionary,
    descend,
    fit_encoder,
    gradient_product,
    held_out_meta_fve,
    meta_dictionary,
    nearest_composite,
    nonnegative_omp,
    object_rows,
    product_dictionary,
    product_from_rows,
    refine_rows,
)
from sae.direct.least_squares import least_squares_rows
from sae.direct.pruning import kept_rows
from theory.description_length import description_length
from theory.recovery import recovery
from theory.sparse_coding import omp
from toymodels import Dictionary, Independent, ToyModel, orthonormal, random_unit, stream
from toymodels import strategies as tms
from toymodels.presets import composed_world

N_ATOMS, N_ROWS, D_IN, K, K_META = 24, 60, 32, 4, 3
WORLDS = range(2)
SHORT = TrainConfig(100, 128, lr=3e-3, n_records=2)


@dataclass(frozen=True, eq=False)
class Planted:
    atoms: Dictionary
    features: Dictionary
    model: ToyModel
    x: torch.Tensor
    held_out: torch.Tensor


@cache
def planted(seed):
    """30 pairs and 30 triples of 24 orthonormal atoms, Zipf 0.8, one active feature on average."""
    atoms = orthonormal(N_ATOMS, D_IN, generator=stream(seed, "atoms"))
    model = composed_world(atoms, N_ROWS, l0=1.0, generator=stream(seed, "mixing")).model
    x = model.sample(3000, generator=stream(seed, "train")).x
    held_out = model.sample(1500, generator=stream(seed, "eval")).x
    return Planted(atoms, model.dictionary, model, x, held_out)


def fitted(seed, **options):
    world = planted(seed)
    sizes = {"n_latents": N_ROWS, "n_meta": N_ATOMS, "k": K, "k_meta": K_META, "n_starts": 1}
    generator = stream(seed, "direct")
    options = {"held_out": world.held_out, "generator": generator} | sizes | options
    return product_dictionary(world.x, **options)


@cache
def found(seed):
    return fitted(seed)


def score(truth, rows):
    return recovery(truth.vectors, rows.float())


def assert_recovered(truth, atoms, share=0.95):
    """More than `share` of the atoms at cosine 0.9.

    False alarm: isotropic latents recover an expected fraction of at most `recovered_bound`, so by
    Markov's inequality they pass with probability recovered_bound / share, below 1e-10.
    """
    recovered = score(truth, atoms)
    assert recovered.recovered_bound / share < 1e-10
    assert float(recovered.recovered.double().mean()) > share


def structureless(seed, n=N_ROWS):
    return random_unit(n, D_IN, generator=stream(seed, "structureless")).vectors


# Pursuit -----------------------------------------------------------------------------------------


@st.composite
def problems(draw):
    n, m, d, runs = (draw(st.integers(1, high)) for high in (6, 7, 5, 3))
    generator = draw(tms.generators("problem"))
    shape = {"dtype": torch.float64, "generator": generator}
    rows = normalize(torch.randn(runs, m, d, **shape), dim=2)
    targets = torch.randn(runs, n, d, **shape)
    return targets, rows, draw(st.integers(1, m)), draw(st.sampled_from([0.0, 0.1, 0.7]))


def assert_pursuit(pursuit, targets, rows, k, tolerance):
    """What defines the code, whatever was chosen: sign, sparsity, least squares, when it stops."""
    codes = pursuit(targets, rows, k, tolerance=tolerance)
    assert codes.shape == (*targets.shape[:2], rows.shape[1])
    assert (codes >= 0).all()
    assert ((codes > 0).sum(2) <= k).all()
    left = (targets - codes @ rows) @ rows.mT
    # The ridge of 1e-6 leaves 1e-6 of each coefficient, and nearly equal rows have large ones.
    assert left[codes > 0].abs().le(1e-5 * (1 + codes.max())).all()
    first = (targets @ rows.mT).amax(2)
    assert torch.equal((codes > 0).any(2), first > tolerance)
    gain = targets.square().sum(2) - (targets - codes @ rows).square().sum(2)
    best_single = first.clamp(min=0).square() * (first > tolerance)
    assert (gain >= best_single - 1e-5).all()


def signed_pursuit(targets, rows, k, *, tolerance):
    runs = [omp(t, r, k) for t, r in zip(targets, rows, strict=True)]
    return torch.stack(runs)


def matching_pursuit(targets, rows, k, *, tolerance):
    codes = torch.zeros(*targets.shape[:2], rows.shape[1], dtype=targets.dtype)
    for _ in range(k):
        best, i = ((targets - codes @ rows) @ rows.mT).max(2)
        codes.scatter_add_(2, i[..., None], torch.where(best > tolerance, best, 0)[..., None])
    return codes


def no_tolerance(targets, rows, k, *, tolerance):
    return nonnegative_omp(targets, rows, k, tolerance=0.0)


@given(problem=problems())
def test_pursuit_is_non_negative_sparse_least_squares(problem):
    assert_pursuit(nonnegative_omp, *problem)


@pytest.mark.parametrize("twin", [signed_pursuit, matching_pursuit, no_tolerance])
def test_another_pursuit_is_caught(twin):
    def look():
        for seed in range(20):
            shape = {"dtype": torch.float64, "generator": stream(seed, "problem")}
            rows = normalize(torch.randn(1, 6, 3, **shape), dim=2)
            assert_pursuit(twin, torch.randn(1, 5, 3, **shape), rows, 3, 0.5)

    with pytest.raises(AssertionError):
        look()


@given(problem=problems())
def test_runs_side_by_side_are_the_runs_alone(problem):
    targets, rows, k, tolerance = problem
    together = nonnegative_omp(targets, rows, k, tolerance=tolerance)
    alone = [
        nonnegative_omp(t, r, k, tolerance=tolerance) for t, r in zip(targets, rows, strict=True)
    ]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-6, atol=1e-9)


def test_pursuit_agrees_with_the_exact_active_set_where_rows_are_incoherent():
    features = planted(0).features.vectors.double()
    x = planted(0).x[:500].double()
    codes = nonnegative_omp(x, features, 3, tolerance=0.0)
    exact = omp(x, features, 3, nonnegative=True)
    # A row that left may come back in the exact method only.
    same = (codes - exact).abs().amax(1) < 1e-4
    assert same.double().mean() >= 0.95


# Least squares -----------------------------------------------------------------------------------


def weights_dropped(targets, codes, rows, weights):
    return least_squares_rows(targets, codes, rows)


def assert_least_squares(solve, seed):
    shape = {"dtype": torch.float64, "generator": stream(seed, "least squares")}
    codes, targets = torch.rand(1, 30, 4, **shape), torch.randn(1, 30, 3, **shape)
    codes[..., 3] = 0
    weights, rows = torch.rand(1, 30, **shape), normalize(torch.randn(1, 4, 3, **shape), dim=2)
    root = weights.sqrt()[..., None]
    best = torch.linalg.lstsq((root * codes)[..., :3], root * targets).solution
    solved = solve(targets, codes, rows, weights)
    torch.testing.assert_close(solved[:, :3], normalize(best, dim=2), rtol=0, atol=0.01)
    torch.testing.assert_close(solved[:, 3], rows[:, 3])


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_the_weighted_least_squares_ones(seed):
    assert_least_squares(least_squares_rows, seed)


def test_dropped_weights_are_caught():
    for seed in range(5):
        with pytest.raises(AssertionError):
            assert_least_squares(weights_dropped, seed)


# Object rows -------------------------------------------------------------------------------------


def object_score(seed, **options):
    rows = object_rows(planted(seed).x, N_ROWS, K, generator=stream(seed, "object"), **options)
    assert rows.shape == (N_ROWS, D_IN)
    assert torch.allclose(rows.norm(dim=1), torch.ones(N_ROWS), atol=1e-5)
    return score(planted(seed).features, rows).score


def test_object_rows_are_features_and_pruning_matters():
    """Over 3 worlds .955 to .967 pruned, .857 to .895 with no row too many: a third of that."""
    pruned = [object_score(seed) for seed in WORLDS]
    at_once = [object_score(seed, overcomplete=1) for seed in WORLDS]
    assert sum(pruned) - sum(at_once) >= 0.02 * len(WORLDS)
    assert min(pruned) > 0.85
    assert score(planted(0).features, structureless(0)).score < 0.6


def merged(seed):
    """Decoder rows that are mergers: each feature with half of another one."""
    rows = planted(seed).features.vectors
    return normalize(rows + 0.5 * rows.roll(1, 0), dim=1)


def test_alternating_steps_undo_mergers():
    world = planted(0)
    refined = refine_rows(world.x, merged(0), K, generator=stream(0, "refine"))
    before, after = score(world.features, merged(0)), score(world.features, refined)
    assert int(before.recovered.sum()) <= 0.5 * N_ROWS
    assert int(after.recovered.sum()) >= 0.8 * N_ROWS


def test_a_copy_gives_way_to_a_residual():
    """Two features have no row at first, as theirs are a copy and 0: both are found, and no row
    stays 0."""
    world = planted(0)
    often = world.model.distribution.firing_probs().argsort(descending=True)[:3].tolist()
    start = world.features.vectors.clone()
    start[often[0]], start[often[1]] = start[often[2]], 0.0
    refined = refine_rows(world.x, start, K, generator=stream(0, "refine"))
    assert score(world.features, refined).recovered[often].all()
    assert torch.allclose(refined.norm(dim=1), torch.ones(N_ROWS), atol=1e-5)


@given(
    n=st.integers(1, 9), d_in=st.integers(1, 4), data=st.data(), generator=tms.generators("rows")
)
def test_pruning_drops_as_many_rows_as_asked(n, d_in, data, generator):
    rows = normalize(torch.randn(n, d_in, generator=generator), dim=1)
    n_dropped = data.draw(st.integers(0, n))
    kept = kept_rows(torch.rand(n, generator=generator), rows, n_dropped)
    assert int((~kept).sum()) == n_dropped


def by_energy(energies, rows, n_dropped):
    """The broken twin: rare rows go, whatever the others could say in their place."""
    kept = torch.ones(len(rows), dtype=torch.bool)
    kept[energies.argsort()[:n_dropped]] = False
    return kept


def assert_pruned(prune):
    """Of a copy and its original one goes, and the merger of two rows: not the rarest row."""
    rows = torch.cat(
        [torch.eye(5), torch.eye(5)[:1], normalize(torch.eye(5)[[1, 2]].sum(0), dim=0)[None]]
    )
    energies = torch.tensor([3.0, 3, 3, 3, 0.1, 2, 5])
    kept = prune(energies, rows, 2)
    assert kept.tolist() == [kept[0], True, True, True, True, not kept[0], False]


def test_pruning_drops_copies_and_mergers():
    assert_pruned(kept_rows)


def test_pruning_by_energy_is_caught():
    with pytest.raises(AssertionError):
        assert_pruned(by_energy)


# Atoms of rows -----------------------------------------------------------------------------------


def best_meta(rows, seed, **options):
    return meta_dictionary(rows, N_ATOMS, K_META, generator=stream(seed, "meta"), **options)


def test_the_oracle_finds_every_atom_and_one_restart_does_not():
    """Over 6 worlds 16 restarts find all of 24 atoms each time, one finds 19 to 24, mean 21.2."""
    restarts, single = [], []
    for seed in WORLDS:
        world = planted(seed)
        options = {"generator": stream(seed, "meta")}
        oracle = meta_dictionary(world.features.vectors, N_ATOMS, K_META, **options)
        assert_recovered(world.atoms, oracle.atoms)
        restarts.append(int(score(world.atoms, oracle.atoms).recovered.sum()))
        one = best_meta(world.features.vectors, seed, n_restarts=1)
        single.append(int(score(world.atoms, one.atoms).recovered.sum()))
        assert oracle.loss == pytest.approx(float(oracle.losses.min()))
        assert (oracle.mixing >= 0).all()
        assert ((oracle.mixing > 0).sum(1) <= K_META).all()
    assert restarts == [N_ATOMS] * len(WORLDS)
    assert sum(single) < sum(restarts)


def test_structureless_rows_have_no_atoms():
    """The null: nothing to recover, whatever the loss in sample says."""
    meta = best_meta(structureless(0), 0, n_restarts=8)
    assert not score(planted(0).atoms, meta.atoms).recovered.any()
    with pytest.raises(AssertionError):
        assert_recovered(planted(0).atoms, meta.atoms)


def held_out_fve(rows, seed):
    generator = stream(seed, "split")
    return held_out_meta_fve(rows, N_ATOMS, K_META, generator=generator, n_restarts=8)


def in_sample_fve(rows, seed):
    meta = best_meta(rows, seed, n_restarts=8)
    return 1 - float((normalize(rows, dim=1) - meta.mixing @ meta.atoms).square().sum(1).mean())


def assert_tells_structure(fve_of):
    """Held out: .92 to 1 on true and fitted rows, .22 to .27 on structureless ones (6 worlds)."""
    for seed in WORLDS:
        assert fve_of(planted(seed).features.vectors, seed) > 0.8
        assert fve_of(structureless(seed), seed) < 0.4


def test_held_out_rows_tell_structure_from_none():
    assert_tells_structure(held_out_fve)
    assert held_out_fve(found(0).free_rows, 0) > 0.8


def test_in_sample_rows_do_not():
    with pytest.raises(AssertionError):
        assert_tells_structure(in_sample_fve)


def test_the_nearest_composite_is_no_atom():
    """Of orthonormal atoms in equal pairs 1 / sqrt 2; signed, and 1 for a copy."""
    atoms = torch.eye(4)
    pairs = torch.tensor([[1.0, 1, 0, 0], [0, 0, 2, 2]])
    assert torch.allclose(nearest_composite(atoms, pairs), torch.full((4,), 0.5**0.5))
    assert torch.equal(nearest_composite(atoms[:1], -atoms), torch.tensor([0.0]))
    assert torch.equal(nearest_composite(atoms[:1], -atoms[:1]), torch.tensor([-1.0]))
    for seed in WORLDS:
        world = planted(seed)
        nearest = nearest_composite(world.atoms.vectors, world.features.vectors)
        matched = score(world.atoms, world.features.vectors)
        assert (matched.cosines <= nearest + 1e-6).all()
        assert not matched.recovered.any()


# The product dictionary --------------------------------------------------------------------------


def specification(product, world):
    """Which parts of the specification of a two-level model hold.

    S1: the held-out error is at most 1.5 times that of codes in the true features (noise).
    S2: at most k latents.   S3: non-negative, k_meta-sparse, and D is the product.
    S4: coherence of the atoms below 1 / (2 k_meta - 1), each atom in two rows, no equal columns.
    S5: a shorter message with the mixing than with the rows as they are.
    """
    x, mixing, atoms = world.held_out, product.mixing, product.atoms
    codes, rows = product.codes(x), product.rows
    truth = nonnegative_omp(x, world.features.vectors, K, tolerance=product.floor)
    noise = float((x - truth @ world.features.vectors).square().sum())
    error = float((x - codes @ rows).square().sum())
    columns = normalize(mixing, dim=0)
    coherence = float((atoms @ atoms.T).fill_diagonal_(0).abs().max())
    parallel = float((columns.T @ columns).fill_diagonal_(0).max())
    bits = {"weight_bits": 16, "value_bits": 8, "bin_width": 0.05}
    used = (mixing > 0).any(1)
    two_level = description_length(x, codes, atoms, mixing=mixing, **bits).total
    flat = description_length(x, codes, rows, **bits).total
    unit = torch.allclose(rows[used].norm(dim=1), torch.ones(int(used.sum())), atol=1e-5)
    return {
        "S1": error <= 1.5 * noise,
        "S2": bool(((codes > 0).sum(1) <= product.k).all()),
        "S3": bool((mixing >= 0).all() and ((mixing > 0).sum(1) <= product.k_meta).all()) and unit,
        "S4": coherence < 1 / (2 * product.k_meta - 1)
        and parallel < 0.999
        and bool(((mixing > 0).sum(0) >= 2).all()),
        "S5": two_level < flat,
    }


def test_the_direct_procedure_recovers_atoms():
    for seed in WORLDS:
        world, product = planted(seed), found(seed)
        assert_recovered(world.atoms, product.atoms)
        nearest = nearest_composite(world.atoms.vectors, world.features.vectors)
        assert (score(world.atoms, product.atoms).cosines > nearest).all()
        assert float(score(world.features, product.rows).recovered.double().mean()) > 0.8


def test_the_direct_procedure_satisfies_the_specification():
    """S4 is not enforced, and holds where the atoms are found well (the next test has one where
    they are not)."""
    for seed in WORLDS:
        assert all(specification(found(seed), planted(seed)).values())


@pytest.mark.slow
def test_s4_fails_where_an_atom_is_found_badly():
    """World 2: two atoms at cosines .93 and .94 with the truth, .38 with each other."""
    holds = specification(found(2), planted(2))
    assert not holds.pop("S4")
    assert all(holds.values())


def signs_dropped(product):
    signed = omp(product.free_rows, structureless(1, N_ATOMS), K_META)
    return replace(product, mixing=signed, atoms=structureless(1, N_ATOMS))


def no_atoms(product):
    """The free rows themselves as atoms: exact, and a flat dictionary by another name."""
    return replace(product, mixing=torch.eye(N_ROWS), atoms=product.free_rows)


BROKEN = {
    "S1": lambda product: replace(product, atoms=structureless(0, N_ATOMS)),
    "S2": lambda product: Relaxed(**vars(product)),
    "S3": signs_dropped,
    "S4": lambda product: replace(product, atoms=product.atoms[[0, *range(N_ATOMS - 1)]]),
    "S5": no_atoms,
}


class Relaxed(ProductDictionary):
    """Codes without a limit on their number."""

    def codes(self, x):
        return (x @ self.rows.T).relu()


@pytest.mark.parametrize("part", BROKEN)
def test_a_broken_part_of_the_specification_is_noticed(part):
    assert not specification(BROKEN[part](found(0)), planted(0))[part]


def test_a_signed_solver_breaks_s3(monkeypatch):
    """The sign constraint dropped in the meta solver itself."""

    def signed(targets, rows, k, tolerance):
        runs = [omp(t, r, k) for t, r in zip(targets, rows, strict=True)]
        return torch.stack(runs)

    monkeypatch.setattr(importlib.import_module("sae.direct.meta_dictionary"), "pursue", signed)
    x = planted(0).features.vectors
    generator = stream(0, "meta")
    meta = meta_dictionary(x, N_ATOMS, K_META, generator=generator, n_restarts=1)
    assert (meta.mixing < 0).any()


def test_held_out_samples_choose_the_start(monkeypatch):
    """Two starts, one fitting the held-out samples and one the training samples, in both orders."""
    here, there = planted(0), planted(1)
    module, chosen, product = importlib.import_module("sae.direct.procedure"), [], found(0)

    def keep(x, rows, **options):
        chosen.append(rows)
        return product

    monkeypatch.setattr(module, "product_from_rows", keep)
    for order in ((here, there), (there, here)):
        for target in (here, there):
            starts = iter([world.features.vectors for world in order])
            monkeypatch.setattr(
                module, "object_rows", lambda *_, starts=starts, **options: next(starts)
            )
            fitted(0, n_starts=2, held_out=target.held_out)
            assert torch.equal(chosen[-1], target.features.vectors)


def test_the_best_round_on_held_out_samples_is_returned():
    product = found(0)
    assert len(product.history) == 2
    assert product.fve == max(each.fve for each in product.history)
    error = planted(0).held_out - product.codes(planted(0).held_out) @ product.rows
    energy = planted(0).held_out.square().sum()
    assert product.fve == pytest.approx(1 - float(error.square().sum() / energy), abs=1e-6)


def test_a_decoder_is_repaired():
    """From mergers: refined, then the same stages; more atoms than in the mergers themselves."""
    world = planted(0)
    options = {"n_meta": N_ATOMS, "k_meta": K_META, "k": K, "n_rounds": 1}
    options |= {"held_out": world.held_out}
    refined = refine_rows(world.x, merged(0), K, generator=stream(0, "refine"))
    product = product_from_rows(world.x, refined, generator=stream(0, "direct"), **options)
    with pytest.raises(AssertionError):
        assert_recovered(world.atoms, best_meta(merged(0), 0).atoms)
    assert_recovered(world.atoms, product.atoms)
    assert all(specification(product, world).values())


def test_the_same_seed_gives_the_same_bits():
    again = fitted(0)
    for name in ("mixing", "atoms", "free_rows"):
        assert torch.equal(getattr(again, name), getattr(found(0), name))
    first, other = (
        object_rows(planted(0).x, N_ROWS, K, generator=stream(seed, "object")) for seed in (0, 1)
    )
    assert not torch.equal(first, other)
    assert again.fve == found(0).fve
    assert again.history == found(0).history


# Encoders ----------------------------------------------------------------------------------------


def test_the_encoder_is_trained_and_the_decoder_is_not(tmp_path):
    world, product = planted(0), found(0)
    sae = product.sae(world.x, 1.5, generator=stream(0, "encoder"), config=SHORT)
    assert torch.equal(sae.W_dec, product.rows)
    assert sae.W_dec.requires_grad
    none = TrainConfig(1, 128, lr=1e-12, n_records=2)
    untrained = product.sae(world.x, 1.5, generator=stream(0, "encoder"), config=none)
    fvu = [
        evaluate(each, world.model, 2000, generator=stream(0, "eval")).fvu
        for each in (sae, untrained)
    ]
    # Codes of the same dictionary leave 1 - fve; one shot with a fresh threshold of 0 far more.
    assert 1 - product.fve < fvu[0] < 0.5 * fvu[1]
    meta_sae = product.meta_sae(generator=stream(0, "meta encoder"), config=SHORT)
    assert torch.equal(meta_sae.W_dec, product.atoms)
    error = product.rows - meta_sae(product.rows).x_hat.detach()
    assert float(error.square().sum(1).mean()) < 0.1
    for name, each in (("sae", sae), ("meta_sae", meta_sae)):
        save(each, tmp_path / name)
        read = load(tmp_path / name)
        assert torch.equal(read(product.rows).x_hat, each(product.rows).x_hat)
    given_bits = fit_encoder(
        meta_sae, product.atoms, product.rows, SHORT, generator=stream(0, "meta encoder")
    )
    assert torch.equal(given_bits.W_dec, product.atoms)


def test_the_decoder_is_frozen_while_the_encoder_learns(monkeypatch):
    module, seen = importlib.import_module("sae.direct.encoder"), []
    original = module.train

    def spy(*arguments, **options):
        result = original(*arguments, **options)
        seen.append(result.sae.W_dec.detach().clone())
        return result

    monkeypatch.setattr(module, "train", spy)
    config = TrainConfig(20, 64, lr=1e-2, n_records=2)
    found(0).sae(planted(0).x, 1.5, generator=stream(0, "encoder"), config=config)
    # Normalising unit rows twenty times moves their last bits only.
    torch.testing.assert_close(seen[0], found(0).rows, rtol=0, atol=1e-5)


# Gradients ---------------------------------------------------------------------------------------


def gradient(seed, **options):
    world = planted(seed)
    sizes = {"n_latents": N_ROWS, "n_meta": N_ATOMS, "k": 2, "k_meta": K_META}
    generator = stream(seed, "gradient")
    return gradient_product(
        world.x, held_out=world.held_out, generator=generator, **sizes, **options
    )


def test_gradient_steps_keep_the_form():
    config = TrainConfig(30, 64, lr=3e-3, k_annealing=0.5)
    product = gradient(0, config=config)
    holds = specification(product, planted(0))
    assert holds["S2"]
    assert holds["S3"]
    assert not holds["S1"]
    assert torch.equal(product.mixing, gradient(0, config=config).mixing)
    # From the atoms found directly, a few small steps stay near them.
    near = descend(
        planted(0).x,
        replace(found(0), k=2),
        held_out=planted(0).held_out,
        generator=stream(0, "descend"),
        config=TrainConfig(30, 64, lr=1e-4),
    )
    assert int(score(planted(0).atoms, near.atoms).recovered.sum()) == N_ATOMS
    assert not torch.equal(near.atoms, found(0).atoms)


@pytest.mark.slow
def test_gradients_from_scratch_find_few_atoms():
    """A control that fails: below the nearest composite where alternating steps find 95 %."""
    for seed in WORLDS:
        world, product = planted(seed), gradient(seed)
        atoms = score(world.atoms, product.atoms)
        nearest = nearest_composite(world.atoms.vectors, world.features.vectors)
        assert int(atoms.recovered.sum()) < int(
            score(world.atoms, found(seed).atoms).recovered.sum()
        )
        assert float(atoms.cosines.mean()) < float(nearest.mean())


# The world of 64 atoms ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_sixty_four_atoms_are_recovered_from_ten_thousand_samples(seed):
    """160 pairs and triples, Zipf 0.8, noise 0.05: the atoms, and what an SAE's rows give."""
    made = world_of(seed, World())
    atoms, features, model = made.atoms, made.model.dictionary, made.model
    x = model.sample(10_000, generator=stream(seed, "train")).x
    held_out = model.sample(4000, generator=stream(seed, "eval")).x
    sizes = {"n_latents": 160, "n_meta": 64, "k": 5, "k_meta": 3}
    product = product_dictionary(x, held_out=held_out, generator=stream(seed, "direct"), **sizes)
    direct = score(atoms, product.atoms)
    assert float(direct.recovered.double().mean()) > 0.95
    assert not score(atoms, features.vectors).recovered.any()

    fresh = TopK(64, 160, 2, bias=False, generator=stream(seed, "init"))
    rows = train(fresh, model, TrainConfig(2000, 512), generator=stream(seed, "train")).sae.W_dec
    meta = TopK(64, 64, 3, bias=False, generator=stream(seed, "meta init"))
    config = TrainConfig(1500, 256)
    trained = train_meta(
        rows.detach(), meta, config, weights=None, generator=stream(seed, "meta")
    ).sae
    sequential = score(atoms, trained.W_dec.detach())
    assert float(sequential.recovered.double().mean()) < 0.5
    held = [
        held_out_meta_fve(each.detach(), 64, 3, generator=stream(seed, "split"))
        for each in (product.free_rows, rows)
    ]
    assert held[0] > 0.8
    assert held[1] < 0.6


# Bad input ---------------------------------------------------------------------------------------

X = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
NAN = torch.full((300, 6), torch.nan)
SIZES = {"n_latents": 8, "n_meta": 4, "k": 2, "k_meta": 2}


def direct(x=X, held_out=X, **changed):
    return product_dictionary(
        x, held_out=held_out, generator=stream(0, "direct"), **(SIZES | changed)
    )


def scratch(**changed):
    config = TrainConfig(2, 4)
    options = {"generator": stream(0, "gradient"), "config": config}
    return gradient_product(X, **({"held_out": X} | options | SIZES | changed))


def meta_of(rows=X, n_meta=4, k_meta=2, **options):
    return meta_dictionary(rows, n_meta, k_meta, generator=stream(0, "meta"), **options)


def world_and_batch():
    world = ToyModel(Independent(6, 0.5), Dictionary(torch.eye(6)))
    return world, world.sample(300, generator=stream(0, "batch"))


def encoded(rows=X[:4], x=X):
    sae = TopK(6, 4, 1, generator=stream(0, "init"))
    return fit_encoder(sae, rows, x, TrainConfig(2, 4), generator=stream(0, "encoder"))


def from_rows(rows, x=X):
    sizes = {"n_meta": 4, "k": 2, "k_meta": 2, "n_rounds": 1}
    return product_from_rows(x, rows, held_out=x, generator=stream(0, "from"), **sizes)


@cache
def small_product():
    return direct(n_rounds=1, n_starts=1)


def refined(x=X, rows=X[:8], k=2, **options):
    return refine_rows(x, rows, k, generator=stream(0, "refine"), **options)


BAD = {
    "x with NaN": (lambda: direct(NAN), r"x\[0, 0\]=nan"),
    "x of one axis": (lambda: direct(X[0]), r"x_shape=\(6,\)"),
    "x of zeros": (lambda: direct(0 * X), "not 0 everywhere"),
    "few samples": (lambda: direct(X[:20]), "at least 24 samples"),
    "held_out of another width": (lambda: direct(held_out=X[:, :5]), r"held_out_shape=\(300, 5\)"),
    "held_out with NaN": (lambda: direct(held_out=NAN), "finite numbers in held_out"),
    "k above n_latents": (lambda: direct(k=9), r"k <= 8 \(n_latents\), got k=9"),
    "k_meta above n_meta": (lambda: direct(k_meta=5), r"k_meta <= 4 \(n_meta\), got k_meta=5"),
    "no starts": (lambda: direct(n_starts=0), "an integer n_starts >= 1"),
    "no rounds": (lambda: direct(n_rounds=0), "an integer n_rounds >= 1"),
    "tolerance of 1": (lambda: direct(tolerance=1.0), "0 < tolerance < 1"),
    "less than complete": (
        lambda: object_rows(X, 8, 2, generator=stream(0, "x"), overcomplete=0.5),
        "overcomplete >= 1",
    ),
    "zero rows": (lambda: meta_of(torch.zeros(5, 6)), r"zero_rows=\[0, 1, 2, 3, 4\]"),
    "rows with NaN": (lambda: meta_of(NAN), "finite numbers in rows"),
    "no restarts": (lambda: meta_of(n_restarts=0), "an integer n_restarts >= 1"),
    "narrow restarts": (lambda: meta_of(width=0.5), "a finite width >= 1"),
    "rows of another width": (lambda: refined(rows=X[:8, :5]), r"rows_shape=\(8, 5\)"),
    "no steps": (lambda: refined(n_steps=0), "an integer n_steps >= 1"),
    "fewer samples than rows": (lambda: refined(X[:5]), "at least 8 samples"),
    "four rows held out": (
        lambda: held_out_meta_fve(X[:4], 4, 2, generator=stream(0, "split")),
        "at least 5 rows",
    ),
    "widths that differ": (lambda: nearest_composite(X, X[:, :5]), "of one width"),
    "pursuit of too many": (lambda: nonnegative_omp(X, X[:3], 4), r"1 <= k <= 3 \(rows\)"),
    "pursuit below zero": (lambda: nonnegative_omp(X, X[:3], 2, tolerance=-1.0), "tolerance >= 0"),
    "gradient k": (lambda: scratch(k=9), r"k <= 8 \(n_latents\)"),
    "gradient lrs": (
        lambda: gradient_product(
            X,
            held_out=X,
            generator=stream(0, "g"),
            config=TrainConfig(2, 4, lr=(1e-3, 1e-2)),
            **SIZES,
        ),
        "one learning rate",
    ),
    "encoder of other rows": (
        lambda: fit_encoder(
            TopK(6, 4, 1, generator=stream(0, "init")), X[:5], X, generator=stream(0, "e")
        ),
        "rows of the SAE's shape",
    ),
    "encoder of long rows": (lambda: encoded(3 * torch.eye(4, 6)), r"rows of norm 1 or 0.*\[3\.0"),
    "encoder of integers": (lambda: encoded(torch.eye(4, 6), X.long()), "x of real numbers"),
    "encoder of a batch": (
        lambda: small_product().sae(world_and_batch()[1], 2, generator=stream(0, "e")),
        r"fit_encoder: expected x to be a tensor, got x='Batch'; pass its \.x",
    ),
    "codes of a batch": (
        lambda: small_product().codes(world_and_batch()[1]),
        "codes: expected x to be a tensor, got x='Batch'",
    ),
    "a world for samples": (
        lambda: direct(world_and_batch()[0]),
        "product_dictionary: expected x to be a tensor, got x='ToyModel'",
    ),
    "nothing held out": (lambda: direct(held_out=None), "held_out to be a tensor"),
    "nothing held out of gradients": (lambda: scratch(held_out=None), "held_out to be a tensor"),
    "samples of integers": (
        lambda: direct(X.long()),
        "x of float32 or float64, got x_dtype=torch.",
    ),
    "rows of integers": (lambda: meta_of(torch.eye(6).long()), "rows of float32 or float64"),
    "rows of half precision": (lambda: meta_of(X.half()), "rows_dtype=torch.float16; pass rows.f"),
    "meta of an SAE": (
        lambda: meta_of(TopK(6, 4, 1, generator=stream(0, "init"))),
        r"meta_dictionary: expected rows to be a tensor, got rows='TopK'; pass its \.W_dec",
    ),
    "refining a dictionary": (
        lambda: refined(rows=Dictionary(torch.eye(6))),
        "='Dictionary'; pass",
    ),
    "product of a list": (lambda: from_rows([[1.0]]), "rows to be a tensor, got rows='list'"),
    "product of a number": (lambda: from_rows(torch.tensor(1.0)), r"rows_shape=\(\)"),
    "pursuit of a list": (lambda: nonnegative_omp(X.tolist(), X[:3], 2), "targets='list'; pass"),
    "pursuit of integers": (lambda: nonnegative_omp(X.long(), X[:3], 2), "targets of float32 or"),
    "pursuit in a dictionary": (
        lambda: nonnegative_omp(X, Dictionary(torch.eye(6)), 2),
        "rows to be a tensor, got rows='Dictionary'",
    ),
    "composites in an SAE": (
        lambda: nearest_composite(X, TopK(6, 4, 1, generator=stream(0, "init"))),
        "rows to be a tensor, got rows='TopK'",
    ),
    "an atom of zeros": (lambda: nearest_composite(0 * X[:2], X), r"zero_atoms=\[0, 1\]"),
    "composites of integers": (lambda: nearest_composite(X, X.long()), "rows of real numbers"),
    "no config": (
        lambda: gradient_product(X, held_out=X, generator=stream(0, "g"), config=None, **SIZES),
        "descend: expected a TrainConfig, got config=None",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_gets_one_clear_error(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_smallest_problems_work_in_either_dtype(dtype):
    """One latent, one atom, one dimension; a sample count just enough; dtype kept."""
    x = torch.rand(40, 1, dtype=dtype, generator=stream(0, "x"))
    ones = {"n_latents": 1, "n_meta": 1, "k": 1, "k_meta": 1}
    generator = stream(0, "direct")
    product = product_dictionary(x, held_out=x, generator=generator, n_rounds=1, **ones)
    assert product.rows.dtype == dtype
    assert torch.allclose(product.rows, torch.ones(1, 1, dtype=dtype))
    assert product.fve > 0.9


def test_dtypes_may_differ_where_the_result_says_whose_it_has():
    """Widening is exact, so that the results are those of one dtype, bit for bit."""
    wide = X.double()
    for x, held_out in ((wide, X), (X, wide)):
        mixed, same = (direct(x, y, n_rounds=1, n_starts=2) for y in (held_out, x))
        assert mixed.rows.dtype == x.dtype
        assert torch.equal(mixed.rows, same.rows)
        assert mixed.fve == same.fve
    product = small_product()
    assert torch.equal(product.codes(wide), product.codes(X))
    config = TrainConfig(2, 4)
    for x, held_out in ((X, wide), (wide, X), (wide, wide)):
        found = descend(x, product, held_out=held_out, config=config, generator=stream(0, "g"))
        again = descend(X, product, held_out=X, config=config, generator=stream(0, "g"))
        assert torch.equal(found.rows, again.rows)
        assert found.fve == again.fve
    assert torch.equal(nonnegative_omp(wide, X[:3], 2), nonnegative_omp(wide, wide[:3], 2))
    for atoms, rows in ((X[:5], wide), (wide[:5], X)):
        assert torch.equal(nearest_composite(atoms, rows), nearest_composite(wide[:5], wide))
