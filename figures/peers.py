"""Other trainers of TopK SAEs, each brought to one step on given activations.

They are optional: what is not installed is left out. All train float32 with Adam, on the batches of
the caller, with their own defaults in everything else.
"""

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sae import TopK
from toymodels import stream

Batch = Callable[[], Tensor]  # returns x [batch, d_in]
Trainer = Callable[[int], object]  # takes this many steps

DISTRIBUTIONS = {  # by name here: the module that must be there, and who distributes it
    "sae-lens": ("sae_lens", "sae-lens"),
    "dictionary_learning": ("dictionary_learning", "dictionary-learning"),
    "sparsify": ("sparsify", "eai-sparsify"),
    "overcomplete": ("overcomplete", "Overcomplete"),
}


def installed() -> dict[str, str]:
    """Returns the versions of the peers that are there, by name."""
    return {
        name: importlib.metadata.version(distribution)
        for name, (module, distribution) in DISTRIBUTIONS.items()
        if importlib.util.find_spec(module) is not None
    }


def trainer(name: str, d_in: int, n_latents: int, k: int, batch: Batch, size: int) -> Trainer:
    """Returns the trainer of that name; "plain torch" is always there.

    Args:
        batch: makes x [size, d_in]; called once for each step.
    """
    makers = {
        "plain torch": _plain_torch,
        "sae-lens": _sae_lens,
        "dictionary_learning": _dictionary_learning,
        "sparsify": _sparsify,
        "overcomplete": _overcomplete,
    }
    return makers[name](d_in, n_latents, k, batch, size)


def _plain_torch(d_in: int, n_latents: int, k: int, batch: Batch, size: int) -> Trainer:
    """The same arithmetic without history, dead latents, constraints or checks; fused Adam."""
    sae = TopK(d_in, n_latents, k, generator=stream(0, "init"))
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3, fused=True)

    def train(n_steps: int) -> None:
        for _ in range(n_steps):
            x = batch()
            pre_acts = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
            values, indices = pre_acts.topk(k, dim=1, sorted=False)
            latents = torch.zeros_like(pre_acts).scatter(1, indices, values.relu())
            loss = (x - latents @ sae.W_dec - sae.b_dec).square().sum(1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return train


def _sae_lens(d_in: int, n_latents: int, k: int, batch: Batch, size: int) -> Trainer:
    """Its SAETrainer, as its own helper for synthetic data sets it up, without evaluations."""
    from sae_lens import LoggingConfig, TopKTrainingSAE, TopKTrainingSAEConfig  # type: ignore[import-not-found]
    from sae_lens.config import SAETrainerConfig  # type: ignore[import-not-found]
    from sae_lens.training.sae_trainer import SAETrainer  # type: ignore[import-not-found]

    def train(n_steps: int) -> None:
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d_in, d_sae=n_latents, k=k))
        config = SAETrainerConfig(
            n_checkpoints=0,
            checkpoint_path=None,
            save_final_checkpoint=False,
            total_training_samples=n_steps * size,
            device="cpu",
            autocast=False,
            lr=1e-3,
            lr_end=1e-3,
            lr_scheduler_name="constant",
            lr_warm_up_steps=0,
            adam_beta1=0.9,
            adam_beta2=0.999,
            lr_decay_steps=0,
            n_restart_cycles=1,
            train_batch_size_samples=size,
            dead_feature_window=1000,
            feature_sampling_window=2000,
            logger=LoggingConfig(log_to_wandb=False, eval_every_n_wandb_logs=2**31 - 1),
            n_batches_for_norm_estimate=1000,
        )
        SAETrainer(cfg=config, sae=sae, data_provider=_forever(batch)).fit()

    return train


def _dictionary_learning(d_in: int, n_latents: int, k: int, batch: Batch, size: int) -> Trainer:
    from dictionary_learning.trainers.top_k import TopKTrainer  # type: ignore[import-not-found]

    about = {"layer": 0, "lm_name": "none", "device": "cpu", "lr": 1e-3, "warmup_steps": 1}
    own = TopKTrainer(steps=10**6, activation_dim=d_in, dict_size=n_latents, k=k, **about)

    def train(n_steps: int) -> None:
        for step in range(n_steps):
            own.update(step, batch())

    return train


def _sparsify(d_in: int, n_latents: int, k: int, batch: Batch, size: int) -> Trainer:
    """Its SparseCoder in the loop of its Trainer, which itself wants a language model."""
    from sparsify import SparseCoder, SparseCoderConfig  # type: ignore[import-not-found]

    sae = SparseCoder(d_in, SparseCoderConfig(num_latents=n_latents, k=k))
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3, fused=True)

    def train(n_steps: int) -> None:
        for _ in range(n_steps):
            output = sae(batch())
            output.fvu.backward()
            torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
            sae.remove_gradient_parallel_to_decoder_directions()
            optimizer.step()
            optimizer.zero_grad()
            sae.set_decoder_norm_to_unit_norm()

    return train


def _overcomplete(d_in: int, n_latents: int, k: int, batch: Batch, size: int) -> Trainer:
    from overcomplete.sae import TopKSAE, train_sae  # type: ignore[import-not-found]

    sae = TopKSAE(d_in, n_latents, top_k=k)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3, fused=True)

    def error(x: Tensor, x_hat: Tensor, pre: Tensor, z: Tensor, dictionary: Tensor) -> Tensor:
        return (x - x_hat).square().sum(1).mean()

    def train(n_steps: int) -> None:
        batches = [batch] * n_steps
        train_sae(sae, (make() for make in batches), error, optimizer, nb_epochs=1, monitoring=0)

    return train


def _forever(batch: Batch) -> Iterator[Tensor]:
    while True:
        yield batch()
