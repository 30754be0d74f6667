"""How well more GPUs are used: our own graph on simulated nodes, with extractors that sleep as long as real ones take.

python jobs/bench/scale.py --gpus 1 4 16 --json
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import psutil
import pyarrow as pa
import typer

from vemoclap_batch.cli import options as opt
from vemoclap_batch.cli.common import program, run_program

#: GPUs of a node at most, and CPUs for each: twice what decodes for one GPU, so that the GPUs are what is measured.
GPUS_PER_NODE, CPUS_PER_GPU = 8, 2
#: Full blocks that a chain has on average, between its first small ones and the last.
_BLOCKS = 8
#: Videos of the run that a node joins: an hour's work for one GPU.
_MANY = 20_000
#: How long a node that joined may stay unused.
_UNUSED_S = 300.0
#: Object store of a node, and what Ray is told of its memory, in bytes.
_STORE, _MEMORY = 800 * 2**20, 512 * 2**30


@dataclass(frozen=True)
class Task:
    """What one GPU chain did with one block: which chain, on which node, from when to when, for how many videos."""

    worker: tuple[str, int]
    began: float
    ended: float
    videos: int


@dataclass
class Went:
    """One run.

    Attributes:
        tasks: of the GPU chains.
        full: videos of a full block.
        chains: how many worked.
        driver_cpu_s: of the driver, from the first block to the last.
    """

    tasks: list[Task]
    full: int
    wall_s: float
    driver_cpu_s: float
    actors: int

    def steady(self) -> tuple[float, float]:
        """When the last chain began a first full block, and when the first chain ended its last one.

        Raises:
            RuntimeError: there is no such time: too few videos.
        """
        spans: dict[tuple[str, int], tuple[float, float]] = {}
        for task in self.tasks:
            if task.videos == self.full:
                began, ended = spans.get(task.worker, (task.began, task.ended))
                spans[task.worker] = min(began, task.began), max(ended, task.ended)
        start, end = max(began for began, _ in spans.values()), min(ended for _, ended in spans.values())
        if start >= end or spans.keys() != {task.worker for task in self.tasks}:
            raise RuntimeError("some chain had no full block while all others had one")
        return start, end

    def videos_per_s(self) -> float:
        """Videos a second of the GPU chains while all had full blocks; a task counts by its part of that time."""
        start, end = self.steady()
        parts = [
            task.videos * max(0.0, min(task.ended, end) - max(task.began, start)) / (task.ended - task.began)
            for task in self.tasks
        ]
        return sum(parts) / (end - start)

    def busy(self) -> float:
        """Share of that time in which the chains worked."""
        start, end = self.steady()
        worked = sum(max(0.0, min(task.ended, end) - max(task.began, start)) for task in self.tasks)
        return worked / (end - start) / len({task.worker for task in self.tasks})


def measure(
    gpus: Sequence[int] = (1, 4, 16), chains_per_gpu: int = 1, slower: float = 1.0, block_videos: int | None = None,
    join: bool = True,
) -> Any:  # fmt: skip
    """Run the graph on clusters of so many GPUs each, and once on one that a node joins.

    Args:
        gpus: of each cluster.
        chains_per_gpu: as the setting of the pipeline.
        slower: multiplies all times.
        block_videos: as the setting of the pipeline.
        join: whether to have a node join.
    """
    from bench.report import Report
    from bench.sleeping import sleeping_config

    config = sleeping_config(chains_per_gpu, slower, block_videos)
    rows, rates, driver = [], {}, 0.0
    for count in gpus:
        went = run(count, config, slower)
        rates[count] = went.videos_per_s()
        blocks = len(went.tasks)
        driver = went.driver_cpu_s / blocks
        efficiency = rates[count] / rates[gpus[0]] * gpus[0] / count
        rows.append(
            {
                "gpus": count, "actors": went.actors, "blocks": blocks, "block_videos": went.full,
                "wall_s": round(went.wall_s, 1), "videos_per_s": round(rates[count], 2), "busy": round(went.busy(), 3),
                "efficiency": round(efficiency, 3), "driver_cpu_ms_per_block": round(1e3 * driver, 1),
            }
        )  # fmt: skip
    figures: dict[str, Any] = {
        "efficiency": {str(row["gpus"]): row["efficiency"] for row in rows},
        "driver_cpu_s_per_block": round(driver, 4),
    }
    if join:
        figures["joined_node_used_s"] = round(joined_node_used_s(sleeping_config(chains_per_gpu)), 1)
    settings = {"chains_per_gpu": chains_per_gpu, "cpus_per_gpu": CPUS_PER_GPU, "slower": slower}
    notes = [
        f"efficiency: videos/s of the GPU chains against those of {gpus[0]} GPU(s), while every chain has full blocks",
        "driver_cpu_s_per_block: of the largest cluster, over all stages",
    ]
    return Report("scale", settings, rows, figures, notes)


def run(gpus: int, config: Any, slower: float) -> Went:
    """Run the graph once on a cluster of so many GPUs."""
    from vemoclap_batch.pipeline.cluster import cluster_resources

    with _cluster(gpus):
        graph = _Graph(config, slower)
        plan = graph.plan(replace(cluster_resources(), can_grow=False), 1_000_000)
        # The first blocks of every chain are small (1, 2, 4, … videos), and smaller again when two a chain are left.
        most = max(stage.chains for stage in plan.stages)
        on_gpus = sum(stage.chains for stage in plan.stages if stage.gpus)
        videos = plan.block_videos * (4 * most + _BLOCKS * on_gpus)
        plan = graph.plan(replace(cluster_resources(), can_grow=False), videos)
        process, began = psutil.Process(), time.time()
        cpu_s, tasks = None, []
        for task in graph.tasks(plan, videos):
            # What starting the actors takes is no block's.
            cpu_s = _cpu_s(process) if cpu_s is None else cpu_s
            tasks.append(task)
        used = _cpu_s(process) - (cpu_s or 0.0)
        actors = sum(stage.actors for stage in plan.stages)
        return Went(tasks, plan.block_videos, time.time() - began, used, actors)


def joined_node_used_s(config: Any) -> float:
    """Seconds from the joining of a node until a GPU chain on it begins a block.

    Args:
        config: with times that are not changed: chains are asked for beyond those that have room if the work is worth
            it.

    Raises:
        RuntimeError: none did.
    """
    from vemoclap_batch.pipeline.cluster import cluster_resources

    with _cluster(1) as cluster:
        graph = _Graph(config, slower=1.0)
        plan = graph.plan(replace(cluster_resources(), can_grow=True), _MANY)
        joined, joined_at, deadline = None, 0.0, float("inf")
        for task in graph.tasks(plan, _MANY):
            if joined is None:
                joined_at, joined = time.time(), _add_node(cluster, 1)
                deadline = joined_at + _UNUSED_S
            if task.worker[0] == joined:
                return task.began - joined_at
            if time.time() > deadline:
                break
    raise RuntimeError(f"no chain on the node that joined began a block within {_UNUSED_S:g} s")


class _Graph:
    """Our own graph with sleeping extractors."""

    def __init__(self, config: Any, slower: float) -> None:
        from bench.sleeping import SleepingDecoder
        from vemoclap_batch.extractors.registry import resolve

        self._config = config
        self._specs = resolve(self._config)
        self._decoder = partial(SleepingDecoder, slower=slower)

    def plan(self, cluster: Any, videos: int) -> Any:
        """Plan for a cluster."""
        from bench.sleeping import SENT_AUDIO_S, sent_bytes
        from vemoclap_batch.pipeline.plan import make_plan

        wanted = dict.fromkeys(self._specs, videos)
        plan = make_plan(self._config, self._specs, wanted, videos, cluster, SENT_AUDIO_S)
        # So that the limit of the object store is as tight as it is for videos of the usual size.
        return replace(plan, video_bytes=sent_bytes(self._config.sampling))

    def tasks(self, plan: Any, videos: int) -> Iterator[Task]:
        """Run so many videos; yields what the GPU chains did with each block, as its rows arrive."""
        import ray

        from vemoclap_batch.lifetime import listening
        from vemoclap_batch.pipeline.processor import process
        from vemoclap_batch.pipeline.quarantine import start_quarantine

        blocks, number = [], 0
        for size in plan.block_sizes(videos):
            blocks.append(pa.table({"uri": [f"/video {at}.mp4" for at in range(number, number + size)]}))
            number += size
        names = next(stage.extractors for stage in plan.stages if stage.gpus)
        host = ray.util.get_node_ip_address()
        with listening(host) as driver, start_quarantine(driver) as quarantine:
            dataset = ray.data.from_blocks(blocks)
            dataset = process(dataset, self._config, self._specs, plan, quarantine, driver, decoder=self._decoder)
            batches: Any = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
            for rows in batches:
                first, last = (rows[name][0].as_py() for name in (names[0], names[-1]))
                worker = (first["node"], first["worker"])
                yield Task(worker, first["began"], last["ended"], rows.num_rows)


@contextmanager
def _cluster(gpus: int) -> Iterator[Any]:
    """Simulated nodes with so many GPUs in all, and a head with none, as processes of this machine."""
    import logging

    import ray
    from ray.cluster_utils import Cluster

    # The nodes' processes hand it on to the actors, whose extractors are of this package.
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, "object_store_memory": _STORE}
    )
    try:
        ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        for at in range(0, gpus, GPUS_PER_NODE):
            _add_node(cluster, min(GPUS_PER_NODE, gpus - at))
        cluster.wait_for_nodes()
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def _add_node(cluster: Any, gpus: int) -> str:
    """Add a node; returns its id."""
    node = cluster.add_node(
        num_cpus=CPUS_PER_GPU * gpus, num_gpus=gpus, memory=_MEMORY, object_store_memory=_STORE, wait=False
    )
    return node.node_id


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def command(
    gpus: Annotated[list[int] | None, typer.Option(metavar="N", help="GPUs of each cluster [default: 1 4 16].")] = None,
    more: Annotated[list[int] | None, typer.Argument(metavar="N", help="More values of --gpus.")] = None,
    chains_per_gpu: Annotated[int, typer.Option(help="Chains that share a GPU.")] = 1,
    slower: Annotated[float, typer.Option(help="Multiplies all times.")] = 1.0,
    block_videos: Annotated[int | None, typer.Option(help="Videos of a block, at most [default: the plan's].")] = None,
    join: Annotated[bool, typer.Option(help="Whether to have a node join.")] = True,
    as_json: opt.Json = False,
) -> None:  # fmt: skip
    """Our own graph on simulated nodes, with extractors that sleep."""
    from bench.report import show

    counts = [*(gpus or [1, 4, 16]), *(more or [])]
    show(measure(counts, chains_per_gpu, slower, block_videos, join), as_json)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run this benchmark."""
    app = program(__doc__)
    app.command()(command)
    run_program(app, arguments)


if __name__ == "__main__":
    # By its path: the package that it is part of lies one folder up.
    sys.path[0] = str(Path(__file__).parents[1])
    main()
