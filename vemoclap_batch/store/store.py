"""OUT: the tables of one output folder, on any filesystem."""

from __future__ import annotations

import datetime
import json
import posixpath
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from vemoclap_batch.store import schemas
from vemoclap_batch.store.filesystem import files, is_shard, resolve, write_bytes_atomically
from vemoclap_batch.store.journal import Journal
from vemoclap_batch.store.lock import Lock, writer
from vemoclap_batch.store.patience import is_local, patiently
from vemoclap_batch.store.table import KEY, Table

T = TypeVar("T")
#: Folders of tables.
TABLES = ("videos", "errors", "features", "predictions")


def new_run_id() -> str:
    """An id that sorts by time: the UTC time to the microsecond and a few random letters."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(3)}"


class Store:
    """The layout of an output folder: which table lies where, and what made it."""

    def __init__(self, address: str) -> None:
        """Open an output folder, which need not exist yet.

        Args:
            address: a local path or a URI that pyarrow or fsspec knows.
        """
        self.address = address
        self.filesystem, self.root = resolve(address)
        self.root = self.root.rstrip("/")
        self.journal = Journal(self.filesystem, self.root, self.check)
        self._lock: Lock | None = None

    @contextmanager
    def writing(self, run_id: str, wait: bool = True) -> Iterator[Lock]:
        """Hold the folder for writing, as :func:`~vemoclap_batch.store.lock.writer` does, and see to it from then on.

        What a process that died left half replaced is finished first. Every commit through this object checks that the
        folder is still held.

        Raises:
            Busy: another run holds it, and ``wait`` is False.
            RunBroken: the folder cannot be made or written.
        """
        with writer(self.address, run_id, wait) as lock:
            self._lock = lock
            try:
                self.journal.finish()
                yield lock
            finally:
                self._lock = None

    def check(self) -> None:
        """See that the folder is still held, if it was taken with :meth:`writing`.

        Raises:
            LockLost: it is another run's by now.
        """
        if self._lock is not None:
            self._lock.check()

    def exists(self) -> bool:
        """Whether the folder is there.

        Raises:
            RunBroken: as any reading here, when the store was out of reach for too long.
        """
        found = self._patiently("look for", "", lambda: self.filesystem.get_file_info(self.root))
        return found.type == pafs.FileType.Directory

    def videos(self) -> Table:
        """What decoding found, one row a video."""
        return self._table("videos", schemas.VIDEOS)

    def errors(self) -> Table:
        """The log of failures."""
        return self._table("errors", schemas.ERRORS, unique=False)

    def features(self, extractor: str, fingerprint: str, schema: pa.Schema) -> Table:
        """One extractor's table for one fingerprint."""
        return self._table(f"features/{extractor}/{fingerprint}", schema)

    def predictions(self, fingerprint: str, labels: Sequence[str]) -> Table:
        """The predictions of one model on one choice of features and windows."""
        return self._table(f"predictions/{fingerprint}", schemas.predictions(labels))

    def _table(self, folder: str, schema: pa.Schema, unique: bool = True) -> Table:
        return Table(self.filesystem, f"{self.root}/{folder}", schema, unique, self.journal, self.check)

    def shard_files(self) -> dict[str, list[pafs.FileInfo]]:
        """The shards of every table, by the table's folder below the root: ``features/clip/0123456789ab`` and so on."""
        found: dict[str, list[pafs.FileInfo]] = {}
        for name in TABLES:
            for info in files(self.filesystem, f"{self.root}/{name}", recursive=True):
                if is_shard(info.path):
                    folder = posixpath.dirname(info.path).removeprefix(f"{self.root}/")
                    found.setdefault(folder, []).append(info)
        return found

    def describe_features(self, extractor: str, fingerprint: str, description: Mapping[str, Any]) -> None:
        """Say beside a features table what made it: its space, width and identity."""
        self.write_json(f"features/{extractor}/{fingerprint}/extractor.json", description)

    def fingerprints(self, extractor: str) -> dict[str, dict[str, Any]]:
        """The feature tables there are of an extractor: fingerprint → what made it."""
        folder = f"features/{extractor}"
        found = {}
        for name in sorted(info.base_name for info in self._list(folder) if info.type == pafs.FileType.Directory):
            description = self.read_json(f"{folder}/{name}/extractor.json")
            if description is not None:
                found[name] = description
        return found

    def write_json(self, path: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file below the root, whole or not at all."""
        text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
        write_bytes_atomically(self.filesystem, f"{self.root}/{path}", text.encode(), self.check)

    def read_json(self, path: str) -> dict[str, Any] | None:
        """Read a JSON file below the root; None when there is none."""
        full = f"{self.root}/{path}"

        def read() -> bytes | None:
            if self.filesystem.get_file_info(full).type != pafs.FileType.File:
                return None
            with self.filesystem.open_input_stream(full) as stream:
                return stream.read()

        content = self._patiently("read", path, read)
        return None if content is None else json.loads(content)

    def runs(self) -> list[dict[str, Any]]:
        """The summaries of all runs, oldest first."""
        names = sorted(info.base_name for info in self._list("runs") if re.fullmatch(r"[\w-]+\.json", info.base_name))
        return [run for name in names if (run := self.read_json(f"runs/{name}")) is not None]

    def current_videos(self, columns: Sequence[str] = ("uri", "duration_s")) -> pa.Table:
        """One row per video id: the content seen by the latest run (run ids sort by time)."""
        return latest(self.videos().read(columns=[*dict.fromkeys([*KEY, *columns, "run_id"])]))

    def known_videos(self) -> pa.Table:
        """One row per video id that any run has seen, decodable or not: its keys, ``uri`` and ``run_id``."""
        parts = [table.read(columns=["uri", "run_id"]) for table in (self.videos(), self.errors())]
        return latest(pa.concat_tables(parts))

    def _list(self, folder: str) -> list[pafs.FileInfo]:
        selector = pafs.FileSelector(f"{self.root}/{folder}", allow_not_found=True)
        return self._patiently("list", folder, lambda: self.filesystem.get_file_info(selector))

    def _patiently(self, what: str, path: str, action: Callable[[], T]) -> T:
        full = f"{self.root}/{path}".rstrip("/")
        return patiently(not is_local(self.filesystem), f"cannot {what} {full}", action)


def latest(table: pa.Table) -> pa.Table:
    """Of the rows of each video id, the one of the latest run."""
    order = pc.sort_indices(table, sort_keys=[("video_id", "ascending"), ("run_id", "descending")])
    table = table.take(order)
    ids = table["video_id"].combine_chunks()
    if len(ids) < 2:
        return table
    first = pc.fill_null(pc.not_equal(ids[1:], ids[:-1]), True)
    return table.filter(pa.concat_arrays([pa.array([True]), first]))
