"""Toy models of superposition: autoencoders of sparse features through a narrow hidden layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from toymodels.checks import check, check_finite, check_generator, check_size
from toymodels.dictionary import Dictionary
from toymodels.distribution import ToyDistribution
from toymodels.distributions.scaled import Scaled
from toymodels.model import ToyModel
from toymodels.superposition_training import descend, law_of_instance


@dataclass(frozen=True, eq=False)
class Superposition:
    """Trained networks x' = f(W^T W x + b) of several laws of codes, and how they got there.

    Instances are ordered law by law: instance i belongs to laws[i // (n_instances / n_laws)].

    Args:
        W: [n_instances, n_hidden, n_features]; column j is the direction of feature j.
        b: [n_instances, n_features].
        laws: the laws of the codes x, one for each group of instances.
        rectified: f is ReLU; else the identity.
        steps: [n_records], the training step at which each record was taken, from 1.
        losses: [n_records, n_instances], batch losses, averaged since the record before.
        W_records: [n_records, n_instances, n_hidden, n_features], W at those steps.
        b_records: [n_records, n_instances, n_features], b at those steps.
    """

    W: Float[Tensor, "n_instances n_hidden n_features"]
    b: Float[Tensor, "n_instances n_features"]
    laws: tuple[ToyDistribution, ...]
    rectified: bool
    steps: Int[Tensor, " n_records"]
    losses: Float[Tensor, "n_records n_instances"]
    W_records: Float[Tensor, "n_records n_instances n_hidden n_features"]
    b_records: Float[Tensor, "n_records n_instances n_features"]

    def law(self, i: int) -> ToyDistribution:
        """Returns the law that instance `i` was trained on."""
        return law_of_instance("Superposition", self.laws, i, len(self.W))

    def reconstruction(
        self, x: Float[Tensor, "batch n_features"]
    ) -> Float[Tensor, "n_instances batch n_features"]:
        """Returns x' = f(W^T W x + b) of each instance for the same dense codes."""
        out = torch.einsum("bj,imj,imk->ibk", x, self.W, self.W) + self.b[:, None]
        return out.relu() if self.rectified else out

    def dictionary(self, i: int) -> Dictionary:
        """Returns the directions W_j / |W_j| of instance `i`: its ground truth for an SAE.

        Raises:
            ValueError: a feature whose column is exactly 0 has no direction.
        """
        self.law(i)
        return Dictionary.normalise(self.W[i].T)

    def world(self, i: int) -> ToyModel:
        """Returns the hidden activations h = W x of instance `i` as a world for SAEs.

        The dictionary has unit rows, so lengths |W_j| go into the law of the codes: feature j has
        the code |W_j| x_j. Raises what `dictionary` raises.
        """
        dictionary = self.dictionary(i)
        return ToyModel(Scaled(self.law(i), self.W[i].norm(dim=0)), dictionary)


def initial_weights(
    n_instances: int, n_hidden: int, n_features: int, *, generator: torch.Generator
) -> Float[Tensor, "n_instances n_hidden n_features"]:
    """Returns Xavier-normal weights: variance 2 / (n_hidden + n_features) (Glorot, Bengio 2010)."""
    check_size("initial_weights", n_instances=n_instances, n_hidden=n_hidden, n_features=n_features)
    check_generator("initial_weights", generator)
    shape = (n_instances, n_hidden, n_features)
    W = torch.randn(shape, device=generator.device, generator=generator)
    return W * (2 / (n_hidden + n_features)) ** 0.5


def train_superposition(
    W: Float[Tensor, "n_instances n_hidden n_features"],
    laws: Sequence[ToyDistribution],
    *,
    importance: float | Tensor = 1.0,
    rectified: bool = True,
    n_steps: int = 10_000,
    batch_size: int = 1024,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
    decay: float = 0.0,
    n_records: int = 20,
    generator: torch.Generator,
) -> Superposition:
    """Returns networks trained from W and b = 0 on E sum_j I_j (x_j - x'_j)^2 by AdamW.

    Instances are split evenly over the laws, in order; those of one law differ in W alone and see
    the same batches, so that starts can be compared. For independent data train twice.

    Args:
        W: initial weights, see `initial_weights`; float32 or float64.
        laws: as many as divide n_instances, each of n_features features. Elhage et al.:
            Independent(n, p, Uniform(0, 1)); correlated: CorrelatedPairs, ExclusiveGroups, Blocks.
        importance: I > 0: one number, [n_features], or [n_instances, n_features].
        rectified: x' = ReLU(W^T W x + b); else linear.
        learning_rate, weight_decay: of AdamW with betas (0.9, 0.999); decay applies to b too.
        decay: the last share of the steps, in which the rate falls linearly towards 0; in [0, 1].
        n_records: records of loss and weights, evenly spaced; the last after the last step.
    Raises:
        ValueError: sizes that do not fit, negative importance, training that diverges.
    Source: Elhage et al. 2022, arXiv 2209.10652; the defaults are those of its notebook. Loss is
        summed over features, not averaged: AdamW does not see the factor.
    """
    where = "train_superposition"
    scales = checked_training(where, W, laws, importance, generator)
    laws = tuple(laws)
    W = W.detach().clone()
    b = W.new_zeros(W.shape[0], W.shape[2])

    def gradients(x: Tensor) -> tuple[list[Tensor], Tensor]:
        W_grad, b_grad, loss = _gradients(W, b, x, scales / batch_size, rectified)
        return [W_grad, b_grad], loss

    course = descend(
        where, [W, b], gradients, laws, n_steps=n_steps, batch_size=batch_size,
        learning_rate=learning_rate, weight_decay=weight_decay, decay=decay, n_records=n_records,
        generator=generator,
    )  # fmt: skip
    return Superposition(W, b, laws, rectified, course.steps, course.losses, *course.records)


def _gradients(
    W: Tensor, b: Tensor, x: Tensor, weights: Tensor, rectified: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns dL/dW, dL/db and L of each instance for x [n_laws, n_features, batch].

    With h = W x and r = dL/d(pre-activation): dL/dW = h r^T + (W r) x^T. Instances of a law are
    stacked wherever x enters, so that its batch is multiplied once.
    """
    n_laws, n_features, n_batch = x.shape
    n_instances, n_hidden, _ = W.shape
    h = torch.bmm(W.view(n_laws, -1, n_features), x).view(n_instances, n_hidden, n_batch)
    out = torch.baddbmm(b[:, :, None], W.transpose(1, 2), h)
    if rectified:
        out.clamp_(min=0)
    error = (out.view(n_laws, -1, n_features, n_batch) - x[:, None]).view_as(out)
    loss = (torch.linalg.vecdot(error, error) * weights).sum(1)
    if rectified:  # where(out > 0, error, 0), five times as fast
        error = torch.ops.aten.threshold_backward(error, out, 0)
    # r = 2 I_j error: the factor of a feature is applied to small matrices, not to the batch.
    double = 2 * weights[:, None]
    back = torch.bmm(W * double, error).view(n_laws, -1, n_batch)
    W_grad = torch.bmm(back, x.transpose(1, 2)).view_as(W)
    W_grad += torch.bmm(h, error.transpose(1, 2)) * double
    return W_grad, error.sum(2) * double[:, 0], loss


def checked_training(
    where: str,
    W: Tensor,
    laws: Sequence[ToyDistribution],
    importance: float | Tensor,
    generator: torch.Generator,
) -> Float[Tensor, "n_instances n_features"]:
    """Returns I of each instance and feature, in W's dtype, after checking the arguments."""
    check_finite(where, W=W)
    shape = tuple(W.shape)
    check(W.ndim == 3 and 0 not in shape, where, "W [n_instances, n_hidden, n_features]", W=shape)
    check_generator(where, generator, W.device)
    several = isinstance(laws, Sequence)
    are_laws = several and all(isinstance(law, ToyDistribution) for law in laws)
    kinds = [type(law).__name__ for law in laws] if several else type(laws).__name__
    check(are_laws, where, "laws, a list of ToyDistributions", laws=kinds)
    fits = len(laws) > 0 and shape[0] % len(laws) == 0
    check(fits, where, f"a number of laws that divides {shape[0]} instances", n_laws=len(laws))
    sizes = sorted({law.n_features for law in laws})
    rule = f"laws of {shape[2]} features, one for each column of W"
    check(sizes == [shape[2]], where, rule, n_features=sizes)
    given = torch.as_tensor(importance, dtype=W.dtype, device=W.device)
    fits = tuple(given.shape) in ((), (shape[2],), (shape[0], shape[2]))
    rule = f"importance a number, [{shape[2]}] or [{shape[0]}, {shape[2]}]"
    check(fits, where, rule, importance_shape=tuple(given.shape))
    check_finite(where, importance=given)
    least = float(given.min())
    check(least > 0, where, "importance > 0", smallest_importance=least)
    return given.expand(shape[0], shape[2])
