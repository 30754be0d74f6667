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
        ``runner_up_confidence``, ``heard``, ``read``, ``seen``.
    """
    wanted = keys(videos)
    rows = {key: _named(video) for key, video in zip(wanted.to_pylist(), videos.to_pylist(), strict=True)}
    if predictions is not None:
        for key, found in _read(predictions, ["label", "confidence", *[f"p_{label}" for label in labels]], wanted):
            rows[key] |= _emotion(found, labels)
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
        name for name in ("emotion", "runner-up", "heard", "read", "seen") if any(_cell(row, name) for row in rows)
    ]
    for name in columns:
        grid.add_column(name, overflow="fold", ratio=1 if name in {"heard", "read", "seen"} else None)
    for row in rows:
        grid.add_row(Text(row["name"]), *[Text(_cell(row, name) or "–") for name in columns])
    console.print(grid)


def _cell(row: Mapping[str, Any], column: str) -> str:
    if column == "emotion":
        return f"{row['label']} {row['confidence']:.0%}" if "label" in row else ""
    if column == "runner-up":
        return f"{row['runner_up']} {row['runner_up_confidence']:.0%}" if "runner_up" in row else ""
    return shorten(row.get(column) or "")


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
