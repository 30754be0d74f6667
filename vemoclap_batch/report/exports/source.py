"""What is exported of an output folder: predictions and what was heard, read and seen, some videos at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.report.exports.times import Span, one_line
from vemoclap_batch.store import schemas
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import KEY, Table, keys

#: Videos that are in memory together.
CHUNK = 1024
_MEDIA = ("uri", "duration_s", "fps", "width", "height", "has_video", "has_audio")
_ITEM = [("video_id", pa.string()), ("uri", pa.string())]
#: Tables of what was found in a video, a row an item: content → extractor, its column, the columns of the table.
ITEMS: dict[str, tuple[str, str, pa.Schema]] = {
    "speech": ("asr", "segments", pa.schema(
        [*_ITEM, ("start_s", pa.float64()), ("end_s", pa.float64()), ("text", pa.string()), ("language", pa.string())]
    )),
    "text": ("ocr", "lines", pa.schema(
        [*_ITEM, ("frame", pa.int32()), ("time_s", pa.float64()), ("text", pa.string()), ("score", pa.float32()),
         ("script", pa.string()), ("orientation", pa.string()), ("note", pa.string())]
    )),
    "faces": ("face_emotion", "faces", pa.schema(
        [*_ITEM, ("frame", pa.int32()), ("time_s", pa.float64()),
         *[(name, pa.float32()) for name in ("x", "y", "w", "h", "score")],
         ("expression", pa.string()), ("probability", pa.float32()), ("turn", pa.float32())]
    )),
}  # fmt: skip
#: What is read of the extractors for people: their columns, if the table has them.
_HEARD = ("text", "segments", "segments_original", "language")


@dataclass
class Filter:
    """Which predictions are exported.

    Attributes:
        labels: only these; empty for all.
        min_confidence: only from this on.
        left_out: counts, by reason, what was left out.
    """

    labels: frozenset[str] = frozenset()
    min_confidence: float | None = None
    left_out: Counter[str] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        """Whether anything is left out."""
        return bool(self.labels) or self.min_confidence is not None

    def __call__(self, rows: pa.Table) -> pa.Table:
        """The predictions that may stay."""
        if not self:
            return rows
        told = rows.filter(pc.is_valid(rows["label"]))
        self.left_out["predictions with nothing to go by"] += rows.num_rows - told.num_rows
        kept = told
        if self.labels:
            kept = kept.filter(pc.is_in(kept["label"], value_set=pa.array(sorted(self.labels))))
            self.left_out["predictions of other labels"] += told.num_rows - kept.num_rows
        if self.min_confidence is not None:
            before, kept = kept.num_rows, kept.filter(pc.greater_equal(kept["confidence"], self.min_confidence))
            self.left_out["predictions below --min-confidence"] += before - kept.num_rows
        return kept


@dataclass
class Source:
    """Where an export reads.

    Attributes:
        store: the output folder.
        videos: one row a video in the order of the export; ``given_label`` and ``given_split`` are null without labels.
        predictions: their table; None where they are not exported.
        labels: of the model.
        features: the table of each extractor that is exported.
        keep: which predictions stay.
        model: digest of the model.
        windowed: whether windows were predicted, not whole videos.
    """

    store: Store
    videos: pa.Table
    predictions: Table | None
    labels: Sequence[str]
    features: Mapping[str, Table]
    keep: Filter
    model: str = ""
    windowed: bool = False

    @property
    def prediction_schema(self) -> pa.Schema:
        """Of the table of predictions as it is exported."""
        fields = [of for of in schemas.predictions(self.labels) if of.name not in {"run_id", "content_key"}]
        return pa.schema([*fields, ("given_label", pa.string()), ("given_split", pa.string())])

    def chunks(self) -> Iterator[Chunk]:
        """The videos, some at a time. Another run may write meanwhile: what it adds is not seen, or as a whole."""
        for at in range(0, self.videos.num_rows, CHUNK):
            yield Chunk(self, self.videos.slice(at, CHUNK))


class Chunk:
    """Some videos and what the tables say of them, read when it is asked for."""

    def __init__(self, source: Source, videos: pa.Table) -> None:
        self.source, self.size = source, videos.num_rows
        self._videos = videos

    @cached_property
    def videos(self) -> pa.Table:
        """Those of which something is exported."""
        if not self.source.keep:
            return self._videos
        there = keys(self._predicted)
        return self._videos.filter(pc.is_in(keys(self._videos), value_set=there.combine_chunks()))

    @cached_property
    def _predicted(self) -> pa.Table:
        """Predictions that stay, video by video and window by window."""
        source = self.source
        if source.predictions is None:
            return schemas.predictions(source.labels).empty_table()
        wanted = keys(self._videos)
        rows = source.predictions.read(of=wanted)
        order = pc.index_in(keys(rows), value_set=wanted.combine_chunks())
        rows = rows.append_column("_order", order).sort_by([("_order", "ascending"), ("window_start_s", "ascending")])
        without = len(wanted) - len(pc.unique(rows["_order"]))
        source.keep.left_out["videos without a prediction"] += without
        return source.keep(rows.drop_columns(["_order"]))

    @cached_property
    def predictions(self) -> pa.Table:
        """The table of predictions as it is exported: NaN is null, a given label stands beside each row."""
        rows, videos = self._predicted, self._videos
        at = pc.index_in(keys(rows), value_set=keys(videos).combine_chunks())
        for name in ("given_label", "given_split"):
            rows = rows.append_column(name, videos[name].take(at))
        for name in ("valence", "arousal"):
            column = rows[name]
            number = rows.column_names.index(name)
            rows = rows.set_column(number, name, pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column))
        return rows.select(self.source.prediction_schema.names)

    def items(self, content: str) -> pa.Table:
        """What was found, a row an item: ``speech``, ``text`` or ``faces``."""
        extractor, column, schema = ITEMS[content]
        table = self.source.features.get(extractor)
        if table is None or column not in table.schema.names:
            return schema.empty_table()
        rows = table.read([column], of=keys(self.videos))
        uris = self.videos["uri"].take(pc.index_in(keys(rows), value_set=keys(self.videos).combine_chunks()))
        lists = rows[column].combine_chunks()
        owners, structs = pc.list_parent_indices(lists), pc.list_flatten(lists)
        there = [structs.type.field(at).name for at in range(structs.type.num_fields)]
        columns = [rows["video_id"].take(owners), uris.take(owners)]
        for of in list(schema)[2:]:
            missing = pa.nulls(len(structs), of.type)
            columns.append(pc.struct_field(structs, of.name).cast(of.type) if of.name in there else missing)
        return pa.table(columns, schema=schema)

    def feature_rows(self, extractor: str) -> pa.Table:
        """The features of one extractor as its table has them."""
        table = self.source.features[extractor]
        names = [name for name in ("feature", "start_s", "end_s") if name in table.schema.names]
        return table.read(names, of=keys(self.videos)).select(["video_id", *names])

    def _by_video(self, extractor: str, columns: Sequence[str]) -> dict[str, dict[str, Any]]:
        table = self.source.features.get(extractor)
        there = [name for name in columns if table is not None and name in table.schema.names]
        if table is None or not there:
            return {}
        rows = table.read(there, of=keys(self.videos))
        return dict(zip(keys(rows).to_pylist(), rows.to_pylist(), strict=True))

    def records(self) -> Iterator[Record]:
        """The videos one by one, for the formats that are no tables."""
        windows: dict[str, list[dict[str, Any]]] = {}
        for key, row in zip(keys(self._predicted).to_pylist(), self._predicted.to_pylist(), strict=True):
            windows.setdefault(key, []).append(row)
        heard, read = self._by_video("asr", _HEARD), self._by_video("ocr", ["text"])
        for key, video in zip(keys(self.videos).to_pylist(), self.videos.to_pylist(), strict=True):
            yield Record(
                video, windows.get(key, []), heard.get(key, {}), read.get(key, {}).get("text") or "",
                self.source,
            )  # fmt: skip


class Record:
    """One video, as people look at it.

    Attributes:
        video_id, uri, duration_s, fps: of the video; the latter are None where they are not known.
        given_label: of the labels file; None where it has none.
        emotions: the predictions that have a label, over their windows.
        speech: what was heard, in English, and ``speech_original`` in the language spoken where that is another one.
        heard, read: the whole texts, each on one line.
    """

    def __init__(
        self, video: Mapping[str, Any], windows: Sequence[Mapping[str, Any]], heard: Mapping[str, Any], read: str,
        source: Source,
    ) -> None:  # fmt: skip
        left_out = source.keep.left_out
        self.video_id: str = video["video_id"]
        self.uri: str | None = video["uri"]
        self.given_label: str | None = video["given_label"]
        self.duration_s: float | None = video["duration_s"]
        self.fps: float | None = video["fps"] if video["fps"] and video["has_video"] is not False else None
        self.has_video: bool = video["has_video"] is not False
        self._labels, self._told = source.labels, [row for row in windows if row["label"] is not None]
        left_out["predictions with nothing to go by"] += len(windows) - len(self._told)
        self.windowed = source.windowed
        self.emotions = []
        for row in self._told:
            end_s = row["window_end_s"] if row["window_end_s"] is not None else self.duration_s
            if end_s is None:
                left_out["predictions of videos of unknown length"] += 1
                continue
            self.emotions.append(Span(row["window_start_s"], end_s, row["label"], row["confidence"]))
        self.speech = _spans(heard.get("segments"))
        original = _spans(heard.get("segments_original"))
        self.speech_original = original if heard.get("language") != "en" and original != self.speech else []
        self.heard, self.read = one_line(heard.get("text") or ""), one_line(read)

    @property
    def overall(self) -> tuple[str, float] | None:
        """The label of the mean of all predictions and its probability; None where there is none."""
        if not self._told:
            return None
        means = {name: sum(row[f"p_{name}"] for row in self._told) / len(self._told) for name in self._labels}
        label = max(means, key=lambda name: means[name])
        return label, min(max(means[label], 0.0), 1.0)


def _spans(segments: Sequence[Mapping[str, Any]] | None) -> list[Span]:
    return [Span(row["start_s"], row["end_s"], row["text"] or "") for row in segments or ()]


def read_videos(store: Store) -> pa.Table:
    """The current videos with what an export says of them, by id; no labels yet."""
    videos = store.current_videos(_MEDIA).select([*KEY, *_MEDIA])
    for name in ("given_label", "given_split"):
        videos = videos.append_column(name, pa.nulls(videos.num_rows, pa.string()))
    return videos


def uncertainty_order(predictions: Table, labels: Sequence[str], videos: pa.Table) -> pa.Array:
    """Positions of the videos that have a label, the least confident first; ties in the order of ``videos``."""
    rows = predictions.read([f"p_{label}" for label in labels])
    rows = rows.filter(pc.is_valid(rows[f"p_{labels[0]}"]))
    means = rows.group_by(list(KEY)).aggregate([(f"p_{label}", "mean") for label in labels])
    top = pc.max_element_wise(*[means[f"p_{label}_mean"] for label in labels])
    at = pc.index_in(keys(videos), value_set=keys(means).combine_chunks())
    confidence = pa.chunked_array([top.take(at).combine_chunks()])
    order = pa.table({"confidence": confidence, "row": pa.array(range(videos.num_rows), pa.int64())})
    order = order.filter(pc.is_valid(order["confidence"]))
    return order.sort_by([("confidence", "ascending"), ("row", "ascending")])["row"].combine_chunks()
