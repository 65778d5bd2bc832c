"""Features that are non-negative mixtures of shared atoms."""

import math
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from toymodels.checks import check, check_finite, check_generator, check_size
from toymodels.dictionary import Dictionary

_PARALLEL = 1e-6  # rows closer than this in angle (radians) count as proportional


def composed(mixing: Float[Tensor, "n_features n_atoms"], atoms: Dictionary) -> Dictionary:
    """Returns the features normalise(mixing @ atoms): row i is sum_l mixing_il atom_l, normalised.

    Gram S (M A M^T) S for the Gram A of the atoms, with S the diagonal that makes its diagonal 1.
    What would leave the atoms undetermined is refused: proportional columns of M (two atoms
    always used in the same ratio could be merged into one, with the same features), an atom in no
    feature, and features that are equal or zero.

    Args:
        mixing: M >= 0, finite, [n_features, n_atoms]; only the ratios within a row matter.
        atoms: one row for each column of `mixing`; the result has their dtype.
    Raises:
        ValueError: the above; the message gives the indices. Proportional means an angle below
            1e-6, computed in float64.
    """
    where = "composed"
    check(
        mixing.ndim == 2 and mixing.shape[1] == atoms.n_features,
        where,
        f"mixing of shape [n_features, {atoms.n_features}], a column for each atom",
        mixing_shape=tuple(mixing.shape),
    )
    check_finite(where, mixing=mixing)
    mixing = mixing.to(torch.float64)
    negative = (mixing < 0).nonzero()[:5].tolist()
    check(not negative, where, "mixing >= 0", negative_entries=negative)
    zero_rows, zero_columns = _zero_rows(mixing), _zero_rows(mixing.T)
    check(not zero_rows, where, "atoms in every feature", zero_rows=zero_rows)
    todo = "remove these atoms"
    check(not zero_columns, where, "every atom in a feature", todo, zero_columns=zero_columns)
    equal, mergeable = _parallel_pairs(mixing), _parallel_pairs(mixing.T)
    check(not equal, where, "no proportional rows (equal features)", proportional_rows=equal)
    check(
        not mergeable,
        where,
        "no proportional columns (mergeable atoms)",
        "merge each pair into one atom",
        proportional_columns=mergeable,
    )
    rows = mixing @ atoms.vectors.to(torch.float64)
    scale = rows.norm(dim=1) / mixing.sum(1)  # 1 where all atoms agree, 0 where they cancel
    cancelled = (scale < _PARALLEL).nonzero()[:5, 0].tolist()
    check(not cancelled, where, "atoms that do not cancel", features_of_norm_0=cancelled)
    equal = _parallel_pairs(rows)
    check(not equal, where, "features that differ", equal_features=equal)
    return Dictionary(Dictionary.normalise(rows).vectors.to(atoms.vectors.dtype))


