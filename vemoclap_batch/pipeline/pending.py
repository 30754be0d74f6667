"""Which (video, extractor) cells are missing: the manifest less what is committed, less what is given up.

Resuming after a crash, tonight's new videos and reprocessing after one model changed are all this one question.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.errors import TRANSIENT
from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.pipeline.rows import Kind, input_in, stored_column, text_kind
from vemoclap_batch.store import schemas
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import Table, keys, picked

#: A cell in the errors log: key and fingerprint of the extractor; fingerprint None stands for decoding.
Cell = tuple[str, str | None]


@dataclass
class Pending:
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


def find_pending(
    store: Store, videos: pa.Table, specs: Mapping[str, Spec], max_attempts: int, again: Collection[Cell] = frozenset()
) -> Pending:
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
    failures = _Failures(store, specs, max_attempts, frozenset(again))
    pending = Pending(videos, incomplete=videos, rows=videos, attempts=failures.attempts)
    complete = np.ones(videos.num_rows, bool)
    todo: dict[str, np.ndarray] = {}
    failed: dict[str, np.ndarray] = {}
    stored: dict[str, pa.Array] = {}
    for name, spec in specs.items():
        done = features_table(store, spec).committed(video_keys)
        complete &= done
        failed[name] = ~done & failures.among(video_keys, spec)
        given_up = ~done & failures.among(video_keys, spec, final=True)
        todo[name] = ~done & ~given_up
        for kind, source in _reads(spec):
            from_store = todo[name] & ~todo[source]
            values = _stored(store, specs[source], kind, video_keys, from_store)
            column = stored_column(kind, source)
            stored[column] = pc.coalesce(stored[column], values) if column in stored else values
            if source == spec.source:
                failed[name] |= ~done & failed[source]
                # Without a text, now or in the store, its source is given up and so is it.
                lacking = from_store & pc.is_null(values).to_numpy(zero_copy_only=False)
                todo[name] &= ~lacking
                given_up |= lacking
        pending.done[name], pending.given_up[name] = int(done.sum()), int(given_up.sum())
        pending.failed[name] = int(failed[name].sum())
    pending.incomplete = picked(videos, pa.array(~complete))
    pending.rows = _rows(videos, todo, stored)
    return pending


def _reads(spec: Spec) -> list[tuple[Kind, str]]:
    """List what an extractor reads of others: (kind, extractor)."""
    reads: list[tuple[Kind, str]] = [("detections", source) for source in spec.detections]
    return reads if spec.source is None else [(text_kind(spec), spec.source), *reads]


def _stored(store: Store, source: Spec, kind: Kind, video_keys: pa.ChunkedArray, rows: np.ndarray) -> pa.Array:
    """Read text, pieces or detections of these rows from an extractor's table: [n], null elsewhere."""
    if not rows.any():
        return pa.nulls(len(rows), schemas.STORED[kind])
    holding: dict[Kind, tuple[str | None, ...]] = {
        "text": ("text",), "pieces": ("segments", "words", "lines", "texts"),
        "text_original": ("text_original",), "pieces_original": ("segments_original",),
        "detections": (source.cls.detections,),
    }  # fmt: skip
    columns = [name for name in source.cls.columns if name in holding[kind]]
    features = features_table(store, source).read(columns, of=pc.filter(video_keys, pa.array(rows)))
    values = [input_in(row, source, kind) for row in features.select(columns).to_pylist()]
    at = pc.index_in(video_keys, value_set=keys(features).combine_chunks()).combine_chunks()
    return pa.array(values, schemas.STORED[kind]).take(pc.if_else(pa.array(rows), at, None))


