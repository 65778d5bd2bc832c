"""Every architecture found in the folder obeys every law."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae import all_saes
from sae import strategies as saes
from sae.laws import SAE_LAWS


@pytest.mark.parametrize("law", SAE_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("cls", all_saes(), ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_law(cls, law, data):
    law(data.draw(cls.strategy()), data.draw(saes.generators()))


@given(sae=saes.saes())
def test_saes_draws_every_architecture_at_small_sizes(sae):
    assert type(sae) in all_saes()
    assert sae.W_enc.shape == (sae.d_in, sae.n_latents) == sae.W_dec.T.shape
