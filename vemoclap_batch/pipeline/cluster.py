"""The Ray cluster of a run: join or start it, ask for its resources, monitor whether it keeps them."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import psutil
import ray
from ray._private import parameter, services, utils
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vemoclap_batch.config import Config, has_gpu
from vemoclap_batch.errors import RunBroken, RunEnded
from vemoclap_batch.gpus import SMI_S, gpus_here
from vemoclap_batch.lifetime import Watchdog
from vemoclap_batch.server_monitor import ServerMonitor
from vemoclap_batch.shutdown import listen_again, uninterrupted

log = logging.getLogger(__name__)

#: How long the head node of a cluster may take to answer: one that was just started does not at once.
ANSWER_S = 20.0
#: How long killed processes may take to be gone.
_END_S = 10.0
#: How long SIGTERM waits for the start of Ray: some 3 s on an idle machine.
_START_S = 10.0
_LOOK_EVERY_S = 15.0
_GIB = 1024**3
#: Share of a node's memory that Ray gives to actors; the object store gets the rest, up to a bound.
FOR_ACTORS, _MAX_STORE_GB = 0.7, 186.0
_GPU_TYPE = "accelerator_type:"
#: Set while this process has a Ray of its own, started on this machine.
_local = threading.Event()


@dataclass(frozen=True)
class Node:
    """What one node has, and how many equal nodes there are.

    Attributes:
        memory_gb: GiB that Ray gives to actors: about 70 % of the node's memory; the object store has the rest.
        gpu_memory_gb: GiB of one GPU; None where it is not known.
        count: nodes that are like this.
        gpu_type: as Ray names it (``H100``); None without a GPU, or where Ray does not know it.
    """

    cpus: float
    gpus: float
    memory_gb: float
    gpu_memory_gb: float | None = None
    count: int = 1
    gpu_type: str | None = None

    @property
    def object_store_gb(self) -> float:
        """GiB of the node's object store, as Ray sizes it."""
        return min(self.memory_gb / FOR_ACTORS * (1 - FOR_ACTORS), _MAX_STORE_GB)


@dataclass(frozen=True)
class Cluster:
    """The nodes of a cluster.

    Attributes:
        can_grow: whether nodes may join while a run goes on.
    """

    nodes: tuple[Node, ...]
    can_grow: bool = False

    @property
    def cpus(self) -> float:
        """CPUs of all nodes."""
        return sum(node.cpus * node.count for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs of all nodes."""
        return sum(node.gpus * node.count for node in self.nodes)

    @property
    def memory_gb(self) -> float:
        """GiB for actors on all nodes."""
        return sum(node.memory_gb * node.count for node in self.nodes)

    @property
    def object_store_gb(self) -> float:
        """GiB of the object stores of all nodes."""
        return sum(node.object_store_gb * node.count for node in self.nodes)

    @property
    def gpu_memory_gb(self) -> float | None:
        """GiB of the smallest GPU; None where there is none, or one whose memory is not known."""
        sizes = [node.gpu_memory_gb for node in self.nodes if node.gpus]
        return None if None in sizes else min((size for size in sizes if size is not None), default=None)

    @property
    def gpu_type(self) -> str | None:
        """The types of the GPUs, in words; None where none is known."""
        return "+".join(sorted({node.gpu_type for node in self.nodes if node.gpus and node.gpu_type})) or None


@contextmanager
def connected(address: str | None = None, verbose: bool = False) -> Iterator[Cluster]:
    """Connect to Ray for as long as the context lasts; a session that this process has already is used as it is.

    Without an address (given here or in ``RAY_ADDRESS``, which a submitted job has) Ray starts on this machine alone,
    and never joins whatever cluster happens to run here.

    A Ray of this machine alone ends with this process, however that ends, and leaves no process behind.

    Raises:
        RunBroken: no cluster answers at the address, Ray does not start on this machine, or (within
            :func:`~vemoclap_batch.shutdown.stoppable`) a server of Ray on this machine ended.
    """
    if ray.is_initialized():
        yield cluster_resources()
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    wait_for_answer(address)
    # Ray would ask the network whose cloud it runs in, and report it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with ExitStack() as stack:
        watchdog = stack.enter_context(closing(Watchdog())) if address == "local" else None
        monitor = stack.enter_context(closing(ServerMonitor(watchdog)))
        stack.callback(ray.shutdown)
        if watchdog:
            with watchdog.marking():
                _start_here(verbose, monitor)
            stack.callback(_local.clear)
            _local.set()
        else:
            _init(address, verbose)
        here = ray.get_runtime_context().get_node_id()
        names = [node["RayletSocketName"] for node in ray.nodes() if node["NodeID"] == here]
        monitor.run_begins(names[0] if names else None)
        stack.callback(monitor.run_ends)
        yield cluster_resources()


def cluster_resources() -> Cluster:
    """Return the nodes of the connected cluster; those that are alike are counted together.

    A Ray that :func:`connected` started on this machine does not grow; to any other one nodes may be added.
    """
    found = Counter(_node(node["Resources"]) for node in ray.nodes() if node["Alive"])
    return Cluster(tuple(replace(node, count=count) for node, count in found.items()), can_grow=not _local.is_set())


def _node(resources: Mapping[str, float]) -> Node:
    gpus = resources.get("GPU", 0.0)
    types = sorted(name.removeprefix(_GPU_TYPE) for name in resources if name.startswith(_GPU_TYPE)) if gpus else []
    memory_gb = resources.get("memory", 0.0) / _GIB
    return Node(resources.get("CPU", 0.0), gpus, memory_gb, gpu_type="+".join(types) or None)


def this_machine() -> Cluster:
    """Return what Ray would find on this machine, without starting it: for a dry run."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = gpus_here() if has_gpu() else []
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    gpus = min(len(visible), len(found)) if visible else len(found)
    gpu_type = "+".join(sorted({name for name, _ in found if name})) or None
    memory_gb = min((size for _, size in found), default=None)
    available_gb = psutil.virtual_memory().available / _GIB * FOR_ACTORS
    return Cluster((Node(float(cpus), float(gpus), available_gb, memory_gb, gpu_type=gpu_type),))


def with_gpu_memory(cluster: Cluster, config: Config) -> Cluster:
    """Ask the connected cluster how much memory its GPUs have: one node of each kind, which runs ``nvidia-smi``.

    No node is asked if the run uses no CUDA, or if ``pipeline.gpu_memory_gb`` says it. What is not known stays None.
    """
    if not config.uses_gpu or config.pipeline.gpu_device != "cuda" or config.pipeline.gpu_memory_gb is not None:
        return cluster
    asked: dict[tuple[float, float, str | None], ray.ObjectRef[list[tuple[str | None, float]]]] = {}
    for found in ray.nodes():
        node = _node(found["Resources"])
        if found["Alive"] and node.gpus and _kind(node) not in asked:
            there = NodeAffinitySchedulingStrategy(found["NodeID"], soft=False)
            # Without a GPU of its own it sees all of the node's.
            asked[_kind(node)] = ray.remote(gpus_here).options(num_cpus=0, scheduling_strategy=there).remote()
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=SMI_S) if asked else ([], [])
    sizes: dict[tuple[float, float, str | None], float | None] = {}
    for kind, reference in asked.items():
        try:
            sizes[kind] = min((size for _, size in ray.get(reference)), default=None) if reference in ready else None
        except RayError as error:  # The node may be gone by now.
            log.warning("a node does not say how much memory its GPUs have: %s", error)
    return replace(cluster, nodes=tuple(replace(node, gpu_memory_gb=sizes.get(_kind(node))) for node in cluster.nodes))


