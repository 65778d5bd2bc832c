"""Each law of SAEs is broken by a twin with one planted defect, under its own search."""

import itertools

import pytest
import torch
from searching import search, written_laws
from torch import nn

import sae.architectures.batch_topk as batch_topk_file
import sae.architectures.topk as topk_file
from sae import (
    AbsTopK,
    BatchTopK,
    Gated,
    JumpReLU,
    MatryoshkaReLU,
    ReLU,
    SAEOutput,
    TiedLinear,
    TopK,
    laws,
)
from sae import strategies as saes
from sae.base import squared_error


class HalfPrecisionCode(TopK):
    """Latents always in float32, whatever the dtype of the data."""

    def activate(self, pre_acts):
        return super().activate(pre_acts).float()

    def decode(self, latents):
        return super().decode(latents.to(self.W_dec.dtype))


class CountsItsCalls(TopK):
    calls = 0

    def forward(self, x):
        self.calls = self.calls + 1
        return super().forward(x)


class NoisyEncoder(ReLU):
    def activate(self, pre_acts):
        return (pre_acts + 0.1 * torch.randn(pre_acts.shape)).relu()


class ForwardDecodesPreActs(TopK):
    """Reconstructs from ReLU(pre_acts), not from the code that it returns."""

    def forward(self, x):
        output = super().forward(x)
        return SAEOutput(self.decode(output.pre_acts.relu()), output.latents, output.pre_acts)


class EncoderForgetsDecoderBias(ReLU):
    def pre_acts(self, x):
        return x @ self.W_enc + self.b_enc


class SignedTopK(TopK):
    """The k largest, without the ReLU."""

    def activate(self, pre_acts):
        values, indices = pre_acts.topk(self.k, dim=1)
        return torch.zeros_like(pre_acts).scatter(1, indices, values)


class KeepsTies(TopK):
    """Keeps all that reach the k-th largest: more than k where there are ties."""

    def activate(self, pre_acts):
        threshold = pre_acts.topk(self.k, dim=1).values[:, -1:]
        return torch.where(pre_acts >= threshold, pre_acts, 0).relu()


class KeepsOneMore(TopK):
    def activate(self, pre_acts):
        return topk_file.keep_largest(pre_acts, min(self.k + 1, self.n_latents))


class ThresholdForgotten(BatchTopK):
    """Encodes with the budget of the batch after training too."""

    def activate(self, pre_acts):
        n = max(1, int(self.k * len(pre_acts)))
        return batch_topk_file.keep_largest_of_batch(pre_acts, n)


class OverspendsItsBatch(BatchTopK):
    """One latent more than floor(k * batch)."""

    def training_output(self, x):
        pre_acts = self.pre_acts(x)
        n = min(int(self.k * len(x)) + 1, pre_acts.numel())
        latents = batch_topk_file.keep_largest_of_batch(pre_acts, n)
        return SAEOutput(self.decode(latents), latents, pre_acts)


class TrainsWithoutTheReLU(TopK):
    """The loss sees signed latents, encode does not."""

    def training_output(self, x):
        pre_acts = self.pre_acts(x)
        return SAEOutput(self.decode(pre_acts), pre_acts, pre_acts)


class TrainsWithMore(TopK):
    """The loss sees the ReLU of all pre-activations, encode the k largest."""

    def training_output(self, x):
        pre_acts = self.pre_acts(x)
        return SAEOutput(self.decode(pre_acts.relu()), pre_acts.relu(), pre_acts)


class SaysSigned(TopK):
    signed = True


class SaysBatchCode(TopK):
    batch_code = True


class SaysOrdered(TopK):
    ordered = True


class PrefixesUndeclared(MatryoshkaReLU):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ordered = False


class SaysStraightThrough(ReLU):
    straight_through = ("b_enc",)


class StraightThroughUndeclared(JumpReLU):
    straight_through = ()


class ThresholdUnlearnable(JumpReLU):
    """The penalty and the jump have no gradient: the threshold stays where it starts."""

    def _shift(self):
        return torch.zeros_like(self.threshold)


class ThresholdWithoutAUnit(JumpReLU):
    scales_with_x = ("b_enc", "b_dec")


class SaysFrozenDecoder(ReLU):
    frozen_decoder_terms = ("mse",)


class FrozenDecoderUndeclared(Gated):
    frozen_decoder_terms = ()


