"""Labelled videos of a store, and the features of videos: in memory, or memory-mapped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vemoclap_batch.errors import ConfigError
from vemoclap_batch.fusion.data import Examples, MemmapFeatures, keyed_rng
from vemoclap_batch.fusion.selection import Selected, complete_mask
from vemoclap_batch.media.windows import Window, inside
from vemoclap_batch.sources.manifest import read_labels
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import KEY, Table, keys

#: Features of more bytes than this do not stay in memory.
MEMORY = 2 * 2**30
#: The drawn split depends on this alone, never on the seed of a training: what one seed tests no other trains on.
SPLIT_SEED = 1
#: Share of each label that trains, where the labels file has no split.
TRAIN_SHARE = 0.8
_VALIDATION = ("validation", "val", "valid", "dev")


@dataclass
class Labelled:
    """Labelled videos of a store that have every wanted feature.

    Attributes:
        videos: ``video_id`` and ``content_key``, one row a video.
        labels: index of each one's label, int64 [n].
        splits: one name per video.
        source: where the splits are from, for a report.
        blacklist: which list took videos out of the labels file, for a report; None when the file names none.
        without_video: labelled rows that the store has no video for.
        without_features: labelled videos that lack a feature's row.
    """

    videos: pa.Table
    labels: np.ndarray
    splits: list[str]
    source: str
    blacklist: str | None
    without_video: int
    without_features: int

    @property
    def ids(self) -> list[str]:
        """Of the videos."""
        return self.videos["video_id"].to_pylist()

    def rows(self, split: str) -> np.ndarray:
        """Positions of the videos of a split; ``all`` for every one.

        Raises:
            ConfigError: there are none; the splits that exist are named.
        """
        rows = [row for row, name in enumerate(self.splits) if split in (name, "all")]
        if not rows:
            splits = ", ".join(sorted(set(self.splits))) or "none"
            raise ConfigError([f"--split {split}: no labelled video with all features; splits: {splits}"])
        return np.array(rows, np.int64)

    def validation(self) -> np.ndarray:
        """Positions of the videos that the labels file names for validation; often none."""
        return np.array([row for row, name in enumerate(self.splits) if name in _VALIDATION], np.int64)


def find_labelled(
    store: Store, address: str, selected: Mapping[str, Selected], labels: tuple[str, ...], seed: int = SPLIT_SEED
) -> Labelled:
    """Join a labels file with the videos of a store by ``video_id``, else by ``uri``.

    Without a ``split`` column a stratified one is made from the seed and the video ids.

    Raises:
        ConfigError: mistakes in the labels file, or no labelled video with all features.
    """
    given = read_labels(address, labels)
    videos = store.current_videos()
    by_id = {name: row for row, name in enumerate(videos["video_id"].to_pylist())}
    by_uri = {uri: row for row, uri in enumerate(videos["uri"].to_pylist()) if uri}
    at = [
        by_id.get(name) if name else by_uri.get(uri) for name, uri in zip(given["video_id"], given["uri"], strict=True)
    ]
    known = [row for row, position in enumerate(at) if position is not None]
    videos = videos.select(KEY).take(pa.array([at[row] for row in known], pa.int64()))
    complete = complete_mask(store, selected, videos) if known else np.zeros(0, bool)
    kept = [row for row, is_complete in zip(known, complete, strict=True) if is_complete]
    if not kept:
        raise ConfigError([f"--labels {address!r}: none of its {len(at)} rows has a video with all features in OUT"])
    videos = videos.filter(pa.array(complete))
    columns = {name: [values[row] for row in kept] for name, values in given.items()}
    indices = np.array([labels.index(label) for label in columns["label"]], np.int64)
    if any(columns["split"]):
        splits = [name or "" for name in columns["split"]]
        source = _named(columns["split_source"]) or "the labels file's column split"
    else:
        splits = _stratified(videos["video_id"].to_pylist(), indices, seed)
        source = f"stratified by label, {TRAIN_SHARE:.0%} train, seed {seed}"
    blacklist = _named(columns["blacklist"]) or None
    return Labelled(videos, indices, splits, source, blacklist, len(at) - len(known), len(known) - len(kept))


def _named(values: list[str | None]) -> str:
    return "; ".join(sorted({name for name in values if name}))


def _stratified(ids: list[str], labels: np.ndarray, seed: int) -> list[str]:
    splits = ["test"] * len(ids)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        order = sorted(rows, key=lambda row: keyed_rng(seed, "split", ids[row]).random())
        for row in order[: round(len(rows) * TRAIN_SHARE)]:
            splits[row] = "train"
    return splits


def stored_bytes(store: Store, selected: Mapping[str, Selected]) -> int:
    """What all features of some tables take in memory; reads the shards' footers only."""
    return 4 * sum(_stored_numbers(feature.table(store)) for feature in selected.values())


