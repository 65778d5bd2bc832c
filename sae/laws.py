"""The laws every SAE obeys, as plain functions: run them on your own architecture too.

    @pytest.mark.parametrize("law", SAE_LAWS, ids=lambda law: law.__name__)
    @given(data=st.data())
    def test_my_sae(law, data):
        law(data.draw(Mine.strategy()), data.draw(strategies.generators()))

A law takes a fresh SAE and a generator and raises AssertionError where the SAE breaks it. Algebraic
laws hold at 1e-9 in float64, on a copy whose parameters are random (`in_general_position`): on a
fresh SAE, with zero biases and tied weights, many mistakes would cancel. Where a law does not fit
an architecture, the architecture declares so (see `SAE`), and the law then demands what was
declared. One law is statistical, `fresh_rows_are_at_chance`; beyond it there are no false alarms
but coincidences of real numbers.
"""

import copy
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae.base import SAE
from sae.config import TrainConfig
from sae.files import load, save
from sae.train import train

TOLERANCE = 1e-9  # of the largest entry, in float64
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def outputs_are_well_formed(sae: SAE, generator: torch.Generator) -> None:
    """Latents, pre-activations and x_hat have their shapes and the dtype of x; all are finite."""
    for dtype in DTYPES:
        model = in_general_position(sae, generator, dtype)
        for batch in (1, 5):
            x = _normal(generator, batch, sae.d_in, dtype=dtype)
            output = model(x)
            assert output.x_hat.shape == (batch, sae.d_in)
            assert output.latents.shape == output.pre_acts.shape == (batch, sae.n_latents)
            for tensor in (output.x_hat, output.latents, output.pre_acts, model.loss(x).total):
                assert tensor.dtype == dtype
                assert bool(torch.isfinite(tensor).all())


def forward_is_pure(sae: SAE, generator: torch.Generator) -> None:
    """Encoding, the forward pass and the loss change nothing and use no randomness."""
    model, x = in_general_position(sae, generator), _normal(generator, 5, sae.d_in)
    before, data, random = _everything(model), x.clone(), torch.random.get_rng_state()
    first = model(x), model.encode(x), model.loss(x, _half_dead(model)).total
    second = model(x), model.encode(x), model.loss(x, _half_dead(model)).total
    assert torch.equal(first[0].x_hat, second[0].x_hat)
    assert torch.equal(first[0].latents, second[0].latents)
    assert torch.equal(first[0].pre_acts, second[0].pre_acts)
    assert torch.equal(first[1], second[1])
    assert torch.equal(first[2], second[2])
    assert torch.equal(x, data)
    assert _same(before, _everything(model)), "the SAE has changed"
    assert torch.equal(random, torch.random.get_rng_state()), "the global generator was used"


def forward_is_decode_of_encode(sae: SAE, generator: torch.Generator) -> None:
    """forward(x) has the latents encode(x), their decoding, and the pre-activations, bit for bit;
    pre_acts(x) = (x - b_dec) @ W_enc + b_enc."""
    model, x = in_general_position(sae, generator), _normal(generator, 5, sae.d_in)
    output = model(x)
    assert torch.equal(output.latents, model.encode(x))
    assert torch.equal(output.x_hat, model.decode(model.encode(x)))
    assert torch.equal(output.pre_acts, model.pre_acts(x))
    formula = torch.einsum("bi,ij->bj", x - model.b_dec, model.W_enc) + model.b_enc
    _assert_close(output.pre_acts, formula)


def latents_are_non_negative(sae: SAE, generator: torch.Generator) -> None:
    """No latent is below 0, also where every pre-activation is; if `signed`, some are."""
    model = in_general_position(sae, generator)
    x = _normal(generator, 32, sae.d_in)
    if model.signed:
        with torch.no_grad():
            model.b_enc.zero_()  # so that either sign is as likely
        assert model.encode(x).min().item() < 0, "declared signed"
        return
    assert model.encode(x).min().item() >= 0
    assert model.loss(x).output.latents.min().item() >= 0
    with torch.no_grad():
        model.b_enc.fill_(-100.0)
    assert model.encode(x).min().item() >= 0


