"""A training on several workers, by Ray Train: each reads the features and takes its share of every batch."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vemoclap_batch.config import Config
from vemoclap_batch.errors import ConfigError, RunBroken
from vemoclap_batch.pipeline.cluster import Cluster, connected
from vemoclap_batch.store.folder import Folder
from vemoclap_batch.training.train_loop import STATE_FOLDER, OnProgress, TrainLoopConfig, train_loop

#: Times that a lost worker is replaced: all resume from the state.
_RETRIES = 3
#: Seconds between two steps that rank 0 reports, since each message is a remote call.
_REPORT_EVERY_S = 1.0


def train_distributed(
    training: TrainLoopConfig, config: Config, on_progress: OnProgress, address: str | None, verbose: bool
) -> None:
    """Train on several workers; rank 0 leaves the checkpoint in the training's folder.

    Args:
        training: its folder and its store must be within reach of every node.
        config: says whether GPUs may be used.
        on_progress: called in this process.
        address: of the Ray cluster; without it, ``RAY_ADDRESS`` or this machine.
        verbose: show Ray's own log too.

    Raises:
        ConfigError: the cluster is too small for the workers.
        RunBroken: workers were lost, or failed, again and again.
    """
    with connected(address, verbose) as cluster:
        use_gpu = _check_workers(training.workers, cluster, config)
        if not verbose:
            logging.getLogger("ray.train").setLevel(logging.ERROR)
        # On this node: the loss of another one must not end the training.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        trainer = TorchTrainer(
            _train_loop_per_worker,
            train_loop_config={"training": training, "queue": queue},
            scaling_config=ScalingConfig(num_workers=training.workers, use_gpu=use_gpu),
            run_config=RunConfig(
                name=f"ray-{secrets.token_hex(4)}", storage_path=f"{training.folder}/{STATE_FOLDER}",
                failure_config=FailureConfig(max_failures=_RETRIES),
            ),
        )  # fmt: skip
        listener = threading.Thread(target=_listen, args=(queue, on_progress), daemon=True)
        listener.start()
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise RunBroken(f"training on {training.workers} workers: {error}") from error
        finally:
            queue.put(None)
            listener.join()
            queue.shutdown()
    if training.finished_card():
        # Ray Train's own files, which it wrote until just now.
        (Folder(training.folder) / STATE_FOLDER).remove()


def _check_workers(workers: int, cluster: Cluster, config: Config) -> bool:
    """Whether the workers train on GPUs.

    Raises:
        ConfigError: the cluster has too few CPUs or GPUs: they would wait for ever.
    """
    wants_gpu = config.accelerator == "gpu" or (config.accelerator == "auto" and cluster.gpus > 0)
    use_gpu = wants_gpu and config.pipeline.gpu_device == "cuda"
    mistakes = []
    if cluster.cpus < workers:
        mistakes.append(f"--workers {workers}: each takes a CPU, and the cluster has {cluster.cpus:g}")
    if use_gpu and cluster.gpus < workers:
        mistakes.append(
            f"--workers {workers}: each takes a GPU, and the cluster has {cluster.gpus:g}; --set accelerator=cpu "
            "does without"
        )
    if mistakes:
        raise ConfigError(mistakes)
    return use_gpu


def _train_loop_per_worker(loop_config: dict[str, Any]) -> None:
    """Runs on each worker, in the process group that Ray Train made: gloo on CPUs, nccl on GPUs."""
    training: TrainLoopConfig = loop_config["training"]
    sent_at = 0.0

    def send(step: int, loss: float | None, accuracy: float | None) -> None:
        nonlocal sent_at
        if loss is not None or time.monotonic() - sent_at >= _REPORT_EVERY_S:
            sent_at = time.monotonic()
            loop_config["queue"].put((step, loss, accuracy))

    train_loop(training, training.open_data(), send, get_device())


def _listen(queue: Queue, on_progress: OnProgress) -> None:
    """Pass on what rank 0 sends, until None comes."""
    while (message := queue.get()) is not None:
        on_progress(*message)
