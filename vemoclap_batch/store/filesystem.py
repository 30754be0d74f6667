"""Addresses: a local path or any URI that pyarrow or fsspec knows, as a filesystem and a path on it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from vemoclap_batch.errors import PASSWORD_REFUSED, ConfigError, RunBroken, without_password
from vemoclap_batch.policy import ANYWHERE
from vemoclap_batch.store.retry import is_local, reason, retry

#: Object stores, on which a folder is nothing but the beginning of names.
_WITHOUT_FOLDERS = ("s3", "gcs", "abfs")
_AT_ONCE = 16


def is_remote(address: str) -> bool:
    """Whether an address names another filesystem than the local one."""
    return "://" in address and not address.lower().startswith("file://")


def resolve(address: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of an address and the path on it; pyarrow's own filesystems first, fsspec's for the rest.

    Raises:
        ConfigError: no installed package knows the address's scheme, or it holds a password.
    """
    if not is_remote(address):
        return pafs.LocalFileSystem(), local_path(address)
    if (shown := without_password(address)) != address:
        raise ConfigError([f"{shown!r}: {PASSWORD_REFUSED}"])
    for uri in _uris(address):
        with suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return pafs.FileSystem.from_uri(uri)
    # A scheme that pyarrow does not know; fsspec knows more.
    try:
        filesystem, path = by_fsspec(address)
    except (ImportError, ValueError) as error:
        raise ConfigError([f"{address!r}: {error}"]) from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path


def by_fsspec(address: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem that fsspec has for an address and the path on it; redirects on the web are looked at first.

    Raises:
        ImportError, ValueError: no installed package knows the address's scheme.
        ConfigError: by the filesystem, when a redirect leads from another host into the inner network.
    """
    is_web = address.lower().startswith(("http://", "https://"))
    options = {"client_kwargs": {"trace_configs": [_guarded_redirects()]}} if is_web else {}
    return fsspec.core.url_to_fs(address, **options)


@cache
def _guarded_redirects() -> Any:
    from aiohttp import TraceConfig

    async def look(session: Any, context: Any, redirect: Any) -> None:
        origin, headers = str(redirect.url), redirect.response.headers
        target = urljoin(origin, headers.get("Location") or headers.get("URI") or "")
        if (refusal := ANYWHERE.refusal_of_redirect(origin, target)) is not None:
            raise ConfigError([f"{without_password(origin.partition('?')[0])!r} may not be read: {refusal}"])

    guard = TraceConfig()
    guard.on_request_redirect.append(look)
    return guard


def _uris(address: str) -> list[str]:
    """The ways to say an address to pyarrow, the first that it takes being the right one."""
    if not address.startswith("s3://"):
        return [address]
    # A small file is one request then, and an upload that is killed leaves no parts behind, which would cost.
    query = "?allow_delayed_open=true"
    # The second for names with spaces and the like, which are no URIs: s3fs would take a store that is away for empty.
    return [address if "?" in address else address + query, quote(address, safe=":/") + query]


def resolve_object(address: str) -> tuple[pafs.FileSystem, str]:
    """As :func:`resolve`, for a file that anyone may have named: the name is taken as it is.

    In an address as such, what follows ``?`` are settings of the connection, where it goes to among them.

    Raises:
        ConfigError: no installed package knows the address's scheme, or the bucket's name has such settings.
    """
    scheme, _, rest = address.partition("://")
    place, _, name = rest.partition("/")
    if any(char in place for char in "?#%"):
        raise ConfigError([f"{without_password(address)!r}: {place!r} is no name of a bucket or host"])
    filesystem, root = resolve(f"{scheme}://{place}/" if name else address)
    return filesystem, f"{root.rstrip('/')}/{name}" if name else root


def local_path(address: str) -> str:
    """The absolute, normalised local path of an address without a scheme, or with ``file://``."""
    return os.path.abspath(os.path.expanduser(without_file_scheme(address)))


def without_file_scheme(address: str) -> str:
    """What follows ``file://``, however that is written; the address itself when it has no scheme."""
    return address[len("file://") :] if address.lower().startswith("file://") else address


def write_atomically(
    filesystem: pafs.FileSystem, path: str, table: pa.Table, check: Callable[[], None] | None = None
) -> None:
    """Write a Parquet file that appears whole or not at all; see :func:`write_bytes_atomically`."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes_atomically(filesystem, path, sink.getvalue().to_pybytes(), check)


def write_bytes_atomically(
    filesystem: pafs.FileSystem, path: str, content: bytes, check: Callable[[], None] | None = None
) -> None:
    """Write a file that appears whole or not at all.

    On a local filesystem it is written under a hidden name in the same folder, flushed to disk and renamed; a failure
    leaves nothing behind. On an object store one finished upload is the commit; while it is out of reach the upload
    is tried again.

    Args:
        filesystem: where it goes.
        path: on that filesystem; folders are made as needed.
        content: of the file.
        check: called before each try, raises when the folder is no longer this run's to write.

    Raises:
        RunBroken: the disk is full, permission is lost, or the store was out of reach for too long.
    """
    write = _write_local if is_local(filesystem) else _upload
    folder = os.path.dirname(path)
    try:
        retry(not is_local(filesystem), f"cannot write to {folder}", partial(write, filesystem, path, content), check)
    except FileNotFoundError as error:
        raise RunBroken(f"cannot write to {folder}: {reason(error)}") from error


def _upload(filesystem: pafs.FileSystem, path: str, content: bytes) -> None:
    if filesystem.type_name not in _WITHOUT_FOLDERS:
        filesystem.create_dir(os.path.dirname(path), recursive=True)
    with filesystem.open_output_stream(path) as stream:
        stream.write(content)


def _write_local(_: pafs.FileSystem, path: str, content: bytes) -> None:
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
        # Where the folder cannot be written any more, the first error says so.
        with suppress(OSError):
            hidden.unlink(missing_ok=True)


def files(filesystem: pafs.FileSystem, folder: str, recursive: bool = False) -> list[pafs.FileInfo]:
    """The files of a folder, sorted by path; none when the folder is not there."""
    found = listed(filesystem, folder, recursive)
    return sorted((info for info in found if info.type == pafs.FileType.File), key=lambda info: info.path)


def listed(filesystem: pafs.FileSystem, folder: str, recursive: bool = False) -> list[pafs.FileInfo]:
    """The files and folders in a folder; none when it is not there."""
    selector = pafs.FileSelector(folder, allow_not_found=True, recursive=recursive)
    return retry(not is_local(filesystem), f"cannot list {folder}", lambda: filesystem.get_file_info(selector))


def delete(filesystem: pafs.FileSystem, paths: Iterable[str], check: Callable[[], None] | None = None) -> None:
    """Delete files, some of which may be gone already.

    Raises:
        RunBroken: as :func:`write_bytes_atomically`.
    """

    def one(path: str) -> None:
        def remove() -> None:
            with suppress(FileNotFoundError):
                filesystem.delete_file(path)

        retry(not is_local(filesystem), f"cannot delete {path}", remove, check)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(one, paths):
            pass
