"""Batches: drawn one at a time on a CPU, many at a time where the host waits for the device."""

import contextlib
import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import topk, world
from waits import Waits

from sae import batches
from sae.member import NotFinite
from toymodels import stream


class Counted:
    """A world that notes how many samples it is asked for."""

    def __init__(self, seed, noise_std=0.0):
        self.world, self.asked = dataclasses.replace(world(seed), noise_std=noise_std), []

    def __getattr__(self, name):
        return getattr(self.world, name)

    def sample(self, n, *, generator):
        self.asked.append(n)
        return self.world.sample(n, generator=generator)


@contextlib.contextmanager
def on_a_waiting_device(pool=64):
    """Batches as they are drawn where the host waits for the device, on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "_waits_for", lambda device: True)
        patch.setattr(batches, "POOL", pool)
        yield


def drawn(source, n, lengths=(), size=5, name="train"):
    """The first n batches, taken in stretches of these lengths and then singly."""
    made = batches.Batches(source, size, topk(), generator=stream(0, name))
    xs = []
    for length in [*lengths, *[1] * n]:
        taken, error = made.take(len(xs), min(length, n - len(xs)))
        assert error is None
        xs += [batch.x for batch in taken]
    return xs, made


@pytest.mark.parametrize("noise_std", [0.0, 0.1])
def test_a_pool_is_one_draw_of_the_world(noise_std):
    with on_a_waiting_device():
        source = Counted(0, noise_std)
        xs, _ = drawn(source, 130, lengths=[32, 32, 7])
    assert source.asked == [5 * 64] * 3
    generator = stream(0, "train")
    wanted = [source.world.sample(5 * 64, generator=generator).x for _ in range(3)]
    assert torch.equal(torch.cat(xs), torch.cat(wanted)[: 5 * 130])


def test_on_the_cpu_each_batch_is_a_draw_of_its_own():
    source = Counted(0, 0.1)
    xs, made = drawn(source, 9, lengths=[4])
    generator = stream(0, "train")
    for x in xs:
        assert torch.equal(x, source.world.sample(5, generator=generator).x)
    assert source.asked == [5] * 9
    assert torch.equal(made.generator.get_state(), generator.get_state())


def test_a_callable_is_asked_for_each_batch():
    calls = []

    def sample(n, *, generator):
        calls.append(n)
        return torch.randn(n, 12, generator=generator)

    with on_a_waiting_device():
        xs, made = drawn(sample, 9, lengths=[4, 2])
    generator = stream(0, "train")
    assert all(torch.equal(x, torch.randn(5, 12, generator=generator)) for x in xs)
    assert calls == [5] * 9
    assert torch.equal(made.generator.get_state(), generator.get_state())


def test_a_pool_has_no_more_numbers_than_memory_holds(monkeypatch):
    monkeypatch.setattr(batches, "_MOST", 5 * 12 * 3 + 1)
    with on_a_waiting_device():
        source = Counted(0)
        drawn(source, 4)
    assert source.asked == [15, 15]


@given(
    pool=st.integers(1, 7),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    n_after=st.integers(1, 9),
    waits=st.booleans(),
)
def test_batches_go_on_from_their_state(pool, lengths, n_after, waits):
    with on_a_waiting_device(pool) if waits else contextlib.nullcontext():
        _, made = drawn(Counted(0), sum(lengths), lengths)
        state, n_taken = made.state()
        state = state.clone()
        wanted = [batch.x for batch in made.take(0, n_after)[0]]
        again = batches.Batches(Counted(0), 5, topk(), generator=stream(1, "other"))
        again.take(0, 1)
        again.restore(state, n_taken)
        found = [batch.x for batch in again.take(0, n_after)[0]]
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


def test_a_state_that_forgets_the_pool_is_noticed(monkeypatch):
    monkeypatch.setattr(batches.Batches, "state", lambda self: (self.generator.get_state(), 0))
    with pytest.raises(AssertionError):
        test_batches_go_on_from_their_state.hypothesis.inner_test(5, [3], 4, True)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("at", [0, 1, 5])
def test_the_batches_before_one_that_is_not_finite_are_kept(waits, at, unchecked):
    def sample(n, *, generator):
        x = torch.randn(n, 12, generator=generator)
        x[0] = 3e38  # the sum of the batch overflows, which alone is no error
        numbers.append(len(numbers))
        if len(numbers) == at + 4:
            x[3, 7] = torch.nan
        return x

    numbers = []
    with on_a_waiting_device() if waits else contextlib.nullcontext():
        made = batches.Batches(sample, 5, topk(), generator=stream(0, "train"))
        assert len(made.take(0, 3)[0]) == 3
        if at == 0:
            with pytest.raises(NotFinite, match=r"step=3, x\[3, 7\]=nan"):
                made.take(3, 8)
        else:
            taken, error = made.take(3, 8)
            assert len(taken) == at
            assert f"step={3 + at}, x[3, 7]=nan" in str(error)


def test_the_host_waits_once_for_all_batches_of_a_callable():
    def sample(n, *, generator):
        return torch.randn(n, 12, generator=generator)

    for waits, n_waits in ((True, 1), (False, 8)):
        with on_a_waiting_device() if waits else contextlib.nullcontext():
            made = batches.Batches(sample, 5, topk(), generator=stream(0, "train"))
            with Waits() as mode:
                made.take(0, 8)
        assert mode.found == ["_local_scalar_dense"] * n_waits
