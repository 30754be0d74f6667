"""Which (video, extractor) cells are missing: the manifest less what is committed, less what is given up.

Resuming after a crash, tonight's new videos and reprocessing after one model changed are all this one question.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.errors import TRANSIENT
from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.pipeline.rows import detections_column, text_column
from vemoclap_batch.store import schemas
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import Table, keys

#: A cell in the errors log: key and fingerprint of the extractor; fingerprint None stands for decoding.
Cell = tuple[str, str | None]


@dataclass
class Work:
    """What a run has to do.

    Attributes:
        videos: all videos of the manifest, ``video_id``, ``content_key``, ``uri``.
        incomplete: those that lack a cell, whether it is to be done or given up.
        rows: those with something to do, with ``wanted`` and the texts and detections that are in the store already.
        done: per extractor, cells that are committed.
        failed: per extractor, cells that are not committed because they, or what they read from, failed.
        given_up: per extractor, those whose failure is final or was tried often enough.
        attempts: failed attempts so far.
    """

    videos: pa.Table
    incomplete: pa.Table
    rows: pa.Table
    done: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    given_up: dict[str, int] = field(default_factory=dict)
    attempts: dict[Cell, int] = field(default_factory=dict)

    @property
    def wanted(self) -> dict[str, int]:
        """Per extractor, how many videos it has to do; those with none are left out."""
        counts = pc.value_counts(pc.list_flatten(self.rows["wanted"])).to_pylist()
        return {item["values"]: item["counts"] for item in counts}


def features_table(store: Store, spec: Spec) -> Table:
    """The table an extractor's results are committed to."""
    schema = schemas.features(spec.cls.sequence, spec.cls.columns, spec.width)
    return store.features(spec.name, spec.fingerprint, schema)


def find_work(
    store: Store, videos: pa.Table, specs: Mapping[str, Spec], max_attempts: int, again: Collection[Cell] = frozenset()
) -> Work:
    """Compare a manifest with the store; opens no video and loads no model.

    Args:
        store: the output folder.
        videos: columns ``video_id``, ``content_key`` and ``uri``.
        specs: the extractors wanted, each after the one it reads from.
        max_attempts: how many runs may try a cell whose failure may be passing.
        again: failed cells that are tried again, whatever their failure and however often they were tried.
    """
    videos = videos.select(["video_id", "content_key", "uri"])
    video_keys = keys(videos)
    failures = _Failures(store, specs, video_keys, max_attempts, frozenset(again))
    work = Work(videos, incomplete=videos, rows=videos, attempts=failures.attempts)
    complete = np.ones(videos.num_rows, bool)
    todo: dict[str, np.ndarray] = {}
    failed: dict[str, np.ndarray] = {}
    kept: dict[str, pa.Array] = {}
    for name, spec in specs.items():
        done = features_table(store, spec).committed(video_keys)
        complete &= done
        failed[name] = ~done & failures.open(spec)
        given_up = ~done & failures.final(spec)
        todo[name] = ~done & ~given_up
        if spec.source is not None:
            failed[name] |= ~done & failed[spec.source]
            from_store = todo[name] & ~todo[spec.source]
            column = _texts(store, specs[spec.source], video_keys, from_store)
            kept[text_column(spec.source)] = _either(kept.get(text_column(spec.source)), column)
            # Without a text, now or in the store, its source is given up and so is it.
            orphan = from_store & pc.is_null(column).to_numpy(zero_copy_only=False)
            todo[name] &= ~orphan
            given_up |= orphan
        for source in spec.detections:
            from_store = todo[name] & ~todo[source]
            column = _detections(store, specs[source], video_keys, from_store)
            kept[detections_column(source)] = _either(kept.get(detections_column(source)), column)
        work.done[name], work.given_up[name] = int(done.sum()), int(given_up.sum())
        work.failed[name] = int(failed[name].sum())
    work.incomplete = videos.filter(pa.array(~complete))
    work.rows = _rows(work.videos, todo, kept)
    return work


def _rows(videos: pa.Table, todo: Mapping[str, np.ndarray], kept: Mapping[str, pa.Array]) -> pa.Table:
    matrix = np.stack(list(todo.values()), axis=1) if todo else np.zeros((videos.num_rows, 0), bool)
    some = pa.array(matrix.any(axis=1))
    rows = videos.filter(some)
    matrix = matrix[matrix.any(axis=1)]
    ends = np.concatenate([[0], matrix.sum(axis=1).cumsum()]).astype(np.int32)
    wanted = pa.array(list(todo), pa.string()).take(pa.array(np.nonzero(matrix)[1]))
    rows = rows.append_column("wanted", pa.ListArray.from_arrays(ends, wanted))
    for name, column in kept.items():
        rows = rows.append_column(name, column.filter(some))
    return rows


def _texts(store: Store, source: Spec, video_keys: pa.ChunkedArray, rows: np.ndarray) -> pa.Array:
    """The text of these rows from the source's table: string [n], null where there is none or none is wanted."""
    return _column(store, source, "text", pa.string(), video_keys, rows)


