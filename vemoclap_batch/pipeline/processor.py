"""The pipeline as a function from one Ray Dataset to another; it reads like the picture in the README."""

from __future__ import annotations

import logging
import math
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray.data import Dataset
from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
from ray.data._internal.execution import streaming_executor
from ray.data._internal.stats import _StatsManager
from ray.util.annotations import RayDeprecationWarning

from vemoclap_batch import lifetime
from vemoclap_batch.config import Config
from vemoclap_batch.extractors.registry import Spec, resolve
from vemoclap_batch.media.worker import DecodeWorker
from vemoclap_batch.pipeline.chain import ChainActor, ChainOptions
from vemoclap_batch.pipeline.cluster import Cluster, cluster_resources, with_gpu_memory
from vemoclap_batch.pipeline.plan import make_plan
from vemoclap_batch.pipeline.quarantine import create_quarantine
from vemoclap_batch.pipeline.rows import FRAMES, WAVEFORM
from vemoclap_batch.pipeline.stages import IN_FLIGHT, Plan, StagePlan

_GIB = 1024**3
#: Of a dataset whose length nobody knows: enough to use the whole cluster.
_MANY = 1_000_000


def build_processor(config: Config) -> Callable[[Dataset], Dataset]:
    """Build a function that adds the features of a configuration's extractors to a dataset of videos.

    The dataset needs a column ``uri``. All its columns stay, but ``frames`` and ``waveform``. Each extractor adds a
    struct column of its own name: ``feature`` (float32 [length, width]), for sequences ``start_s`` and ``end_s`` (of
    each row of the feature), its other columns (such as ``text``), and ``error_type`` and ``message`` where it failed
    on the video; it is null where decoding failed, which the struct ``decoded`` then says. No failure of a video ends
    the dataset. ``video_id``, ``content_key`` and ``wanted`` (the extractors to run) are added where they are missing.

    Actors are planned for the cluster when the function is called, and end with this process at the latest. One
    CPU of a node stays free, for tasks that read.

    Args:
        config: the extractors, and how they run; see :func:`vemoclap_batch.config.load_config`.

    Raises:
        ConfigError: from the call of the function: wrong settings, missing weights, or a cluster that is too small.
    """

    def processor(dataset: Dataset) -> Dataset:
        specs = resolve(config)
        plan = make_plan(
            config,
            specs,
            dict.fromkeys(specs, _MANY),
            _MANY,
            with_gpu_memory(replace(cluster_resources(), can_grow=False), config),
        )
        plan = replace(plan, stages=tuple(_leaving_room(stage, plan) for stage in plan.stages))
        dataset = dataset.repartition(target_num_rows_per_block=plan.block_videos)
        driver = lifetime.driver_address(ray.util.get_node_ip_address())
        return process(dataset, config, specs, plan, create_quarantine(driver), driver)

    return processor


def process(
    dataset: Dataset, config: Config, specs: Mapping[str, Spec], plan: Plan, quarantine: Any, driver: str, *,
    decoder: Any = DecodeWorker,
) -> Dataset:  # fmt: skip
    """Run a dataset of videos through the stages of a plan; a block of the dataset is a task of each stage.

    Args:
        dataset: a row for each video, see :mod:`vemoclap_batch.pipeline.rows`.
        config: the run's configuration.
        specs: its extractors.
        plan: the stages.
        quarantine: handle of the run's :class:`~vemoclap_batch.pipeline.quarantine.Quarantine`.
        driver: the address of the driver, with which the actors end, see :mod:`vemoclap_batch.lifetime`.
        decoder: what decodes, see :class:`~vemoclap_batch.pipeline.chain.ChainActor`.
    """
    configure(dataset, plan)
    shared = {"specs": dict(specs), "config": config, "quarantine": quarantine, "decoder": decoder}
    for stage, options in zip(plan.stages, chain_options(config, specs, plan, driver), strict=True):
        dataset = dataset.map_batches(
            ChainActor, fn_constructor_kwargs={"options": options, **shared}, **_pool(stage, config)
        )
    return dataset


def chain_options(config: Config, specs: Mapping[str, Spec], plan: Plan, driver: str) -> list[ChainOptions]:
    """Say how the actors of each stage of a plan run."""
    found = []
    for number, stage in enumerate(plan.stages):
        later = [name for following in plan.stages[number + 1 :] for name in following.extractors]
        found.append(
            ChainOptions(
                label=stage.name,
                names=stage.extractors,
                threads=stage.threads,
                device=stage.torch_device(config),
                drop=_unread([specs[name] for name in later]),
                yields_cores=not stage.gpus and any(other.gpus for other in plan.stages),
                timeout_s=config.pipeline.extract_timeout_s,
                driver=driver,
            )
        )
    return found


