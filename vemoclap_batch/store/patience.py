"""What an output folder may do to a run: be out of reach for a while, be full, be closed to it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import pyarrow.fs as pafs

from vemoclap_batch.errors import RunBroken

log = logging.getLogger(__name__)
T = TypeVar("T")

#: How long a remote folder may be out of reach before the run gives up.
PATIENCE_S = 300.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 20.0


class Unreachable(OSError):
    """A remote folder that did not answer; it may again."""


def is_local(filesystem: pafs.FileSystem) -> bool:
    """Whether a filesystem is this machine's own."""
    return isinstance(filesystem, pafs.LocalFileSystem)


def patiently(
    remote: bool, what: str, action: Callable[[], T], check: Callable[[], None] | None = None
) -> T:  # fmt: skip
    """Do something to a folder; on a remote one, try again with growing pauses while it is out of reach.

    Args:
        remote: whether the folder is on another machine; an error of a local one is final.
        what: the folder, and what is done to it, for messages.
        action: may be repeated: doing it twice is as good as once.
        check: called before each try, raises when the folder is no longer this run's to write.

    Raises:
        RunBroken: full, closed, or out of reach for longer than :data:`PATIENCE_S`; names the folder.
        FileNotFoundError: as the action raised it.
    """
    began, pause = time.monotonic(), _FIRST_PAUSE_S
    while True:
        try:
            if check:
                check()
            return action()
        except FileNotFoundError:
            raise
        except OSError as error:
            left = began + PATIENCE_S - time.monotonic()
            if not remote or _is_final(error) or left <= 0:
                raise RunBroken(f"{what}: {reason(error)}") from error
            if pause == _FIRST_PAUSE_S:
                log.warning("%s: %s; trying again for up to %.0f s", what, reason(error), left)
            time.sleep(min(pause, left))
            pause = min(pause * 2, _LONGEST_PAUSE_S)


def reason(error: Exception) -> str:
    """What an error says, in one line."""
    text = getattr(error, "strerror", None) or str(error)
    return (text.strip() or type(error).__name__).splitlines()[0]


def _is_final(error: OSError) -> bool:
    # pyarrow's errors of object stores are plain OSErrors with the store's code in the text.
    codes = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "NO_SUCH_BUCKET", "credentials")
    return isinstance(error, PermissionError | NotADirectoryError) or any(code in str(error) for code in codes)
