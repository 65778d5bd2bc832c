"""Sparse autoencoders and meta-SAEs: architectures, training, files, and the store of runs.

sae = TopK(d_in=8, n_latents=32, k=2, generator=stream(0, "init"))
result = train(sae, world, TrainConfig(2000, 256), generator=stream(0, "train"))
"""

from sae.architectures.relu import ReLU
from sae.architectures.topk import TopK
from sae.base import SAE, Loss, SAEOutput
from sae.config import TrainConfig
from sae.discovery import all_saes
from sae.files import load, save
from sae.geometric_median import geometric_median
from sae.meta import train_meta
from sae.store import NUMERICS_VERSION, Store
from sae.train import History, TrainResult, train

__all__ = [
    "NUMERICS_VERSION",
    "SAE",
    "History",
    "Loss",
    "ReLU",
    "SAEOutput",
    "Store",
    "TopK",
    "TrainConfig",
    "TrainResult",
    "all_saes",
    "geometric_median",
    "load",
    "save",
    "train",
    "train_meta",
]
