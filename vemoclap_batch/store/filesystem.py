"""Addresses: a local path or any URI that pyarrow or fsspec knows, as a filesystem and a path on it."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq


def is_remote(address: str) -> bool:
    """Whether an address names another filesystem than the local one."""
    return "://" in address and not address.startswith("file://")


def resolve(address: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of an address and the path on it; pyarrow's own filesystems first, fsspec's for the rest.

    Raises:
        ValueError: no installed package knows the address's scheme.
    """
    if not is_remote(address):
        return pafs.LocalFileSystem(), local_path(address)
    try:
        return pafs.FileSystem.from_uri(address)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass  # A scheme that pyarrow does not know; fsspec knows more.
    try:
        filesystem, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{address!r}: {error}") from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path


def local_path(address: str) -> str:
    """The absolute, normalised local path of an address without a scheme, or with ``file://``."""
    return os.path.abspath(os.path.expanduser(address.removeprefix("file://")))


def write_atomically(filesystem: pafs.FileSystem, path: str, table: pa.Table) -> None:
    """Write a Parquet file that appears whole or not at all.

    On a local filesystem it is written under a hidden name in the same folder, flushed to disk and renamed. On an
    object store one finished upload is the commit.
    """
    write_bytes_atomically(filesystem, path, _parquet(table))


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def write_bytes_atomically(filesystem: pafs.FileSystem, path: str, content: bytes) -> None:
    """Write a file that appears whole or not at all; see :func:`write_atomically`."""
    if not isinstance(filesystem, pafs.LocalFileSystem):
        filesystem.create_dir(os.path.dirname(path), recursive=True)
        with filesystem.open_output_stream(path) as stream:
            stream.write(content)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    hidden = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with hidden.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        hidden.rename(target)
    finally:
        hidden.unlink(missing_ok=True)


def list_parquet(filesystem: pafs.FileSystem, folder: str) -> list[str]:
    """Paths of the committed shards of a folder, sorted; hidden and foreign files are left out."""
    selector = pafs.FileSelector(folder, allow_not_found=True)
    found = [info.path for info in filesystem.get_file_info(selector) if info.type == pafs.FileType.File]
    return sorted(path for path in found if os.path.basename(path).startswith("part-") and path.endswith(".parquet"))
