"""The parts of long videos come back in any order and in different blocks; here each video becomes one row again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.errors import ErrorType
from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.media.clip import SAMPLE_RATE
from vemoclap_batch.media.timeline import joined_text
from vemoclap_batch.pipeline import rows as R
from vemoclap_batch.store import schemas
from vemoclap_batch.store.table import keys

_STATUS = ("error_type", "message", "seconds", "ready_at")


class Joiner:
    """Holds the results of parts until a video has them all; frames and sound never get here."""

    def __init__(self, specs: Mapping[str, Spec]) -> None:
        """Start with nothing.

        Args:
            specs: the run's extractors.
        """
        self._specs = specs
        self._waiting: defaultdict[str, dict[int, _Packed]] = defaultdict(dict)
        self._schemas: list[pa.Schema] = []
        self._stopped: set[str] = set()

    def add(self, block: pa.Table) -> pa.Table:
        """Take a finished block; returns its rows of short videos and those of the videos that it completes."""
        if R.DECODED not in block.column_names:
            return block
        counts = pc.fill_null(pc.struct_field(block[R.DECODED], "parts"), 1)
        if pc.all(pc.equal(counts, 1)).as_py():
            return block
        ready = [block.filter(pc.equal(counts, 1))]
        long = block.filter(pc.not_equal(counts, 1))
        for at, key in enumerate(keys(long).to_pylist()):
            row = long.slice(at, 1)
            part = row[R.DECODED][0].as_py()
            if not part["parts"]:
                self._stopped.add(key)
            self._waiting[key][part["part"]] = self._packed(row, part["parts"])
            if key in self._stopped:
                del self._waiting[key]
            elif len(self._waiting[key]) == _parts(self._waiting[key].values()):
                found = self._waiting.pop(key)
                ready.append(join([found[number].row() for number in sorted(found)], self._specs))
        return pa.concat_tables(ready, promote_options="default")

    def _packed(self, row: pa.Table, parts: int) -> _Packed:
        schema = next((known for known in self._schemas if known.equals(row.schema)), None)
        if schema is None:
            self._schemas.append(schema := row.schema)
        [batch] = row.combine_chunks().to_batches()
        return _Packed(parts, schema, batch.serialize())

    def lost(self) -> pa.Table | None:
        """Once no block is left: a failed row for each video some of whose parts never came, or None."""
        failed = []
        for found in self._waiting.values():
            message = f"only {len(found)} of its {_parts(found.values())} parts came through; the others' process died"
            failure = {"error_type": str(ErrorType.WORKER_DIED), "message": message, "seconds": 0.0, "ready_at": 0.0}
            row = next(iter(found.values())).row()
            decoded = pa.array([failure], R.DECODED_TYPE)
            failed.append(_work(row).append_column(R.DECODED, decoded))
        self._waiting.clear()
        return pa.concat_tables(failed) if failed else None


class _Packed(NamedTuple):
    """A part's row while it waits: many parts do, and a table's own objects take more memory than the numbers in it.

    Attributes:
        parts: how many parts the video has, as far as this one knew.
        schema: of the row, one for all.
        batch: the row, in the bytes that Arrow sends.
    """

    parts: int
    schema: pa.Schema
    batch: pa.Buffer

    def row(self) -> pa.Table:
        return pa.Table.from_batches([pa.ipc.read_record_batch(self.batch, self.schema)])


def _parts(found: Iterable[_Packed]) -> int:
    """How many parts there will be: fewer than first said when decoding failed midway."""
    return min(packed.parts for packed in found)


def _work(row: pa.Table) -> pa.Table:
    return row.select(["video_id", "content_key", "uri", "wanted"])


def join(parts: Sequence[pa.Table], specs: Mapping[str, Spec]) -> pa.Table:
    """The row of a video from the rows of its parts, in order.

    An extractor that failed on one part failed on the video. One that was not run on every part, because decoding
    failed or the run stopped, has no result. Features, their times and lists of things found are those of the parts
    one after the other. Frames are numbered through. See :func:`_scalars` for single values.
    """
    row = _work(parts[0])
    decoded = [part[R.DECODED][0].as_py() for part in parts]
    row = row.append_column(R.DECODED, pa.array([_joined_media(decoded)], R.DECODED_TYPE))
    for name, spec in specs.items():
        if name in parts[0].column_names:
            kind = parts[0].schema.field(name).type
            found = [pc.take(part[name].combine_chunks(), [0]) for part in parts]
            row = row.append_column(name, _joined_result(found, decoded, spec, kind))
    return row


def _joined_media(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    joined = dict(next((part for part in parts if part["has_video"]), parts[0]))
    joined |= _joined_status(parts)
    joined |= {"part": 0, "parts": len(parts), "start_s": 0.0, "first_frame": 0}
    joined["frame_times"] = [time for part in parts for time in part["frame_times"] or ()]
    joined["warnings"] = [*dict.fromkeys(warning for part in parts for warning in part["warnings"] or ())]
    joined["has_audio"] = any(part["has_audio"] for part in parts)
    return joined


def _joined_status(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    failed = next((part for part in parts if part["error_type"] is not None), None)
    return {
        "error_type": failed["error_type"] if failed else None,
        "message": failed["message"] if failed else None,
        "seconds": sum(part["seconds"] for part in parts),
        "ready_at": max(part["ready_at"] for part in parts),
    }


def _joined_result(
    found: Sequence[pa.StructArray], media: Sequence[Mapping[str, Any]], spec: Spec, kind: pa.StructType
) -> pa.StructArray:
    """One extractor's struct for the video: an array of length 1."""
    status = [{name: pc.struct_field(item, name)[0].as_py() for name in _STATUS} for item in found if item[0].is_valid]
    failed = any(item["error_type"] is not None for item in status)
    if not failed and len(status) < len(found):
        return pa.nulls(1, kind)
    values: dict[str, Any] = _joined_status(status)
    # The numbers of features stay Arrow's: as Python objects those of an hour would take gigabytes.
    good = [item for item in found if item[0].is_valid and pc.struct_field(item, "error_type")[0].as_py() is None]
    columns = {"feature": _listed([pc.struct_field(item, "feature") for item in good], schemas.FEATURE)}
    for name in ("start_s", "end_s"):
        if kind.get_field_index(name) >= 0:
            columns[name] = _listed([pc.struct_field(item, name) for item in good], kind.field(name).type)
    extras = [
        {name: pc.struct_field(item, name)[0].as_py() for name in spec.cls.columns}
        for item in found
        if item[0].is_valid
    ]
    if not failed:
        values |= joined_extras(extras, spec.cls.columns, media, spec.reads_frames)
    arrays = [
        columns[field.name] if field.name in columns else pa.array([values.get(field.name)], field.type)
        for field in kind
    ]
    return pa.StructArray.from_arrays(arrays, fields=list(kind))


