"""Batches drawn ahead in another thread: nothing but the time depends on it."""

import contextlib
import dataclasses
import tempfile
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import bits, same_bits, topk, world

from sae import TrainConfig, TrainingStopped, train
from sae.ahead import Ahead, single_threaded
from sae.checkpoint import checkpoints_in
from sae.evaluation import HeldOut
from toymodels import stream


class Interrupted(Exception):
    pass


class Watched:
    """A world that notes which threads draw from it; its `at`-th draw is interrupted."""

    def __init__(self, seed, *, noise_std=0.1, at=-1, huge=-1):
        self.world = dataclasses.replace(world(seed), noise_std=noise_std)
        self.at, self.huge, self.threads = at, huge, []

    def __getattr__(self, name):
        return getattr(self.world, name)

    def sample(self, n, *, generator):
        if len(self.threads) == self.at:
            raise Interrupted
        self.threads.append(threading.get_ident())
        batch = self.world.sample(n, generator=generator)
        return batch.x * torch.nan if len(self.threads) - 1 == self.huge else batch


@contextlib.contextmanager
def torch_threads(n):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run(source, n_threads, config, engine="rows"):
    """What a run leaves: all weights, the state of its generator, and its history."""
    generator, members = stream(0, "train"), [topk(i) for i in range(2)]
    held_out = HeldOut(world(1), 64, stream(0, "eval"))
    with torch_threads(n_threads):
        options = {"generator": generator, "held_out": held_out, "engine": engine}
        try:
            result = train(members, source, config, **options)
        except TrainingStopped as stopped:
            result = stopped.result
    return [bits(sae) for sae in result.saes], generator.get_state(), result.history


def same(first, second):
    (weights, state, history), (others, other_state, other_history) = first, second
    equal = all(same_bits(a, b) for a, b in zip(weights, others, strict=True))
    return equal and torch.equal(state, other_state) and repr(history) == repr(other_history)


CONFIG = TrainConfig(100, 8, lr=1e-2, n_records=3)
STALLED = dataclasses.replace(CONFIG, stop_after=8, stop_gain=0.9, n_records=5)


@settings(max_examples=min(20, settings().max_examples))
@given(
    st.integers(0, 99), st.sampled_from([0.0, 0.1]), st.integers(2, 70), st.integers(2, 5),
    st.sampled_from([torch.inf, 8]), st.sampled_from([-1, 3, 40]),
)  # fmt: skip
def test_the_run_and_its_generator_are_the_same(seed, noise_std, steps, records, stop, huge):
    config = TrainConfig(steps, 8, lr=1e-2, n_records=records, stop_after=stop, stop_gain=0.9)
    alone, ahead = (Watched(seed, noise_std=noise_std, huge=huge) for _ in range(2))
    assert same(run(alone, 1, config), run(ahead, 2, config))


def test_all_but_the_first_batch_are_drawn_by_other_threads():
    source, here = Watched(0), threading.get_ident()
    run(source, 2, CONFIG)
    assert len(source.threads) == CONFIG.n_steps
    assert source.threads[0] == here
    assert here not in source.threads[1:]
    alone = Watched(0)
    run(alone, 1, CONFIG)
    assert set(alone.threads) == {here}


@pytest.mark.parametrize("engine", ["eager", "stacked"])
def test_engines_that_use_all_threads_themselves_do_not_draw_ahead(engine):
    source = Watched(0)
    run(source, 2, TrainConfig(20, 8, lr=1e-2, n_records=2), engine)
    assert set(source.threads) == {threading.get_ident()}


@pytest.mark.parametrize("enabled", [False, True])
def test_a_callable_is_drawn_ahead_with_gradients_as_its_caller_has_them(enabled):
    source, seen = Watched(0), set()

    def sample(n, *, generator):
        seen.add(torch.is_grad_enabled())
        return source.sample(n, generator=generator).x

    with torch.set_grad_enabled(enabled):
        run(sample, 2, CONFIG)
    assert seen == {enabled}
    assert len(set(source.threads)) > 1


def interrupted_and_resumed():
    with tempfile.TemporaryDirectory() as folder:
        for at in (70, -1):
            with checkpoints_in(folder, every=0.0):
                source = Watched(0, at=at)
                if at < 0:
                    return run(source, 2, CONFIG), source
                with pytest.raises(Interrupted):
                    run(source, 2, CONFIG)
    raise AssertionError("unreachable")


def test_an_interrupted_run_goes_on_with_the_same_bits():
    whole = run(Watched(0), 2, CONFIG)
    resumed, source = interrupted_and_resumed()
    assert same(resumed, whole)
    assert len(source.threads) < CONFIG.n_steps  # it did go on


def test_drawing_ahead_does_not_change_the_number_of_torch_threads():
    with torch_threads(2), single_threaded(2) as threads:
        inside = [threads.submit(torch.get_num_threads).result() for _ in range(4)]
        assert torch.get_num_threads() == 2
    assert inside == [1] * 4


# Broken twins -------------------------------------------------------------------------------------


def test_a_checkpoint_of_a_generator_that_has_run_ahead_is_caught(monkeypatch):
    whole, take = run(Watched(0), 2, CONFIG), Ahead.take

    def too_late(self, step):
        chunk = take(self, step)
        if self._next:
            self._next.result()
        return chunk._replace(after=self._batches.state())

    monkeypatch.setattr(Ahead, "take", too_late)
    assert not same(interrupted_and_resumed()[0], whole)


def test_a_generator_left_ahead_is_caught(monkeypatch):
    alone = run(Watched(0), 1, STALLED)
    assert same(run(Watched(0), 2, STALLED), alone)
    monkeypatch.setattr(Ahead, "close", lambda self: None)
    assert not same(run(Watched(0), 2, STALLED), alone)
