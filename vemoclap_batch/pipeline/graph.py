"""The pipeline itself, as one Ray Data graph that reads like the picture in the README."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from vemoclap_batch.config import Config
from vemoclap_batch.extractors.base import Resources
from vemoclap_batch.extractors.catalog import Spec
from vemoclap_batch.failure import RunBroken
from vemoclap_batch.pipeline.plan import DECODE, Plan, StagePlan
from vemoclap_batch.pipeline.rows import FRAMES, WAVEFORM
from vemoclap_batch.pipeline.stages import DecodeStage, ExtractStage


def block_size(videos: int, config: Config, cpus: float) -> int:
    """Videos per block: as many as are batched together, but enough blocks to keep every core busy."""
    return max(1, min(config.pipeline.block_videos, int(videos / (4 * max(cpus, 1)))))


def run_graph(
    rows: pa.Table, config: Config, specs: Mapping[str, Spec], plan: Plan, size: int, ledger: Any
) -> Iterator[pa.Table]:
    """Run the missing cells through the stages; yields finished blocks as they come, in any order.

    Args:
        rows: the work, see :mod:`vemoclap_batch.pipeline.rows`.
        config: the run's configuration.
        specs: its extractors.
        plan: the pools; a stage without one has no work and is left out.
        size: videos per block.
        ledger: handle of the run's :class:`~vemoclap_batch.pipeline.ledger.Ledger`.

    Raises:
        RunBroken: a model does not load, or actors died more often than allowed.
    """
    _set_context()
    dataset: ray.data.Dataset = ray.data.from_arrow([rows.slice(at, size) for at in range(0, rows.num_rows, size)])
    last = {FRAMES: _last(plan, specs, "reads_frames"), WAVEFORM: _last(plan, specs, "reads_waveform")}
    for stage in plan.stages:
        if stage.name == DECODE:
            arguments: dict[str, Any] = {"config": config, "specs": dict(specs), "ledger": ledger}
            dataset = dataset.map_batches(DecodeStage, fn_constructor_kwargs=arguments, **_pool(stage, config, size))
        else:
            # Frames leave with the last extractor that reads them, sound likewise.
            drop = [column for column, name in last.items() if name == stage.name]
            arguments = {
                "specs": [specs[name] for name in stage.extractors],
                "resources": Resources(
                    stage.threads, "cuda" if stage.gpus else "cpu", specs[stage.extractors[0]].models
                ),
                "ledger": ledger,
                "drop": drop,
                "evidence": [specs[name] for name in specs[stage.extractors[0]].evidence],
            }
            dataset = dataset.map_batches(ExtractStage, fn_constructor_kwargs=arguments, **_pool(stage, config, size))
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except RayError as error:
        raise RunBroken(str(error).strip().splitlines()[-1]) from error


def _pool(stage: StagePlan, config: Config, size: int) -> dict[str, Any]:
    return {
        "batch_size": size,  # a block is a batch
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


def _set_context() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A block is what was put together, however large: splitting it would undo the batching across videos.
    context.target_max_block_size = None
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Bounds on restarts and retries have no other way in as yet; the pinned version keeps this one.
    warnings.filterwarnings("ignore", category=RayDeprecationWarning, message=".*ray_remote_args_fn")
