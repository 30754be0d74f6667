"""The numbers of a report's overview, over all videos of an output folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from vemoclap_batch.report.html.source import Source, mean_probabilities
from vemoclap_batch.store.table import keys

_BINS, _RUNS = 10, 30


def overview(source: Source) -> dict[str, Any]:
    """Classes, confidence, coverage by modality, failures, runs and, with given labels, how good predictions are.

    Returns:
        ``videos``, ``predicted``, ``nothing`` (videos with nothing to go by); ``labels`` (label → videos);
        ``confidence`` (videos in each tenth); ``coverage`` (extractor → share of videos in which it found something);
        ``failures`` (type → open ones); ``runs`` (id, videos decoded, labels of what was predicted); ``quality``, None
        without given labels: ``n``, ``accuracy``, ``matrix`` (rows: given), ``reliability`` (confidence, accuracy, n).
    """
    names, shares, runs = mean_probabilities(source)
    labels, best = source.labels, shares.argmax(1) if len(shares) else np.zeros(0, int)
    confidence = shares.max(1) if len(shares) else np.zeros(0)
    tenths = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    judged = _judged(source)
    return {
        "videos": source.videos.num_rows,
        "predicted": len(names),
        "nothing": judged - len(names),
        "labels": {label: int((best == at).sum()) for at, label in enumerate(labels)},
        "confidence": np.bincount(tenths, minlength=_BINS).tolist(),
        "coverage": _coverage(source),
        "failures": _failures(source),
        "runs": _runs(source, runs, best),
        "quality": _quality(source, names, shares) if source.given and len(shares) else None,
    }


def _judged(source: Source) -> int:
    """How many videos have a prediction, those with nothing to go by among them."""
    if source.predictions is None:
        return 0
    return len(pc.unique(keys(source.videos).filter(pc.is_in(keys(source.videos), _keys_of(source.predictions)))))


def _keys_of(table: Any) -> Any:
    return pc.unique(keys(table.read([])))


def _coverage(source: Source) -> dict[str, float]:
    """Of the videos that an extractor has done, the share with something found: a vector, a text or a caption."""
    found = {}
    wanted = keys(source.videos).combine_chunks()
    for name, (table, described) in sorted(source.features.items()):
        texts = [column for column in ("text", "caption") if column in table.schema.names]
        column = "feature" if described.get("width") else next(iter(texts), None)
        if column is None:
            continue
        total = there = 0
        # The lengths alone stay in memory, never the features of all videos.
        for batch in table.dataset().to_batches(columns=["video_id", "content_key", column], batch_size=4096):
            is_wanted = pc.is_in(keys(batch), value_set=wanted)
            values = batch[column].filter(is_wanted)
            sizes = pc.list_value_length(values) if column == "feature" else pc.utf8_length(values)
            total += len(sizes)
            there += pc.sum(pc.greater(pc.fill_null(sizes, 0), 0)).as_py() or 0
        if total:
            found[name] = there / total
    return found


def _failures(source: Source) -> dict[str, int]:
    """The latest failure of each cell that has no row of features by now, by type."""
    log = source.store.errors().read(["extractor", "fingerprint", "error_type", "run_id"]).to_pylist()
    latest = {
        (row["video_id"], row["content_key"], row["extractor"], row["fingerprint"]): row
        for row in sorted(log, key=lambda row: row["run_id"])
    }
    decoded = set(keys(source.videos).to_pylist())
    done = {
        name: set(_keys_of(table).to_pylist())
        for name, (table, _) in source.features.items()
        if any(row["extractor"] == name for row in latest.values())
    }
    counts: Counter[str] = Counter()
    for row in latest.values():
        key = f"{row['video_id']}\0{row['content_key']}"
        there = decoded if row["extractor"] is None else done.get(row["extractor"], set())
        counts[row["error_type"]] += key not in there
    return {name: count for name, count in counts.most_common() if count}


def _runs(source: Source, predicted_by: Sequence[str], best: np.ndarray) -> list[dict[str, Any]]:
    """The last runs: how many videos each decoded, and which labels the videos that it predicted got."""
    decoded = Counter(source.videos["run_id"].to_pylist())
    of_run: dict[str, np.ndarray] = {}
    for run, label in zip(predicted_by, best, strict=True):
        of_run.setdefault(run, np.zeros(len(source.labels), int))[label] += 1
    return [
        {"run": run, "videos": decoded.get(run, 0), "labels": of_run[run].tolist() if run in of_run else []}
        for run in sorted({*decoded, *of_run})[-_RUNS:]
    ]


def _quality(source: Source, names: Sequence[str], shares: np.ndarray) -> Mapping[str, Any] | None:
    rows = [row for row, name in enumerate(names) if name in source.given]
    if not rows:
        return None
    labels = source.labels
    truth = np.array([labels.index(source.given[names[row]]) for row in rows])
    shares = shares[rows]
    best, confidence = shares.argmax(1), shares.max(1)
    matrix = np.zeros((len(labels), len(labels)), int)
    np.add.at(matrix, (truth, best), 1)
    tenths = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    bins = [
        {
            "confidence": float(confidence[tenths == at].mean()),
            "accuracy": float((best == truth)[tenths == at].mean()),
            "n": int((tenths == at).sum()),
        }
        for at in np.unique(tenths)
    ]
    return {"n": len(rows), "accuracy": float((best == truth).mean()), "matrix": matrix.tolist(), "reliability": bins}
