"""How long a search over many frames takes, by a plain matrix product and by libraries of vector search."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from bench.memory import highest_memory
from bench.outputs import write_features
from bench.report import Report, cores, in_turn
from bench.rows import manifest
from vemoclap_batch.fusion.selection import Selected
from vemoclap_batch.store import schemas
from vemoclap_batch.store.store import Store
from vemoclap_batch.studies.search import normalised, scores, search

_TOP = 20


def measure(frames: int = 1_000_000, width: int = 512, per_video: int = 16) -> Report:
    """Search a folder of made-up embeddings as the command does, then the same numbers in memory in several ways.

    Raises:
        RuntimeError: two ways do not find the same frames.
    """
    videos = max(1, frames // per_video)
    of, rng = Selected("clip", "0" * 12, "clip", width, True), np.random.default_rng(1)
    query = normalised(rng.standard_normal((1, width), np.float32))
    with TemporaryDirectory(prefix="vemoclap-bench-") as folder:
        # Written by a process of its own, so that the memory of searching can be told.
        writer = get_context("spawn").Process(target=_write, args=(f"{folder}/out", of, videos, per_video))
        writer.start()
        writer.join()
        store = Store(f"{folder}/out")
        before = highest_memory()
        began, cpu = time.perf_counter(), time.process_time()
        table, current = of.table(store), store.current_videos()
        found = search(table, current, query, width, _TOP)
        whole = {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
        grown = highest_memory() - before
    assert len(found) == _TOP
    vectors = rng.standard_normal((frames, width), np.float32)
    ways = _ways(vectors, query)
    answers = {name: set(np.asarray(way()).ravel().tolist()) for name, way in ways.items()}
    if any(answer != answers["numpy"] for answer in answers.values()):
        raise RuntimeError("the ways find other frames than each other")
    taken = in_turn(ways, 5)
    table_rows: list[dict[str, Any]] = [
        {"way": "the command's, reading the table included", **{name: round(value, 3) for name, value in whole.items()}}
    ]
    table_rows += [{"way": f"{name}, loaded", "seconds": round(s, 3), "cpu_s": None} for name, s in taken.items()]
    figures = {
        "seconds": round(whole["seconds"], 2), "loaded_seconds": round(taken["numpy"], 3),
        "memory_gb": round(grown / 1e9, 2),
    }  # fmt: skip
    what = {"frames": frames, "width": width, "videos": videos, "cores": cores()}
    notes = [f"{name} is not installed" for name in ("faiss", "usearch") if find_spec(name) is None]
    return Report("search", what, table_rows, figures, notes)


def _write(out: str, of: Selected, videos: int, per_video: int) -> None:
    store, rows = Store(out), manifest(videos)
    common = dict.fromkeys(schemas.VIDEOS.names) | {"run_id": "bench"}
    with store.writing("bench"):
        described = [common | row for row in rows.to_pylist()]
        store.videos().append(pa.Table.from_pylist(described, schema=schemas.VIDEOS))
        write_features(store, of, rows, np.random.default_rng(0), per_video)


def _ways(vectors: np.ndarray, query: np.ndarray) -> dict[str, Callable[[], object]]:
    """Exact search by each: the positions of the best; libraries are given vectors of length 1."""

    def plain() -> object:
        # In parts that fit a cache, as the command does.
        found = np.concatenate([scores(vectors[at : at + 32_768], query) for at in range(0, len(vectors), 32_768)])
        return np.argpartition(-found, _TOP)[:_TOP]

    ways: dict[str, Callable[[], object]] = {"numpy": plain}
    if find_spec("faiss"):
        faiss = import_module("faiss")
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(normalised(vectors))
        ways["faiss IndexFlatIP"] = lambda: index.search(query, _TOP)[1]
    if find_spec("usearch"):
        usearch = import_module("usearch.index")
        ways["usearch exact"] = lambda: usearch.search(vectors, query[0], _TOP, usearch.MetricKind.Cos, exact=True).keys
    return ways
