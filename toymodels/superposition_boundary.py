"""Two features in one hidden dimension: the losses of the two patterns and where they cross."""

from toymodels.checks import check


def antipodal_loss(firing_prob: float, importance: float) -> float:
    """Returns p^2 (1 + I) / 6: the loss of W = (1, -1), b = 0, both features in superposition.

    x' = relu(+-(x_1 - x_2)) is exact unless both fire; then each errs by the smaller of the two,
    and E min^2 = 1/6.

    Args:
        firing_prob: p, in [0, 1], of two independent features with values uniform in [0, 1].
        importance: I > 0, of the second relative to the first.
    """
    _check("antipodal_loss", firing_prob, importance)
    return firing_prob**2 * (1 + importance) / 6


def dropped_loss(firing_prob: float, importance: float) -> float:
    """Returns min(1, I) (p / 3 - p^2 / 4): the loss of one feature with a dimension of its own.

    The less important one is answered by its mean: it costs its variance. Arguments as for
    `antipodal_loss`.
    """
    _check("dropped_loss", firing_prob, importance)
    return min(1.0, importance) * (firing_prob / 3 - firing_prob**2 / 4)


def superposition_boundary(importance: float) -> float:
    """Returns p*, below which the antipodal pattern costs less than dropping a feature.

    p* = 4 I / (2 + 5 I) for I <= 1 and 4 / (2 I + 5) for I >= 1: the same at I and 1 / I, largest
    (4/7) at I = 1, -> 0 where one feature matters far less.

    Exact for the two patterns. Networks that are free in W and b lower both losses a little, so
    that theirs cross elsewhere. Near I = 1 there is no sharp crossing.

    Args:
        importance: I > 0, of the second feature relative to the first.
    Source: the map of phases of Elhage et al. 2022, arXiv 2209.10652; the closed form is ours.
    """
    _check("superposition_boundary", 0.0, importance)
    i = min(importance, 1 / importance)
    return 4 * i / (2 + 5 * i)


def _check(where: str, firing_prob: float, importance: float) -> None:
    check(0 <= firing_prob <= 1, where, "0 <= firing_prob <= 1", firing_prob=firing_prob)
    ok = 0 < importance < float("inf")
    check(ok, where, "a finite importance > 0", importance=importance)
