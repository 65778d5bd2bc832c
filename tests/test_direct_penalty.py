"""The penalty and the tie, each beside broken twins; which parts of a two-level model hold."""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from sae import (
    BatchTopK,
    JumpReLU,
    MatryoshkaBatchTopK,
    TopK,
    TrainConfig,
    direct,
    train,
    train_meta,
)
from sae import strategies as saes
from sae.architectures.ortho import OrthoBatchTopK, crowding
from sae.direct import gradient_product, nonnegative_omp, refine_rows
from sae.direct.extended import loss_with
from sae.direct.penalty import decodability, penalty_term, train_penalised
from sae.direct.tie import Said, Tree, assignment, loss_in, tied_distance, train_tied
from theory.description_length import description_length
from toymodels import orthonormal, stream
from toymodels.presets import composed_world

N_ATOMS, N_ROWS, D_IN, K, K_META = 12, 30, 16, 2, 3
CONFIG = TrainConfig(20, 64, lr=3e-3, n_records=3)
LONGER = replace(CONFIG, n_steps=40)


@cache
def world(seed=0):
    """15 pairs and 15 triples of 12 orthonormal atoms, one active on average; no noise."""
    atoms = orthonormal(N_ATOMS, D_IN, generator=stream(seed, "atoms"))
    how = {"l0": 1.0, "exponent": 0.0, "noise_std": 0.0}
    return composed_world(atoms, N_ROWS, **how, generator=stream(seed, "mixing")).model


def main(kind=BatchTopK, n=N_ROWS, k=K, seed=0, **options):
    return kind(D_IN, n, k, bias=False, generator=stream(seed, "init"), **options)


def meta(kind=TopK, n=N_ATOMS, k=K_META, seed=0):
    return kind(D_IN, n, k, bias=False, generator=stream(seed, "meta init"))


def penalised(sae=None, meta_sae=None, config=CONFIG, sample=None, meta_config=CONFIG, **options):
    options = {"coefficient": 0.3, "sigma_squared": 1.0, "generator": stream(0, "train")} | options
    parts = (sae or main(), meta_sae or meta(), sample or world(), config, meta_config)
    return train_penalised(*parts, **options)


def tied(levels=None, config=CONFIG, **options):
    options = {"generator": stream(0, "train")} | options
    return train_tied(levels or [main(n=N_ATOMS, k=5), main()], world(), config, **options)


def state(sae):
    return {**dict(sae.named_parameters()), **dict(sae.named_buffers())}


def same(first, second):
    return all(torch.equal(state(first)[name], state(second)[name]) for name in state(first))


# The penalty -------------------------------------------------------------------------------------


@st.composite
def pairs(draw):
    """An SAE and a meta-SAE for its rows, in float64, and lambda, sigma^2 and a direction."""
    n, d_in, m = draw(st.integers(2, 6)), draw(st.integers(2, 5)), draw(st.integers(1, 5))
    init, k = draw(saes.generators()), draw(st.integers(1, m))
    kind = draw(st.sampled_from([TopK, BatchTopK]))
    sae = TopK(d_in, n, 1, generator=init).double()
    direction = torch.randn(n, d_in, dtype=torch.float64, generator=init)
    return sae, kind(d_in, m, k, generator=init).double(), draw(st.floats(0.1, 3)), direction


def rebuild_by(meta_sae):
    return lambda rows: meta_sae.training_output(rows).x_hat


def through(rebuilt, coefficient, sigma_squared):
    """The twin: the meta-SAE is not frozen, so that rows also move their reconstructions."""

    def terms(sae, x, output):
        again = rebuilt(sae.W_dec)
        return {"penalty": coefficient * decodability(sae.W_dec, again, sigma_squared)}

    return terms


def rewarded(rebuilt, coefficient, sigma_squared):
    return penalty_term(rebuilt, -coefficient, sigma_squared)


