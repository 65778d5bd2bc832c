"""Learning coefficients by sampling: localised Langevin chains around a minimiser."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from theory.chain_error import MIN_DRAWS, ChainMean, chain_mean
from theory.checks import check, check_generator, check_size
from theory.curvature import Loss, checked_point, gradients, hessian, top_curvature
from theory.langevin import langevin
from theory.langevin_bias import langevin_bias

MAX_SHARE_BELOW = 0.05  # a chain with more of its draws below L(w*) has left for a lower phase
ROUNDING = 1e-3  # nats: a draw counts as below L(w*) only beyond the rounding of n beta L


@dataclass(frozen=True)
class LearningCoefficient:
    """An estimate with its standard error, and the biases that no number of draws removes.

    estimate: n beta (mean L - L(w*)) over the kept chains, in units of parameters / 2.
    chains: the same mean with its standard error in two ways, in the same unit.
    standard_error: of the estimate: the larger of "between chains" and "by autocorrelation time".
    stiffness: eps (n beta h + gamma) at the largest curvature h met, at w* or where chains ended.
    step_bias, localisation_bias: what the step size adds and the localisation takes away, by the
        Hessian at w*, as if the loss were quadratic. Degenerate directions do not show there: for
        them compare the results of two step sizes and two localisations.
    gradient_bias: this much is lost because the gradient at w* is not 0, likewise.
    drift: second half of the draws minus first half, in standard errors of that difference: beyond
        3 or so, burn-in was too short.
    share_below: [n_chains], share of draws below L(w*).
    escaped: [n_chains], True for chains that were dropped: share_below > 0.05.
    draws: [n_kept, n_draws], n beta (L - L(w*)).
    """

    estimate: float
    standard_error: float
    chains: ChainMean
    stiffness: float
    step_bias: float
    localisation_bias: float
    gradient_bias: float
    drift: float
    share_below: Float[Tensor, " n_chains"]
    escaped: Bool[Tensor, " n_chains"]
    draws: Float[Tensor, "n_kept n_draws"]

    @property
    def corrected(self) -> float:
        """Returns the estimate less both biases: at a regular point, its limit in n."""
        return self.estimate - self.step_bias - self.localisation_bias


def learning_coefficient(
    loss: Loss,
    w_star: Float[Tensor, " n_weights"],
    *,
    n_beta: float | int,
    step_size: float,
    localisation: float | int,
    n_draws: int,
    n_burn_in: int,
    n_chains: int,
    generator: torch.Generator,
    max_error: float = math.inf,
    max_stiffness: float = 0.1,
    max_gradient_bias: float = 0.01,
) -> LearningCoefficient:
    """Returns the local learning coefficient of the loss at w*, sampled by Langevin dynamics.

    w <- w - (eps/2)(n beta grad L(w) + gamma (w - w*)) + sqrt(eps) N(0, I), all chains at once from
    w*; estimate = n beta (mean L - L(w*)) over the draws after burn-in. As eps -> 0 the chains
    sample exp(-n beta L - (gamma/2)|w - w*|^2), and as n beta -> infinity the estimate tends to
    lambda: half the number of weights at a regular minimum, less at a degenerate one. The usual
    n beta for n samples is n / ln n.

    Biases. A mode of curvature h contributes (1/2) n beta h / (n beta h + gamma), localisation's
    doing, times 1 / (1 - eps (n beta h + gamma) / 4), the step's: see `quadratic_mean`. A point of
    multiplicity m > 1 is lower by about (m - 1) / ln(n beta) at finite n. gamma = 0 leaves flat
    directions to wander; gamma > 0 settles them only after some 2 / (eps gamma) steps.

    Args:
        loss: maps [n, n_weights] to [n], row by row: the full-data or exact mean loss of a sample,
            summed over outputs. Averaging over c outputs is dividing n beta by c.
        w_star: [n_weights], a minimiser; its dtype is used throughout.
        n_beta: number of samples times inverse temperature, > 0.
        step_size: eps > 0.   localisation: gamma >= 0, in units of 1 / w^2.
        n_draws: >= 8 for each chain, one a step.   n_burn_in: steps before them, >= 0.
        n_chains: >= 2.   generator: on the device of w_star. Same state, same bits.
        max_error: refuse a larger standard error.
        max_stiffness: refuse larger steps, in (0, 4): at 4 the chain of a quadratic loss diverges.
            At 0.1 a curved mode is 2.6 % too high.
        max_gradient_bias: refuse a w* where the gradient, or a descending direction of the Hessian,
            costs more of the estimate. With more of it chains soon count as escaped: below L(w*).
    Raises:
        ValueError: derivatives at w* that are not finite, w* no minimum by its Hessian, a gradient
            there too large, and only then steps too large; chains that diverge, fewer than 2 that
            do not escape to lower losses, an error above max_error, a loss of the wrong shape, NaN.
    Source: Lau, Furman, Wang, Murfet & Wei 2023 (arXiv 2308.12108); dropping chains: Chen, Lau,
        Mendel, Wei & Murfet 2023 (arXiv 2310.06301). devinterp 1.3.2 takes the same eps ("lr"),
        gamma ("localization") and n beta ("nbeta"). Its default n beta is made from the batch size
        and its default L(w*) from a few batches (also where 0 is passed): pass both, and a loss
        summed over outputs.
        Differs from it in the full loss at each step, the dropped chains and the checks.
    Example:
        >>> found = learning_coefficient(lambda w: w.square().sum(1) / 2, torch.zeros(4),
        ...     n_beta=100, step_size=5e-4, localisation=1, n_draws=500, n_burn_in=200,
        ...     n_chains=100, generator=torch.Generator().manual_seed(0))
        >>> abs(found.corrected - 2) < 4 * found.standard_error
        True
    """
    where = "learning_coefficient"
    at_minimum = float(checked_point(where, loss, w_star))
    _check_numbers(where, n_beta, step_size, localisation, max_error, max_stiffness)
    check(max_gradient_bias >= 0, where, "max_gradient_bias >= 0", got=max_gradient_bias)
    check_size(where, MIN_DRAWS, n_draws=n_draws)
    check_size(where, 2, n_chains=n_chains)
    check_size(where, 0, n_burn_in=n_burn_in)
    check_generator(where, generator, w_star.device)
    curvatures, (_, slope) = hessian(loss, w_star), gradients(loss, w_star[None])
    norm = float(torch.linalg.vector_norm(slope))
    finite = math.isfinite(norm) and bool(torch.isfinite(curvatures).all())
    rule, todo = "finite derivatives at w_star", "the loss is not twice differentiable there"
    check(finite, where, rule, todo, gradient_norm=norm, curvature=float(curvatures.abs().max()))
    h, vectors = torch.linalg.eigh(curvatures)
    h_top, slopes = float(h.abs().max()), slope[0] @ vectors
    # Not a minimum: a fault that no step size mends, so it is named before the steps are judged.
    bias = langevin_bias(h, slopes, n_beta=n_beta, step_size=0.0, localisation=localisation)
    rule, todo = "a minimum at w_star", "its Hessian has a direction of descent"
    fine = -bias.descent <= max_gradient_bias
    check(fine, where, rule, todo, curvature=float(h[0]), gradient_norm=norm)
    rule = f"a minimiser, losing at most {max_gradient_bias} to its gradient"
    todo = "refine w_star by Newton steps"
    fine = -bias.gradient <= max_gradient_bias
    check(fine, where, rule, todo, gradient_norm=norm, lost=-bias.gradient)

    def checked_stiffness(top: float) -> float:
        stiffness = step_size * (n_beta * top + localisation)
        rule = f"step_size * (n_beta * h_max + localisation) <= {max_stiffness}"
        todo = "take smaller steps, and more of them"
        check(stiffness <= max_stiffness, where, rule, todo, stiffness=stiffness, h_max=top)
        return stiffness

    checked_stiffness(h_top)
    bias = langevin_bias(h, slopes, n_beta=n_beta, step_size=step_size, localisation=localisation)
    losses, ends = langevin(
        loss,
        w_star,
        n_beta=n_beta,
        step_size=step_size,
        localisation=localisation,
        n_draws=n_draws,
        n_burn_in=n_burn_in,
        n_chains=n_chains,
        generator=generator,
    )
    diverged = int((~torch.isfinite(losses).all(1) | ~torch.isfinite(ends).all(1)).sum())
    todo = "take smaller steps or a stronger localisation"
    if float(h[0]) <= math.sqrt(torch.finfo(h.dtype).eps) * h_top:  # counted as flat
        todo = f"w_star may be no minimum at all, as its Hessian is degenerate; else {todo}"
    check(diverged == 0, where, "chains that stay finite", todo, diverged=diverged, of=n_chains)
    draws = n_beta * (losses - at_minimum)
    below = (draws < -ROUNDING).double().mean(1)
    escaped = below > MAX_SHARE_BELOW
    kept = draws[~escaped]
    rule = f"2 chains or more with at most {MAX_SHARE_BELOW:.0%} of their draws below L(w_star)"
    todo = "raise the localisation or n_beta: there are lower losses nearby"
    check(len(kept) >= 2, where, rule, todo, kept=len(kept), of=n_chains)
    stiffness = checked_stiffness(
        max(h_top, top_curvature(loss, ends[~escaped], generator=generator))
    )
    chains = chain_mean(kept)
    needed = math.ceil(n_draws * min((chains.standard_error / max_error) ** 2, 1e12))
    todo = f"about {needed} draws a chain would do"
    met = chains.standard_error <= max_error
    check(
        met, where, f"an error of at most {max_error}", todo, standard_error=chains.standard_error
    )
    return LearningCoefficient(
        estimate=chains.mean,
        standard_error=chains.standard_error,
        chains=chains,
        stiffness=stiffness,
        step_bias=bias.step,
        localisation_bias=bias.localisation,
        gradient_bias=-bias.gradient,
        drift=_drift(kept),
        share_below=below,
        escaped=escaped,
        draws=kept,
    )


def _drift(draws: Float[Tensor, "n_chains n_draws"]) -> float:
    """Returns the difference of the two halves in standard errors; 0 where nothing varies."""
    if draws.shape[1] < 2 * MIN_DRAWS:
        return math.nan
    first, last = (chain_mean(half) for half in draws.tensor_split(2, dim=1))
    error = math.hypot(first.standard_error, last.standard_error)
    return (last.mean - first.mean) / error if error > 0 else 0.0


def _check_numbers(
    where: str,
    n_beta: float | int,
    step_size: float,
    localisation: float | int,
    max_error: float,
    max_stiffness: float,
) -> None:
    check(0 < n_beta < math.inf, where, "a finite n_beta > 0", n_beta=n_beta)
    check(0 < step_size < math.inf, where, "a finite step_size > 0", step_size=step_size)
    finite = 0 <= localisation < math.inf
    check(finite, where, "a finite localisation >= 0", localisation=localisation)
    check(max_error > 0, where, "max_error > 0", max_error=max_error)
    check(0 < max_stiffness < 4, where, "0 < max_stiffness < 4", max_stiffness=max_stiffness)
