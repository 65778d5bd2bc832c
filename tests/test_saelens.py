"""SAEs in the format of SAELens: the same function on both sides, and one clear error else."""

import json
import os
import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

import sae as sae_package
from sae import (
    SAE,
    AbsTopK,
    BatchTopK,
    Gated,
    JumpReLU,
    MatchingPursuit,
    MatryoshkaBatchTopK,
    MatryoshkaReLU,
    MultiTopK,
    ReLU,
    SignedMultiTopK,
    TiedLinear,
    TiedReLU,
    TopK,
    all_saes,
    from_saelens,
    to_saelens,
)
from sae.saelens import COUNTERPARTS, TENSORS
from toymodels import stream

ARCHITECTURES = sorted(TENSORS)
SHARED = sorted(COUNTERPARTS, key=lambda cls: cls.__name__)
TOL = 1e-5  # float32, at activations and weights of order 1


def disturbed(sae: SAE, generator: torch.Generator) -> SAE:
    """The SAE with every weight drawn: fresh ones have biases 0, unit rows and equal thresholds."""
    for name, value in sae.state_dict().items():
        if value.is_floating_point():
            drawn = torch.randn(value.shape, generator=generator)
            value.copy_(drawn.abs() if name == "threshold" else drawn)
    return sae


def activations(sae: SAE, generator: torch.Generator, n: int = 20) -> torch.Tensor:
    return torch.randn(n, sae.d_in, generator=generator).to(sae.W_dec.dtype)


@pytest.mark.parametrize("cls", SHARED)
@given(data=st.data())
def test_what_comes_back_is_the_same_function_bit_for_bit(cls, data):
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    sae = data.draw(cls.strategy())
    generator = stream(data.draw(st.integers(0, 99)), "weights")
    sae = disturbed(sae, generator).to(dtype)
    with tempfile.TemporaryDirectory() as folder:
        to_saelens(sae, f"{folder}/sae")
        back = from_saelens(f"{folder}/sae")
    x = activations(sae, generator)
    if cls is TiedReLU:  # its encoder lies transposed in memory, and rounds otherwise
        assert torch.equal(sae.W_enc, back.W_enc)
        back.W_enc.data = sae.W_enc.data
    wanted, got = sae(x), back(x)
    assert got.x_hat.dtype == dtype
    assert torch.equal(wanted.latents, got.latents)
    assert torch.equal(wanted.x_hat, got.x_hat)


def test_our_architectures_have_counterparts_but_two():
    ours = {cls for cls in all_saes() if cls.__name__ in sae_package.__all__}
    assert ours - set(COUNTERPARTS) == {TiedLinear, SignedMultiTopK}


class Doubled(TopK):
    def activate(self, pre_acts):
        return 2 * super().activate(pre_acts)


