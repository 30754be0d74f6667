"""How far a run is: a live bar in a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_EVERY_S = 5.0


class Tracker(Protocol):
    """What a run tells of itself."""

    def say(self, text: str) -> None:
        """One line that stays."""

    def at(self, done: int, failed: int = 0) -> None:
        """How many items are done, those that failed among them."""


class Lines:
    """Plain lines, at most one every few seconds: for logs."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._began = time.monotonic()
        self._said = self._began

    def say(self, text: str) -> None:
        """One line that stays."""
        print(text, file=sys.stderr, flush=True)

    def at(self, done: int, failed: int = 0) -> None:
        """How many items are done, those that failed among them."""
        now = time.monotonic()
        if now - self._said < _EVERY_S and done < self._total:
            return
        self._said = now
        elapsed = now - self._began
        left = f", about {elapsed / done * (self._total - done):.0f} s left" if 0 < done < self._total else ""
        self.say(f"{self._what}: {done}/{self._total} done, {failed} failed, {elapsed:.0f} s{left}")


class Bar:
    """A live bar."""

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(what, total=total, failed=0)

    def say(self, text: str) -> None:
        """One line that stays."""
        self._progress.console.print(text, markup=False, highlight=False)

    def at(self, done: int, failed: int = 0) -> None:
        """How many items are done, those that failed among them."""
        self._progress.update(self._task, completed=done, failed=failed)


@contextmanager
def tracking(what: str, total: int) -> Iterator[Tracker]:
    """Follow some work of ``total`` items."""
    if not sys.stderr.isatty():
        yield Lines(what, total)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]} failed"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Bar(progress, what, total)
