"""Bad input raises a ValueError that names the offending value and says what was expected."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from sae import MultiTopK, ReLU, TopK, TrainConfig, train, train_meta
from theory import (
    absorption,
    amortisation,
    atomicity,
    completeness,
    composition,
    cosine_clusters,
    fve,
    isotropic_rows,
    isotropic_surrogates,
    judge,
    match,
    nearest,
    omp,
    pairwise_cosine,
    potential,
    progressive,
    recovery,
    redundancy,
    search_phases,
    sign_consistency,
    spectral_fve_bound,
    spectrum_null,
    stitching,
)
from toymodels import (
    AbsNormal,
    AbsStudentT,
    Codes,
    Constant,
    Dictionary,
    Exclusive,
    Exponential,
    Independent,
    LogNormal,
    Magnitude,
    RareProperty,
    RareRegime,
    RectifiedNormal,
    ToyModel,
    Uniform,
    Zipf,
    hadamard_union,
    orthonormal,
    polygon,
    random_mixing,
    random_unit,
    stream,
)
from toymodels.checks import check_generator
from toymodels.discovery import all_distributions
from toymodels.presets import composed_world

NAN, INF = float("nan"), float("inf")


def g():
    return stream(0, "test")


def f(*values):
    return torch.tensor(values)


def i(*values):
    return torch.tensor(values, dtype=torch.int64)


def topk(d_in=3, n_latents=4, k=2, **options):
    return TopK(d_in, n_latents, k, generator=g(), **options)


def fit(saes=None, sample=None, config=None):
    data = sample or (lambda n, *, generator: torch.ones(n, 3))
    return train(saes or topk(), data, config or TrainConfig(1, 5), generator=g())


@torch.no_grad()
def with_nan(sae):
    sae.b_enc[1] = NAN
    return sae


def meta(rows=None, weights=None):
    rows = torch.eye(3) if rows is None else rows
    return train_meta(rows, topk(), TrainConfig(1, 5), weights=weights, generator=g())


def world(**options):
    return ToyModel(Independent(2, 0.1), Dictionary(torch.eye(2)), **options)


def judged(x=None, dictionary=None, W_dec=None, encode=torch.relu, **options):
    rows = torch.eye(3)
    data = [rows if value is None else value for value in (x, dictionary, W_dec)]
    return judge(*data, encode, **({"generator": g()} | options))


# (what is done, how the message begins, what is expected, what was given)
TOYMODELS = [
    (lambda: stream(-1, "a"), "stream", "an integer seed >= 0", "seed=-1"),
    (lambda: stream(True, "a"), "stream", "an integer seed >= 0", "seed=True"),
    (lambda: stream(0.5, "a"), "stream", "an integer seed >= 0", "seed=0.5"),
    (lambda: stream(0, ""), "stream", "a name such as 'train'", "name=''"),
    (lambda: Independent(0, 0.1), "Independent", "n_features >= 1", "n_features=0"),
    (lambda: Independent(3, 1.5), "Independent", "probabilities in [0, 1]", "firing_prob=1.5"),
    (lambda: Independent(3, -0.1), "Independent", "probabilities in [0, 1]", "firing_prob=-0.1"),
    (lambda: Independent(3, NAN), "Independent", "probabilities in [0, 1]", "firing_prob=nan"),
    (
        lambda: Independent(3, torch.tensor([0.5, 2.0, 0.5])),
        "Independent",
        "probabilities in [0, 1]",
        "firing_prob=2.0",
    ),
    (
        lambda: Independent(3, f(0.1, 0.2)),
        "Independent",
        "one value for each of the 3 features",
        "firing_prob_shape=(2,)",
    ),
    (lambda: Exclusive(0, 0.1), "Exclusive", "n_features >= 1", "n_features=0"),
    (lambda: Exclusive(4, 0.5), "Exclusive", "sum to at most 1", "sum_of_firing_probs=2.0"),
    (lambda: Zipf(0, 1.0, 0.5), "Zipf", "n_features >= 1", "n_features=0"),
    (lambda: Zipf(3, -1.0, 0.5), "Zipf", "a finite alpha >= 0", "alpha=-1.0"),
    (lambda: Zipf(3, 1.0, 0.0), "Zipf", "a finite first_prob > 0", "first_prob=0.0"),
    (lambda: Zipf(3, 1.0, INF), "Zipf", "a finite first_prob > 0", "first_prob=inf"),
    (
        lambda: Zipf(3, 1.0, 0.5, 0.4, 0.3),
        "Zipf",
        "0 <= floor <= ceiling <= 1",
        "floor=0.4, ceiling=0.3",
    ),
    (lambda: RareRegime(0, 1, 0.1, 0.1), "RareRegime", "n_common >= 1", "n_common=0"),
    (lambda: RareRegime(1, -2, 0.1, 0.1), "RareRegime", "n_rare >= 1", "n_rare=-2"),
    (lambda: RareRegime(1, 1, 1.1, 0.1), "RareRegime", "0 <= regime_prob <= 1", "regime_prob=1.1"),
    (lambda: RareRegime(1, 1, 0.1, NAN), "RareRegime", "0 <= firing_prob <= 1", "firing_prob=nan"),
    (lambda: RareProperty(0, 0.1, 0.1), "RareProperty", "n_carriers >= 1", "n_carriers=0"),
    (
        lambda: RareProperty(1, 2.0, 0.1),
        "RareProperty",
        "probabilities in [0, 1]",
        "carrier_prob=2.0",
    ),
    (
        lambda: RareProperty(1, 0.1, -1.0),
        "RareProperty",
        "probabilities in [0, 1]",
        "property_prob=-1.0",
    ),
    (lambda: Independent(3, 0.1).sample(0, generator=g()), "Independent.sample", "n >= 1", "n=0"),
    (lambda: Independent(3, 0.1).sample(2.5, generator=g()), "Independent.sample", "n >= 1", "2.5"),
    (
        lambda: Independent(5000, 0.1).code_moment(),
        "Independent.code_moment",
        "at most 4096 features",
        "n_features=5000; use code_moment_matvec",
    ),
    (
        lambda: Independent(3, 0.1).code_moment_matvec(torch.ones(4, dtype=torch.float64)),
        "Independent.code_moment_matvec",
        "v of shape (3 (n_features),) or (3, n)",
        "v_shape=(4,)",
    ),
    (lambda: Constant(0.0), "Constant", "value > 0", "value=0.0"),
    (lambda: Constant(NAN), "Constant", "value > 0", "value=nan"),
    (lambda: Uniform(-1.0, 1.0), "Uniform", "0 <= low <= high", "low=-1.0, high=1.0"),
    (lambda: Uniform(2.0, 1.0), "Uniform", "0 <= low <= high", "low=2.0, high=1.0"),
    (lambda: Uniform(0.0, 0.0), "Uniform", "high > 0", "low=0.0, high=0.0"),
    (lambda: AbsNormal(-1.0), "AbsNormal", "a finite scale > 0", "scale=-1.0"),
    (lambda: Exponential(INF), "Exponential", "a finite scale > 0", "scale=inf"),
    (lambda: LogNormal(NAN, 1.0), "LogNormal", "finite mu, finite sigma >= 0", "mu=nan"),
    (lambda: RectifiedNormal(0.0, 0.0), "RectifiedNormal", "finite sigma > 0", "sigma=0.0"),
    (lambda: AbsStudentT(2.0, 1.0), "AbsStudentT", "finite df > 2", "df=2.0"),
    (lambda: AbsStudentT(3.0, NAN), "AbsStudentT", "finite scale > 0", "scale=nan"),
    (lambda: LogNormal(0.0, -1.0), "LogNormal", "finite mu, finite sigma >= 0", "sigma=-1.0"),
    (lambda: Codes(i(0), i(), f(), 0), "Codes", "n_features >= 1", "n_features=0"),
    (
        lambda: Codes(i(0, 1), i(0), f(1.0, 2.0), 3),
        "Codes",
        "one value for each of the 1 indices",
        "values_shape=(2,)",
    ),
    (
        lambda: Codes(i(0, 2, 1), i(0), f(1.0), 3),
        "Codes",
        "non-decreasing offsets from 0 to 1",
        "offsets=[0, 2, 1]",
    ),
    (lambda: Codes(i(0, 1), i(3), f(1.0), 3), "Codes", "indices in [0, 3)", "highest=3"),
    (lambda: Codes(i(0, 1), i(-1), f(1.0), 3), "Codes", "indices in [0, 3)", "lowest=-1"),
    (
        lambda: Codes(i(0, 2), i(1, 1), f(1.0, 1.0), 3),
        "Codes",
        "each feature at most once",
        "n_events=2",
    ),
    (lambda: Codes(i(0, 1), i(0), f(NAN), 3), "Codes", "finite numbers in values", "values[0]=nan"),
    (
        lambda: Codes.from_events(i(0, 7), i(0, 0), f(1.0, 1.0), n_rows=5, n_features=2),
        "Codes.from_events",
        "rows in [0, 5) (n_rows)",
        "highest=7",
    ),
    (
        lambda: Codes.from_events(i(0, 1), i(0, 2), f(1.0, 1.0), n_rows=5, n_features=2),
        "Codes.from_events",
        "features in [0, 2) (n_features)",
        "highest=2",
    ),
    (
        lambda: Codes.from_events(i(1, 0, 1), i(1, 0, 1), f(1, 2, 3), n_rows=2, n_features=2),
        "Codes.from_events",
        "each (row, feature) at most once",
        "repeated=[(1, 1)]",
    ),
    (
        lambda: Codes.from_events(i(0, 1), i(0), f(1.0), n_rows=2, n_features=2),
        "Codes.from_events",
        "one row, feature and value for each event",
        "lengths=[2, 1, 1]",
    ),
    (
        lambda: Codes.from_dense(torch.ones(2, 3)).decode(torch.ones(4, 2)),
        "Codes.decode",
        "vectors of shape (3 (n_features), d_in)",
        "vectors_shape=(4, 2)",
    ),
    (lambda: Dictionary(2 * torch.eye(2)), "Dictionary", "rows of norm 1", "norm_of_row_0=2.0"),
    (lambda: Dictionary(torch.ones(3)), "Dictionary", "a non-empty matrix", "shape=(3,)"),
    (lambda: Dictionary(torch.ones(0, 3)), "Dictionary", "a non-empty matrix", "shape=(0, 3)"),
    (
        lambda: Dictionary(torch.tensor([[1.0, 0.0], [NAN, 0.0]])),
        "Dictionary",
        "finite numbers in vectors",
        "vectors[1, 0]=nan",
    ),
    (
        lambda: Dictionary.normalise(torch.tensor([[1.0, 0.0], [0.0, 0.0]])),
        "Dictionary.normalise",
        "rows of positive norm",
        "zero_rows=[1]",
    ),
    *(
        (make, where, f"{name} of real numbers", f"{name}_dtype=torch.int64; pass {name}.float()")
        for make, where, name in (
            (lambda: Dictionary(torch.eye(3).long()), "Dictionary", "vectors"),
            (lambda: Dictionary.normalise(torch.eye(3).long()), "Dictionary.normalise", "rows"),
        )
    ),
    (
        lambda: composed_world(torch.eye(6), 6, generator=g()),
        "composed_world",
        "a Dictionary",
        "atoms='Tensor'; pass Dictionary(vectors)",
    ),
    (
        lambda: Uniform().sample(3, generator=0),
        "Uniform.sample",
        "a torch.Generator",
        "generator=0; use stream(seed, name)",
    ),
    (lambda: hadamard_union(6), "hadamard_union", "d_in a power of 2", "d_in=6"),
    (lambda: polygon(0), "polygon", "n_features >= 1", "n_features=0"),
    (lambda: orthonormal(4, 3, generator=g()), "orthonormal", "<= 3 (d_in)", "n_features=4"),
    (
        lambda: random_unit(0, 3, generator=g()),
        "random_unit",
        "an integer n_features >= 1",
        "n_features=0",
    ),
    *(
        (make, where, "a torch.Generator", "generator=0; use stream(seed, name)")
        for make, where in (
            (lambda: orthonormal(2, 3, generator=0), "orthonormal"),
            (lambda: random_unit(5, 3, generator=0), "random_unit"),
            (lambda: random_mixing(5, 4, 2, generator=0), "random_mixing"),
        )
    ),
    (
        lambda: ToyModel(Independent(3, 0.1), Dictionary(torch.eye(2))),
        "ToyModel",
        "a distribution of 2 features",
        "n_features=3",
    ),
    (lambda: world(noise_std=-0.1), "ToyModel", "a finite noise_std >= 0", "noise_std=-0.1"),
    (lambda: world(noise_std=NAN), "ToyModel", "a finite noise_std >= 0", "noise_std=nan"),
    (lambda: world(bias=torch.ones(3)), "ToyModel", "a bias of shape (2,)", "bias_shape=(3,)"),
    (lambda: world(bias=f(0.0, INF)), "ToyModel", "finite numbers in bias", "bias[1]=inf"),
    (lambda: world(bias=[0.0, 1.0]), "ToyModel", "bias to be a tensor", "bias='list'; pass torch."),
    (
        lambda: ToyModel(Independent(2, 0.1), torch.eye(2)),
        "ToyModel",
        "a Dictionary",
        "dictionary='Tensor'; pass Dictionary(vectors)",
    ),
    (
        lambda: ToyModel(Dictionary(torch.eye(2)), Independent(2, 0.1)),
        "ToyModel",
        "a ToyDistribution",
        "distribution='Dictionary'; pass a law",
    ),
    (
        lambda: Dictionary([[1.0, 0.0]]),
        "Dictionary",
        "vectors to be a tensor",
        "vectors='list'; pass torch.as_tensor(vectors)",
    ),
    (
        lambda: Dictionary(Dictionary(torch.eye(2))),
        "Dictionary",
        "vectors to be a tensor",
        "vectors='Dictionary'; pass its .vectors",
    ),
    (
        lambda: Dictionary.normalise(torch.eye(2).numpy()),
        "Dictionary.normalise",
        "rows to be a tensor",
        "rows='ndarray'; pass torch.from_numpy(rows)",
    ),
    (
        lambda: world().sample(2, generator=0),
        "ToyModel.sample",
        "a torch.Generator",
        "generator=0; use stream(seed, name)",
    ),
    (
        lambda: world().sample_given(2, 0, generator=None),
        "ToyModel.sample_given",
        "a torch.Generator",
        "generator=None; use stream(seed, name)",
    ),
    (
        lambda: Independent(2, 0.1).sample(2, generator=0),
        "Independent.sample",
        "a torch.Generator",
        "generator=0; use",
    ),
    (
        lambda: Independent(2, 0.1).sample_given(2, 0, generator=0),
        "Independent.sample_given",
        "a torch.Generator",
        "generator=0; use",
    ),
    (
        lambda: stream(0, "x", device="gpu"),
        "stream",
        "a device that torch can draw on here",
        "device='gpu'; ",
    ),
    (lambda: orthonormal(6.5, 8, generator=g()), "orthonormal", "an integer", "n_features=6.5"),
    (lambda: orthonormal(6, 8.5, generator=g()), "orthonormal", "an integer", "d_in=8.5"),
]

SAES = [
    (lambda: topk(d_in=0), "TopK", "d_in >= 1", "d_in=0"),
    (lambda: topk(n_latents=0), "TopK", "n_latents >= 1", "n_latents=0"),
    (lambda: topk(k=5), "TopK", "1 <= k <= 4 (n_latents)", "k=5"),
    (lambda: topk(k=0), "TopK", "1 <= k <= 4 (n_latents)", "k=0"),
    (lambda: topk(aux_coefficient=-1.0), "TopK", "aux_coefficient >= 0", "aux_coefficient=-1.0"),
    (lambda: ReLU(2, 2, -1.0, generator=g()), "ReLU", "a finite l1 >= 0", "l1=-1.0"),
    (lambda: ReLU(2, 2, NAN, generator=g()), "ReLU", "a finite l1 >= 0", "l1=nan"),
    (
        lambda: topk().encode(torch.ones(2, 4)),
        "TopK.pre_acts",
        "shape (batch, 3)",
        "x_shape=(2, 4)",
    ),
    (lambda: topk()(torch.ones(3)), "TopK.pre_acts", "x of shape (batch, 3)", "x_shape=(3,)"),
    (
        lambda: topk()(torch.ones(2, 3).double()),
        "TopK.pre_acts",
        "x of the SAE's dtype, torch.float32",
        "x_dtype=torch.float64; convert",
    ),
    (
        lambda: topk()(torch.ones(2, 3, device="meta")),
        "TopK.pre_acts",
        "x on the SAE's device, cpu",
        "x_device='meta'; move",
    ),
    (
        lambda: topk().decode(torch.ones(2, 3)),
        "TopK.decode",
        "latents of shape (batch, 4)",
        "latents_shape=(2, 3)",
    ),
    (lambda: TrainConfig(0, 5), "TrainConfig", "an integer n_steps >= 1", "n_steps=0"),
    (lambda: TrainConfig(2.0, 5), "TrainConfig", "an integer n_steps >= 1", "n_steps=2.0"),
    (lambda: TrainConfig(1, 0), "TrainConfig", "an integer batch_size >= 1", "batch_size=0"),
    (lambda: TrainConfig(1, 5, lr=0.0), "TrainConfig", "finite learning rates > 0", "lr=0.0"),
    (lambda: TrainConfig(1, 5, lr=(1.0, NAN)), "TrainConfig", "learning rates", "lr=(1.0, nan)"),
    (lambda: TrainConfig(1, 5, lr=()), "TrainConfig", "finite learning rates > 0", "lr=()"),
    (lambda: TrainConfig(1, 5, betas=(0.9, 1.0)), "TrainConfig", "betas in [0, 1)", "(0.9, 1.0)"),
    (lambda: TrainConfig(1, 5, eps=0.0), "TrainConfig", "eps > 0", "eps=0.0"),
    (
        lambda: TrainConfig(1, 5, warmup=0.6, decay=0.5),
        "TrainConfig",
        "warmup + decay <= 1",
        "warmup=0.6, decay=0.5",
    ),
    (lambda: TrainConfig(1, 5, max_grad_norm=0.0), "TrainConfig", "max_grad_norm > 0", "=0.0"),
    (lambda: TrainConfig(1, 5, dead_after=0), "TrainConfig", "integer dead_after >= 1", "=0"),
    (lambda: TrainConfig(1, 5, n_records=1), "TrainConfig", "n_records >= 2", "n_records=1"),
    (
        lambda: train([], world(), TrainConfig(1, 5), generator=g()),
        "train",
        "one SAE",
        "_members=0",
    ),
    (
        lambda: fit(config=TrainConfig(1, 5, lr=(0.1, 0.2))),
        "train",
        "one for each of the 1 SAEs",
        "lr=(0.1, 0.2)",
    ),
    (lambda: fit(sample=3), "train", "a ToyModel or a callable", "sample='int'"),
    (lambda: fit(sample=world()), "train", "batches of shape (5, 3)", "x_shape=(5, 2)"),
    (
        lambda: fit(sample=lambda n, *, generator: torch.ones(n, 3).index_fill(0, i(2), NAN)),
        "train",
        "finite numbers in x",
        "x[2, 0]=nan; remove",
    ),
    (lambda: fit([topk(), topk()]).sae, "TrainResult.sae", "a run of one SAE", "n_members=2; use"),
    (lambda: meta(rows=torch.ones(3)), "train_meta", "rows [n_rows, d_in]", "rows_shape=(3,)"),
    (lambda: meta(rows=torch.ones(0, 3)), "train_meta", "rows [n_rows, d_in]", "rows_shape=(0, 3)"),
    (lambda: meta(rows=torch.full((2, 3), INF)), "train_meta", "numbers in rows", "rows[0, 0]=inf"),
    (lambda: meta(rows=torch.eye(4)), "train", "batches of shape (5, 3)", "x_shape=(5, 4)"),
    (lambda: meta(weights=torch.ones(4)), "train_meta", "3 weights, one a row", "shape=(4,)"),
    (lambda: meta(weights=f(1.0, NAN, 1.0)), "train_meta", "numbers in weights", "weights[1]=nan"),
    (lambda: meta(weights=f(1.0, -2.0, 3.0)), "train_meta", "weights >= 0", "smallest=-2.0"),
    (lambda: meta(weights=torch.zeros(3)), "train_meta", "a positive sum", "sum=0.0"),
    (
        lambda: topk().encode(torch.ones(2, 3).numpy()),
        "TopK.pre_acts",
        "x to be a tensor",
        "x='ndarray'; pass torch.from_numpy(x)",
    ),
    (
        lambda: topk().decode(world()),
        "TopK.decode",
        "latents to be a tensor",
        "latents='ToyModel'; pass",
    ),
    (
        lambda: TopK(3, 4, 2, generator=0),
        "TopK",
        "a torch.Generator",
        "generator=0; use stream(seed, name)",
    ),
    (
        lambda: train(topk(), world(), TrainConfig(1, 5), generator=3),
        "train",
        "a torch.Generator",
        "generator=3; use stream(seed, name)",
    ),
    (
        lambda: fit(sample=lambda n, *, generator: torch.ones(n, 3).numpy()),
        "train",
        "x to be a tensor",
        "x='ndarray'; pass torch.from_numpy(x)",
    ),
    (
        lambda: fit(sample=lambda n, *, generator: None),
        "train",
        "x to be a tensor",
        "x='NoneType'",
    ),
    (
        lambda: fit(sample=world().distribution),
        "train",
        "a world whose samples have an x",
        "sample='Independent'; pass the ToyModel",
    ),
    (
        lambda: train(topk(), world(), None, generator=g()),
        "train",
        "a TrainConfig",
        "config=None; pass TrainConfig(",
    ),
    (
        lambda: train(world(), topk(), TrainConfig(1, 5), generator=g()),
        "train",
        "an SAE, or several",
        "member_0='ToyModel'; call train(saes, sample, config)",
    ),
    (lambda: fit(TopK), "train", "an SAE, or several", "member_0='ABCMeta'"),
    (lambda: fit([topk(), None]), "train", "an SAE, or several", "member_1='NoneType'"),
    (
        lambda: train(topk(), world(), TrainConfig(1, 5), generator=g(), held_out=(world(), 100)),
        "train",
        "a HeldOut",
        "held_out='tuple'; pass HeldOut(",
    ),
    (lambda: fit(with_nan(topk())), "train", "numbers in member_0.b_enc", "b_enc[1]=nan"),
    (lambda: TrainConfig(1, 5, lr=[1e-3]), "TrainConfig", "learning rates > 0", "lr=[0.001]; "),
    (lambda: TrainConfig(1, 5, lr="1e-3"), "TrainConfig", "learning rates > 0", "lr='1e-3'; "),
    (lambda: TrainConfig(1, 5, betas=0.9), "TrainConfig", "two betas in [0, 1)", "betas=0.9"),
    (lambda: TrainConfig(1, 5, betas=(0.9,)), "TrainConfig", "two betas", "betas=(0.9,)"),
    (lambda: TrainConfig(1, 5, eps="1e-8"), "TrainConfig", "a number as eps", "eps='1e-8'"),
    (lambda: TrainConfig(1, 5, target_l0=[3]), "TrainConfig", "target_l0 > 0", "target_l0=[3]"),
    (
        lambda: MultiTopK(3, 4, 2, (1,), generator=g()),
        "MultiTopK",
        "integers 1 <= k <= 4 (n_latents) as ks",
        "ks=2",
    ),
    (
        lambda: MultiTopK(3, 4, (2, 4), 1, generator=g()),
        "MultiTopK",
        "a tuple of 2 finite weights",
        "weights=1",
    ),
    (
        lambda: meta(rows=topk()),
        "train_meta",
        "rows to be a tensor",
        "rows='TopK'; pass its .W_dec",
    ),
    (lambda: meta(weights="energy"), "train_meta", "weights to be a tensor", "weights='str'"),
    (lambda: meta(weights=[1.0] * 3), "train_meta", "weights to be a tensor", "weights='list'"),
]

THEORY = [
    (
        lambda: recovery(Dictionary(torch.eye(3)), torch.eye(3)),
        "recovery",
        "dictionary to be a tensor",
        "dictionary='Dictionary'; pass its .vectors",
    ),
    (
        lambda: recovery(torch.eye(3), topk()),
        "recovery",
        "W_dec to be a tensor",
        "W_dec='TopK'; pass its .W_dec",
    ),
    (
        lambda: recovery(torch.eye(3).numpy(), torch.eye(3)),
        "recovery",
        "dictionary to be a tensor",
        "dictionary='ndarray'; pass torch.from_numpy(dictionary)",
    ),
    (
        lambda: judged(dictionary=Dictionary(torch.eye(3))),
        "judge",
        "dictionary to be a tensor",
        "dictionary='Dictionary'; pass its .vectors",
    ),
    (
        lambda: judged(x=world().sample(9, generator=g())),
        "judge",
        "x to be a tensor",
        "x='Batch'; pass its .x",
    ),
    (lambda: judged(b_dec=[0.0]), "judge", "b_dec to be a tensor", "b_dec='list'"),
    (
        lambda: judged(encode=lambda x: x.numpy()),
        "judge",
        "latents to be a tensor",
        "latents='ndarray'; pass torch.from_numpy(latents)",
    ),
    (lambda: judged(generator=0), "judge", "a torch.Generator", "generator=0; use stream("),
    (
        lambda: spectral_fve_bound(torch.eye(3), 2.5, bias=False),
        "spectral_fve_bound",
        "an integer n_latents >= 0",
        "n_latents=2.5",
    ),
    (
        lambda: spectral_fve_bound(Dictionary(torch.eye(3)), 2, bias=False),
        "spectral_fve_bound",
        "rows to be a tensor",
        "rows='Dictionary'; pass its .vectors",
    ),
    (
        lambda: match(torch.zeros(5)),
        "match",
        "similarity of shape (n_rows, n_cols)",
        "shape=(5,)",
    ),
    (lambda: match([[0.0]]), "match", "similarity to be a tensor", "similarity='list'"),
    *(
        (act, where, "to be a tensor", "='Dictionary'; pass its .vectors")
        for act, where in (
            (lambda d: composition(d, d, k=1, tau=0.9, alpha=0.1), "composition"),
            (lambda d: nearest(d, d), "nearest"),
            (lambda d: atomicity(d, 1), "atomicity"),
            (lambda d: completeness(torch.eye(3), d), "completeness"),
            (lambda d: redundancy(d), "redundancy"),
            (lambda d: stitching(d, d, d, d, d), "stitching"),
            (lambda d: cosine_clusters(d, d), "cosine_clusters"),
            (lambda d: pairwise_cosine(d), "pairwise_cosine"),
            (lambda d: omp(d, d, 1), "omp"),
            (lambda d: spectrum_null(d, torch.sum, generator=g()), "spectrum_surrogates"),
            (lambda d: fve(torch.eye(3), d), "fve"),
            (lambda d: potential(d, d), "potential"),
            (lambda d: progressive(d, d, d, d, [1]), "progressive"),
            (lambda d: sign_consistency(d, d, d, d, generator=g()), "sign_consistency"),
            (lambda d: absorption(d, d, d, d, d), "absorption"),
            (lambda d: amortisation(d, d, d, d, generator=g()), "amortisation"),
        )
        for act in [partial(act, Dictionary(torch.eye(3)))]
    ),
    *(
        (make, where, "a torch.Generator", "generator=0; use stream(seed, name)")
        for make, where in (
            (lambda: search_phases(3, 2, 1, generator=0), "search_phases"),
            (lambda: isotropic_rows(3, 2, generator=0), "isotropic_rows"),
            (lambda: isotropic_surrogates(3, 2, 8, generator=0), "isotropic_rows"),
        )
    ),
    (
        lambda: search_phases(3, 2, 1, generator=None),
        "search_phases",
        "a torch.Generator",
        "generator=None",
    ),
    (
        lambda: composition(torch.eye(3), torch.eye(3), k=2.0, tau=0.9, alpha=0.1),
        "composition",
        "an integer k >= 1",
        "k=2.0",
    ),
    (lambda: atomicity(torch.eye(3), 1.0), "atomicity", "an integer k >= 1", "k=1.0"),
    (lambda: omp(torch.eye(3), torch.eye(3), 2.0), "omp", "an integer k >= 1", "k=2.0"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("act", "where", "rule", "got"), TOYMODELS + SAES + THEORY)
def test_the_message_says_where_what_and_which(act, where, rule, got):
    with pytest.raises(ValueError, match=f"^{where}: expected ") as error:
        act()
    expected, _, given = str(error.value).partition(", got ")
    assert rule in expected
    assert got in given


def magnitude_fields(law):
    return [name for name, value in vars(law.example()).items() if isinstance(value, Magnitude)]


LAWS = [law for law in all_distributions() if magnitude_fields(law)]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_every_law_refuses_a_magnitude_that_is_none(law):
    """Whether or not it checks fields of its own."""
    for name in magnitude_fields(law):
        rule = f"^{law.__name__}: expected a Magnitude as {name}, got {name}='uniform'; pass one"
        with pytest.raises(ValueError, match=rule):
            replace(law.example(), **{name: "uniform"})


def test_a_generator_on_another_device_is_refused():
    """Only the CPU draws everywhere, so the tensors are put elsewhere."""
    elsewhere = Dictionary(torch.eye(2))
    object.__setattr__(elsewhere, "vectors", torch.eye(2, device="meta"))
    model = ToyModel(Independent(2, 0.1), elsewhere)
    for where, act in (
        ("ToyModel.sample", lambda: model.sample(3, generator=g())),
        ("train", lambda: fit(topk().to("meta"))),
        ("here", lambda: check_generator("here", g(), torch.device("meta"))),
    ):
        with pytest.raises(ValueError, match=rf"^{where}: expected a generator on .*\(meta\), got"):
            act()
