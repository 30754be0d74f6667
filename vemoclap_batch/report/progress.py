"""How far a run is: a live bar in a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_EVERY_S = 5.0


class Tracker:
    """Shows how many of some items are done, in a bar or in lines, of which there is at most one every few seconds."""

    def __init__(self, what: str, total: int, bar: Progress | None) -> None:
        self._what, self._total, self._bar = what, total, bar
        self._task = bar.add_task(what, total=total, failed=0) if bar else None
        self._began = self._shown = time.monotonic()

    def log(self, text: str) -> None:
        """Print one line that stays."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def update(self, done: int, failed: int = 0) -> None:
        """Show how many items are done, those that failed among them."""
        now = time.monotonic()
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, failed=failed)
        elif now - self._shown >= _EVERY_S or done >= self._total:
            self._shown, elapsed = now, now - self._began
            left = f", about {elapsed / done * (self._total - done):.0f} s left" if 0 < done < self._total else ""
            self.log(f"{self._what}: {done}/{self._total} done, {failed} failed, {elapsed:.0f} s{left}")


@contextmanager
def tracking(what: str, total: int) -> Iterator[Tracker]:
    """Follow some work of ``total`` items."""
    if not sys.stderr.isatty():
        yield Tracker(what, total, None)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]} failed"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield Tracker(what, total, bar)
