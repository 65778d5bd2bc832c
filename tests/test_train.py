"""Training: planted dictionaries are recovered; ensembles, schedules, history and safety."""

import copy
import dataclasses
import importlib
import io
import itertools

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import bits, relu, same_bits, topk, world

from sae import TrainConfig, geometric_median, train
from sae import strategies as saes
from sae.engines import eager
from theory import recovery
from toymodels import Dictionary, Independent, ToyModel, random_unit, stream
from toymodels import strategies as tms

# What is learned ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [topk, relu])
def test_a_planted_dictionary_is_recovered(make):
    """Chance is 0.55, so 0.3 is two thirds of what there is to gain; a fresh SAE gains none."""
    data, fresh = world(0), make()
    config = TrainConfig(700, 128, lr=5e-3, n_records=4)
    result = train(fresh, data, config, generator=stream(0, "train"))

    def gain(sae):
        found = recovery(data.dictionary.vectors, sae.W_dec.detach())
        return found.score - found.chance

    assert gain(result.sae) >= 0.3
    assert gain(fresh) < 0.1
    fvu = result.history.fvu[0]
    assert float(fvu[-1]) < 0.5 * float(fvu[0])


@pytest.mark.parametrize(
    ("coefficient", "dead_after", "moves"),
    [(0.0, 32, False), (0.5, 32, True), (0.5, 10_000, False)],
)
def test_training_moves_latents_that_never_fire_once_they_count_as_dead(
    coefficient, dead_after, moves
):
    sae = topk(1, aux_coefficient=coefficient)
    with torch.no_grad():
        sae.b_enc[:2] = 100.0  # these two win every sample
    config = TrainConfig(20, 16, lr=1e-2, dead_after=dead_after, n_records=4)
    result = train(sae, world(1), config, generator=stream(1, "train"))
    assert result.history.l0.tolist() == [[2.0] * 4]
    for name, axis in (("W_enc", 1), ("W_dec", 0)):
        change = (result.sae.state_dict()[name] - sae.state_dict()[name]).abs()
        change = change.amax(1 - axis)
        assert float(change[:2].min()) > 1e-3
        # Rows at rest still change by the rounding of their normalisation.
        assert (float(change[2:].min()) > 1e-3) == (float(change[2:].max()) > 1e-6) == moves


# Ensembles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [topk, relu])
def test_a_member_of_an_ensemble_equals_the_same_sae_alone(make):
    rates = (1e-2, 3e-3, 3e-2)
    if make is topk:
        members = [topk(i, k=k, bias=i != 1) for i, k in enumerate((1, 2, 5))]
    else:
        members = [relu(i, l1=l1, bias=i != 1) for i, l1 in enumerate((0.01, 0.1, 0.7))]
    config = TrainConfig(40, 16, lr=rates, dead_after=100, n_records=5)
    together = train(members, world(2), config, generator=stream(2, "train"))
    for i, (member, rate) in enumerate(zip(members, rates, strict=True)):
        alone_config = dataclasses.replace(config, lr=rate)
        alone = train(member, world(2), alone_config, generator=stream(2, "train"))
        assert same_bits(bits(alone.sae), bits(together.saes[i]))
        assert alone.sae.settings() == together.saes[i].settings() == member.settings()
        for name in ("fvu", "l0", "dead"):
            solo, shared = getattr(alone.history, name)[0], getattr(together.history, name)[i]
            assert torch.equal(solo, shared)
    assert not same_bits(bits(together.saes[0]), bits(together.saes[2]))


@given(config=saes.training_configs(), sae=saes.saes(), seed=tms.seeds())
def test_training_is_reproducible_and_changes_none_of_its_arguments(config, sae, seed):
    def sample(n, *, generator):
        return torch.randn(n, sae.d_in, generator=generator)

    before, settings = bits(sae), sae.settings()
    random = torch.random.get_rng_state()
    first = train(sae, sample, config, generator=stream(seed, "train"))
    second = train([sae], sample, config, generator=stream(seed, "train"))
    assert same_bits(before, bits(sae))
    assert sae.settings() == settings
    assert all(p.grad is None for p in sae.parameters())
    assert torch.equal(random, torch.random.get_rng_state())
    assert same_bits(bits(first.sae), bits(second.sae))
    assert torch.equal(first.history.fvu.nan_to_num(-1), second.history.fvu.nan_to_num(-1))


