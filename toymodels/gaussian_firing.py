"""Units that fire where a latent normal exceeds a threshold, drawn without looking at each one."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from toymodels.bivariate_normal import thresholds
from toymodels.events import bernoulli_indices, normals, rows_and_columns, uniforms
from toymodels.loadings import ROUNDING

BLOCK = 2**20  # cells at a time: 4 MB of float32, what a processor's cache holds
FAR = 50.0  # standard deviations that are never reached


@dataclass(frozen=True, eq=False)
class _Group:
    """Units with the same level Q."""

    units: Int[Tensor, " size"]
    level: float
    columns: Float[Tensor, "rank size"]  # F^T, float32
    minus_cap: Float[Tensor, " size"]  # float32
    largest_cap: float
    excess: Float[Tensor, " size"]
    spread: Float[Tensor, " size"]


class GaussianFiring:
    """Draws which units fire: unit j where F_j . u + s_j eps_j > t_j, so that P = p_j exactly.

    u (`factor`, shared by the units of a sample) and eps_j are standard normal and independent,
    s_j = sqrt(1 - |F_j|^2) and t_j is the threshold with P(Z > t_j) = p_j.

    With w_j = P(eps > eps_j), uniform, j fires where w_j < Phi((F_j . u - t_j) / s_j). Only the w_j
    below a level Q_j are drawn, as events of that probability. A unit with a higher w_j can fire
    only where F_j . u exceeds a cap c_j, at which Phi is Q_j: these few cells are found by one
    product of matrices, and their w_j is drawn above Q_j. So a sample costs rank multiply-adds for
    each unit, but random numbers only for a few cells for each that fires: Q_j, a power of 1/2, is
    chosen so that both kinds of cells are few. At |F_j| = 1, Q_j = 0 and c_j = t_j.

    The product is in float32, with a bound on its error: cells that it might have missed are looked
    at too, and where the error could change whether a unit fires, F_j . u is computed again in
    float64, as is all the rest. (A float32 threshold at p = 1e-7 would be 1e-6 off in p.)

    Args:
        probs: p, [n_units], each in [0, 1].
        loadings: F, [n_units, rank], rows of norm <= 1.
    """

    def __init__(
        self, probs: Float[Tensor, " n_units"], loadings: Float[Tensor, "n_units rank"]
    ) -> None:
        norm = loadings.norm(dim=1)
        certain = (probs <= 0) | (probs >= 1)
        whole = norm > 1 - ROUNDING  # then s = 0 and the norm is 1, to the last digit
        loadings = torch.where(whole[:, None], loadings / norm[:, None], loadings)
        loadings = torch.where(certain[:, None], 0.0, loadings)
        norm = torch.where(certain, 0.0, torch.where(whole, 1.0, norm))
        self.probs, self.loadings = probs, loadings
        self.threshold = thresholds(probs)
        self.spread = ((1 - norm) * (1 + norm)).sqrt()
        level, cap = _levels(probs, norm, self.threshold, self.spread)
        # Where j fires, F_j . u - c_j exceeds t_j - c_j by some of s_j; a certain one always does.
        excess = torch.where(certain, -torch.inf, self.threshold - cap)
        self.groups = [
            _Group(
                j,
                q,
                loadings[j].T.to(torch.float32).contiguous(),
                -cap[j].to(torch.float32),
                float(cap[j].abs().max()),
                excess[j],
                self.spread[j],
            )
            for q, j in ((q, (level == q).nonzero()[:, 0]) for q in level.unique().tolist())
        ]

    def factor(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n rank"]:
        """Returns u for `n` samples."""
        rank = self.loadings.shape[1]
        return normals(n * rank, generator=generator).view(n, rank)

    def factor_given(
        self, n: int, unit: int, *, generator: torch.Generator
    ) -> Float[Tensor, "n rank"]:
        """Returns u for `n` samples in which `unit`, of positive probability, fires.

        Given z = F . u + s eps, u is normal with mean F z and covariance 1 - F F^T; and z given
        z > t is minus the normal quantile of a uniform in (0, p).
        """
        u, loading = self.factor(n, generator=generator), self.loadings[unit]
        below = (self.probs[unit] * uniforms(n, generator=generator)).clamp(min=1e-300)
        # u - F (F . u) / (1 + s) has covariance 1 - F F^T, as |F|^2 = 1 - s^2.
        residual = u - torch.outer(u @ loading, loading) / (1 + self.spread[unit])
        return residual + torch.outer(thresholds(below), loading)

    def draw(
        self, factor: Float[Tensor, "n rank"], *, generator: torch.Generator
    ) -> tuple[Int[Tensor, " n_events"], Int[Tensor, " n_events"]]:
        """Returns the (rows, units) of all that fire in the samples with these factors."""
        rows, units = [], []
        steps = [max(1, BLOCK // len(group.units)) for group in self.groups]
        most = max(
            min(k, len(factor)) * len(g.units) for k, g in zip(steps, self.groups, strict=True)
        )
        # One for all blocks: new memory costs as much as the product.
        buffer = factor.new_empty(most + 7, dtype=torch.float32)
        coarse = factor.to(torch.float32)
        longest = float(factor.norm(dim=1).max())
        for step, group in zip(steps, self.groups, strict=True):
            # |F| <= 1: a sum of rank products, rounded at each step, and with it the cap.
            error = (factor.shape[1] + 8) * 2.0**-23 * (longest + group.largest_cap)
            for start in range(0, len(factor), step):
                stop = start + step
                found = _draw_group(group, coarse[start:stop], error, buffer, generator)
                cells = self._settled(group, found, factor[start:stop])
                rows.append(cells[0] + start)
                units.append(cells[1])
        return torch.cat(rows), torch.cat(units)

    def _settled(
        self, group: _Group, found: tuple[Tensor, Tensor, Tensor, Tensor], factor: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the (rows, units) of the cells found that do fire."""
        rows, columns, tail, fires = found
        units = group.units[columns]
        open_ = (~fires).nonzero()[:, 0]
        z = self._latent(factor, rows[open_], units[open_])
        fires[open_] = tail[open_] < torch.special.ndtr(z)
        return rows[fires], units[fires]

    def _latent(self, factor: Tensor, rows: Tensor, units: Tensor) -> Tensor:
        """Returns (F . u - t) / s of these cells."""
        shared = (factor.index_select(0, rows) * self.loadings.index_select(0, units)).sum(1)
        threshold, spread = (t.index_select(0, units) for t in (self.threshold, self.spread))
        return (shared - threshold) / spread

    def fires(
        self,
        factor: Float[Tensor, "n rank"],
        rows: Int[Tensor, " n_cells"],
        units: Int[Tensor, " n_cells"],
        *,
        generator: torch.Generator,
    ) -> Bool[Tensor, " n_cells"]:
        """Returns whether units[c] fires in the sample with factor[rows[c]], for distinct cells."""
        step = max(1, BLOCK // factor.shape[1])
        z = [
            self._latent(factor, r, j)
            for r, j in zip(rows.split(step), units.split(step), strict=True)
        ]
        z = torch.cat([self.spread[:0], *z])
        return uniforms(len(rows), generator=generator) < torch.special.ndtr(z)


def _levels(p: Tensor, norm: Tensor, threshold: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Returns Q and the caps c, with the least Q_j + P(F_j . u > c_j): the cells looked at."""
    level, cap = p.floor(), torch.where(norm < 1, 1.0, threshold)  # right for p = 0, p = 1, s = 0
    level = torch.where(norm < 1, level, 0.0)
    cost = torch.where((p > 0) & (p < 1) & (norm < 1), torch.inf, 0.0)
    for exponent in range(64):
        q = torch.full_like(p, 0.5**exponent)
        this_cap = (threshold + spread * torch.special.ndtri(q)).clamp(max=FAR)
        this_cost = q + torch.special.ndtr(-this_cap / norm.clamp(min=1e-300))
        better = this_cost < cost
        level, cap = level.where(~better, q), cap.where(~better, this_cap)
        cost = cost.where(~better, this_cost)
    return level, cap


def _draw_group(
    group: _Group,
    factor: Tensor,
    error: float,
    buffer: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the (rows, columns) of cells that may fire, w of each, and whether it is certain."""
    size, level = len(group.units), group.level
    n_cells = len(factor) * size
    flat = buffer[: -(-n_cells // 8) * 8]  # a multiple of 8
    flat[n_cells:] = -torch.inf
    above = flat[:n_cells].view(len(factor), size)
    # F . u - c + error, to within the error: hence at least F . u - c, by at most twice the error.
    torch.addmm(group.minus_cap + error, factor, group.columns, out=above)
    low = bernoulli_indices(n_cells, level, generator=generator)
    low_value = flat.index_select(0, low)
    flat.index_fill_(0, low, -torch.inf)  # so that they are not found again
    other = _where_positive(flat)
    uniform = uniforms(len(low) + len(other), generator=generator)
    tail = torch.cat([level * uniform[: len(low)], level + (1 - level) * uniform[len(low) :]])
    rows, columns = rows_and_columns(torch.cat([low, other]), size)
    value = torch.cat([low_value, flat.index_select(0, other)])
    most = value.to(torch.float64) - group.excess.index_select(0, columns)
    spread = group.spread.index_select(0, columns)
    may = (tail < torch.special.ndtr(most / spread)).nonzero()[:, 0]
    rows, columns, tail, most, spread = (
        each.index_select(0, may) for each in (rows, columns, tail, most, spread)
    )
    return rows, columns, tail, tail < torch.special.ndtr((most - 2 * error) / spread)


def _where_positive(values: Float[Tensor, " n"]) -> Int[Tensor, " n_positive"]:
    """Returns the indices of the positive among a multiple of 8 values; they should be few."""
    eighths = values.view(8, -1)
    columns = (eighths.amax(0) > 0).nonzero()[:, 0]  # a maximum is faster than a comparison
    found = (eighths.index_select(1, columns) > 0).nonzero()
    return found[:, 0] * eighths.shape[1] + columns.index_select(0, found[:, 1])
