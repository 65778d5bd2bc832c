"""What phases stochastic gradient descent passes through: its paths, labels and plateaus."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from theory.checks import check, check_finite, check_size

ALIVE = 0.5  # least length of a column that counts as a vertex; those of polygons have at least 1


@dataclass(frozen=True, eq=False)
class Paths:
    """Parameters along many runs of descent, recorded now and then.

    epochs: [records], from 0, the start.
    W, b: [records, runs, n_hidden, n_features], [records, runs, n_features].
    """

    epochs: Int[Tensor, " records"]
    W: Float[Tensor, "records runs n_hidden n_features"]
    b: Float[Tensor, "records runs n_features"]


def sgd_paths(
    x: Float[Tensor, "runs n_samples n_features"],
    W: Float[Tensor, "runs n_hidden n_features"],
    b: Float[Tensor, "runs n_features"],
    *,
    lr: float,
    batch_size: int,
    n_epochs: int,
    record_every: int,
    generator: torch.Generator,
) -> Paths:
    """Returns the paths of stochastic gradient descent on mean |x - relu(W^T W x + b)|^2.

    w <- w - lr * gradient on a batch, no momentum. Each run has its own samples, start and order;
    all are trained at once, by hand-written gradients: with g = 2 [pre > 0] (x' - x) / batch_size
    and h = W x, summed over the batch, the gradient in W is h g^T + (W g) x^T, and in b it is g.

    Args:
        x: the samples of each run, used once an epoch in a fresh order.
        W, b: starts; their dtype is used throughout.
        lr: > 0; constant.   batch_size: >= 1; what is left of an epoch is not used.
        n_epochs: >= 1.   record_every: epochs between records, >= 1.
        generator: of the orders, on the device of x.
    """
    where = "sgd_paths"
    check_finite(where, x=x, W=W, b=b)
    n_runs, n, c = x.shape
    check_size(where, n_epochs=n_epochs, record_every=record_every, batch_size=batch_size)
    check(batch_size <= n, where, f"batch_size <= {n} (n_samples)", batch_size=batch_size)
    check(lr > 0, where, "lr > 0", lr=lr)
    fits = W.shape[::2] == (n_runs, c) and b.shape == (n_runs, c)
    rule = f"W [{n_runs}, n_hidden, {c}] and b [{n_runs}, {c}] (x)"
    check(fits, where, rule, W_shape=tuple(W.shape), b_shape=tuple(b.shape))
    x, W, b = x.to(W.dtype), W.detach().clone(), b.detach().clone()
    records = [(0, W.clone(), b.clone())]
    for epoch in range(1, n_epochs + 1):
        draws = torch.rand(n_runs, n, generator=generator, device=x.device)
        shuffled = x.gather(1, draws.argsort(1)[:, :, None].expand_as(x))
        for batch in shuffled.split(batch_size, dim=1)[: n // batch_size]:
            _step_(W, b, batch, 2 * lr / batch_size)
        if epoch % record_every == 0:
            records.append((epoch, W.clone(), b.clone()))
    epochs, weights, biases = zip(*records, strict=True)
    return Paths(torch.tensor(epochs), torch.stack(weights), torch.stack(biases))


@dataclass(frozen=True)
class Plateau:
    """Records first to last (inclusive) of a run that stays in one phase.

    n_vertices, n_raised: the phase's label, see `polygon_labels`.   loss: median over the records.
    """

    first: int
    last: int
    n_vertices: int
    n_raised: int
    loss: float


def polygon_labels(
    W: Float[Tensor, "*points n_hidden n_features"], b: Float[Tensor, "*points n_features"]
) -> tuple[Int[Tensor, "*points"], Int[Tensor, "*points"]]:
    """Returns how many columns live, |W_i| >= 1/2, and how many of the others have a bias above 0.

    In polygons living columns have length 1 at least and dead ones 0: the label (5, 1) is that of
    the pentagon with one raised dead column. Points that are no polygons have labels too.
    """
    alive = W.norm(dim=-2) >= ALIVE
    return alive.sum(-1), (~alive & (b > 0)).sum(-1)


def plateaus(
    losses: Float[Tensor, " records"],
    n_vertices: Int[Tensor, " records"],
    n_raised: Int[Tensor, " records"],
    *,
    n_window: int,
    tolerance: float,
) -> list[Plateau]:
    """Returns the plateaus of one run, in order.

    A window of n_window records is still if the label does not change in it and its losses differ
    by at most `tolerance`. A plateau is a chain of still windows of one label, each beginning at
    most one record after the last, so that a slow drift does not end it. Null: a run that falls
    by more than the tolerance in every window has none.

    Args:
        losses: of the records, evenly spaced in time.
        n_vertices, n_raised: labels, see `polygon_labels`.
        n_window: >= 2.   tolerance: >= 0, in units of the loss.
    """
    check(n_window >= 2, "plateaus", "n_window >= 2", n_window=n_window)
    check(tolerance >= 0, "plateaus", "tolerance >= 0", tolerance=tolerance)
    labels = torch.stack([n_vertices, n_raised], dim=1)
    found: list[tuple[int, int]] = []
    for start in range(len(losses) - n_window + 1):
        window = slice(start, start + n_window)
        spread = float(losses[window].max() - losses[window].min())
        if spread > tolerance or bool((labels[window] != labels[start]).any()):
            continue
        # The window before begins one record earlier; if it was still, so was its label.
        joins = bool(found) and found[-1][1] == start + n_window - 2
        found.append((found.pop()[0] if joins else start, start + n_window - 1))
    return [
        Plateau(first, last, int(k), int(r), float(losses[first : last + 1].median()))
        for first, last in found
        for k, r in [labels[first]]
    ]


def _step_(W: Tensor, b: Tensor, x: Tensor, rate: float) -> None:
    hidden = x @ W.mT
    pre_acts = torch.baddbmm(b[:, None], hidden, W)
    g = (pre_acts.relu() - x).mul_(pre_acts > 0)
    slope = hidden.mT @ g + (W @ g.mT) @ x
    W.sub_(slope, alpha=rate)
    b.sub_(g.sum(1), alpha=rate)
