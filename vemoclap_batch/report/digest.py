"""A few words per video: the emotion, and what was heard, read and seen."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from vemoclap_batch.config import MOST_LABELS
from vemoclap_batch.store.table import Table, keys

#: Shown in place of an emotion where a video, or a window, has no face, no text and no sound.
NOTHING = "nothing to go by"
#: Shown beside an emotion whose prediction set has many labels.
UNSURE = "unsure"
_WORDS = 60
_COLUMNS = ("emotion", "runner-up", "timeline", "heard", "read", "seen")


def digest(
    videos: pa.Table, predictions: Table | None, features: Mapping[str, Table], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """Summarise what the tables say of each video.

    Args:
        videos: the videos wanted, ``video_id``, ``content_key`` and ``uri``.
        predictions: their table; None when nothing was predicted.
        features: the tables by extractor; those that are not there are passed over.
        labels: of the model.

    Returns:
        Per video ``name``, ``uri``, ``video_id``, and where known ``label``, ``confidence``, ``runner_up``,
        ``runner_up_confidence``, ``label_set``, ``heard``, ``read``, ``seen``. Where windows were predicted, the
        emotion is that of the mean of those that have one, and ``timeline`` lists every window: ``start_s``, ``end_s``,
        ``label``, ``confidence``. Where there is nothing to go by, those of the emotion are None.
    """
    wanted = keys(videos)
    rows = {key: _name(video) for key, video in zip(wanted.to_pylist(), videos.to_pylist(), strict=True)}
    if predictions is not None:
        times, shares = ["window_start_s", "window_end_s"], [f"p_{label}" for label in labels]
        columns = [*times, "label", "confidence", "label_set", *shares]
        windows: dict[str, list[dict[str, Any]]] = {}
        for key, window in _read(predictions, columns, wanted):
            windows.setdefault(key, []).append(window)
        for key, of_video in windows.items():
            rows[key] |= _emotion(of_video, labels)
    for name, (column, columns, describe) in _DESCRIBED.items():
        table = features.get(name)
        if table is None or not set(columns) <= set(table.schema.names):
            continue
        for key, row in _read(table, columns, wanted):
            rows[key][column] = "; ".join(filter(None, [rows[key].get(column), describe(row)]))
    return list(rows.values())


def show(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the digest as a table; text from videos is printed as it is, never as markup."""
    grid = Grid(show_lines=False, pad_edge=False)
    grid.add_column("video", overflow="fold")
    cells = [{column: _cell(row, column) for column in _COLUMNS} for row in rows]
    columns = [column for column in _COLUMNS if any(cell[column] for cell in cells)]
    for column in columns:
        grid.add_column(column, overflow="fold", ratio=None if column in {"emotion", "runner-up"} else 1)
    for row, cell in zip(rows, cells, strict=True):
        grid.add_row(Text(row["name"]), *[Text(cell[column] or "–") for column in columns])
    console.print(grid)


def _cell(row: Mapping[str, Any], column: str) -> str:
    if column == "emotion":
        return f"{_share(row['label'], row['confidence'])}{_doubt(row)}" if "label" in row else ""
    if column == "runner-up":
        return _share(row["runner_up"], row["runner_up_confidence"]) if row.get("runner_up") else ""
    if column == "timeline":
        return shorten(_changes(row.get("timeline") or ()))
    return shorten(row.get(column) or "")


def _share(label: str | None, confidence: float | None) -> str:
    return NOTHING if label is None or confidence is None else f"{label} {confidence:.0%}"


def _doubt(row: Mapping[str, Any]) -> str:
    return f", {UNSURE}" if len(row.get("label_set") or ()) > MOST_LABELS else ""


def _changes(timeline: Sequence[Mapping[str, Any]]) -> str:
    """Say when the emotion changes: ``0:00 joy, 0:25 anger``."""
    return ", ".join(
        f"{clock(window['start_s'])} {window['label'] or NOTHING}"
        for number, window in enumerate(timeline)
        if not number or window["label"] != timeline[number - 1]["label"]
    )


def clock(seconds: float) -> str:
    """Format seconds as minutes and seconds, with hours where there are some."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def shorten(text: str, limit: int = _WORDS) -> str:
    """Cut a text to one line of so many characters, without control characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def _read(table: Table, columns: list[str], wanted: pa.ChunkedArray) -> list[tuple[str, dict[str, Any]]]:
    rows = table.read(columns, of=wanted)
    return list(zip(keys(rows).to_pylist(), rows.to_pylist(), strict=True))


def _name(video: Mapping[str, Any]) -> dict[str, Any]:
    uri, video_id = video["uri"], video["video_id"]
    name = posixpath.basename(uri) if uri else video_id
    return {"name": name, "uri": os.fspath(uri) if uri else None, "video_id": video_id}


def _emotion(windows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> dict[str, Any]:
    """The emotion of a video's mean over its windows that have one; of several windows a timeline, too."""
    told = [window for window in windows if window["label"] is not None]
    row: dict[str, Any] = dict.fromkeys(("label", "confidence", "runner_up", "runner_up_confidence", "label_set"))
    if told:
        mean = {label: sum(window[f"p_{label}"] for window in told) / len(told) for label in labels}
        label, runner_up, *_ = sorted(labels, key=lambda label: -mean[label])
        label_set = told[0]["label_set"] if len(windows) == 1 else None
        row = {
            "label": label,
            "confidence": mean[label],
            "runner_up": runner_up,
            "runner_up_confidence": mean[runner_up],
            "label_set": label_set,
        }
    if len(windows) > 1:
        names = {"start_s": "window_start_s", "end_s": "window_end_s", "label": "label", "confidence": "confidence"}
        ordered = sorted(windows, key=lambda window: window["window_start_s"])
        row["timeline"] = [{name: window[column] for name, column in names.items()} for window in ordered]
    return row


def _speech(row: Mapping[str, Any]) -> str:
    if not row["text"]:
        return "(no speech)"
    return row["text"] if row["language"] in {None, "en"} else f"[{row['language']}] {row['text']}"


def _faces(row: Mapping[str, Any]) -> str:
    if not row["faces"]:
        return "no face"
    most = max(Counter(face["frame"] for face in row["faces"]).values())
    [(expression, _)] = Counter(face["expression"] for face in row["faces"]).most_common(1)
    return f"{most} face{'s' if most > 1 else ''}, mostly {expression}"


#: Extractor → column of the digest, the columns of its table that are read, and what is said of a row of them.
_DESCRIBED: dict[str, tuple[str, list[str], Callable[[Mapping[str, Any]], str]]] = {
    "asr": ("heard", ["text", "language"], _speech),
    "ocr": ("read", ["text"], lambda row: row["text"] or "(no text)"),
    "asr_sentiment": ("heard", ["note"], lambda row: row["note"] or ""),
    "ocr_sentiment": ("read", ["note"], lambda row: row["note"] or ""),
    "face_emotion": ("seen", ["faces"], _faces),
    "clip": ("seen", ["tags"], lambda row: ", ".join(tag["label"] for tag in (row["tags"] or [])[:2])),
}
