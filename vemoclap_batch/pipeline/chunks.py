"""The rows of the Ray Data graph, one for each chunk of a video, and how chunks are merged into one row in the end.

A long video has several chunks, any other has one. A row enters with ``video_id``, ``content_key``, ``uri``, ``wanted``
(the extractors to run) and what these read from the store (see :func:`stored_column`). Decoding adds ``decoded``,
``frames`` and ``waveform``, the last two as plain bytes that are read in place. Each extractor adds a struct column of
its own name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.errors import ErrorType
from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.media.windows import joined_text
from vemoclap_batch.store import schemas
from vemoclap_batch.store.table import keys

#: Columns that decoding adds.
DECODED, FRAMES, WAVEFORM = "decoded", "frames", "waveform"
#: What an extractor may read of another one's results: its text, the same in pieces with times, or frame numbers.
Kind = Literal["text", "pieces", "detections"]
#: Columns of a row that enters and stays as it is.
_PENDING = ["video_id", "content_key", "uri", "wanted"]


def stored_column(kind: Kind, extractor: str) -> str:
    """Name the column that brings an extractor's text, pieces or detections from the store."""
    return f"{kind}_{extractor}"


def is_long(rows: pa.Table) -> pa.ChunkedArray:
    """Tell which rows of a decoded table belong to a video in several chunks: bool [n]."""
    return pc.not_equal(pc.fill_null(pc.struct_field(rows[DECODED], "chunks"), 1), 1)


def chunks_of(row: pa.Table) -> int:
    """Return how many chunks the video of a decoded row has; 0 when no further one comes, after a failure or a stop."""
    decoded = row[DECODED][0].as_py()
    return 0 if decoded is None or decoded["error_type"] is not None else decoded["chunks"]


def input_from(rows: pa.Table, row: int, source: Spec, kind: Kind) -> Any:
    """Return what an extractor reads of another one's result, from this run or the store; None when there is none."""
    result = rows[source.name][row].as_py() if source.name in rows.column_names else None
    if result is not None:
        return None if result["error_type"] is not None else input_in(result, source, kind)
    column = stored_column(kind, source.name)
    return rows[column][row].as_py() if column in rows.column_names else None


def input_in(features: Mapping[str, Any], source: Spec, kind: Kind) -> Any:
    """Return what other extractors read of a features row: text, the same in pieces in order of time, or frame numbers.

    A transcript has ``segments``, text read off frames has ``lines``: those of one frame are one piece, by a space
    between them and in lower case, or in English where ``texts`` has that.
    """
    if kind == "text":
        return features["text"]
    if kind == "detections":
        return [item["frame"] for item in features[source.cls.detections or ""] or ()]
    if features.get("segments") is not None:
        return [{name: segment[name] for name in ("start_s", "end_s", "text")} for segment in features["segments"]]
    frames: dict[int, tuple[float, list[str]]] = {}
    for line in features.get("lines") or ():
        frames.setdefault(line["frame"], (line["time_s"], []))[1].append(line["text"])
    english = {item["text"]: item["english"] or "" for item in features.get("texts") or ()}
    shown = [(time, " ".join(texts).lower()) for time, texts in frames.values()]
    return [{"start_s": time, "end_s": time, "text": english.get(text, text)} for time, text in shown]


