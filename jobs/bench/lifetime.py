"""What is left of a run after SIGKILL of one of its processes, from outside (Linux only)."""

from __future__ import annotations

import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil

from bench.report import Report
from bench.videos import write_video
from vemoclap_batch.errors import ConfigError
from vemoclap_batch.extractors.base import FRAMES, Extractor, ExtractorSettings, Result

DRIVER, RAYLET, GCS, ACTOR = "driver", "raylet", "gcs_server", "actor"
#: What can be killed of a run that starts Ray on this machine, and of one on a cluster that goes on.
LOCAL, CLUSTER = (DRIVER, RAYLET, GCS, ACTOR), (DRIVER, RAYLET, ACTOR)
#: By then nothing may be left.
BOUND_S = 30.0
#: A run that takes longer than this is given up.
_RUN_S = 600.0
_EVERY_S = 0.1
_TRY = "VEMOCLAP_BENCH_TRY"
_ACTOR, _AGAIN = "ray::MapWorker", "trying once more"
#: Processes of a cluster that goes on, by their titles: no run's own.
_STANDING = (
    "ray::IDLE", "ray::_StatsActor", "ray::_AutoscalingCoordinatorActor", "ray::ActorLocationTracker", "ray::_Usage",
    "ray::DashboardAgent", "ray::RuntimeEnvAgent",
)  # fmt: skip
_PROFILE = """
pipeline: {block_videos: 2}
extractors:
  clip: {class: "bench.lifetime:Waiting"}
"""
_numbers = count()


class WaitingSettings(ExtractorSettings):
    """How long a video takes."""

    seconds: float = 0.2


class Waiting(Extractor):
    """Takes a while over each video."""

    name = "bench-waiting"
    Settings = WaitingSettings
    inputs = (FRAMES,)
    feature_space, feature_width = "bench/number", 1

    def _extract(self, items: Sequence[Any]) -> list[Result]:
        results = []
        for _ in items:
            time.sleep(self.settings.seconds)  # type: ignore[attr-defined]
            results.append(Result(np.ones((1, 1), np.float32)))
        return results


