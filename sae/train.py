"""Training of one SAE, or of many on the same data: the eager engine."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from sae.base import SAE, Loss
from sae.checks import check, check_finite, check_generator
from sae.config import TrainConfig
from sae.geometric_median import geometric_median


@runtime_checkable
class World(Protocol):
    """What can be sampled for activations: `sample(n, generator=...)` has an `x` [n, d_in]."""

    def sample(self, n: int, *, generator: torch.Generator) -> Any: ...


Sampler = Callable[..., Tensor]  # (n, *, generator) -> x [n, d_in]


@dataclass(frozen=True, eq=False)
class History:
    """How training went, measured on the training batches before each recorded step.

    Args:
        samples: [n_records], samples seen before the record.
        terms: the loss terms by name, [n_members, n_records]; NaN where a member has no such term.
        fvu: [n_members, n_records], sum |x - x_hat|^2 / sum |x - mean|^2; 0 is perfect.
        l0: [n_members, n_records], mean number of active latents per sample.
        dead: [n_members, n_records], fraction of latents that count as dead, the recorded batch
            included.
    """

    samples: Int[Tensor, " n_records"]
    terms: dict[str, Float[Tensor, "n_members n_records"]]
    fvu: Float[Tensor, "n_members n_records"]
    l0: Float[Tensor, "n_members n_records"]
    dead: Float[Tensor, "n_members n_records"]


@dataclass(frozen=True, eq=False)
class TrainResult:
    """Trained SAEs, in the order in which they were given, and how training went."""

    saes: tuple[SAE, ...]
    history: History

    @property
    def sae(self) -> SAE:
        """The one SAE of a solo run."""
        n = len(self.saes)
        check(n == 1, "TrainResult.sae", "a run of one SAE", "use .saes", n_members=n)
        return self.saes[0]


def train(
    saes: SAE | Sequence[SAE],
    sample: World | Sampler,
    config: TrainConfig,
    *,
    generator: torch.Generator,
) -> TrainResult:
    """Returns trained copies of one SAE or of an ensemble; the arguments are not changed.

    Every member sees the same batches, and member i ends exactly (on the CPU, bit for bit) as if
    it had been trained alone from the same generator state. b_dec starts at the geometric median
    of the first batch; after each step the rows of W_dec have norm 1, and their gradient has no
    part along them. Long runs show their progress if stderr is a terminal.

    Args:
        saes: one SAE, or several of one architecture and shape; seeds, k and coefficients may
            differ, and learning rates by `config.lr`.
        sample: a ToyModel, or a callable (n, *, generator) -> x [n, d_in].
        config: see `TrainConfig`.
        generator: draws the batches, and nothing else.
    Raises:
        ValueError: members that do not fit together or with the data; data with NaN; a loss that
            is no longer finite.
    """
    originals = (saes,) if isinstance(saes, SAE) else tuple(saes)
    rates = _check_members(originals, config)
    check_generator("train", generator, originals[0].W_dec.device)
    draw = _drawer(sample)
    members = [_Member(sae, rate, config) for sae, rate in zip(originals, rates, strict=True)]
    record_at = {
        round(i * (config.n_steps - 1) / max(1, config.n_records - 1))
        for i in range(config.n_records)
    }
    records: list[tuple[int, list[dict[str, float]]]] = []
    for step in tqdm(range(config.n_steps), disable=None, delay=2, leave=False, unit="step"):
        x = draw(config.batch_size, generator=generator)
        if step == 0:
            _check_data(x, originals[0], config.batch_size)
            for member in members:
                member.centre_on(x)
        losses = [member.step(x, config.lr_scale(step)) for member in members]
        if step in record_at:
            rows = [m.record(x, loss) for m, loss in zip(members, losses, strict=True)]
            records.append((step * config.batch_size, rows))
    return TrainResult(tuple(member.sae for member in members), _history(records))


class _Member:
    """One SAE in training: its copy, its optimiser, and when its latents last fired."""

    def __init__(self, sae: SAE, lr: float, config: TrainConfig) -> None:
        self.sae = copy.deepcopy(sae)
        self.sae.normalise_decoder_()
        self.lr, self.config = lr, config
        self.trained = [p for p in self.sae.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(
            self.trained, lr=lr, betas=config.betas, eps=config.eps, fused=True
        )
        self.silent = torch.zeros(sae.n_latents, dtype=torch.int64, device=sae.W_dec.device)

    def centre_on(self, x: Float[Tensor, "batch d_in"]) -> None:
        if self.sae.bias:
            with torch.no_grad():
                self.sae.b_dec.copy_(geometric_median(x))

    def dead(self) -> Tensor:
        return self.silent >= self.config.dead_after

    def step(self, x: Float[Tensor, "batch d_in"], lr_scale: float) -> Loss:
        loss = self.sae.loss(x, self.dead())
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        self.sae.remove_radial_gradient_()
        torch.nn.utils.clip_grad_norm_(self.trained, self.config.max_grad_norm)
        self.optimizer.param_groups[0]["lr"] = self.lr * lr_scale
        self.optimizer.step()
        self.sae.normalise_decoder_()
        fired = (loss.output.latents.detach() != 0).any(0)
        self.silent = torch.where(fired, 0, self.silent + len(x))
        return loss

    def record(self, x: Float[Tensor, "batch d_in"], loss: Loss) -> dict[str, float]:
        check(
            bool(torch.isfinite(loss.total)),
            "train",
            "a finite loss",
            "lower the learning rate, or look for huge values in the data",
            total=loss.total.item(),
        )
        output = loss.output
        variance = (x - x.mean(0)).square().sum()
        fvu = (x - output.x_hat).square().sum() / variance
        l0 = (output.latents != 0).sum() / len(x)
        row = {"fvu": fvu, "l0": l0, "dead": self.dead().float().mean(), **loss.terms}
        return {name: float(value.detach()) for name, value in row.items()}


def _history(records: list[tuple[int, list[dict[str, float]]]]) -> History:
    names = dict.fromkeys(name for _, rows in records for row in rows for name in row)

    def curve(name: str) -> Tensor:
        columns = [[row.get(name, float("nan")) for row in rows] for _, rows in records]
        return torch.tensor(columns, dtype=torch.float64).T

    terms = {name: curve(name) for name in names if name not in ("fvu", "l0", "dead")}
    samples = torch.tensor([seen for seen, _ in records])
    return History(samples, terms, curve("fvu"), curve("l0"), curve("dead"))


def _check_members(saes: tuple[SAE, ...], config: TrainConfig) -> tuple[float, ...]:
    check(len(saes) >= 1, "train", "at least one SAE", n_members=0)
    first = saes[0]
    for i, sae in enumerate(saes):
        kind = (type(sae).__name__, sae.d_in, sae.n_latents, sae.W_dec.dtype, sae.W_dec.device)
        want = (type(first).__name__, first.d_in, first.n_latents)
        want += (first.W_dec.dtype, first.W_dec.device)
        check(
            kind == want,
            "train",
            f"an ensemble of one architecture, shape, dtype and device, as member 0: {want}",
            "train the others in a call of their own",
            **{f"member_{i}": kind},
        )
    if not isinstance(config.lr, tuple):
        return (config.lr,) * len(saes)
    check(
        len(config.lr) == len(saes),
        "train",
        f"one learning rate, or one for each of the {len(saes)} SAEs",
        lr=config.lr,
    )
    return config.lr


def _drawer(sample: Any) -> Sampler:
    if hasattr(sample, "sample"):
        return lambda n, *, generator: sample.sample(n, generator=generator).x
    check(
        callable(sample),
        "train",
        "sample to be a ToyModel or a callable (n, *, generator) -> x [n, d_in]",
        sample=type(sample).__name__,
    )
    return sample


def _check_data(x: Tensor, sae: SAE, batch_size: int) -> None:
    want = (batch_size, sae.d_in)
    check(tuple(x.shape) == want, "train", f"batches of shape {want}", x_shape=tuple(x.shape))
    dtype = sae.W_dec.dtype
    check(x.dtype == dtype, "train", f"data of the SAE's dtype, {dtype}", x_dtype=x.dtype)
    check_finite("train", x=x)
