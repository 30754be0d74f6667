"""The exceptions of the package, and the failure of one video, which is a row of a table and never an exception."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

MAX_MESSAGE = 2000


class ErrorType(StrEnum):
    """The kinds of failure that the ``errors`` table names.

    Of files that are no video: ``empty`` (0 bytes), ``incomplete`` (still being uploaded, recorded or downloaded),
    ``web_page`` (an HTML page or a server's answer under the name of a video), ``playlist`` (it names other files),
    ``no_streams`` (a container with neither video nor audio), ``encrypted`` and ``not_media`` (something else).
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


#: Failures that may pass: a later run tries again. The others need another file or model.
TRANSIENT = frozenset({ErrorType.IO, ErrorType.TIMEOUT, ErrorType.WORKER_DIED, ErrorType.OUT_OF_MEMORY})


class ConfigError(ValueError):
    """Wrong configuration or usage; the message names every mistake, one a line."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = list(mistakes)


class Mistakes:
    """Gathers what is wrong with things that do not depend on each other, so that one message names all of it."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._found)

    def add(self, mistakes: Iterable[str]) -> None:
        """Add some; each is named once."""
        self._found += [mistake for mistake in dict.fromkeys(mistakes) if mistake not in self._found]

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Keep the mistakes of a ConfigError in the block, which ends there."""
        try:
            yield
        except ConfigError as error:
            self.add(error.mistakes)

    def refuse(self) -> None:
        """Raise them.

        Raises:
            ConfigError: there are some.
        """
        if self._found:
            raise ConfigError(self._found)


class RunEnded(Exception):
    """A run ended before it was done; what was committed is kept.

    Attributes:
        summary: what ``OUT/runs/<run id>.json`` says of the run; None when it had not begun.
    """

    summary: dict[str, Any] | None = None


class RunBroken(RunEnded, RuntimeError):
    """The run cannot go on: an extractor does not start, say, or the cluster or the output folder is gone."""


class Busy(RunEnded):
    """The run did not begin: another one holds the output folder."""


class LockLost(RunBroken):
    """Another run took the output folder over; this one must write no more."""


def without_password(address: str) -> str:
    """Remove ``user:password@`` from an address, so that it may be shown."""
    return _PASSWORD.sub(r"\1\2\3", address)


#: Why an address with a password is refused.
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
        error_type: decides whether a later run tries again.
        message: for a person; names the cause and, where there is one, the remedy.
    """

    error_type: ErrorType
    message: str

    @classmethod
    def of(cls, error: BaseException, error_type: ErrorType | None = None) -> Failure:
        """Make a failure of an exception; the type follows from the exception unless given."""
        error_type = error_type or _type_of(error)
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return cls(error_type, message[:MAX_MESSAGE])


def _type_of(error: BaseException) -> ErrorType:
    if isinstance(error, FileNotFoundError):
        return ErrorType.NOT_FOUND
    if isinstance(error, TimeoutError):
        return ErrorType.TIMEOUT
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return ErrorType.OUT_OF_MEMORY
    if isinstance(error, OSError):
        return ErrorType.IO
    return ErrorType.MODEL