def assert_penalty(make, sae, meta_sae, strength, direction):
    """Its gradient in W_dec is the central difference with the reconstructions held as they are,
    it is lambda * mean exp(-|W - W^|^2 / sigma^2) by hand, and no gradient reaches the meta-SAE."""
    rebuilt, x = rebuild_by(meta_sae), torch.zeros(1, sae.d_in, dtype=torch.float64)
    meta_sae.zero_grad()
    found = make(rebuilt, strength, 2.0)(sae, x, sae(x))["penalty"]
    sae.zero_grad()
    found.backward()
    constant, rows = rebuilt(sae.W_dec).detach(), sae.W_dec.detach()

    def by_hand(rows):
        gaps = [float((a - b) @ (a - b)) for a, b in zip(rows, constant, strict=True)]
        return strength * sum(math.exp(-gap / 2) for gap in gaps) / len(gaps)

    assert abs(float(found.detach()) - by_hand(rows)) < 1e-9
    step = 1e-5
    ends = [by_hand(rows + sign * step * direction) for sign in (1, -1)]
    slope = float((sae.W_dec.grad * direction).sum())
    assert abs((ends[0] - ends[1]) / (2 * step) - slope) < 1e-7
    assert all(p.grad is None or not p.grad.any() for p in meta_sae.parameters())


@given(pair=pairs())
def test_the_penalty_pushes_rows_from_constant_reconstructions(pair):
    assert_penalty(penalty_term, *pair)


@pytest.mark.parametrize("twin", [through, rewarded])
def test_a_wrong_penalty_is_caught(twin):
    init = stream(0, "pair")
    sae = TopK(4, 5, 1, generator=init).double()
    direction = torch.randn(5, 4, dtype=torch.float64, generator=init)
    pair = sae, TopK(4, 3, 2, generator=init).double(), 0.7, direction
    assert_penalty(penalty_term, *pair)
    with pytest.raises(AssertionError):
        assert_penalty(twin, *pair)


def assert_decoded_worse(seed, config):
    """At lambda 3 the penalty outweighs what little of |x|^2 an SAE still gains by moving a row."""
    options = {"sae": main(seed=seed), "meta_sae": meta(seed=seed), "sample": world(seed)}
    without, found = (
        penalised(config=config, coefficient=c, **options, generator=stream(seed, "train"))
        for c in (0.0, 3.0)
    )
    assert without.meta_fve[-1] > found.meta_fve[-1]
    assert without.penalty[-1] > found.penalty[-1]
    assert (found.steps[0], found.steps[-1]) == (0, config.n_steps)


def test_penalised_rows_are_decoded_worse_than_the_same_run_without():
    assert_decoded_worse(0, LONGER)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_they_are_so_in_every_world(seed):
    assert_decoded_worse(seed, replace(CONFIG, n_steps=300))


def test_a_reward_in_place_of_the_penalty_is_noticed(monkeypatch):
    monkeypatch.setattr("sae.direct.penalty.penalty_term", rewarded)
    with pytest.raises(AssertionError):
        assert_decoded_worse(0, LONGER)


def test_without_penalty_and_meta_steps_it_is_training():
    """Bit for bit that of the reference engine, for each architecture."""
    for kind in (BatchTopK, OrthoBatchTopK):
        start = main(kind)
        alone = train(start, world(), CONFIG, generator=stream(0, "train"), engine="eager").sae
        found = penalised(start, coefficient=0.0, phases=(7, 0)).sae
        assert type(found) is kind
        assert same(alone, found)
        assert found.settings() == start.settings()


def test_phases_leave_the_other_sae_alone():
    """The meta-SAE is trained by its own steps only, and as many as the phases say."""
    start = meta()
    start.normalise_decoder_()
    left = penalised(meta_sae=start, phases=(10, 0)).meta_sae
    assert all(torch.allclose(state(left)[name], state(start)[name]) for name in state(start))
    steps = []

    class Counting(TopK):
        def loss(self, x, dead=None):
            steps.append(len(x))
            return super().loss(x, dead)

    counting = meta(Counting)
    penalised(meta_sae=counting, phases=(8, 4))  # 8, 8 and a last phase of 4
    assert steps == [CONFIG.batch_size] * 12


# The tie -----------------------------------------------------------------------------------------


def by_hand(z, rows, child_z, child_rows, parents):
    """Parent by parent and sample by sample."""
    total = torch.zeros(())
    for j in range(len(rows)):
        children = [c for c, parent in enumerate(parents.tolist()) if parent == j]
        if children:
            sums = sum(child_z[:, c, None] * child_rows[c] for c in children)
            total = total + (z[:, j, None] * rows[j] - sums).square().sum()
    return total / len(z)


