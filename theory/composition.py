"""Composition: which rows of one dictionary are copies or mixtures of another's, and which new."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from theory.checks import check, check_finite, check_size
from theory.isotropic import composition_p_value, isotropic_fve_bound
from theory.sparse_coding import MAX_SUPPORTS, best_support, omp, r_squared

LABELS = ("copy", "composite", "partial", "novel")
_ROUNDING = 1e-12  # exact copies and composites reach tau = 1


@dataclass(frozen=True)
class Composition:
    """What k of the atoms explain of each row, the p-value of that, and one label for each row.

    copy, composite, partial, novel: [n_rows], exactly one True in each row; see `composition`.
    best_cosine_squared: [n_rows], R_1^2, the largest squared cosine with an atom.
    r_squared: [n_rows], R_k^2 (or OMP's lower bound of it), in [0, 1].
    support: [n_rows, k], the atoms that reach it; -1 where fewer than k do.
    p_values: [n_rows], of "isotropic and independent of the atoms"; 1 for copies.
    adjusted_p_values: [n_rows], Benjamini-Yekutieli over all rows.
    exact: True: R_k^2 by full search over supports; False: by OMP, which is never above.
    null_r_squared: upper bound on the mean R_k^2 of isotropic rows.
    null_copies: upper bound on the expected fraction of copies among isotropic rows.
    """

    copy: Bool[Tensor, " n_rows"]
    composite: Bool[Tensor, " n_rows"]
    partial: Bool[Tensor, " n_rows"]
    novel: Bool[Tensor, " n_rows"]
    best_cosine_squared: Float[Tensor, " n_rows"]
    r_squared: Float[Tensor, " n_rows"]
    support: Int[Tensor, "n_rows k"]
    p_values: Float[Tensor, " n_rows"]
    adjusted_p_values: Float[Tensor, " n_rows"]
    exact: bool
    null_r_squared: float
    null_copies: float

    def labels(self) -> list[str]:
        """Returns the label of each row, one of LABELS."""
        flags = torch.stack([self.copy, self.composite, self.partial, self.novel])
        return [LABELS[i] for i in flags.int().argmax(0).tolist()]

    def shares(self) -> dict[str, float]:
        """Returns the fraction of rows with each label; they add up to 1."""
        return {name: getattr(self, name).double().mean().item() for name in LABELS}


def composition(
    rows: Float[Tensor, "n_rows d_in"],
    W_dec: Float[Tensor, "n_atoms d_in"],
    *,
    k: int,
    tau: float,
    alpha: float,
) -> Composition:
    """Returns for each row whether the atoms copy it, compose it, explain a part of it, or none.

    R_k^2(u) = max over |S| <= k of |P_S u|^2 / |u|^2: signed codes, searched exactly where there
    are at most 5,000 supports, by OMP (a lower bound) beyond. In this order:
    copy:       R_1^2 >= tau;
    composite:  R_k^2 >= tau and adjusted p <= alpha;
    partial:    R_k^2 < tau  and adjusted p <= alpha;
    novel:      the rest, also a row with R_k^2 >= tau that chance explains as well.
    p is `composition_p_value`. Copies are set aside first, with p = 1. They still count in the
    Benjamini-Yekutieli adjustment: leaving them out would select rows by the data.

    Null: rows isotropic and independent of the atoms. Among any rows, the expected fraction of
    such rows within those called composite or partial is at most alpha, whatever the dependence
    between rows. R_k^2 itself is far from 0 under the null (`null_r_squared`): about .6 at d_in =
    32, 64 atoms, k = 3. Two SAEs trained on the same data are never independent, so a small p says
    "related to the atoms", and only R_k^2 >= tau says "made of them".

    Args:
        rows: [n_rows, d_in], non-zero; only their directions count.
        W_dec: [n_atoms, d_in]; zero rows (dead latents) explain nothing but count in n_atoms.
        k: atoms per row, 1 <= k <= n_atoms and k < d_in (d_in atoms span everything).
        tau: share of squared norm from which a row counts as explained, in (0, 1].
        alpha: false discovery rate, in (0, 1).
    Raises: ValueError: shapes, NaN, no rows or atoms, a zero row, k, tau or alpha out of range.
    Source: eq:composition-p. Benjamini & Yekutieli 2001.
    Example:
        >>> composition(torch.eye(3)[:1], torch.eye(3), k=2, tau=0.9, alpha=0.01).labels()
        ['copy']
    """
    where = "composition"
    check_finite(where, rows=rows, W_dec=W_dec)
    shapes = (tuple(rows.shape), tuple(W_dec.shape))
    fits = rows.ndim == W_dec.ndim == 2 and rows.shape[1] == W_dec.shape[1]
    fits = fits and 0 not in rows.shape and 0 not in W_dec.shape
    rule = "non-empty rows [n_rows, d_in] and W_dec [n_atoms, d_in]"
    check(fits, where, rule, rows=shapes[0], W_dec=shapes[1])
    most = min(len(W_dec), rows.shape[1] - 1)
    check(1 <= k <= most, where, f"1 <= k <= {most} (n_atoms, d_in - 1)", k=k)
    check_size(where, k=k)
    check(0 < tau <= 1, where, "0 < tau <= 1", tau=tau)
    check(0 < alpha < 1, where, "0 < alpha < 1", alpha=alpha)
    u, atoms = (normalize(r.detach().double(), dim=1, eps=1e-300) for r in (rows, W_dec))
    zero = (u == 0).all(1).nonzero()[:5, 0].tolist()
    check(not zero, where, "non-zero rows", "remove dead rows first", zero_rows=zero)
    n_atoms, d_in = atoms.shape
    single = (u @ atoms.T).square().amax(1).clamp(max=1)
    exact = math.comb(n_atoms, k) <= MAX_SUPPORTS
    explained, support = _searched(u, atoms, k) if exact else _pursued(u, atoms, k)
    # A full search cannot explain less than one atom does; greedy codes start with that atom.
    explained = torch.maximum(explained, single)
    copy = single >= tau - _ROUNDING
    p_values = composition_p_value(explained, d_in, n_atoms, k).masked_fill(copy, 1.0)
    adjusted = benjamini_yekutieli(p_values)
    related = ~copy & (adjusted <= alpha)
    reached = explained >= tau - _ROUNDING
    tail = composition_p_value(explained.new_tensor([tau]), d_in, n_atoms, 1)
    return Composition(
        copy=copy,
        composite=related & reached,
        partial=related & ~reached,
        novel=~copy & ~related,
        best_cosine_squared=single,
        r_squared=explained,
        support=support,
        p_values=p_values,
        adjusted_p_values=adjusted,
        exact=exact,
        null_r_squared=isotropic_fve_bound(d_in, n_atoms, k),
        null_copies=tail.item(),
    )


def benjamini_yekutieli(p_values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Returns adjusted p-values: rejecting those <= alpha keeps the false discovery rate <= alpha.

    With p_(1) <= ... <= p_(n) and H_n = 1 + 1/2 + ... + 1/n:
    adjusted_(i) = min over j >= i of min{1, n H_n p_(j) / j}. Holds for any dependence between the
    p-values, each of which need only be super-uniform where its own null is true.

    Args: p_values: [n], n >= 1, in [0, 1].
    Returns: [n], in [0, 1], in the order given; at most n H_n p_i, and p itself for n = 1.
    Source: Benjamini & Yekutieli 2001, theorem 1.3.
    """
    where = "benjamini_yekutieli"
    check_finite(where, p_values=p_values)
    check(p_values.ndim == 1 and len(p_values) > 0, where, "[n], n >= 1", n=tuple(p_values.shape))
    low, high = p_values.min().item(), p_values.max().item()
    check(low >= 0 and high <= 1, where, "p-values in [0, 1]", minimum=low, maximum=high)
    p, order = p_values.detach().double().sort()
    ranks = torch.arange(1, len(p) + 1, dtype=p.dtype, device=p.device)
    raw = (p * (len(p) * (1 / ranks).sum()) / ranks).clamp(max=1)
    stepped = raw.flip(0).cummin(0).values.flip(0)
    return torch.empty_like(stepped).scatter_(0, order, stepped)


def _searched(u: Tensor, atoms: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best = best_support(u, atoms, k)
    return best.r_squared, best.support


def _pursued(u: Tensor, atoms: Tensor, k: int) -> tuple[Tensor, Tensor]:
    codes = omp(u, atoms, k)
    sizes, support = codes.abs().topk(k, dim=1)
    explained = r_squared(u, codes @ atoms).clamp(min=0, max=1)
    return explained, support.masked_fill(sizes == 0, -1)
