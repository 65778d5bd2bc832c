"""Every distribution and dictionary found in the folders obeys every law."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toymodels import Dictionary, ToyDistribution, all_dictionaries, all_distributions
from toymodels import strategies as tms
from toymodels.laws import DISTRIBUTION_LAWS, STATISTICAL_LAWS


@pytest.mark.parametrize("law", DISTRIBUTION_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("cls", all_distributions(), ids=lambda cls: cls.__name__)
def test_law(cls, law):
    # Each example of a statistical law draws up to a million samples; and there are many classes.
    most = 20 if law in STATISTICAL_LAWS else 200

    @settings(max_examples=min(most, settings().max_examples))
    @given(dist=cls.strategy(), generator=tms.generators())
    def attempt(dist, generator):
        law(dist, generator)

    attempt()


@given(dictionary=tms.dictionaries())
def test_dictionary_measures_agree_with_loops(dictionary):
    v = dictionary.vectors
    n = dictionary.n_features
    cosines = [float(v[i] @ v[j]) for i in range(n) for j in range(n) if i != j]
    assert torch.allclose(v.norm(dim=1), torch.ones(n, dtype=v.dtype))
    assert dictionary.coherence() == pytest.approx(max(map(abs, cosines), default=0), abs=1e-12)
    rms = (sum(c * c for c in cosines) / max(1, len(cosines))) ** 0.5
    assert dictionary.rms_coherence() == pytest.approx(rms, abs=1e-12)
    low, high = dictionary.frame_bounds()
    x = torch.ones(dictionary.d_in, dtype=v.dtype)
    energy = float((v @ x).square().sum() / (x @ x))
    assert low - 1e-9 <= energy <= high + 1e-9
    assert low + high == pytest.approx(n, abs=1e-9) or dictionary.d_in != 2


@pytest.mark.parametrize("make", all_dictionaries(), ids=lambda f: f.__name__)
def test_each_dictionary_file_has_a_strategy(make):
    import importlib

    strategy = importlib.import_module(make.__module__).strategy()

    @given(strategy)
    def each(dictionary):
        assert torch.allclose(dictionary.vectors.norm(dim=1), torch.ones(()).double())

    each()


@given(st.from_type(ToyDistribution), st.from_type(Dictionary))
def test_types_are_registered_with_hypothesis(dist, dictionary):
    assert dist.firing_probs().shape == (dist.n_features,)
    assert dictionary.vectors.shape == (dictionary.n_features, dictionary.d_in)