@st.composite
def families(draw):
    n, m, d_in, batch = (draw(st.integers(1, high)) for high in (6, 4, 4, 3))
    generator = draw(saes.generators())
    shape = {"dtype": torch.float64, "generator": generator}
    tensors = torch.rand(batch, m, **shape), torch.randn(m, d_in, **shape)
    tensors += torch.rand(batch, n, **shape), torch.randn(n, d_in, **shape)
    return (*tensors, torch.randint(-1, m, (n,), generator=generator))


@given(family=families())
def test_the_tied_distance_is_that_of_each_parent_to_its_childrens_sum(family):
    torch.testing.assert_close(
        tied_distance(*family), by_hand(*family).double(), rtol=1e-9, atol=1e-9
    )


def test_children_go_to_the_nearest_parent_and_the_worst_to_none():
    parents = torch.eye(3)
    children = torch.tensor([[2.0, 0.1, 0], [0, 0.1, 9], [1, 1, 0.9], [0, 5, 0], [-1, -1, -1]])
    assert assignment(parents, children, 0.0).tolist()[:2] == [0, 2]
    assert assignment(parents, children, 0.4).tolist() == [0, 2, -1, 1, -1]


def levels_in_a_tree(swapped, dtype=torch.float64):
    """Two fresh levels, their tree at rho 0.5, a batch, and the swaps all on or all off."""
    x = world().sample(8, generator=stream(0, "x")).x.to(dtype)
    levels = [main(TopK, n=4, k=2).to(dtype), main(TopK, n=9, k=3).to(dtype)]
    said = [
        Said(v.training_output(x).latents.detach(), v.W_dec.detach().clone(), v.b_dec.detach())
        for v in levels
    ]
    parents = assignment(levels[0].W_enc.detach().T, levels[1].W_enc.detach().T, 0.2)
    tree = Tree(0.5, [parents], [torch.full((8, 4), swapped)], said)
    return levels, tree, x


def none_dead(sae):
    return torch.zeros(sae.n_latents, dtype=torch.bool)


def joint_loss(levels, tree, x):
    """The sum over the levels as one function of all parameters, from its definition."""
    z, c = (level.activate(level.pre_acts(x)) for level in levels)
    (parents,), (swapped,), (above, below) = tree.parents, tree.swaps, levels
    x_hat = above.b_dec.expand_as(x)
    for j in range(above.n_latents):
        own = z[:, j, None] * above.W_dec[j]
        sums = c[:, parents == j] @ below.W_dec[parents == j]
        x_hat = x_hat + torch.where(swapped[:, j, None], sums, own)
    errors = (x - x_hat).square().sum(1).mean(), (x - below.decode(c)).square().sum(1).mean()
    return sum(errors) + tree.rho * by_hand(z, above.W_dec, c, below.W_dec, parents)


def assert_joint_gradient(levels, tree, x):
    """Each level's own gradient is its part of the gradient of the joint loss."""
    wanted = torch.autograd.grad(
        joint_loss(levels, tree, x), [level.W_dec for level in levels], allow_unused=True
    )
    for i, (level, gradient) in enumerate(zip(levels, wanted, strict=True)):
        loss = loss_in(i, tree)(level, x, none_dead(level))
        own = torch.autograd.grad(loss.total, level.W_dec)[0]
        torch.testing.assert_close(own, gradient, rtol=1e-9, atol=1e-9)


def whole_families(tree):
    """Swaps of parents that have children, as the training draws them."""
    has = torch.bincount(tree.parents[0][tree.parents[0] >= 0], minlength=4) > 0
    tree.swaps = [tree.swaps[0] & has]


@pytest.mark.parametrize("swapped", [False, True])
def test_every_level_descends_the_sum_of_all_losses(swapped):
    levels, tree, x = levels_in_a_tree(swapped)
    whole_families(tree)
    assert_joint_gradient(levels, tree, x)


def test_a_tie_without_swap_is_caught(monkeypatch):
    levels, tree, x = levels_in_a_tree(True)
    whole_families(tree)
    monkeypatch.setattr("sae.direct.tie.loss_with", lambda terms, change: loss_with(terms))
    with pytest.raises(AssertionError):
        assert_joint_gradient(levels, tree, x)


