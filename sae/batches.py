"""The batches of a run, drawn in turn from one generator and the same for every engine."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae.base import SAE
from sae.checks import check
from sae.evaluation import drawer
from sae.member import not_finite


class Drawn:
    """One batch of a run.

    Args:
        codes: where the data are linear in sparse codes, these (see `Batches.linear_map`), and
            `x` is decoded when asked for; else None.
    """

    def __init__(self, make_x: Callable[[], Tensor], codes: Any = None) -> None:
        self.codes, self._make_x = codes, make_x
        self._converted: dict[torch.dtype, Tensor] = {}

    @functools.cached_property
    def x(self) -> Float[Tensor, "batch d_in"]:
        return self._make_x()

    def to(self, dtype: torch.dtype) -> Float[Tensor, "batch d_in"]:
        """Returns x in another dtype, converted once."""
        if dtype not in self._converted:
            self._converted[dtype] = self.x.to(dtype)
        return self._converted[dtype]


class Batches:
    """Draws the batches of a run, all of them the same whichever engine trains on them.

    Args:
        sample: a ToyModel, or a callable (n, *, generator) -> x [n, d_in].
        size: samples per batch.
        sae: any member; says the width and the device that are expected.
        generator: draws the batches.
    """

    def __init__(self, sample: Any, size: int, sae: SAE, *, generator: torch.Generator) -> None:
        self._sample, self._draw = sample, drawer("train", sample)
        self.size, self.generator = size, generator
        self._shape, self._device = (size, sae.d_in), sae.W_dec.device
        linear = getattr(sample, "linear_map", None)
        self.linear_map: tuple[Tensor, Tensor] | None = linear() if linear else None
        """(vectors, offset) with x = codes @ vectors + offset; None where data are not so."""

    def draw(self, step: int) -> Drawn:
        """Returns the batch of a step.

        Raises:
            ValueError: it does not fit the SAEs.
            NotFinite: it holds NaN or infinity.
        """
        if self.linear_map is not None:
            world = self._sample
            codes = world.distribution.sample(self.size, generator=self.generator)
            drawn = Drawn(lambda: world.activations(codes), codes)
            self._check(self.linear_map[0][:1].expand(self.size, -1))
            if bool(torch.isfinite(codes.values.sum())):
                return drawn
        else:
            x = self._draw(self.size, generator=self.generator)[0]
            drawn = Drawn(lambda: x)
            self._check(x)
        if not bool(torch.isfinite(drawn.x.sum())):  # one pass; the sum itself may also overflow
            _check_entries(drawn.x, step)
        return drawn

    def _check(self, x: Tensor) -> None:
        got, want = tuple(x.shape), self._shape
        check(got == want, "train", f"batches of shape {want}", x_shape=got)
        check(x.is_floating_point(), "train", "data of floating point", x_dtype=x.dtype)
        device = str(x.device)
        check(x.device == self._device, "train", f"data on {self._device}", x_device=device)


def _check_entries(x: Tensor, step: int) -> None:
    finite = torch.isfinite(x)
    if not bool(finite.all()):
        first = tuple((~finite).nonzero()[0].tolist())
        got = {"step": step, f"x{list(first)}": x[first].item()}
        raise not_finite("finite numbers in x", "remove or replace these entries first", **got)
