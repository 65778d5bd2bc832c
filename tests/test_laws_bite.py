"""Each law of distributions is broken by a twin with one planted defect, under its own search."""

import pytest
import torch
from hypothesis import strategies as st
from searching import search, written_laws

from toymodels import Exclusive, Independent, RareProperty, RareRegime, Signed, laws
from toymodels import strategies as tms
from toymodels.events import Events, IndependentFiring


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

    def _moment_times(self, v):
        return self.magnitude.mean() ** 2 * self._cofiring_times(v)


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


class SignsOfOneSample(Signed):
    """All features of a sample have one sign, which the code moment ignores."""

    def _sample(self, n, *, generator):
        events = super()._sample(n, generator=generator)
        signs = 1 - 2 * torch.randint(2, (n,), generator=generator)
        return Events(events.rows, events.features, events.values.abs() * signs[events.rows])


class TenPercentOfAHundredth(Independent):
    """Fires 10 % more often than declared, where the declared probability is 0.01."""

    @property
    def _firing(self):
        return IndependentFiring(1.1 * self.firing_probs())

    @classmethod
    def strategy(cls):
        return st.integers(1, 8).map(lambda n: cls(n, 0.01))


class OthersStayAsTheyWere(Exclusive):
    """Given a feature, the others keep their own probabilities."""

    def _given(self, feature):
        probs = self.firing_probs().clone()
        probs[feature] = 1.0
        return Independent(self.n_features, probs, self.magnitude)


class OthersBecomeIndependent(RareProperty):
    """Given a feature, the others keep their conditional probabilities but not their dependence."""

    def _given(self, feature):
        probs = self.cofiring_probs()[feature] / self.firing_probs()[feature]
        return Independent(self.n_features, probs, self.magnitude)

    def sample_given(self, n, feature, *, generator):
        return super()._given(feature).sample(n, generator=generator)


class RejectsTheWrongOnes(Exclusive):
    """Draws the samples in which the next feature fires, and declares nothing."""

    def _given(self, feature):
        raise NotImplementedError

    def sample_given(self, n, feature, *, generator):
        wrong = (feature + 1) % self.n_features
        probs = self.firing_probs()
        feature = wrong if probs[wrong] > 0.02 else feature
        return super().sample_given(n, feature, generator=generator)


DISTRIBUTION_TWINS = [
    (laws.samples_are_well_formed, NegatedMagnitudes),
    (laws.samples_are_well_formed, DoubleMagnitudes),
    (laws.same_state_gives_same_sample, HiddenGenerator),
    (laws.streams_differ, ConstantSeed),
    (laws.global_randomness_is_untouched, GlobalGenerator),
    (laws.declared_moments_agree, MomentOfMeans),
    (laws.firing_probs_are_exact, OffByTenPercent),
    (laws.firing_probs_are_exact, FirstBatchMissesOne),
    (laws.firing_probs_are_exact, TenPercentOfAHundredth),
    (laws.cofiring_is_exact, UncorrelatedMoment),
    (laws.cofiring_is_exact, NotExclusive),
    (laws.samples_are_independent, OneRegimePerBatch),
    (laws.moments_are_exact, SwappedMagnitudes),
    (laws.moments_are_exact, EnergyWithoutVariance),
    (laws.moments_are_exact, OneMagnitudePerSample),
    (laws.moments_are_exact, SignsOfOneSample),
    (laws.conditional_law_is_exact, OthersStayAsTheyWere),
    (laws.conditional_law_is_exact, OthersBecomeIndependent),
    (laws.conditional_law_is_exact, RejectsTheWrongOnes),
]


@pytest.mark.parametrize(("law", "twin"), DISTRIBUTION_TWINS, ids=lambda v: v.__name__)
def test_a_broken_distribution_is_caught(law, twin):
    with pytest.raises(AssertionError):
        search(twin, law, tms.generators())


def test_every_law_has_a_twin():
    assert set(laws.DISTRIBUTION_LAWS) == {law for law, _ in DISTRIBUTION_TWINS}


def test_every_law_is_listed():
    """A public function of the laws module with the signature of a law is in the tuple."""
    assert written_laws(laws) == set(laws.DISTRIBUTION_LAWS)
    assert all(law.__doc__ for law in laws.DISTRIBUTION_LAWS)
