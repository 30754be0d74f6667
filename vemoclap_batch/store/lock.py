"""One writer per output folder."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from vemoclap_batch.store.filesystem import is_remote, local_path

log = logging.getLogger(__name__)


class Busy(Exception):
    """Another run holds the output folder."""


@contextmanager
def writer(address: str, run_id: str, wait: bool = True) -> Iterator[None]:
    """Hold an output folder for writing, for as long as the context lasts.

    The lock is the operating system's, so that a holder which dies frees it at once, however it died. Object stores
    have no such lock: there a warning says that nothing keeps two runs apart.

    Raises:
        Busy: another run holds it, and ``wait`` is False.
    """
    if is_remote(address):
        log.warning("%s is not a local folder: nothing keeps a second run from writing to it at the same time", address)
        yield
        return
    folder = Path(local_path(address))
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    note = folder / ".lock-holder.json"
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        message = f"{address} is held by {_holder(note)}"
        if not wait:
            raise Busy(message) from None
        log.warning("%s; waiting for it to end", message)
        lock.acquire()
    try:
        note.write_text(json.dumps({"run_id": run_id, "pid": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def _holder(note: Path) -> str:
    try:
        held = json.loads(note.read_text())
    except (OSError, ValueError):
        return "another run"
    return f"run {held['run_id']} (process {held['pid']} on {held['host']})"
