"""Saved SAEs: exact, verified on reading, written whole or not at all."""

import hashlib
import json
import os

import pytest
import torch

from sae import (
    DiskError,
    ReLU,
    TopK,
    files,
    from_dictionary_learning,
    from_saelens,
    from_sparsify,
    load,
    load_any,
    save,
    to_saelens,
)
from toymodels import stream


@pytest.fixture
def sae():
    return TopK(3, 7, 2, aux_coefficient=0.125, bias=False, generator=stream(0, "init"))


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_saved_sae_is_its_settings_and_its_bits(sae, tmp_path):
    with torch.no_grad():
        sae.W_enc[0, 0] = -0.0  # equal to 0.0, but not the same bits
        sae.b_enc[0] = 1e-42  # subnormal
    save(sae, tmp_path / "a/b/sae")
    assert sorted(contents(tmp_path / "a/b/sae")) == ["cfg.json", "sae_weights.safetensors"]
    loaded = load(str(tmp_path / "a/b/sae"))
    assert type(loaded) is TopK
    wanted = {"d_in": 3, "n_latents": 7, "k": 2, "aux_coefficient": 0.125, "bias": False}
    assert loaded.settings() == wanted
    for name, value in sae.state_dict().items():
        bits = loaded.state_dict()[name].view(torch.int32)
        assert torch.equal(bits, value.view(torch.int32)), name
    assert not loaded.b_dec.requires_grad


def test_saving_again_replaces_and_leaves_no_scratch(sae, tmp_path):
    save(sae, tmp_path / "sae")
    save(ReLU(2, 5, 0.5, generator=stream(1, "init")), tmp_path / "sae")
    assert type(load(tmp_path / "sae")) is ReLU
    assert [p.name for p in tmp_path.iterdir()] == ["sae"]


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty", "another SAE's"])
def test_damaged_weights_are_refused(sae, tmp_path, damage):
    save(sae, tmp_path / "sae")
    weights = tmp_path / "sae/sae_weights.safetensors"
    data = bytearray(weights.read_bytes())
    if damage == "truncated":
        data = data[:-1]
    elif damage == "one bit":
        data[-1] ^= 1
    elif damage == "empty":
        data = bytearray()
    else:
        save(TopK(3, 7, 2, generator=stream(1, "init")), tmp_path / "other")
        data = bytearray((tmp_path / "other/sae_weights.safetensors").read_bytes())
    weights.write_bytes(data)
    with pytest.raises(
        ValueError, match=r"load: expected settings and weights of SHA-256 .*truncated or changed"
    ):
        load(tmp_path / "sae")


@pytest.mark.parametrize("missing", ["cfg.json", "sae_weights.safetensors", "everything"])
def test_missing_files_are_named(sae, tmp_path, missing):
    if missing != "everything":
        save(sae, tmp_path / "sae")
        (tmp_path / "sae" / missing).unlink()
    rule = (
        r"folder with cfg\.json and sae_weights.*path='.*sae'; .*folder that save wrote.*load_any"
    )
    with pytest.raises(ValueError, match=rule):
        load(tmp_path / "sae")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "Perceptron"}, r"one of the architectures .*'TopK'.*got.*'Perceptron'"),
        ({"settings": {"d_in": 3, "n_latents": 7}}, "weights that fit"),
        ({"settings": {"d_in": 3, "n_latents": 8, "k": 2}}, "weights that fit"),
        ({"settings": {"d_in": 3, "n_latents": 7, "k": 9}}, r"1 <= k <= 7 \(n_latents\), got k=9"),
        ({"settings": [3, 7, 2]}, r"cfg\.json written by save"),
        ({"dtype": "float33"}, r"cfg\.json written by save"),
        ({"dtype": 3}, r"cfg\.json written by save"),
        ({"dtype": "load"}, r"cfg\.json written by save"),
    ],
)
def test_foreign_settings_are_refused(sae, tmp_path, change, message):
    """Settings whose checksum is right, as another version or another program would write them."""
    save(sae, tmp_path / "sae")
    settings = tmp_path / "sae/cfg.json"
    described = json.loads(settings.read_text()) | change
    del described["sha256"]
    weights = (tmp_path / "sae/sae_weights.safetensors").read_bytes()
    text = json.dumps(described, sort_keys=True).encode()
    described["sha256"] = hashlib.sha256(text + weights).hexdigest()
    settings.write_text(json.dumps(described))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "sae")


def test_a_changed_setting_is_refused(sae, tmp_path):
    save(sae, tmp_path / "sae")
    settings = tmp_path / "sae/cfg.json"
    settings.write_text(settings.read_text().replace('"k": 2', '"k": 3'))
    with pytest.raises(ValueError, match="truncated or changed"):
        load(tmp_path / "sae")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"architecture": "TopK"}'])
