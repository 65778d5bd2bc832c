"""Throughput of the eager engine, as a ratio to a bare training loop measured in the same run.

The bare loop does the same arithmetic for one TopK SAE (256 features in 64 dimensions, width 256,
k = 5, batch 1,024, Adam) without history, dead latents, decoder constraint or checks: the ratio is
what those cost. Data come from memory in both.
"""

import time

import torch

from sae import TopK, TrainConfig, train
from toymodels import Independent, ToyModel, random_unit, stream

D_IN, N_LATENTS, K, BATCH, N_STEPS = 64, 256, 5, 1024, 200


def main() -> None:
    """Prints SAE-samples per second of the bare loop and of `train` for 1 and 4 members."""
    torch.set_num_threads(1)
    dictionary = random_unit(256, D_IN, generator=stream(0, "dictionary"))
    world = ToyModel(Independent(256, 0.02), dictionary)
    batches = [world.sample(BATCH, generator=stream(i, "data")).x for i in range(8)]
    bare = _rate(lambda: _bare_loop(batches), 1)
    print(f"bare loop           {bare:10,.0f} SAE-samples/s")
    for members in (1, 4):
        saes = [_sae(i) for i in range(members)]
        rate = _rate(lambda saes=saes: _train(saes, batches), members)
        print(f"train, {members} member(s)  {rate:10,.0f} SAE-samples/s, {rate / bare:.2f} x bare")


def _sae(seed: int) -> TopK:
    return TopK(D_IN, N_LATENTS, K, generator=stream(seed, "init"))


def _rate(work, members: int) -> float:
    work()  # warm-up
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return members * N_STEPS * BATCH / best


def _train(saes: list[TopK], batches: list[torch.Tensor]) -> None:
    turn = iter(range(N_STEPS))

    def draw(n: int, *, generator: torch.Generator) -> torch.Tensor:
        return batches[next(turn) % len(batches)]

    train(saes, draw, TrainConfig(N_STEPS, BATCH, n_records=2), generator=stream(0, "train"))


def _bare_loop(batches: list[torch.Tensor]) -> None:
    sae = _sae(0)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3, fused=True)
    for step in range(N_STEPS):
        x = batches[step % len(batches)]
        pre_acts = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
        values, indices = pre_acts.topk(K, dim=1, sorted=False)
        latents = torch.zeros_like(pre_acts).scatter(1, indices, values.relu())
        loss = (x - latents @ sae.W_dec - sae.b_dec).square().sum(1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