@pytest.mark.parametrize("cls", [TiedLinear, Doubled])
def test_what_has_no_counterpart_is_refused(cls, tmp_path):
    more = () if cls is TiedLinear else (2,)
    sae = cls(3, 5, *more, generator=stream(0, "init"))
    message = (
        rf"to_saelens: expected one of .*'TopK'.*architecture='{cls.__name__}'; SAELens has no"
    )
    with pytest.raises(ValueError, match=message):
        to_saelens(sae, tmp_path / "sae")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sae", "architecture", "training", "details", "extra"),
    [
        (lambda g: ReLU(3, 5, 0.1, generator=g), "standard", "standard", {}, {}),
        (
            lambda g: MatryoshkaReLU(3, 5, 0.1, (2, 5), generator=g),
            "standard",
            "MatryoshkaReLU",
            {},
            {},
        ),
        (
            lambda g: MultiTopK(3, 5, (2, 4), (1.0, 0.5), generator=g),
            "topk",
            "MultiTopK",
            {},
            {"k": 2, "rescale_acts_by_decoder_norm": False},
        ),
        (
            lambda g: AbsTopK(3, 5, 2, generator=g),
            "abstopk",
            "abstopk",
            {},
            {"k": 2, "rescale_acts_by_decoder_norm": False},
        ),
        (lambda g: JumpReLU(3, 5, 0.1, generator=g), "jumprelu", "jumprelu", {}, {}),
        (lambda g: BatchTopK(3, 5, 1.5, generator=g), "jumprelu", "batchtopk", {"k": 1.5}, {}),
        (
            lambda g: MatryoshkaBatchTopK(3, 5, 2, (2, 5), generator=g),
            "jumprelu",
            "matryoshka_batchtopk",
            {"k": 2, "matryoshka_widths": [2, 5]},
            {},
        ),
        (lambda g: Gated(3, 5, 0.1, generator=g), "gated", "gated", {}, {}),
        (
            lambda g: MatchingPursuit(3, 5, 4, residual_threshold=0.5, generator=g),
            "matching_pursuit",
            "matching_pursuit",
            {},
            {"max_iterations": 4, "residual_threshold": 0.5, "stop_on_duplicate_support": False},
        ),
    ],
)
def test_the_file_says(sae, architecture, training, details, extra, tmp_path):
    to_saelens(sae(stream(0, "init")), tmp_path / "a/sae")
    assert sorted(p.name for p in (tmp_path / "a").rglob("*")) == [
        "cfg.json",
        "sae",
        "sae_weights.safetensors",
    ]
    config = json.loads((tmp_path / "a/sae/cfg.json").read_text())
    metadata = config.pop("metadata")
    assert config == {
        "architecture": architecture,
        "d_in": 3,
        "d_sae": 5,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **extra,
    }
    assert int(metadata["sae_lens_version"].split(".")[0]) >= 6
    assert metadata["training_architecture"] == training
    assert metadata["training_architecture_details"] == details
    tensors = safetensors.torch.load_file(tmp_path / "a/sae/sae_weights.safetensors")
    sizes = {"d": 3, "m": 5}
    wanted = {name: [sizes[axis] for axis in axes] for name, axes in TENSORS[architecture].items()}
    assert {name: list(value.shape) for name, value in tensors.items()} == wanted


def test_the_threshold_of_batch_topk_is_every_latents(tmp_path):
    sae = BatchTopK(3, 5, 2, generator=stream(0, "init"))
    sae.threshold.fill_(0.75)
    to_saelens(sae, tmp_path / "sae")
    tensors = safetensors.torch.load_file(tmp_path / "sae/sae_weights.safetensors")
    assert tensors["threshold"].tolist() == [0.75] * 5


# ---- files of theirs: a folder by hand, and what it means, loop by loop


def foreign(architecture, d, m, generator, **config):
    """Returns the settings and float64 weights of a SAELens folder."""
    sizes = {"d": d, "m": m}
    tensors = {
        name: torch.randn([sizes[a] for a in axes], generator=generator, dtype=torch.float64)
        for name, axes in TENSORS[architecture].items()
    }
    described = {
        "architecture": architecture,
        "d_in": d,
        "d_sae": m,
        "dtype": "float64",
        "metadata": {"sae_lens_version": "6.0.0"},
        **config,
    }
    return described, tensors


def written(folder, described, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(described))
    safetensors.torch.save_file(tensors, folder / "sae_weights.safetensors")
    return folder