def _rows(videos: pa.Table, todo: Mapping[str, np.ndarray], stored: Mapping[str, pa.Array]) -> pa.Table:
    """Select the videos with something to do; adds their ``wanted`` extractors and what these read from the store."""
    matrix = np.stack(list(todo.values()), axis=1) if todo else np.zeros((videos.num_rows, 0), bool)
    some = pa.array(matrix.any(axis=1))
    matrix = matrix[matrix.any(axis=1)]
    ends = np.concatenate([[0], matrix.sum(axis=1).cumsum()]).astype(np.int32)
    wanted = pa.array(list(todo), pa.string()).take(pa.array(np.nonzero(matrix)[1]))
    rows = picked(videos, some).append_column("wanted", pa.ListArray.from_arrays(ends, wanted))
    for name, column in stored.items():
        rows = rows.append_column(name, column.filter(some))
    return rows


def decoded_since(store: Store, specs: Mapping[str, Spec], log: pa.Table) -> np.ndarray:
    """Tell which rows of the errors log are failures to decode a video that a later run has decoded: bool [n].

    That run gave the video its row, or some extractor that reads media a result or a failure of its own.
    """
    of_decoding = pc.is_null(log["fingerprint"])
    failed = _latest([log.filter(of_decoding)])
    if not failed:
        return np.zeros(log.num_rows, bool)
    rows = [store.videos().read(["run_id"], of=pa.array(list(failed)))]
    # A video keeps its first row: of one that failed after it, its features tell whether it was decoded again.
    if unclear := [key for key, run_id in _latest(rows).items() if run_id < failed[key]]:
        media = [spec for spec in specs.values() if spec.source is None]
        rows += [features_table(store, spec).read(["run_id"], of=pa.array(unclear)) for spec in media]
        rows.append(log.filter(pc.is_in(log["fingerprint"], pa.array([spec.fingerprint for spec in media]))))
    decoded = _latest(rows)
    runs = zip(of_decoding.to_pylist(), keys(log).to_pylist(), log["run_id"].to_pylist(), strict=True)
    return np.array([decoding and decoded.get(key, "") > run_id for decoding, key, run_id in runs], bool)


def _latest(tables: Sequence[pa.Table]) -> dict[str, str]:
    """Return for each key the latest run that has a row of it."""
    latest: dict[str, str] = {}
    for table in tables:
        for key, run_id in zip(keys(table).to_pylist(), table["run_id"].to_pylist(), strict=True):
            latest[key] = max(run_id or "", latest.get(key, ""))
    return latest


class _Failures:
    """The errors log, reduced to what decides whether a cell is tried again."""

    def __init__(self, store: Store, specs: Mapping[str, Spec], max_attempts: int, again: Collection[Cell]) -> None:
        log = store.errors().read(["fingerprint", "error_type", "attempts", "run_id"])
        log = log.filter(pa.array(~decoded_since(store, specs, log)))
        is_final = pc.invert(pc.is_in(log["error_type"], pa.array(sorted(TRANSIENT), pa.string())))
        cells = log.select(["fingerprint", "attempts"]).append_column("key", keys(log)).append_column("final", is_final)
        cells = cells.group_by(["key", "fingerprint"]).aggregate([("attempts", "max"), ("final", "any")])
        names = zip(cells["key"].to_pylist(), cells["fingerprint"].to_pylist(), strict=True)
        self.attempts: dict[Cell, int] = dict(zip(names, cells["attempts_max"].to_pylist(), strict=True))
        is_final = pc.or_(cells["final_any"], pc.greater_equal(cells["attempts_max"], max_attempts))
        is_asked_for = pa.array([cell in again for cell in self.attempts], pa.bool_())
        self._cells = cells.append_column("is_final", pc.and_not(is_final, is_asked_for))

    def among(self, video_keys: pa.ChunkedArray, spec: Spec, final: bool = False) -> np.ndarray:
        """Tell which videos failed in the extractor or in decoding; with ``final``, for good: bool [n]."""
        # Decoding has no fingerprint; its failure is that of the extractors that read media.
        of_spec = pc.fill_null(pc.equal(self._cells["fingerprint"], spec.fingerprint), spec.source is None)
        failed = self._cells.filter(pc.and_(of_spec, self._cells["is_final"]) if final else of_spec)["key"]
        return pc.is_in(video_keys, value_set=failed.combine_chunks()).to_numpy(zero_copy_only=False)
