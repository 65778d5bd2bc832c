"""Shared by claims about meta-SAEs: instances, and meta-dictionaries fitted by alternation."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.compressibility import fve
from theory.isotropic import isotropic_rows
from theory.sparse_coding import omp
from toymodels import Dictionary
from toymodels import strategies as tms

N_STEPS = 4


@dataclass(frozen=True)
class MetaProblem:
    """Rows to compress: unit rows, one weight each, n_latents atoms, k per row, bias or not."""

    dictionary: Dictionary
    weights: tuple[float, ...]
    n_latents: int
    k: int
    bias: bool
    seed: int

    def rows(self) -> Float[Tensor, "n d_in"]:
        return self.dictionary.vectors

    def weight_tensor(self) -> Float[Tensor, " n"]:
        return torch.tensor(self.weights, dtype=torch.float64)


@st.composite
def meta_problems(
    draw: Any, *, weighted: bool = True, bias: bool | None = None, min_latents: int = 0
) -> MetaProblem:
    """Meta-SAE problems in every family of dictionaries, mostly with fewer atoms than rank.

    weighted: weights with ties, zeros and Zipf tails; False is uniform.   bias: None draws it.
    """
    dictionary = draw(tms.dictionaries())
    n, d_in = dictionary.n_features, dictionary.d_in
    integers = st.lists(st.integers(0, 9), min_size=n, max_size=n).filter(any)
    zipf = st.floats(0, 3).map(lambda power: [float(i) ** -power for i in range(1, n + 1)])
    weights = draw(st.one_of(integers, zipf)) if weighted else [1.0] * n
    with_bias = draw(st.booleans()) if bias is None else bias
    most = max(min_latents, min(n - with_bias, d_in) - 1)
    n_latents = draw(st.integers(min_latents, most))
    return MetaProblem(
        dictionary,
        tuple(map(float, weights)),
        n_latents,
        k=draw(st.integers(1, max(1, n_latents))),
        bias=with_bias,
        seed=draw(tms.seeds()),
    )


def fitted_fve(
    problem: MetaProblem, k: int | None, *, generator: torch.Generator, n_steps: int = N_STEPS
) -> float:
    """Returns the best weighted FVE met while alternating codes and weighted least squares.

    From isotropic atoms; codes by `omp` with k atoms per row, or unrestricted for k = None.
    """
    rows, w = problem.rows(), problem.weight_tensor()
    offset = (w / w.sum()) @ rows if problem.bias else torch.zeros_like(rows[0])
    if problem.n_latents == 0:
        return fve(rows, offset.expand_as(rows), weights=w)
    atoms = isotropic_rows(
        problem.n_latents, rows.shape[1], generator=generator, dtype=torch.float64
    )
    best = -torch.inf
    root = w.sqrt()[:, None]
    for _ in range(n_steps):
        centred = rows - offset
        codes = centred @ torch.linalg.pinv(atoms) if k is None else omp(centred, atoms, k)
        best = max(best, fve(rows, codes @ atoms + offset, weights=w))
        design = torch.cat([codes, torch.ones_like(root)], 1) if problem.bias else codes
        solution = torch.linalg.pinv(root * design) @ (root * rows)
        best = max(best, fve(rows, design @ solution, weights=w))
        atoms = solution[: problem.n_latents]
        offset = solution[-1] if problem.bias else offset
    return best


def principal_fve(problem: MetaProblem) -> float:
    """Returns the weighted FVE of weighted principal components (about the mean with a bias)."""
    rows, w = problem.rows(), problem.weight_tensor()
    offset = (w / w.sum()) @ rows if problem.bias else torch.zeros_like(rows[0])
    _, _, right = torch.linalg.svd(w.sqrt()[:, None] * (rows - offset), full_matrices=False)
    kept = right[: problem.n_latents]
    return fve(rows, (rows - offset) @ kept.T @ kept + offset, weights=w)


def is_orthonormal(dictionary: Dictionary) -> bool:
    """Returns whether the rows are orthonormal, to rounding."""
    gram = dictionary.gram()
    return bool((gram - torch.eye(len(gram), dtype=gram.dtype)).abs().max() < 1e-12)
