"""Folders of sparsify and dictionary_learning: what they mean, and that no pickle is executed."""

import json
import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae import (
    Gated,
    JumpReLU,
    ReLU,
    TopK,
    from_dictionary_learning,
    from_sparsify,
    load_any,
    save,
    to_saelens,
)
from sae.foreign import DICTIONARIES
from toymodels import stream

KINDS = {
    "AutoEncoder": ReLU,
    "AutoEncoderNew": ReLU,
    "AutoEncoderTopK": TopK,
    "BatchTopKSAE": JumpReLU,
    "GatedAutoEncoder": Gated,
    "JumpReluAutoEncoder": JumpReLU,
    "MatryoshkaBatchTopKSAE": JumpReLU,
}


def dictionary_weights(name, d, m, k, threshold, generator):
    """Returns float64 weights of a dictionary_learning class."""
    sizes = {"d": d, "m": m}
    return {
        key: torch.randn([sizes[a] for a in axes], generator=generator, dtype=torch.float64)
        for key, axes in DICTIONARIES[name].items()
        if axes not in ("", "g") and (key, axes) != ("threshold", "")
    } | {
        key: value
        for key, value in {
            "k": torch.tensor(k, dtype=torch.int32),
            "threshold": torch.tensor(threshold, dtype=torch.float64),
            "group_sizes": torch.tensor([m]),
        }.items()
        if DICTIONARIES[name].get(key) in ("", "g")
    }


def written(folder, name, weights, **trainer):
    folder.mkdir(parents=True, exist_ok=True)
    config = {"trainer": {"dict_class": name, "activation_dim": 3, **trainer}}
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(weights, folder / "ae.pt")
    return folder


def meant(name, w, x):
    """Latents and reconstruction of a batch, by the definition of each class."""
    relu = torch.relu
    if name == "AutoEncoder":  # loaded with unit rows: latents in the unit of the decoder
        norms = w["decoder.weight"].norm(dim=0)
        z = relu((x - w["bias"]) @ w["encoder.weight"].T + w["encoder.bias"])
        return z * norms, z @ w["decoder.weight"].T + w["bias"]
    if name == "AutoEncoderNew":
        z = relu(x @ w["encoder.weight"].T + w["encoder.bias"])
        return z, z @ w["decoder.weight"].T + w["decoder.bias"]
    if name == "GatedAutoEncoder":
        pre = (x - w["decoder_bias"]) @ w["encoder.weight"].T
        magnitude = relu(w["r_mag"].exp() * pre + w["mag_bias"])
        z = magnitude * (pre + w["gate_bias"] > 0)
        return z, z @ w["decoder.weight"].T + w["decoder_bias"]
    if name == "JumpReluAutoEncoder":
        pre = x @ w["W_enc"] + w["b_enc"]
        z = relu(pre * (pre > w["threshold"]))
        return z, z @ w["W_dec"] + w["b_dec"]
    if name == "MatryoshkaBatchTopKSAE":
        W_enc, b_enc, W_dec = w["W_enc"], w["b_enc"], w["W_dec"]
    else:
        W_enc, b_enc, W_dec = w["encoder.weight"].T, w["encoder.bias"], w["decoder.weight"].T
    z = relu((x - w["b_dec"]) @ W_enc + b_enc)
    if name == "AutoEncoderTopK":
        order = z.argsort(dim=1, descending=True)[:, : int(w["k"])]
        z = torch.zeros_like(z).scatter(1, order, z.gather(1, order))
    else:
        z = z * (z > w["threshold"])
    return z, z @ W_dec + w["b_dec"]


