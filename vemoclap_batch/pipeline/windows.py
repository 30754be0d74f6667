"""Windows in the pipeline: which extractors they change, and texts with their times."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.config import Config, ExtractorEntry
from vemoclap_batch.extractors.base import TEXT, WAVEFORM, class_path, load_class
from vemoclap_batch.extractors.registry import Spec
from vemoclap_batch.extractors.windowed_text import TIMES, WindowedText
from vemoclap_batch.media.timeline import Window
from vemoclap_batch.pipeline import rows as R
from vemoclap_batch.pipeline.pending import features_table
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import KEY, keys

#: Frames are taken this often where the profile does not say: as often as the paper says that it does.
EVERY_S = 1.0
#: The setting of an extractor of sound that says how many of its windows are kept, and more than any video has.
_KEPT = ("max_windows", "windows")
ALL_WINDOWS = 10**9


def windowed(config: Config, window: Window) -> Config:
    """The configuration whose features serve predictions for windows of a video.

    Frames are taken every second (``sampling.every_s``), whatever the window, and at least as many of each video as
    without windows: other windows need no other frames. Extractors of texts, whose one vector a video says nothing of
    a window, run on every window's text. Extractors of sound that keep some windows of it keep all.
    """
    extractors = {name: _windowed_entry(entry, window) for name, entry in config.extractors.items()}
    sampling = config.sampling.model_copy(update={"every_s": config.sampling.every_s or EVERY_S})
    return config.model_copy(update={"extractors": extractors, "sampling": sampling})


def _windowed_entry(entry: ExtractorEntry, window: Window) -> ExtractorEntry:
    cls = load_class(entry.class_path)
    kept = [name for name in _KEPT if name in cls.Settings.model_fields]
    if WAVEFORM in cls.inputs and kept:
        return entry.model_copy(update=dict.fromkeys(kept, ALL_WINDOWS))
    if entry.input is None or TEXT not in cls.inputs:
        return entry
    return ExtractorEntry(
        class_path=class_path(WindowedText),
        input=entry.input,
        detections=entry.detections,
        pool=entry.pool,
        of=entry.class_path,
        window_s=window.window_s,
        hop_s=window.hop_s,
        **entry.settings,
    )


def timed_sources(wanted: Mapping[str, Spec], specs: Mapping[str, Spec]) -> dict[str, Spec]:
    """For those extractors that take a text in pieces with their times: the extractor whose text it is."""
    return {
        name: specs[spec.source]
        for name, spec in wanted.items()
        if spec.source is not None and TIMES in spec.cls.inputs
    }


def with_pieces(store: Store, rows: pa.Table, specs: Mapping[str, Spec]) -> pa.Table:
    """Add to a run's work the texts with times that are in the store already, for the rows that want them."""
    for name, source in timed_sources(specs, specs).items():
        column = R.pieces_column(source.name)
        if column in rows.column_names:
            continue
        wants = [name in wanted and source.name not in wanted for wanted in rows["wanted"].to_pylist()]
        rows = rows.append_column(column, _pieces(store, source, keys(rows), pa.array(wants, pa.bool_())))
    return rows


def _pieces(store: Store, source: Spec, row_keys: pa.ChunkedArray, wants: pa.BooleanArray) -> pa.Array:
    """The pieces of these rows' texts: [n], null elsewhere."""
    if not pc.any(wants).as_py():
        return pa.nulls(len(row_keys), R.PIECES)
    columns = [name for name in ("segments", "lines", "texts") if name in source.cls.columns]
    found = features_table(store, source).read(columns, of=pc.filter(row_keys, wants))
    pieces = pa.array([R.pieces_in(row) for row in found.select(columns).to_pylist()], R.PIECES)
    at = pc.index_in(row_keys, value_set=keys(found).combine_chunks()).combine_chunks()
    return pieces.take(pc.if_else(wants, at, None))


class LaterTexts:
    """The texts of long videos, which are known only when their parts are joined."""

    def __init__(self, rows: pa.Table, specs: Mapping[str, Spec]) -> None:
        """Start with nothing.

        Args:
            rows: the run's work.
            specs: its extractors.
        """
        self._work, self._specs = rows, specs
        self._sources = {spec.source: specs[spec.source] for spec in specs.values() if spec.source is not None}
        self._timed = {source.name for source in timed_sources(specs, specs).values()}
        self._found: dict[str, dict[str, object]] = {}

    def note(self, joined: pa.Table) -> None:
        """Take the texts of joined rows."""
        if R.DECODED not in joined.column_names:
            return
        joined = joined.select([name for name in joined.column_names if name in {*KEY, R.DECODED, *self._sources}])
        long = joined.filter(pc.greater(pc.fill_null(pc.struct_field(joined[R.DECODED], "parts"), 1), 1))
        for row, key in enumerate(keys(long).to_pylist()):
            texts: dict[str, object] = {}
            for name, source in self._sources.items():
                if name in long.column_names and long[name][row].is_valid:
                    texts[R.text_column(name)] = R.text_of(long, row, name)
                    timed = R.pieces_of(long, row, source) if name in self._timed else None
                    texts[R.pieces_column(name)] = [piece._asdict() for piece in timed.pieces] if timed else None
            self._found[key] = texts

    def rows(self) -> pa.Table | None:
        """The work that is left for the extractors of texts; None when there is none."""
        row_keys = keys(self._work)
        rows = self._work.filter(pc.is_in(row_keys, value_set=pa.array(list(self._found), pa.string())))
        wanted = [[name for name in names if self._specs[name].source] for names in rows["wanted"].to_pylist()]
        texts = [self._found[key] for key in keys(rows).to_pylist()]
        columns = {"wanted": pa.array(wanted, pa.list_(pa.string()))}
        for name in self._sources:
            for column, kind in ((R.text_column(name), pa.string()), (R.pieces_column(name), R.PIECES)):
                fresh = pa.array([text.get(column) for text in texts], kind)
                there = rows[column].combine_chunks() if column in rows.column_names else pa.nulls(len(texts), kind)
                columns[column] = pc.coalesce(fresh, there)
        rows = rows.select(["video_id", "content_key", "uri"])
        for name, column in columns.items():
            rows = rows.append_column(name, column)
        rows = rows.filter(pc.greater(pc.list_value_length(rows["wanted"]), 0))
        return rows if rows.num_rows else None