def l0_is_bounded(sae: SAE, generator: torch.Generator) -> None:
    """At most max_l0 latents are active in a sample, and max_mean_l0 in the mean of a training
    batch, also among tied pre-activations, in each dtype."""
    for dtype in DTYPES:
        model = in_general_position(sae, generator, dtype)
        x = _normal(generator, 16, sae.d_in, dtype=dtype)
        for tie in ("none", "pairs", "all"):
            with torch.no_grad():
                if tie == "pairs":
                    paired = torch.arange(model.n_latents) // 2 * 2
                    model.W_enc.copy_(model.W_enc[:, paired])
                    model.b_enc.copy_(model.b_enc[paired])
                if tie == "all":
                    model.W_enc.copy_(model.W_enc[:, :1].expand_as(model.W_enc).clone())
                    model.b_enc.fill_(1.0)
            active = int((model.encode(x) != 0).sum(1).max())
            assert active <= model.max_l0(), f"{active} active, ties: {tie}, {dtype}"
            trained = int((model.loss(x).output.latents != 0).sum())
            assert trained <= model.max_mean_l0() * len(x), (
                f"{trained} active, ties: {tie}, {dtype}"
            )


def encoding_is_per_sample(sae: SAE, generator: torch.Generator) -> None:
    """What a sample is encoded to does not depend on the rest of its batch."""
    model, x = in_general_position(sae, generator), _normal(generator, 16, sae.d_in)
    alone = torch.cat([model.encode(x[i : i + 1]) for i in range(len(x))])
    _assert_close(model.encode(x), alone)


def training_codes_as_after_it(sae: SAE, generator: torch.Generator) -> None:
    """The loss is computed from forward(x), bit for bit. If `batch_code`, it is not: each sample
    alone is then coded in another way than in its batch, unless all latents may be active."""
    model, x = in_general_position(sae, generator), _normal(generator, 32, sae.d_in)
    if not model.batch_code:
        assert torch.equal(model.loss(x).output.latents, model(x).latents)
    elif model.max_mean_l0() < model.n_latents:
        for _ in range(20):  # on one encoder the two may agree by chance
            with torch.no_grad():
                model.W_enc.copy_(_normal(generator, *model.W_enc.shape))
                model.b_enc.fill_(3.0)
            alone = [model.loss(x[i : i + 1]).output.latents for i in range(len(x))]
            latents = model.loss(x).output.latents
            if not torch.equal(latents != 0, torch.cat(alone) != 0):
                return
        raise AssertionError("declared batch_code")


def decoding_is_affine(sae: SAE, generator: torch.Generator) -> None:
    """decode(0) = b_dec, decode(e_j) - b_dec = W_dec_j, and decode(a z + b z') combines them."""
    model = in_general_position(sae, generator)
    units = torch.eye(model.n_latents, dtype=torch.float64)
    offset = model.decode(0 * units[:1])[0]
    _assert_close(offset, model.b_dec)
    _assert_close(model.decode(units) - offset, model.W_dec)
    z = _normal(generator, 2, model.n_latents)
    mixed = model.decode((2 * z[0] - 3 * z[1])[None])[0]
    parts = model.decode(z) - offset
    _assert_close(mixed, offset + 2 * parts[0] - 3 * parts[1])


def relabelling_permutes_the_code(sae: SAE, generator: torch.Generator) -> None:
    """Permuting the latents in all parameters permutes the code and leaves x_hat and the loss; if
    `ordered`, reversing them changes the loss (looked at where all of them fire)."""
    model, x = in_general_position(sae, generator), _normal(generator, 40, sae.d_in)
    order = torch.randperm(sae.n_latents, generator=generator)
    relabelled = _relabelled(model, order)
    _assert_close(relabelled(x).latents, model(x).latents[:, order])
    _assert_close(relabelled(x).x_hat, model(x).x_hat)
    if not model.ordered:
        _assert_close(relabelled.loss(x).total, model.loss(x).total)
    elif sae.n_latents > 1 and bool((model.training_output(x).latents != 0).any(0).all()):
        turned = _relabelled(model, torch.arange(sae.n_latents).flip(0)).loss(x).total
        assert abs((turned - model.loss(x).total).item()) > TOLERANCE, "declared ordered"