@pytest.mark.parametrize("engine", ["auto", "eager", "stacked"])
@pytest.mark.parametrize("noise_std", [0.0, 0.1])  # without noise the codes are trained on
def test_data_with_gradients_train_as_without_and_get_none(engine, noise_std):
    """Such as the decoder rows of an SAE, or a world that is made of them."""
    rows = topk(1).W_dec

    def trained(rows):
        x_hat = rows * 2  # no leaf: its graph can be gone through only once
        dictionary = Dictionary(rows.detach())
        object.__setattr__(dictionary, "vectors", rows)  # making it warns of gradients
        model = ToyModel(Independent(32, 0.1), dictionary, noise_std=noise_std)
        for sample in (model, lambda n, *, generator: x_hat[:n]):
            config = TrainConfig(4, 16, n_records=2)
            yield train(topk(), sample, config, generator=stream(0, "train"), engine=engine).sae

    plain, attached = list(trained(rows.detach())), list(trained(rows))
    assert rows.grad is None
    for first, second in zip(plain, attached, strict=True):
        assert same_bits(bits(first), bits(second))


def test_another_stream_gives_another_sae():
    config = TrainConfig(5, 8)
    first, other = (
        train(topk(), world(3), config, generator=stream(3, name)).sae for name in ("a", "b")
    )
    assert not same_bits(bits(first), bits(other))


def test_the_generator_draws_the_batches_and_nothing_else():
    calls = []

    def sample(n, *, generator):
        calls.append(n)
        return torch.randn(n, 12, generator=generator)

    generator, twin = stream(3, "train"), stream(3, "train")
    train([topk(0), topk(1)], sample, TrainConfig(7, 9), generator=generator)
    assert calls == [9] * 7
    for n in calls:
        torch.randn(n, 12, generator=twin)
    assert torch.equal(generator.get_state(), twin.get_state())


def test_training_in_float64():
    sae = topk().double()
    dictionary = random_unit(16, 12, generator=stream(4, "dictionary"), dtype=torch.float64)
    data = ToyModel(Independent(16, 0.06), dictionary)
    trained = train(sae, data, TrainConfig(30, 16, lr=1e-2), generator=stream(4, "train")).sae
    assert trained.W_dec.dtype == torch.float64
    assert bool(((trained.W_dec.norm(dim=1) - 1).abs() < 1e-14).all())
    assert not torch.equal(trained.W_enc, sae.W_enc)


# One step, by hand --------------------------------------------------------------------------------


@pytest.mark.parametrize("max_grad_norm", [1e9, 0.05])
def test_one_step_is_projected_clipped_adam_from_the_geometric_median(max_grad_norm):
    """Adam's first step is lr * g / (|g| + eps) in each entry; W_dec is then normalised."""
    x = 2 + torch.randn(64, 6, dtype=torch.float64, generator=stream(5, "train"))
    sae = topk(d_in=6, n_latents=9, k=3).double()
    config = TrainConfig(
        1, 64, lr=0.01, warmup=0.0, decay=0.0, eps=1e-2, max_grad_norm=max_grad_norm
    )
    trained = train(sae, lambda n, *, generator: x, config, generator=stream(5, "unused")).sae

    by_hand = copy.deepcopy(sae)
    with torch.no_grad():
        by_hand.b_dec.copy_(geometric_median(x))
        by_hand.W_dec /= by_hand.W_dec.norm(dim=1, keepdim=True)
    names = [name for name, _ in by_hand.named_parameters()]
    loss = by_hand.loss(x).total
    found = torch.autograd.grad(loss, list(by_hand.parameters()))
    gradients = dict(zip(names, found, strict=True))
    rows = by_hand.W_dec.detach()
    for i in range(9):
        along = float(gradients["W_dec"][i] @ rows[i])
        gradients["W_dec"][i] -= along * rows[i]
    norm = sum(float(g.square().sum()) for g in gradients.values()) ** 0.5
    factor = min(1.0, max_grad_norm / norm)
    assert (factor < 1) == (max_grad_norm < 1)
    for name, parameter in by_hand.named_parameters():
        g = factor * gradients[name]
        wanted = parameter.detach() - 0.01 * g / (g.abs() + 1e-2)
        if name == "W_dec":
            wanted = wanted / wanted.norm(dim=1, keepdim=True)
        assert torch.allclose(trained.state_dict()[name], wanted, rtol=0, atol=1e-7), name


