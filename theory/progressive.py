"""Progressive codes: the error of the first k' latents, by activation rank and by latent index."""

import hashlib
import itertools
import operator
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from theory.checks import check, check_finite
from theory.nonnegative import nonnegative_least_squares

RISE = 1e-9  # a smaller rise of fvu, relative to max(1, fvu), is rounding
NULL_DRAWS = 8  # random orders that the null of a refitted curve is averaged over
_CHUNK = 2**22  # numbers gathered at a time


@dataclass(frozen=True)
class Curve:
    """The error of ever longer prefixes of one order of the latents.

    fvu: [n_ks], sum |x - x_hat|^2 / sum |x - mean|^2; 0 is perfect, 1 the mean, no upper limit.
    null: [n_ks], expected fvu if each sample's latents came in a uniformly random order.
    n_violations: steps from one k' to the next at which fvu rises; 0 is a progressive code.
    worst_rise: the largest such rise of fvu; 0 where there is none.
    """

    fvu: Float[Tensor, " n_ks"]
    null: Float[Tensor, " n_ks"]
    n_violations: int
    worst_rise: float


@dataclass(frozen=True)
class Progressive:
    """Four curves over the same ks: two orders, with and without the negative latents.

    ks: [n_ks], prefix lengths.
    by_rank, by_index: every latent counts, with the sign of its pre-activation.
    by_rank_positive, by_index_positive: negative latents are set to 0 (a ReLU after the choice).
    n_positive: mean number of positive pre-activations per sample, where by_rank_positive ends
        and by_rank meets its first negative latents; count in [0, n_latents].
    """

    ks: Int[Tensor, " n_ks"]
    by_rank: Curve
    by_index: Curve
    by_rank_positive: Curve
    by_index_positive: Curve
    n_positive: float


def progressive(
    x: Float[Tensor, "batch d_in"],
    pre_acts: Float[Tensor, "batch n_latents"],
    W_dec: Float[Tensor, "n_latents d_in"],
    b_dec: Float[Tensor, " d_in"],
    ks: Sequence[int],
    *,
    magnitude: bool = False,
    refit: bool = False,
) -> Progressive:
    """Returns how the error falls (or rises) as a code of all latents is cut off at each k'.

    By rank: for each sample the k' largest pre-activations, positive ones first, the most negative
    last; by index: latents 0 to k' - 1. Each curve is beside its null, the same activations in a
    random order: an order that knows nothing. Without `refit` the null is exact,
    E|y - sum_S|^2 = |y|^2 - 2 q <y, s> + q (1 - r) sum_j |z_j w_j|^2 + q r |s|^2 with
    y = x - b_dec, s = sum_j z_j w_j, q = k'/m, r = (k'-1)/(m-1); with it, a mean over 8 orders from
    a private generator seeded by the sizes alone.

    Args:
        pre_acts: before any nonlinearity, as far as the code is to be read: all latents.
        ks: prefix lengths, integers, strictly increasing, in [0, n_latents].
        magnitude: rank by |pre_act| instead (AbsTopK and other signed codes).
        refit: replace the activations of each prefix by the best ones, so that shrinkage and the
            decoder's scale do not count: least squares (signed) where all latents count, under
            coefficients >= 0 where only positive latents do. Refitted curves never rise.
    Raises: ValueError: shapes, NaN, ks, or x without variance.
    Source: eq:progressive. The question is that of Gao et al. 2024, arXiv 2406.04093, 5.3.1.
    """
    where = "progressive"
    ks = _checked(x, pre_acts, W_dec, b_dec, ks)
    check(len(x) > 0, where, "a sample or more", batch=len(x))
    variance = float((x.detach().double() - x.detach().double().mean(0)).square().sum())
    check(variance > 0, where, "x that varies between samples", variance=variance)
    data = (x, pre_acts, W_dec, b_dec, ks)
    curves = []
    for positive in (False, True):
        null = _random_order(*data, positive=positive, refit=refit).sum(0) / variance
        for by_index in (False, True):
            errors = prefix_errors(
                *data, by_index=by_index, positive=positive, magnitude=magnitude, refit=refit
            )
            curves.append(_curve(errors.sum(0) / variance, null))
    return Progressive(
        torch.tensor(ks),
        by_rank=curves[0],
        by_index=curves[1],
        by_rank_positive=curves[2],
        by_index_positive=curves[3],
        n_positive=float((pre_acts > 0).sum(1).double().mean()),
    )


def prefix_errors(
    x: Float[Tensor, "batch d_in"],
    pre_acts: Float[Tensor, "batch n_latents"],
    W_dec: Float[Tensor, "n_latents d_in"],
    b_dec: Float[Tensor, " d_in"],
    ks: Sequence[int],
    *,
    by_index: bool = False,
    positive: bool = False,
    magnitude: bool = False,
    refit: bool = False,
) -> Float[Tensor, "batch n_ks"]:
    """Returns |x - x_hat|^2 per sample for each prefix length; see `progressive` for the options.

    Ties in rank go to the lower index. Float64, units of x squared.
    """
    ks = _checked(x, pre_acts, W_dec, b_dec, ks)
    acts = pre_acts.detach().double()
    keys = -acts.abs() if magnitude else -acts
    order = torch.arange(acts.shape[1], device=acts.device).expand_as(acts)
    order = order if by_index else keys.argsort(dim=1, stable=True)
    return _errors(x, acts, W_dec, b_dec, ks, order, positive=positive, refit=refit)


