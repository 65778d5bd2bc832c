"""H2: does an idealised SAE leave a meta-SAE nothing to find, whatever the rows' weights?"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import Claim, Comparisons, Mutant, at_most
from theory.compressibility import copy_baseline

WEIGHTINGS = ("uniform", "frequency", "energy")


@dataclass(frozen=True)
class Idealised:
    """An SAE whose decoder rows are n orthonormal features, and the width m of a meta-SAE.

    firing_probs: p_i.   magnitudes: b_i, constant.   n_latents: m < n atoms.
    """

    firing_probs: tuple[float, ...]
    magnitudes: tuple[float, ...]
    n_latents: int

    def rows(self) -> Float[Tensor, "n n"]:
        return torch.eye(len(self.firing_probs), dtype=torch.float64)

    def weights(self, weighting: str) -> Float[Tensor, " n"]:
        """Returns 1, p_i or p_i b_i^2 for each row."""
        p, b = (torch.tensor(t, dtype=torch.float64) for t in (self.firing_probs, self.magnitudes))
        return {"uniform": torch.ones_like(p), "frequency": p, "energy": p * b**2}[weighting]


@st.composite
def idealised(draw: Any) -> Idealised:
    """Up to 8 features, common or rare, and every smaller width."""
    n = draw(st.integers(2, 8))
    prob = st.sampled_from([0.5, 0.25, 0.1]) | st.floats(-3, -0.1).map(lambda t: 10.0**t)
    magnitude = st.sampled_from([1.0, 2.0]) | st.floats(0.2, 3)
    probs = tuple(draw(st.lists(prob, min_size=n, max_size=n)))
    scales = tuple(draw(st.lists(magnitude, min_size=n, max_size=n)))
    return Idealised(probs, scales, draw(st.integers(1, n - 1)))


def nothing_to_find(*weightings: str) -> Callable[[Idealised], Comparisons]:
    """Returns the comparison of what copied rows explain with their share m/n of all rows."""

    def compare(instance: Idealised) -> Comparisons:
        rows, m = instance.rows(), instance.n_latents
        return tuple(
            at_most(
                f"FVE under {weighting} weights, against m/n",
                copy_baseline(rows, m, 1, weights=instance.weights(weighting)),
                m / len(rows),
            )
            for weighting in weightings
        )

    return compare


CLAIM = Claim(
    key="H2",
    statement="An idealised SAE leaves a meta-SAE nothing to find\n"
    "Its rows are orthonormal features; nothing to find means that the best meta-SAE of m atoms "
    "explains no more than their share m/n of the rows. True of uniform weights; refuted for rows "
    "weighted by frequency or energy: rare features are thrown away cheaply.",
    source="Nanda's reply to Bussmann et al. 2024, Showing SAE latents are not atomic",
    proof="Copying the m heaviest rows explains sum_{i<=m} w_(i) / sum w, which exceeds m/n unless "
    "all weights are equal",
    status="refuted",
    kind="exact",
    paper_label="eq:nothing-to-find",
    strategy=idealised,
    compare=nothing_to_find(*WEIGHTINGS),
    mutants=(
        Mutant("by-frequency", "It holds under frequency weights", nothing_to_find("frequency")),
        Mutant("by-energy", "It holds under energy weights", nothing_to_find("energy")),
    ),
)