def test_the_learning_rate_rises_and_falls_linearly():
    config = TrainConfig(20, 1, warmup=0.2, decay=0.25)
    wanted = [0.25, 0.5, 0.75] + [1.0] * 13 + [0.8, 0.6, 0.4, 0.2]
    assert [config.lr_scale(step) for step in range(20)] == pytest.approx(wanted)
    flat = TrainConfig(5, 1, warmup=0.0, decay=0.0)
    assert [flat.lr_scale(step) for step in range(5)] == [1.0] * 5


@given(config=saes.training_configs())
def test_the_schedule_is_unimodal_in_0_1(config):
    scale = [config.lr_scale(step) for step in range(config.n_steps)]
    assert all(0 < s <= 1 for s in scale)
    peak = scale.index(max(scale))
    assert scale[: peak + 1] == sorted(scale[: peak + 1])
    assert scale[peak:] == sorted(scale[peak:], reverse=True)


def test_the_schedule_reaches_the_optimiser():
    """Without momentum the first steps of Adam are lr_scale * lr * sign(g): read off b_enc."""
    x = torch.randn(16, 4, dtype=torch.float64, generator=stream(6, "train"))
    sae = relu(d_in=4, n_latents=3, l1=1e-3, bias=False).double()
    members, trail = [], []
    original = eager.EagerMember

    def member(*args, **options):
        members.append(original(*args, **options))
        return members[-1]

    def sample(n, *, generator):
        trail.append(members[0].sae.b_enc.detach().clone())
        return x

    config = TrainConfig(4, 16, lr=1e-3, betas=(0.0, 0.0), warmup=0.5, decay=0.5, eps=1e-30)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(eager, "EagerMember", member)
        train(sae, sample, config, generator=stream(6, "unused"), engine="eager")
    trail.append(members[0].sae.b_enc.detach())
    steps = [float((b - a).abs().max()) for a, b in itertools.pairwise(trail)]
    assert steps == pytest.approx([0.5e-3, 1e-3, 1e-3, 0.5e-3])


# History ------------------------------------------------------------------------------------------


def test_the_history_is_measured_on_the_batch_before_its_step():
    batches = []

    def sample(n, *, generator):
        batches.append(world(7).sample(n, generator=generator).x)
        return batches[-1]

    members = [topk(0, k=1), topk(1, k=4)]
    config = TrainConfig(10, 8, lr=1e-2, dead_after=24, n_records=4)
    history = train(members, sample, config, generator=stream(7, "train")).history
    assert history.samples.tolist() == [0, 24, 48, 72]
    shape = (2, 4)
    assert history.fvu.shape == history.l0.shape == history.dead.shape == shape
    assert all(curve.shape == shape for curve in history.terms.values())

    x = batches[0].double()
    for i, member in enumerate(members):
        with torch.no_grad():
            member = copy.deepcopy(member)
            member.b_dec.copy_(geometric_median(batches[0]))
            output = member(batches[0])
        error = sum(float(e @ e) for e in x - output.x_hat)
        centre = x.mean(0)
        spread = sum(float((row - centre) @ (row - centre)) for row in x)
        assert float(history.fvu[i, 0]) == pytest.approx(error / spread, rel=1e-4)
        assert float(history.terms["mse"][i, 0]) == pytest.approx(error / 8, rel=1e-4)
        n_active = sum(float(v != 0) for row in output.latents for v in row)
        assert float(history.l0[i, 0]) == pytest.approx(n_active / 8, rel=1e-6)
    assert bool(torch.isnan(history.terms["aux"][:, 0]).all())  # nothing can be dead yet


def test_a_latent_is_dead_after_dead_after_samples_without_firing():
    """Latent 1 never fires; latent 0 fires on every second batch of 10 samples only."""
    sae = relu(d_in=1, n_latents=2, l1=0.0, bias=False)
    with torch.no_grad():
        sae.W_enc.copy_(torch.tensor([[1.0, 1.0]]))
        sae.b_enc.copy_(torch.tensor([0.0, -100.0]))
    n_calls = [0]

    def sample(n, *, generator):
        n_calls[0] += 1
        return torch.full((n, 1), 1.0 if n_calls[0] % 2 else -1.0)

    for dead_after, wanted in (
        (20, [0, 0.5, 0.5, 0.5]),
        (21, [0, 0, 0.5, 0.5]),
        (10, [0.5, 1, 0.5, 1]),
        (40, [0, 0, 0, 0.5]),
    ):
        n_calls[0] = 0
        config = TrainConfig(4, 10, lr=1e-6, dead_after=dead_after, n_records=4)
        history = train(sae, sample, config, generator=stream(8, "unused")).history
        assert history.dead[0].tolist() == wanted, dead_after


