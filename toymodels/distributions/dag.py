"""A directed acyclic graph: features that fire only if all, or any, of their parents fire."""

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check, check_size
from toymodels.distribution import OneMagnitude
from toymodels.distributions.blocks import Blocks
from toymodels.events import Events
from toymodels.magnitudes import Magnitude, Uniform
from toymodels.product_law import per_feature_probs

MOST_CONNECTED = 16  # features of a connected part, whose up to 2^16 supports are all listed
GATES = ("all", "any")
_ROUNDING = 1e-12  # by how much a requested marginal may overshoot its bounds: 0.1 + 0.2 > 0.3
_DUST = 1e-15  # weight that supports of probability 0 get by cancellation

Law = dict[tuple[int, ...], float]  # the features that fire, increasing, and with what probability


@dataclass(frozen=True, eq=False)
class Dag(OneMagnitude):
    """Feature i fires with probability r_i if its gate is open, with leak l_i if it is closed.

    The gate "all" is open if all parents of i fire, "any" if at least one does; a feature without
    parents is a root, whose gate is always open. Given its gate, i is independent of the features
    before it. So P(support) is the product over i of f_i or 1 - f_i, with f_i = r_i or l_i as the
    support opens or closes the gate. There is no shorter formula for P(i fires): the supports of
    each connected part are listed, and the parts are `Blocks`, which also draw the samples.

    Extremes: with one parent each, and no leak, the two gates agree and this is `Hierarchy`;
    without parents it is `Independent`.

    Args:
        parents: parents[i] holds the parents of feature i, each below i and once; () makes a root.
        conditional_prob: r, one for each feature, or one for all.
        gate: "all" or "any", one for each feature, or one for all.
        leak_prob: l, one for each feature, or one for all; roots ignore it.
        magnitude: law of b, drawn independently for each feature that fires.
    Raises:
        ValueError: a parent that does not come before its child; more than 16 features connected.
    Example:
        >>> Dag(((), (), (0, 1)), 0.5).firing_probs().tolist()
        [0.5, 0.5, 0.125]
    """

    parents: tuple[tuple[int, ...], ...]
    conditional_prob: float | Tensor
    gate: str | tuple[str, ...] = "all"
    leak_prob: float | Tensor = 0.0
    magnitude: Magnitude = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        where, n = "Dag", self.n_features
        check_size(where, number_of_features=n)
        for i, above in enumerate(self.parents):
            before = all(q in range(i) for q in above)
            todo = "list parents before children"
            check(
                before, where, f"features before {i} as parents of feature {i}", todo, parents=above
            )
            once = len(set(above)) == len(above)
            check(once, where, f"each parent of feature {i} once", parents=above)
        one = isinstance(self.gate, str)
        check(one or len(self.gate) == n, where, f"one gate, or {n}", n_gates=len(self.gate))
        wrong = [gate for gate in self._gates if gate not in GATES]
        check(not wrong, where, 'gates "all" or "any"', gate=wrong[0] if wrong else "")
        per_feature_probs(where, self.conditional_prob, n, "conditional_prob")
        per_feature_probs(where, self.leak_prob, n, "leak_prob")
        first, size = Counter(self._parts).most_common(1)[0]
        rule = f"at most {MOST_CONNECTED} features connected by parents, as all supports are listed"
        todo = "cut the graph into smaller parts, or use Hierarchy where each has one parent"
        check(size <= MOST_CONNECTED, where, rule, todo, n_connected=size, first_of_them=first)

    @classmethod
    def from_marginals(
        cls,
        parents: tuple[tuple[int, ...], ...],
        firing_prob: float | Tensor,
        *,
        gate: str | tuple[str, ...] = "all",
        leak_prob: float | Tensor = 0.0,
        magnitude: Magnitude | None = None,
    ) -> "Dag":
        """Returns the graph with P(i fires) = p_i: r_i = (p_i - l_i (1 - g_i)) / g_i.

        g_i = P(the gate of i is open) follows from the features before i. r_i is 0 where g_i is.

        Args:
            firing_prob: p, one for each feature, or one for all; from l_i (1 - g_i) to that + g_i,
                hence to g_i without a leak.
            parents, gate, leak_prob, magnitude: see `Dag`.
        Raises:
            ValueError: a p_i outside that range; the message states it.
        Example:
            >>> dag = Dag.from_marginals(((), (), (0, 1)), torch.tensor([0.5, 0.5, 0.125]))
            >>> dag.conditional_prob.tolist()
            [0.5, 0.5, 0.5]
        """
        where = "Dag.from_marginals"
        p = per_feature_probs(where, firing_prob, len(parents)).tolist()
        dag = cls(parents, 0.0, gate, leak_prob, magnitude or Uniform())  # checks all the rest
        laws: dict[int, Law] = {part: {(): 1.0} for part in dag._parts}
        r: list[float] = []
        for i, part in enumerate(dag._parts):
            opened = math.fsum(w for fired, w in laws[part].items() if dag._opens(i, fired))
            closed = math.fsum(w for fired, w in laws[part].items() if not dag._opens(i, fired))
            low = dag._leaks[i] * closed
            high = low + opened
            check(
                low * (1 - _ROUNDING) - _DUST <= p[i] <= high * (1 + _ROUNDING) + _DUST,
                where,
                f"{low!r} <= firing_prob[{i}] <= {high!r} (what its gate allows)",
                f"its gate is open with probability {opened:.9g}",
                **{f"firing_prob[{i}]": p[i]},
            )
            r.append(min(max((p[i] - low) / opened, 0.0), 1.0) if opened else 0.0)
            laws[part] = dag._with_next(laws[part], i, r[i])
        return replace(dag, conditional_prob=torch.tensor(r, dtype=torch.float64))

    @property
    def n_features(self) -> int:
        return len(self.parents)

    @cached_property
    def _gates(self) -> tuple[str, ...]:
        return (self.gate,) * self.n_features if isinstance(self.gate, str) else self.gate

    @cached_property
    def _leaks(self) -> list[float]:
        return per_feature_probs("Dag", self.leak_prob, self.n_features, "leak_prob").tolist()

    @cached_property
    def _parts(self) -> tuple[int, ...]:
        """The connected part of each feature, named by its first feature."""
        first = list(range(self.n_features))

        def part(i: int) -> int:
            while first[i] != i:
                first[i] = first[first[i]]
                i = first[i]
            return i

        for i, above in enumerate(self.parents):
            for q in above:
                low, high = sorted((part(q), part(i)))
                first[high] = low
        return tuple(part(i) for i in range(self.n_features))

    def _opens(self, i: int, fired: tuple[int, ...]) -> bool:
        """Returns whether these features, of those before i, open the gate of i."""
        n_parents = len(self.parents[i])
        n_fired = sum(q in fired for q in self.parents[i])
        return n_fired >= (n_parents if self._gates[i] == "all" else min(1, n_parents))

    def _with_next(self, law: Law, i: int, r: float) -> Law:
        """Returns the law of the supports up to feature i, given that of those before it."""
        new: Law = {}
        for fired, w in law.items():
            f = r if self._opens(i, fired) else self._leaks[i]
            if f < 1:
                new[fired] = w * (1 - f)
            if f > 0:
                new[(*fired, i)] = w * f
        return new

    @cached_property
    def _blocks(self) -> Blocks:
        r = per_feature_probs("Dag", self.conditional_prob, self.n_features).tolist()
        laws: dict[int, Law] = {part: {(): 1.0} for part in self._parts}
        for i, part in enumerate(self._parts):
            laws[part] = self._with_next(laws[part], i, r[i])
        for i, part in enumerate(self._parts):
            laws[part].setdefault((i,), 0.0)  # named, if it never fires alone
        return Blocks.from_laws(*laws.values(), magnitude=self.magnitude)

    def support_entropy(self) -> float:
        """Returns the entropy of the support, in bits per sample."""
        return self._blocks.support_entropy()

    def firing_probs(self) -> Float[Tensor, " n_features"]:
        return self._blocks.firing_probs()

    def _cofiring_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        return self._blocks._cofiring_times(v)

    def _given(self, feature: int) -> Blocks:
        return self._blocks._given(feature)

    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        return self._blocks._sample(n, generator=generator)

    @classmethod
    def example(cls) -> Any:
        """Three parts of eight: three roots, one feature for each two of them, two for those."""
        parents: list[tuple[int, ...]] = []
        for i in range(0, 24, 8):
            pairs = (i + 3, i + 4, i + 5)
            parents += [(), (), (), (i, i + 1), (i, i + 2), (i + 1, i + 2), pairs, pairs]
        gates = ("all",) * 6 + ("any", "all")
        return cls(tuple(parents), 0.5, gates * 3)

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from toymodels.strategies import magnitudes, probs

        # Chains of rare features say little: half of the probabilities are ordinary ones.
        share = st.one_of(st.floats(0.25, 0.75), probs().map(lambda p: p if p > 1e-30 else 0.0))
        feature = st.tuples(
            share,
            st.sets(st.integers(0, 6), max_size=3),
            st.sampled_from(GATES),
            st.one_of(st.just(0.0), share),
        )

        def build(features: list[Any], magnitude: Magnitude) -> Dag:
            # A product of seven shares stays far above the least float64.
            r, parents, gates, leaks = zip(*features, strict=True)
            return cls(
                tuple(
                    tuple(sorted({q % i for q in above})) if i else ()
                    for i, above in enumerate(parents)
                ),
                torch.tensor(r, dtype=torch.float64),
                gates,
                torch.tensor(leaks, dtype=torch.float64),
                magnitude,
            )

        return st.builds(build, st.lists(feature, min_size=1, max_size=7), magnitudes())
