"""G6: which changes of the data leave the directions that they determine alone."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from theory.curvature import hessian
from toymodels import orthonormal, stream
from toymodels import strategies as tms

ZERO, SURELY_NOT = 1e-12, 1e-8  # eigenvalues between, relative to the largest, decide nothing
SMALL_SHARE = 1e-3
Points = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Reweighted:
    """A network V tanh(U x) that fits its data, a law of finite support, and changes of the law.

    points: the support of P.   masses: of P, up to a factor.   ratios: dQ/dP, up to a factor.
    others: inputs that P never has.   share: of them in the grown law.
    seed: of U [n_hidden, d_in] and V [n_outputs, n_hidden].
    """

    d_in: int
    n_hidden: int
    n_outputs: int
    points: Points
    masses: tuple[int, ...]
    ratios: tuple[float, ...]
    others: Points
    share: float
    seed: int

    def p(self) -> Float[Tensor, " n"]:
        masses = torch.tensor(self.masses, dtype=torch.float64)
        return masses / masses.sum()

    def q(self) -> Float[Tensor, " n"]:
        q = self.p() * torch.tensor(self.ratios, dtype=torch.float64)
        return q / q.sum()

    def bound(self) -> float:
        """Returns B, the least with dQ/dP in [1/B, B]; infinity where Q drops a point."""
        ratio = self.q() / self.p()
        return max(float(ratio.max()), float(1 / ratio.min()))

    def weights(self) -> Float[Tensor, " n_params"]:
        n = self.n_hidden * (self.d_in + self.n_outputs)
        return torch.randn(n, generator=stream(self.seed, "weights"), dtype=torch.float64)

    def outputs(
        self, w: Float[Tensor, "n_points n_params"], x: Float[Tensor, "n d_in"]
    ) -> Float[Tensor, "n_points n n_outputs"]:
        U, V = self.split(w)
        return torch.tanh(x @ U.mT) @ V.mT

    def split(self, w: Float[Tensor, "n_points n_params"]) -> tuple[Tensor, Tensor]:
        """Returns U and V of each point in weight space."""
        cut = self.n_hidden * self.d_in
        U, V = w[:, :cut], w[:, cut:]
        return U.view(len(w), self.n_hidden, -1), V.view(len(w), self.n_outputs, -1)

    def moment(
        self, x: Float[Tensor, "n d_in"], probs: Float[Tensor, " n"]
    ) -> Float[Tensor, "n_params n_params"]:
        """Returns E[J^T J], J the derivatives of the outputs by the weights, written out."""
        U, V = (part[0] for part in self.split(self.weights()[None]))
        hidden = torch.tanh(x @ U.T)
        identity = torch.eye(self.n_outputs, dtype=torch.float64)
        by_U = torch.einsum("oh,nh,nd->nohd", V, 1 - hidden.square(), x).flatten(2)
        by_V = torch.einsum("op,nh->noph", identity, hidden).flatten(2)
        rows = probs.sqrt()[:, None, None] * torch.cat([by_U, by_V], 2)
        return rows.flatten(0, 1).T @ rows.flatten(0, 1)


@st.composite
def reweighted(draw: Any, *, most_points: int = 5, may_drop: bool = False) -> Reweighted:
    """Small networks, integer points with repetitions, ratios from a quarter to 4."""
    d_in, n_hidden, n_outputs = (draw(st.integers(1, most)) for most in (2, 3, 3))
    point = st.tuples(*[st.integers(-2, 2)] * d_in)
    points = draw(st.lists(point, min_size=1, max_size=most_points))
    n = len(points)
    others = draw(st.lists(point, min_size=1, max_size=3))
    ratio = st.sampled_from([1.0, 2.0, 0.25]) | st.floats(0.25, 4)
    ratios = draw(st.lists(ratio, min_size=n, max_size=n))
    if may_drop:
        dropped = draw(st.integers(0, n - 1))
        ratios = [0.0 if n > 1 and i == dropped else r for i, r in enumerate(ratios)]
    masses = draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))
    share = draw(st.sampled_from([SMALL_SHARE, 0.1, 0.5]))
    options = (tuple(points), tuple(masses), tuple(ratios), tuple(others), share)
    return Reweighted(d_in, n_hidden, n_outputs, *options, draw(tms.seeds()))


def droppings() -> st.SearchStrategy[Reweighted]:
    return reweighted(may_drop=True)


def tensor(points: Points) -> Float[Tensor, "n d_in"]:
    return torch.tensor(points, dtype=torch.float64)


def spectrum(matrix: Float[Tensor, "n n"], size: float) -> Float[Tensor, " n"] | None:
    """Returns eigenvalues over `size`, descending, zeros as 0; None if one is neither."""
    values = torch.linalg.eigvalsh(matrix).flip(0) / size
    if bool(((values > ZERO) & (values < SURELY_NOT)).any()):
        return None
    return values.where(values > ZERO, 0.0)


def count(values: Float[Tensor, " n"]) -> float:
    return float((values > 0).sum())


def compare(instance: Reweighted) -> Comparisons:
    x, p, q, bound = tensor(instance.points), instance.p(), instance.q(), instance.bound()
    before, after = instance.moment(x, p), instance.moment(x, q)
    more = instance.moment(tensor(instance.others), _uniform(instance.others))
    grown = (1 - instance.share) * before + instance.share * more
    size = float(before.trace() + more.trace())
    if size == 0:
        return VOID  # every input is 0
    spectra = [spectrum(m, size) for m in (before, after, grown, before + more)]
    old, new, mixed, both = (torch.zeros(0) if s is None else s for s in spectra)
    if 0 in map(len, (old, new, mixed, both)):
        return VOID
    kept = old > 0
    changes = (new[kept] / old[kept]).log().abs()
    kernel = torch.linalg.eigh(before).eigenvectors[:, ~kept.flip(0)]
    w = instance.weights()
    target = instance.outputs(w[None], x)

    def loss(points: Float[Tensor, "n_points n_params"]) -> Float[Tensor, " n_points"]:
        return (q[:, None] * (instance.outputs(points, x) - target).square()).sum((1, 2))

    curvature = hessian(loss, w)
    scale = bound * size
    return (
        equal("Hessian of the loss under Q, against 2 E_Q[J^T J]",
              float((curvature - 2 * after).abs().max()), 0.0, scale=size),
        at_most("E_Q[J^T J], against B E_P[J^T J]",
                -float(torch.linalg.eigvalsh(bound * before - after)[0]), 0.0, scale=scale),
        at_most("E_P[J^T J], against B E_Q[J^T J]",
                -float(torch.linalg.eigvalsh(bound * after - before)[0]), 0.0, scale=scale),
        equal("rank under Q, against rank under P", count(new), count(old)),
        equal("E_Q |J v|^2 over the kernel under P",
              float((kernel * (after @ kernel)).sum()), 0.0, scale=scale),
        # Rounding of an eigenvalue that is 1e-8 of the largest is 1e-8 of it.
        at_most("change of a log eigenvalue, against ln B",
                float(changes.max()) if len(changes) else 0.0, math.log(bound), scale=100),
        at_most("rank, against that with more inputs", count(old), count(mixed)),
        equal("rank with a share of more inputs, against that with half of them",
              count(mixed), count(both)),
    )  # fmt: skip


def _uniform(points: Points) -> Float[Tensor, " n"]:
    return torch.full((len(points),), 1 / len(points), dtype=torch.float64)


def _ranks(instance: Reweighted, *pairs: tuple[Tensor, Tensor]) -> list[float]:
    """Returns the ranks of E[J^T J] under laws (points, probabilities); [] if one is unclear."""
    moments = [instance.moment(x, probs) for x, probs in pairs]
    size = sum(float(m.trace()) for m in moments)
    spectra = [spectrum(m, size) if size > 0 else None for m in moments]
    ranks = [count(s) for s in spectra if s is not None]
    return ranks if len(ranks) == len(pairs) else []


def one_side_suffices(instance: Reweighted) -> Comparisons:
    x = tensor(instance.points)
    ranks = _ranks(instance, (x, instance.p()), (x, instance.q()))
    return (equal("rank under Q, against rank under P", *ranks),) if ranks else VOID


def moments_suffice(instance: Reweighted) -> Comparisons:
    """Uniform on the points and their negatives, and on other points of the same X^T X."""
    x = tensor(instance.points)
    generator = stream(instance.seed, "turn")
    turn = orthonormal(len(x), len(x), generator=generator, dtype=torch.float64).vectors
    laws = [(torch.cat([y, -y]), _uniform(instance.points * 2)) for y in (x, turn @ x)]
    ranks = _ranks(instance, *laws)
    return (equal("rank under Q, against rank under P", *ranks),) if ranks else VOID


def _log_changes(instance: Reweighted) -> Tensor:
    x = tensor(instance.points)
    before, after = instance.moment(x, instance.p()), instance.moment(x, instance.q())
    size = float(before.trace())
    old, new = (spectrum(m, size) if size > 0 else None for m in (before, after))
    if old is None or new is None:
        return torch.zeros(0, dtype=torch.float64)
    return (new[old > 0] / old[old > 0]).log().abs()


def unchanged(instance: Reweighted) -> Comparisons:
    changes = _log_changes(instance)
    return (
        (equal("change of a log eigenvalue", float(changes.max()), 0.0),) if len(changes) else VOID
    )


def root_of_the_bound(instance: Reweighted) -> Comparisons:
    changes, half = _log_changes(instance), math.log(instance.bound()) / 2
    if not len(changes):
        return VOID
    return (at_most("change of a log eigenvalue, against ln(B) / 2", float(changes.max()), half),)


def small_shares_do_nothing(instance: Reweighted) -> Comparisons:
    x, others = tensor(instance.points), tensor(instance.others)
    rest, more = (1 - SMALL_SHARE) * instance.p(), SMALL_SHARE * _uniform(instance.others)
    grown = (torch.cat([x, others]), torch.cat([rest, more]))
    ranks = _ranks(instance, (x, instance.p()), grown)
    label = "rank with a thousandth of more inputs, against rank"
    return (equal(label, *ranks[::-1]),) if ranks else VOID


CLAIM = Claim(
    key="G6",
    statement="Reweighting keeps the kernel, new inputs do not\n"
    "For a model that fits its data exactly, let A_P = E_P[J^T J], J the derivatives of its "
    "outputs by its weights; the Hessian of the squared error is 2 A_P, under any law that it "
    "fits. If Q and P have the same support and dQ/dP is in [1/B, B], then A_P / B <= A_Q <= B "
    "A_P: the kernels are equal, so are the ranks, and every eigenvalue changes by a factor of at "
    "most B. Under (1 - s) P + s P' the kernel is the intersection of both for every s in (0, 1): "
    "the rank moves at any positive share of new inputs or at none.",
    source="new; monotony of eigenvalues: Courant & Fischer (textbook)",
    proof="v^T A_Q v = E_P[(dQ/dP) |J v|^2] lies between v^T A_P v / B and B v^T A_P v; both "
    "vanish together. v^T ((1 - s) A_P + s A_P') v = 0 only where both terms are 0",
    status="proved",
    kind="exact",
    paper_label="eq:bounded-ratio",
    strategy=reweighted,
    compare=compare,
    mutants=(
        Mutant(
            "one-side-suffices",
            "A density ratio bounded above suffices: Q may drop inputs",
            one_side_suffices,
            droppings,
        ),
        Mutant(
            "moments-suffice",
            "Laws of the same mean and second moment have the same rank",
            moments_suffice,
        ),
        Mutant("unchanged", "Reweighting does not change the eigenvalues", unchanged),
        Mutant("root-of-the-bound", "Eigenvalues change by at most sqrt(B)", root_of_the_bound),
        Mutant(
            "small-shares-do-nothing",
            "A thousandth of new inputs leaves the rank alone",
            small_shares_do_nothing,
        ),
    ),
)
