"""Amortisation gap: what a one-shot encoder loses to a search with the same decoder and l0."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from theory.checks import check, check_finite, check_generator
from theory.nonnegative import nonnegative_least_squares
from theory.signs import refitted
from theory.sparse_coding import omp

NULL_DRAWS = 4


@dataclass(frozen=True)
class Amortisation:
    """Fraction of variance unexplained (fvu) by the encoder's code, and by better ones.

    fvu: sum |x - x_hat|^2 / sum |x - mean|^2 of the code as it is; 0 is perfect.
    refit_fvu: with the best coefficients on the latents that the encoder chose.
    search_fvu: the smaller error, sample by sample, of that and of OMP with as many latents.
    null_fvu: with the best coefficients on as many latents chosen uniformly at random.
    gap: fvu - search_fvu = magnitude_gap + selection_gap, each >= 0; 0: nothing better was found.
    magnitude_gap: fvu - refit_fvu.   selection_gap: refit_fvu - search_fvu.
    null_gap: null_fvu - search_fvu, the selection gap of an encoder that knows nothing.
    """

    fvu: float
    refit_fvu: float
    search_fvu: float
    null_fvu: float

    @property
    def gap(self) -> float:
        return self.fvu - self.search_fvu

    @property
    def magnitude_gap(self) -> float:
        return self.fvu - self.refit_fvu

    @property
    def selection_gap(self) -> float:
        return self.refit_fvu - self.search_fvu

    @property
    def null_gap(self) -> float:
        return self.null_fvu - self.search_fvu


def amortisation(
    x: Float[Tensor, "batch d_in"],
    latents: Float[Tensor, "batch n_latents"],
    W_dec: Float[Tensor, "n_latents d_in"],
    b_dec: Float[Tensor, " d_in"],
    *,
    nonnegative: bool = True,
    generator: torch.Generator,
) -> Amortisation:
    """Returns the encoder's error beside that of sparse coding with the same decoder and l0.

    For each sample, k = #{j : z_j != 0} of its own. Coefficients are fitted by least squares, under
    coefficients >= 0 (NNLS) if `nonnegative`. OMP is greedy: the gap is a lower bound of the gap to
    the best code, never above it, and samples with no active latent have none. A gap does not
    say that the chosen latents are wrong: a better code need not be truer.

    Null: supports of the same sizes drawn uniformly (mean over 4 draws), coefficients refitted. So
    selection_gap / null_gap is 0 for a perfect choice and 1 for one that ignores the input.

    Args:
        latents: the encoder's activations; >= 0 if `nonnegative`.
    Raises: ValueError: shapes, NaN, x without variance, negative latents under `nonnegative`.
    Source: eq:amortisation-gap. O'Neill et al. 2025, arXiv 2411.13117, for SAE encoders.
    """
    where = "amortisation"
    _check(where, x, latents, W_dec, b_dec, nonnegative)
    check_generator(where, generator, x.device)
    y, z, rows = (t.detach().double() for t in (x - b_dec, latents, W_dec))
    variance = float((x.detach().double() - x.detach().double().mean(0)).square().sum())
    check(variance > 0, where, "x that varies between samples", variance=variance)
    active = z != 0
    as_is = (y - z @ rows).square().sum(1)
    refit = _refit_errors(y, active, rows, nonnegative)
    # The code itself is one choice of coefficients: rounding aside the refit is never worse.
    refit = torch.minimum(refit, as_is)
    search = torch.minimum(refit, _pursuit_errors(y, active.sum(1), rows, nonnegative))
    null = 0.0
    for _ in range(NULL_DRAWS):
        order = torch.rand(z.shape, generator=generator, device=z.device).argsort(1).argsort(1)
        random = order < active.sum(1, keepdim=True)
        null += float(_refit_errors(y, random, rows, nonnegative).sum()) / NULL_DRAWS
    errors = (float(as_is.sum()), float(refit.sum()), float(search.sum()), null)
    return Amortisation(*(error / variance for error in errors))


def _pursuit_errors(
    y: Float[Tensor, "batch d_in"], sizes: Tensor, rows: Float[Tensor, "m d_in"], nonnegative: bool
) -> Float[Tensor, " batch"]:
    errors = y.square().sum(1)
    for k in sizes.unique().tolist():
        if k > 0:
            these = sizes == k
            codes = omp(y[these], rows, k, nonnegative=nonnegative)
            errors[these] = (y[these] - codes @ rows).square().sum(1)
    return errors


def _refit_errors(
    y: Float[Tensor, "batch d_in"],
    active: Bool[Tensor, "batch n_latents"],
    rows: Float[Tensor, "m d_in"],
    nonnegative: bool,
) -> Float[Tensor, " batch"]:
    """Returns the squared distance of each y from the span, or the cone, of its active rows."""
    if not nonnegative:
        codes = refitted(y, active, rows, torch.zeros_like(y[0]))
        return (y - codes @ rows).square().sum(1)
    targets, atoms, masks = y.cpu().numpy(), rows.cpu().numpy(), active.cpu().numpy()
    errors = np.square(targets).sum(1)
    for i, mask in enumerate(masks):
        if mask.any():
            errors[i] = nonnegative_least_squares(atoms[mask].T, targets[i])[1] ** 2
    return torch.from_numpy(errors).to(y.device)


def _check(
    where: str, x: Tensor, latents: Tensor, W_dec: Tensor, b_dec: Tensor, nonnegative: bool
) -> None:
    given = {"x": x, "latents": latents, "W_dec": W_dec, "b_dec": b_dec}
    check_finite(where, **given)
    fits = x.ndim == latents.ndim == W_dec.ndim == 2 and b_dec.shape == x.shape[1:]
    fits = fits and W_dec.shape == (latents.shape[1], x.shape[1]) and len(latents) == len(x) > 0
    fits = fits and len(W_dec) > 0
    rule = "x [batch, d_in], latents [batch, n_latents], W_dec [n_latents, d_in], b_dec [d_in]"
    check(fits, where, rule, **{name: tuple(value.shape) for name, value in given.items()})
    least = latents.min().item()
    rule = "latents >= 0"
    check(not nonnegative or least >= 0, where, rule, "set nonnegative=False", least=least)
