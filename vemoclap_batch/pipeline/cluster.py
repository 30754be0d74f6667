"""Joining or starting Ray."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress

import psutil
import ray

from vemoclap_batch.errors import RunBroken, RunEnded
from vemoclap_batch.pipeline.plan import Cluster

log = logging.getLogger(__name__)

#: How long the head node of a cluster may take to answer: one that was just started does not at once.
ANSWER_S = 20.0
#: How long killed processes may take to be gone.
_END_S = 10.0
_GIB = 1024**3


@contextmanager
def connected(address: str | None = None, verbose: bool = False) -> Iterator[Cluster]:
    """A Ray session for as long as the context lasts; one that is running in this process already is used as it is.

    Without an address (given here or in ``RAY_ADDRESS``, which a submitted job has) Ray starts on this machine alone,
    and never joins whatever cluster happens to run here.

    Raises:
        RunBroken: nobody answers at the address, or Ray does not start on this machine.
    """
    if ray.is_initialized():
        yield cluster_resources()
        return
    try:
        _join(address or os.environ.get("RAY_ADDRESS") or "local", verbose)
        yield cluster_resources()
    finally:
        ray.shutdown()


def _join(address: str, verbose: bool) -> None:
    wait_for_answer(address)
    # Ray would ask the network whose cloud it runs in, and report it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == "local":
        _start_here(verbose)
    else:
        _init(address, verbose)


def _start_here(verbose: bool) -> None:
    """Start Ray on this machine; on a busy one its processes may miss each other, so there is a second try.

    Raises:
        RunBroken: it did not start either time.
    """
    others = set(psutil.Process().children(recursive=True))
    try:
        _init("local", verbose)
        return
    except RunEnded:  # SIGTERM came meanwhile.
        raise
    except Exception as error:  # Of a node that does not come up, Ray raises a plain one.
        log.warning("Ray did not start on this machine: %s; trying once more", _first_sentence(error))
    _end_half_started(others)
    try:
        _init("local", verbose)
    except RunEnded:
        raise
    except Exception as error:
        _end_half_started(others)
        raise RunBroken(
            f"Ray did not start on this machine, in two tries: {_first_sentence(error)}. Mostly that is a machine that "
            "is too busy, or short of memory or of disk space: try again when it is less so, or give the --address of "
            "a cluster that runs. Ray's own logs are in session_latest/logs, in /tmp/ray or where RAY_TMPDIR says"
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


def _first_sentence(error: Exception) -> str:
    """What Ray says at first; lines of its logs follow."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0].strip()


def _end_half_started(others: Collection[psutil.Process]) -> None:
    """End what Ray has started, which it leaves running where not all of it came up; other children stay."""
    ray.shutdown()
    children = psutil.Process().children(recursive=True)
    mine = [process for process in children if process not in others and _is_rays(process)]
    for process in mine:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(mine, timeout=_END_S)


def _is_rays(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return any(part.startswith(os.path.dirname(ray.__file__)) for part in process.cmdline())
    return False


def wait_for_answer(address: str) -> None:
    """Knock at a head node before Ray does, which would try for many minutes and say nothing.

    Raises:
        RunBroken: nobody answers there.
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the terminal what Ray's native core says of itself: it is all in Ray's own log files.

    It prints errors of no consequence, such as one for every actor that may be restarted, and a line that it will not.
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


def cluster_resources() -> Cluster:
    """What the connected cluster has."""
    total = ray.cluster_resources()
    return Cluster(total.get("CPU", 0.0), total.get("GPU", 0.0), total.get("memory", 0.0) / _GIB)


def this_machine() -> Cluster:
    """What Ray would find on this machine, without starting it: for a dry run."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Ray gives about 30 % of the memory to its object store.
    return Cluster(float(cpus), 0.0, psutil.virtual_memory().available * 0.7 / _GIB)