@dataclass
class Run:
    """One run in a process of its own; looks at all processes that belong to it.

    Attributes:
        seen: every process that it had, with its title when it was last looked at.
    """

    clips: Path
    out: Path
    profile: str
    address: str | None = None
    raylets: Sequence[int] = ()
    seen: dict[psutil.Process, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._before = set(self._below(*self.raylets))
        self._mark = f"{os.getpid()}-{next(_numbers)}"
        command = [sys.executable, "-m", "vemoclap_batch", "extract", str(self.clips), "-o", str(self.out)]
        command += ["--profile", self.profile, *(["--address", self.address] if self.address else [])]
        self._log = self.out.with_suffix(".log").open("w+")
        self.driver = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": _path(), _TRY: self._mark}, stdout=self._log,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def said(self) -> str:
        """What the run wrote."""
        self._log.seek(0)
        return self._log.read()

    def look(self) -> list[psutil.Process]:
        """The processes of the run that live now."""
        found = {*self._below(self.driver.pid, *self.raylets), *self._marked()} - self._before
        if self.driver.poll() is None:
            found.add(psutil.Process(self.driver.pid))
        for process in found:
            with suppress(psutil.Error):
                self.seen[process] = " ".join(process.cmdline()).strip() or self.seen.get(process, process.name())
        return [process for process in self.seen if self._lives(process)]

    def _lives(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                return not (self.address and self.seen[process].startswith(_STANDING))
        return False

    def _marked(self) -> Iterator[psutil.Process]:
        """What inherited the environment of the driver."""
        entry = f"{_TRY}={self._mark}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, psutil.Error):
                if entry in (folder / "environ").read_bytes().split(b"\0"):
                    yield psutil.Process(int(folder.name))

    @staticmethod
    def _below(*pids: int) -> Iterator[psutil.Process]:
        for pid in pids:
            with suppress(psutil.Error):
                yield from psutil.Process(pid).children(recursive=True)

    def target(self, kind: str) -> psutil.Process | None:
        """The process to kill; None while there is none of the kind."""
        living = self.look()
        if kind == DRIVER:
            return psutil.Process(self.driver.pid) if self.driver.poll() is None else None
        if kind == RAYLET and self.raylets:
            return psutil.Process(self.raylets[-1])
        names = [p for p in living if (_ACTOR in self.seen[p] if kind == ACTOR else _name(p) == kind)]
        return random.choice(names) if names else None

    def end(self) -> None:
        """Kill what is left."""
        for process in self.look():
            with suppress(psutil.Error):
                process.kill()
        self.driver.wait()
        self._log.close()


def _path() -> str:
    """Module path of processes that import this file."""
    return f"{Path(__file__).parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return process.name()
    return ""


@dataclass
class Outcome:
    """What came of one try: all times in seconds after the kill.

    Attributes:
        at_s: when it was, after the start of the run.
        gone_s: when nothing was left that should be gone; None if something was at the bound.
        ended_s: when the driver had ended.
        code: its exit status.
        left: what was left, by title.
        said: the last lines of the run.
    """

    kind: str
    at_s: float
    gone_s: float | None = None
    ended_s: float | None = None
    code: int | None = None
    left: list[str] = field(default_factory=list)
    said: str = ""


def attempt(run: Run, kind: str, at_s: float, to_the_end: bool = True, bound_s: float = BOUND_S) -> Outcome | None:
    """Kill one process of a run at some moment, or as soon as there is one; None if the run ended before.

    A run that has lost an actor is watched until it is done, or only until the actor is gone.
    """
    began = time.monotonic()
    while (target := run.target(kind)) is None or time.monotonic() < began + at_s:
        if run.driver.poll() is not None:
            return None
        time.sleep(_EVERY_S)
    doomed = _doomed(run, kind, target)
    target.kill()
    killed = time.monotonic()
    outcome = Outcome(kind, round(killed - began, 1))
    while (passed := time.monotonic() - killed) < _RUN_S:
        living = run.look()
        ended = run.driver.poll() is not None
        left = doomed.intersection(living) if not ended else living
        if ended and outcome.ended_s is None:
            outcome.ended_s, outcome.code = round(passed, 1), run.driver.returncode
        if not left and outcome.gone_s is None:
            outcome.gone_s = round(passed, 1)
        # A run that goes on has lost a process which it replaces, or is starting Ray once more.
        goes_on = kind == ACTOR or run.address is not None or _AGAIN in run.said()
        if (ended and not living) or (kind == ACTOR and not left and not to_the_end):
            break
        if passed > bound_s and (left or not goes_on):
            outcome.left = [run.seen[process] for process in left] + _gpu_users(run)
            break
        time.sleep(_EVERY_S)
    outcome.said = run.said()[-1500:]
    return outcome


def _doomed(run: Run, kind: str, target: psutil.Process) -> set[psutil.Process]:
    """What must go when a process is killed, while the driver lives on."""
    living = run.look()
    if kind == ACTOR or run.address is not None:
        return {process for process in living if _is_below(process, target)} | {target}
    watchdog = {process for process in living if "lifetime.py" in run.seen[process]}
    return set(living) - watchdog - ({psutil.Process(run.driver.pid)} if kind != DRIVER else set())


def _is_below(process: psutil.Process, parent: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return parent in process.parents()
    return False


def _gpu_users(run: Run) -> list[str]:
    """Processes of the run that hold memory of a GPU."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader"]
    ours = {process.pid for process in run.seen}
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [f"GPU memory: {line}" for line in lines if int(line.split(",")[0]) in ours]


def measure(
    tries: int, kinds: Sequence[str] = (), on_cluster: bool = False, profile: str | None = None, clips: int = 24,
    at_once: int = 1, to_the_end: bool = True, bound_s: float = BOUND_S,
) -> Report:  # fmt: skip
    """Kill a process of each kind in turn, in so many runs of each, at random moments.

    Args:
        tries: of each kind.
        kinds: of :data:`LOCAL` or :data:`CLUSTER`; all of them unless given.
        on_cluster: the runs join a cluster of two nodes on this machine, which goes on.
        profile: of the runs; an extractor that only waits, unless given.
        clips: videos of a run.
        at_once: runs at a time; on a cluster one after another.
        to_the_end: whether a run that lost an actor goes on until it is done, or its driver is killed next.
        bound_s: by then nothing may be left.
    """
    possible = CLUSTER if on_cluster else LOCAL
    if wrong := set(kinds).difference(possible):
        raise ConfigError([f"{', '.join(sorted(wrong))}: what can be killed here is {', '.join(possible)}"])
    if sys.platform != "linux":
        raise ConfigError(["this benchmark finds processes by /proc, which only Linux has"])
    plan = [kind for _ in range(tries) for kind in kinds or possible]
    with TemporaryDirectory(prefix="vemoclap-bench-") as scratch:
        folder = Path(scratch)
        (folder / "profile.yaml").write_text(_PROFILE)
        setup = _Setup(folder, profile or str(folder / "profile.yaml"), on_cluster)
        setup.make_clips(clips)
        one = partial(setup.one, to_the_end=to_the_end, bound_s=bound_s)
        with setup.cluster(), ThreadPoolExecutor(at_once) as pool:
            setup.undisturbed()
            # Ray starts nodes from the main thread only.
            outcomes = list(chain.from_iterable(map(one, plan) if on_cluster else pool.map(one, plan)))
    where = "a cluster that goes on" if on_cluster else "a Ray of its own"
    settings = {"tries": tries, "clips": clips, "profile": profile or "waiting", "on": where}
    gpus = "GPU memory is looked at" if shutil.which("nvidia-smi") else "no GPU here"
    rows = [_row(kind, [o for o in outcomes if o.kind == kind]) for kind in dict.fromkeys(o.kind for o in outcomes)]
    figures: dict[str, float] = {"left": sum(bool(outcome.left) for outcome in outcomes)}
    notes = [gpus, *(f"{o.kind} after {o.at_s} s: {o.left} {o.said}" for o in outcomes if o.left)]
    return Report("lifetime", {**settings, "at_once": at_once}, rows, figures, notes)


class _Setup:
    """What all tries have in common."""

    def __init__(self, folder: Path, profile: str, on_cluster: bool) -> None:
        self._folder, self._profile, self._on_cluster = folder, profile, on_cluster
        self._cluster: Any = None
        self._takes_s = 0.0

    def make_clips(self, number: int) -> None:
        """Copies of one short clip."""
        (self._folder / "clips").mkdir()
        first = write_video(self._folder / "first.mp4", 1, size=(320, 180), fps=10, seed=0)
        for at in range(number):
            shutil.copy(first, self._folder / "clips" / f"clip{at:03}.mp4")

    @contextmanager
    def cluster(self) -> Iterator[None]:
        """A cluster of two nodes, if one is wanted."""
        if not self._on_cluster:
            yield
            return
        from ray.cluster_utils import Cluster

        before = os.environ.get("PYTHONPATH", "")
        # Ray's nodes give it to their actors.
        os.environ["PYTHONPATH"] = _path()
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        try:
            yield
        finally:
            self._cluster.shutdown()
            os.environ["PYTHONPATH"] = before

    def start(self) -> Run:
        """Start a run; on a cluster that has lost a node, that has another first."""
        out = self._folder / f"out{next(_numbers)}"
        if not self._cluster:
            return Run(self._folder / "clips", out, self._profile)
        for node in list(self._cluster.worker_nodes):
            if not node.any_processes_alive() or node.dead_processes():
                self._cluster.remove_node(node, allow_graceful=False)
        if not self._cluster.worker_nodes:
            self._cluster.add_node(num_cpus=2)
        nodes = [self._cluster.head_node, *self._cluster.worker_nodes]
        raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
        return Run(self._folder / "clips", out, self._profile, self._cluster.address, raylets)

    def undisturbed(self) -> None:
        """Time a run that nothing happens to.

        Raises:
            RuntimeError: it fails.
        """
        run, began = self.start(), time.monotonic()
        if code := run.driver.wait(_RUN_S):
            raise RuntimeError(f"an undisturbed run ends with {code}: {run.said()}")
        self._takes_s = time.monotonic() - began
        run.end()

    def one(self, kind: str, to_the_end: bool, bound_s: float) -> list[Outcome]:
        """Make one try; again where the run was done before the kill."""
        outcomes: list[Outcome] = []
        while not outcomes:
            run = self.start()
            try:
                outcomes += filter(None, [attempt(run, kind, random.uniform(0, self._takes_s), to_the_end, bound_s)])
                if run.driver.poll() is None and kind == ACTOR and not to_the_end:
                    outcomes += filter(None, [attempt(run, DRIVER, 0, to_the_end, bound_s)])
            finally:
                run.end()
        for outcome in outcomes:
            expected = not outcome.left and (outcome.code is None or outcome.code in _CODES[outcome.kind])
            print(str(outcome)[: 140 if expected else None], file=sys.stderr)
        return outcomes


#: How the driver ends.
_CODES = {DRIVER: {-signal.SIGKILL}, RAYLET: {0, 1}, GCS: {0, 1}, ACTOR: {0}}


def _row(kind: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    gone = [outcome.gone_s for outcome in outcomes if outcome.gone_s is not None]
    ended = [outcome.ended_s for outcome in outcomes if outcome.ended_s is not None]
    return {
        "killed": kind,
        "tries": len(outcomes),
        "left_after_30_s": sum(bool(outcome.left) for outcome in outcomes),
        "gone_s_median": statistics.median(gone) if gone else None,
        "gone_s_max": max(gone, default=None),
        "driver_ended_s_max": max(ended, default=None),
        "exit_codes": " ".join(map(str, sorted({outcome.code for outcome in outcomes if outcome.code is not None}))),
    }
