"""Stitching: what a latent of a larger SAE changes when it is inserted into a smaller one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from theory.checks import check, check_finite, check_tensor
from theory.nearest import neighbour_p_values

PROXY_COSINE = 0.7


@dataclass(frozen=True)
class Stitching:
    """What inserting each latent of the larger SAE does to the smaller one's error.

    error: E|x - x_hat|^2 of the smaller SAE, in the squared unit of x.
    error_changes: [n_latents], same unit; < 0 is novel, > 0 reconstruction, 0 for silent latents.
    null_changes: [n_latents], expected change if the row had an isotropic direction, E z^2 |w|^2.
    max_cosines: [n_latents], largest signed cosine with a row of the smaller SAE; 0 for zero rows.
    proxy_novel: [n_latents], max_cosines below the threshold (.7).
    proxy_null: chance that an isotropic row is *not* called novel by the proxy.
    """

    error: float
    error_changes: Float[Tensor, " n_latents"]
    null_changes: Float[Tensor, " n_latents"]
    max_cosines: Float[Tensor, " n_latents"]
    proxy_novel: Bool[Tensor, " n_latents"]
    proxy_null: float

    @property
    def novel(self) -> Bool[Tensor, " n_latents"]:
        """Returns [n_latents], True where the error falls."""
        return self.error_changes < 0

    @property
    def reconstruction(self) -> Bool[Tensor, " n_latents"]:
        """Returns [n_latents], True where the error rises."""
        return self.error_changes > 0

    @property
    def disagreement(self) -> float:
        """Returns the share of latents, silent ones left out, that the proxy labels otherwise."""
        live = self.novel | self.reconstruction
        wrong = (self.proxy_novel != self.novel)[live]
        return float(wrong.double().mean()) if len(wrong) else 0.0


def stitching(
    x: Float[Tensor, "n d_in"],
    small_codes: Float[Tensor, "n n_small"],
    small_W_dec: Float[Tensor, "n_small d_in"],
    codes: Float[Tensor, "n n_latents"],
    W_dec: Float[Tensor, "n_latents d_in"],
    *,
    b_dec: Float[Tensor, " d_in"] | None = None,
    proxy_cosine: float = PROXY_COSINE,
) -> Stitching:
    """Returns the change of the smaller SAE's error by each latent of the larger, inserted alone.

    With r = x - small_codes @ small_W_dec - b_dec, inserting latent j with code z and row w changes
    E|x - x_hat|^2 by E|r - z w|^2 - E|r|^2 = E z^2 |w|^2 - 2 E z <r, w>, averaged over x.
    The error falls: the latent says what the smaller SAE does not (novel). It rises: it says once
    more what is there (reconstruction). The proxy looks at rows only: novel where the largest
    cosine with a row of the smaller SAE is below .7. A mixture of rows that are all there has a
    small cosine with each: the proxy calls it novel, the error does not.

    Null: a row of isotropic direction, independent of data and codes, *raises* the error, by
    `null_changes` on average. So "reconstruction" is what structureless latents get, and only
    "novel" is evidence; `proxy_null` goes the other way, as structureless rows are novel to it.

    Args:
        x: data, [n, d_in].   small_codes, small_W_dec: of the smaller SAE, on the same samples.
        codes, W_dec: of the larger SAE.
        b_dec: decoder bias of the smaller SAE, which the stitched one keeps; None is 0.
        proxy_cosine: in (0, 1).
    Raises: ValueError: shapes, NaN, no samples, a threshold out of range.
    Source: Leask et al. 2025, arXiv 2502.04878; the nulls are this project's.
    Example:
        >>> x = torch.eye(2)
        >>> stitching(x, x[:, :1], x[:1], x, x).error_changes.tolist()
        [0.5, -0.5]
    """
    where = "stitching"
    check(0 < proxy_cosine < 1, where, "0 < proxy_cosine < 1", proxy_cosine=proxy_cosine)
    z, w, residual = _checked(where, x, small_codes, small_W_dec, codes, W_dec, b_dec)
    own = z.square().mean(0) * w.square().sum(1)
    shared = (z * (residual @ w.T)).mean(0)
    unit, small = normalize(w, dim=1), normalize(small_W_dec.detach().double(), dim=1)
    best = (unit @ small.T).amax(1)
    tail = neighbour_p_values(best.new_tensor([proxy_cosine]), len(small), x.shape[1])
    return Stitching(
        error=float(residual.square().sum(1).mean()),
        error_changes=own - 2 * shared,
        null_changes=own,
        max_cosines=best,
        proxy_novel=best < proxy_cosine,
        proxy_null=float(tail[0]),
    )


@dataclass(frozen=True)
class Cluster:
    """Latents of the smaller SAE and those of the larger that take their place; () where none."""

    small: tuple[int, ...]
    large: tuple[int, ...]


def cosine_clusters(
    small_W_dec: Float[Tensor, "n_small d_in"],
    W_dec: Float[Tensor, "n_latents d_in"],
    *,
    cosine: float = PROXY_COSINE,
) -> tuple[Cluster, ...]:
    """Returns the connected parts of the graph that joins rows of the two SAEs at this cosine.

    Only pairs of one small and one large latent are joined, if their signed cosine is at least
    `cosine`. Each latent is in exactly one cluster. First come large latents joined to none (to
    insert), then clusters of both (to swap), then small latents joined to none (to remove).

    Null: isotropic rows are joined with the chance that `Stitching.proxy_null` gives.

    Raises: ValueError: shapes, NaN, a cosine outside (0, 1].
    Source: Leask et al. 2025, arXiv 2502.04878.
    """
    where = "cosine_clusters"
    check_finite(where, small_W_dec=small_W_dec, W_dec=W_dec)
    shapes = tuple(small_W_dec.shape), tuple(W_dec.shape)
    fits = small_W_dec.ndim == W_dec.ndim == 2 and shapes[0][1] == shapes[1][1]
    rule = "small_W_dec [n_small, d_in] and W_dec [n_latents, d_in]"
    check(fits, where, rule, small_W_dec=shapes[0], W_dec=shapes[1])
    check(0 < cosine <= 1, where, "0 < cosine <= 1", cosine=cosine)
    units = (normalize(rows.detach().double(), dim=1) for rows in (small_W_dec, W_dec))
    small, large = units
    joined = small @ large.T >= cosine
    clusters, seen = [], set()
    for first in range(len(small)):
        if first in seen:
            continue
        members, others, new = {first}, set(), {first}
        while new:
            others |= set(joined[sorted(new)].any(0).nonzero()[:, 0].tolist())
            reached = set(joined[:, sorted(others)].any(1).nonzero()[:, 0].tolist())
            new = reached - members
            members |= new
        seen |= members
        clusters.append(Cluster(tuple(sorted(members)), tuple(sorted(others))))
    alone = (~joined.any(0)).nonzero()[:, 0].tolist()
    inserted = [Cluster((), (j,)) for j in alone]
    swapped = [cluster for cluster in clusters if cluster.large]
    removed = [cluster for cluster in clusters if not cluster.large]
    return (*inserted, *swapped, *removed)


@dataclass(frozen=True)
class Swaps:
    """The error along a path from the smaller SAE, one cluster a step; squared unit of x.

    errors: [n_clusters + 1], first the smaller SAE's, then after each further cluster.
    error_changes: [n_clusters], of each cluster swapped alone, the others as in the smaller SAE.
    """

    errors: Float[Tensor, " steps"]
    error_changes: Float[Tensor, " n_clusters"]


def swap(
    x: Float[Tensor, "n d_in"],
    small_codes: Float[Tensor, "n n_small"],
    small_W_dec: Float[Tensor, "n_small d_in"],
    codes: Float[Tensor, "n n_latents"],
    W_dec: Float[Tensor, "n_latents d_in"],
    clusters: Sequence[Cluster],
    *,
    b_dec: Float[Tensor, " d_in"] | None = None,
) -> Swaps:
    """Returns the error as clusters of the smaller SAE give way to those of the larger, in order.

    Swapping (S, L) takes small_codes_S @ small_W_dec_S out of x_hat and puts codes_L @ W_dec_L in.
    With all of `cosine_clusters` the last error is that of the larger SAE's codes and rows (with
    the smaller one's bias). Insertion of several latents is a cluster with an empty `small`.

    Null: for L isotropic and independent of the data, E|r|^2 rises by E|codes_L @ W_dec_L|^2 when
    inserted; a swap loses in addition what S explained.

    Args: clusters: disjoint, of indices in range.   The others: see `stitching`.
    Raises: ValueError: as `stitching`; indices out of range or in two clusters.
    Source: Leask et al. 2025, arXiv 2502.04878.
    """
    where = "swap"
    z, w, residual = _checked(where, x, small_codes, small_W_dec, codes, W_dec, b_dec)
    small_z, small_w = small_codes.detach().double(), small_W_dec.detach().double()
    wrong = [type(cluster).__name__ for cluster in clusters if not isinstance(cluster, Cluster)]
    check(not wrong, where, "clusters that are Clusters", "pass Cluster(small, large)", wrong=wrong)
    for name, n in (("small", len(small_w)), ("large", len(w))):
        used = [i for cluster in clusters for i in getattr(cluster, name)]
        wrong = sorted({i for i in used if not 0 <= i < n or used.count(i) > 1})
        check(not wrong, where, f"disjoint clusters of {name} latents in [0, {n})", wrong=wrong)
    start = residual
    errors, changes = [residual.square().sum(1).mean()], []
    for cluster in clusters:
        out, new = list(cluster.small), list(cluster.large)
        step = z[:, new] @ w[new] - small_z[:, out] @ small_w[out]
        changes.append((start - step).square().sum(1).mean() - errors[0])
        residual = residual - step
        errors.append(residual.square().sum(1).mean())
    return Swaps(torch.stack(errors), torch.stack(changes) if changes else errors[0].new_zeros(0))


def _checked(
    where: str,
    x: Tensor,
    small_codes: Tensor,
    small_W_dec: Tensor,
    codes: Tensor,
    W_dec: Tensor,
    b_dec: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the larger SAE's codes and rows and the smaller one's residual, in float64."""
    check_tensor(where, x=x)
    bias = x.new_zeros(x.shape[1:]) if b_dec is None else b_dec
    tensors = {"x": x, "small_codes": small_codes, "small_W_dec": small_W_dec}
    tensors |= {"codes": codes, "W_dec": W_dec, "b_dec": bias}
    check_finite(where, **tensors)
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    matrices = all(tensor.ndim == 2 for tensor in tensors.values() if tensor is not bias)
    fits = matrices and 0 not in shapes["x"] + shapes["small_W_dec"] + shapes["W_dec"]
    fits = fits and shapes["small_codes"] == (len(x), len(small_W_dec))
    fits = fits and shapes["codes"] == (len(x), len(W_dec))
    fits = fits and small_W_dec.shape[1:] == W_dec.shape[1:] == bias.shape == x.shape[1:]
    rule = "x [n, d_in], and of each SAE codes [n, n_latents] and rows [n_latents, d_in]"
    check(fits, where, rule, "the codes must be of the same samples", **shapes)
    x, small_codes, small_W_dec, codes, W_dec, bias = (
        tensor.detach().double() for tensor in tensors.values()
    )
    return codes, W_dec, x - small_codes @ small_W_dec - bias
