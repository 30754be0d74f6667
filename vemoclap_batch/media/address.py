"""An address becomes a local file that the decoders can open."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from vemoclap_batch.failure import ErrorType, Failure
from vemoclap_batch.media.error import Beat, MediaError, no_beat

_BLOCK = 1 << 20


@contextmanager
def local_copy(address: str, beat: Beat = no_beat) -> Iterator[str]:
    """A path from which the file at an address can be read, for as long as the context lasts.

    A local file is checked and stays where it is. A remote one is streamed to a temporary file, which on Linux has no
    name from the start: whatever kills this process, nothing is left behind.

    Raises:
        MediaError: NOT_FOUND, EMPTY or IO; it names a missing package where the address's scheme needs one.
    """
    if "://" in address and not address.startswith("file://"):
        with _fetched(address, beat) as path:
            yield path
        return
    path = os.path.abspath(os.path.expanduser(address.removeprefix("file://")))
    _check(path)
    yield path


def _check(path: str) -> None:
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise MediaError(ErrorType.IO, f"{path} is not a regular file")
        with open(path, "rb") as stream:
            empty = not stream.read(1)
    except FileNotFoundError as error:
        raise MediaError(ErrorType.NOT_FOUND, f"{path} does not exist") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name.
        raise MediaError(ErrorType.IO, f"{path} cannot be opened: {getattr(error, 'strerror', error)}") from error
    if empty:
        raise MediaError(ErrorType.EMPTY, f"{path} is empty (0 bytes)")


@contextmanager
def _fetched(address: str, beat: Beat) -> Iterator[str]:
    with _nameless_file() as (copy, path):
        _download(address, copy, beat)
        if copy.tell() == 0:
            raise MediaError(ErrorType.EMPTY, f"{address} is empty (0 bytes)")
        copy.flush()
        yield path


@contextmanager
def _nameless_file() -> Iterator[tuple[IO[bytes], str]]:
    if sys.platform == "linux":
        with tempfile.TemporaryFile(prefix="vemoclap-") as copy:
            yield copy, f"/proc/self/fd/{copy.fileno()}"
        return
    with tempfile.NamedTemporaryFile(prefix="vemoclap-") as copy:
        yield copy, copy.name


def _download(address: str, copy: IO[bytes], beat: Beat) -> None:
    # Here, because it imports pyarrow and fsspec, which a worker that reads local files never needs.
    from vemoclap_batch.store.filesystem import resolve

    try:
        filesystem, path = resolve(address)
        with filesystem.open_input_stream(path) as source:
            while block := source.read(_BLOCK):
                beat()
                copy.write(block)
    except FileNotFoundError as error:
        raise MediaError(ErrorType.NOT_FOUND, f"{address} does not exist") from error
    # Each store has exceptions of its own that share no base class; all of them mean that it could not be read.
    except Exception as error:
        message = f"{address} cannot be read: {Failure.of(error).message}"
        raise MediaError(ErrorType.IO, message) from error
