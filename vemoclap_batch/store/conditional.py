"""One small JSON object on S3 and its conditional requests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from vemoclap_batch.store.filesystem import on_s3
from vemoclap_batch.store.patience import Unreachable

_REFUSED = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
_UNKNOWN = {"NotImplemented", "501"}


@dataclass(frozen=True)
class Found:
    """The object as it lies there.

    Attributes:
        content: empty when it is no JSON object.
        etag: names this version.
        age_s: seconds since it was written, by the store's own clock.
    """

    content: dict[str, Any]
    etag: str
    age_s: float


class ConditionalObject:
    """The object's requests; credentials come from the environment, and so does the endpoint if no address says it.

    All raise OSError when the store refuses or is out of reach; see also :func:`is_unknown`.
    """

    def __init__(self, folder: str, name: str) -> None:
        """Point at an object, which need not exist.

        Args:
            folder: the address of a folder on S3.
            name: of the object in it.
        """
        import s3fs

        bucket, prefix, connection = on_s3(folder)
        self._where = {"Bucket": bucket, "Key": "/".join(filter(None, [prefix, name]))}
        self._client = s3fs.S3FileSystem(skip_instance_cache=True, client_kwargs=connection)

    def create(self, body: bytes) -> str | None:
        """Upload it if it is not there; returns its version, or None if it is."""
        return self._put(body, IfNoneMatch="*")

    def replace(self, body: bytes, etag: str) -> str | None:
        """Upload it if what lies there is that version; returns the new one, or None if it is another or gone."""
        try:
            return self._put(body, IfMatch=etag)
        except FileNotFoundError:
            return None

    def read(self) -> Found | None:
        """What lies there; None when nothing does."""
        try:
            answer = self._call("get_object")
            body = self._body(answer)
        except FileNotFoundError:
            return None
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        if date is None:
            raise OSError(f"the store of {self._where['Bucket']} tells no time")
        age = parsedate_to_datetime(date) - answer["LastModified"]
        return Found(_parsed(body), answer["ETag"], age.total_seconds())

    def delete(self, etag: str) -> None:
        """Delete that version; another one stays.

        Where the store knows no conditional deletions, it is looked at before, which leaves a moment in between.
        """
        try:
            self._call("delete_object", IfMatch=etag)
        except OSError as error:
            if is_unknown(error):
                self._delete_if_same(etag)
            elif _code(error) not in _REFUSED:
                raise

    def _delete_if_same(self, etag: str) -> None:
        found = self.read()
        if found is not None and found.etag == etag:
            self._call("delete_object")

    def _put(self, body: bytes, **condition: str) -> str | None:
        try:
            return self._call("put_object", Body=body, **condition)["ETag"]
        except OSError as error:
            if _code(error) in _REFUSED:
                return None
            raise

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError

        try:
            return self._client.call_s3(method, **self._where, **arguments)
        except BotoCoreError as error:
            raise Unreachable(str(error)) from error

    def _body(self, answer: dict[str, Any]) -> bytes:
        from aiohttp import ClientError
        from botocore.exceptions import BotoCoreError
        from fsspec.asyn import sync

        try:
            return sync(self._client.loop, answer["Body"].read)
        except (BotoCoreError, ClientError) as error:
            raise Unreachable(str(error)) from error


def is_unknown(error: OSError) -> bool:
    """Whether the store refused a request because it does not know that kind of condition."""
    return _code(error) in _UNKNOWN


def _code(error: OSError) -> str | None:
    response = getattr(error.__cause__, "response", None)
    return response["Error"].get("Code") if response else None


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
