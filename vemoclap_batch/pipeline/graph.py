"""The pipeline as one Ray Data graph; it reads like the picture in the README."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from vemoclap_batch.config import Config
from vemoclap_batch.errors import RunBroken
from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.media.clip import SAMPLE_RATE
from vemoclap_batch.pipeline.actors import DecodeActor, ExtractActor
from vemoclap_batch.pipeline.chunks import FRAMES, WAVEFORM, ChunkMerger
from vemoclap_batch.pipeline.pending import DeferredText
from vemoclap_batch.pipeline.stages import DECODE, Plan, StagePlan

#: Blocks under way for each actor: what it reads and what it makes of it.
_BLOCKS_PER_ACTOR = 2


def run_graph(
    pending: pa.Table, config: Config, specs: Mapping[str, Spec], plan: Plan, quarantine: Any
) -> Iterator[pa.Table]:
    """Run the pending cells through the stages; yields finished blocks as they come, in any order.

    A long video comes as one row when all its chunks are through, and once more with what is made of its texts.

    Args:
        pending: a row for each video with something to do, see :mod:`vemoclap_batch.pipeline.chunks`.
        config: the run's configuration.
        specs: its extractors.
        plan: the pools; a stage without one has no work and is left out.
        quarantine: handle of the run's :class:`~vemoclap_batch.pipeline.quarantine.Quarantine`.

    Raises:
        RunBroken: a model does not load, or actors died more often than allowed.
    """
    shared = {"specs": dict(specs), "quarantine": quarantine}
    extract = [stage for stage in plan.stages if stage.name != DECODE]
    merger, deferred = ChunkMerger(specs), DeferredText(pending, specs)

    # 1. Pending videos, as many to a block as are batched together.
    dataset = _dataset(pending, config, plan, plan.stages)

    # 2. Decode: each video is opened once, for all extractors, in a process that may hang or crash.
    for stage in plan.stages:
        if stage.name == DECODE:
            arguments = {"config": config, **shared}
            dataset = dataset.map_batches(DecodeActor, fn_constructor_kwargs=arguments, **_pool(stage, config))

    # 3. Extract: first what reads frames, then audio, then text, so that the large columns leave the rows early.
    for number, stage in enumerate(extract):
        later = [specs[name] for following in extract[number + 1 :] for name in following.extractors]
        arguments = {**_extractors(stage, later, config), **shared}
        dataset = dataset.map_batches(ExtractActor, fn_constructor_kwargs=arguments, **_pool(stage, config))

    # 4. Merge: the chunks of a long video become one row. Of one whose process died for good, some never come.
    for block in _blocks(dataset):
        merged = merger.add(block)
        deferred.add(merged)
        if merged.num_rows:
            yield merged
    if (incomplete := merger.incomplete()) is not None:
        yield incomplete

    # 5. Texts of long videos are whole only now: what reads them runs, and no video is opened.
    if (texts := deferred.rows()) is not None:
        readers = [stage for stage in extract if specs[stage.extractors[0]].source]
        dataset = _dataset(texts, config, plan, readers)
        for stage in readers:
            arguments = {**_extractors(stage, [], config), **shared}
            dataset = dataset.map_batches(ExtractActor, fn_constructor_kwargs=arguments, **_pool(stage, config))
        yield from _blocks(dataset)


def _dataset(rows: pa.Table, config: Config, plan: Plan, stages: Sequence[StagePlan]) -> ray.data.Dataset:
    """Make a dataset of rows, in blocks of the plan's size, for these stages."""
    size = plan.block_videos
    _configure(config, size, sum(stage.actors for stage in stages))
    # Each slice stays a block; from_arrow would start a process on the cluster to look at them.
    return ray.data.from_blocks([rows.slice(at, size) for at in range(0, rows.num_rows, size)])


def _extractors(stage: StagePlan, later: Sequence[Spec], config: Config) -> dict[str, Any]:
    """Arguments of a pool's actors: the extractors to run, and the columns to drop, which no later one reads."""
    unread = {
        FRAMES: not any(spec.reads_frames for spec in later),
        WAVEFORM: not any(spec.reads_waveform for spec in later),
    }
    return {
        "names": stage.extractors,
        "threads": stage.threads,
        "device": stage.torch_device(config),
        "timeout_s": config.pipeline.extract_timeout_s,
        "drop": [column for column, is_unread in unread.items() if is_unread],
    }


def _pool(stage: StagePlan, config: Config) -> dict[str, Any]:
    restarts = config.pipeline.max_actor_restarts
    return {
        "batch_size": None,  # a block is a batch
        "batch_format": "pyarrow",
        "zero_copy_batch": True,
        "compute": ray.data.ActorPoolStrategy(size=stage.actors, max_tasks_in_flight_per_actor=2),
        "num_cpus": stage.cpus,
        "num_gpus": stage.gpus,
        # Both are endless by default: a video that kills its actor would be replayed for ever. The quarantine ends that
        # after two deaths a video; a block that waits behind it loses a retry with each, so the two bounds are one.
        "ray_remote_args_fn": partial(dict, max_restarts=restarts, max_task_retries=restarts),
    }


def _blocks(dataset: ray.data.Dataset) -> Iterator[pa.Table]:
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except RayError as error:
        raise RunBroken(str(error).strip().splitlines()[-1]) from error


def _configure(config: Config, block_videos: int, actors: int) -> None:
    """Bound what may wait in the object store, and keep Ray Data's own output off the terminal."""
    # An ordinary decoded video: RGB frames of 16 to 9, and two minutes of audio.
    frame_bytes = 3 * config.sampling.short_side**2 * 16 // 9
    frames = min(config.sampling.frames, config.decode.whole_frames)
    block_bytes = block_videos * (frames * frame_bytes + 2 * 120 * SAMPLE_RATE)
    context = ray.data.DataContext.get_current()
    # Else blocks that wait for the slowest stage would fill half of the object store, however large the machine is.
    context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
        object_store_memory=actors * _BLOCKS_PER_ACTOR * block_bytes
    )
    # Above half of the limit a stage whose output has no room may still run one task; without these, Ray Data lets
    # the decoder go on instead, and the chunks of a long video pile up.
    context.object_store_memory_pressure_fraction = 0.5
    context.object_store_reservation_overshoot_ratio = 1.5
    # A block is what was put together: only what is larger than so many videos usually are is split, and the chunks of
    # a long video, which decoding yields one by one, are not put together beyond that.
    context.target_max_block_size = block_bytes
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Bounds on restarts and retries have no other way in as yet; the pinned version keeps this one.
    warnings.filterwarnings("ignore", category=RayDeprecationWarning, message=".*ray_remote_args_fn")
