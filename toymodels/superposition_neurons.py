"""Superposition in neurons: a hidden layer with a ReLU, which makes its axes matter."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from toymodels.checks import check, check_finite
from toymodels.distribution import ToyDistribution
from toymodels.superposition import checked_training
from toymodels.superposition_training import descend, law_of_instance


@dataclass(frozen=True, eq=False)
class Neurons:
    """Trained networks y' = ReLU(W_out ReLU(W_in x) + b), and how they got there.

    Instances are ordered law by law, as in `Superposition`.

    Args:
        W_in: [n_instances, n_neurons, n_features]; row m is what neuron m reads.
        W_out: [n_instances, n_features, n_neurons]; W_in transposed if trained tied.
        b: [n_instances, n_features].
        laws: the laws of the codes x, one for each group of instances.
        steps, losses: see `Superposition`.
        W_in_records, W_out_records: both matrices at those steps.
    """

    W_in: Float[Tensor, "n_instances n_neurons n_features"]
    W_out: Float[Tensor, "n_instances n_features n_neurons"]
    b: Float[Tensor, "n_instances n_features"]
    laws: tuple[ToyDistribution, ...]
    steps: Int[Tensor, " n_records"]
    losses: Float[Tensor, "n_records n_instances"]
    W_in_records: Float[Tensor, "n_records n_instances n_neurons n_features"]
    W_out_records: Float[Tensor, "n_records n_instances n_features n_neurons"]

    def law(self, i: int) -> ToyDistribution:
        """Returns the law that instance `i` was trained on."""
        return law_of_instance("Neurons", self.laws, i, len(self.W_in))

    def output(
        self, x: Float[Tensor, "batch n_features"]
    ) -> Float[Tensor, "n_instances batch n_features"]:
        """Returns y' of each instance for the same dense codes."""
        hidden = torch.einsum("bj,imj->ibm", x, self.W_in).relu()
        return (hidden @ self.W_out.mT + self.b[:, None]).relu()


def train_neurons(
    weights: Sequence[Tensor],
    laws: Sequence[ToyDistribution],
    *,
    importance: float | Tensor = 1.0,
    n_steps: int = 10_000,
    batch_size: int = 1024,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
    decay: float = 0.0,
    n_records: int = 20,
    generator: torch.Generator,
) -> Neurons:
    """Returns networks trained from b = 0 on E sum_j I_j (|x_j| - y'_j)^2 by AdamW.

    Codes x >= 0 are their own target |x|: an autoencoder with neurons. `Signed` codes ask for a
    computation. Instances and laws go together as in `train_superposition`.

    Args:
        weights: (W,) with W [n_instances, n_neurons, n_features] trains tied, W_out = W^T;
            (W_in, W_out), W_out [n_instances, n_features, n_neurons], trains both. Initial ones
            are made by `initial_weights`.
        laws, importance and the rest: see `train_superposition`.
    Raises:
        ValueError: sizes that do not fit, importance <= 0, training that diverges.
    Source: Elhage et al. 2022, arXiv 2209.10652: the privileged basis (tied, codes in [0, 1]) and
        the absolute value (untied, codes in [-1, 1]).
    """
    where = "train_neurons"
    weights = tuple(weights)
    rule = "weights (W,) to train tied or (W_in, W_out)"
    check(len(weights) in (1, 2), where, rule, n_weights=len(weights))
    scales = checked_training(where, weights[0], laws, importance, generator)
    laws = tuple(laws)
    n_instances, n_neurons, n_features = weights[0].shape
    right = (n_instances, n_features, n_neurons)
    for W_out in weights[1:]:
        fits = tuple(W_out.shape) == right and W_out.dtype == weights[0].dtype
        rule = f"W_out {right}, {weights[0].dtype} as W_in"
        check(fits, where, rule, W_out=tuple(W_out.shape), dtype=W_out.dtype)
        check_finite(where, W_out=W_out)
    parameters = [W.detach().clone() for W in weights]
    b = parameters[0].new_zeros(n_instances, n_features)

    def gradients(x: Tensor) -> tuple[list[Tensor], Tensor]:
        return _gradients(parameters, b, x, scales / batch_size)

    course = descend(
        where, [*parameters, b], gradients, laws, n_steps=n_steps, batch_size=batch_size,
        learning_rate=learning_rate, weight_decay=weight_decay, decay=decay, n_records=n_records,
        generator=generator,
    )  # fmt: skip
    W_in, W_out = parameters[0], _output_of(parameters)
    ins, outs = course.records[0], _output_of(course.records[:-1])
    return Neurons(W_in, W_out, b, laws, course.steps, course.losses, ins, outs)


