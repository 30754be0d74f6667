"""The driver's side: blocks of results become rows of the tables. Nothing else writes features."""

from __future__ import annotations

import datetime
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.pipeline.pending import Work, features_table
from vemoclap_batch.pipeline.rows import DECODED
from vemoclap_batch.store import schemas
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import Table, keys, picked


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
    """Writes finished blocks to the store, each table's rows as one small shard."""

    def __init__(self, store: Store, specs: Mapping[str, Spec], work: Work, run_id: str) -> None:
        """Prepare the tables of the extractors that have work, and say beside each what made it."""
        self._store, self._work, self._run_id = store, work, run_id
        self._specs = {name: specs[name] for name in work.wanted}
        self._features = {name: features_table(store, spec) for name, spec in self._specs.items()}
        self._videos, self._errors = store.videos(), store.errors()
        self.totals = Totals()
        #: When a block was committed last, by the monotonic clock.
        self.advanced_at = time.monotonic()
        # Long videos come twice; the second time they are not counted again.
        self._long: set[str] = set()
        for spec in self._specs.values():
            store.describe_features(spec.name, spec.fingerprint, _description(spec))

    def commit(self, block: pa.Table) -> None:
        """Commit one finished block."""
        failed: set[str] = set()
        if DECODED in block.column_names:
            decoded = picked(block, pc.is_valid(block[DECODED]))
            self._count("decode", decoded, DECODED)
            failed |= self._commit_failures(decoded, DECODED, None)
            self._commit_videos(_succeeded(decoded, DECODED))
        for name, spec in self._specs.items():
            if name in block.column_names:
                found = picked(block, pc.is_valid(block[name]))
                self._count(name, found, name)
                failed |= self._commit_failures(found, name, spec)
                self._commit_features(_succeeded(found, name), name)
        again = self._long.intersection(keys(block).to_pylist())
        self.totals.videos += block.num_rows - len(again)
        self.totals.failed_videos += len(failed - again)
        if DECODED in block.column_names:
            long = block.filter(pc.greater(pc.fill_null(pc.struct_field(block[DECODED], "parts"), 1), 1))
            self._long.update(keys(long).to_pylist())
        self.advanced_at = time.monotonic()

    def _commit_videos(self, rows: pa.Table) -> None:
        if rows.num_rows:
            self.totals.video_seconds += pc.sum(pc.struct_field(rows[DECODED], "duration_s")).as_py()
            self._append(self._videos, rows, DECODED)

    def _commit_features(self, rows: pa.Table, name: str) -> None:
        if rows.num_rows:
            self._append(self._features[name], rows, name)

    def _append(self, table: Table, rows: pa.Table, column: str) -> None:
        found = pa.table(dict(zip(_names(rows, column), rows[column].combine_chunks().flatten(), strict=True)))
        for name in ("video_id", "content_key", "uri"):
            found = found.append_column(name, rows[name])
        table.append(found.append_column("run_id", pa.array([self._run_id] * rows.num_rows)))

    def _commit_failures(self, rows: pa.Table, column: str, spec: Spec | None) -> set[str]:
        """Log the failed rows; returns their keys."""
        bad = rows.filter(pc.is_valid(pc.struct_field(rows[column], "error_type")))
        failures = [self._failure(row, column, spec) for row in bad.select([*_FAILURE_COLUMNS, column]).to_pylist()]
        if failures:
            self._errors.append(pa.Table.from_pylist(failures, schema=schemas.ERRORS))
        return set(keys(bad).to_pylist())

    def _failure(self, row: Mapping[str, Any], column: str, spec: Spec | None) -> dict[str, Any]:
        fingerprint = spec.fingerprint if spec else None
        before = self._work.attempts.get((f"{row['video_id']}\0{row['content_key']}", fingerprint), 0)
        return {
            **{name: row[name] for name in _FAILURE_COLUMNS},
            "extractor": spec.name if spec else None,
            "stage": "extract" if spec else "decode",
            "fingerprint": fingerprint,
            "error_type": row[column]["error_type"],
            "message": row[column]["message"],
            "attempts": before + 1,
            "run_id": self._run_id,
            "time": datetime.datetime.now(datetime.UTC),
        }

    def _count(self, stage: str, rows: pa.Table, column: str) -> None:
        if not rows.num_rows:
            return
        totals = self.totals.stages[stage]
        failed = pc.sum(pc.is_valid(pc.struct_field(rows[column], "error_type"))).as_py()
        totals.failed += failed
        totals.items += rows.num_rows - failed
        totals.seconds += pc.sum(pc.struct_field(rows[column], "seconds")).as_py()
        self.totals.ready_at = max(self.totals.ready_at, pc.max(pc.struct_field(rows[column], "ready_at")).as_py())


_FAILURE_COLUMNS = ["video_id", "content_key", "uri"]


def _succeeded(rows: pa.Table, column: str) -> pa.Table:
    return picked(rows, pc.is_null(pc.struct_field(rows[column], "error_type")))


def _names(rows: pa.Table, column: str) -> list[str]:
    return [field.name for field in rows.schema.field(column).type]


def _description(spec: Spec) -> dict[str, Any]:
    return {
        "extractor": spec.name,
        "fingerprint": spec.fingerprint,
        "space": spec.space,
        "width": spec.width,
        "sequence": spec.cls.sequence,
        "identity": spec.identity,
    }