@pytest.mark.parametrize(("n_steps", "n_records", "wanted"), [(1, 5, [0]), (3, 9, [0, 1, 2])])
def test_a_short_run_records_each_step_once(n_steps, n_records, wanted):
    config = TrainConfig(n_steps, 4, n_records=n_records)
    history = train(topk(), world(9), config, generator=stream(9, "train")).history
    assert history.samples.tolist() == [4 * step for step in wanted]


# Geometric median ---------------------------------------------------------------------------------


@given(points=st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=9))
def test_the_geometric_median_minimises_the_sum_of_distances(points):
    x = np.array(points, dtype=float)

    def distance(y):
        return np.linalg.norm(x - y, axis=1).sum()

    found = geometric_median(torch.from_numpy(x), n_iterations=2000).numpy()
    options = {"xatol": 1e-10, "fatol": 1e-12, "maxiter": 5000}
    starts = [x.mean(0), np.median(x, axis=0)]
    naive = [
        scipy.optimize.minimize(distance, s, method="Nelder-Mead", options=options).fun
        for s in starts
    ]
    best = min([*naive, *(distance(p) for p in x)])
    # Where the median is a data point, the error of T iterations may fall as slowly as 1 / T
    # (Beck and Sabach 2015), T = 2000.
    assert distance(found) <= best * (1 + 1e-3) + 1e-9


def test_the_geometric_median_resists_outliers():
    x = torch.randn(500, 3, generator=stream(10, "train"))
    x[:100] += 1000.0  # a fifth of the points moves the mean by 200
    assert float(geometric_median(x).norm()) < 2 < 100 < float(x.mean(0).norm())


def test_identical_points_are_their_own_median():
    x = torch.full((5, 3), 7.0)
    assert torch.equal(geometric_median(x), x[0])


# Safety -------------------------------------------------------------------------------------------


def test_an_interrupted_run_leaves_the_originals_intact():
    members = [topk(0), topk(1)]
    before = [bits(member) for member in members]
    n_calls = [0]

    def sample(n, *, generator):
        n_calls[0] += 1
        if n_calls[0] == 4:
            raise KeyboardInterrupt
        return torch.randn(n, 12, generator=generator)

    with pytest.raises(KeyboardInterrupt):
        train(members, sample, TrainConfig(10, 8), generator=stream(11, "train"))
    assert n_calls == [4]
    assert all(same_bits(a, bits(b)) for a, b in zip(before, members, strict=True))


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_shown_on_terminals_only(monkeypatch, is_terminal):
    class Stream(io.StringIO):
        def isatty(self):
            return is_terminal

    module = importlib.import_module("sae.ensemble")
    original = module.tqdm
    written = Stream()
    monkeypatch.setattr(
        module, "tqdm", lambda *a, **k: original(*a, **{**k, "delay": 0, "file": written})
    )
    train(topk(), world(13), TrainConfig(3, 4), generator=stream(13, "train"))
    assert bool(written.getvalue()) == is_terminal


# CUDA ---------------------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("make", [topk, relu])
def test_cuda_agrees_with_the_cpu(make):
    """The same code, initial parameters and batches; 20 steps, losses agree to 1e-3."""
    batches = [world(14).sample(64, generator=stream(14, f"batch {i}")).x for i in range(20)]
    config = TrainConfig(20, 64, n_records=5)
    results = {}
    for device in ("cpu", "cuda"):
        queue = iter(batches)

        def sample(n, *, generator, queue=queue, device=device):
            return next(queue).to(device)

        sae = make().to(device)
        assert torch.allclose(sae.encode(batches[0].to(device)).cpu(), make().encode(batches[0]))
        generator = stream(14, "unused", device=device)
        results[device] = train(sae, sample, config, generator=generator).history
    assert torch.allclose(results["cpu"].fvu, results["cuda"].fvu, rtol=1e-3)
    for name, curve in results["cpu"].terms.items():
        assert torch.allclose(curve, results["cuda"].terms[name], rtol=1e-3, equal_nan=True)
