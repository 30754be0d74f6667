"""SIGTERM: take no new work, commit what is under way for a while, then leave."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

#: How long a run commits what is still arriving after it was asked to stop.
GRACE_S = 25.0


class Stopped(Exception):
    """The run was asked to stop (SIGTERM); what was finished is kept."""


class StopRequest:
    """Whether a stop was asked for.

    Attributes:
        asked: by SIGTERM.
        heard: whether the process listens to signals.
        error: what the main thread is to raise in the end.
    """

    def __init__(self) -> None:
        """Not yet."""
        self.asked = False
        self.heard = False
        self.error: Exception = Stopped()

    def abort(self, error: Exception) -> None:
        """Have an error raised in the main thread, for any thread to call.

        That is where it waits in Python, as for the next block of a run; a wait inside Ray's own core goes on.
        """
        self.error = error
        if self.heard:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)


@contextmanager
def stoppable(on_stop: Callable[[], object], grace_s: float = GRACE_S) -> Iterator[StopRequest]:
    """Turn the first SIGTERM into a request, and the end of its grace, or a second SIGTERM, into :class:`Stopped`.

    Outside a process's main thread, where no signal arrives, nothing changes, and nothing can be aborted.

    Args:
        on_stop: called once, in the signal's handler: has no new work begun.
        grace_s: seconds between the request and :class:`Stopped`.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def at_the_end(number: int, frame: FrameType | None) -> None:
        raise request.error

    def at_first(number: int, frame: FrameType | None) -> None:
        request.asked = True
        signal.signal(signal.SIGTERM, at_the_end)
        signal.setitimer(signal.ITIMER_REAL, grace_s)
        on_stop()

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    signal.signal(signal.SIGTERM, at_first)
    signal.signal(signal.SIGALRM, at_the_end)
    request.heard = True
    try:
        yield request
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