@pytest.mark.parametrize("name", sorted(DICTIONARIES))
@given(data=st.data())
def test_dictionary_learning_files_mean_what_their_classes_do(name, data):
    d, m = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    k, threshold = data.draw(st.integers(1, m)), data.draw(st.sampled_from([-1.0, 0.0, 0.5]))
    generator = stream(data.draw(st.integers(0, 9999)), "weights")
    weights = dictionary_weights(name, d, m, k, threshold, generator)
    with tempfile.TemporaryDirectory() as folder:
        sae = load_any(written(Path(folder) / "sae", name, weights))
    assert type(sae) is KINDS[name]
    x = torch.randn(5, d, generator=generator, dtype=torch.float64)
    got, (latents, x_hat) = sae(x), meant(name, weights, x)
    torch.testing.assert_close(got.latents, latents, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(got.x_hat, x_hat, rtol=1e-9, atol=1e-9)


class Hostile:
    """Pickles to a call that leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("place", ["whole file", "beside the weights"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_and_not_executed(place, zipped, tmp_path):
    trace = tmp_path / "trace"
    weights = dictionary_weights("AutoEncoder", 3, 5, 1, 0.0, stream(0, "weights"))
    hostile = Hostile(trace) if place == "whole file" else weights | {"extra": Hostile(trace)}
    folder = written(tmp_path / "sae", "AutoEncoder", weights)
    torch.save(hostile, folder / "ae.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"from_dictionary_learning: expected tensors in .*ae\.pt"):
        load_any(folder)
    assert not trace.exists()
    torch.load(folder / "ae.pt", weights_only=False)  # the trap does work on those who trust it
    assert trace.exists()


@pytest.mark.parametrize("keep", [0, 10, -1, -30])
def test_a_truncated_pickle_is_refused(keep, tmp_path):
    weights = dictionary_weights("AutoEncoder", 3, 5, 1, 0.0, stream(0, "weights"))
    path = written(tmp_path, "AutoEncoder", weights) / "ae.pt"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"expected tensors in .*ae\.pt, got .*truncated"):
        from_dictionary_learning(tmp_path)


def test_foreign_dictionaries_are_refused(tmp_path):
    name = "AutoEncoderTopK"
    weights = dictionary_weights(name, 3, 5, 2, 0.0, stream(0, "weights"))
    cases = [
        ("CrossCoder", weights, r"dict_class of \['AutoEncoder', .*got dict_class='CrossCoder'"),
        (None, weights, "dict_class of"),
        (name, weights | {"W_skip": torch.ones(3, 3)}, r"missing=\[\], extra=\['W_skip'\]"),
        ("AutoEncoder", weights, r"missing=\['bias'\], extra=\['b_dec', 'k', 'threshold'\]"),
        (
            name,
            weights | {"b_dec": torch.ones(4)},
            r"b_dec of shape \(3,\), got b_dec_shape=\(4,\)",
        ),
        (name, weights | {"encoder.weight": torch.ones(5)}, "encoder.weight of shape"),
        (name, weights | {"encoder.bias": torch.full((5,), torch.nan)}, "finite numbers in enc"),
        (name, weights | {"k": torch.tensor(9)}, r"1 <= k <= 5 \(n_latents\), got k=9"),
        (name, weights | {"k": 2}, r"tensors by name in ae\.pt"),
        (name, [torch.ones(3)], r"tensors by name in ae\.pt, got kind='list'"),
    ]
    for label, changed, message in cases:
        with pytest.raises(ValueError, match=message):
            from_dictionary_learning(written(tmp_path, label, changed))
    from_dictionary_learning(written(tmp_path, name, weights))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"a JSON object in config\.json"):
        from_dictionary_learning(tmp_path)


def sparsify_folder(folder, d, m, generator, **config):
    weights = {
        "encoder.weight": torch.randn(m, d, generator=generator, dtype=torch.float64),
        "encoder.bias": torch.randn(m, generator=generator, dtype=torch.float64),
        "W_dec": torch.randn(m, d, generator=generator, dtype=torch.float64),
        "b_dec": torch.randn(d, generator=generator, dtype=torch.float64),
    }
    described = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": m,
        "k": 2,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": d,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(described | config))
    safetensors.torch.save_file(weights, folder / "sae.safetensors")
    return weights


@given(data=st.data())
def test_sparsify_files_are_topk(data):
    d, m = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    k, by_factor = data.draw(st.integers(1, m)), data.draw(st.booleans())
    m = m * d if by_factor else m
    config = {"num_latents": 0, "expansion_factor": m // d} if by_factor else {}
    generator = stream(data.draw(st.integers(0, 9999)), "weights")
    with tempfile.TemporaryDirectory() as folder:
        weights = sparsify_folder(Path(folder), d, m, generator, k=k, **config)
        sae = load_any(folder)
    x = torch.randn(5, d, generator=generator, dtype=torch.float64)
    z = torch.relu((x - weights["b_dec"]) @ weights["encoder.weight"].T + weights["encoder.bias"])
    order = z.argsort(dim=1, descending=True)[:, :k]
    z = torch.zeros_like(z).scatter(1, order, z.gather(1, order))
    got = sae(x)
    torch.testing.assert_close(got.latents, z, rtol=1e-9, atol=1e-9)
    wanted = z @ weights["W_dec"] + weights["b_dec"]
    torch.testing.assert_close(got.x_hat, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "groupmax"}, "activation 'topk', got activation='groupmax'"),
        ({"transcode": True}, "transcode false, got transcode=True"),
        ({"skip_connection": True}, "skip_connection false"),
        ({"signed": True}, "signed false"),
        ({"d_in": "3"}, "d_in of type int"),
        ({"k": None}, "k of type int"),
        (
            {"num_latents": 6},
            r"encoder.weight of shape \(6, 3\), got encoder.weight_shape=\(5, 3\)",
        ),
        ({"k": 6}, r"1 <= k <= 5 \(n_latents\), got k=6"),
    ],
)
def test_what_sparsify_has_and_we_do_not_is_refused(change, message, tmp_path):
    sparsify_folder(tmp_path, 3, 5, stream(0, "weights"))
    from_sparsify(tmp_path)
    sparsify_folder(tmp_path, 3, 5, stream(0, "weights"), **change)
    with pytest.raises(ValueError, match=message):
        from_sparsify(tmp_path)


def test_damaged_sparsify_weights_are_refused(tmp_path):
    weights = sparsify_folder(tmp_path, 3, 5, stream(0, "weights"))
    path = tmp_path / "sae.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"from_sparsify: expected tensors in .*truncated"):
        from_sparsify(tmp_path)
    del weights["b_dec"]
    safetensors.torch.save_file(weights | {"W_skip": torch.ones(3, 3)}, path)
    with pytest.raises(ValueError, match=r"missing=\['b_dec'\], extra=\['W_skip'\]"):
        from_sparsify(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"a file sae\.safetensors"):
        from_sparsify(tmp_path)


def test_any_folder_is_recognised_by_its_files(tmp_path):
    sae = ReLU(3, 5, 0.5, generator=stream(0, "init"))
    save(sae, tmp_path / "ours")
    to_saelens(sae, tmp_path / "saelens")
    ours, theirs = load_any(tmp_path / "ours"), load_any(str(tmp_path / "saelens"))
    assert (ours.l1, theirs.l1) == (0.5, 0.0)  # only our own file holds settings of the training
    assert torch.equal(theirs.W_enc, sae.W_enc)


@pytest.mark.parametrize("there", [[], ["cfg.json"], ["model.safetensors"]])
def test_other_folders_are_refused(there, tmp_path):
    for name in there:
        (tmp_path / name).write_text("{}")
    message = r"load_any: expected a folder with sae_weights\.safetensors .*ae\.pt .*, got path="
    with pytest.raises(ValueError, match=message):
        load_any(tmp_path)
