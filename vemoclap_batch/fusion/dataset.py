"""Given labels beside what is in the store, and the features of those videos: in memory, or spooled to disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from vemoclap_batch.config import ConfigError
from vemoclap_batch.fusion.data import Data, keyed_rng
from vemoclap_batch.fusion.model import FeatureSpec, Fusion, FusionSpec
from vemoclap_batch.fusion.selection import Selected, complete_mask, load
from vemoclap_batch.fusion.spool import Spool, Spooled
from vemoclap_batch.sources.manifest import read_labels
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import KEY, keys

#: Features of more bytes than this do not stay in memory.
MEMORY = 2 * 2**30
#: The drawn split depends on this alone, never on the seed of a training: what one seed tests no other trains on.
SPLIT_SEED = 1
#: Share of each label that trains, where the labels file has no split.
TRAIN_SHARE = 0.8
_VALIDATION = ("validation", "val", "valid", "dev")


@dataclass
class Labelled:
    """Labelled videos of a store that have every feature wanted; their features are not read yet.

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

    def rows(self, *names: str) -> np.ndarray:
        """Positions of the videos of some splits; ``all`` for every one.

        Raises:
            ConfigError: there are none; the splits there are get named.
        """
        rows = [row for row, name in enumerate(self.splits) if name in names or "all" in names]
        if not rows:
            there = ", ".join(sorted(set(self.splits))) or "none"
            raise ConfigError([f"--split {' or '.join(names)}: no labelled video with all features; there is {there}"])
        return np.array(rows, np.int64)

    def validation(self) -> np.ndarray:
        """Positions of the videos that the labels file itself sets apart for validation; often none."""
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
    at = _positions(given, videos)
    found = [row for row, position in enumerate(at) if position is not None]
    videos = videos.select(KEY).take(pa.array([at[row] for row in found], pa.int64()))
    complete = complete_mask(store, selected, videos) if found else np.zeros(0, bool)
    kept = [row for row, is_complete in zip(found, complete, strict=True) if is_complete]
    if not kept:
        raise ConfigError([f"--labels {address!r}: none of its {len(at)} rows has a video with all features in OUT"])
    videos = videos.filter(pa.array(complete))
    indices = np.array([labels.index(given["label"][row]) for row in kept], np.int64)
    splits, source = _splits(given, kept, videos["video_id"].to_pylist(), indices, seed)
    blacklist = "; ".join(sorted({name for row in kept if (name := given["blacklist"][row])})) or None
    return Labelled(videos, indices, splits, source, blacklist, len(at) - len(found), len(found) - len(kept))


def _positions(given: Mapping[str, list], videos: pa.Table) -> list[int | None]:
    by_id = {name: row for row, name in enumerate(videos["video_id"].to_pylist())}
    by_uri = {uri: row for row, uri in enumerate(videos["uri"].to_pylist()) if uri}
    return [
        by_id.get(name) if name else by_uri.get(uri) for name, uri in zip(given["video_id"], given["uri"], strict=True)
    ]


def _splits(
    given: Mapping[str, list], kept: list[int], ids: list[str], labels: np.ndarray, seed: int
) -> tuple[list[str], str]:
    named = [given["split"][row] for row in kept]
    if any(named):
        said = sorted({source for row in kept if (source := given["split_source"][row])})
        return [name or "" for name in named], "; ".join(said) or "the labels file's column split"
    splits = ["test"] * len(kept)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        order = sorted(rows, key=lambda row: keyed_rng(seed, "split", ids[row]).random())
        for row in order[: round(len(rows) * TRAIN_SHARE)]:
            splits[row] = "train"
    return splits, f"stratified by label, {TRAIN_SHARE:.0%} train, seed {seed}"


def stored_bytes(store: Store, selected: Mapping[str, Selected]) -> int:
    """What all features of some tables take in memory; reads the shards' footers only."""
    return 4 * sum(_numbers(feature, store) for feature in selected.values())


def _numbers(feature: Selected, store: Store) -> int:
    table, count = feature.table(store), 0
    for path in table.shards():
        with table.filesystem.open_input_file(path) as stream:
            metadata = pq.read_metadata(stream)
        columns = range(metadata.num_columns)
        at = next(n for n in columns if metadata.schema.column(n).path.split(".")[0] == "feature")
        count += sum(metadata.row_group(group).column(at).num_values for group in range(metadata.num_row_groups))
    return count


def open_data(
    store: Store, selected: Mapping[str, Selected], videos: pa.Table, labels: np.ndarray, stream: bool | None = None,
    memory: int = MEMORY,
) -> Data:  # fmt: skip
    """The features of videos that have them all, in the order of ``videos``: the same either way.

    Args:
        store: the output folder.
        selected: the table that serves each feature.
        videos: ``video_id`` and ``content_key``.
        labels: index of each one's label, int64 [n].
        stream: whether they are spooled to disk rather than held in memory; None decides by their size.
        memory: bytes that may be held.
    """
    if stream is None:
        stream = stored_bytes(store, selected) > memory
    if not stream:
        return load(store, selected, videos, labels.tolist())
    spooled = {name: _spooled(store, feature, videos) for name, feature in selected.items()}
    return Spool(videos["video_id"].to_pylist(), labels, spooled, range(videos.num_rows))


def _spooled(store: Store, feature: Selected, videos: pa.Table) -> Spooled:
    """One pass over the shards; once more if they were replaced by others meanwhile."""
    at = {key: row for row, key in enumerate(keys(videos).to_pylist())}
    table = feature.table(store)
    while True:
        paths, spooled = table.shards(), Spooled.of(len(at), feature.width)
        try:
            # A few rows at a time, one shard ahead at most: what is read stays small however large the tables are.
            found = table.dataset().to_batches(
                columns=[*KEY, "feature"], batch_size=64, batch_readahead=1, fragment_readahead=1
            )
            for batch in found:
                for key, array in zip(keys(batch).to_pylist(), _arrays(batch["feature"], feature.width), strict=True):
                    if key in at:
                        spooled.put(at[key], array)
            spooled.seal()
            return spooled
        except FileNotFoundError:
            if paths == table.shards():
                raise


def _arrays(column: pa.ListArray, width: int) -> Iterator[np.ndarray]:
    """The features of some rows, each float32 [length, width], without a Python object a number."""
    outer, inner = column.offsets.to_numpy(), column.values.offsets.to_numpy()
    flat = column.values.values.to_numpy(zero_copy_only=False)
    for first, last in pairwise(outer):
        yield flat[inner[first] : inner[last]].reshape(-1, width)


def classifier_spec(
    selected: Mapping[str, Selected],
    length: int,
    *,
    d_model: int,
    heads: int,
    dropout: float,
    fusion: Fusion = "cross_attention",
) -> FusionSpec:
    """The classifier of these features that takes ``length`` items of each sequence; its normalisation is not measured.

    Raises:
        ConfigError: the sizes do not fit together.
    """
    features = {
        name: FeatureSpec(
            width=feature.width,
            length=length if feature.sequence else 1,
            sequence=feature.sequence,
            space=feature.space,
        )
        for name, feature in selected.items()
    }
    try:
        return FusionSpec(features=features, d_model=d_model, heads=heads, dropout=dropout, fusion=fusion)
    except ValidationError as error:
        raise ConfigError([f"--d-model, --heads, --dropout: {item['msg']}" for item in error.errors()]) from error


def names_of(selected: Mapping[str, Selected]) -> dict[str, str]:
    """Feature → the fingerprint that serves it."""
    return {name: feature.fingerprint for name, feature in selected.items()}
