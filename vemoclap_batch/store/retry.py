"""Trying again what failed because a remote store was out of reach for a while."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow.fs as pafs
import tenacity

from vemoclap_batch.errors import RunBroken

log = logging.getLogger(__name__)
T = TypeVar("T")

#: How long a remote store may be out of reach before the run gives up.
RETRY_S = 300.0
#: What stores say, in any spelling, of errors that stay however often one tries.
_FINAL = re.compile(
    "access_?denied|invalid_?access_?key_?id|signature_?does_?not_?match|no_?such_?bucket|credentials|403 forbidden|"
    "501 not implemented",
    re.IGNORECASE,
)
#: What Rust's clients say of errors that may pass: of a store, or of a commit that came after somebody else's.
_PASSING = re.compile("Generic (S3|GCS|MicrosoftAzure) error|Failed to commit")
#: Of errors of Rust's clients: colours, arrows, what they had tried, and the error once more for developers.
_NOISE = re.compile("\x1b\\[[0-9;]*m|↳|Error performing .*? - |\\s+Debug source:.*", re.DOTALL)
_LONGEST_REASON = 300


class Unreachable(OSError):
    """A remote store that did not answer; it may again."""


def is_local(filesystem: pafs.FileSystem) -> bool:
    """Whether a filesystem is this machine's own."""
    return isinstance(filesystem, pafs.LocalFileSystem)


def retry(
    remote: bool, what: str, action: Callable[[], T], check: Callable[[], None] | None = None,
    errors: tuple[type[Exception], ...] = (OSError,),
) -> T:  # fmt: skip
    """Do something to a store; on a remote one, again with growing pauses while it is out of reach.

    Args:
        remote: whether the store is on another machine; an error of a local one is final.
        what: what is done to which folder, for messages.
        action: may be repeated: doing it twice is as good as once.
        check: called before each try, raises when the folder is no longer this run's to write.
        errors: the exceptions by which the store's client says that something failed.

    Raises:
        RunBroken: full, closed, or out of reach for longer than :data:`RETRY_S`; names the folder.
        FileNotFoundError: as the action raised it.
    """

    def attempt() -> T:
        if check:
            check()
        return action()

    def may_pass(error: BaseException) -> bool:
        if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError) or _FINAL.search(str(error)):
            return False
        passing = isinstance(error, OSError) or _PASSING.search(str(error)) is not None
        return remote and isinstance(error, errors) and passing

    def tell(state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome:
            log.warning("%s: %s; trying again for up to %.0f s", what, reason(state.outcome.exception()), RETRY_S)

    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(may_pass), wait=tenacity.wait_exponential(0.5, max=20),
        stop=tenacity.stop_after_delay(RETRY_S), before_sleep=tell, reraise=True,
    )  # fmt: skip
    try:
        return attempts(attempt)
    except FileNotFoundError:
        raise
    except errors as error:
        raise RunBroken(f"{what}: {reason(error)}") from error


def reason(error: Any) -> str:
    """What an error says, in one line; of an error of the operating system, its words alone."""
    text = _NOISE.sub("", getattr(error, "strerror", None) or str(error))
    if system := re.search(r"([^:\n]+) \(os error \d+\)", text):
        text = system[1]
    return " ".join(text.split())[:_LONGEST_REASON] or type(error).__name__
