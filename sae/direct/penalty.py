"""The decomposability penalty: an SAE that pays for rows which a meta-SAE can rebuild."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from sae.base import SAE, SAEOutput
from sae.checks import check, check_generator
from sae.config import TrainConfig
from sae.direct.extended import Terms, batches_for, check_config, loss_with, member
from sae.evaluation import Sampler, World


@dataclass(frozen=True, eq=False)
class Penalised:
    """An SAE and the meta-SAE it was trained against.

    Args:
        sae, meta_sae: trained.
        steps: [n_records], steps that the SAE had taken at each record, the last one after all.
        penalty: [n_records], mean_i exp(-|W_i - W^_i|^2 / sigma^2), in (0, 1], before the
            coefficient; with a silent meta-SAE (and no bias) exp(-1 / sigma^2).
        meta_fve: [n_records], 1 - mean_i |W_i - W^_i|^2 of the unit rows W_i, in sample.
    """

    sae: SAE
    meta_sae: SAE
    steps: Int[Tensor, " n_records"]
    penalty: Float[Tensor, " n_records"]
    meta_fve: Float[Tensor, " n_records"]


def train_penalised(
    sae: SAE,
    meta_sae: SAE,
    sample: World | Sampler,
    config: TrainConfig,
    meta_config: TrainConfig,
    *,
    coefficient: float,
    sigma_squared: float,
    phases: tuple[int, int] = (10, 5),
    generator: torch.Generator,
) -> Penalised:
    """Returns both SAEs after alternating phases: n_p steps of `sae`, then n_m of `meta_sae`.

    The SAE's loss is its own + coefficient * mean_i exp(-|W_i - W^_i|^2 / sigma_squared), with W^_i
    the meta-SAE's reconstruction of decoder row W_i, held constant: each row is pushed away from
    what it is rebuilt as. The meta-SAE's data are the rows as they are at the time, drawn
    uniformly; the penalty codes all rows as one training batch of it.

    Of a two-level model (S1 to S5: see `sae.direct`) it satisfies S1 and S2 as the SAE does, S3
    only as far as the rows are rebuilt, which is what the penalty prevents; nothing presses for S4
    or S5. Rows move away from mixtures and pay in l0 or error; that need not bring them to atoms,
    and its meta-SAE is not where to look for these. Measured, 160 latents at k = 6 on mixtures of
    64 atoms, lambda 0.3, sigma^2 1, medians of 8 worlds: meta-FVE .71 to .41, atoms among the rows
    .77 to .72.

    coefficient = 0 is `train` beside `train_meta` on moving rows. sigma_squared far above the
    errors makes the penalty 1 - |W_i - W^_i|^2 / sigma_squared, a linear one; far below them, 0.

    Args:
        sae, meta_sae: of one d_in and any architecture; not changed. The paper's are BatchTopK.
        sample, config: see `train`; without target_l0, held-out samples and an early stop.
        meta_config: likewise; batch_size rows a step. Its schedules span as many steps as the
            phases have room for, in place of its n_steps.
        coefficient: lambda, >= 0.   sigma_squared: > 0, in squared length of a unit row.
        phases: (n_p, n_m), >= 1 and >= 0; a last phase of the SAE may be shorter.
        generator: draws the batches of both.
    Raises: ValueError: SAEs that do not fit each other, numbers out of range, NaN.
    Source: Levinson 2026, arXiv 2604.03436: lambda 0.3, sigma^2 1. Its text and its program differ
        in n_p / n_m (10 / 5 against 100 / 10) and in the meta-SAE's k (8 against 4); the phases
        here default to the text's, k is the caller's.
    """
    where = "train_penalised"
    check_config(where, config=config, meta_config=meta_config)
    check(0 <= coefficient < float("inf"), where, "coefficient >= 0", coefficient=coefficient)
    rule = "a finite sigma_squared > 0"
    check(0 < sigma_squared < float("inf"), where, rule, sigma_squared=sigma_squared)
    whole = isinstance(phases, Sequence) and [isinstance(n, int) for n in phases] == [True, True]
    rule = "phases (n_p, n_m) of integers n_p >= 1, n_m >= 0"
    check(whole and phases[0] >= 1 and phases[1] >= 0, where, rule, phases=phases)
    check_generator(where, generator, sae.W_dec.device)
    batches = batches_for(where, (sae, meta_sae), sample, config, generator)
    first = batches.draw(0).to(sae.W_dec.dtype)
    n_cycles = -(-config.n_steps // phases[0])
    meta_config = replace(meta_config, n_steps=max(1, n_cycles * phases[1]))
    rows = normalize(sae.W_dec.detach(), dim=1)
    meta = member(1, meta_sae, meta_config, rows, generator)

    def rebuilt(rows: Tensor) -> Tensor:
        with torch.no_grad():
            return meta.sae.training_output(rows).x_hat

    term = penalty_term(rebuilt, coefficient, sigma_squared)
    main = member(0, sae, config, first, generator, loss_with(term))
    records, every = [], max(1, config.n_steps // (config.n_records - 1))
    for step in range(config.n_steps):
        if step % every == 0:
            records.append((step, *_measured(main.sae.W_dec, rebuilt, sigma_squared)))
        main.step(first if step == 0 else batches.draw(step).to(first.dtype))
        if (step + 1) % phases[0] == 0 or step + 1 == config.n_steps:
            rows, size = main.sae.W_dec.detach(), (meta_config.batch_size,)
            for _ in range(phases[1]):
                picked = torch.randint(len(rows), size, device=rows.device, generator=generator)
                meta.step(rows[picked])
    records.append((config.n_steps, *_measured(main.sae.W_dec, rebuilt, sigma_squared)))
    history = [torch.tensor(values) for values in zip(*records, strict=True)]
    return Penalised(main.result(), meta.result(), *history)


def decodability(
    rows: Float[Tensor, "n d_in"], rebuilt: Float[Tensor, "n d_in"], sigma_squared: float
) -> Float[Tensor, ""]:
    """Returns mean_i exp(-|rows_i - rebuilt_i|^2 / sigma_squared), 1 where all are rebuilt."""
    return (-(rows - rebuilt).square().sum(1) / sigma_squared).exp().mean()


def penalty_term(
    rebuilt: Callable[[Tensor], Tensor], coefficient: float, sigma_squared: float
) -> Terms:
    """Returns the term "penalty" of the loss; `rebuilt` is constant: no gradient goes through."""

    def terms(sae: SAE, x: Tensor, output: SAEOutput) -> dict[str, Tensor]:
        constant = rebuilt(sae.W_dec.detach()).detach()
        return {"penalty": coefficient * decodability(sae.W_dec, constant, sigma_squared)}

    return terms


def _measured(
    rows: Tensor, rebuilt: Callable[[Tensor], Tensor], sigma_squared: float
) -> tuple[float, float]:
    rows = rows.detach()
    again = rebuilt(rows)
    error = float((rows - again).square().sum(1).mean())
    return float(decodability(rows, again, sigma_squared)), 1 - error
