"""A dictionary of the data by alternating exact steps: sparse codes, then least squares."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from sae.checks import check, check_finite, check_generator, check_size
from sae.direct.least_squares import least_squares_rows
from sae.direct.pruning import kept_rows
from sae.direct.pursuit import check_solvable, pursue

DUPLICATE = 0.93  # cosine from which two rows count as one
OVERCOMPLETE = 1.5  # width before pruning, over the width asked for
N_STEPS = 15
TOLERANCE = 0.28  # of the rms norm of a sample
_N_PORTIONS = 12
_N_PRUNINGS, _STEPS_EACH = 4, 3


def object_rows(
    x: Float[Tensor, "n_samples d_in"],
    n_latents: int,
    k: int,
    *,
    generator: torch.Generator,
    tolerance: float = TOLERANCE,
    overcomplete: int | float = OVERCOMPLETE,
) -> Float[Tensor, "n_latents d_in"]:
    """Returns unit rows D with x about z D, z >= 0 and at most k-sparse, found without gradients.

    1. Grow to overcomplete * n_latents rows in 12 portions. New rows are the directions of the
       largest residuals in a random half of the samples, which later steps average over all.
    2. 15 alternating steps (`alternate`).
    3. Prune to n_latents in 4 rounds of 3 steps: the rows of least worth go, worth being the energy
       of a row's codes times its squared distance to the best two other rows.

    Satisfies S1 and S2 of a two-level model (error and sparsity of the codes), not S3 to S5: the
    rows know nothing of atoms.

    Args:
        x: [n_samples, d_in], float32 or float64, at least 2 * overcomplete * n_latents samples.
        n_latents: too many costs less than too few.
        k: most rows that a sample is coded with.
        generator: draws the halves, in growth and where a row is replaced.
        tolerance: in (0, 1), of the rms norm of x: what stays unexplained along any row. It should
            lie between the largest inner product of noise with a row (some 3 standard deviations
            a coordinate) and the weakest firing.
        overcomplete: >= 1; 1 prunes nothing.
    Raises:
        ValueError: sizes, NaN or a tolerance out of range, too few samples, x all 0.
    Source: Engan et al. 1999, Method of optimal directions.
    """
    where = "object_rows"
    check_samples(where, x, tolerance, generator)
    check_size(where, n_latents=n_latents, k=k)
    ok = 1 <= overcomplete < float("inf")
    check(ok, where, "a finite overcomplete >= 1", overcomplete=overcomplete)
    width = int(overcomplete * n_latents)
    enough, todo = len(x) >= 2 * width, "sample more or ask for fewer latents"
    check(enough, where, f"at least {2 * width} samples", todo, n_samples=len(x))
    check(k <= n_latents, where, f"k <= {n_latents} (n_latents)", k=k)
    floor = tolerance * rms_norm(x)
    rows = _grow(x, width, k, floor, generator)
    rows = alternate(x, rows, k, N_STEPS, floor, generator=generator)
    return _prune(x, rows, n_latents, k, floor, generator) if width > n_latents else rows


def refine_rows(
    x: Float[Tensor, "n_samples d_in"],
    rows: Float[Tensor, "n_latents d_in"],
    k: int,
    *,
    generator: torch.Generator,
    n_steps: int = N_STEPS,
    tolerance: float = TOLERANCE,
) -> Float[Tensor, "n_latents d_in"]:
    """Returns rows after `n_steps` alternating steps from given ones, such as a trained W_dec.

    The cheapest repair of a decoder whose rows are mergers of features: nothing else of the SAE is
    used, and as many rows come back. Satisfies S1 and S2 (see `sae.direct`).

    Args:
        x: [n_samples, d_in], at least as many samples as rows.
        rows: [n_latents, d_in], of any norms, taken in x's dtype; a zero row starts at a residual.
        k, generator, tolerance: see `object_rows`.   n_steps: >= 1.
    Raises: ValueError: as `object_rows`, and rows that do not fit x.
    """
    where = "refine_rows"
    check_samples(where, x, tolerance, generator)
    check_size(where, n_steps=n_steps, k=k)
    check_finite(where, rows=rows)
    shape, rule = tuple(rows.shape), f"rows of shape [n_latents, {x.shape[1]}]"
    check(rows.ndim == 2 and shape[1] == x.shape[1], where, rule, rows_shape=shape)
    check(k <= len(rows), where, f"k <= {len(rows)} (rows)", k=k)
    check(len(x) >= len(rows), where, f"at least {len(rows)} samples", n_samples=len(x))
    unit = normalize(rows.detach().to(x.dtype), dim=1)
    return alternate(x, unit, k, n_steps, tolerance * rms_norm(x), generator=generator)


def alternate(
    x: Float[Tensor, "n_samples d_in"],
    rows: Float[Tensor, "n d_in"],
    k: int,
    n_steps: int,
    floor: float,
    *,
    generator: torch.Generator,
) -> Float[Tensor, "n d_in"]:
    """Returns rows after n_steps of: codes by pursuit to `floor`, rows by least squares.

    After all but the last step rows that no sample uses, and the rarer of two rows of cosine above
    0.93, are replaced by directions of residuals.
    """
    for step in range(n_steps):
        codes = sparse_codes(x, rows, k, floor)
        rows = least_squares_rows(x[None], codes[None], rows[None])[0]
        if step < n_steps - 1:
            idle = _idle(codes, rows)
            fresh = _residual_directions(x - codes @ rows, int(idle.sum()), generator)
            rows = rows.index_put((idle,), fresh)
    return rows


def sparse_codes(
    x: Float[Tensor, "n_samples d_in"], rows: Float[Tensor, "n d_in"], k: int, floor: float
) -> Float[Tensor, "n_samples n"]:
    """Returns codes of x in `rows` by non-negative pursuit down to `floor`, in the unit of x."""
    return pursue(x[None], rows[None], min(k, len(rows)), floor)[0]


def rms_norm(x: Float[Tensor, "n_samples d_in"]) -> float:
    """Returns sqrt(E|x|^2), the unit of `tolerance`."""
    return float(x.square().sum(1).mean().sqrt())


def check_samples(where: str, x: Tensor, tolerance: float, generator: torch.Generator) -> None:
    """Raises ValueError unless x is solvable, [n_samples, d_in] and not 0, and the rest fits it."""
    check_solvable(where, x=x)
    check(x.ndim == 2 and x.numel() > 0, where, "x [n_samples, d_in]", x_shape=tuple(x.shape))
    check(bool((x != 0).any()), where, "x that is not 0 everywhere", largest=0.0)
    check(0 < tolerance < 1, where, "0 < tolerance < 1, of the rms norm of x", tolerance=tolerance)
    check_generator(where, generator, x.device)


def _grow(
    x: Tensor, n: int, k: int, floor: float, generator: torch.Generator
) -> Float[Tensor, "n d_in"]:
    rows, residual = x.new_zeros(0, x.shape[1]), x
    for portion in range(1, _N_PORTIONS + 1):
        n_new = n * portion // _N_PORTIONS - len(rows)
        rows = torch.cat([rows, _residual_directions(residual, n_new, generator)])
        if len(rows) > 0:
            rows = alternate(x, rows, k, 1, floor, generator=generator)
            residual = x - sparse_codes(x, rows, k, floor) @ rows
    return rows


def _residual_directions(
    residual: Float[Tensor, "n_samples d_in"], n: int, generator: torch.Generator
) -> Float[Tensor, "n d_in"]:
    """The directions of the n largest residuals in a random half of the samples."""
    coin = torch.rand(len(residual), device=residual.device, generator=generator)
    energy = torch.where(coin < 0.5, residual.square().sum(1), 0)
    return normalize(residual[energy.topk(n).indices], dim=1)


def _idle(codes: Float[Tensor, "n_samples n"], rows: Float[Tensor, "n d_in"]) -> Bool[Tensor, " n"]:
    n_firings = (codes > 0).sum(0)
    i, j = ((rows @ rows.T).triu(1) > DUPLICATE).nonzero(as_tuple=True)
    rarer = torch.where(n_firings[i] < n_firings[j], i, j)
    return (n_firings == 0).index_fill(0, rarer, True)


def _prune(
    x: Tensor, rows: Tensor, n: int, k: int, floor: float, generator: torch.Generator
) -> Float[Tensor, "n d_in"]:
    for n_left in range(_N_PRUNINGS, 0, -1):
        energies = sparse_codes(x, rows, k, floor).square().sum(0)
        rows = rows[kept_rows(energies, rows, (len(rows) - n) // n_left)]
        rows = alternate(x, rows, k, _STEPS_EACH, floor, generator=generator)
    return rows
