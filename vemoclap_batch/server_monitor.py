"""Ends a run whose servers of Ray have ended: Ray itself waits for them, silently and for minutes or for ever."""

from __future__ import annotations

import logging
import os
import sys
import threading
from contextlib import suppress

import psutil

from vemoclap_batch.errors import RunBroken
from vemoclap_batch.lifetime import Watchdog
from vemoclap_batch.shutdown import abort

log = logging.getLogger(__name__)

_SERVERS = {"raylet": "Ray's scheduler", "gcs_server": "Ray's control service"}
_LOOK_EVERY_S = 0.5
#: Once a server has ended: how long Ray may take to notice while it starts, the start to be interrupted, a run to end.
_NOTICE_S, _START_STUCK_S, _STUCK_S = 3.0, 7.0, 15.0


class ServerMonitor:
    """Looks whether the raylet and the gcs_server that this process has started live, or the raylet of its node.

    The gcs_server of a cluster may be on another machine and may come back, so it is left to Ray. Where the main thread
    is not :func:`~vemoclap_batch.shutdown.stoppable`, what has ended is logged and no more.
    """

    def __init__(self, watchdog: Watchdog | None = None) -> None:
        """Begin to look.

        Args:
            watchdog: of the Ray that this process starts; None on a cluster that runs.
        """
        self._watchdog = watchdog
        self._others = {child.pid for child in psutil.Process().children()}
        self._servers: dict[psutil.Process, str] = {}
        self._starting, self._over, self._closed = True, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._check, name="Ray's servers", daemon=True)
        self._thread.start()

    def start_begins(self) -> None:
        """Ray is started; when a server ends, the start is interrupted by a TimeoutError if Ray does not notice."""
        self._over, self._servers = threading.Event(), {}

    def start_failed(self) -> None:
        """What is left of this start is ended."""
        self._over.set()

    def run_begins(self, raylet_socket: str | None) -> None:
        """Ray has started; when a server ends, a RunBroken is raised in the main thread.

        Args:
            raylet_socket: of the raylet that this process is connected to, as Ray's list of nodes names it, if it does.
        """
        if self._watchdog is None and raylet_socket is not None:
            self._servers = _raylet(raylet_socket)
        before, self._over, self._starting = self._over, threading.Event(), False
        before.set()

    def run_ends(self) -> None:
        """Servers that end from now on are no trouble; a process that hangs for one that ended before still is."""
        self._closed.set()

    def close(self) -> None:
        """Nothing of Ray is used any more."""
        self._closed.set()
        self._over.set()
        self._thread.join()

    def _check(self) -> None:
        while not self._closed.wait(_LOOK_EVERY_S):
            over, starting = self._over, self._starting
            if (server := self._ended()) is None or (starting and over.wait(_NOTICE_S)):
                continue
            reason = (
                f"{_SERVERS[server]} of this machine ({server}) was killed or has crashed, maybe for lack of memory"
            )
            # As for any other reason why Ray does not start, there is a second try.
            if not abort(TimeoutError(f"its {server} has ended") if starting else RunBroken(reason)):
                log.error("%s", reason)
                return
            if not over.wait(_START_STUCK_S if starting else _STUCK_S):
                self._exit(f"error: the run broke off: {reason}\n")
            if not starting:
                return

    def _ended(self) -> str | None:
        """Name of a server that lives no more."""
        servers = self._servers
        if self._watchdog is not None and len(servers) < len(_SERVERS):
            for child in psutil.Process().children():
                with suppress(psutil.Error):
                    if child.pid not in self._others and child.name() in _SERVERS:
                        servers[child] = child.name()
        return next((name for process, name in servers.items() if not _lives(process)), None)

    def _exit(self, message: str) -> None:
        """Exit by force: the main thread waits in Ray's native code, which no signal interrupts."""
        if self._watchdog is not None:
            # While Ray starts, nothing that this process writes is shown.
            self._watchdog.tell(message)
        else:
            print(message, end="", file=sys.stderr, flush=True)
        os._exit(1)


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _raylet(name: str) -> dict[psutil.Process, str]:
    """The raylet with a socket; empty where it is not to be seen, as from another container."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() == "raylet" and f"--raylet_socket_name={name}" in process.cmdline():
                return {process: "raylet"}
    return {}