def test_the_tie_pulls_children_and_parents_together():
    """Twice over: rho 1 is not small beside an error of about |x|^2 = 1."""
    free, found = (tied(config=LONGER, rho=rho, swap=0.0) for rho in (0.0, 1.0))
    assert float(free.tie[0, -1]) > 2 * float(found.tie[0, -1])
    assert (found.parents[0] == -1).sum() == int(0.2 * N_ROWS)
    assert found.tie.shape == (1, len(found.steps))


def test_without_tie_and_swap_the_levels_are_trained_apart():
    starts = [main(n=N_ATOMS, k=5), main(OrthoBatchTopK), main(JumpReLU, n=40, k=0.1)]
    alone = train(starts, world(), CONFIG, generator=stream(0, "train"), engine="eager").saes
    found = tied(starts, rho=0.0, swap=0.0)
    assert all(same(a, b) for a, b in zip(alone, found.levels, strict=True))
    assert [type(sae) for sae in found.levels] == [type(sae) for sae in starts]
    assert len(found.parents) == 2
    other = tied(starts, rho=0.0, swap=0.5)
    assert not same(other.levels[0], found.levels[0])


def test_a_loss_with_further_terms_is_their_sum_and_leaves_the_sae_alone():
    start, x = main(), torch.ones(2, D_IN)
    more = {"more": start.W_dec.square().sum()}
    shifted = loss_with(lambda *_: more, lambda sae, out: replace(out, x_hat=out.x_hat + 1))
    loss = shifted(start, x, none_dead(start))
    assert list(loss.terms) == ["mse", "more"]
    wanted = (x - start.training_output(x).x_hat - 1).square().sum(1).mean() + more["more"]
    assert float(loss.total.detach()) == pytest.approx(float(wanted.detach()), rel=1e-6)
    assert list(start.loss(x).terms) == ["mse"]
    assert type(penalised(start).sae) is type(start)


@pytest.mark.parametrize("run", [lambda: penalised().sae, lambda: tied().levels[1]])
def test_the_same_seed_gives_the_same_bits(run):
    assert same(run(), run())


# OrtSAE ------------------------------------------------------------------------------------------


def with_itself(rows):
    """The twin: a row's nearest row is itself."""
    return (rows @ rows.T).amax(1).square().mean()


def smallest(rows):
    return (rows @ rows.T).amin(1).square().mean()


def assert_crowding(measure, rows):
    nearest = [
        max(float(row @ other) for j, other in enumerate(rows) if j != i)
        for i, row in enumerate(rows)
    ]
    by_hand = sum(value**2 for value in nearest) / len(nearest)
    assert abs(float(measure(rows)) - by_hand) < 1e-9


@given(n=st.integers(2, 8), d_in=st.integers(1, 5), generator=saes.generators())
def test_crowding_is_the_squared_cosine_of_the_nearest_other_row(n, d_in, generator):
    rows = torch.randn(n, d_in, dtype=torch.float64, generator=generator)
    assert_crowding(crowding, normalize(rows, dim=1))


@pytest.mark.parametrize("twin", [with_itself, smallest])
def test_a_wrong_neighbour_is_caught(twin):
    rows = torch.randn(6, 3, dtype=torch.float64, generator=stream(0, "rows"))
    with pytest.raises(AssertionError):
        assert_crowding(twin, normalize(rows, dim=1))


def test_known_crowds():
    basis = torch.eye(5)
    assert float(crowding(basis)) == 0
    assert float(crowding(torch.cat([basis, basis]))) == 1
    assert float(crowding(torch.cat([basis, -basis]))) == 0
    assert float(crowding(torch.cat([basis[:1], -basis[:1]]))) == 1  # no other row is nearer


def test_the_ortho_term_spreads_the_rows():
    spread = {}
    for coefficient in (0.0, 1.0):
        start = main(OrthoBatchTopK, ortho_coefficient=coefficient)
        trained = train(start, world(), LONGER, generator=stream(0, "train")).sae
        spread[coefficient] = float(crowding(trained.W_dec.detach()))
    assert spread[1.0] < spread[0.0]


def test_ortho_at_zero_is_batch_topk():
    zero = main(OrthoBatchTopK, ortho_coefficient=0.0)
    runs = [
        train(sae, world(), CONFIG, generator=stream(0, "train"), engine="eager").sae
        for sae in (zero, main())
    ]
    assert torch.equal(runs[0].W_dec, runs[1].W_dec)


# What holds of a two-level model -----------------------------------------------------------------

