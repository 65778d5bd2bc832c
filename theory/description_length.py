"""Description length: bits that an SAE needs to send its data, beside the source's own entropy."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from theory.checks import check, check_finite, check_size

SCALE_BITS = 32  # one float32 for each of the scales that both sides must know


@dataclass(frozen=True)
class DescriptionLength:
    """Bits of a message from which the data can be rebuilt to the stated precision.

    dictionary: decoder rows and bias; with a mixing matrix, atoms and mixtures.
    supports: which latents fire on which sample.   values: how strongly.
    residual: what the reconstruction misses.   scales: the largest numbers and the residual's rms.
    """

    dictionary: float
    supports: float
    values: float
    residual: float
    scales: float

    @property
    def total(self) -> float:
        """Returns the length of the whole message, in bits."""
        return self.dictionary + self.supports + self.values + self.residual + self.scales


def description_length(
    x: Float[Tensor, "n_samples d_in"],
    latents: Float[Tensor, "n_samples n_latents"],
    W_dec: Float[Tensor, "n_rows d_in"],
    b_dec: Float[Tensor, " d_in"] | None = None,
    *,
    mixing: Float[Tensor, "n_latents n_rows"] | None = None,
    weight_bits: int,
    value_bits: int,
    bin_width: float,
) -> DescriptionLength:
    """Returns the bits of a message that gives every coordinate of x to within bin_width / 2.

    A message that can be sent and decoded, given the sizes, the three precisions and the largest
    number of atoms in a mixture; so no dictionary, trained or true, can beat the source's entropy
    by more than luck allows: Pr(total <= information content of x - s) <= 2^-s for a source whose
    samples it tells apart (`source_entropy`).
    dictionary: b bits for each number in W_dec (and b_dec); with `mixing`, where the decoder is
                mixing @ W_dec, k' b + log2 C(n_rows, k') more for each latent, k' the most
                non-zeros in a row of it. b = weight_bits; numbers are rounded to 2^b - 1 levels.
    supports:   log2(N + 1) + log2 C(N, c_j) for a latent that fires c_j times in N samples.
    values:     value_bits for each firing; 0 gives all firings the same value, their mean.
    residual:   - log2 Pr[bin of r] under a normal law with the residual's rms, r = x - x_hat with
                x_hat from the *rounded* numbers.

    Null: `source_entropy`, and the length with no latents at all (latents = 0), in which the
    residual is all of x. Structureless latents lengthen the message they were meant to shorten.

    Args:
        x: [n_samples, d_in].   latents: [n_samples, n_latents].   W_dec: [n_rows, d_in], atoms if
            `mixing` [n_latents, n_rows] is given, else n_rows = n_latents.   b_dec: [d_in].
        weight_bits: b, 2 to 32.   value_bits: 0, or 2 to 32.   bin_width: > 0, in units of x.
    Returns: bits for all samples together.
    Source: eq:description-length. Ayonrinde et al. 2024, arXiv 2410.11179; differs in sending
        counts, a residual and rounded numbers, so that the message can be decoded.
    """
    where = "description_length"
    _check_problem(where, x, latents, W_dec, b_dec, mixing)
    for name, bits, least in (("weight_bits", weight_bits, 2), ("value_bits", value_bits, 0)):
        rule = f"{name} from 2 to 32" + (" or 0" if least == 0 else "")
        check(bits == least or 2 <= bits <= 32, where, rule, **{name: bits})
    check(0 < bin_width < math.inf, where, "a finite bin_width > 0", bin_width=bin_width)
    x, z = x.detach().double(), latents.detach().double()
    decoder = _rounded(W_dec.detach().double(), weight_bits)
    n_scales, dictionary = 3.0, W_dec.numel() * weight_bits  # decoder, values, residual
    if mixing is not None:
        decoder = _rounded(mixing.detach().double(), weight_bits) @ decoder
        dictionary += mixing_bits(mixing, weight_bits)
        n_scales += 1
    x_hat = _rounded(z, value_bits) @ decoder
    if b_dec is not None:
        x_hat = x_hat + _rounded(b_dec.detach().double(), weight_bits)
        dictionary += b_dec.numel() * weight_bits
        n_scales += 1
    counts = (z != 0).sum(0)
    return DescriptionLength(
        dictionary=float(dictionary),
        supports=(math.log2(len(x) + 1) + _log2_binomial(len(x), counts)).sum().item(),
        values=float(counts.sum()) * value_bits,
        residual=_residual_bits(x - x_hat, bin_width),
        scales=SCALE_BITS * n_scales,
    )


def mixing_bits(mixing: Float[Tensor, "n_latents n_atoms"], weight_bits: int) -> float:
    """Returns n (k' b + log2 C(m, k')): bits for n latents that mix at most k' of m atoms each.

    k' is the largest number of non-zeros in a row. A dictionary in two levels, m d b bits for the
    atoms and this for the mixtures, is shorter than a flat one, n d b, if and only if
    n (d b - k' b - log2 C(m, k')) > m d b.

    Source: eq:two-level.
    """
    check_finite("mixing_bits", mixing=mixing)
    n_latents, n_atoms = mixing.shape
    most = (mixing != 0).sum(1).max()
    return n_latents * (int(most) * weight_bits + _log2_binomial(n_atoms, most).item())


def source_entropy(
    firing_probs: Float[Tensor, " n_features"],
    *,
    exclusive: bool = False,
    value_bits: float = 0.0,
) -> float:
    """Returns the entropy of the codes in bits per sample, for two laws with a closed form.

    Independent firing: sum_i h(p_i), h(p) = -p log2 p - (1 - p) log2(1 - p). Exclusive firing: the
    entropy of which feature fires, if any. For any law with these firing probabilities the first is
    an upper bound. Strengths add sum_i p_i `value_bits`, the entropy of one at the precision in use
    (0 for constant strengths; differential entropy - log2 of the bin width for narrow bins).

    It is the entropy of the activations too where distinct codes give distinct activations and
    there is no noise; otherwise that of the codes, which may exceed it.

    Args: firing_probs: [n_features], in [0, 1]; sum <= 1 if exclusive.
    Source: Shannon 1948. Example: source_entropy(torch.tensor([0.5, 0.5])) == 2.0.
    """
    where = "source_entropy"
    check_finite(where, firing_probs=firing_probs)
    check(firing_probs.ndim == 1, where, "firing_probs [n_features]", shape=firing_probs.shape)
    p = firing_probs.detach().double()
    in_range = bool(((p >= 0) & (p <= 1)).all())
    check(in_range, where, "firing_probs in [0, 1]", firing_probs=p.tolist())
    check(0 <= value_bits < math.inf, where, "finite value_bits >= 0", value_bits=value_bits)
    total = p.sum().item()
    silent = 1 - p
    if exclusive:
        rule = "probabilities that sum to at most 1"
        check(total <= 1 + 1e-6, where, rule, sum_of_firing_probs=total)
        silent = (1 - p.sum(0, keepdim=True)).clamp(min=0)
    nats = torch.special.entr(p).sum() + torch.special.entr(silent).sum()
    return nats.item() / math.log(2) + total * value_bits


def _rounded(values: Tensor, bits: int) -> Tensor:
    """Returns the values on 2^bits - 1 levels from -max to max, or non-zeros at their mean."""
    if bits == 0:
        n_values = (values != 0).sum().clamp(min=1)
        return torch.where(values != 0, values.sum() / n_values, 0.0)
    step = values.abs().max() / (2 ** (bits - 1) - 1)
    return torch.where(step > 0, (values / step.clamp(min=1e-300)).round() * step, 0.0)


def _log2_binomial(n: int, k: Int[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    k = k.double()
    return (math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)) / math.log(2)


def _residual_bits(residual: Tensor, bin_width: float) -> float:
    """Returns sum of -log2 Pr[(j - 1/2) w <= N(0, rms^2) < (j + 1/2) w], j the bin of r / w."""
    rms = residual.square().mean().sqrt()
    if not bool(rms > 0):
        return 0.0
    bins = (residual / bin_width).round().abs()  # the law is symmetric: tails are read on the left
    upper = torch.special.log_ndtr((0.5 - bins) * (bin_width / rms))
    lower = torch.special.log_ndtr((-0.5 - bins) * (bin_width / rms))
    nats = upper + torch.log1p(-(lower - upper).exp())
    return -nats.sum().item() / math.log(2)


def _check_problem(
    where: str,
    x: Tensor,
    latents: Tensor,
    W_dec: Tensor,
    b_dec: Tensor | None,
    mixing: Tensor | None,
) -> None:
    tensors = {"x": x, "latents": latents, "W_dec": W_dec}
    tensors |= {} if b_dec is None else {"b_dec": b_dec}
    tensors |= {} if mixing is None else {"mixing": mixing}
    check_finite(where, **tensors)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    fits = x.ndim == latents.ndim == W_dec.ndim == 2 and 0 not in x.shape and 0 not in W_dec.shape
    fits = fits and len(latents) == len(x) and W_dec.shape[1] == x.shape[1]
    fits = fits and (b_dec is None or b_dec.shape == x.shape[1:])
    decoder = W_dec.shape[:1] if mixing is None else mixing.shape
    fits = fits and decoder == (latents.shape[1], *(() if mixing is None else W_dec.shape[:1]))
    rule = (
        "x [n, d_in], latents [n, n_latents], W_dec [n_latents, d_in] (mixing [n_latents, n_rows]"
    )
    check(fits, where, rule + " and W_dec [n_rows, d_in])", **shapes)
    check_size(where, n_latents=latents.shape[1])
