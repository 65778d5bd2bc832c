"""How toy models of superposition are trained: AdamW on batches drawn by events."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from toymodels.checks import check, check_size
from toymodels.distribution import ToyDistribution
from toymodels.events import rows_and_columns

_BETAS = (0.9, 0.999)
_CELLS = 4_000_000  # numbers of dense data held at a time: 16 MB


@dataclass(frozen=True, eq=False)
class Course:
    """Steps, losses and, for each parameter, its values at the records of one training."""

    steps: Int[Tensor, " n_records"]
    losses: Float[Tensor, "n_records n_instances"]
    records: tuple[Tensor, ...]


def descend(
    where: str,
    parameters: list[Tensor],
    gradients: Callable[[Tensor], tuple[list[Tensor], Tensor]],
    laws: tuple[ToyDistribution, ...],
    *,
    n_steps: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    decay: float,
    n_records: int,
    generator: torch.Generator,
) -> Course:
    """Trains the parameters in place by AdamW, and returns what was recorded on the way.

    `gradients` maps a batch [n_laws, n_features, batch] to those of each parameter, and to the
    loss of each instance. Other arguments: see `train_superposition`.
    """
    check_size(where, n_steps=n_steps, batch_size=batch_size, n_records=n_records)
    check(n_records <= n_steps, where, f"n_records <= {n_steps} (n_steps)", n_records=n_records)
    check(learning_rate > 0, where, "learning_rate > 0", learning_rate=learning_rate)
    check(0 <= decay <= 1, where, "0 <= decay <= 1", decay=decay)
    n_instances, n_features = len(parameters[0]), laws[0].n_features
    optimiser = torch.optim.AdamW(
        parameters, lr=learning_rate, betas=_BETAS, weight_decay=weight_decay, foreach=True
    )
    marks = [n_steps * (i + 1) // n_records for i in range(n_records)]
    losses = parameters[0].new_zeros(n_records, n_instances)
    records = tuple(p.new_zeros(n_records, *p.shape) for p in parameters)
    at_once = max(1, min(n_steps, _CELLS // (len(laws) * batch_size * n_features)))
    data = losses.new_empty(at_once, len(laws), n_features, batch_size)
    record, since = 0, 0
    for start in range(0, n_steps, at_once):
        block = data[: n_steps - start]
        draw_(block, laws, generator)
        for step, x in enumerate(block, start + 1):
            if decay:
                left = (n_steps - step + 1) / (decay * n_steps)
                optimiser.param_groups[0]["lr"] = learning_rate * min(1.0, left)
            grads, loss = gradients(x)
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad
            optimiser.step()
            losses[record] += loss
            since += 1
            if step == marks[record]:
                losses[record] /= since
                for values, parameter in zip(records, parameters, strict=True):
                    values[record] = parameter
                record, since = record + 1, 0
    diverged = (~torch.isfinite(losses).all(0)).nonzero()[:5, 0].tolist()
    todo = "use a smaller learning_rate"
    check(not diverged, where, "training that converges", todo, diverged_instances=diverged)
    return Course(torch.tensor(marks), losses, records)


def law_of_instance(
    where: str, laws: tuple[ToyDistribution, ...], i: int, n_instances: int
) -> ToyDistribution:
    """Returns the law that instance `i` was trained on: laws[i // (n_instances / n_laws)]."""
    check(0 <= i < n_instances, where, f"0 <= i < {n_instances}", i=i)
    return laws[i * len(laws) // n_instances]


def draw_(
    x: Float[Tensor, "n_steps n_laws n_features batch"],
    laws: tuple[ToyDistribution, ...],
    generator: torch.Generator,
) -> None:
    """Fills x with dense codes, features before samples; drawn by events, law after law."""
    n_steps, n_laws, n_features, n_batch = x.shape
    flat = x.zero_().view(-1)
    for i, law in enumerate(laws):
        events = law._sample(n_steps * n_batch, generator=generator)
        step, sample = rows_and_columns(events.rows, n_batch)
        row = (step * n_laws + i) * n_features + events.features
        flat[row * n_batch + sample] = events.values.to(x)
