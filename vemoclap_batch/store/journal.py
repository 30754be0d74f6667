"""Replacing shards by others: all or nothing, whatever dies in between.

The new shards are written under hidden names first. Then one file, ``OUT/.journal/<id>.json``, says which shards go
and which come: from that moment the replacement has happened. It is carried out by deleting the old, giving the new
their proper names and removing the file; a writer that finds such a file carries it out first.

Readers of this package look into the journal and see every row exactly once at any time. Plain Parquet readers, which
know only ``part-*.parquet``, see no row twice either, since the old leave before the new come; for that moment they
miss the rows of the shards that are being replaced.
"""

from __future__ import annotations

import json
import posixpath
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial

import pyarrow.fs as pafs

from vemoclap_batch.store.filesystem import delete, files, is_shard, move, write_bytes_atomically
from vemoclap_batch.store.patience import is_local, patiently

_DONE = "done-"
_DELETIONS_AT_ONCE = 16


@dataclass(frozen=True)
class Entry:
    """One replacement in one table's folder.

    Attributes:
        folder: of the table, below the root.
        old: names of the files that go, in this order.
        new: hidden name → shard name of those that come.
        dropped: whether the folder itself goes.
    """

    folder: str
    old: list[str]
    new: dict[str, str] = field(default_factory=dict)
    dropped: bool = False


class Journal:
    """The replacements under way in one output folder."""

    def __init__(self, filesystem: pafs.FileSystem, root: str, check: Callable[[], None] | None = None) -> None:
        """Point at an output folder; ``check`` raises when it is no longer this process's to write."""
        self._filesystem, self._root, self._check = filesystem, root, check
        self._folder = f"{root}/.journal"

    def shards(self, folder: str) -> list[str]:
        """Paths of the shards that hold a table's rows, each row once, sorted.

        A path may be gone by the time it is opened, when a replacement happens then; this list has changed by then too.
        """
        while True:
            before = self._names()
            listed = {posixpath.basename(info.path) for info in files(self._filesystem, folder)}
            if before != self._names():
                continue
            try:
                entries = [self._read(name) for name in before if name.endswith(".json")]
            except FileNotFoundError:
                continue
            seen = _seen(listed, [entry for entry in entries if f"{self._root}/{entry.folder}" == folder])
            if seen is not None:
                return [f"{folder}/{name}" for name in sorted(seen)]

    def replace(self, entry: Entry) -> None:
        """Commit a replacement and carry it out. The new shards lie in place under their hidden names."""
        name = f"{uuid.uuid4().hex}.json"
        write_bytes_atomically(
            self._filesystem, f"{self._folder}/{name}", json.dumps(asdict(entry)).encode(), self._check
        )
        self._carry_out(name, entry)

    def finish(self) -> int:
        """Carry out what a process that died has committed; returns how many replacements there were.

        Only the holder of the folder's lock may call it.
        """
        names = [name for name in self._names() if name.endswith(".json")]
        for name in names:
            self._carry_out(name, self._read(name))
        return len(names)

    def _carry_out(self, name: str, entry: Entry) -> None:
        folder = f"{self._root}/{entry.folder}"
        self._delete(f"{folder}/{old}" for old in entry.old)
        there = {posixpath.basename(info.path) for info in files(self._filesystem, folder)}
        for hidden, shard in entry.new.items():
            if hidden in there:
                self._patiently(folder, partial(move, self._filesystem, f"{folder}/{hidden}", f"{folder}/{shard}"))
        if entry.dropped:
            self._patiently(folder, partial(_remove_folder, self._filesystem, folder))
        # Without this mark, a reader that listed a folder during the whole of a replacement could not tell.
        marks = [mark for mark in self._names() if mark.startswith(_DONE)]
        mark = f"{self._folder}/{_DONE}{name.removesuffix('.json')}"
        write_bytes_atomically(self._filesystem, mark, b"", self._check)
        self._delete(f"{self._folder}/{gone}" for gone in (name, *marks))

    def _delete(self, paths: Iterable[str]) -> None:
        def one(path: str) -> None:
            self._patiently(path, partial(delete, self._filesystem, path))

        if is_local(self._filesystem):
            for path in paths:
                one(path)
            return
        with ThreadPoolExecutor(_DELETIONS_AT_ONCE) as pool:
            for _ in pool.map(one, paths):
                pass

    def _patiently(self, path: str, action: Callable[[], None]) -> None:
        patiently(not is_local(self._filesystem), f"cannot change {path}", action, self._check)

    def _names(self) -> list[str]:
        names = [posixpath.basename(info.path) for info in files(self._filesystem, self._folder)]
        return [name for name in names if not name.startswith(".")]

    def _read(self, name: str) -> Entry:
        path = f"{self._folder}/{name}"

        def read() -> bytes:
            with self._filesystem.open_input_stream(path) as stream:
                return stream.read()

        return Entry(**json.loads(patiently(not is_local(self._filesystem), f"cannot read {path}", read)))


def _seen(listed: set[str], entries: list[Entry]) -> set[str] | None:
    """The files that hold the rows, of those listed; None when the listing missed one that was being renamed."""
    seen = {name for name in listed if is_shard(name)}
    for entry in entries:
        seen -= set(entry.old)
        for hidden, shard in entry.new.items():
            if shard in listed:
                continue
            if hidden not in listed:
                return None
            seen.add(hidden)
    return seen


def _remove_folder(filesystem: pafs.FileSystem, folder: str) -> None:
    if filesystem.get_file_info(folder).type == pafs.FileType.Directory:
        filesystem.delete_dir(folder)
