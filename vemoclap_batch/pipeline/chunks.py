"""How the chunks of a long video become one row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.extractors.base import TEXTS
from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.media.windows import joined_text
from vemoclap_batch.pipeline.rows import DECODED
from vemoclap_batch.store import schemas


def merge(rows: Sequence[pa.Table], specs: Mapping[str, Spec]) -> pa.Table:
    """Merge the rows of a video's chunks, in order and without frames, into one.

    An extractor that failed on one chunk failed on the video. One that was not run on every chunk, because decoding
    failed or the run stopped, has no result. Features, their times and other lists are those of the chunks one after
    the other, with frames numbered through. See :func:`merged_extras` for single values.
    """
    own = {DECODED, *specs}
    row = rows[0].select([name for name in rows[0].column_names if name not in own])
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
    single = [name for name, kind in columns.items() if not pa.types.is_list(kind) and name not in TEXTS]
    merged: dict[str, Any] = {}
    if all(pa.types.is_floating(columns[name]) for name in single):
        merged = {name: _mean([chunk[name] for chunk in chunks], weights) for name in single}
    elif there := [at for at, chunk in enumerate(chunks) if any(chunk[name] is not None for name in single)]:
        middle = there[(len(there) - 1) // 2]
        chosen = max(there, key=lambda at: len(chunks[at]["text"] or "")) if "text" in columns else middle
        values = {name: chunks[chosen][name] for name in single}
        merged = _renumbered(values, decoded[chosen]["first_frame"])
    for name, kind in columns.items():
        if name in TEXTS:
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
