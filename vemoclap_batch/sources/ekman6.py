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
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa

from vemoclap_batch.config import LABELS
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.sources.blacklist import Listed, VideoNames, find_listed, first_of, read_blacklist, read_text
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
#: What may stand in a column of a list, the value that it means, and both in words.
_VALUES = {
    "label": ({label: label for label in LABELS}, f"one of {', '.join(LABELS)}"),
    "split": (_SPLITS, "train, test or validation"),
}
#: How many names and mistakes are given one by one.
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
        rows = self.manifest.rows.select(["label", "split"]).to_pylist()
        return {label: Counter(row["split"] or "none" for row in rows if row["label"] == label) for label in LABELS}


@dataclass
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
    reader = _Reader(folder)
    split_list: _List | None = None
    names: list[str] = []
    with reader.collecting():
        split_list = _read_list(split, "split") if split else None
    with reader.collecting():
        names = read_blacklist(blacklist) if blacklist else []
    with reader.collecting():
        label_list = reader.find_videos(split_list)
        split_list = split_list or (label_list if label_list and label_list.has("split") else None)
    if not reader.videos:
        raise ConfigError(reader.mistakes)
    reader.name_videos()
    source = f"file {split_list.name}" if split_list else f"stratified seed {seed}"
    splits = reader.listed_splits(split_list) if split_list else reader.drawn_splits(seed)
    for row, chosen in splits.items():
        reader.videos[row].split, reader.videos[row].split_source = chosen, source
    removed = reader.leave_out(names, blacklist) if blacklist else Counter[str]()
    if not reader.mistakes and not reader.videos:
        reader.mistakes.append(f"{folder!r}: the blacklist leaves no video")
    if reader.mistakes:
        raise ConfigError(reader.mistakes)
    if absent := [label for label in LABELS if all(video.label != label for video in reader.videos)]:
        reader.notes.append(f"no video of {', '.join(absent)}")
    rows = pa.Table.from_pylist([asdict(video) for video in reader.videos], schema=COLUMNS)
    return Ekman6(Manifest(rows, reader.ignored), source, removed, reader.notes)


