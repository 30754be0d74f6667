"""The lock of an output folder on an object store: an object that only one can create, kept alive by a heartbeat.

``OUT/.lock`` is created on condition that it is not there, renewed every 20 seconds on condition that it is still the
holder's own, and deleted at the end. One that was not renewed for 90 seconds, by the store's own clock, belongs to a
dead run and may be replaced, on the same condition; one of this machine as soon as its process has ended: a process
holds a temporary file locked for as long as it lives. A holder that comes back after a pause finds out before it writes
anything more.

obstore makes the conditional requests. The protocol is our own, since no library has one for object stores: Delta's log
keeps commits apart, not runs, and two runs that compute the same would each commit it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import filelock
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from vemoclap_batch.errors import Busy, LockLost, RunBroken
from vemoclap_batch.store.location import Location
from vemoclap_batch.store.retry import reason, retry

log = logging.getLogger(__name__)

HEARTBEAT_S = 20.0
STALE_S = 90.0
#: A renewal younger than this is taken for granted before a write.
FRESH_S = 45.0
POLL_S = 5.0
#: What a process sent before it was killed may still be on its way.
SETTLE_S = 5.0

_LOCK = ".lock"
_NOBODY = dict.fromkeys(("holder", "run_id", "pid", "host"), "?")
_ERRORS = (OSError, BaseError)


@dataclass(frozen=True)
class _Seen:
    """The lock as it lies there: what is in it, its version, and seconds since it was written by the store's clock."""

    holder: dict[str, Any]
    etag: str | None
    age_s: float

    def __str__(self) -> str:
        return f"run {self.holder['run_id']} (process {self.holder['pid']} on {self.holder['host']})"