def _errors(
    x: Tensor,
    acts: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    ks: Sequence[int],
    order: Int[Tensor, "batch n_latents"],
    *,
    positive: bool,
    refit: bool,
) -> Float[Tensor, "batch n_ks"]:
    y, rows = (x - b_dec).detach().double(), W_dec.detach().double()
    ranks = order.argsort(dim=1)
    columns = []
    for k in ks:
        chosen = ranks < k
        chosen = chosen & (acts > 0) if positive else chosen
        if not refit:
            residual = y - torch.where(chosen, acts, 0.0) @ rows
        else:
            residual = _nonnegative(y, rows, chosen) if positive else _signed(y, rows, order[:, :k])
        columns.append(residual.square().sum(1))
    return torch.stack(columns, 1)


def _signed(y: Tensor, rows: Tensor, support: Int[Tensor, "batch k"]) -> Float[Tensor, "batch d"]:
    """Returns y minus its projection on the span of the chosen rows (which may be dependent)."""
    if support.shape[1] == 0:
        return y
    size = max(1, _CHUNK // (support.shape[1] * rows.shape[1]))
    residuals = []
    for part, chosen in zip(y.split(size), support.split(size), strict=True):
        _, singular, right = torch.linalg.svd(rows[chosen], full_matrices=False)
        keep = singular > 1e-10 * singular[:, :1]
        along = (right @ part[:, :, None])[..., 0] * keep
        residuals.append(part - (along[:, None] @ right)[:, 0])
    return torch.cat(residuals)


def _nonnegative(
    y: Tensor, rows: Tensor, chosen: Bool[Tensor, "batch n_latents"]
) -> Float[Tensor, "batch d"]:
    targets, atoms, masks = y.cpu().numpy(), rows.cpu().numpy(), chosen.cpu().numpy()
    residuals = targets.copy()
    for i, mask in enumerate(masks):
        if mask.any():
            residuals[i] -= nonnegative_least_squares(atoms[mask].T, targets[i])[0] @ atoms[mask]
    return torch.from_numpy(residuals).to(y.device)


def _random_order(
    x: Tensor,
    pre_acts: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    ks: Sequence[int],
    *,
    positive: bool,
    refit: bool,
) -> Float[Tensor, "batch n_ks"]:
    """Returns the expected error of each sample if its latents come in random order."""
    acts = pre_acts.detach().double()
    m = acts.shape[1]
    if refit:
        digest = hashlib.sha256(f"progressive {tuple(acts.shape)} {x.shape[1]}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
        orders = (torch.rand(acts.shape, generator=generator).argsort(1) for _ in range(NULL_DRAWS))
        draws = [
            _errors(x, acts, W_dec, b_dec, ks, order.to(x.device), positive=positive, refit=True)
            for order in orders
        ]
        return torch.stack(draws).mean(0)
    acts = acts.clamp(min=0) if positive else acts
    y, rows = (x - b_dec).detach().double(), W_dec.detach().double()
    total = acts @ rows
    separate = acts.square() @ rows.square().sum(1)  # sum_j |z_j w_j|^2
    q = torch.tensor(ks, dtype=torch.float64, device=x.device) / m
    r = (q * m - 1) / max(1, m - 1)
    errors = y.square().sum(1, keepdim=True) - 2 * q * (y * total).sum(1, keepdim=True)
    return errors + q * (1 - r) * separate[:, None] + q * r * total.square().sum(1, keepdim=True)


def _curve(fvu: Float[Tensor, " n_ks"], null: Float[Tensor, " n_ks"]) -> Curve:
    rises = fvu.diff()
    rising = rises > RISE * fvu[:-1].clamp(min=1)
    return Curve(fvu, null, int(rising.sum()), float(rises[rising].max()) if rising.any() else 0.0)


def _checked(
    x: Tensor, pre_acts: Tensor, W_dec: Tensor, b_dec: Tensor, ks: Sequence[int]
) -> list[int]:
    """Returns ks as a list of plain integers."""
    where = "progressive"
    shapes = {"x": x, "pre_acts": pre_acts, "W_dec": W_dec, "b_dec": b_dec}
    check_finite(where, **shapes)
    fits = x.ndim == pre_acts.ndim == W_dec.ndim == 2 and b_dec.shape == x.shape[1:]
    fits = fits and W_dec.shape == (pre_acts.shape[1], x.shape[1]) and len(pre_acts) == len(x)
    rule = "x [batch, d_in], pre_acts [batch, n_latents], W_dec [n_latents, d_in], b_dec [d_in]"
    check(fits, where, rule, **{name: tuple(t.shape) for name, t in shapes.items()})
    check(len(W_dec) > 0, where, "a latent or more", n_latents=len(W_dec))
    whole: list[int] = []
    with suppress(TypeError):  # of fractions, and of what is no sequence
        whole = [operator.index(k) for k in ks]
        ks = whole
    check(ks is whole, where, "a sequence ks of integers", "round fractions", ks=ks)
    rising = all(a < b for a, b in itertools.pairwise(ks))
    fits = len(ks) > 0 and rising and 0 <= ks[0] and ks[-1] <= len(W_dec)
    check(fits, where, f"strictly increasing ks in [0, {len(W_dec)}] (n_latents)", ks=ks)
    return whole
