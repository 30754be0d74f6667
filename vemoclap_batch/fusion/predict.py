"""Predicts the emotions of the videos that have all features of a classifier and no prediction yet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from vemoclap_batch.fusion.data import Examples
from vemoclap_batch.fusion.dataset import load_features
from vemoclap_batch.fusion.selection import Selected, complete_mask, names_of
from vemoclap_batch.fusion.spans import Media, Span, chunks, media_of, spans_of
from vemoclap_batch.media.windows import Window
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import KEY, Table, keys

if TYPE_CHECKING:
    from vemoclap_batch.fusion.checkpoint import Checkpoint
    from vemoclap_batch.fusion.description import Description

#: Mean valence and arousal of the labels (published with VEMOCLAP).
AFFECT = {
    "anger": (-0.51, 0.59),
    "disgust": (-0.60, 0.35),
    "fear": (-0.64, 0.60),
    "joy": (0.76, 0.48),
    "sadness": (-0.63, -0.27),
    "surprise": (0.40, 0.67),
}
#: Raised when the same features of the same model give other rows. 1: no label where there is nothing to go by.
_RULES = 1


class Loadable(Protocol):
    """A classifier that is described before it is loaded."""

    @property
    def description(self) -> Description:
        """What its folder says of it."""

    @property
    def digest(self) -> str:
        """That of its weights and shape."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The classifier, loaded when it is first asked for."""


@dataclass
class Predicted:
    """What a prediction run did: new rows, videos that had one, videos with a feature still missing."""

    table: Table
    fingerprint: str
    new: int = 0
    skipped: int = 0
    incomplete: int = 0


def prediction_fingerprint(model: str, selected: Mapping[str, Selected], window: Window | None = None) -> str:
    """Names a predictions table: a hash of the model's digest, its features, the windows and the rules."""
    identity: list[Any] = [model, names_of(selected), _RULES]
    if window is not None:
        identity.append([window.window_s, window.hop_s])
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def predict(
    store: Store,
    videos: pa.Table,
    model: Loadable,
    selected: Mapping[str, Selected],
    run_id: str,
    report: Callable[[int, int], None] | None = None,
    window: Window | None = None,
) -> Predicted:
    """Predict every video that has all the model's features and no prediction yet.

    Args:
        store: the output folder; predictions are committed to it some videos at a time, all windows of each together.
        videos: ``video_id``, ``content_key``, ``uri`` of the videos wanted.
        model: the classifier, which is loaded if there is something to predict.
        selected: the features table that serves each feature.
        run_id: of this run.
        report: called with the videos predicted so far and in all.
        window: predict for these windows of each video; None for each video as a whole.

    Raises:
        ConfigError: a feature has no times, or a video no duration, which windows need.
    """
    fingerprint = prediction_fingerprint(model.digest, selected, window)
    labels = model.description.spec.labels
    table = store.predictions(fingerprint, labels)
    # A video has a row for each window, and all of them are committed as one.
    table.unique = window is None
    is_done = table.committed(keys(videos))
    complete = complete_mask(store, selected, videos)
    result = Predicted(table, fingerprint, skipped=int(is_done.sum()), incomplete=int((~is_done & ~complete).sum()))
    pending = videos.filter(pa.array(complete & ~is_done))
    if not pending.num_rows:
        return result
    description = {
        "fingerprint": fingerprint,
        "model": model.digest,
        "labels": labels,
        "features": names_of(selected),
        "window": asdict(window) if window else None,
    }
    store.write_json(f"predictions/{fingerprint}/model.json", description)
    media = media_of(store, pending)
    for at, count in chunks([of.duration_s for of in media]):
        rows = _predict_chunk(
            store, pending.slice(at, count), model.checkpoint, selected, media[at : at + count], window
        )
        table.append(rows.append_column("run_id", pa.array([run_id] * rows.num_rows, pa.string())))
        result.new += count
        if report:
            report(result.new, pending.num_rows)
    return result


def _predict_chunk(
    store: Store, videos: pa.Table, checkpoint: Checkpoint, selected: Mapping[str, Selected],
    media: Sequence[Media], window: Window | None,
) -> pa.Table:  # fmt: skip
    """The table's rows, less the run's id: one for each video, or for each window of each.

    Where there is nothing to go by, a row has no label and no probabilities, and misses every feature.
    """
    timed = load_features(store, selected, videos, with_times=window is not None)
    texts = {name for name, feature in checkpoint.spec.features.items() if not feature.sequence}
    parts: list[np.ndarray] = []
    spans: list[Span] = []
    missing: list[list[str]] = []
    nothing: list[bool] = []
    for some in spans_of(videos, timed, texts, media, window):
        features = {name: [one.feature for one in of] for name, of in some.features.items()}
        count = len(some.spans)
        parts.append(checkpoint.probabilities(Examples([""] * count, features, np.full(count, -1))))
        spans += some.spans
        missing += [some.missing(row) for row in range(count)]
        nothing += some.nothing.tolist()
    owners, _, starts, ends = zip(*spans, strict=True)
    probabilities, labels = np.concatenate(parts), checkpoint.spec.labels
    valence, arousal = affect(probabilities, labels)
    empty = np.array(nothing)
    found = checkpoint.sets.sets(probabilities, labels) if checkpoint.sets else [None] * len(spans)
    sets = [None if is_empty else labels_in for labels_in, is_empty in zip(found, nothing, strict=True)]
    owned = videos.take(pa.array(owners, pa.int64()))
    return pa.table(
        {
            **{name: owned[name] for name in (*KEY, "uri")},
            "window_start_s": pa.array(starts, pa.float64()),
            "window_end_s": pa.array(ends, pa.float64()),
            "label": pa.array([labels[at] for at in probabilities.argmax(1)], mask=empty),
            "confidence": pa.array(probabilities.max(1), mask=empty),
            **{f"p_{label}": pa.array(probabilities[:, at], mask=empty) for at, label in enumerate(labels)},
            "valence": pa.array(valence, mask=empty),
            "arousal": pa.array(arousal, mask=empty),
            "label_set": pa.array(sets, pa.list_(pa.string())),
            "missing": pa.array(missing, pa.list_(pa.string())),
        }
    )


def affect(probabilities: np.ndarray, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Expected valence and arousal under the probabilities; NaN when a label has no published values."""
    values = np.array([AFFECT.get(label, (np.nan, np.nan)) for label in labels])
    return probabilities @ values[:, 0], probabilities @ values[:, 1]