class GateMovesTheDecoder(Gated):
    def _terms(self, x, output, dead):
        terms = super()._terms(x, output, dead)
        return terms | {"gate_mse": squared_error(x, self.decode(output.pre_acts.relu()))}


class SaysFreeRows(AbsTopK):
    """Not unit_decoder, but normalises all the same."""

    unit_decoder = False

    def normalise_decoder_(self):
        with torch.no_grad():
            self.W_dec /= self.W_dec.norm(dim=1, keepdim=True)


class ClimbsTheLoss(TopK):
    """The right loss with the opposite gradient."""

    def _terms(self, x, output, dead):
        terms = super()._terms(x, output, dead)
        return {name: 2 * term.detach() - term for name, term in terms.items()}


class NeverMoves(TiedLinear):
    def remove_radial_gradient_(self):
        for parameter in self.parameters():
            parameter.grad = torch.zeros_like(parameter)


class SharedCounter(ReLU):
    """Members share a state: the n-th SAE to step learns otherwise than the first."""

    steps = itertools.count()

    def after_step_(self, output, *, generator):
        with torch.no_grad():
            self.b_enc += 0.01 * next(self.steps)


class GlobalRandomStep(ReLU):
    def after_step_(self, output, *, generator):
        with torch.no_grad():
            self.b_enc += 0.1 * torch.randn(self.n_latents)


class StartsAtAFeature(TopK):
    """All rows start along the first axis."""

    def __init__(self, d_in, n_latents, k, *, aux_coefficient=1 / 32, bias=True, generator):
        kwargs = {"aux_coefficient": aux_coefficient, "bias": bias, "generator": generator}
        super().__init__(d_in, n_latents, k, **kwargs)
        with torch.no_grad():
            self.W_dec.copy_(torch.eye(d_in)[0].expand(n_latents, d_in))


class StartsInOneOrthant(TopK):
    def __init__(self, d_in, n_latents, k, *, aux_coefficient=1 / 32, bias=True, generator):
        kwargs = {"aux_coefficient": aux_coefficient, "bias": bias, "generator": generator}
        super().__init__(d_in, n_latents, k, **kwargs)
        with torch.no_grad():
            self.W_dec.abs_()


class QuadraticDecoder(ReLU):
    def decode(self, latents):
        return super().decode(latents + 0.01 * latents.square())


class DecoderWithoutBias(ReLU):
    def decode(self, latents):
        return latents @ self.W_dec


class FirstLatentIsSpecial(ReLU):
    """Latent 0 inhibits the others: the code depends on the labels."""

    def activate(self, pre_acts):
        first = pre_acts[:, :1].relu()
        return torch.cat([first, (pre_acts[:, 1:] - 0.1 * first).relu()], dim=1)


class AxisDependentEncoder(ReLU):
    """Looks at |x_0| as well: not invariant under rotation."""

    def activate(self, pre_acts):
        return pre_acts.relu()

    def pre_acts(self, x):
        return super().pre_acts(x) + 0.1 * (x - self.b_dec)[:, :1].abs()


class SaturatingLatents(ReLU):
    def activate(self, pre_acts):
        return pre_acts.relu().tanh()


class TotalForgetsATerm(ReLU):
    def loss(self, x, dead=None):
        loss = super().loss(x, dead)
        return type(loss)(loss.terms["mse"], loss.terms, loss.output)


class PenaltyWithoutGradient(ReLU):
    def _terms(self, x, output, dead):
        terms = super()._terms(x, output, dead)
        return terms | {"l1": terms["l1"].detach()}


class MeanOverCoordinates(TopK):
    """The mse per coordinate, not per sample."""

    def _terms(self, x, output, dead):
        terms = super()._terms(x, output, dead)
        return terms | {"mse": terms["mse"] / self.d_in}


class StraightThrough(TopK):
    """The gradient of all pre-activations, whether kept or not."""

    def activate(self, pre_acts):
        kept = super().activate(pre_acts)
        return kept.detach() + pre_acts - pre_acts.detach()


class FrozenEncoderBias(ReLU):
    def pre_acts(self, x):
        return (x - self.b_dec) @ self.W_enc + self.b_enc.detach()


