"""Judging an SAE: planted truths, structureless latents, and the command line."""

import importlib
import inspect
import json
import math

import pytest
import safetensors.torch
import scipy.stats
import torch

import theory.__main__ as cli
from sae import AbsTopK, ReLU, save, to_saelens
from theory import best_support, isotropic_fve_bound, isotropic_rows, omp, recovery_radius
from theory.judge import judge, meta_dictionary
from toymodels import Constant, Independent, ToyModel, Uniform, orthonormal, presets, stream

judging = importlib.import_module("theory.judge")  # the module: `theory.judge` is its function

ALPHA = 1e-10


@pytest.fixture
def world():
    """Twelve orthonormal features in sixteen dimensions, each firing in a tenth of the samples."""
    dictionary = orthonormal(12, 16, generator=stream(0, "dictionary"))
    return ToyModel(Independent(12, 0.1, Uniform(0.5, 1.5)), dictionary)


@pytest.fixture
def batch(world):
    return world.sample(500, generator=stream(0, "eval"))


def nulls():
    return stream(0, "judge")


def test_the_truth_is_found_with_its_own_l0(world, batch):
    D = world.dictionary.vectors
    order = torch.randperm(12, generator=stream(0, "order"))
    rows = 3 * D[order]
    found = judge(batch.x, D, rows, lambda x: (x @ rows.T / 9).relu(), generator=nulls())
    assert found.recovery.score == pytest.approx(1, abs=1e-6)
    assert found.recovery.exceeds_chance(0.01)
    assert not found.lines
    assert found.fvu.value < 1e-10 < 0.1 < found.fvu.null
    latents = (batch.x @ rows.T / 9).relu()
    assert found.l0.value == pytest.approx((latents != 0).double().sum(1).mean().item(), abs=1e-12)
    assert found.negative_share.value == 0
    # Orthonormal rows have nothing in common: a quarter of as many atoms explains a quarter.
    assert found.compressibility.fve <= 0.25 + 1e-9 < found.compressibility.null
    assert found.compressibility.p_value == 1


def test_latents_of_the_wrong_sign_are_lines(world, batch):
    D = world.dictionary.vectors
    found = judge(batch.x, D, -D, lambda x: -(x @ D.T), generator=nulls())
    assert found.lines
    assert found.recovery.score == pytest.approx(1, abs=1e-6)
    assert found.fvu.value < 1e-10
    latents = -(batch.x @ D.T)
    share = int((latents < 0).sum()) / int((latents != 0).sum())
    assert found.negative_share.value == share > 0.5


def test_the_bias_is_added(world, batch):
    D, b = world.dictionary.vectors, torch.full((16,), 5.0)
    with_bias = judge(batch.x + b, D, D, lambda x: (x - b) @ D.T, b_dec=b, generator=nulls())
    without = judge(batch.x + b, D, D, lambda x: (x - b) @ D.T, generator=nulls())
    assert with_bias.fvu.value < 1e-9
    energy = (batch.x - batch.x.mean(0)).square().sum(1).mean().item()
    assert without.fvu.value == pytest.approx(16 * 25 / energy, rel=1e-3)


def test_structureless_latents_are_no_better_than_their_nulls(world, batch):
    D, x = world.dictionary.vectors, batch.x
    rows = isotropic_rows(24, 16, generator=stream(1, "rows"))
    mean = x.mean(0)

    def encode(x):
        return omp(x - mean, rows, 2)

    found = judge(x, D, rows, encode, b_dec=mean, generator=nulls())
    radius = recovery_radius(12, ALPHA)
    assert found.recovery.score < found.recovery.chance_bound + radius
    assert not found.recovery.exceeds_chance(0.01)
    # A single draw of rows, of a null in expectation: the slack of greedy codes covers its spread.
    assert found.fvu.value > found.fvu.null


def test_the_null_of_fvu_bounds_exact_search_on_isotropic_rows():
    """Mean over 2,000 draws of rows, .35; Hoeffding radius .076 at 1e-10. The null is .21; one
    above .43 would be caught, as is that of one atom fewer, .53."""
    x = torch.randn(3, 8, generator=stream(0, "x"), dtype=torch.float64)
    energy, counts = x.square().sum(1), torch.tensor([2, 2, 2])
    null = judging._structureless_fvu(energy, counts, 10, 8)
    left = []
    for seed in range(2000):
        rows = isotropic_rows(10, 8, generator=stream(seed, "rows"), dtype=torch.float64)
        r_squared = best_support(x, rows, 2).r_squared
        left.append(((1 - r_squared) * energy).sum().item() / energy.sum().item())
    mean, radius = sum(left) / 2000, math.sqrt(math.log(1 / ALPHA) / 4000)
    assert mean > null - radius
    fewer = judging._structureless_fvu(energy, counts - 1, 10, 8)
    assert mean < fewer - radius  # the null of one atom fewer is refuted by the same draws