def meant(described, tensors, x):
    """Latents and reconstruction of one activation, from the documented semantics."""
    name, m = described["architecture"], described["d_sae"]
    centred = described.get("apply_b_dec_to_input", True)
    W_dec, b_dec = tensors["W_dec"], tensors["b_dec"]
    z, r = torch.zeros(m, dtype=x.dtype), x - b_dec if centred else x.clone()
    if name == "matching_pursuit":
        for _ in range(described.get("max_iterations") or len(x)):
            j = int((W_dec @ r).argmax())
            v = float(W_dec[j] @ r)
            before = set(z.nonzero().flatten().tolist())
            if v > 0:
                z[j] += v
                r = r - v * W_dec[j]
            same = before == set(z.nonzero().flatten().tolist())
            if described.get("stop_on_duplicate_support", True) and same:
                break
            if float(r.norm()) < described.get("residual_threshold", 0.01):
                break
        return z, z @ W_dec + (b_dec if centred else 0)
    norms = W_dec.norm(dim=1) if described.get("rescale_acts_by_decoder_norm") else torch.ones(m)
    pre = [float(r @ tensors["W_enc"][:, j]) for j in range(m)]
    if name == "gated":
        for j in range(m):
            magnitude = pre[j] * float(tensors["r_mag"][j].exp()) + float(tensors["b_mag"][j])
            z[j] = max(0.0, magnitude) if pre[j] + float(tensors["b_gate"][j]) > 0 else 0.0
        return z, z @ W_dec + b_dec
    pre = [(pre[j] + float(tensors["b_enc"][j])) * float(norms[j]) for j in range(m)]
    if name in ("topk", "abstopk"):
        ranked = sorted(range(m), key=lambda j: -(abs(pre[j]) if name == "abstopk" else pre[j]))
        for j in ranked[: described["k"]]:
            z[j] = pre[j] if name == "abstopk" else max(0.0, pre[j])
    else:
        for j in range(m):
            above = name == "standard" or pre[j] > float(tensors["threshold"][j])
            z[j] = max(0.0, pre[j]) if above else 0.0
    return z, (z / norms) @ W_dec + b_dec


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(data=st.data())
def test_their_files_mean_what_is_documented(architecture, data):
    d, m = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    config = {"apply_b_dec_to_input": data.draw(st.booleans())}
    if architecture in ("topk", "abstopk"):
        config["k"] = data.draw(st.integers(1, m))
        config["rescale_acts_by_decoder_norm"] = data.draw(st.booleans())
    if architecture == "matching_pursuit":
        config["max_iterations"] = data.draw(st.sampled_from([None, 1, 3]))
        config["residual_threshold"] = data.draw(st.sampled_from([0.0, 0.01, 2.0]))
        config["stop_on_duplicate_support"] = data.draw(st.booleans())
    generator = stream(data.draw(st.integers(0, 9999)), "weights")
    described, tensors = foreign(architecture, d, m, generator, **config)
    if architecture == "matching_pursuit":  # rows longer than sqrt(2) make the pursuit diverge
        tensors["W_dec"] /= tensors["W_dec"].norm(dim=1, keepdim=True)
    with tempfile.TemporaryDirectory() as folder:
        sae = from_saelens(written(Path(folder) / "sae", described, tensors))
    x = torch.randn(5, d, generator=generator, dtype=torch.float64)
    got = sae(x)
    for i in range(len(x)):
        latents, x_hat = meant(described, tensors, x[i])
        torch.testing.assert_close(got.latents[i], latents, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(got.x_hat[i], x_hat, rtol=1e-9, atol=1e-9)


def test_folded_rows_are_unit_and_a_zero_row_stays(tmp_path):
    described, tensors = foreign(
        "topk", 3, 4, stream(0, "weights"), k=2, rescale_acts_by_decoder_norm=True
    )
    tensors["W_dec"][1] = 0
    sae = from_saelens(written(tmp_path, described, tensors))
    norms = sae.W_dec.norm(dim=1).tolist()
    assert norms == pytest.approx([1, 0, 1, 1], abs=1e-12)


def test_a_missing_k_is_a_hundred(tmp_path):
    described, tensors = foreign("topk", 3, 120, stream(0, "weights"))
    sae = from_saelens(written(tmp_path, described, tensors))
    assert isinstance(sae, TopK)
    assert sae.k == 100


def test_a_pursuit_that_says_nothing_has_their_defaults(tmp_path):
    described, tensors = foreign("matching_pursuit", 3, 5, stream(0, "weights"))
    sae = from_saelens(written(tmp_path, described, tensors))
    assert isinstance(sae, MatchingPursuit)
    assert (sae.max_iterations, sae.residual_threshold, sae.stop_on_repeat) == (3, 0.01, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "temporal"}, r"one of the architectures \['abstopk', .*got.*'temporal'"),
        ({"architecture": None}, "one of the architectures"),
        ({"architecture": ["topk"]}, "one of the architectures"),
        ({"architecture": "batchtopk"}, "save the inference model, which is jumprelu"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations 'none'.*'layer_norm'"),
        ({"normalize_activations": "expected_average_only_in"}, "fold the scale in sae-lens"),
        ({"normalize_activations": "constant_norm_rescale"}, "normalise x first"),
        ({"normalize_activations": "covariance_whitening"}, "normalise x first"),
        ({"metadata": {"sae_lens_version": "5.9.1"}}, r"sae_lens_version >= 6\.0\.0, got.*5\.9\.1"),
        ({"metadata": {}}, r"sae_lens_version >= 6\.0\.0, got sae_lens_version=None"),
        ({"metadata": "new"}, r"sae_lens_version >= 6\.0\.0"),
        ({"d_sae": 6}, r"W_enc of shape \(3, 6\), got W_enc_shape=\(3, 5\)"),
        ({"d_in": 4}, r"W_enc of shape \(4, 5\)"),
        ({"d_in": 0}, "an integer d_in >= 1"),
        ({"d_in": "3"}, "d_in of type int, got d_in='3'"),
        ({"d_sae": None}, "d_sae of type int"),
        ({"dtype": "float8"}, "a dtype of .*'float32'.*got dtype='float8'"),
        ({"dtype": None}, "a dtype of"),
        ({"k": 9}, r"TopK: expected an integer 1 <= k <= 5 \(n_latents\), got k=9"),
        ({"k": True}, "k of type int, got k=True"),
        ({"k": "2"}, "k of type int"),
        ({"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input of type bool"),
        ({"rescale_acts_by_decoder_norm": 1}, "rescale_acts_by_decoder_norm of type bool"),
    ],
)
def test_settings_that_cannot_be_represented_are_refused(change, message, tmp_path):
    described, tensors = foreign("topk", 3, 5, stream(0, "weights"), k=2)
    from_saelens(written(tmp_path, described, tensors))
    with pytest.raises(ValueError, match=message):
        from_saelens(written(tmp_path, described | change, tensors))


