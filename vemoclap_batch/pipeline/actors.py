"""What Ray's actors run: each wraps one plain class of media/ or extractors/ and adds a column to the rows."""

from __future__ import annotations

import ctypes
import faulthandler
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.config import Config
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Resources, Result
from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.media.clip import Clip, MediaInfo
from vemoclap_batch.media.sampling import Limits, Sampling
from vemoclap_batch.media.timeline import TimedText
from vemoclap_batch.media.worker import DecodeWorker
from vemoclap_batch.pipeline import rows as R
from vemoclap_batch.pipeline.plan import DECODE
from vemoclap_batch.pipeline.quarantine import guarded, holding, loading


class DecodeStage:
    """Opens each video once, for all extractors that want it, in a process that can be killed.

    A long video's parts leave one by one, each a row in a table of its own, while the next is decoded; they come in
    the same order when Ray replays the call. The other rows follow in one table.
    """

    def __init__(self, config: Config, specs: dict[str, Spec], ledger: Any) -> None:
        self._frames = {name for name, spec in specs.items() if spec.reads_frames}
        self._sound = {name for name, spec in specs.items() if spec.reads_waveform}
        self._ledger = ledger
        self._worker = DecodeWorker(Sampling(**config.sampling.model_dump()), _limits(config))
        self._ready = time.time()

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Add the decoded media to the rows that want any."""
        with holding(self._ledger, DECODE, _keys(rows, range(rows.num_rows))) as lost:
            short = []
            for at, names in enumerate(rows["wanted"].to_pylist()):
                row, wants_media = rows.slice(at, 1), bool(set(names) & (self._frames | self._sound))
                if lost or not wants_media:
                    short.append(R.with_media(row, [lost if wants_media else None], [0.0], self._ready))
                    continue
                with closing(self._parts(row, set(names))) as parts:
                    first = next(parts)
                    if _parts_of(first) > 1:
                        yield first
                        yield from parts
                    else:
                        short.append(first)
            if short:
                yield pa.concat_tables(short)

    def _parts(self, row: pa.Table, names: set[str]) -> Generator[pa.Table, None, None]:
        """The row of each part of a video; it ends with the part that fails, or before which the run is to stop."""
        wants = {"want_frames": bool(names & self._frames), "want_audio": bool(names & self._sound)}
        [key] = _keys(row, [0])
        part, parts = 0, 1
        with closing(self._worker.parts(row["video_id"][0].as_py(), row["uri"][0].as_py(), **wants)) as found:
            while part < parts:
                name = f"{key}\0{part}" if part else key
                [part_row] = guarded(self._ledger, DECODE, [name], partial(self._decoded, row, part, found))
                if isinstance(part_row, pa.Table):
                    parts = _parts_of(part_row)
                elif part_row is None and part:
                    part_row, parts = R.broken_off(self._of_part(row), part, self._ready), 0
                else:
                    at_part = self._of_part(row) if part else row
                    part_row, parts = R.with_media(at_part, [part_row], [0.0], self._ready, part), 0
                yield part_row
                part += 1

    def _decoded(
        self, row: pa.Table, part: int, found: Iterator[tuple[Clip, MediaInfo] | Failure], _: Sequence[int]
    ) -> list[pa.Table]:
        """The row of the next part, as one of a batch of one."""
        began = time.perf_counter()
        item = next(found)
        if part or (isinstance(item, tuple) and item[0].parts > 1):
            row = self._of_part(row)
        return [R.with_media(row, [item], [time.perf_counter() - began], self._ready, part)]

    def _of_part(self, row: pa.Table) -> pa.Table:
        """A long video's row. Texts are those of a whole video: what reads them comes after joining."""
        wanted = [name for name in row["wanted"][0].as_py() if name in self._frames | self._sound]
        at = row.schema.get_field_index("wanted")
        return row.set_column(at, "wanted", pa.array([wanted], row.schema.field(at).type))


