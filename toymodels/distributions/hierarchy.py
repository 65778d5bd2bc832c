"""A hierarchy: a forest of features in which a child fires only if its parent fires."""

from dataclasses import dataclass, field, replace
from itertools import accumulate
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check, check_size
from toymodels.events import Events
from toymodels.forest import TOLERANCE, ForestLaw, comes_before
from toymodels.magnitudes import Constant, Magnitude, Uniform
from toymodels.product_law import per_feature_probs


@dataclass(frozen=True, eq=False)
class Hierarchy(ForestLaw):
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
            below = comes_before(parent, i) and parent >= 0
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

    def _cofiring_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        return replace(self, magnitude=Constant(1.0))._moment_times(v)

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

    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        levels = self._levels_on(generator.device)
        return self._descend(
            n,
            lambda depth, rows, above: levels[depth].draw(above, generator=generator),
            generator=generator,
        )

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
