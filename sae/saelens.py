"""SAEs in the format of SAELens: a folder with cfg.json and sae_weights.safetensors.

Written for and checked against sae-lens 6.54.12. No pickle.
"""

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from sae.architectures.abs_topk import AbsTopK
from sae.architectures.batch_topk import BatchTopK
from sae.architectures.gated import Gated
from sae.architectures.hierarchical_topk import HierarchicalTopK
from sae.architectures.jump_relu import JumpReLU
from sae.architectures.matching_pursuit import MatchingPursuit
from sae.architectures.matryoshka import MatryoshkaBatchTopK, MatryoshkaReLU
from sae.architectures.multi_topk import MultiTopK
from sae.architectures.ordered import OrderedTopK
from sae.architectures.ortho import OrthoBatchTopK
from sae.architectures.relu import ReLU
from sae.architectures.tied import TiedReLU
from sae.architectures.topk import TopK
from sae.base import SAE
from sae.checks import check, check_finite, check_size
from sae.durable import as_path, disk_errors
from sae.exchange import (
    centred_input,
    check_tensors,
    filled,
    read_settings,
    read_tensors,
    rebuilt,
    setting,
    unit_decoder,
)

SETTINGS, WEIGHTS, VERSION = "cfg.json", "sae_weights.safetensors", "6.54.12"
DTYPES = {str(t)[6:]: t for t in (torch.float32, torch.float64, torch.float16, torch.bfloat16)}

# By exact class, since a subclass may encode in another way: the architecture whose `encode` and
# `decode` are the same functions, and how the training is called.
COUNTERPARTS: dict[type[SAE], tuple[str, str]] = {
    ReLU: ("standard", "standard"),
    TiedReLU: ("standard", "TiedReLU"),
    MatryoshkaReLU: ("standard", "MatryoshkaReLU"),
    TopK: ("topk", "topk"),
    MultiTopK: ("topk", "MultiTopK"),
    HierarchicalTopK: ("topk", "HierarchicalTopK"),
    OrderedTopK: ("topk", "OrderedTopK"),
    AbsTopK: ("abstopk", "abstopk"),
    JumpReLU: ("jumprelu", "jumprelu"),
    BatchTopK: ("jumprelu", "batchtopk"),
    OrthoBatchTopK: ("jumprelu", "OrthoBatchTopK"),
    MatryoshkaBatchTopK: ("jumprelu", "matryoshka_batchtopk"),
    Gated: ("gated", "gated"),
    MatchingPursuit: ("matching_pursuit", "matching_pursuit"),
}
FOUR = {"W_enc": "dm", "b_enc": "m", "W_dec": "md", "b_dec": "d"}
TENSORS = {
    "standard": FOUR,
    "topk": FOUR,
    "abstopk": FOUR,
    "jumprelu": FOUR | {"threshold": "m"},
    "gated": {
        "W_enc": "dm",
        "b_gate": "m",
        "r_mag": "m",
        "b_mag": "m",
        "W_dec": "md",
        "b_dec": "d",
    },
    "matching_pursuit": {"W_dec": "md", "b_dec": "d"},
}


