"""D1: which weights a meta-SAE trained jointly with frozen codes gives to each row."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from theory.isotropic import isotropic_rows
from toymodels import Exclusive, Independent, RareProperty, RareRegime, ToyDistribution, stream
from toymodels import strategies as tms


@dataclass(frozen=True)
class Product:
    """A law of frozen codes, rows D, and the product M B of n_atoms atoms that stands for them."""

    distribution: ToyDistribution
    d_in: int
    n_atoms: int
    seed: int

    def errors(self) -> Float[Tensor, "n d_in"]:
        """Returns D - M B for isotropic D and B and weights M uniform in [0, 1]."""
        n, generator = self.distribution.n_features, stream(self.seed, "product")
        rows = isotropic_rows(n, self.d_in, generator=generator, dtype=torch.float64)
        atoms = isotropic_rows(self.n_atoms, self.d_in, generator=generator, dtype=torch.float64)
        return rows - torch.rand(n, self.n_atoms, generator=generator, dtype=torch.float64) @ atoms

    def loss(self, moment: Float[Tensor, "n n"]) -> float:
        """Returns E|z (D - M B)|^2 for codes of this second moment: tr[(D - M B)^T C (D - M B)]."""
        errors = self.errors()
        return float((moment * (errors @ errors.T)).sum())

    def meta_loss(self) -> float:
        """Returns sum_i e_i |d_i - m_i B|^2, the loss of an energy-weighted meta-SAE."""
        return float((self.distribution.code_energies() * self.errors().square().sum(1)).sum())


def products() -> st.SearchStrategy[Product]:
    """Independent, exclusive and all other laws that declare their code moment."""
    laws = st.one_of(Independent.strategy(), Exclusive.strategy(), declared_laws())
    return st.builds(Product, laws, st.integers(1, 4), st.integers(1, 4), tms.seeds())


def together() -> st.SearchStrategy[Product]:
    """Features that fire together, in one dimension, where errors cannot be orthogonal."""
    laws = st.one_of(RareRegime.strategy(), RareProperty.strategy())
    return st.builds(Product, laws, st.just(1), st.integers(1, 4), tms.seeds())


def declared_laws() -> st.SearchStrategy[ToyDistribution]:
    """Every distribution whose code moment has a closed form."""
    return tms.distributions().filter(_declares_its_moment)


def _declares_its_moment(distribution: ToyDistribution) -> bool:
    try:
        distribution.code_moment()
    except NotImplementedError:
        return False
    return True


def uncorrelated(distribution: ToyDistribution) -> bool:
    """Returns whether the codes are uncorrelated, to rounding."""
    covariance = distribution.code_covariance()
    beyond = (covariance - torch.diag(covariance.diagonal())).abs().max()
    return bool(beyond <= 1e-12 * distribution.code_energies().max())


def compare(instance: Product) -> Comparisons:
    law = instance.distribution
    moment, covariance = law.code_moment(), law.code_covariance()
    loss, centred = instance.loss(moment), instance.loss(covariance)
    meta = instance.meta_loss()
    root = law.code_energies().sqrt()
    fires = root > 0
    if not bool(fires.any()):
        return VOID
    normalised = (moment / torch.outer(root, root))[fires][:, fires]
    spectrum = torch.linalg.eigvalsh(normalised)
    scale = meta * len(spectrum)
    results = [
        at_most("product loss, from below", float(spectrum[0]) * meta, loss, scale=scale),
        at_most("product loss, from above", loss, float(spectrum[-1]) * meta, scale=scale),
        at_most("with a bias, against without", centred, loss, scale=scale),
    ]
    probs = law.firing_probs()
    rarest = (1 - float(probs.max())) * meta
    if uncorrelated(law):
        most = (1 + float(probs.sum())) * meta
        results += [
            at_most("uncorrelated: (1 - p_max) meta, against the loss", rarest, loss, scale=scale),
            at_most("uncorrelated: loss, against (1 + E l0) meta", loss, most, scale=scale),
            at_most("uncorrelated, bias: from below", rarest, centred, scale=scale),
            at_most("uncorrelated, bias: loss, against meta", centred, meta, scale=scale),
        ]
    if isinstance(law, Exclusive):
        results.append(equal("one at a time: loss, against meta", loss, meta, scale=scale))
    return tuple(results)


def equal_without_centring(instance: Product) -> Comparisons:
    meta = instance.meta_loss()
    loss = instance.loss(instance.distribution.code_moment())
    return (equal("product loss, against the meta loss", loss, meta, scale=meta),)


def any_law(instance: Product) -> Comparisons:
    law, meta = instance.distribution, instance.meta_loss()
    centred = instance.loss(law.code_covariance())
    return (at_most("loss with a bias, against meta", centred, meta, scale=meta),)


def uniform_weights(instance: Product) -> Comparisons:
    law = instance.distribution
    if not isinstance(law, Exclusive):
        return VOID
    mean = float(law.code_energies().mean())
    unweighted = mean * float(instance.errors().square().sum())
    loss = instance.loss(law.code_moment())
    return (equal("product loss, against uniform weights", loss, unweighted, scale=unweighted),)


CLAIM = Claim(
    key="D1",
    statement="Joint training weights each row by its energy\n"
    "For frozen codes z with second moment C and errors delta_i = d_i - m_i B, the product loss "
    "E|z(D - M B)|^2 = tr[(D - M B)^T C (D - M B)] lies between the extreme eigenvalues of C, "
    "scaled to unit diagonal, times the energy-weighted meta loss sum e_i |delta_i|^2. For "
    "uncorrelated codes the factors are 1 - p_max and 1 + E l0, with a decoder bias 1 - p_max "
    "and 1. They are 1 where one feature fires at a time.",
    source="new",
    proof="C = diag(v) + m^T m for uncorrelated codes; v_i/e_i >= 1 - p_i and m_i^2 <= p_i e_i "
    "(Cauchy-Schwarz); a bias removes m^T m",
    status="proved",
    kind="exact",
    paper_label="eq:product-loss",
    strategy=products,
    compare=compare,
    mutants=(
        Mutant(
            "equal-without-centring",
            "The product loss is the energy-weighted meta loss, with or without a bias",
            equal_without_centring,
        ),
        Mutant(
            "any-law",
            "With a bias the meta loss is enough for features that fire together, too",
            any_law,
            together,
        ),
        Mutant(
            "uniform-weights",
            "The product loss is a meta loss with uniform weights",
            uniform_weights,
        ),
    ),
)
