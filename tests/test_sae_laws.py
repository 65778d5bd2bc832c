"""Every architecture found in the folder obeys every law."""

import pytest
from hypothesis import given, settings

from sae import all_saes
from sae import strategies as saes
from sae.laws import SAE_LAWS, members_equal_solo_runs, training_lowers_the_loss

# By how much the number of examples is divided, as there are many architectures; more for laws that
# train for longer. No law gets more than 200 for each architecture.
SHARES = {training_lowers_the_loss: 10, members_equal_solo_runs: 4}


@pytest.mark.parametrize("law", SAE_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("cls", all_saes(), ids=lambda cls: cls.__name__)
def test_law(cls, law):
    @settings(max_examples=max(2, min(400, settings().max_examples) // SHARES.get(law, 2)))
    @given(sae=cls.strategy(), generator=saes.generators())
    def obeys(sae, generator):
        law(sae, generator)

    obeys()


@given(sae=saes.saes())
def test_saes_draws_every_architecture_at_small_sizes(sae):
    assert type(sae) in all_saes()
    assert sae.W_enc.shape == (sae.d_in, sae.n_latents) == sae.W_dec.T.shape
