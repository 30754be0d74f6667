"""The pipeline itself, as one Ray Data graph that reads like the picture in the README."""

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
from vemoclap_batch.pipeline.plan import DECODE, Plan, StagePlan

#: Two minutes of audio, as it travels.
_AUDIO_BYTES = 2 * 120 * SAMPLE_RATE
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
    merger, deferred = ChunkMerger(specs), DeferredText(pending, specs)

    # 1-3. Videos are decoded and go through the extractors, block by block, each stage a pool of equal actors.
    for block in _blocks(build_dataset(pending, config, specs, plan, plan.stages, quarantine)):
        # 4. The chunks of a long video become one row; what reads its text has had none so far.
        merged = merger.add(block)
        deferred.add(merged)
        if merged.num_rows:
            yield merged
    # A chunk whose process died for good never comes.
    if (incomplete := merger.incomplete()) is not None:
        yield incomplete

    # 5. Texts of long videos are whole now: their readers run, and no video is opened.
    if (texts := deferred.rows()) is not None:
        readers = [stage for stage in plan.stages if stage.name != DECODE and specs[stage.extractors[0]].source]
        yield from _blocks(build_dataset(texts, config, specs, plan, readers, quarantine))


def build_dataset(
    rows: pa.Table, config: Config, specs: Mapping[str, Spec], plan: Plan, stages: Sequence[StagePlan], quarantine: Any
) -> ray.data.Dataset:
    """The stages as a lazy Ray Dataset, whose rows have a column for each extractor."""
    size = plan.block_videos
    _bound_memory(size * _video_bytes(config), sum(stage.actors for stage in stages))

    # 1. Pending videos. Each slice stays a block; from_arrow would start a process on the cluster to look at them.
    dataset = ray.data.from_blocks([rows.slice(at, size) for at in range(0, rows.num_rows, size)])
    for number, stage in enumerate(stages):
        pool = partial(dataset.map_batches, **_pool(stage, config))
        if stage.name == DECODE:
            # 2. Decode: each video is opened once, for all extractors, in a process that may hang or crash.
            arguments = {"config": config, "specs": dict(specs), "quarantine": quarantine}
            dataset = pool(DecodeActor, fn_constructor_kwargs=arguments)
        else:
            # 3. Extract: first what reads frames, then audio, then text, so that the large columns leave early.
            later = [specs[name] for following in stages[number + 1 :] for name in following.extractors]
            read_later = {FRAMES: any(spec.reads_frames for spec in later)}
            read_later[WAVEFORM] = any(spec.reads_waveform for spec in later)
            arguments = {
                "names": stage.extractors,
                "specs": dict(specs),
                "threads": stage.threads,
                "device": "cuda" if stage.gpus else "cpu",
                "quarantine": quarantine,
                "timeout_s": config.pipeline.extract_timeout_s,
                "drop": [column for column, is_read in read_later.items() if not is_read],
            }
            dataset = pool(ExtractActor, fn_constructor_kwargs=arguments)
    return dataset


def _blocks(dataset: ray.data.Dataset) -> Iterator[pa.Table]:
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except RayError as error:
        raise RunBroken(str(error).strip().splitlines()[-1]) from error


def _pool(stage: StagePlan, config: Config) -> dict[str, Any]:
    return {
        "batch_size": None,  # a block is a batch
        "batch_format": "pyarrow",
        "zero_copy_batch": True,
        "compute": ray.data.ActorPoolStrategy(size=stage.actors, max_tasks_in_flight_per_actor=2),
        "num_cpus": stage.cpus,
        "num_gpus": stage.gpus,
        # Both are endless by default: a video that kills its actor would be replayed for ever. The quarantine ends that
        # after two deaths a video; a block that waits behind it loses a retry with each, so the two bounds are one.
        "ray_remote_args_fn": partial(
            dict,
            max_restarts=config.pipeline.max_actor_restarts,
            max_task_retries=config.pipeline.max_actor_restarts,
        ),
    }


def _video_bytes(config: Config) -> int:
    """Frames and audio of an ordinary video as they travel: RGB frames of 16 to 9, and two minutes."""
    frame = 3 * config.sampling.short_side**2 * 16 // 9
    return min(config.sampling.frames, config.decode.whole_frames) * frame + _AUDIO_BYTES


def _bound_memory(block_bytes: int, actors: int) -> None:
    """Settings of Ray Data for the graph: what may wait in the object store, and no output of its own."""
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
