"""How a video travels between stages: one Arrow row, its frames and sound as plain bytes, results as structs.

Columns of the work that enters: ``video_id``, ``content_key``, ``uri``, ``wanted`` (extractors to run) and
``text_<extractor>``, ``pieces_<extractor>`` and ``detections_<extractor>`` (text, its pieces with their times, and
frames in which something was found, that are in the store already). Decoding adds three columns and makes a row of
every part of a long video; each extractor adds a struct column of its own name. Bytes are read in place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Result
from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.media.clip import Clip, MediaInfo
from vemoclap_batch.media.timeline import Piece, TimedText
from vemoclap_batch.store import schemas
from vemoclap_batch.store.schemas import feature_array

#: Name of the struct column that decoding adds.
DECODED = "decoded"
FRAMES, WAVEFORM = "frames", "waveform"
_STATUS: list[tuple[str, pa.DataType]] = [
    ("error_type", pa.string()),
    ("message", pa.string()),
    ("seconds", pa.float64()),  # of the stage's own time, an equal share of its batch's
    ("ready_at", pa.float64()),  # when the stage's actor had its model, seconds since the epoch
]
DECODED_TYPE = pa.struct(
    [
        *_STATUS,
        ("frame_shape", pa.list_(pa.int32())),
        ("start_s", pa.float64()),
        ("part", pa.int32()),
        ("parts", pa.int32()),
        ("first_frame", pa.int32()),
        ("sound_samples", pa.int64()),
        ("own_samples", pa.int64()),  # the rest of the waveform is the beginning of the next part's
        *[
            (field.name, field.type)
            for field in schemas.VIDEOS
            if field.name not in {"video_id", "content_key", "uri", "run_id"}
        ],
    ]
)


#: A text extractor's source, in pieces with their times.
PIECES = pa.list_(pa.struct([("start_s", pa.float64()), ("end_s", pa.float64()), ("text", pa.string())]))


def text_column(extractor: str) -> str:
    """Name of the column that brings an extractor's text from the store."""
    return f"text_{extractor}"


def pieces_column(extractor: str) -> str:
    """Name of the column that brings the pieces of an extractor's text from the store."""
    return f"pieces_{extractor}"


def detections_column(extractor: str) -> str:
    """Name of the column that brings from the store the frames in which an extractor found something."""
    return f"detections_{extractor}"


def result_type(spec: Spec) -> pa.StructType:
    """The type of one extractor's column."""
    schema = schemas.features(spec.cls.sequence, spec.cls.columns)
    return pa.struct(
        [*_STATUS, *[field for field in schema if field.name not in {"video_id", "content_key", "run_id"}]]
    )


def with_media(
    rows: pa.Table, decoded: Sequence[tuple[Clip, MediaInfo] | Failure | None], seconds: Sequence[float], ready: float,
    part: int = 0,
) -> pa.Table:  # fmt: skip
    """Add what decoding gave; None for a row that needed none.

    A failure in place of a later ``part`` of a video says with its number of parts that it is the last.
    """
    structs = [
        None if item is None else _decoded(item, took, ready, part) for item, took in zip(decoded, seconds, strict=True)
    ]
    clips = [item[0] if isinstance(item, tuple) else None for item in decoded]
    frames = [None if clip is None else clip.frames for clip in clips]
    sounds = [
        None if clip is None else np.concatenate([to_int16(clip.waveform), to_int16(clip.following)]) for clip in clips
    ]
    rows = rows.append_column(DECODED, pa.array(structs, DECODED_TYPE))
    rows = rows.append_column(FRAMES, _binary(frames))
    return rows.append_column(WAVEFORM, _binary(sounds))


def broken_off(row: pa.Table, part: int, ready: float) -> pa.Table:
    """The last row of a long video whose decoding was stopped before a part: it has 0 parts."""
    decoded = {"seconds": 0.0, "ready_at": ready, "part": part, "parts": 0}
    row = row.append_column(DECODED, pa.array([decoded], DECODED_TYPE))
    return row.append_column(FRAMES, _binary([None])).append_column(WAVEFORM, _binary([None]))


def _decoded(item: tuple[Clip, MediaInfo] | Failure, seconds: float, ready: float, part: int) -> dict[str, Any]:
    status = {"seconds": seconds, "ready_at": ready}
    if isinstance(item, Failure):
        failed = {"error_type": str(item.error_type), "message": item.message}
        return {**status, **failed, "part": part, "parts": part + 1}
    clip, info = item
    return {
        **status,
        **asdict(info),
        "duration_s": clip.duration_s,
        "frame_times": clip.frame_times,
        "frame_shape": list(clip.frames.shape),
        "start_s": clip.start_s,
        "part": clip.part,
        "parts": clip.parts,
        "first_frame": clip.first_frame,
        "sound_samples": clip.sound_samples,
        "own_samples": len(clip.waveform),
    }


def _binary(arrays: Sequence[np.ndarray | None]) -> pa.LargeBinaryArray:
    """The bytes of each array, put together with one copy; null for None."""
    parts = [np.zeros(0, np.uint8) if a is None else np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in arrays]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    data = np.concatenate(parts) if parts else np.zeros(0, np.uint8)
    valid = pa.array([a is not None for a in arrays], pa.bool_()).buffers()[1]
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(parts), [valid, pa.py_buffer(offsets), pa.py_buffer(data)]
    )


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """A waveform as it travels: int16, without loss, since decoding gives multiples of 2**-15."""
    return np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)