def carried(
    W_in: Float[Tensor, "*n_instances n_neurons n_features"],
    W_out: Float[Tensor, "*n_instances n_features n_neurons"],
) -> Float[Tensor, "*n_instances 2 n_neurons n_features"]:
    """Returns how much of each feature each neuron carries to the feature's own output.

    For codes of either sign s, and no other feature firing: W_out[j, m] ReLU(s W_in[m, j]); first
    s = +1, then s = -1. Summed over neurons it is 1 where y_j = |x_j| is exact with b = 0. Scaling
    a neuron's input up and its output down changes nothing. Tied weights carry W[m, j]^2 where
    positive, and never a negative code.
    """
    where, n_in, n_out = "carried", tuple(W_in.shape), tuple(W_out.shape)
    fits = W_in.ndim >= 2 and n_out == (*n_in[:-2], n_in[-1], n_in[-2])
    rule = "W_in [..., n_neurons, n_features] and W_out [..., n_features, n_neurons]"
    check(fits, where, rule, W_in=n_in, W_out=n_out)
    check_finite(where, W_in=W_in, W_out=W_out)
    return W_out.mT.unsqueeze(-3) * torch.stack([W_in.relu(), (-W_in).relu()], dim=-3)


def features_per_neuron(
    W_in: Float[Tensor, "*n_instances n_neurons n_features"],
    W_out: Float[Tensor, "*n_instances n_features n_neurons"],
    *,
    least: float = 0.25,
) -> Int[Tensor, "*n_instances n_neurons"]:
    """Returns the number of features of which each neuron carries at least `least`, see `carried`.

    0 for an idle neuron, 1 for a monosemantic one, more for a polysemantic one. The default is a
    tied weight of 1/2, so that a feature can be shared by four neurons and still count.
    Null: a tied Gaussian W of variance v counts n_features Pr(N(0, v) >= sqrt(least)) on average.
    """
    return _carries("features_per_neuron", W_in, W_out, least).any(-3).sum(-1)


def has_two_neurons(
    W_in: Float[Tensor, "*n_instances n_neurons n_features"],
    W_out: Float[Tensor, "*n_instances n_features n_neurons"],
    *,
    least: float = 0.25,
) -> Bool[Tensor, "*n_instances n_features"]:
    """Returns whether a feature has two neurons of its own: one for each sign.

    A neuron is a feature's own if it carries that feature and no other (`features_per_neuron`).
    |x_j| = ReLU(x_j) + ReLU(-x_j) is what such a pair computes. Never true of tied weights.
    """
    carries = _carries("has_two_neurons", W_in, W_out, least)
    alone = carries.any(-3).sum(-1) == 1
    return (carries & alone[..., None, :, None]).any(-2).all(-2)


def _carries(where: str, W_in: Tensor, W_out: Tensor, least: float) -> Tensor:
    check(0 < least < float("inf"), where, "a finite least > 0", least=least)
    return carried(W_in, W_out) >= least


def _output_of(weights: Sequence[Tensor]) -> Tensor:
    """Returns W_out of (W_in, W_out), the transpose of a tied W."""
    return weights[1] if len(weights) == 2 else weights[0].mT


def _gradients(
    weights: Sequence[Tensor], b: Tensor, x: Tensor, scales: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Returns the gradients of the weights and b, and the loss, of each instance.

    x is [n_laws, n_features, batch]. With h = ReLU(W_in x) and r = dL/d(pre-activation of y'):
    dL/dW_out = r h^T, dL/dW_in = (1[h > 0] W_out^T r) x^T; a tied W gets their sum.
    """
    W_in, W_out = weights[0], _output_of(weights)
    (n_laws, n_features, n_batch), n_neurons = x.shape, W_in.shape[1]
    h = torch.bmm(W_in.view(n_laws, -1, n_features), x).view(-1, n_neurons, n_batch).clamp_(min=0)
    out = torch.baddbmm(b[:, :, None], W_out, h).clamp_(min=0)
    error = (out.view(n_laws, -1, n_features, n_batch) - x.abs()[:, None]).view_as(out)
    loss = (torch.linalg.vecdot(error, error) * scales).sum(1)
    error = torch.ops.aten.threshold_backward(error, out, 0)
    # r = 2 I_j error: the factor of a feature is applied to small matrices, not to the batch.
    double = 2 * scales[:, :, None]
    back = torch.bmm((W_out * double).mT, error)
    back = torch.ops.aten.threshold_backward(back, h, 0).view(n_laws, -1, n_batch)
    grads = [torch.bmm(back, x.mT).view_as(W_in), torch.bmm(error, h.mT) * double]
    if len(weights) == 1:
        grads = [grads[0] + grads[1].mT]
    return [*grads, error.sum(2) * double[:, :, 0]], loss