class ObjectLock:
    """One run's hold on a folder; see the module."""

    def __init__(self, address: str, location: Location, run_id: str) -> None:
        self._address = address
        self._location = location
        self._me: dict[str, Any] = {
            "holder": uuid.uuid4().hex, "run_id": run_id, "pid": os.getpid(), "host": socket.gethostname(),
        }  # fmt: skip
        self._etag: str | None = None
        self._renewed = 0.0
        self._lost: str | None = None
        self._one_at_a_time = threading.Lock()
        self._end = threading.Event()
        self._heartbeat = threading.Thread(target=self._keep_renewing, name="lock heartbeat", daemon=True)

    def _store(self) -> Any:
        """The folder for obstore, with the credentials of this moment."""
        connect: Any = obstore.store.from_url  # Its types differ by the store.
        return connect(
            self._location.uri, config={**self._location.connection, **self._location.credentials()} or None,
            client_options={"allow_http": True},
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=10)},
        )  # fmt: skip

    @contextmanager
    def held(self, wait: bool) -> Iterator[None]:
        """Hold the folder for as long as the context lasts.

        Raises:
            Busy: another run holds it, and ``wait`` is False.
            RunBroken: the store refuses, is out of reach for too long, or knows no conditional uploads.
        """
        with filelock.FileLock(_process_file(self._me["holder"])):
            try:
                self._acquire(wait)
                try:
                    yield
                finally:
                    self._release()
            finally:
                _process_file(self._me["holder"]).unlink(missing_ok=True)

    def check(self) -> None:
        """See that the lock is still held; asks the store if the heartbeat is late."""
        if self._lost is None and _clock_s() - self._renewed > FRESH_S:
            self._renew()
        if self._lost is not None:
            raise LockLost(self._lost)

    def _acquire(self, wait: bool) -> None:
        told = False
        while True:
            at = _clock_s()
            try:
                other = retry(True, f"cannot lock {self._address}", self._try, errors=_ERRORS)
            except FileNotFoundError as error:
                raise RunBroken(f"cannot lock {self._address}: {reason(error)}") from error
            if other is None:
                self._renewed = at
                self._heartbeat.start()
                return
            message = f"{self._address} is held by {other}, heard of {other.age_s:.0f} s ago"
            if not wait:
                raise Busy(message)
            if not told:
                log.warning("%s; waiting for it to end", message)
            told = True
            time.sleep(POLL_S)

    def _try(self) -> _Seen | None:
        """Take the lock; else the other's."""
        while True:
            etag = self._create()
            if etag is None:
                seen = self._read()
                if seen is None:
                    continue
                if seen.holder["holder"] == self._me["holder"]:
                    etag = seen.etag  # Created by an upload whose answer was lost.
                elif not self._is_over(seen):
                    return seen
                else:
                    etag = self._replace(seen.etag)
            if etag is not None and self._confirm(etag):
                return None

    def _confirm(self, etag: str) -> bool:
        """See what the store knows: one that ignores conditions takes a second creation, or it refuses to renew."""
        again = self._create()
        if again is not None:
            log.warning("the store of %s ignores conditions: nothing keeps a second run from writing", self._address)
        try:
            self._etag = self._replace(again or etag)
        except BaseError:
            obstore.delete(self._store(), _LOCK)
            raise
        return self._etag is not None

    def _is_over(self, seen: _Seen) -> bool:
        """Whether a lock's holder has died, or was not heard of for too long."""
        # Another machine's process has its file there.
        died = seen.holder["host"] == self._me["host"] and _has_died(seen.holder["holder"])
        if died:
            time.sleep(SETTLE_S)
        if died or seen.age_s > STALE_S:
            why = "has died" if died else f"was not heard of for {seen.age_s:.0f} s"
            log.warning("%s %s: taking %s over", seen, why, self._address)
            return True
        return False

    def _renew(self) -> None:
        with self._one_at_a_time:
            if self._lost is not None:
                raise LockLost(self._lost)
            at = _clock_s()
            etag = self._replace(self._etag)
            if etag is None:
                seen = self._read()
                if seen is None or seen.holder["holder"] != self._me["holder"]:
                    by = seen or "somebody who deleted it"
                    self._lost = f"the lock of {self._address} was taken over by {by}; this run writes no more"
                    raise LockLost(self._lost)
                etag = seen.etag  # Renewed by an upload whose answer was lost.
            self._etag, self._renewed = etag, at

    def _keep_renewing(self) -> None:
        while not self._end.wait(HEARTBEAT_S):
            try:
                self._renew()
            except LockLost as error:
                log.error("%s", error)
                return
            except Exception as error:  # Whatever it is, the next renewal may go through.
                log.warning("the lock of %s was not renewed: %s", self._address, reason(error))

    def _release(self) -> None:
        """Give the folder back, if it is still one's own: renewed just now, nobody takes it before it is deleted."""
        self._end.set()
        self._heartbeat.join()
        try:
            self._renew()
            obstore.delete(self._store(), _LOCK)
        except Exception as error:  # What was committed stays so, whatever it is.
            log.warning("the lock of %s was not given back: %s", self._address, reason(error))

    def _create(self) -> str | None:
        """Upload the lock if there is none; its version, or None if there is one."""
        try:
            return obstore.put(self._store(), _LOCK, self._body(), mode="create")["e_tag"]
        except AlreadyExistsError:
            return None

    def _replace(self, etag: str | None) -> str | None:
        """Upload the lock if that version lies there; its new version, or None if it is another or gone."""
        try:
            return obstore.put(self._store(), _LOCK, self._body(), mode={"e_tag": etag})["e_tag"]
        except (PreconditionError, FileNotFoundError):
            return None

    def _read(self) -> _Seen | None:
        try:
            found = obstore.get(self._store(), _LOCK)
            content = bytes(found.bytes())
        except FileNotFoundError:
            return None
        age = self._store_time() - found.meta["last_modified"]
        return _Seen(_NOBODY | _parsed(content), found.meta["e_tag"], age.total_seconds())

    def _store_time(self) -> datetime:
        """The time by the store's clock, which obstore tells of objects alone."""
        name = f"{_LOCK}-clock-{self._me['holder']}"
        obstore.put(self._store(), name, b"")
        try:
            return obstore.head(self._store(), name)["last_modified"]
        finally:
            obstore.delete(self._store(), name)

    def _body(self) -> bytes:
        # Never the same twice: an ETag may be a hash of the content.
        return json.dumps(self._me | {"time": datetime.now(UTC).isoformat(), "nonce": uuid.uuid4().hex}).encode()


def _process_file(holder: str) -> Path:
    """The file that a process of this machine holds locked for as long as it lives."""
    return Path(tempfile.gettempdir()) / f"vemoclap-lock-{holder}"


def _has_died(holder: object) -> bool:
    """Whether a process of this machine is gone for sure; of one that left no file, nothing is known."""
    # The name comes from a bucket, and must not lead to any other file.
    if not (isinstance(holder, str) and holder.isascii() and holder.isalnum() and _process_file(holder).is_file()):
        return False
    try:
        with filelock.FileLock(_process_file(holder), timeout=0):
            _process_file(holder).unlink(missing_ok=True)
            return True
    except (filelock.Timeout, OSError):
        return False


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _clock_s() -> float:
    """Seconds that go on while the machine sleeps, which those of time.monotonic() do not."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
