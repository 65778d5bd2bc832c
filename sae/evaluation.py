"""Evaluation of an SAE on samples of its own, in one pass over batches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sae.base import SAE
from sae.checks import check, check_finite, check_generator, check_size, check_tensor

_MAX_FEATURES = 4096  # beyond it codes are not made dense


@runtime_checkable
class World(Protocol):
    """What can be sampled for activations: `sample(n, generator=...)` has an `x` [n, d_in]."""

    def sample(self, n: int, *, generator: torch.Generator) -> Any: ...


Sampler = Callable[..., Tensor]  # (n, *, generator) -> x [n, d_in]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The samples on which `train` evaluates: the `n` that follow `generator`'s state.

    They are drawn anew each time from a copy of the generator, so that all evaluations are of the
    same samples, and the generator is left as it is.

    Args:
        sample: a ToyModel, or a callable (n, *, generator) -> x [n, d_in].
        n: >= 2.
        generator: not the one that draws the training batches.
    """

    sample: World | Sampler
    n: int
    generator: torch.Generator

    def __post_init__(self) -> None:
        check_generator("HeldOut", self.generator)

    def evaluate(self, sae: SAE) -> "Evaluation":
        """Returns the evaluation of `sae` on these samples."""
        again = torch.Generator(device=self.generator.device)
        again.set_state(self.generator.get_state())
        return evaluate(sae, self.sample, self.n, generator=again)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `encode` and `forward` do to n samples.

    Args:
        n: samples.
        fvu: sum |x - x_hat|^2 / sum |x - mean|^2; 0 is perfect, 1 the mean as a constant guess;
            NaN if all samples are equal.
        l0: mean number of active latents per sample.
        density: [n_latents], fraction of the samples on which each latent is active.
        cosine: mean cosine of x and x_hat over samples with x != 0, 0 where x_hat = 0.
        norm_ratio: sum |x_hat| / sum |x|; below 1 the reconstruction shrinks.
        code_ratio: sum_i |E z_j a_i| / sum_i E a_i^2 over the features i, with j the latent whose
            values z_j |W_dec_j| have the largest |cosine| with the codes a_i (of several, that of
            the largest |E z_j a_i|). 1 if each feature's code is found in the unit of x, c if it is
            shrunk by c; it mixes shrinkage with misses where features are not found. NaN without
            codes, if nothing fired, or above 4,096 features.
    """

    n: int
    fvu: float
    l0: float
    density: Float[Tensor, " n_latents"]
    cosine: float
    norm_ratio: float
    code_ratio: float

    @property
    def dead(self) -> float:
        """Fraction of the latents active on none of the samples."""
        return float((self.density == 0).double().mean())

    def summary(self) -> dict[str, float]:
        """Returns the numbers by name, of the densities their median and maximum."""
        names = ("fvu", "l0", "dead", "cosine", "norm_ratio", "code_ratio")
        density = {"median_density": self.density.median(), "max_density": self.density.max()}
        numbers = {name: getattr(self, name) for name in names}
        return numbers | {name: float(value) for name, value in density.items()}


@torch.no_grad()
def evaluate(
    sae: SAE,
    sample: World | Sampler,
    n: int,
    *,
    generator: torch.Generator,
    batch_size: int = 1024,
) -> Evaluation:
    """Returns how well `sae` reconstructs n fresh samples, and how it uses its latents.

    Sums are taken in float64, batch by batch; memory does not grow with n.

    Args:
        sae: used as after training, by `forward`; not changed.
        sample: a ToyModel, or a callable (n, *, generator) -> x [n, d_in]; converted to the SAE's
            dtype. A sample with `codes` is also compared with them.
        n: >= 2.
        generator: draws the samples.
        batch_size: samples held at a time.
    Raises:
        ValueError: what is no SAE, or one with NaN or infinity; samples of another width, with NaN
            or infinity, or on another device.
    """
    todo = "of a TrainResult pass .sae"
    check(isinstance(sae, SAE), "evaluate", "an SAE", todo, sae=type(sae).__name__)
    check_finite("evaluate", **sae.state_dict())
    check_size("evaluate", n=n, batch_size=batch_size)
    check(n >= 2, "evaluate", "n >= 2 samples", n=n)
    check_generator("evaluate", generator, sae.W_dec.device)
    draw, sums = drawer("evaluate", sample), _Sums(sae)
    for seen in range(0, n, batch_size):
        size = min(batch_size, n - seen)
        x, codes = draw(size, generator=generator)
        shape, want = tuple(x.shape), (size, sae.d_in)
        check(shape == want, "evaluate", f"batches of shape {want}", x_shape=shape)
        check_finite("evaluate", x=x)
        sums.add(x.to(sae.W_dec.dtype), codes)
    return sums.evaluation(n)


def drawer(where: str, sample: Any) -> Callable[..., tuple[Tensor, Any]]:
    """Returns (n, *, generator) -> (x, codes), with codes None where `sample` has none.

    x is detached: no gradient goes back into what `sample` draws from, such as an SAE's rows.
    """

    def draw(n: int, *, generator: torch.Generator) -> tuple[Tensor, Any]:
        drawn = source(n, generator=generator)
        if isinstance(drawn, Tensor):
            return drawn.detach(), None
        named = source is not sample and not hasattr(drawn, "x")
        todo, kind = "pass the ToyModel, not its distribution", type(sample).__name__
        check(not named, where, "a world whose samples have an x", todo, sample=kind)
        x = getattr(drawn, "x", drawn)
        check_tensor(where, x=x)
        return x.detach(), drawn.codes

    source = sample.sample if hasattr(sample, "sample") else sample
    rule = "sample to be a ToyModel or a callable (n, *, generator) -> x [n, d_in]"
    check(callable(source), where, rule, sample=type(sample).__name__)
    return draw


class _Sums:
    """Running sums in float64."""

    def __init__(self, sae: SAE) -> None:
        self.sae, self.row_norms = sae, sae.W_dec.double().norm(dim=1)
        self.centre: Tensor | None = None
        self.totals: dict[str, Tensor] = {}

    def add(self, x: Tensor, codes: Any) -> None:
        output = self.sae(x)
        x, x_hat, active = x.double(), output.x_hat.double(), (output.latents != 0).double()
        if self.centre is None:
            self.centre = x[0]  # near the mean, so that the sums of squares do not cancel
        shifted, norm, norm_hat = x - self.centre, x.norm(dim=1), x_hat.norm(dim=1)
        products = norm * norm_hat
        cosines = torch.where(products > 0, (x * x_hat).sum(1) / products, 0)
        new = {
            "error": (x - x_hat).square().sum(),
            "shifted": shifted.sum(0),
            "energy": shifted.square().sum(),
            "active": active.sum(0),
            "cosine": cosines.sum(),
            "nonzero": (norm > 0).double().sum(),
            "norm": norm.sum(),
            "norm_hat": norm_hat.sum(),
        }
        if codes is not None and codes.n_features <= _MAX_FEATURES:
            z, a = output.latents.double() * self.row_norms, codes.dense().double()
            new |= {"za": z.T @ a, "zz": z.square().sum(0), "aa": a.square().sum(0)}
        self.totals = {name: self.totals.get(name, 0) + value for name, value in new.items()}

    def evaluation(self, n: int) -> Evaluation:
        total = self.totals
        variance = total["energy"] - total["shifted"].square().sum() / n
        fvu = total["error"] / variance if bool(variance > 0) else torch.nan
        return Evaluation(
            n=n,
            fvu=float(fvu),
            l0=float(total["active"].sum() / n),
            density=total["active"] / n,
            cosine=float(total["cosine"] / total["nonzero"]),
            norm_ratio=float(total["norm_hat"] / total["norm"]),
            code_ratio=_code_ratio(total) if "za" in total else torch.nan,
        )


def _code_ratio(total: dict[str, Tensor]) -> float:
    sizes = torch.outer(total["zz"].sqrt(), total["aa"].sqrt())
    cosines = torch.where(sizes > 0, total["za"].abs() / sizes, 0)
    # Equal cosines differ by rounding, which must not choose between latents of different size.
    best = cosines >= cosines.amax(0) - 1e-9
    return float((total["za"].abs() * best).amax(0).sum() / total["aa"].sum())