def rotation_leaves_the_code(sae: SAE, generator: torch.Generator) -> None:
    """Rotating x, W_enc, W_dec and b_dec together leaves the latents and rotates x_hat."""
    model, x = in_general_position(sae, generator), _normal(generator, 5, sae.d_in)
    rotation = torch.linalg.qr(_normal(generator, sae.d_in, sae.d_in))[0]
    rotated = copy.deepcopy(model)
    with torch.no_grad():
        rotated.W_enc.copy_(rotation.T @ model.W_enc)
        rotated.W_dec.copy_(model.W_dec @ rotation)
        rotated.b_dec.copy_(model.b_dec @ rotation)
    _assert_close(rotated(x @ rotation).latents, model(x).latents)
    _assert_close(rotated(x @ rotation).x_hat, model(x).x_hat @ rotation)


def scaling_scales_the_code(sae: SAE, generator: torch.Generator) -> None:
    """Multiplying x and all that `scales_with_x` by s > 0 multiplies latents and x_hat by s."""
    model, x = in_general_position(sae, generator), _normal(generator, 5, sae.d_in)
    for s in (0.3, 7.0):
        scaled = copy.deepcopy(model)
        for name in model.scales_with_x:
            value = getattr(scaled, name)
            if isinstance(value, Tensor):
                value.detach().mul_(s)
            else:
                setattr(scaled, name, s * value)
        _assert_close(scaled(s * x).latents, s * model(x).latents)
        _assert_close(scaled(s * x).x_hat, s * model(x).x_hat)


def loss_is_the_sum_of_its_terms(sae: SAE, generator: torch.Generator) -> None:
    """total = sum of the terms, all differentiable scalars; one named "mse" is E|x - x_hat|^2."""
    model, x = in_general_position(sae, generator), _normal(generator, 32, sae.d_in)
    for dead in (None, _half_dead(model)):
        loss = model.loss(x, dead)
        assert loss.total.shape == ()
        _assert_close(loss.total, torch.stack(list(loss.terms.values())).sum())
        x_hat = model.training_output(x).x_hat.detach()
        _assert_close(loss.output.x_hat, x_hat)
        naive = sum(float((a - b) @ (a - b)) for a, b in zip(x, x_hat, strict=True)) / len(x)
        mse = loss.terms["mse"].item() if "mse" in loss.terms else naive
        assert abs(mse - naive) <= TOLERANCE * (1 + naive)
        for name, term in loss.terms.items():
            assert term.shape == (), name
            assert term.requires_grad, f"{name} is not differentiable"
            gradients = _gradients(term, model)
            moved = [g for g in gradients.values() if bool((g != 0).any())]
            assert moved, f"{name} reaches no parameter"


def gradient_is_exact(sae: SAE, generator: torch.Generator) -> None:
    """Without dead latents the gradient of each term equals central differences, and that of the
    total is non-zero on every trained parameter, at points away from ties and from 0.

    In a parameter that is `straight_through` every term is flat, and yet there is a gradient. A
    term of `frozen_decoder_terms` has no gradient in W_dec, and in b_dec just the one that enters
    through the pre-activations, -W_enc @ (gradient of b_enc).
    """
    model = in_general_position(sae, generator)
    x, margin = _away_from_kinks(model, generator)
    gradients = {name: _gradients(term, model) for name, term in model.loss(x).terms.items()}
    estimates = _gradients(model.loss(_normal(generator, 256, sae.d_in)).total, model)
    step = min(1e-7, margin / 1000)  # so small that hardly any kink lies within it
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        found = [estimates] if name in model.straight_through else gradients.values()
        assert any(bool((g[name] != 0).any()) for g in found), f"no gradient on {name}"
        direction = _normal(generator, *parameter.shape)
        direction /= direction.norm()
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * step * direction
                values.append({k: float(v) for k, v in model.loss(x).terms.items()})
                parameter -= sign * step * direction
        for term, gradient in gradients.items():
            if term in model.frozen_decoder_terms and name in ("W_dec", "b_dec"):
                through_encoder = -model.W_enc @ gradient["b_enc"]
                _assert_close(gradient[name], through_encoder if name == "b_dec" else 0 * parameter)
                continue
            difference = (values[0][term] - values[1][term]) / (2 * step)
            slope = float((gradient[name] * direction).sum())
            slope = 0.0 if name in model.straight_through else slope
            scale = 1 + abs(values[0][term]) + float(gradient[name].norm())
            assert abs(difference - slope) <= 1e-5 * scale, (
                f"{term}, {name}: gradient {slope:.8g}, central difference {difference:.8g}"
            )


