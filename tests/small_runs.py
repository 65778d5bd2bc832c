"""A small world, two small SAEs for it, and their weights as bits."""

import torch

from sae import ReLU, TopK
from toymodels import Independent, ToyModel, random_unit, stream


def world(seed, n_features=16, d_in=12, prob=0.06):
    dictionary = random_unit(n_features, d_in, generator=stream(seed, "dictionary"))
    return ToyModel(Independent(n_features, prob), dictionary)


def topk(seed=0, d_in=12, n_latents=32, k=2, **options):
    return TopK(d_in, n_latents, k, generator=stream(seed, f"init {k}"), **options)


def relu(seed=0, d_in=12, n_latents=32, l1=0.1, **options):
    return ReLU(d_in, n_latents, l1, generator=stream(seed, f"init {l1}"), **options)


def bits(sae):
    return {name: value.detach().clone() for name, value in sae.state_dict().items()}


def same_bits(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)
