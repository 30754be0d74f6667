"""How far a run is: a live bar in a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

_EVERY_S = 5.0


class Pace:
    """How fast items are done: the slope of a line through what was done by when, fitted by least squares.

    Start-up doesn't count: the line needs no origin. Items that are done together are a point in their middle that
    weighs as much as they are, so that it matters little whether the last of some that run side by side are in yet.
    """

    def __init__(self) -> None:
        self._done = 0
        self._last_s = self._weight = 0.0
        # Means of time and of items done; sums of squares and products around these.
        self._mean_s = self._mean_done = self._squares = self._products = 0.0

    def update(self, done: int, now: float) -> None:
        """Note how many items are done now."""
        if done <= self._done:
            return
        # The first may be the rest of what somebody else did.
        items = done - self._done if self._weight else 1
        middle = done - items / 2
        self._weight += items
        from_mean_s, share = now - self._mean_s, items / self._weight
        self._mean_s += from_mean_s * share
        self._products += items * (middle - self._mean_done) * (now - self._mean_s)
        self._mean_done += (middle - self._mean_done) * share
        self._squares += items * from_mean_s * (now - self._mean_s)
        self._done, self._last_s = done, now

    def left_s(self, total: int, now: float) -> float | None:
        """Return how many seconds are left until so many are done; None when that is not known yet."""
        if self._done >= total or self._squares <= 0 or self._products <= 0:
            return None
        item_s = self._squares / self._products
        # Something is left: that takes as long as one item, however long it has taken already.
        return max((total - self._done) * item_s - (now - self._last_s), item_s)


class _Left(ProgressColumn):
    """The time that is left."""

    def render(self, task: Task) -> Text:
        left_s = task.fields["pace"].left_s(task.total, time.monotonic())
        return Text("-:--:--" if left_s is None else str(timedelta(seconds=round(left_s))), style="progress.remaining")


class Tracker:
    """Shows how many of some items are done, in a bar or in lines, of which there is at most one every few seconds."""

    def __init__(self, what: str, total: int, bar: Progress | None) -> None:
        self._what, self._total, self._bar = what, total, bar
        self._pace = Pace()
        self._task = bar.add_task(what, total=total, failed=0, pace=self._pace) if bar else None
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
        self._pace.update(done, now)
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, failed=failed)
        elif now - self._shown >= _EVERY_S or done >= self._total:
            self._shown, elapsed = now, now - self._began
            left_s = self._pace.left_s(self._total, now)
            left = "" if left_s is None else f", about {left_s:.0f} s left"
            self.log(f"{self._what}: {done}/{self._total} done, {failed} failed, {elapsed:.0f} s{left}")


@contextmanager
def tracking(what: str, total: int) -> Iterator[Tracker]:
    """Follow some work of ``total`` items."""
    if not sys.stderr.isatty():
        yield Tracker(what, total, None)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]} failed"),
        TimeElapsedColumn(), TextColumn("left"), _Left(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield Tracker(what, total, bar)
