"""One table of an output folder: a Delta table whose data files are plain Parquet.

A commit is one file of the table's log, put there only if nobody else did (a rename locally, a conditional upload on an
object store). It counts from then on, whole or not at all. A process that is killed before that leaves a data file that
no commit knows; readers of Delta never see it, and the next run deletes it before it begins.
"""

from __future__ import annotations

import logging
import posixpath
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import (
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    PostCommitHookProperties,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import DeltaError, TableNotFoundError

from vemoclap_batch.errors import ConfigError, RunBroken
from vemoclap_batch.store.filesystem import delete, files
from vemoclap_batch.store.keyset import KeyFilter
from vemoclap_batch.store.location import Location
from vemoclap_batch.store.retry import reason, retry

log = logging.getLogger(__name__)
KEY = ("video_id", "content_key")
#: How Delta says that something failed.
DELTA_ERRORS = (OSError, DeltaError)
T = TypeVar("T")
#: A DeltaTable object gets slower with each commit; opening it anew reads the log's last checkpoint and what follows.
_REOPEN_AFTER = 50
_CHECKPOINT_EVERY = "50"
#: With #1, what was still being written.
_DATA_FILE = re.compile(r"/part-[^/]*\.parquet(#\d+)?$")
#: Row groups of a file, which readers that want few rows read whole: so many bytes, and at most so many rows.
_ROW_GROUP_BYTES, _ROW_GROUP_ROWS = 16 * 2**20, 100_000
#: A commit is one file, and what is committed is never larger.
_FILE_BYTES = 2**40
# Reading a small file is mostly waiting, far longer so on an object store.
_READERS, _REMOTE_READERS = 4, 32


@dataclass(frozen=True)
class TableSize:
    """How large a table is; ``shards`` are its data files."""

    table: str
    rows: int
    shards: int
    bytes: int

    def counts(self) -> dict[str, int]:
        """All but the name."""
        return {"rows": self.rows, "shards": self.shards, "bytes": self.bytes}


def picked(rows: pa.Table, mask: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The rows that a mask picks; the table itself when it picks all, since a copy of long features is large."""
    return rows if pc.all(mask, skip_nulls=False).as_py() else rows.filter(mask)


def keys(table: pa.Table | pa.RecordBatch) -> pa.ChunkedArray | pa.Array:
    """One string per row that names its video and content; NUL parts the two, which neither may hold."""
    return pc.binary_join_element_wise(
        table["video_id"].cast(pa.string()), table["content_key"].cast(pa.string()), "\0"
    )


def writer_properties(schema: pa.Schema, rows: int, size: int) -> WriterProperties:
    """How data files are encoded: zstd, and dictionaries for texts alone.

    Numbers of features hardly ever repeat: a dictionary of them takes more disk than they do and more time.

    Args:
        schema: of the table.
        rows: that are written.
        size: of these in bytes.
    """
    row_group_rows = max(1, min(_ROW_GROUP_ROWS, _ROW_GROUP_BYTES * rows // max(size, 1)))
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    return WriterProperties(
        compression="ZSTD", max_row_group_size=row_group_rows,
        default_column_properties=ColumnProperties(dictionary_enabled=False),
        column_properties={name: ColumnProperties(dictionary_enabled=True) for name in texts},
    )  # fmt: skip


class Table:
    """Rows with one schema and, unless told otherwise, (video, content) as their key.

    Guarantees: rows of one :meth:`append` appear together or not at all; it never adds a row whose key is there
    already, as long as one process writes at a time (the store's lock sees to that); reading sees every committed row
    once, also while another process compacts the table.
    """

    def __init__(
        self, location: Location, name: str, schema: pa.Schema, unique: bool = True,
        check: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """Point at a table, which need not exist yet.

        Args:
            location: of its folder.
            name: of the folder below the output folder, for people.
            schema: of its rows; columns that the table lacks are added to it by the first commit.
            unique: whether (video, content) is its key.
            check: called before each commit, raises when the folder is no longer this process's to write.
        """
        self.name, self.schema, self.unique, self._location, self._check = name, schema, unique, location, check
        self.filesystem, self.folder = location.filesystem, location.path
        self.uri = location.uri
        self._there: KeyFilter | None = None
        self._delta: DeltaTable | None = None
        self._writer, self._commits, self._tries = uuid.uuid4().hex, 0, 0

    @property
    def options(self) -> dict[str, str]:
        """Delta's storage options."""
        return self._location.options

    def shards(self) -> list[str]:
        """Paths of the data files that hold the committed rows, sorted."""
        table = self.open()
        return [] if table is None else _paths(self.folder, table)

    def dataset(self) -> ds.Dataset:
        """All committed rows, read with this table's schema (a column that a data file lacks is null)."""
        return self._dataset(self.shards())

    def read(self, columns: Sequence[str] | None = None, of: pa.Array | pa.ChunkedArray | None = None) -> pa.Table:
        """Rows in memory, optionally some columns only (the key's always) and only some videos.

        Those are named ``of`` their :func:`keys`.
        Peak memory is that of the rows returned, of the table's keys and of a few row groups.
        """
        wanted = [*dict.fromkeys([*KEY, *(columns or self.schema.names)])]
        if of is None:
            return self._steadily(lambda paths: self._scan(paths, wanted))
        return self._steadily(lambda paths: self._read_of(paths, wanted, of))

    def committed(self, among: pa.ChunkedArray | pa.Array) -> np.ndarray:
        """For each key of :func:`keys`, whether the table has a row: bool [n]."""
        have = self._keys()
        if not len(have):
            return np.zeros(len(among), bool)
        return pc.is_in(among, value_set=_flat(have)).to_numpy(zero_copy_only=False)

    def append(self, rows: pa.Table) -> int:
        """Commit rows, less those there already; returns how many were written.

        Raises:
            RunBroken: the folder cannot be written, or is another run's by now; nothing was written.
        """
        rows = rows.select(self.schema.names).cast(self.schema)
        if self.unique:
            rows = self._new(rows)
        if rows.num_rows:
            self._commits += 1
            # Should a commit's answer be lost, its number in the log tells that it was made.
            commit = partial(self._commit, rows, Transaction(self._writer, self._commits))
            self._tries = 0
            try:
                self.change("write to", commit)
            except RunBroken:
                if not self._location.remote:  # There, the commit may still be on its way.
                    with suppress(RunBroken):
                        self.clean()
                raise
            if self._tries > 1:
                self.clean()
            if self._there is not None:
                self._there.add(keys(rows).to_pylist())
        return rows.num_rows

    def _commit(self, rows: pa.Table, transaction: Transaction) -> None:
        kept, self._delta = self._delta, None
        if kept is not None and self._commits % _REOPEN_AFTER:
            with suppress(*DELTA_ERRORS):  # It may be older than a compaction.
                return self._write(kept, rows, transaction)
            if self._check:
                self._check()
        there = self.open()
        if there is None:
            # Before the first data file: files without a log are those of version 0.1.
            there = DeltaTable.create(
                self.uri, self.schema, storage_options=self.options,
                configuration={"delta.checkpointInterval": _CHECKPOINT_EVERY},
            )  # fmt: skip
        return self._write(there, rows, transaction)

    def _write(self, table: DeltaTable, rows: pa.Table, transaction: Transaction) -> None:
        self._tries += 1
        if table.transaction_version(transaction.app_id) != transaction.version:
            # A conflict means that somebody else wrote here: it fails, and who holds the folder is looked at again.
            write_deltalake(
                table, rows, mode="append", schema_mode="merge", target_file_size=_FILE_BYTES,
                writer_properties=writer_properties(self.schema, rows.num_rows, rows.nbytes),
                commit_properties=CommitProperties(max_commit_retries=0, app_transactions=[transaction]),
                # Looking for expired files of the log takes as long as the commit; each compaction does that.
                post_commithook_properties=PostCommitHookProperties(cleanup_expired_logs=False),
            )  # fmt: skip
        self._delta = table

    def clean(self) -> None:
        """Delete the data files that no commit knows, or none any more. Only who holds the folder may call it.

        Rows whose file somebody deleted leave the table, so that they are found missing and made again.
        """
        known, there = set(self.shards()), self._data_files()
        self.delete(path for path in there if path not in known)
        if (delta := self.open()) and not known.issubset(there):
            log.warning("%s: %d of its files are gone", self.folder, len(known.difference(there)))
            self.change("repair", delta.repair)

    def delete(self, paths: Iterable[str]) -> None:
        """Delete some of its files."""
        delete(self.filesystem, paths, self._check)

    def change(self, what: str, action: Callable[[], object]) -> None:
        """Do something to the table that may be repeated, while this run holds the folder.

        Raises:
            RunBroken: it failed.
        """
        try:
            retry(self._location.remote, f"cannot {what} {self.folder}", action, self._check, DELTA_ERRORS)
        except FileNotFoundError as error:
            raise RunBroken(f"cannot {what} {self.folder}: {reason(error)}") from error

    def size(self) -> TableSize:
        """How large it is, as its log says."""
        table = self.open()
        if table is None:
            return TableSize(self.name, 0, 0, 0)
        added = pa.table(table.get_add_actions(flatten=True))
        sizes = added.select(["num_records", "size_bytes"]).to_pydict()
        return TableSize(self.name, sum(sizes["num_records"]), added.num_rows, sum(sizes["size_bytes"]))

    def open(self) -> DeltaTable | None:
        """The Delta table as it is now; None when there is none yet.

        Raises:
            ConfigError: the folder holds a table of an older version.
            RunBroken: it cannot be read.
        """
        table = self._retry(self._load)
        if table is None and self.is_old():
            out = self.folder.removesuffix(f"/{self.name}")
            raise ConfigError([f"{self.folder} was written by version 0.1; run: vemoclap-batch upgrade {out}"])
        return table

    def is_old(self) -> bool:
        """Whether the folder holds a table of version 0.1, which had data files of such names and no log."""
        return any(path.endswith(".parquet") for path in self._data_files()) and self._retry(self._load) is None

    def _load(self) -> DeltaTable | None:
        try:
            return DeltaTable(self.uri, storage_options=self.options)
        except TableNotFoundError:
            return None

    def _data_files(self) -> list[str]:
        return [info.path for info in files(self.filesystem, self.folder) if _DATA_FILE.search(info.path)]

    def _new(self, rows: pa.Table) -> pa.Table:
        if self._there is None:
            # Chunk by chunk: as Python's strings, millions of them take gigabytes.
            self._there = KeyFilter(key for chunk in self._keys().chunks for key in chunk.to_pylist())
        found = keys(rows).to_pylist()
        likely = self._there.may_hold(found)
        there: set[str] = set()
        if likely.any():
            # Hashes may be equal by chance, and a row must not be lost to that: the table itself decides.
            suspects = pa.array([key for key, is_likely in zip(found, likely, strict=True) if is_likely])
            there = set(suspects.filter(pa.array(self.committed(suspects))).to_pylist())
        new = []
        for key in found:
            new.append(key not in there)
            there.add(key)
        return picked(rows, pa.array(new, pa.bool_()))

    def _keys(self) -> pa.ChunkedArray:
        return keys(self._steadily(lambda paths: self._scan(paths, KEY)))

    def _read_of(self, paths: list[str], wanted: list[str], of: pa.Array | pa.ChunkedArray) -> pa.Table:
        """The keys first, then the other columns of those row groups only that hold a wanted row."""
        found = self._scan(paths, [*KEY, "__fragment_index"]) if paths else None
        hits = found and found.filter(pc.is_in(keys(found), value_set=_flat(of)))
        if not hits:
            return pa.schema([self.schema.field(name) for name in wanted]).empty_table()
        numbers, firsts = np.unique(hits["__fragment_index"].to_numpy(), return_index=True)
        fragments = list(self._dataset(paths).get_fragments())
        with ThreadPoolExecutor(self._readers) as pool:
            parts = pool.map(
                lambda number, first, last: self._rows_of(fragments[number], wanted, keys(hits[first:last])),
                numbers, firsts, [*firsts[1:], len(hits)],
            )  # fmt: skip
            return pa.concat_tables(parts)

    def _rows_of(self, fragment: ds.ParquetFileFragment, wanted: list[str], of: pa.ChunkedArray) -> pa.Table:
        parts = []
        for group in fragment.split_by_row_group():
            mask = pc.is_in(keys(group.to_table(self.schema, columns=list(KEY))), value_set=_flat(of))
            if pc.any(mask).as_py():
                parts.append(group.to_table(self.schema, columns=wanted).filter(mask))
        return pa.concat_tables(parts)

    def _scan(self, paths: list[str], columns: Sequence[str]) -> pa.Table:
        return self._dataset(paths).to_table(columns=list(columns), fragment_readahead=self._readers)

    def _dataset(self, paths: list[str]) -> ds.Dataset:
        if not paths:
            return ds.dataset(self.schema.empty_table())
        return ds.dataset(paths, schema=self.schema, format="parquet", filesystem=self.filesystem)

    @property
    def _readers(self) -> int:
        return _REMOTE_READERS if self._location.remote else _READERS

    def _steadily(self, read: Callable[[list[str]], T]) -> T:
        """Read the data files that there are, and once more if they were replaced by others meanwhile."""
        while True:
            paths = self.shards()
            try:
                return self._retry(partial(read, paths))
            except FileNotFoundError as error:
                if paths == self.shards():
                    raise RunBroken(f"cannot read {self.folder}: {reason(error)}") from error

    def _retry(self, read: Callable[[], T]) -> T:
        return retry(self._location.remote, f"cannot read {self.folder}", read, errors=DELTA_ERRORS)


def _paths(folder: str, table: DeltaTable) -> list[str]:
    return sorted(f"{folder}/{posixpath.basename(uri)}" for uri in table.file_uris())


def _flat(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