def _stored_numbers(table: Table) -> int:
    count = 0
    for path in table.shards():
        with table.filesystem.open_input_file(path) as stream:
            metadata = pq.read_metadata(stream)
        columns = range(metadata.num_columns)
        at = next(n for n in columns if metadata.schema.column(n).path.split(".")[0] == "feature")
        count += sum(metadata.row_group(group).column(at).num_values for group in range(metadata.num_row_groups))
    return count


def open_data(
    store: Store,
    selected: Mapping[str, Selected],
    videos: pa.Table,
    labels: np.ndarray,
    stream: bool | None = None,
    memory: int = MEMORY,
) -> Examples:
    """The features of videos that have them all, in the order of ``videos``: the same either way.

    Args:
        store: the output folder.
        selected: the table that serves each feature.
        videos: ``video_id`` and ``content_key``.
        labels: index of each one's label, int64 [n].
        stream: whether they are read from a memory-mapped file; None decides by their size.
        memory: bytes that may be in memory.
    """
    ids = videos["video_id"].to_pylist()
    if stream is None:
        stream = stored_bytes(store, selected) > memory
    if not stream:
        features = load_features(store, selected, videos)
        return Examples(ids, {name: [x.feature for x in of] for name, of in features.items()}, labels)
    mapped = {name: _mapped(feature.table(store), videos, feature.width) for name, feature in selected.items()}
    return Examples(ids, {name: feature.arrays() for name, feature in mapped.items()}, labels)


def _mapped(table: Table, videos: pa.Table, width: int) -> MemmapFeatures:
    """One pass over the shards; once more if they were replaced by others meanwhile."""
    at = {key: row for row, key in enumerate(keys(videos).to_pylist())}
    while True:
        paths, features = table.shards(), MemmapFeatures(len(at), width)
        # A few rows at a time, one shard ahead at most: what is read stays small however large the tables are.
        batches = table.dataset().to_batches(
            columns=[*KEY, "feature"], batch_size=64, batch_readahead=1, fragment_readahead=1
        )
        try:
            for batch in batches:
                for key, value in zip(keys(batch).to_pylist(), batch["feature"], strict=True):
                    if key in at:
                        features.put(at[key], _array(value, width))
            return features
        except FileNotFoundError:
            if paths == table.shards():
                raise


@dataclass(frozen=True)
class Timed:
    """One video's feature, float32 [length, width], with the seconds that each item covers if they were read."""

    feature: np.ndarray
    start_s: np.ndarray = field(default_factory=lambda: np.zeros(0))
    end_s: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def within(self, window: Window, number: int, is_text: bool) -> Timed:
        """The items of one window. A text's item is made for one window and serves no other."""
        start_s = number * window.hop_s
        if is_text:
            kept = np.abs(self.start_s - start_s) < window.hop_s / 2
        else:
            kept = inside(self.start_s, self.end_s, start_s, start_s + window.window_s)
        return Timed(self.feature[kept], self.start_s[kept], self.end_s[kept])


def load_features(
    store: Store, selected: Mapping[str, Selected], videos: pa.Table, with_times: bool = False,
    times_if_any: bool = False,
) -> dict[str, list[Timed]]:  # fmt: skip
    """The features of videos that have them all, in memory, in the order of ``videos``.

    Args:
        store: the output folder.
        selected: the table that serves each feature.
        videos: ``video_id`` and ``content_key``.
        with_times: read the times of items, too.
        times_if_any: read them where there are any.

    Raises:
        ConfigError: a feature has no times, ``with_times``.
    """
    wanted = keys(videos)
    features: dict[str, list[Timed]] = {}
    for name, feature in selected.items():
        timed = with_times or (times_if_any and feature.sequence)
        columns = ["feature", "start_s", "end_s"] if timed else ["feature"]
        rows = feature.table(store).read(columns, of=wanted)
        at = {key: row for row, key in enumerate(keys(rows).to_pylist())}
        features[name] = []
        for key in wanted.to_pylist():
            value, *times = (rows[column][at[key]] for column in columns)
            seconds = [np.array(time.as_py() or (), np.float64) for time in times]
            features[name].append(Timed(_array(value, feature.width), *seconds))
            if with_times and any(len(of_items) != len(features[name][-1].feature) for of_items in seconds):
                raise ConfigError([f"feature {name!r}: {store.address} has no times for it, which windows need"])
    return features


def _array(value: pa.ListScalar, width: int) -> np.ndarray:
    """A feature as float32 [length, width], without a Python object a number."""
    if value.values is None or not len(value.values):
        return np.zeros((0, width), np.float32)
    return value.values.flatten().to_numpy(zero_copy_only=False).reshape(-1, width).astype(np.float32, copy=False)
