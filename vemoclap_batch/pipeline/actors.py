"""The actors of the Ray Data graph: they decode videos and run extractors, and add a column for each to the rows."""

from __future__ import annotations

import ctypes
import faulthandler
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.config import Config
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Extractor, Resources, Result
from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.media.clip import Clip, MediaInfo
from vemoclap_batch.media.sampling import Limits, Sampling
from vemoclap_batch.media.windows import Piece, TimedText
from vemoclap_batch.media.worker import DecodeWorker
from vemoclap_batch.pipeline.chunks import DECODED, FRAMES, WAVEFORM, chunks_of, input_from
from vemoclap_batch.pipeline.quarantine import guarded, holding, loading
from vemoclap_batch.pipeline.stages import DECODE, model_key
from vemoclap_batch.store import schemas
from vemoclap_batch.store.table import keys

#: What a row says of its clip in the clip's own names.
_OF_CLIP = ("duration_s", "start_s", "chunk", "chunks", "first_frame", "audio_samples")


class DecodeActor:
    """Decodes each video once, for all extractors, in a child process that can be killed.

    Yields the chunks of a long video one by one, each a table of one row, while the next is decoded; they come in the
    same order when Ray replays the call. All other rows follow in one table.
    """

    def __init__(self, config: Config, specs: Mapping[str, Spec], quarantine: Any) -> None:
        self._frames = {name for name, spec in specs.items() if spec.reads_frames}
        self._audio = {name for name, spec in specs.items() if spec.reads_waveform}
        self._quarantine = quarantine
        self._worker = DecodeWorker(Sampling(**config.sampling.model_dump()), limits(config))
        self._ready_at = time.time()

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Add the decoded media to the rows that want any."""
        with holding(self._quarantine, DECODE, _keys(rows, range(rows.num_rows))) as lost:
            short = []
            for at, names in enumerate(rows["wanted"].to_pylist()):
                row, wants_media = rows.slice(at, 1), bool(self._media(names))
                if lost or not wants_media:
                    short.append(with_media(row, lost if wants_media else None, self._ready_at))
                    continue
                with closing(self._chunks(row, names)) as chunks:
                    first = next(chunks)
                    if chunks_of(first) > 1:
                        yield first
                        yield from chunks
                    else:
                        short.append(first)
            if short:
                yield pa.concat_tables(short)

    def _media(self, wanted: Sequence[str]) -> list[str]:
        return [name for name in wanted if name in self._frames | self._audio]

    def _chunks(self, row: pa.Table, wanted: Sequence[str]) -> Generator[pa.Table, None, None]:
        """Yield the row of each chunk of a video, up to one that fails or before which the run is to stop."""
        streams = {"want_frames": not self._frames.isdisjoint(wanted), "want_audio": not self._audio.isdisjoint(wanted)}
        [key] = _keys(row, [0])
        chunk, chunks = 0, 1
        with closing(self._worker.chunks(row["video_id"][0].as_py(), row["uri"][0].as_py(), **streams)) as decoded:
            while chunk < chunks:
                name = f"{key}\0{chunk}" if chunk else key
                [table] = guarded(self._quarantine, DECODE, [name], partial(self._decode, row, chunk, decoded))
                if not isinstance(table, pa.Table):
                    table = with_media(self._of_chunk(row) if chunk else row, table, self._ready_at, chunk=chunk)
                yield table
                chunk, chunks = chunk + 1, chunks_of(table)

    def _decode(
        self, row: pa.Table, chunk: int, decoded: Iterator[tuple[Clip, MediaInfo] | Failure], _: Sequence[int]
    ) -> list[pa.Table]:
        """Decode the next chunk; returns its row as a batch of one, which is what :func:`guarded` runs."""
        began = time.perf_counter()
        item = next(decoded)
        if chunk or (isinstance(item, tuple) and item[0].chunks > 1):
            row = self._of_chunk(row)
        return [with_media(row, item, self._ready_at, time.perf_counter() - began, chunk)]

    def _of_chunk(self, row: pa.Table) -> pa.Table:
        """Return the row for a chunk, without the extractors that read text: they run when the chunks are merged."""
        at = row.schema.get_field_index("wanted")
        wanted = pa.array([self._media(row["wanted"][0].as_py())], row.schema.field(at).type)
        return row.set_column(at, "wanted", wanted)


class ExtractActor:
    """Runs extractors over blocks, one after another. Loads each model once, also where several extractors use it."""

    def __init__(
        self, names: Sequence[str], specs: Mapping[str, Spec], threads: int, device: str, quarantine: Any,
        timeout_s: float, drop: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Load the models.

        Args:
            names: the extractors to run, in order.
            specs: all of the run's extractors, which these may read from.
            threads: of the CPU, that each may use.
            device: ``cpu`` or ``cuda``.
            quarantine: notes which videos an actor holds.
            timeout_s: how long an extractor may take for one batch; the process that takes longer ends.
            drop: columns that no later stage reads.
        """
        self._names, self._specs, self._drop = names, specs, drop
        self._quarantine, self._timeout_s = quarantine, timeout_s
        self._models: dict[Any, Extractor] = {}
        with loading(quarantine, names[0]):
            for spec in (specs[name] for name in names):
                if model_key(spec) not in self._models:
                    resources = Resources(threads, device, spec.models)
                    self._models[model_key(spec)] = spec.cls(spec.settings, resources)
        _trim()
        self._ready_at = time.time()

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Add the column of each extractor and drop the columns that no later stage reads."""
        with holding(self._quarantine, self._names[0], _keys(rows, range(rows.num_rows))) as lost:
            for name in self._names:
                rows = self._with_column(rows, self._specs[name], lost)
            _trim()
            yield rows.drop_columns([name for name in self._drop if name in rows.column_names])

    def _with_column(self, rows: pa.Table, spec: Spec, lost: Failure | None) -> pa.Table:
        at = [row for row, names in enumerate(rows["wanted"].to_pylist()) if spec.name in names]
        began = time.perf_counter()
        outcomes: Sequence[Result | Failure | None] = [lost] * len(at)
        if not lost:
            run = partial(self._extract, rows, spec, at)
            outcomes = guarded(self._quarantine, spec.name, _keys(rows, at), run)
        by_row = dict(zip(at, outcomes, strict=True))
        results = [by_row.get(row) for row in range(rows.num_rows)]
        return with_results(rows, spec, results, time.perf_counter() - began, self._ready_at)

    def _extract(
        self, rows: pa.Table, spec: Spec, at: Sequence[int], some: Sequence[int]
    ) -> list[Result | Failure | None]:
        """Run an extractor on some of its rows; the result is None for one without input, whose source has failed."""
        items = [self._input(rows, at[position], spec) for position in some]
        with _ends_after(self._timeout_s):
            results = iter(self._models[model_key(spec)].extract([item for item in items if item is not None]))
        return [None if item is None else next(results) for item in items]

    def _input(self, rows: pa.Table, row: int, spec: Spec) -> Clip | str | TimedText | None:
        if spec.source is not None:
            return text_of(rows, row, spec, self._specs[spec.source])
        clip = clip_of(rows, row)
        if clip is not None:
            clip.detections = {name: detections_of(rows, row, self._specs[name]) for name in spec.detections}
        return clip


def limits(config: Config) -> Limits:
    """Return the bounds on decoding that a configuration sets."""
    bounds = config.decode.model_dump(exclude={"cost"})
    return Limits(**bounds, policy=config.sources.policy)


@contextmanager
def _ends_after(seconds: float) -> Iterator[None]:
    """End the process, its stacks on standard error, if this takes longer: also where a native library hangs.

    The quarantine counts that as any other death: the batch is done again, each video alone.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _trim() -> None:
    """Return free memory to the system, which the C library would keep while the actor waits for its next block."""
    # glibc alone has it.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _keys(rows: pa.Table, at: Sequence[int]) -> list[str]:
    names = keys(rows).to_pylist()
    if DECODED in rows.column_names:
        # Chunks of one video are in several actors at a time.
        chunks = pc.struct_field(rows[DECODED], "chunk").to_pylist()
        names = [f"{name}\0{chunk}" if chunk else name for name, chunk in zip(names, chunks, strict=True)]
    return [names[row] for row in at]


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
    if not spec.reads_times:
        return input_from(rows, row, source, "text")
    pieces = input_from(rows, row, source, "pieces")
    return None if pieces is None else TimedText([Piece(**piece) for piece in pieces], written=source.reads_frames)


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