def _unread(later: Sequence[Spec]) -> tuple[str, ...]:
    """List the columns of media that none of the extractors of later stages reads."""
    read = {FRAMES: any(spec.reads_frames for spec in later), WAVEFORM: any(spec.reads_waveform for spec in later)}
    return tuple(column for column, is_read in read.items() if not is_read)


def _pool(stage: StagePlan, config: Config) -> dict[str, Any]:
    restarts = config.pipeline.max_actor_restarts
    actor = {
        # A share of a GPU stands here, where Ray Data allows it without a batch size, too. Any such size would bundle
        # small blocks into larger ones, and the first results would come late.
        "num_gpus": stage.gpus,
        # CPUs and GPUs alone would let more chains onto a node than its memory holds.
        "memory": int(stage.memory_gb * _GIB),
        # Both are endless by default: a video that kills its actor would be replayed for ever. The quarantine ends that
        # after two deaths a video; a block that waits behind it loses a retry with each, so the two bounds are one.
        "max_restarts": restarts,
        "max_task_retries": restarts,
    }
    return {
        "batch_size": None,  # a block is a batch
        "batch_format": "pyarrow",
        "zero_copy_batch": True,
        # Those that have no place yet wait for a node that joins, and are placed there within seconds.
        "compute": ray.data.ActorPoolStrategy(size=stage.asked, max_tasks_in_flight_per_actor=IN_FLIGHT),
        "num_cpus": stage.cpus,
        "ray_remote_args_fn": partial(dict, **actor),
    }


def configure(dataset: Dataset, plan: Plan) -> None:
    """Bound what may wait in the object store, and keep Ray Data's own output off the terminal.

    Changes the context of this dataset and of those made from it, and no other.
    """
    context = dataset.context
    context.execution_options = copy(context.execution_options)
    # Else blocks that wait for the slowest stage would fill half of the object store, however large the machine is.
    context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
        object_store_memory=plan.object_store_bytes
    )
    # Above half of the limit a stage whose output has no room may still run one task; without these, Ray Data lets
    # the stage before go on instead.
    context.object_store_memory_pressure_fraction = 0.5
    context.object_store_reservation_overshoot_ratio = 1.5
    # A block stays a block from stage to stage.
    context.target_max_block_size = None
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Bounds on restarts and retries have no other way in as yet; the pinned version keeps this one.
    warnings.filterwarnings("ignore", category=RayDeprecationWarning, message=".*ray_remote_args_fn")


@contextmanager
def without_helpers(cluster: Cluster) -> Iterator[None]:
    """On a Ray of our own, run datasets without Ray Data's actors for metrics and for the autoscaler.

    Nobody reads the metrics there, and no node can join. The two take 2.5 s of a CPU and 210 MiB, and a dataset waits
    for them before its first task. Ray Data 2.60 has no setting for that.
    """
    if cluster.can_grow:
        yield
        return
    nothing = staticmethod(lambda *_, **__: None)
    total = ray.data.ExecutionResources(cluster.cpus, cluster.gpus, object_store_memory=cluster.object_store_gb * _GIB)
    with ExitStack() as stack:
        for name in ("update_execution_metrics", "update_iteration_metrics", "register_dataset_to_stats_actor"):
            stack.enter_context(_replaced(_StatsManager, name, nothing))
        stack.enter_context(
            _replaced(_StatsManager, "gen_dataset_id_from_stats_actor", staticmethod(lambda: uuid.uuid4().hex))
        )
        fixed = lambda *_, **__: _FixedCluster(total)  # noqa: E731
        stack.enter_context(_replaced(streaming_executor, "create_cluster_autoscaler", fixed))
        yield


@contextmanager
def _replaced(holder: Any, name: str, value: Any) -> Iterator[None]:
    before = vars(holder)[name]
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


class _FixedCluster(ClusterAutoscaler):
    """Says what a cluster has that does not change."""

    def __init__(self, total: Any) -> None:
        self._total = total

    def try_trigger_scaling(self) -> None:
        pass

    def on_executor_shutdown(self) -> None:
        pass

    def get_total_resources(self) -> Any:
        return self._total


def _leaving_room(stage: StagePlan, plan: Plan) -> StagePlan:
    """Have the actors of a stage reserve a little less, so that a CPU of each node is free for tasks that read."""
    smallest = min((node.cpus for node in plan.cluster.nodes if node.cpus), default=1.0)
    # Ray counts in 1/10000 of a CPU.
    return replace(stage, cpus=math.floor(stage.cpus * (smallest - 1) / smallest * 1000) / 1000)