def _aux(self, output, dead, residual, offset):
    k_aux = min(max(1, self.d_in // 2), int(dead.sum()))
    candidates = topk_file.keep_largest(output.pre_acts[:, dead], k_aux)
    return self.aux_coefficient * squared_error(residual, candidates @ self.W_dec[dead] + offset)


class AuxResidualNotDetached(TopK):
    def _terms(self, x, output, dead):
        terms = super()._terms(x, output, dead)
        if bool(dead.any()):
            terms["aux"] = _aux(self, output, dead, x - output.x_hat, 0.0)
        return terms


class AuxWithDoubleBias(TopK):
    """Adds b_dec to r_hat, though the residual has it removed already."""

    def _terms(self, x, output, dead):
        terms = super()._terms(x, output, dead)
        if bool(dead.any()):
            terms["aux"] = _aux(self, output, dead, (x - output.x_hat).detach(), self.b_dec)
        return terms


class AuxFromAllLatents(TopK):
    """Revives with the largest pre-activations of all latents, not of the dead ones."""

    def _terms(self, x, output, dead):
        terms = super()._terms(x, output, dead)
        if bool(dead.any()):
            everyone = torch.ones_like(dead)
            terms["aux"] = _aux(self, output, everyone, (x - output.x_hat).detach(), 0.0)
        return terms


class AuxWithoutDecoder(TopK):
    def _terms(self, x, output, dead):
        terms = super()._terms(x, output, dead)
        if bool(dead.any()):
            candidates = output.pre_acts[:, dead].relu() @ self.W_dec[dead].detach()
            terms["aux"] = squared_error((x - output.x_hat).detach(), candidates)
        return terms


class MseSeesTheDead(TopK):
    """Leaves samples on which a dead latent fires out of the mse."""

    def _terms(self, x, output, dead):
        terms = super()._terms(x, output, dead)
        return terms | {"mse": terms["mse"] * (1 + dead.float().mean())}


class NeverNormalised(TopK):
    def normalise_decoder_(self):
        pass


class BiasAlwaysTrained(TopK):
    """bias=False is stored but b_dec is trained all the same."""

    def __init__(self, d_in, n_latents, k, *, aux_coefficient=1 / 32, bias=True, generator):
        kwargs = {"aux_coefficient": aux_coefficient, "bias": bias, "generator": generator}
        super().__init__(d_in, n_latents, k, **kwargs)
        self.b_dec.requires_grad_(True)


class BiasNeverTrained(ReLU):
    def __init__(self, d_in, n_latents, l1, *, unit_decoder=True, bias=True, generator):
        kwargs = {"unit_decoder": unit_decoder, "bias": False, "generator": generator}
        super().__init__(d_in, n_latents, l1, **kwargs)
        self.bias = bias


class GlobalInitialisation(TopK):
    def __init__(self, d_in, n_latents, k, *, aux_coefficient=1 / 32, bias=True, generator):
        kwargs = {"aux_coefficient": aux_coefficient, "bias": bias, "generator": generator}
        super().__init__(d_in, n_latents, k, **kwargs)
        nn.init.normal_(self.W_enc)


class IgnoresItsGenerator(ReLU):
    def __init__(self, d_in, n_latents, l1, *, unit_decoder=True, bias=True, generator):
        generator = torch.Generator().manual_seed(0)
        kwargs = {"unit_decoder": unit_decoder, "bias": bias, "generator": generator}
        super().__init__(d_in, n_latents, l1, **kwargs)


class StoresAnotherK(TopK):
    def __init__(self, d_in, n_latents, k, *, aux_coefficient=1 / 32, bias=True, generator):
        kwargs = {"aux_coefficient": aux_coefficient, "bias": bias, "generator": generator}
        super().__init__(d_in, n_latents, k, **kwargs)
        self.k = max(1, k // 2)


class ForgetsAnArgument(ReLU):
    def __init__(self, d_in, n_latents, l1, *, unit_decoder=True, bias=True, generator):
        kwargs = {"unit_decoder": unit_decoder, "bias": bias, "generator": generator}
        super().__init__(d_in, n_latents, l1, **kwargs)
        self.coefficient = self.__dict__.pop("l1")


class UnsavedScale(TopK):
    """Has a state that files leave out."""

    def __init__(self, d_in, n_latents, k, *, aux_coefficient=1 / 32, bias=True, generator):
        kwargs = {"aux_coefficient": aux_coefficient, "bias": bias, "generator": generator}
        super().__init__(d_in, n_latents, k, **kwargs)
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def activate(self, pre_acts):
        return super().activate(pre_acts) * self.scale.abs()


UnsavedScale.__name__ = "TopK"  # so that load finds an architecture of this name


SAE_TWINS = [
    (laws.outputs_are_well_formed, HalfPrecisionCode),
    (laws.forward_is_pure, CountsItsCalls),
    (laws.forward_is_pure, NoisyEncoder),
    (laws.forward_is_decode_of_encode, ForwardDecodesPreActs),
    (laws.forward_is_decode_of_encode, EncoderForgetsDecoderBias),
    (laws.latents_are_non_negative, SignedTopK),
    (laws.latents_are_non_negative, TrainsWithoutTheReLU),
    (laws.latents_are_non_negative, SaysSigned),
    (laws.l0_is_bounded, KeepsTies),
    (laws.l0_is_bounded, KeepsOneMore),
    (laws.l0_is_bounded, OverspendsItsBatch),
    (laws.l0_is_bounded, TrainsWithMore),
    (laws.encoding_is_per_sample, ThresholdForgotten),
    (laws.training_codes_as_after_it, TrainsWithMore),
    (laws.training_codes_as_after_it, SaysBatchCode),
    (laws.decoding_is_affine, QuadraticDecoder),
    (laws.decoding_is_affine, DecoderWithoutBias),
    (laws.relabelling_permutes_the_code, FirstLatentIsSpecial),
    (laws.relabelling_permutes_the_code, SaysOrdered),
    (laws.relabelling_permutes_the_code, PrefixesUndeclared),
    (laws.rotation_leaves_the_code, AxisDependentEncoder),
    (laws.scaling_scales_the_code, SaturatingLatents),
    (laws.scaling_scales_the_code, ThresholdWithoutAUnit),
    (laws.loss_is_the_sum_of_its_terms, TotalForgetsATerm),
    (laws.loss_is_the_sum_of_its_terms, PenaltyWithoutGradient),
    (laws.loss_is_the_sum_of_its_terms, MeanOverCoordinates),
    (laws.gradient_is_exact, StraightThrough),
    (laws.gradient_is_exact, FrozenEncoderBias),
    (laws.gradient_is_exact, PenaltyWithoutGradient),
    (laws.gradient_is_exact, SaysStraightThrough),
    (laws.gradient_is_exact, StraightThroughUndeclared),
    (laws.gradient_is_exact, ThresholdUnlearnable),
    (laws.gradient_is_exact, SaysFrozenDecoder),
    (laws.gradient_is_exact, FrozenDecoderUndeclared),
    (laws.gradient_is_exact, GateMovesTheDecoder),
    (laws.revival_reaches_only_dead_latents, AuxResidualNotDetached),
    (laws.revival_reaches_only_dead_latents, AuxWithDoubleBias),
    (laws.revival_reaches_only_dead_latents, AuxFromAllLatents),
    (laws.revival_reaches_only_dead_latents, AuxWithoutDecoder),
    (laws.revival_reaches_only_dead_latents, MseSeesTheDead),
    (laws.training_keeps_decoder_rows_unit, NeverNormalised),
    (laws.training_keeps_decoder_rows_unit, SaysFreeRows),
    (laws.training_lowers_the_loss, ClimbsTheLoss),
    (laws.training_lowers_the_loss, NeverMoves),
    (laws.members_equal_solo_runs, SharedCounter),
    (laws.members_equal_solo_runs, GlobalRandomStep),
    (laws.bias_is_trained_only_if_asked_for, BiasAlwaysTrained),
    (laws.bias_is_trained_only_if_asked_for, BiasNeverTrained),
    (laws.initialisation_follows_the_generator, GlobalInitialisation),
    (laws.initialisation_follows_the_generator, IgnoresItsGenerator),
    (laws.fresh_rows_are_at_chance, StartsAtAFeature),
    (laws.fresh_rows_are_at_chance, StartsInOneOrthant),
    (laws.settings_rebuild_the_sae, StoresAnotherK),
    (laws.settings_rebuild_the_sae, ForgetsAnArgument),
    (laws.files_are_exact, UnsavedScale),
]


def _name(value):
    return getattr(value, "__qualname__", value.__name__)


@pytest.mark.parametrize(("law", "twin"), SAE_TWINS, ids=_name)
def test_a_broken_sae_is_caught(law, twin):
    with pytest.raises(AssertionError):
        search(twin, law, saes.generators())


def test_every_law_has_a_twin():
    assert set(laws.SAE_LAWS) == {law for law, _ in SAE_TWINS}


def test_every_law_is_listed():
    """A public function of the laws module with the signature of a law is in the tuple."""
    assert written_laws(laws) == set(laws.SAE_LAWS)
    assert all(law.__doc__ for law in laws.SAE_LAWS)