def clip_of(rows: pa.Table, row: int) -> Clip | None:
    """The clip of a row, its frames a view of the row's bytes; None when nothing was decoded."""
    decoded = rows[DECODED][row].as_py()
    if decoded is None or decoded["error_type"] is not None or not decoded["parts"]:
        return None
    frames = np.zeros((0, 0, 0, 3), np.uint8)
    if FRAMES in rows.column_names:
        frames = np.frombuffer(rows[FRAMES][row].as_buffer(), np.uint8).reshape(decoded["frame_shape"])
    sound = np.zeros(0, np.int16)
    if WAVEFORM in rows.column_names:
        sound = np.frombuffer(rows[WAVEFORM][row].as_buffer(), np.int16)
    waveform = sound.astype(np.float32) / 32768.0
    own = decoded["own_samples"]
    return Clip(
        video_id=rows["video_id"][row].as_py(),
        frames=frames,
        frame_times=np.asarray(decoded["frame_times"], float)[: len(frames)],
        waveform=waveform[:own],
        duration_s=decoded["duration_s"],
        start_s=decoded["start_s"],
        part=decoded["part"],
        parts=decoded["parts"],
        first_frame=decoded["first_frame"],
        following=waveform[own:],
        sound_samples=decoded["sound_samples"],
    )


def text_of(rows: pa.Table, row: int, source: str) -> str | None:
    """The text an extractor found, from this run or the store; None when there is none to be had."""
    if source in rows.column_names:
        found = rows[source][row].as_py()
        if found is not None:
            return None if found["error_type"] is not None else found["text"]
    column = text_column(source)
    return rows[column][row].as_py() if column in rows.column_names else None


def pieces_of(rows: pa.Table, row: int, source: Spec) -> TimedText | None:
    """As :func:`text_of`, in pieces with their times."""
    found: list[dict[str, Any]] | None = None
    result = rows[source.name][row].as_py() if source.name in rows.column_names else None
    if result is not None:
        found = None if result["error_type"] is not None else pieces_in(result)
    elif pieces_column(source.name) in rows.column_names:
        found = rows[pieces_column(source.name)][row].as_py()
    if found is None:
        return None
    return TimedText([Piece(**piece) for piece in found], written=source.reads_frames)


def pieces_in(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The text of a features row in pieces with their times, in order.

    A transcript has ``segments``, a reading of frames has ``lines``: those of one frame are one piece, by a space
    between them and in lower case, or in English where ``texts`` has that.
    """
    if found.get("segments") is not None:
        return [{name: segment[name] for name in ("start_s", "end_s", "text")} for segment in found["segments"]]
    frames: dict[int, tuple[float, list[str]]] = {}
    for line in found.get("lines") or ():
        frames.setdefault(line["frame"], (line["time_s"], []))[1].append(line["text"])
    english = {item["text"]: item["english"] or "" for item in found.get("texts") or ()}
    said = [(time, " ".join(texts).lower()) for time, texts in frames.values()]
    return [{"start_s": time, "end_s": time, "text": english.get(text, text)} for time, text in said]


def detections_of(rows: pa.Table, row: int, source: Spec) -> np.ndarray:
    """The frames in which an extractor found something, from this run or the store; none when that is not known.

    They are numbers of the row's own frames; the store's are of the whole video's.
    """
    if source.name in rows.column_names and rows[source.name][row].is_valid:
        found = rows[source.name][row].as_py()[source.cls.detections] or ()
        return np.array([item["frame"] for item in found], np.int32)
    if detections_column(source.name) not in rows.column_names:
        return np.zeros(0, np.int32)
    decoded = rows[DECODED][row].as_py()
    frames = np.array(rows[detections_column(source.name)][row].as_py() or (), np.int32) - decoded["first_frame"]
    return frames[(frames >= 0) & (frames < decoded["frame_shape"][0])]


def with_results(
    rows: pa.Table, spec: Spec, results: Sequence[Result | Failure | None], seconds: float, ready: float
) -> pa.Table:
    """Add an extractor's column; None for a row it did not run on."""
    kind = result_type(spec)
    no_times = np.zeros(0) if spec.cls.sequence else None
    nothing = Result(np.zeros((0, spec.width), np.float32), no_times, no_times)
    good = [item if isinstance(item, Result) else nothing for item in results]
    bad = [item if isinstance(item, Failure) else None for item in results]
    ran = sum(item is not None for item in results)
    columns: dict[str, pa.Array] = {
        "error_type": pa.array([None if item is None else str(item.error_type) for item in bad], pa.string()),
        "message": pa.array([None if item is None else item.message for item in bad], pa.string()),
        "seconds": pa.array([seconds / ran if ran else 0.0] * len(results), pa.float64()),
        "ready_at": pa.array([ready] * len(results), pa.float64()),
        "feature": feature_array([item.feature for item in good]),
    }
    if spec.cls.sequence:
        columns["start_s"] = pa.array([item.start_s for item in good], schemas.SECONDS)
        columns["end_s"] = pa.array([item.end_s for item in good], schemas.SECONDS)
    for name, column_type in spec.cls.columns.items():
        columns[name] = pa.array([item.extras.get(name) for item in good], column_type)
    absent = pa.array([item is None for item in results], pa.bool_())
    return rows.append_column(
        spec.name, pa.StructArray.from_arrays([columns[field.name] for field in kind], fields=list(kind), mask=absent)
    )
