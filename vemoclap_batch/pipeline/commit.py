"""The driver commits finished blocks to the tables. Nothing else writes features."""

from __future__ import annotations

import datetime
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.pipeline.pending import Pending, features_table
from vemoclap_batch.pipeline.rows import DECODED
from vemoclap_batch.pipeline.stages import DECODE
from vemoclap_batch.store import schemas
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import Table, keys, picked

_VIDEO = ["video_id", "content_key", "uri"]


@dataclass
class StageTotals:
    """What one stage did in a run: items that gave a result, items that failed, and its own time."""

    items: int = 0
    failed: int = 0
    seconds: float = 0.0


@dataclass
class Totals:
    """What a run has committed so far."""

    videos: int = 0
    failed_videos: int = 0
    video_seconds: float = 0.0
    ready_at: float = 0.0
    stages: defaultdict[str, StageTotals] = field(default_factory=lambda: defaultdict(StageTotals))


class Committer:
    """Writes finished blocks to the store: one commit a table, all tables side by side."""

    def __init__(self, store: Store, specs: Mapping[str, Spec], pending: Pending, run_id: str) -> None:
        """Open the tables of the extractors that have work, and describe beside each what made it."""
        self._pending, self._run_id = pending, run_id
        self._videos, self._errors = store.videos(), store.errors()
        self._specs = {name: specs[name] for name in pending.wanted}
        self._features = {name: features_table(store, spec) for name, spec in self._specs.items()}
        self.totals = Totals()
        #: When a block was committed last, by the monotonic clock.
        self.advanced_at = time.monotonic()
        # Long videos come twice; the second time they are not counted again.
        self._long: set[str] = set()
        for spec in self._specs.values():
            names = ("fingerprint", "space", "width", "identity")
            description = {"extractor": spec.name, "sequence": spec.cls.sequence}
            description |= {name: getattr(spec, name) for name in names}
            store.describe_features(spec.name, spec.fingerprint, description)

    def commit(self, block: pa.Table) -> None:
        """Commit one finished block."""
        failures: list[dict[str, Any]] = []
        appends: list[tuple[Table, pa.Table]] = []
        again = self._long.intersection(keys(block).to_pylist())
        if DECODED in block.column_names:
            videos = self._results(block, DECODED, None, failures)
            self.totals.video_seconds += pc.sum(videos["duration_s"]).as_py() or 0.0
            # Before the features: a video that has all of them is not looked at again, and needs its row by then.
            self._videos.append(videos)
            self._long.update(keys(block.filter(is_long(block))).to_pylist())
        for name, spec in self._specs.items():
            if name in block.column_names:
                appends.append((self._features[name], self._results(block, name, spec, failures)))
        appends.append((self._errors, pa.Table.from_pylist(failures, schema=schemas.ERRORS)))
        with ThreadPoolExecutor(len(appends)) as pool:
            for commit in [pool.submit(table.append, rows) for table, rows in appends]:
                commit.result()
        failed = {f"{row['video_id']}\0{row['content_key']}" for row in failures}
        self.totals.videos += block.num_rows - len(again)
        self.totals.failed_videos += len(failed - again)
        self.advanced_at = time.monotonic()

    def _results(self, block: pa.Table, column: str, spec: Spec | None, failures: list[dict[str, Any]]) -> pa.Table:
        """Return the rows for a table, those of a column that did not fail; adds the others to ``failures``."""
        rows = picked(block, pc.is_valid(block[column]))
        is_good = pc.is_null(pc.struct_field(rows[column], "error_type"))
        good, bad = picked(rows, is_good), rows.filter(pc.invert(is_good))
        failures += [self._failure(row, column, spec) for row in bad.select([*_VIDEO, column]).to_pylist()]
        if rows.num_rows:
            self._count(spec.name if spec else DECODE, rows[column], bad.num_rows)
        values = good[column].combine_chunks()
        results = pa.table(dict(zip(values.type.names, values.flatten(), strict=True)))
        for name in _VIDEO:
            results = results.append_column(name, good[name])
        return results.append_column("run_id", pa.array([self._run_id] * good.num_rows, pa.string()))

    def _failure(self, row: Mapping[str, Any], column: str, spec: Spec | None) -> dict[str, Any]:
        fingerprint = spec.fingerprint if spec else None
        before = self._pending.attempts.get((f"{row['video_id']}\0{row['content_key']}", fingerprint), 0)
        return {
            **{name: row[name] for name in _VIDEO},
            "extractor": spec.name if spec else None,
            "stage": "extract" if spec else "decode",
            "fingerprint": fingerprint,
            "error_type": row[column]["error_type"],
            "message": row[column]["message"],
            "attempts": before + 1,
            "run_id": self._run_id,
            "time": datetime.datetime.now(datetime.UTC),
        }

    def _count(self, stage: str, results: pa.ChunkedArray, failed: int) -> None:
        totals = self.totals.stages[stage]
        totals.failed += failed
        totals.items += len(results) - failed
        totals.seconds += pc.sum(pc.struct_field(results, "seconds")).as_py()
        self.totals.ready_at = max(self.totals.ready_at, pc.max(pc.struct_field(results, "ready_at")).as_py())
