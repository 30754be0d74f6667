"""A few words per video: the emotion, and what was heard, read and seen."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from vemoclap_batch.store.table import Table, keys

_WORDS = 60


def digest(
    videos: pa.Table, predictions: Table | None, features: Mapping[str, Table], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """What the tables say of each video.

    Args:
        videos: the videos wanted, ``video_id``, ``content_key`` and ``uri``.
        predictions: their table; None when nothing was predicted.
        features: the tables by extractor; those that are not there are passed over.
        labels: of the model.

    Returns:
        Per video ``name``, ``uri``, ``video_id``, and where known ``label``, ``confidence``, ``runner_up``,
        ``runner_up_confidence``, ``heard``, ``read``, ``seen``. Where windows were predicted, the emotion is that of
        their mean, and ``timeline`` lists every window: ``start_s``, ``end_s``, ``label``, ``confidence``.
    """
    wanted = keys(videos)
    rows = {key: _named(video) for key, video in zip(wanted.to_pylist(), videos.to_pylist(), strict=True)}
    if predictions is not None:
        columns = ["window_start_s", "window_end_s", "label", "confidence", *[f"p_{label}" for label in labels]]
        windows: dict[str, list[dict[str, Any]]] = {}
        for key, found in _read(predictions, columns, wanted):
            windows.setdefault(key, []).append(found)
        for key, of_video in windows.items():
            rows[key] |= _emotion(of_video[0], labels) if len(of_video) == 1 else _timeline(of_video, labels)
    for name, columns, words in (
        ("asr", ["text", "language"], _heard),
        ("ocr", ["text"], _read_text),
        ("face_emotion", ["faces"], _faces),
        ("clip", ["tags"], _tags),
    ):
        table = features.get(name)
        if table is None or not set(columns) <= set(table.schema.names):
            continue
        for key, found in _read(table, columns, wanted):
            for column, said in words(found).items():
                rows[key][column] = "; ".join(filter(None, [rows[key].get(column), said]))
    return list(rows.values())


def show(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the digest as a table; text from videos is shown as it is, never as markup."""
    grid = Grid(show_lines=False, pad_edge=False)
    grid.add_column("video", overflow="fold")
    columns = [
        name
        for name in ("emotion", "runner-up", "timeline", "heard", "read", "seen")
        if any(_cell(row, name) for row in rows)
    ]
    for name in columns:
        grid.add_column(name, overflow="fold", ratio=1 if name in {"timeline", "heard", "read", "seen"} else None)
    for row in rows:
        grid.add_row(Text(row["name"]), *[Text(_cell(row, name) or "–") for name in columns])
    console.print(grid)


def _cell(row: Mapping[str, Any], column: str) -> str:
    if column == "emotion":
        return f"{row['label']} {row['confidence']:.0%}" if "label" in row else ""
    if column == "runner-up":
        return f"{row['runner_up']} {row['runner_up_confidence']:.0%}" if "runner_up" in row else ""
    if column == "timeline":
        return shorten(_runs(row.get("timeline") or ()))
    return shorten(row.get(column) or "")


def _runs(timeline: Sequence[Mapping[str, Any]]) -> str:
    """``0:00 joy, 0:25 anger``: when the emotion changes."""
    changes = [
        window
        for number, window in enumerate(timeline)
        if not number or window["label"] != timeline[number - 1]["label"]
    ]
    return ", ".join(f"{clock(window['start_s'])} {window['label']}" for window in changes)


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, with hours where there are some."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def shorten(text: str, limit: int = _WORDS) -> str:
    """The beginning of a text on one line, without control characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def _read(table: Table, columns: list[str], wanted: pa.ChunkedArray) -> list[tuple[str, dict[str, Any]]]:
    found = table.read(columns, of=wanted)
    return list(zip(keys(found).to_pylist(), found.to_pylist(), strict=True))


def _named(video: Mapping[str, Any]) -> dict[str, Any]:
    uri = video["uri"]
    return {
        "name": posixpath.basename(uri) if uri else video["video_id"],
        "uri": os.fspath(uri) if uri else None,
        "video_id": video["video_id"],
    }


def _emotion(found: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    best, second, *_ = sorted(labels, key=lambda label: -found[f"p_{label}"])
    return {
        "label": found["label"],
        "confidence": found["confidence"],
        "runner_up": second if best == found["label"] else best,
        "runner_up_confidence": found[f"p_{second if best == found['label'] else best}"],
    }


def _timeline(windows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> dict[str, Any]:
    """The windows of a video in order, and the emotion of their mean."""
    ordered = sorted(windows, key=lambda window: window["window_start_s"])
    mean: dict[str, Any] = {f"p_{label}": sum(w[f"p_{label}"] for w in ordered) / len(ordered) for label in labels}
    best = max(labels, key=lambda label: mean[f"p_{label}"])
    timeline = [
        {
            "start_s": window["window_start_s"],
            "end_s": window["window_end_s"],
            "label": window["label"],
            "confidence": window["confidence"],
        }
        for window in ordered
    ]
    return _emotion({**mean, "label": best, "confidence": mean[f"p_{best}"]}, labels) | {"timeline": timeline}


def _heard(found: Mapping[str, Any]) -> dict[str, str]:
    if not found["text"]:
        return {"heard": "(no speech)"}
    foreign = f"[{found['language']}] " if found["language"] not in {None, "en"} else ""
    return {"heard": f"{foreign}{found['text']}"}


def _read_text(found: Mapping[str, Any]) -> dict[str, str]:
    return {"read": found["text"] or "(no text)"}


def _faces(found: Mapping[str, Any]) -> dict[str, str]:
    faces = found["faces"] or []
    if not faces:
        return {"seen": "no face"}
    most = max(Counter(face["frame"] for face in faces).values())
    [(expression, _)] = Counter(face["expression"] for face in faces).most_common(1)
    return {"seen": f"{most} face{'s' if most > 1 else ''}, mostly {expression}"}


def _tags(found: Mapping[str, Any]) -> dict[str, str]:
    return {"seen": ", ".join(tag["label"] for tag in (found["tags"] or [])[:2])}