class ExtractStage:
    """One model, loaded once, run for every extractor of the profile that shares it."""

    def __init__(
        self, specs: Sequence[Spec], resources: Resources, ledger: Any, timeout_s: float, drop: Sequence[str] = (),
        detections: Sequence[Spec] = (), sources: Mapping[str, Spec] | None = None,
    ) -> None:  # fmt: skip
        """Load the model.

        Args:
            specs: the extractors that it serves.
            resources: what it may use.
            ledger: notes which videos an actor holds.
            timeout_s: how long it may take for one batch; the process that takes longer ends.
            drop: the columns that no later stage needs.
            detections: the extractors whose detections (faces, lines of text) it is given.
            sources: for those of the specs that take texts with their times, the extractor whose texts they are.
        """
        self._sources, self._timeout_s = sources or {}, timeout_s
        self._specs, self._ledger, self._drop, self._detections = specs, ledger, list(drop), list(detections)
        with loading(ledger, specs[0].name):
            self._extractor = specs[0].cls(specs[0].settings, resources)
        _trim()
        self._ready = time.time()

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Add the column of each extractor, then drop what has served."""
        with holding(self._ledger, self._specs[0].name, _keys(rows, range(rows.num_rows))) as lost:
            for spec in self._specs:
                rows = self._with_column(rows, spec, lost)
            _trim()
            yield rows.drop_columns([name for name in self._drop if name in rows.column_names])

    def _with_column(self, rows: pa.Table, spec: Spec, lost: Failure | None) -> pa.Table:
        at = [row for row, names in enumerate(rows["wanted"].to_pylist()) if spec.name in names]
        began = time.perf_counter()
        found: list[Result | Failure | None] = [lost] * len(at)
        if not lost:
            found = guarded(
                self._ledger,
                spec.name,
                _keys(rows, at),
                lambda some: self._extract(rows, [at[i] for i in some], spec),
            )
        results: list[Result | Failure | None] = [None] * rows.num_rows
        for row, result in zip(at, found, strict=True):
            results[row] = result
        return _with_results(rows, spec, results, time.perf_counter() - began, self._ready)

    def _extract(self, rows: pa.Table, at: Sequence[int], spec: Spec) -> list[Result | Failure | None]:
        """The results of some rows; None for one that has nothing to read, for what it reads from has failed."""
        source = self._sources.get(spec.name)
        items = [_item(rows, row, spec, self._detections, source) for row in at]
        with _ends_after(self._timeout_s):
            found = iter(self._extractor.extract([item for item in items if item is not None]))
        return [None if item is None else next(found) for item in items]


def _with_results(
    rows: pa.Table, spec: Spec, results: list[Result | Failure | None], seconds: float, ready: float
) -> pa.Table:
    """Add the column; a result that does not fit the extractor's own columns becomes that row's failure."""
    try:
        return R.with_results(rows, spec, results, seconds, ready)
    except (pa.ArrowException, ValueError, TypeError):
        for at, result in enumerate(results):
            try:
                R.with_results(rows.slice(at, 1), spec, [result], 0.0, ready)
            except (pa.ArrowException, ValueError, TypeError) as error:
                results[at] = Failure.of(error)
        return R.with_results(rows, spec, results, seconds, ready)


@contextmanager
def _ends_after(seconds: float) -> Iterator[None]:
    """End the process, its stacks on standard error, if this takes longer: also where nothing in Python runs any more.

    To the ledger that is a death like others: the batch is done again, each video alone.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _trim() -> None:
    """Give the system back what the C library keeps of memory that is free: between two blocks, an actor waits."""
    # glibc alone has it.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _parts_of(row: pa.Table) -> int:
    """How many parts the row's video has; a failure ends them."""
    decoded = row[R.DECODED][0].as_py()
    return 0 if decoded is None or decoded["error_type"] is not None else decoded["parts"]


def _limits(config: Config) -> Limits:
    names = (
        "timeout_s", "fetch_timeout_s", "max_fetch_gb", "memory_gb", "max_duration_s", "decoder", "whole_s",
        "whole_frames", "part_s", "part_frames",
    )  # fmt: skip
    return Limits(**{name: getattr(config.decode, name) for name in names}, policy=config.sources.policy)


def _item(
    rows: pa.Table, row: int, spec: Spec, detections: Sequence[Spec], source: Spec | None
) -> Clip | str | TimedText | None:
    if spec.source is not None:
        return R.text_of(rows, row, spec.source) if source is None else R.pieces_of(rows, row, source)
    clip = R.clip_of(rows, row)
    if clip is not None:
        clip.detections = {source.name: R.detections_of(rows, row, source) for source in detections}
    return clip


def _keys(rows: pa.Table, at: Sequence[int]) -> list[str]:
    names = [f"{rows['video_id'][row]}\0{rows['content_key'][row]}" for row in at]
    if R.DECODED not in rows.column_names:
        return names
    # Parts of one video are in several actors at a time.
    parts = pc.struct_field(rows[R.DECODED], "part").to_pylist()
    return [f"{name}\0{parts[row]}" if parts[row] else name for name, row in zip(names, at, strict=True)]