class ChunkMerger:
    """Collects the rows of chunks until a video is complete, and merges them. Frames and waveforms have left them."""

    def __init__(self, specs: Mapping[str, Spec]) -> None:
        self._specs = specs
        self._waiting: defaultdict[str, dict[int, pa.Buffer]] = defaultdict(dict)
        #: How many chunks a video will have: fewer than first said when decoding fails midway, 0 when the run stops.
        self._expected: dict[str, int] = {}

    def add(self, block: pa.Table) -> pa.Table:
        """Take a finished block; returns its rows of short videos and those of the videos that it completes."""
        if DECODED not in block.column_names:
            return block
        is_chunk = is_long(block)
        if not pc.any(is_chunk).as_py():
            return block
        ready = [block.filter(pc.invert(is_chunk))]
        long = block.filter(is_chunk)
        for at, key in enumerate(keys(long).to_pylist()):
            row, waiting = long.slice(at, 1), self._waiting[key]
            decoded = row[DECODED][0].as_py()
            waiting[decoded["chunk"]] = _packed(row)
            self._expected[key] = min(decoded["chunks"], self._expected.get(key, decoded["chunks"]))
            if not self._expected[key]:
                del self._waiting[key]
            elif len(waiting) == self._expected[key]:
                ready.append(merge([_unpacked(waiting[number]) for number in sorted(waiting)], self._specs))
                del self._waiting[key], self._expected[key]
        return pa.concat_tables(ready, promote_options="default")

    def incomplete(self) -> pa.Table | None:
        """Return a failed row for each video that still lacks a chunk when no block is left; None without any."""
        failed = []
        for key, waiting in self._waiting.items():
            count = f"only {len(waiting)} of its {self._expected[key]} chunks"
            message = f"{count} came through; the process of the others died"
            failure = {"error_type": str(ErrorType.WORKER_DIED), "message": message, "seconds": 0.0, "ready_at": 0.0}
            row = _unpacked(next(iter(waiting.values()))).select(_PENDING)
            failed.append(row.append_column(DECODED, pa.array([failure], schemas.DECODED)))
        self._waiting.clear()
        return pa.concat_tables(failed) if failed else None


def _packed(row: pa.Table) -> pa.Buffer:
    """Serialize a row that waits: the objects of a table would take more memory than the numbers in it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, row.schema) as writer:
        writer.write_table(row)
    return sink.getvalue()


def _unpacked(row: pa.Buffer) -> pa.Table:
    return pa.ipc.open_stream(row).read_all()


def merge(rows: Sequence[pa.Table], specs: Mapping[str, Spec]) -> pa.Table:
    """Merge the rows of a video's chunks, in order, into one.

    An extractor that failed on one chunk failed on the video. One that was not run on every chunk, because decoding
    failed or the run stopped, has no result. Features, their times and other lists are those of the chunks one after
    the other, with frames numbered through. See :func:`merged_extras` for single values.
    """
    row = rows[0].select(_PENDING)
    decoded = [chunk[DECODED][0].as_py() for chunk in rows]
    row = row.append_column(DECODED, pa.array([_merged_media(decoded)], schemas.DECODED))
    for name, spec in specs.items():
        if name in rows[0].column_names:
            results = [pc.take(chunk[name].combine_chunks(), [0]) for chunk in rows]
            row = row.append_column(name, _merged_result(results, decoded, spec))
    return row


def _merged_media(decoded: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        **next((chunk for chunk in decoded if chunk["has_video"]), decoded[0]),
        **_merged_status(decoded),
        **{"chunk": 0, "chunks": len(decoded), "start_s": 0.0, "first_frame": 0},
        "frame_times": [time for chunk in decoded for time in chunk["frame_times"] or ()],
        "warnings": [*dict.fromkeys(warning for chunk in decoded for warning in chunk["warnings"] or ())],
        "has_audio": any(chunk["has_audio"] for chunk in decoded),
    }


def _merged_status(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    failed = next((chunk for chunk in chunks if chunk["error_type"] is not None), None)
    return {
        "error_type": failed["error_type"] if failed else None,
        "message": failed["message"] if failed else None,
        "seconds": sum(chunk["seconds"] for chunk in chunks),
        "ready_at": max(chunk["ready_at"] for chunk in chunks),
    }


def _merged_result(
    results: Sequence[pa.StructArray], decoded: Sequence[Mapping[str, Any]], spec: Spec
) -> pa.StructArray:
    """Merge one extractor's structs of all chunks: arrays of length 1."""
    fields = list(results[0].type)
    ran = [result for result in results if result[0].is_valid]
    # Numbers of features stay Arrow's: as Python objects those of an hour would take gigabytes.
    large = {"feature", "start_s", "end_s"} - set(spec.cls.columns)
    small = [field.name for field in fields if field.name not in large]
    values = [{name: pc.struct_field(result, name)[0].as_py() for name in small} for result in ran]
    failed = any(value["error_type"] is not None for value in values)
    if not failed and len(ran) < len(results):
        return pa.nulls(1, results[0].type)
    merged = _merged_status(values)
    if not failed:
        merged |= merged_extras(values, spec.cls.columns, decoded, spec.reads_frames)
    good = [result for result, value in zip(ran, values, strict=True) if value["error_type"] is None]
    arrays = [
        _concatenated([pc.struct_field(result, field.name) for result in good], field.type)
        if field.name in large
        else pa.array([merged.get(field.name)], field.type)
        for field in fields
    ]
    return pa.StructArray.from_arrays(arrays, fields=fields)


