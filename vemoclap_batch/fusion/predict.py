"""Emotions from committed features: which videos lack a prediction, and theirs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from vemoclap_batch.config import ConfigError
from vemoclap_batch.fusion.selection import Selected, complete_mask, load, load_timed
from vemoclap_batch.media.windows import Window
from vemoclap_batch.store.store import Store
from vemoclap_batch.store.table import KEY, Table, keys

if TYPE_CHECKING:
    from vemoclap_batch.fusion.checkpoint import Checkpoint
    from vemoclap_batch.fusion.data import Examples

#: Mean valence and arousal of the labels (published with VEMOCLAP).
AFFECT = {
    "anger": (-0.51, 0.59),
    "disgust": (-0.60, 0.35),
    "fear": (-0.64, 0.60),
    "joy": (0.76, 0.48),
    "sadness": (-0.63, -0.27),
    "surprise": (0.40, 0.67),
}
#: Videos that are predicted and committed together at most, and their length in all.
_CHUNK, _CHUNK_S = 2048, 24 * 3600.0
#: Windows in memory at a time.
_WINDOWS = 512


@dataclass
class Predicted:
    """What a prediction run did: new rows, videos that had one, videos with a feature still missing."""

    table: Table
    fingerprint: str
    new: int = 0
    there: int = 0
    incomplete: int = 0


def prediction_fingerprint(model: str, selected: Mapping[str, Selected], window: Window | None = None) -> str:
    """Names a predictions table: a hash of the model's digest, of the features it is fed with and of the windows."""
    identity: list[Any] = [model, {name: feature.fingerprint for name, feature in sorted(selected.items())}]
    if window is not None:
        identity.append([window.window_s, window.hop_s])
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def predict(
    store: Store,
    videos: pa.Table,
    checkpoint: Checkpoint,
    model: str,
    selected: Mapping[str, Selected],
    run_id: str,
    report: Callable[[int, int], None] | None = None,
    window: Window | None = None,
) -> Predicted:
    """Predict every video that has all the model's features and no prediction yet.

    Args:
        store: the output folder; predictions are committed to it some videos at a time, all windows of each together.
        videos: ``video_id``, ``content_key``, ``uri`` of the videos wanted.
        checkpoint: the classifier.
        model: its digest.
        selected: the features table that serves each feature.
        run_id: of this run.
        report: called with the videos predicted so far and in all.
        window: predict for these windows of each video; None for each video as a whole.

    Raises:
        ConfigError: a feature has no times, or a video no duration, which windows need.
    """
    fingerprint = prediction_fingerprint(model, selected, window)
    table = store.predictions(fingerprint, checkpoint.spec.labels)
    # A video has a row for each window, and all of them are committed as one.
    table.unique = window is None
    there = table.committed(keys(videos))
    complete = complete_mask(store, selected, videos)
    result = Predicted(table, fingerprint, there=int(there.sum()), incomplete=int((~there & ~complete).sum()))
    todo = videos.filter(pa.array(complete & ~there))
    if not todo.num_rows:
        return result
    _describe(store, fingerprint, model, selected, checkpoint, window)
    durations = _durations(store, todo)
    for at, count in _chunks(durations):
        chunk = todo.slice(at, count)
        if window is None:
            rows = _whole(store, chunk, checkpoint, selected, durations[at : at + count])
        else:
            rows = _windows(store, chunk, checkpoint, selected, durations[at : at + count], window)
        table.append(rows.append_column("run_id", pa.array([run_id] * rows.num_rows, pa.string())))
        result.new += count
        if report:
            report(result.new, todo.num_rows)
    return result


def _durations(store: Store, videos: pa.Table) -> list[float | None]:
    found = store.videos().read(["duration_s"], of=keys(videos))
    lengths = dict(zip(keys(found).to_pylist(), found["duration_s"].to_pylist(), strict=True))
    return [lengths.get(key) for key in keys(videos).to_pylist()]


