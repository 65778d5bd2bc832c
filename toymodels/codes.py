"""Ground-truth activations, stored sparse: what fired and how strongly."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from toymodels.checks import check, check_finite, check_size


@dataclass(frozen=True, eq=False)
class Codes:
    """The codes of a batch as sparse rows (CSR).

    Row b holds the events offsets[b] .. offsets[b + 1] - 1: feature indices[e] fired with strength
    values[e]. The support is the indices: an event of value 0 is still an event.

    Args:
        offsets: [batch + 1], from 0 to the number of events, non-decreasing.
        indices: [n_events], features in [0, n_features), increasing within a row.
        values: [n_events], in the units of the activations.
        n_features: number of features of the world.
    Raises:
        ValueError: offsets, indices and values that do not describe such rows.
    """

    offsets: Int[Tensor, " batch_plus_1"]
    indices: Int[Tensor, " n_events"]
    values: Float[Tensor, " n_events"]
    n_features: int

    def __post_init__(self) -> None:
        n_events = len(self.indices)
        check_size("Codes", n_features=self.n_features)
        check(
            len(self.values) == n_events,
            "Codes",
            f"one value for each of the {n_events} indices",
            values_shape=tuple(self.values.shape),
        )
        counts = self.offsets.diff()
        check(
            len(self.offsets) >= 1
            and int(self.offsets[0]) == 0
            and int(self.offsets[-1]) == n_events
            and bool((counts >= 0).all()),
            "Codes",
            f"non-decreasing offsets from 0 to {n_events} (the number of events)",
            offsets=self.offsets.tolist() if len(self.offsets) < 10 else "(long)",
        )
        if n_events:
            low, high = int(self.indices.min()), int(self.indices.max())
            check(
                0 <= low and high < self.n_features,
                "Codes",
                f"indices in [0, {self.n_features}) (n_features)",
                lowest=low,
                highest=high,
            )
            step = self.rows() * self.n_features + self.indices
            check(
                bool((step.diff() > 0).all()),
                "Codes",
                "increasing indices within each row, each feature at most once",
                "build them with Codes.from_events, which sorts",
                n_events=n_events,
            )
            check_finite("Codes", values=self.values)

    @classmethod
    def from_events(
        cls,
        rows: Int[Tensor, " n_events"],
        features: Int[Tensor, " n_events"],
        values: Float[Tensor, " n_events"],
        *,
        n_rows: int,
        n_features: int,
    ) -> "Codes":
        """Returns the codes of events given in any order; each (row, feature) at most once."""
        where = "Codes.from_events"
        lengths = [len(rows), len(features), len(values)]
        rule = "one row, feature and value for each event"
        check(len(set(lengths)) == 1, where, rule, lengths=lengths)
        for name, places, size in (("rows", rows, n_rows), ("features", features, n_features)):
            if len(places):
                low, high = (int(end) for end in places.aminmax())
                inside = 0 <= low and high < size
                check(inside, where, f"{name} in [0, {size}) (n_{name})", lowest=low, highest=high)
        keys = rows * n_features + features
        if not bool((keys.diff() > 0).all()):
            keys, order = keys.sort()
            features, values = features.index_select(0, order), values.index_select(0, order)
            twice = keys[1:][keys.diff() == 0][:5]
            pairs = [divmod(key, n_features) for key in twice.tolist()]
            check(not pairs, where, "each (row, feature) at most once", repeated=pairs)
        counts = torch.bincount(rows, minlength=n_rows)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        if len(values):
            check_finite(where, values=values)
        return cls._trusted(offsets, features, values, n_features)

    @classmethod
    def _trusted(cls, offsets: Tensor, indices: Tensor, values: Tensor, n_features: int) -> "Codes":
        """Returns the codes without the checks, which took a third of the time of sampling."""
        codes = object.__new__(cls)
        for name, value in zip(
            ("offsets", "indices", "values", "n_features"),
            (offsets, indices, values, n_features),
            strict=True,
        ):
            object.__setattr__(codes, name, value)
        return codes

    @classmethod
    def from_dense(cls, codes: Float[Tensor, "batch n_features"]) -> "Codes":
        """Returns the sparse form of dense codes; a zero entry is read as "did not fire"."""
        rows, features = codes.nonzero(as_tuple=True)
        n_rows, n_features = codes.shape
        return cls.from_events(
            rows, features, codes[rows, features], n_rows=n_rows, n_features=n_features
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def rows(self) -> Int[Tensor, " n_events"]:
        """Returns the sample to which each event belongs."""
        samples = torch.arange(len(self), device=self.offsets.device)
        return torch.repeat_interleave(samples, self.offsets.diff())

    def dense(self) -> Float[Tensor, "batch n_features"]:
        """Returns the codes as a dense matrix (for tests and small worlds)."""
        dense = self.values.new_zeros(len(self), self.n_features)
        dense[self.rows(), self.indices] = self.values
        return dense

    def support(self) -> Bool[Tensor, "batch n_features"]:
        """Returns which features fired, also those that fired with strength 0."""
        support = torch.zeros(
            len(self), self.n_features, dtype=torch.bool, device=self.values.device
        )
        support[self.rows(), self.indices] = True
        return support

    def l0(self) -> Int[Tensor, " batch"]:
        """Returns the number of features that fired in each sample, in [0, n_features]."""
        return self.offsets.diff()

    def counts(self) -> Int[Tensor, " n_features"]:
        """Returns how many samples each feature fired in, in [0, batch]."""
        return torch.bincount(self.indices, minlength=self.n_features)

    def decode(self, vectors: Float[Tensor, "n_features d_in"]) -> Float[Tensor, "batch d_in"]:
        """Returns codes @ vectors at a cost proportional to the number of events."""
        check(
            vectors.shape[0] == self.n_features,
            "Codes.decode",
            f"vectors of shape ({self.n_features} (n_features), d_in)",
            vectors_shape=tuple(vectors.shape),
        )
        return torch.nn.functional.embedding_bag(
            self.indices,
            vectors,
            self.offsets[:-1],
            mode="sum",
            per_sample_weights=self.values.to(vectors.dtype),
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """Activations with their ground truth: x = codes @ dictionary + bias + noise.

    Args:
        x: [batch, d_in], activations.
        codes: the codes that made them, `batch` rows.
    """

    x: Float[Tensor, "batch d_in"]
    codes: Codes
