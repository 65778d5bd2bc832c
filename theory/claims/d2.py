"""D2: which weights refit atoms best from noisy rows, supports known."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from toymodels import strategies as tms
from toymodels import stream


@dataclass(frozen=True)
class Refit:
    """Rows M B + noise of variance 1/e_i; the mixtures M are known, the atoms B are wanted."""

    mixing: tuple[tuple[int, ...], ...]
    energies: tuple[float, ...]
    seed: int

    def matrix(self) -> Float[Tensor, "n m"]:
        return torch.tensor(self.mixing, dtype=torch.float64)

    def energy_weights(self) -> Float[Tensor, " n"]:
        return torch.tensor(self.energies, dtype=torch.float64)

    def estimator(self, weights: Float[Tensor, " n"]) -> Float[Tensor, "m n"]:
        """Returns (M^T W M)^-1 M^T W, which takes noisy rows to atoms."""
        root = weights.sqrt()
        return torch.linalg.pinv(root[:, None] * self.matrix()) * root

    def variance(self, estimator: Float[Tensor, "m n"]) -> float:
        """Returns the variance of all atoms, summed, in units of sigma^2 d / N."""
        return float((estimator.square() / self.energy_weights()).sum())


@st.composite
def refits(draw: Any) -> Refit:
    """Up to four atoms in up to eight mixtures with small integer weights."""
    m = draw(st.integers(1, 4))
    n = draw(st.integers(m, 8))
    row = st.lists(st.integers(0, 3), min_size=m, max_size=m).map(tuple)
    alone = [tuple(int(i == j) for i in range(m)) for j in range(m)]
    # Atoms that appear alone make M injective; some of them are then mixed with others.
    mixing = alone + draw(st.lists(row, min_size=n - m, max_size=n - m))
    for j in range(1, m):
        mixed = tuple(a + b for a, b in zip(mixing[j], mixing[j - 1], strict=True))
        mixing[j] = mixed if draw(st.booleans()) else mixing[j]
    energies = draw(st.lists(st.floats(0.1, 10), min_size=n, max_size=n))
    return Refit(tuple(mixing), tuple(energies), draw(tms.seeds()))


def compare(instance: Refit) -> Comparisons:
    M, e = instance.matrix(), instance.energy_weights()
    best = instance.estimator(e)
    least = instance.variance(best)
    information = torch.linalg.inv(M.T @ (e[:, None] * M)).trace()
    identity = torch.eye(M.shape[1], dtype=M.dtype)
    generator = stream(instance.seed, "other estimators")
    random = torch.rand(len(e), generator=generator, dtype=M.dtype) + 0.1
    noise = torch.randn(M.T.shape, generator=generator, dtype=M.dtype)
    # A + R (I - M A) runs through all linear unbiased estimators as R varies.
    other = best + 0.1 * noise @ (torch.eye(len(e), dtype=M.dtype) - M @ best)
    rivals = {"uniform": torch.ones_like(e), "root": e.sqrt(), "square": e**2, "random": random}
    return (
        equal("bias of the energy-weighted refit", float((best @ M - identity).abs().max()), 0.0),
        equal("its variance", least, float(information), scale=least),
        equal("bias of a rival", float((other @ M - identity).abs().max()), 0.0),
        at_most("variance, against that rival", least, instance.variance(other), scale=least),
        *(
            at_most(
                f"variance, against {name} weights",
                least,
                instance.variance(instance.estimator(weights)),
                scale=least,
            )
            for name, weights in rivals.items()
        ),
    )


def another_power(power: float, instance: Refit) -> Comparisons:
    e = instance.energy_weights()
    claimed = instance.variance(instance.estimator(e**power))
    least = instance.variance(instance.estimator(e))
    return (at_most("variance of the claimed best weights", claimed, least, scale=least),)


def unweighted_is_close(instance: Refit) -> Comparisons:
    e = instance.energy_weights()
    unweighted = instance.variance(instance.estimator(torch.ones_like(e)))
    if len(set(instance.energies)) == 1:
        return VOID
    least = instance.variance(instance.estimator(e))
    label = "variance unweighted, against twice the least"
    return (at_most(label, unweighted, 2 * least, scale=least),)


CLAIM = Claim(
    key="D2",
    statement="With supports known, energy weights refit atoms best\n"
    "If e_i > 0 and the rows are M B plus independent noise of variance sigma^2 / (N e_i) in each "
    "coordinate, then among all linear unbiased estimates of B the least total variance is that of "
    "least squares with weights e_i: sigma^2 d / N tr (M^T E M)^-1.",
    source="Gauss-Markov (Aitken 1935)",
    proof="Any unbiased A is A_e + Z with Z M = 0, and then Z E^-1 A_e^T = 0",
    status="proved",
    kind="exact",
    paper_label="eq:blue",
    strategy=refits,
    compare=compare,
    mutants=(
        Mutant("unweighted-is-best", "Uniform weights are best", partial(another_power, 0.0)),
        Mutant("root-is-best", "The roots of the energies are best", partial(another_power, 0.5)),
        Mutant(
            "unweighted-is-close",
            "Uniform weights cost at most a factor of two",
            unweighted_is_close,
        ),
    ),
)