def _listed(lists: Sequence[pa.ListArray], kind: pa.ListType) -> pa.ListArray:
    """Lists put one after the other: an array of length 1."""
    items = pa.concat_arrays([pc.list_flatten(item) for item in lists]) if lists else pa.array([], kind.value_type)
    return pa.ListArray.from_arrays(pa.array([0, len(items)], pa.int32()), items)


def joined_extras(
    parts: Sequence[Mapping[str, Any]], columns: Mapping[str, pa.DataType], media: Sequence[Mapping[str, Any]],
    written: bool,
) -> dict[str, Any]:  # fmt: skip
    """An extractor's own columns for the video.

    Args:
        parts: its columns for every part.
        columns: their types.
        media: what decoding said of every part.
        written: whether the extractor reads frames, so that its texts are what is written there.
    """
    sizes = [_size(part, written) for part in media]
    joined = _scalars(parts, columns, media, sizes)
    for name, kind in columns.items():
        values = [part[name] for part in parts]
        if name == "text":
            joined[name] = _text([value for value in values if value], written)
        elif pa.types.is_list(kind) and _fields(kind) >= {"label", "probability"}:
            joined[name] = _ranking(values, sizes)
        elif pa.types.is_list(kind):
            joined[name] = [
                _renumbered(item, part["first_frame"])
                for value, part in zip(values, media, strict=True)
                for item in value or ()
            ]
    return joined


def _text(texts: Sequence[str], written: bool) -> str:
    """A part's own text is that of its frames put together; what several parts show is taken once."""
    return joined_text([piece for text in texts for piece in (text.split(". ") if written else [text])], written)


def _size(media: Mapping[str, Any], written: bool) -> float:
    """How much a part weighs: its frames, or its seconds of sound."""
    if written:
        return float((media["frame_shape"] or [0])[0])
    return (media["own_samples"] or 0) / SAMPLE_RATE


def _fields(kind: pa.ListType) -> set[str]:
    value = kind.value_type
    return {field.name for field in value} if pa.types.is_struct(value) else set()


def _renumbered(item: Any, first_frame: int) -> Any:
    if isinstance(item, dict) and item.get("frame") is not None:
        return {**item, "frame": item["frame"] + first_frame}
    return item


def _ranking(rankings: Sequence[Any], sizes: Sequence[float]) -> list[dict[str, Any]]:
    """The labels whose probabilities are highest on average; one that a part does not name counts 0 there."""
    sums: defaultdict[str, float] = defaultdict(float)
    items: dict[str, Mapping[str, Any]] = {}
    for ranking, size in zip(rankings, sizes, strict=True):
        for item in ranking or ():
            sums[item["label"]] += item["probability"] * size
            items[item["label"]] = item
    total = sum(sizes) or 1.0
    longest = max((len(ranking or ()) for ranking in rankings), default=0)
    best = sorted(sums, key=lambda label: (-sums[label], label))[:longest]
    return [{**items[label], "probability": sums[label] / total} for label in best]


def _scalars(
    parts: Sequence[Mapping[str, Any]], columns: Mapping[str, pa.DataType], media: Sequence[Mapping[str, Any]],
    sizes: Sequence[float],
) -> dict[str, Any]:  # fmt: skip
    """Single values: measures (floats alone) are averaged, by how much each part has of what was measured.

    Where there are others among them (a language with its probability, a caption with its frame), all are those of one
    part: the one with most text, else the middle one of those that have them.
    """
    names = [name for name, kind in columns.items() if not pa.types.is_list(kind) and name != "text"]
    if all(pa.types.is_floating(columns[name]) for name in names):
        return {name: _mean([part[name] for part in parts], sizes) for name in names}
    there = [at for at, part in enumerate(parts) if any(part[name] is not None for name in names)]
    if not there:
        return dict.fromkeys(names)
    chosen = there[(len(there) - 1) // 2]
    if "text" in columns:
        chosen = max(there, key=lambda at: len(parts[at]["text"] or ""))
    return _renumbered({name: parts[chosen][name] for name in names}, media[chosen]["first_frame"])


def _mean(values: Sequence[float | None], sizes: Sequence[float]) -> float | None:
    there = [(value, size) for value, size in zip(values, sizes, strict=True) if value is not None and size]
    if not there:
        return None
    return float(np.average([value for value, _ in there], weights=[size for _, size in there]))
