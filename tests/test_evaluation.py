"""Evaluation in one pass equals the same numbers computed sample by sample."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae import ReLU, TopK
from sae import strategies as saes
from sae.evaluation import HeldOut, evaluate
from sae.laws import in_general_position
from toymodels import Codes, Independent, ToyModel, orthonormal, stream
from toymodels import strategies as tms


class Recorded:
    """A world of normal activations with normal codes, some of them 0, that keeps what it drew."""

    def __init__(self, d_in, n_features, offset=0.0, has_codes=True):
        self.d_in, self.n_features, self.offset = d_in, n_features, offset
        self.has_codes, self.x, self.codes = has_codes, [], []

    def sample(self, n, *, generator):
        def normal(width):
            return torch.randn(n, width, dtype=torch.float64, generator=generator)

        x, dense = normal(self.d_in) + self.offset, normal(self.n_features).relu()
        x[0] *= 0 if self.offset == 0 else 1
        self.x += list(x)
        self.codes += list(dense)
        codes = Codes.from_dense(dense) if self.has_codes else None
        return SimpleNamespace(x=x, codes=codes)


def naive(sae, world):
    """The definitions, in loops over samples, latents and features."""
    x, n = world.x, len(world.x)
    outputs = [sae(row[None]) for row in x]
    x_hat = [output.x_hat[0].detach() for output in outputs]
    z = [output.latents[0].detach() * sae.W_dec.detach().norm(dim=1) for output in outputs]
    active = [[float(v != 0) for v in output.latents[0]] for output in outputs]
    mean = sum(x) / n
    error = math.fsum(float((a - b) @ (a - b)) for a, b in zip(x, x_hat, strict=True))
    spread = math.fsum(float((a - mean) @ (a - mean)) for a in x)
    cosines = [
        float(a @ b) / float(a.norm() * b.norm()) if float(b.norm()) > 0 else 0.0
        for a, b in zip(x, x_hat, strict=True)
        if float(a.norm()) > 0
    ]
    top = bottom = 0.0
    for i in range(world.n_features):
        a = [float(codes[i]) for codes in world.codes]
        pairs = []
        for j in range(sae.n_latents):
            za = abs(math.fsum(float(row[j]) * v for row, v in zip(z, a, strict=True)))
            size = math.sqrt(math.fsum(float(row[j]) ** 2 for row in z) * sum(v * v for v in a))
            pairs.append((za / size if size > 0 else 0.0, za))
        top += max(za for cosine, za in pairs if cosine >= max(pairs)[0] - 1e-9)
        bottom = bottom + sum(v * v for v in a)
    density = [sum(row[j] for row in active) / n for j in range(sae.n_latents)]
    ranked = sorted(density)
    return {
        "fvu": error / spread,
        "l0": sum(map(sum, active)) / n,
        "dead": sum(v == 0 for v in density) / len(density),
        "cosine": sum(cosines) / len(cosines) if cosines else math.nan,
        "norm_ratio": sum(float(b.norm()) for b in x_hat) / sum(float(a.norm()) for a in x),
        "code_ratio": top / bottom if world.has_codes and bottom > 0 else math.nan,
        "median_density": ranked[(len(ranked) - 1) // 2],
        "max_density": ranked[-1],
    }


def assert_equals_naive(sae, world, n, batch_size, generator, evaluate=evaluate):
    found = evaluate(sae, world, n, generator=generator, batch_size=batch_size)
    assert len(world.x) == found.n == n
    wanted = naive(sae, world)
    assert found.summary() == pytest.approx(wanted, rel=1e-9, abs=1e-12, nan_ok=True)


@given(
    fresh=saes.saes(),
    n=st.integers(2, 9),
    batch_size=st.integers(1, 10),
    offset=st.sampled_from([0.0, 1.0]),
    has_codes=st.booleans(),
    generator=tms.generators(),
)
def test_evaluation_equals_a_dense_computation(fresh, n, batch_size, offset, has_codes, generator):
    sae = in_general_position(fresh, generator)
    # The first sample of each batch is 0 where the offset is: at least one must not be.
    world = Recorded(sae.d_in, 3, offset, has_codes)
    assert_equals_naive(sae, world, n, max(2, batch_size), generator)


def fixed_case(evaluate=evaluate):
    generator = stream(0, "test")
    sae = in_general_position(ReLU(3, 5, 0.1, generator=generator), generator)
    with torch.no_grad():
        sae.b_enc[0] = -100.0
    world = Recorded(3, 2, 1.0)
    assert_equals_naive(sae, world, 7, 3, generator, evaluate)


def last_batch_only(sae, sample, n, *, generator, batch_size):
    """A broken twin that forgets the batches before the last."""
    sample.sample(n - 3, generator=generator)
    found = evaluate(sae, sample, 3, generator=generator)
    object.__setattr__(found, "n", n)
    return found


def with_field(name, change):
    """A broken twin whose field `name` is changed."""

    def broken(sae, sample, n, *, generator, batch_size):
        found = evaluate(sae, sample, n, generator=generator, batch_size=batch_size)
        object.__setattr__(found, name, change(getattr(found, name)))
        return found

    return broken


def test_a_broken_evaluation_is_caught():
    fixed_case()
    twins = [with_field(name, lambda v: 1.01 * v) for name in ("fvu", "l0", "cosine")]
    twins += [with_field(name, lambda v: 0.99 * v) for name in ("norm_ratio", "code_ratio")]
    twins += [with_field("density", lambda v: v + 0.01), last_batch_only]
    for twin in twins:
        with pytest.raises(AssertionError):
            fixed_case(twin)


def test_shrunken_codes_are_reported_as_such():
    """An SAE whose rows are the features: exact at scale 1, codes and norms c at scale c."""
    dictionary = orthonormal(6, 8, generator=stream(1, "dictionary"), dtype=torch.float64)
    world = ToyModel(Independent(6, 0.2), dictionary)
    for scale in (1.0, 0.46):
        sae = ReLU(8, 6, 0.1, generator=stream(1, "init")).double()
        with torch.no_grad():
            sae.W_dec.copy_(dictionary.vectors.flip(0))
            sae.W_enc.copy_(scale * dictionary.vectors.flip(0).T)
            # The code is read in the unit of x, so longer rows with smaller latents are the same.
            sae.W_dec.mul_(2)
            sae.W_enc.div_(2)
        found = evaluate(sae, world, 3000, generator=stream(1, "eval"))
        assert found.code_ratio == pytest.approx(scale, rel=1e-6)
        assert found.norm_ratio == pytest.approx(scale, rel=1e-6)
        assert found.cosine == pytest.approx(1, rel=1e-6)
        # About the mean: the energy of x exceeds its variance.
        assert (found.fvu < 1e-12) if scale == 1 else (found.fvu > (1 - scale) ** 2)
        assert found.dead == 0


def test_a_far_mean_does_not_spoil_the_fvu():
    """Naive sums of squares would cancel to 1e12 * 1e-16 of the variance."""
    sae = TopK(3, 4, 2, generator=stream(2, "init")).double()
    with torch.no_grad():
        sae.b_dec.fill_(1e6)
    world = Recorded(3, 2, 1e6)
    found = evaluate(sae, world, 50, generator=stream(2, "eval"), batch_size=7)
    x = torch.stack(world.x) - 1e6  # exact: the nearest doubles differ by 1e-10
    error = (x - (sae(torch.stack(world.x)).x_hat.detach() - 1e6)).square().sum()
    wanted = float(error / (x - x.mean(0)).square().sum())
    assert found.fvu == pytest.approx(wanted, rel=1e-6)


def test_equal_samples_have_no_fvu_and_zeros_no_cosine():
    sae = TopK(3, 4, 2, generator=stream(3, "init"))

    def sample(n, *, generator):
        return torch.zeros(n, 3)

    found = evaluate(sae, sample, 10, generator=stream(3, "eval"))
    assert math.isnan(found.fvu)
    assert math.isnan(found.cosine)
    assert math.isnan(found.norm_ratio)
    assert found.l0 == 0
    assert found.dead == 1


def test_evaluation_is_pure_and_held_out_samples_stay_the_same():
    sae = TopK(3, 4, 2, generator=stream(4, "init"))
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    generator, random = stream(4, "eval"), torch.random.get_rng_state()
    state = generator.get_state()
    world = Recorded(3, 2)
    world.sample = lambda n, *, generator: torch.randn(n, 3, generator=generator)
    held_out = HeldOut(world, 1500, generator)
    first, second = held_out.evaluate(sae), held_out.evaluate(sae)
    assert first.summary() == pytest.approx(second.summary(), rel=0, abs=0, nan_ok=True)
    assert torch.equal(state, generator.get_state())
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in sae.state_dict().items())
    assert all(p.grad is None for p in sae.parameters())
    by_hand = evaluate(sae, world, 1500, generator=generator)
    assert by_hand.fvu == first.fvu
    assert not torch.equal(state, generator.get_state())


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_sae_or_holds_nan_is_not_evaluated():
    world, sae = Recorded(3, 2), TopK(3, 4, 2, generator=stream(5, "init"))
    eyes = HeldOut(world, 5, stream(5, "eval"))
    with pytest.raises(ValueError, match=r"^evaluate: expected an SAE, got sae='tuple'; .*\.sae"):
        eyes.evaluate((sae,))
    with torch.no_grad():
        sae.b_dec[1] = torch.nan
    with pytest.raises(ValueError, match=r"^evaluate: expected finite .*, got b_dec\[1\]=nan"):
        eyes.evaluate(sae)
    with pytest.raises(ValueError, match=r"^HeldOut: expected a torch\.Generator, got generator=0"):
        HeldOut(world, 5, 0)


NAN = float("nan")
BAD = [
    ({"n": 1}, "n >= 2 samples", "n=1"),
    ({"n": 2.5}, "an integer n >= 1", "n=2.5"),
    ({"batch_size": 0}, "an integer batch_size >= 1", "batch_size=0"),
    ({"sample": 3}, "a ToyModel or a callable", "sample='int'"),
    ({"sample": lambda n, *, generator: torch.ones(n, 4)}, "(5, 3)", "x_shape=(5, 4)"),
    ({"sample": lambda n, *, generator: torch.full((n, 3), NAN)}, "numbers in x", "x[0, 0]=nan"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("change", "rule", "got"), BAD)
def test_bad_input_is_named(change, rule, got):
    arguments = {"sample": lambda n, *, generator: torch.ones(n, 3), "n": 5} | change
    sample, n = arguments.pop("sample"), arguments.pop("n")
    sae = TopK(3, 4, 2, generator=stream(5, "init"))
    with pytest.raises(ValueError, match=r"^evaluate: expected ") as error:
        evaluate(sae, sample, n, generator=stream(5, "eval"), **arguments)
    expected, _, given = str(error.value).partition(", got ")
    assert rule in expected
    assert got in given
