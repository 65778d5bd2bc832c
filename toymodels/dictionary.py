"""Ground-truth directions."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from toymodels.checks import check, check_finite, check_tensor

_UNIT_TOLERANCE = 1e-4  # a float32 row of 10^5 entries is normalised to better than this


@dataclass(frozen=True, eq=False)
class Dictionary:
    """The directions of the features: unit rows.

    Args:
        vectors: [n_features, d_in], rows of norm 1 (to 1e-4). Dictionary.normalise makes one
            from rows of any length.
    Raises:
        ValueError: rows that are not unit vectors, NaN, an empty matrix.
    """

    vectors: Float[Tensor, "n_features d_in"]

    def __post_init__(self) -> None:
        _check_real("Dictionary", vectors=self.vectors)
        shape = tuple(self.vectors.shape)
        check(len(shape) == 2 and 0 not in shape, "Dictionary", "a non-empty matrix", shape=shape)
        norms = self.vectors.detach().norm(dim=1)
        worst = int((norms - 1).abs().nan_to_num(torch.inf).argmax())
        if not abs(float(norms[worst]) - 1) <= _UNIT_TOLERANCE:
            check_finite("Dictionary", vectors=self.vectors)
            check(
                False,
                "Dictionary",
                "rows of norm 1",
                "use Dictionary.normalise(rows)",
                **{f"norm_of_row_{worst}": float(norms[worst])},
            )

    @classmethod
    def normalise(cls, rows: Float[Tensor, "n_features d_in"]) -> "Dictionary":
        """Returns the dictionary of the directions of `rows`, none of which may be zero."""
        _check_real("Dictionary.normalise", rows=rows)
        norms = rows.norm(dim=1, keepdim=True)
        check(
            bool((norms > 0).all()),
            "Dictionary.normalise",
            "rows of positive norm",
            zero_rows=(norms[:, 0] == 0).nonzero()[:5, 0].tolist(),
        )
        return cls(rows / norms)

    @property
    def n_features(self) -> int:
        return self.vectors.shape[0]

    @property
    def d_in(self) -> int:
        return self.vectors.shape[1]

    def gram(self) -> Float[Tensor, "n_features n_features"]:
        """Returns G = D D^T, the cosines between features."""
        return self.vectors @ self.vectors.T

    def coherence(self) -> float:
        """Returns mu = max over i != j of |G_ij|, in [0, 1]; 0 for a single feature."""
        return float(self._off_diagonal().abs().max())

    def rms_coherence(self) -> float:
        """Returns the root mean square of G_ij over i != j, in [0, 1]; 0 for a single feature."""
        pairs = max(1, self.n_features * (self.n_features - 1))
        return float((self._off_diagonal().square().sum() / pairs).sqrt())

    def frame_bounds(self) -> tuple[float, float]:
        """Returns the smallest and largest eigenvalue of D^T D [d_in, d_in].

        For all x: low |x|^2 <= sum_i <d_i, x>^2 <= high |x|^2. Equal bounds n_features / d_in mean
        a tight frame; a lower bound of 0 that some direction is not covered.
        """
        values = torch.linalg.eigvalsh((self.vectors.T @ self.vectors).to(torch.float64))
        return max(0.0, float(values[0])), float(values[-1])

    def _off_diagonal(self) -> Float[Tensor, "n_features n_features"]:
        return self.gram().fill_diagonal_(0.0)


def _check_real(where: str, **tensors: Tensor) -> None:
    check_tensor(where, **tensors)
    for name, tensor in tensors.items():
        rule, todo = f"{name} of real numbers", f"pass {name}.float()"
        check(tensor.is_floating_point(), where, rule, todo, **{f"{name}_dtype": tensor.dtype})
