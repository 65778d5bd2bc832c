"""Sparse autoencoders and meta-SAEs: architectures, training, files, and the store of runs.

sae = TopK(d_in=8, n_latents=32, k=2, generator=stream(0, "init"))
result = train(sae, world, TrainConfig(2000, 256), generator=stream(0, "train"))
"""

from sae.architectures.abs_topk import AbsTopK
from sae.architectures.batch_topk import BatchTopK
from sae.architectures.gated import Gated
from sae.architectures.hierarchical_topk import HierarchicalTopK
from sae.architectures.jump_relu import JumpReLU
from sae.architectures.matching_pursuit import MatchingPursuit
from sae.architectures.matryoshka import MatryoshkaBatchTopK, MatryoshkaReLU
from sae.architectures.multi_topk import MultiTopK
from sae.architectures.ordered import OrderedTopK
from sae.architectures.ortho import OrthoBatchTopK
from sae.architectures.relu import ReLU
from sae.architectures.signed_multi_topk import SignedMultiTopK
from sae.architectures.tied import TiedLinear, TiedReLU
from sae.architectures.topk import TopK
from sae.base import SAE, Loss, SAEOutput, TiedSAE
from sae.checkpoint import Checkpoint, checkpoints_in
from sae.config import TrainConfig
from sae.describe import NUMERICS_VERSION
from sae.direct import (
    ProductDictionary,
    gradient_product,
    held_out_meta_fve,
    meta_dictionary,
    nearest_composite,
    product_dictionary,
    product_from_rows,
    refine_rows,
    train_penalised,
    train_tied,
)
from sae.discovery import all_saes
from sae.durable import DiskError
from sae.evaluation import Evaluation, HeldOut, evaluate
from sae.files import load, save
from sae.foreign import from_dictionary_learning, from_sparsify, load_any
from sae.geometric_median import geometric_median
from sae.meta import split_rows, train_meta
from sae.meta_recipe import published_config, published_meta_sae
from sae.meta_refit import Refit, refit_meta
from sae.meta_swap import nearest_rows, tune_encoder, with_decoder
from sae.meta_tower import through_tower, train_tower
from sae.meta_weights import WEIGHTINGS, row_weights
from sae.runs import RunsFailed, map_runs
from sae.saelens import from_saelens, to_saelens
from sae.store import Store, default_root
from sae.train import History, TrainingStopped, TrainResult, train

__all__ = [
    "NUMERICS_VERSION",
    "SAE",
    "WEIGHTINGS",
    "AbsTopK",
    "BatchTopK",
    "Checkpoint",
    "DiskError",
    "Evaluation",
    "Gated",
    "HeldOut",
    "HierarchicalTopK",
    "History",
    "JumpReLU",
    "Loss",
    "MatchingPursuit",
    "MatryoshkaBatchTopK",
    "MatryoshkaReLU",
    "MultiTopK",
    "OrderedTopK",
    "OrthoBatchTopK",
    "ProductDictionary",
    "ReLU",
    "Refit",
    "RunsFailed",
    "SAEOutput",
    "SignedMultiTopK",
    "Store",
    "TiedLinear",
    "TiedReLU",
    "TiedSAE",
    "TopK",
    "TrainConfig",
    "TrainResult",
    "TrainingStopped",
    "all_saes",
    "checkpoints_in",
    "default_root",
    "evaluate",
    "from_dictionary_learning",
    "from_saelens",
    "from_sparsify",
    "geometric_median",
    "gradient_product",
    "held_out_meta_fve",
    "load",
    "load_any",
    "map_runs",
    "meta_dictionary",
    "nearest_composite",
    "nearest_rows",
    "product_dictionary",
    "product_from_rows",
    "published_config",
    "published_meta_sae",
    "refine_rows",
    "refit_meta",
    "row_weights",
    "save",
    "split_rows",
    "through_tower",
    "to_saelens",
    "train",
    "train_meta",
    "train_penalised",
    "train_tied",
    "train_tower",
    "tune_encoder",
    "with_decoder",
]