LONG = TrainConfig(1200, 128, lr=3e-3, decay=0.4, n_records=2)
BITS = {"weight_bits": 16, "value_bits": 8, "bin_width": 0.05}


def parts(x, codes, rows, k, mixing=None, atoms=None, k_meta=K_META):
    """Which of S1 to S5 hold of codes x ~ codes @ rows and, if there are any, mixtures of atoms.

    S1: at most half of the energy is left, which zero or structureless rows leave in full.
    S2: at most k latents a sample on average.   S3: rows *are* non-negative k_meta-sparse mixtures.
    S4: the atoms' coherence is below 1 / (2 k_meta - 1), and each is in two rows or more.
    S5: a shorter message with the mixing than with the rows.
    """
    error = (x - codes @ rows).square().sum() / x.square().sum()
    held = {"S1": float(error) <= 0.5, "S2": float((codes != 0).sum(1).double().mean()) <= k}
    if mixing is None:
        return held | {"S3": False, "S4": False, "S5": False}
    sparse = bool((mixing >= 0).all() and ((mixing > 0).sum(1) <= k_meta).all())
    unit = normalize(atoms, dim=1)
    coherence = float((unit @ unit.T).fill_diagonal_(0).abs().max())
    used = bool(((mixing > 0).sum(0) >= 2).all())
    flat = description_length(x, codes, rows, **BITS).total
    short = description_length(x, codes, atoms, mixing=mixing, **BITS).total
    return held | {
        "S3": sparse and torch.allclose(mixing @ atoms, rows, atol=1e-4),
        "S4": coherence < 1 / (2 * k_meta - 1) and used,
        "S5": short < flat,
    }


@cache
def held_out():
    return world().sample(1000, generator=stream(0, "eval")).x


@torch.no_grad()
def parts_of(sae, k, meta_sae=None, rows=None):
    """Of an SAE whose rows a meta-SAE codes."""
    output = sae(held_out())
    mixing = None if meta_sae is None else meta_sae(rows).latents
    atoms = None if meta_sae is None else meta_sae.W_dec
    return parts(held_out(), output.latents, sae.W_dec, k, mixing, atoms)


# BatchTopK keeps k in the mean of training batches; its threshold lags behind the weights.
SLACK = 1.2


@pytest.mark.slow
def test_one_level_procedures_have_a_small_error_and_sparse_codes():
    """The controls and OrtSAE: S1 and S2; without mixtures nothing else applies."""
    starts = {
        "small": main(n=N_ATOMS, k=5),
        "prefixes": main(MatryoshkaBatchTopK, k=5, prefixes=(N_ATOMS, N_ROWS)),
        "ortho": main(OrthoBatchTopK, k=5),
    }
    trained = train(list(starts.values()), world(), LONG, generator=stream(0, "train")).saes
    for sae in trained:
        held = parts_of(sae, 5 * SLACK)
        assert held["S1"]
        assert held["S2"]


@pytest.mark.slow
def test_the_sequential_and_the_penalised_pair_have_no_exact_mixtures():
    """S1 and S2; not S3: rows are near mixtures at best, further from them with the penalty."""
    sae = train(main(), world(), LONG, generator=stream(0, "train")).sae
    rows = sae.W_dec.detach()
    sequential = train_meta(rows, meta(), LONG, weights=None, generator=stream(0, "meta")).sae
    pair = penalised(config=replace(LONG, n_steps=600))
    for one, other in ((sae, sequential), (pair.sae, pair.meta_sae)):
        held = parts_of(one, K * SLACK, other, one.W_dec.detach())
        assert held["S1"]
        assert held["S2"]
        assert not held["S3"]


@pytest.mark.slow
def test_tied_levels_have_a_small_error_and_sparse_codes_each():
    found = tied(config=replace(LONG, n_steps=600))
    for sae, k in zip(found.levels, (5, K), strict=True):
        held = parts_of(sae, k * SLACK)
        assert held["S1"]
        assert held["S2"]


