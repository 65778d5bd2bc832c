"""H1: is every minimiser of the nested-dropout loss a minimiser of the full-prefix loss?"""

import math
from functools import partial

from theory.claims._claim import Claim, Comparisons, Mutant, at_most
from theory.claims._nested import Nested, minimisers, solutions, worlds


def compare(world: Nested) -> Comparisons:
    worst = max(s.full for s in minimisers(world))
    least = min(s.full for s in solutions(world))
    label = "full-prefix loss of a nested minimiser, against the least"
    return (at_most(label, worst, least, scale=math.fsum(world.energies)),)


def first_prefix(world: Nested) -> Comparisons:
    """The loss of the first prefix alone: what the first latent leaves."""
    total, every = math.fsum(world.energies), solutions(world)
    worst = max(total - s.kept[0] for s in minimisers(world))
    least = min(total - s.kept[0] for s in every)
    label = "first-prefix loss of a nested minimiser, against the least"
    return (at_most(label, worst, least, scale=total),)


CLAIM = Claim(
    key="H1",
    statement="Every minimiser of the nested-dropout loss minimises the full-prefix loss\n"
    "Over unit latents and sparse non-negative codes of which the prefix l is kept with "
    "probability p_l > 0. Refuted for one-sparse worlds of distinct features and as many latents "
    "as features, where the full-prefix loss can be 0: merging two features keeps more in the "
    "short prefixes.",
    source="Wang et al. 2025, arXiv 2512.02194, Lemma 3.1",
    proof="Two features of energy 1 and cosine c: one each costs p_1 in all and 0 in full, both in "
    "the first latent cost 1 - c twice; so merging is the only minimiser where p_1 > 1 - c",
    status="refuted",
    kind="exact",
    paper_label="eq:nested-merging",
    strategy=worlds,
    compare=compare,
    mutants=(
        Mutant(
            "uniform-prefixes",
            "It holds if all prefixes are equally probable and there is a latent for each feature",
            compare,
            partial(worlds, uniform=True),
        ),
        Mutant(
            "first-prefix",
            "Every minimiser of the nested-dropout loss minimises the first prefix's loss",
            first_prefix,
        ),
    ),
)
