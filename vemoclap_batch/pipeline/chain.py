"""The one kind of actor of the Ray Data graph: it decodes videos and runs a list of extractors on them."""

from __future__ import annotations

import ctypes
import faulthandler
import itertools
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from vemoclap_batch import lifetime
from vemoclap_batch.config import Config
from vemoclap_batch.errors import ErrorType, Failure
from vemoclap_batch.extractors.base import Extractor, Resources, Result
from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.media.clip import Clip, MediaInfo
from vemoclap_batch.media.sampling import Limits, Sampling
from vemoclap_batch.media.windows import TimedText
from vemoclap_batch.media.worker import DecodeWorker
from vemoclap_batch.pipeline.chunks import merge
from vemoclap_batch.pipeline.quarantine import Block, block_of, guarded, holding, loading
from vemoclap_batch.pipeline.rows import (
    DECODED,
    FRAMES,
    WAVEFORM,
    as_stored,
    chunks_of,
    clip_of,
    complete,
    concatenated,
    detections_of,
    has_results,
    row_keys,
    text_of,
    with_media,
    with_results,
)  # fmt: skip
from vemoclap_batch.pipeline.stages import DECODE, model_key

#: How much less of a core a chain takes where one on a GPU of the same machine wants it too.
_NICE = 5

Decoded = Iterator[tuple[Clip, MediaInfo] | Failure]


@dataclass(frozen=True)
class ChainOptions:
    """How the actors of one stage run.

    Attributes:
        label: the stage's name.
        names: what to run, in order; ``decode`` comes first where they decode.
        threads: of the CPU, that each extractor may use.
        device: of the models, as torch names it.
        drop: columns that no later stage reads.
        yields_cores: whether to leave the cores to other actors that want them.
        timeout_s: how long an extractor may take for one batch; the process that takes longer ends.
        driver: the address of the driver, with which the actors end, see :mod:`vemoclap_batch.lifetime`; None
            where they run in the driver itself.
    """

    label: str
    names: tuple[str, ...]
    threads: int
    device: str
    drop: tuple[str, ...]
    yields_cores: bool
    timeout_s: float
    driver: str | None = None


