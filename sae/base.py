"""The base of every sparse autoencoder: parameters, forward pass, loss as named terms.

Three words for what a latent does on a sample, used so everywhere:

selected: chosen by a rule such as top-k, whatever its value. A selected latent may be 0, since the
    ReLU comes after the choice.
active: not 0. l0 counts active latents, hence l0 <= k for the top-k family.
fired: active on at least one sample of a training batch, in the code that the loss used. Dead
    latents are those that have not fired for a while; being selected at 0 does not count.
"""

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sae.checks import check, check_generator, check_size, check_tensor


@dataclass(frozen=True, eq=False)
class SAEOutput:
    """What a forward pass returns.

    Args:
        x_hat: [batch, d_in], the reconstruction.
        latents: [batch, n_latents], the code it is decoded from.
        pre_acts: [batch, n_latents], before the nonlinearity.
    """

    x_hat: Float[Tensor, "batch d_in"]
    latents: Float[Tensor, "batch n_latents"]
    pre_acts: Float[Tensor, "batch n_latents"]


@dataclass(frozen=True, eq=False)
class Loss:
    """A loss and what it is made of.

    Args:
        total: scalar, the sum of the terms; its gradient trains the SAE.
        terms: scalar by name, each already multiplied by its coefficient.
        output: the forward pass that it was computed from.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    output: SAEOutput


class SAE(nn.Module, ABC):
    """A sparse autoencoder: x_hat = latents @ W_dec + b_dec, latents = activate(pre_acts),
    pre_acts = (x - b_dec) @ W_enc + b_enc.

    A new architecture is one file in sae/architectures/ with one subclass that writes `activate`,
    `_terms` and `strategy`, and stores every constructor argument (but the generator) under its
    own name, from which `save` and `load` rebuild it. `encode` and `forward` are what the SAE does
    after training and never depend on a mode; an architecture that codes a training batch in
    another way overrides `training_output`.

    What is unusual about an architecture it declares in class attributes, and the laws hold it to
    its word:

    signed: latents may be negative.
    unit_decoder: training keeps the rows of W_dec at norm 1.
    encoder_bias: b_enc is trained; otherwise it stays 0.
    ordered: the loss depends on the order of the latents.
    batch_code: in training the latents of a sample depend on the rest of the batch.
    straight_through: parameters in which the loss is piecewise constant and whose gradient is an
        estimate, not a derivative.
    frozen_decoder_terms: terms of the loss in which the decoder is held constant.
    scales_with_x: parameters, buffers and settings in the unit of x.

    Args:
        d_in: dimension of the activations, >= 1.
        n_latents: width, >= 1.
        bias: whether the decoder has a bias; without one b_dec is 0 and is not trained.
        generator: draws W_dec, rows uniform on the unit sphere; W_enc starts as its transpose,
            the biases at 0. New parameters live on its device.
    """

    signed: bool = False
    unit_decoder: bool = True
    encoder_bias: bool = True
    ordered: bool = False
    batch_code: bool = False
    straight_through: tuple[str, ...] = ()
    frozen_decoder_terms: tuple[str, ...] = ()
    scales_with_x: tuple[str, ...] = ("b_enc", "b_dec")

    W_enc: Float[Tensor, "d_in n_latents"]
    b_enc: Float[Tensor, " n_latents"]
    W_dec: Float[Tensor, "n_latents d_in"]
    b_dec: Float[Tensor, " d_in"]

    def __init__(
        self, d_in: int, n_latents: int, *, bias: bool = True, generator: torch.Generator
    ) -> None:
        super().__init__()
        check_size(type(self).__name__, d_in=d_in, n_latents=n_latents)
        check_generator(type(self).__name__, generator)
        self.d_in, self.n_latents, self.bias = d_in, n_latents, bias
        device = generator.device
        normal = torch.randn(n_latents, d_in, device=device, generator=generator)
        rows = nn.functional.normalize(normal, dim=1)
        self._make_encoder(rows)
        zeros = torch.zeros(n_latents, device=device)
        self.b_enc = nn.Parameter(zeros, requires_grad=self.encoder_bias)
        self.W_dec = nn.Parameter(rows.clone())
        self.b_dec = nn.Parameter(torch.zeros(d_in, device=device), requires_grad=bias)

    def _make_encoder(self, rows: Float[Tensor, "n_latents d_in"]) -> None:
        self.W_enc = nn.Parameter(rows.T.contiguous())

    @abstractmethod
    def activate(
        self, pre_acts: Float[Tensor, "batch n_latents"]
    ) -> Float[Tensor, "batch n_latents"]:
        """Returns the latents of the pre-activations; the SAE's nonlinearity."""

    @abstractmethod
    def _terms(
        self, x: Float[Tensor, "batch d_in"], output: SAEOutput, dead: Bool[Tensor, " n_latents"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Returns the terms of the loss by name."""

    @classmethod
    @abstractmethod
    def strategy(cls) -> Any:
        """Returns a Hypothesis strategy of fresh instances (hypothesis imported inside)."""

    def max_l0(self) -> int:
        """Returns the largest number of latents that can be active on one sample in `encode`."""
        return self.n_latents

    def max_mean_l0(self) -> float:
        """Returns the largest mean l0 that a training batch can have."""
        return float(self.max_l0())

    def pre_acts(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch n_latents"]:
        """Returns (x - b_dec) @ W_enc + b_enc.

        Raises:
            ValueError: x of another shape, dtype or device than the SAE's.
        """
        self._check_input("pre_acts", "x", x, self.d_in)
        return (x - self.b_dec) @ self.W_enc + self.b_enc

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch n_latents"]:
        """Returns the latents of activations x. Raises as `pre_acts` does."""
        return self.activate(self.pre_acts(x))

    def decode(self, latents: Float[Tensor, "batch n_latents"]) -> Float[Tensor, "batch d_in"]:
        """Returns latents @ W_dec + b_dec."""
        self._check_input("decode", "latents", latents, self.n_latents)
        return latents @ self.W_dec + self.b_dec

    def forward(self, x: Float[Tensor, "batch d_in"]) -> SAEOutput:
        """Returns the reconstruction of x with its latents and pre-activations."""
        pre_acts = self.pre_acts(x)
        latents = self.activate(pre_acts)
        return SAEOutput(self.decode(latents), latents, pre_acts)

    def training_output(self, x: Float[Tensor, "batch d_in"]) -> SAEOutput:
        """Returns the forward pass that the loss is computed from; as `forward` unless overridden.

        Like `forward` it is a pure function of x, the parameters and the buffers.
        """
        return self(x)

    def after_step_(self, output: SAEOutput, *, generator: torch.Generator) -> None:
        """Updates what gradients do not train, once after each step of training; here nothing.

        Args:
            output: the forward pass of the step, from before the parameters moved.
            generator: a CPU generator of this SAE's own, for what an architecture draws anew for
                each batch.
        """

    def loss(
        self, x: Float[Tensor, "batch d_in"], dead: Bool[Tensor, " n_latents"] | None = None
    ) -> Loss:
        """Returns the training loss on a batch, as the sum of named terms.

        Args:
            x: [batch, d_in].
            dead: which latents count as dead, for terms that revive them; None is "none".
        """
        output = self.training_output(x)
        if dead is None:
            dead = torch.zeros(self.n_latents, dtype=torch.bool, device=x.device)
        terms = self._terms(x, output, dead)
        return Loss(torch.stack(list(terms.values())).sum(), terms, output)

    def settings(self) -> dict[str, Any]:
        """Returns the constructor's arguments (but the generator) by name."""
        names = inspect.signature(type(self)).parameters
        return {name: getattr(self, name) for name in names if name != "generator"}

    @torch.no_grad()
    def normalise_decoder_(self) -> None:
        """Scales each row of W_dec to norm 1; nothing where `unit_decoder` is False."""
        if self.unit_decoder:
            self.W_dec /= self.W_dec.norm(dim=1, keepdim=True).clamp(min=1e-12)

    @torch.no_grad()
    def remove_radial_gradient_(self) -> None:
        """Removes from W_dec's gradient the part along each (unit) row, which normalising undoes.

        Left in, Adam's moments would fill with steps that are then thrown away. Nothing happens
        where `unit_decoder` is False.
        """
        gradient = self.W_dec.grad
        if gradient is not None and self.unit_decoder:
            gradient -= (gradient * self.W_dec).sum(1, keepdim=True) * self.W_dec

    def _check_input(self, method: str, name: str, value: Tensor, width: int) -> None:
        where = f"{type(self).__name__}.{method}"
        check_tensor(where, **{name: value})
        check(
            value.ndim == 2 and value.shape[1] == width,
            where,
            f"{name} of shape (batch, {width})",
            **{f"{name}_shape": tuple(value.shape)},
        )
        check(
            value.dtype == self.W_dec.dtype,
            where,
            f"{name} of the SAE's dtype, {self.W_dec.dtype}",
            "convert one of them with .to(dtype)",
            **{f"{name}_dtype": value.dtype},
        )
        check(
            value.device == self.W_dec.device,
            where,
            f"{name} on the SAE's device, {self.W_dec.device}",
            "move one of them with .to(device)",
            **{f"{name}_device": str(value.device)},
        )


class TiedSAE(SAE):
    """An SAE whose encoder is its decoder transposed: W_enc is W_dec.T, not a parameter."""

    @property
    def W_enc(self) -> Tensor:
        return self.W_dec.T

    def _make_encoder(self, rows: Float[Tensor, "n_latents d_in"]) -> None:
        pass


def squared_error(
    x: Float[Tensor, "batch d_in"], x_hat: Float[Tensor, "batch d_in"]
) -> Float[Tensor, ""]:
    """Returns the mean over the batch of |x - x_hat|^2, summed over coordinates."""
    return (x - x_hat).square().sum(1).mean()
