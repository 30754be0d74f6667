"""Output folders of version 0.1, whose tables were folders of Parquet files without a log, become Delta tables.

That version replaced files by others (compaction, removal) through a journal, ``OUT/.journal/<id>.json``: once such a
file lay there, the replacement counted, and the next writer carried out what was left of it. This is done first, as
that version did it; then each table is converted by one commit. All of it may be killed at any moment and done again.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import pyarrow.parquet as pq
from deltalake import DeltaTable, convert_to_deltalake

from vemoclap_batch.errors import RunBroken
from vemoclap_batch.store.filesystem import delete, files
from vemoclap_batch.store.location import Location
from vemoclap_batch.store.retry import retry
from vemoclap_batch.store.table import Table


def upgrade(out: Location, tables: Sequence[Table], check: Callable[[], None]) -> int:
    """Convert the tables that are of version 0.1; returns how many there were. The caller holds the folder.

    Args:
        out: the output folder.
        tables: all that it may hold.
        check: called before each change, raises when the folder is no longer this run's to write.

    Raises:
        RunBroken: a file cannot be read or written; names it.
    """
    journal = [info.path for info in files(out.filesystem, f"{out.path}/.journal")]
    for path in journal:
        if path.endswith(".json") and not posixpath.basename(path).startswith("."):
            _carry_out(out, json.loads(_content(out, path)), check)
            delete(out.filesystem, [path], check)
    delete(out.filesystem, journal, check)
    old = [table for table in tables if table.is_old()]
    for table in old:
        _convert(table)
    with suppress(OSError):
        out.filesystem.delete_dir(f"{out.path}/.journal")
    return len(old)


def _carry_out(out: Location, entry: dict, check: Callable[[], None]) -> None:
    """Delete the files of a replacement that go, give those that come their names; ``dropped``: the folder goes."""
    folder = f"{out.path}/{entry['folder']}"
    delete(out.filesystem, [f"{folder}/{name}" for name in entry["old"]], check)
    there = {posixpath.basename(info.path) for info in files(out.filesystem, folder)}
    for hidden, shard in entry["new"].items():
        if hidden in there:
            move = partial(out.filesystem.move, f"{folder}/{hidden}", f"{folder}/{shard}")
            retry(out.remote, f"cannot rename {folder}/{hidden}", move, check)
    if entry["dropped"]:
        with suppress(FileNotFoundError):
            retry(out.remote, f"cannot delete {folder}", partial(out.filesystem.delete_dir, folder), check)


def _convert(table: Table) -> None:
    """Make a Delta table of the files ``part-*.parquet``, which were all that version 0.1 read."""
    names = [posixpath.basename(info.path) for info in files(table.filesystem, table.folder)]
    hidden = [name for name in names if name.startswith(".") and name.endswith((".parquet", ".tmp"))]
    table.delete(f"{table.folder}/{name}" for name in hidden)  # What a killed process left.
    strangers = [name for name in names if name.endswith(".parquet") and not name.startswith((".", "part-"))]
    if strangers:
        raise RunBroken(f"{table.folder} holds {strangers[0]}, which is no file of this table: move it elsewhere")
    width = _width(table, next(name for name in names if name.startswith("part-")))

    def convert() -> None:
        if table.is_old():
            convert_to_deltalake(table.uri, storage_options=table.options)
        if width:
            DeltaTable(table.uri, storage_options=table.options).alter.set_column_metadata("feature", {"width": width})

    table.change("convert", convert)


def _width(table: Table, name: str) -> str:
    """Of a feature, which version 0.1 kept in its files' metadata; empty of other tables."""
    with table.filesystem.open_input_file(f"{table.folder}/{name}") as file:
        return (pq.read_schema(file).metadata or {}).get(b"width", b"").decode()


def _content(out: Location, path: str) -> bytes:
    def read() -> bytes:
        with out.filesystem.open_input_stream(path) as stream:
            return stream.read()

    return retry(out.remote, f"cannot read {path}", read)
