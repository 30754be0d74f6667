"""What Ray's actors run: each wraps one plain class of media/ or extractors/ and adds a column to the rows."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.config import Config
from vemoclap_batch.extractors.base import Resources, Result
from vemoclap_batch.extractors.catalog import Spec
from vemoclap_batch.failure import Failure
from vemoclap_batch.media.clip import Clip, MediaInfo
from vemoclap_batch.media.sampling import Limits, Sampling
from vemoclap_batch.media.timeline import TimedText
from vemoclap_batch.media.worker import DecodeWorker
from vemoclap_batch.pipeline import rows as R
from vemoclap_batch.pipeline.ledger import guarded

_Media = tuple[Clip, MediaInfo] | Failure | None


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
        decoded: list[_Media] = [None] * rows.num_rows
        seconds = [0.0] * rows.num_rows
        short = []
        for row, names in enumerate(rows["wanted"].to_pylist()):
            if not set(names) & (self._frames | self._sound):
                short.append(row)
                continue
            with closing(self._parts(rows.slice(row, 1), set(names))) as parts:
                decoded[row], seconds[row] = next(parts)
                if _is_long(decoded[row]):
                    yield from self._part_rows(rows.slice(row, 1), decoded[row], seconds[row], parts)
                    decoded[row] = None
                else:
                    short.append(row)
        if short:
            media = [decoded[row] for row in short], [seconds[row] for row in short]
            yield R.with_media(rows.take(pa.array(short)), *media, self._ready)

    def _parts(self, row: pa.Table, names: set[str]) -> Generator[tuple[_Media, float], None, None]:
        """What each part of a video gave, None once the run is to stop, and the seconds that it took."""
        wants = {"want_frames": bool(names & self._frames), "want_audio": bool(names & self._sound)}
        [key] = _keys(row, [0])
        with closing(self._worker.parts(row["video_id"][0].as_py(), row["uri"][0].as_py(), **wants)) as parts:
            part = 0
            while True:
                began = time.perf_counter()
                name = f"{key}\0{part}" if part else key
                [item] = guarded(self._ledger, "decode", [name], lambda _: [next(parts)])
                yield item, time.perf_counter() - began
                part += 1
                if not isinstance(item, tuple) or part == item[0].parts:
                    return

    def _part_rows(
        self, row: pa.Table, first: _Media, seconds: float, rest: Iterator[tuple[_Media, float]]
    ) -> Iterator[pa.Table]:
        """The rows of a long video. Texts are those of a whole video: what reads them comes after joining."""
        wanted = [name for name in row["wanted"][0].as_py() if name in self._frames | self._sound]
        row = row.set_column(
            row.schema.get_field_index("wanted"), "wanted", pa.array([wanted], row.schema.field("wanted").type)
        )
        yield R.with_media(row, [first], [seconds], self._ready)
        for part, (item, took) in enumerate(rest, 1):
            if item is None:
                yield R.broken_off(row, part, self._ready)
            else:
                yield R.with_media(row, [item], [took], self._ready, part)


class ExtractStage:
    """One model, loaded once, run for every extractor of the profile that shares it."""

    def __init__(
        self, specs: Sequence[Spec], resources: Resources, ledger: Any, drop: Sequence[str] = (),
        evidence: Sequence[Spec] = (), sources: Mapping[str, Spec] | None = None,
    ) -> None:  # fmt: skip
        """Load the model.

        Args:
            specs: the extractors that it serves.
            resources: what it may use.
            ledger: notes which videos an actor holds.
            drop: the columns that no later stage needs.
            evidence: the extractors that tell it which frames are telling.
            sources: for those of the specs that take texts with their times, the extractor whose texts they are.
        """
        self._sources = sources or {}
        self._specs, self._ledger, self._drop, self._evidence = specs, ledger, list(drop), list(evidence)
        self._extractor = specs[0].cls(specs[0].settings, resources)
        _trim()
        self._ready = time.time()

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Add the column of each extractor, then drop what has served."""
        for spec in self._specs:
            rows = self._extract(rows, spec)
        _trim()
        return rows.drop_columns([name for name in self._drop if name in rows.column_names])

    def _extract(self, rows: pa.Table, spec: Spec) -> pa.Table:
        items = [
            _item(rows, row, spec, self._evidence, self._sources.get(spec.name)) if spec.name in names else None
            for row, names in enumerate(rows["wanted"].to_pylist())
        ]
        at = [row for row, item in enumerate(items) if item is not None]
        began = time.perf_counter()
        found = guarded(
            self._ledger,
            spec.name,
            _keys(rows, at),
            lambda part: self._extractor.extract([items[at[i]] for i in part]),
        )
        results: list[Result | Failure | None] = [None] * rows.num_rows
        for row, result in zip(at, found, strict=True):
            results[row] = result
        return _with_results(rows, spec, results, time.perf_counter() - began, self._ready)


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


def _trim() -> None:
    """Give the system back what the C library keeps of memory that is free: between two blocks, an actor waits."""
    # glibc alone has it.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _is_long(item: _Media) -> bool:
    return isinstance(item, tuple) and item[0].parts > 1


def _limits(config: Config) -> Limits:
    names = ("timeout_s", "memory_gb", "max_duration_s", "decoder", "whole_s", "whole_frames", "part_s", "part_frames")
    return Limits(**{name: getattr(config.decode, name) for name in names}, policy=config.sources.policy)


def _item(
    rows: pa.Table, row: int, spec: Spec, evidence: Sequence[Spec], source: Spec | None
) -> Clip | str | TimedText | None:
    if spec.source is not None:
        return R.text_of(rows, row, spec.source) if source is None else R.pieces_of(rows, row, source)
    clip = R.clip_of(rows, row)
    if clip is not None:
        clip.evidence = {source.name: R.marks_of(rows, row, source) for source in evidence}
    return clip


def _keys(rows: pa.Table, at: Sequence[int]) -> list[str]:
    names = [f"{rows['video_id'][row]}\0{rows['content_key'][row]}" for row in at]
    if R.DECODED not in rows.column_names:
        return names
    # Parts of one video are in several actors at a time.
    parts = pc.struct_field(rows[R.DECODED], "part").to_pylist()
    return [f"{name}\0{parts[row]}" if parts[row] else name for name, row in zip(names, at, strict=True)]