def test_the_null_of_fvu_weighs_samples_by_their_energy():
    energy = torch.tensor([3.0, 1.0, 4.0, 2.0])
    counts = torch.tensor([2, 0, 1, 16])
    nu = [isotropic_fve_bound(16, 24, 2), 0, isotropic_fve_bound(16, 24, 1), 1]
    wanted = 1 - sum(e * v for e, v in zip(energy.tolist(), nu, strict=True)) / 10
    assert judging._structureless_fvu(energy, counts, 24, 16) == pytest.approx(wanted, rel=1e-6)


def test_l0_and_signs_on_gaussian_activations_of_the_same_moments():
    """One coordinate, 3 with probability .05: N(.15, .43) exceeds 1 and -.5 as the table says."""
    n, p = 4000, 0.05
    world = ToyModel(
        Independent(1, p, Constant(3.0)), orthonormal(1, 1, generator=stream(0, "dictionary"))
    )
    x = world.sample(n, generator=stream(0, "eval")).x
    sign = float(world.dictionary.vectors[0, 0])

    def encode(x):
        return sign * x * ((sign * x > 1) | (sign * x < -0.5))

    found = judge(x, world.dictionary.vectors, torch.tensor([[sign]]), encode, generator=nulls())
    mean, sd = (sign * x).mean().item(), x.double().std(correction=0).item()
    high, low = scipy.stats.norm.sf(1, mean, sd), scipy.stats.norm.cdf(-0.5, mean, sd)
    assert found.l0.value == (x != 0).double().mean().item()
    assert found.negative_share.value == 0
    n_active = round(found.l0.null * n)
    assert scipy.stats.binomtest(n_active, n, high + low).pvalue > ALPHA
    n_negative = round(found.negative_share.null * n_active)
    assert scipy.stats.binomtest(n_negative, n_active, low / (high + low)).pvalue > ALPHA


def test_compressible_rows_stand_out_and_isotropic_ones_do_not(world, batch):
    """Under the null p = 1/20, the smallest, has probability 1/20: in 8 of 8 draws 4e-11."""
    D = world.dictionary.vectors
    generator = stream(0, "rows")
    atoms = isotropic_rows(6, 16, generator=generator)
    codes = torch.rand(40, 6, generator=generator) + 0.5
    codes *= torch.rand(40, 6, generator=generator).argsort(1) < 2

    def encode(x):
        return x @ x.new_ones(16, 40)

    planted = judge(batch.x, D, codes @ atoms, encode, generator=generator)
    assert (planted.meta_width, planted.meta_k) == (10, 4)
    assert planted.compressibility.p_value == 1 / 20
    assert planted.compressibility.fve > 0.9
    smallest = 0
    for seed in range(8):
        generator = stream(seed, "rows")
        rows = isotropic_rows(40, 16, generator=generator)
        found = judge(batch.x, D, rows, encode, generator=generator)
        smallest += found.compressibility.p_value == 1 / 20
    assert smallest < 8


def test_a_meta_dictionary_finds_planted_atoms():
    atoms = torch.eye(3, 8, dtype=torch.float64)
    rows = torch.cat([atoms, 2 * atoms, 3 * atoms])
    fitted = [meta_dictionary(rows, 3, 1, generator=stream(s, "meta")) for s in range(20)]
    assert all(fit.shape == rows.shape for fit in fitted)
    errors = torch.tensor([(fit - rows).square().sum() for fit in fitted])
    # From three rows of different atoms it is exact; for each that is missed 1 + 4 + 9 is lost.
    missed = (errors / 14).round()
    torch.testing.assert_close(errors, 14 * missed, rtol=0, atol=1e-9)
    assert set(missed.tolist()) == {0, 1, 2}


def test_a_meta_dictionary_cannot_subtract():
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    fitted = meta_dictionary(rows, 1, 1, generator=stream(0, "meta"))
    assert (fitted - rows).square().sum().item() == pytest.approx(1)  # one of the two


def test_the_lengths_of_rows_do_not_matter(world, batch):
    D = world.dictionary.vectors
    lengths = torch.linspace(0.1, 10, 12)[:, None]

    def judged_at(rows):
        return judge(batch.x, D, rows, lambda x: x @ D.T, generator=nulls()).numbers()

    first, second = judged_at(D), judged_at(lengths * D)
    for name in ("recovery", "compressibility"):
        assert second[name] == pytest.approx(first[name], abs=1e-6)


