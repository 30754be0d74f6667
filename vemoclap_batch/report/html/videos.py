"""What a report says of each video that it shows: plain values, which the page puts into words and pictures."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from vemoclap_batch.report.digest import shorten
from vemoclap_batch.report.html.source import Source
from vemoclap_batch.store.filesystem import is_remote, without_file_scheme
from vemoclap_batch.store.table import Table, keys

#: Of a long video: windows, segments, lines and faces that are listed.
_MOST = 400
_TELLING = 8
_VOICE = (
    "loudness_db", "loudness_range_db", "pitch_hz", "pitch_range_st", "voiced_fraction", "syllable_rate",
    "spectral_centroid_hz",
)  # fmt: skip


def describe_videos(source: Source) -> list[dict[str, Any]]:
    """One object for each video that is shown, in the order of :attr:`Source.shown`.

    It has only what was found: ``id``, ``name``, ``uri``, ``link``, ``media``, ``seconds``, ``label``, ``confidence``,
    ``given``, ``windows``, ``speech``, ``read``, ``faces``, ``events``, ``voice``, ``tags``, ``caption``, ``why``,
    ``failed`` and ``warnings``.
    """
    videos = source.shown
    wanted = keys(videos)
    found = {key: _media(row) for key, row in zip(wanted.to_pylist(), videos.to_pylist(), strict=True)}
    for key, label in source.given.items():
        if key in found:
            found[key]["given"] = label
    if source.predictions is not None:
        _add_predictions(source, wanted, found)
        _add_explanations(source, wanted, found)
    for name, add in _ADDED.items():
        if name in source.features:
            table, described = source.features[name]
            add(table, described, wanted, found)
    for row in source.store.errors().read(["extractor", "error_type", "message"], of=wanted).to_pylist():
        text = f"{row['extractor'] or 'decode'}: {row['error_type']}: {shorten(row['message'] or '', 200)}"
        found[_key(row)].setdefault("failed", {})[row["extractor"]] = text
    for video in found.values():
        video["failed"] = list(video.get("failed", {}).values())
    return list(found.values())


def _key(row: Mapping[str, Any]) -> str:
    return f"{row['video_id']}\0{row['content_key']}"


def _media(row: Mapping[str, Any]) -> dict[str, Any]:
    uri = row["uri"]
    link, media = links(uri)
    return {
        "id": row["video_id"],
        "name": posixpath.basename(uri) if uri else row["video_id"],
        "uri": uri,
        "link": link,
        "media": media,
        "seconds": _number(row["duration_s"]),
        "size": [row["width"], row["height"]] if row["width"] else None,
        "codec": row["video_codec"],
        "audio": row["has_audio"],
        "run": row["run_id"],
        "warnings": [shorten(text, 300) for text in row["warnings"] or ()],
    }


def links(uri: str | None) -> tuple[str | None, str | None]:
    """Where a video can be opened, and played inside the page: from the disk alone, never from a network."""
    if not uri:
        return None, None
    if uri.lower().startswith(("http://", "https://")):
        return uri, None
    if is_remote(uri):
        return None, None
    path = without_file_scheme(uri)
    try:
        address = Path(path).as_uri() if Path(path).is_absolute() else quote(path)
    except (ValueError, UnicodeError):
        return None, None
    return address, address


def _number(value: float | None, digits: int = 3) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, digits)


def _add_predictions(source: Source, wanted: pa.ChunkedArray, found: dict[str, dict[str, Any]]) -> None:
    assert source.predictions is not None
    windows: dict[str, list[dict[str, Any]]] = {}
    for row in source.predictions.read(of=wanted).to_pylist():
        windows.setdefault(_key(row), []).append(row)
    for key, rows in windows.items():
        rows.sort(key=lambda row: row["window_start_s"])
        told = [row for row in rows if row["label"] is not None]
        video = found[key]
        means = {label: sum(row[f"p_{label}"] for row in told) / len(told) for label in source.labels} if told else {}
        video["p"] = [_number(means[label], 4) for label in source.labels] if told else None
        video["label"] = max(means, key=lambda label: means[label]) if told else None
        video["confidence"] = _number(max(means.values()), 4) if told else None
        video["set"] = told[0]["label_set"] if len(told) == 1 else None
        for name in ("valence", "arousal"):
            values = [row[name] for row in told if row[name] is not None]
            video[name] = _number(sum(values) / len(values)) if values else None
        video["windows"] = [
            {
                "s": _number(row["window_start_s"]), "e": _number(row["window_end_s"]), "label": row["label"],
                "p": [_number(row[f"p_{label}"], 3) for label in source.labels] if row["label"] else None,
                "v": _number(row["valence"]), "a": _number(row["arousal"]), "missing": row["missing"],
            }
            for row in rows[:_MOST]
        ]  # fmt: skip


def _add_explanations(source: Source, wanted: pa.ChunkedArray, found: dict[str, dict[str, Any]]) -> None:
    assert source.fingerprint is not None
    parts: dict[str, list[dict[str, Any]]] = {}
    for row in source.store.explanations(source.fingerprint).read(of=wanted).to_pylist():
        parts.setdefault(_key(row), []).append(row)
    for key, rows in parts.items():
        rows.sort(key=lambda row: row["window_start_s"])
        # Of windows, the page tells the one that speaks for the video's label the most.
        own = [row for row in rows if row["label"] == found[key].get("label")] or rows
        best = max(own, key=lambda row: row["probability"])
        items = [item for item in best["items"] if item["start_s"] is not None]
        items.sort(key=lambda item: -abs(item["drop"]))
        found[key]["why"] = {
            "label": best["label"],
            "p": _number(best["probability"], 4), "empty": _number(best["empty_probability"], 4),
            "window": [_number(best["window_start_s"]), _number(best["window_end_s"])] if len(rows) > 1 else None,
            "parts": [[of["feature"], of["present"], _number(of["value"], 4)] for of in best["contributions"]],
            "items": [
                [of["feature"], _number(of["start_s"]), _number(of["end_s"]), _number(of["drop"], 4)] for of in items
            ],
            "telling": _TELLING,
        }  # fmt: skip


def _read(table: Table, columns: Sequence[str], wanted: pa.ChunkedArray) -> list[dict[str, Any]]:
    return table.read([name for name in columns if name in table.schema.names], of=wanted).to_pylist()


Found = dict[str, dict[str, Any]]


def _add_speech(table: Table, _: Mapping[str, Any], wanted: pa.ChunkedArray, found: Found) -> None:
    columns = ("text", "language", "language_probability", "segments", "words", "segments_original", "dropped")
    for row in _read(table, columns, wanted):
        words = row.get("words") or []
        segments, at = [], 0
        for segment in (row.get("segments") or [])[:_MOST]:
            own = []
            while at < len(words) and words[at]["start_s"] < segment["end_s"]:
                own.append([_number(words[at]["start_s"], 2), words[at]["text"]])
                at += 1
            # Words of a text without spaces, or of another one, do not make it up: it stands as a whole.
            if " ".join(text for _, text in own) != segment["text"].strip():
                own = []
            times = [_number(segment["start_s"], 2), _number(segment["end_s"], 2)]
            segments.append([*times, segment["text"], own, segment.get("language")])
        said = row.get("segments_original") or []
        texts = [segment["text"] for segment in row.get("segments") or []]
        original = [[_number(item["start_s"], 2), item["text"]] for item in said[:_MOST]]
        found[_key(row)]["speech"] = {
            "text": row.get("text") or "", "language": row.get("language"), "segments": segments,
            "original": original if [item["text"] for item in said] != texts else [],
            "dropped": [
                [_number(of["start_s"], 2), of["text"], of["reason"]] for of in (row.get("dropped") or [])[:20]
            ],
        }  # fmt: skip


def _add_read(table: Table, _: Mapping[str, Any], wanted: pa.ChunkedArray, found: Found) -> None:
    for row in _read(table, ("text", "lines", "language"), wanted):
        frames: dict[float, list[list[Any]]] = {}
        for line in (row.get("lines") or [])[:_MOST]:
            note = line.get("note")
            frames.setdefault(line["time_s"], []).append([line["text"] or "", note])
        found[_key(row)]["read"] = {
            "text": row.get("text") or "",
            "frames": [[_number(time, 2), lines] for time, lines in sorted(frames.items())],
        }


def _add_faces(table: Table, described: Mapping[str, Any], wanted: pa.ChunkedArray, found: Found) -> None:
    """Boxes as shares of the frame, which is scaled down before faces are looked for in it."""
    short_side = (described.get("identity", {}).get("sampling") or {}).get("short_side", 360)
    for row in _read(table, ("faces",), wanted):
        video = found[_key(row)]
        width, height = video["size"] or (0, 0)
        if not width or not height:
            continue
        scale = min(short_side / min(width, height), 1.0)
        faces = []
        for face in (row.get("faces") or [])[:_MOST]:
            across, down = width * scale, height * scale
            box = [face["x"] / across, face["y"] / down, face["w"] / across, face["h"] / down]
            told = [face["expression"], _number(face["probability"], 2)]
            faces.append([_number(face["time_s"]), *[_number(value) for value in box], *told])
        video["faces"] = faces


def _add_sound(table: Table, _: Mapping[str, Any], wanted: pa.ChunkedArray, found: Found) -> None:
    for row in _read(table, ("events", *_VOICE), wanted):
        video = found[_key(row)]
        if "events" in row:
            video["events"] = [[of["label"], _number(of["probability"], 2)] for of in row["events"] or ()]
        voice = {name: _number(row[name], 2) for name in _VOICE if row.get(name) is not None}
        if voice:
            video["voice"] = voice


def _add_tags(table: Table, _: Mapping[str, Any], wanted: pa.ChunkedArray, found: Found) -> None:
    for row in _read(table, ("tags",), wanted):
        if "tags" in row:
            found[_key(row)]["tags"] = [[of["label"], _number(of["probability"], 2)] for of in row["tags"] or ()]


def _add_caption(table: Table, _: Mapping[str, Any], wanted: pa.ChunkedArray, found: Found) -> None:
    for row in _read(table, ("caption", "time_s"), wanted):
        if row.get("caption"):
            found[_key(row)]["caption"] = [row["caption"], _number(row.get("time_s"), 2)]


_ADDED = {
    "asr": _add_speech, "ocr": _add_read, "face_emotion": _add_faces, "beats": _add_sound, "clip": _add_tags,
    "caption": _add_caption,
}  # fmt: skip