def revival_reaches_only_dead_latents(sae: SAE, generator: torch.Generator) -> None:
    """Terms that appear when latents are dead move the dead latents' encoder and decoder only.

    The residual they reconstruct is a constant, without the decoder's bias, so b_dec has just the
    gradient that enters through the pre-activations, -W_enc @ (gradient of b_enc). The other terms
    do not depend on which latents are dead. An architecture without such terms passes.
    """
    model, x = in_general_position(sae, generator), _normal(generator, 32, sae.d_in)
    dead = _half_dead(model)
    usual, revival = model.loss(x).terms, dict(model.loss(x, dead).terms)
    for name, term in usual.items():
        if name in revival:
            assert torch.equal(term, revival.pop(name)), f"{name} depends on the dead latents"
    for name, term in revival.items():
        gradients = _gradients(term, model)
        latent_first = {"W_enc": gradients["W_enc"].T, "W_dec": gradients["W_dec"]}
        latent_first["b_enc"] = gradients["b_enc"][:, None]
        for parameter, gradient in latent_first.items():
            assert bool((gradient[dead] != 0).any()), f"{name} does not reach dead {parameter}"
            assert not bool((gradient[~dead] != 0).any()), f"{name} reaches living {parameter}"
        if model.bias:
            _assert_close(gradients["b_dec"], -model.W_enc @ gradients["b_enc"])


def training_keeps_decoder_rows_unit(sae: SAE, generator: torch.Generator) -> None:
    """After training the rows of W_dec have norm 1 (to 1e-5 in float32); where not `unit_decoder`,
    some have not."""
    start = copy.deepcopy(sae)
    if sae.encoder_bias and not sae.unit_decoder:
        with torch.no_grad():
            start.b_enc.fill_(10.0)  # the row of a latent that is never active does not move
    norms = _trained(start, generator).W_dec.norm(dim=1)
    unit = bool(((norms - 1).abs() <= 1e-5).all())
    if sae.d_in > 1 or sae.unit_decoder:  # a fresh tied latent reconstructs a line exactly
        assert unit == sae.unit_decoder, f"norms {norms.tolist()}"


def training_lowers_the_loss(sae: SAE, generator: torch.Generator) -> None:
    """On samples each along one of d_in orthogonal lines of unequal energy, training lowers the
    loss of other samples, unless it starts below 30 % of their energy. d_in = 1 is too easy.

    Straight-through gradients are estimates, so that such an SAE has three trainings, of which one
    is to lower it: one latent of a JumpReLU whose bandwidth is that of the data misses its
    target_l0 and ends higher in a tenth of its trainings.
    """
    if sae.d_in == 1:
        return
    directions = torch.linalg.qr(_normal(generator, sae.d_in, sae.d_in))[0].float()

    def sample(n: int, *, generator: torch.Generator) -> Tensor:
        which = torch.randint(sae.d_in, (n,), generator=generator)
        scales = 2 / (1 + which[:, None])
        return scales * torch.randn(n, 1, generator=generator) * directions[which]

    before, x = copy.deepcopy(sae), sample(256, generator=generator)
    before.normalise_decoder_()
    start = float(before.loss(x).total.detach())
    if start < 0.3 * float(x.square().sum(1).mean()):
        return
    config = TrainConfig(60, 32, lr=0.02, warmup=0.0)
    ends = []
    for _ in range(3 if sae.straight_through else 1):
        after = train(copy.deepcopy(sae), sample, config, generator=generator).sae
        ends.append(float(after.loss(x).total.detach()))
        if ends[-1] < start:
            return
    raise AssertionError(f"loss {start:.4g} before training, {ends} after it")


def members_equal_solo_runs(sae: SAE, generator: torch.Generator) -> None:
    """In an ensemble each member ends bit for bit as if it had been trained alone."""
    members, state = (sae, _rebuilt(sae, generator)), generator.get_state()
    together = _trained(members, generator)
    for member, trained in zip(members, together, strict=True):
        generator.set_state(state)
        assert _same(_state(trained), _state(_trained((member,), generator)[0]))


