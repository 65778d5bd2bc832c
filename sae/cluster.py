"""Runs on a cluster, by ray (optional)."""

import importlib

import torch

from sae.jobs import Answer, Answers, Job, one_line


def in_ray(job: Job, configs: dict[str, object]) -> Answers:
    """Yields each key with its answer, from ray tasks of one core and one torch thread each.

    The results are in the store, in a folder that all machines of the cluster share. If the process
    of a task dies, the task is tried again, once. Whoever stops early closes the generator.

    Raises:
        ImportError: ray is not installed.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        todo = "install the [scale] extra, or use executor='processes'"
        raise ImportError(f"map_runs: executor='ray' needs ray; {todo}") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    task = ray.remote(num_cpus=1, max_retries=1)(_do)
    keys = {task.remote(job, config): key for key, config in configs.items()}
    try:
        while keys:
            reference = ray.wait(list(keys), num_returns=1)[0][0]
            try:
                answer = ray.get(reference)
            except ray.exceptions.RayError as error:
                answer = Answer("failed", f"ray: {one_line(error)}")
            yield keys.pop(reference), answer
    finally:
        for reference in keys:
            ray.cancel(reference, force=True)


def _do(job: Job, config: object) -> Answer:
    torch.set_num_threads(1)
    return job.do(job.function_itself(), config)