def _chunks(durations: Sequence[float | None]) -> Iterator[tuple[int, int]]:
    """First video and number of videos of each chunk: bounded in number and in seconds, as features grow with both."""
    at = 0
    while at < len(durations):
        seconds = np.cumsum([duration or 0.0 for duration in durations[at : at + _CHUNK]])
        count = max(1, int(np.searchsorted(seconds, _CHUNK_S, side="right")))
        yield at, count
        at += count


def _whole(
    store: Store, videos: pa.Table, checkpoint: Checkpoint, selected: Mapping[str, Selected],
    durations: Sequence[float | None],
) -> pa.Table:  # fmt: skip
    """One row for each video."""
    examples = load(store, selected, videos)
    times = np.zeros(videos.num_rows), pa.array(durations, pa.float64())
    return _rows(videos, *times, checkpoint.probabilities(examples), checkpoint.spec.labels, _missing(examples))


def _windows(
    store: Store, videos: pa.Table, checkpoint: Checkpoint, selected: Mapping[str, Selected],
    durations: Sequence[float | None], window: Window,
) -> pa.Table:  # fmt: skip
    """One row for each window of each video."""
    from vemoclap_batch.fusion.data import Examples

    timed = load_timed(store, selected, videos)
    texts = {name for name, feature in checkpoint.spec.features.items() if not feature.sequence}
    owners, numbers, starts, ends = [], [], [], []
    for row, duration in enumerate(durations):
        if duration is None:
            raise ConfigError([f"{videos['video_id'][row].as_py()}: its duration is not known, which windows need"])
        for number, (start, end) in enumerate(window.over(duration)):
            owners.append(row)
            numbers.append(number)
            starts.append(start)
            ends.append(end)
    probabilities, missing = [], []
    # Some at a time: overlapping windows hold the same items several times.
    for at in range(0, len(owners), _WINDOWS):
        some = list(zip(owners[at : at + _WINDOWS], numbers[at : at + _WINDOWS], strict=True))
        features = {
            name: [arrays[row].within(window, number, name in texts) for row, number in some]
            for name, arrays in timed.items()
        }
        examples = Examples([str(row) for row, _ in some], features, np.full(len(some), -1))
        probabilities.append(checkpoint.probabilities(examples))
        missing += _missing(examples)
    owned = videos.take(pa.array(owners, pa.int64()))
    return _rows(
        owned, np.array(starts), pa.array(ends, pa.float64()), np.concatenate(probabilities), checkpoint.spec.labels,
        missing,
    )  # fmt: skip


def _missing(examples: Examples) -> list[list[str]]:
    return [
        [name for name, arrays in sorted(examples.features.items()) if not len(arrays[row])]
        for row in range(len(examples))
    ]


def _rows(
    videos: pa.Table, starts: np.ndarray, ends: pa.Array, probabilities: np.ndarray, labels: Sequence[str],
    missing: list[list[str]],
) -> pa.Table:  # fmt: skip
    """The table's rows, less the run's id; ``videos`` has one row for each of them."""
    valence, arousal = affect(probabilities, labels)
    return pa.table(
        {
            **{name: videos[name] for name in (*KEY, "uri")},
            "window_start_s": starts,
            "window_end_s": ends,
            "label": [labels[at] for at in probabilities.argmax(1)],
            "confidence": probabilities.max(1),
            **{f"p_{label}": probabilities[:, at] for at, label in enumerate(labels)},
            "valence": valence,
            "arousal": arousal,
            "missing": pa.array(missing, pa.list_(pa.string())),
        }
    )


def affect(probabilities: np.ndarray, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Expected valence and arousal under the probabilities; NaN when a label has no published values."""
    values = np.array([AFFECT.get(label, (np.nan, np.nan)) for label in labels])
    return probabilities @ values[:, 0], probabilities @ values[:, 1]


def _describe(
    store: Store, fingerprint: str, model: str, selected: Mapping[str, Selected], checkpoint: Checkpoint,
    window: Window | None,
) -> None:  # fmt: skip
    store.write_json(
        f"predictions/{fingerprint}/model.json",
        {
            "fingerprint": fingerprint,
            "model": model,
            "labels": checkpoint.spec.labels,
            "features": {name: feature.fingerprint for name, feature in selected.items()},
            "window": asdict(window) if window else None,
        },
    )
