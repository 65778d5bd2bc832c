"""Shared by the readers of other libraries' files: reading, checking, folding, rebuilding.

An SAE of ours needs W_enc, b_enc, W_dec and b_dec, and encodes x - b_dec.
"""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from sae.architectures.abs_topk import AbsTopK
from sae.architectures.gated import Gated
from sae.architectures.jump_relu import JumpReLU
from sae.architectures.relu import ReLU
from sae.architectures.topk import TopK
from sae.base import SAE
from sae.checks import check, check_finite

_WHICH = "give the folder that holds the settings and the weights"


def rebuilt(tensors: dict[str, Tensor], k: int | None = None, *, signed: bool = False) -> SAE:
    """Returns the SAE that these tensors, under our names, and k belong to; they say which."""
    n_latents, d_in = tensors["W_dec"].shape
    options: dict[str, Any] = {"generator": torch.Generator()}
    if k is not None:
        sae: SAE = (AbsTopK if signed else TopK)(d_in, n_latents, k, **options)
    elif "threshold" in tensors:
        sae = JumpReLU(d_in, n_latents, 0.0, **options)
    elif "r_mag" in tensors:
        sae = Gated(d_in, n_latents, 0.0, **options)
    else:
        sae = ReLU(d_in, n_latents, 0.0, unit_decoder=False, **options)
    return filled(sae, tensors)


def filled(sae: SAE, tensors: dict[str, Tensor]) -> SAE:
    """Returns `sae` with these tensors as its parameters; those not named stay."""
    sae = sae.to(tensors["W_dec"].dtype)
    sae.load_state_dict(sae.state_dict() | tensors)
    return sae


def centred_input(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of an encoder of x as those of the same encoder of x - b_dec."""
    shift = tensors["b_dec"].double() @ tensors["W_enc"].double()
    shifts = {"b_enc": shift}
    if "b_mag" in tensors:
        shifts["b_mag"] = tensors["r_mag"].double().exp() * shift
    moved = {key: (tensors[key] + by).to(tensors[key].dtype) for key, by in shifts.items()}
    return tensors | moved


def unit_decoder(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors with rows of W_dec of norm 1 (or 0) and the norms in the encoder."""
    norms = tensors["W_dec"].double().norm(dim=1)
    scaled = {
        "W_enc": tensors["W_enc"] * norms,
        "b_enc": tensors["b_enc"] * norms,
        "W_dec": tensors["W_dec"] / torch.where(norms > 0, norms, 1.0)[:, None],
    }
    return tensors | {key: value.to(tensors[key].dtype) for key, value in scaled.items()}


def setting(where: str, config: dict[str, Any], name: str, kind: Any, default: Any = None) -> Any:
    """Returns config[name], or the default; raises ValueError if it is not of this kind."""
    value = config.get(name, default)
    ok = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    rule = f"{name} of type {getattr(kind, '__name__', kind)}"
    check(ok, where, rule, **{name: value})
    return value


def read_settings(where: str, path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file; raises ValueError if there is none."""
    check(path.is_file(), where, f"a file {path.name}", _WHICH, path=str(path))
    again = "copy or save it again"
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        todo = f"truncated or not JSON: {again}"
        raise ValueError(f"{where}: expected JSON in {path}, got {error}; {todo}") from error
    check(isinstance(config, dict), where, f"a JSON object in {path.name}", again, path=str(path))
    return config


def read_tensors(where: str, path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file; raises ValueError if it is not a whole one."""
    check(path.is_file(), where, f"a file {path.name}", _WHICH, path=str(path))
    try:
        return safetensors.torch.load(path.read_bytes())
    except SafetensorError as error:
        todo = "truncated or not safetensors: copy or save it again"
        raise ValueError(f"{where}: expected tensors in {path}, got {error}; {todo}") from error


def check_tensors(
    where: str, tensors: dict[str, Tensor], shapes: dict[str, str], **sizes: int
) -> None:
    """Raises ValueError unless there are exactly these tensors, of these shapes, and finite.

    shapes: by name, one letter an axis; sizes: by letter. Those with an axis d or m are weights,
    which must be in floating point.
    """
    missing, extra = sorted(shapes.keys() - tensors), sorted(tensors.keys() - shapes)
    check(not missing and not extra, where, f"tensors {list(shapes)}", missing=missing, extra=extra)
    for name, letters in shapes.items():
        got = tuple(tensors[name].shape)
        wanted = tuple(sizes[letter] for letter in letters)
        check(got == wanted, where, f"{name} of shape {wanted}", **{f"{name}_shape": got})
        ok = tensors[name].is_floating_point() or not {*letters} & {"d", "m"}
        check(ok, where, f"{name} in floating point", **{f"{name}_dtype": tensors[name].dtype})
    check_finite(where, **tensors)
