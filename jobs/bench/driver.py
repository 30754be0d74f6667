"""What a run costs its driver where videos cost nothing: memory and CPU, by the number of videos."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.memory import highest_memory
from bench.report import Report
from bench.rows import Blocks, manifest
from vemoclap_batch.config import load_config
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.pipeline.commit import Committer
from vemoclap_batch.pipeline.pending import find_pending
from vemoclap_batch.sources.manifest import read_sources
from vemoclap_batch.store.store import Store

PROFILE = "lite"
_MANIFEST = "manifest.parquet"


class Tiny:
    """An actor in the place of a chain: its results are almost empty and take no time."""

    def __init__(self) -> None:
        self._blocks = Blocks(resolve(load_config(PROFILE)), tiny=True)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Add the columns of all extractors to a block."""
        return self._blocks.beside(rows)


def measure(videos: int = 1_000_000, block_videos: int = 64, graph: bool = True) -> Report:
    """Find what is missing of a manifest in an empty folder, and commit a tiny result of every extractor for it.

    Args:
        videos: of the manifest.
        block_videos: videos of a block.
        graph: whether blocks go through actors of a Ray Data graph, or are made by the driver itself.
    """
    code = "import sys; from bench.driver import probe; probe(*sys.argv[1:])"
    with TemporaryDirectory(prefix="vemoclap-bench-") as folder:
        pq.write_table(manifest(videos), os.path.join(folder, _MANIFEST))
        # A process whose memory is that of the driver alone.
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, folder, str(block_videos), "graph" if graph else ""],
            stdout=subprocess.PIPE, text=True, check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
    answer = json.loads(done.stdout.splitlines()[-1])
    settings = {"videos": videos, "block_videos": block_videos, "graph": graph, "profile": PROFILE}
    return Report("driver", settings, answer["steps"], answer["figures"])


def probe(folder: str, block_videos: str, graph: str) -> None:
    """Do the driver's part of a run; prints what it took as JSON."""
    steps: list[dict[str, Any]] = []
    config = load_config(PROFILE)
    specs, store, size = resolve(config), Store(os.path.join(folder, "out")), int(block_videos)
    _note(steps, "start")
    rows = read_sources([os.path.join(folder, _MANIFEST)]).rows
    _note(steps, "manifest")
    with store.writing("bench"):
        pending = find_pending(store, rows, specs, config.pipeline.max_attempts)
        _note(steps, "find_pending")
        with Committer(
            store, specs, pending, "bench", every_s=config.pipeline.commit_s, rows=config.pipeline.commit_rows
        ) as committer:
            slices = [pending.rows.slice(at, size) for at in range(0, pending.rows.num_rows, size)]
            for block in _through_graph(slices) if graph else map(Tiny(), slices):
                committer.add(block)
        _note(steps, "graph and commits" if graph else "commits")
        again = find_pending(store, rows, specs, config.pipeline.max_attempts)
        _note(steps, "find_pending of all that is done")
    if committer.totals.videos != rows.num_rows or again.rows.num_rows:
        raise RuntimeError(f"{committer.totals.videos} of {rows.num_rows} videos are there")
    run = steps[3]
    figures = {
        "memory_gb": max(step["memory_gb"] for step in steps),
        "videos_per_second": round(rows.num_rows / run["seconds"], 1),
        "driver_cpu_ms_per_block": round(1000 * run["cpu_s"] / len(slices), 2),
    }
    print(json.dumps({"steps": steps, "figures": figures}))


def _through_graph(slices: list[pa.Table]) -> Iterator[pa.Table]:
    """Send blocks through a pool of actors, with the settings of a run."""
    import ray

    from vemoclap_batch.pipeline.cluster import connected

    with connected(None, False):
        dataset = ray.data.from_blocks(slices)
        dataset.context.enable_progress_bars = dataset.context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        actors = ray.data.ActorPoolStrategy(size=2, max_tasks_in_flight_per_actor=4)
        dataset = dataset.map_batches(
            Tiny, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, compute=actors, num_cpus=0.5
        )
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _note(steps: list[dict[str, Any]], step: str) -> None:
    before, cpu_before = (sum(item[name] for item in steps) for name in ("seconds", "cpu_s"))
    seconds, cpu_s = time.perf_counter() - _BEGAN, time.process_time()
    memory = {"memory_gb": round(highest_memory() / 1e9, 2)}
    steps.append({"step": step, "seconds": round(seconds - before, 2), "cpu_s": round(cpu_s - cpu_before, 2), **memory})


_BEGAN = time.perf_counter()
