"""Given labels beside what is in the store: the examples for training and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from vemoclap_batch.config import ConfigError
from vemoclap_batch.fusion.data import Examples, keyed_rng
from vemoclap_batch.fusion.selection import Selected, complete_mask, load
from vemoclap_batch.manifest import read_labels
from vemoclap_batch.store.store import Store

#: Share of each label that trains, where the labels file has no split.
TRAIN_SHARE = 0.8


@dataclass
class Labelled:
    """Labelled videos of a store that have every feature wanted.

    Attributes:
        splits: one name per video.
        source: where the splits are from, for a report.
        without_video: labelled rows that the store has no video for.
        without_features: labelled videos that lack a feature's row.
    """

    examples: Examples
    splits: list[str]
    source: str
    without_video: int
    without_features: int

    def split(self, *names: str) -> Examples:
        """The examples of some splits.

        Raises:
            ConfigError: there are none; the splits there are get named.
        """
        rows = [row for row, name in enumerate(self.splits) if name in names]
        if not rows:
            there = ", ".join(sorted(set(self.splits))) or "none"
            raise ConfigError([f"--split {' or '.join(names)}: no labelled video with all features; there is {there}"])
        return self.examples.subset(rows)


def load_labelled(
    store: Store, address: str, selected: Mapping[str, Selected], labels: tuple[str, ...], seed: int = 1
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
    videos = videos.take(pa.array([at[row] for row in found], pa.int64()))
    complete = complete_mask(store, selected, videos) if found else np.zeros(0, bool)
    kept = [row for row, is_complete in zip(found, complete, strict=True) if is_complete]
    if not kept:
        raise ConfigError([f"--labels {address!r}: none of its {len(at)} rows has a video with all features in OUT"])
    indices = [labels.index(given["label"][row]) for row in kept]
    examples = load(store, selected, videos.filter(pa.array(complete)), indices)
    splits, source = _splits(given, kept, examples, seed)
    return Labelled(examples, splits, source, len(at) - len(found), len(found) - len(kept))


def _positions(given: Mapping[str, list], videos: pa.Table) -> list[int | None]:
    by_id = {name: row for row, name in enumerate(videos["video_id"].to_pylist())}
    by_uri = {uri: row for row, uri in enumerate(videos["uri"].to_pylist()) if uri}
    return [
        by_id.get(name) if name else by_uri.get(uri) for name, uri in zip(given["video_id"], given["uri"], strict=True)
    ]


def _splits(given: Mapping[str, list], kept: list[int], examples: Examples, seed: int) -> tuple[list[str], str]:
    named = [given["split"][row] for row in kept]
    if any(named):
        said = sorted({source for row in kept if (source := given["split_source"][row])})
        return [name or "" for name in named], "; ".join(said) or "the labels file's column split"
    splits = ["test"] * len(kept)
    for label in np.unique(examples.labels):
        rows = np.flatnonzero(examples.labels == label)
        order = sorted(rows, key=lambda row: keyed_rng(seed, "split", examples.ids[row]).random())
        for row in order[: round(len(rows) * TRAIN_SHARE)]:
            splits[row] = "train"
    return splits, f"stratified by label, {TRAIN_SHARE:.0%} train, seed {seed}"