def _kind(node: Node) -> tuple[float, float, str | None]:
    return node.cpus, node.gpus, node.gpu_type


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
                give_up(f"it stood still for {wait_s:g} s: the cluster has {lacking}")
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


def _start_here(verbose: bool, monitor: ServerMonitor) -> None:
    """Start Ray on this machine. On a busy one its processes may not find each other in time, so there is a second try.

    Raises:
        RunBroken: it did not start either time.
    """
    others = set(psutil.Process().children(recursive=True))
    for again in (True, False):
        try:
            monitor.start_begins()
            _init("local", verbose)
            return
        except RunEnded:  # SIGTERM came meanwhile.
            raise
        except Exception as error:  # Of a node that does not come up, Ray raises a plain one.
            monitor.start_failed()
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
    bare = address == "local" and not verbose
    with nullcontext() if verbose else _quiet(), _bare() if bare else nullcontext(), _our_handler():
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
def _bare() -> Iterator[None]:
    """Start Ray without its dashboard's server, its autoscaler and its monitor of logs: 2 s of a CPU, 160 MiB.

    :func:`ray.init` has no options for that, and waits for the server even when it is to include no dashboard.
    """
    start_server, parameters = services.start_api_server, parameter.RayParams
    # What it returns where the server does not start.
    services.start_api_server = lambda *_, **__: (None, None)
    less: Any = {"no_monitor": True, "include_log_monitor": False}
    parameter.RayParams = partial(parameters, **less)  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        services.start_api_server, parameter.RayParams = start_server, parameters  # type: ignore[misc]


@contextmanager
def _our_handler() -> Iterator[None]:
    """Have SIGTERM end a :func:`~vemoclap_batch.shutdown.stoppable` process after Ray's start, as a rule.

    The handler of :func:`ray.init` raises SystemExit wherever the signal arrives. Where Ray forks a process, Python
    ignores it and leaves the lock of its logging held: the run would hang, and never stop. While Ray connects, it would
    end in a crash of Ray's native core.
    """
    set_handler = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None if listen_again() else set_handler(handler)
    try:
        with uninterrupted(_START_S):
            yield
    finally:
        utils.set_sigterm_handler = set_handler
        listen_again()  # The native core has a handler of its own.


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
