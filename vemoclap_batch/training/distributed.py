"""A training on several workers, by Ray Train: each reads the shards, takes its share of every batch, and they agree.

The classifier is small, so what travels is one tensor a step: all gradients and the loss, summed over the workers.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.queue import Empty, Queue

from vemoclap_batch.config import Config, ConfigError
from vemoclap_batch.errors import RunBroken
from vemoclap_batch.fusion.job import STATE, Job, Watch, finished, open_job, work
from vemoclap_batch.pipeline.cluster import Cluster, connected
from vemoclap_batch.store.folder import Folder

#: Times that a lost worker is made up for: all begin again from the state.
_RETRIES = 3
_TELL_EVERY_S = 1.0


def train_distributed(
    job: Job, config: Config, watch: Watch, address: str | None = None, verbose: bool = False
) -> None:
    """Run a job on its workers; the first of them leaves the checkpoint in the job's folder.

    Args:
        job: its folder and its store must be within reach of every node.
        config: says whether GPUs may be used.
        watch: told how it goes.
        address: of the Ray cluster; without it, ``RAY_ADDRESS`` or this machine.
        verbose: show Ray's own log too.

    Raises:
        ConfigError: the cluster is too small for the workers.
        RunBroken: workers were lost, or failed, again and again.
    """
    with connected(address, verbose) as cluster:
        is_gpu = _fits(job.workers, cluster, config)
        if not verbose:
            logging.getLogger("ray.train").setLevel(logging.ERROR)
        queue = Queue(actor_options={"num_cpus": 0})
        trainer = TorchTrainer(
            _on_worker,
            train_loop_config={"job": job, "queue": queue},
            scaling_config=ScalingConfig(num_workers=job.workers, use_gpu=is_gpu),
            run_config=RunConfig(
                name=f"ray-{secrets.token_hex(4)}", storage_path=f"{job.folder}/{STATE}",
                failure_config=FailureConfig(max_failures=_RETRIES),
            ),
        )  # fmt: skip
        ended = threading.Event()
        teller = threading.Thread(target=_tell, args=(queue, watch, ended), daemon=True)
        teller.start()
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise RunBroken(f"training on {job.workers} workers: {error}") from error
        finally:
            ended.set()
            teller.join()
            queue.shutdown()
    if finished(job):
        # Ray Train's own files, which it wrote until just now.
        (Folder(job.folder) / STATE).remove()


def _fits(workers: int, cluster: Cluster, config: Config) -> bool:
    """Whether the workers train on GPUs.

    Raises:
        ConfigError: there is not enough for them: they would wait for ever.
    """
    is_gpu = config.accelerator == "gpu" or (config.accelerator == "auto" and cluster.gpus > 0)
    mistakes = []
    if cluster.cpus < workers:
        mistakes.append(f"--workers {workers}: each takes a CPU, and the cluster has {cluster.cpus:g}")
    if is_gpu and cluster.gpus < workers:
        mistakes.append(
            f"--workers {workers}: each takes a GPU, and the cluster has {cluster.gpus:g}; --set accelerator=cpu "
            "does without"
        )
    if mistakes:
        raise ConfigError(mistakes)
    return is_gpu


class _Workers:
    """A worker's place in the process group that Ray Train made: gloo on CPUs, nccl on GPUs."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank, self.size = context.get_world_rank(), context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()

    def add(self, values: torch.Tensor) -> None:
        """Sum a tensor over the workers, in place."""
        dist.all_reduce(values)


class _Messages:
    """Sends what the driver is to show; steps at most once a second, since each message is a call."""

    def __init__(self, queue: Queue) -> None:
        self._queue, self._told = queue, 0.0

    def at(self, step: int) -> None:
        now = time.monotonic()
        if now - self._told >= _TELL_EVERY_S:
            self._told = now
            self._queue.put(("at", (step,)))

    def evaluated(self, step: int, loss: float, accuracy: float) -> None:
        self._queue.put(("evaluated", (step, loss, accuracy)))


def _on_worker(config: dict[str, Any]) -> None:
    job: Job = config["job"]
    work(job, open_job(job), _Messages(config["queue"]), _Workers())


def _tell(queue: Queue, watch: Watch, ended: threading.Event) -> None:
    """Pass on what the first worker says, until the training has ended and all is said."""
    while True:
        is_over = ended.is_set()
        try:
            what, values = queue.get(timeout=0.2)
            getattr(watch, what)(*values)
        except Empty:
            if is_over:
                return
