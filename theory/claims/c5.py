"""C5: sparsity prefers composites, so an optimal SAE need not be atomic."""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from theory.claims._codes import any_rows
from toymodels import Dictionary


@dataclass(frozen=True)
class Group:
    """Features that fire together, in fixed ratios, and one more that fires alone or with them.

    ratios: rho of the group's features.   size: alpha, the group's common factor.
    prob: q of the group's event.   other_prob, other_size: of the one other feature, independent.
    price: lambda, what one active latent costs.
    """

    group: Dictionary
    ratios: tuple[float, ...]
    size: float
    prob: float
    other_prob: float
    other_size: float
    price: float

    def event(self) -> Float[Tensor, " d_in"]:
        """Returns what the group adds to x when it fires."""
        return self.size * torch.tensor(self.ratios, dtype=torch.float64) @ self.group.vectors


@st.composite
def groups(draw: Any) -> Group:
    """Up to 5 features of any dictionary; ratios within a factor of 100."""
    rows = draw(any_rows()).vectors
    s = draw(st.integers(1, min(5, len(rows))))
    ratio = st.sampled_from([1.0, 0.1, 2.0]) | st.floats(0.05, 5)
    prob = st.sampled_from([0.5, 0.1]) | st.floats(0.01, 0.9)
    size = st.sampled_from([1.0, 2.0, 3.0]) | st.floats(0.1, 4)
    price = st.sampled_from([1.0, 0.1]) | st.floats(0.001, 4)
    return Group(
        Dictionary(rows[:s]),
        tuple(draw(st.lists(ratio, min_size=s, max_size=s))),
        *(draw(size), draw(prob), draw(prob), draw(size), draw(price)),
    )


@dataclass(frozen=True)
class Costs:
    """Means over all events of squared error, active latents and |z|_1."""

    error: float
    l0: float
    l1: float


def select_costs(instance: Group, *, composite: bool, kept: bool, bias: bool = False) -> Costs:
    """Returns the costs of the select code, by enumerating the four events.

    The group is coded by its features, or by one latent along what it adds; the other feature,
    orthogonal to the group, by its own latent if `kept`, and otherwise dropped, with its mean in
    the decoder's bias or not.
    """
    q, p, b = instance.prob, instance.other_prob, instance.other_size
    ratios = torch.tensor(instance.ratios, dtype=torch.float64)
    parts = instance.event()[None] if composite else ratios[:, None] * instance.group.vectors
    parts = parts if composite else instance.size * parts
    latents = parts.norm(dim=1)
    costs = torch.zeros(3, dtype=torch.float64)
    for group_fires, other_fires in itertools.product((0.0, 1.0), repeat=2):
        chance = (q if group_fires else 1 - q) * (p if other_fires else 1 - p)
        along = group_fires * (parts.sum(0) - instance.event())
        coded = b * other_fires if kept else (p * b if bias else 0.0)
        error = float(along.square().sum()) + (b * other_fires - coded) ** 2
        z = torch.cat([group_fires * latents, latents.new_tensor([coded * kept])])
        costs += chance * torch.stack([latents.new_tensor(error), (z > 0).double().sum(), z.sum()])
    return Costs(*costs.tolist())


def compare(instance: Group) -> Comparisons:
    event, q, price = instance.event(), instance.prob, instance.price
    if float(event.norm()) < 1e-6 * instance.size * max(instance.ratios):
        return VOID  # the features cancel: nothing to point a composite at
    s, total = len(instance.ratios), sum(instance.ratios)
    p, energy = instance.other_prob, instance.other_prob * instance.other_size**2
    variance = energy - (p * instance.other_size) ** 2
    atoms = select_costs(instance, composite=False, kept=True)
    added = select_costs(instance, composite=True, kept=True)
    swapped = select_costs(instance, composite=True, kept=False)
    centred = select_costs(instance, composite=True, kept=False, bias=True)
    size = instance.size * total
    saving = q * (size - float(event.norm()))
    # Swapping keeps the width: the composite takes the place of the other feature.
    gain = atoms.error + price * atoms.l0 - swapped.error - price * swapped.l0
    gain_centred = atoms.error + price * atoms.l0 - centred.error - price * centred.l0
    rate = price * (p + (s - 1) * q)
    scale = energy + rate + size**2
    return (
        equal("error with the composite added", added.error, atoms.error, scale=scale),
        equal("active latents saved", atoms.l0 - added.l0, (s - 1) * q, scale=s),
        equal("L1 saved", atoms.l1 - added.l1, saving, scale=size),
        at_most("0, against the L1 saved", 0.0, saving, scale=size),
        equal("gain of the swap, without a bias", gain, rate - energy, scale=scale),
        equal("gain of the swap, with a bias", gain_centred, rate - variance, scale=scale),
    )


