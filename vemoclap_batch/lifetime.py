"""Nothing outlives its driver: actors end with it, and so do all processes of a Ray that it started on this machine.

Ray ends them too, as a rule, by code that runs in them. Here the kernel does, or a process that has nothing else to do,
so that an actor which hangs in a native library, or in Ray's exit handlers, ends as well. Three means:

- an actor that calls :func:`die_with` is killed when its parent (the raylet of its node) ends, and when its connection
  to the driver closes;
- the driver holds those connections while :func:`listening`;
- a :class:`Watchdog` kills what carries its mark in the environment once the driver has ended.

They need Linux. Elsewhere :func:`die_with` and the watchdog do nothing, and Ray's own means are all there is.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache

log = logging.getLogger(__name__)

#: The variable that marks the processes of one driver's Ray.
MARK = "VEMOCLAP_BATCH_DRIVER"
#: How long an actor tries to reach its driver, where a firewall drops what it sends.
_CONNECT_S = 10.0
#: A peer whose machine has vanished is given up after 60 to 90 s.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 70_000}
#: From linux/prctl.h.
_PR_SET_PDEATHSIG = 1
#: How long the watchdog looks for what is left, how often, and how often in a row it must find nothing.
_LOOK_S, _LOOK_EVERY_S, _LOOKS = 25.0, 0.2, 3
#: How long Ray's processes may take to end by themselves after a shutdown.
_END_S = 5.0
#: How long actors may take to end by themselves when their driver listens no more.
_LEAVE_S = 3.0
_LAST_WORD = (
    "error: the process of the run ended at once: it was killed, or Ray ended it because a process of its own was; "
    "what was committed is kept\n"
)
_WELL = b"well"
_LINUX = sys.platform == "linux"
#: What a child that is forked without exec must not hold open.
_open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
_until_exit = ExitStack()


def die_with(driver: str) -> None:
    """Have the kernel kill this process (SIGKILL) when its parent ends or the driver does, however either ends.

    An actor calls it first of all. It lasts as long as the process.

    Args:
        driver: the address of :func:`listening`.

    Raises:
        RuntimeError: the driver's machine refuses the connection: the run is over, or a firewall rejects it. Ray does
            not restart an actor whose constructor raises. A driver that is out of reach otherwise is a warning, in the
            actor's log: the process then ends with its parent alone.
    """
    if not _LINUX:
        return
    _end_with_parent()
    host, _, port = driver.rpartition(":")
    try:
        connection = socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S)
    except ConnectionRefusedError as error:
        raise RuntimeError(
            f"the driver does not listen at {driver}: its run is over, or a firewall is between"
        ) from error
    except OSError as error:
        log.warning("the driver at %s is out of reach (%s): this process ends with its raylet alone", driver, error)
        return
    connection.setblocking(False)
    _keep_alive(connection)
    # Detached, it stays open until the process ends. A forked child may hold it too: the signal goes to this process.
    end_at_event(connection.detach())


def end_at_event(descriptor: int) -> None:
    """Have the kernel kill this process when a pipe or socket becomes readable, as it does when the other end closes.

    A thread that waits for it would not do: native libraries hold the interpreter lock while they hang.
    """
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    if hasattr(fcntl, "F_SETSIG"):  # Linux; elsewhere the signal is SIGIO.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_NONBLOCK | fcntl.FASYNC)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if poll.poll(0):
        os._exit(1)  # It closed before the kernel knew.


def _end_with_parent() -> None:
    """Set the parent-death signal.

    It is sent when the thread that forked this process ends; the raylet forks from its main thread.
    """
    parent = os.getppid()
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(1)  # It ended before the kernel knew.


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


@contextmanager
def listening(host: str) -> Iterator[str]:
    """Accept the connections of actors, which end when the context does; yields the address for :func:`die_with`.

    End the actors by Ray's own means first: leaving the context gives them some seconds, so that Ray does not take
    their end for a crash, and kills what is left of them. Nothing is ever sent or read. A stranger that connects learns
    nothing and holds a descriptor of this process.

    Args:
        host: this node's address as the other nodes of the cluster see it.
    """
    listener = _listener(host)
    wake, woken = socket.socketpair()
    _open.update((listener, wake, woken))
    thread = threading.Thread(target=_accept, args=(listener, woken), name="connections of actors", daemon=True)
    thread.start()
    port = listener.getsockname()[1]
    try:
        yield f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    finally:
        wake.close()
        thread.join()


@cache
def driver_address(host: str) -> str:
    """Return an address for :func:`die_with` that is :func:`listening` until this process ends."""
    return _until_exit.enter_context(listening(host))


def _listener(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, 0), family=family, backlog=1024)
    except OSError:  # The address is that of a machine around this container, say. Ray listens everywhere, too.
        return socket.create_server(("", 0), family=family, backlog=1024)


def _accept(listener: socket.socket, woken: socket.socket) -> None:
    """Hold connections until they are closed by the other side; close what is left some seconds after being woken."""
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        end: float | None = None
        while end is None or (len(selector.get_map()) and time.monotonic() < end):
            for key, _ in selector.select(None if end is None else max(end - time.monotonic(), 0)):
                ready = key.fileobj
                if ready is woken:
                    end = time.monotonic() + _LEAVE_S
                    for own in (listener, woken):
                        selector.unregister(own)
                        own.close()
                elif ready is listener:
                    with suppress(OSError):  # It was closed at once, or there are too many open files.
                        connection, _ = listener.accept()
                        _open.add(connection)
                        _keep_alive(connection)
                        selector.register(connection, selectors.EVENT_READ)
                elif isinstance(ready, socket.socket):
                    selector.unregister(ready)
                    ready.close()
        for key in list(selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                with suppress(OSError):  # It reaches the actors also where a forked child has the connection open.
                    key.fileobj.shutdown(socket.SHUT_RDWR)
                key.fileobj.close()


def _close_in_fork() -> None:
    for one in list(_open):
        one.close()


os.register_at_fork(after_in_child=_close_in_fork)


class Watchdog:
    """A process that outlives this one and then kills all processes that carry its mark in their environment.

    It also says so on standard error: Ray's native code may end the driver without a word, as when the raylet dies
    while Ray starts. Start Ray within :meth:`marking`: its processes inherit the mark, and so does all that they start.
    Ctrl-C and a terminal that closes do not end the watchdog.
    """

    def __init__(self) -> None:
        self._mark = os.urandom(16).hex()
        self._process: subprocess.Popen[bytes] | None = None
        if _LINUX:
            # Isolated, without site-packages and with an empty environment: it starts at once and carries no mark.
            command = [sys.executable, "-I", "-S", __file__, self._mark, str(os.getpid())]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={}, cwd="/", start_new_session=True
            )

    @contextmanager
    def marking(self) -> Iterator[None]:
        """Mark the processes that this one starts meanwhile, and all that they start."""
        # Ray's agents write their titles over their environment, unless the second is set.
        added = {MARK: self._mark, "SPT_NOENV": "1"}
        before = {name: os.environ.get(name) for name in added}
        os.environ.update(added)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def tell(self, last_word: str) -> None:
        """Have the watchdog say something else on standard error once this process has ended."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):
                os.write(self._process.stdin.fileno(), last_word.encode())

    def close(self) -> None:
        """Wait until no marked process is left; after some seconds they are killed."""
        if self._process is not None:
            self._process.communicate(_WELL)