def test_many_rows_are_sampled_and_zero_rows_left_out(world, batch, monkeypatch):
    D = world.dictionary.vectors
    monkeypatch.setattr(judging, "MAX_ROWS", 8)
    found = judge(batch.x, D, D, lambda x: x @ D.T, generator=nulls())
    assert (found.meta_width, found.meta_k) == (2, 2)
    dead = torch.cat([D[:5], torch.zeros(3, 16)])
    found = judge(batch.x, D, dead, lambda x: x @ dead.T, generator=nulls())
    assert (found.meta_width, found.meta_k) == (1, 1)  # of five rows that are not 0


def test_the_same_generator_gives_the_same_judgement(world, batch):
    D = world.dictionary.vectors
    first, second = (
        judge(batch.x, D, D, lambda x: x @ D.T, generator=nulls()).numbers() for _ in range(2)
    )
    other = judge(batch.x, D, D, lambda x: x @ D.T, generator=stream(1, "judge")).numbers()
    assert first == second != other


def test_a_dead_sae_has_no_signs(world, batch):
    D = world.dictionary.vectors
    found = judge(batch.x, D, D, lambda x: x.new_zeros(len(x), 12), generator=nulls())
    assert found.l0 == judging.Beside(0.0, 0.0)
    assert found.fvu.null == 1
    assert found.numbers()["negative_share"] == {"value": None, "null": None}
    json.dumps(found.numbers(), allow_nan=False)
    assert "negative_share   none     null none" in str(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(4, 3)}, r"of one d_in, got x=\(4, 3\), dictionary=\(12, 16\)"),
        ({"x": torch.ones(1, 16)}, r"x \[n >= 2, d_in\]"),
        ({"x": torch.ones(4, 16)}, "activations that vary"),
        ({"x": torch.full((4, 16), torch.nan)}, "finite numbers in x"),
        ({"dictionary": torch.ones(3, 4)}, r"dictionary=\(3, 4\)"),
        ({"W_dec": torch.zeros(12, 16)}, "a row of W_dec that is not 0"),
        ({"encode": lambda x: x}, r"encode\(x\) of shape \(500, 12\), got latents_shape="),
        ({"encode": lambda x: x[:, :12] / 0}, "finite numbers in latents"),
    ],
)
def test_bad_input_is_refused(change, message, world, batch, unchecked):
    D = world.dictionary.vectors
    arguments = {"x": batch.x, "dictionary": D, "W_dec": D, "encode": lambda x: x @ D.T} | change
    with pytest.raises(ValueError, match=f"judge: expected .*{message}"):
        judge(**arguments, generator=nulls())


# ---- the command line


def planted(seed=0):
    """The ReLU SAE that knows the tree of `--seed seed`."""
    world = presets.nabeshima_tree(generator=stream(seed, "dictionary"))
    sae = ReLU(20, 20, 0.5, generator=stream(0, "init"))
    with torch.no_grad():
        sae.W_dec.copy_(world.dictionary.vectors)
        sae.W_enc.copy_(world.dictionary.vectors.T)
    return sae


