"""Absorption: planted shares in closed form, its null by loops and by simulation, bad input."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory.absorption import absorption
from theory.statistics import hoeffding_radius
from toymodels import orthonormal, stream

seeds = st.integers(0, 2**32 - 1)


def _hierarchy(delta, *, n=40, child_share=0.25, seed=0):
    """A parent, its child that never fires alone, and an unrelated feature, in R^4; magnitude 1.

    The parent's latent reads f_p - delta f_c, the child's decoder is d_c + delta d_p: exact for
    every delta, as the parent's latent then holds 1 - delta where the child fires.
    """
    features = orthonormal(3, 4, generator=stream(seed, "rows"), dtype=torch.float64).vectors
    codes = torch.zeros(n, 3, dtype=torch.float64)
    codes[: n // 2, 0] = 1.0
    codes[: int(n // 2 * child_share), 1] = 1.0
    codes[::3, 2] = 1.0
    latents = codes.clone()
    latents[:, 0] = (codes[:, 0] - delta * codes[:, 1]).clamp(min=0)
    rows = features.clone()
    rows[1] = rows[1] + delta * rows[0]
    assert torch.allclose(latents @ rows, codes @ features)
    return codes, latents, features, rows, torch.arange(3)


@pytest.mark.parametrize("delta", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("child_share", [0.2, 0.5])
def test_planted_absorption_is_measured(delta, child_share):
    found = absorption(*_hierarchy(delta, child_share=child_share))
    full = child_share if delta == 1 else 0.0  # the parent's latent is silent only then
    assert found.rates.tolist() == [full, 0.0, 0.0]
    assert torch.allclose(found.shares, torch.tensor([delta * child_share, 0, 0]).double())
    assert found.missed.tolist() == [full, 0.0, 0.0]
    assert found.null_rates.tolist() == [0.0, 0.0, 0.0]
    assert found.n_firings.tolist() == [20, int(20 * child_share), 14]
    assert found.rate == pytest.approx(full / 3)
    assert found.null_rate == 0


def test_a_dead_latent_is_missed_but_not_absorbed():
    """Silence without a stand-in is no absorption: what tells the rate from `missed`."""
    codes, latents, features, rows, matching = _hierarchy(0.0)
    latents[:, 0] = 0.0
    found = absorption(codes, latents, features, rows, matching)
    assert (float(found.missed[0]), float(found.rates[0])) == (1, 0)
    assert float(found.shares[0]) == pytest.approx(0, abs=1e-12)


def test_the_threshold_counts_what_is_supplied():
    codes, latents, features, rows, matching = _hierarchy(1.0)
    rows[1] = features[1] + 0.4 * features[0]
    for supplied, rate in ((0.3, 0.25), (0.5, 0.0)):
        found = absorption(codes, latents, features, rows, matching, supplied=supplied)
        assert float(found.rates[0]) == rate


def _random(n, seed, n_features=3, m=4, d=5):
    generator = stream(seed, "random")
    codes = torch.randint(-2, 3, (n, n_features), generator=generator).clamp(min=0).double()
    latents = torch.randint(-1, 3, (n, m), generator=generator).double()
    features = orthonormal(n_features, d, generator=generator, dtype=torch.float64).vectors
    rows = torch.randn(m, d, generator=generator, dtype=torch.float64)
    matching = torch.randperm(m, generator=generator)[:n_features]
    matching[torch.rand(n_features, generator=generator) < 0.2] = -1
    return codes, latents, features, rows, matching


@given(st.integers(1, 6), seeds, st.sampled_from([0.3, 0.5, 1.0]))
def test_every_number_equals_its_loop(n, seed, supplied):
    codes, latents, features, rows, matching = data = _random(n, seed)
    found = absorption(*data, supplied=supplied)
    for i, own in enumerate(matching.tolist()):
        fires = [t for t in range(n) if codes[t, i] > 0]
        silent = [t for t in range(n) if codes[t, i] == 0]
        if own < 0 or not fires:
            assert math.isnan(found.rates[i])
            assert math.isnan(found.null_shares[i])
            continue
        others = [
            sum(float(latents[t, j] * (rows[j] @ features[i])) for j in range(4) if j != own)
            for t in range(n)
        ]
        quiet = [t for t in fires if latents[t, own] <= 0]
        total = sum(float(codes[t, i]) for t in fires)
        hits = [t for t in quiet if others[t] >= supplied * codes[t, i]]
        assert float(found.rates[i]) == pytest.approx(len(hits) / len(fires))
        assert float(found.shares[i]) == pytest.approx(sum(others[t] for t in fires) / total)
        assert float(found.missed[i]) == pytest.approx(len(quiet) / len(fires))
        if not silent:
            assert math.isnan(found.null_rates[i])
            continue
        pairs = [others[s] >= supplied * codes[t, i] for t in quiet for s in silent]
        assert float(found.null_rates[i]) == pytest.approx(sum(pairs) / len(fires) / len(silent))
        mean = sum(others[s] for s in silent) / len(silent)
        assert float(found.null_shares[i]) == pytest.approx(mean * len(fires) / total)


def test_null_is_the_rate_of_unrelated_latents():
    """Latents that know nothing of the features score the null, which is far from 0.

    20,000 samples, about 10,000 firings: each rate is within .035 of its expectation but for
    1e-10 (Hoeffding), so rate and null within .07 of each other; .14 would be caught as surely.
    """
    n = 20_000
    _, latents, features, rows, _ = _random(n, 0, n_features=2)
    generator = stream(1, "codes")
    codes = (torch.rand(n, 2, generator=generator, dtype=torch.float64) < 0.5).double()
    found = absorption(codes, latents, features, 2 * rows, torch.tensor([0, 1]))
    radius = 2 * hoeffding_radius(int(found.n_firings.min()), 1.0, 1e-10)
    assert float((found.rates - found.null_rates).abs().max()) < radius
    assert float(found.null_rates.min()) > 0.1
    # A latent that does stand in is told apart: its firings are the feature's.
    latents = latents.clone()
    latents[:, 3], rows = codes[:, 0], rows.clone()
    latents[:, 0], rows[3] = 0.0, features[0]
    planted = absorption(codes, latents, features, rows, torch.tensor([0, 1]))
    assert float(planted.shares[0] - planted.null_shares[0]) > 0.5


@given(seeds, st.permutations(range(4)))
def test_labels_scales_and_rotations_do_not_matter(seed, order):
    codes, latents, features, rows, matching = data = _random(6, seed)
    base = absorption(*data)
    generator = stream(seed, "rotation")
    rotation = orthonormal(5, 5, generator=generator, dtype=torch.float64).vectors
    scales = 0.5 + torch.rand(4, generator=generator, dtype=torch.float64)
    position = torch.tensor(order).argsort()
    moved = torch.where(matching < 0, -1, position[matching])
    found = absorption(
        codes,
        (latents * scales)[:, list(order)],
        features @ rotation,
        (rows / scales[:, None] @ rotation)[list(order)],
        moved,
    )
    for name in ("shares", "missed", "null_shares"):
        assert torch.allclose(getattr(found, name), getattr(base, name), equal_nan=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: [d[0][:, :2], *d[1:]], "codes .batch, n_features."),
        (lambda d: [d[0][:0], d[1][:0], *d[2:]], "codes .batch, n_features."),
        (lambda d: [d[0], d[1] * torch.nan, *d[2:]], "finite numbers in latents"),
        (lambda d: [-1 - d[0], *d[1:]], "codes >= 0"),
        (lambda d: [*d[:2], 2 * d[2], *d[3:]], "unit rows in dictionary"),
        (lambda d: [*d[:4], d[4] + 9], r"matching in \[-1, 4\)"),
    ],
)
def test_bad_input_is_one_clear_error(change, message, unchecked):
    with pytest.raises(ValueError, match=f"absorption: expected {message}") as error:
        absorption(*change(_random(5, 0)))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="0 < supplied <= 1"):
        absorption(*_random(5, 0), supplied=0.0)
