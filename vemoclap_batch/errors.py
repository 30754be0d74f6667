"""What went wrong with one video, as data: it travels in rows, never as an exception across processes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

MAX_MESSAGE = 2000


class ErrorType(StrEnum):
    """The kinds of failure that the ``errors`` table names.

    Of files that are no video: ``empty`` (0 bytes), ``incomplete`` (still being uploaded, recorded or downloaded),
    ``web_page`` (an HTML page or a server's answer under the name of a video), ``playlist`` (it names other files),
    ``no_streams`` (media, but with neither picture nor sound), ``encrypted`` and ``not_media`` (something else).
    """

    NOT_FOUND = "not_found"
    REFUSED = "refused"
    IO = "io"
    EMPTY = "empty"
    INCOMPLETE = "incomplete"
    WEB_PAGE = "web_page"
    PLAYLIST = "playlist"
    NO_STREAMS = "no_streams"
    ENCRYPTED = "encrypted"
    NOT_MEDIA = "not_media"
    UNDECODABLE = "undecodable"
    TIMEOUT = "timeout"
    WORKER_DIED = "worker_died"
    OUT_OF_MEMORY = "out_of_memory"
    MODEL = "model"


#: A failure of these kinds may go away by itself, so a later run tries again; the others need another file or model.
TRANSIENT = frozenset({ErrorType.IO, ErrorType.TIMEOUT, ErrorType.WORKER_DIED, ErrorType.OUT_OF_MEMORY})


class RunEnded(Exception):
    """A run ended before it was done; what was committed is kept.

    Attributes:
        summary: what the run wrote of itself, once it had begun.
        last_words: the same as a command prints it, the last of all.
    """

    summary: dict[str, Any] | None = None
    last_words: str = ""


class RunBroken(RunEnded, RuntimeError):
    """The run itself cannot go on (an extractor does not start, the cluster is gone); what was committed is kept."""


def without_password(address: str) -> str:
    """An address as it may be shown: ``user:password@`` is left out; the same text when it has none."""
    return _PASSWORD.sub(r"\1\2\3", address)


#: Why an address with a password is not taken.
PASSWORD_REFUSED = "it holds a password, which logs and tables would show: credentials come from the environment"
#: As in ``s3://KEY:SECRET@bucket``, where the secret may hold slashes, and ``https://TOKEN@host``.
#: In ``abfs://container@account`` and ``github://me:name@`` it is part of the name.
_PASSWORD = re.compile(
    r"^(?:(s3a?://)[^/@]*:[^@]*@|(https?://)[^/@]+@|((?:gc?s|az|abfss?|hdfs|s?ftp|ssh|smb)://)[^/@]*:[^/@]*@)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Failure:
    """One failed (video, stage) cell.

    Attributes:
        error_type: what kind of failure, which decides whether a later run tries again.
        message: for a person; names the cause and, where there is one, the remedy.
    """

    error_type: ErrorType
    message: str

    @classmethod
    def of(cls, error: BaseException, error_type: ErrorType | None = None) -> Failure:
        """The failure that an exception stands for; its kind is read off the exception unless given."""
        kind = error_type or _kind(error)
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return cls(kind, message[:MAX_MESSAGE])


def _kind(error: BaseException) -> ErrorType:
    if isinstance(error, FileNotFoundError):
        return ErrorType.NOT_FOUND
    if isinstance(error, TimeoutError):
        return ErrorType.TIMEOUT
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return ErrorType.OUT_OF_MEMORY
    if isinstance(error, OSError):
        return ErrorType.IO
    return ErrorType.MODEL