def test_a_product_by_gradients_has_its_form_and_refined_rows_have_none():
    x = world().sample(2000, generator=stream(0, "train")).x
    sizes = {"n_latents": N_ROWS, "n_meta": N_ATOMS, "k": K, "k_meta": K_META}
    config = TrainConfig(200, 128, lr=3e-3, k_annealing=0.5)
    product = gradient_product(
        x, held_out=held_out(), config=config, generator=stream(0, "gradient"), **sizes
    )
    codes = product.codes(held_out())
    held = parts(held_out(), codes, product.rows, K, product.mixing, product.atoms)
    assert held["S2"]
    assert held["S3"]
    assert held["S5"]
    refined = refine_rows(x, main().W_dec.detach(), K, generator=stream(0, "refine"))
    codes = nonnegative_omp(held_out(), refined, K)
    held = parts(held_out(), codes, refined, K)
    assert held["S1"]
    assert held["S2"]


@pytest.mark.parametrize("part", ["S1", "S2", "S3", "S4", "S5"])
def test_a_part_that_fails_is_noticed(part):
    """The true dictionary has all of S1 to S5 here; each is broken on its own."""
    x, atoms = held_out(), orthonormal(N_ATOMS, D_IN, generator=stream(0, "atoms")).vectors
    rows = world().dictionary.vectors
    mixing = nonnegative_omp(rows, atoms, K_META)
    codes = nonnegative_omp(x, rows, 4)
    assert all(parts(x, codes, rows, 4, mixing, atoms).values())
    broken = {
        "S1": (x, 0 * codes, rows, 4, mixing, atoms),
        "S2": (x, codes + 1e-3, rows, 4, mixing, atoms),
        "S3": (x, codes, rows, 4, mixing.roll(1, 0), atoms),
        "S4": (x, codes, rows, 4, mixing, atoms[[0, 0, *range(2, N_ATOMS)]]),
        "S5": (x, codes, rows, 4, torch.eye(N_ROWS), rows),
    }[part]
    assert not parts(*broken)[part]


def test_the_glossary_spells_out_every_part():
    glossary = (Path(__file__).parent.parent / "docs/glossary.md").read_text()
    for part in ("S1", "S2", "S3", "S4", "S5"):
        assert f"\n| {part} |" in glossary
        assert f"{part} " in direct.__doc__


# Bad input ---------------------------------------------------------------------------------------


def nothing(n, *, generator):
    return torch.full((n, D_IN), torch.nan)


BAD = {
    "coefficient below 0": (lambda: penalised(coefficient=-1.0), "coefficient >= 0"),
    "sigma^2 of 0": (lambda: penalised(sigma_squared=0.0), "a finite sigma_squared > 0"),
    "no primary steps": (lambda: penalised(phases=(0, 5)), "n_p >= 1"),
    "one phase": (lambda: penalised(phases=5), "phases .* of integers.*phases=5"),
    "no meta config": (
        lambda: penalised(meta_config=None),
        r"train_penalised: expected a TrainConfig, got meta_config=None; pass TrainConfig\(",
    ),
    "half steps": (lambda: penalised(phases=(1.5, 5)), "phases .* of integers"),
    "another width": (
        lambda: penalised(meta_sae=TopK(5, 4, 1, generator=stream(0, "i"))),
        "SAEs of one d_in, dtype and device",
    ),
    "another dtype": (lambda: penalised(meta_sae=meta().double()), "torch.float64"),
    "two learning rates": (
        lambda: penalised(config=replace(CONFIG, lr=(1e-3, 1e-2))),
        "one learning rate",
    ),
    "target_l0": (lambda: penalised(config=replace(CONFIG, target_l0=3)), "no target_l0"),
    "samples with NaN": (
        lambda: penalised(sample=nothing),
        "nan",
    ),
    "an SAE for levels": (lambda: tied(main()), "two levels or more, got n_levels=1"),
    "no config": (lambda: tied(config=None), "train_tied: expected a TrainConfig, got config=None"),
    "one level": (lambda: tied([main()]), "two levels or more"),
    "levels that narrow": (lambda: tied([main(), main(n=5)]), "levels that widen"),
    "rho below 0": (lambda: tied(rho=-1.0), "a finite rho >= 0"),
    "swap above 1": (lambda: tied(swap=1.5), "0 <= swap <= 1"),
    "all unassigned": (lambda: tied(unassigned=1.0), "0 <= unassigned < 1"),
    "never assigned": (lambda: tied(assign_every=0), "an integer assign_every >= 1"),
    "ortho below 0": (
        lambda: main(OrthoBatchTopK, ortho_coefficient=-1.0),
        "a finite ortho_coefficient >= 0",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_gets_one_clear_error(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()
