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
from sae.member import NotFinite, not_finite


class Drawn:
    """One batch of a run.

    Args:
        codes: where the data are linear in sparse codes, these, and `x` is decoded when asked
            for; else None.
        linear_map: then (vectors, offset) with x = codes @ vectors + offset, up to rounding.
    """

    def __init__(
        self,
        make_x: Callable[[], Tensor],
        codes: Any = None,
        linear_map: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.codes, self.linear_map, self._make_x = codes, linear_map, make_x
        self._converted: dict[torch.dtype, Tensor] = {}
        self._energies: dict[torch.dtype, float] = {}
        self.prepared: dict[object, Any] = {}
        """What an engine has made of the batches that begin with this one, by its own keys."""

    @functools.cached_property
    def x(self) -> Float[Tensor, "batch d_in"]:
        return self._make_x()

    def to(self, dtype: torch.dtype) -> Float[Tensor, "batch d_in"]:
        """Returns x in another dtype, converted once."""
        if dtype not in self._converted:
            self._converted[dtype] = self.x.to(dtype)
        return self._converted[dtype]

    def energy(self, dtype: torch.dtype) -> float:
        """Returns the sum of squares of x about its mean, computed once."""
        if dtype not in self._energies:
            x = self.to(dtype)
            self._energies[dtype] = float((x - x.mean(0)).square().sum())
        return self._energies[dtype]


POOL = 64  # batches drawn together on a GPU, where a world's sampler waits for the device
_MOST = 2**26  # numbers in them


class Batches:
    """Draws the batches of a run, all of them the same whichever engine trains on them.

    On a GPU those of a ToyModel are drawn many at a time, so that the generator may end some
    batches further than the run.

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
        found: tuple[Tensor, Tensor] | None = linear() if linear else None
        self.linear_map = (found[0].detach(), found[1].detach()) if found else None
        """(vectors, offset) with x = codes @ vectors + offset; None where data are not so."""
        self._waits = _waits_for(self._device)
        most = max(1, min(POOL, _MOST // (size * sae.d_in)))
        self._at_once = most if self._waits and linear else 1
        self._pool: list[Tensor] = []
        self._before_pool = generator.get_state()

    def draw(self, step: int) -> Drawn:
        """Returns the batch of a step; raises as `take` does."""
        return self.take(step, 1)[0][0]

    def take(self, step: int, n: int) -> tuple[list[Drawn], NotFinite | None]:
        """Returns the batches of `step` and the n - 1 after it, or those before the first that is
        not finite, with its error.

        On a GPU the host waits for the device at most once, and when the pool is empty.

        Raises:
            ValueError: a batch does not fit the SAEs.
            NotFinite: the first batch holds NaN or infinity.
        """
        taken: list[Drawn] = []
        while len(taken) < n:
            next_ones = [self._next() for _ in range(n if self._waits else 1)]
            finite = bool(torch.stack([total for _, total in next_ones]).isfinite().all())
            for drawn, _ in next_ones:
                try:
                    if not finite:  # a sum may also overflow
                        _check_entries(drawn.x, step + len(taken))
                except NotFinite as error:
                    if not taken:
                        raise
                    return taken, error
                taken.append(drawn)
        return taken, None

    def state(self) -> tuple[Tensor, int]:
        """Returns a state of the generator, and how many batches after it have been taken."""
        if self._pool:
            return self._before_pool, self._at_once - len(self._pool)
        return self.generator.get_state(), 0

    def restore(self, generator_state: Tensor, n_taken: int) -> None:
        """Goes on where another run of the same batches had this `state`."""
        self.generator.set_state(generator_state)
        self._pool = []
        for _ in range(n_taken):
            self._next()

    def _next(self) -> tuple[Drawn, Tensor]:
        """The next batch, and a number that is finite if all of the batch is."""
        if self._at_once > 1:
            if not self._pool:
                self._before_pool = self.generator.get_state()
                x = self._draw(self.size * self._at_once, generator=self.generator)[0]
                self._pool = list(x.split(self.size))
            x = self._pool.pop(0)
        elif self.linear_map is not None:
            world = self._sample
            codes = world.distribution.sample(self.size, generator=self.generator)
            drawn = Drawn(lambda: world.activations(codes).detach(), codes, self.linear_map)
            self._check(self.linear_map[0][:1].expand(self.size, -1))
            return drawn, codes.values.sum()
        else:
            x = self._draw(self.size, generator=self.generator)[0]
        self._check(x)
        return Drawn(lambda: x), x.sum()

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


def _waits_for(device: torch.device) -> bool:
    """Returns whether reading a number makes the host wait for the device."""
    return device.type != "cpu"
