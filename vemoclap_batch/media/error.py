"""The one exception that decoding raises."""

from __future__ import annotations

from collections.abc import Callable

from vemoclap_batch.failure import ErrorType, Failure

#: Called now and then while decoding gets on, so that a watcher can tell slow from stuck.
Beat = Callable[[], None]


class MediaError(Exception):
    """A video that gives no clip.

    Attributes:
        failure: the kind and the cause, as they go into the ``errors`` table.
    """

    def __init__(self, error_type: ErrorType, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(error_type, message)


def no_beat() -> None:
    """For a caller that watches nothing."""
