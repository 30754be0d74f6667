"""A folder of small whole files on any filesystem: checkpoints, metrics."""

from __future__ import annotations

import posixpath
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pyarrow.fs as pafs

from vemoclap_batch.store.filesystem import is_remote, listed, local_path, resolve, write_bytes_atomically
from vemoclap_batch.store.retry import is_local, retry

T = TypeVar("T")


class Folder:
    """Reads and writes files of one folder, each whole or not at all; the folder need not exist yet."""

    def __init__(self, address: str | Path) -> None:
        """Point at a folder.

        Args:
            address: a local path or a URI that pyarrow or fsspec knows.

        Raises:
            ConfigError: no installed package knows the address's scheme.
        """
        text = str(address)
        #: Absolute, so that it is the same folder for another process.
        self.address = text.rstrip("/") if is_remote(text) else local_path(text)
        self._filesystem, path = resolve(self.address)
        self._path = path.rstrip("/")

    def __truediv__(self, name: str) -> Folder:
        """A folder in this one."""
        folder, query = self._parted()
        return Folder(f"{folder}/{name}{query}")

    @property
    def name(self) -> str:
        """The last part of its address."""
        return posixpath.basename(self._parted()[0])

    def _parted(self) -> tuple[str, str]:
        """The address, and what it says of the connection: ``?endpoint_override=HOST`` and the like."""
        folder, mark, query = self.address.partition("?") if is_remote(self.address) else (self.address, "", "")
        return folder.rstrip("/"), mark + query

    @property
    def local(self) -> Path | None:
        """Its path on this machine; None when it is elsewhere."""
        return Path(self._path) if is_local(self._filesystem) else None

    def exists(self) -> bool:
        """Whether it is there."""
        return self._kind("") == pafs.FileType.Directory

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return self._kind(name) == pafs.FileType.File

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            FileNotFoundError: there is no such file.
        """

        def read() -> bytes:
            with self._filesystem.open_input_stream(f"{self._path}/{name}") as stream:
                return stream.read()

        if not self.has(name):
            raise FileNotFoundError(2, "no such file", f"{self.address}/{name}")
        return self._retry("read", name, read)

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A file's path on this machine; of one that is elsewhere, that of a copy.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if self.local is not None:
            yield self.local / name
            return
        with tempfile.TemporaryDirectory(prefix="vemoclap-") as folder:
            path = Path(folder) / name
            path.write_bytes(self.read(name))
            yield path

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it.

        Raises:
            RunBroken: the folder cannot be written.
        """
        write_bytes_atomically(self._filesystem, f"{self._path}/{name}", content)

    def folders(self) -> list[Folder]:
        """The folders in it, by name."""
        infos = listed(self._filesystem, self._path)
        return [
            self / name for name in sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)
        ]

    def remove(self) -> None:
        """Remove it with all that is in it, as far as that can be done."""
        if self.local is not None:
            shutil.rmtree(self.local, ignore_errors=True)
            return
        with suppress(OSError):
            self._filesystem.delete_dir(self._path)

    def _kind(self, name: str) -> pafs.FileType:
        path = f"{self._path}/{name}".rstrip("/")
        return self._retry("look for", name, lambda: self._filesystem.get_file_info(path)).type

    def _retry(self, what: str, name: str, action: Callable[[], T]) -> T:
        return retry(not is_local(self._filesystem), f"cannot {what} {self.address}/{name}".rstrip("/"), action)
