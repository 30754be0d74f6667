"""Ekman-6 (or any set laid out like it) from its folder to a manifest with labels and a split.

Two layouts: a folder per class (``anger/…``, any case, subfolders allowed), or videos anywhere below a folder that has
a label file, ``labels.csv``, ``.tsv``, ``.jsonl`` or ``.txt``. Lists name a video by its id, its file name or its path
below the folder, each with or without the suffix; their columns have a header, or are the name and the value.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from vemoclap_batch.config import LABELS, ConfigError
from vemoclap_batch.sources.blacklist import VideoNames, read_blacklist
from vemoclap_batch.sources.listing import walk
from vemoclap_batch.sources.manifest import SCHEMA, Manifest
from vemoclap_batch.store.filesystem import local_path

#: The manifest's columns: those of every manifest, and for reports where each row's split is from and which list took
#: videos out.
COLUMNS = SCHEMA.append(pa.field("split_source", pa.string())).append(pa.field("blacklist", pa.string()))
_LABEL_FILES = ("labels.csv", "labels.tsv", "labels.jsonl", "labels.txt")
_NAME_COLUMNS = ("video_id", "uri", "file", "file_name", "filename", "name", "video", "path", "id")
_SPLITS = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
}  # fmt: skip
_SHOWN = 5


@dataclass
class Ekman6:
    """The data set as a manifest.

    Attributes:
        manifest: its rows have the columns :data:`COLUMNS`.
        split_source: where the splits are from, in words.
        removed: videos that the blacklist took out, by split.
        notes: what a user should know, one a line.
    """

    manifest: Manifest
    split_source: str
    removed: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, Counter[str]]:
        """Videos per label and split; the split of a video without one is called ``none``."""
        found: dict[str, Counter[str]] = {label: Counter() for label in LABELS}
        rows = self.manifest.rows
        for label, split in zip(rows["label"].to_pylist(), rows["split"].to_pylist(), strict=True):
            found[label][split or "none"] += 1
        return found


@dataclass(frozen=True)
class _Video:
    uri: str
    content_key: str
    relative: str
    label: str
    video_id: str = ""
    split: str | None = None
    split_source: str | None = None
    blacklist: str | None = None


def read_ekman6(folder: str, split: str | None = None, blacklist: str | None = None, seed: int = 1) -> Ekman6:
    """Find the videos and their labels, split them, and leave out those of a blacklist.

    The split comes from the file given, else from a column ``split`` of the label file, else half of each class trains
    (819 and 818 of the 1,637 videos), drawn by the seed and the video ids. Splitting comes before the blacklist, so
    that the cleaned set is the same split with fewer videos.

    Args:
        folder: a local folder in one of the two layouts.
        split: a list of videos and train, test or validation.
        blacklist: a text file with one video a line; ``#`` begins a comment.
        seed: of the drawn split.

    Raises:
        ConfigError: with every mistake in the folder and the lists.
    """
    top = local_path(folder)
    if not os.path.isdir(top):
        raise ConfigError([f"{folder!r}: no such folder"])
    mistakes: list[str] = []
    notes: list[str] = []
    ignored: Counter[str] = Counter()
    split_list = _read_list(split, "split", mistakes) if split else None
    names = _blacklist(blacklist, mistakes) if blacklist else []
    videos, label_list = _videos(folder, top, ignored, split_list, mistakes, notes)
    videos = _with_ids(videos, mistakes)
    lookup = _lookup(videos)
    if split_list is None and label_list is not None and label_list.has("split"):
        split_list = label_list
    if split_list is not None:
        source = f"file {split_list.name}"
        videos = _split_by_list(videos, lookup, split_list, source, mistakes, notes)
    else:
        source = f"stratified seed {seed}"
        videos = _split_by_seed(videos, seed, source)
    kept, removed = _without(videos, lookup, names, blacklist, mistakes, notes)
    if not mistakes and not kept:
        mistakes.append(f"{folder!r}: the blacklist leaves no video")
    if mistakes:
        raise ConfigError(mistakes)
    if absent := [label for label in LABELS if all(video.label != label for video in kept)]:
        notes.append(f"no video of {', '.join(absent)}")
    rows = pa.Table.from_pylist([asdict(video) for video in kept], schema=COLUMNS)
    return Ekman6(Manifest(rows, ignored), source, removed, notes)


# ---- videos and labels


def _videos(
    folder: str, top: str, ignored: Counter[str], split_list: _List | None, mistakes: list[str], notes: list[str]
) -> tuple[list[_Video], _List | None]:
    """All videos with a label, and the label file if there is one."""
    found = [(path, key, Path(path).relative_to(top).as_posix()) for path, key in walk(top, ignored)]
    if not found:
        mistakes.append(f"{folder!r}: no video found")
        return [], None
    classes = [relative.split("/")[0].lower() if "/" in relative else "" for _, _, relative in found]
    if any(name in LABELS for name in classes):
        videos = [_Video(*item, label=name) for item, name in zip(found, classes, strict=True) if name in LABELS]
        outside = [item[2] for item, name in zip(found, classes, strict=True) if name not in LABELS]
        if outside:
            mistakes.append(
                f"{folder!r}: {len(outside)} videos are in none of the class folders {', '.join(LABELS)}: "
                f"{_some(outside)}"
            )
        return videos, None
    label_list = _label_list(folder, top, split_list, mistakes)
    if label_list is None:
        return [], None
    return _labelled([_Video(*item, label="") for item in found], folder, label_list, mistakes, notes), label_list


def _label_list(folder: str, top: str, split_list: _List | None, mistakes: list[str]) -> _List | None:
    there = [name for name in _LABEL_FILES if os.path.isfile(os.path.join(top, name))]
    if len(there) > 1:
        mistakes.append(f"{folder!r}: more than one label file ({', '.join(there)})")
        return None
    if there:
        return _read_list(os.path.join(top, there[0]), "label", mistakes)
    if split_list is not None and split_list.has("label"):
        return split_list
    mistakes.append(
        f"{folder!r}: neither class folders ({', '.join(LABELS)}) nor a label file ({', '.join(_LABEL_FILES)})"
    )
    return None


def _labelled(videos: list[_Video], folder: str, given: _List, mistakes: list[str], notes: list[str]) -> list[_Video]:
    lookup = _lookup(videos)

    def accept(text: str) -> str | None:
        return text.lower() if text.lower() in LABELS else None

    labels = given.values("label", lookup, accept, f"one of {', '.join(LABELS)}", mistakes, notes)
    without = [video.relative for row, video in enumerate(videos) if row not in labels]
    if without:
        mistakes.append(f"{folder!r}: {len(without)} videos have no label in {given.name}: {_some(without)}")
    return [replace(video, label=labels[row]) for row, video in enumerate(videos) if row in labels]


def _with_ids(videos: list[_Video], mistakes: list[str]) -> list[_Video]:
    """Ids that stay the same wherever the folder lies: the stem, or class and stem where two files share a stem."""
    stems = [posixpath.splitext(posixpath.basename(video.relative))[0] for video in videos]
    if len(set(stems)) < len(stems):
        stems = [f"{video.label}_{stem}" for video, stem in zip(videos, stems, strict=True)]
    at: defaultdict[str, list[str]] = defaultdict(list)
    for video, name in zip(videos, stems, strict=True):
        at[name].append(video.relative)
    mistakes += [f"two videos of one class and name: {' and '.join(paths)}" for paths in at.values() if len(paths) > 1]
    return [replace(video, video_id=name) for video, name in zip(videos, stems, strict=True)]


def _lookup(videos: Sequence[_Video]) -> VideoNames:
    return VideoNames([v.video_id for v in videos], [v.uri for v in videos], [v.label for v in videos])


# ---- lists


@dataclass
class _List:
    """A list of videos with a value each: ``rows`` have ``name`` and, where given, ``label`` and ``split``."""

    name: str
    address: str
    rows: list[dict[str, str]]

    def has(self, column: str) -> bool:
        return any(column in row for row in self.rows)

    def values(
        self, column: str, lookup: VideoNames, accept: Callable[[str], str | None], expected: str, mistakes: list[str],
        notes: list[str],
    ) -> dict[int, str]:  # fmt: skip
        """The accepted value of each video that the list names; what is wrong goes to ``mistakes``."""
        found: dict[int, str] = {}
        wrong: list[str] = []
        unknown: list[str] = []
        for at, row in enumerate(self.rows):
            where, name, text = f"entry {at + 1} ({row['name']})", row["name"], row.get(column)
            if not text:
                continue
            value, rows = accept(text), lookup.rows(name)
            if value is None:
                wrong.append(f"{self.address!r} {where}: {column} {text!r}; expected {expected}")
            elif not rows:
                unknown.append(name)
            elif len(rows) > 1:
                wrong.append(f"{self.address!r} {where}: fits {len(rows)} videos")
            elif found.setdefault(video := min(rows), value) != value:
                wrong.append(f"{self.address!r} {where}: {column} {value}, but an earlier entry says {found[video]}")
        mistakes += wrong[:_SHOWN]
        if len(wrong) > _SHOWN:
            mistakes.append(f"{self.address!r}: {len(wrong) - _SHOWN} more entries with mistakes")
        if not found and not wrong:
            mistakes.append(f"{self.address!r}: none of its {len(self.rows)} names is a video here: {_some(unknown)}")
        elif unknown:
            notes.append(f"{len(unknown)} names in {self.name} are no video here: {_some(unknown)}")
        return found


def _read_list(address: str, column: str, mistakes: list[str]) -> _List | None:
    """A list whose second column, where it has no header, is ``column``."""
    lines = _lines(address, mistakes)
    if lines is None:
        return None
    try:
        rows = _json_rows(lines) if address.endswith(".jsonl") else _text_rows(lines, address, column)
    except ValueError as error:
        mistakes.append(f"{address!r}: {error}")
        return None
    if not any(column in row for row in rows):
        mistakes.append(f"{address!r}: no entry with a {column}")
        return None
    return _List(posixpath.basename(address), address, rows)


def _lines(address: str, mistakes: list[str]) -> list[str] | None:
    try:
        return Path(local_path(address)).read_text("utf-8-sig").splitlines()
    except FileNotFoundError:
        mistakes.append(f"{address!r}: no such file")
    except (OSError, ValueError) as error:
        mistakes.append(f"{address!r}: cannot be read ({error})")
    return None


def _json_rows(lines: Iterable[str]) -> list[dict[str, str]]:
    rows = []
    for at, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            row = {str(key).lower(): "" if x is None else str(x) for key, x in json.loads(line).items()}
        except (ValueError, AttributeError) as error:
            raise ValueError(f"line {at + 1} is no JSON object") from error
        rows.append(_row(list(row), list(row.values())))
    return rows


def _text_rows(lines: Iterable[str], address: str, column: str) -> list[dict[str, str]]:
    kept = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    cells = [_cells(line, address) for line in kept]
    if not cells:
        return []
    header = [cell.lower() for cell in cells[0]]
    if not set(header) & set(_NAME_COLUMNS) or not set(header) & {"label", "split"}:
        header = ["name", column]
    else:
        cells = cells[1:]
    for at, row in enumerate(cells):
        if len(row) != len(header):
            raise ValueError(f"entry {at + 1}: {len(row)} columns, expected {len(header)} ({', '.join(header)})")
    return [_row(header, row) for row in cells]


def _cells(line: str, address: str) -> list[str]:
    if address.endswith((".csv", ".tsv")):
        delimiter = "\t" if address.endswith(".tsv") else ","
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]
    for delimiter in "\t,":
        if delimiter in line:
            return [cell.strip() for cell in line.split(delimiter)]
    # A name may hold spaces, a label or split does not.
    return line.rsplit(None, 1)


def _row(header: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    row = dict(zip(header, cells, strict=True))
    name = next((row[key] for key in _NAME_COLUMNS if row.get(key)), None)
    if name is None:
        raise ValueError(f"no name in {', '.join(cells)!r}; expected a column {', '.join(_NAME_COLUMNS)}")
    return {"name": name, **{key: row[key].strip() for key in ("label", "split") if key in row}}


# ---- splits and the blacklist


def _split_by_list(
    videos: list[_Video], lookup: VideoNames, given: _List, source: str, mistakes: list[str], notes: list[str]
) -> list[_Video]:
    expected = "train, test or validation"
    # Without videos there is a mistake already, and every name would be another.
    wrong: list[str] = mistakes if videos else []
    found = given.values("split", lookup, lambda text: _SPLITS.get(text.lower()), expected, wrong, notes)
    without = [video.relative for row, video in enumerate(videos) if row not in found]
    if without and found:
        notes.append(f"{len(without)} videos are not in {given.name} and have no split: {_some(without)}")
    return [replace(v, split=found[row], split_source=source) if row in found else v for row, v in enumerate(videos)]


def _split_by_seed(videos: list[_Video], seed: int, source: str) -> list[_Video]:
    """Half of every label trains; odd ones are rounded up and down in turn, so that the halves differ by one at most.

    The order depends on nothing but the seed and the ids, so that every machine draws the same.
    """
    training: set[str] = set()
    before = 0
    for label in LABELS:
        ids = [video.video_id for video in videos if video.label == label]
        count = math.ceil((before + len(ids)) / 2) - math.ceil(before / 2)
        before += len(ids)
        training.update(sorted(ids, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())[:count])
    return [replace(v, split="train" if v.video_id in training else "test", split_source=source) for v in videos]


def _blacklist(address: str, mistakes: list[str]) -> list[str]:
    try:
        return read_blacklist(address)
    except ConfigError as error:
        mistakes += error.mistakes
        return []


def _without(
    videos: list[_Video], lookup: VideoNames, names: list[str], address: str | None, mistakes: list[str],
    notes: list[str],
) -> tuple[list[_Video], Counter[str]]:  # fmt: skip
    if address is None or not videos:
        return videos, Counter()
    listed = {name: lookup.rows(name) for name in names}
    several = [name for name, rows in listed.items() if len(rows) > 1]
    if several:
        mistakes.append(f"{address!r}: names that fit more than one video: {_some(several)}")
    out = set().union(*listed.values())
    removed = Counter(videos[row].split or "none" for row in out)
    told = ", ".join(f"{count} {name}" for name, count in sorted(removed.items()))
    notes.append(f"{len(out)} videos removed by {posixpath.basename(address)}" + (f" ({told})" if told else ""))
    if unknown := [name for name, rows in listed.items() if not rows]:
        notes.append(f"{len(unknown)} names in {posixpath.basename(address)} are no video here: {_some(unknown)}")
    name = posixpath.basename(address)
    return [replace(video, blacklist=name) for row, video in enumerate(videos) if row not in out], removed


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
