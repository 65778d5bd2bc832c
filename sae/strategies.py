"""Hypothesis strategies of SAEs and training configurations. Structure is drawn and shrinks.

from sae import strategies as saes
"""

import hashlib

import torch

try:
    from hypothesis import strategies as st
except ImportError as error:  # pragma: no cover
    raise ImportError("sae.strategies needs hypothesis; install the [dev] extra") from error

from sae.base import SAE
from sae.config import TrainConfig
from sae.discovery import all_saes

Strategy = st.SearchStrategy


def generators(name: str = "test") -> Strategy[torch.Generator]:
    """Fresh CPU generators; equal drawn seeds under different names give different draws."""

    def build(seed: int) -> torch.Generator:
        digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    return st.integers(0, 2**32 - 1).map(build)


def sizes() -> Strategy[tuple[int, int]]:
    """Pairs (d_in, n_latents), under- and overcomplete, down to (1, 1)."""
    return st.tuples(st.integers(1, 6), st.integers(1, 12))


def prefixes(n_latents: int) -> Strategy[tuple[int, ...] | int]:
    """Fixed prefixes that end at n_latents, or the number of sampled ones."""
    inner = st.sets(st.integers(1, max(1, n_latents - 1)), max_size=3)
    fixed = inner.map(lambda drawn: (*sorted(drawn - {n_latents}), n_latents))
    return st.one_of(fixed, st.integers(1, n_latents))


def saes() -> Strategy[SAE]:
    """Fresh instances of every architecture in the folder."""
    return st.one_of([cls.strategy() for cls in all_saes()])


def training_configs() -> Strategy[TrainConfig]:
    """Short runs (up to 12 steps of up to 16 samples) with the schedule drawn, and nothing that
    some architectures do not have (annealing, control of l0).
    """
    # Warm-up and decay are eighths of the run, of which together they take at most all.
    eighths = st.integers(0, 8).flatmap(lambda a: st.tuples(st.just(a), st.integers(0, 8 - a)))
    return st.builds(
        lambda n_steps, batch_size, lr, share, norm, dead_after, n_records, rest: TrainConfig(
            n_steps,
            batch_size,
            lr,
            warmup=share[0] / 8,
            decay=share[1] / 8,
            max_grad_norm=norm,
            dead_after=dead_after,
            n_records=n_records,
            **rest,
        ),
        st.integers(1, 12),
        st.integers(2, 16),
        st.floats(1e-4, 0.1),
        eighths,
        st.sampled_from([1.0, 0.01, 100.0]),
        st.integers(1, 100),
        st.integers(2, 6),
        st.fixed_dictionaries(
            {},
            optional={
                "decay_shape": st.sampled_from(["linear", "cosine"]),
                "resample_every": st.integers(1, 100),
                "resample_norm": st.floats(0.1, 2),
                "ema": st.floats(0.1, 0.99),
            },
        ),
    )