class _Reader:
    """The videos of a folder; collects what is wrong and what a user should know."""

    def __init__(self, folder: str) -> None:
        self.folder, self.top = folder, local_path(folder)
        if not os.path.isdir(self.top):
            raise ConfigError([f"{folder!r}: no such folder"])
        self.videos: list[_Video] = []
        self.ignored: Counter[str] = Counter()
        self.mistakes: list[str] = []
        self.notes: list[str] = []

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keep the mistakes of a ConfigError, so that those of the other files are found too."""
        try:
            yield
        except ConfigError as error:
            self.mistakes += error.mistakes

    def find_videos(self, split_list: _List | None) -> _List | None:
        """All videos with a label; returns the list that has the labels, if there is one."""
        files = [(path, key, Path(path).relative_to(self.top).as_posix()) for path, key in walk(self.top, self.ignored)]
        if not files:
            raise ConfigError([f"{self.folder!r}: no video found"])
        # Their folder's name as a label, until a list says more.
        videos = [_Video(*file, label=file[2].split("/")[0].lower() if "/" in file[2] else "") for file in files]
        self.videos = [video for video in videos if video.label in LABELS]
        outside = [video.relative for video in videos if video.label not in LABELS]
        if self.videos and outside:
            self.mistakes.append(
                f"{self.folder!r}: {len(outside)} videos are in none of the class folders {', '.join(LABELS)}: "
                f"{first_of(outside, _SHOWN)}"
            )
        if self.videos:
            return None
        label_list = self._label_list(split_list)
        for video in videos:
            video.label = ""
        labels = self._values(label_list, "label", videos)
        if without := [video.relative for row, video in enumerate(videos) if row not in labels]:
            self.mistakes.append(
                f"{self.folder!r}: {len(without)} videos have no label in {label_list.name}: "
                f"{first_of(without, _SHOWN)}"
            )
        for row, label in labels.items():
            videos[row].label = label
        self.videos = [video for video in videos if video.label]
        return label_list

    def _label_list(self, split_list: _List | None) -> _List:
        there = [name for name in _LABEL_FILES if os.path.isfile(os.path.join(self.top, name))]
        if len(there) > 1:
            raise ConfigError([f"{self.folder!r}: more than one label file ({', '.join(there)})"])
        if there:
            return _read_list(os.path.join(self.top, there[0]), "label")
        if split_list and split_list.has("label"):
            return split_list
        expected = f"class folders ({', '.join(LABELS)}) nor a label file ({', '.join(_LABEL_FILES)})"
        raise ConfigError([f"{self.folder!r}: neither {expected}"])

    def name_videos(self) -> None:
        """Ids that stay the same wherever the folder lies: the stem, or class and stem where files share a stem."""
        stems = [posixpath.splitext(posixpath.basename(video.relative))[0] for video in self.videos]
        is_unique = len(set(stems)) == len(stems)
        first: dict[str, str] = {}
        for video, stem in zip(self.videos, stems, strict=True):
            video.video_id = stem if is_unique else f"{video.label}_{stem}"
            if (other := first.setdefault(video.video_id, video.relative)) != video.relative:
                self.mistakes.append(f"two videos of one class and name: {other} and {video.relative}")

    def listed_splits(self, given: _List) -> dict[int, str]:
        """The split of each video that a list names, by row."""
        splits = self._values(given, "split", self.videos)
        without = [video.relative for row, video in enumerate(self.videos) if row not in splits]
        if without and splits:
            names = first_of(without, _SHOWN)
            self.notes.append(f"{len(without)} videos are not in {given.name} and have no split: {names}")
        return splits

    def drawn_splits(self, seed: int) -> dict[int, str]:
        """Half of every label trains; odd ones are rounded up and down in turn, so that the halves differ by one.

        The order depends on nothing but the seed and the ids, so that every machine draws the same.
        """
        splits: dict[int, str] = {}
        for label in LABELS:
            rows = [row for row, video in enumerate(self.videos) if video.label == label]
            count = math.ceil((len(splits) + len(rows)) / 2) - math.ceil(len(splits) / 2)
            order = {row: hashlib.sha256(f"{seed} {self.videos[row].video_id}".encode()).digest() for row in rows}
            rows.sort(key=order.__getitem__)
            splits |= {row: "train" if at < count else "test" for at, row in enumerate(rows)}
        return splits

    def leave_out(self, names: list[str], address: str) -> Counter[str]:
        """Take out the videos that a blacklist names; returns how many of each split."""
        listed, name = Listed(), posixpath.basename(address)
        with self.collecting():
            listed = find_listed(names, _lookup(self.videos), address)
        removed = Counter(self.videos[row].split or "none" for row in listed.rows)
        by_split = ", ".join(f"{count} {split}" for split, count in sorted(removed.items()))
        self.notes.append(f"{len(listed.rows)} videos removed by {name}" + (f" ({by_split})" if by_split else ""))
        if unknown := listed.unknown:
            self.notes.append(f"{len(unknown)} names in {name} are no video here: {first_of(unknown, _SHOWN)}")
        for row in reversed(listed.rows):
            del self.videos[row]
        for video in self.videos:
            video.blacklist = name
        return removed

    def _values(self, given: _List, column: str, videos: Sequence[_Video]) -> dict[int, str]:
        """The label or split of each video that a list names, by row."""
        accepted, expected = _VALUES[column]
        lookup = _lookup(videos)
        values: dict[int, str] = {}
        wrong: list[str] = []
        unknown: list[str] = []
        for at, row in enumerate(given.rows):
            where, text = f"{given.address!r} entry {at + 1} ({row['name']})", row.get(column)
            if not text:
                continue
            value, rows = accepted.get(text.lower()), lookup.rows(row["name"])
            if value is None:
                wrong.append(f"{where}: {column} {text!r}; expected {expected}")
            elif not rows:
                unknown.append(row["name"])
            elif len(rows) > 1:
                wrong.append(f"{where}: fits {len(rows)} videos")
            elif (earlier := values.setdefault(min(rows), value)) != value:
                wrong.append(f"{where}: {column} {value}, but an earlier entry says {earlier}")
        self.mistakes += wrong[:_SHOWN]
        if len(wrong) > _SHOWN:
            self.mistakes.append(f"{given.address!r}: {len(wrong) - _SHOWN} more entries with mistakes")
        names = first_of(unknown, _SHOWN)
        if not values and not wrong:
            self.mistakes.append(f"{given.address!r}: none of its {len(given.rows)} names is a video here: {names}")
        elif unknown:
            self.notes.append(f"{len(unknown)} names in {given.name} are no video here: {names}")
        return values


def _lookup(videos: Sequence[_Video]) -> VideoNames:
    return VideoNames([v.video_id for v in videos], [v.uri for v in videos], [v.label for v in videos])


@dataclass
class _List:
    """A list of videos with a value each: ``rows`` have ``name`` and, where given, ``label`` and ``split``."""

    address: str
    rows: list[dict[str, str]]

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return posixpath.basename(self.address)

    def has(self, column: str) -> bool:
        """Whether any entry has this column."""
        return any(column in row for row in self.rows)


def _read_list(address: str, column: str) -> _List:
    """Read a list whose second column, where it has no header, is ``column``.

    Raises:
        ConfigError: it cannot be read, or has no such column.
    """
    lines = read_text(address).splitlines()
    try:
        rows = _json_rows(lines) if address.endswith(".jsonl") else _text_rows(lines, address, column)
    except ValueError as error:
        raise ConfigError([f"{address!r}: {error}"]) from error
    found = _List(address, rows)
    if not found.has(column):
        raise ConfigError([f"{address!r}: no entry with a {column}"])
    return found


def _json_rows(lines: Sequence[str]) -> list[dict[str, str]]:
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = {key.lower(): "" if value is None else str(value) for key, value in json.loads(line).items()}
            except (ValueError, AttributeError) as error:
                raise ValueError(f"line {number} is no JSON object") from error
            rows.append(_row(row))
    return rows


def _text_rows(lines: Sequence[str], address: str, column: str) -> list[dict[str, str]]:
    kept = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    cells = [[cell.strip() for cell in _cells(line, address)] for line in kept]
    header = [cell.lower() for cell in cells[0]] if cells else []
    if set(header) & set(_NAME_COLUMNS) and set(header) & {"label", "split"}:
        del cells[0]
    else:
        header = ["name", column]
    for at, row in enumerate(cells):
        if len(row) != len(header):
            raise ValueError(f"entry {at + 1}: {len(row)} columns, expected {len(header)} ({', '.join(header)})")
    return [_row(dict(zip(header, row, strict=True))) for row in cells]


def _cells(line: str, address: str) -> list[str]:
    if address.endswith((".csv", ".tsv")):
        return next(csv.reader([line], delimiter="\t" if address.endswith(".tsv") else ","))
    for delimiter in "\t,":
        if delimiter in line:
            return line.split(delimiter)
    # A name may hold spaces, a label or split does not.
    return line.rsplit(None, 1)


def _row(cells: Mapping[str, str]) -> dict[str, str]:
    name = next((cells[key] for key in _NAME_COLUMNS if cells.get(key)), None)
    if name is None:
        raise ValueError(f"no name in {', '.join(cells.values())!r}; expected a column {', '.join(_NAME_COLUMNS)}")
    return {"name": name, **{key: cells[key].strip() for key in ("label", "split") if key in cells}}
