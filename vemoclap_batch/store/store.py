"""OUT: the tables of one output folder, on any filesystem."""

from __future__ import annotations

import datetime
import json
import logging
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from vemoclap_batch.store import schemas
from vemoclap_batch.store.filesystem import listed, write_bytes_atomically
from vemoclap_batch.store.folder import Folder
from vemoclap_batch.store.location import location
from vemoclap_batch.store.lock import Lock, writer
from vemoclap_batch.store.maintenance import Compacted, compact, drop, finish_dropping
from vemoclap_batch.store.table import KEY, Table, TableSize
from vemoclap_batch.store.upgrade import upgrade

log = logging.getLogger(__name__)
_TABLES_AT_ONCE = 8


def new_run_id() -> str:
    """An id that sorts by time: the UTC time to the microsecond and a few random letters."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(3)}"


class Store:
    """The layout of an output folder: which table lies where, and what made it."""

    def __init__(self, address: str) -> None:
        """Open an output folder, which need not exist yet.

        Args:
            address: a local path, or an ``s3://``, ``gs://`` or ``abfs://`` address.

        Raises:
            ConfigError: no tables can be written there.
        """
        self.address = address
        self._location = location(address)
        self.filesystem, self.root = self._location.filesystem, self._location.path
        self._folder = Folder(address)
        self._lock: Lock | None = None
        #: How many tables of version 0.1 :meth:`writing` has converted.
        self.upgraded = 0

    @contextmanager
    def writing(self, run_id: str, wait: bool = True) -> Iterator[Lock]:
        """Hold the folder for writing, as :func:`~vemoclap_batch.store.lock.writer` does, and see to it from then on.

        First, tables of version 0.1 are converted, and what a process that died left is deleted: data files that no
        commit knows, and the rest of tables that were to go. Every commit through this object checks that the folder
        is still held.

        Raises:
            Busy: another run holds it, and ``wait`` is False.
            ConfigError: there is a file of that name, or of a folder above it.
            RunBroken: the folder cannot be made or written.
        """
        with writer(self.address, run_id, wait) as lock:
            self._lock = lock
            try:
                tables = [self.table(name) for name in self._names()]
                self.upgraded = upgrade(self._location, tables, self.check)
                if self.upgraded:
                    log.warning("%s: %d tables of version 0.1 became Delta tables", self.address, self.upgraded)
                with ThreadPoolExecutor(_TABLES_AT_ONCE) as pool:
                    for _ in pool.map(_clean, tables):
                        pass
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
        return self._folder.exists()

    def videos(self) -> Table:
        """What decoding found, one row a video."""
        return self._table("videos", schemas.VIDEOS)

    def errors(self) -> Table:
        """The log of failures."""
        return self._table("errors", schemas.ERRORS, unique=False)

    def features(self, extractor: str, fingerprint: str, schema: pa.Schema) -> Table:
        """One extractor's table for one fingerprint."""
        return self._table(f"features/{extractor}/{fingerprint}", schema)

    def stored_features(self, extractor: str, fingerprint: str) -> Table | None:
        """One extractor's table with the columns that its log names; None while it has no rows."""
        delta = self.table(f"features/{extractor}/{fingerprint}").open()
        if delta is None or not delta.file_uris():
            return None
        return self.features(extractor, fingerprint, pa.schema(delta.schema().to_arrow()))

    def predictions(self, fingerprint: str, labels: Sequence[str]) -> Table:
        """The predictions of one model on one choice of features and windows."""
        return self._table(f"predictions/{fingerprint}", schemas.predictions(labels))

    def explanations(self, fingerprint: str) -> Table:
        """Why the predictions of that fingerprint are what they are."""
        return self._table(f"explanations/{fingerprint}", schemas.EXPLANATIONS)

    def _table(self, name: str, schema: pa.Schema, unique: bool = True) -> Table:
        return Table(self._location / name, name, schema, unique, self.check)

    def table(self, name: str) -> Table:
        """Any table by its folder below the root: ``features/clip/0123456789ab`` and so on; reads the keys alone."""
        return self._table(name, pa.schema([(column, pa.string()) for column in KEY]))

    def sizes(self) -> list[TableSize]:
        """How large each table is that has rows; may be called while another process replaces data files."""
        return [size for name in self._names() if (size := self.table(name).size()).shards]

    def compact(self) -> list[Compacted]:
        """Merge the small data files of every table; see :func:`~vemoclap_batch.store.maintenance.compact`."""
        return [compact(self.table(size.table)) for size in self.sizes()]

    def drop(self, name: str) -> None:
        """Remove a table, all or nothing. The caller holds the folder."""
        drop(self.table(name))

    def extractors(self) -> list[str]:
        """The extractors that have a table of features."""
        return self._folders("features")

    def _names(self) -> list[str]:
        """The folders below the root in which tables may lie."""
        features = [f"features/{extractor}" for extractor in self.extractors()]
        folders = ["explanations", *features, "predictions"]
        nested = [f"{folder}/{name}" for folder in folders for name in self._folders(folder)]
        return ["errors", *nested, "videos"]

    def describe_features(self, extractor: str, fingerprint: str, description: Mapping[str, Any]) -> None:
        """Say beside a features table what made it: its space, width and identity."""
        self.write_json(f"features/{extractor}/{fingerprint}/extractor.json", description)

    def fingerprints(self, extractor: str) -> dict[str, dict[str, Any]]:
        """The feature tables there are of an extractor: fingerprint → what made it."""
        folder = f"features/{extractor}"
        described = {name: self.read_json(f"{folder}/{name}/extractor.json") for name in self._folders(folder)}
        return {name: description for name, description in described.items() if description is not None}

    def write_json(self, path: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file below the root, whole or not at all."""
        text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
        write_bytes_atomically(self.filesystem, f"{self.root}/{path}", text.encode(), self.check)

    def read_json(self, path: str) -> dict[str, Any] | None:
        """Read a JSON file below the root; None when there is none."""
        return json.loads(self._folder.read(path)) if self._folder.has(path) else None

    def runs(self, newest: int = 0) -> list[dict[str, Any]]:
        """The summaries of all runs, or of so many of the newest, oldest first."""
        infos = listed(self.filesystem, f"{self.root}/runs")
        names = sorted(info.base_name for info in infos if re.fullmatch(r"[\w-]+\.json", info.base_name))
        return [run for name in names[-newest:] if (run := self.read_json(f"runs/{name}")) is not None]

    def current_videos(self, columns: Sequence[str] = ("uri", "duration_s")) -> pa.Table:
        """One row per video id: the content seen by the latest run (run ids sort by time)."""
        return latest(self.videos().read(columns=[*dict.fromkeys([*KEY, *columns, "run_id"])]))

    def known_videos(self) -> pa.Table:
        """One row per video id that any run has seen, decodable or not: its keys, ``uri`` and ``run_id``."""
        parts = [table.read(columns=["uri", "run_id"]) for table in (self.videos(), self.errors())]
        return latest(pa.concat_tables(parts))

    def _folders(self, name: str) -> list[str]:
        infos = listed(self.filesystem, f"{self.root}/{name}")
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)


def _clean(table: Table) -> None:
    table.clean()
    finish_dropping(table)


def latest(table: pa.Table) -> pa.Table:
    """Of the rows of each video id, the one of the latest run."""
    order = pc.sort_indices(table, sort_keys=[("video_id", "ascending"), ("run_id", "descending")])
    table = table.take(order)
    ids = table["video_id"].combine_chunks()
    if len(ids) < 2:
        return table
    first = pc.fill_null(pc.not_equal(ids[1:], ids[:-1]), True)
    return table.filter(pa.concat_arrays([pa.array([True]), first]))