class ChainActor:
    """Decodes videos and runs extractors over blocks of them, one extractor after another, each model loaded once.

    Decoding happens in a child process that can be killed. Extractors with the same model share it.

    A long video is run chunk by chunk and merged, so that it takes no more memory than others. Its frames do not leave
    the process: a later stage that reads them decodes it once more.
    """

    def __init__(
        self, options: ChainOptions, specs: Mapping[str, Spec], config: Config, quarantine: Any,
        decoder: Callable[[Sampling, Limits], Any] = DecodeWorker,
    ) -> None:  # fmt: skip
        """Load the models.

        Args:
            options: of the stage.
            specs: all of the run's extractors, which these may read from.
            config: the run's configuration.
            quarantine: handle of the run's :class:`~vemoclap_batch.pipeline.quarantine.Quarantine`.
            decoder: makes what decodes, with the methods of a :class:`DecodeWorker`.
        """
        if options.driver is not None:
            lifetime.die_with(options.driver)
        if options.yields_cores:
            os.nice(_NICE)
        self._options, self._specs, self._quarantine = options, specs, quarantine
        self._decodes = DECODE in options.names
        own = [specs[name] for name in options.names if name != DECODE]
        self._media = [spec for spec in own if spec.source is None]
        self._texts = [spec for spec in own if spec.source is not None]
        self._worker = decoder(Sampling(**config.sampling.model_dump()), limits(config))
        self._models: dict[Any, Extractor] = {}
        self._block: Block | None = None
        for spec in own:
            if model_key(spec) not in self._models:
                with loading(quarantine, spec.name):
                    resources = Resources(options.threads, options.device, spec.models)
                    self._models[model_key(spec)] = spec.cls(spec.settings, resources)
        _trim()
        self._ready_at = time.time()

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Add the columns of decoding and of each extractor; drop those that no later stage reads."""
        if not rows.num_rows:
            return rows
        rows = complete(rows, self._specs)
        keys = row_keys(rows, range(rows.num_rows))
        self._block = block_of(self._options.label, keys)
        with holding(self._quarantine, self._options.label, keys) as lost:
            # Whole videos share batches; long ones are finished one by one.
            whole: list[pa.Table] = []
            long: list[pa.Table] = []
            for at, wanted in enumerate(rows["wanted"].to_pylist()):
                row, is_done = self._opened(rows.slice(at, 1), wanted, lost)
                (long if is_done else whole).append(row)
            if whole:
                whole = [self._with_columns(concatenated(whole), [*self._media, *self._texts], lost)]
            done = concatenated([*whole, *long])
            _trim()
            return done.drop_columns([name for name in self._options.drop if name in done.column_names])

    def _opened(self, row: pa.Table, wanted: Sequence[str], lost: Failure | None) -> tuple[pa.Table, bool]:
        """Decode the video of a row if this stage is to; the second is whether its extractors have run already."""
        own, all_media = _of(wanted, self._media), _of(wanted, self._specs.values())
        if not self._decodes:
            is_long = DECODED in row.column_names and chunks_of(row) > 1
            return (self._again(row, own, all_media), True) if own and is_long and not lost else (row, False)
        if lost or not all_media:
            return with_media(row, lost if all_media else None, self._ready_at), False
        # Of a long video that only later stages read, they need to know no more than that it is long.
        with closing(self._chunks(row, all_media, first_only=not own)) as chunks:
            first = next(chunks)
            if chunks_of(first) <= 1:
                return first, False
            if not own:
                return first.drop_columns([FRAMES, WAVEFORM]), False
            merged = self._merged(first, chunks)
        return self._with_columns(
            with_media(row, None, self._ready_at) if merged is None else merged, self._texts
        ), True

    def _again(self, row: pa.Table, own: Sequence[Spec], all_media: Sequence[Spec]) -> pa.Table:
        """Run extractors on a long video that came without its frames and audio."""
        # What is decoded decides where it is cut, which is to be the same in every stage.
        with closing(self._chunks(as_stored(row, self._specs), all_media)) as chunks:
            merged = self._merged(next(chunks), chunks)
        if merged is not None:
            decoded = merged[DECODED][0].as_py()
            is_known = has_results(row, self._specs)
            if not is_known:
                row = row.set_column(row.schema.get_field_index(DECODED), DECODED, merged[DECODED])
            for spec in self._media:
                if decoded["error_type"] is None or not is_known:
                    row = row.append_column(spec.name, merged[spec.name])
                else:  # The file could be read before: the failure is that of these extractors.
                    failure = Failure(ErrorType(decoded["error_type"]), decoded["message"])
                    results = [failure if spec in own else None]
                    row = with_results(row, spec, results, 0.0, self._ready_at)
        return self._with_columns(row, self._texts)

    def _merged(self, first: pa.Table, following: Iterable[pa.Table]) -> pa.Table | None:
        """Run the extractors of media on the chunks of a video and merge the rows; None when the run is to stop."""
        chunks = []
        for chunk in itertools.chain([first], following):
            if not chunk[DECODED][0].as_py()["chunks"]:
                return None
            chunks.append(self._with_columns(chunk, self._media).drop_columns([FRAMES, WAVEFORM]))
        return merge(chunks, {spec.name: spec for spec in self._media})

    def _chunks(
        self, row: pa.Table, readers: Sequence[Spec], first_only: bool = False
    ) -> Generator[pa.Table, None, None]:
        """Yield the row of each chunk of a video, up to one that fails or before which the run is to stop."""
        streams = {
            "want_frames": any(spec.reads_frames for spec in readers),
            "want_audio": any(spec.reads_waveform for spec in readers),
        }
        [key] = row_keys(row, [0])
        names = row["video_id"][0].as_py(), row["uri"][0].as_py()
        chunk, chunks = 0, 1
        with closing(self._worker.chunks(*names, **streams, first_only=first_only)) as decoded:
            while chunk < chunks:
                name = f"{key}\0{chunk}" if chunk else key
                decode = partial(self._decode, row, chunk, decoded)
                [table] = guarded(self._quarantine, DECODE, [name], decode, self._block)
                if not isinstance(table, pa.Table):
                    table = with_media(row, table, self._ready_at, chunk=chunk)
                yield table
                chunk, chunks = chunk + 1, chunks_of(table)

    def _decode(self, row: pa.Table, chunk: int, decoded: Decoded, _: Sequence[int]) -> list[pa.Table]:
        """Decode the next chunk; returns its row as a batch of one, which is what :func:`guarded` runs."""
        began = time.perf_counter()
        item = next(decoded)
        return [with_media(row, item, self._ready_at, time.perf_counter() - began, chunk)]

    def _with_columns(self, rows: pa.Table, specs: Sequence[Spec], lost: Failure | None = None) -> pa.Table:
        for spec in specs:
            rows = self._with_column(rows, spec, lost)
        return rows

    def _with_column(self, rows: pa.Table, spec: Spec, lost: Failure | None) -> pa.Table:
        at = [row for row, names in enumerate(rows["wanted"].to_pylist()) if spec.name in names]
        began = time.perf_counter()
        outcomes: Sequence[Result | Failure | None]
        if lost:
            outcomes = [lost if self._has_input(rows, row, spec) else None for row in at]
        else:
            run = partial(self._extract, rows, spec, at)
            outcomes = guarded(self._quarantine, spec.name, row_keys(rows, at), run, self._block)
        by_row = dict(zip(at, outcomes, strict=True))
        results = [by_row.get(row) for row in range(rows.num_rows)]
        return with_results(rows, spec, results, time.perf_counter() - began, self._ready_at)

    def _extract(
        self, rows: pa.Table, spec: Spec, at: Sequence[int], some: Sequence[int]
    ) -> list[Result | Failure | None]:
        """Run an extractor on some of its rows; the result is None for one without input, whose source has failed."""
        items = [self._input(rows, at[position], spec) for position in some]
        with _ends_after(self._options.timeout_s):
            results = iter(self._models[model_key(spec)].extract([item for item in items if item is not None]))
        return [None if item is None else next(results) for item in items]

    def _has_input(self, rows: pa.Table, row: int, spec: Spec) -> bool:
        """Whether there is something to run the extractor on; else its source has failed, which is noted already."""
        return bool(chunks_of(rows.slice(row, 1))) if spec.source is None else self._input(rows, row, spec) is not None

    def _input(self, rows: pa.Table, row: int, spec: Spec) -> Clip | str | TimedText | None:
        if spec.source is not None:
            return text_of(rows, row, spec, self._specs[spec.source])
        clip = clip_of(rows, row)
        if clip is not None:
            clip.detections = {name: detections_of(rows, row, self._specs[name]) for name in spec.detections}
        return clip


def _of(wanted: Sequence[str], specs: Iterable[Spec]) -> list[Spec]:
    """Select those of the extractors that read frames or audio and are wanted."""
    return [spec for spec in specs if spec.source is None and spec.name in wanted]


def limits(config: Config) -> Limits:
    """Return the bounds on decoding that a configuration sets."""
    bounds = config.decode.model_dump(exclude={"actors", "cost"})
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
