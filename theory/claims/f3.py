"""F3: what a negative (or any inactive) pre-activation adds to a one-shot code."""

from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from theory.claims._codes import SparseCode, sparse_codes, two_of_three


def pre_acts(instance: SparseCode) -> Float[Tensor, " n_features"]:
    """Returns h = D x, those of a tied encoder."""
    return (instance.x() @ instance.rows.vectors.T)[0]


def changes(
    instance: SparseCode, chosen: list[int], added: list[int]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Returns how adding each latent of `added`, at its own h, to those chosen changes |error|^2.

    And the correlations of these latents with the residual.
    """
    rows, h = instance.rows.vectors, pre_acts(instance)
    residual = instance.x()[0] - h[chosen] @ rows[chosen]
    more = residual - h[added][:, None] * rows[added]
    return more.square().sum(1) - residual.square().sum(), rows[added] @ residual


def compare(instance: SparseCode) -> Comparisons:
    inactive = instance.inactive()
    if not inactive:
        return VOID
    mu, k = instance.rows.coherence(), instance.k
    total = sum(instance.magnitudes)
    h = pre_acts(instance)[inactive]
    change, correlation = changes(instance, list(instance.active), inactive)
    limit, scale = (k - 1) * mu**2 * total, total**2
    formula = h.square() - 2 * h * correlation
    helps = change < -1e-9 * scale
    results = [
        equal("change, against h^2 - 2 h <d, r>", float((change - formula).abs().max()), 0.0,
              scale=scale),
        at_most("|<d, r>|, against (k-1) mu^2 |a|_1", float(correlation.abs().max()), limit,
                scale=total),
        at_most("largest gain", float((-change).max()), limit**2, scale=scale),
        at_most("|h| of a latent that helps", float((helps * h.abs()).max()), 2 * limit,
                scale=total),
    ]  # fmt: skip
    if k == 1:
        hurts = float((change - h.square()).abs().max())
        results.append(equal("k = 1: change, against h^2", hurts, 0.0, scale=scale))
    return tuple(results)


def whatever_topk_selects(instance: SparseCode) -> Comparisons:
    mu, k, total = instance.rows.coherence(), instance.k, sum(instance.magnitudes)
    chosen = pre_acts(instance).topk(k).indices.tolist()
    others = [j for j in range(instance.rows.n_features) if j not in chosen]
    if not others:
        return VOID
    gain = float((-changes(instance, chosen, others)[0]).max())
    limit = (k - 1) * mu**2 * total
    return (at_most("largest gain", gain, limit**2, scale=instance.energy()),)


def never_helps(instance: SparseCode) -> Comparisons:
    """Negative pre-activations only."""
    negative = [j for j in instance.inactive() if float(pre_acts(instance)[j]) < 0]
    if not negative:
        return VOID
    gain = float((-changes(instance, list(instance.active), negative)[0]).max())
    return (at_most("largest gain of a negative latent", gain, 0.0, scale=instance.energy()),)


def second_order(instance: SparseCode) -> Comparisons:
    """|<d, r>| <= mu^2 |a|_1, without the number of features."""
    inactive = instance.inactive()
    if not inactive:
        return VOID
    _, correlation = changes(instance, list(instance.active), inactive)
    total = sum(instance.magnitudes)
    limit = instance.rows.coherence() ** 2 * total
    label = "|<d, r>|, against mu^2 |a|_1"
    return (at_most(label, float(correlation.abs().max()), limit, scale=total),)


CLAIM = Claim(
    key="F3",
    statement="Inactive pre-activations of a one-shot code\n"
    "The code is h_S = (D x)_S on the true support S of a > 0. Adding an inactive latent j at its "
    "own h_j changes the squared error by h_j^2 - 2 h_j <d_j, r>, |<d_j, r>| <= (k-1) mu^2 |a|_1. "
    "For k = 1 it always hurts, by h_j^2. It can help only if |h_j| <= 2 (k-1) mu^2 |a|_1, by at "
    "most (k-1)^2 mu^4 |a|_1^2: fourth order in coherence.",
    source="new",
    proof="r = -((G_S - I) a) D_S, and |(G_S - I) a|_i <= mu (|a|_1 - a_i)",
    status="proved",
    kind="exact",
    paper_label="eq:one-shot-negatives",
    strategy=sparse_codes,
    compare=compare,
    mutants=(
        Mutant(
            "whatever-topk-selects",
            "The largest gain is the same if TopK selects another support than the true one",
            whatever_topk_selects,
            two_of_three,
        ),
        Mutant("never-helps", "A negative pre-activation never lowers the error", never_helps),
        Mutant(
            "second-order",
            "An inactive latent's correlation with the residual is at most mu^2 |a|_1",
            second_order,
        ),
    ),
)
