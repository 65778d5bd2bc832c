"""What training returns: the SAEs, and how it went."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.base import SAE
from sae.checks import check


@dataclass(frozen=True, eq=False)
class History:
    """How training went, measured on the training batches before each recorded step.

    Of a member that stopped early the last record is that of its stop, which has held-out numbers
    only; NaN follows.

    Args:
        samples: [n_records], samples seen before the record.
        terms: the loss terms by name, [n_members, n_records]; NaN where a member has no such term.
        fvu: [n_members, n_records], sum |x - x_hat|^2 / sum |x - mean|^2; 0 is perfect.
        l0: [n_members, n_records], mean number of active latents per sample.
        dead: [n_members, n_records], fraction of latents that count as dead, the recorded batch
            included.
        held_out: numbers of `Evaluation.summary` by name, [n_members, n_records], of the SAE that
            the result would hold if training ended before the recorded step; empty without
            held-out samples.
        trained: [n_members], samples that each member was trained on before it stopped.
    """

    samples: Int[Tensor, " n_records"]
    terms: dict[str, Float[Tensor, "n_members n_records"]]
    fvu: Float[Tensor, "n_members n_records"]
    l0: Float[Tensor, "n_members n_records"]
    dead: Float[Tensor, "n_members n_records"]
    held_out: dict[str, Float[Tensor, "n_members n_records"]]
    trained: Int[Tensor, " n_members"]


@dataclass(frozen=True, eq=False)
class TrainResult:
    """Trained SAEs, in the order in which they were given, and how training went.

    Args:
        saes: with the settings that they were given, whatever the schedules did meanwhile.
        history: see `History`.
        coefficients: the sparsity coefficient of each member, after its warm-up, that l0 control
            has arrived at, the member's own without such control; NaN where it has none.
    """

    saes: tuple[SAE, ...]
    history: History
    coefficients: tuple[float, ...]

    @property
    def sae(self) -> SAE:
        """The one SAE of a solo run."""
        n = len(self.saes)
        check(n == 1, "TrainResult.sae", "a run of one SAE", "use .saes", n_members=n)
        return self.saes[0]


class TrainingStopped(ValueError):
    """What `train` raises when a batch, a loss or weights are no longer finite.

    Args:
        result: all members as they were before the step that failed, with the history until then.
    """

    def __init__(self, message: str, result: TrainResult) -> None:
        super().__init__(message)
        self.result = result


@dataclass(frozen=True)
class Row:
    """What one member adds to the history at a recorded step; empty once it has stopped."""

    batch: dict[str, float]
    held_out: dict[str, float]


def history(records: list[tuple[int, list[Row]]], trained: list[int]) -> History:
    """Returns the records (samples seen before, a row of each member) as curves."""
    n_members = len(trained)
    batch = _curves([[row.batch for row in rows] for _, rows in records], n_members)
    held_out = _curves([[row.held_out for row in rows] for _, rows in records], n_members)
    empty = torch.full((n_members, len(records)), torch.nan, dtype=torch.float64)
    fvu, l0, dead = (batch.pop(name, empty) for name in ("fvu", "l0", "dead"))
    samples = torch.tensor([seen for seen, _ in records], dtype=torch.int64)
    return History(samples, batch, fvu, l0, dead, held_out, torch.tensor(trained))


def _curves(records: list[list[dict[str, float]]], n_members: int) -> dict[str, Tensor]:
    names = dict.fromkeys(name for rows in records for row in rows for name in row)

    def curve(name: str) -> Tensor:
        columns = [[row.get(name, float("nan")) for row in rows] for rows in records]
        return torch.tensor(columns, dtype=torch.float64).reshape(-1, n_members).T

    return {name: curve(name) for name in names}
