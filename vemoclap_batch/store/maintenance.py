"""Few large data files in place of many small ones, and tables that go. The caller holds the output folder."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable

from vemoclap_batch.store.filesystem import files
from vemoclap_batch.store.table import Table, writer_properties

TARGET_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Compacted:
    """What became of one table."""

    table: str
    shards_before: int
    shards_after: int
    rows: int
    bytes_before: int
    bytes_after: int


def compact(table: Table) -> Compacted:
    """Merge the small data files of a table into files of about 128 MB, and delete at once those that were merged.

    The merge is one commit: readers of Delta see each row once all the time. Readers that know nothing of Delta see
    rows twice from the merge to the deletion; where a process dies in between, the next run deletes what was merged.
    """
    before = table.size()

    def merge() -> None:
        delta = table.open()
        if delta is not None:
            delta.optimize.compact(
                target_size=TARGET_BYTES, max_concurrent_tasks=1,
                writer_properties=writer_properties(pa.schema(delta.schema().to_arrow()), before.rows, before.bytes),
                commit_properties=CommitProperties(max_commit_retries=0),
            )  # fmt: skip

    try:
        table.change("compact", merge)
    finally:
        table.clean()
    after = table.size()
    return Compacted(before.table, before.shards, after.shards, after.rows, before.bytes, after.bytes)


def drop(table: Table) -> None:
    """Remove a table and its folder, all or nothing: a commit that removes all rows comes first.

    Where a process dies later, the table is there without rows, and :func:`finish_dropping` goes on.
    """
    table.change("empty", lambda: _empty(table.open()))
    finish_dropping(table)


def finish_dropping(table: Table) -> None:
    """Remove a table that has no rows any more; one that never had any stays."""
    delta = table.open()
    if delta is None or delta.version() == 0 or delta.file_uris():
        return
    # The log can be read until its last file is gone: a checkpoint, which says that there are no rows.
    table.change("empty", delta.create_checkpoint)
    infos = files(table.filesystem, table.folder, recursive=True)
    last = f"{delta.version():020}.checkpoint.parquet"
    for final in (False, True):
        table.delete(info.path for info in infos if info.path.endswith(last) == final)
    with suppress(OSError):
        table.filesystem.delete_dir(table.folder)


def _empty(delta: DeltaTable | None) -> None:
    if delta is not None and delta.file_uris():
        delta.delete(commit_properties=CommitProperties(max_commit_retries=0))
