"""The rows of the Ray Data graph: one for each video, and within a chain one for each chunk of a long video.

A row enters with ``video_id``, ``content_key``, ``uri``, ``wanted`` (the extractors to run) and what these read from
the store (see :func:`stored_column`). Decoding adds ``decoded``, ``frames`` and ``waveform``, the last two as plain
bytes that are read in place. Each extractor adds a struct column of its own name.

A long video is decoded in chunks, which never leave the process: its row says how many there are and has no frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Result
from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.media.clip import Clip, MediaInfo
from vemoclap_batch.media.windows import Piece, TimedText
from vemoclap_batch.sources.manifest import video_id
from vemoclap_batch.store import schemas
from vemoclap_batch.store.table import keys

#: What a row says of its clip in the clip's own names.
_OF_CLIP = ("duration_s", "start_s", "chunk", "chunks", "first_frame", "audio_samples")
#: Columns that decoding adds.
DECODED, FRAMES, WAVEFORM = "decoded", "frames", "waveform"
_PIECE = ("start_s", "end_s", "text")
#: What an extractor may read of another one's results: its text, the same in pieces with times, both also in the
#: language that was spoken, or frame numbers.
Kind = Literal["text", "pieces", "text_original", "pieces_original", "detections"]


def text_kind(spec: Spec) -> Kind:
    """Tell which text an extractor reads."""
    if spec.text_column == "text":
        return "pieces" if spec.reads_times else "text"
    return "pieces_original" if spec.reads_times else "text_original"


def stored_column(kind: Kind, extractor: str) -> str:
    """Name the column that brings an extractor's text, pieces or detections from the store."""
    return f"{kind}_{extractor}"


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

    A transcript has ``segments``, whose ``words`` are its pieces. Text read off frames has ``lines``: those of one
    frame are one piece, by a space between them and in lower case, or in English where ``texts`` has that.
    """
    if kind in {"text", "text_original"}:
        return features[kind]
    if kind == "pieces_original":
        return features["segments_original"]
    if kind == "detections":
        return [item["frame"] for item in features[source.cls.detections or ""] or ()]
    if features.get("segments") is not None:
        return _spoken_pieces(features["segments"], features.get("words") or ())
    frames: dict[int, tuple[float, list[str]]] = {}
    # A line with a note is no part of the text.
    for line in (line for line in features.get("lines") or () if line.get("note") is None):
        frames.setdefault(line["frame"], (line["time_s"], []))[1].append(line["text"])
    english = {item["text"]: item["english"] or "" for item in features.get("texts") or ()}
    shown = [(time, " ".join(texts).lower()) for time, texts in frames.values()]
    return [{"start_s": time, "end_s": time, "text": english.get(text, text)} for time, text in shown]


def _spoken_pieces(segments: Sequence[Mapping[str, Any]], words: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The words of a transcript; a segment as a whole where no spaces divide its words, or none are stored."""
    pieces: list[dict[str, Any]] = []
    at = 0
    for segment in segments:
        texts = segment["text"].split(" ")
        own = words[at : at + len(texts)]
        is_divided = texts == [word["text"] for word in own]
        pieces += [{name: item[name] for name in _PIECE} for item in (own if is_divided else [segment])]
        at = at + len(texts) if is_divided else at + sum(word["start_s"] < segment["end_s"] for word in words[at:])
    return pieces


def row_keys(rows: pa.Table, at: Sequence[int]) -> list[str]:
    """Name the videos, or chunks of videos, of some rows."""
    names = keys(rows).to_pylist()
    if DECODED in rows.column_names:
        chunks = pc.struct_field(rows[DECODED], "chunk").to_pylist()
        names = [f"{name}\0{chunk}" if chunk else name for name, chunk in zip(names, chunks, strict=True)]
    return [names[row] for row in at]


def complete(rows: pa.Table, specs: Mapping[str, Spec]) -> pa.Table:
    """Add what a row of somebody's own dataset may lack beside its ``uri``: an id, and that all extractors are wanted.

    Raises:
        ValueError: there is no column ``uri``.
    """
    if "uri" not in rows.column_names:
        raise ValueError(f"the dataset has no column uri, only {', '.join(rows.column_names) or 'none'}")
    names = set(rows.column_names)
    if "video_id" not in names:
        rows = rows.append_column("video_id", pa.array([video_id(uri) for uri in rows["uri"].to_pylist()], pa.string()))
    if "content_key" not in names:
        rows = rows.append_column("content_key", pa.array([""] * rows.num_rows, pa.string()))
    if "wanted" not in names:
        rows = rows.append_column("wanted", pa.array([list(specs)] * rows.num_rows, pa.list_(pa.string())))
    return rows


def concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    """Put tables of rows one below the other; a column that one lacks is null there."""
    return pa.concat_tables(tables, promote_options="default")


def has_results(row: pa.Table, specs: Mapping[str, Spec]) -> bool:
    """Tell whether an extractor of an earlier stage has read the frames or the audio of a row."""
    there = [name for name, spec in specs.items() if spec.source is None and name in row.column_names]
    return any(row[name][0].is_valid for name in there)


def as_stored(row: pa.Table, specs: Mapping[str, Spec]) -> pa.Table:
    """Return a finished row as one that is still to be decoded: what was detected in it comes as from the store."""
    results = [name for name in specs if name in row.column_names]
    for name in results:
        column = stored_column("detections", name)
        if specs[name].cls.detections is not None:
            detections = pa.array([input_from(row, 0, specs[name], "detections")], schemas.STORED["detections"])
            row = row.drop_columns([column] if column in row.column_names else []).append_column(column, detections)
    media = [name for name in (DECODED, FRAMES, WAVEFORM) if name in row.column_names]
    return row.drop_columns([*results, *media])


