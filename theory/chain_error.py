"""The error of a mean over correlated draws of several chains."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from theory.checks import check, check_finite

MIN_DRAWS = 8


@dataclass(frozen=True)
class ChainMean:
    """A mean over chains and draws, with its standard error estimated in two ways.

    between_chains: standard deviation of the chains' means / sqrt(n_chains). Needs no model of the
        correlation, but its own relative error is 1 / sqrt(2 (n_chains - 1)).
    within_chains: sqrt(v tau / (n_chains n_draws)), v the variance of the draws, tau their
        integrated autocorrelation time. Too small if no chain has seen all that there is to see.
    standard_error: the larger of the two.
    autocorrelation_time: tau = 1 + 2 sum_t rho_t, in draws; 1 for independent draws.
    n_effective: n_chains n_draws / tau, independent draws worth as much.
    """

    mean: float
    standard_error: float
    between_chains: float
    within_chains: float
    autocorrelation_time: float
    n_effective: float


def chain_mean(draws: Float[Tensor, "n_chains n_draws"]) -> ChainMean:
    """Returns the mean of the draws and its error, aware of their autocorrelation.

    tau sums the autocorrelations rho_t in pairs, rho_2m + rho_2m+1, while these are positive, each
    at most its predecessor: both hold for every reversible chain, and stop the sum where noise
    begins. Deviations are from the mean of all chains, so chains that disagree raise tau too.

    Args:
        draws: [n_chains, n_draws], at least 2 chains of at least 8 stationary draws.
    Raises: ValueError: shapes, NaN.
    Source: Geyer 1992, Practical Markov chain Monte Carlo (the initial monotone sequence).
    """
    where = "chain_mean"
    check_finite(where, draws=draws)
    shape = tuple(draws.shape)
    fits = draws.ndim == 2 and shape[0] >= 2 and shape[1] >= MIN_DRAWS
    check(fits, where, f"[n_chains >= 2, n_draws >= {MIN_DRAWS}]", shape=shape)
    x = draws.detach().double()
    n_chains, n_draws = shape
    between = float(x.mean(1).std()) / math.sqrt(n_chains)
    covariance = _autocovariance(x - x.mean())
    variance = float(covariance[0])
    tau = _time(covariance / variance) if variance > 0 else 1.0
    within = math.sqrt(variance * tau / (n_chains * n_draws))
    return ChainMean(
        mean=float(x.mean()),
        standard_error=max(between, within),
        between_chains=between,
        within_chains=within,
        autocorrelation_time=tau,
        n_effective=n_chains * n_draws / tau,
    )


def _autocovariance(x: Float[Tensor, "n_chains n_draws"]) -> Float[Tensor, " n_draws"]:
    """Returns the autocovariance at lags 0 to n_draws - 1, averaged over the chains."""
    n_draws = x.shape[1]
    power = torch.fft.rfft(x, n=2 * n_draws).abs().square().mean(0)
    # Dividing by n_draws, not n_draws - lag: positive definite, so the sum cannot go astray.
    return torch.fft.irfft(power, n=2 * n_draws)[:n_draws] / n_draws


def _time(rho: Float[Tensor, " n_draws"]) -> float:
    pairs = rho[: len(rho) // 2 * 2].reshape(-1, 2).sum(1)
    positive = (pairs > 0).long().cumprod(0).bool()
    total = pairs[positive].cummin(0).values.sum() if bool(positive[0]) else rho.new_zeros(())
    # Alternating draws can cancel to almost nothing, but never to less than one draw's share.
    return max(2 * float(total) - 1, 1 / len(rho))
