"""One table of the store: a folder of immutable Parquet shards with a key."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from vemoclap_batch.store.filesystem import list_parquet, write_atomically
from vemoclap_batch.store.keyset import KeySet

KEY = ("video_id", "content_key")


def keys(table: pa.Table | pa.RecordBatch) -> pa.ChunkedArray | pa.Array:
    """One string per row that names its video and content; NUL parts the two, which neither may hold."""
    return pc.binary_join_element_wise(
        table["video_id"].cast(pa.string()), table["content_key"].cast(pa.string()), "\0"
    )


class Table:
    """A folder of ``part-*.parquet`` shards with one schema.

    Guarantees: a shard appears whole or not at all; :meth:`append` never adds a row whose key is there already, as
    long as one process writes at a time (the store's lock sees to that).
    """

    def __init__(self, filesystem: pafs.FileSystem, folder: str, schema: pa.Schema, unique: bool = True) -> None:
        """Point at a folder, which need not exist yet; ``unique`` says whether (video, content) is its key."""
        self.filesystem, self.folder, self.schema, self.unique = filesystem, folder, schema, unique
        self._there: KeySet | None = None

    def dataset(self) -> ds.Dataset:
        """All committed rows, read with this table's schema (a column that a shard lacks is null)."""
        paths = list_parquet(self.filesystem, self.folder)
        if not paths:
            return ds.dataset(self.schema.empty_table())
        return ds.dataset(paths, schema=self.schema, format="parquet", filesystem=self.filesystem)

    def read(self, columns: Sequence[str] | None = None, of: pa.Array | pa.ChunkedArray | None = None) -> pa.Table:
        """Rows in memory, optionally some columns only (the key's always) and only some videos.

        Those are named ``of`` their :func:`keys`.
        Peak memory is that of the rows returned and a few record batches: others are dropped as they are read.
        """
        dataset = self.dataset()
        wanted = [*dict.fromkeys([*KEY, *(columns or self.schema.names)])]
        if of is None:
            return dataset.to_table(columns=wanted)
        filter_ids = ds.field("video_id").isin(_ids(of))
        batches = []
        for batch in dataset.to_batches(columns=wanted, filter=filter_ids):
            if batch.num_rows:
                batches.append(batch.filter(pc.is_in(keys(batch), value_set=_flat(of))))
        schema = pa.schema([self.schema.field(name) for name in wanted])
        return pa.Table.from_batches(batches, schema=schema)

    def committed(self, among: pa.ChunkedArray | pa.Array) -> np.ndarray:
        """For each key of :func:`keys`, whether the table has a row: bool [n]."""
        if not list_parquet(self.filesystem, self.folder):
            return np.zeros(len(among), bool)
        have = keys(self.dataset().to_table(columns=list(KEY)))
        return pc.is_in(among, value_set=_flat(have)).to_numpy(zero_copy_only=False)

    def append(self, rows: pa.Table) -> int:
        """Commit rows as one shard, less those there already; returns how many were written."""
        rows = rows.select(self.schema.names).cast(self.schema)
        if self.unique:
            rows = self._new(rows)
        if rows.num_rows:
            path = os.path.join(self.folder, f"part-{uuid.uuid4().hex}.parquet")
            write_atomically(self.filesystem, path, rows.replace_schema_metadata(self.schema.metadata))
        return rows.num_rows

    def _new(self, rows: pa.Table) -> pa.Table:
        if self._there is None:
            self._there = KeySet(keys(self.dataset().to_table(columns=list(KEY))).to_pylist())
        return rows.filter(pa.array([self._there.add(key) for key in keys(rows).to_pylist()], pa.bool_()))


def _flat(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _ids(of: pa.Array | pa.ChunkedArray) -> pa.Array:
    return pc.list_element(pc.split_pattern(_flat(of), "\0"), 0)