def to_saelens(sae: SAE, path: str | Path) -> None:
    """Writes the new folder `path`, whole or not at all, for `SAE.load_from_disk` of sae-lens.

    What is loaded there encodes and decodes as `sae` does. Variants of BatchTopK become
    a JumpReLU SAE with their threshold, other variants of ReLU and TopK a plain one; the metadata
    name the training. Settings that concern the training alone are not kept.

    Raises:
        ValueError: `path` exists; weights with NaN or infinity; an architecture without a
            counterpart: TiedLinear and SignedMultiTopK, whose latents have any sign, and whatever
            is not of this package.
        DiskError: the disk is full, or nothing can be written at `path`.
    """
    rule = f"one of {sorted(cls.__name__ for cls in COUNTERPARTS)}"
    check(
        type(sae) in COUNTERPARTS,
        "to_saelens",
        rule,
        "SAELens has no counterpart of this one",
        architecture=type(sae).__name__,
    )
    path, doing = as_path("to_saelens", path), "write the SAE"
    with disk_errors("to_saelens", doing, path):
        check(not path.exists(), "to_saelens", "a new path", "choose another one", path=str(path))
    name, training = COUNTERPARTS[type(sae)]
    dtype = str(sae.W_dec.dtype).removeprefix("torch.")
    check(dtype in DTYPES, "to_saelens", f"a dtype of {list(DTYPES)}", dtype=dtype)
    source = {"b_gate": "b_enc"} if name == "gated" else {}
    tensors = {key: getattr(sae, source.get(key, key)).detach() for key in TENSORS[name]}
    if "threshold" in tensors:  # BatchTopK has one for all latents
        tensors["threshold"] = tensors["threshold"].expand(sae.n_latents)
    check_finite("to_saelens", **tensors)
    data = safetensors.torch.save({k: v.cpu().clone().contiguous() for k, v in tensors.items()})
    config = {
        "architecture": name,
        "d_in": sae.d_in,
        "d_sae": sae.n_latents,
        "dtype": dtype,
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": VERSION,
            "sae_lens_training_version": None,
            "training_architecture": training,
            "training_architecture_details": {},
        },
    }
    if isinstance(sae, TopK):
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    if isinstance(sae, BatchTopK):
        details: dict[str, Any] = {"k": sae.k}
        if isinstance(sae, MatryoshkaBatchTopK):
            details["matryoshka_widths"] = sae.widths.tolist()
        config["metadata"]["training_architecture_details"] = details
    if isinstance(sae, MatchingPursuit):
        config |= {
            "residual_threshold": sae.residual_threshold,
            "max_iterations": sae.max_iterations,
            "stop_on_duplicate_support": sae.stop_on_repeat,
        }
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(6)}.new")
    text = json.dumps(config, indent=1, allow_nan=False) + "\n"
    with disk_errors("to_saelens", doing, path):
        scratch.mkdir(parents=True)
        try:
            (scratch / WEIGHTS).write_bytes(data)
            (scratch / SETTINGS).write_text(text)
            os.rename(scratch, path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def from_saelens(path: str | Path) -> SAE:
    """Returns the SAE of a SAELens folder, on the CPU: the same latents and reconstructions.

    Our encoders read x - b_dec. One that reads x itself (`apply_b_dec_to_input` false) gets
    b_dec @ W_enc added to its biases; matching pursuit then has no b_dec at all. Where top-k
    selects by pre-activations times decoder norms (`rescale_acts_by_decoder_norm`), the norms move
    into the encoder and the rows of W_dec become unit. Both are folded in float64. The format
    holds nothing of the training: penalties are 0, other such settings at their defaults.
    `reshape_activations` is left to the caller: x has the heads side by side.

    Raises:
        ValueError: no such folder; an unknown architecture; a file from before version 6; inputs
            that are normalised; tensors that are missing, too many, truncated, not finite or of
            the wrong shape.
    """
    where, path = "from_saelens", as_path("from_saelens", path)
    config = read_settings(where, path / SETTINGS)
    todo = "save of this package wrote it: use load or load_any"
    check("sha256" not in config, where, f"a {SETTINGS} of SAELens", todo, path=str(path))
    metadata = config.get("metadata")
    version = config.get("sae_lens_version") or (
        metadata.get("sae_lens_version") if isinstance(metadata, dict) else None
    )
    major = str(version).partition(".")[0]
    rule, todo = "metadata.sae_lens_version >= 6.0.0", "load and save it with sae-lens 6 or later"
    check(major.isdigit() and int(major) >= 6, where, rule, todo, sae_lens_version=version)
    name = config.get("architecture")
    todo = "save the inference model, which is jumprelu" if "batchtopk" in str(name) else ""
    known = isinstance(name, str) and name in TENSORS
    check(known, where, f"one of the architectures {sorted(TENSORS)}", todo, architecture=name)
    norm = config.get("normalize_activations", "none")
    rule, todo = "normalize_activations 'none'", "fold the scale in sae-lens, or normalise x first"
    check(norm == "none", where, rule, todo, normalize_activations=norm)
    d_in, n_latents = (setting(where, config, key, int) for key in ("d_in", "d_sae"))
    check_size(where, d_in=d_in, d_sae=n_latents)
    dtype = str(config.get("dtype")).removeprefix("torch.")
    check(dtype in DTYPES, where, f"a dtype of {list(DTYPES)}", dtype=config.get("dtype"))
    centred = setting(where, config, "apply_b_dec_to_input", bool, True)
    tensors = read_tensors(where, path / WEIGHTS)
    check_tensors(where, tensors, TENSORS[str(name)], d=d_in, m=n_latents)
    tensors = {key: value.to(DTYPES[dtype]) for key, value in tensors.items()}
    if name == "matching_pursuit":
        steps = d_in
        if config.get("max_iterations") is not None:
            steps = setting(where, config, "max_iterations", int)
        threshold = setting(where, config, "residual_threshold", float | int, 0.01)
        repeat = setting(where, config, "stop_on_duplicate_support", bool, True)
        options: dict[str, Any] = {
            "residual_threshold": max(0.0, threshold),  # negative is "never" there, as 0 is here
            "stop_on_repeat": repeat,
            "generator": torch.Generator(),
        }
        if not centred:
            tensors["b_dec"] = torch.zeros_like(tensors["b_dec"])
        return filled(MatchingPursuit(d_in, n_latents, steps, **options), tensors)
    if name == "gated":
        tensors["b_enc"] = tensors.pop("b_gate")
    k = None
    if name in ("topk", "abstopk"):
        k = setting(where, config, "k", int, 100)
        if setting(where, config, "rescale_acts_by_decoder_norm", bool, False):
            tensors = unit_decoder(tensors)
    return rebuilt(tensors if centred else centred_input(tensors), k, signed=name == "abstopk")
