"""All criteria at once, for any SAE given as its decoder rows and its encoder."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from theory.checks import check, check_finite, check_generator, check_tensor
from theory.compressibility import Compressibility, compressibility, fve, isotropic_surrogates
from theory.isotropic import isotropic_fve_bound
from theory.recovery import Recovery, recovery
from theory.sparse_coding import omp

N_SURROGATES = 19  # the smallest p-value is 1/20
MAX_ROWS = 1024  # rows that the meta-dictionary is fitted on; more are drawn from
N_STEPS = 5  # alternations of codes and atoms
NULLS = {
    "recovery": "isotropic latents, as many",
    "fvu": "isotropic latents, as many active on each sample: a lower bound",
    "l0": "this encoder, on Gaussian activations of the same mean and covariance",
    "negative_share": "this encoder, on Gaussian activations of the same mean and covariance",
    "compressibility": "isotropic rows, as many",
}


@dataclass(frozen=True)
class Beside:
    """A measurement and its null; NaN where there is nothing to measure."""

    value: float
    null: float


@dataclass(frozen=True)
class Judgement:
    """What `judge` returns; `NULLS` says what each null is.

    recovery: of the features by the decoder rows, as rays, or as lines if a latent was negative.
    lines: which of the two.
    fvu: |x - x_hat|^2 over |x - mean x|^2, summed over samples, 0 is perfect; its null is a proved
        lower bound of what structureless latents leave, and 0 (void) from l0 = d_in on.
    l0: mean number of active latents per sample.
    negative_share: share of negative ones among active latents; NaN where none is active.
    compressibility: of the directions of the rows, by `meta_dictionary` of `meta_width` atoms,
        `meta_k` a row.
    """

    recovery: Recovery
    lines: bool
    fvu: Beside
    l0: Beside
    negative_share: Beside
    compressibility: Compressibility
    meta_width: int
    meta_k: int

    def numbers(self) -> dict[str, dict[str, float | None]]:
        """Returns value, null and further numbers by criterion, None for NaN: ready for JSON."""
        found, compressed = self.recovery, self.compressibility
        bound = compressed.spectral_bound
        numbers = {
            "recovery": {
                "value": found.score,
                "null": found.chance,
                "null_bound": found.chance_bound,
                "recovered": found.recovered.double().mean().item(),
                "recovered_null_bound": found.recovered_bound,
            },
            "fvu": vars(self.fvu),
            "l0": vars(self.l0),
            "negative_share": vars(self.negative_share),
            "compressibility": {
                "value": compressed.fve,
                "null": compressed.null,
                "p_value": compressed.p_value,
                "spectral_bound": math.nan if bound.void else bound.fve,
                "copy_baseline": compressed.copy_baseline,
                "n_latents": self.meta_width,
                "k": self.meta_k,
            },
        }
        return {
            name: {key: None if math.isnan(value) else value for key, value in entry.items()}
            for name, entry in numbers.items()
        }

    def __str__(self) -> str:
        lines = []
        for name, entry in self.numbers().items():
            shown = {k: "none" if v is None else f"{v:.4g}" for k, v in entry.items()}
            value, null = shown.pop("value"), shown.pop("null")
            rest = "".join(f", {key} {text}" for key, text in shown.items())
            lines += [f"{name:16} {value:8} null {null:8} ({NULLS[name]}){rest}"]
        return "\n".join(lines)


def judge(
    x: Float[Tensor, "n d_in"],
    dictionary: Float[Tensor, "n_features d_in"],
    W_dec: Float[Tensor, "n_latents d_in"],
    encode: Callable[[Tensor], Tensor],
    *,
    b_dec: Float[Tensor, " d_in"] | None = None,
    generator: torch.Generator,
) -> Judgement:
    """Returns every criterion of an SAE on activations of known features, each with its null.

    x_hat = encode(x) @ W_dec + b_dec. Whoever trained the SAE, these four say what it does.

    The null of fvu: for any fixed direction, k of n_latents isotropic rows explain no more than
    `isotropic_fve_bound` of it in expectation, whatever the code; so on sample i, with as many
    active latents k_i as this SAE has there and the mean as decoder bias, structureless latents
    leave at least 1 - sum_i e_i nu(d_in, n_latents, k_i) / sum_i e_i, e_i = |x_i - mean|^2.

    Args:
        x: [n, d_in], at least 2 different activations, of the world alone: not training data.
        dictionary: [n_features, d_in], the directions of the features.
        W_dec: [n_latents, d_in], not all 0; its dtype is what `encode` is given.
        encode: [n, d_in] -> latents [n, n_latents]; a pure function.
        b_dec: [d_in]; None is 0.
        generator: draws the nulls.
    Raises:
        ValueError: shapes, NaN, what `encode` returns, activations that do not vary.
    """
    check_tensor("judge", x=x, dictionary=dictionary, W_dec=W_dec)
    _check_problem(x, dictionary, W_dec)
    check_generator("judge", generator, x.device)
    if b_dec is not None:
        check_tensor("judge", b_dec=b_dec)
    n_latents, d_in = W_dec.shape
    x, W_dec = x.to(W_dec), W_dec.detach()
    latents = _encoded(encode, x, n_latents)
    x_hat = latents @ W_dec if b_dec is None else latents @ W_dec + b_dec.detach().to(W_dec)
    centred = (x - x.mean(0)).double()
    energy = centred.square().sum(1)
    check(bool(energy.sum() > 0), "judge", "activations that vary", variance=0)
    counts = (latents != 0).sum(1)
    fvu = (x - x_hat).double().square().sum() / energy.sum()
    # A random mixture of the samples is Gaussian with their covariance.
    shape = (len(x), len(x))
    mixture = torch.randn(shape, dtype=torch.float64, device=x.device, generator=generator)
    gaussian = x.mean(0) + (mixture @ centred / len(x) ** 0.5).to(x)
    null_latents = _encoded(encode, gaussian, n_latents)
    lines = bool((latents < 0).any())
    rows = W_dec.double()
    rows = rows[rows.square().sum(1) > 0]
    if len(rows) > MAX_ROWS:
        rows = rows[torch.randperm(len(rows), device=x.device, generator=generator)[:MAX_ROWS]]
    rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    width = max(1, len(rows) // 4)
    k = min(4, width)
    surrogates = isotropic_surrogates(
        len(rows), d_in, N_SURROGATES, generator=generator, dtype=rows.dtype
    )
    nulls = [fve(null, meta_dictionary(null, width, k, generator=generator)) for null in surrogates]
    return Judgement(
        recovery=recovery(dictionary, W_dec, signed=not lines),
        lines=lines,
        fvu=Beside(fvu.item(), _structureless_fvu(energy, counts, n_latents, d_in)),
        l0=Beside(counts.double().mean().item(), (null_latents != 0).sum(1).double().mean().item()),
        negative_share=Beside(_negative_share(latents), _negative_share(null_latents)),
        compressibility=compressibility(
            rows,
            meta_dictionary(rows, width, k, generator=generator),
            n_latents=width,
            k=k,
            bias=False,
            null_fves=torch.tensor(nulls, dtype=torch.float64),
        ),
        meta_width=width,
        meta_k=k,
    )


def meta_dictionary(
    rows: Float[Tensor, "n_rows d_in"], n_latents: int, k: int, *, generator: torch.Generator
) -> Float[Tensor, "n_rows d_in"]:
    """Returns the rows as approximated by n_latents atoms, k a row with codes >= 0, fitted on them.

    Starts from rows drawn at random; then, five times, codes by `omp` and atoms by least squares.
    What a meta-SAE reaches with a better encoder than it has, without training one.

    Source: the method of optimal directions, Engan, Aase and Husoy 1999.
    """
    order = torch.randperm(len(rows), device=rows.device, generator=generator)
    atoms = rows[order[:n_latents]]
    codes = torch.zeros(len(rows), n_latents, dtype=rows.dtype, device=rows.device)
    for _ in range(N_STEPS):
        codes = omp(rows, atoms, k, nonnegative=True)
        gram = codes.T @ codes
        gram.diagonal().add_(1e-9 * gram.diagonal().max())  # atoms that no row uses become 0
        atoms = torch.linalg.solve(gram, codes.T @ rows)
    return codes @ atoms


def _encoded(encode: Callable[[Tensor], Tensor], x: Tensor, n_latents: int) -> Tensor:
    with torch.no_grad():
        latents = encode(x)
    check_tensor("judge", latents=latents)
    wanted, got = (len(x), n_latents), tuple(latents.shape)
    check(got == wanted, "judge", f"encode(x) of shape {wanted}", latents_shape=got)
    check_finite("judge", latents=latents)
    return latents


def _structureless_fvu(
    energy: Float[Tensor, " n"], counts: Int[Tensor, " n"], n_latents: int, d_in: int
) -> float:
    """Returns the null of fvu: see `judge`."""
    explained = 0.0
    for k in counts.unique().tolist():
        if k > 0:
            share = energy[counts == k].sum() / energy.sum()
            explained += isotropic_fve_bound(d_in, n_latents, k) * share.item()
    return max(0.0, 1 - explained)


def _negative_share(latents: Float[Tensor, "n n_latents"]) -> float:
    n_active = int((latents != 0).sum())
    return int((latents < 0).sum()) / n_active if n_active else math.nan


def _check_problem(x: Tensor, dictionary: Tensor, W_dec: Tensor) -> None:
    shapes = {"x": x, "dictionary": dictionary, "W_dec": W_dec}
    shapes = {name: tuple(value.shape) for name, value in shapes.items()}
    fits = {len(shape) for shape in shapes.values()} == {2}
    fits = fits and len({shape[1] for shape in shapes.values()}) == 1 and len(x) >= 2
    rule = "x [n >= 2, d_in], dictionary [n_features, d_in], W_dec [n_latents, d_in] of one d_in"
    check(fits, "judge", rule, **shapes)
    check_finite("judge", x=x, dictionary=dictionary, W_dec=W_dec)
    n_live = int((W_dec != 0).any(1).sum())
    check(n_live > 0, "judge", "a row of W_dec that is not 0", n_live=n_live)