def _watch(mark: str, parent: int) -> None:
    """Run as the watchdog."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    last_word = _LAST_WORD.encode()
    # A child that the driver forked may hold its end of the pipe open: so look at the parent as well.
    while os.getppid() == parent:
        if select.select([0], [], [], 1.0)[0]:
            if not (told := os.read(0, 10_000)):
                break
            last_word = told
    well = last_word == _WELL
    if not well:
        with suppress(OSError):
            os.write(2, last_word)
    _end_marked(mark, _END_S if well else 0.0)


def _end_marked(mark: str, wait_s: float) -> None:
    """Kill marked processes, some seconds from now, until none is left; those that were just being started as well."""
    began, looks = time.monotonic(), 0
    while looks < _LOOKS and time.monotonic() < began + wait_s + _LOOK_S:
        found = _marked(mark)
        if time.monotonic() >= began + wait_s:
            for pid in found:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        looks = 0 if found else looks + 1
        time.sleep(_LOOK_EVERY_S if found else _LOOK_EVERY_S / 4)


def _marked(mark: str) -> list[int]:
    """Ids of the processes whose environment has the mark; that of one which has ended is empty."""
    entry, found = f"{MARK}={mark}".encode(), []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError), open(f"/proc/{name}/environ", "rb") as stream:
                if entry in stream.read().split(b"\0"):
                    found.append(int(name))
    return found


if __name__ == "__main__":
    _watch(sys.argv[1], int(sys.argv[2]))
