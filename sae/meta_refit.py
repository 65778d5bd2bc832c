"""The second half of a meta-SAE: atoms and codes anew, with the supports that it found held."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.checks import check, check_finite, check_size
from sae.meta_weights import checked_row_weights


@dataclass(frozen=True, eq=False)
class Refit:
    """Atoms and codes of given supports: rows are about codes @ atoms.

    Args:
        atoms: [n_atoms, d_in], unit rows, or 0 where an atom vanished.
        codes: [n_rows, n_atoms], 0 outside the support; least squares may make them negative,
            a sign that the support is not that of a non-negative mixture.
        losses: [n_steps + 1], sum_i w_i |row_i - codes_i @ atoms|^2 / sum_i w_i, at the start
            and after each step; it never rises.
    """

    atoms: Float[Tensor, "n_atoms d_in"]
    codes: Float[Tensor, "n_rows n_atoms"]
    losses: Float[Tensor, " n_refits"]


def refit_meta(
    rows: Float[Tensor, "n_rows d_in"],
    support: Bool[Tensor, "n_rows n_atoms"],
    atoms: Float[Tensor, "n_atoms d_in"],
    *,
    weights: Float[Tensor, " n_rows"] | None,
    n_steps: int = 10,
) -> Refit:
    """Returns atoms refitted by weighted least squares, codes by least squares, supports held.

    Finding supports and refitting are separate choices, and their best weights differ. Rows of
    a trained SAE are noisy in inverse proportion to their energy, which makes energies the
    weights of least variance *here*; in the search for supports they leave few rows to find any.
    Each step is codes given atoms (weights do not matter), then atoms given codes. Directions
    that the weighted rows leave open stay as they were; so does an atom without rows.

    After a meta-SAE: support = meta_sae.encode(rows) != 0, atoms = meta_sae.W_dec; rows minus
    b_dec if it has one. With the true support it is the oracle of the first half.

    Args:
        rows: [n_rows, d_in].   support: [n_rows, n_atoms], the atoms each row may use.
        atoms: [n_atoms, d_in], where to start, of any norms.
        weights: [n_rows], >= 0 with a positive sum; None is uniform. Rows of weight 0 are coded
            but teach the atoms nothing.
        n_steps: alternations, >= 1.
    Returns: float64.
    Raises: ValueError: shapes that do not fit, NaN, negative or all-zero weights.
    Source: Gauss-Markov for known codes. Supports from the data: refuted that weights help.
    """
    where = "refit_meta"
    check_finite(where, rows=rows, support=support, atoms=atoms)
    boolean = support.dtype == torch.bool
    check(boolean, where, "a boolean support", "pass codes != 0", dtype=support.dtype)
    shapes = tuple(rows.shape), tuple(support.shape), tuple(atoms.shape)
    fits = rows.ndim == support.ndim == atoms.ndim == 2 and 0 not in shapes[0] + shapes[2]
    fits = fits and shapes[1] == (shapes[0][0], shapes[2][0]) and shapes[0][1] == shapes[2][1]
    rule = "rows [n_rows, d_in], support [n_rows, n_atoms] and atoms [n_atoms, d_in]"
    check(fits, where, rule, rows=shapes[0], support=shapes[1], atoms=shapes[2])
    check_size(where, n_steps=n_steps)
    if weights is None:
        weights = torch.ones(len(rows), device=rows.device)
    w = checked_row_weights(where, weights, len(rows)).to(rows.device)
    root = (w / w.sum()).sqrt()[:, None]
    x, atoms = rows.detach().double(), atoms.detach().double()
    codes = _codes(x, support, atoms)
    losses = [(root * (x - codes @ atoms)).square().sum()]
    for _ in range(n_steps):
        # The least correction that is optimal: what nothing determines does not move.
        missing = root * (x - codes @ atoms)
        atoms = atoms + torch.linalg.pinv(root * codes, rtol=1e-10) @ missing
        codes = _codes(x, support, atoms)
        losses.append((root * (x - codes @ atoms)).square().sum())
    norms = atoms.norm(dim=1)
    scale = torch.where(norms > 0, norms, 1.0)
    return Refit(atoms / scale[:, None], codes * scale, torch.stack(losses))


def _codes(
    x: Float[Tensor, "n d_in"], support: Bool[Tensor, "n m"], atoms: Float[Tensor, "m d_in"]
) -> Float[Tensor, "n m"]:
    """Returns the least-squares codes of each row in its own atoms."""
    width = int(support.sum(1).max())
    codes = x.new_zeros(support.shape)
    if width == 0:
        return codes
    own = support.to(torch.int8).topk(width, dim=1).indices  # those in the support come first
    used = support.gather(1, own)
    basis = atoms[own] * used[:, :, None]
    values = (torch.linalg.pinv(basis.mT, rtol=1e-10) @ x[:, :, None])[:, :, 0]
    return codes.scatter(1, own, values * used)
