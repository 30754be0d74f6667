"""The Ray cluster of a run: join or start it, ask for its resources, monitor whether it keeps them."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass

import psutil
import ray

from vemoclap_batch.errors import RunBroken, RunEnded

log = logging.getLogger(__name__)

#: How long the head node of a cluster may take to answer: one that was just started does not at once.
ANSWER_S = 20.0
#: How long killed processes may take to be gone.
_END_S = 10.0
_LOOK_EVERY_S = 15.0
_GIB = 1024**3


@dataclass(frozen=True)
class Cluster:
    """The resources of a cluster."""

    cpus: float
    gpus: float
    memory_gb: float


@contextmanager
def connected(address: str | None = None, verbose: bool = False) -> Iterator[Cluster]:
    """Connect to Ray for as long as the context lasts; a session that this process has already is used as it is.

    Without an address (given here or in ``RAY_ADDRESS``, which a submitted job has) Ray starts on this machine alone,
    and never joins whatever cluster happens to run here.

    Raises:
        RunBroken: no cluster answers at the address, or Ray does not start on this machine.
    """
    if ray.is_initialized():
        yield cluster_resources()
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        wait_for_answer(address)
        # Ray would ask the network whose cloud it runs in, and report it.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address == "local":
            _start_here(verbose)
        else:
            _init(address, verbose)
        yield cluster_resources()
    finally:
        ray.shutdown()


def cluster_resources() -> Cluster:
    """Return the resources of the connected cluster."""
    total = ray.cluster_resources()
    return Cluster(total.get("CPU", 0.0), total.get("GPU", 0.0), total.get("memory", 0.0) / _GIB)


def this_machine() -> Cluster:
    """Return what Ray would find on this machine, without starting it: for a dry run."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Ray gives about 30 % of the memory to its object store.
    return Cluster(float(cpus), 0.0, psutil.virtual_memory().available * 0.7 / _GIB)


@contextmanager
def capacity_monitor(
    lacks: Callable[[Cluster], str | None], wait_s: float, advanced_at: Callable[[], float],
    give_up: Callable[[str], None],
) -> Iterator[None]:  # fmt: skip
    """Check from time to time whether the cluster still has room for a run's actors.

    Ray waits without end for actors that no longer fit, as after the loss of nodes. With fewer of them a run may go on
    all the same, so it is given up only when it stands still.

    Args:
        lacks: says in words what a cluster lacks for the run, None if it has enough.
        wait_s: seconds that the run may stand still without enough nodes, in which others may take their place.
        advanced_at: when the run advanced last, by the monotonic clock.
        give_up: called once, from a thread, with the reason.
    """
    done = threading.Event()

    def check() -> None:
        since: float | None = None
        while not done.wait(min(_LOOK_EVERY_S, wait_s / 4)):
            try:
                lacking = lacks(cluster_resources())
            # Ray has many for a head node that does not answer; the next look may go well.
            except Exception as error:
                log.warning("the cluster does not say what it has: %s", error)
                continue
            if lacking is None:
                since = None
                continue
            since = max(time.monotonic() if since is None else since, advanced_at())
            if time.monotonic() - since >= wait_s:
                give_up(f"it stood still for {wait_s:g} s: the cluster has only {lacking} that its actors take")
                return

    thread = threading.Thread(target=check, name="capacity monitor", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def wait_for_answer(address: str) -> None:
    """Wait until a head node accepts connections; Ray itself would try for many minutes and print nothing.

    Raises:
        RunBroken: it does not within :data:`ANSWER_S`.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        return  # "local", "auto" and the like, or a scheme that Ray knows.
    end = time.monotonic() + ANSWER_S
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > end:
                raise RunBroken(f"no Ray cluster answers at {address}: {error}") from error
            time.sleep(1)


def _start_here(verbose: bool) -> None:
    """Start Ray on this machine. On a busy one its processes may not find each other in time, so there is a second try.

    Raises:
        RunBroken: it did not start either time.
    """
    others = set(psutil.Process().children(recursive=True))
    for again in (True, False):
        try:
            _init("local", verbose)
            return
        except RunEnded:  # SIGTERM came meanwhile.
            raise
        except Exception as error:  # Of a node that does not come up, Ray raises a plain one.
            # What Ray says at first; lines of its logs follow.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0].strip()
            if again:
                log.warning("Ray did not start on this machine: %s; trying once more", reason)
            _end_half_started(others)
            if not again:
                raise RunBroken(
                    f"Ray did not start on this machine, in two tries: {reason}. Mostly that is a machine that is too "
                    "busy, or short of memory or of disk space: try again when it is less so, or give the --address "
                    "of a cluster that runs. Ray's own logs are in session_latest/logs, in /tmp/ray or where "
                    "RAY_TMPDIR says"
                ) from error


def _init(address: str, verbose: bool) -> None:
    with nullcontext() if verbose else _quiet():
        ray.init(
            address=address,
            # A cluster that runs has a dashboard or not; one of our own needs none.
            include_dashboard=False if address == "local" else None,
            logging_level=logging.INFO if verbose else logging.ERROR,
            log_to_driver=verbose,
        )


def _end_half_started(others: Collection[psutil.Process]) -> None:
    """Kill the processes of a Ray that came up in part, which it leaves running; other children stay."""
    ray.shutdown()
    ended = []
    for process in set(psutil.Process().children(recursive=True)).difference(others):
        with suppress(psutil.Error):
            if any(word.startswith(os.path.dirname(ray.__file__)) for word in process.cmdline()):
                process.kill()
                ended.append(process)
    psutil.wait_procs(ended, timeout=_END_S)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the messages of Ray's native core off the terminal; they are in Ray's own log files.

    It prints errors of no consequence, such as one for every actor that may be restarted.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
