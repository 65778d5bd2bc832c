"""Matryoshka SAEs: every prefix of the latents, by index, reconstructs on its own."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.architectures.batch_topk import BatchTopK
from sae.architectures.relu import ReLU
from sae.base import SAEOutput, squared_error
from sae.checks import check

Prefixes = tuple[int, ...] | int


class MatryoshkaReLU(ReLU):
    """ReLU whose loss is the sum over prefixes m of E|x - x_hat_m|^2 + l1 E sum_{j<m} latent_j
    |W_dec_j|, where x_hat_m = latents[:m] @ W_dec[:m] + b_dec.

    Latents of low index are pressed to be useful without the others. One prefix is ReLU.

    Args:
        prefixes: widths that increase to n_latents; or the number of prefixes, from 1 to
            n_latents, which are then drawn anew for each batch by `sampled_prefixes`.
        d_in, n_latents, l1, unit_decoder, bias, generator: see `ReLU`.
    Source: Nabeshima 2024, Matryoshka sparse autoencoders (which also sorts the latents by
        contribution as it goes); the fixed prefixes: Bussmann et al. 2025, arXiv 2503.17547.
    """

    prefixes: Prefixes
    widths: Int[Tensor, " n_prefixes"]

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        l1: float,
        prefixes: Prefixes,
        *,
        unit_decoder: bool = True,
        bias: bool = True,
        generator: torch.Generator,
    ) -> None:
        options: dict[str, Any] = {"unit_decoder": unit_decoder, "bias": bias}
        super().__init__(d_in, n_latents, l1, **options, generator=generator)
        _set_prefixes(self, prefixes, generator)

    def _terms(
        self, x: Float[Tensor, "batch d_in"], output: SAEOutput, dead: Bool[Tensor, " n_latents"]
    ) -> dict[str, Float[Tensor, ""]]:
        terms, inner = super()._terms(x, output, dead), self.widths[:-1].tolist()
        if inner:
            penalties = (output.latents.mean(0) * self.W_dec.norm(dim=1)).cumsum(0)
            terms["prefix_l1"] = self.l1 * torch.stack([penalties[m - 1] for m in inner]).sum()
        return terms | _prefix_errors(self, x, output)

    def after_step_(self, output: SAEOutput, *, generator: torch.Generator) -> None:
        super().after_step_(output, generator=generator)
        _redraw_prefixes_(self, generator)

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from sae.strategies import generators, prefixes, sizes

        return sizes().flatmap(
            lambda shape: st.builds(
                lambda l1, prefixes, unit, bias, generator: cls(
                    *shape, l1, prefixes, unit_decoder=unit, bias=bias, generator=generator
                ),
                st.floats(0.01, 1),
                prefixes(shape[1]),
                st.booleans(),
                st.booleans(),
                generators(),
            )
        )


class MatryoshkaBatchTopK(BatchTopK):
    """BatchTopK whose loss is the sum over prefixes m of E|x - x_hat_m|^2, + `revival`, where
    x_hat_m = latents[:m] @ W_dec[:m] + b_dec. One prefix is BatchTopK.

    Args:
        prefixes: widths that increase to n_latents; or the number of prefixes, from 1 to
            n_latents, which are then drawn anew for each batch by `sampled_prefixes`.
        d_in, n_latents, k, aux_coefficient, bias, generator: see `BatchTopK`.
    Source: Bussmann et al. 2025, arXiv 2503.17547; the sampled prefixes: Nabeshima 2024.
    """

    prefixes: Prefixes
    widths: Int[Tensor, " n_prefixes"]

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        k: int | float,
        prefixes: Prefixes,
        *,
        aux_coefficient: float = 1 / 32,
        bias: bool = True,
        generator: torch.Generator,
    ) -> None:
        options: dict[str, Any] = {"aux_coefficient": aux_coefficient, "bias": bias}
        super().__init__(d_in, n_latents, k, **options, generator=generator)
        _set_prefixes(self, prefixes, generator)

    def _terms(
        self, x: Float[Tensor, "batch d_in"], output: SAEOutput, dead: Bool[Tensor, " n_latents"]
    ) -> dict[str, Float[Tensor, ""]]:
        return super()._terms(x, output, dead) | _prefix_errors(self, x, output)

    def after_step_(self, output: SAEOutput, *, generator: torch.Generator) -> None:
        super().after_step_(output, generator=generator)
        _redraw_prefixes_(self, generator)

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from sae.strategies import generators, prefixes, sizes

        return sizes().flatmap(
            lambda shape: st.builds(
                lambda k, prefixes, bias, generator: cls(
                    *shape, k, prefixes, bias=bias, generator=generator
                ),
                st.one_of(st.integers(1, shape[1]), st.floats(1, shape[1])),
                prefixes(shape[1]),
                st.booleans(),
                generators(),
            )
        )


def sampled_prefixes(
    n_prefixes: int, n_latents: int, *, generator: torch.Generator
) -> Int[Tensor, " n_prefixes"]:
    """Returns distinct widths in increasing order: n_latents, and n_prefixes - 1 smaller ones drawn
    without replacement with P(m) proportional to m^.5 - (m - 1)^.5.

    Args:
        n_prefixes: from 1 to n_latents.
    Source: Nabeshima 2024 (10 prefixes).
    """
    full = torch.tensor([n_latents], device=generator.device)
    if n_prefixes == 1:
        return full
    ends = torch.arange(n_latents, dtype=torch.float64, device=generator.device).sqrt()
    drawn = torch.multinomial(ends.diff(), n_prefixes - 1, generator=generator) + 1
    return torch.cat([drawn.sort().values, full])


def _set_prefixes(
    sae: MatryoshkaReLU | MatryoshkaBatchTopK, prefixes: Prefixes, generator: torch.Generator
) -> None:
    where, n = type(sae).__name__, sae.n_latents
    if isinstance(prefixes, int):
        rule = f"1 <= prefixes <= {n} (n_latents) as the number of prefixes"
        check(1 <= prefixes <= n, where, rule, prefixes=prefixes)
        widths = sampled_prefixes(prefixes, n, generator=generator)
    else:
        ok = all(isinstance(width, int) for width in prefixes) and prefixes[-1:] == (n,)
        ok = ok and list(prefixes) == sorted(set(prefixes)) and prefixes[0] >= 1
        rule = f"prefixes that are integers >= 1, increase and end at {n} (n_latents)"
        check(ok, where, rule, prefixes=prefixes)
        widths = torch.tensor(prefixes, device=generator.device)
    sae.prefixes = prefixes
    sae.ordered = len(widths) > 1
    sae.register_buffer("widths", widths)


def _redraw_prefixes_(
    sae: MatryoshkaReLU | MatryoshkaBatchTopK, generator: torch.Generator
) -> None:
    if isinstance(sae.prefixes, int):
        sae.widths.copy_(sampled_prefixes(sae.prefixes, sae.n_latents, generator=generator))


def _prefix_errors(
    sae: MatryoshkaReLU | MatryoshkaBatchTopK, x: Tensor, output: SAEOutput
) -> dict[str, Tensor]:
    """The errors of all prefixes but the last, which is the whole code, as one term."""
    x_hat, start, errors = sae.b_dec, 0, []
    for end in sae.widths[:-1].tolist():
        x_hat = x_hat + output.latents[:, start:end] @ sae.W_dec[start:end]
        errors.append(squared_error(x, x_hat))
        start = end
    return {"prefixes": torch.stack(errors).sum()} if errors else {}
