"""What a report is made of: the predictions, the tables of features that led to them, which videos are shown."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vemoclap_batch.errors import ConfigError, Mistakes
from vemoclap_batch.sources.manifest import read_labels
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import Table, keys

#: Videos that are shown one by one, without ``--limit``.
SHOWN = 1000
_MEDIA = (
    "uri", "duration_s", "width", "height", "fps", "video_codec", "has_video", "has_audio", "frame_times", "warnings",
)  # fmt: skip


@dataclass
class Source:
    """Where a report reads.

    Attributes:
        videos: all of them as they are by now: keys, ``uri``, ``run_id``.
        shown: those that get a page part of their own, with what decoding found.
        predictions, fingerprint: their table; None where nothing was predicted.
        made: what the predictions' ``model.json`` says.
        features: per extractor its table, and what ``extractor.json`` says of it.
        given: video key → the label in the labels file.
        notes: what a reader has to know.
    """

    store: Store
    videos: pa.Table
    shown: pa.Table
    predictions: Table | None
    fingerprint: str | None
    made: Mapping[str, Any]
    features: dict[str, tuple[Table, Mapping[str, Any]]] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """Of the model."""
        return list(self.made.get("labels", ()))


def open_source(
    store: Store, newest: str | None, labels: str | None = None, limit: int | None = None,
    preferred: Mapping[str, str] | None = None,
) -> Source:  # fmt: skip
    """Find what a report of an output folder is made of; another run may write there meanwhile.

    Args:
        store: the output folder.
        newest: fingerprint of the predictions, if there are any.
        labels: address of a labels file.
        limit: how many videos are shown; :data:`SHOWN` without it.
        preferred: extractor → fingerprint, where an extractor has several tables and the predictions do not say.

    Raises:
        ConfigError: with all mistakes: no video, a limit that is none, labels that cannot be read or name no video.
    """
    mistakes = Mistakes()
    if limit is not None and limit < 1:
        mistakes.add([f"--limit {limit}: expected at least 1"])
    videos = store.current_videos(_MEDIA)
    if not videos.num_rows:
        mistakes.add([f"{store.address!r} has no video yet; expected the output folder of label or extract"])
    made = (store.read_json(f"predictions/{newest}/model.json") or {}) if newest else {}
    given: dict[str, str] = {}
    if labels is not None:
        with mistakes.gathered():
            given = _given(labels, made.get("labels"), videos)
    mistakes.refuse()
    shown, notes = _sample(videos, limit or SHOWN)
    predictions = store.predictions(newest, made["labels"]) if newest and made else None
    if predictions is None:
        notes.append("Nothing was predicted yet: run vemoclap-batch label or predict.")
    source = Source(
        store, videos.select(["video_id", "content_key", "uri", "run_id"]), shown, predictions, newest, made,
        given=given, notes=notes,
    )  # fmt: skip
    source.features = _features(store, made.get("features", {}), preferred or {})
    return source


def _sample(videos: pa.Table, limit: int) -> tuple[pa.Table, list[str]]:
    """At most so many videos, in the order of their ids: always the same ones of the same videos."""
    if videos.num_rows <= limit:
        return videos, []
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in videos["video_id"].to_pylist()]
    order = sorted(range(videos.num_rows), key=digests.__getitem__)[:limit]
    note = (
        f"A random sample of {limit:,} of the {videos.num_rows:,} videos is shown one by one; the overview counts all "
        "of them. --limit changes how many."
    )
    return videos.take(pa.array(np.sort(order))), [note]


def _given(address: str, labels: Sequence[str] | None, videos: pa.Table) -> dict[str, str]:
    columns = read_labels(address, labels) if labels else read_labels(address)
    names = keys(videos).to_pylist()
    by_id = dict(zip(videos["video_id"].to_pylist(), names, strict=True))
    by_uri = dict(zip(videos["uri"].to_pylist(), names, strict=True))
    given, unknown = {}, []
    for name, uri, label in zip(columns["video_id"], columns["uri"], columns["label"], strict=True):
        key = by_id.get(name) if name else by_uri.get(uri)
        if key is None:
            unknown.append(name or uri or "")
        elif label:
            given[key] = label
    if unknown:
        first = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
        what = f"{len(unknown)} of its rows name no video of OUT: {first}; expected ids or uris of its videos"
        raise ConfigError([f"--labels {address!r}: {what}"])
    return given


def _features(
    store: Store, made_of: Mapping[str, str], preferred: Mapping[str, str]
) -> dict[str, tuple[Table, Mapping[str, Any]]]:
    """The tables that the predictions were made from and what these read, and of other extractors one each."""
    described = {name: store.fingerprints(name) for name in store.extractors()}
    chosen = dict(made_of)
    for name, fingerprint in made_of.items():
        identity = described.get(name, {}).get(fingerprint, {}).get("identity", {})
        for source in (identity.get("input"), *identity.get("evidence", {}).values()):
            chosen |= {other: source for other, tables in described.items() if source in tables}
    found: dict[str, tuple[Table, Mapping[str, Any]]] = {}
    for name, tables in described.items():
        if not tables:
            continue
        fingerprint = chosen.get(name) or preferred.get(name) or ""
        fingerprint = fingerprint if fingerprint in tables else list(tables)[-1]
        table = store.stored_features(name, fingerprint)
        if table is not None:
            found[name] = (table, tables[fingerprint])
    return found


def mean_probabilities(source: Source) -> tuple[list[str], np.ndarray, list[str]]:
    """The videos that have a label: their keys, mean probabilities over windows float64 [n, labels], and run ids."""
    if source.predictions is None:
        return [], np.zeros((0, 0)), []
    columns = [f"p_{label}" for label in source.labels]
    rows = source.predictions.read([*columns, "run_id"])
    rows = rows.filter(pc.is_in(keys(rows), value_set=keys(source.videos).combine_chunks()))
    rows = rows.filter(pc.is_valid(rows[columns[0]]))
    grouped = rows.group_by(["video_id", "content_key"]).aggregate(
        [*[(name, "mean") for name in columns], ("run_id", "max")]
    )
    shares = np.stack([grouped[f"{name}_mean"].to_numpy() for name in columns], 1)
    return keys(grouped).to_pylist(), shares, grouped["run_id_max"].to_pylist()
