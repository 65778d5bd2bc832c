"""Einstein's table: what one latent is made of, and what lies nearest to each of its parts."""

import math
import operator
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from theory.checks import check, check_finite, check_size, check_tensor
from theory.nearest import nearest

OBJECT = "object-level latents"
COPY_COSINE = 0.9


@dataclass(frozen=True)
class Neighbour:
    """One row of a table, seen from a component.

    row: its index in the table.   cosine: with the component, signed.
    p_value: exact where the table's rows are isotropic and independent of the component; see
        `nearest`.
    correlation: of its firing with the component's, in [-1, 1]; None: not given, or constant.
    copy: whether its cosine with the decomposed latent is at least .9: that latent once more.
    """

    row: int
    cosine: float
    p_value: float
    correlation: float | None
    copy: bool


@dataclass(frozen=True)
class Component:
    """A meta-latent that is active on the latent.

    weight: code times the norm of the meta-decoder's row, in the unit of the latent's row; where it
        is negative the neighbours are those of the opposite direction.
    neighbours: by table, nearest first.
    """

    meta_latent: int
    weight: float
    neighbours: dict[str, tuple[Neighbour, ...]]


@dataclass(frozen=True)
class Decomposition:
    """One latent, its components by falling weight, and the neighbours of each at every level.

    explained: 1 - |row - b_dec - sum of the components|^2 / |row|^2; 1 is exact, no lower limit.
    bias_norm: |b_dec|, beside the components' weights; 0 for a meta-SAE without a bias.
    n_candidates: by table, how many rows were compared (not the latent itself, no zero rows).
    """

    latent: int
    explained: float
    bias_norm: float
    components: tuple[Component, ...]
    n_candidates: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Returns the same as dictionaries, lists and numbers, which `json.dumps` takes."""
        return asdict(self)

    def table(self) -> str:
        """Returns the text of a table: a line a neighbour; `*` marks copies of the latent."""
        lines = [f"latent {self.latent}: {len(self.components)} components"]
        lines[0] += f" and a bias of norm {self.bias_norm:.3f}" if self.bias_norm else ""
        lines[0] += f" explain {self.explained:.3f} of its squared norm"
        for component in self.components:
            lines.append(f"component {component.meta_latent}, weight {component.weight:.3f}")
            for name, found in component.neighbours.items():
                lines.append(f"  {name} ({self.n_candidates[name]})")
                lines.append(f"    {'row':>6}  {'cosine':>6}  {'p':>8}  {'firing':>6}")
                for n in found:
                    r = "-" if n.correlation is None else f"{n.correlation:.3f}"
                    copy = " *" if n.copy else ""
                    lines.append(f"    {n.row:>6}  {n.cosine:6.3f}  {n.p_value:8.2g}  {r:>6}{copy}")
        return "\n".join(lines)


def decompose(
    latent: int,
    rows: Float[Tensor, "n_latents d_in"],
    meta_decoder: Float[Tensor, "n_meta d_in"],
    meta_codes: Float[Tensor, "n_latents n_meta"],
    *,
    tables: Mapping[str, Float[Tensor, "n_rows d_in"]],
    firing: Mapping[str, Tensor] | None = None,
    b_dec: Float[Tensor, " d_in"] | None = None,
    n: int = 5,
) -> Decomposition:
    """Returns what `latent` is made of, and the nearest rows to each component in every table.

    row_i is about b_dec + sum_j meta_codes_ij meta_decoder_j. Its components are the j with a code
    other than 0. The tables are the rows themselves without row i, called "object-level latents",
    and `tables`: latents of a smaller SAE, true atoms, true features, whatever lives in R^d_in.

    A component fires where any latent fires whose code for it is not 0. The correlation is the phi
    coefficient of two firings. The first table's are positive by construction, as a latent that
    holds the component lets it fire; those of the other tables are evidence.

    Null: a table of isotropic rows, independent of the components; p-values are exact then. Each
    answers for all rows of its table; over c components and t tables multiply by c t. The
    object-level rows have trained the meta-SAE, so there a small p says "related" and no more.
    Success is less than 1: a component that never occurs alone has cosine 1/sqrt(k) with an equal
    mixture of k orthogonal ones.

    Args:
        latent: in [0, n_latents), not a zero row.
        rows: decoder rows of the SAE; zero rows (dead latents) are no neighbours.
        meta_decoder: rows of the meta-SAE's decoder.
        meta_codes: its codes of `rows`, any sign.
        tables: by name, [n_rows, d_in] with a non-zero row at least.
        firing: by table, [n_samples, n_rows] of the same samples; other than 0 is firing. The
            latents' own, under "object-level latents", must be there for the others to be compared.
        b_dec: the meta-SAE's decoder bias; leave it out only where there is none (TopK has one by
            default), or `explained` lacks it. It is the same for all latents, part of no component.
        n: neighbours of a component in each table, >= 1; fewer where the table is smaller.
    Raises: ValueError: shapes, NaN, an index out of range, a zero row, tables or firing by names
        that do not fit.
    Source: eq:neighbour-p. The table: Bussmann et al. 2024, Showing SAE latents are not atomic
        using meta-SAEs; there by hand, and of the latent rather than of its components.
    Example:
        >>> atoms = torch.eye(4)
        >>> mixing = torch.tensor([[0.6, 0.8, 0, 0], [0, 0.8, 0.6, 0], [0, 0, 0.8, 0.6]])
        >>> found = decompose(0, mixing @ atoms, atoms, mixing, tables={"true atoms": atoms}, n=1)
        >>> [c.meta_latent for c in found.components]
        [1, 0]
    """
    where = "decompose"
    with suppress(TypeError):  # what is no index keeps its type, and is refused
        latent = operator.index(latent)
    check_size(where, 0, latent=latent)
    _check_meta(where, latent, rows, meta_decoder, meta_codes)
    bias = rows.new_zeros(rows.shape[1]) if b_dec is None else b_dec
    check_finite(where, b_dec=bias)
    shape = tuple(bias.shape)
    check(shape == rows.shape[1:], where, f"b_dec of shape ({rows.shape[1]},)", shape=shape)
    check_size(where, n=n)
    todo = f"{OBJECT!r} is the name of `rows`; choose another"
    check(OBJECT not in tables, where, "other tables than the rows", todo, tables=list(tables))
    every = {OBJECT: rows, **tables}
    for name, table in every.items():
        check_tensor(where, **{f"the table {name!r}": table})
        fits = table.ndim == 2 and table.shape[1] == rows.shape[1]
        rule = f"the table {name!r} of shape [n_rows, {rows.shape[1]}]"
        check(fits, where, rule, shape=tuple(table.shape))
        check_finite(where, **{name: table})
    fires = _fired(where, firing or {}, every)
    own = rows[latent].detach().double()
    left = {name: _candidates(name, table, latent) for name, table in every.items()}
    near_copies = {
        name: normalize(table.detach().double(), dim=1) @ normalize(own, dim=0) >= COPY_COSINE
        for name, table in every.items()
    }
    decoder, codes = meta_decoder.detach().double(), meta_codes.detach().double()
    weights = codes[latent] * decoder.norm(dim=1)
    components = []
    for j in weights.abs().argsort(descending=True, stable=True).tolist():
        if weights[j] == 0:
            break
        direction = decoder[j] * weights[j].sign()
        active = fires[OBJECT][:, codes[:, j] != 0].any(1) if OBJECT in fires else None
        neighbours = {}
        for name, table in every.items():
            skip = (~left[name]).nonzero()[:, 0].tolist()
            found = nearest(direction, table, n=n, exclude=skip)
            picked = found.rows.tolist()
            phis: list[float | None] = [None] * len(picked)
            if active is not None and name in fires:
                phis = _phi(active, fires[name][:, found.rows])
            neighbours[name] = tuple(
                Neighbour(*values)
                for values in zip(
                    picked,
                    found.cosines.tolist(),
                    found.p_values.tolist(),
                    phis,
                    near_copies[name][found.rows].tolist(),
                    strict=True,
                )
            )
        components.append(Component(j, float(weights[j]), neighbours))
    bias = bias.detach().double()
    error = own - codes[latent] @ decoder - bias
    return Decomposition(
        latent=latent,
        explained=float(1 - error.square().sum() / own.square().sum()),
        bias_norm=float(bias.norm()),
        components=tuple(components),
        n_candidates={name: int(mask.sum()) for name, mask in left.items()},
    )


def _candidates(name: str, table: Tensor, latent: int) -> Tensor:
    """Returns which rows may be neighbours: neither zero nor, among the rows, the latent itself."""
    left = (table != 0).any(1)
    if name == OBJECT:
        left[latent] = False
    rule = f"a row to compare in the table {name!r}"
    check(bool(left.any()), "decompose", rule, "remove the table", n_rows=len(table))
    return left


def _phi(active: Tensor, fires: Tensor) -> list[float | None]:
    """Returns the correlation of `active` [n] with each column of `fires`; None for a constant."""
    a, b = active.double(), fires.double()
    a, b = a - a.mean(), b - b.mean(0)
    scale = (a.square().sum() * b.square().sum(0)).sqrt()
    values = (a @ b / scale).clamp(-1, 1).tolist()  # 0 / 0 is NaN
    return [None if math.isnan(value) else value for value in values]


def _fired(
    where: str, firing: Mapping[str, Tensor], every: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    unknown = [name for name in firing if name not in every]
    check(not unknown, where, f"firing of the tables {list(every)}", unknown=unknown)
    check_tensor(where, **{f"firing of {name}": values for name, values in firing.items()})
    known = OBJECT in firing or not firing
    check(known, where, f"firing of {OBJECT!r}, which tells when components fire", got=list(firing))
    sizes = {name: tuple(values.shape) for name, values in firing.items()}
    n_samples = sizes[OBJECT][0] if firing and sizes[OBJECT] else 0
    for name, shape in sizes.items():
        wanted = (n_samples, len(every[name]))
        fits = shape == wanted and n_samples > 0
        check(fits, where, f"firing of {name!r} of shape {wanted}, the same samples", shape=shape)
        check_finite(where, **{f"firing of {name}": firing[name]})
    return {name: values != 0 for name, values in firing.items()}


def _check_meta(
    where: str, latent: int, rows: Tensor, meta_decoder: Tensor, meta_codes: Tensor
) -> None:
    shapes = {"rows": rows, "meta_decoder": meta_decoder, "meta_codes": meta_codes}
    check_finite(where, **shapes)
    fits = rows.ndim == meta_decoder.ndim == 2 and rows.shape[1] == meta_decoder.shape[1]
    fits = fits and meta_codes.shape == (len(rows), len(meta_decoder)) and len(rows) > 0
    rule = "rows [n_latents, d_in], meta_decoder [n_meta, d_in], meta_codes [n_latents, n_meta]"
    check(fits, where, rule, **{name: tuple(value.shape) for name, value in shapes.items()})
    check(0 <= latent < len(rows), where, f"0 <= latent < {len(rows)} (n_latents)", latent=latent)
    zero = not bool((rows[latent] != 0).any())
    check(not zero, where, "a latent with a direction", "choose a live one", zero_row=latent)
