"""Each law is broken by a twin with one planted defect, under the originals' own search."""

import pytest
import torch
from searching import search
from torch import nn

import sae.architectures.topk as topk_file
from sae import ReLU, SAEOutput, TopK
from sae import laws as sae_laws
from sae import strategies as saes
from sae.base import squared_error
from toymodels import Exclusive, Independent, RareProperty, RareRegime
from toymodels import laws as toy_laws
from toymodels import strategies as tms
from toymodels.events import Events, IndependentFiring

# Distributions ------------------------------------------------------------------------------------


class NegatedMagnitudes(Independent):
    def _sample(self, n, *, generator):
        events = super()._sample(n, generator=generator)
        return Events(events.rows, events.features, -events.values)


class DoubleMagnitudes(Independent):
    def _sample(self, n, *, generator):
        events = super()._sample(n, generator=generator)
        return Events(events.rows, events.features, events.values.double())


_HIDDEN = torch.Generator().manual_seed(0)


class HiddenGenerator(Independent):
    """Draws from a generator of its own, which goes on from call to call."""

    def _sample(self, n, *, generator):
        return super()._sample(n, generator=_HIDDEN)


class ConstantSeed(Independent):
    def _sample(self, n, *, generator):
        return super()._sample(n, generator=torch.Generator().manual_seed(0))


class GlobalGenerator(Independent):
    def _sample(self, n, *, generator):
        torch.rand(1)
        return super()._sample(n, generator=generator)


class MomentOfMeans(Independent):
    """Declares E[a] E[a]^T as the code moment: its diagonal is not the energies."""

    def _moment_times(self, v):
        return torch.outer(self.mean_codes(), self.mean_codes() @ v)


class EnergyWithoutVariance(Independent):
    """E[b]^2 for E[b^2] in the declared energies, and so in the code moment."""

    def code_energies(self):
        return self.firing_probs() * self.magnitude.mean() ** 2


class OffByTenPercent(Independent):
    """Declares 90 % of the probabilities at which its features fire."""

    def firing_probs(self):
        return 0.9 * super().firing_probs()

    @property
    def _firing(self):
        return IndependentFiring(Independent.firing_probs(self))


class FirstBatchMissesOne(Independent):
    """Never lets anything fire in the first sample of a batch: off by one in small batches."""

    def _sample(self, n, *, generator):
        events = super()._sample(n, generator=generator)
        keep = events.rows > n // 10
        return Events(events.rows[keep], events.features[keep], events.values[keep])


class UncorrelatedMoment(RareProperty):
    """Declares the code moment of carriers and properties that fire independently."""

    def _moment_times(self, v):
        mean = self.mean_codes()
        return torch.outer(mean, mean @ v) + (self.code_energies() - mean**2)[:, None] * v


class NotExclusive(Exclusive):
    """Declares exclusion, but its features fire independently."""

    def _sample(self, n, *, generator):
        rows, features = IndependentFiring(self.firing_probs()).draw(n, generator=generator)
        return Events(rows, features, self.magnitude.sample(len(rows), generator=generator))