def test_damaged_tensors_are_refused(tmp_path):
    described, tensors = foreign("jumprelu", 3, 5, stream(0, "weights"))
    nan = tensors["b_enc"].clone()
    nan[2] = torch.nan
    cases = {
        r"missing=\['threshold'\], extra=\[\]": {k: tensors[k] for k in tensors if k[0] != "t"},
        r"missing=\[\], extra=\['topk_threshold'\]": tensors | {"topk_threshold": torch.ones(())},
        r"W_dec of shape \(5, 3\), got W_dec_shape=\(3, 5\)": tensors
        | {"W_dec": tensors["W_dec"].T.contiguous()},
        r"finite numbers in b_enc, got b_enc\[2\]=nan": tensors | {"b_enc": nan},
        "b_enc in floating point": tensors | {"b_enc": torch.ones(5, dtype=torch.int64)},
    }
    for message, changed in cases.items():
        with pytest.raises(ValueError, match=f"from_saelens: expected .*{message}"):
            from_saelens(written(tmp_path, described, changed))


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_weights_are_refused(keep, tmp_path):
    described, tensors = foreign("standard", 3, 5, stream(0, "weights"))
    weights = written(tmp_path, described, tensors) / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"from_saelens: expected tensors in .*truncated"):
        from_saelens(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_settings_that_are_no_settings_are_refused(text, tmp_path):
    described, tensors = foreign("standard", 3, 5, stream(0, "weights"))
    written(tmp_path, described, tensors)
    (tmp_path / "cfg.json").write_text(text)
    with pytest.raises(ValueError, match=r"expected (a )?JSON .*cfg\.json.*save it again"):
        from_saelens(tmp_path)


@pytest.mark.parametrize("missing", ["cfg.json", "sae_weights.safetensors"])
def test_missing_files_are_named(missing, tmp_path):
    described, tensors = foreign("standard", 3, 5, stream(0, "weights"))
    written(tmp_path, described, tensors)
    (tmp_path / missing).unlink()
    with pytest.raises(ValueError, match=f"expected a file {missing}, got path=.*; give the"):
        from_saelens(tmp_path)


def test_a_folder_of_ours_is_answered_with_who_reads_it(tmp_path):
    sae_package.save(ReLU(3, 5, 0.1, generator=stream(0, "init")), tmp_path / "sae")
    with pytest.raises(ValueError, match=r"a cfg\.json of SAELens, .*use load or load_any"):
        from_saelens(tmp_path / "sae")


def test_what_is_there_is_left_alone(tmp_path):
    (tmp_path / "sae").mkdir()
    (tmp_path / "sae/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"to_saelens: expected a new path, got .*choose another"):
        to_saelens(ReLU(3, 5, 0.1, generator=stream(0, "init")), tmp_path / "sae")
    assert [p.name for p in tmp_path.rglob("*")] == ["sae", "notes.txt"]


@pytest.mark.parametrize("failure", [OSError("no space"), KeyboardInterrupt()])
def test_a_failure_midway_leaves_nothing(failure, tmp_path, monkeypatch):
    def rename(source, target):
        assert len(list(Path(source).iterdir())) == 2
        raise failure

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(type(failure)):
        to_saelens(ReLU(3, 5, 0.1, generator=stream(0, "init")), tmp_path / "sae")
    assert list(tmp_path.iterdir()) == []


# ---- against the installed package


@pytest.fixture
def sae_lens():
    return pytest.importorskip("sae_lens", reason="needs sae-lens, which is not a dependency")


def same(theirs, ours, x):
    """Asserts equal latents and reconstructions; returns how many latents were active."""
    with torch.no_grad():
        codes = theirs.encode(x)
        got = ours(x)
        torch.testing.assert_close(got.latents, codes, rtol=TOL, atol=TOL)
        torch.testing.assert_close(got.x_hat, theirs.decode(codes), rtol=TOL, atol=TOL)
        return int((codes != 0).sum())


@pytest.mark.parametrize("cls", SHARED)
def test_sae_lens_loads_what_is_written(cls, sae_lens, tmp_path):
    init, weights = stream(0, "init"), stream(0, "weights")
    extra = {
        "MatchingPursuit": (4,),
        "MultiTopK": ((3, 6), (1.0, 0.5)),
        "MatryoshkaReLU": (0.1, (4, 24)),
        "OrderedTopK": (3, (1 / 24,) * 24),
        "MatryoshkaBatchTopK": (3, (4, 24)),
    }
    numbers = {"TopK": (3,), "AbsTopK": (3,), "HierarchicalTopK": (3,), "BatchTopK": (3,)}
    numbers["OrthoBatchTopK"] = (3,)
    arguments = (extra | numbers).get(cls.__name__, (0.1,))
    sae = disturbed(cls(8, 24, *arguments, generator=init), weights)
    if cls is MatchingPursuit:
        sae.normalise_decoder_()
    to_saelens(sae, tmp_path / "sae")
    loaded = sae_lens.SAE.load_from_disk(tmp_path / "sae")
    assert loaded.cfg.architecture() == COUNTERPARTS[cls][0]
    assert loaded.cfg.metadata.training_architecture == COUNTERPARTS[cls][1]
    assert same(loaded, sae, activations(sae, weights, 200)) > 200


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(
    ("architecture", "rescaled"),
    [(name, False) for name in ARCHITECTURES] + [("topk", True), ("abstopk", True)],
)
def test_what_sae_lens_writes_is_loaded(architecture, rescaled, centred, sae_lens, tmp_path):
    ranked = architecture in ("topk", "abstopk")
    config = {"k": 3, "rescale_acts_by_decoder_norm": rescaled} if ranked else {}
    described, _ = foreign(architecture, 8, 24, stream(0, "weights"), **config)
    described |= {"apply_b_dec_to_input": centred, "dtype": "float32"}
    theirs = sae_lens.SAE.from_dict(described)
    generator = stream(0, "weights")
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            value.copy_(torch.randn(value.shape, generator=generator))
            if name == "threshold":
                value.abs_()
        if architecture == "matching_pursuit":
            theirs.W_dec /= theirs.W_dec.norm(dim=1, keepdim=True)
    theirs.save_model(tmp_path)
    x = torch.randn(200, 8, generator=generator)
    assert same(theirs, from_saelens(tmp_path), x) > 200


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_what_sae_lens_trained_is_loaded(architecture, sae_lens, tmp_path):
    """Saved for inference by sae-lens itself, which folds norms and spreads the threshold."""
    described = {"architecture": architecture, "d_in": 8, "d_sae": 24, "k": 3.0, "dtype": "float32"}
    if architecture.startswith("matryoshka"):
        described["matryoshka_widths"] = [8, 24]
    theirs = sae_lens.TrainingSAE.from_dict(described)
    generator = stream(0, "weights")
    with torch.no_grad():
        for value in theirs.parameters():
            value.copy_(torch.randn(value.shape, generator=generator))
        theirs.topk_threshold.fill_(1.5)
    theirs.save_inference_model(tmp_path / "inference")
    theirs.save_model(tmp_path / "training")
    loaded = sae_lens.SAE.load_from_disk(tmp_path / "inference")
    ours = from_saelens(tmp_path / "inference")
    assert isinstance(ours, JumpReLU)
    assert same(loaded, ours, torch.randn(200, 8, generator=generator)) > 200
    with pytest.raises(ValueError, match="save the inference model"):
        from_saelens(tmp_path / "training")
