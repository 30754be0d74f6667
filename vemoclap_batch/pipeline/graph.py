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
from vemoclap_batch.extractors.base import Resources
from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.media.clip import SAMPLE_RATE
from vemoclap_batch.pipeline.actors import DecodeStage, ExtractStage
from vemoclap_batch.pipeline.chunks import Joiner
from vemoclap_batch.pipeline.plan import DECODE, Plan, StagePlan
from vemoclap_batch.pipeline.rows import FRAMES, WAVEFORM
from vemoclap_batch.pipeline.windows import LaterTexts, timed_sources

#: Two minutes of sound, as it travels.
_SOUND_BYTES = 2 * 120 * SAMPLE_RATE
#: Blocks under way for each actor: what it reads and what it makes of it.
_BLOCKS_PER_ACTOR = 2


def block_size(videos: int, config: Config, cpus: float) -> int:
    """Videos per block: as many as are batched together, but enough blocks to keep every core busy."""
    return max(1, min(config.block_videos, int(videos / (4 * max(cpus, 1)))))


def run_graph(
    rows: pa.Table, config: Config, specs: Mapping[str, Spec], plan: Plan, size: int, ledger: Any
) -> Iterator[pa.Table]:
    """Run the missing cells through the stages; yields finished blocks as they come, in any order.

    A long video goes through in parts and is yielded as one row when they all are through. Then its text is known, and
    the extractors that read texts have their turn: its row comes once more, with their results.

    Args:
        rows: the work, see :mod:`vemoclap_batch.pipeline.rows`.
        config: the run's configuration.
        specs: its extractors.
        plan: the pools; a stage without one has no work and is left out.
        size: videos per block.
        ledger: handle of the run's :class:`~vemoclap_batch.pipeline.quarantine.Ledger`.

    Raises:
        RunBroken: a model does not load, or actors died more often than allowed.
    """
    joiner = Joiner(specs)
    texts = LaterTexts(rows, specs)
    for block in _run(rows, config, specs, plan, plan.stages, size, ledger):
        joined = joiner.add(block)
        texts.note(joined)
        if joined.num_rows:
            yield joined
    if (lost := joiner.lost()) is not None:
        yield lost
    if (later := texts.rows()) is not None:
        stages = [stage for stage in plan.stages if _reads_text(stage, specs)]
        yield from _run(later, config, specs, plan, stages, size, ledger)


def _run(
    rows: pa.Table, config: Config, specs: Mapping[str, Spec], plan: Plan, stages: Sequence[StagePlan], size: int,
    ledger: Any,
) -> Iterator[pa.Table]:  # fmt: skip
    """Run rows through some of the plan's stages."""
    _set_context(size * _video_bytes(config), sum(stage.actors for stage in stages))
    # Each slice stays a block; to look at them, from_arrow would start a process on the cluster and wait for it.
    dataset: ray.data.Dataset = ray.data.from_blocks([rows.slice(at, size) for at in range(0, rows.num_rows, size)])
    last = {FRAMES: _last(plan, specs, "reads_frames"), WAVEFORM: _last(plan, specs, "reads_waveform")}
    for stage in stages:
        if stage.name == DECODE:
            arguments: dict[str, Any] = {"config": config, "specs": dict(specs), "ledger": ledger}
            dataset = dataset.map_batches(DecodeStage, fn_constructor_kwargs=arguments, **_pool(stage, config))
        else:
            # Frames leave with the last extractor that reads them, sound likewise.
            drop = [column for column, name in last.items() if name == stage.name]
            arguments = {
                "specs": [specs[name] for name in stage.extractors],
                "resources": Resources(
                    stage.threads, "cuda" if stage.gpus else "cpu", specs[stage.extractors[0]].models
                ),
                "ledger": ledger,
                "timeout_s": config.pipeline.extract_timeout_s,
                "drop": drop,
                "detections": [specs[name] for name in specs[stage.extractors[0]].detections],
                "sources": timed_sources({name: specs[name] for name in stage.extractors}, specs),
            }
            dataset = dataset.map_batches(ExtractStage, fn_constructor_kwargs=arguments, **_pool(stage, config))
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except RayError as error:
        raise RunBroken(str(error).strip().splitlines()[-1]) from error


def _reads_text(stage: StagePlan, specs: Mapping[str, Spec]) -> bool:
    return stage.name != DECODE and specs[stage.extractors[0]].source is not None


def _pool(stage: StagePlan, config: Config) -> dict[str, Any]:
    return {
        "batch_size": None,  # a block is a batch
        "batch_format": "pyarrow",
        "zero_copy_batch": True,
        "compute": ray.data.ActorPoolStrategy(size=stage.actors, max_tasks_in_flight_per_actor=2),
        "num_cpus": stage.cpus,
        "num_gpus": stage.gpus,
        # Both are endless by default: a video that kills its actor would be replayed for ever. The ledger ends that
        # after two deaths a video; a block that waits behind it loses a retry with each, so the two bounds are one.
        "ray_remote_args_fn": partial(
            dict,
            max_restarts=config.pipeline.max_actor_restarts,
            max_task_retries=config.pipeline.max_actor_restarts,
        ),
    }


def _last(plan: Plan, specs: Mapping[str, Spec], reads: str) -> str | None:
    """Name of the last stage with an extractor that reads a medium."""
    readers = [
        stage.name
        for stage in plan.stages
        for name in stage.extractors
        if name != DECODE and getattr(specs[name], reads)
    ]
    return readers[-1] if readers else None


def _video_bytes(config: Config) -> int:
    """Frames and sound of an ordinary video as they travel: RGB pictures of 16 to 9, and two minutes."""
    picture = 3 * config.sampling.short_side**2 * 16 // 9
    return min(config.sampling.frames, config.decode.whole_frames) * picture + _SOUND_BYTES


def _set_context(block_bytes: int, actors: int) -> None:
    context = ray.data.DataContext.get_current()
    # Else blocks that wait for the slowest stage would fill half of the object store, however large the machine is.
    context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
        object_store_memory=actors * _BLOCKS_PER_ACTOR * block_bytes
    )
    # Above half of the limit a stage whose output has no room may still run one task; without these, Ray Data lets
    # the decoder go on instead, and the parts of a long video pile up.
    context.object_store_memory_pressure_fraction = 0.5
    context.object_store_reservation_overshoot_ratio = 1.5
    context.enable_progress_bars = False
    # A block is what was put together: only what is larger than so many videos usually are is split, and the parts of
    # a long video, which decoding yields one by one, are not put together beyond that.
    context.target_max_block_size = block_bytes
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Bounds on restarts and retries have no other way in as yet; the pinned version keeps this one.
    warnings.filterwarnings("ignore", category=RayDeprecationWarning, message=".*ray_remote_args_fn")