def _detections(store: Store, source: Spec, video_keys: pa.ChunkedArray, rows: np.ndarray) -> pa.Array:
    """The frames in which the source found something, for these rows: list<int32> [n], null elsewhere."""
    column = _column(
        store, source, source.cls.detections or "", source.cls.columns[source.cls.detections or ""], video_keys, rows
    )
    frames = [None if found is None else [item["frame"] for item in found] for found in column.to_pylist()]
    return pa.array(frames, pa.list_(pa.int32()))


def _column(
    store: Store, source: Spec, name: str, kind: pa.DataType, video_keys: pa.ChunkedArray, rows: np.ndarray
) -> pa.Array:
    """One column of the source's table for these rows, null elsewhere: [n]."""
    if not rows.any():
        return pa.nulls(len(rows), kind)
    found = features_table(store, source).read([name], of=pc.filter(video_keys, pa.array(rows)))
    at = pc.index_in(video_keys, value_set=keys(found).combine_chunks()).combine_chunks()
    return found[name].combine_chunks().take(pc.if_else(pa.array(rows), at, None))


def _either(first: pa.Array | None, second: pa.Array) -> pa.Array:
    return second if first is None else pc.coalesce(first, second)


def decoded_since(store: Store, specs: Mapping[str, Spec], log: pa.Table) -> np.ndarray:
    """For each row of the errors log, whether it is a failure to decode a video that a later run has decoded: bool [n].

    That run gave the video its row, or some extractor that reads media a result or a failure of its own.
    """
    of_decoding = pc.is_null(log["fingerprint"])
    failed = _latest({}, log.filter(of_decoding))
    decoded = _latest({}, store.videos().read(["run_id"], of=pa.array(list(failed)))) if failed else {}
    # A video keeps its first row: whether these, which failed after it, were decoded again, their features tell.
    unclear = [key for key, run_id in decoded.items() if run_id < failed[key]]
    if unclear:
        media = [spec for spec in specs.values() if spec.source is None]
        for spec in media:
            _latest(decoded, features_table(store, spec).read(["run_id"], of=pa.array(unclear)))
        _latest(decoded, log.filter(pc.is_in(log["fingerprint"], pa.array([spec.fingerprint for spec in media]))))
    runs = zip(of_decoding.to_pylist(), keys(log).to_pylist(), log["run_id"].to_pylist(), strict=True)
    return np.array([decoding and decoded.get(key, "") > run_id for decoding, key, run_id in runs], bool)


def _latest(runs: dict[str, str], rows: pa.Table) -> dict[str, str]:
    """Note of each key the latest run that has a row of it."""
    for key, run_id in zip(keys(rows).to_pylist(), rows["run_id"].to_pylist(), strict=True):
        runs[key] = max(run_id or "", runs.get(key, ""))
    return runs


class _Failures:
    """The errors log, reduced to what decides whether a cell is tried again."""

    def __init__(
        self, store: Store, specs: Mapping[str, Spec], video_keys: pa.ChunkedArray, max_attempts: int,
        again: frozenset[Cell],
    ) -> None:  # fmt: skip
        self._keys = video_keys
        self._max_attempts = max_attempts
        self._again = again
        log = store.errors().read(["fingerprint", "error_type", "attempts", "run_id"])
        self.attempts: dict[Cell, int] = {}
        self._open: dict[str | None, set[str]] = {}
        self._final: dict[str | None, set[str]] = {}
        over = decoded_since(store, specs, log)
        for key, is_over, failure in zip(keys(log).to_pylist(), over, log.to_pylist(), strict=True):
            if not is_over:
                self._note(key, failure)

    def _note(self, key: str, failure: Mapping[str, Any]) -> None:
        fingerprint = failure["fingerprint"]
        attempts = max(failure["attempts"], self.attempts.get((key, fingerprint), 0))
        self.attempts[key, fingerprint] = attempts
        self._open.setdefault(fingerprint, set()).add(key)
        final = failure["error_type"] not in TRANSIENT or attempts >= self._max_attempts
        if final and (key, fingerprint) not in self._again:
            self._final.setdefault(fingerprint, set()).add(key)

    def final(self, spec: Spec) -> np.ndarray:
        """Which videos the extractor is not to try again: bool [n]."""
        return self._among(self._final, spec)

    def open(self, spec: Spec) -> np.ndarray:
        """Which videos failed in the extractor, or before it in decoding: bool [n]."""
        return self._among(self._open, spec)

    def _among(self, noted: Mapping[str | None, set[str]], spec: Spec) -> np.ndarray:
        found = set(noted.get(spec.fingerprint, ()))
        if spec.source is None:
            found |= noted.get(None, set())
        if not found:
            return np.zeros(len(self._keys), bool)
        return pc.is_in(self._keys, value_set=pa.array(sorted(found))).to_numpy(zero_copy_only=False)
