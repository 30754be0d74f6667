"""One table of the store: a folder of immutable Parquet shards with a key."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import repeat
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from vemoclap_batch.store.filesystem import list_parquet, write_atomically
from vemoclap_batch.store.journal import Journal
from vemoclap_batch.store.keyset import KeyFilter
from vemoclap_batch.store.patience import is_local, patiently

KEY = ("video_id", "content_key")
T = TypeVar("T")
# Shards are many and small: reading one is mostly waiting, far longer so on an object store.
_READERS, _REMOTE_READERS = 4, 32


def picked(rows: pa.Table, mask: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The rows that a mask picks; the table itself when it picks all, since a copy of long features is large."""
    return rows if pc.all(mask, skip_nulls=False).as_py() else rows.filter(mask)


def keys(table: pa.Table | pa.RecordBatch) -> pa.ChunkedArray | pa.Array:
    """One string per row that names its video and content; NUL parts the two, which neither may hold."""
    return pc.binary_join_element_wise(
        table["video_id"].cast(pa.string()), table["content_key"].cast(pa.string()), "\0"
    )


class Table:
    """A folder of ``part-*.parquet`` shards with one schema.

    Guarantees: a shard appears whole or not at all; :meth:`append` never adds a row whose key is there already, as
    long as one process writes at a time (the store's lock sees to that); reading sees every committed row once, also
    while another process compacts the table.
    """

    def __init__(
        self, filesystem: pafs.FileSystem, folder: str, schema: pa.Schema, unique: bool = True,
        journal: Journal | None = None, check: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """Point at a folder, which need not exist yet.

        Args:
            filesystem: where it is.
            folder: its path there.
            schema: of its rows.
            unique: whether (video, content) is its key.
            journal: of the output folder; without one, every shard that lies there counts.
            check: called before each commit, raises when the folder is no longer this process's to write.
        """
        self.filesystem, self.folder, self.schema, self.unique = filesystem, folder, schema, unique
        self._journal, self._check = journal, check
        self._there: KeyFilter | None = None

    def shards(self) -> list[str]:
        """Paths of the shards that hold the committed rows, sorted."""
        return self._journal.shards(self.folder) if self._journal else list_parquet(self.filesystem, self.folder)

    def dataset(self) -> ds.Dataset:
        """All committed rows, read with this table's schema (a column that a shard lacks is null)."""
        return self._dataset(self.shards())

    def read(self, columns: Sequence[str] | None = None, of: pa.Array | pa.ChunkedArray | None = None) -> pa.Table:
        """Rows in memory, optionally some columns only (the key's always) and only some videos.

        Those are named ``of`` their :func:`keys`.
        Peak memory is that of the rows returned, of the table's keys and of a few row groups.
        """
        wanted = [*dict.fromkeys([*KEY, *(columns or self.schema.names)])]
        if of is None:
            return self._steadily(lambda paths: self._dataset(paths).to_table(columns=wanted))
        return self._steadily(lambda paths: self._read_of(paths, wanted, of))

    def committed(self, among: pa.ChunkedArray | pa.Array) -> np.ndarray:
        """For each key of :func:`keys`, whether the table has a row: bool [n]."""
        have = self._keys()
        if not len(have):
            return np.zeros(len(among), bool)
        return pc.is_in(among, value_set=_flat(have)).to_numpy(zero_copy_only=False)

    def append(self, rows: pa.Table) -> int:
        """Commit rows as one shard, less those there already; returns how many were written.

        Raises:
            RunBroken: the folder cannot be written, or is another run's by now; nothing was written.
        """
        rows = rows.select(self.schema.names).cast(self.schema)
        if self.unique:
            rows = self._new(rows)
        if rows.num_rows:
            path = os.path.join(self.folder, f"part-{uuid.uuid4().hex}.parquet")
            rows = rows.replace_schema_metadata(self.schema.metadata)
            write_atomically(self.filesystem, path, rows, self._check)
            if self._there is not None:
                self._there.add(keys(rows).to_pylist())
        return rows.num_rows

    def _new(self, rows: pa.Table) -> pa.Table:
        if self._there is None:
            self._there = KeyFilter(self._keys().to_pylist())
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
        return keys(self._steadily(lambda paths: pa.concat_tables(self._parts(paths, list(KEY)) or [self._none(KEY)])))

    def _read_of(self, paths: list[str], wanted: list[str], of: pa.Array | pa.ChunkedArray) -> pa.Table:
        """The keys first, then the other columns of those row groups only that hold a wanted row."""
        parts = self._parts(paths, list(KEY))
        if not parts:
            return self._none(wanted)
        mask = pc.is_in(keys(pa.concat_tables(parts)), value_set=_flat(of)).to_numpy(zero_copy_only=False)
        masks = np.split(mask, np.cumsum([part.num_rows for part in parts])[:-1])
        hits = [(path, hit) for path, hit in zip(paths, masks, strict=True) if hit.any()]
        if not hits:
            return self._none(wanted)
        return pa.concat_tables(self._parts([path for path, _ in hits], wanted, [hit for _, hit in hits]))

    def _parts(self, paths: list[str], columns: list[str], masks: list[np.ndarray] | None = None) -> list[pa.Table]:
        """Columns of each shard, of the rows that its mask picks."""
        with ThreadPoolExecutor(_READERS if is_local(self.filesystem) else _REMOTE_READERS) as pool:
            return list(pool.map(lambda path, mask: self._part(path, columns, mask), paths, masks or repeat(None)))

    def _part(self, path: str, columns: list[str], mask: np.ndarray | None) -> pa.Table:
        with self.filesystem.open_input_file(path) as stream:
            file = pq.ParquetFile(stream, pre_buffer=True)
            there = [name for name in columns if name in file.schema_arrow.names]
            if mask is None:
                return self._complete(file.read(there, use_threads=False), columns)
            groups, at = [self._none(columns)], 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                picked = mask[at : at + rows]
                if picked.any():
                    found = file.read_row_group(group, there, use_threads=False).filter(pa.array(picked))
                    groups.append(self._complete(found, columns))
                at += rows
        return pa.concat_tables(groups)

    def _complete(self, found: pa.Table, columns: list[str]) -> pa.Table:
        """The columns in this table's types; those that the shard lacks are null."""
        arrays = [
            found[name].cast(self.schema.field(name).type)
            if name in found.column_names
            else pa.chunked_array([pa.nulls(found.num_rows, self.schema.field(name).type)])
            for name in columns
        ]
        return pa.table(arrays, schema=self._schema(columns))

    def _none(self, columns: Sequence[str]) -> pa.Table:
        return self._schema(columns).empty_table()

    def _schema(self, columns: Sequence[str]) -> pa.Schema:
        return pa.schema([self.schema.field(name) for name in columns])

    def _dataset(self, paths: list[str]) -> ds.Dataset:
        if not paths:
            return ds.dataset(self.schema.empty_table())
        return ds.dataset(paths, schema=self.schema, format="parquet", filesystem=self.filesystem)

    def _steadily(self, read: Callable[[list[str]], T]) -> T:
        """Read the shards that there are, and once more if they were replaced by others meanwhile."""
        while True:
            paths = self.shards()
            try:
                return patiently(not is_local(self.filesystem), f"cannot read {self.folder}", partial(read, paths))
            except FileNotFoundError:
                if paths == self.shards():
                    raise


def _flat(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
