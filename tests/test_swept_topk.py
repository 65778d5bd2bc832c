"""The ordered SAE with frozen latents: each stays exactly as it was when the sweep passed it."""

import copy

import pytest
import torch

from sae import OrderedTopK, TrainConfig, load, save, train
from sae.architectures.swept_topk import SweptTopK
from toymodels import Independent, ToyModel, random_unit, stream

D_IN, N, K, START, EVERY = 6, 10, 3, 4, 3
LAW = (1 / N,) * N
WORLD = ToyModel(Independent(12, 0.2), random_unit(12, D_IN, generator=stream(0, "dictionary")))


def swept(kind=SweptTopK, start=START, every=EVERY, **options):
    return kind(D_IN, N, K, LAW, start, every, **options, generator=stream(0, "init"))


def trained(sae, n_steps, **options):
    """Without a schedule, so that a shorter run is the beginning of a longer one."""
    config = TrainConfig(n_steps, 16, lr=1e-2, warmup=0.0, decay=0.0, dead_after=50, **options)
    return train(sae, WORLD, config, generator=stream(0, "train")).sae


def latent(sae, i):
    return torch.cat([sae.W_dec[i], sae.W_enc[:, i], sae.b_enc[i : i + 1]]).detach()


def assert_frozen_in_turn(kind):
    """Bit for bit; the next latents still move, and so does b_dec."""
    late = trained(swept(kind), 30)
    assert late.n_swept() == (30 - START) // EVERY
    for i in range(late.n_swept()):
        then = trained(swept(kind), START + EVERY * (i + 1))
        assert then.n_swept() == i + 1
        assert torch.equal(latent(late, i), latent(then, i))
        assert not torch.equal(latent(late, i + 1), latent(then, i + 1))
        assert not torch.equal(late.b_dec, then.b_dec)


def test_latents_are_frozen_one_after_another():
    assert_frozen_in_turn(SweptTopK)


class WithoutGradient(SweptTopK):
    """A broken twin: frozen latents get no gradient, but Adam's momentum carries them on."""

    def remove_radial_gradient_(self):
        super().remove_radial_gradient_()
        n = self.n_swept()
        self.W_dec.grad[:n], self.W_enc.grad[:, :n], self.b_enc.grad[:n] = 0, 0, 0

    def after_step_(self, output, *, generator):
        self.n_steps += 1


def test_a_gradient_of_zero_is_not_enough():
    with pytest.raises(AssertionError):
        assert_frozen_in_turn(WithoutGradient)


def test_before_the_sweep_it_is_the_ordered_sae():
    """Bit for bit; after it, it is not."""
    plain = OrderedTopK(D_IN, N, K, LAW, generator=stream(0, "init"))
    for start, same in ((30, True), (28, True), (27, True), (0, False)):
        found = trained(swept(start=start), 30)
        wanted = dict(trained(plain, 30).named_parameters())
        equal = all(torch.equal(p, wanted[name]) for name, p in found.named_parameters())
        assert equal == same, start


def test_it_is_saved_and_goes_on_where_it_was(tmp_path):
    half = trained(swept(), 12)
    save(half, tmp_path / "sae")
    again = load(tmp_path / "sae")
    assert again.n_swept() == half.n_swept() == 2
    for sae in (half, again):
        frozen = latent(sae, 0)
        assert torch.equal(latent(trained(copy.deepcopy(sae), 5), 0), frozen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": -1}, "SweptTopK: expected an integer start >= 0, in steps, got start=-1"),
        ({"start": 1.5}, "an integer start >= 0"),
        ({"every": 0}, "an integer every >= 1, in steps, got every=0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_sweeps_raise_one_clear_error(options, message):
    with pytest.raises(ValueError, match=message):
        swept(**options)