def _concatenated(lists: Sequence[pa.ListArray], kind: pa.ListType) -> pa.ListArray:
    """Put lists one after the other: an array of length 1."""
    items = pa.concat_arrays([pc.list_flatten(item) for item in lists]) if lists else pa.array([], kind.value_type)
    return pa.ListArray.from_arrays(pa.array([0, len(items)], pa.int32()), items)


def merged_extras(
    chunks: Sequence[Mapping[str, Any]], columns: Mapping[str, pa.DataType], decoded: Sequence[Mapping[str, Any]],
    written: bool,
) -> dict[str, Any]:  # fmt: skip
    """Merge an extractor's own columns.

    Measures (floats, where no other single values are among the columns) are averaged over the chunks. Of other single
    values (a language with its probability, a caption with its frame) all are those of one chunk: the one with most
    text, else the middle one of those that have them.

    Args:
        chunks: its columns for every chunk.
        columns: their types.
        decoded: what decoding said of every chunk.
        written: whether the extractor reads frames, so that its texts are what is written there.
    """
    # A chunk weighs as much as it has frames, or samples.
    weights = [float((each["frame_shape"] or [0])[0] if written else each["own_samples"] or 0) for each in decoded]
    single = [name for name, kind in columns.items() if not pa.types.is_list(kind) and name != "text"]
    merged: dict[str, Any] = {}
    if all(pa.types.is_floating(columns[name]) for name in single):
        merged = {name: _mean([chunk[name] for chunk in chunks], weights) for name in single}
    elif there := [at for at, chunk in enumerate(chunks) if any(chunk[name] is not None for name in single)]:
        middle = there[(len(there) - 1) // 2]
        chosen = max(there, key=lambda at: len(chunks[at]["text"] or "")) if "text" in columns else middle
        values = {name: chunks[chosen][name] for name in single}
        merged = _renumbered(values, decoded[chosen]["first_frame"])
    for name, kind in columns.items():
        if name == "text":
            texts = [chunk[name] for chunk in chunks if chunk[name]]
            # The text of a chunk's frames is put together of each frame's; what several show is taken once.
            pieces = [piece for text in texts for piece in (text.split(". ") if written else [text])]
            merged[name] = joined_text(pieces, written)
        elif pa.types.is_list(kind):
            lists = [chunk[name] or [] for chunk in chunks]
            is_ranking = pa.types.is_struct(kind.value_type) and {"label", "probability"} <= set(kind.value_type.names)
            pairs = [(item, each["first_frame"]) for items, each in zip(lists, decoded, strict=True) for item in items]
            merged[name] = _merged_ranking(lists, weights) if is_ranking else [_renumbered(*pair) for pair in pairs]
    return merged


def _renumbered(item: Any, first_frame: int) -> Any:
    if isinstance(item, dict) and item.get("frame") is not None:
        return {**item, "frame": item["frame"] + first_frame}
    return item


def _merged_ranking(rankings: Sequence[Sequence[Any]], weights: Sequence[float]) -> list[dict[str, Any]]:
    """Rank labels by their mean probability; one that a chunk does not name counts 0 there."""
    sums: defaultdict[str, float] = defaultdict(float)
    items: dict[str, Mapping[str, Any]] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for item in ranking:
            sums[item["label"]] += item["probability"] * weight
            items[item["label"]] = item
    total = sum(weights) or 1.0
    best = sorted(sums, key=lambda label: (-sums[label], label))[: max(map(len, rankings))]
    return [{**items[label], "probability": sums[label] / total} for label in best]


def _mean(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    there = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None and weight]
    if not there:
        return None
    return float(np.average([value for value, _ in there], weights=[weight for _, weight in there]))
