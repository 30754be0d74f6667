"""The one exception that decoding raises."""

from __future__ import annotations

from collections.abc import Callable

from vemoclap_batch.errors import MAX_MESSAGE, ErrorType, Failure

#: Called now and then while decoding gets on, so that a watcher can tell slow from stuck.
Beat = Callable[[], None]


class MediaError(Exception):
    """A video that gives no clip.

    Attributes:
        failure: the kind and the cause, as they go into the ``errors`` table.
    """

    def __init__(self, error_type: ErrorType, message: str) -> None:
        # A file name that is not UTF-8 would keep the message out of a table.
        printable = message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")[:MAX_MESSAGE]
        super().__init__(printable)
        self.failure = Failure(error_type, printable)


def no_beat() -> None:
    """For a caller that watches nothing."""
