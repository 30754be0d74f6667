"""Few large shards in place of many small ones, and tables that go."""

from __future__ import annotations

import os
import posixpath
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from vemoclap_batch.errors import RunBroken
from vemoclap_batch.store.filesystem import delete, files
from vemoclap_batch.store.journal import Entry
from vemoclap_batch.store.parquet import encoding
from vemoclap_batch.store.patience import is_local, patiently
from vemoclap_batch.store.store import Store

TARGET_BYTES = 128 * 2**20
TARGET_ROWS = 100_000
#: A table in memory that is written as one row group, which readers that want few rows read whole.
_ROW_GROUP_BYTES = 32 * 2**20
_READERS = 8
_DESCRIPTIONS = ("extractor.json", "model.json")


@dataclass(frozen=True)
class Compacted:
    """What became of one table."""

    table: str
    shards_before: int
    shards_after: int
    rows: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class TableSize:
    """How large a table is."""

    table: str
    rows: int
    shards: int
    bytes: int

    def counts(self) -> dict[str, int]:
        """All but the name."""
        return {"rows": self.rows, "shards": self.shards, "bytes": self.bytes}


@dataclass(frozen=True)
class _Shard:
    path: str
    size: int
    rows: int
    schema: pa.Schema


def compact(store: Store) -> list[Compacted]:
    """Merge the small shards of every table into shards of about 128 MB or 100,000 rows, whichever comes first.

    The caller holds the store (:meth:`Store.writing`). Each merge is committed by itself
    (:mod:`vemoclap_batch.store.journal`); a process that dies in between leaves every row in its table once.
    Memory: the rows of one row group (about 32 MB) and of one shard.
    """
    return [_compact_table(store, folder, infos) for folder, infos in store.shard_files().items()]


def drop(store: Store, folder: str) -> None:
    """Remove a table, all or nothing. The caller holds the store.

    Args:
        store: the output folder.
        folder: of the table, below the root.
    """
    names = [posixpath.basename(info.path) for info in files(store.filesystem, f"{store.root}/{folder}")]
    # What describes a table goes first: without it nobody takes the table for whole.
    order = sorted(names, key=lambda name: name not in _DESCRIPTIONS)
    store.journal.replace(Entry(folder, order, dropped=True))


def table_sizes(store: Store) -> list[TableSize]:
    """How large every table is, by its folder; may be called while another process replaces shards."""
    while True:
        there = store.shard_files()
        try:
            return [_table_size(store, folder, infos) for folder, infos in there.items()]
        except FileNotFoundError:
            if there == store.shard_files():
                raise


def _table_size(store: Store, folder: str, infos: Sequence[pafs.FileInfo]) -> TableSize:
    rows = sum(shard.rows for shard in _inspect(store.filesystem, infos))
    return TableSize(folder, rows, len(infos), sum(info.size for info in infos))


def _compact_table(store: Store, folder: str, infos: Sequence[pafs.FileInfo]) -> Compacted:
    shards = _inspect(store.filesystem, infos)
    for group in _groups(shards):
        hidden, name = f".compacted-{uuid.uuid4().hex}.parquet", f"part-{uuid.uuid4().hex}.parquet"
        path = f"{store.root}/{folder}/{hidden}"
        remote = not is_local(store.filesystem)
        patiently(remote, f"cannot write to {folder}", partial(_merge, store.filesystem, group, path), store.check)
        store.journal.replace(Entry(folder, [posixpath.basename(shard.path) for shard in group], {hidden: name}))
    after = files(store.filesystem, f"{store.root}/{folder}")
    left = [info for info in after if posixpath.basename(info.path).startswith("part-")]
    return Compacted(
        table=folder,
        shards_before=len(shards),
        shards_after=len(left),
        rows=sum(shard.rows for shard in shards),
        bytes_before=sum(shard.size for shard in shards),
        bytes_after=sum(info.size for info in left),
    )


def _inspect(filesystem: pafs.FileSystem, infos: Iterable[pafs.FileInfo]) -> list[_Shard]:
    def one(info: pafs.FileInfo) -> _Shard:
        with filesystem.open_input_file(info.path) as stream:
            file = pq.ParquetFile(stream)
            return _Shard(info.path, info.size, file.metadata.num_rows, file.schema_arrow)

    def patient(info: pafs.FileInfo) -> _Shard:
        return patiently(not is_local(filesystem), f"cannot read {info.path}", partial(one, info))

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(patient, infos))


def _groups(shards: Iterable[_Shard]) -> list[list[_Shard]]:
    """Small shards of one schema that make a large one together; one that stays alone is left as it is."""
    by_schema: list[tuple[pa.Schema, list[_Shard]]] = []
    for shard in shards:
        if shard.size >= TARGET_BYTES / 2 or shard.rows >= TARGET_ROWS / 2:
            continue
        like = next((group for schema, group in by_schema if schema.equals(shard.schema, check_metadata=True)), None)
        if like is None:
            by_schema.append((shard.schema, [shard]))
        else:
            like.append(shard)
    return [group for _, alike in by_schema for group in _filled(alike) if len(group) > 1]


def _filled(shards: Iterable[_Shard]) -> list[list[_Shard]]:
    groups: list[list[_Shard]] = [[]]
    size = rows = 0
    for shard in shards:
        if groups[-1] and (size + shard.size > TARGET_BYTES or rows + shard.rows > TARGET_ROWS):
            groups.append([])
            size = rows = 0
        groups[-1].append(shard)
        size, rows = size + shard.size, rows + shard.rows
    return groups


def _merge(filesystem: pafs.FileSystem, group: Sequence[_Shard], path: str) -> None:
    """Write the rows of some shards as one file, flushed to disk; a failure leaves nothing behind."""
    try:
        if is_local(filesystem):
            with Path(path).open("wb") as stream:
                _write(filesystem, group, stream)
                stream.flush()
                os.fsync(stream.fileno())
        else:
            with filesystem.open_output_stream(path) as stream:
                _write(filesystem, group, stream)
        with filesystem.open_input_file(path) as written:
            rows = pq.ParquetFile(written).metadata.num_rows
        if rows != sum(shard.rows for shard in group):
            raise RunBroken(f"{path}: {rows} rows were written of {sum(shard.rows for shard in group)}")
    except BaseException:
        with suppress(OSError):
            delete(filesystem, path)
        raise


def _write(filesystem: pafs.FileSystem, group: Sequence[_Shard], stream: object) -> None:
    with closing(pq.ParquetWriter(stream, group[0].schema, **encoding(group[0].schema))) as writer:
        pending: list[pa.Table] = []
        size = 0
        for shard in group:
            with filesystem.open_input_file(shard.path) as source:
                pending.append(pq.ParquetFile(source).read(use_threads=False))
            size += pending[-1].nbytes
            if size >= _ROW_GROUP_BYTES:
                writer.write_table(pa.concat_tables(pending))
                pending, size = [], 0
        if pending:
            writer.write_table(pa.concat_tables(pending))
