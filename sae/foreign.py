"""SAEs of other libraries, weights only: sparsify and dictionary_learning; and any folder."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae.base import SAE
from sae.checks import check
from sae.durable import as_path
from sae.exchange import (
    centred_input,
    check_tensors,
    read_settings,
    read_tensors,
    rebuilt,
    setting,
    unit_decoder,
)
from sae.files import load
from sae.saelens import SETTINGS, WEIGHTS, from_saelens

SPARSIFY_WEIGHTS, PICKLED_WEIGHTS, PICKLED_SETTINGS = "sae.safetensors", "ae.pt", "config.json"

LINEAR = {"encoder.weight": "md", "encoder.bias": "m", "decoder.weight": "dm"}
FOUR = {"W_enc": "dm", "b_enc": "m", "W_dec": "md", "b_dec": "d"}
DICTIONARIES = {
    "AutoEncoder": LINEAR | {"bias": "d"},
    "AutoEncoderNew": LINEAR | {"decoder.bias": "d"},
    "AutoEncoderTopK": LINEAR | {"b_dec": "d", "k": "", "threshold": ""},
    "BatchTopKSAE": LINEAR | {"b_dec": "d", "k": "", "threshold": ""},
    "GatedAutoEncoder": {
        "encoder.weight": "md",
        "gate_bias": "m",
        "r_mag": "m",
        "mag_bias": "m",
        "decoder.weight": "dm",
        "decoder_bias": "d",
    },
    "JumpReluAutoEncoder": FOUR | {"threshold": "m"},
    "MatryoshkaBatchTopKSAE": FOUR | {"k": "", "threshold": "", "group_sizes": "g"},
}
OUR_NAMES = {
    "encoder.bias": "b_enc",
    "gate_bias": "b_enc",
    "mag_bias": "b_mag",
    "bias": "b_dec",
    "decoder.bias": "b_dec",
    "decoder_bias": "b_dec",
}
READS_X = ("AutoEncoderNew", "JumpReluAutoEncoder")  # where the others read x - b_dec


def load_any(path: str | Path) -> SAE:
    """Returns the SAE of a folder of ours, of SAELens, sparsify or dictionary_learning, on the CPU.

    The files in it say whose it is.

    Raises:
        ValueError: none of these, and what `load`, `from_saelens`, `from_sparsify` and
            `from_dictionary_learning` raise.
    """
    path = as_path("load_any", path)
    if (path / WEIGHTS).is_file():
        ours = "sha256" in read_settings("load_any", path / SETTINGS)
        return load(path) if ours else from_saelens(path)
    if (path / SPARSIFY_WEIGHTS).is_file():
        return from_sparsify(path)
    if (path / PICKLED_WEIGHTS).is_file():
        return from_dictionary_learning(path)
    names = f"{WEIGHTS} (ours or SAELens), {SPARSIFY_WEIGHTS} (sparsify)"
    rule = f"a folder with {names} or {PICKLED_WEIGHTS} (dictionary_learning)"
    todo = "download the whole folder, and pass the one that holds these files"
    raise ValueError(f"load_any: expected {rule}, got path={str(path)!r}; {todo}")


def from_sparsify(path: str | Path) -> SAE:
    """Returns the SAE of a folder of sparsify: cfg.json and sae.safetensors, as a TopK SAE.

    Files of version 1.3.3 (package eai-sparsify), as its source writes them.

    Raises:
        ValueError: no such folder; a transcoder, a skip connection, grouped maxima or (of old
            versions) signed codes; tensors that are missing, too many, truncated, not finite or of
            the wrong shape.
    """
    where, path = "from_sparsify", as_path("from_sparsify", path)
    config = read_settings(where, path / SETTINGS)
    activation = config.get("activation", "topk")
    check(activation == "topk", where, "activation 'topk'", activation=activation)
    for name in ("transcode", "skip_connection", "signed"):
        check(not config.get(name), where, f"{name} false", **{name: config.get(name)})
    d_in, k = (setting(where, config, name, int) for name in ("d_in", "k"))
    n_latents = setting(where, config, "num_latents", int, 0)
    if n_latents == 0:
        n_latents = d_in * setting(where, config, "expansion_factor", int, 32)
    tensors = read_tensors(where, path / SPARSIFY_WEIGHTS)
    shapes = {"encoder.weight": "md", "encoder.bias": "m", "W_dec": "md", "b_dec": "d"}
    check_tensors(where, tensors, shapes, d=d_in, m=n_latents)
    return rebuilt(_under_our_names(tensors), k)


def from_dictionary_learning(path: str | Path) -> SAE:
    """Returns the SAE of a folder of dictionary_learning: config.json and ae.pt.

    Files of version 0.1.0, as its source writes them. ae.pt is a pickle: it is read with torch's
    unpickler for weights, which builds tensors and refuses to import or call anything else.

    What is returned is what that library's own `load_dictionary` returns: the decoder of an
    AutoEncoder is scaled to unit rows and its encoder inversely; BatchTopKSAE and
    MatryoshkaBatchTopKSAE encode by their threshold, hence as JumpReLU (all active latents where
    it was never set, -1). Classes that encode x, not x - b_dec, have the difference folded in.

    Raises:
        ValueError: no such folder; an unknown dict_class; a pickle of anything but tensors; tensors
            that are missing, too many, truncated, not finite or of the wrong shape.
    """
    where = "from_dictionary_learning"
    path = as_path(where, path)
    config = read_settings(where, path / PICKLED_SETTINGS)
    trainer = config.get("trainer")
    name = trainer.get("dict_class") if isinstance(trainer, dict) else None
    known = isinstance(name, str) and name in DICTIONARIES
    check(known, where, f"a trainer.dict_class of {sorted(DICTIONARIES)}", dict_class=name)
    stored = _unpickled(where, path / PICKLED_WEIGHTS)
    sizes = dict(zip("dm", _sizes(stored), strict=True))
    groups = stored.get("group_sizes")
    sizes["g"] = groups.numel() if groups is not None else 0
    check_tensors(where, stored, DICTIONARIES[str(name)], **sizes)
    tensors = _under_our_names(stored)
    k, threshold = tensors.pop("k", None), tensors.pop("threshold", None)
    tensors.pop("group_sizes", None)
    if name == "AutoEncoderTopK":  # its threshold is an option that loading leaves off
        return rebuilt(tensors, int(k) if k is not None else None)
    if name == "AutoEncoder":
        tensors = unit_decoder(tensors)
    if threshold is not None:
        tensors["threshold"] = threshold.clamp(min=0).expand(sizes["m"])
    return rebuilt(centred_input(tensors) if name in READS_X else tensors)


def _under_our_names(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors under our names and in our layouts."""
    tensors = {OUR_NAMES.get(name, name): value for name, value in stored.items()}
    if "encoder.weight" in tensors:
        tensors["W_enc"] = tensors.pop("encoder.weight").T
    if "decoder.weight" in tensors:
        tensors["W_dec"] = tensors.pop("decoder.weight").T
    return tensors


def _sizes(stored: dict[str, Tensor]) -> tuple[int, int]:
    """Returns (d_in, n_latents) by the encoder, or zeros where it is not a matrix."""
    for name, order in (("encoder.weight", -1), ("W_enc", 1)):
        if name in stored and stored[name].ndim == 2:
            d_in, n_latents = stored[name].shape[::order]
            return d_in, n_latents
    return 0, 0


def _unpickled(where: str, path: Path) -> dict[str, Tensor]:
    check(path.is_file(), where, f"a file {path.name}", path=str(path))
    try:
        stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged or hostile pickle raises is anybody's guess
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        todo = "truncated, or more than weights"
        raise ValueError(f"{where}: expected tensors in {path}, got {reason}; {todo}") from error
    ok = isinstance(stored, dict) and all(isinstance(v, Tensor) for v in stored.values())
    check(ok, where, f"tensors by name in {path.name}", kind=type(stored).__name__)
    return dict(stored)