def random_mixing(
    n_features: int,
    n_atoms: int,
    per_feature: int,
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "n_features n_atoms"]:
    """Returns a mixing that `composed` accepts: distinct supports, weights uniform in [0.7, 1].

    Every feature mixes `per_feature` atoms, and every atom is in floor or ceil of
    n_features * per_feature / n_atoms features. Supports are drawn without replacement; then, while
    two atoms differ by more than one in their number of features, one feature's support passes from
    the commonest to the rarest of them. A feature for that always exists: more of them hold the
    commoner alone than the rarer alone, so not every exchange gives a support already there.
    Stack mixings with different `per_feature` for features of several sizes.

    Args:
        n_atoms: >= 3.
        per_feature: k, from 2 to n_atoms - 1.
        n_features: from ceil(2 n_atoms / k), so that each atom is in two features at least, to
            n_atoms choose k, the number of distinct supports.
    Raises:
        ValueError: sizes outside these ranges.
    """
    where = "random_mixing"
    check_size(where, n_features=n_features, n_atoms=n_atoms, per_feature=per_feature)
    check_generator(where, generator)
    check(n_atoms >= 3, where, "n_atoms >= 3", n_atoms=n_atoms)
    ok = 2 <= per_feature < n_atoms
    check(ok, where, f"2 <= per_feature <= {n_atoms - 1} (n_atoms - 1)", per_feature=per_feature)
    few, many = -(-2 * n_atoms // per_feature), math.comb(n_atoms, per_feature)
    ok = few <= n_features <= many
    check(ok, where, f"{few} <= n_features <= {many} for these atoms", n_features=n_features)
    support = _balanced(_distinct_supports(n_features, n_atoms, per_feature, generator))
    while True:  # two atoms in the same features differ by their weights, but for rare draws
        uniform = torch.rand(
            support.shape, dtype=torch.float64, device=generator.device, generator=generator
        )
        mixing = support * (0.7 + 0.3 * uniform)
        if not _parallel_pairs(mixing.T):
            return mixing.to(dtype)


def _distinct_supports(
    n: int, n_atoms: int, size: int, generator: torch.Generator
) -> Bool[Tensor, "n n_atoms"]:
    device = generator.device
    if 2 * n > math.comb(n_atoms, size):
        every = torch.tensor(list(combinations(range(n_atoms), size)), device=device)
        members = every[torch.randperm(len(every), device=device, generator=generator)[:n]]
    else:
        found: dict[tuple[int, ...], None] = {}
        while len(found) < n:
            keys = torch.rand(n, n_atoms, dtype=torch.float64, device=device, generator=generator)
            drawn = keys.topk(size, dim=1).indices.sort(dim=1).values
            found.update(dict.fromkeys(map(tuple, drawn.tolist())))
        members = torch.tensor(list(found)[:n], device=device)
    support = torch.zeros(n, n_atoms, dtype=torch.bool, device=device)
    return support.scatter(1, members, True)


def _balanced(support: Bool[Tensor, "n n_atoms"]) -> Bool[Tensor, "n n_atoms"]:
    device = support.device
    sets = [frozenset(i for i, on in enumerate(row) if on) for row in support.tolist()]
    known = set(sets)
    uses = support.sum(0).tolist()
    while max(uses) - min(uses) > 1:
        common, rare = uses.index(max(uses)), uses.index(min(uses))
        i, new = next(
            (i, new)
            for i, old in enumerate(sets)
            if common in old and rare not in old and (new := old - {common} | {rare}) not in known
        )
        known.remove(sets[i])
        known.add(new)
        sets[i] = new
        uses[common] -= 1
        uses[rare] += 1
    balanced = torch.zeros(support.shape, dtype=torch.bool)
    for i, members in enumerate(sets):
        balanced[i, sorted(members)] = True
    return balanced.to(device)


def _zero_rows(matrix: Float[Tensor, "n m"]) -> list[int]:
    return (matrix == 0).all(1).nonzero()[:5, 0].tolist()


def _parallel_pairs(matrix: Float[Tensor, "n m"]) -> list[list[int]]:
    """The first pairs i < j of rows in the same direction, to the angle _PARALLEL, float64."""
    unit = torch.nn.functional.normalize(matrix, dim=1)
    pairs: list[list[int]] = []
    for start in range(0, len(unit), 1024):  # blocks: many features need no n x n matrix
        close = 1 - unit[start : start + 1024] @ unit.T < _PARALLEL**2 / 2
        i, j = close.nonzero(as_tuple=True)
        i = i + start
        pairs += torch.stack([i, j], dim=1)[i < j].tolist()
        if len(pairs) >= 5:
            break
    return pairs[:5]


def strategy() -> Any:
    """Returns a Hypothesis strategy of composed dictionaries, with random mixings, in float64."""
    from hypothesis import strategies as st

    from toymodels.dictionaries.orthonormal import orthonormal
    from toymodels.dictionaries.random_unit import random_unit
    from toymodels.strategies import generators

    @st.composite
    def build(draw: Any) -> Dictionary:
        n_atoms = draw(st.integers(3, 5))
        per_feature = draw(st.integers(2, n_atoms - 1))
        few, many = -(-2 * n_atoms // per_feature), math.comb(n_atoms, per_feature)
        n_features = draw(st.integers(few, min(8, many)))
        make, d_in = draw(st.sampled_from([(orthonormal, n_atoms), (random_unit, 3)]))
        options: dict[str, Any] = {
            "generator": draw(generators("dictionary")),
            "dtype": torch.float64,
        }
        atoms = make(n_atoms, d_in, **options)
        mixing = random_mixing(n_features, n_atoms, per_feature, **options)
        return composed(mixing, atoms)

    return build()