def bias_is_trained_only_if_asked_for(sae: SAE, generator: torch.Generator) -> None:
    """bias=False keeps b_dec at 0 through training; bias=True lets it move with each step."""
    if sae.bias and sae.d_in == 1:
        return  # fresh latents of both signs reconstruct a line exactly: nothing is left to train
    state = generator.get_state()
    longer = _trained(sae, generator).b_dec
    generator.set_state(state)
    moved = not torch.equal(longer, _trained(sae, generator, n_steps=1).b_dec)
    assert moved == sae.bias, f"bias={sae.bias}, b_dec moved: {moved}"
    assert sae.bias or not bool((longer != 0).any()), f"bias=False, b_dec={longer.tolist()}"


def initialisation_follows_the_generator(sae: SAE, generator: torch.Generator) -> None:
    """Same settings and generator state give the same parameters; the next state gives others."""
    state, random = generator.get_state(), torch.random.get_rng_state()
    first = _rebuilt(sae, generator)
    following = _rebuilt(sae, generator)
    generator.set_state(state)
    assert _same(_state(first), _state(_rebuilt(sae, generator)))
    if sae.d_in > 1:  # in one dimension a unit row is 1 or -1
        assert not torch.equal(first.W_dec, following.W_dec)
    assert torch.equal(random, torch.random.get_rng_state()), "the global generator was used"


