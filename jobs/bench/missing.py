"""Which cells are missing, asked of an output folder where everything is done: time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.memory import highest_memory
from bench.report import Report
from vemoclap_batch.config import load_config
from vemoclap_batch.extractors.registry import Spec, resolve
from vemoclap_batch.pipeline.pending import features_table, find_pending
from vemoclap_batch.sources.manifest import read_sources
from vemoclap_batch.store.store import Store

_MANIFEST, _OUT = "manifest.parquet", "out"


def measure(rows: int = 1_000_000, shards: int = 2000, profile: str = "lite") -> Report:
    """Commit rows for all extractors of a profile, then ask in a process of its own what is missing.

    Args:
        rows: videos in the manifest, and rows in each extractor's table.
        shards: files of each table.
        profile: whose extractors.

    Raises:
        RuntimeError: a row that is there counts as missing.
    """
    specs = resolve(load_config(profile))
    with TemporaryDirectory(prefix="vemoclap-bench-") as folder:
        fill(Path(folder), rows, shards, specs)
        answer = _ask(folder, profile)
    if answer["missing"]:
        raise RuntimeError(f"{answer['missing']} rows count as missing where none is")
    settings = {"rows": rows, "shards_per_table": shards, "tables": len(specs), "profile": profile}
    figures = {name: answer[name] for name in ("seconds", "memory_gb")}
    return Report("missing", settings, answer["steps"], figures)


def fill(folder: Path, rows: int, shards: int, specs: dict[str, Spec]) -> None:
    """Write a manifest and, as a run would, a row for each of its videos in every extractor's table."""
    numbers = [f"{number:07d}" for number in range(rows)]
    ids = pa.array([f"a video called {number}-{uuid.uuid5(uuid.NAMESPACE_OID, number).hex[:10]}" for number in numbers])
    content = pa.array([f"{1_000_000 + row}-1763000000{row:09d}" for row in range(rows)])
    uris = pa.array([f"/data/corpus/part{row % 97}/a video called {number}.mp4" for row, number in enumerate(numbers)])
    pq.write_table(pa.table({"video_id": ids, "content_key": content, "uri": uris}), folder / _MANIFEST)
    store = Store(str(folder / _OUT))
    # Videos are committed in whatever order they are done.
    order = np.array_split(np.random.default_rng(0).permutation(rows), shards)
    for spec in specs.values():
        schema = features_table(store, spec).schema
        table = folder / _OUT / "features" / spec.name / spec.fingerprint
        table.mkdir(parents=True)
        for part in order:
            _write_shard(table, schema, ids.take(pa.array(part)), content.take(pa.array(part)), spec.width)
    # Thousands of commits of a few rows take long; as files of version 0.1, all become one.
    with store.writing("fill"):
        pass


def _write_shard(folder: Path, schema: pa.Schema, ids: pa.Array, content: pa.Array, width: int) -> None:
    count = len(ids)
    vector = pa.array([[[0.5] * width]] if width else [[]], schema.field("feature").type)
    columns = {
        "video_id": ids,
        "content_key": content,
        "run_id": pa.array(["a run"]).take(pa.array([0] * count)),
        "feature": vector.take(pa.array([0] * count)),
    }
    arrays = [columns.get(field.name, pa.nulls(count, field.type)) for field in schema]
    pq.write_table(pa.table(arrays, schema=schema), folder / f"part-{uuid.uuid4().hex}.parquet", compression="zstd")


def _ask(folder: str, profile: str) -> dict[str, Any]:
    """Run :func:`probe` in a process whose memory is not that of filling."""
    code = "import sys; from bench.missing import probe; probe(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, folder, profile], stdout=subprocess.PIPE, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def probe(folder: str, profile: str) -> None:
    """Read the manifest and compare it with the store, as ``label`` does; prints what it took as JSON."""
    began = time.perf_counter()
    steps: list[dict[str, Any]] = []

    def note(step: str) -> None:
        before = sum(item["seconds"] for item in steps)
        memory = round(highest_memory() / 1e9, 2)
        steps.append({"step": step, "seconds": time.perf_counter() - began - before, "memory_gb": memory})

    specs = resolve(load_config(profile))
    note("profile")
    videos = read_sources([os.path.join(folder, _MANIFEST)]).rows
    note("manifest")
    pending = find_pending(Store(os.path.join(folder, _OUT)), videos, specs, 3)
    note("find_pending")
    print(json.dumps({"steps": _rounded(steps), **_total(steps), "missing": pending.rows.num_rows}))


def _rounded(steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**step, "seconds": round(step["seconds"], 2)} for step in steps]


def _total(steps: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {"seconds": round(sum(step["seconds"] for step in steps), 2), "memory_gb": steps[-1]["memory_gb"]}
