"""Emotions from committed features: which videos lack a prediction, and theirs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from vemoclap_batch.fusion.checkpoint import Checkpoint
from vemoclap_batch.fusion.selection import Selected, complete_mask, load
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import KEY, Table, keys

#: Mean valence and arousal of the labels (published with VEMOCLAP).
AFFECT = {
    "anger": (-0.51, 0.59),
    "disgust": (-0.60, 0.35),
    "fear": (-0.64, 0.60),
    "joy": (0.76, 0.48),
    "sadness": (-0.63, -0.27),
    "surprise": (0.40, 0.67),
}
_CHUNK = 2048


@dataclass
class Predicted:
    """What a prediction run did: new rows, videos that had one, videos with a feature still missing."""

    table: Table
    fingerprint: str
    new: int = 0
    there: int = 0
    incomplete: int = 0


def prediction_fingerprint(model: str, selected: Mapping[str, Selected]) -> str:
    """Names a predictions table: a hash of the model's digest and of the features it is fed with."""
    identity = [model, {name: feature.fingerprint for name, feature in sorted(selected.items())}]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def predict(
    store: Store,
    videos: pa.Table,
    checkpoint: Checkpoint,
    model: str,
    selected: Mapping[str, Selected],
    run_id: str,
    report: Callable[[int, int], None] | None = None,
) -> Predicted:
    """Predict every video that has all the model's features and no prediction yet.

    Args:
        store: the output folder; predictions are committed to it a chunk at a time.
        videos: ``video_id``, ``content_key``, ``uri`` of the videos wanted.
        checkpoint: the classifier.
        model: its digest.
        selected: the features table that serves each feature.
        run_id: of this run.
        report: called with the videos predicted so far and in all.
    """
    fingerprint = prediction_fingerprint(model, selected)
    table = store.predictions(fingerprint, checkpoint.spec.labels)
    there = table.committed(keys(videos))
    complete = complete_mask(store, selected, videos)
    result = Predicted(table, fingerprint, there=int(there.sum()), incomplete=int((~there & ~complete).sum()))
    todo = videos.filter(pa.array(complete & ~there))
    if todo.num_rows:
        _describe(store, fingerprint, model, selected, checkpoint)
    for at in range(0, todo.num_rows, _CHUNK):
        result.new += table.append(_rows(store, todo.slice(at, _CHUNK), checkpoint, selected, run_id))
        if report:
            report(result.new, todo.num_rows)
    return result


def _rows(
    store: Store, videos: pa.Table, checkpoint: Checkpoint, selected: Mapping[str, Selected], run_id: str
) -> pa.Table:
    examples = load(store, selected, videos)
    probabilities = checkpoint.probabilities(examples)
    labels = checkpoint.spec.labels
    best = probabilities.argmax(1)
    missing = [
        [name for name, arrays in sorted(examples.features.items()) if not len(arrays[row])] for row in range(len(best))
    ]
    valence, arousal = affect(probabilities, labels)
    found = store.videos().read(["duration_s"], of=keys(videos))
    lengths = dict(zip(found["video_id"].to_pylist(), found["duration_s"].to_pylist(), strict=True))
    ids = videos["video_id"].to_pylist()
    return pa.table(
        {
            **{name: videos[name] for name in (*KEY, "uri")},
            "window_start_s": np.zeros(len(ids)),
            "window_end_s": pa.array([lengths.get(name) for name in ids], pa.float64()),
            "label": [labels[at] for at in best],
            "confidence": probabilities.max(1),
            **{f"p_{label}": probabilities[:, at] for at, label in enumerate(labels)},
            "valence": valence,
            "arousal": arousal,
            "missing": pa.array(missing, pa.list_(pa.string())),
            "run_id": [run_id] * len(ids),
        }
    )


def affect(probabilities: np.ndarray, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Expected valence and arousal under the probabilities; NaN when a label has no published values."""
    values = np.array([AFFECT.get(label, (np.nan, np.nan)) for label in labels])
    return probabilities @ values[:, 0], probabilities @ values[:, 1]


def _describe(
    store: Store, fingerprint: str, model: str, selected: Mapping[str, Selected], checkpoint: Checkpoint
) -> None:
    store.write_json(
        f"predictions/{fingerprint}/model.json",
        {
            "fingerprint": fingerprint,
            "model": model,
            "labels": checkpoint.spec.labels,
            "features": {name: feature.fingerprint for name, feature in selected.items()},
        },
    )
