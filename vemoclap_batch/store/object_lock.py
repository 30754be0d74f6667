"""The lock of an output folder on S3: an object that only one can create, kept alive by a heartbeat.

``OUT/.lock`` is created on condition that it is not there (``If-None-Match: *``), renewed every 20 seconds on condition
that it is still the holder's own (``If-Match``), and deleted at the end. One that was not renewed for 90 seconds, by
the store's own clock, belongs to a dead run and may be replaced, on the same condition. A holder that comes back
after a pause finds that out before it writes anything more.
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
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from vemoclap_batch.failure import RunBroken
from vemoclap_batch.store.lock import Busy, Lock, LockLost, describe
from vemoclap_batch.store.patience import Unreachable, patiently, reason

log = logging.getLogger(__name__)

BEAT_S = 20.0
STALE_S = 90.0
#: A renewal younger than this is taken for granted before a write.
FRESH_S = 45.0
POLL_S = 5.0

_REFUSED = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}


@contextmanager
def held(address: str, run_id: str, wait: bool) -> Iterator[Lock]:
    """Hold a folder on S3 for as long as the context lasts; see :func:`vemoclap_batch.store.lock.writer`."""
    lock = ObjectLock(address, run_id)
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


@dataclass(frozen=True)
class _Found:
    """The lock object as it lies there: who holds it, its version, and seconds since it was renewed."""

    holder: dict[str, Any]
    etag: str
    age_s: float


class ObjectLock(Lock):
    """One run's hold on a folder; see the module."""

    def __init__(self, address: str, run_id: str) -> None:
        self._address = address
        self._object = _Conditional(address)
        self._me = {
            "holder": uuid.uuid4().hex, "run_id": run_id, "pid": os.getpid(), "host": socket.gethostname(),
        }  # fmt: skip
        self._etag = ""
        self._renewed = 0.0
        self._lost: str | None = None
        self._one_at_a_time = threading.Lock()
        self._end = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lock heartbeat", daemon=True)

    def acquire(self, wait: bool) -> None:
        """Get hold of the folder and keep it.

        Raises:
            Busy: another run holds it, and ``wait`` is False.
            RunBroken: the store refuses, or is out of reach for too long.
            NotImplementedError: the store knows no conditional uploads.
        """
        told = False
        while True:
            at = time.monotonic()
            try:
                answer = patiently(True, f"cannot lock {self._address}", self._try)
            except FileNotFoundError as error:
                raise RunBroken(f"cannot lock {self._address}: {reason(error)}") from error
            if isinstance(answer, str):
                self._etag, self._renewed = answer, at
                self._heart.start()
                return
            if answer is not None:
                message = f"{self._address} is held by {describe(answer.holder)}, heard of {answer.age_s:.0f} s ago"
                if not wait:
                    raise Busy(message)
                if not told:
                    log.warning("%s; waiting for it to end", message)
                told = True
                time.sleep(POLL_S)

    def check(self) -> None:
        """See that the lock is still held; asks the store if the heartbeat is late."""
        if self._lost is None and time.monotonic() - self._renewed > FRESH_S:
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
        except (LockLost, OSError) as error:
            log.warning("the lock of %s was not given back: %s", self._address, error)

    def _try(self) -> str | _Found | None:
        """The version of the lock once it is ours; else the other's; None when it has just changed."""
        etag = self._object.create(self._body())
        if etag is not None:
            return self._confirmed(etag)
        found = self._object.read()
        if found is None:
            return None
        if found.holder["holder"] == self._me["holder"]:
            return found.etag  # Created by an upload whose answer was lost.
        if found.age_s <= STALE_S:
            return found
        etag = self._object.replace(self._body(), found.etag)
        if etag is not None:
            name = describe(found.holder)
            log.warning("%s was not heard of for %.0f s: taking %s over", name, found.age_s, self._address)
        return etag

    def _confirmed(self, etag: str) -> str:
        """A store that does not know conditions ignores them; then a second creation succeeds too."""
        again = self._object.create(self._body())
        if again is not None:
            log.warning("the store of %s ignores conditions: nothing keeps a second run from writing", self._address)
        return again or etag

    def _renew(self) -> None:
        with self._one_at_a_time:
            if self._lost is not None:
                raise LockLost(self._lost)
            at = time.monotonic()
            etag = self._object.replace(self._body(), self._etag)
            if etag is None:
                found = self._object.read()
                if found is None or found.holder["holder"] != self._me["holder"]:
                    by = describe(found.holder) if found else "somebody who deleted it"
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
            except OSError as error:
                log.warning("the lock of %s was not renewed: %s", self._address, reason(error))

    def _body(self) -> bytes:
        # Never the same twice: an ETag may be a hash of the content.
        now = datetime.datetime.now(datetime.UTC).isoformat()
        return json.dumps(self._me | {"time": now, "beat": uuid.uuid4().hex}).encode()


class _Conditional:
    """One object on S3 and its conditional requests; credentials and endpoint come from the environment."""

    def __init__(self, address: str) -> None:
        import s3fs

        bucket, _, prefix = address.removeprefix("s3://").partition("/")
        self._where = {"Bucket": bucket, "Key": "/".join(filter(None, [prefix.strip("/"), ".lock"]))}
        self._client = s3fs.S3FileSystem(skip_instance_cache=True)

    def create(self, body: bytes) -> str | None:
        """Upload it if it is not there; returns its version, or None if it is."""
        return self._put(body, IfNoneMatch="*")

    def replace(self, body: bytes, etag: str) -> str | None:
        """Upload it if what lies there is that version; returns the new one, or None if it is another or gone."""
        try:
            return self._put(body, IfMatch=etag)
        except FileNotFoundError:
            return None

    def read(self) -> _Found | None:
        """What lies there, aged by the store's clock; None when nothing does."""
        try:
            answer = self._call("get_object")
            holder = json.loads(self._body(answer))
        except FileNotFoundError:
            return None
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        if date is None:
            raise OSError(f"the store of {self._where['Bucket']} tells no time")
        age = parsedate_to_datetime(date) - answer["LastModified"]
        return _Found(holder, answer["ETag"], age.total_seconds())

    def delete(self, etag: str) -> None:
        """Delete that version; another one stays."""
        try:
            self._call("delete_object", IfMatch=etag)
        except OSError as error:
            if _code(error) not in _REFUSED:
                raise

    def _put(self, body: bytes, **condition: str) -> str | None:
        try:
            return self._call("put_object", Body=body, **condition)["ETag"]
        except OSError as error:
            if _code(error) in _REFUSED:
                return None
            if _code(error) == "NotImplemented":
                raise NotImplementedError from error
            raise

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError

        try:
            return self._client.call_s3(method, **self._where, **arguments)
        except BotoCoreError as error:
            raise Unreachable(str(error)) from error

    def _body(self, answer: dict[str, Any]) -> bytes:
        from fsspec.asyn import sync

        return sync(self._client.loop, answer["Body"].read)


def _code(error: OSError) -> str | None:
    response = getattr(error.__cause__, "response", None)
    return response["Error"].get("Code") if response else None