def fresh_rows_are_at_chance(sae: SAE, generator: torch.Generator) -> None:
    """The cosine of a fresh row of W_dec with a given direction has mean 0 and mean square 1/d_in.

    Of 300 rows, at a false alarm of 1e-10 by Hoeffding's bound, the mean may be off by 0.42 and the
    mean square by 0.21. With probability 99 % it catches a mean that is 0.55, or a mean square
    that is 0.28, away from chance, such as rows that start at one feature.
    """
    n_fresh = -(-300 // sae.n_latents)
    rows = torch.cat([_rebuilt(sae, generator).W_dec.detach() for _ in range(n_fresh)])
    radius = math.sqrt(math.log(2 * 2 * sae.d_in / 1e-10) / (2 * len(rows)))
    mean, square = rows.mean(0), rows.square().mean(0)
    assert bool((mean.abs() <= 2 * radius).all()), f"mean cosines {mean.tolist()}"
    off = (square - 1 / sae.d_in).abs()
    assert bool((off <= radius).all()), f"mean squared cosines {square.tolist()}"


def settings_rebuild_the_sae(sae: SAE, generator: torch.Generator) -> None:
    """An SAE made from settings() and the same weights has the same settings and latents."""
    model = in_general_position(sae, generator, torch.float32)
    rebuilt = _rebuilt(model, generator)
    assert rebuilt.settings() == model.settings()
    assert rebuilt.max_l0() == model.max_l0()
    rebuilt.load_state_dict(model.state_dict())
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    assert {name: p.requires_grad for name, p in rebuilt.named_parameters()} == wanted
    x = _normal(generator, 5, sae.d_in, dtype=torch.float32)
    _assert_same_function(rebuilt, model, x)


def files_are_exact(sae: SAE, generator: torch.Generator) -> None:
    """load(save(sae)) has the same architecture, settings, bits and outputs, in each dtype."""
    for dtype in DTYPES:
        model = in_general_position(sae, generator, dtype)
        with tempfile.TemporaryDirectory() as folder:
            save(model, Path(folder) / "sae")
            loaded = load(Path(folder) / "sae")
        assert type(loaded).__name__ == type(model).__name__
        assert loaded.settings() == model.settings()
        assert _same(loaded.state_dict(), model.state_dict())
        _assert_same_function(loaded, model, _normal(generator, 5, sae.d_in, dtype=dtype))


SAE_LAWS = (
    outputs_are_well_formed,
    forward_is_pure,
    forward_is_decode_of_encode,
    latents_are_non_negative,
    l0_is_bounded,
    encoding_is_per_sample,
    training_codes_as_after_it,
    decoding_is_affine,
    relabelling_permutes_the_code,
    rotation_leaves_the_code,
    scaling_scales_the_code,
    loss_is_the_sum_of_its_terms,
    gradient_is_exact,
    revival_reaches_only_dead_latents,
    training_keeps_decoder_rows_unit,
    training_lowers_the_loss,
    members_equal_solo_runs,
    bias_is_trained_only_if_asked_for,
    initialisation_follows_the_generator,
    fresh_rows_are_at_chance,
    settings_rebuild_the_sae,
    files_are_exact,
)


def in_general_position(
    sae: SAE, generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> SAE:
    """Returns a copy of `sae` in `dtype` with random untied parameters and buffers.

    b_enc is at least 1/2 and the columns of W_enc at least 1 long, so that on standard normal data
    each latent's pre-activation is positive for about half of the samples or more, also when few
    latents are looked at, and no other bias silences one.
    """
    model = copy.deepcopy(sae).to(dtype)
    with torch.no_grad():
        for value in _state(model).values():
            frozen = isinstance(value, torch.nn.Parameter) and not value.requires_grad
            if value.is_floating_point() and not frozen:
                value += 0.3 * _normal(generator, *value.shape, dtype=dtype)
        W_enc = dict(model.named_parameters()).get("W_enc")
        if W_enc is not None and W_enc.requires_grad:
            W_enc /= W_enc.norm(dim=0).clamp(max=1)
        if model.encoder_bias:
            model.b_enc.copy_(0.5 + 0.3 * _normal(generator, sae.n_latents, dtype=dtype).abs())
    return model


def _normal(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def _half_dead(model: SAE) -> Tensor:
    """Every second latent, the first one included."""
    return torch.arange(model.n_latents) % 2 == 0


def _away_from_kinks(model: SAE, generator: torch.Generator) -> tuple[Tensor, float]:
    """Four samples of 64 with an active latent, pre-activations farthest from each other and 0."""
    x = _normal(generator, 64, model.d_in)
    pre_acts = model.pre_acts(x).detach()
    ordered = torch.cat([pre_acts, torch.zeros(64, 1, dtype=torch.float64)], 1).sort(1).values
    active = (model.encode(x) != 0).any(1)
    best = (ordered.diff(dim=1).amin(1) * active).topk(4)
    return x[best.indices], float(best.values.min())


def _state(model: SAE) -> dict[str, Tensor]:
    """Parameters and buffers by name, also those that files leave out."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _everything(model: SAE) -> dict[str, Any]:
    """Copies of parameters, buffers, and every plain attribute."""
    tensors = {name: value.detach().clone() for name, value in _state(model).items()}
    return tensors | {k: copy.copy(v) for k, v in vars(model).items() if not k.startswith("_")}


def _same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    def equal(a: Any, b: Any) -> bool:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return a.dtype == b.dtype and torch.equal(a, b)
        return bool(a == b)

    return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)


def _gradients(value: Tensor, model: SAE) -> dict[str, Tensor]:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert value.requires_grad, "not differentiable"
    found = torch.autograd.grad(value, list(trained.values()), allow_unused=True, retain_graph=True)
    pairs = zip(trained.items(), found, strict=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in pairs}


def _trained(saes: Any, generator: torch.Generator, n_steps: int = 3) -> Any:
    """The SAE, or the tuple of SAEs, after some steps."""
    members = saes if isinstance(saes, tuple) else (saes,)

    def sample(n: int, *, generator: torch.Generator) -> Tensor:
        return 1 + _normal(generator, n, members[0].d_in, dtype=torch.float32)

    config = TrainConfig(n_steps, 8, lr=0.1, warmup=0.0, decay=0.0)
    trained = train(members, sample, config, generator=generator).saes
    return trained if isinstance(saes, tuple) else trained[0]


def _relabelled(model: SAE, order: Tensor) -> SAE:
    relabelled = copy.deepcopy(model)
    with torch.no_grad():
        for name, value in _state(relabelled).items():
            if name == "W_enc":
                value.copy_(value[:, order].clone())
            elif name != "b_dec" and value.is_floating_point() and value.ndim:
                value.copy_(value[order].clone())
    return relabelled


def _rebuilt(sae: SAE, generator: torch.Generator) -> SAE:
    try:
        settings = sae.settings()
    except AttributeError as error:
        raise AssertionError(f"a constructor argument is not stored: {error}") from error
    cls: Any = type(sae)
    return cls(**settings, generator=generator)


def _assert_same_function(first: SAE, second: SAE, x: Tensor) -> None:
    assert torch.equal(first(x).latents, second(x).latents)
    assert torch.equal(first(x).x_hat, second(x).x_hat)


def _assert_close(found: Tensor, wanted: Tensor) -> None:
    scale = 1 + float(wanted.detach().abs().max())
    error = float((found - wanted).detach().abs().max())
    assert error <= TOLERANCE * scale, f"differs by {error:.3g} at scale {scale:.3g}"