def test_settings_that_are_not_ours_are_refused(sae, tmp_path, text):
    save(sae, tmp_path / "sae")
    (tmp_path / "sae/cfg.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"load: expected a cfg\.json written by save, got .*save the SAE again"
    ):
        load(tmp_path / "sae")


def test_a_folder_of_saelens_is_answered_with_who_reads_it(sae, tmp_path):
    to_saelens(sae, tmp_path / "theirs")
    with pytest.raises(ValueError, match=r"without \['settings'.*use from_saelens or load_any"):
        load(tmp_path / "theirs")


@pytest.mark.parametrize("write", [save, to_saelens])
def test_weights_with_nan_are_neither_written_nor_read(sae, tmp_path, write, monkeypatch):
    with torch.no_grad():
        sae.W_dec[2, 1] = torch.nan
    said = r"expected finite numbers in W_dec, got W_dec\[2, 1\]=nan"
    with pytest.raises(ValueError, match=f"^{write.__name__}: {said}"):
        write(sae, tmp_path / "sae")
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as patch:  # as versions before this check wrote it
        patch.setattr(files, "check_finite", lambda where, **tensors: None)
        save(sae, tmp_path / "old")
    with pytest.raises(ValueError, match=f"^load: {said}"):
        load(tmp_path / "old")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "read", [load, load_any, from_saelens, from_sparsify, from_dictionary_learning]
)
def test_what_is_no_path_is_refused(sae, read):
    said = "expected path to be a str or a Path, got path='{}'"
    with pytest.raises(ValueError, match=f"^{read.__name__}: {said.format('NoneType')}"):
        read(None)
    for write in (save, to_saelens):
        with pytest.raises(ValueError, match=f"^{write.__name__}: {said.format('TopK')}"):
            write(sae, sae)
        with pytest.raises(ValueError, match=f"^{write.__name__}: expected .* got .*='str'"):
            write("path", sae)


def test_what_is_no_sae_is_not_saved(tmp_path, unchecked):
    rule = r"save: expected an SAE of this package, got kind='Linear'; .*torch\.save"
    with pytest.raises(ValueError, match=rule):
        save(torch.nn.Linear(2, 2), tmp_path / "sae")  # pyright: ignore[reportArgumentType]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [save, to_saelens])
@pytest.mark.parametrize("place", ["/proc/x", "/proc/x/y", "/sys/foo", "file/x"])
def test_a_place_that_cannot_be_written_is_named_as_it_was_given(sae, tmp_path, write, place):
    (tmp_path / "file").write_text("mine")
    path = tmp_path / place
    said = rf"^{write.__name__}: cannot write the SAE in {path}: [^/]*; .*choose another folder$"
    with pytest.raises(DiskError, match=said):
        write(sae, path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "there",
    [
        {"notes.txt": b"mine"},
        {"cfg.json": b"{}"},  # somebody else's cfg.json
        {"cfg.json": b"{}", "sae_weights.safetensors": b"", "run/log.txt": b"mine"},
    ],
)
def test_a_folder_that_is_not_a_saved_sae_is_left_alone(sae, tmp_path, there):
    target = tmp_path / "sae"
    for name, data in there.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(data)
    with pytest.raises(ValueError, match=r"save: expected a new path .*choose another path"):
        save(sae, target)
    assert {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()} == set(there)
    assert all((target / name).read_bytes() == data for name, data in there.items())


def test_a_file_in_the_way_is_left_alone(sae, tmp_path):
    (tmp_path / "sae").write_text("mine")
    with pytest.raises(ValueError, match="choose another path"):
        save(sae, tmp_path / "sae")
    assert (tmp_path / "sae").read_text() == "mine"


@pytest.mark.parametrize("failure", [OSError("no space"), KeyboardInterrupt()])
@pytest.mark.parametrize("at_rename", [1, 2])
def test_a_failure_midway_leaves_the_old_sae(sae, tmp_path, monkeypatch, failure, at_rename):
    save(sae, tmp_path / "sae")
    before = contents(tmp_path / "sae")
    original, calls = os.rename, []

    def rename(source, target):
        calls.append((source, target))
        if len(calls) == at_rename:
            raise failure
        original(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(type(failure)):
        save(ReLU(2, 5, 0.5, generator=stream(1, "init")), tmp_path / "sae")
    monkeypatch.undo()
    assert contents(tmp_path / "sae") == before
    assert [p.name for p in tmp_path.iterdir()] == ["sae"]
