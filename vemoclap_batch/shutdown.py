"""Graceful shutdown: after SIGTERM nothing new begins, and what is under way is committed for a while."""

from __future__ import annotations

import _weakrefset
import logging
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from vemoclap_batch.errors import RunEnded

#: How long a run commits what is still arriving after it was asked to stop.
GRACE_S = 25.0
#: Python code in which an exception would be swallowed or leave a lock held for ever: it runs when a process is forked
#: (Python gives locks back then, and ignores exceptions), when something is logged, or when an object is collected.
_CRITICAL = {logging.__file__, weakref.__file__, _weakrefset.__file__}
#: How long an exception is put off there, and how often at most.
_LATER_S, _MOST_LATER = 0.01, 500


#: Those of :func:`stoppable` in the main thread, the innermost last.
_requests: list[StopRequest] = []


class Stopped(RunEnded):
    """The run was asked to stop (SIGTERM); what was finished is kept."""


class StopRequest:
    """Handles SIGTERM, and errors that another thread raises in the main one.

    Attributes:
        asked: whether SIGTERM came.
    """

    def __init__(self) -> None:
        self.asked = False
        # Outside a process's main thread no signal arrives.
        self._hears = threading.current_thread() is threading.main_thread()
        self._error: Exception = Stopped()
        self._on_stop: Callable[[], object] | None = None
        self._grace_s = GRACE_S
        self._put_off = 0

    def listen(self) -> None:
        """Install the signal handlers."""
        if self._hears:
            signal.signal(signal.SIGTERM, self._at_term)
            signal.signal(signal.SIGALRM, self._raise)

    @contextmanager
    def gently(self, on_stop: Callable[[], object], grace_s: float = GRACE_S) -> Iterator[None]:
        """Have the first SIGTERM only ask for a stop; the end of its grace, or a second one, raises :class:`Stopped`.

        Args:
            on_stop: called once, in the signal's handler: has no new work begun.
            grace_s: seconds between the request and :class:`Stopped`.
        """
        self._on_stop, self._grace_s = on_stop, grace_s
        self.listen()
        if self.asked:  # Nobody asks twice: a library that caught the exception has lost it.
            raise Stopped
        try:
            yield
        finally:
            self._on_stop = None
            if self._hears:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def abort(self, error: Exception) -> None:
        """Raise an error in the main thread; any thread may call this.

        It interrupts what waits there in Python, as for the next block of a run, but no wait inside Ray's own core.
        """
        self._error = error
        if self._hears:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    def _at_term(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked, True
        if again or self._on_stop is None:
            self._raise(number, frame)
            return
        signal.setitimer(signal.ITIMER_REAL, self._grace_s)
        self._on_stop()

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if self._put_off < _MOST_LATER and _is_critical(frame):
            self._put_off += 1
            signal.setitimer(signal.ITIMER_REAL, _LATER_S)
            return
        error, self._put_off, self._error = self._error, 0, Stopped()
        raise error


def _is_critical(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename in _CRITICAL or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def abort(error: Exception) -> bool:
    """Raise an error in the main thread, as :meth:`StopRequest.abort` does, where that is :func:`stoppable`.

    Returns:
        whether it is.
    """
    if not _requests:
        return False
    _requests[-1].abort(error)
    return True


def listen_again() -> bool:
    """Install the handlers of :func:`stoppable` once more, where native code has installed its own.

    Returns:
        whether the main thread is stoppable and runs this.
    """
    if not _requests or threading.current_thread() is not threading.main_thread():
        return False
    _requests[-1].listen()
    return True


@contextmanager
def uninterrupted(at_most_s: float) -> Iterator[None]:
    """Put :class:`Stopped` off until the context ends: an exception in the midst of it would leave others' code broken.

    A second SIGTERM, or :func:`abort`, is not put off.

    Args:
        at_most_s: seconds that it is put off for.
    """
    if not listen_again():
        yield
        return
    request = _requests[-1]
    with request.gently(lambda: None, grace_s=at_most_s):
        yield
    if request.asked:
        raise Stopped


@contextmanager
def stoppable() -> Iterator[StopRequest]:
    """Turn SIGTERM into :class:`Stopped`: at once, or after a grace within :meth:`StopRequest.gently`.

    Outside a process's main thread, where no signal arrives, nothing changes, and nothing can be aborted.
    """
    request = StopRequest()
    in_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    request.listen()
    if in_main:
        _requests.append(request)
    try:
        yield request
    finally:
        if in_main:
            _requests.remove(request)
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)