def with_media(
    row: pa.Table, item: tuple[Clip, MediaInfo] | Failure | None, ready_at: float, seconds: float = 0.0, chunk: int = 0
) -> pa.Table:
    """Add the columns of decoding to one row.

    The item is None for a video that is not decoded. At a later chunk it means that the run stopped before it: the row
    then says 0 chunks. After a failure no further chunk follows: its row says so many chunks as there are with it.
    """
    decoded: dict[str, Any] = {"seconds": seconds, "ready_at": ready_at, "chunk": chunk, "chunks": 0}
    frames = waveform = None
    if isinstance(item, Failure):
        decoded |= {"error_type": str(item.error_type), "message": item.message, "chunks": chunk + 1}
    elif item is not None:
        clip, info = item
        frames = clip.frames
        waveform = np.concatenate([to_int16(clip.waveform), to_int16(clip.lookahead)])
        decoded |= asdict(info) | {name: getattr(clip, name) for name in (*_OF_CLIP, "frame_times")}
        decoded |= {"frame_shape": list(clip.frames.shape), "own_samples": len(clip.waveform)}
    is_decoded = item is not None or chunk > 0
    row = row.append_column(DECODED, pa.array([decoded if is_decoded else None], schemas.DECODED))
    return row.append_column(FRAMES, _binary(frames)).append_column(WAVEFORM, _binary(waveform))


def _binary(array: np.ndarray | None) -> pa.Array:
    return pa.array([None if array is None else array.tobytes()], pa.large_binary())


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Convert a waveform to int16 for the object store, without loss: decoding gives multiples of 2**-15."""
    return np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)


def clip_of(rows: pa.Table, row: int) -> Clip | None:
    """Return the clip of a row, its frames a view of the row's bytes; None when nothing was decoded."""
    if not chunks_of(rows.slice(row, 1)):
        return None
    decoded = rows[DECODED][row].as_py()
    frames = np.zeros((0, 0, 0, 3), np.uint8)
    if FRAMES in rows.column_names:
        frames = np.frombuffer(rows[FRAMES][row].as_buffer(), np.uint8).reshape(decoded["frame_shape"])
    pcm = np.zeros(0, np.int16)
    if WAVEFORM in rows.column_names:
        pcm = np.frombuffer(rows[WAVEFORM][row].as_buffer(), np.int16)
    waveform = pcm.astype(np.float32) / 32768.0
    own = decoded["own_samples"]
    return Clip(
        video_id=rows["video_id"][row].as_py(),
        frames=frames,
        frame_times=np.asarray(decoded["frame_times"], float)[: len(frames)],
        waveform=waveform[:own],
        lookahead=waveform[own:],
        **{name: decoded[name] for name in _OF_CLIP},
    )


def text_of(rows: pa.Table, row: int, spec: Spec, source: Spec) -> str | TimedText | None:
    """Return the text that an extractor reads, in pieces with times if it needs them; None when there is none."""
    found = input_from(rows, row, source, text_kind(spec))
    if not spec.reads_times or found is None:
        return found
    return TimedText([Piece(**piece) for piece in found], written=source.reads_frames)


def detections_of(rows: pa.Table, row: int, source: Spec) -> np.ndarray:
    """Return in which of the row's own frames an extractor detected something: int32 [n]; empty when not known."""
    frames = np.array(input_from(rows, row, source, "detections") or (), np.int32)
    if source.name in rows.column_names and rows[source.name][row].is_valid:
        return frames
    # The store numbers the frames of the whole video.
    decoded = rows[DECODED][row].as_py()
    frames = frames - decoded["first_frame"]
    return frames[(frames >= 0) & (frames < decoded["frame_shape"][0])]


def with_results(
    rows: pa.Table, spec: Spec, results: Sequence[Result | Failure | None], seconds: float, ready_at: float
) -> pa.Table:
    """Add an extractor's column; None for a row it did not run on. ``seconds`` are shared among those it ran on.

    A result that does not fit the extractor's columns becomes a failure of its own video.
    """
    schema = schemas.features(spec.cls.sequence, spec.cls.columns)
    fields = [field for field in schema if field.name not in {"video_id", "content_key", "run_id"}]
    kind = pa.struct([*schemas.STATUS, *fields])
    share = seconds / max(sum(result is not None for result in results), 1)
    column = [_struct(result, kind, {"seconds": share, "ready_at": ready_at}) for result in results]
    return rows.append_column(spec.name, pa.chunked_array(column, kind))


def _struct(result: Result | Failure | None, kind: pa.StructType, status: Mapping[str, float]) -> pa.StructArray:
    if result is None:
        return pa.nulls(1, kind)
    if isinstance(result, Failure):
        return pa.array([{**status, "error_type": str(result.error_type), "message": result.message}], kind)
    try:
        # As a list of arrays: Arrow would make a Python object of every number of a nested list.
        feature = list(np.asarray(result.feature, np.float32))
        times = {"start_s": result.start_s, "end_s": result.end_s}
        return pa.array([{**status, "feature": feature, **times, **result.extras}], kind)
    except (pa.ArrowException, ValueError, TypeError) as error:
        return _struct(Failure.of(error), kind, status)
