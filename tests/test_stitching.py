"""Stitching and swaps: against loops, planted worlds with known labels, and structureless rows."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory.isotropic import isotropic_rows
from theory.statistics import bernstein_radius, hoeffding_radius
from theory.stitching import Cluster, cosine_clusters, stitching, swap
from toymodels import Independent, orthonormal, random_mixing, stream

ALPHA = 1e-10
seeds = st.integers(0, 2**32 - 1)


def problem(seed, n=7, d=4, n_small=3, n_large=5):
    """Random x, sparse codes, rows of any norm, and a bias, in float64."""
    generator = stream(seed, "problem")
    options = {"generator": generator, "dtype": torch.float64}
    x, b_dec = torch.randn(n, d, **options), torch.randn(d, **options)
    codes = [torch.randn(n, m, **options).relu() for m in (n_small, n_large)]
    rows = [torch.randn(m, d, **options) for m in (n_small, n_large)]
    return {
        "x": x,
        "small_codes": codes[0],
        "small_W_dec": rows[0],
        "codes": codes[1],
        "W_dec": rows[1],
        "b_dec": b_dec,
    }


def mean_error(x, x_hat):
    errors = [
        sum((a - b) ** 2 for a, b in zip(u, v, strict=True)) for u, v in zip(x, x_hat, strict=True)
    ]
    return float(sum(errors) / len(errors))


def cosine(u, v):
    return float(u @ v / (u.norm() * v.norm()))


@given(seeds)
def test_insertion_equals_building_the_stitched_sae(seed):
    p = problem(seed)
    found = stitching(**p)
    base = p["small_codes"] @ p["small_W_dec"] + p["b_dec"]
    assert found.error == pytest.approx(mean_error(p["x"], base), abs=1e-9)
    for j, row in enumerate(p["W_dec"]):
        stitched = base + torch.outer(p["codes"][:, j], row)
        change = mean_error(p["x"], stitched) - mean_error(p["x"], base)
        assert found.error_changes[j].item() == pytest.approx(change, abs=1e-9)
        assert bool(found.novel[j]) == (found.error_changes[j] < 0)
        best = max(cosine(row, small) for small in p["small_W_dec"])
        assert found.max_cosines[j].item() == pytest.approx(best, abs=1e-9)
        assert bool(found.proxy_novel[j]) == (best < 0.7)


@given(seeds)
def test_swaps_equal_building_each_step_and_end_at_the_larger_sae(seed):
    p = problem(seed)
    clusters = cosine_clusters(p["small_W_dec"], p["W_dec"], cosine=0.5)
    found = swap(p["x"], *(p[k] for k in list(p)[1:5]), clusters, b_dec=p["b_dec"])
    small, large = set(range(3)), set()
    for step, cluster in enumerate(clusters, start=1):
        small, large = small - set(cluster.small), large | set(cluster.large)
        kept, new = sorted(small), sorted(large)
        stitched = p["small_codes"][:, kept] @ p["small_W_dec"][kept] + p["b_dec"]
        stitched = stitched + p["codes"][:, new] @ p["W_dec"][new]
        expected = mean_error(p["x"], stitched)
        assert found.errors[step].item() == pytest.approx(expected, abs=1e-9)
    last = mean_error(p["x"], p["codes"] @ p["W_dec"] + p["b_dec"])
    assert found.errors[-1].item() == pytest.approx(last, abs=1e-9)
    alone = stitching(**p).error_changes
    for cluster, change in zip(clusters, found.error_changes, strict=True):
        if not cluster.small:
            assert change.item() == pytest.approx(alone[cluster.large[0]].item(), abs=1e-9)


def components_by_merging(small, large, threshold):
    """Connected parts by merging sets until nothing changes."""
    parts = [{("s", i)} for i in range(len(small))] + [{("l", j)} for j in range(len(large))]
    for i, j in itertools.product(range(len(small)), range(len(large))):
        if cosine(small[i], large[j]) >= threshold:
            touched = [part for part in parts if {("s", i), ("l", j)} & part]
            parts = [part for part in parts if part not in touched] + [set().union(*touched)]
    return {
        tuple(tuple(sorted(i for kind, i in part if kind == which)) for which in "sl")
        for part in parts
    }


@given(seeds, st.sampled_from([0.2, 0.5, 0.9]))
def test_clusters_are_the_connected_parts_in_the_stated_order(seed, threshold):
    p = problem(seed, n_small=5, n_large=6)
    found = cosine_clusters(p["small_W_dec"], p["W_dec"], cosine=threshold)
    parts = components_by_merging(p["small_W_dec"], p["W_dec"], threshold)
    assert {(c.small, c.large) for c in found} == parts
    assert len(found) == len(parts)
    kinds = [1 if c.small and c.large else (2 if c.small else 0) for c in found]
    assert kinds == sorted(kinds)


N_ATOMS, N_NEW, N_TRIPLES, D_IN = 12, 4, 6, 32


def planted(seed, n=2000):
    """A smaller SAE with the 12 atoms; a larger one with these, 6 triples of them and 4 others.

    Codes are the best ones: the smaller SAE codes a triple by its atoms.
    """
    atoms = orthonormal(N_ATOMS + N_NEW, D_IN, generator=stream(seed, "dictionary"))
    old, new = atoms.vectors.double().split([N_ATOMS, N_NEW])
    mixing = random_mixing(12, N_ATOMS, 3, generator=stream(seed, "mixing"))[:N_TRIPLES]
    triples = (mixing / mixing.norm(dim=1, keepdim=True)).double()
    law = Independent(N_ATOMS + N_TRIPLES + N_NEW, 0.1)
    codes = law.sample(n, generator=stream(seed, "eval")).dense().double()
    rows = torch.cat([old, triples @ old, new])
    expanded = torch.cat([torch.eye(N_ATOMS).double(), triples, torch.zeros(N_NEW, N_ATOMS)])
    return codes @ rows, codes @ expanded, old, codes, rows


@given(seeds)
def test_planted_labels_and_where_the_proxy_is_wrong(seed):
    """Exact: old atoms and triples raise the error by E z^2, new ones lower it by as much.

    A triple's cosine with an atom is at most 1 / sqrt(1 + 2 * .49) = .711, and above .7 only where
    two weights are near .7 and the third near 1; so the proxy errs on triples and on nothing else.
    """
    found = stitching(*planted(seed))
    there = N_ATOMS + N_TRIPLES
    energy = found.null_changes
    assert found.error_changes[:there] == pytest.approx(energy[:there], abs=1e-6)
    assert found.error_changes[there:] == pytest.approx(-energy[there:], abs=1e-6)
    assert not bool(found.proxy_novel[:N_ATOMS].any())
    assert bool(found.proxy_novel[there:].all())
    wrong = found.proxy_novel[N_ATOMS:there] & found.reconstruction[N_ATOMS:there]
    assert found.disagreement == pytest.approx(float(wrong.sum()) / (there + N_NEW))
    assert int(wrong.sum()) >= N_TRIPLES - 2  # .7 < cosine <= .711 is a corner of the weights


@given(seeds)
def test_the_error_falls_along_insertions_and_returns_at_no_swap_of_copies(seed):
    x, small_codes, old, codes, rows = planted(seed)
    there = N_ATOMS + N_TRIPLES
    inserted = [Cluster((), (j,)) for j in range(there, there + N_NEW)]
    errors = swap(x, small_codes, old, codes, rows, inserted).errors
    assert bool((errors.diff() < 0).all())
    assert errors[-1].item() == pytest.approx(0, abs=1e-9)
    copies = [Cluster((j,), (j,)) for j in range(N_ATOMS)]
    same = torch.cat([small_codes, codes[:, N_ATOMS:]], dim=1)
    errors = swap(x, small_codes, old, same, rows, copies).errors
    assert errors.diff().abs().max().item() < 1e-9


def test_structureless_rows_raise_the_error_as_the_null_says():
    """400 isotropic rows; false alarm 1e-10; a mean off by 3 % of the null would be caught.

    Given the data the changes are null_change - 2 E z <r, w>, independent over the rows.
    """
    n_rows, n, d = 400, 500, 64
    generator = stream(0, "null")
    x = isotropic_rows(n, d, generator=generator, dtype=torch.float64)
    codes = torch.rand(n, 1, generator=generator, dtype=torch.float64).expand(n, n_rows)
    rows = isotropic_rows(n_rows, d, generator=generator, dtype=torch.float64)
    small = isotropic_rows(8, d, generator=generator, dtype=torch.float64)
    found = stitching(x, torch.zeros(n, 8, dtype=torch.float64), small, codes, rows)
    mean_zr = (codes[:, :1] * x).mean(0)
    relative = (found.error_changes - found.null_changes) / found.null_changes[0]
    bound = 2 * float(mean_zr.norm() / found.null_changes[0])
    radius = bernstein_radius(n_rows, bound**2 / d, bound, ALPHA)
    assert radius < 0.03
    assert abs(float(relative.mean())) < radius
    assert bound < 1  # so that each single change has the sign of the null
    assert bool(found.reconstruction.all())


def test_the_proxy_null_is_the_chance_that_isotropic_rows_are_called_reconstruction():
    """2,000 draws of 4 small and 10 large rows in R^3; false alarm 1e-10, an error of .08 caught.

    There a cosine is uniform in [-1, 1], so the chance is 1 - (1 - (1 - .7) / 2)^4.
    """
    n, m = 2000, 10
    options = {"dtype": torch.float64}
    small = isotropic_rows(4 * n, 3, generator=stream(0, "small"), **options).split(4)
    large = isotropic_rows(m * n, 3, generator=stream(0, "large"), **options).split(m)
    x, silent = torch.ones(1, 3, **options), torch.zeros(1, m, **options)
    found = [stitching(x, silent[:, :4], s, silent, w) for s, w in zip(small, large, strict=True)]
    assert found[0].proxy_null == pytest.approx(1 - 0.85**4, abs=1e-12)
    share = sum(float((~f.proxy_novel).double().mean()) for f in found) / n
    assert abs(share - found[0].proxy_null) < hoeffding_radius(n, 1, ALPHA) < 0.08


def test_silent_latents_have_no_label():
    p = problem(0)
    p["codes"][:, 2] = 0
    found = stitching(**p)
    assert not bool(found.novel[2] | found.reconstruction[2])
    live = [j for j in range(5) if j != 2]
    wrong = [bool(found.proxy_novel[j]) != bool(found.novel[j]) for j in live]
    assert found.disagreement == pytest.approx(sum(wrong) / 4)
    assert stitching(**{**p, "codes": torch.zeros_like(p["codes"])}).disagreement == 0


BAD = {
    "other samples": ({"codes": torch.zeros(6, 5)}, "codes must be of the same samples"),
    "widths differ": ({"W_dec": torch.zeros(5, 3)}, "expected x"),
    "rows and codes": ({"small_W_dec": torch.zeros(4, 4)}, "expected x"),
    "a vector": ({"x": torch.zeros(4)}, "expected x"),
    "NaN": ({"W_dec": torch.full((5, 4), math.nan)}, r"finite numbers in W_dec"),
    "threshold": ({"proxy_cosine": 1.0}, "0 < proxy_cosine < 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(unchecked, name):
    changed, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        stitching(**{**problem(0), **changed})


def test_bad_clusters_are_named(unchecked):
    p = list(problem(0).values())[:5]
    with pytest.raises(ValueError, match=r"disjoint clusters of large .* wrong=\[1, 9\]"):
        swap(*p, [Cluster((), (1, 9)), Cluster((0,), (1,))])
    with pytest.raises(ValueError, match=r"pass Cluster\(small, large\)"):
        swap(*p, [((0,), (1,))])
    with pytest.raises(ValueError, match="0 < cosine <= 1"):
        cosine_clusters(p[2], p[4], cosine=0)
    assert swap(*p, []).error_changes.tolist() == []