class OneRegimePerBatch(RareRegime):
    """The regime is drawn once for two neighbouring samples: right marginals, shared state."""

    def _sample(self, n, *, generator):
        half = super()._sample((n + 1) // 2, generator=generator)
        rows = torch.cat([2 * half.rows, 2 * half.rows + 1])
        keep = rows < n
        features, values = half.features.repeat(2), half.values.repeat(2)
        return Events(rows[keep], features[keep], values[keep])


class SwappedMagnitudes(RareProperty):
    """Properties get the magnitudes declared for carriers, and the reverse."""

    def _sample(self, n, *, generator):
        events = super()._sample(n, generator=generator)
        carrier = events.features < self.n_carriers
        n_carriers = int(carrier.sum())
        values = torch.cat(
            [
                self.property_magnitude.sample(n_carriers, generator=generator),
                self.magnitude.sample(len(carrier) - n_carriers, generator=generator),
            ]
        )
        return Events(events.rows, events.features, values)


class OneMagnitudePerSample(Independent):
    """All features of a sample share one magnitude, which the code moment ignores."""

    def _sample(self, n, *, generator):
        rows, features = self._firing.draw(n, generator=generator)
        return Events(rows, features, self.magnitude.sample(n, generator=generator)[rows])


DISTRIBUTION_TWINS = [
    (toy_laws.samples_are_well_formed, NegatedMagnitudes),
    (toy_laws.samples_are_well_formed, DoubleMagnitudes),
    (toy_laws.same_state_gives_same_sample, HiddenGenerator),
    (toy_laws.streams_differ, ConstantSeed),
    (toy_laws.global_randomness_is_untouched, GlobalGenerator),
    (toy_laws.declared_moments_agree, MomentOfMeans),
    (toy_laws.firing_probs_are_exact, OffByTenPercent),
    (toy_laws.firing_probs_are_exact, FirstBatchMissesOne),
    (toy_laws.cofiring_is_exact, UncorrelatedMoment),
    (toy_laws.cofiring_is_exact, NotExclusive),
    (toy_laws.samples_are_independent, OneRegimePerBatch),
    (toy_laws.moments_are_exact, SwappedMagnitudes),
    (toy_laws.moments_are_exact, EnergyWithoutVariance),
    (toy_laws.moments_are_exact, OneMagnitudePerSample),
]


# SAEs ---------------------------------------------------------------------------------------------


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
    def __init__(self, d_in, n_latents, l1, *, bias=True, generator):
        super().__init__(d_in, n_latents, l1, bias=False, generator=generator)
        self.bias = bias


class GlobalInitialisation(TopK):
    def __init__(self, d_in, n_latents, k, *, aux_coefficient=1 / 32, bias=True, generator):
        kwargs = {"aux_coefficient": aux_coefficient, "bias": bias, "generator": generator}
        super().__init__(d_in, n_latents, k, **kwargs)
        nn.init.normal_(self.W_enc)


class IgnoresItsGenerator(ReLU):
    def __init__(self, d_in, n_latents, l1, *, bias=True, generator):
        generator = torch.Generator().manual_seed(0)
        super().__init__(d_in, n_latents, l1, bias=bias, generator=generator)


class StoresAnotherK(TopK):
    def __init__(self, d_in, n_latents, k, *, aux_coefficient=1 / 32, bias=True, generator):
        kwargs = {"aux_coefficient": aux_coefficient, "bias": bias, "generator": generator}
        super().__init__(d_in, n_latents, k, **kwargs)
        self.k = max(1, k // 2)


class ForgetsAnArgument(ReLU):
    def __init__(self, d_in, n_latents, l1, *, bias=True, generator):
        super().__init__(d_in, n_latents, l1, bias=bias, generator=generator)
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
    (sae_laws.outputs_are_well_formed, HalfPrecisionCode),
    (sae_laws.forward_is_pure, CountsItsCalls),
    (sae_laws.forward_is_pure, NoisyEncoder),
    (sae_laws.forward_is_decode_of_encode, ForwardDecodesPreActs),
    (sae_laws.forward_is_decode_of_encode, EncoderForgetsDecoderBias),
    (sae_laws.latents_are_non_negative, SignedTopK),
    (sae_laws.l0_is_bounded, KeepsTies),
    (sae_laws.l0_is_bounded, KeepsOneMore),
    (sae_laws.decoding_is_affine, QuadraticDecoder),
    (sae_laws.decoding_is_affine, DecoderWithoutBias),
    (sae_laws.relabelling_permutes_the_code, FirstLatentIsSpecial),
    (sae_laws.rotation_leaves_the_code, AxisDependentEncoder),
    (sae_laws.scaling_scales_the_code, SaturatingLatents),
    (sae_laws.loss_is_the_sum_of_its_terms, TotalForgetsATerm),
    (sae_laws.loss_is_the_sum_of_its_terms, PenaltyWithoutGradient),
    (sae_laws.loss_is_the_sum_of_its_terms, MeanOverCoordinates),
    (sae_laws.gradient_is_exact, StraightThrough),
    (sae_laws.gradient_is_exact, FrozenEncoderBias),
    (sae_laws.gradient_is_exact, PenaltyWithoutGradient),
    (sae_laws.revival_reaches_only_dead_latents, AuxResidualNotDetached),
    (sae_laws.revival_reaches_only_dead_latents, AuxWithDoubleBias),
    (sae_laws.revival_reaches_only_dead_latents, AuxFromAllLatents),
    (sae_laws.revival_reaches_only_dead_latents, AuxWithoutDecoder),
    (sae_laws.revival_reaches_only_dead_latents, MseSeesTheDead),
    (sae_laws.training_keeps_decoder_rows_unit, NeverNormalised),
    (sae_laws.bias_is_trained_only_if_asked_for, BiasAlwaysTrained),
    (sae_laws.bias_is_trained_only_if_asked_for, BiasNeverTrained),
    (sae_laws.initialisation_follows_the_generator, GlobalInitialisation),
    (sae_laws.initialisation_follows_the_generator, IgnoresItsGenerator),
    (sae_laws.settings_rebuild_the_sae, StoresAnotherK),
    (sae_laws.settings_rebuild_the_sae, ForgetsAnArgument),
    (sae_laws.files_are_exact, UnsavedScale),
]


def _name(value):
    return getattr(value, "__qualname__", value.__name__)


@pytest.mark.parametrize(("law", "twin"), DISTRIBUTION_TWINS, ids=_name)
def test_a_broken_distribution_is_caught(law, twin):
    with pytest.raises(AssertionError):
        search(twin, law, tms.generators())


@pytest.mark.parametrize(("law", "twin"), SAE_TWINS, ids=_name)
def test_a_broken_sae_is_caught(law, twin):
    with pytest.raises(AssertionError):
        search(twin, law, saes.generators())


def test_every_law_has_a_twin():
    assert set(toy_laws.DISTRIBUTION_LAWS) == {law for law, _ in DISTRIBUTION_TWINS}
    assert set(sae_laws.SAE_LAWS) == {law for law, _ in SAE_TWINS}


def test_every_law_is_listed():
    """A public function of a laws module with the signature of a law is in the tuple."""
    for module, laws in ((toy_laws, toy_laws.DISTRIBUTION_LAWS), (sae_laws, sae_laws.SAE_LAWS)):
        written = {
            value
            for name, value in vars(module).items()
            if not name.startswith("_")
            and getattr(value, "__module__", "") == module.__name__
            and list(getattr(value, "__annotations__", {}))[1:] == ["generator", "return"]
        }
        assert written == set(laws)
        assert all(law.__doc__ for law in laws)
