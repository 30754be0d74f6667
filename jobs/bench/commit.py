"""How fast a driver commits finished rows, to a disk and to an object store whose PUTs take a while."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from bench.memory import highest_memory
from bench.report import Report
from bench.rows import Blocks, manifest
from bench.s3 import serving
from vemoclap_batch.config import load_config
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.pipeline.commit import Committer
from vemoclap_batch.pipeline.pending import find_pending
from vemoclap_batch.store.store import Store


def measure(
    videos: int = 10_000, block_videos: int = 64, tiny: bool = False, put_ms: float | None = None,
    profile: str = "lite",
) -> Report:  # fmt: skip
    """Add finished rows as fast as the committer takes them, until all are committed.

    Args:
        videos: rows to commit.
        block_videos: rows of a block.
        tiny: rows almost without content.
        put_ms: commit to a local S3-compatible server that waits so long before each PUT; None: to a folder.
        profile: whose extractors' columns the rows have.

    Raises:
        RuntimeError: not all rows are there in the end.
    """
    config = load_config(profile)
    specs, blocks, rows = resolve(config), None, manifest(videos)
    blocks = Blocks(specs, tiny)
    sizes = [min(block_videos, videos - at) for at in range(0, videos, block_videos)]
    with _out(put_ms) as address:
        store = Store(address)
        with store.writing("bench"):
            pending = find_pending(store, rows, specs, 3)
            settings = config.pipeline
            gathered, began, waited = 0, time.perf_counter(), 0.0
            committer = Committer(store, specs, pending, "bench", every_s=settings.commit_s, rows=settings.commit_rows)
            with committer:
                for block in blocks.of(rows, sizes):
                    added = time.perf_counter()
                    committer.add(block)
                    waited += time.perf_counter() - added
                    gathered += block.nbytes
            seconds = time.perf_counter() - began
        tables = store.sizes()
    short = [table.table for table in tables if table.rows != videos]
    if short or len(tables) != len(specs) + 1:
        raise RuntimeError(f"not all rows are there: {short}")
    figures = {
        "videos_per_second": round(videos / seconds, 1),
        "mb_per_second": round(gathered / seconds / 1e6, 1),
        "seconds": round(seconds, 2),
        "add_waits_s": round(waited, 2),
        "files_per_table": max(table.shards for table in tables),
        "memory_gb": round(highest_memory() / 1e9, 2),
    }
    what = {
        "videos": videos, "block_videos": block_videos, "tiny": tiny, "mb_a_video": round(gathered / videos / 1e6, 3),
        "to": "a folder" if put_ms is None else f"a local S3 server (moto) with {put_ms:g} ms before each PUT",
    }  # fmt: skip
    return Report("commit", what, [{"table": table.table, **table.counts()} for table in tables], figures)


@contextmanager
def _out(put_ms: float | None) -> Iterator[str]:
    if put_ms is None:
        with TemporaryDirectory(prefix="vemoclap-bench-") as folder:
            yield folder
    else:
        with serving(put_ms / 1000) as address:
            yield address
