"""Whether a process of this machine is alive: it holds a file locked, which the system lets go when it dies.

Unlike a process id, such a file is not given out again and does not differ between containers that share it. One that
is not there says nothing: another machine of the same name, or a container with temporary files of its own, has none.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path


class SignOfLife:
    """The sign that this process gives under a name; no other process has ever used the name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._file: int | None = None

    def give(self) -> None:
        """Begin to give it; none is given where there is no room for temporary files, or where they know no locks."""
        try:
            self._file = os.open(_path(self._name), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.end()

    def end(self) -> None:
        """Give it no more and leave no file."""
        if self._file is not None:
            forget(self._name)
            os.close(self._file)
            self._file = None


def has_died(name: object) -> bool:
    """Whether the process that gave a sign on this machine is gone for sure."""
    if not _is_name(name):
        return False
    try:
        file = os.open(_path(str(name)), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # Shared, so that two that ask at once do not take each other for the holder.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(file)
    return True


def forget(name: object) -> None:
    """Remove the file of a process that is gone."""
    if _is_name(name):
        with suppress(OSError):
            _path(str(name)).unlink(missing_ok=True)


def _is_name(name: object) -> bool:
    # It comes from a bucket, and must not lead to any other file.
    return isinstance(name, str) and name.isascii() and name.isalnum()


def _path(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"vemoclap-lock-{name}"
