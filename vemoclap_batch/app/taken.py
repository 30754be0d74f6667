"""What a request brings, and why one is not taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_NAME = 120


class Refused(Exception):
    """A request that is not taken; the message is for whoever sent it.

    Attributes:
        status: of the answer.
        error_type: as in the errors table, where there is one.
        retry_after_s: when to try again; None where that is of no use.
    """

    def __init__(self, status: int, message: str, error_type: str = "refused", retry_after_s: float | None = None):
        super().__init__(message)
        self.status, self.error_type, self.retry_after_s = status, error_type, retry_after_s


@dataclass(frozen=True)
class Upload:
    """A file that has come whole.

    Attributes:
        path: where it lies; it is moved from there.
        sha256: hex digest of its bytes.
    """

    path: Path
    name: str
    sha256: str
    size: int


def shown_name(name: str) -> str:
    """Return the last part of a name on one line, for people to read."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    line = "".join(char if char.isprintable() else " " for char in last).strip()
    return (line if len(line) <= _NAME else line[: _NAME - 1] + "…") or "video"
