"""A null for compressibility that keeps the rows' second moment and nothing else (approximate)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from theory.checks import check, check_finite, check_generator
from theory.compressibility import MIN_SURROGATES, surrogate_p_value

MAX_ROUNDS = 5000


@dataclass(frozen=True)
class SpectrumNull:
    """A recipe's FVE beside the FVEs of the same recipe refitted on spectrum-matched rows.

    score: FVE on the rows.   null: mean FVE on the surrogates.   excess: score - null.
    p_value: (1 + #{null >= score}) / (1 + n_surrogates), where differences within the accuracy of
        the matching count as ties; approximate, see `spectrum_null`.
    null_fves: [n_surrogates].
    moment_error: largest |M' - M|_F / |M|_F over the surrogates, M and M' the second moments of the
        rows and of a surrogate: how far the matching succeeded.
    """

    score: float
    null: float
    excess: float
    p_value: float
    null_fves: Float[Tensor, " n_surrogates"]
    moment_error: float


def spectrum_null(
    rows: Float[Tensor, "n_rows d_in"],
    fit: Callable[[Tensor], float],
    *,
    n_surrogates: int = 19,
    generator: torch.Generator,
) -> SpectrumNull:
    """Returns how much more compressible the rows are than rows with the same second moment.

    fit(rows) -> FVE: the whole recipe, training included, with the same sizes, steps and weights.
    It is called once on the rows and once on each surrogate.

    Null: `spectrum_surrogates`: rows of the same lengths and the same second moment, random
    otherwise. It has what a low-rank or uneven spectrum alone explains, which isotropic rows
    (`compressibility`'s null) have not, so an excess over those may be nothing but spectrum. A
    recipe that sees only the spectrum, such as principal components, scores its null exactly.
    The p-value is *approximate*: the second moment is that of the rows themselves, not that of the
    law they come from, so rows and surrogates are not exchangeable. For n_rows near d_in the
    surrogates are nearly a rotation of the rows, and orthonormal rows are only rotated.

    Args:
        rows: [n_rows, d_in], not all zero.
        n_surrogates: >= 8; 19 reach p = .05.
    Raises: ValueError: shapes, NaN, rows of zeros, too few surrogates, an FVE that is not finite.
    Source: eq:spectrum-null.
    """
    surrogates = spectrum_surrogates(rows, n_surrogates, generator=generator)
    nulls = torch.tensor([float(fit(s)) for s in surrogates], dtype=torch.float64)
    score = float(fit(rows))
    moment = _moment(rows)
    errors = torch.linalg.norm(_moment(surrogates) - moment, dim=(1, 2)) / torch.linalg.norm(moment)
    # The energy in any subspace differs by at most |M' - M|_1 <= sqrt(rank) |M' - M|_F: a tie.
    tie = float(errors.max()) * min(rows.shape) ** 0.5
    return SpectrumNull(
        score=score,
        null=nulls.mean().item(),
        excess=score - nulls.mean().item(),
        p_value=surrogate_p_value(score - tie, nulls),
        null_fves=nulls,
        moment_error=float(errors.max()),
    )


def spectrum_surrogates(
    rows: Float[Tensor, "n_rows d_in"], n_surrogates: int, *, generator: torch.Generator
) -> Float[Tensor, "n_surrogates n_rows d_in"]:
    """Returns random sets of rows with the lengths and the second moment of the given rows.

    Normal rows M^(1/2) g, M = rows^T rows / n_rows, then alternately the nearest rows with second
    moment M (a polar decomposition) and the same with the rows' lengths, until both hold to 1e-6
    or 5,000 times; lengths are exact. Merely normalising M^(1/2) g would not do: estimation noise,
    already in M, would come in twice and give the surrogates a steeper spectrum than the rows.

    They span what the rows span: rank-deficient rows get surrogates of the same rank. Zero rows
    stay zero.

    Returns: [n_surrogates, n_rows, d_in], dtype and device of the rows.
    """
    where = "spectrum_surrogates"
    check_finite(where, rows=rows)
    shape = tuple(rows.shape)
    check(rows.ndim == 2 and 0 not in shape, where, "rows [n_rows, d_in]", rows=shape)
    check_generator(where, generator, rows.device)
    enough = n_surrogates >= MIN_SURROGATES
    check(enough, where, f"n_surrogates >= {MIN_SURROGATES}", got=n_surrogates)
    largest = rows.abs().max().item()
    check(largest > 0, where, "rows that are not all zero", largest=largest)
    original = rows.detach().double()
    _, singular, right = torch.linalg.svd(original / largest, full_matrices=False)
    kept = singular > 1e-10 * singular[0]
    singular, right = singular[kept], right[kept]
    g = torch.randn(
        (n_surrogates, len(rows), len(singular)),
        generator=generator,
        device=rows.device,
        dtype=torch.float64,
    )
    lengths = torch.linalg.vector_norm(original / largest, dim=1)[:, None]
    return (largest * _matched(g * singular, singular, lengths) @ right).to(rows.dtype)


def _matched(
    drawn: Float[Tensor, "s n r"], singular: Float[Tensor, " r"], lengths: Float[Tensor, "n 1"]
) -> Float[Tensor, "s n r"]:
    """Returns rows near `drawn` of these lengths whose moment is diag(singular^2), or nearly."""
    target = torch.diag(singular.square())
    drawn = _of_length(drawn, lengths)
    for _ in range(MAX_ROUNDS):
        gram = drawn.mT @ drawn
        if bool(((gram - target).abs() <= 1e-6 * target.max()).all()):
            break
        # The nearest R' with R'^T R' = S^2 is U V^T S, where R S = U T V^T.
        values, vectors = torch.linalg.eigh(singular[:, None] * gram * singular)
        roots = vectors * values.clamp(min=1e-20 * float(values.max())).rsqrt()[:, None]
        drawn = _of_length((drawn * singular) @ (roots @ vectors.mT) * singular, lengths)
    return drawn


def _of_length(
    rows: Float[Tensor, "s n r"], lengths: Float[Tensor, "n 1"]
) -> Float[Tensor, "s n r"]:
    norms = torch.linalg.vector_norm(rows, dim=2, keepdim=True)
    return lengths * rows / torch.where(norms > 0, norms, 1.0)


def _moment(rows: Float[Tensor, "*sets n d_in"]) -> Float[Tensor, "*sets d_in d_in"]:
    rows = rows.detach().double()
    return rows.mT @ rows / rows.shape[-2]