def in_the_format(sae, form, path):
    weights = {name: value.detach().clone() for name, value in sae.state_dict().items()}
    if form == "ours":
        save(sae, path)
    elif form == "saelens":
        to_saelens(sae, path)
    elif form == "sparsify":  # top-k with k = 20 is ReLU
        path.mkdir()
        (path / "cfg.json").write_text(json.dumps({"d_in": 20, "num_latents": 20, "k": 20}))
        weights["encoder.weight"] = weights.pop("W_enc").T.contiguous()
        weights["encoder.bias"] = weights.pop("b_enc")
        safetensors.torch.save_file(weights, path / "sae.safetensors")
    else:
        path.mkdir()
        (path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder"}}))
        renamed = {
            "encoder.weight": weights["W_enc"].T,
            "encoder.bias": weights["b_enc"],
            "decoder.weight": weights["W_dec"].T,
            "bias": weights["b_dec"],
        }
        torch.save(renamed, path / "ae.pt")
    return str(path)


def judged(*arguments, capsys):
    assert cli.main(["judge", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("form", ["ours", "saelens", "sparsify", "dictionary_learning"])
def test_an_sae_in_any_format_is_judged_the_same(form, tmp_path, capsys):
    path = in_the_format(planted(), form, tmp_path / form)
    options = ("--world", "nabeshima_tree", "--samples", "1000", "--json")
    found = json.loads(judged(path, *options, capsys=capsys))
    wanted = {"path": path, "world": "nabeshima_tree", "seed": 0, "samples": 1000, "d_in": 20}
    assert wanted.items() <= found.items()
    assert (found["n_features"], found["n_latents"], found["latents_are"]) == (20, 20, "rays")
    assert found["true_l0"] == pytest.approx(1.12)
    assert found["recovery"]["value"] == pytest.approx(1, abs=1e-5)
    assert found["recovery"]["null"] < found["recovery"]["null_bound"] < 0.6
    assert found["fvu"]["value"] < 1e-9 < found["fvu"]["null"]
    assert found["negative_share"]["value"] == 0
    assert {"value", "null", "p_value"} <= found["compressibility"].keys()


def test_text_and_json_say_the_same_numbers(tmp_path, capsys):
    path = in_the_format(planted(), "ours", tmp_path / "sae")
    options = ("--world", "nabeshima_tree", "--samples", "500")
    text = judged(path, *options, capsys=capsys)
    found = json.loads(judged(path, *options, "--json", capsys=capsys))
    lines = dict(line.split(maxsplit=1) for line in text.splitlines()[1:])
    assert list(lines) == list(judging.NULLS) == [k for k in found if isinstance(found[k], dict)]
    for name, line in lines.items():
        value, _, null = line.split()[:3]
        for shown, exact in ((value, found[name]["value"]), (null, found[name]["null"])):
            assert shown == ("none" if exact is None else f"{exact:.4g}")
        assert judging.NULLS[name] in line


def test_the_bias_of_the_file_is_added(tmp_path, capsys):
    """The encoder undoes b_dec, the decoder does not: fvu is |b|^2 over the variance."""
    sae, world = planted(), presets.nabeshima_tree(generator=stream(0, "dictionary"))
    with torch.no_grad():
        sae.b_dec[0] = 2.0
        sae.b_enc.copy_(sae.b_dec @ sae.W_enc)
    path = in_the_format(sae, "ours", tmp_path / "sae")
    options = ("--world", "nabeshima_tree", "--samples", "500", "--json")
    fvu = json.loads(judged(path, *options, capsys=capsys))["fvu"]["value"]
    x = world.sample(500, generator=stream(0, "eval")).x
    assert fvu == pytest.approx(4 / (x - x.mean(0)).square().sum(1).mean().item(), rel=1e-4)


def test_another_seed_is_another_world(tmp_path, capsys):
    path = in_the_format(planted(seed=3), "ours", tmp_path / "sae")
    options = (path, "--world", "nabeshima_tree", "--samples", "300", "--json")
    scores = [
        json.loads(judged(*options, "--seed", seed, capsys=capsys))["recovery"]["value"]
        for seed in ("3", "4")
    ]
    bound = json.loads(judged(*options, capsys=capsys))["recovery"]["null_bound"]
    assert scores[0] == pytest.approx(1, abs=1e-5)
    assert scores[1] < bound + recovery_radius(20, ALPHA)
    assert scores[1] < 0.9


def test_signed_latents_are_judged_as_lines(tmp_path, capsys):
    sae = AbsTopK(20, 20, 3, generator=stream(0, "init"))
    save(sae, tmp_path / "sae")
    options = ("--world", "nabeshima_tree", "--samples", "300", "--json")
    found = json.loads(judged(str(tmp_path / "sae"), *options, capsys=capsys))
    assert found["latents_are"] == "lines"
    assert found["l0"]["null"] == 3
    assert 0.3 < found["negative_share"]["null"] < 0.7


def test_every_preset_has_a_name(capsys):
    assert cli.main(["judge", "nowhere", "--world", "nabeshima"]) == 2
    error = capsys.readouterr().err
    names = [n for n, f in inspect.getmembers(presets, inspect.isfunction) if n in error]
    assert {"anders", "sharkey", "absorption", "hedging", "nabeshima_tree"} <= set(names)
    assert "benchmark_marginals" not in names
    assert error.startswith("judge: expected one of the worlds ['absorption', 'anders', ")
    assert error.endswith("got world='nabeshima'\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--world", "sharkey"],
            "judge: expected an SAE of d_in = 256, that of sharkey, got d_in=",
        ),
        (["--world", "anders"], "judge: expected an SAE of d_in = 2, that of anders, got d_in=20"),
        (["--world", "nabeshima_tree", "--samples", "1"], "judge: expected samples >= 2, got"),
        (["--world", "nabeshima_tree", "--seed", "-1"], "stream: expected an integer seed >= 0"),
    ],
)
def test_what_cannot_be_judged_exits_2(options, message, tmp_path, capsys):
    path = in_the_format(planted(), "ours", tmp_path / "sae")
    assert cli.main(["judge", path, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_a_damaged_or_missing_folder_exits_2(tmp_path, capsys):
    path = in_the_format(planted(), "saelens", tmp_path / "sae")
    weights = tmp_path / "sae/sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert cli.main(["judge", path, "--world", "nabeshima_tree"]) == 2
    assert capsys.readouterr().err.startswith("from_saelens: expected tensors in ")
    assert cli.main(["judge", "nowhere", "--world", "nabeshima_tree"]) == 2
    assert capsys.readouterr().err.startswith("load_any: expected a folder with ")
