"""The product dictionary: decoder rows that are sparse non-negative mixtures of atoms."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architectures.batch_topk import BatchTopK
from sae.architectures.topk import TopK
from sae.checks import check, check_finite
from sae.config import TrainConfig
from sae.direct.encoder import ENCODER, fit_encoder
from sae.direct.object_rows import sparse_codes


@dataclass(frozen=True)
class Round:
    """meta_loss: see `MetaDictionary`.   fve: of the round's product on held-out data."""

    meta_loss: float
    fve: float


@dataclass(frozen=True, eq=False)
class ProductDictionary:
    """A two-level dictionary: rows D = mixing @ atoms, both of unit norm.

    By construction S2 (k-sparse codes) and S3 (mixing >= 0, k_meta-sparse, D *equal* to the
    product). S1 (a small error) is `fve`. S5 (a message shorter than a flat dictionary's) follows
    from the sizes where n_latents is large enough beside n_meta. S4 (the atoms are determined) is
    not enforced: check the coherence of the atoms and that each is in two rows or more.

    Args:
        mixing: [n_latents, n_meta], >= 0, at most k_meta non-zeros in a row, scaled so that the
            rows are unit; all 0 for a row along which no atom points.
        atoms: [n_meta, d_in], unit.
        free_rows: [n_latents, d_in], unit: the rows that the data alone would have. A row far from
            its free row is held there by atoms that are wrong for it, or is no mixture.
        k, k_meta: most latents of a sample, most atoms of a latent.
        floor: tolerance of `codes`, in the unit of x.
        fve: 1 - sum |x - x_hat|^2 / sum |x|^2 on held-out data by `codes`; noise keeps it from 1.
            The only number to choose between results by.
        history: what each round reached.
    """

    mixing: Float[Tensor, "n_latents n_meta"]
    atoms: Float[Tensor, "n_meta d_in"]
    free_rows: Float[Tensor, "n_latents d_in"]
    k: int
    k_meta: int
    floor: float
    fve: float
    history: tuple[Round, ...]

    @property
    def rows(self) -> Float[Tensor, "n_latents d_in"]:
        """D = mixing @ atoms."""
        return self.mixing @ self.atoms

    def codes(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n n_latents"]:
        """Returns the codes of x by non-negative pursuit, what the dictionary was fitted with.

        In the dictionary's dtype, to which x is converted.

        Raises: ValueError: x of another width, or with NaN.
        """
        check_finite("codes", x=x)
        shape, d_in = tuple(x.shape), self.atoms.shape[1]
        rule = f"x of shape (batch, {d_in})"
        check(x.ndim == 2 and shape[1] == d_in, "codes", rule, x_shape=shape)
        return sparse_codes(x.to(self.atoms.dtype), self.rows, self.k, self.floor)

    def sae(
        self,
        x: Float[Tensor, "n d_in"],
        k: int | float,
        *,
        generator: torch.Generator,
        config: TrainConfig = ENCODER,
    ) -> BatchTopK:
        """Returns a BatchTopK SAE with the rows D, bit for bit, and an encoder trained on x.

        The decoder is frozen: with a one-shot encoder wrong rows have the lower loss, and gradients
        would find them. One shot reconstructs less than `codes` does.

        Args:
            x: [n, d_in], to train on.   k: mean number of latents, as of `BatchTopK`.
            generator: draws the batches.   config: see `train`.
        """
        n_latents, d_in = self.rows.shape
        sae = BatchTopK(d_in, n_latents, k, bias=False, generator=generator)
        return fit_encoder(sae, self.rows, x, config, generator=generator)

    def meta_sae(self, *, generator: torch.Generator, config: TrainConfig = ENCODER) -> TopK:
        """Returns a TopK SAE with the atoms as decoder rows and an encoder trained on the rows D.

        Its codes approximate `mixing`, in one shot. Arguments as of `sae`.
        """
        n_meta, d_in = self.atoms.shape
        meta_sae = TopK(d_in, n_meta, self.k_meta, bias=False, generator=generator)
        return fit_encoder(meta_sae, self.atoms, self.rows, config, generator=generator)


def as_product(
    mixing: Float[Tensor, "n_latents n_meta"], atoms: Float[Tensor, "n_meta d_in"]
) -> Float[Tensor, "n_latents n_meta"]:
    """Returns the mixing scaled so that the rows of mixing @ atoms are unit."""
    norms = (mixing @ atoms).norm(dim=1, keepdim=True)
    return mixing / norms.clamp(min=1e-12)


def data_fve(
    x: Float[Tensor, "n d_in"], rows: Float[Tensor, "n_latents d_in"], k: int, floor: float
) -> float:
    """Returns the uncentred share of the energy of x that codes by pursuit explain."""
    x = x.to(rows.dtype)
    error = x - sparse_codes(x, rows, k, floor) @ rows
    return 1 - float(error.square().sum() / x.square().sum())
