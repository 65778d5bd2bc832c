"""H7-condition: with a decoder bias and no penalty hedging has the sign of the covariance."""

import math
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from theory.claims._claim import VOID, Claim, Comparisons, Mutant, at_most, equal
from theory.claims._one_latent import Codes, losses, two_features
from theory.hedging import hedging
from theory.spectral import spectral_loss_bound

N_ANGLES = 64  # of competitors in each quadrant


def axis(matrix: Float[Tensor, "n n"]) -> Float[Tensor, " n"]:
    """Returns the principal axis, its sum not negative."""
    top = torch.linalg.eigh(matrix).eigenvectors[:, -1]
    return top if float(top.sum()) >= 0 else -top


def loss_along(law: Codes, row: Float[Tensor, " two"]) -> float:
    angle = torch.atan2(row[1], row[0])
    return float(losses(law, angle[None])[0])


def compare(law: Codes) -> Comparisons:
    scale, covariance, moment = law.scale, law.covariance(), law.moment()
    free, plain = replace(law, bias=True, penalty=0.0), replace(law, bias=False, penalty=0.0)
    top, raw = axis(covariance), axis(moment)
    product = float(covariance[0, 1])
    positive = torch.linspace(0, math.pi / 2, N_ANGLES, dtype=torch.float64)
    unbiased = replace(law, bias=False)
    gain = float((losses(unbiased, positive) - losses(unbiased, -positive)).max())
    every = losses(free, torch.linspace(0, 2 * math.pi, 4 * N_ANGLES, dtype=torch.float64))
    bound = spectral_loss_bound(covariance, 1)
    results = [
        at_most("bias: least loss, against any row", bound, float(every.min()), scale=scale),
        equal("bias: loss of the principal axis", loss_along(free, top), bound, scale=scale),
        equal("no bias: loss of the moment's axis", loss_along(plain, raw),
              spectral_loss_bound(moment, 1), scale=scale),
        at_most("no bias: 0, against the product of its row", 0.0, float(raw.prod())),
        at_most("no bias: a positive mixture, against the same negative", gain, 0.0, scale=scale),
    ]  # fmt: skip
    first = int(covariance.diagonal().argmax())
    variance, other = float(covariance[first, first]), float(covariance[1 - first, 1 - first])
    if abs(product) > 1e-3 * math.sqrt(variance * other):
        row = top if float(top[first]) > 0 else -top
        matching = torch.tensor([0 if i == first else -1 for i in range(2)])
        eye = torch.eye(2, dtype=torch.float64)
        degree = float(hedging(eye, row[None], matching, covariance).degrees[first])
        root = math.sqrt((variance - other) ** 2 + 4 * product**2)
        closed = 2 * variance / (variance - other + root)
        lean = float(row.prod()) * math.copysign(1.0, product)
        results += [
            at_most("bias: 0, against the lean towards the covariance", 0.0, lean),
            equal("bias: degree of hedging", degree, closed, scale=closed),
            at_most("bias: 1, against the degree", 1.0, degree),
        ]
    return tuple(results)


def without_a_bias(law: Codes) -> Comparisons:
    lean = float(axis(law.moment()).prod()) * float(law.covariance()[0, 1])
    return (at_most("0, against the lean without a bias", 0.0, lean, scale=law.scale),)


def three_features(law: Codes) -> Comparisons:
    covariance = law.covariance()
    top = axis(covariance)
    leans = torch.outer(top, top) * covariance
    return (at_most("0, against the least lean", 0.0, float(leans.min()), scale=law.scale),)


def only_towards(law: Codes) -> Comparisons:
    """The hedge of the unpenalised SAE, as if it were at most the regression on the feature."""
    covariance, top = law.covariance(), axis(law.covariance())
    first = int(covariance.diagonal().argmax())
    if abs(float(covariance[0, 1])) < 1e-3 * float(covariance[first, first]):
        return VOID
    ratio = abs(float(top[1 - first] / top[first]))
    full = abs(float(covariance[0, 1] / covariance[first, first]))
    return (at_most("mixing, against that of the full hedge", ratio, full),)


CLAIM = Claim(
    key="H7-condition",
    statement="Where hedging has the sign of the covariance\n"
    "Two orthonormal features of any bounded codes >= 0, one latent, no penalty. With a decoder "
    "bias every encoder's best row is the covariance's principal axis: it leans with the sign of "
    "the covariance C, if that is not 0, and the latent of the feature of larger variance v hedges "
    "to the degree 2 v / (v - u + sqrt((v - u)^2 + 4 C^2)) >= 1, u the other variance. Without a "
    "bias the best row is the second moment's axis, never negative, and at every penalty a "
    "positive mixture is at least as good as the same negative one.",
    source="new; phenomenon: Chanin et al. 2025, arXiv 2505.11756",
    proof="Outputs lie on a line: Ky Fan; a ReLU and a bias moved back along it attain the bound. "
    "(a_1 cos t + a_2 sin t - s)_+ >= (a_1 cos t - a_2 sin t - s)_+ for a_2 sin t >= 0",
    status="proved",
    kind="exact",
    paper_label="eq:hedging-sign",
    strategy=two_features,
    compare=compare,
    mutants=(
        Mutant("without-a-bias", "It holds without a decoder bias", without_a_bias),
        Mutant(
            "three-features",
            "It holds for each pair of three features",
            three_features,
            partial(two_features, n_features=3),
        ),
        Mutant("at-most-the-full-hedge", "The degree of hedging is at most 1", only_towards),
    ),
)
