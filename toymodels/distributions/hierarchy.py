"""A hierarchy: a forest of features in which a child fires only if its parent fires."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from toymodels.checks import check, check_size
from toymodels.distribution import ToyDistribution
from toymodels.events import Events, bernoulli_indices, uniforms
from toymodels.magnitudes import Constant, Magnitude, Uniform
from toymodels.product_law import per_feature_probs

TOLERANCE = 1e-6  # probabilities rounded to float32 may sum to a little more than they should


@dataclass(frozen=True, eq=False)
class Hierarchy(ToyDistribution):
    """Feature i fires with probability p_i, exactly as asked for, and only if its parent q fires.

    Given the features above, i fires with probability r_i = p_i / p_q (p_i for a root): the
    children of q fire independently of one another, or at most one of them if q is exclusive.
    A feature that fires has strength b, independent of all others; coupled, it has b times the
    strength of its parent, so that strengths multiply down from the root.

    With mu = E[b], s = E[b^2] and h_i the number of features from the root down to i:
    m_i = p_i mu and e_i = p_i s; coupled, p_i mu^h_i and p_i s^h_i.
    E[a_i a_j] follows from c, the lowest feature that is both i or above it and j or above it:

        c = i (j below i)           m_j mu                  coupled e_i m_j / m_i
        c above both                m_i m_j / p_c           coupled e_c m_i m_j / m_c^2
        c exclusive, above both     0
        no c (different trees)      m_i m_j; 0 if the roots exclude one another

    since given c the branches to i and to j fire, and draw strengths, independently. C v costs
    two passes over the forest: see `_moment_times`.

    Extremes: p_i = p_q makes i fire whenever q does; a forest of roots only is `Independent`, or
    `Exclusive` with exclusive_roots.

    Args:
        parents: parents[i] < i is the parent of feature i, -1 makes it a root.
        firing_prob: p, one for each feature, or one for all (a child then fires whenever its
            parent does); p_i <= p_q, and the children of an exclusive q sum to at most p_q
            (or, rounded to float32, 1e-6 more, which then lowers their marginals as much).
        exclusive: whether the children of a feature exclude one another: one answer for each
            feature, or one for all.
        exclusive_roots: whether the roots exclude one another; if so they sum to at most 1.
        coupled: whether strengths multiply down from the root.
        magnitude: law of b.
    Raises:
        ValueError: a child more frequent than its parent, or exclusive features whose conditional
            probabilities exceed 1; the message gives the largest feasible value.
    Example:
        >>> Hierarchy((-1, 0, 0), torch.tensor([0.5, 0.25, 0.125])).code_moment()[0, 1].item()
        0.25
    """

    parents: tuple[int, ...]
    firing_prob: float | Tensor
    exclusive: bool | tuple[bool, ...] = False
    exclusive_roots: bool = False
    coupled: bool = False
    magnitude: Magnitude = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        where = "Hierarchy"
        check_size(where, number_of_parents=len(self.parents))
        for i, parent in enumerate(self.parents):
            if not _comes_before(parent, i):
                rule = f"-1 (a root) or a feature before {i} as the parent of feature {i}"
                check(False, where, rule, "list parents before children", parent=parent)
        if not isinstance(self.exclusive, bool):
            check(
                len(self.exclusive) == self.n_features,
                where,
                f"exclusive one bool, or one for each of the {self.n_features} features",
                exclusive_length=len(self.exclusive),
            )
        p, above = self.firing_probs(), self._extended_probs()[self._parents]
        if bool((p > above).any()):
            i = int((p > above).nonzero()[0])
            parent, bound = self.parents[i], above[i].item()
            rule = f"0 <= firing_prob[{i}] <= {bound:.9g}, the firing_prob of its parent {parent}"
            todo = "a child fires only if its parent does"
            check(False, where, rule, todo, **{f"firing_prob[{i}]": p[i].item()})
        total = torch.zeros(self.n_features + 1, dtype=torch.float64)
        total = total.index_add_(0, self._parents, self._conditional)
        excess = self._excludes & (total > 1 + TOLERANCE)
        if bool(excess.any()):
            q = int(excess.nonzero()[0])
            bound, share = self._extended_probs()[q].item(), total[q].item()
            whose = f"the children of feature {q}" if q < self.n_features else "the roots"
            rule = f"firing probabilities of {whose} that sum to at most {bound:.9g}"
            todo = f"they exclude one another: divide each by {share:.9g} or more"
            check(False, where, rule, todo, sum_of_firing_probs=share * bound)

    @classmethod
    def from_conditional(
        cls,
        parents: tuple[int, ...],
        conditional_prob: float | Tensor,
        *,
        exclusive: bool | tuple[bool, ...] = False,
        exclusive_roots: bool = False,
        coupled: bool = False,
        magnitude: Magnitude | None = None,
    ) -> "Hierarchy":
        """Returns the hierarchy with P(i fires | parent fires) = r_i; p_i multiplies down the path.

        Args:
            conditional_prob: r, one for each feature or one for all; of a root, its p.
            parents, exclusive, exclusive_roots, coupled, magnitude: see `Hierarchy`.
        """
        r = per_feature_probs("Hierarchy.from_conditional", conditional_prob, len(parents))
        probs: list[float] = []
        for i, (parent, share) in enumerate(zip(parents, r.tolist(), strict=True)):
            # A wrong parent is refused by the constructor.
            below = _comes_before(parent, i) and parent >= 0
            probs.append(share * probs[parent] if below else share)
        p = torch.tensor(probs, dtype=torch.float64)
        return cls(parents, p, exclusive, exclusive_roots, coupled, magnitude or Uniform())

    @classmethod
    def regular(
        cls,
        n_roots: int,
        branching: int,
        depth: int,
        root_prob: float,
        child_prob: float,
        *,
        exclusive: bool = True,
        coupled: bool = False,
        magnitude: Magnitude | None = None,
    ) -> "Hierarchy":
        """Returns n_roots equal trees: every feature above the last level has `branching` children.

        Features are numbered level by level: roots 0 .. n_roots - 1, then the children of root 0.
        Expected l0: n_roots root_prob sum_l (branching child_prob)^l over l = 0 .. depth.

        Args:
            n_roots, branching: >= 1.
            depth: number of levels below the roots, >= 0.
            root_prob: probability of a root, in [0, 1].
            child_prob: P(child | parent), in [0, 1]; at most 1 / branching if exclusive.
            exclusive: whether siblings (not roots) exclude one another.
            coupled, magnitude: see `Hierarchy`.
        """
        where = "Hierarchy.regular"
        check_size(where, n_roots=n_roots, branching=branching)
        whole = isinstance(depth, Integral) and depth >= 0
        check(whole, where, "an integer depth >= 0", depth=depth)
        check(0 <= root_prob <= 1, where, "0 <= root_prob <= 1", root_prob=root_prob)
        most = 1 / branching if exclusive and depth else 1.0
        rule = f"0 <= child_prob <= {most:.9g}" + (" = 1 / branching" if most < 1 else "")
        check(0 <= child_prob <= most * (1 + TOLERANCE), where, rule, child_prob=child_prob)
        sizes = [n_roots * branching**level for level in range(depth + 1)]
        starts = [0, *accumulate(sizes)]
        parents = [-1] * n_roots
        for start, size in zip(starts, sizes[1:], strict=False):
            parents += [start + child // branching for child in range(size)]
        by_level = torch.tensor([root_prob] + [child_prob] * depth, dtype=torch.float64).cumprod(0)
        p = by_level.repeat_interleave(torch.tensor(sizes))
        return cls(tuple(parents), p, exclusive, False, coupled, magnitude or Uniform())

    @property
    def n_features(self) -> int:
        return len(self.parents)

    def _given(self, feature: int) -> "Hierarchy":
        """The features from the root down to this one fire; those they exclude do not."""
        r = self._conditional.clone()
        i = feature
        while i >= 0:
            q = self.parents[i]
            if self._excludes[q]:
                r[self._parents == self._parents[i]] = 0.0
            r[i] = 1.0
            i = q
        return Hierarchy.from_conditional(
            self.parents,
            r,
            exclusive=self.exclusive,
            exclusive_roots=self.exclusive_roots,
            coupled=self.coupled,
            magnitude=self.magnitude,
        )

    def largest_codes(self) -> Float[Tensor, " n_features"]:
        return self._strength(self.magnitude.largest())

    def _cofiring_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        return replace(self, magnitude=Constant(1.0))._moment_times(v)

    def firing_probs(self) -> Float[Tensor, " n_features"]:
        return per_feature_probs("Hierarchy", self.firing_prob, self.n_features)

    def mean_codes(self) -> Float[Tensor, " n_features"]:
        return self.firing_probs() * self._strength(self.magnitude.mean())

    def code_energies(self) -> Float[Tensor, " n_features"]:
        return self.firing_probs() * self._strength(self.magnitude.second_moment())

    def _strength(self, moment: float) -> Float[Tensor, " n_features"]:
        heights = self._depths + 1 if self.coupled else torch.ones_like(self._depths)
        return torch.tensor(moment, dtype=torch.float64) ** heights

    # The roots are the children of one more feature, number n_features, that always fires.

    @cached_property
    def _parents(self) -> Int[Tensor, " n_features"]:
        parents = torch.tensor(self.parents)
        return torch.where(parents < 0, self.n_features, parents)

    def _extended_probs(self) -> Float[Tensor, " n_features_and_top"]:
        return torch.cat([self.firing_probs(), torch.ones(1, dtype=torch.float64)])

    @cached_property
    def _conditional(self) -> Float[Tensor, " n_features"]:
        """r_i, and 0 below a parent that never fires."""
        above = self._extended_probs()[self._parents]
        return torch.where(above > 0, self.firing_probs() / above, 0.0)

    @cached_property
    def _excludes(self) -> Bool[Tensor, " n_features_and_top"]:
        below = torch.tensor(self.exclusive).expand(self.n_features)
        return torch.cat([below, torch.tensor([self.exclusive_roots])])

    @cached_property
    def _depths(self) -> Int[Tensor, " n_features"]:
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return torch.tensor(depths)

    @cached_property
    def _by_level(self) -> tuple[Int[Tensor, " size"], ...]:
        """The features of each level, in increasing order."""
        order = self._depths.argsort(stable=True)
        return order.split(self._depths.bincount().tolist())

    def _moment_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        """Returns C v in two passes over the forest.

        Write t_q for what q hands down to its children: 1, or its strength if coupled, so that
        a_i = b_i t_q where i fires. S = sum_j a_j v_j splits into i itself, what is below i, and
        the rest. Upwards, per unit of t_q: w_i, the expected sum over i and below it, and A_i, the
        sum of w over the children of i. Downwards: B_i = E[t_q 1(i fires) rest_i] and
        H_i = E[t_i rest_i]. With f = mu if coupled, else 1:

            w_i = r_i (mu v_i + f A_i)
            B_i = r_i (H_q + E[t_q a_q] v_q + E[t_q^2] (A_q - w_i)),   H_i = f B_i
            (C v)_i = e_i v_i + E[t_i a_i] A_i + mu B_i

        where the term A_q - w_i, of the siblings, is left out if they exclude one another.
        """
        n, mu = self.n_features, self.magnitude.mean()
        p, energy = self.firing_probs(), self.code_energies()
        handed = mu if self.coupled else 1.0
        cross = energy if self.coupled else self.mean_codes()  # E[t a]
        square = energy if self.coupled else p  # E[t^2]
        # One more entry for the feature above the roots, with t = 1 and no code.
        cross = torch.cat([cross, cross.new_zeros(1)])
        square = torch.cat([square, square.new_ones(1)])
        square = torch.where(self._excludes, 0.0, square)
        r, parents = self._conditional[:, None], self._parents
        below, rest = (v.new_zeros(n + 1, v.shape[1]) for _ in range(2))  # A and H
        whole, product = torch.empty_like(v), torch.empty_like(v)  # w and C v
        v = torch.cat([v, v.new_zeros(1, v.shape[1])])
        for i in reversed(self._by_level):
            whole[i] = r[i] * (mu * v[i] + handed * below[i])
            below.index_add_(0, parents[i], whole[i])
        for i in self._by_level:
            q = parents[i]
            siblings = square[q, None] * (below[q] - whole[i])
            b = r[i] * (rest[q] + cross[q, None] * v[q] + siblings)
            rest[i] = handed * b
            product[i] = energy[i, None] * v[i] + cross[i, None] * below[i] + mu * b
        return product

    @cached_property
    def _levels(self) -> "dict[str, tuple[_Level, ...]]":
        return {}

    def _levels_on(self, device: torch.device) -> "tuple[_Level, ...]":
        if str(device) not in self._levels:
            self._levels[str(device)] = tuple(self._make_levels(device))
        return self._levels[str(device)]

    def _make_levels(self, device: torch.device) -> "Iterator[_Level]":
        place = torch.zeros(self.n_features + 1, dtype=torch.int64)  # of a feature in its level
        above = torch.tensor([self.n_features])
        for level in self._by_level:
            # Siblings side by side, in the order of their parents above.
            features = level[place[self._parents[level]].argsort(stable=True)]
            place[features] = torch.arange(len(features))
            yield _Level(
                features.to(device),
                place[self._parents[features]].to(device),
                self._conditional[features].to(device),
                self._excludes[above].to(device),
            )
            above = features

    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        device = generator.device
        rows = torch.arange(n, device=device)
        places = torch.zeros(n, dtype=torch.int64, device=device)
        strengths = torch.ones(n, dtype=torch.float64, device=device)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for level in self._levels_on(device):
            events, places = level.draw(places, generator=generator)
            values = self.magnitude.sample(len(events), generator=generator).to(torch.float64)
            strengths = values * strengths[events] if self.coupled else values
            rows = rows[events]
            found.append((rows, level.features[places], strengths))
            if len(rows) == 0:
                break
        all_rows, features, values = (torch.cat(part) for part in zip(*found, strict=True))
        return Events(all_rows, features, values.to(torch.float32))

    @classmethod
    def example(cls) -> Any:
        return cls.regular(3, branching=2, depth=2, root_prob=0.3, child_prob=0.45)

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from toymodels.strategies import magnitudes, probs

        @st.composite
        def build(draw: Any) -> Hierarchy:
            feature = st.tuples(st.integers(0, 7), probs(), st.booleans())
            features = draw(st.lists(feature, min_size=1, max_size=8))
            n = len(features)
            parents = tuple(choice % (i + 1) - 1 for i, (choice, _, _) in enumerate(features))
            # A product of eight stays far above the least float64, where it would be rounded.
            shares = [share if share > 1e-30 else 0.0 for _, share, _ in features]
            answers = tuple(answer for _, _, answer in features)
            exclusive = answers if len(set(answers)) > 1 else answers[0]
            exclusive_roots = draw(st.booleans())
            for q, excludes in enumerate((exclusive_roots, *answers), start=-1):
                if excludes:
                    children = [i for i in range(n) if parents[i] == q]
                    total = max(1.0, sum(shares[i] for i in children))
                    for i in children:
                        shares[i] /= total
            return cls.from_conditional(
                parents,
                torch.tensor(shares, dtype=torch.float64),
                exclusive=exclusive,
                exclusive_roots=exclusive_roots,
                coupled=draw(st.booleans()),
                magnitude=draw(magnitudes()),
            )

        return build()


@dataclass(frozen=True, eq=False)
class _Group:
    """Independent children whose conditional probabilities have the same binary exponent."""

    first: Int[Tensor, " n_above"]  # of each feature above: its children here begin at first[q],
    count: Int[Tensor, " n_above"]  # and are count[q] entries of
    children: Int[Tensor, " size"]
    highest: float


class _Level:
    """Draws the children of the features that fired in the level above.

    Args:
        features: features of this level, siblings side by side.
        parents: place of each one's parent in the level above, in increasing order.
        probs: r, their conditional probabilities.
        excludes: whether each feature of the level above has children that exclude one another.
    """

    def __init__(self, features: Tensor, parents: Tensor, probs: Tensor, excludes: Tensor) -> None:
        n_above = len(excludes)
        self.features, self.probs = features, probs
        free = ~excludes[parents] & (probs > 0)
        exponents = torch.frexp(probs).exponent
        self.groups = []
        for exponent in exponents[free].unique().tolist():
            children = (free & (exponents == exponent)).nonzero()[:, 0]
            count = parents[children].bincount(minlength=n_above)
            first = count.cumsum(0) - count
            self.groups.append(_Group(first, count, children, float(probs[children].max())))
        # Among exclusive siblings, child k fires if a uniform falls in its interval before ends[k].
        self.count = torch.where(excludes, parents.bincount(minlength=n_above), 0)
        self.first = parents.bincount(minlength=n_above).cumsum(0) - self.count
        self.n_steps = int(self.count.max()).bit_length()
        sums: list[float] = []
        previous = -1
        for parent, prob in zip(parents.tolist(), probs.tolist(), strict=True):
            sums.append(prob + (sums[-1] if parent == previous else 0.0))
            previous = parent
        self.ends = torch.tensor(sums, dtype=torch.float64, device=features.device)

    def draw(
        self, above: Int[Tensor, " n_above"], *, generator: torch.Generator
    ) -> tuple[Int[Tensor, " n_events"], Int[Tensor, " n_events"]]:
        """Returns (events, children): child children[e] fired with the event events[e] above.

        Independent children are drawn over all cells event x child of one group at its highest
        probability and then thinned, as in `IndependentFiring`; of exclusive ones, at most one by
        bisection of their cumulative probabilities.

        Args:
            above: place, in the level above, of each feature that fired.
        """
        events, children = [], []
        for group in self.groups:
            count = group.count[above]
            ends = count.cumsum(0)
            cells = bernoulli_indices(int(ends[-1]), group.highest, generator=generator)
            event = torch.searchsorted(ends, cells, right=True)
            offset = cells - (ends - count)[event]
            child = group.children[group.first[above[event]] + offset]
            keep = uniforms(len(cells), generator=generator) * group.highest < self.probs[child]
            events.append(event[keep])
            children.append(child[keep])
        if self.n_steps:
            event = (self.count[above] > 0).nonzero()[:, 0]
            low = self.first[above[event]]
            stop = low + self.count[above[event]]
            total = self.ends[stop - 1].clamp(min=1)  # above 1 only by rounding
            uniform = uniforms(len(event), generator=generator) * total
            high = stop
            for _ in range(self.n_steps):  # the first child with ends > uniform, or stop
                middle = (low + high) // 2
                beyond = (low < high) & (self.ends[middle.clamp(max=len(self.ends) - 1)] <= uniform)
                low, high = torch.where(beyond, middle + 1, low), torch.where(beyond, high, middle)
            fired = low < stop
            events.append(event[fired])
            children.append(low[fired])
        none = above.new_empty(0)
        return torch.cat([none, *events]), torch.cat([none, *children])


def _comes_before(parent: object, i: int) -> bool:
    return isinstance(parent, Integral) and -1 <= int(parent) < i