def optimal_cost(instance: Group, latents: Float[Tensor, "m d"]) -> float:
    """Returns E min over codes of error + price * l0, for orthonormal features, exactly."""
    s = len(instance.ratios)
    group = torch.zeros(s + 1, dtype=torch.float64)
    group[:s] = instance.size * torch.tensor(instance.ratios, dtype=torch.float64)
    cost = 0.0
    for group_fires, other_fires in itertools.product((0.0, 1.0), repeat=2):
        q, p = instance.prob, instance.other_prob
        chance = (q if group_fires else 1 - q) * (p if other_fires else 1 - p)
        x = group_fires * group
        x[s] = other_fires * instance.other_size
        options = [float(x.square().sum())]
        for k in range(1, len(latents) + 1):
            for chosen in itertools.combinations(range(len(latents)), k):
                basis = torch.linalg.qr(latents[list(chosen)].T).Q
                left = float((x - basis @ (basis.T @ x)).square().sum())
                options.append(left + instance.price * k)
        cost += chance * min(options)
    return cost


def optimal_codes_too(instance: Group) -> Comparisons:
    """One feature per latent, in the basis of the features, the other feature last."""
    s = len(instance.ratios)
    energy = instance.other_prob * instance.other_size**2
    rate = instance.price * (instance.other_prob + (s - 1) * instance.prob)
    if s < 2 or energy >= rate:
        return VOID
    atoms = torch.eye(s + 1, dtype=torch.float64)
    composite = torch.zeros(1, s + 1, dtype=torch.float64)
    composite[0, :s] = torch.tensor(instance.ratios, dtype=torch.float64)
    composite = composite / composite.norm()
    swapped = torch.cat([atoms[:s], composite])
    # The features of the group stay; the composite takes the other feature's place.
    with_composite, without = optimal_cost(instance, swapped), optimal_cost(instance, atoms)
    label = "cost with the composite, against without, best codes"
    return (at_most(label, with_composite, without, scale=energy + rate),)


def pythagoras(instance: Group) -> Comparisons:
    ratios = torch.tensor(instance.ratios, dtype=torch.float64)
    claimed = instance.prob * instance.size * float(ratios.sum() - ratios.norm())
    atoms = select_costs(instance, composite=False, kept=True)
    added = select_costs(instance, composite=True, kept=True)
    return (equal("L1 saved", atoms.l1 - added.l1, claimed),)


def energy_with_a_bias(instance: Group) -> Comparisons:
    s, price, p = len(instance.ratios), instance.price, instance.other_prob
    atoms = select_costs(instance, composite=False, kept=True)
    centred = select_costs(instance, composite=True, kept=False, bias=True)
    gain = atoms.error + price * atoms.l0 - centred.error - price * centred.l0
    claimed = price * (p + (s - 1) * instance.prob) - p * instance.other_size**2
    return (equal("gain of the swap, with a bias", gain, claimed),)


CLAIM = Claim(
    key="C5",
    statement="Sparsity prefers composites\n"
    "If s features fire together in fixed ratios rho, with probability q and common factor alpha, "
    "the unit latent along sum rho_i d_i keeps the error, and lowers E l0 by (s-1) q and E |z|_1 "
    "by q E[alpha] (|rho|_1 - |rho D|) >= 0. In place of the latent of another, orthogonal feature "
    "it lowers E|x - x_hat|^2 + lambda E l0 if and only if e < lambda (p + (s-1) q), with a "
    "decoder bias v in place of e, for the code in which every active kept feature counts.",
    source="new",
    proof="Count; triangle inequality",
    status="proved",
    kind="exact",
    paper_label="eq:composite",
    strategy=groups,
    compare=compare,
    mutants=(
        Mutant(
            "optimal-codes-too",
            "The condition is sufficient where both codes are optimal, free to leave a weak "
            "feature uncoded",
            optimal_codes_too,
        ),
        Mutant("pythagoras", "The L1 saved is |rho|_1 - |rho|_2 for every dictionary", pythagoras),
        Mutant(
            "energy-with-a-bias",
            "With a decoder bias, too, dropping a feature costs its energy",
            energy_with_a_bias,
        ),
    ),
)
