"""Independent blocks of features, each with an explicit law of which of its features fire."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, combinations
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from toymodels.checks import check, check_size
from toymodels.codes import Codes
from toymodels.distribution import OneMagnitude
from toymodels.events import Events
from toymodels.magnitudes import Magnitude, Uniform
from toymodels.pattern_draw import PatternDraw

TOLERANCE = 1e-6  # probabilities rounded to float32 may sum to a little more than 1


@dataclass(frozen=True, eq=False)
class Blocks(OneMagnitude):
    """In each block one pattern occurs: a set of its features that fire, the others being silent.

    Pattern k has probability w_k; with the rest, 1 - (sum of w over the patterns of a block), no
    feature of the block fires. Blocks are independent. P(i fires) is the sum of w_k over the
    patterns that hold i, P(i and j fire) over those that hold both if i and j share a block, and
    the product of their probabilities if not. Moments: see `OneMagnitude`. Given that a feature
    fires, its block keeps the patterns that hold it, in proportion, and the others are as before.

    Extremes: blocks of one feature are `Independent`; one block whose patterns are single features
    is `Exclusive`. Any law of few features is one block. A sample costs as much as it has events.

    Args:
        block_of: [n_features], the block of each feature, a number in [0, n_features).
        patterns: each row is a pattern: the features that fire, at least one, all of one block.
            Its values are ignored. A feature in no pattern never fires.
        pattern_prob: w, one for each pattern, or one for all; in each block they sum to at most 1
            (or, rounded to float32, 1e-6 more, and are then divided by their sum).
        magnitude: law of b, drawn independently for each feature that fires.
    Raises:
        ValueError: a pattern that is empty, occurs twice, or holds features of two blocks;
            probabilities of a block that sum to more than 1.
    Example:
        >>> Blocks.from_laws({(0,): 0.25, (0, 1): 0.5}, {(2,): 0.125}).expected_l0()
        1.375
    """

    block_of: Int[Tensor, " n_features"]
    patterns: Codes
    pattern_prob: float | Tensor
    magnitude: Magnitude = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        where, n = "Blocks", self.n_features
        check_size(where, number_of_features=n)
        codes, blocks = self.patterns, self.block_of
        check(
            codes.n_features == n, where, f"patterns of {n} features", n_features=codes.n_features
        )
        wrong = blocks[(blocks < 0) | (blocks >= n)].tolist()
        check(not wrong, where, f"blocks in [0, {n}) (n_features)", block_of=wrong[:1])
        empty = (codes.offsets.diff() == 0).nonzero()[:, 0].tolist()
        todo = "leave the empty pattern out: it has the rest of the probability"
        check(not empty, where, "patterns of at least one feature", todo, pattern=empty[:1])
        rows = codes.rows()
        strays = rows[blocks[codes.indices] != self._block_of_pattern[rows]].tolist()
        if strays:
            features = codes.indices[rows == strays[0]].tolist()
            todo = "make these blocks one: features of different blocks fire independently"
            of = blocks[features].tolist()
            check(False, where, "patterns within one block", todo, features=features, blocks=of)
        _, inverse, times = _numbers(codes).unique(return_inverse=True, return_counts=True)
        again = (times[inverse] > 1).nonzero()[:, 0].tolist()
        which = codes.indices[rows == again[0]].tolist() if again else []
        check(not again, where, "each pattern once", features=which, patterns=again[:2])
        w = torch.as_tensor(self.pattern_prob, dtype=torch.float64)
        fits = w.ndim == 0 or tuple(w.shape) == (len(codes),)
        rule = f"pattern_prob a number, or one for each of the {len(codes)} patterns"
        check(fits, where, rule, pattern_prob_shape=tuple(w.shape))
        bad = w[~((w >= 0) & (w <= 1))].tolist()  # NaN is wrong too
        check(not bad, where, "probabilities in [0, 1]", pattern_prob=bad[0] if bad else None)
        sums = self._requested[1]
        if bool((sums > 1 + TOLERANCE).any()):
            block = int(sums.argmax())
            total = sums[block].item()
            rule = f"probabilities of the patterns of block {block} that sum to at most 1"
            todo = f"one pattern occurs at a time: divide each by {total:.9g} or more"
            check(False, where, rule, todo, sum_of_pattern_probs=total)

    @classmethod
    def from_laws(
        cls, *laws: Mapping[tuple[int, ...], float], magnitude: Magnitude | None = None
    ) -> "Blocks":
        """Returns one block for each law, a mapping from patterns to their probabilities.

        A block has the features that its law names: one that never fires is named with
        probability 0. The empty pattern () may be given: the law then has to sum to 1.

        Args:
            laws: at least one; together they name each feature from 0 on, each in one law only.
            magnitude: see `Blocks`.
        Example:
            >>> Blocks.from_laws({(0,): 0.5, (0, 1): 0.25, (): 0.25}, {(2,): 0.125}).block_of
            tensor([0, 0, 1])
        """
        where = "Blocks.from_laws"
        block_of: dict[int, int] = {}
        for block, law in enumerate(laws):
            for i in set(chain.from_iterable(law)):
                both = (block_of.get(i), block)
                check(i not in block_of, where, "a feature in one law only", feature=i, laws=both)
                block_of[i] = block
            total = math.fsum(law.values())
            rule = "a law that gives the empty pattern () to sum to 1"
            todo = "or leave () out: it has the rest of the probability"
            whole = () not in law or abs(total - 1) <= TOLERANCE
            check(whole, where, rule, todo, law=block, sum_of_pattern_probs=total)
        n = len(block_of)
        missing = sorted(set(range(n)) - set(block_of))[:5]
        rule = "laws that together name the features 0, 1, 2, ..."
        todo = "name a feature that never fires with probability 0"
        check(n > 0 and not missing, where, rule, todo, n_named=n, missing=missing)
        named = [(pattern, w) for law in laws for pattern, w in law.items() if pattern]
        for pattern, _ in named:
            check(
                len(set(pattern)) == len(pattern),
                where,
                "a feature once in a pattern",
                pattern=pattern,
            )
        features = torch.tensor([i for pattern, _ in named for i in pattern])
        sizes = torch.tensor([len(pattern) for pattern, _ in named])
        rows = torch.arange(len(named)).repeat_interleave(sizes)
        ones = torch.ones(len(rows), dtype=torch.float64)
        return cls(
            torch.tensor([block_of[i] for i in range(n)]),
            Codes.from_events(rows, features, ones, n_rows=len(named), n_features=n),
            torch.tensor([w for _, w in named], dtype=torch.float64),
            magnitude or Uniform(),
        )

    @property
    def n_features(self) -> int:
        return len(self.block_of)

    @cached_property
    def _block_of_pattern(self) -> Int[Tensor, " n_patterns"]:
        return self.block_of[self.patterns.indices[self.patterns.offsets[:-1]]]

    @cached_property
    def _requested(self) -> tuple[Float[Tensor, " n_patterns"], Float[Tensor, " n_blocks"]]:
        """The probabilities as given, and their sum in each block."""
        w = torch.as_tensor(self.pattern_prob, dtype=torch.float64).expand(len(self.patterns))
        zero = torch.zeros(int(self.block_of.max()) + 1, dtype=torch.float64)
        return w, zero.index_add_(0, self._block_of_pattern, w)

    @cached_property
    def _probs(self) -> Float[Tensor, " n_patterns"]:
        w, sums = self._requested
        return w / sums.clamp(min=1)[self._block_of_pattern]

    def firing_probs(self) -> Float[Tensor, " n_features"]:
        zero = torch.zeros(self.n_features, dtype=torch.float64)
        w = self._probs[self.patterns.rows()]
        return zero.index_add_(0, self.patterns.indices, w).clamp(max=1)  # above only by rounding

    def _cofiring_times(self, v: Float[Tensor, "n_features n"]) -> Float[Tensor, "n_features n"]:
        patterns, features = self.patterns.rows(), self.patterns.indices
        p, w = self.firing_probs()[:, None], self._probs[:, None]
        held = v.new_zeros(len(w), v.shape[1]).index_add_(0, patterns, v[features])
        within = torch.zeros_like(v).index_add_(0, features, (w * held)[patterns])
        n_blocks = len(self._requested[1])
        own = v.new_zeros(n_blocks, v.shape[1]).index_add_(0, self.block_of, p * v)
        return within + p * (own.sum(0) - own[self.block_of])

    def support_entropy(self) -> float:
        """Returns the entropy of the support in bits per sample; 0 if all samples have the same."""
        w, some = self._probs, self._requested[1].clamp(max=1)
        # Of a silent block -(1 - s) log(1 - s), by log1p: at s = 1e-17 it is s, not 0.
        silent = -torch.special.xlog1py(1 - some, -some)
        return float(torch.special.entr(w).sum() + silent.sum()) / math.log(2)

    def _given(self, feature: int) -> "Blocks":
        w = self._probs
        holds = torch.zeros(len(w), dtype=torch.bool)
        holds[self.patterns.rows()[self.patterns.indices == feature]] = True
        share = torch.where(holds, w / w[holds].sum(), 0.0)
        mine = self._block_of_pattern == self.block_of[feature]
        return replace(self, pattern_prob=torch.where(mine, share, w))

    @cached_property
    def _draws(self) -> dict[str, PatternDraw]:
        return {}

    def _sample(self, n: int, *, generator: torch.Generator) -> Events:
        device = generator.device
        if str(device) not in self._draws:
            tensors = (self._probs, self._block_of_pattern, self.patterns.offsets)
            self._draws[str(device)] = PatternDraw(
                *(t.to(device) for t in (*tensors, self.patterns.indices))
            )
        rows, features = self._draws[str(device)](n, generator=generator)
        return Events(rows, features, self.magnitude.sample(len(rows), generator=generator))

    @classmethod
    def example(cls) -> Any:
        """Eight blocks of three: a feature, two of its details, and seldom both of these."""
        laws = [
            {(i,): 0.05, (i, i + 1): 0.1, (i, i + 2): 0.04, (i, i + 1, i + 2): 0.01}
            for i in range(0, 24, 3)
        ]
        return cls.from_laws(*laws)

    @classmethod
    def strategy(cls) -> Any:
        from hypothesis import strategies as st

        from toymodels.strategies import magnitudes, probs

        @st.composite
        def build(draw: Any) -> Blocks:
            sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
            features = draw(st.permutations(range(sum(sizes))))
            laws: list[dict[tuple[int, ...], float]] = []
            for size in sizes:
                mine, features = features[:size], features[size:]
                subsets = [s for k in range(size) for s in combinations(mine, k + 1)]
                share = st.sampled_from([1.0, 0.0, 2.0, 1e-7])
                shares = draw(st.tuples(*[share] * len(subsets)))
                total = draw(probs())
                # Far above the least float64, where conditional probabilities would be rounded.
                total = total / max(1.0, sum(shares)) if total > 1e-30 else 0.0
                law = {s: total * x for s, x in zip(subsets, shares, strict=True)}
                if draw(st.booleans()):
                    law[()] = 1 - sum(law.values())
                laws.append(law)
            return cls.from_laws(*laws, magnitude=draw(magnitudes()))

        return build()


def _numbers(patterns: Codes) -> Int[Tensor, " n_patterns"]:
    """Returns a number for each pattern, the same for two only if they are equal."""
    first, sizes = patterns.offsets[:-1], patterns.offsets.diff()
    longest = int(sizes.max()) if len(sizes) else 0
    number = torch.zeros_like(sizes)  # of the pattern up to a place, among those of its size
    for place in range(longest):
        more = sizes > place
        feature = patterns.indices[first[more] + place]
        longer = (number[more] * (longest + 1) + sizes[more]) * patterns.n_features + feature
        number[more] = longer.unique(return_inverse=True)[1]
    return number * (longest + 1) + sizes
