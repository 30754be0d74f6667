"""One writer per output folder."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import filelock

from vemoclap_batch.errors import Busy, ConfigError, RunBroken
from vemoclap_batch.store.location import location
from vemoclap_batch.store.object_lock import ObjectLock
from vemoclap_batch.store.retry import reason

log = logging.getLogger(__name__)


class Lock(Protocol):
    """A hold on an output folder."""

    def check(self) -> None:
        """See that the folder is still held, before something is written to it.

        Raises:
            LockLost: it is another run's by now.
            OSError: the store that keeps the lock is out of reach.
        """


class _FileLock:
    def check(self) -> None:
        """The operating system takes no lock from a process that lives."""


@contextmanager
def writer(address: str, run_id: str, wait: bool = True) -> Iterator[Lock]:
    """Hold an output folder for writing, for as long as the context lasts.

    A local lock is the operating system's, so that a holder which dies frees it at once, however it died. Elsewhere it
    is an object with a heartbeat (:mod:`vemoclap_batch.store.object_lock`), which a dead holder frees at once for the
    next on the same machine, after 90 seconds for others.

    Raises:
        Busy: another run holds it, and ``wait`` is False.
        ConfigError: there is a file of that name, or of a folder above it.
        RunBroken: the folder cannot be made or written.
    """
    place = location(address)
    if place.remote:
        lock = ObjectLock(address, place, run_id)
        with lock.held(wait):
            yield lock
    else:
        with _local(address, Path(place.path), run_id, wait):
            yield _FileLock()


@contextmanager
def _local(address: str, folder: Path, run_id: str, wait: bool) -> Iterator[None]:
    lock = filelock.FileLock(folder / ".lock")
    note = folder / ".lock-holder.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _acquire(lock, address, note, wait)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError([f"{address!r}: expected a folder, but it or a folder above it is a file"]) from error
    except OSError as error:
        raise RunBroken(f"cannot write to {folder}: {reason(error)}") from error
    try:
        _write_holder(note, run_id)
        yield
    finally:
        with suppress(OSError):
            note.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: filelock.BaseFileLock, address: str, note: Path, wait: bool) -> None:
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        message = f"{address} is held by {_holder(note)}"
        if not wait:
            raise Busy(message) from None
        log.warning("%s; waiting for it to end", message)
        lock.acquire()


def _write_holder(note: Path, run_id: str) -> None:
    try:
        note.write_text(json.dumps({"run_id": run_id, "pid": os.getpid(), "host": socket.gethostname()}))
    except OSError as error:
        raise RunBroken(f"cannot write to {note.parent}: {reason(error)}") from error


def _holder(note: Path) -> str:
    try:
        held: dict[str, Any] = json.loads(note.read_text())
    except (OSError, ValueError):
        return "another run"
    return f"run {held['run_id']} (process {held['pid']} on {held['host']})"
