"""Signed codes: as non-negative codes on a doubled dictionary, and Multi-TopK without its ReLU."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from figures.fig_sign_laws import least_coefficient
from figures.fig_signs import radius
from figures.signs_runs import Exact, exact_run, supports
from sae import AbsTopK, MultiTopK, TopK, TrainConfig, train
from sae.architectures.signed_multi_topk import SignedMultiTopK, keep_largest_signed
from theory.signs import sign_necessity, sign_scores
from toymodels import Independent, ToyModel, antipodal, orthonormal, random_unit, stream

seeds = st.integers(0, 2**32 - 1)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), seeds)
def test_signed_codes_are_nonnegative_codes_on_both_signs(n, m, d, seed):
    """relu([z, -z]) on [D, -D] is z on D, entry for entry; its scores are 1, its necessity 0."""
    generator = stream(seed, "codes")
    codes = torch.randint(-3, 4, (n, m), generator=generator).double()
    half = random_unit(m, d, generator=generator, dtype=torch.float64)
    doubled, x = antipodal(half).vectors, codes @ half.vectors
    rays = torch.cat([codes, -codes], 1).relu()
    assert torch.equal(rays[:, :m] - rays[:, m:], codes)
    assert torch.equal((rays > 0).sum(1), (codes != 0).sum(1))
    # Each product is the same or zero; only the order of the sums differs.
    assert torch.allclose(rays @ doubled, x, rtol=0, atol=1e-13)
    scores = sign_scores(rays)
    assert bool((scores[rays.any(0)] == 1).all())
    if bool(x.any()):
        zero = torch.zeros(d).double()
        assert sign_necessity(x, rays > 0, doubled, zero) == pytest.approx(0, abs=1e-12)


def test_without_the_opposites_they_are_not():
    """The negative control: the same coefficients on D alone."""
    x, rows = torch.tensor([[-1.0]]).double(), torch.eye(1).double()
    assert sign_necessity(x, x != 0, rows, torch.zeros(1).double()) == 1.0


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), seeds, st.data())
def test_abs_topk_is_topk_on_both_signs(d, m, n, seed, data):
    k = data.draw(st.integers(1, m))
    one = AbsTopK(d, m, k, generator=stream(seed, "init"))
    two = TopK(d, 2 * m, k, generator=stream(seed, "other"))
    with torch.no_grad():
        one.b_enc.normal_(generator=stream(seed, "bias"))
        two.W_enc.copy_(torch.cat([one.W_enc, -one.W_enc], 1))
        two.b_enc.copy_(torch.cat([one.b_enc, -one.b_enc]))
        two.W_dec.copy_(torch.cat([one.W_dec, -one.W_dec]))
        x = torch.randn(n, d, generator=stream(seed, "x"))
        latents = one.encode(x)
        assert torch.equal(two.encode(x), torch.cat([latents, -latents], 1).relu())


@given(st.integers(1, 4), st.integers(1, 6), seeds, st.data())
def test_signed_multi_topk_equals_its_loop(d, m, seed, data):
    ks = tuple(data.draw(st.lists(st.integers(1, m), min_size=1, max_size=3, unique=True)))
    weights = (1.0, *[0.5] * (len(ks) - 1))
    sae = SignedMultiTopK(d, m, ks, weights, generator=stream(seed, "init"))
    with torch.no_grad():
        sae.b_enc.normal_(generator=stream(seed, "bias"))
    x = torch.randn(3, d, generator=stream(seed, "x"))
    loss = sae.loss(x)
    pre_acts = sae.pre_acts(x).tolist()
    total = 0.0
    for k, weight in zip(ks, weights, strict=True):
        code = torch.zeros(3, m)
        for row, values in enumerate(pre_acts):
            for j in sorted(range(m), key=lambda j: -values[j])[:k]:
                code[row, j] = values[j]
        total += weight * float((x - sae.decode(code)).detach().square().sum()) / 3
        assert torch.equal(keep_largest_signed(sae.pre_acts(x), k).detach(), code)
    assert float(loss.total.detach()) == pytest.approx(total, rel=1e-5)
    # Up to the positive pre-activations it is MultiTopK, beyond it is not.
    plain = MultiTopK(d, m, ks, weights, generator=stream(seed, "init"))
    plain.load_state_dict(sae.state_dict())
    enough = (sae.pre_acts(x) > 0).sum(1) >= ks[0]
    same = (plain.encode(x) == sae.encode(x)).all(1)
    assert torch.equal(same, enough)


def test_negatives_are_paid_for_without_the_relu_only():
    """Trained at the larger half and, eight times as strongly, at all of the latents.

    No code without biases can have less than (2 beta / (1 + 4 beta))^2 on the half at the least
    loss, .235 at beta = 8, while with the ReLU the half alone counts and can be exact. The margins
    are half of that.
    """
    d, seed = 4, 0
    rows = antipodal(orthonormal(d, d, generator=stream(seed, "dictionary")))
    world = ToyModel(Independent(2 * d, 0.25), rows)
    fresh = [
        cls(d, 2 * d, (d, 2 * d), (1.0, 8.0), bias=False, generator=stream(seed, "init"))
        for cls in (SignedMultiTopK, MultiTopK)
    ]
    for sae in fresh:
        sae.b_enc.requires_grad_(False)
    config = TrainConfig(80, 64, lr=4e-2, decay=0.5)
    trained = train(fresh, world, config, generator=stream(seed, "train")).saes
    x = world.sample(500, generator=stream(seed, "eval")).x
    left = [(x - sae(x).x_hat).detach() for sae in trained]
    errors = [float(r.square().sum() / x.square().sum()) for r in left]
    assert errors[0] > 0.235 / 2 > errors[1]


@given(st.integers(2, 6), st.floats(0.01, 0.99))
def test_least_coefficient_of_opposed_rows(k, scaled):
    """1 - (k-1) mu at the shortest prefix, by the closed form; on orthonormal rows it is 1."""
    mu = scaled if k == 2 else 1.4 * scaled / (k - 1)
    flips = torch.ones(k, dtype=torch.float64)
    flips[0] = -1
    gram = (mu * torch.outer(flips, flips)).fill_diagonal_(1.0)
    found = least_coefficient(torch.linalg.cholesky(gram))
    assert found == pytest.approx(1 - (k - 1) * mu, abs=1e-9)
    assert least_coefficient(torch.eye(k).double()) == pytest.approx(1)


def test_interval_of_the_score_holds_and_is_not_idle():
    """The planted share is inside (false alarm 1e-10); an error of a half is as surely caught."""
    n, share = 500, 0.5
    found = exact_run(Exact(0, "orthonormal", share, 0, n, False))
    width = radius(share, n) / float(found["energy"])
    assert abs(float(found["score"]) - (1 - share)) <= width < 0.25
    other = exact_run(Exact(0, "orthonormal", 1.0, 0, n, False))
    assert abs(float(other["score"]) - (1 - share)) > width


def test_a_flipped_row_is_noticed():
    right, wrong = (
        exact_run(Exact(0, "hadamard", 0.0, 0, 60, flipped)) for flipped in (False, True)
    )
    assert max(right["necessity"], right["prefixes"], right["every"]) < 1e-12
    assert min(wrong["necessity"], wrong["prefixes"]) > 1e-3


def test_supports_follow_the_matching():
    active = torch.tensor([[True, False, True], [False, True, True]])
    told = supports(active, torch.tensor([2, 0, -1]), 4)
    expected = torch.tensor([[False, False, True, False], [True, False, False, False]])
    assert torch.equal(told, expected)
