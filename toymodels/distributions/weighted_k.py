"""Exactly k features fire, drawn one after another without replacement by weight."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check, check_size
from toymodels.distribution import OneMagnitude
from toymodels.events import Events, uniforms
from toymodels.magnitudes import Magnitude, Uniform

_MOST_CELLS = 2**22  # numbers held at once, in sampling and in quadrature
_STEP = 0.25  # of the quadrature; 0.4 loses seven digits, 0.2 gains none


@dataclass(frozen=True, eq=False)
class WeightedK(OneMagnitude):
    """k features are drawn in turn, each among those left with probability w_i / (their sum of w).

    Equivalently, feature i rings after an exponential time of rate w_i, and the first k to ring
    fire. With F_i(t) = 1 - exp(-w_i t), and N_A(t) the number of features outside A that have rung
    by t, a sum of independent indicators whose law is found by adding one feature at a time,

        P(i fires)       = int P(N_i(t) <= k - 1) dF_i(t)
        P(i and j fire)  = int P(N_ij(t) <= k - 2) d(F_i F_j)(t).

    Neither has a closed form. Both integrals are taken by the trapezoid rule in log t, which for
    such integrands converges exponentially: relative errors stay below 1e-12. Features compete:
    those of large weight fire less often than k w_i / sum(w), which may exceed 1, and those of
    small weight more often.

    Extremes: equal weights are `ExactlyK`; k = 1 is `Exclusive` with probabilities w / sum(w);
    k = n_features always fires all.

    Cost: a sample draws n_features numbers, however small k. Pair probabilities are found once,
    when first asked for, in n_features^3 k steps for each of some hundred nodes: half a second
    for 100 features, three for 200.

    Args:
        weights: w, [n_features], finite and > 0; only their ratios matter.
        k: from 1 to n_features.
        magnitude: law of b, drawn independently for each of the k.
    Source: Yates and Grundy 1953, Selection without replacement from within strata with
        probability proportional to size; exponential clocks: Efraimidis and Spirakis 2006,
        Weighted random sampling with a reservoir.
    Example:
        >>> WeightedK(torch.tensor([3.0, 1.0]), 1).firing_probs().round(decimals=9).tolist()
        [0.75, 0.25]
    """

    weights: Float[Tensor, " n_features"]
    k: int
    magnitude: Magnitude = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        where, shape = "WeightedK", tuple(self.weights.shape)
        check(len(shape) == 1 and 0 not in shape, where, "one weight a feature", shape=shape)
        wrong = self.weights[~(torch.isfinite(self.weights) & (self.weights > 0))].tolist()
        check(not wrong, where, "finite weights > 0", weights=wrong[:5])
        check_size(where, k=self.k)
        n = self.n_features
        check(self.k <= n, where, f"1 <= k <= {n} (n_features)", k=self.k)

    @property
    def n_features(self) -> int:
        return len(self.weights)

    @cached_property
    def _rates(self) -> Float[Tensor, " n_features"]:
        weights = self.weights.cpu().to(torch.float64)
        return weights / weights.max()

    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        rates = self._rates.to(generator.device)
        step = max(1, _MOST_CELLS // self.n_features)
        first: list[Tensor] = []
        for start in range(0, n, step):
            rows = min(step, n - start)
            uniform = uniforms(rows * self.n_features, generator=generator)
            times = -torch.log1p(-uniform).reshape(rows, -1) / rates
            first.append(times.topk(self.k, largest=False, sorted=False).indices)
        features = torch.cat(first).flatten()
        rows = torch.arange(n, device=features.device).repeat_interleave(self.k)
        return Events(rows, features, self.magnitude.sample(len(rows), generator=generator))

    def expected_l0(self) -> float:
        return float(self.k)

    def firing_probs(self) -> Float[Tensor, " n_features"]:
        return self._singles

    def _cofiring_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        return self._pairs @ v

    def _times(self, order: int) -> tuple[Float[Tensor, " n_nodes"], float]:
        """Returns the nodes t and their distance in log t, for integrands that begin as t^order.

        Beyond them lies less than 1e-16 of any integral. The number of features that have rung
        passes k while t grows by a factor of about 1 + 1/sqrt(k): the distance follows.
        """
        step = _STEP / math.sqrt(self.k)
        low = math.log(1e-18) / order - math.log(self.n_features)
        high = math.log(40.0 / float(self._rates.min()))
        return torch.arange(low, high + step, step, dtype=torch.float64).exp(), step

    @cached_property
    def _singles(self) -> Float[Tensor, " n_features"]:
        if self.k == self.n_features:
            return torch.ones(self.n_features, dtype=torch.float64)
        times, step = self._times(1)
        total = torch.zeros(self.n_features, dtype=torch.float64)
        for t in times.split(self._chunk(1)):
            rung, not_rung = _rung(t, self._rates)
            few = _at_most(rung, not_rung, self.k - 1)
            total += ((t[:, None] * self._rates * not_rung) * few).sum(0)
        return (step * total).clamp(max=1)

    @cached_property
    def _pairs(self) -> Float[Tensor, "n_features n_features"]:
        n = self.n_features
        if self.k == n:
            return torch.ones(n, n, dtype=torch.float64)
        total = torch.zeros(n, n, dtype=torch.float64)
        times, step = self._times(2)
        for t in times.split(self._chunk(n)) if self.k > 1 else ():  # of one, no pair fires
            rung, not_rung = _rung(t, self._rates)
            density = t[:, None] * self._rates * not_rung
            # Row i of the second axis: the others, with i made silent.
            others = rung[:, None, :].repeat(1, n, 1)
            others.diagonal(dim1=1, dim2=2).zero_()
            silent = not_rung[:, None, :].repeat(1, n, 1)
            silent.diagonal(dim1=1, dim2=2).fill_(1.0)
            few = _at_most(others.flatten(0, 1), silent.flatten(0, 1), self.k - 2)
            product = density[:, :, None] * rung[:, None, :]
            total += ((product + product.mT) * few.reshape(len(t), n, n)).sum(0)
        total = step * (total + total.T) / 2
        total.diagonal().copy_(self._singles)
        return total

    def _chunk(self, n_left_out: int) -> int:
        """How many nodes are taken at once."""
        return max(1, _MOST_CELLS // (n_left_out * self.n_features * self.k))

    @classmethod
    def example(cls) -> Any:
        return cls(torch.arange(1, 25, dtype=torch.float64) ** -1.2, 4)

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from toymodels.strategies import magnitudes

        weight = st.one_of(
            st.just(1.0), st.floats(0.1, 10), st.floats(-7, 0).map(lambda power: 10.0**power)
        )
        sizes = st.integers(1, 7).flatmap(
            lambda n: st.tuples(st.lists(weight, min_size=n, max_size=n), st.integers(1, n))
        )
        return st.builds(
            lambda size, law: cls(torch.tensor(size[0], dtype=torch.float64), size[1], law),
            sizes,
            magnitudes(),
        )


def _rung(
    t: Float[Tensor, " n_nodes"], rates: Float[Tensor, " n_features"]
) -> tuple[Float[Tensor, "n_nodes n_features"], Float[Tensor, "n_nodes n_features"]]:
    """Returns P(i has rung by t) and P(it has not), each to full relative accuracy."""
    exponent = -t[:, None] * rates
    return -torch.expm1(exponent), exponent.exp()


def _at_most(
    rung: Float[Tensor, "n_nodes n_features"],
    not_rung: Float[Tensor, "n_nodes n_features"],
    most: int,
) -> Float[Tensor, "n_nodes n_features"]:
    """Returns P(at most `most` of the others have rung), for each feature left out.

    The laws of the number before and after each feature, added up from both ends; nothing is
    divided, so that no digits are lost however close to 1 a probability is.
    """
    n = rung.shape[1]
    count = torch.zeros(len(rung), most + 1, dtype=torch.float64)
    count[:, 0] = 1.0
    before = [count]
    for i in range(n - 1):
        before.append(_add(before[-1], rung[:, i], not_rung[:, i]))
    result = torch.empty_like(rung)
    after = count
    for i in reversed(range(n)):
        result[:, i] = (before[i] * after.cumsum(1).flip(1)).sum(1)
        after = _add(after, rung[:, i], not_rung[:, i])
    return result


def _add(
    count: Float[Tensor, "n_nodes n_counts"],
    rung: Float[Tensor, " n_nodes"],
    not_rung: Float[Tensor, " n_nodes"],
) -> Float[Tensor, "n_nodes n_counts"]:
    more = count * not_rung[:, None]
    more[:, 1:] += count[:, :-1] * rung[:, None]
    return more
