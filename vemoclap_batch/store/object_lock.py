"""The lock of an output folder on S3: an object that only one can create, kept alive by a heartbeat.

``OUT/.lock`` is created on condition that it is not there (``If-None-Match: *``), renewed every 20 seconds on condition
that it is still the holder's own (``If-Match``), and deleted at the end. One that was not renewed for 90 seconds, by
the store's own clock, belongs to a dead run and may be replaced, on the same condition; one of this machine as soon
as its process has ended (:mod:`vemoclap_batch.store.sign_of_life`). A holder that comes back after a pause finds that
out before it writes anything more.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vemoclap_batch.errors import RunBroken
from vemoclap_batch.store.conditional import ConditionalObject, Found, is_unknown
from vemoclap_batch.store.lock import Busy, Lock, LockLost, describe
from vemoclap_batch.store.patience import patiently, reason
from vemoclap_batch.store.sign_of_life import SignOfLife, forget, has_died

log = logging.getLogger(__name__)

BEAT_S = 20.0
STALE_S = 90.0
#: A renewal younger than this is taken for granted before a write.
FRESH_S = 45.0
POLL_S = 5.0
#: What a process sent before it was killed may still be on its way.
SETTLE_S = 5.0

_NOBODY = dict.fromkeys(("holder", "run_id", "pid", "host"), "?")


@contextmanager
def held(address: str, run_id: str, wait: bool) -> Iterator[Lock]:
    """Hold a folder on S3 for as long as the context lasts; see :func:`vemoclap_batch.store.lock.writer`."""
    lock = ObjectLock(address, run_id)
    with lock.signed():
        try:
            lock.acquire(wait)
        except NotImplementedError:
            log.warning("the store of %s has no conditional uploads: nothing keeps a second run from writing", address)
            yield Lock()
            return
        try:
            yield lock
        finally:
            lock.release()


class ObjectLock(Lock):
    """One run's hold on a folder; see the module."""

    def __init__(self, address: str, run_id: str) -> None:
        self._address = address
        self._object = ConditionalObject(address, ".lock")
        self._me: dict[str, Any] = {
            "holder": uuid.uuid4().hex, "run_id": run_id, "pid": os.getpid(), "host": socket.gethostname(),
        }  # fmt: skip
        self._etag = ""
        self._renewed = 0.0
        self._lost: str | None = None
        self._one_at_a_time = threading.Lock()
        self._end = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lock heartbeat", daemon=True)

    @contextmanager
    def signed(self) -> Iterator[None]:
        """For as long as the context lasts, other processes of this machine can tell that this one lives."""
        sign = SignOfLife(self._me["holder"])
        sign.give()
        try:
            yield
        finally:
            sign.end()

    def acquire(self, wait: bool) -> None:
        """Get hold of the folder and keep it.

        Raises:
            Busy: another run holds it, and ``wait`` is False.
            RunBroken: the store refuses, or is out of reach for too long.
            NotImplementedError: the store does not know all conditional uploads that this takes; no lock is left there.
        """
        told = False
        while True:
            at = _clock_s()
            try:
                answer = patiently(True, f"cannot lock {self._address}", self._asked)
            except FileNotFoundError as error:
                raise RunBroken(f"cannot lock {self._address}: {reason(error)}") from error
            if isinstance(answer, str):
                self._etag, self._renewed = answer, at
                self._heart.start()
                return
            if answer is not None:
                message = f"{self._address} is held by {describe(_holder(answer))}, heard of {answer.age_s:.0f} s ago"
                if not wait:
                    raise Busy(message)
                if not told:
                    log.warning("%s; waiting for it to end", message)
                told = True
                time.sleep(POLL_S)

    def check(self) -> None:
        """See that the lock is still held; asks the store if the heartbeat is late."""
        if self._lost is None and _clock_s() - self._renewed > FRESH_S:
            self._renew()
        if self._lost is not None:
            raise LockLost(self._lost)

    def release(self) -> None:
        """Give the folder back, if it is still one's own."""
        self._end.set()
        self._heart.join()
        try:
            self._renew()
            self._object.delete(self._etag)
        except Exception as error:  # What was committed stays so, whatever it is.
            log.warning("the lock of %s was not given back: %s", self._address, reason(error))

    def _asked(self) -> str | Found | None:
        try:
            return self._try()
        except OSError as error:
            if is_unknown(error):  # However often it is tried.
                raise NotImplementedError from error
            raise

    def _try(self) -> str | Found | None:
        """The version of the lock once it is ours; else the other's; None when it has just changed."""
        etag = self._object.create(self._body())
        if etag is not None:
            return self._confirmed(etag)
        found = self._object.read()
        if found is None:
            return None
        if _holder(found)["holder"] == self._me["holder"]:
            return self._confirmed(found.etag)  # Created by an upload whose answer was lost.
        return self._taken_over(found)

    def _confirmed(self, etag: str) -> str | None:
        """See what a store knows that took a new lock.

        One that does not know conditions ignores them, and a second creation succeeds too; or it refuses them, and a
        lock that cannot be renewed is none.
        """
        again = self._object.create(self._body())
        if again is not None:
            log.warning("the store of %s ignores conditions: nothing keeps a second run from writing", self._address)
        try:
            return self._object.replace(self._body(), again or etag)
        except OSError as error:
            if is_unknown(error):
                self._object.delete(again or etag)
            raise

    def _taken_over(self, found: Found) -> str | Found | None:
        """As :meth:`_try`, of a lock that is another's."""
        holder = _holder(found)
        # Another machine's process gave its sign there.
        died = holder["host"] == self._me["host"] and has_died(holder["holder"])
        if not died and found.age_s <= STALE_S:
            return found
        if died:
            time.sleep(SETTLE_S)
        etag = self._object.replace(self._body(), found.etag)
        if etag is not None:
            forget(holder["holder"])
            why = "has died" if died else f"was not heard of for {found.age_s:.0f} s"
            log.warning("%s %s: taking %s over", describe(holder), why, self._address)
        return etag

    def _renew(self) -> None:
        with self._one_at_a_time:
            if self._lost is not None:
                raise LockLost(self._lost)
            at = _clock_s()
            etag = self._object.replace(self._body(), self._etag)
            if etag is None:
                found = self._object.read()
                if found is None or _holder(found)["holder"] != self._me["holder"]:
                    by = describe(_holder(found)) if found else "somebody who deleted it"
                    self._lost = f"the lock of {self._address} was taken over by {by}; this run writes no more"
                    raise LockLost(self._lost)
                etag = found.etag  # Renewed by an upload whose answer was lost.
            self._etag, self._renewed = etag, at

    def _beat(self) -> None:
        while not self._end.wait(BEAT_S):
            try:
                self._renew()
            except LockLost as error:
                log.error("%s", error)
                return
            except Exception as error:  # Whatever it is, the next beat may go through.
                log.warning("the lock of %s was not renewed: %s", self._address, reason(error))

    def _body(self) -> bytes:
        # Never the same twice: an ETag may be a hash of the content.
        now = datetime.datetime.now(datetime.UTC).isoformat()
        return json.dumps(self._me | {"time": now, "beat": uuid.uuid4().hex}).encode()


def _holder(found: Found) -> dict[str, Any]:
    """Who holds a lock; of one that somebody else wrote over, nobody that is known."""
    return _NOBODY | found.content


def _clock_s() -> float:
    """Seconds that go on while the machine sleeps, which those of time.monotonic() do not."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
