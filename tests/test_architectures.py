"""What one architecture has to do with another, formulas by hand, and known answers."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae import (
    AbsTopK,
    BatchTopK,
    Gated,
    HierarchicalTopK,
    JumpReLU,
    MatchingPursuit,
    MatryoshkaBatchTopK,
    MatryoshkaReLU,
    MultiTopK,
    ReLU,
    SAEOutput,
    TiedLinear,
    TiedReLU,
    TopK,
    TrainConfig,
    train,
)
from sae import strategies as saes
from sae.architectures.matryoshka import sampled_prefixes
from sae.base import squared_error
from sae.laws import in_general_position
from toymodels import stream


def g(name="init"):
    return stream(0, name)


def normal(*shape, name="x"):
    return torch.randn(shape, dtype=torch.float64, generator=g(name))


def general(sae):
    return in_general_position(sae, g("general position"))


def gradients(value, sae):
    trained = {name: p for name, p in sae.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(value, list(trained.values()), allow_unused=True, retain_graph=True)
    pairs = zip(trained.items(), found, strict=True)
    return {name: torch.zeros_like(p) if d is None else d for (name, p), d in pairs}


def with_weights_of(sae, other):
    """A copy of `sae` with the parameters of another; buffers stay."""
    copied = copy.deepcopy(sae).to(other.W_dec.dtype)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            dict(copied.named_parameters())[name].copy_(parameter)
    return copied


def assert_same_loss(first, second, x, tolerance=0.0):
    """The same training output, loss and gradients, with half of the latents dead and with none."""
    half = torch.arange(first.n_latents) % 2 == 0
    for dead in (None, half):
        one, other = first.loss(x, dead), second.loss(x, dead)
        close = {"rtol": tolerance, "atol": tolerance}
        assert torch.allclose(one.total, other.total, **close)
        assert torch.allclose(one.output.latents, other.output.latents, **close)
        wanted = gradients(other.total, second)
        for name, gradient in gradients(one.total, first).items():
            if name in wanted:
                assert torch.allclose(gradient, wanted[name], **close), name
            else:
                assert not gradient.any(), name


# Equivalences -------------------------------------------------------------------------------------


@given(shape=saes.sizes(), data=st.data(), generator=saes.generators())
def test_multi_topk_with_one_k_is_topk(shape, data, generator):
    k = data.draw(st.integers(1, shape[1]))
    base = in_general_position(TopK(*shape, k, generator=generator), generator)
    multi = MultiTopK(*shape, (k,), (1.0,), generator=generator)
    assert_same_loss(with_weights_of(multi, base), base, normal(9, shape[0]))


def test_multi_topk_with_two_ks_is_not_topk():
    base = general(TopK(4, 8, 2, generator=g()))
    multi = with_weights_of(MultiTopK(4, 8, (2, 8), (1.0, 0.125), generator=g()), base)
    assert torch.equal(multi(normal(9, 4)).latents, base(normal(9, 4)).latents)
    with pytest.raises(AssertionError):
        assert_same_loss(multi, base, normal(9, 4), 1e-3)


@pytest.mark.parametrize("cls", [MatryoshkaReLU, MatryoshkaBatchTopK])
@given(sae=st.one_of(ReLU.strategy(), BatchTopK.strategy()), generator=saes.generators())
@pytest.mark.parametrize("prefixes", ["fixed", "sampled"])
def test_matryoshka_with_one_prefix_is_its_base(cls, prefixes, sae, generator):
    given_prefixes = 1 if prefixes == "sampled" else (sae.n_latents,)
    shape, base = (sae.d_in, sae.n_latents), cls.__bases__[0]
    plain = in_general_position(base(*shape, 1.0, generator=generator), generator)
    matryoshka = with_weights_of(cls(*shape, 1.0, given_prefixes, generator=generator), plain)
    assert_same_loss(matryoshka, plain, normal(9, sae.d_in))


def test_a_prefix_of_matryoshka_is_an_sae_of_that_width():
    """By hand: each prefix is a ReLU SAE made of the first latents."""
    sae, x = general(MatryoshkaReLU(3, 7, 0.3, (2, 5, 7), generator=g())), normal(11, 3)
    total = 0.0
    for width in (2, 5, 7):
        small = ReLU(3, width, 0.3, generator=g()).double()
        with torch.no_grad():
            small.W_enc.copy_(sae.W_enc[:, :width])
            small.b_enc.copy_(sae.b_enc[:width])
            small.W_dec.copy_(sae.W_dec[:width])
            small.b_dec.copy_(sae.b_dec)
        total += small.loss(x).total.item()
    assert sae.loss(x).total.item() == pytest.approx(total, rel=1e-12)


@given(shape=saes.sizes(), data=st.data(), generator=saes.generators())
def test_abs_topk_is_topk_on_antipodal_pairs(shape, data, generator):
    k = data.draw(st.integers(1, shape[1]))
    signed = in_general_position(AbsTopK(*shape, k, generator=generator), generator)
    pairs = TopK(shape[0], 2 * shape[1], k, generator=generator).double()
    with torch.no_grad():
        pairs.W_enc.copy_(torch.cat([signed.W_enc, -signed.W_enc], 1))
        pairs.b_enc.copy_(torch.cat([signed.b_enc, -signed.b_enc]))
        pairs.W_dec.copy_(torch.cat([signed.W_dec, -signed.W_dec]))
        pairs.b_dec.copy_(signed.b_dec)
    x = normal(9, shape[0])
    positive, negative = pairs(x).latents.chunk(2, dim=1)
    assert torch.allclose(positive - negative, signed(x).latents, atol=1e-12)
    assert not bool(((positive != 0) & (negative != 0)).any())
    half = torch.arange(shape[1]) % 2 == 0
    for dead in (None, half):
        one = signed.loss(x, dead)
        two = pairs.loss(x, None if dead is None else dead.repeat(2))
        for name, term in one.terms.items():
            assert torch.allclose(term, two.terms[name], rtol=1e-12)
        wanted = gradients(two.total, pairs)["W_dec"].chunk(2)
        found = gradients(one.total, signed)["W_dec"]
        assert torch.allclose(found, wanted[0] - wanted[1], atol=1e-11)


@given(shape=saes.sizes(), generator=saes.generators())
def test_hierarchical_topk_with_k_1_is_topk(shape, generator):
    base = in_general_position(TopK(*shape, 1, generator=generator), generator)
    hierarchical = with_weights_of(HierarchicalTopK(*shape, 1, generator=generator), base)
    assert_same_loss(hierarchical, base, normal(9, shape[0]), 1e-12)


def test_hierarchical_topk_is_the_mean_over_topks():
    sae, x = general(HierarchicalTopK(4, 9, 5, generator=g())), normal(11, 4)
    losses = []
    for k in range(1, 6):
        one = with_weights_of(TopK(4, 9, k, generator=g()), sae)
        losses.append(one.loss(x).total.item())
    assert sae.loss(x).total.item() == pytest.approx(sum(losses) / 5, rel=1e-12)
    assert len(set(losses)) == 5


@given(shape=saes.sizes(), data=st.data(), generator=saes.generators())
def test_batch_topk_trains_on_one_sample_as_topk(shape, data, generator):
    k = data.draw(st.integers(1, shape[1]))
    base = in_general_position(TopK(*shape, k, generator=generator), generator)
    batch = with_weights_of(BatchTopK(*shape, k, generator=generator), base)
    assert_same_loss(batch, base, normal(1, shape[0]), 1e-12)


def test_batch_topk_on_two_samples_is_not_topk():
    base = general(TopK(4, 8, 2, generator=g()))
    batch = with_weights_of(BatchTopK(4, 8, 2, generator=g()), base)
    x = torch.cat([normal(1, 4), 10 * normal(1, 4)])
    latents = batch.loss(x).output.latents
    assert int((latents != 0).sum()) <= 4
    assert not torch.equal(latents, base(x).latents)


@given(sae=ReLU.strategy(), generator=saes.generators())
def test_jump_relu_without_threshold_and_penalty_is_relu(sae, generator):
    shape, start = (sae.d_in, sae.n_latents), generator.get_state()
    relu = ReLU(*shape, 0.0, generator=generator)
    generator.set_state(start)
    jump = JumpReLU(*shape, 0.0, initial_threshold=0.0, generator=generator)
    assert_same_loss(jump, relu, normal(9, sae.d_in).float())
    config = TrainConfig(2, 8, lr=1e-2)

    def sample(n, *, generator):
        return torch.randn(n, sae.d_in, generator=generator)

    trained = [train(s, sample, config, generator=g("train")).sae for s in (jump, relu)]
    assert torch.equal(trained[0].W_enc, trained[1].W_enc)
    assert not trained[0].threshold.any()


@given(sae=ReLU.strategy(), scale=st.floats(0.1, 10))
def test_relu_does_not_see_how_a_latent_and_its_row_share_their_scale(sae, scale):
    model = general(sae)
    scaled, x = copy.deepcopy(model), normal(9, sae.d_in)
    scales = torch.linspace(1.0, scale, sae.n_latents, dtype=torch.float64) + 0.5
    with torch.no_grad():
        scaled.W_enc /= scales
        scaled.b_enc /= scales
        scaled.W_dec *= scales[:, None]
    assert torch.allclose(scaled(x).x_hat, model(x).x_hat, rtol=1e-9)
    assert torch.allclose(scaled.loss(x).total, model.loss(x).total, rtol=1e-9)


def test_tied_relu_is_relu_with_tied_weights():
    tied, x = general(TiedReLU(3, 5, 0.0, generator=g())), normal(9, 3)
    relu = ReLU(3, 5, 0.0, generator=g()).double()
    with torch.no_grad():
        relu.W_enc.copy_(tied.W_dec.T)
        relu.W_dec.copy_(tied.W_dec)
        relu.b_enc.copy_(tied.b_enc)
        relu.b_dec.copy_(tied.b_dec)
    one, two = gradients(tied.loss(x).total, tied), gradients(relu.loss(x).total, relu)
    assert torch.allclose(one["W_dec"], two["W_dec"] + two["W_enc"].T, rtol=1e-9)


# Known answers ------------------------------------------------------------------------------------


def test_tied_linear_finds_the_principal_subspace():
    """Variances 4, 2, .5, .25: two latents leave the last two, fvu .75 / 6.75, and span the first
    two axes."""
    scales = torch.tensor([4.0, 2.0, 0.5, 0.25]).sqrt()

    def sample(n, *, generator):
        return scales * torch.randn(n, 4, generator=generator)

    config = TrainConfig(300, 256, lr=2e-2)
    sae = train(TiedLinear(4, 2, generator=g()), sample, config, generator=g("train")).sae
    q = torch.linalg.qr(sae.W_dec.detach().T)[0]
    kept = (q[:2] ** 2).sum().item()  # 2 if the spans agree, 1 on average for a random plane
    assert kept > 1.95
    x = sample(20_000, generator=g("eval"))
    loss = sae.loss(x).total.item()
    assert loss == pytest.approx(0.75, rel=0.1)  # sd of the mean of 20,000 samples: below 1 %


def test_the_threshold_of_jump_relu_learns_where_a_latent_pays():
    """A latent that reconstructs z exactly saves z^2 and costs the coefficient: threshold .5 for
    .25. Its bias is of order bandwidth^2 (.04); from either side, and with a target l0 too."""

    def sample(n, *, generator):
        return torch.rand(n, 1, generator=generator)

    config = TrainConfig(300, 512, lr=6e-3)
    found = []
    for start in (0.2, 0.8):
        sae = JumpReLU(
            1, 1, 0.25, initial_threshold=start, bandwidth=0.2, bias=False, generator=g()
        )
        with torch.no_grad():
            sae.W_enc.fill_(1.0)
            sae.W_dec.fill_(1.0)
        found.append(train(sae, sample, config, generator=g("train")).sae)
    assert [s.threshold.item() for s in found] == pytest.approx([0.5, 0.5], abs=0.06)


def test_a_target_l0_is_reached():
    def sample(n, *, generator):
        return torch.randn(n, 8, generator=generator)

    sae = JumpReLU(8, 32, 30.0, target_l0=3.0, bandwidth=0.5, generator=g())
    trained = train(sae, sample, TrainConfig(300, 256, lr=1e-2), generator=g("train")).sae
    x = sample(4000, generator=g("eval"))
    l0s = [(s.encode(x) != 0).sum(1).double().mean().item() for s in (sae, trained)]
    assert l0s[0] > 10
    assert l0s[1] == pytest.approx(3.0, abs=0.5)  # the pull of the mse on a squared penalty


def test_the_threshold_of_batch_topk_keeps_k_latents_after_training():
    def sample(n, *, generator):
        return torch.randn(n, 8, generator=generator)

    sae = BatchTopK(8, 32, 3.5, generator=g())
    x = sample(4000, generator=g("eval"))
    assert (sae.encode(x) != 0).sum(1).double().mean() > 10  # a fresh one encodes like ReLU
    # At this rate the weights stand still: the threshold lags behind them by some 100 steps.
    trained = train(sae, sample, TrainConfig(200, 256, lr=1e-7), generator=g("train")).sae
    l0 = (trained.encode(x) != 0).sum(1).double().mean().item()
    assert l0 == pytest.approx(3.5, rel=0.03)


def test_the_threshold_of_batch_topk_is_a_running_mean_of_smallest_active_latents():
    sae = BatchTopK(2, 3, 1, generator=g())
    smallest = [0.5, 2.0, math.inf, 1.1]
    for value in smallest:
        latents = torch.tensor([[0.0, 3.0, 0.0 if value == math.inf else value]])
        if value == math.inf:  # nothing is active: the batch says nothing
            latents = torch.zeros(1, 3)
        output = SAEOutput(torch.zeros(1, 2), latents, latents)
        sae.after_step_(output, generator=g())
    assert sae.threshold.item() == pytest.approx(3.6 / 3)
    with torch.no_grad():
        sae.n_updates.fill_(10**6)
    latents = torch.tensor([[2.2, 0.0, 0.0]])
    sae.after_step_(SAEOutput(torch.zeros(1, 2), latents, latents), generator=g())
    assert sae.threshold.item() == pytest.approx(1.2 + 0.01)


def naive_pursuit(sae, x):
    codes = []
    for sample in x:
        r, z = sample - sae.b_dec, torch.zeros(sae.n_latents, dtype=x.dtype)
        for _ in range(sae.max_iterations):
            products = [float(r @ row) for row in sae.W_dec]
            j = max(range(sae.n_latents), key=products.__getitem__)
            repeat = z[j] != 0
            z[j] += max(products[j], 0.0)
            r = r - max(products[j], 0.0) * sae.W_dec[j]
            if r.norm() < sae.residual_threshold or (sae.stop_on_repeat and repeat):
                break
        codes.append(z)
    return torch.stack(codes)


@given(sae=MatchingPursuit.strategy())
def test_matching_pursuit_is_its_definition_sample_by_sample(sae):
    sae, x = copy.deepcopy(sae).double(), normal(7, sae.d_in)
    with torch.no_grad():
        assert torch.allclose(sae.encode(x), naive_pursuit(sae, x), atol=1e-9)


def test_matching_pursuit_on_orthonormal_rows_is_exact_in_as_many_steps():
    sae = MatchingPursuit(4, 4, 4, residual_threshold=1e-9, bias=False, generator=g()).double()
    with torch.no_grad():
        sae.W_dec.copy_(torch.linalg.qr(normal(4, 4))[0])
    codes = normal(20, 4).abs()
    assert torch.allclose(sae.encode(codes @ sae.W_dec), codes, atol=1e-12)
    sae.max_iterations = 2  # the two largest come first
    assert torch.equal(sae.encode(codes @ sae.W_dec) != 0, codes >= codes.topk(2).values[:, -1:])
    with pytest.raises(NotImplementedError, match="call encode"):
        sae.activate(codes)


def test_sampled_prefixes_follow_their_law():
    """First draw without replacement: P(m) = (sqrt m - sqrt(m - 1)) / sqrt 4 of m = 1..4, in 20,000
    draws, by Hoeffding at 1e-10 within .025; uniform draws are .25 each, not .5, .21, .16, .13."""
    n, generator = 20_000, g("prefixes")
    drawn = torch.stack([sampled_prefixes(2, 5, generator=generator) for _ in range(n)])
    assert bool((drawn[:, 1] == 5).all())
    found = torch.bincount(drawn[:, 0], minlength=5)[1:] / n
    wanted = torch.tensor([math.sqrt(m) - math.sqrt(m - 1) for m in range(1, 5)]) / 2
    assert float((found - wanted).abs().max()) < math.sqrt(math.log(8 / 1e-10) / (2 * n))
    assert sampled_prefixes(5, 5, generator=generator).tolist() == [1, 2, 3, 4, 5]


def test_sampled_prefixes_are_drawn_anew_for_each_batch_and_alike_for_all_members():
    seen = []

    class Spy(MatryoshkaReLU):
        def _terms(self, x, output, dead):
            seen.append(tuple(self.widths.tolist()))
            return super()._terms(x, output, dead)

    def sample(n, *, generator):
        return torch.randn(n, 3, generator=generator)

    members = [Spy(3, 40, 0.1, 4, generator=g(f"init {i}")) for i in range(2)]
    train(members, sample, TrainConfig(10, 8), generator=g("train"))
    first, second = seen[::2], seen[1::2]
    assert first[1:] == second[1:]  # after the one that each was born with
    assert len(set(first)) == 10
    assert all(widths[-1] == 40 and len(set(widths)) == 4 for widths in seen)
    fixed = MatryoshkaReLU(3, 40, 0.1, (4, 40), generator=g())
    after = train(fixed, sample, TrainConfig(3, 8), generator=g("train")).sae
    assert after.widths.tolist() == [4, 40]


# Formulas by hand ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [None, 1.7])
def test_the_straight_through_gradient_is_its_formula(target):
    """Sample by sample and latent by latent, from the definition."""
    sae = JumpReLU(3, 5, 0.7, target_l0=target, bandwidth=0.8, generator=g()).double()
    with torch.no_grad():
        sae.threshold.copy_(torch.linspace(0.1, 0.9, 5))
        sae.b_enc.fill_(0.4)
    x = normal(40, 3)
    output = sae(x)
    slopes = torch.autograd.grad(squared_error(x, output.x_hat), output.latents)[0]
    found = gradients(sae.loss(x).total, sae)["threshold"]
    wanted, l0 = [0.0] * 5, float((output.latents != 0).sum()) / len(x)
    outer = 0.7 if target is None else 0.7 * 2 * (l0 / target - 1) / target
    n_near = 0
    for i in range(len(x)):
        for j in range(5):
            t = sae.threshold[j].item()
            if abs(output.pre_acts[i, j].item() - t) < 0.4:
                n_near += 1
                wanted[j] += -t / 0.8 * float(slopes[i, j]) - outer / 0.8 / len(x)
    assert n_near > 20
    assert found.tolist() == pytest.approx(wanted, rel=1e-9)


def test_the_gates_learn_from_the_auxiliary_error_and_the_penalty_only():
    sae, x = general(Gated(3, 5, 0.3, generator=g())), normal(30, 3)
    terms = sae.loss(x).terms
    mse, penalty, gate = (gradients(terms[name], sae) for name in ("mse", "l1", "gate_mse"))
    assert not mse["b_enc"].any()
    assert gate["b_enc"].any()
    assert penalty["b_enc"].any()
    for name in ("r_mag", "b_mag"):
        assert mse[name].any()
        assert not gate[name].any()
        assert not penalty[name].any()
    assert not gate["W_dec"].any()
    gates = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).relu()
    value = (x - gates @ sae.W_dec - sae.b_dec).square().sum(1).mean()
    assert terms["gate_mse"].item() == pytest.approx(value.item(), rel=1e-12)


FAMILY = {
    "TopK": lambda: TopK(6, 9, 2, aux_coefficient=0.5, generator=g()),
    "MultiTopK": lambda: MultiTopK(6, 9, (2, 5), (1.0, 0.25), aux_coefficient=0.5, generator=g()),
    "HierarchicalTopK": lambda: HierarchicalTopK(6, 9, 3, aux_coefficient=0.5, generator=g()),
    "AbsTopK": lambda: AbsTopK(6, 9, 2, aux_coefficient=0.5, generator=g()),
    "BatchTopK": lambda: BatchTopK(6, 9, 2, aux_coefficient=0.5, generator=g()),
    "MatryoshkaBatchTopK": lambda: MatryoshkaBatchTopK(
        6, 9, 2, (4, 9), aux_coefficient=0.5, generator=g()
    ),
}


@pytest.mark.parametrize("name", FAMILY)
def test_the_revival_is_its_formula_with_b_dec_counted_once(name):
    """Term by term: its value from the definition, its gradient from differences with r fixed."""
    sae, x = general(FAMILY[name]()), normal(15, 6)
    dead = torch.tensor([True, False, True, True, False, True, False, False, True])
    residual = (x - sae.training_output(x).x_hat).detach()

    def aux():
        pre_acts, value = (x - sae.b_dec) @ sae.W_enc + sae.b_enc, 0.0
        for i in range(len(x)):
            size = (lambda v: abs(v)) if sae.signed else (lambda v: v)
            ranked = sorted(dead.nonzero()[:, 0].tolist(), key=lambda j: -size(pre_acts[i, j]))
            r_hat = torch.zeros(6, dtype=torch.float64)
            for j in ranked[:3]:  # d_in // 2
                z = pre_acts[i, j] if sae.signed else pre_acts[i, j].relu()
                r_hat = r_hat + z * sae.W_dec[j]
            value += float((residual[i] - r_hat).square().sum())
        return 0.5 * value / len(x)

    with torch.no_grad():
        wanted = aux()
    loss = sae.loss(x, dead)
    assert loss.terms["aux"].item() == pytest.approx(wanted, rel=1e-9)
    found = gradients(loss.terms["aux"], sae)
    for parameter_name, parameter in sae.named_parameters():
        direction = normal(*parameter.shape, name="direction")
        direction /= direction.norm()
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-6 * direction
                values.append(aux())
                parameter -= sign * 1e-6 * direction
        slope = float((found[parameter_name] * direction).sum())
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, abs=1e-5), parameter_name
    without = gradients(sae.loss(x).total, sae)
    total = gradients(sae.loss(x, dead).total, sae)
    for parameter_name, gradient in total.items():  # it is back-propagated, not only reported
        summed = without[parameter_name] + found[parameter_name]
        assert torch.allclose(gradient, summed, atol=1e-9), parameter_name
        assert found[parameter_name].any(), parameter_name


@pytest.mark.parametrize(
    ("make", "term"),
    [
        (FAMILY["MultiTopK"], "mse_5"),
        (FAMILY["HierarchicalTopK"], "prefixes"),
        (FAMILY["MatryoshkaBatchTopK"], "prefixes"),
        (lambda: MatryoshkaReLU(6, 9, 0.1, (4, 9), generator=g()), "prefixes"),
        (lambda: MatryoshkaReLU(6, 9, 0.1, (4, 9), generator=g()), "prefix_l1"),
    ],
)
def test_extra_terms_train_the_encoder(make, term):
    sae = general(make())
    found = gradients(sae.loss(normal(9, 6)).terms[term], sae)
    assert found["W_enc"].any()
    assert found["b_enc"].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FAMILY)
def test_exactly_k_are_selected_where_all_tie(name, dtype):
    """All pre-activations are 1, so that every selected latent is active."""
    sae = FAMILY[name]().to(dtype)
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_enc.fill_(1.0)
    latents = sae.loss(torch.zeros(7, 6, dtype=dtype)).output.latents
    assert set(latents.unique().tolist()) == {0.0, 1.0}
    if name in ("BatchTopK", "MatryoshkaBatchTopK"):
        assert int(latents.sum()) == 2 * 7
    else:
        assert latents.sum(1).tolist() == [float(sae.k)] * 7


def test_a_latent_selected_at_0_has_not_fired():
    """All latents are selected (k = n_latents) but one is never positive: it alone is dead."""
    sae = TopK(2, 3, 3, generator=g())
    with torch.no_grad():
        sae.b_enc.copy_(torch.tensor([100.0, 100.0, -100.0]))

    def sample(n, *, generator):
        return torch.randn(n, 2, generator=generator)

    config = TrainConfig(3, 8, lr=1e-6, dead_after=8, n_records=3)
    history = train(sae, sample, config, generator=g("train")).history
    assert history.dead[0].tolist() == pytest.approx([1 / 3] * 3)
    assert history.l0[0].tolist() == [2.0] * 3


# Bad input ----------------------------------------------------------------------------------------

NAN = float("nan")
BAD = [
    (lambda: MultiTopK(2, 4, (), (), generator=g()), "MultiTopK", "ks=()"),
    (lambda: MultiTopK(2, 4, (2, 5), (1.0, 1.0), generator=g()), "1 <= k <= 4", "ks=(2, 5)"),
    (lambda: MultiTopK(2, 4, (0,), (1.0,), generator=g()), "1 <= k <= 4", "ks=(0,)"),
    (lambda: MultiTopK(2, 4, (2, 2), (1.0, 1.0), generator=g()), "distinct ks", "ks=(2, 2)"),
    (lambda: MultiTopK(2, 4, (2, 3), (1.0,), generator=g()), "2 finite weights", "(1.0,)"),
    (lambda: MultiTopK(2, 4, (2, 3), (0.5, 1.0), generator=g()), "first of them 1", "(0.5, 1.0)"),
    (lambda: MultiTopK(2, 4, (2, 3), (1.0, -1.0), generator=g()), "weights > 0", "(1.0, -1.0)"),
    (lambda: HierarchicalTopK(2, 4, 5, generator=g()), "HierarchicalTopK", "k=5"),
    (lambda: AbsTopK(2, 4, 0, generator=g()), "AbsTopK", "k=0"),
    (lambda: AbsTopK(2, 4, 1, aux_coefficient=NAN, generator=g()), "AbsTopK", "coefficient=nan"),
    (lambda: BatchTopK(2, 4, 0.5, generator=g()), "BatchTopK: expected 1 <= k <= 4", "k=0.5"),
    (lambda: BatchTopK(2, 4, 4.5, generator=g()), "BatchTopK", "k=4.5"),
    (lambda: BatchTopK(2, 4, NAN, generator=g()), "BatchTopK", "k=nan"),
    (lambda: BatchTopK(2, 4, 1, aux_coefficient=-1.0, generator=g()), "BatchTopK", "=-1.0"),
    (lambda: JumpReLU(2, 4, -1.0, generator=g()), "coefficient >= 0", "coefficient=-1.0"),
    (
        lambda: JumpReLU(2, 4, 1.0, initial_threshold=-0.1, generator=g()),
        "JumpReLU: expected a finite initial_threshold >= 0",
        "initial_threshold=-0.1",
    ),
    (lambda: JumpReLU(2, 4, 1.0, bandwidth=0.0, generator=g()), "bandwidth > 0", "bandwidth=0.0"),
    (lambda: JumpReLU(2, 4, 1.0, target_l0=0.0, generator=g()), "target_l0 <= 4", "target_l0=0.0"),
    (lambda: JumpReLU(2, 4, 1.0, target_l0=5.0, generator=g()), "or None", "target_l0=5.0"),
    (lambda: Gated(2, 4, -1.0, generator=g()), "Gated: expected a finite l1 >= 0", "l1=-1.0"),
    (lambda: TiedReLU(2, 4, NAN, generator=g()), "TiedReLU: expected a finite l1", "l1=nan"),
    (lambda: TiedLinear(0, 4, generator=g()), "TiedLinear: expected an integer d_in", "d_in=0"),
    (lambda: MatchingPursuit(2, 4, 0, generator=g()), "max_iterations >= 1", "max_iterations=0"),
    (
        lambda: MatchingPursuit(2, 4, 1, residual_threshold=-1.0, generator=g()),
        "residual_threshold >= 0",
        "residual_threshold=-1.0",
    ),
    (
        lambda: MatryoshkaReLU(2, 4, 0.1, (1, 3), generator=g()),
        "MatryoshkaReLU: expected prefixes that are integers >= 1, increase and end at 4 (n_la",
        "prefixes=(1, 3)",
    ),
    (lambda: MatryoshkaReLU(2, 4, 0.1, (), generator=g()), "end at 4", "prefixes=()"),
    (lambda: MatryoshkaReLU(2, 4, 0.1, (0, 4), generator=g()), ">= 1", "prefixes=(0, 4)"),
    (lambda: MatryoshkaReLU(2, 4, 0.1, (3, 2, 4), generator=g()), "increase", "=(3, 2, 4)"),
    (lambda: MatryoshkaBatchTopK(2, 4, 1, (2, 2, 4), generator=g()), "increase", "=(2, 2, 4)"),
    (
        lambda: MatryoshkaBatchTopK(2, 4, 1, 5, generator=g()),
        "MatryoshkaBatchTopK: expected 1 <= prefixes <= 4 (n_latents) as the number of prefixes",
        "prefixes=5",
    ),
    (lambda: MatryoshkaBatchTopK(2, 4, 1, 0, generator=g()), "number of prefixes", "prefixes=0"),
]


@pytest.mark.parametrize(("act", "rule", "got"), BAD)
def test_bad_settings_raise_one_clear_error(act, rule, got):
    with pytest.raises(ValueError, match="expected") as caught:
        act()
    assert rule in str(caught.value)
    assert got in str(caught.value)
